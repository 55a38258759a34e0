// SPDX-License-Identifier: GPL-2.0
//! VT-d's stage-1 data and invalidation entries, checked for good errors. The driver reads
//! them from user memory again: what it does with them is safe whatever it finds, for stage 2
//! confines stage 1.

use super::capability::{Stage1Support, VTD_S1};
use crate::ffi::errno::eopnotsupp;
use crate::ffi::nested::{InvalidationEntries, Stage1Data};
use crate::ffi::uapi;
use core::mem::size_of;
use kernel::prelude::*;

/// `IOMMU_HWPT_INVALIDATE_DATA_VTD_S1` of linux/iommufd.h.
const INVALIDATE_VTD_S1: u32 = 0;

/// Invalidation entries that are read a time.
const BATCH: usize = 32;

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
    if data.len != size_of::<uapi::iommu_hwpt_vtd_s1>() {
        return Err(EINVAL);
    }
    let stage1: uapi::iommu_hwpt_vtd_s1 = data.pointer.read()?;
    let sre = u64::from(uapi::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_SRE);
    let eafe = u64::from(uapi::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_EAFE);
    let wpe = u64::from(uapi::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_WPE);
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

/// Checks invalidation entries; gives the number of good ones before the first bad one.
///
/// # Errors
///
/// - [`EOPNOTSUPP`] for another type.
/// - [`EINVAL`] for a wrong size of entry.
/// - The error of the first bad entry, in the second place.
pub(crate) fn check_entries(entries: &InvalidationEntries) -> Result<(u32, Result)> {
    if entries.data_type != INVALIDATE_VTD_S1 {
        return Err(eopnotsupp());
    }
    if entries.count == 0 {
        return Ok((0, Ok(())));
    }
    if entries.len != size_of::<uapi::iommu_hwpt_vtd_s1_invalidate>() {
        return Err(EINVAL);
    }
    let batches = entries.count / BATCH as u32;
    let mut checked = 0;
    if batches != 0 {
        let mut batch = [uapi::iommu_hwpt_vtd_s1_invalidate::default(); BATCH];
        for _ in 0..batches {
            // Where one of them is bad, or cannot be read: which?
            if entries.read(checked, &mut batch).is_err() || !batch.iter().all(is_good) {
                break;
            }
            checked += BATCH as u32;
        }
    }
    for index in checked..entries.count {
        let mut entry = [uapi::iommu_hwpt_vtd_s1_invalidate::default()];
        let error = match entries.read(index, &mut entry) {
            Ok(()) if entry.iter().all(is_good) => continue,
            Ok(()) => EINVAL,
            Err(error) => error,
        };
        return Ok((index, Err(error)));
    }
    Ok((entries.count, Ok(())))
}

fn is_good(entry: &uapi::iommu_hwpt_vtd_s1_invalidate) -> bool {
    let leaf = uapi::iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF;
    let reserved = entry.flags & !leaf | entry.__reserved;
    let pages_from = (1 << (u64::BITS - PAGE_SHIFT)) - (entry.addr >> PAGE_SHIFT);
    let is_range = (1..=pages_from).contains(&entry.npages);
    let is_everything = entry.npages == u64::MAX && entry.addr == 0;
    reserved == 0 && entry.addr & PAGE_MASK == 0 && (is_range || is_everything)
}
