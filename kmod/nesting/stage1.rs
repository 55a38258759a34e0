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
    for index in 0..entries.count {
        let at = index as usize * entries.len;
        let entry = entries
            .pointer
            .offset(at)
            .and_then(|pointer| pointer.read());
        if let Err(error) = entry.and_then(check_entry) {
            return Ok((index, Err(error)));
        }
    }
    Ok((entries.count, Ok(())))
}

fn check_entry(entry: uapi::iommu_hwpt_vtd_s1_invalidate) -> Result {
    let leaf = uapi::iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF;
    if entry.flags & !leaf != 0 || entry.__reserved != 0 {
        return Err(EINVAL);
    }
    if entry.addr & PAGE_MASK != 0 || entry.npages == 0 {
        return Err(EINVAL);
    }
    if entry.npages == u64::MAX {
        // Everything.
        return if entry.addr == 0 { Ok(()) } else { Err(EINVAL) };
    }
    entry
        .npages
        .checked_mul(1 << PAGE_SHIFT)
        .and_then(|bytes| entry.addr.checked_add(bytes - 1))
        .map(|_| ())
        .ok_or(EINVAL)
}
