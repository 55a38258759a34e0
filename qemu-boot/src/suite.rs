// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `make demo` and `make test` run once everything is set up, and their verdict.

use crate::boot::{Hardware, Machine};
use crate::command::{output, tail};
use crate::hw;
use crate::judge::{console, ktap, Totals};
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::kernel::{Bootable, Kernel};
use crate::stages::packages::{self, Packages};
use crate::stages::programs::Programs;
use crate::stages::{
    build_root, image, kernel, metadata, module, own_kernel, patched_source, programs, qemu,
    selftests,
};
use anyhow::{bail, Context, Result};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The demo takes seconds; a machine under load may take many.
const DEMO_LIMIT: Duration = Duration::from_secs(180);
/// The whole guest suite.
const TESTS_LIMIT: Duration = Duration::from_secs(900);

/// What a judge finds on a console.
type Complaints = fn(&str) -> Vec<&str>;
/// The judge of a console that must be clean.
const CLEAN: Complaints = console::bad_lines;

/// Programs that check a machine without nesting: they have nothing to do on the other.
const WITHOUT_NESTING: [&str; 1] = ["no_nesting"];
/// Programs that check a machine whose stage 1 has four levels: they have nothing to do on the other.
/// It is booted with the patched kernel alone, which takes seconds.
const FOUR_LEVELS: [&str; 1] = ["four_levels"];
/// Programs that see another side of a machine whose CPU has five levels; booted likewise.
const FIVE_LEVEL_CPU: [&str; 2] = ["five_levels", "hw_bringup"];
/// Programs in whose way lockdep finds cycles that are not the module's, and is off after the first
/// report: they run in a machine of their own that does not prove locking. Host SVA takes
/// `mmap_lock` in the page requests' workqueue, which vfio-pci's reset closes to a cycle
/// (`memory_lock`, `iommu_group::mutex`); pciehp takes its `reset_lock` on both sides of
/// `pci_rescan_remove_lock`.
const WITHOUT_LOCKDEP: [&str; 2] = ["hotplug", "hw_bringup"];
/// Programs that need what only the debug kernel has.
const DEBUG_ONLY: [&str; 1] = ["fail_nth"];
/// Programs that need our patches in the kernel.
const PATCHED_ONLY: [&str; 2] = ["kernel_patches", "dma_fault"];
/// Programs that need iommufd, which the patched kernel has.
const WITH_IOMMUFD: [&str; 4] = [
    "conformance_iommufd",
    "differential",
    "dirty_bits",
    "iommufd",
];
/// Programs that fail on a kernel without our patches, and are to show it.
const REPRODUCERS: [&str; 1] = ["kernel_patches"];

/// Everything that a boot needs.
pub struct Ready {
    root: Root,
    kernel: Bootable,
    which: Which,
    qemu: PathBuf,
    modules: Vec<PathBuf>,
    programs: Programs,
}

/// Sets up what is missing of the root, the kernel and its metadata.
pub fn kernel_side(setup: &Setup) -> Result<(Root, Packages, Kernel, metadata::Metadata)> {
    let root = build_root::make(setup)?;
    let packages = packages::resolve(setup, &root)?;
    let kernel = kernel::make(setup, &root, &packages)?;
    let metadata = metadata::make(setup, &root, &packages, &kernel)?;
    Ok((root, packages, kernel, metadata))
}

/// Which kernel is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Debian's own, unmodified.
    Stock,
    /// Built here from the same source with our patches and iommufd.
    Patched,
    /// The same, without our patches: what shows them necessary fails there.
    Unpatched,
    /// Built here from the patched source, to watch locks and memory.
    Debug,
}

impl Which {
    /// Its name.
    fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Patched => "patched",
            Self::Unpatched => "unpatched",
            Self::Debug => "debug",
        }
    }

    /// The name of a run on it.
    pub fn run(self, name: &str) -> String {
        match self {
            Self::Stock => name.to_owned(),
            other => format!("{name}-{}", other.name()),
        }
    }

    /// How much longer than on the stock kernel things may take.
    pub fn patience(self) -> u32 {
        match self {
            Self::Debug => 4,
            _ => 1,
        }
    }

    /// Whether a program has something to do on it.
    fn runs(self, program: &str) -> bool {
        let iommufd = WITH_IOMMUFD.contains(&program);
        let patched_only = iommufd || PATCHED_ONLY.contains(&program);
        match self {
            Self::Stock => !DEBUG_ONLY.contains(&program) && !patched_only,
            Self::Patched => !DEBUG_ONLY.contains(&program),
            Self::Unpatched => REPRODUCERS.contains(&program),
            Self::Debug => !iommufd,
        }
    }

    /// Seconds for which the storm goes on if nobody says.
    fn storm(self) -> u32 {
        match self {
            Self::Debug => 120,
            _ => 3,
        }
    }
}

/// The machine that a program of the guest's runs in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The usual one.
    Usual,
    /// One whose VT-d does not nest.
    WithoutNesting,
    /// With a stage 1 of four levels.
    FourLevels,
    /// With a CPU of five levels.
    FiveLevelCpu,
    /// One of the debug kernel's that does not prove locking.
    WithoutLockdep,
}

impl Place {
    const ALL: [Self; 5] = [
        Self::Usual,
        Self::WithoutNesting,
        Self::FourLevels,
        Self::FiveLevelCpu,
        Self::WithoutLockdep,
    ];

    /// The name of a run in it.
    fn name(self) -> &'static str {
        match self {
            Self::Usual => "guest",
            Self::WithoutNesting => "guest-without-nesting",
            Self::FourLevels => "guest-four-levels",
            Self::FiveLevelCpu => "guest-five-level-cpu",
            Self::WithoutLockdep => "guest-without-lockdep",
        }
    }

    /// That of a program on a kernel.
    fn of(program: &str, kernel: Which) -> Self {
        if WITHOUT_NESTING.contains(&program) {
            Self::WithoutNesting
        } else if FOUR_LEVELS.contains(&program) {
            Self::FourLevels
        } else if kernel == Which::Debug && WITHOUT_LOCKDEP.contains(&program) {
            Self::WithoutLockdep
        } else {
            Self::Usual
        }
    }

    /// Whether a program runs in it on a kernel.
    fn runs(self, program: &str, kernel: Which) -> bool {
        match self {
            Self::FiveLevelCpu => kernel == Which::Patched && FIVE_LEVEL_CPU.contains(&program),
            Self::FourLevels => kernel == Which::Patched && FOUR_LEVELS.contains(&program),
            _ => Self::of(program, kernel) == self,
        }
    }
}

/// Sets up what is missing.
pub fn ready(setup: &Setup, which: Which) -> Result<Ready> {
    ready_with(setup, which, module::IOASID)
}

/// The same with the product built so.
pub fn ready_with(setup: &Setup, which: Which, ioasid: module::KernelModule) -> Result<Ready> {
    let (root, packages, kernel, metadata) = kernel_side(setup)?;
    let qemu = qemu::make(setup, &root, &packages)?;
    let stock_source = || -> Result<_> {
        Ok(patched_source::Source {
            dir: metadata.dir().to_path_buf(),
            key: metadata::key(&packages)?,
        })
    };
    let patched = || patched_source::make(setup, &root, &packages, &metadata);
    let (kernel, tree, tools) = match which {
        Which::Stock => (kernel.bootable(), metadata.tree(&packages)?, root.clone()),
        Which::Patched => own(setup, own_kernel::PATCHED, &patched()?, root.clone())?,
        Which::Unpatched => own(setup, own_kernel::UNPATCHED, &stock_source()?, root.clone())?,
        Which::Debug => {
            let tools = build_root::with_clang(setup, &root)?;
            own(setup, own_kernel::DEBUG, &patched()?, tools)?
        }
    };
    let build = |module: module::KernelModule| module.make(setup, &tools, &tree);
    let mut modules = vec![build(ioasid)?, build(module::SVA)?, build(module::DELAY)?];
    if which == Which::Debug {
        for module in module::PLANTED {
            modules.push(build(module)?);
        }
    }
    let programs = programs::make(setup)?;
    Ok(Ready {
        root,
        kernel,
        which,
        qemu,
        modules,
        programs,
    })
}

/// A kernel of ours, what modules for it are built against, and with which tools.
fn own(
    setup: &Setup,
    kernel: own_kernel::OwnKernel,
    source: &patched_source::Source,
    tools: Root,
) -> Result<(Bootable, module::Tree, Root)> {
    let built = kernel.make(setup, &tools, source)?;
    Ok((built.bootable()?, built.tree(), tools))
}

impl Ready {
    /// The name of the kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel.name
    }

    /// How many points of the module can be reached, if it says which are.
    pub fn points(&self) -> Result<usize> {
        const COUNT: &str = "readelf -rW /src/vfio_iommu_ioasid.ko | \
            awk '/__sanitizer_cov_trace_pc/ { count++ } END { print count + 0 }'";
        let module = self.modules.first().context("there are no modules")?;
        let folder = module.parent().context("the module has no folder")?;
        let mut command = self.root.script(&[(folder, "/src")], COUNT, &[]);
        let text = output("counting the module's points", &mut command)?;
        text.trim().parse().context("readelf says nothing")
    }

    /// Makes an image and hands a machine with it to `with`.
    pub fn boot<T>(
        &self,
        setup: &Setup,
        hardware: Hardware,
        selftests: &[PathBuf],
        with: impl FnOnce(&Machine<'_>) -> Result<T>,
    ) -> Result<T> {
        self.boot_with(setup, hardware, selftests, &[], with)
    }

    /// The same with files for the guest to read.
    pub fn boot_with<T>(
        &self,
        setup: &Setup,
        hardware: Hardware,
        selftests: &[PathBuf],
        inputs: &[PathBuf],
        with: impl FnOnce(&Machine<'_>) -> Result<T>,
    ) -> Result<T> {
        let run = setup.cache.run_folder()?;
        let contents = image::Contents {
            kernel: &self.kernel,
            modules: &self.modules,
            programs: &self.programs,
            selftests,
            inputs,
        };
        image::make(setup, &self.root, run.path(), &contents)?;
        with(&Machine {
            root: &self.root,
            qemu: &self.qemu,
            kernel: &self.kernel.image,
            run: run.path(),
            hardware,
        })
    }

    /// A shell in the booted machine.
    pub fn shell(&self, setup: &Setup) -> Result<()> {
        self.boot(setup, Hardware::USUAL, &[], |machine| machine.shell())
    }

    /// Runs the demo; its lines appear as it prints them.
    pub fn demo(&self, setup: &Setup) -> Result<()> {
        let mut status = None;
        let ended = self.boot(setup, Hardware::USUAL, &[], |machine| {
            eprintln!("demo: booting {}", self.kernel.name);
            let ended = machine.run("run=demo", DEMO_LIMIT, |line| {
                match line.strip_prefix("exit status ") {
                    Some(number) => status = Some(number.to_owned()),
                    None => println!("{line}"),
                }
            })?;
            keep_console(setup, machine, "demo")?;
            Ok(ended)
        })?;
        let bad = console::bad_lines(&ended.console);
        match status.as_deref() {
            _ if ended.timed_out => bail!("the demo took longer than {DEMO_LIMIT:?}"),
            _ if !bad.is_empty() => bail!("the kernel complained:\n  {}", bad.join("\n  ")),
            Some("0") => Ok(()),
            Some(status) => bail!("the demo failed (exit status {status})"),
            None => bail!(
                "the guest ended before the demo did; the end of its console:\n{}",
                tail(&console_file(setup, "demo"))
            ),
        }
    }

    /// Runs the guest's tests, all or those of `only`, each in the machine that it needs.
    fn guest(&self, setup: &Setup, only: &[String], long: Long) -> Result<Totals> {
        let mut totals = Totals::default();
        for place in Place::ALL {
            let tests = self.chosen(setup, place, only)?;
            if tests.is_empty() {
                continue;
            }
            let mut words = format!(
                "run=tests kernel={} patience={} storm={} ends={} only={}",
                self.which.name(),
                self.which.patience(),
                long.storm.unwrap_or(self.which.storm()),
                long.ends,
                tests.join(",")
            );
            if place == Place::WithoutLockdep {
                words.push_str(" lockdep.prove_locking=0");
            }
            let hardware = Hardware {
                nesting: place != Place::WithoutNesting,
                five_levels: place != Place::FourLevels,
                five_level_cpu: place == Place::FiveLevelCpu,
                ..Hardware::USUAL
            };
            let name = self.which.run(place.name());
            let limit = TESTS_LIMIT.saturating_mul(self.which.patience().saturating_mul(long.ends));
            let judge = (limit, CLEAN);
            totals.add(self.guest_run(setup, &name, hardware, &words, &[], judge)?);
        }
        Ok(totals)
    }

    /// The names of the programs to run in one kind of machine.
    fn chosen(&self, setup: &Setup, place: Place, only: &[String]) -> Result<Vec<String>> {
        Ok(self
            .programs
            .tests(setup)?
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .filter(|name| place.runs(name, self.which))
            .filter(|name| self.which.runs(name))
            .filter(|name| only.is_empty() || only.contains(name))
            .collect())
    }

    /// Runs Linux's own selftests: those of vfio on the module as type1, and where there is an
    /// iommufd those of iommufd.
    fn outside(&self, setup: &Setup) -> Result<Totals> {
        let (root, packages, _, metadata) = kernel_side(setup)?;
        let programs = selftests::make(setup, &root, &packages, &metadata)?;
        let words = format!("run=selftests kernel={}", self.which.name());
        let name = self.which.run("selftests");
        let judge = (TESTS_LIMIT, CLEAN);
        self.guest_run(setup, &name, Hardware::USUAL, &words, &programs, judge)
    }

    /// Shows that the debug kernel sees what it should: its console is full of it.
    fn planted(&self, setup: &Setup) -> Result<Totals> {
        let words = "run=planted kasan_multi_shot";
        let complaints: Complaints = |_| Vec::new();
        let judge = (TESTS_LIMIT, complaints);
        self.guest_run(setup, "planted-bugs", Hardware::USUAL, words, &[], judge)
    }

    fn guest_run(
        &self,
        setup: &Setup,
        name: &str,
        hardware: Hardware,
        words: &str,
        selftests: &[PathBuf],
        (limit, complaints): (Duration, Complaints),
    ) -> Result<Totals> {
        let what = format!("booting {} and running the test programs", self.kernel.name);
        let progress = Progress::start(name, &what);
        let log = setup.cache.log(name);
        let mut ktap = ktap::Parser::default();
        let mut text = fs::File::create(&log).context("cannot write the tests' log")?;
        let ended = self.boot(setup, hardware, selftests, |machine| {
            let ended = machine.run(words, limit, |line| {
                ktap.line(line);
                progress.peek(line);
                // A log that cannot be written must not end the run.
                drop(writeln!(text, "{line}"));
            })?;
            keep_console(setup, machine, name)?;
            Ok(ended)
        })?;
        let mut report = ktap.finish();
        if ended.timed_out {
            report.totals.failed = report.totals.failed.saturating_add(1);
            report.failures.push(format!(
                "stopped after {limit:?}; the last lines:\n{}",
                tail(&log)
            ));
        }
        for bad in complaints(&ended.console) {
            report.totals.failed = report.totals.failed.saturating_add(1);
            report
                .failures
                .push(format!("the kernel complained: {bad}"));
        }
        progress.done();
        show(name, &report, &log, &console_file(setup, name));
        Ok(report.totals)
    }

    /// Runs the tests of the emulated hardware, in which no kernel runs.
    fn hardware(&self, setup: &Setup, filter: &str) -> Result<Totals> {
        let progress = Progress::start(
            "hardware",
            "the emulated VT-d and endpoint by hand-made tables",
        );
        let dir = setup.cache.run_folder()?;
        let binds = [(self.qemu.as_path(), "/build"), (dir.path(), "/src")];
        let command = self.root.command(&binds, [qemu::PROGRAM]);
        let program = hw::Program {
            command: std::iter::once(command.get_program())
                .chain(command.get_args())
                .map(ToOwned::to_owned)
                .collect(),
            dir: dir.path().to_path_buf(),
            dir_seen: PathBuf::from("/src"),
        };
        let log = setup.cache.log("hardware");
        let mut text = Vec::new();
        hw::run(&program, filter, &mut text)?;
        fs::write(&log, &text).context("cannot write the tests' log")?;
        let mut ktap = ktap::Parser::default();
        String::from_utf8_lossy(&text)
            .lines()
            .for_each(|line| ktap.line(line));
        let report = ktap.finish();
        progress.done();
        show("hardware", &report, &log, &log);
        Ok(report.totals)
    }
}

/// Which parts of the tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// cargo's tests on the host.
    Cargo,
    /// The emulated hardware alone.
    Hardware,
    /// The test programs in the booted machine.
    Guest,
    /// Suites that others wrote: only when asked for.
    Outside,
}

/// How long the tests go on that have no end of their own.
#[derive(Clone, Copy)]
pub struct Long {
    /// Seconds of the storm, if somebody says.
    pub storm: Option<u32>,
    /// How many times as many rounds are made of what is counted in rounds.
    pub ends: u32,
}

/// Runs the tests and prints their totals as the last line.
///
/// # Errors
///
/// If one failed.
pub fn test(
    setup: &Setup,
    kernels: &[Which],
    parts: &[Part],
    only: &[String],
    long: Long,
) -> Result<()> {
    let wanted = |part, unasked| parts.contains(&part) || (parts.is_empty() && unasked);
    // What is not about the kernel is tested beside the stock one.
    let stock = kernels.contains(&Which::Stock);
    let mut totals = Totals::default();
    if wanted(Part::Cargo, stock) {
        totals.add(cargo(setup)?);
    }
    let mut hardware = wanted(Part::Hardware, stock);
    for &which in kernels {
        if !hardware && !wanted(Part::Guest, true) && !wanted(Part::Outside, false) {
            break;
        }
        let ready = ready(setup, which)?;
        if std::mem::take(&mut hardware) {
            totals.add(ready.hardware(setup, only.first().map_or("", String::as_str))?);
        }
        if wanted(Part::Guest, true) {
            totals.add(ready.guest(setup, only, long)?);
            if which == Which::Debug && only.is_empty() {
                totals.add(ready.planted(setup)?);
            }
        }
        if wanted(Part::Outside, false) {
            totals.add(ready.outside(setup)?);
        }
    }
    println!("{totals}");
    if totals.failed != 0 {
        bail!("{} tests failed", totals.failed);
    }
    Ok(())
}

/// Runs cargo's tests and counts them by the lines that its harness ends with.
fn cargo(setup: &Setup) -> Result<Totals> {
    eprintln!("cargo: the workspace's tests");
    let mut child = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .current_dir(&setup.repo)
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let path = setup.cache.log("cargo");
    let mut log = fs::File::create(&path).context("cannot write the log of cargo's tests")?;
    let mut totals = Totals::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read cargo's output")?;
        writeln!(log, "{line}").context("cannot write the log of cargo's tests")?;
        if line.starts_with("test ") && line.ends_with("FAILED") {
            println!("{line}");
        }
        if let Some(counted) = harness_totals(&line) {
            totals.add(counted);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && totals.failed == 0 {
        bail!("cargo test failed ({status}) before its tests did");
    }
    if totals.failed != 0 {
        println!("cargo: see {}; it ends:\n{}", path.display(), tail(&path));
    }
    println!("cargo: {totals}");
    Ok(totals)
}

/// The totals in `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn harness_totals(line: &str) -> Option<Totals> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| {
        counts.split("; ").find_map(|part| {
            let (number, word) = part.split_once(' ')?;
            (word == what).then(|| number.parse().ok())?
        })
    };
    Some(Totals {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
    })
}

fn show(name: &str, report: &ktap::Report, log: &Path, console: &Path) {
    for skip in &report.skips {
        println!("{name}: skipped {skip}");
    }
    for failure in &report.failures {
        println!("{name}: FAILED {failure}");
    }
    if !report.failures.is_empty() {
        println!("{name}: see {} and {}", log.display(), console.display());
    }
    println!("{name}: {}", report.totals);
}

pub fn console_file(setup: &Setup, name: &str) -> PathBuf {
    setup.cache.log(&format!("{name}-console"))
}

pub fn keep_console(setup: &Setup, machine: &Machine<'_>, name: &str) -> Result<()> {
    let to = console_file(setup, name);
    fs::copy(machine.console(), &to)
        .map(|_| ())
        .with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harness_line_is_counted() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out";
        let totals = harness_totals(line).expect("a result");
        assert_eq!((totals.passed, totals.failed, totals.skipped), (3, 1, 2));
        assert_eq!(harness_totals("test x ... ok"), None);
    }
}
