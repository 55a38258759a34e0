// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A small Debian 13 with the kernel from backports, as a user's machine has it before our packages.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root;
use crate::stages::packages::Packages;
use anyhow::Result;
use std::path::PathBuf;

/// `$1`: the kernel's release. The initramfs gets what finds the machine's disk, and nothing else.
const INSTALL: &str = r#"
apt-get update
apt-get install -y --no-install-recommends systemd-sysv udev kmod initramfs-tools zstd passwd \
    gcc libc6-dev pkgconf
mkdir -p /etc/initramfs-tools/conf.d
echo MODULES=list > /etc/initramfs-tools/conf.d/list
printf 'virtio_pci\nvirtio_blk\next4\n' >> /etc/initramfs-tools/modules
apt-get install -y --no-install-recommends -t trixie-backports "linux-image-$1" "linux-headers-$1" libelf-dev
apt-get clean
"#;

/// Gives the tree, and makes it if need be: 3 minutes, 900 MB.
pub fn make(setup: &Setup, packages: &Packages) -> Result<PathBuf> {
    let key = Key::of("fresh-debian")
        .text(&packages.release)
        .text(INSTALL)
        .finish();
    let what = "a fresh Debian 13 with its kernel (3 minutes)";
    setup.stage("fresh-debian", &key, what, |dir, log, progress| {
        build_root::base(dir, log, progress)?;
        progress.say("kernel");
        log.run(
            "installing the kernel",
            &mut Root::new(dir.to_path_buf()).script(&[], INSTALL, &[&packages.release]),
            progress,
        )
    })
}
