// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was measured, as lines for `make bench`.

use crate::hosts::Way;
use host_iommu_tests::ktap::Outcome;
use host_iommu_tests::rig::Monitor;
use std::time::{Duration, Instant};

/// How much is measured, and where it goes.
#[derive(Clone, Debug)]
pub struct Report {
    /// How often each measurement is made.
    pub rounds: u32,
    /// The row whose instructions QEMU writes down.
    pub profile: Option<String>,
}

impl Report {
    /// Times `work`, which is `operations` operations, for a row.
    pub fn time(
        &self,
        row: &str,
        way: Way,
        operations: u32,
        work: impl FnMut() -> Outcome,
    ) -> Outcome {
        self.time_each(row, way, (1, operations), || Ok(()), work)
    }

    /// Times `work`, which is `operations` operations, `rounds` times; what `prepare` does before
    /// each is not counted.
    pub fn time_each(
        &self,
        row: &str,
        way: Way,
        (rounds, operations): (u32, u32),
        mut prepare: impl FnMut() -> Outcome,
        mut work: impl FnMut() -> Outcome,
    ) -> Outcome {
        let mut time = Duration::ZERO;
        for round in 0..rounds {
            prepare()?;
            let start = Instant::now();
            match &self.profile {
                Some(wanted) if wanted == row && round == 0 => {
                    profiled(way, operations, &mut work)?
                }
                _ => work()?,
            }
            time += start.elapsed();
        }
        let each = time.as_nanos() as f64 / f64::from(rounds) / f64::from(operations);
        println!("figure row={row} by={} ns={each:.2}", way.name());
        Ok(())
    }

    /// Makes a measurement for each of `ways`, in turns, as often as wanted.
    pub fn in_turns(&self, ways: &[Way], measure: impl Fn(Way) -> Outcome) -> Outcome {
        for _ in 0..self.rounds {
            for &way in ways {
                measure(way)?;
            }
        }
        Ok(())
    }
}

/// Has QEMU log each instruction of `work`.
fn profiled(way: Way, operations: u32, work: impl FnOnce() -> Outcome) -> Outcome {
    let mut monitor = Monitor::open()?;
    monitor.human(&format!("logfile /src/profile-{}", way.name()))?;
    monitor.human("one-insn-per-tb on")?;
    monitor.human("log exec,nochain")?;
    work()?;
    monitor.human("log none")?;
    monitor.human("one-insn-per-tb off")?;
    println!("profiled by={} operations={operations}", way.name());
    Ok(())
}

/// Gives the kernel's symbols.
pub fn symbols() -> Outcome {
    for line in std::fs::read_to_string("/proc/kallsyms")?.lines() {
        println!("symbol {line}");
    }
    Ok(())
}
