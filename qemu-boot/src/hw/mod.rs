// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the emulated hardware alone: no kernel runs in the machine. Each case
//! starts QEMU with `accel=qtest`, writes VT-d's registers and tables by hand and
//! drives the endpoint by its BAR.

mod accessed;
mod bench;
mod caching;
mod device;
mod dsa;
mod endpoint;
mod hardware;
mod instruction;
mod layout;
mod layouts;
mod machine;
mod machinery;
mod monitor;
mod nonsense;
mod qtest;
mod requests;
mod scale;
mod tables;
mod vtd;
#[cfg(test)]
mod with_soft;
#[cfg(test)]
mod with_vtd;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use bench::Bench;
use hardware::{Hardware, Place};

/// How to start the QEMU under test.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program and what goes before its arguments (a chroot, for example).
    pub command: Vec<OsString>,
    /// A folder for the socket and QEMU's messages.
    pub dir: PathBuf,
    /// The name by which QEMU finds that folder.
    pub dir_seen: PathBuf,
}

impl Program {
    fn log(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }
}

/// How many cases passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
}

type Run = Box<dyn Fn(&mut Bench) -> Result<()> + Send + Sync>;
type RunAll = Box<dyn Fn(&Program) -> Result<()> + Send + Sync>;

/// What a case does.
enum Body {
    /// Something with one machine.
    One(Hardware, Run),
    /// Something with machines that it starts itself.
    Several(RunAll),
}

impl Summary {
    fn count(&mut self, report: &Report) {
        match report.result {
            Ok(()) => self.passed += 1,
            Err(_) => self.failed += 1,
        }
    }
}

/// One named case.
struct Case {
    name: String,
    /// Its place in the report, from 1.
    number: usize,
    body: Body,
    /// Whether it measures time, and nothing else may run beside it.
    alone: bool,
}

impl Case {
    fn new(name: &str, run: impl Fn(&mut Bench) -> Result<()> + Send + Sync + 'static) -> Self {
        Self::on(Hardware::usual(), name, run)
    }

    /// A case on this machine.
    fn on(
        hardware: Hardware,
        name: &str,
        run: impl Fn(&mut Bench) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::of(name, Body::One(hardware, Box::new(run)))
    }

    /// A case that starts its machines itself.
    fn several(name: &str, run: impl Fn(&Program) -> Result<()> + Send + Sync + 'static) -> Self {
        Self::of(name, Body::Several(Box::new(run)))
    }

    fn of(name: &str, body: Body) -> Self {
        Self {
            name: name.to_owned(),
            number: 0,
            body,
            alone: false,
        }
    }

    /// The case, to be run when nothing else runs.
    fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }

    /// A case on a machine without an IOMMU.
    fn plain(name: &str, run: impl Fn(&mut Bench) -> Result<()> + Send + Sync + 'static) -> Self {
        Self::on(Hardware::plain(), name, run)
    }
}

/// What came of a case.
struct Report {
    notes: Vec<String>,
    result: Result<()>,
    /// QEMU's last words.
    log: String,
}

fn run_case(program: &Program, case: &Case) -> Report {
    let mut notes = Vec::new();
    let result = match &case.body {
        Body::One(hardware, run) => Bench::start(program, hardware).and_then(|mut b| {
            let result = run(&mut b);
            notes = b.take_notes();
            result
        }),
        Body::Several(run) => run(program),
    };
    let log = qtest::tail(&program.log());
    Report { notes, result, log }
}

/// The program with a folder of its own for worker `n`.
fn for_worker(program: &Program, n: usize) -> Result<Program> {
    let name = format!("worker-{n}");
    let dir = program.dir.join(&name);
    std::fs::create_dir_all(&dir).with_context(|| format!("Failed to make {}", dir.display()))?;
    Ok(Program {
        command: program.command.clone(),
        dir,
        dir_seen: program.dir_seen.join(name),
    })
}

/// Runs `cases`, as many at a time as there are processors, those that measure
/// time alone and last. The reports come in the order in which they end.
fn run_cases(program: &Program, cases: &[Case], done: &Sender<(usize, Report)>) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    let programs: Vec<Program> = (0..workers)
        .map(|n| for_worker(program, n))
        .collect::<Result<_>>()?;
    let next = AtomicUsize::new(0);
    let work = |program: &Program, done: &Sender<(usize, Report)>| {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if case.alone {
                continue;
            }
            // The receiver outlives the workers.
            let _ = done.send((case.number, run_case(program, case)));
        }
    };
    thread::scope(|scope| {
        for program in &programs {
            let done = done.clone();
            let work = &work;
            scope.spawn(move || work(program, &done));
        }
    });
    for case in cases.iter().filter(|case| case.alone) {
        let _ = done.send((case.number, run_case(program, case)));
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let layouts = layouts::all().into_iter().map(|layout| {
        let name = layout.name.clone();
        Case::new(&name, move |b| layout.check(b))
    });
    layouts
        .chain(caching::cases())
        .chain(accessed::cases())
        .chain(requests::cases())
        .chain(device::cases())
        .chain(machinery::cases())
        .chain(instruction::cases())
        .chain(dsa::cases())
        .chain(scale::cases())
        .chain(nonsense::cases())
        .collect()
}

/// Runs every case whose name contains `filter` with `program`, and writes KTAP to
/// `out`.
///
/// # Errors
/// If nothing can be run at all, or `out` cannot be written. A case that fails is
/// counted, not returned.
pub fn run(program: &Program, filter: &str, out: &mut dyn std::io::Write) -> Result<Summary> {
    let mut cases: Vec<Case> = cases();
    cases.retain(|case| case.name.contains(filter));
    for (i, case) in cases.iter_mut().enumerate() {
        case.number = i + 1;
    }
    let mut summary = Summary::default();
    let (done, reports) = mpsc::channel();

    writeln!(out, "KTAP version 1\n1..{}", cases.len())?;
    thread::scope(|scope| -> Result<()> {
        let cases = &cases;
        let workers = scope.spawn(move || run_cases(program, cases, &done));
        // Reports that came before their turn.
        let mut early = BTreeMap::new();
        let mut turn = 1;
        for (number, report) in reports {
            early.insert(number, report);
            while let (Some(report), Some(case)) = (early.remove(&turn), cases.get(turn - 1)) {
                summary.count(&report);
                write_report(out, case, &report)?;
                turn += 1;
            }
        }
        match workers.join() {
            Ok(result) => result,
            Err(_) => bail!("A worker has panicked"),
        }
    })?;
    writeln!(
        out,
        "# Totals: pass:{} fail:{}",
        summary.passed, summary.failed
    )?;
    ensure!(
        summary.passed + summary.failed == cases.len(),
        "Not every case has reported"
    );
    Ok(summary)
}

fn write_report(out: &mut dyn std::io::Write, case: &Case, report: &Report) -> Result<()> {
    for note in &report.notes {
        writeln!(out, "# {note}")?;
    }
    let verdict = match &report.result {
        Ok(()) => "ok",
        Err(e) => {
            writeln!(out, "# {e:#}")?;
            if !report.log.is_empty() {
                writeln!(out, "# QEMU: {}", report.log)?;
            }
            "not ok"
        }
    };
    writeln!(out, "{verdict} {} {}", case.number, case.name)?;
    Ok(())
}
