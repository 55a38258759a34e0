// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Measures the module beside iommufd and vfio_iommu_type1: the same work on the same device, in
//! turns. Runs in the booted machine; `make bench` shows what it means.
//!
//! Prints a line a measurement, `figure row=… by=… ns=…`: nanoseconds of the guest's clock for one
//! operation. Where the machine counts instructions, a nanosecond is one.

mod beside;
mod bindings;
mod dma;
mod invalidations;
mod mappings;
mod page_requests;
mod pasids;
mod report;
mod spaces;

use host_iommu_tests::hosts;
use host_iommu_tests::ktap::{Outcome, Stop};
use report::Report;
use std::process::ExitCode;

/// How a subject is measured.
type Measure = fn(&Report) -> Outcome;

/// Subjects: the beginning of their rows' names.
const SUBJECTS: [(&str, Measure); 8] = [
    ("pasid", pasids::measure),
    ("bind", bindings::measure),
    ("invalidate", invalidations::measure),
    ("beside", beside::measure),
    ("request", page_requests::measure),
    ("as", spaces::measure),
    ("dma", dma::measure),
    ("map", mappings::measure),
];

fn main() -> ExitCode {
    let mut report = Report {
        rounds: 1,
        profile: Vec::new(),
    };
    let mut wanted = Vec::new();
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        match (name, value.parse()) {
            ("--rounds", Ok(rounds)) => report.rounds = rounds,
            ("--profile", _) => report.profile.push(value.to_owned()),
            _ if name.starts_with("--") => {
                eprintln!("usage: bench [--rounds=COUNT] [--profile=ROW …] [SUBJECT …]");
                return ExitCode::FAILURE;
            }
            _ => wanted.push(argument),
        }
    }
    let measured = hosts::raise_limits().and_then(|()| measure(&report, &wanted));
    match measured {
        Ok(()) => {
            println!("complete");
            ExitCode::SUCCESS
        }
        Err(Stop::Skip(why) | Stop::Fail(why)) => {
            println!("failed: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(report: &Report, wanted: &[String]) -> Outcome {
    for (name, measure) in SUBJECTS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        println!("# {name}");
        measure(report)?;
    }
    if !report.profile.is_empty() {
        report::symbols()?;
    }
    Ok(())
}
