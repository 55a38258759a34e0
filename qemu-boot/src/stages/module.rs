// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel modules, built by Kbuild for the stock kernel or, ours, for a user's own.

use crate::cache::Key;
use crate::command::Log;
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A kernel module of this repository.
pub struct KernelModule {
    /// The stage that builds it.
    stage: &'static str,
    /// Its file.
    pub file: &'static str,
    /// The folder with its Kbuild, below the top folder.
    folder: &'static str,
    /// What it is built from, below that folder.
    sources: &'static [&'static str],
    /// Variables of make, beside those of the kernel.
    make: &'static [&'static str],
}

/// The product.
pub const IOASID: KernelModule = KernelModule {
    stage: "module",
    file: "vfio_iommu_ioasid.ko",
    folder: "",
    sources: &["Kbuild", "kmod", "bindings/src/uapi.rs"],
    make: &[],
};

/// Clippy's warnings are errors.
const LINTS: [&str; 3] = [
    "CLIPPY=1",
    "KRUSTFLAGS=-Dwarnings",
    "RUSTFLAGS_MODULE=-Dwarnings",
];

/// The product, saying which of its points are reached (KCOV of the debug kernel). With the lints,
/// because kmod/kunit is compiled for that kernel alone.
pub const IOASID_TRACED: KernelModule = KernelModule {
    make: &["KCOV_INSTRUMENT=y", LINTS[0], LINTS[1], LINTS[2]],
    ..IOASID
};

/// The driver that the test of host SVA opens, which is no part of the product.
pub const SVA: KernelModule = KernelModule {
    stage: "sva-module",
    file: "pasid_dma_sva.ko",
    folder: "qemu-boot",
    sources: &["sva", "qemu/files/include/hw/misc/pasid-dma-testdev.h"],
    make: &[],
};

/// What tests change in a running kernel: a function takes longer, so that a race is met every
/// time; a group has a reserved region more; the driver invalidates less than it is asked to.
pub const PROBES: [KernelModule; 3] = [
    probes("delay_function.ko"),
    probes("reserve_region.ko"),
    probes("invalidate_fewer.ko"),
];

const fn probes(file: &'static str) -> KernelModule {
    KernelModule {
        stage: "probe-modules",
        file,
        folder: "qemu-boot",
        sources: &["probes"],
        make: &[],
    }
}

/// Wrong on purpose, in C and in Rust: what the debug kernel must see.
pub const PLANTED: [KernelModule; 2] = [planted("planted_c.ko"), planted("planted_rust.ko")];

const fn planted(file: &'static str) -> KernelModule {
    KernelModule {
        stage: "planted-modules",
        file,
        folder: "qemu-boot",
        sources: &["planted"],
        make: &[],
    }
}

/// `$1`: the folder with the Kbuild; `$2`: variables of make.
const MAKE: &str = r#"make -s -C "$3" M="$1" $2 -j"$(nproc)" modules"#;

/// A kernel's build folder, and how it is seen in the root.
pub struct Tree {
    /// The kernel's name.
    pub name: &'static str,
    /// What it was made from.
    pub key: Key,
    /// Folders, and where they are seen.
    pub binds: Vec<(PathBuf, &'static str)>,
    /// The build folder, as it is seen.
    pub build: &'static str,
    /// Variables of make that name the tools it was built with.
    pub make: &'static str,
}

impl Tree {
    fn binds<'a>(&'a self, src: &'a Path) -> Vec<(&'a Path, &'a str)> {
        self.binds
            .iter()
            .map(|(dir, at)| (dir.as_path(), *at))
            .chain([(src, "/src")])
            .collect()
    }
}

impl KernelModule {
    fn key(&self, setup: &Setup, tree: &Tree) -> Result<Key> {
        let mut key = Key::of(self.stage).key(&tree.key);
        if !self.make.is_empty() {
            key = key.text(&self.make.join(" "));
        }
        self.sources
            .iter()
            .try_fold(key, |key, source| {
                key.tree(&setup.repo.join(self.folder).join(source))
            })
            .map(|key| key.text(MAKE).finish())
    }

    /// Gives the module for a kernel, and builds it if need be: 5 seconds.
    pub fn make(&self, setup: &Setup, root: &Root, tree: &Tree) -> Result<PathBuf> {
        let what = format!("{} for the {} kernel (5 seconds)", self.file, tree.name);
        let key = self.key(setup, tree)?;
        let dir = setup.stage(self.stage, &key, &what, |dir, log, progress| {
            self.copy_sources(&setup.repo, dir)?;
            let variables = format!("{} {}", tree.make, self.make.join(" "));
            let args = [&*self.inside(), &variables, tree.build];
            log.run(
                "building the module",
                &mut root.script(&tree.binds(dir), MAKE, &args),
                progress,
            )
        })?;
        Ok(dir.join(self.kbuild()).join(self.file))
    }

    /// The folder with the Kbuild, below where the sources are copied to.
    fn kbuild(&self) -> &'static str {
        match self.sources.first() {
            Some(&"Kbuild") | None => "",
            Some(folder) => folder,
        }
    }

    fn inside(&self) -> String {
        format!("/src/{}", self.kbuild())
    }

    /// Copies what it is built from.
    pub fn copy_sources(&self, repo: &Path, to: &Path) -> Result<()> {
        let from = repo.join(self.folder);
        self.sources
            .iter()
            .try_for_each(|source| copy_tree(&from.join(source), &to.join(source)))
    }
}

/// Runs clippy over the module; a warning is an error.
pub fn clippy(setup: &Setup, root: &Root, kernel: &Tree) -> Result<()> {
    let _lock = setup.cache.lock("clippy", || {
        eprintln!("clippy: another run is at it; waiting")
    })?;
    let progress = Progress::start("clippy", "the module's lints");
    let dir = setup.cache.scratch("clippy")?;
    IOASID.copy_sources(&setup.repo, &dir)?;
    let log = Log::create(setup.cache.log("clippy"))?;
    let variables = format!("{} {}", kernel.make, LINTS.join(" "));
    log.run(
        "clippy on the module",
        &mut root.script(
            &kernel.binds(&dir),
            MAKE,
            &["/src", &variables, kernel.build],
        ),
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
