// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `make guest`: a guest on the VMM in the booted machine, and its steps.

use super::{console_file, keep_console, ready, show, Ready};
use crate::boot::Hardware;
use crate::judge::{console, ktap, steps, Totals};
use crate::places::Which;
use crate::progress::Progress;
use crate::setup::Setup;
use crate::stages::programs::Selection;
use crate::stages::{guest_kernel, image, l2_image, module, packages, programs, vmm_qemu};
use anyhow::{bail, Context, Result};
use std::fs;
use std::io::Write;
use std::time::Duration;

/// The steps take five minutes; a machine under load may take many.
const LIMIT: Duration = Duration::from_secs(1800);
/// The name of the logs.
const NAME: &str = "l2";

/// The series of Debian's kernels that are tried in a guest: first the machine's own, then what its
/// releases and their backports have beside.
pub(super) const SERIES: [Option<&str>; 4] = [None, Some("7.2"), Some("6.12"), Some("6.1")];

/// The VMM that a guest's guest runs on.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Vmm {
    /// The one in user/vmm.
    Own,
    /// QEMU with the series in qemu-boot/qemu/vmm.
    Qemu,
    /// The same without the module: its unit in caching mode over vfio_iommu_type1, for the steps of
    /// such a guest.
    Shadow,
}

impl Vmm {
    /// As the machine's init knows it.
    fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Qemu => "qemu",
            Self::Shadow => "shadow",
        }
    }
}

/// A guest's guest.
pub struct Guest<'a> {
    /// What it runs on.
    pub vmm: Vmm,
    /// The series of its kernel, as `6.12`; `None`: the same kernel as the machine's.
    pub series: Option<&'a str>,
    /// How long a hostile guest beside it goes on, if somebody says.
    pub seconds: Option<u32>,
}

impl Guest<'_> {
    /// The name of its logs.
    fn name(&self) -> String {
        match self.series {
            Some(series) => format!("{NAME}-{series}"),
            None => NAME.to_owned(),
        }
    }
}

/// What a guest's guest needs, but for its programs.
pub fn ready_for_guest(setup: &Setup) -> Result<Ready> {
    ready(setup, Which::Stock, Selection::Named(&[]))
}

impl Ready {
    /// Boots a guest on the VMM in the machine, and goes through its steps, all or those of these
    /// numbers. Each line goes to `line` as it is printed.
    fn l2(
        &self,
        setup: &Setup,
        guest: &Guest<'_>,
        steps: &[String],
        mut line: impl FnMut(&str),
    ) -> Result<ktap::Report> {
        let built = programs::make(setup, Selection::Guest)?;
        let run = setup.cache.run_folder()?;
        let (other, driver) = match guest.series {
            Some(series) => {
                let kernel = guest_kernel::make(setup, &self.root, series)?;
                let driver = module::SVA.make(setup, &self.root, &kernel.tree())?;
                (Some(kernel.bootable()?), driver)
            }
            None => {
                let mut built = self.modules.iter();
                let driver = built.find(|module| module.ends_with("pasid_dma_sva.ko"));
                (None, driver.context("there is no driver")?.clone())
            }
        };
        let kernel = other.as_ref().unwrap_or(&self.kernel);
        line(&format!("guest: {} in {}", kernel.name, self.kernel.name));
        let agent = built.guest_agent();
        let initrd = l2_image::make(setup, &self.root, run.path(), kernel, &driver, &agent)?;
        let programs = built.of_guest();
        let over = match guest.vmm {
            Vmm::Own => None,
            Vmm::Qemu | Vmm::Shadow => {
                let packages = packages::resolve(setup, &self.root)?;
                Some(vmm_qemu::make(setup, &self.root, &packages, run.path())?)
            }
        };
        let contents = image::Contents {
            l2: Some([(kernel.image.clone(), "vmlinuz"), (initrd, "initrd")]),
            over,
            ..self.contents(&programs, &[], &[])
        };
        let mut words = format!(
            "run=guest vmm={} only={}",
            guest.vmm.name(),
            steps.join(",")
        );
        let mut limit = LIMIT;
        if let Some(seconds) = guest.seconds {
            words.push_str(&format!(" seconds={seconds}"));
            // As long again beside a guest that computes; and a guest that ended itself is booted anew.
            limit += 4 * Duration::from_secs(seconds.into());
        }
        let mut said = steps::Parser::default();
        let ended = self.boot_in(setup, run.path(), Hardware::USUAL, &contents, |machine| {
            let ended = machine.run(&words, limit, |text| {
                said.line(text);
                line(text);
            })?;
            keep_console(setup, machine, &guest.name())?;
            Ok(ended)
        })?;
        if ended.timed_out {
            said.fail(format!("stopped after {limit:?}"));
        }
        for bad in console::bad_lines(&ended.console) {
            said.fail(format!("the kernel complained: {bad}"));
        }
        Ok(said.finish())
    }

    /// Runs the steps of a guest's guest; their lines appear as they are printed.
    pub fn guest_steps(&self, setup: &Setup, guest: &Guest<'_>, steps: &[String]) -> Result<()> {
        let report = self.l2(setup, guest, steps, |line| {
            if !line.starts_with("exit status ") {
                println!("{line}");
            }
        })?;
        match &report.failures[..] {
            [] => Ok(()),
            failures => bail!("{}", failures.join("\n  ")),
        }
    }

    /// The same as a part of the tests.
    pub(super) fn l2_totals(
        &self,
        setup: &Setup,
        series: Option<&'static str>,
        steps: &[String],
    ) -> Result<Totals> {
        let what = "booting a guest on the VMM in the machine";
        let guest = Guest {
            vmm: Vmm::Own,
            series,
            seconds: None,
        };
        let name = guest.name();
        let progress = Progress::start(&name, what);
        let log = setup.cache.log(&name);
        let mut text = fs::File::create(&log).context("cannot write the steps' log")?;
        let report = self.l2(setup, &guest, steps, |line| {
            progress.peek(line);
            // A log that cannot be written must not end the run.
            drop(writeln!(text, "{line}"));
        })?;
        progress.done();
        show(&name, &report, &log, &console_file(setup, &name));
        Ok(report.totals)
    }
}
