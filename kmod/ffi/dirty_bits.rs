// SPDX-License-Identifier: GPL-2.0
//! Dirty bits that the IOMMU sets in stage 2.
//!
//! C headers: [`include/linux/iommu.h`](srctree/include/linux/iommu.h),
//! [`include/linux/iova_bitmap.h`](srctree/include/linux/iova_bitmap.h)

use super::device::Device;
use super::errno::eopnotsupp;
use super::paging::PagingDomain;
use super::shim;
use super::user::Pointer;
use crate::base::iova::IovaRange;
use core::ptr::{null_mut, NonNull};
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;

/// Whether the running kernel can read dirty bits.
pub(crate) fn is_offered() -> bool {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_dirty_offered() }
}

/// Whether the IOMMU of a device sets dirty bits, and the kernel can read them.
pub(crate) fn is_offered_for(device: &Device) -> bool {
    if !is_offered() {
        return false;
    }
    // SAFETY: The device is live by its type, and has an IOMMU.
    unsafe { shim::ioasid_can_track_dirty(device.as_ptr()) }
}

/// A user's bitmap that dirty bits are read into, one bit for each page of a range.
///
/// # Invariants
///
/// The pointer is live and owned by this value.
pub(crate) struct DirtyBitmap(NonNull<shim::IovaBitmap>);

impl DirtyBitmap {
    /// A bitmap at `data`, which is user memory and large enough, for `range` in pages of
    /// `page_size` bytes, a power of two.
    pub(crate) fn new(range: &IovaRange, page_size: u64, data: Pointer) -> Result<Self> {
        // SAFETY: No requirements: memory that is not the user's is found when it is pinned.
        let bitmap = unsafe { shim::ioasid_bitmap_new(*range, page_size, data.address()) };
        // INVARIANT: Made just now. A kernel that cannot read dirty bits gives none.
        NonNull::new(from_err_ptr(bitmap)?)
            .map(Self)
            .ok_or(eopnotsupp())
    }
}

impl Drop for DirtyBitmap {
    fn drop(&mut self) {
        // SAFETY: It is ours by the invariant, and not used any more.
        unsafe { shim::ioasid_bitmap_free(self.0.as_ptr()) };
    }
}

impl PagingDomain {
    /// From now on, or no longer, DMA sets the dirty bits of what it writes. Stage-1 tables that
    /// are nested on this domain follow, those of later bindings too.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the domain has no dirty bits, and what the IOMMU driver says.
    pub(crate) fn track_dirty(&self, on: bool) -> Result {
        if !self.has_dirty_bits() {
            return Err(eopnotsupp());
        }
        // SAFETY: The domain is live and has dirty operations.
        to_result(unsafe { shim::ioasid_track_dirty(self.as_ptr(), on) })
    }

    /// Makes all of `range` clean.
    pub(crate) fn clean(&self, range: &IovaRange) -> Result {
        if !self.has_dirty_bits() {
            return Err(eopnotsupp());
        }
        // SAFETY: The domain is live and has dirty operations; no bitmap is asked for.
        to_result(unsafe { shim::ioasid_read_dirty(self.as_ptr(), null_mut(), *range, true) })
    }

    /// Sets the bits of the pages of `range` that DMA wrote in a bitmap, whose range holds
    /// `range`. With `clear` they are clean afterwards: what is written from then on is dirty
    /// again, and what was written before is in memory. Sleeps; takes the mmap_lock.
    ///
    /// Nothing of `range` may be mapped or unmapped meanwhile.
    pub(crate) fn read_dirty(
        &self,
        bitmap: &mut DirtyBitmap,
        range: &IovaRange,
        clear: bool,
    ) -> Result {
        if !self.has_dirty_bits() {
            return Err(eopnotsupp());
        }
        // SAFETY: The domain is live and has dirty operations; the bitmap is live and ours.
        to_result(unsafe {
            shim::ioasid_read_dirty(self.as_ptr(), bitmap.0.as_ptr(), *range, clear)
        })
    }
}
