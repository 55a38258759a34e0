// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The image of the guest's guest: busybox, the endpoint's driver and `guest-agent`. Made anew for
//! each boot, in a second.

use crate::command::output;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::kernel::Bootable;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const PACK: &str = r#"
cd /build/l2
mkdir -p bin dev proc sys tmp
cp /bin/busybox bin/
chmod 755 init
for module in modules/*.xz; do [ -e "$module" ] && xz -d "$module"; done
strip --strip-debug modules/*.ko
find . | cpio -o -H newc --quiet | gzip -1 > ../initrd
rm -r /build/l2
"#;

/// The modules of the guest's kernel that it loads, below `kernel`. Only older ones have the first.
const MODULES: [&str; 6] = [
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
];

/// Makes the image in `dir`, for a kernel, of the driver built for that and the agent. Gives its path.
pub fn make(
    setup: &Setup,
    root: &Root,
    dir: &Path,
    kernel: &Bootable,
    driver: &Path,
    agent: &Path,
) -> Result<PathBuf> {
    let tree = dir.join("l2");
    for part in ["bin", "modules"] {
        let part = tree.join(part);
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    let init = setup.repo.join("qemu-boot/guest/l2/init");
    for (from, to) in [
        (init.as_path(), "init"),
        (driver, "modules/pasid_dma_sva.ko"),
        (agent, "bin/guest-agent"),
    ] {
        let to = tree.join(to);
        fs::copy(from, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    for module in MODULES {
        let from = match kernel.module(module) {
            Some(from) => from,
            None if module.starts_with("drivers/virtio/") => continue,
            None => bail!("{} lacks the module {module}", kernel.name),
        };
        let name = from.file_name().context("a file without a name")?;
        fs::copy(&from, tree.join("modules").join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let mut pack = root.script(&[(dir, BUILD)], PACK, &[]);
    output("packing the image of the guest's guest", &mut pack)?;
    Ok(dir.join("initrd"))
}
