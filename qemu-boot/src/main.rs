// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sets up what host-iommu is proved on, and runs it: a Debian 13 build root, Debian's own
//! kernel with its Rust metadata, a QEMU whose emulated VT-d nests, the module, and the
//! programs in a booted machine. The make targets of the top folder call it.

mod api;
mod bench;
mod book;
mod boot;
mod cache;
mod command;
mod deb;
mod fuzz;
mod hw;
mod install;
mod judge;
mod mirror;
mod msrv;
mod places;
mod plan;
mod progress;
mod replay;
mod root;
mod setup;
mod stages;
mod suite;

use anyhow::Result;
use clap::{Parser, Subcommand};
use places::Which;
use plan::Plan;
use setup::Setup;
use stages::programs::Selection;
use std::path::PathBuf;
use std::process::ExitCode;
use suite::{Long, Part};

/// Sets up and runs host-iommu's demo and tests.
///
/// Everything that takes long is kept in a cache folder (HOST_IOMMU_CACHE, by default
/// host-iommu in the user's cache folder). Debian's packages come from the archive that this
/// machine's apt is set up for, or from HOST_IOMMU_MIRROR.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up what is missing, and run nothing
    Setup,
    /// Run the demo in the booted machine
    Demo,
    /// Run the tests: cargo's, those of the emulated hardware, and the guest suite
    Test {
        /// Run only this part (may be given again)
        #[arg(long = "part", value_enum)]
        parts: Vec<Part>,
        /// A kernel of the guest (may be given again); other than the stock one, only the guest
        /// suite is run
        #[arg(long = "kernel", value_enum, default_value = "stock")]
        kernels: Vec<Which>,
        /// Seconds for which the program `storm` goes on (by default 3, on the debug kernel 120)
        #[arg(long)]
        storm: Option<u32>,
        /// How many times as many rounds the program `ends` makes
        #[arg(long, default_value_t = 1)]
        ends: u32,
        /// Names of guest programs, or a part of the hardware cases' names
        only: Vec<String>,
    },
    /// Boot a guest on the VMM in the booted machine, and go through its steps
    Guest {
        /// The VMM
        #[arg(long, value_enum, default_value = "own")]
        vmm: suite::Vmm,
        /// The series of the guest's kernel, as 6.12 (by default the machine's)
        #[arg(long = "kernel", value_name = "SERIES")]
        series: Option<String>,
        /// How long the hostile guest goes on, in seconds (by default 10)
        #[arg(long)]
        seconds: Option<u32>,
        /// Numbers of steps (by default all)
        steps: Vec<String>,
    },
    /// Measure the module beside iommufd and vfio_iommu_type1, on the patched kernel
    Bench {
        /// Show the functions that a row's instructions are in, instead
        #[arg(long, value_name = "ROW")]
        profile: Option<String>,
        /// Subjects: map, bind, invalidate, request, as, pasid, dma (by default all)
        subjects: Vec<String>,
    },
    /// Fuzz the module's calls on the debug kernel, guided by the points of its code they reach
    Fuzz(fuzz::Wanted),
    /// Build the module for Debian's kernel, or against a kernel build of your own
    Modules {
        /// The build folder of your own kernel; it is built with this machine's tools
        #[arg(long)]
        kdir: Option<PathBuf>,
    },
    /// Boot the machine with a shell on this terminal
    Shell,
    /// Make the book of docs/, and look at its links
    Book,
    /// Build the Debian packages
    Deb,
    /// Compare the interface of the crate host-iommu, as rustdoc has it, with user/api.txt
    Api {
        /// Write user/api.txt anew
        #[arg(long)]
        write: bool,
    },
    /// Run clippy over the module
    Clippy,
    /// Check the library by the oldest Rust that it promises
    Msrv,
    /// Remove the cache: the next run sets up everything again
    CleanCache,
    /// Take the archive's newest packages from now on, and say what that changes and whether the
    /// module builds for newer series of kernels
    Update,
}

impl Task {
    /// The stages that it goes through.
    fn plan(&self) -> Plan {
        let stock = Plan::machine(Which::Stock);
        match self {
            Self::Test { kernels, parts, .. } => {
                let mut plan = kernels.iter().fold(Plan::default(), |plan, which| {
                    plan.with(&Plan::machine(*which))
                });
                if parts.contains(&Part::Outside) {
                    plan = plan.and(&["selftests"]);
                }
                if parts.contains(&Part::Install) {
                    plan = plan.and(&["build-root-packaging", "vendor", "fresh-debian"]);
                }
                match kernels.contains(&Which::Stock) {
                    true => plan.and(&["debian-qemu"]),
                    false => plan,
                }
            }
            Self::Guest { vmm, series, .. } => {
                let plan = match series {
                    Some(_) => stock.and(&["guest-kernel"]),
                    None => stock,
                };
                match vmm {
                    suite::Vmm::Own => plan.and(&["vmm"]),
                    suite::Vmm::Qemu | suite::Vmm::Shadow => plan.and(&["vmm", "capi", "vmm-qemu"]),
                }
            }
            Self::Bench { .. } => Plan::machine(Which::Patched),
            Self::Fuzz(wanted) => Plan::machine(wanted.kernel()),
            Self::Clippy => Plan::base(),
            Self::Modules { kdir: None } | Self::Update => Plan::base().and(&["module"]),
            Self::Msrv => Plan::root(),
            Self::Book => Plan::root().and(&["mdbook"]),
            Self::Deb => Plan::root().and(&["build-root-packaging", "vendor"]),
            Self::Setup | Self::Demo | Self::Shell => stock,
            Self::Modules { .. } | Self::Api { .. } | Self::CleanCache => Plan::default(),
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let setup = match &arguments.command {
        Task::Modules { kdir: Some(kdir) } => {
            let module = stages::own_build::for_own(&setup::repo()?, kdir)?;
            println!("{}", module.display());
            return Ok(());
        }
        Task::Api { write } => return api::check(&setup::repo()?, *write),
        Task::CleanCache => return cache::Cache::remove(),
        task => Setup::open(task.plan())?,
    };
    match arguments.command {
        Task::Setup => suite::ready(&setup, Which::Stock, Selection::All).map(|_| ()),
        Task::Demo => suite::ready(&setup, Which::Stock, Selection::Demo)?.demo(&setup),
        Task::Test {
            parts,
            kernels,
            storm,
            ends,
            only,
        } => suite::test(&setup, &kernels, &parts, &only, Long { storm, ends }),
        Task::Guest {
            vmm,
            series,
            seconds,
            steps,
        } => {
            let guest = suite::Guest {
                vmm,
                series: series.as_deref(),
                seconds,
            };
            suite::ready_for_guest(&setup)?.guest_steps(&setup, &guest, &steps)
        }
        Task::Bench { profile, subjects } => bench::run(&setup, &subjects, profile),
        Task::Fuzz(wanted) => fuzz::run(&setup, &wanted),
        Task::Shell => suite::ready(&setup, Which::Stock, Selection::All)?.shell(&setup),
        Task::Clippy => {
            let (root, packages, _, metadata) = suite::kernel_side(&setup)?;
            stages::module::clippy(&setup, &root, &metadata.tree(&packages)?)
        }
        Task::Msrv => msrv::check(&setup),
        Task::Book => book::make(&setup),
        Task::Deb => deb::make(&setup),
        Task::Update => {
            let root = stages::build_root::make(&setup)?;
            stages::packages::update(&setup, &root)?;
            suite::try_newer(&setup)
        }
        Task::Modules { .. } => {
            let (root, packages, kernel, metadata) = suite::kernel_side(&setup)?;
            let tree = metadata.tree(&packages)?;
            let module = stages::own_build::for_debians(&setup, &root, &tree)?;
            println!("{} for {}", module.display(), kernel.release());
            Ok(())
        }
        // They were done without a set-up.
        Task::Api { .. } | Task::CleanCache => Ok(()),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
