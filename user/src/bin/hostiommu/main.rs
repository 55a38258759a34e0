// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu`: what the module vfio_iommu_ioasid does at this moment, read from its debugfs.

mod report;
mod text;

use clap::{Parser, Subcommand};
use report::{Error, Report};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Look into the kernel module vfio_iommu_ioasid. For root.
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

#[derive(Clone, Copy, Subcommand)]
enum Command {
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

fn run(arguments: &Arguments) -> Result<(), Error> {
    let report = Report::read(&arguments.debugfs)?;
    let report = match arguments.command {
        Command::List | Command::Show { container: None } | Command::Stats { container: None } => {
            report
        }
        Command::Show {
            container: Some(id),
        }
        | Command::Stats {
            container: Some(id),
        } => report.only(id)?,
    };
    let text = match (arguments.command, arguments.json) {
        (Command::List, true) => format!("{:#}\n", report.list_json()),
        (Command::Show { .. }, true) => format!("{:#}\n", report.show_json()),
        (Command::Stats { .. }, true) => format!("{:#}\n", report.stats_json()),
        (Command::List, false) => text::list(&report),
        (Command::Show { .. }, false) => text::show(&report),
        (Command::Stats { .. }, false) => text::stats(&report),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::Print(error)),
        Ok(()) => Ok(()),
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hostiommu: {error}");
            ExitCode::FAILURE
        }
    }
}
