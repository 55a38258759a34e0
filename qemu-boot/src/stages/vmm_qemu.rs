// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU as a VMM in the booted machine: Debian's source with the series in `qemu-boot/qemu/vmm`, on
//! the crate's C library. Built only for `make guest VMM=qemu`.

use crate::cache::Key;
use crate::command::Log;
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use crate::stages::packages::Packages;
use crate::stages::{ccache, programs, qemu};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The devices that the machine of a guest has, and what they need.
const DEVICES: &str = "\
CONFIG_Q35=y
CONFIG_VTD=y
CONFIG_PCIE_PORT=y
CONFIG_VFIO_PCI=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_SERIAL_ISA=y
";

/// The source, with the series applied. `$1`: the devices.
const MAKE: &str = r#"
cd /build
dpkg-source --no-check -x *.dsc source
rm -f *.dsc *.tar.*
cd source
for patch in /src/*.patch; do echo "$patch"; patch -p1 --forward < "$patch"; done
sed -i 's/unpack_edk2_blobs = .*/unpack_edk2_blobs = false/' meson.build
echo "$1" > configs/devices/x86_64-softmmu/host-iommu.mak
mkdir ../out
cd ../out
export PKG_CONFIG_PATH=/build/prefix/lib/pkgconfig
../source/configure --target-list=x86_64-softmmu --without-default-features \
    --without-default-devices --with-devices-x86_64=host-iommu --enable-kvm --disable-tcg \
    --enable-host-iommu --enable-trace-backends=log --enable-pixman --disable-install-blobs \
    --disable-docs --disable-tools --disable-guest-agent --firmwarepath=/usr/share/qemu
ninja qemu-system-x86_64
cd ..
mkdir -p tree/usr/bin tree/usr/share/qemu tree/lib/x86_64-linux-gnu
strip -o tree/usr/bin/qemu-system-x86_64 out/qemu-system-x86_64
for name in bios-256k.bin linuxboot_dma.bin kvmvapic.bin; do
    cp -L "$(ls /usr/share/seabios/$name /usr/share/qemu/$name 2>/dev/null | head -n 1)" tree/usr/share/qemu/
done
export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/build/prefix/lib
ldd tree/usr/bin/qemu-system-x86_64 | awk '$3 ~ /^\/(usr\/)?lib/ { print $3 }' | while read -r library; do
    cp -L "$library" tree/lib/x86_64-linux-gnu/
done
rm -r source out prefix
"#;

/// What the library is called that programs look for.
const LIBRARY: &str = "libhost_iommu.so.1";

/// Lays out header, library and pkg-config file as `make install-capi` does.
fn prefix(setup: &Setup, library: &Path, dir: &Path) -> Result<()> {
    let user = setup.repo.join("user");
    let lib = dir.join("lib");
    for part in [dir.join("include"), lib.join("pkgconfig")] {
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, &to)
            .map(drop)
            .with_context(|| format!("cannot write {}", to.display()))
    };
    copy(
        &user.join("include/host_iommu.h"),
        dir.join("include/host_iommu.h"),
    )?;
    copy(library, lib.join("libhost_iommu.so"))?;
    copy(library, lib.join(LIBRARY))?;
    let from = user.join("host_iommu.pc.in");
    let text = fs::read_to_string(&from)
        .with_context(|| format!("cannot read {}", from.display()))?
        .replace("@PREFIX@", &format!("{BUILD}/prefix"))
        .replace("@LIBDIR@", &format!("{BUILD}/prefix/lib"))
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    fs::write(lib.join("pkgconfig/host_iommu.pc"), text).context("cannot write host_iommu.pc")
}

fn key(setup: &Setup, packages: &Packages) -> Result<Key> {
    let user = setup.repo.join("user");
    Ok(packages
        .qemu
        .iter()
        .fold(Key::of("vmm-qemu"), |key, file| key.text(&file.sha256))
        .key(&build_root::key())
        .tree(&setup.repo.join("qemu-boot/qemu/vmm"))?
        // The library itself is found when QEMU starts.
        .tree(&user.join("include/host_iommu.h"))?
        .tree(&user.join("host_iommu.pc.in"))?
        .text(MAKE)
        .text(DEVICES)
        .finish())
}

/// Gives the tree that goes over an image, and makes it if need be: 5 minutes, 2 GB while it builds.
/// The library in it is the crate's of now, put there in `run`.
pub fn make(setup: &Setup, root: &Root, packages: &Packages, run: &Path) -> Result<PathBuf> {
    let library = library(setup)?;
    let series = setup.repo.join("qemu-boot/qemu/vmm");
    let what = "QEMU on the crate's C library (5 minutes)";
    let built = setup.stage(
        "vmm-qemu",
        &key(setup, packages)?,
        what,
        |dir, log, progress| {
            qemu::place_source(setup, root, packages, dir, log, progress)?;
            prefix(setup, &library, &dir.join("prefix"))?;
            let ccache = ccache::make(setup, root)?;
            let mut binds: Vec<(&Path, &str)> = vec![(dir, BUILD), (&series, "/src")];
            binds.extend(ccache.binds());
            progress.say("building");
            log.run(
                "building QEMU",
                &mut root.script(&binds, &format!("{}{MAKE}", ccache::USE), &[DEVICES]),
                progress,
            )
        },
    )?;
    let tree = run.join("vmm-qemu");
    crate::command::output(
        "copying QEMU",
        std::process::Command::new("cp")
            .arg("-a")
            .arg(built.join("tree"))
            .arg(&tree),
    )?;
    let to = tree.join("lib/x86_64-linux-gnu").join(LIBRARY);
    fs::copy(&library, &to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(tree)
}

/// Builds the shared library, as `make capi` does.
fn library(setup: &Setup) -> Result<PathBuf> {
    let progress = Progress::start("capi", "the crate's C library");
    let log = Log::create(setup.cache.log("capi"))?;
    let library = programs::shared_library(setup, LIBRARY, &log, &progress)?;
    progress.done();
    Ok(library)
}
