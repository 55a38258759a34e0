// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was measured, as lines for `make bench`.

use host_iommu_tests::hosts::Way;
use host_iommu_tests::ktap::Outcome;
use host_iommu_tests::rig::Monitor;
use std::time::Instant;

/// So many rounds of a row are profiled at most: each is a file of megabytes.
const PROFILED_ROUNDS: u32 = 2;

/// How much is measured, and where it goes.
#[derive(Clone, Debug)]
pub struct Report {
    /// How often each measurement is made.
    pub rounds: u32,
    /// The rows whose instructions QEMU writes down.
    pub profile: Vec<String>,
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
        for round in 0..rounds {
            prepare()?;
            let start = Instant::now();
            let wanted = self.profile.iter().any(|wanted| wanted == row);
            if wanted && round < PROFILED_ROUNDS {
                profiled(row, way, (round, operations), &mut work)?;
            } else {
                work()?;
            }
            let each = start.elapsed().as_nanos() as f64 / f64::from(operations);
            println!("figure row={row} by={} ns={each:.2}", way.name());
        }
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

/// Has QEMU log each instruction of `work`, which is `operations` operations, to a file a round.
fn profiled(
    row: &str,
    way: Way,
    (round, operations): (u32, u32),
    work: impl FnOnce() -> Outcome,
) -> Outcome {
    let by = way.name();
    let mut monitor = Monitor::open()?;
    monitor.human(&format!("logfile /src/profile-{row}-{by}-{round}"))?;
    monitor.human("one-insn-per-tb on")?;
    monitor.human("log exec,nochain")?;
    work()?;
    monitor.human("log none")?;
    monitor.human("one-insn-per-tb off")?;
    println!("profiled row={row} by={by} round={round} operations={operations}");
    Ok(())
}

/// Gives the kernel's symbols.
pub fn symbols() -> Outcome {
    for line in std::fs::read_to_string("/proc/kallsyms")?.lines() {
        println!("symbol {line}");
    }
    Ok(())
}
