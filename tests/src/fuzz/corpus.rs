// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that reached what none had reached before, and new ones made of them.

use super::call::{choices, Call, Kind, Program, CALL};
use super::world::lock;
use host_iommu_tests::dice::Dice;
use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Calls of a program.
const LONGEST: usize = 24;
/// How far from the start of the module's code a point may be, in either direction.
const REACH: u64 = 4 << 20;

/// The points of the module's code that were reached.
pub struct Coverage {
    /// Of what the bits count: the lowest address.
    base: u64,
    bits: Vec<AtomicU64>,
    count: AtomicUsize,
}

impl Coverage {
    /// Nothing yet. Nothing ever, if the kernel does not say where the module is.
    pub fn new() -> Self {
        let text = fs::read_to_string("/sys/module/vfio_iommu_ioasid/sections/.text");
        let start = text
            .ok()
            .and_then(|text| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
        let words = (2 * REACH / 64) as usize;
        Self {
            base: start.unwrap_or(0).wrapping_sub(REACH),
            bits: (0..words).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicUsize::new(0),
        }
    }

    /// Takes a point in; whether it is new.
    pub fn add(&self, point: u64) -> bool {
        let at = point.wrapping_sub(self.base);
        let Some(word) = self.bits.get((at / 64) as usize) else {
            return false;
        };
        let bit = 1 << (at % 64);
        if word.load(Ordering::Relaxed) & bit != 0 {
            return false;
        }
        let new = word.fetch_or(bit, Ordering::Relaxed) & bit == 0;
        self.count.fetch_add(usize::from(new), Ordering::Relaxed);
        new
    }

    /// Points.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Programs.
pub struct Corpus {
    /// What was reached.
    pub coverage: Coverage,
    programs: Mutex<Vec<Arc<Program>>>,
    given: Mutex<Vec<Program>>,
}

impl Corpus {
    /// With programs to begin with.
    pub fn new(given: Vec<Program>) -> Self {
        Self {
            coverage: Coverage::new(),
            programs: Mutex::new(Vec::new()),
            given: Mutex::new(given),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.programs).len()
    }

    /// Keeps a program.
    pub fn keep(&self, program: &Program) {
        lock(&self.programs).push(Arc::new(program.clone()));
    }

    /// The next program to run: one that was given, a new one, or one made of what was kept.
    pub fn next(&self, dice: &mut Dice) -> Program {
        if let Some(given) = lock(&self.given).pop() {
            return given;
        }
        let mut program = self.made(dice);
        // What is slow reaches much, and would be nearly all that is done.
        program.retain(|call| !call.kind().is_some_and(Kind::is_slow) || dice.roll(8) == 0);
        program
    }

    fn made(&self, dice: &mut Dice) -> Program {
        let one = self.one(dice);
        match (dice.roll(6), one) {
            (0, _) | (_, None) => new_program(dice),
            (1, Some(one)) => {
                let mut program = (*one).clone();
                if let Some(other) = self.one(dice) {
                    let at = dice.roll(program.len() as u64 + 1) as usize;
                    program.truncate(at);
                    program.extend_from_slice(&other[dice.roll(other.len() as u64) as usize..]);
                }
                program.truncate(LONGEST);
                program
            }
            (_, Some(one)) => mutated((*one).clone(), dice),
        }
    }

    /// One of those kept, the newer ones rather.
    fn one(&self, dice: &mut Dice) -> Option<Arc<Program>> {
        let programs = lock(&self.programs);
        let count = programs.len() as u64;
        if count == 0 {
            return None;
        }
        let at = dice.roll(count).max(dice.roll(count));
        programs.get(at as usize).cloned()
    }
}

fn new_call(dice: &mut Dice) -> Call {
    let total = Kind::ALL.iter().map(|kind| kind.weight()).sum();
    let mut rest = dice.roll(total);
    let mut chosen = Kind::Stats;
    for kind in Kind::ALL {
        if rest < kind.weight() {
            chosen = *kind;
            break;
        }
        rest -= kind.weight();
    }
    let mut call = Call::plain(chosen);
    if dice.roll(12) == 0 {
        call.0[1] = 200 + dice.roll(56) as u8;
        call.0[2] = dice.roll(256) as u8;
    }
    for at in CALL - choices()..CALL {
        if dice.roll(2) == 0 {
            call.0[at] = dice.roll(256) as u8;
        }
    }
    call
}

fn new_program(dice: &mut Dice) -> Program {
    (0..1 + dice.roll(12)).map(|_| new_call(dice)).collect()
}

fn mutated(mut program: Program, dice: &mut Dice) -> Program {
    for _ in 0..1 + dice.roll(4) {
        let at = dice.roll(program.len().max(1) as u64) as usize;
        match dice.roll(8) {
            0 => program.insert(at.min(program.len()), new_call(dice)),
            1 if program.len() > 1 => drop(program.remove(at)),
            2 if !program.is_empty() => program.insert(at, program[at]),
            3 if !program.is_empty() => {
                let other = dice.roll(program.len() as u64) as usize;
                program.swap(at, other);
            }
            _ => {
                if let Some(call) = program.get_mut(at) {
                    let byte = 1 + dice.roll(CALL as u64 - 1) as usize;
                    call.0[byte] = match dice.roll(3) {
                        0 => 0,
                        1 => call.0[byte].wrapping_add(1),
                        _ => dice.roll(256) as u8,
                    };
                }
            }
        }
    }
    program.truncate(LONGEST);
    program
}
