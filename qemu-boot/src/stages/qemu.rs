// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian 13's QEMU with the emulated VT-d that nests and the test endpoint.

use crate::cache::Key;
use crate::command::Log;
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use crate::stages::ccache;
use crate::stages::packages::{fetch, place, Packages};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The program, as it is seen in the root with the stage's folder at [`BUILD`].
pub const PROGRAM: &str = "/build/qemu-system-x86_64";

/// Debian's source has neither the edk2 images nor a use for most of QEMU.
const MAKE: &str = r#"
cd /build
dpkg-source --no-check -x *.dsc source
rm -f *.dsc *.tar.*
cp -r /src/files/. source/
cd source
for patch in /src/patches/*.patch; do echo "$patch"; patch -p1 --forward < "$patch"; done
sed -i 's/unpack_edk2_blobs = .*/unpack_edk2_blobs = false/' meson.build
mkdir ../out
cd ../out
../source/configure --target-list=x86_64-softmmu --without-default-features --enable-tcg \
    --enable-pixman --enable-fdt=system --disable-install-blobs --disable-docs --disable-tools \
    --disable-guest-agent --firmwarepath=/usr/share/seabios:/usr/share/qemu
ninja qemu-system-x86_64
strip -o ../qemu-system-x86_64 qemu-system-x86_64
cd ..
rm -r source out
"#;

/// The patches and new files.
fn changes(setup: &Setup) -> PathBuf {
    setup.repo.join("qemu-boot/qemu")
}

/// The key of QEMU.
pub fn key(setup: &Setup, packages: &Packages) -> Result<Key> {
    let changes = changes(setup);
    Ok(packages
        .qemu
        .iter()
        .fold(Key::of("qemu"), |key, file| key.text(&file.sha256))
        .key(&build_root::key())
        .tree(&changes.join("files"))?
        .tree(&changes.join("patches"))?
        .text(MAKE)
        .finish())
}

/// Puts Debian's source package into `dir`, as it is fetched.
pub fn place_source(
    setup: &Setup,
    root: &Root,
    packages: &Packages,
    dir: &Path,
    log: &Log,
    progress: &Progress,
) -> Result<()> {
    let files: Vec<_> = packages.qemu.iter().collect();
    fetch(setup, root, &files, true, log, progress)?;
    files
        .iter()
        .try_for_each(|file| place(setup, file, &dir.join(&file.name)))
}

/// Gives the folder with QEMU, and builds it if need be: 5 minutes, 2 GB while it builds; a minute
/// where only a patch changed.
pub fn make(setup: &Setup, root: &Root, packages: &Packages) -> Result<PathBuf> {
    let what = "Debian 13's QEMU with our patch (5 minutes)";
    setup.stage(
        "qemu",
        &key(setup, packages)?,
        what,
        |dir, log, progress| {
            place_source(setup, root, packages, dir, log, progress)?;
            let changes = changes(setup);
            let ccache = ccache::make(setup, root)?;
            let mut binds: Vec<(&Path, &str)> = vec![(dir, BUILD), (&changes, "/src")];
            binds.extend(ccache.binds());
            progress.say("building");
            log.run(
                "building QEMU",
                &mut root.script(&binds, &format!("{}{MAKE}", ccache::USE), &[]),
                progress,
            )
        },
    )
}
