// SPDX-License-Identifier: Apache-2.0 OR MIT
//! accel-config and its tests as Debian 13 ships them, with the libraries that they need: what
//! configures a DSA in the guest.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use crate::stages::packages::{self, fetch, place};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The packages. Their other libraries are the root's.
pub const NAMES: [&str; 4] = [
    "accel-config",
    "accel-config-test",
    "libaccel-config1",
    "libjson-c5",
];

/// Unpacks the packages and gathers the libraries: `tree` is laid over the guest's root.
const UNPACK: &str = r#"
cd /build
mkdir all tree
for package in *.deb; do dpkg-deb -x "$package" all; done
mkdir -p tree/usr/bin tree/usr/libexec tree/lib64 tree/lib/x86_64-linux-gnu
cp all/usr/bin/accel-config tree/usr/bin/
cp -r all/usr/libexec/accel-config tree/usr/libexec/
export LD_LIBRARY_PATH=/build/all/usr/lib/x86_64-linux-gnu
for program in tree/usr/bin/accel-config tree/usr/libexec/accel-config/test/dsa_test; do
    ldd "$program" | awk '$3 ~ /^\// { print $3 }' | while read -r library; do
        cp -L "$library" tree/lib/x86_64-linux-gnu/
    done
done
cp -L /lib64/ld-linux-x86-64.so.2 tree/lib64/
rm -r all *.deb
"#;

/// Gives the tree, and makes it if need be: 5 seconds, 4 MB.
pub fn make(setup: &Setup, root: &Root) -> Result<PathBuf> {
    let packages = packages::accel_config(setup, root)?;
    let key = packages
        .iter()
        .fold(Key::of("accel-config"), |key, package| {
            key.text(&package.sha256)
        })
        .key(&build_root::key())
        .text(UNPACK)
        .finish();
    let what = "accel-config and its tests (5 seconds)";
    let dir = setup.stage("accel-config", &key, what, |dir, log, progress| {
        let files: Vec<_> = packages.iter().collect();
        fetch(setup, root, &files, false, log, progress)?;
        for file in files {
            place(setup, file, &dir.join(format!("{}.deb", file.name)))?;
        }
        let binds: [(&Path, &str); 1] = [(dir, BUILD)];
        log.run(
            "unpacking accel-config",
            &mut root.script(&binds, UNPACK, &[]),
            progress,
        )
    })?;
    Ok(dir.join("tree"))
}
