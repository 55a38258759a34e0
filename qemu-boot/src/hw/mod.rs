// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the emulated hardware alone: no kernel runs in the machine. Each case
//! starts QEMU with `accel=qtest`, writes VT-d's registers and tables by hand and
//! drives the endpoint by its BAR.

mod accessed;
mod bench;
mod caching;
mod device;
mod endpoint;
mod layout;
mod layouts;
mod nonsense;
mod qtest;
mod requests;
mod scale;
mod tables;
mod vtd;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use bench::Bench;

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

type Run = Box<dyn Fn(&mut Bench) -> Result<()>>;

/// One named case.
struct Case {
    name: String,
    run: Run,
    /// Whether the machine has the IOMMU.
    iommu: bool,
}

impl Case {
    fn new(name: &str, run: impl Fn(&mut Bench) -> Result<()> + 'static) -> Self {
        Self {
            name: name.to_owned(),
            run: Box::new(run),
            iommu: true,
        }
    }

    /// A case on a machine without an IOMMU.
    fn plain(name: &str, run: impl Fn(&mut Bench) -> Result<()> + 'static) -> Self {
        Self {
            iommu: false,
            ..Self::new(name, run)
        }
    }
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
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|c| c.name.contains(filter))
        .collect();
    let mut summary = Summary::default();

    writeln!(out, "KTAP version 1\n1..{}", cases.len())?;
    for (i, case) in cases.iter().enumerate() {
        let mut notes = Vec::new();
        let result = Bench::start(program, case.iommu).and_then(|mut b| {
            let result = (case.run)(&mut b);
            notes = b.take_notes();
            result
        });
        for note in notes {
            writeln!(out, "# {note}")?;
        }
        match result {
            Ok(()) => {
                summary.passed += 1;
                writeln!(out, "ok {} {}", i + 1, case.name)?;
            }
            Err(e) => {
                summary.failed += 1;
                writeln!(out, "# {e:#}")?;
                let log = qtest::tail(&program.log());
                if !log.is_empty() {
                    writeln!(out, "# QEMU: {log}")?;
                }
                writeln!(out, "not ok {} {}", i + 1, case.name)?;
            }
        }
    }
    writeln!(
        out,
        "# Totals: pass:{} fail:{}",
        summary.passed, summary.failed
    )?;
    Ok(summary)
}
