// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The example `vsva` of the crate, the very program.

use crate::ktap::{fail, Outcome};
use std::process::Command;

/// Where the booted machine has it.
const PROGRAM: &str = "/demo/vsva";
/// Steps that it tells of.
const STEPS: usize = 6;

/// Runs it on a backend, and checks that it went to its end.
///
/// # Errors
///
/// If it did not.
pub fn run(backend: &str) -> Outcome {
    let output = Command::new(PROGRAM)
        .args(["--backend", backend])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let behind = format!(" behind {backend}: stage 1 yes, page requests yes");
    let told = text
        .lines()
        .next()
        .is_some_and(|line| line.ends_with(&behind));
    if output.status.success() && told && text.lines().count() == STEPS {
        return Ok(());
    }
    fail(format!("{output:?}"))
}
