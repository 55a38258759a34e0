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

    /// The demo, and the crate's examples.
    pub fn examples(&self) -> [PathBuf; 3] {
        ["demo", "rust_vmm", "vsva"].map(|name| self.release.join("examples").join(name))
    }
}

/// Builds the programs; cargo knows what is up to date.
pub fn make(setup: &Setup) -> Result<Programs> {
    let progress = Progress::start("programs", "the tests and the demo, static");
    let log = Log::create(setup.cache.log("programs"))?;
    let target = target_folder(setup);
    for what in [
        &["-p", "host-iommu-tests", "--bins"][..],
        &["-p", "host-iommu", "--examples", "--features", "vm-memory"],
        &["-p", "host-iommu", "--bins", "--features", "cli"],
    ] {
        log.run(
            "building the programs",
            Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
                .current_dir(&setup.repo)
                .args(["build", "--release", "--locked", "--target", TARGET])
                .args(what)
                .arg("--target-dir")
                .arg(&target)
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                // The image is loaded at every boot, and nothing in the guest reads it.
                .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
                .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
            &progress,
        )?;
    }
    progress.done();
    Ok(Programs {
        release: target.join(TARGET).join("release"),
    })
}

/// A folder of its own below target: other flags than the host's builds have.
fn target_folder(setup: &Setup) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| setup.repo.join("target"));
    Path::new(&target).join("guest")
}
