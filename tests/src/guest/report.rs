// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each step saw.

use host_iommu_tests::ktap::{Outcome, Stop};
use std::process::ExitCode;
use std::time::Instant;

/// Counts and prints.
#[derive(Debug)]
pub struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
    begun: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            passed: 0,
            failed: 0,
            skipped: 0,
            begun: Instant::now(),
        }
    }
}

impl Report {
    /// Takes a step, and prints its line.
    pub fn step(&mut self, number: u32, title: &str, step: impl FnOnce() -> Outcome<String>) {
        let begun = Instant::now();
        let (count, text) = match step() {
            Ok(text) => (&mut self.passed, text),
            Err(Stop::Fail(text)) => (&mut self.failed, format!("FAILED: {text}")),
            Err(Stop::Skip(text)) => (&mut self.skipped, format!("skipped: {text}")),
        };
        *count += 1;
        let seconds = begun.elapsed().as_secs_f32();
        println!("{number:>2}. {title}: {text} ({seconds:.1} s)");
    }

    /// Whether no step failed yet.
    pub fn is_good(&self) -> bool {
        self.failed == 0
    }

    /// The last line.
    pub fn end(self) -> ExitCode {
        let Self {
            passed,
            failed,
            skipped,
            begun,
        } = self;
        let seconds = begun.elapsed().as_secs();
        println!(
            "guest: {passed} steps passed, {failed} failed, {skipped} skipped, {seconds} seconds"
        );
        match failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}
