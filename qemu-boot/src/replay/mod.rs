// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate's unit for guests, judged by Linux's own driver: what that did with QEMU's unit is done
//! to `host_iommu::vtd`, and each answer is compared.
//!
//! The driver has seen the capabilities of the crate's unit, so that it does what it would do there.
//! Guest memory is what the recording says of the queue and of the tables down to the PASID
//! entries. The tables of the stages are not recorded: a page is there from the guest's answer on, and
//! gone when it has been used.

mod machine;
mod recording;

use anyhow::Result;
use machine::Machine;
use recording::{Act, Effect, Step};
use std::fmt::{Display, LowerHex};
use std::io::Write;

pub use machine::shown;

/// A register of which some bits are not compared, and why.
struct Explained {
    offset: u64,
    bits: u64,
    why: &'static str,
}

/// Address type of a fault's record (VT-d 4.1, 11.4.14), in the word that Linux reads.
const ADDRESS_TYPE: u64 = 3 << 28;

/// Differences that are right.
const EXPLAINED: [Explained; 2] = [
    Explained {
        offset: 0x0,
        bits: 0xff,
        why: "the version: QEMU's unit is older",
    },
    Explained {
        offset: 0x22c,
        bits: ADDRESS_TYPE,
        why:
            "hosts tell nobody of a translation request that failed: here the device tries without",
    },
];

/// That a page request is to read, too: a device of `soft` that writes asks to write.
const READ: u64 = 1;

/// So many differences are told of each kind.
const TOLD: usize = 10;

/// What is compared, and what was found.
struct Topic {
    name: &'static str,
    compared: usize,
    differences: Vec<String>,
    differing: usize,
}

impl Topic {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            compared: 0,
            differences: Vec::new(),
            differing: 0,
        }
    }

    fn compare<T: PartialEq + LowerHex>(
        &mut self,
        line: usize,
        ours: &T,
        theirs: &T,
        what: impl Display,
    ) {
        self.compared += 1;
        if ours != theirs {
            self.differs(format!("line {line}: {what}: {ours:#x}, not {theirs:#x}"));
        }
    }

    fn differs(&mut self, text: String) {
        self.differing += 1;
        if self.differences.len() < TOLD {
            self.differences.push(text);
        }
    }
}

/// What is compared.
struct Judge {
    reads: Topic,
    statuses: Topic,
    interrupts: Topic,
    requests: Topic,
    answers: Topic,
    faults: Topic,
}

impl Judge {
    fn new() -> Self {
        Self {
            reads: Topic::new("each read of a register gives what it gave"),
            statuses: Topic::new("each wait writes its status"),
            interrupts: Topic::new("each interrupt is sent, and no other"),
            requests: Topic::new("each page request is queued for the guest as it was"),
            answers: Topic::new("each answer reaches its device, and nobody else's"),
            faults: Topic::new("each request that was stopped is stopped"),
        }
    }

    fn step(&mut self, machine: &mut Machine, step: &Step) -> Result<()> {
        let line = step.line;
        machine.remember(&step.memory)?;
        match &step.act {
            Act::Read {
                offset,
                size,
                value,
            } => {
                let ours = machine.read(*offset, *size);
                let explained = EXPLAINED.iter().filter(|known| known.offset == *offset);
                let mask = explained.fold(!0, |mask, known| mask & !known.bits);
                let what = format!("register {offset:#x} ({size} bytes)");
                self.reads
                    .compare(line, &(ours & mask), &(value & mask), what);
            }
            Act::Write {
                offset,
                size,
                value,
            } => {
                machine.expect(step.effects.iter().filter_map(|effect| match effect {
                    Effect::Answer { group, code: 0 } => Some(*group),
                    _ => None,
                }))?;
                machine.write(*offset, *size, *value)?;
            }
            Act::Request(request) => {
                if let Err(e) = machine.ask(request) {
                    self.requests.differs(format!("line {line}: {e:#}"));
                }
            }
            Act::Fault { source, low, high } => {
                self.faults.compared += 1;
                if let Err(e) = machine.stop(*source, *low, *high) {
                    self.faults.differs(format!("line {line}: {e:#}"));
                }
            }
        }
        self.effects(machine, step)
    }

    fn effects(&mut self, machine: &mut Machine, step: &Step) -> Result<()> {
        let line = step.line;
        let mut sent = Vec::new();
        let mut group = None;
        for effect in &step.effects {
            match *effect {
                Effect::Status { address, word } => {
                    let ours = machine.half(address)?;
                    let what = format!("status at {address:#x}");
                    self.statuses.compare(line, &ours, &word, what);
                }
                Effect::Interrupt { address, data } => sent.push((address, data)),
                Effect::Queued { address, words } => {
                    let (ours, number) = machine.queued(address)?;
                    group = group.or(Some(number));
                    // The unit numbers groups itself, and one has one number.
                    let writes = words[1] & 2 != 0;
                    let ignored = 0xff8 | if writes { READ } else { 0 };
                    let second = |word: u64| word & !ignored;
                    for (ours, theirs) in [(ours[0], words[0]), (second(ours[1]), second(words[1]))]
                    {
                        let what = format!("page request at {address:#x}");
                        self.requests.compare(line, &ours, &theirs, what);
                    }
                    if group.is_some_and(|first| first != machine.number(address)) {
                        self.requests
                            .differs(format!("line {line}: two numbers in a group"));
                    }
                }
                Effect::Answer { group, code } => {
                    self.answers.compared += 1;
                    if let Err(e) = machine.answered(group, code) {
                        self.answers
                            .differs(format!("line {line}: {group:x?}: {e:#}"));
                    }
                }
            }
        }
        if let (Act::Request(request), Some(number)) = (&step.act, group) {
            machine.name(request.group, number);
        }
        self.interrupts.compared += sent.len();
        let ours = machine.interrupts();
        if ours != sent {
            self.interrupts
                .differs(format!("line {line}: {ours:x?}, not {sent:x?}"));
        }
        for group in machine.ended() {
            self.answers.differs(format!(
                "line {line}: {group:x?} has an answer that nobody gave"
            ));
        }
        Ok(())
    }

    fn topics(self) -> [Topic; 6] {
        [
            self.reads,
            self.statuses,
            self.interrupts,
            self.requests,
            self.answers,
            self.faults,
        ]
    }
}

/// Replays a recording, and writes KTAP to `out`.
///
/// # Errors
///
/// If it is none, or the machine cannot be made. What differs fails a test.
pub fn run(recording: &str, out: &mut dyn Write) -> Result<()> {
    let steps = recording::parse(recording)?;
    let mut machine = Machine::new(&steps)?;
    let mut judge = Judge::new();
    for step in &steps {
        judge.step(&mut machine, step)?;
    }
    let topics = judge.topics();
    writeln!(out, "KTAP version 1\n1..{}", topics.len())?;
    writeln!(out, "# {} accesses of Linux's driver", steps.len())?;
    for known in EXPLAINED {
        let Explained { offset, bits, why } = known;
        writeln!(out, "# register {offset:#x}, bits {bits:#x}: {why}")?;
    }
    for (number, topic) in topics.iter().enumerate() {
        for difference in &topic.differences {
            writeln!(out, "# {difference}")?;
        }
        // What is never compared is not shown to be right.
        let good = topic.differing == 0 && topic.compared != 0;
        let Topic { name, compared, .. } = topic;
        writeln!(out, "# {compared} compared, {} differ", topic.differing)?;
        let verdict = if good { "ok" } else { "not ok" };
        writeln!(out, "{verdict} {} {name}", number + 1)?;
    }
    Ok(())
}
