// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each step saw.

use std::error::Error;
use std::process::ExitCode;

/// What a step saw, or what was wrong.
pub type Seen<T = String> = Result<T, Box<dyn Error>>;

/// Fails a step unless what it saw is right.
pub fn check(right: bool, wrong: impl Into<String>) -> Seen<()> {
    if right {
        Ok(())
    } else {
        Err(wrong.into().into())
    }
}

/// Counts and prints.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// A step's line.
    pub fn step(&mut self, title: &str, seen: Seen) {
        let number = self.passed + self.failed + 1;
        match seen {
            Ok(text) => {
                self.passed += 1;
                println!("{number:>2}. {title}: {text}");
            }
            Err(error) => {
                self.failed += 1;
                let mut text = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    text.push_str(&format!(": {cause}"));
                    source = cause.source();
                }
                println!("{number:>2}. {title}: FAILED: {text}");
            }
        }
    }

    /// The last line.
    pub fn end(self) -> ExitCode {
        let Self { passed, failed } = self;
        println!("demo: {passed} steps passed, {failed} failed");
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
