// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fuzzes the module in the booted debug kernel, whose console, watchers and the fuzzer's own
//! checks are the judge. Programs that reach something new are kept; what was done before a crash
//! is taken from memory that outlives the machine, made small, and kept to be done again.

#[allow(
    dead_code,
    reason = "the guest makes calls, this program only knows them"
)]
#[path = "../../../tests/src/fuzz/call.rs"]
mod call;
mod smaller;

use crate::boot::{Hardware, RING, THREE_THAT_DIFFER};
use crate::judge::console;
use crate::places::Which;
use crate::progress::Progress;
use crate::setup::Setup;
use crate::stages::module::{IOASID, IOASID_TRACED};
use crate::stages::programs::Selection;
use crate::suite::{self, console_file, keep_console, Ready};
use anyhow::{bail, Context, Result};
use call::{Kind, Program};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where runs keep theirs, and crashes.
const KEPT: &str = "target/fuzz";
/// What booting takes, and looking for leaks, on a busy machine.
const AROUND: u64 = 600;
/// How long a crash is tried to be had again.
const AGAIN: u64 = 15;
/// How long a crash is made smaller.
const SMALLER: Duration = Duration::from_secs(1800);

/// What to do.
#[derive(clap::Args)]
pub struct Wanted {
    /// For how long calls are made
    #[arg(long, default_value_t = 75)]
    seconds: u64,
    /// The kernel; those that do not say what is reached are fuzzed blindly
    #[arg(long, value_enum, default_value = "debug")]
    kernel: Which,
    /// What random numbers begin with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that make calls
    #[arg(long, default_value_t = 4)]
    threads: u32,
    /// CPUs of the machine: with one it does more, with several at once more meets
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// In the machine whose four VT-d units differ
    #[arg(long)]
    units: bool,
    /// Do again what a file of calls says
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Have a call that is a bug of the kernel's: it must be found and made small
    #[arg(long)]
    planted: bool,
}

impl Wanted {
    /// The kernel.
    pub fn kernel(&self) -> Which {
        self.kernel
    }
}

/// How a run ended.
#[derive(Default)]
struct Ended {
    /// The fuzzer came to its end.
    complete: bool,
    /// What is wrong.
    findings: Vec<String>,
    /// The last of the lines `status`.
    status: String,
    /// Lines of each kind of call.
    kinds: Vec<String>,
    /// Programs that reached something new.
    seeds: Vec<String>,
    /// What each thread did in the last world.
    threads: Vec<Program>,
}

impl Ended {
    fn number(&self, name: &str) -> u64 {
        let value = self
            .status
            .split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

struct Fuzz<'a> {
    setup: &'a Setup,
    ready: Ready,
    wanted: &'a Wanted,
}

impl Fuzz<'_> {
    /// Boots and runs the fuzzer with `words`, and the file `input` to read.
    fn boot(&self, words: &[String], seconds: u64, input: Option<PathBuf>) -> Result<Ended> {
        let what = format!("fuzzing {} for {seconds} s", self.ready.kernel());
        let progress = Progress::start("fuzz", &what);
        let name = self.wanted.kernel.run("fuzz");
        let hardware = Hardware {
            cpus: self.wanted.cpus,
            ring: call::ring::SIZE,
            further: match self.wanted.units {
                true => THREE_THAT_DIFFER,
                false => &[],
            },
            ..Hardware::USUAL
        };
        let patience = self.wanted.kernel.patience();
        let words = format!(
            "run=fuzz patience={patience} panic_on_warn=1 oops=panic fuzz=--seconds={seconds},{}",
            words.join(",")
        );
        let limit = Duration::from_secs(seconds.saturating_add(AROUND));
        let mut ended = Ended::default();
        let inputs: Vec<_> = input.into_iter().collect();
        let log = self.setup.cache.log(&name);
        let mut lines = String::new();
        self.ready
            .boot_with(self.setup, hardware, &[], &inputs, |machine| {
                let run = machine.run(&words, limit, |line| {
                    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
                    match word {
                        "status" => {
                            rest.clone_into(&mut ended.status);
                            progress.peek(rest);
                        }
                        "seed" => ended.seeds.push(rest.to_owned()),
                        "kind" => ended.kinds.push(rest.to_owned()),
                        "finding" => ended.findings.push(rest.to_owned()),
                        "complete" => ended.complete = true,
                        _ => {}
                    }
                    if word != "seed" {
                        lines.push_str(line);
                        lines.push('\n');
                    }
                })?;
                keep_console(self.setup, machine, &name)?;
                fs::write(&log, &lines)
                    .with_context(|| format!("cannot write {}", log.display()))?;
                let bad = console::bad_lines(&run.console);
                ended.findings.extend(bad.into_iter().map(str::to_owned));
                if run.timed_out {
                    ended.findings.push(format!("no end after {limit:?}"));
                }
                let ring =
                    fs::read(machine.run.join(RING)).context("cannot read the shared memory")?;
                ended.threads = call::ring::read(&ring);
                Ok(())
            })?;
        if !ended.complete && ended.findings.is_empty() {
            ended
                .findings
                .push("the machine ended before the fuzzer".to_owned());
        }
        progress.done();
        Ok(ended)
    }

    fn kept(&self) -> Result<PathBuf> {
        let kept = self.setup.repo.join(KEPT);
        fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
        Ok(kept)
    }

    /// Runs what threads did again; what was found.
    fn again(&self, threads: &[Program], seconds: u64) -> Result<Vec<String>> {
        let file = self.kept()?.join("again");
        write(&file, &call::threads_text(threads))?;
        let words = ["--replay=/inputs/again".to_owned()];
        Ok(self.boot(&words, seconds, Some(file))?.findings)
    }

    /// Keeps a crash, as it was and as small as it can be made. Gives the small one, if it can be
    /// had again.
    fn keep_crash(&self, ended: &Ended) -> Result<Option<Vec<Program>>> {
        let kept = self.kept()?;
        let number = (1..)
            .find(|number| !kept.join(format!("crash-{number}")).exists())
            .unwrap_or(0);
        let comment: String = ended
            .findings
            .iter()
            .map(|finding| format!("# {finding}\n"))
            .collect();
        let file = kept.join(format!("crash-{number}"));
        write(
            &file,
            &format!("{comment}{}", call::threads_text(&ended.threads)),
        )?;
        println!("what the threads did: {}", file.display());
        let end = Instant::now() + SMALLER;
        let small = smaller::smallest(&ended.threads, |threads| {
            if Instant::now() > end {
                return Ok(false);
            }
            self.again(threads, AGAIN)
                .map(|findings| !findings.is_empty())
        })?;
        let Some(small) = small else {
            println!("it did not happen again by these calls");
            return Ok(None);
        };
        let file = kept.join(format!("crash-{number}-small"));
        write(&file, &format!("{comment}{}", call::threads_text(&small)))?;
        let count: usize = small.iter().map(Vec::len).sum();
        println!(
            "made small, {count} calls: make fuzz REPLAY={}",
            file.display()
        );
        Ok(Some(small))
    }

    fn replay(&self, file: &Path) -> Result<()> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let Ok(threads) = call::parse_threads(&text) else {
            bail!("{} is no file of calls", file.display());
        };
        let findings = self.again(&threads, self.wanted.seconds)?;
        show_findings(&findings);
        match findings.is_empty() {
            true => {
                println!("nothing was found");
                Ok(())
            }
            false => bail!("it happened again"),
        }
    }

    /// Programs to begin with: those of runs before, if there are any.
    fn seeds(&self) -> Result<BTreeSet<String>> {
        let text = fs::read_to_string(self.kept()?.join("seeds")).unwrap_or_default();
        let programs = text
            .lines()
            .filter(|line| call::parse_program(line).is_some());
        Ok(programs.map(str::to_owned).collect())
    }

    fn fuzz(&self) -> Result<()> {
        let mut seeds = self.seeds()?;
        let file = self.kept()?.join("seeds");
        write_lines(&file, &seeds)?;
        let mut words = vec![
            "--seeds=/inputs/seeds".to_owned(),
            format!("--seed={}", self.wanted.seed),
            format!("--threads={}", self.wanted.threads),
        ];
        if self.wanted.planted {
            words.push("--planted".to_owned());
        }
        let ended = self.boot(&words, self.wanted.seconds, Some(file.clone()))?;
        seeds.extend(ended.seeds.iter().cloned());
        if !self.wanted.planted {
            write_lines(&file, &seeds)?;
        }
        for kind in &ended.kinds {
            println!("{kind}");
        }
        let (calls, seconds) = (ended.number("calls"), ended.number("seconds"));
        println!(
            "{calls} calls in {seconds} s, {} a second, in {} worlds",
            calls / seconds.max(1),
            ended.number("worlds")
        );
        let traced = self.wanted.kernel == Which::Debug;
        if traced {
            println!(
                "{} of {} points of the module reached, {} programs kept",
                ended.number("points"),
                self.ready.points()?,
                ended.number("programs")
            );
        }
        show_findings(&ended.findings);
        if self.wanted.planted {
            return self.expect_planted(&ended);
        }
        if !ended.findings.is_empty() {
            self.keep_crash(&ended)?;
            println!(
                "see {}",
                console_file(self.setup, &self.wanted.kernel.run("fuzz")).display()
            );
            bail!("{} findings", ended.findings.len());
        }
        if calls == 0 || (traced && ended.number("points") == 0) {
            bail!("nothing was reached: the fuzzer did not work");
        }
        Ok(())
    }

    /// A bug that was planted must be found, had again, and made as small as it is.
    fn expect_planted(&self, ended: &Ended) -> Result<()> {
        let found = ended.findings.iter().any(|line| line.contains("KASAN"));
        if !found {
            bail!("the planted bug was not found");
        }
        let Some(small) = self.keep_crash(ended)? else {
            bail!("the planted bug was not had again");
        };
        let calls: Vec<_> = small.iter().flatten().collect();
        match calls.as_slice() {
            [call] if call.kind() == Some(Kind::Planted) => {
                println!("the planted bug was found, had again, and made small");
                Ok(())
            }
            calls => bail!("{} calls are left of the planted bug's one", calls.len()),
        }
    }
}

fn show_findings(findings: &[String]) {
    for finding in findings {
        println!("FOUND {finding}");
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn write_lines(file: &Path, lines: &BTreeSet<String>) -> Result<()> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    write(file, &text)
}

/// Fuzzes.
///
/// # Errors
///
/// If something is found, and if nothing could have been.
pub fn run(setup: &Setup, wanted: &Wanted) -> Result<()> {
    let module = match wanted.kernel {
        Which::Debug => IOASID_TRACED,
        _ => IOASID,
    };
    let programs = ["fuzz".to_owned()];
    let programs = Selection::Named(&programs);
    let ready = suite::ready_with(setup, wanted.kernel, module, programs)?;
    let fuzz = Fuzz {
        setup,
        ready,
        wanted,
    };
    match &wanted.replay {
        Some(file) => fuzz.replay(file),
        None => fuzz.fuzz(),
    }
}
