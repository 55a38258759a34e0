// SPDX-License-Identifier: GPL-2.0
//! VT-d's stage-1 data and invalidation entries, checked for good errors. The driver reads
//! them from user memory again: what it does with them is safe whatever it finds, for stage 2
//! confines stage 1.

use super::capability::{Stage1Support, VTD_S1};
use crate::ffi::abi;
use crate::ffi::errno::eopnotsupp;
use crate::ffi::nested::{InvalidationEntries, Stage1Data};
use core::mem::size_of;
use kernel::prelude::*;

/// `IOMMU_HWPT_INVALIDATE_DATA_VTD_S1` of linux/iommufd.h.
const INVALIDATE_VTD_S1: u32 = 0;

/// Invalidation entries that are read at a time.
const BATCH: u32 = 32;

/// Invalidation entries that are carried out between two looks at the caller's signals.
const CHUNK: u32 = 4 * BATCH;

const PAGE_SHIFT: u32 = 12;
/// Bits of an address in a PASID table entry (VT-d 4.1, 9.6).
const ADDRESS_BITS: u32 = 52;
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// Checks the data of a bind.
///
/// # Errors
///
/// - [`EOPNOTSUPP`] for another type, and for what the hardware lacks: supervisor requests,
///   extended accessed flags, 57-bit addresses.
/// - [`EINVAL`] for a wrong size, unknown flags, another address width, or an address that is
///   no page's or beyond 52 bits.
pub(crate) fn check_data(data: &Stage1Data, support: &Stage1Support) -> Result {
    if data.data_type != VTD_S1 {
        return Err(eopnotsupp());
    }
    if data.len != size_of::<abi::iommu_hwpt_vtd_s1>() {
        return Err(EINVAL);
    }
    let stage1: abi::iommu_hwpt_vtd_s1 = data.pointer.read()?;
    let sre = u64::from(abi::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_SRE);
    let eafe = u64::from(abi::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_EAFE);
    let wpe = u64::from(abi::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_WPE);
    if stage1.flags & !(sre | eafe | wpe) != 0 || stage1.__reserved != 0 {
        return Err(EINVAL);
    }
    if stage1.pgtbl_addr & PAGE_MASK != 0 || stage1.pgtbl_addr >> ADDRESS_BITS != 0 {
        return Err(EINVAL);
    }
    let lacking = (stage1.flags & (sre | wpe) != 0 && !support.supervisor)
        || (stage1.flags & eafe != 0 && !support.extended_accessed);
    match stage1.addr_width {
        _ if lacking => Err(eopnotsupp()),
        48 => Ok(()),
        57 if support.five_level => Ok(()),
        57 => Err(eopnotsupp()),
        _ => Err(EINVAL),
    }
}

/// Checks what is said of invalidation entries as such.
///
/// # Errors
///
/// - [`EOPNOTSUPP`] for another type.
/// - [`EINVAL`] for a wrong size of entry.
pub(crate) fn check_format(entries: &InvalidationEntries) -> Result {
    if entries.data_type != INVALIDATE_VTD_S1 {
        return Err(eopnotsupp());
    }
    if entries.count != 0 && entries.len != size_of::<abi::iommu_hwpt_vtd_s1_invalidate>() {
        return Err(EINVAL);
    }
    Ok(())
}

/// Entries that were checked.
pub(crate) struct Checked {
    /// Good ones, before the first bad one.
    pub(crate) good: u32,
    /// The error of that one, if there is any.
    pub(crate) result: Result,
}

/// Checks invalidation entries from number `first` on, [`CHUNK`] at most. Copies from the user.
pub(crate) fn check_entries(entries: &InvalidationEntries, first: u32) -> Checked {
    let wanted = (entries.count - first.min(entries.count)).min(CHUNK);
    if wanted == 1 {
        // What a guest sends most does not pay for the room of a batch.
        return check_batch::<1>(entries, first, 1);
    }
    let mut good = 0;
    while good < wanted {
        let batch = (wanted - good).min(BATCH);
        let checked = check_batch::<{ BATCH as usize }>(entries, first + good, batch);
        good += checked.good;
        if checked.result.is_err() {
            return Checked {
                good,
                result: checked.result,
            };
        }
    }
    Checked {
        good,
        result: Ok(()),
    }
}

fn check_batch<const ROOM: usize>(
    entries: &InvalidationEntries,
    first: u32,
    wanted: u32,
) -> Checked {
    if entries.all::<_, ROOM>(first, wanted, is_good) != Ok(true) {
        // One of them is bad, or cannot be read: which?
        for index in 0..wanted {
            let error = match entries.all::<_, 1>(first + index, 1, is_good) {
                Ok(true) => continue,
                Ok(false) => EINVAL,
                Err(error) => error,
            };
            return Checked {
                good: index,
                result: Err(error),
            };
        }
    }
    Checked {
        good: wanted,
        result: Ok(()),
    }
}

fn is_good(entry: &abi::iommu_hwpt_vtd_s1_invalidate) -> bool {
    let leaf = abi::iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF;
    let reserved = entry.flags & !leaf | entry.__reserved;
    let pages_from = (1 << (u64::BITS - PAGE_SHIFT)) - (entry.addr >> PAGE_SHIFT);
    let is_range = (1..=pages_from).contains(&entry.npages);
    let is_everything = entry.npages == u64::MAX && entry.addr == 0;
    reserved == 0 && entry.addr & PAGE_MASK == 0 && (is_range || is_everything)
}
