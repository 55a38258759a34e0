// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Debian packages of `debian/`, built in a root with Debian's packaging tools.

use crate::command::Log;
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use crate::stages::vendor;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Builds in the folder `$1`, and looks at the packages as Debian's archive does.
const MAKE: &str = r#"
mkdir -p "$1/host-iommu"
cd "$1/host-iommu"
tar -C /checkout --exclude=./.git --exclude=./target -cf - . | tar --no-same-owner -xf -
ln -s /vendor vendor
dpkg-buildpackage --build=binary --no-sign
cd ..
mkdir /build/made
mv ./*.deb ./*.changes ./*.buildinfo /build/made
lintian --allow-root --fail-on error /build/made/*.changes
"#;

/// Builds the packages into `target/deb`, and those with debug information into `debug` there.
///
/// # Errors
///
/// If the build fails, or lintian finds an error.
pub fn make(setup: &Setup) -> Result<()> {
    let run = setup.cache.run_folder()?;
    let made = build(setup, run.path(), "/build/here")?;
    let kept = setup.repo.join("target/deb");
    if kept.exists() {
        fs::remove_dir_all(&kept).with_context(|| format!("cannot remove {}", kept.display()))?;
    }
    let debug = kept.join("debug");
    fs::create_dir_all(&debug).with_context(|| format!("cannot make {}", debug.display()))?;
    for file in entries(&made)? {
        let name = file.file_name().unwrap_or_default();
        let to = match name.to_string_lossy().contains("-dbgsym_") {
            true => debug.join(name),
            false => kept.join(name),
        };
        fs::copy(&file, &to).with_context(|| format!("cannot write {}", to.display()))?;
        if is_package(&to) {
            println!("{}", to.display());
        }
    }
    Ok(())
}

/// Builds the packages in the run's folder, which the build sees as /build, below `place`; gives
/// the folder with them.
pub fn build(setup: &Setup, run: &Path, place: &str) -> Result<PathBuf> {
    let root = root(setup)?;
    let crates = vendor::make(setup)?;
    let progress = Progress::start("deb", "the Debian packages (5 minutes)");
    let log = Log::create(setup.cache.log("deb"))?;
    let binds = [
        (run, BUILD),
        (&*setup.repo, "/checkout"),
        (&*crates, "/vendor"),
    ];
    log.run(
        "building the packages",
        &mut root.script(&binds, MAKE, &[place]),
        &progress,
    )?;
    progress.done();
    Ok(run.join("made"))
}

/// The root that packages are built in.
pub fn root(setup: &Setup) -> Result<Root> {
    let root = build_root::make(setup)?;
    build_root::with_packaging(setup, &root)
}

/// The files of a folder, in order.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = paths.collect::<Result<_, _>>().with_context(failed)?;
    paths.sort();
    Ok(paths)
}

/// Whether a file is a package.
pub fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "deb")
}
