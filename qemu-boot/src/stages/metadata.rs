// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Rust metadata that Debian's headers lack, made again from Debian's own source with the
//! tools and the .config that Debian used.
//!
//! Two comparisons say whether the result belongs to the shipped kernel: the .config that the
//! build settles on is the shipped one to the byte, and every Rust symbol that the shipped
//! kernel exports is in the objects made here. Where they differ, a module built against it
//! would not load, or worse.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::kernel::{self, Kernel};
use crate::stages::module::Tree;
use crate::stages::packages::{fetch, place, Packages};
use anyhow::{bail, Context, Result};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Variables of make that name Debian's tools.
pub const MAKE: &str = "CC=x86_64-linux-gnu-gcc-14 HOSTCC=x86_64-linux-gnu-gcc-14 \
    RUST_LIB_SRC=/usr/src/rustc-1.85.1/library";

/// `$1`: the series; `$2`: LOCALVERSION; `$3`: variables of make.
const PREPARE: &str = r#"
cd /build
dpkg-deb -x source.deb archive
mkdir source build
tar -xf archive/usr/src/linux-source-$1.tar.xz -C source --strip-components=1
rm -r source.deb archive
cp /kernel/.config build/.config
make -C source O=/build/build LOCALVERSION="$2" $3 -j"$(nproc)" olddefconfig prepare modules_prepare
nm -j --defined-only build/rust/*.o | grep ^_R | sort -u > rust-symbols
cp /kernel/Module.symvers build/
"#;

/// A kernel build folder that out-of-tree Rust modules can be built against.
pub struct Metadata {
    dir: PathBuf,
}

impl Metadata {
    /// What modules for the stock kernel are built against.
    ///
    /// # Errors
    ///
    /// If the packages lack the source.
    pub fn tree(&self, packages: &Packages) -> Result<Tree> {
        Ok(Tree {
            name: "stock",
            key: key(packages)?,
            binds: vec![(self.dir.clone(), BUILD)],
            build: "/build/build",
            make: MAKE,
        })
    }

    /// The folder, to be seen at [`BUILD`] in the root: its `source` and `build` know each other
    /// by that path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The key of the metadata.
pub fn key(packages: &Packages) -> Result<Key> {
    Ok(Key::of("metadata")
        .key(&kernel::key(packages))
        .text(&packages.kernel("linux-source-")?.sha256)
        .text(PREPARE)
        .text(MAKE)
        .finish())
}

/// Gives the metadata, and makes it if need be: 3 minutes, 2 GB.
pub fn make(setup: &Setup, root: &Root, packages: &Packages, kernel: &Kernel) -> Result<Metadata> {
    let what = "the kernel's Rust metadata, from its source (3 minutes)";
    let dir = setup.stage("metadata", &key(packages)?, what, |dir, log, progress| {
        let source = packages.kernel("linux-source-")?;
        fetch(setup, root, &[source], false, log, progress)?;
        place(setup, source, &dir.join("source.deb"))?;
        let suffix = kernel
            .release()
            .find('+')
            .and_then(|at| kernel.release().get(at..))
            .context("the kernel's release has no suffix")?;
        let headers = kernel.headers();
        progress.say("unpacking and preparing the kernel source");
        log.run(
            "preparing the kernel source",
            &mut root.script(
                &[(dir, BUILD), (&headers, "/kernel")],
                PREPARE,
                &[&packages.series, suffix, MAKE],
            ),
            progress,
        )?;
        progress.say("comparing with the shipped kernel");
        compare(dir, &headers)
    })?;
    Ok(Metadata { dir })
}

fn compare(dir: &Path, headers: &Path) -> Result<()> {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let shipped = read(headers.join(".config"))?;
    let settled = read(dir.join("build/.config"))?;
    if let Some(difference) = first_difference(&shipped, &settled) {
        bail!(
            "the build root's tools are not those of the shipped kernel: .config differs at \
             {difference}"
        );
    }
    let symvers = read(headers.join("Module.symvers"))?;
    let made = read(dir.join("rust-symbols"))?;
    let missing = missing_symbols(&symvers, &made)?;
    if let Some(symbol) = missing.first() {
        bail!(
            "the Rust metadata is not that of the shipped kernel: {} of its symbols are missing, \
             the first is {symbol}",
            missing.len()
        );
    }
    Ok(())
}

/// The first lines that differ.
fn first_difference(shipped: &str, settled: &str) -> Option<String> {
    if shipped == settled {
        return None;
    }
    let (mut ours, mut theirs) = (settled.lines(), shipped.lines());
    loop {
        match (theirs.next(), ours.next()) {
            (None, None) => return Some("its end".to_owned()),
            (theirs, ours) if theirs != ours => {
                let show = |line: Option<&str>| line.unwrap_or("(nothing)").to_owned();
                return Some(format!("`{}`, here `{}`", show(theirs), show(ours)));
            }
            _ => {}
        }
    }
}

/// Rust symbols that the shipped kernel exports and that were not made here.
fn missing_symbols(symvers: &str, made: &str) -> Result<Vec<String>> {
    let made: HashSet<_> = made.lines().collect();
    let mut count = 0;
    let missing = symvers
        .lines()
        .filter_map(|line| line.split('\t').nth(1))
        .filter(|symbol| symbol.starts_with("_R"))
        .inspect(|_| count += 1)
        .filter(|symbol| !made.contains(symbol))
        .map(str::to_owned)
        .collect();
    if count == 0 {
        bail!("the shipped kernel exports no Rust symbols: it was built without CONFIG_RUST");
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_that_differ_are_shown() {
        assert_eq!(first_difference("A=y\nB=m\n", "A=y\nB=m\n"), None);
        let difference = first_difference("A=y\nB=m\n", "A=y\nB=y\n").expect("they differ");
        assert!(difference.contains("B=m") && difference.contains("B=y"));
        assert!(first_difference("A=y\n", "A=y").is_some());
    }

    #[test]
    fn symbols_of_the_kernel_must_all_be_made() {
        let symvers = "0x0\t_RNvA\tvmlinux\tEXPORT_SYMBOL_GPL\t\n0x0\tkfree\tvmlinux\tEXPORT\t\n";
        assert_eq!(
            missing_symbols(symvers, "_RNvA\n_RNvB\n").expect("some"),
            [""; 0]
        );
        assert_eq!(
            missing_symbols(symvers, "_RNvB\n").expect("some"),
            ["_RNvA"]
        );
        assert!(missing_symbols("0x0\tkfree\tvmlinux\tEXPORT\t\n", "").is_err());
    }
}
