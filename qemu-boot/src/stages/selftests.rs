// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Linux's own selftests of vfio and iommufd, built from the kernel's source: programs that nobody
//! here wrote.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::metadata::{self, Metadata};
use crate::stages::packages::Packages;
use anyhow::Result;
use std::path::PathBuf;

/// Programs of tools/testing/selftests/vfio.
const VFIO: &str = "vfio_dma_mapping_test vfio_dma_mapping_mmio_test vfio_pci_driver_test \
    vfio_pci_device_init_perf_test vfio_iommufd_setup_test vfio_pci_device_test";

/// Programs of tools/testing/selftests/iommu.
const IOMMUFD: &str = "iommufd iommufd_fail_nth";

/// What libuuid and libcap would give them, and the mode that one of them takes without being asked.
const LIBRARIES: &str = "qemu-boot/selftests";

/// `$1`: programs of vfio; `$2`: of iommufd. Static, because the guest has no libraries. A test may
/// take ten times as long as on silicon: one of a driver maps a gigabyte by pages of 4 KiB.
const COMPILE: &str = r#"
make -s -C /build/source O=/out/headers headers
cd /build/source/tools/testing/selftests
mkdir /out/harness
sed 's/t->timeout \* 1000/t->timeout * 10000/' kselftest_harness.h >/out/harness/kselftest_harness.h
grep -q 't->timeout \* 10000' /out/harness/kselftest_harness.h
compile() {
    x86_64-linux-gnu-gcc-14 -O1 -static -pthread -D_GNU_SOURCE= -I/out/harness \
        -isystem /out/headers/usr/include -I/src/include -I. "$@"
}
for program in $1; do
    compile -Ivfio/lib/include -I/build/source/tools/include \
        -o "/out/$program" "vfio/$program.c" vfio/lib/*.c vfio/lib/drivers/*/*.c \
        /src/uuid.c /src/mode.c
done
for program in $2; do
    compile -o "/out/$program" "iommu/$program.c"
done
rm -r /out/headers /out/harness
"#;

/// Gives the programs, and builds them if need be: 40 seconds.
pub fn make(
    setup: &Setup,
    root: &Root,
    packages: &Packages,
    kernel: &Metadata,
) -> Result<Vec<PathBuf>> {
    let libraries = setup.repo.join(LIBRARIES);
    let key = Key::of("selftests")
        .key(&metadata::key(packages)?)
        .tree(&libraries)?
        .text(COMPILE)
        .text(VFIO)
        .text(IOMMUFD)
        .finish();
    let what = "Linux's vfio and iommufd selftests (40 seconds)";
    let dir = setup.stage("selftests", &key, what, |dir, log, progress| {
        let binds = [(kernel.dir(), BUILD), (&*libraries, "/src"), (dir, "/out")];
        log.run(
            "building Linux's selftests",
            &mut root.script(&binds, COMPILE, &[VFIO, IOMMUFD]),
            progress,
        )
    })?;
    let programs = VFIO.split_whitespace().chain(IOMMUFD.split_whitespace());
    Ok(programs.map(|name| dir.join(name)).collect())
}
