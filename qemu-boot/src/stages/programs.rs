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

/// The folders of the built programs.
pub struct Programs {
    release: PathBuf,
}

impl Programs {
    fn built(setup: &Setup) -> Self {
        Self {
            release: target_folder(setup).join(TARGET).join("release"),
        }
    }

    /// The test programs, by name.
    pub fn tests(&self, setup: &Setup) -> Result<Vec<PathBuf>> {
        let sources = setup.repo.join("tests/src/bin");
        let mut names: Vec<_> = fs::read_dir(&sources)
            .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
            .with_context(|| format!("cannot read {}", sources.display()))?
            .into_iter()
            .filter_map(|entry| Some(entry.path().file_stem()?.to_owned()))
            .collect();
        names.sort();
        Ok(names
            .into_iter()
            .map(|name| self.release.join(name))
            .collect())
    }

    /// Everything but what [`Programs::of_guest`] has, and the folders that it goes to.
    pub fn all(&self, setup: &Setup) -> Result<Vec<Placed>> {
        let tests = self.tests(setup)?.into_iter().map(|test| (test, "tests"));
        let examples = ["demo", C_EXAMPLE, "rust_vmm", "vsva"];
        let examples = examples.map(|name| (self.release.join("examples").join(name), "demo"));
        let tools = ["hostiommu", "bench", "fuzz"].map(|name| (self.release.join(name), "bin"));
        Ok(tests.chain(examples).chain(tools).collect())
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

/// Builds what a guest's guest needs, and nothing else.
pub fn make_guest(setup: &Setup) -> Result<Programs> {
    let progress = Progress::start("vmm", "the VMM and what runs in its guest, static");
    let log = Log::create(setup.cache.log("vmm"))?;
    for what in [
        "build -p host-iommu-vmm",
        "build -p host-iommu-tests --bin guest --bin guest-agent",
    ] {
        build(setup, what, &log, &progress)?;
    }
    progress.done();
    Ok(Programs::built(setup))
}

/// Builds the programs; cargo knows what is up to date.
pub fn make(setup: &Setup) -> Result<Programs> {
    let progress = Progress::start("programs", "the tests and the demo, static");
    let log = Log::create(setup.cache.log("programs"))?;
    for what in [
        "build -p host-iommu-tests --bins",
        "build -p host-iommu --examples --features vm-memory",
        "build -p host-iommu --bins --features cli",
        "rustc -p host-iommu --lib --features capi --crate-type staticlib",
    ] {
        build(setup, what, &log, &progress)?;
    }
    let programs = Programs::built(setup);
    c_example(setup, &programs.release, &log, &progress)?;
    progress.done();
    Ok(programs)
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
