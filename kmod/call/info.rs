// SPDX-License-Identifier: GPL-2.0
//! `VFIO_IOMMU_GET_INFO`: the reply and its chain of capabilities.

use super::bitmap::MAX_BYTES;
use crate::base::iova::Windows;
use crate::ffi::abi;
use crate::ffi::user::Pointer;
use core::mem::{offset_of, size_of};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::transmute::AsBytes;

/// Size of the header of the chain's IOVA range entry: id, version and next, then the count
/// and a reserved word.
const IOVA_RANGE_HEADER: usize = size_of::<abi::vfio_info_cap_header>() + 2 * size_of::<u32>();

/// What GET_INFO reports.
pub(crate) struct Info {
    /// Page sizes in bytes, as a bitmap.
    pub(crate) page_sizes: u64,
    /// What can be mapped.
    pub(crate) windows: KBox<Windows>,
    /// How many more mappings can be made.
    pub(crate) mappings_left: u32,
    /// What can be nested, but for a type1 container; its header is filled in here.
    pub(crate) nesting: Option<abi::vfio_ioasid_cap_nesting>,
}

/// Writes the reply: as much of the fixed part as the user has room for, and the chain if all
/// of it fits. Otherwise `argsz` says what is needed, as linux/vfio.h has it.
pub(crate) fn write_info(arg: Pointer, info: &Info) -> Result {
    const FIXED: usize = size_of::<abi::vfio_iommu_type1_info>();

    let argsz = arg.read::<u32>()? as usize;
    if argsz < offset_of!(abi::vfio_iommu_type1_info, cap_offset) {
        return Err(EINVAL);
    }

    let ranges = info.windows.iter().count();
    let range_len = IOVA_RANGE_HEADER + ranges * size_of::<abi::vfio_iova_range>();
    // The chain's entries stand on 8 bytes each.
    let avail_at = FIXED + range_len;
    let avail_len = size_of::<abi::vfio_iommu_type1_info_dma_avail>().next_multiple_of(8);
    let migration_at = avail_at + avail_len;
    let nesting_at = migration_at + size_of::<abi::vfio_iommu_type1_info_cap_migration>();
    let (next, nesting_len) = match info.nesting {
        Some(_) => (nesting_at, size_of::<abi::vfio_ioasid_cap_nesting>()),
        None => (0, 0),
    };
    let needed = nesting_at + nesting_len;

    let mut reply = abi::vfio_iommu_type1_info {
        argsz: argsz as u32,
        flags: abi::VFIO_IOMMU_INFO_PGSIZES | abi::VFIO_IOMMU_INFO_CAPS,
        iova_pgsizes: info.page_sizes,
        ..Default::default()
    };
    if argsz < needed {
        reply.argsz = needed as u32;
        return arg.write_prefix(&reply, argsz);
    }
    reply.cap_offset = FIXED as u32;

    let mut at = Chain(arg.offset(FIXED)?);
    at.put(&header(abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, avail_at))?;
    at.put(&(ranges as u32))?;
    at.put(&0u32)?;
    for window in info.windows.iter() {
        at.put(&abi::vfio_iova_range {
            start: window.start(),
            end: window.last(),
        })?;
    }
    at.put(&header(abi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, migration_at))?;
    at.put(&info.mappings_left)?;
    at.put(&0u32)?;
    at.put(&header(abi::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, next))?;
    // Flags and a word of padding; then the page sizes of bitmaps.
    at.put(&[0u32; 2])?;
    at.put(&(PAGE_SIZE as u64))?;
    at.put(&MAX_BYTES)?;
    if let Some(mut nesting) = info.nesting {
        nesting.header = header(abi::VFIO_IOASID_CAP_NESTING, 0);
        at.put(&nesting)?;
    }
    arg.write(&reply)
}

fn header(id: u32, next: usize) -> abi::vfio_info_cap_header {
    abi::vfio_info_cap_header {
        // CAST: ids have 16 bits by linux/vfio.h, and the chain is shorter than 2 KiB.
        id: id as u16,
        version: 1,
        next: next as u32,
    }
}

/// Where the chain's next value goes.
struct Chain(Pointer);

impl Chain {
    fn put<T: AsBytes>(&mut self, value: &T) -> Result {
        self.0.write(value)?;
        self.0 = self.0.offset(size_of::<T>())?;
        Ok(())
    }
}
