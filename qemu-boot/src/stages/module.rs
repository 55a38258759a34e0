// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The module, built by Kbuild for the stock kernel or for a user's own.

use crate::cache::Key;
use crate::command::Log;
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::metadata::{self, Metadata};
use crate::stages::packages::Packages;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The module's file.
pub const FILE: &str = "vfio_iommu_ioasid.ko";

/// What the module is built from, below the top folder.
const SOURCES: [&str; 3] = ["Kbuild", "kmod", "bindings/src/uapi.rs"];

/// `$1`: variables of make.
const MAKE: &str = r#"make -s -C /build/build M=/src $1 -j"$(nproc)" modules"#;

/// The key of the module.
pub fn key(setup: &Setup, packages: &Packages) -> Result<Key> {
    SOURCES
        .iter()
        .try_fold(
            Key::of("module").key(&metadata::key(packages)?),
            |key, source| key.tree(&setup.repo.join(source)),
        )
        .map(|key| key.text(MAKE).finish())
}

/// Gives the module for the stock kernel, and builds it if need be: 5 seconds.
pub fn make(setup: &Setup, root: &Root, packages: &Packages, kernel: &Metadata) -> Result<PathBuf> {
    let what = "the module for the stock kernel (5 seconds)";
    let dir = setup.stage(
        "module",
        &key(setup, packages)?,
        what,
        |dir, log, progress| {
            copy_sources(setup, dir)?;
            let binds = [(kernel.dir(), BUILD), (dir, "/src")];
            log.run(
                "building the module",
                &mut root.script(&binds, MAKE, &[metadata::MAKE]),
                progress,
            )
        },
    )?;
    Ok(dir.join(FILE))
}

/// Runs clippy over the module; a warning is an error.
pub fn clippy(setup: &Setup, root: &Root, kernel: &Metadata) -> Result<()> {
    let _lock = setup.cache.lock("clippy", || {
        eprintln!("clippy: another run is at it; waiting")
    })?;
    let progress = Progress::start("clippy", "the module's lints");
    let dir = setup.cache.scratch("clippy")?;
    copy_sources(setup, &dir)?;
    let log = Log::create(setup.cache.log("clippy"))?;
    let binds = [(kernel.dir(), BUILD), (dir.as_path(), "/src")];
    let variables = format!("{} CLIPPY=1 KRUSTFLAGS=-Dwarnings", metadata::MAKE);
    let variables = format!("{variables} RUSTFLAGS_MODULE=-Dwarnings");
    log.run(
        "clippy on the module",
        &mut root.script(&binds, MAKE, &[&variables]),
        &progress,
    )?;
    let text = fs::read_to_string(setup.cache.log("clippy")).context("cannot read the log")?;
    if let Some(warning) = text.lines().find(|line| line.starts_with("warning:")) {
        bail!(
            "clippy on the module: {warning}; see {}",
            setup.cache.log("clippy").display()
        );
    }
    progress.done();
    Ok(())
}

/// Builds the module with this machine's tools against a user's kernel build, into
/// `target/modules` of the checkout.
pub fn make_for(setup: &Setup, kdir: &Path) -> Result<PathBuf> {
    let kdir = kdir
        .canonicalize()
        .with_context(|| format!("KDIR={} is not a folder", kdir.display()))?;
    if !kdir.join("Makefile").exists() || !kdir.join(".config").exists() {
        bail!(
            "KDIR={} is not a configured kernel build: it has no Makefile and .config",
            kdir.display()
        );
    }
    let config = fs::read_to_string(kdir.join(".config")).context("cannot read .config")?;
    for wanted in [
        "CONFIG_RUST=y",
        "CONFIG_INTEL_IOMMU=y",
        "CONFIG_VFIO_CONTAINER=y",
    ] {
        if !config.lines().any(|line| line == wanted) {
            bail!(
                "the kernel in {} has no {wanted}: the module needs it",
                kdir.display()
            );
        }
    }
    let dir = setup.repo.join("target/modules");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    copy_sources(setup, &dir)?;
    let status = Command::new("make")
        .arg("-C")
        .arg(&kdir)
        .arg(format!("M={}", dir.display()))
        .arg("modules")
        .status()
        .context("cannot run make")?;
    if !status.success() {
        bail!("building the module against {} failed", kdir.display());
    }
    Ok(dir.join(FILE))
}

fn copy_sources(setup: &Setup, to: &Path) -> Result<()> {
    for source in SOURCES {
        copy_tree(&setup.repo.join(source), &to.join(source))?;
    }
    Ok(())
}

/// Copies a file or a folder of sources, without what a build by hand left among them.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let problem = || format!("cannot copy {} to {}", from.display(), to.display());
    if from.is_dir() {
        fs::create_dir_all(to).with_context(problem)?;
        for entry in fs::read_dir(from).with_context(problem)? {
            let name = entry.with_context(problem)?.file_name();
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    let is_source = from
        .extension()
        .is_none_or(|extension| ["rs", "c", "h"].iter().any(|known| extension == *known));
    if is_source {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(problem)?;
        }
        fs::copy(from, to).with_context(problem)?;
    }
    Ok(())
}
