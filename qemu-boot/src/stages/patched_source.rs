// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stock kernel's source with the patches of `qemu-boot/kernel/patches`.

use crate::cache::Key;
use crate::command::output;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::metadata::{self, Metadata};
use crate::stages::packages::Packages;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// Where the patches are, below the top folder.
const PATCHES: &str = "qemu-boot/kernel/patches";

/// A patch that does not fit to the line is an error: it would have to be looked at again.
const PATCH: &str = r#"
cd /build/source
for patch in /src/*.patch; do
    echo "$patch"
    patch -p1 --forward --fuzz=0 --no-backup-if-mismatch < "$patch"
done
"#;

/// A kernel's source, in the folder `source` of `dir`.
pub struct Source {
    /// Its folder.
    pub dir: PathBuf,
    /// What it was made from.
    pub key: Key,
}

/// Gives the patched source, and makes it if need be: 10 seconds. A file that no patch changes is
/// the stock source's own, by a hard link.
pub fn make(setup: &Setup, root: &Root, packages: &Packages, stock: &Metadata) -> Result<Source> {
    let patches = setup.repo.join(PATCHES);
    let key = Key::of("patched-source")
        .key(&metadata::key(packages)?)
        .tree(&patches)?
        .text(PATCH)
        .finish();
    let what = "the kernel's source with our patches (10 seconds)";
    let dir = setup.stage("patched-source", &key, what, |dir, log, progress| {
        output(
            "linking the kernel's source",
            Command::new("cp")
                .arg("-al")
                .arg(stock.dir().join("source"))
                .arg(dir),
        )
        .context("the cache folder has to be on one file system")?;
        log.run(
            "patching the kernel's source",
            &mut root.script(&[(dir, BUILD), (&patches, "/src")], PATCH, &[]),
            progress,
        )
    })?;
    Ok(Source { dir, key })
}
