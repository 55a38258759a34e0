// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU as Debian 13's backports ship it, nothing changed: for a machine that cannot nest.

use crate::cache::{sha256_of, Key};
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use crate::stages::packages::{self, Package};
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What runs it, with the stage's folder at [`BUILD`]: its libraries and firmware are there too.
pub const COMMAND: [&str; 7] = [
    "env",
    "LD_LIBRARY_PATH=/build/usr/lib/x86_64-linux-gnu",
    "/build/usr/bin/qemu-system-x86_64",
    "-L",
    "/build/usr/share/qemu",
    "-L",
    "/build/usr/share/seabios",
];

/// The package.
pub const NAME: &str = "qemu-system-x86";

/// Fetches the package and what it needs beside the root's packages. `$1`: the version.
const FETCH: &str = r#"
mkdir -p /build/archives/partial
apt-get install -y --no-install-recommends --download-only -t trixie-backports \
    -o Dir::Cache::archives=/build/archives -o APT::Sandbox::User=root "qemu-system-x86=$1"
"#;

/// The root has other versions of some: these are not installed into it.
const UNPACK: &str = r#"
cd /build
for package in archives/*.deb; do dpkg-deb -x "$package" .; done
rm -r archives
env "$@" --version
"#;

fn key(package: &Package) -> Key {
    Key::of("debian-qemu")
        .text(&package.sha256)
        .key(&build_root::key())
        .text(FETCH)
        .text(UNPACK)
        .finish()
}

/// Gives the folder with it, and makes it if need be: 10 seconds, 130 MB.
pub fn make(setup: &Setup, root: &Root) -> Result<PathBuf> {
    let package = packages::debian_qemu(setup, root)?;
    let what = "Debian's own newer QEMU (10 seconds)";
    setup.stage("debian-qemu", &key(&package), what, |dir, log, progress| {
        // apt uses the root's lists and locks.
        let _lock = setup.cache.lock("files", || {
            eprintln!("files: another run is fetching them; waiting");
        })?;
        let binds: [(&Path, &str); 1] = [(dir, BUILD)];
        log.run(
            "fetching QEMU (if the archive has a newer one, run `make update` and try again)",
            &mut root.script(&binds, FETCH, &[&package.version]),
            progress,
        )?;
        check(&package, &dir.join("archives"))?;
        log.run(
            "unpacking QEMU",
            &mut root.script(&binds, UNPACK, &COMMAND[1..]),
            progress,
        )
    })
}

/// Compares the file that was fetched with the lock file's.
fn check(package: &Package, archives: &Path) -> Result<()> {
    let prefix = format!("{}_", package.name);
    for entry in fs::read_dir(archives).context("cannot read the fetched files")? {
        let path = entry.context("cannot read the fetched files")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&prefix) && sha256_of(&path)? == package.sha256 {
            return Ok(());
        }
    }
    bail!(
        "checksum of {} {} differs from the lock file's: the archive gave another file; \
         run `make update` if you trust it",
        package.name,
        package.version
    )
}
