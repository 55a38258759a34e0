// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest memory: where things are in the guest's physical addresses, and a memfd for RAM.

use anyhow::{bail, Context, Result};
use host_iommu::kvm::{Slot, Slots};
use nix::fcntl::{fallocate, FallocateFlags};
use nix::sys::memfd::{memfd_create, MFdFlags};
use std::fs::File;
use std::sync::Arc;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// The last address.
    pub const fn last(&self) -> u64 {
        self.start + (self.size - 1)
    }
}

/// The PCI bus's configuration space (ECAM), 4 KiB a function. RAM below 4 GiB ends here.
pub const ECAM: Range = Range {
    start: 0xb000_0000,
    size: 1 << 20,
};
/// Where 32-bit BARs are.
pub const MMIO: Range = Range {
    start: 0xc000_0000,
    size: 0x3e00_0000,
};
/// Where 64-bit BARs that are too large for [`MMIO`] are.
pub const MMIO_HIGH: Range = Range {
    start: 64 << 30,
    size: 64 << 30,
};
/// Where RAM goes on that does not fit below [`ECAM`].
const HIGH: u64 = 4 << 30;
/// Most RAM: it must end below [`MMIO_HIGH`].
pub const MAX_RAM: u64 = 48 << 30;

/// RAM as the whole VMM knows it.
pub type Ram = GuestMemoryMmap<()>;

/// The ranges that RAM of a size has.
pub fn ranges(size: u64) -> Vec<Range> {
    let low = size.min(ECAM.start);
    let mut ranges = vec![Range {
        start: 0,
        size: low,
    }];
    if size > low {
        ranges.push(Range {
            start: HIGH,
            size: size - low,
        });
    }
    ranges
}

/// Makes RAM of `size` bytes, a multiple of 2 MiB: a memfd, of 2 MiB pages if the host has so many.
pub fn create(size: u64) -> Result<Ram> {
    if !(32 << 20..=MAX_RAM).contains(&size) || size % (2 << 20) != 0 {
        bail!("guest memory is 32 MiB to 48 GiB, and a multiple of 2 MiB");
    }
    let huge = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    if let Ok(ram) = create_of(size, huge) {
        tracing::info!(mib = size >> 20, "guest memory in pages of 2 MiB");
        return Ok(ram);
    }
    create_of(size, MFdFlags::empty())
        .with_context(|| format!("cannot make {} MiB of guest memory", size >> 20))
}

fn create_of(size: u64, pages: MFdFlags) -> Result<Ram> {
    let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC | pages)?);
    file.set_len(size)?;
    if !pages.is_empty() {
        // vm-memory reserves nothing: a page that is not there would end the process when it is
        // touched.
        fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(size)?)?;
    }
    map(file, size)
}

/// RAM of `size` bytes in a file.
pub fn map(file: File, size: u64) -> Result<Ram> {
    let file = Arc::new(file);
    let mut offset = 0;
    let mut parts = Vec::new();
    for range in ranges(size) {
        let part = FileOffset::from_arc(file.clone(), offset);
        parts.push((
            GuestAddress(range.start),
            usize::try_from(range.size)?,
            Some(part),
        ));
        offset += range.size;
    }
    Ok(Ram::from_ranges_with_files(parts)?)
}

/// Shows a guest all of RAM.
pub fn show(ram: &Ram, slots: &Arc<Slots>) -> Result<Vec<Slot>> {
    ram.iter()
        .map(|region| {
            let start = region.start_addr().0;
            slots
                .map(start, region.get_mmap())
                .with_context(|| format!("KVM does not take memory at {start:#x}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_room_for_devices() {
        assert_eq!(
            ranges(64 << 20),
            [Range {
                start: 0,
                size: 64 << 20
            }]
        );
        let large = ranges(4 << 30);
        assert_eq!(large[0].last() + 1, ECAM.start);
        assert_eq!(large[1].start, 4 << 30);
        assert_eq!(large.iter().map(|range| range.size).sum::<u64>(), 4 << 30);
        assert!(ranges(MAX_RAM)
            .iter()
            .all(|range| range.last() < MMIO_HIGH.start));
    }

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1 << 20, (64 << 20) + 4096, MAX_RAM + (2 << 20)] {
            assert!(create(size).is_err(), "{size:#x}");
        }
    }
}
