// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels that are built here, from the stock kernel's source, patched or not, and a
//! configuration of ours.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::ccache;
use crate::stages::kernel::Bootable;
use crate::stages::metadata;
use crate::stages::module::Tree;
use crate::stages::patched_source::Source;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel's build folder is seen in the root: it knows itself, and the source, by path.
const OUT: &str = "/kernel";

/// Builds in [`OUT`] from `/build/source`, for the configurations in `/src`. What only the
/// kernel's image needed is removed; modules are built against the rest.
const MAKE: &str = r#"
cd /kernel
cat /src/*.config > all.config
build() { make -s -C /build/source O=/kernel $1 KCONFIG_ALLCONFIG=/kernel/all.config "${@:2}"; }
build "$1" allnoconfig
build "$1" -j"$(nproc)" bzImage modules
build "$1" INSTALL_MOD_PATH=/kernel/install modules_install
cp arch/x86/boot/bzImage image
cat include/config/kernel.release > release
find . -path ./scripts -prune -o -path ./tools -prune -o -path ./install -prune -o -path ./rust -prune \
    -o \( -name '*.o' -o -name '*.a' -o -name 'vmlinux*' \) -type f -exec rm {} +
"#;

/// A kernel of ours.
pub struct OwnKernel {
    /// Its name, and that of its stage.
    name: &'static str,
    /// Its configuration: files in qemu-boot/kernel, a later one adds to an earlier.
    configs: &'static [&'static str],
    /// Variables of make that name the tools.
    make: &'static str,
    /// How long it takes.
    time: &'static str,
}

/// Has our patches, iommufd, and what shows the patches' effect.
pub const PATCHED: OwnKernel = OwnKernel {
    name: "kernel-patched",
    configs: &["base.config", "patched.config"],
    make: metadata::MAKE,
    time: "8 minutes",
};

/// The same without our patches.
pub const UNPATCHED: OwnKernel = OwnKernel {
    name: "kernel-unpatched",
    ..PATCHED
};

/// Watches locks, memory and what is undefined. Rust with KASAN needs clang: it is built, as are
/// the modules for it, in [`with_clang`](crate::stages::build_root::with_clang).
pub const DEBUG: OwnKernel = OwnKernel {
    name: "kernel-debug",
    configs: &["base.config", "debug.config"],
    make: "LLVM=-19 RUST_LIB_SRC=/usr/src/rustc-1.85.1/library",
    time: "15 minutes",
};

/// A kernel that was built.
pub struct Built {
    dir: PathBuf,
    source: PathBuf,
    key: Key,
    name: &'static str,
    make: &'static str,
}

impl OwnKernel {
    /// Gives the kernel, and builds it if need be.
    pub fn make(&self, setup: &Setup, root: &Root, source: &Source) -> Result<Built> {
        let folder = setup.repo.join("qemu-boot/kernel");
        let key = self
            .configs
            .iter()
            .try_fold(Key::of(self.name).key(&source.key), |key, config| {
                key.tree(&folder.join(config))
            })?
            .text(MAKE)
            .text(self.make)
            .finish();
        let what = format!("a kernel of our own ({})", self.time);
        let dir = setup.stage(self.name, &key, &what, |dir, log, progress| {
            let configs = setup.cache.scratch(&format!("{}-config", self.name))?;
            for (index, config) in self.configs.iter().enumerate() {
                // In this order, whatever their names.
                fs::copy(folder.join(config), configs.join(format!("{index}.config")))
                    .with_context(|| format!("cannot copy {config}"))?;
            }
            let ccache = ccache::make(setup, root)?;
            let mut binds: Vec<(&Path, &str)> = vec![
                (source.dir.as_path(), BUILD),
                (dir, OUT),
                (configs.as_path(), "/src"),
            ];
            binds.extend(ccache.binds());
            log.run(
                "building the kernel",
                &mut root.script(&binds, &format!("{}{MAKE}", ccache::USE), &[self.make]),
                progress,
            )?;
            missing_option(dir)
        })?;
        Ok(Built {
            dir,
            source: source.dir.clone(),
            key,
            name: self.name,
            make: self.make,
        })
    }
}

/// An option that was asked for and that kconfig dropped would make a test prove nothing.
fn missing_option(dir: &Path) -> Result<()> {
    let read = |name: &str| {
        fs::read_to_string(dir.join(name)).with_context(|| format!("cannot read {name}"))
    };
    let settled = read(".config")?;
    let asked = read("all.config")?;
    let missing = asked
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .find(|line| match line.strip_suffix("=n") {
            Some(name) => !settled.contains(&format!("# {name} is not set\n")),
            None => !settled.lines().any(|other| other == *line),
        });
    match missing {
        Some(line) => bail!("the kernel's configuration does not take {line}"),
        None => Ok(()),
    }
}

impl Built {
    /// What is booted.
    ///
    /// # Errors
    ///
    /// If its release cannot be read.
    pub fn bootable(&self) -> Result<Bootable> {
        let release = fs::read_to_string(self.dir.join("release"))
            .context("cannot read the kernel's release")?;
        let release = release.trim();
        Ok(Bootable {
            image: self.dir.join("image"),
            modules: self.dir.join("install/lib/modules").join(release),
            name: format!("Linux {release} ({})", self.name),
        })
    }

    /// What modules are built against.
    pub fn tree(&self) -> Tree {
        Tree {
            name: self.name,
            key: self.key.clone(),
            binds: vec![(self.source.clone(), BUILD), (self.dir.clone(), OUT)],
            build: OUT,
            make: self.make,
        }
    }
}
