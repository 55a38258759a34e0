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
    /// A step's line.
    pub fn step(&mut self, number: u32, title: &str, seen: Outcome<String>) {
        let (count, text) = match seen {
            Ok(text) => (&mut self.passed, text),
            Err(Stop::Fail(text)) => (&mut self.failed, format!("FAILED: {text}")),
            Err(Stop::Skip(text)) => (&mut self.skipped, format!("skipped: {text}")),
        };
        *count += 1;
        println!("{number:>2}. {title}: {text}");
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
