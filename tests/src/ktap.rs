// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs tests and reports them as KTAP (Linux Documentation/dev-tools/ktap.rst) on stdout.
//!
//! Exit codes are kselftest's: 0 passed, 1 failed, 4 nothing but skips.

use std::error::Error;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// A test that takes longer is stuck: the program reports it and ends.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How much longer than on the stock kernel things may take: `PATIENCE` of the environment.
pub fn patience() -> u32 {
    let patience = std::env::var("PATIENCE").ok();
    patience.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// How long a test goes on that has no end of its own: `STORM_SECONDS` of the environment, or
/// three.
pub fn storm_time() -> Duration {
    let seconds = std::env::var("STORM_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

/// How many times as many rounds a test makes whose rounds are counted: `ENDS` of the environment,
/// or one.
pub fn ends() -> u32 {
    let ends = std::env::var("ENDS").ok();
    ends.and_then(|text| text.parse().ok()).unwrap_or(1)
}

const SKIPPED: u8 = 4;

/// Why a test did not pass.
#[derive(Debug)]
pub enum Stop {
    /// It cannot run here, for the reason given.
    Skip(String),
    /// It failed.
    Fail(String),
}

/// What a test gives. `?` turns every error into a failure.
pub type Outcome<T = ()> = Result<T, Stop>;

impl<E: Error> From<E> for Stop {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::Fail(text)
    }
}

/// Ends a test that cannot run here.
///
/// # Errors
///
/// Always.
pub fn skip<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Stop::Skip(reason.into()))
}

/// Ends a test that failed.
///
/// # Errors
///
/// Always.
pub fn fail<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Stop::Fail(reason.into()))
}

/// A test and its name.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// subject_condition_outcome
    pub name: &'static str,
    /// The test.
    pub run: fn() -> Outcome,
}

/// Makes the `main` of a test program from its test functions.
#[macro_export]
macro_rules! suite {
    ($($test:path),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::ktap::main(&[
                $($crate::ktap::Test { name: stringify!($test), run: $test }),*
            ])
        }
    };
}

/// Runs the tests that the command line asks for: all, or those whose name holds one of the
/// arguments. `--list` prints the names.
pub fn main(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for test in tests {
            println!("{}", test.name);
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<Test> = select(tests, &arguments);
    if wanted.is_empty() {
        eprintln!("no test has such a name: {}", arguments.join(" "));
        return ExitCode::FAILURE;
    }
    report_panics_as_diagnostics();
    println!("KTAP version 1");
    println!("1..{}", wanted.len());
    let mut totals = Totals::default();
    for (index, test) in wanted.iter().enumerate() {
        let number = index.saturating_add(1);
        println!("# Running {}", test.name);
        let watchdog = Watchdog::start(number, test.name);
        let result = run_one(test);
        watchdog.stop();
        totals.count(&result);
        println!("{}", result_lines(number, test.name, &result));
        let _ = std::io::stdout().flush();
    }
    println!("# Totals: {totals}");
    totals.exit_code()
}

fn select(tests: &[Test], arguments: &[String]) -> Vec<Test> {
    let chosen = |test: &&Test| {
        arguments.is_empty()
            || arguments
                .iter()
                .any(|argument| test.name.contains(argument.as_str()))
    };
    tests.iter().filter(chosen).copied().collect()
}

fn run_one(test: &Test) -> Outcome {
    // A test shares nothing with the next one but the machine.
    match panic::catch_unwind(AssertUnwindSafe(test.run)) {
        Ok(outcome) => outcome,
        Err(_) => Err(Stop::Fail("panicked".to_owned())),
    }
}

/// The message of a panic goes where the results go, so that it stands by its test.
fn report_panics_as_diagnostics() {
    panic::set_hook(Box::new(|info| println!("{}", comment(&info.to_string()))));
}

/// The text with each line a diagnostic.
fn comment(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("# {line}")).collect();
    lines.join("\n")
}

fn result_lines(number: usize, name: &str, result: &Outcome) -> String {
    match result {
        Ok(()) => format!("ok {number} {name}"),
        Err(Stop::Skip(reason)) => {
            let reason = reason.replace('\n', " ");
            format!("ok {number} {name} # SKIP {reason}")
        }
        Err(Stop::Fail(reason)) => format!("{}\nnot ok {number} {name}", comment(reason)),
    }
}

#[derive(Debug, Default)]
struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Totals {
    fn count(&mut self, result: &Outcome) {
        let counter = match result {
            Ok(()) => &mut self.passed,
            Err(Stop::Skip(_)) => &mut self.skipped,
            Err(Stop::Fail(_)) => &mut self.failed,
        };
        *counter = counter.saturating_add(1);
    }

    fn exit_code(&self) -> ExitCode {
        match (self.failed, self.passed) {
            (0, 0) => ExitCode::from(SKIPPED),
            (0, _) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "pass:{} fail:{} xfail:0 xpass:0 skip:{} error:0",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Ends the program if a test does not end.
struct Watchdog {
    done: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Watchdog {
    fn start(number: usize, name: &'static str) -> Self {
        let (done, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let limit = TIME_LIMIT
                .saturating_mul(patience())
                .saturating_mul(ends())
                .saturating_add(storm_time());
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                println!("# no end after {} s", limit.as_secs());
                println!("not ok {number} {name}");
                let _ = std::io::stdout().flush();
                std::process::exit(1);
            }
        });
        Self { done, thread }
    }

    fn stop(self) {
        let _ = self.done.send(());
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes() -> Outcome {
        Ok(())
    }

    fn panics() -> Outcome {
        panic!("on purpose");
    }

    fn skips() -> Outcome {
        skip("no such\nhardware")
    }

    fn fails() -> Outcome {
        Err(std::io::Error::from(crate::Errno::ENOENT))?
    }

    const TESTS: [Test; 4] = [
        Test {
            name: "passes",
            run: passes,
        },
        Test {
            name: "panics",
            run: panics,
        },
        Test {
            name: "skips",
            run: skips,
        },
        Test {
            name: "fails",
            run: fails,
        },
    ];

    #[test]
    fn run_one_panic_is_a_failure_of_that_test() {
        assert!(matches!(run_one(&TESTS[1]), Err(Stop::Fail(_))));
        assert!(run_one(&TESTS[0]).is_ok());
    }

    #[test]
    fn result_lines_are_ktap() {
        let line = |test: usize| result_lines(7, TESTS[test].name, &run_one(&TESTS[test]));
        assert_eq!(line(0), "ok 7 passes");
        assert_eq!(line(1), "# panicked\nnot ok 7 panics");
        assert_eq!(line(2), "ok 7 skips # SKIP no such hardware");
        assert_eq!(
            line(3),
            "# No such file or directory (os error 2)\nnot ok 7 fails"
        );
    }

    #[test]
    fn select_takes_names_that_hold_an_argument() {
        let names = |arguments: &[&str]| -> Vec<&str> {
            let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
            select(&TESTS, &arguments)
                .iter()
                .map(|test| test.name)
                .collect()
        };
        assert_eq!(names(&[]).len(), 4);
        assert_eq!(names(&["pas", "skip"]), ["passes", "skips"]);
        assert!(names(&["nothing"]).is_empty());
    }

    #[test]
    fn totals_exit_code_is_kselftests() {
        let code = |passed, failed, skipped| {
            let totals = Totals {
                passed,
                failed,
                skipped,
            };
            format!("{:?}", totals.exit_code())
        };
        assert_eq!(code(1, 0, 1), format!("{:?}", ExitCode::from(0)));
        assert_eq!(code(1, 1, 1), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(0, 0, 3), format!("{:?}", ExitCode::from(4)));
    }
}
