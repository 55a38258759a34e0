// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `make demo` and `make test` run once everything is set up, and their verdict.

mod installed;
mod kernel_side;
mod l2;

pub use kernel_side::{kernel_side, try_newer};
pub use l2::{ready_for_guest, Guest, Vmm};

use crate::boot::{Hardware, Machine};
use crate::command::{output, tail};
use crate::hw;
use crate::install;
use crate::judge::{console, ktap, Totals};
use crate::places::{Place, Which};
use crate::progress::Progress;
use crate::replay;
use crate::root::{self, Root};
use crate::setup::Setup;
use crate::stages::kernel::Bootable;
use crate::stages::programs::{Placed, Programs, Selection};
use crate::stages::{
    build_root, debian_qemu, frames, image, metadata, module, own_kernel, patched_source, programs,
    qemu, selftests,
};
use anyhow::{bail, Context, Result};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The demo takes seconds; a machine under load may take many.
const DEMO_LIMIT: Duration = Duration::from_secs(180);
/// The whole guest suite.
const TESTS_LIMIT: Duration = Duration::from_secs(900);

/// Linux's selftests, which map a gigabyte for each of those of a driver.
const SELFTESTS_LIMIT: Duration = Duration::from_secs(1800);

/// How many machines the programs of one are shared out to, each on a CPU of its own.
const SHARES: usize = 2;
/// From so many programs on.
const SHARED: usize = 12;

/// Everything that a boot needs.
pub struct Ready {
    root: Root,
    kernel: Bootable,
    which: Which,
    qemu: PathBuf,
    modules: Vec<PathBuf>,
    programs: Programs,
}

/// Sets up what is missing.
pub fn ready(setup: &Setup, which: Which, programs: Selection<'_>) -> Result<Ready> {
    ready_with(setup, which, module::IOASID, programs)
}

/// The same with the product built so.
pub fn ready_with(
    setup: &Setup,
    which: Which,
    ioasid: module::KernelModule,
    programs: Selection<'_>,
) -> Result<Ready> {
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
    let mut modules = vec![build(ioasid)?, build(module::SVA)?];
    for module in module::PROBES {
        modules.push(build(module)?);
    }
    if which == Which::Debug {
        for module in module::PLANTED {
            modules.push(build(module)?);
        }
    }
    let programs = programs::make(setup, programs)?;
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

/// Test programs in one machine.
struct Run {
    name: String,
    hardware: Hardware,
    /// For the kernel's command line.
    words: String,
    selftests: Vec<PathBuf>,
    limit: Duration,
    /// The judge of its console.
    complaints: fn(&str) -> Vec<&str>,
}

impl Run {
    /// In the usual machine.
    fn new(name: String, words: String) -> Self {
        Self {
            name,
            hardware: Hardware::USUAL,
            words,
            selftests: Vec::new(),
            limit: TESTS_LIMIT,
            complaints: console::bad_lines,
        }
    }
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
        let contents = self.contents(self.programs.all(), selftests, inputs);
        self.boot_in(setup, run.path(), hardware, &contents, with)
    }

    fn contents<'a>(
        &'a self,
        programs: &'a [Placed],
        selftests: &'a [PathBuf],
        inputs: &'a [PathBuf],
    ) -> image::Contents<'a> {
        image::Contents {
            kernel: &self.kernel,
            modules: &self.modules,
            programs,
            selftests,
            inputs,
            l2: None,
            over: None,
        }
    }

    fn boot_in<T>(
        &self,
        setup: &Setup,
        run: &Path,
        hardware: Hardware,
        contents: &image::Contents<'_>,
        with: impl FnOnce(&Machine<'_>) -> Result<T>,
    ) -> Result<T> {
        image::make(setup, &self.root, run, contents)?;
        let qemu = match hardware.debian_qemu {
            true => debian_qemu::make(setup, &self.root)?,
            false => self.qemu.clone(),
        };
        with(&Machine {
            root: &self.root,
            qemu: &qemu,
            kernel: &self.kernel.image,
            run,
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

    /// The guest's tests, all or those of `only`, each in the machine that it needs.
    fn guest(&self, only: &[String], long: Long) -> Vec<Run> {
        let mut runs = Vec::new();
        for place in Place::ALL {
            let tests = self.chosen(place, only);
            let name = self.which.run(place.name());
            let shares = if tests.len() < SHARED { 1 } else { SHARES };
            for share in 0..shares.min(tests.len()) {
                let name = match shares {
                    1 => name.clone(),
                    _ => format!("{name}-{}", share + 1),
                };
                // Those that take long begin with the same letters: fault, map.
                let tests: Vec<&str> = tests.iter().skip(share).step_by(shares).copied().collect();
                let words = format!(
                    "run=tests kernel={} patience={} storm={} ends={} only={}{}{}",
                    self.which.name(),
                    self.which.patience(),
                    long.storm.unwrap_or(self.which.storm()),
                    long.ends,
                    tests.join(","),
                    self.which.words(),
                    place.words()
                );
                runs.push(Run {
                    hardware: place.hardware(),
                    limit: TESTS_LIMIT
                        .saturating_mul(self.which.patience().saturating_mul(long.ends)),
                    ..Run::new(name, words)
                });
            }
        }
        runs
    }

    /// The names of the programs to run in one kind of machine.
    fn chosen(&self, place: Place, only: &[String]) -> Vec<&str> {
        let tests = self.programs.tests().iter();
        tests
            .filter(|name| place.runs(name, self.which))
            .filter(|name| self.which.runs(name))
            .filter(|name| only.is_empty() || only.contains(name))
            .map(String::as_str)
            .collect()
    }

    /// Linux's own selftests: those of vfio on the module as type1, and where there is an iommufd
    /// those of iommufd.
    fn outside(&self, setup: &Setup) -> Result<Run> {
        let (root, packages, _, metadata) = kernel_side(setup)?;
        let words = format!("run=selftests kernel={}", self.which.name());
        Ok(Run {
            hardware: Hardware {
                driven: true,
                ..Hardware::USUAL
            },
            selftests: selftests::make(setup, &root, &packages, &metadata)?,
            limit: SELFTESTS_LIMIT,
            ..Run::new(self.which.run("selftests"), words)
        })
    }

    /// Shows that the debug kernel sees what it should: its console is full of it.
    fn planted(&self) -> Run {
        Run {
            complaints: |_| Vec::new(),
            ..Run::new("planted-bugs".into(), "run=planted kasan_multi_shot".into())
        }
    }

    fn run(&self, setup: &Setup, run: &Run) -> Result<Totals> {
        let name = run.name.as_str();
        let what = format!("booting {} and running the test programs", self.kernel.name);
        let progress = Progress::start(name, &what);
        let log = setup.cache.log(name);
        let mut ktap = ktap::Parser::default();
        let mut text = fs::File::create(&log).context("cannot write the tests' log")?;
        let ended = self.boot(setup, run.hardware, &run.selftests, |machine| {
            let ended = machine.run(&run.words, run.limit, |line| {
                ktap.line(line);
                progress.peek(line);
                // A log that cannot be written must not end the run.
                drop(writeln!(text, "{line}"));
            })?;
            keep_console(setup, machine, name)?;
            let recording = run.hardware.recorded.then(|| machine.recording());
            Ok((ended, recording.transpose()?))
        })?;
        let (ended, recording) = ended;
        let mut report = ktap.finish();
        if let Some(recording) = recording {
            report.add(replayed(setup, name, &recording, &mut text)?);
        }
        if ended.timed_out {
            report.totals.failed = report.totals.failed.saturating_add(1);
            report.failures.push(format!(
                "stopped after {:?}; the last lines:\n{}",
                run.limit,
                tail(&log)
            ));
        }
        for bad in (run.complaints)(&ended.console) {
            report.totals.failed = report.totals.failed.saturating_add(1);
            report
                .failures
                .push(format!("the kernel complained: {bad}"));
        }
        progress.done();
        show(name, &report, &log, &console_file(setup, name));
        Ok(report.totals)
    }

    /// Checks the stack frames of the module as it is built for Debian's kernel.
    fn frames(&self) -> Result<Totals> {
        let module = self.modules.first().context("there are no modules")?;
        let report = frames::check(&self.root, module)?;
        show("stack-frames", &report, module, module);
        Ok(report.totals)
    }

    /// Installs the module for Debian's kernel and removes it again.
    fn install(&self, setup: &Setup) -> Result<Totals> {
        let module = self.modules.first().context("there are no modules")?;
        let (_, _, _, metadata) = kernel_side(setup)?;
        let scripts = metadata.dir().join("build/scripts");
        let install = setup.repo.join("qemu-boot");
        install::check(&self.root, module, &self.kernel, &scripts, &install)
    }

    /// Runs the tests of the emulated hardware, in which no kernel runs.
    fn hardware(&self, setup: &Setup, filter: &str) -> Result<Totals> {
        let progress = Progress::start(
            "hardware",
            "the emulated VT-d and endpoint by hand-made tables",
        );
        let dir = setup.cache.run_folder()?;
        let binds = [(self.qemu.as_path(), "/build"), (dir.path(), "/src")];
        // Memory that was freed is not what it was.
        let program = ["env", "MALLOC_PERTURB_=165", qemu::PROGRAM];
        let command = self.root.command(&binds, program);
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

/// Judges the crate's unit by what was recorded, which is kept beside the logs.
fn replayed(
    setup: &Setup,
    name: &str,
    recording: &str,
    log: &mut dyn Write,
) -> Result<ktap::Report> {
    let kept = setup.cache.log(&format!("{name}-recording"));
    fs::write(&kept, recording).context("cannot keep the recording")?;
    let mut text = Vec::new();
    replay::run(recording, &mut text).context("cannot replay what Linux's driver did")?;
    // A log that cannot be written must not end the run.
    drop(log.write_all(&text));
    let mut ktap = ktap::Parser::default();
    String::from_utf8_lossy(&text)
        .lines()
        .for_each(|line| ktap.line(line));
    Ok(ktap.finish())
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
    /// A guest on the VMM in the booted machine.
    L2,
    /// Suites that others wrote: only when asked for.
    Outside,
    /// The Debian packages in a fresh Debian: only when asked for.
    Install,
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
        // The kernels of ours have no KVM.
        let l2 = which == Which::Stock && wanted(Part::L2, only.is_empty());
        let install = which == Which::Stock && wanted(Part::Install, false);
        if !hardware
            && !l2
            && !install
            && !wanted(Part::Guest, true)
            && !wanted(Part::Outside, false)
        {
            break;
        }
        let selection = match (wanted(Part::Guest, true), wanted(Part::Outside, false)) {
            (true, _) | (_, true) if only.is_empty() => Selection::All,
            (true, _) | (_, true) => Selection::Named(only),
            (false, false) => Selection::Named(&[]),
        };
        let ready = &ready(setup, which, selection)?;
        let mut runs = Vec::new();
        if wanted(Part::Guest, true) {
            runs = ready.guest(only, long);
            if which == Which::Debug && only.is_empty() {
                runs.push(ready.planted());
            }
        }
        if wanted(Part::Outside, false) {
            runs.push(ready.outside(setup)?);
        }
        if wanted(Part::Guest, true) && which == Which::Stock && only.is_empty() {
            totals.add(ready.frames()?);
            totals.add(ready.install(setup)?);
        }
        let mut jobs: Vec<Job<'_>> = Vec::new();
        for run in &runs {
            jobs.push(Box::new(|| ready.run(setup, run)));
        }
        if l2 {
            // Other kernels belong to what takes long, as others' suites do.
            let series = match wanted(Part::Outside, false) {
                true => &l2::SERIES[..],
                false => &l2::SERIES[..1],
            };
            // The longest of all: they begin first.
            for &series in series {
                jobs.insert(0, Box::new(move || ready.l2_totals(setup, series, only)));
            }
        }
        if install {
            jobs.push(Box::new(|| ready.installed(setup)));
        }
        if std::mem::take(&mut hardware) {
            let filter = only.first().map_or("", String::as_str);
            jobs.push(Box::new(|| ready.hardware(setup, filter)));
        }
        totals.add(together(jobs)?);
    }
    println!("{totals}");
    if totals == Totals::default() {
        bail!(
            "nothing was run: no test has such a name: {}",
            only.join(" ")
        );
    }
    if totals.failed != 0 {
        bail!("{} tests failed", totals.failed);
    }
    Ok(())
}

/// A part of the tests, which needs nothing of the others.
type Job<'a> = Box<dyn FnOnce() -> Result<Totals> + Send + 'a>;

/// Runs jobs in order, as many at a time as there are CPUs, for a machine runs on one thread.
///
/// # Errors
///
/// That of the first that had one; the others are run all the same.
fn together(jobs: Vec<Job<'_>>) -> Result<Totals> {
    let lanes = thread::available_parallelism().map_or(1, NonZero::get);
    let waiting = Mutex::new(jobs.into_iter());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next()
    };
    let lane = || -> Vec<Result<Totals>> { std::iter::from_fn(next).map(|job| job()).collect() };
    let ended = thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let ended = lanes.into_iter().map(|lane| lane.join());
        ended.collect::<std::result::Result<Vec<_>, _>>()
    });
    let Ok(ended) = ended else {
        bail!("a part of the tests could not be run");
    };
    let mut totals = Totals::default();
    for result in ended.into_iter().flatten() {
        totals.add(result?);
    }
    Ok(totals)
}

/// Runs cargo's tests and counts them by the lines that its harness ends with.
fn cargo(setup: &Setup) -> Result<Totals> {
    eprintln!("cargo: the workspace's tests");
    let mut child = root::cargo()
        .current_dir(&setup.repo)
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        // What no other member of the workspace turns on.
        .args(["--features", "host-iommu/tokio"])
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

/// Prints a report in one piece.
fn show(name: &str, report: &ktap::Report, log: &Path, console: &Path) {
    let mut text = String::new();
    for skip in &report.skips {
        text.push_str(&format!("{name}: skipped {skip}\n"));
    }
    for failure in &report.failures {
        text.push_str(&format!("{name}: FAILED {failure}\n"));
    }
    if !report.failures.is_empty() {
        let (log, console) = (log.display(), console.display());
        text.push_str(&format!("{name}: see {log} and {console}\n"));
    }
    println!("{text}{name}: {}", report.totals);
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
