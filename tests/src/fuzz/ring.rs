// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of the host's, by QEMU's device ivshmem-plain: what is written there is there after the
//! machine has gone.

use super::call::{ring, Call};
use host_iommu_sys::memory::Mmio;
use host_iommu_tests::ktap::Outcome;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Red Hat's, for QEMU (docs/specs/ivshmem-spec.rst of QEMU).
const VENDOR_AND_DEVICE: [&str; 2] = ["0x1af4", "0x1110"];

/// The calls of each thread.
pub struct Ring {
    memory: Mmio,
    counts: [AtomicU64; ring::THREADS],
}

impl Ring {
    /// Opens it, if the machine has it.
    pub fn open() -> Outcome<Option<Self>> {
        for device in fs::read_dir("/sys/bus/pci/devices")?.flatten() {
            let path = device.path();
            let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            if [read("vendor").trim(), read("device").trim()] != VENDOR_AND_DEVICE {
                continue;
            }
            fs::write(path.join("enable"), "1")?;
            let file = File::options()
                .read(true)
                .write(true)
                .open(path.join("resource2"))?;
            return Ok(Some(Self {
                memory: Mmio::new(file.as_fd(), 0, ring::SIZE)?,
                counts: [const { AtomicU64::new(0) }; ring::THREADS],
            }));
        }
        Ok(None)
    }

    /// Writes down that `thread`, which alone does so, makes a call now.
    pub fn write(&self, thread: usize, call: &Call) {
        let count = self.counts[thread].fetch_add(1, Ordering::Relaxed);
        let at = ring::call_at(thread, count);
        let [low, high] = call.to_words();
        self.memory.write_u64(at, low);
        self.memory.write_u64(at + 8, high);
        self.memory.write_u64(ring::count_at(thread), count + 1);
    }
}
