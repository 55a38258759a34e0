// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Rust metadata that Debian's headers lack, made again from Debian's own source with the
//! tools and the .config that Debian used.
//!
//! `debian/dkms/rust-metadata` does the same on users' machines, and compares the result with the shipped
//! kernel for both.

use crate::cache::Key;
use crate::command::output;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::kernel::{self, Kernel};
use crate::stages::module::Tree;
use crate::stages::packages::{fetch, place, Packages};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

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
        compare(setup, dir, &headers)
    })?;
    Ok(Metadata { dir })
}

/// Compares what was made in `dir` with the shipped kernel.
fn compare(setup: &Setup, dir: &Path, headers: &Path) -> Result<()> {
    let mut script = Command::new("sh");
    script.arg(setup.repo.join("debian/dkms/rust-metadata"));
    output(
        "the comparison",
        script.arg("compare").arg(headers).arg(dir),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;
    use std::fs;

    const CONFIG: &str = "CONFIG_A=y\nCONFIG_B=m\n";
    const SYMVERS: &str =
        "0x0\t_RNvA\tvmlinux\tEXPORT_SYMBOL_GPL\t\n0x0\tkfree\tvmlinux\tEXPORT\t\n";

    /// What the comparison says of a shipped kernel and what was made.
    fn said(config: &str, symvers: &str, symbols: &str) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("writable");
            fs::write(file, text).expect("writable");
        };
        write("shipped/.config", CONFIG);
        write("shipped/Module.symvers", symvers);
        write("made/build/.config", config);
        write("made/rust-symbols", symbols);
        let script = setup::repo().expect("cargo runs it");
        let script = script.join("debian/dkms/rust-metadata");
        let folders = ["shipped", "made"].map(|name| dir.path().join(name));
        let compared = output(
            "it",
            Command::new("sh").arg(script).arg("compare").args(folders),
        );
        compared.map_or_else(|error| error.to_string(), |_| "equal".to_owned())
    }

    #[test]
    fn configs_that_differ_are_shown() {
        assert_eq!(said(CONFIG, SYMVERS, "_RNvA\n_RNvB\n"), "equal");
        let difference = said("CONFIG_A=y\nCONFIG_B=y\n", SYMVERS, "_RNvA\n");
        assert!(difference.contains("B=m") && difference.contains("B=y"));
        assert!(said("CONFIG_A=y\n", SYMVERS, "_RNvA\n").contains("B=m"));
    }

    #[test]
    fn symbols_of_the_kernel_must_all_be_made() {
        assert!(said(CONFIG, SYMVERS, "_RNvB\n").contains("the first is _RNvA"));
        let without = "0x0\tkfree\tvmlinux\tEXPORT\t\n";
        assert!(said(CONFIG, without, "").contains("without CONFIG_RUST"));
    }
}
