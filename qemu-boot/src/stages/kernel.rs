// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stock kernel as Debian ships it: image, modules, .config and Module.symvers.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use crate::stages::packages::{fetch, place, Package, Packages};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const UNPACK: &str = r#"
cd /build
for deb in *.deb; do dpkg-deb -x "$deb" tree; rm "$deb"; done
"#;

/// A kernel that can be booted.
pub struct Bootable {
    /// Its image.
    pub image: PathBuf,
    /// The folder of its modules, which has a `kernel` in it.
    pub modules: PathBuf,
    /// What it is called in messages.
    pub name: String,
}

impl Bootable {
    /// The file of a module, by its path below `kernel` without its ending.
    pub fn module(&self, name: &str) -> Option<PathBuf> {
        let below = self.modules.join("kernel");
        ["ko.xz", "ko"]
            .iter()
            .map(|ending| below.join(format!("{name}.{ending}")))
            .find(|path| path.exists())
    }
}

/// The unpacked packages of a kernel.
pub struct Kernel {
    dir: PathBuf,
    release: String,
}

impl Kernel {
    /// What is booted.
    pub fn bootable(&self) -> Bootable {
        let modules = self.dir.join("tree/usr/lib/modules").join(&self.release);
        Bootable {
            image: modules.join("vmlinuz"),
            modules,
            name: format!("Debian's Linux {}", self.release),
        }
    }

    /// The folder with .config and Module.symvers.
    pub fn headers(&self) -> PathBuf {
        let name = format!("linux-headers-{}", self.release);
        self.dir.join("tree/usr/src").join(name)
    }

    /// Its release, as `uname -r` prints it.
    pub fn release(&self) -> &str {
        &self.release
    }
}

/// The key of the stock kernel.
pub fn key(packages: &Packages) -> Key {
    let parts = || parts(packages).into_iter().flatten();
    parts()
        .fold(Key::of("kernel"), |key, package| key.text(&package.sha256))
        .key(&build_root::key())
        .text(UNPACK)
        .finish()
}

fn parts(packages: &Packages) -> Result<[&Package; 3]> {
    Ok([
        packages.kernel("linux-binary-")?,
        packages.kernel("linux-modules-")?,
        packages.kernel("linux-headers-")?,
    ])
}

/// Gives the stock kernel, and fetches it if need be: half a minute, 700 MB.
pub fn make(setup: &Setup, root: &Root, packages: &Packages) -> Result<Kernel> {
    let what = format!("Debian's Linux {} (half a minute)", packages.release);
    let dir = setup.stage("kernel", &key(packages), &what, |dir, log, progress| {
        let parts = parts(packages)?;
        fetch(setup, root, &parts, false, log, progress)?;
        for part in parts {
            place(setup, part, &dir.join(format!("{}.deb", part.name)))?;
        }
        progress.say("unpacking");
        log.run(
            "unpacking the kernel",
            &mut root.script(&[(dir, BUILD)], UNPACK, &[]),
            progress,
        )
    })?;
    let kernel = Kernel {
        dir,
        release: packages.release.clone(),
    };
    check(&kernel.bootable().image)?;
    check(&kernel.headers().join(".config"))?;
    Ok(kernel)
}

fn check(file: &Path) -> Result<()> {
    fs::metadata(file)
        .map(|_| ())
        .with_context(|| format!("the kernel's packages lack {}", file.display()))
}
