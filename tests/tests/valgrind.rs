// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tests of the system calls under valgrind, which sees what the compiler cannot: memory that is
//! read before it is written, beyond its end, or after it was given back, and memory that is lost.
//!
//! The harness is not Rust's own: it skips the test where the machine has no valgrind.

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

/// The status with which valgrind ends if it has found something.
const FOUND: i32 = 99;

fn output(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output();
    output.map_err(|error| format!("cannot run {command:?}: {error}").into())
}

/// Builds the tests of the crate, and gives their program.
fn program() -> Result<PathBuf, Failed> {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo runs it")?;
    let built = output(
        Command::new(env!("CARGO"))
            .current_dir(Path::new(&folder).join("../user/sys"))
            .args([
                "test",
                "--locked",
                "--lib",
                "--no-run",
                "--message-format=short",
            ])
            .arg("--target-dir")
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("valgrind-build")),
    )?;
    // As `Executable unittests src/lib.rs (PATH)`.
    let text = String::from_utf8_lossy(&built.stderr).into_owned();
    let path = text.lines().find_map(|line| {
        let path = line
            .trim()
            .strip_prefix("Executable unittests src/lib.rs (")?;
        path.strip_suffix(')')
    });
    Ok(path.map(PathBuf::from).ok_or(text)?)
}

/// Runs tests of the program under valgrind; gives its status and what it says.
fn run(program: &Path, arguments: &[&str]) -> Result<(Option<i32>, String), Failed> {
    let ended = output(
        Command::new("valgrind")
            .args([
                "--quiet",
                "--leak-check=full",
                "--errors-for-leak-kinds=definite",
            ])
            .arg(format!("--error-exitcode={FOUND}"))
            .arg(program)
            .arg("--test-threads=1")
            .args(arguments),
    )?;
    let (out, err) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    Ok((ended.status.code(), format!("{out}\n{err}")))
}

fn valgrind_finds_nothing_in_the_tests_of_the_system_calls() -> Result<(), Failed> {
    let program = program()?;
    let (status, text) = run(&program, &[])?;
    if status != Some(0) || !text.contains("test result: ok.") {
        return Err(text.into());
    }
    // And it does find what is planted: a test that is ignored otherwise.
    let (status, text) = run(&program, &["--ignored", "planted"])?;
    match status {
        Some(FOUND) if text.contains("definitely lost") => Ok(()),
        _ => Err(format!("what was planted is not found: {status:?}\n{text}").into()),
    }
}

fn main() -> ExitCode {
    let there = Command::new("valgrind").arg("--version").output();
    let missing = !there.is_ok_and(|output| output.status.success());
    if missing {
        eprintln!("skipped: this machine has no valgrind; apt install valgrind");
    }
    let trial = Trial::test(
        "valgrind_finds_nothing_in_the_tests_of_the_system_calls",
        valgrind_finds_nothing_in_the_tests_of_the_system_calls,
    );
    let trials = vec![trial.with_ignored_flag(missing)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
