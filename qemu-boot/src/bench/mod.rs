// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Measures the module beside iommufd and vfio_iommu_type1, in one boot of the patched kernel.

mod profile;

use crate::boot::Hardware;
use crate::progress::Progress;
use crate::setup::Setup;
use crate::suite::{self, keep_console, Ready, Which};
use anyhow::{bail, Result};
use profile::Symbols;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(1800);

fn boot(setup: &Setup, ready: &Ready, counting: bool, words: &[String]) -> Result<()> {
    let progress = Progress::start("bench", "booting");
    let hardware = Hardware {
        counting,
        ..Hardware::USUAL
    };
    let words = format!("run=bench bench={}", words.join(","));
    let mut complete = false;
    let mut symbols = Symbols::default();
    let mut profiled = Vec::new();
    ready.boot(setup, hardware, &[], |machine| {
        machine.run(&words, LIMIT, |line| {
            if let Some(symbol) = line.strip_prefix("symbol ") {
                symbols.line(symbol);
                return;
            }
            if let Some(way) = line.strip_prefix("profiled by=") {
                if let Some((way, operations)) = way.split_once(" operations=") {
                    profiled.push((way.to_owned(), operations.parse().unwrap_or(1)));
                }
            }
            println!("{counting} {line}");
            complete |= line == "complete";
        })?;
        keep_console(setup, machine, "bench")?;
        for (way, operations) in &profiled {
            let log = machine.run.join(format!("profile-{way}"));
            symbols.show(way, &log, *operations)?;
        }
        Ok(())
    })?;
    progress.done();
    if !complete {
        bail!("not complete");
    }
    Ok(())
}

/// Runs it.
pub fn run(setup: &Setup, subjects: &[String], profile: Option<&str>) -> Result<()> {
    let ready = suite::ready(setup, Which::Patched)?;
    let words = |first: String| {
        let mut words = vec![first];
        words.extend_from_slice(subjects);
        words
    };
    if let Some(row) = profile {
        return boot(setup, &ready, true, &words(format!("--profile={row}")));
    }
    boot(setup, &ready, true, &words("--rounds=1".to_owned()))?;
    boot(setup, &ready, true, &words("--rounds=1".to_owned()))?;
    boot(setup, &ready, false, &words("--rounds=3".to_owned()))
}
