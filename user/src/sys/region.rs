// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Regions of vm-memory as memory for devices.

use super::memory::DmaMemory;
use crate::listener::SkippedBecause;
use std::os::fd::{AsFd, BorrowedFd};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

/// A region that vm-memory has mapped itself, readable and writable.
///
/// # Invariants
///
/// The region's mapping is its own, with PROT_READ and PROT_WRITE.
pub(crate) struct RegionMemory<'a, B>(&'a GuestRegionMmap<B>);

impl<'a, B: Bitmap> RegionMemory<'a, B> {
    pub(crate) fn new(region: &'a GuestRegionMmap<B>) -> Result<Self, SkippedBecause> {
        const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
        if !region.owned() {
            return Err(SkippedBecause::Foreign);
        }
        if region.prot() & BOTH != BOTH {
            return Err(SkippedBecause::ReadOnly);
        }
        // INVARIANT: checked above.
        Ok(Self(region))
    }

    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr().expose_provenance()
    }
}

// SAFETY: by the invariant the bytes are mapped readable and writable for as long as the region,
// which is borrowed. vm-memory makes volatile accesses through raw pointers and no references, and
// its mapping stays the same memory until the region unmaps it.
unsafe impl<B: Bitmap> DmaMemory for RegionMemory<'_, B> {
    fn as_ptr(&self) -> *mut u8 {
        // By name: the method of the mapping, not this one.
        let mapping: &vm_memory::MmapRegion<B> = self.0;
        mapping.as_ptr()
    }

    fn len(&self) -> usize {
        let mapping: &vm_memory::MmapRegion<B> = self.0;
        mapping.size()
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let mapping: &vm_memory::MmapRegion<B> = self.0;
        if mapping.flags() & libc::MAP_SHARED == 0 {
            return None;
        }
        let file = GuestMemoryRegion::file_offset(self.0)?;
        Some((file.file().as_fd(), file.start()))
    }
}
