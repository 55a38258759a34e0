// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu`: what the module vfio_iommu_ioasid does, read from its debugfs and its tracepoints, and
//! what this machine can do for it.

mod doctor;
mod report;
mod text;
mod trace;
mod watch;

use clap::{CommandFactory, Parser, Subcommand};
use doctor::Diagnosis;
use report::{Error, Report};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what the kernel module vfio_iommu_ioasid does, and what this machine can do for it.
///
/// The command ends with status 0, with 1 if it could not do what was asked, or with 2 if `doctor`
/// found something that stands in the way.
#[derive(Parser)]
#[command(name = "hostiommu", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    /// Folder where debugfs is mounted.
    #[arg(long, global = true, default_value = "/sys/kernel/debug")]
    debugfs: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Check this machine, and a device: what works, what stands in the way, and the cure of each.
    ///
    /// Ends with status 2 if something stands in the way. Needs neither the module nor debugfs. Run it
    /// as root: what only root may read is shown as unknown otherwise.
    Doctor {
        /// A PCI function, as 0000:00:04.0.
        device: Option<String>,
    },
    /// List the containers and their devices.
    List,
    /// Show devices, PASIDs, bindings and fault queues, of one container or of all.
    Show {
        /// Number of the container, as `list` gives it.
        container: Option<u64>,
    },
    /// Show counters, of one container or of all, and the module's quotas.
    Stats {
        /// Number of the container, as `list` gives it.
        container: Option<u64>,
    },
    /// Watch live: page requests a second, answers, what waits, bindings, memory.
    ///
    /// Shows a table in the terminal until q is pressed. With --json it prints a line for each look.
    Watch(watch::Options),
    /// Print what happens, in sentences: binds, page requests, answers, invalidations, maps, faults.
    ///
    /// Reads the module's tracepoints, through a trace instance of its own. With --json it prints a
    /// line for each event.
    Trace(trace::Options),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the man page, for `man -l -` or a file.
    Man,
}

/// What is printed, and the status that the program ends with.
fn report(arguments: &Arguments) -> Result<(String, ExitCode), Error> {
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

/// The man page: that of the command, and a section for each of its subcommands.
fn man() -> io::Result<Vec<u8>> {
    let mut command = Arguments::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command
        .get_subcommands()
        .filter(|one| one.get_name() != "help")
    {
        let name = subcommand.get_name().to_uppercase();
        page.extend(format!(".SH \"{name}\"\n").into_bytes());
        let man = clap_mangen::Man::new(subcommand.clone());
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    Ok(page)
}

fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "hostiommu", &mut script);
    script
}

fn print(text: &[u8]) -> Result<(), Error> {
    match io::stdout().lock().write_all(text) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::Print(error)),
        Ok(()) => Ok(()),
    }
}

/// Does what was asked.
fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    match &arguments.command {
        Command::Watch(options) => watch::watch(&arguments.debugfs, options, arguments.json)?,
        Command::Trace(options) => trace::trace(options, arguments.json)?,
        Command::Completions { shell } => print(&completions(*shell))?,
        Command::Man => print(&man().map_err(Error::Print)?)?,
        _ => {
            let (text, status) = report(arguments)?;
            print(text.as_bytes())?;
            return Ok(status);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("hostiommu: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn man_page_has_every_subcommand() {
        let page = String::from_utf8(man().expect("a page")).expect("text");
        for name in Arguments::command()
            .get_subcommands()
            .map(|one| one.get_name().to_uppercase())
        {
            assert!(page.contains(&format!(".SH \"{name}\"")), "{name}");
        }
        assert!(page.contains("\\-\\-interval"), "{page}");
    }

    #[test]
    fn completions_name_what_there_is() {
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let script = String::from_utf8(completions(shell)).expect("text");
            for word in ["doctor", "watch", "trace", "interval"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
