// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest memory as vm-memory has it, for shadows; and their comparison with the walk of `soft`.

use crate::ktap::Outcome;
use crate::memory::GuestMemory;
use host_iommu::DmaMemory;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// A second view of the same memory.
///
/// # Errors
///
/// Those of mmap.
pub fn view(memory: &GuestMemory) -> Outcome<Arc<GuestMemoryMmap>> {
    let file = memory.shared().file().try_clone()?;
    let region = MmapRegionBuilder::new(memory.shared().len())
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED)
        .with_file_offset(FileOffset::new(file, 0))
        .build()?;
    let Some(region) = GuestRegionMmap::new(region, GuestAddress(memory.base())) else {
        return crate::ktap::fail("guest memory wraps");
    };
    Ok(Arc::new(GuestMemoryMmap::from_regions(vec![region])?))
}

#[cfg(test)]
mod tests;
