// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The module for its user: for Debian's kernel, or by this machine's tools against a kernel build
//! of the user's own.

use crate::root::Root;
use crate::setup::Setup;
use crate::stages::module::{Tree, IOASID};
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options that the module cannot do without.
const OPTIONS: [&str; 3] = [
    "CONFIG_RUST=y",
    "CONFIG_INTEL_IOMMU=y",
    "CONFIG_VFIO_CONTAINER=y",
];

/// What a build of a kernel with Rust leaves, and headers packages leave out.
const METADATA: &str = "rust/libkernel.rmeta";

/// Builds the module for Debian's kernel in the build root, and copies it into the checkout.
pub fn for_debians(setup: &Setup, root: &Root, tree: &Tree) -> Result<PathBuf> {
    let built = IOASID.make(setup, root, tree)?;
    let to = folder(&setup.repo)?.join(IOASID.file);
    fs::copy(&built, &to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(to)
}

/// Builds the module against the kernel build in `kdir`, into the checkout.
///
/// # Errors
///
/// If `kdir` is not the folder of a build, whole and where it was built, with Rust.
pub fn for_own(repo: &Path, kdir: &Path) -> Result<PathBuf> {
    let kdir = kdir
        .canonicalize()
        .with_context(|| format!("KDIR={} is not a folder", kdir.display()))?;
    check(&kdir)?;
    // Kbuild takes no path with a space in it.
    let scratch = tempfile::tempdir().context("cannot make a folder to build in")?;
    let sources = match spaced(repo) {
        true => scratch.path().to_path_buf(),
        false => folder(repo)?,
    };
    IOASID.copy_sources(repo, &sources)?;
    let status = Command::new("make")
        .arg("-C")
        .arg(&kdir)
        .arg(format!("M={}", sources.display()))
        .arg("modules")
        .status()
        .context("cannot run make")?;
    if !status.success() {
        bail!("building the module against {} failed", kdir.display());
    }
    let (built, to) = (sources.join(IOASID.file), folder(repo)?.join(IOASID.file));
    if built != to {
        fs::copy(&built, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(to)
}

/// Where the module is left.
fn folder(repo: &Path) -> Result<PathBuf> {
    let dir = repo.join("target/modules");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

fn spaced(path: &Path) -> bool {
    path.display().to_string().contains(char::is_whitespace)
}

/// Looks at all that would make Kbuild fail in words that name no cause.
fn check(kdir: &Path) -> Result<()> {
    let name = kdir.display();
    if spaced(kdir) {
        bail!("KDIR={name} has a space in it, which the kernel's build does not take: move it");
    }
    let makefile = fs::read_to_string(kdir.join("Makefile"));
    let config = fs::read_to_string(kdir.join(".config"));
    let (Ok(makefile), Ok(config)) = (makefile, config) else {
        bail!("KDIR={name} is not a configured kernel build: it has no Makefile and .config");
    };
    if let Some(option) = OPTIONS
        .iter()
        .find(|option| !config.lines().any(|line| line == **option))
    {
        bail!("the kernel in {name} has no {option}: the module needs it");
    }
    let source = makefile
        .lines()
        .find_map(|line| line.strip_prefix("include "));
    if let Some(source) =
        source.filter(|source| source.starts_with('/') && !Path::new(source).exists())
    {
        bail!(
            "KDIR={name} was built from a source that is not there ({source}): put the source \
             where it was, or build the kernel again"
        );
    }
    if !kdir.join(METADATA).exists() {
        bail!(
            "KDIR={name} lacks {METADATA}, which modules in Rust are built with: Debian's headers \
             packages leave it out. For Debian's own kernel run `make modules` without KDIR (as \
             root); for another one name the folder that it was built in"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A build's folder with these files, and what is said of it.
    fn said(name: &str, files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let kdir = dir.path().join(name);
        for (file, text) in files {
            let file = kdir.join(file);
            let folder = file.parent().expect("a parent");
            fs::create_dir_all(folder).expect("writable");
            fs::write(file, text).expect("writable");
        }
        check(&kdir).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn build_that_cannot_serve_is_refused_with_the_reason() {
        let config = OPTIONS.join("\n");
        let whole = [("Makefile", "x:"), (".config", &config), (METADATA, "")];
        assert_eq!(said("whole", &whole), "fine");
        assert!(said("with space", &whole).contains("space"));
        assert!(said("headers", &whole[..2]).contains("without KDIR"));
        assert!(said("bare", &whole[..1]).contains("not a configured"));
        let moved = [("Makefile", "include /absent/Makefile"), whole[1], whole[2]];
        assert!(said("moved", &moved).contains("/absent/Makefile"));
        let without = [whole[0], (".config", "CONFIG_RUST=y"), whole[2]];
        assert!(said("without", &without).contains("CONFIG_INTEL_IOMMU"));
    }
}
