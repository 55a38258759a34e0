// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's other kernels, for the guest's guest: as the archive ships them, with what their modules
//! are built against.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use crate::stages::kernel::Bootable;
use crate::stages::module::Tree;
use crate::stages::packages::{self, fetch, place, GuestPackages};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the packages' tree is seen when a module is built.
const AT: &str = "/guest-kernel";
const BUILD_FOLDER: &str = "/guest-kernel/usr/src/build";

/// The headers name their folders by absolute paths. `$1`: the release, `$2`: where the tree is seen.
const UNPACK: &str = r#"
cd /build
for deb in *.deb; do dpkg-deb -x "$deb" tree; rm "$deb"; done
sed -i "s#/usr/src#$2/usr/src#g" "tree/usr/src/linux-headers-$1/Makefile"
ln -s "linux-headers-$1" tree/usr/src/build
"#;

/// A kernel that a guest's guest boots.
pub struct GuestKernel {
    dir: PathBuf,
    key: Key,
    release: String,
}

fn key(packages: &GuestPackages) -> Key {
    let parts = packages.packages.iter();
    parts
        .fold(Key::of("guest-kernel"), |key, package| {
            key.text(&package.sha256)
        })
        .key(&build_root::key())
        .text(UNPACK)
        .text(AT)
        .finish()
}

/// Gives the newest kernel of a series, as `6.12`, and fetches it if need be: 20 seconds, 300 MB.
///
/// # Errors
///
/// If no release of Debian that is known here has such a kernel.
pub fn make(setup: &Setup, root: &Root, series: &str) -> Result<GuestKernel> {
    let packages = packages::guest_kernel(setup, root, series)?;
    let release = packages.release.clone();
    let key = key(&packages);
    let what = format!("Debian's Linux {release} for the guest's guest (20 seconds)");
    let dir = setup.stage("guest-kernel", &key, &what, |dir, log, progress| {
        let parts: Vec<_> = packages.packages.iter().collect();
        fetch(setup, root, &parts, false, log, progress)?;
        for part in parts {
            place(setup, part, &dir.join(format!("{}.deb", part.name)))?;
        }
        progress.say("unpacking");
        let arguments = [release.as_str(), AT];
        log.run(
            "unpacking the kernel",
            &mut root.script(&[(dir, BUILD)], UNPACK, &arguments),
            progress,
        )
    })?;
    Ok(GuestKernel { dir, key, release })
}

impl GuestKernel {
    /// What is booted.
    ///
    /// # Errors
    ///
    /// If the packages have no image.
    pub fn bootable(&self) -> Result<Bootable> {
        let tree = self.dir.join("tree");
        // Debian 12 has not merged /usr yet.
        let places = ["usr/lib/modules", "lib/modules"];
        let mut places = places
            .map(|place| tree.join(place).join(&self.release))
            .into_iter();
        let modules = places.find(|place| place.exists());
        let modules = modules.context("the kernel's packages have no modules")?;
        let image = [
            modules.join("vmlinuz"),
            tree.join("boot").join(format!("vmlinuz-{}", self.release)),
        ];
        let image = image.into_iter().find(|image| fs::metadata(image).is_ok());
        let name = format!("Debian's Linux {}", self.release);
        Ok(Bootable {
            image: image.with_context(|| format!("{name} has no image in its packages"))?,
            modules,
            name,
        })
    }

    /// What modules are built against.
    pub fn tree(&self) -> Tree {
        Tree {
            name: "guest's",
            key: self.key.clone(),
            binds: vec![(Path::new(&self.dir).join("tree"), AT)],
            build: BUILD_FOLDER,
            // Older ones name a compiler that Debian 13 lacks.
            make: "CC=gcc",
        }
    }
}
