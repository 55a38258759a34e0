// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Linux's own vfio selftests, built from the kernel's source: programs that nobody here wrote.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::BUILD;
use crate::stages::metadata::{self, Metadata};
use crate::stages::packages::Packages;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// The programs that run on a type1 container; the others want iommufd or a driver's device.
const PROGRAMS: [&str; 3] = [
    "vfio_dma_mapping_test",
    "vfio_dma_mapping_mmio_test",
    "vfio_pci_device_init_perf_test",
];

/// What libuuid would give them.
const UUID: &str = "qemu-boot/selftests/uuid.c";

/// `$1`: the programs. Static, because the guest has no libraries.
const COMPILE: &str = r#"
make -s -C /build/source O=/src/headers headers
cd /build/source/tools/testing/selftests
for program in $1; do
    x86_64-linux-gnu-gcc-14 -O1 -static -pthread -D_GNU_SOURCE= \
        -isystem /src/headers/usr/include -I. -Ivfio/lib/include -I/build/source/tools/include \
        -o "/src/$program" "vfio/$program.c" vfio/lib/*.c vfio/lib/drivers/*/*.c /src/uuid.c
done
rm -r /src/headers
"#;

/// Gives the programs, and builds them if need be: 30 seconds.
pub fn make(
    setup: &Setup,
    root: &Root,
    packages: &Packages,
    kernel: &Metadata,
) -> Result<Vec<PathBuf>> {
    let key = Key::of("selftests")
        .key(&metadata::key(packages)?)
        .tree(&setup.repo.join(UUID))?
        .text(COMPILE)
        .text(&PROGRAMS.join(" "))
        .finish();
    let what = "Linux's vfio selftests (30 seconds)";
    let dir = setup.stage("selftests", &key, what, |dir, log, progress| {
        fs::copy(setup.repo.join(UUID), dir.join("uuid.c")).context("cannot copy uuid.c")?;
        let binds = [(kernel.dir(), BUILD), (dir, "/src")];
        log.run(
            "building Linux's selftests",
            &mut root.script(&binds, COMPILE, &[&PROGRAMS.join(" ")]),
            progress,
        )
    })?;
    Ok(PROGRAMS.iter().map(|name| dir.join(name)).collect())
}
