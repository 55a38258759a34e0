// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The disk behind the same unit as the endpoint.

use host_iommu_tests::disk::{pattern, PART, READ, WRITTEN};
use host_iommu_tests::ktap::{fail, Outcome};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

const DISK: &str = "/dev/vda";

/// Reads what the host wrote, and writes something else behind it.
pub fn read_and_write() -> Outcome<String> {
    // /sys/block/vda/device is the virtio device; the PCI device is above it.
    let device = fs::canonicalize("/sys/block/vda/device")?;
    let group = device.parent().map(|pci| pci.join("iommu_group"));
    if !group.is_some_and(|group| group.exists()) {
        return fail("the disk is in no IOMMU group");
    }
    let disk = OpenOptions::new().read(true).write(true).open(DISK)?;
    let mut bytes = vec![0; PART];
    disk.read_exact_at(&mut bytes, 0)?;
    if bytes != pattern(READ) {
        return fail("the guest does not read what the host wrote");
    }
    let written = pattern(WRITTEN);
    disk.write_all_at(&written, PART as u64)?;
    disk.sync_all()?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    disk.read_exact_at(&mut bytes, PART as u64)?;
    match bytes == written {
        true => Ok("1 MiB read and 1 MiB written".into()),
        false => fail("the guest does not read what it wrote"),
    }
}
