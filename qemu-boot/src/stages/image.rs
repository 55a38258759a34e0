// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's image: an initramfs of busybox, the kernel's VFIO modules, ours, and the
//! programs. Made anew for each boot, in a second.

use crate::command::output;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::accel_config;
use crate::stages::build_root::BUILD;
use crate::stages::kernel::Bootable;
use crate::stages::programs::Placed;
use anyhow::{bail, Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The kernel modules that the guest loads, below `kernel/`, in the order that they stand on
/// each other. type1 is there for the tests that compare with it.
const MODULES: [&str; 5] = [
    "virt/lib/irqbypass",
    "drivers/vfio/vfio",
    "drivers/vfio/pci/vfio-pci-core",
    "drivers/vfio/pci/vfio-pci",
    "drivers/vfio/vfio_iommu_type1",
];

/// Those of KVM, which a program loads that needs them. The kernels of ours have none.
const KVM_MODULES: [&str; 3] = [
    "arch/x86/kvm/kvm",
    "drivers/crypto/ccp/ccp",
    "arch/x86/kvm/kvm-amd",
];

/// Those of a DSA, which the stock kernel has: the tests load them.
const DSA_MODULES: [&str; 2] = ["drivers/dma/idxd/idxd_bus", "drivers/dma/idxd/idxd"];

/// The files of the guest.
const GUEST: [&str; 6] = [
    "init",
    "run-tests",
    "run-demo",
    "run-guest",
    "run-selftests",
    "run-planted",
];

const PACK: &str = r#"
cd /build/tree
cp -a /tools/. .
[ ! -d /over ] || cp -a /over/. .
mkdir -p bin dev proc sys tmp
cp /bin/busybox bin/
for module in modules/*.xz; do [ -e "$module" ] && xz -d "$module"; done
strip --strip-debug modules/{vfio_iommu_ioasid,pasid_dma_sva,delay_function,reserve_region,invalidate_fewer}.ko
find . | cpio -o -H newc --quiet > ../image
rm -rf ../tree
"#;

/// What goes into an image.
pub struct Contents<'a> {
    /// The kernel that it is for.
    pub kernel: &'a Bootable,
    /// Our modules.
    pub modules: &'a [PathBuf],
    /// What runs in it.
    pub programs: &'a [Placed],
    /// Linux's own selftests.
    pub selftests: &'a [PathBuf],
    /// What a program is to read: files for /inputs.
    pub inputs: &'a [PathBuf],
    /// The guest's own guest, if it boots one: kernel and image, as /guest has them.
    pub l2: Option<[(PathBuf, &'static str); 2]>,
    /// A tree that goes over the image.
    pub over: Option<PathBuf>,
}

/// Makes an image in `dir`, gives its path.
pub fn make(setup: &Setup, root: &Root, dir: &Path, contents: &Contents<'_>) -> Result<PathBuf> {
    let tree = dir.join("tree");
    for part in ["bin", "modules", "tests", "demo", "selftests", "inputs"] {
        let part = tree.join(part);
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    for module in MODULES {
        let Some(found) = contents.kernel.module(module) else {
            bail!("{} lacks the module {module}", contents.kernel.name);
        };
        copy_into(&found, &tree.join("modules"))?;
    }
    for module in KVM_MODULES.iter().chain(&DSA_MODULES) {
        if let Some(found) = contents.kernel.module(module) {
            copy_into(&found, &tree.join("modules"))?;
        }
    }
    for module in contents.modules {
        copy_into(module, &tree.join("modules"))?;
    }
    for (program, folder) in contents.programs {
        copy_into(program, &tree.join(folder))?;
    }
    for test in contents.selftests {
        copy_into(test, &tree.join("selftests"))?;
    }
    for input in contents.inputs {
        copy_into(input, &tree.join("inputs"))?;
    }
    if let Some(l2) = &contents.l2 {
        let guest = tree.join("guest");
        fs::create_dir_all(&guest).with_context(|| format!("cannot make {}", guest.display()))?;
        for (from, name) in l2 {
            fs::copy(from, guest.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    for name in GUEST {
        let from = setup.repo.join("qemu-boot/guest").join(name);
        copy_into(&from, &tree)?;
        let to = tree.join(name);
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot change {}", to.display()))?;
    }
    let tools = accel_config::make(setup, root)?;
    let mut binds: Vec<(&Path, &str)> = vec![(dir, BUILD), (&tools, "/tools")];
    binds.extend(contents.over.as_deref().map(|over| (over, "/over")));
    output(
        "packing the guest's image",
        &mut root.script(&binds, PACK, &[]),
    )?;
    Ok(dir.join("image"))
}

fn copy_into(file: &Path, dir: &Path) -> Result<()> {
    let name = file.file_name().context("a file without a name")?;
    fs::copy(file, dir.join(name))
        .map(|_| ())
        .with_context(|| format!("cannot copy {} to {}", file.display(), dir.display()))
}
