// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs that run in the machine: the tests and the demo, static, by the host's cargo.

use crate::command::Log;
use crate::progress::Progress;
use crate::root::cargo;
use crate::setup::Setup;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The name of the example of the C API.
const C_EXAMPLE: &str = "demo_c";

/// A program, and the folder of an image that it goes to.
pub type Placed = (PathBuf, &'static str);

/// What to build.
#[derive(Clone, Copy)]
pub enum Selection<'a> {
    /// All but what a guest needs.
    All,
    /// The demo alone.
    Demo,
    /// Tests, or tools, of these names; a name that nothing has is left out.
    Named(&'a [String]),
    /// What a guest and its VMM need.
    Guest,
}

/// Programs of the tests' package that are no tests.
const TOOLS: [&str; 2] = ["bench", "fuzz"];

/// What was built, and where.
pub struct Programs {
    release: PathBuf,
    tests: Vec<String>,
    placed: Vec<Placed>,
}

impl Programs {
    /// The names of the test programs.
    pub fn tests(&self) -> &[String] {
        &self.tests
    }

    /// All but what [`Programs::of_guest`] has, and the folders that it goes to.
    pub fn all(&self) -> &[Placed] {
        &self.placed
    }

    /// The VMM, and what runs a guest on it.
    pub fn of_guest(&self) -> Vec<Placed> {
        let names = ["vmm", "guest"];
        names.map(|name| (self.release.join(name), "bin")).into()
    }

    /// What runs in that guest.
    pub fn guest_agent(&self) -> PathBuf {
        self.release.join("guest-agent")
    }
}

/// Compiles the example of the C API against the static library, as a user would by the C compiler
/// that cargo links with.
fn c_example(setup: &Setup, release: &Path, log: &Log, progress: &Progress) -> Result<()> {
    let user = setup.repo.join("user");
    log.run(
        "compiling the C example (is there a C compiler? cargo needs one too)",
        Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
            .args([
                "-static",
                "-O2",
                "-std=gnu11",
                "-Wall",
                "-Wextra",
                "-Werror",
            ])
            .arg("-I")
            .arg(user.join("include"))
            .arg(user.join("examples/c/demo.c"))
            .arg(release.join("libhost_iommu.a"))
            .args(["-lpthread", "-ldl", "-lm", "-o"])
            .arg(release.join("examples").join(C_EXAMPLE)),
        progress,
    )
}

/// Has cargo build something for the machine. It ends with this program, as do its compilers.
fn build(setup: &Setup, what: &str, log: &Log, progress: &Progress) -> Result<()> {
    log.run(
        "building the programs",
        cargo()
            .current_dir(&setup.repo)
            .args(what.split(' '))
            .args(["--release", "--locked", "--target", TARGET])
            .arg("--target-dir")
            .arg(target_folder(setup))
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            // The image is loaded at every boot, and nothing in the guest reads it.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
        progress,
    )
}

/// The names of the tests that there are.
fn known_tests(setup: &Setup) -> Result<Vec<String>> {
    let sources = setup.repo.join("tests/src/bin");
    let entries = fs::read_dir(&sources)
        .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
        .with_context(|| format!("cannot read {}", sources.display()))?;
    let names = entries
        .iter()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    Ok(names)
}

/// Whether one of these tests runs another program, as its source says by one of the words.
fn any_mentions(setup: &Setup, tests: &[String], words: &[&str]) -> Result<bool> {
    for test in tests {
        let sources = setup.repo.join("tests/src/bin");
        // A program of several files has a folder.
        let folder = sources.join(test);
        let source = match folder.is_dir() {
            true => folder.join("main.rs"),
            false => sources.join(format!("{test}.rs")),
        };
        let text = fs::read_to_string(&source)
            .with_context(|| format!("cannot read {}", source.display()))?;
        if words.iter().any(|word| text.contains(word)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Builds the programs of a selection; cargo knows what is up to date.
pub fn make(setup: &Setup, selection: Selection<'_>) -> Result<Programs> {
    let release = target_folder(setup).join(TARGET).join("release");
    let mut tests = known_tests(setup)?;
    let mut tools = TOOLS.to_vec();
    let (name, what) = match selection {
        Selection::All => ("programs", "the tests and the demo, static"),
        Selection::Demo => ("programs", "the demo, static"),
        Selection::Named(_) => ("programs", "those that were named, static"),
        Selection::Guest => ("vmm", "the VMM and what runs in its guest, static"),
    };
    match selection {
        Selection::All => {}
        Selection::Demo | Selection::Guest => {
            tests.clear();
            tools.clear();
        }
        Selection::Named(names) => {
            tests.retain(|test| names.contains(test));
            tools.retain(|tool| names.iter().any(|name| name == tool));
        }
    }
    let has_examples = match selection {
        Selection::All | Selection::Demo => true,
        Selection::Named(_) => any_mentions(setup, &tests, &["/demo/", "vsva"])?,
        Selection::Guest => false,
    };
    let has_command = any_mentions(setup, &tests, &["/bin/hostiommu"])?;

    let mut builds: Vec<String> = Vec::new();
    match selection {
        Selection::All => builds.push("build -p host-iommu-tests --bins".into()),
        Selection::Guest => {
            builds.push("build -p host-iommu-vmm".into());
            builds.push("build -p host-iommu-tests --bin guest --bin guest-agent".into());
        }
        _ if tests.is_empty() && tools.is_empty() => {}
        _ => {
            let named = tests
                .iter()
                .map(String::as_str)
                .chain(tools.iter().copied());
            let bins: String = named.map(|name| format!(" --bin {name}")).collect();
            builds.push(format!("build -p host-iommu-tests{bins}"));
        }
    }
    if has_command {
        builds.push("build -p host-iommu --bins --features cli".into());
    }
    if has_examples {
        builds.push("build -p host-iommu --examples --features vm-memory".into());
        builds.push("rustc -p host-iommu --lib --features capi --crate-type staticlib".into());
    }
    if !builds.is_empty() {
        let progress = Progress::start(name, what);
        let log = Log::create(setup.cache.log(name))?;
        for what in &builds {
            build(setup, what, &log, &progress)?;
        }
        if has_examples {
            c_example(setup, &release, &log, &progress)?;
        }
        progress.done();
    }

    let mut placed: Vec<Placed> = Vec::new();
    placed.extend(tests.iter().map(|name| (release.join(name), "tests")));
    placed.extend(tools.iter().map(|name| (release.join(name), "bin")));
    if has_command {
        placed.push((release.join("hostiommu"), "bin"));
    }
    if has_examples {
        let examples = ["demo", C_EXAMPLE, "rust_vmm", "vsva"];
        placed.extend(examples.map(|name| (release.join("examples").join(name), "demo")));
    }
    Ok(Programs {
        release,
        tests,
        placed,
    })
}

/// Builds the C library, shared, under the name that programs look for. It is not for the static
/// programs of the machine, and so has flags of its own.
pub fn shared_library(
    setup: &Setup,
    soname: &str,
    log: &Log,
    progress: &Progress,
) -> Result<PathBuf> {
    let target = target_folder(setup).join("shared");
    log.run(
        "building the C library",
        cargo()
            .current_dir(&setup.repo)
            .args("rustc -p host-iommu --lib --features capi --crate-type cdylib".split(' '))
            .args(["--release", "--locked", "--target-dir"])
            .arg(&target)
            .arg("--")
            .arg(format!("-Clink-arg=-Wl,-soname,{soname}"))
            .env("CARGO_PROFILE_RELEASE_DEBUG", "none"),
        progress,
    )?;
    Ok(target.join("release/libhost_iommu.so"))
}

/// A folder of its own below target: other flags than the host's builds have.
fn target_folder(setup: &Setup) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| setup.repo.join("target"));
    Path::new(&target).join("guest")
}
