// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs that run in the machine: the tests and the demo, static, by the host's cargo.

use crate::command::Log;
use crate::progress::Progress;
use crate::setup::Setup;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The name of the example of the C API.
const C_EXAMPLE: &str = "demo_c";

/// The folders of the built programs.
pub struct Programs {
    release: PathBuf,
}

impl Programs {
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

    /// The command `hostiommu`.
    pub fn hostiommu(&self) -> PathBuf {
        self.release.join("hostiommu")
    }

    /// What `make bench` runs.
    pub fn bench(&self) -> PathBuf {
        self.release.join("bench")
    }

    /// What `make fuzz` runs.
    pub fn fuzz(&self) -> PathBuf {
        self.release.join("fuzz")
    }

    /// The VMM, and what runs a guest on it.
    pub fn vmm(&self) -> [PathBuf; 2] {
        ["vmm", "guest"].map(|name| self.release.join(name))
    }

    /// What runs in that guest.
    pub fn guest_agent(&self) -> PathBuf {
        self.release.join("guest-agent")
    }

    /// The demo, and the crate's examples.
    pub fn examples(&self) -> [PathBuf; 4] {
        ["demo", C_EXAMPLE, "rust_vmm", "vsva"].map(|name| self.release.join("examples").join(name))
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

/// Has cargo build something for the machine.
fn build(setup: &Setup, what: &str, log: &Log, progress: &Progress) -> Result<()> {
    log.run(
        "building the programs",
        Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
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

/// Builds the VMM, which only its guest needs.
pub fn make_vmm(setup: &Setup) -> Result<()> {
    let progress = Progress::start("vmm", "the VMM, static");
    let log = Log::create(setup.cache.log("vmm"))?;
    build(setup, "build -p host-iommu-vmm", &log, &progress)?;
    progress.done();
    Ok(())
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
    let release = target_folder(setup).join(TARGET).join("release");
    c_example(setup, &release, &log, &progress)?;
    progress.done();
    Ok(Programs { release })
}

/// A folder of its own below target: other flags than the host's builds have.
fn target_folder(setup: &Setup) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| setup.repo.join("target"));
    Path::new(&target).join("guest")
}
