// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Measures the module beside iommufd and vfio_iommu_type1, on the patched kernel: the same work on
//! the same device in one boot.
//!
//! Each row is measured by instructions, in a machine whose clock counts them, and by wall time in
//! the usual one. The first decides: two boots agree on it, which is checked. Where a row waits for
//! the emulated device, that clock has its pace in it: there the instructions in the kernel are
//! counted one by one, as QEMU logs them.

mod figures;
mod plot;
mod profile;
mod table;

use crate::boot::Hardware;
use crate::places::Which;
use crate::progress::Progress;
use crate::setup::Setup;
use crate::stages::programs::Selection;
use crate::suite::{self, keep_console, Ready};
use anyhow::{bail, Context, Result};
use figures::{field, Figures};
use profile::Symbols;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// A boot of it takes a minute.
const LIMIT: Duration = Duration::from_secs(1800);

/// Rows whose own instructions are shown beside those of the driver and its queue.
const PROFILED: [&str; 5] = [
    "bind",
    "rebind",
    "request_1",
    "request_64",
    "request_group_8",
];

/// Rows that wait for the emulated endpoint, which works at its own pace.
const WAITING: &str = "request";
/// Rows of DMA, of what wakes for it, and of two threads in turns.
const ASYNCHRONOUS: [&str; 3] = ["dma", WAITING, "beside"];
/// How far two boots may be apart in the others.
const AGREEMENT: f64 = 0.02;

/// How one boot measures.
struct Boot<'a> {
    what: &'a str,
    counting: bool,
    rounds: u32,
    profile: &'a [String],
}

impl Boot<'_> {
    /// Gives what was measured; of rows that are profiled, the instructions in the kernel.
    fn run(&self, setup: &Setup, ready: &Ready, subjects: &[String]) -> Result<Figures> {
        let progress = Progress::start("bench", self.what);
        let hardware = Hardware {
            counting: self.counting,
            ..Hardware::USUAL
        };
        let mut words = vec![format!("--rounds={}", self.rounds)];
        words.extend(self.profile.iter().map(|row| format!("--profile={row}")));
        words.extend_from_slice(subjects);
        let words = format!("run=bench bench={}", words.join(","));
        let mut figures = Figures::default();
        let mut symbols = Symbols::default();
        let mut profiled = Vec::new();
        let mut last = String::new();
        ready.boot(setup, hardware, &[], |machine| {
            machine.run(&words, LIMIT, |line| {
                if let Some(symbol) = line.strip_prefix("symbol ") {
                    symbols.line(symbol);
                } else if line.starts_with("profiled ") {
                    profiled.push(line.to_owned());
                } else {
                    progress.peek(line);
                    figures.line(line);
                    last = line.to_owned();
                }
            })?;
            keep_console(setup, machine, "bench")?;
            progress.done();
            let mut logs: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for line in &profiled {
                let (row, log) = log(line).context("a profile without a name")?;
                logs.entry(row).or_default().push(log);
            }
            for ((row, way), rounds) in logs {
                let logs = rounds.iter().map(|(round, operations)| {
                    let log = machine.run.join(format!("profile-{row}-{way}-{round}"));
                    (log, *operations)
                });
                let profile = symbols.profile(logs)?;
                let functions = self.profile.len() == 1;
                profile.show(&format!("{row} by {way}"), functions);
                figures.replace(&row, &way, profile.in_kernel());
            }
            Ok(())
        })?;
        if last != "complete" {
            bail!("the bench ended early: {last}");
        }
        Ok(figures)
    }
}

/// Measures, and shows the table; writes it to `target/bench.json` and `docs/bench.svg`. With
/// `profile` shows the functions that a row's instructions are in, and nothing else.
///
/// # Errors
///
/// If two boots do not agree. A goal that is missed is no error.
pub fn run(setup: &Setup, subjects: &[String], profile: Option<String>) -> Result<()> {
    let programs = ["bench".to_owned()];
    let ready = suite::ready(setup, Which::Patched, Selection::Named(&programs))?;
    let measure = |what, counting, rounds, profile: &[String]| {
        let boot = Boot {
            what,
            counting,
            rounds,
            profile,
        };
        boot.run(setup, &ready, subjects)
    };
    if let Some(row) = profile {
        return measure("counting instructions by function", true, 1, &[row]).map(drop);
    }
    let mut counted = measure("counting instructions", true, 1, &[])?;
    let again = measure("counting instructions once more", true, 1, &[])?;
    let apart = disagreement(&counted, &again);
    let timed = measure("taking the time", false, 3, &[])?;
    let logged = measure("our own instructions", true, 1, &PROFILED.map(String::from))?;
    counted.take(WAITING, &logged);
    let lines = table::lines(&counted, &timed);
    table::show(&lines);
    if let Some((row, apart)) = &apart {
        println!(
            "two boots agree to {:.2} %, in {row} the least",
            apart * 100.0
        );
    }
    if subjects.is_empty() {
        save(setup, &lines)?;
    }
    match apart {
        Some((row, apart)) if apart > AGREEMENT => bail!("two boots do not agree in {row}"),
        _ => Ok(()),
    }
}

/// A row and its way; a round and how many operations it is.
type Log = ((String, String), (u32, u32));

/// What QEMU has logged, by the guest's line of it.
fn log(line: &str) -> Option<Log> {
    let word = |name| field(line, name);
    let row = (word("row")?.to_owned(), word("by")?.to_owned());
    Some((
        row,
        (
            word("round")?.parse().ok()?,
            word("operations")?.parse().ok()?,
        ),
    ))
}

/// The row in which two boots are the furthest apart, and by which part.
fn disagreement(first: &Figures, second: &Figures) -> Option<(String, f64)> {
    first
        .rows()
        .filter(|(row, _)| !ASYNCHRONOUS.iter().any(|prefix| row.starts_with(prefix)))
        .filter_map(|(row, way)| {
            let (a, b) = (first.median(row, way)?, second.median(row, way)?);
            Some((format!("{row} by {way}"), (a - b).abs() / a.min(b)))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

fn save(setup: &Setup, lines: &[table::Line]) -> Result<()> {
    let json = setup.repo.join("target/bench.json");
    let text = serde_json::to_string_pretty(lines).context("cannot write the table as JSON")?;
    fs::write(&json, text).with_context(|| format!("cannot write {}", json.display()))?;
    let docs = setup.repo.join("docs");
    fs::create_dir_all(&docs).with_context(|| format!("cannot make {}", docs.display()))?;
    plot::write(lines, &docs.join("bench.svg"))?;
    println!("written: target/bench.json, docs/bench.svg");
    Ok(())
}
