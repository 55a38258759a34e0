// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu`: what the module vfio_iommu_ioasid does at this moment, read from its debugfs, and
//! what this machine can do for it.

mod doctor;
mod report;
mod text;

use clap::{Parser, Subcommand};
use doctor::Diagnosis;
use report::{Error, Report};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Look into the kernel module vfio_iommu_ioasid, and at what this machine can do for it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Where debugfs is mounted.
    #[arg(long, global = true, default_value = "/sys/kernel/debug")]
    debugfs: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// What this machine can do, what stands in the way, and its cure. Ends with 2 if something does.
    ///
    /// It needs neither the module nor debugfs; what only root may read is said to be unknown.
    Doctor {
        /// A PCI function, as 0000:00:04.0.
        device: Option<String>,
    },
    /// The containers and their devices.
    List,
    /// Devices, PASIDs, bindings and fault queues, of one container or of all.
    Show {
        /// Number of the container, as `list` gives it.
        container: Option<u64>,
    },
    /// Counters, of one container or of all, and the module's quotas.
    Stats {
        /// Number of the container, as `list` gives it.
        container: Option<u64>,
    },
}

/// What is printed, and the status that the program ends with.
fn run(arguments: &Arguments) -> Result<(String, ExitCode), Error> {
    if let Command::Doctor { device } = &arguments.command {
        let diagnosis = Diagnosis::make(device.as_deref());
        let status = match diagnosis.is_bad() {
            true => ExitCode::from(2),
            false => ExitCode::SUCCESS,
        };
        let text = match arguments.json {
            true => format!("{:#}\n", diagnosis.json()),
            false => diagnosis.text(),
        };
        return Ok((text, status));
    }
    let report = Report::read(&arguments.debugfs)?;
    let report = match arguments.command {
        Command::Show {
            container: Some(id),
        }
        | Command::Stats {
            container: Some(id),
        } => report.only(id)?,
        _ => report,
    };
    let text = match (&arguments.command, arguments.json) {
        (Command::Show { .. }, true) => format!("{:#}\n", report.show_json()),
        (Command::Stats { .. }, true) => format!("{:#}\n", report.stats_json()),
        (_, true) => format!("{:#}\n", report.list_json()),
        (Command::Show { .. }, false) => text::show(&report),
        (Command::Stats { .. }, false) => text::stats(&report),
        (_, false) => text::list(&report),
    };
    Ok((text, ExitCode::SUCCESS))
}

fn print(text: &str) -> Result<(), Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::Print(error)),
        Ok(()) => Ok(()),
    }
}

fn main() -> ExitCode {
    let ended = run(&Arguments::parse()).and_then(|(text, status)| print(&text).map(|()| status));
    match ended {
        Ok(status) => status,
        Err(error) => {
            eprintln!("hostiommu: {error}");
            ExitCode::FAILURE
        }
    }
}
