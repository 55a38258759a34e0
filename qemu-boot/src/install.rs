// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `make install` and `make uninstall`, tried in a copy of the kernel's module folder.

use crate::command::output;
use crate::judge::Totals;
use crate::root::Root;
use crate::stages::kernel::Bootable;
use anyhow::{bail, Context, Result};
use std::path::Path;

/// `$1`: the kernel's release. /src has the module, /kernel the modules of the kernel, /scripts
/// those of its build, /install ours. Each line that a check prints is a complaint.
const TRY: &str = r#"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/lib/modules/$1/kernel/drivers/vfio"
cp /kernel/modules.* "$tree/lib/modules/$1/" 2>/dev/null || true
cp /kernel/kernel/drivers/vfio/vfio.ko* "$tree/lib/modules/$1/kernel/drivers/vfio/"
depmod -b "$tree" "$1" 2> /dev/null
find "$tree" | sort > /tmp/before
export DESTDIR=$tree KVER=$1
sh /install/install-module install /src/vfio_iommu_ioasid.ko > /dev/null
grep -q '^updates/vfio_iommu_ioasid.ko: kernel/drivers/vfio/vfio.ko' "$tree/lib/modules/$1/modules.dep" ||
    echo "modules.dep does not lead from the module to vfio"
modprobe -d "$tree" -S "$1" -n -v vfio_iommu_ioasid 2>&1 | grep -q 'insmod .*/updates/vfio_iommu_ioasid.ko' ||
    echo "modprobe does not find the module"
grep -qx vfio_iommu_ioasid "$tree/etc/modules-load.d/vfio_iommu_ioasid.conf" || echo "nothing loads it at boot"
sh /install/install-module install /src/vfio_iommu_ioasid.ko > /dev/null || echo "it cannot be installed twice"
if KVER=$1-other sh /install/install-module install /src/vfio_iommu_ioasid.ko > /tmp/said 2>&1; then
    echo "it was installed for a kernel that is not there"
fi
mkdir -p "$tree/lib/modules/$1-other"
if KVER=$1-other sh /install/install-module install /src/vfio_iommu_ioasid.ko > /tmp/said 2>&1; then
    echo "it was installed for another kernel than it was built for"
fi
grep -q "built for Linux $1, " /tmp/said || echo "it does not say for which kernel it was built"
rmdir "$tree/lib/modules/$1-other"
openssl req -new -x509 -newkey rsa:2048 -nodes -subj /CN=owner -keyout /tmp/key.pem -outform DER \
    -out /tmp/cert.der 2>/dev/null
mkdir -p "$tree/lib/modules/$1/build/scripts"
cp /scripts/sign-file "$tree/lib/modules/$1/build/scripts/"
SIGN_KEY=/tmp/key.pem SIGN_CERT=/tmp/cert.der sh /install/install-module install /src/vfio_iommu_ioasid.ko > /dev/null
[ "$(modinfo -F signer "$tree/lib/modules/$1/updates/vfio_iommu_ioasid.ko")" = owner ] || echo "it is not signed"
rm -r "$tree/lib/modules/$1/build"
sh /install/install-module uninstall > /dev/null
rmdir "$tree/etc/modules-load.d" "$tree/etc/modprobe.d" "$tree/etc" 2> /dev/null || true
find "$tree" | sort | diff /tmp/before - | sed -n 's/^[<>]/uninstall changed:/p' || true
"#;

/// Installs and removes the module.
///
/// # Errors
///
/// If the script fails.
pub fn check(
    root: &Root,
    module: &Path,
    kernel: &Bootable,
    scripts: &Path,
    install: &Path,
) -> Result<Totals> {
    let folder = module.parent().context("the module has no folder")?;
    let release = kernel
        .modules
        .file_name()
        .context("the kernel has no release")?;
    let release = release.to_string_lossy();
    let binds = [
        (folder, "/src"),
        (&*kernel.modules, "/kernel"),
        (scripts, "/scripts"),
        (install, "/install"),
    ];
    let args = [&*release];
    let said = output(
        "installing the module",
        &mut root.script(&binds, TRY, &args),
    )?;
    let failed = said.lines().count();
    for line in said.lines() {
        println!("install: FAILED: {line}");
    }
    let Ok(failed) = u32::try_from(failed) else {
        bail!("too much was said");
    };
    println!(
        "install: {} passed, {failed} failed",
        u32::from(failed == 0)
    );
    Ok(Totals {
        passed: u32::from(failed == 0),
        failed,
        skipped: 0,
    })
}
