// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stock kernel's source with the patches of `qemu-boot/kernel/patches`.

use crate::cache::Key;
use crate::command::output;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::metadata::{self, Metadata};
use crate::stages::packages::Packages;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the patches are, below the top folder.
const PATCHES: &str = "qemu-boot/kernel/patches";

/// The folders there, in the order in which their patches are applied.
const FOLDERS: [&str; 4] = ["backports", "iommu", "vfio", "ours"];

/// Applies the patches of the folders named. A patch that does not fit to the line is an error: it
/// would have to be looked at again.
const PATCH: &str = r#"
cd /build/source
for folder in "$@"; do
    for patch in /src/"$folder"/*.patch; do
        echo "$patch"
        patch -p1 --forward --fuzz=0 --no-backup-if-mismatch < "$patch"
    done
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
    let mut key = Key::of("patched-source").key(&metadata::key(packages)?);
    for patch in applied(&patches)? {
        key = key.tree(&patch)?;
    }
    let key = key.text(PATCH).finish();
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
            &mut root.script(&[(dir, BUILD), (&patches, "/src")], PATCH, &FOLDERS),
            progress,
        )
    })?;
    Ok(Source { dir, key })
}

/// The files that are applied, in their order. A cover letter beside them is not one: to write in it
/// builds no kernel again.
fn applied(patches: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        let folder = patches.join(folder);
        let mut here = fs::read_dir(&folder)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<std::io::Result<Vec<_>>>()
            })
            .with_context(|| format!("cannot read {}", folder.display()))?;
        here.retain(|path| path.extension().is_some_and(|end| end == "patch"));
        if here.is_empty() {
            bail!("{} has no patch", folder.display());
        }
        here.sort();
        files.extend(here);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_of_patches_is_applied_and_a_cover_letter_is_not() {
        let patches = Path::new("kernel/patches");
        let files = applied(patches).unwrap();
        let folders = fs::read_dir(patches).unwrap().count();
        assert_eq!(folders, FOLDERS.len());
        assert!(files
            .iter()
            .all(|path| path.extension().unwrap() == "patch"));
        for folder in FOLDERS {
            assert!(files
                .iter()
                .any(|path| path.parent().unwrap().ends_with(folder)));
        }
    }
}
