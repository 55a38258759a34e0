// SPDX-License-Identifier: GPL-2.0
//! Stage-2 domains: page tables that the host kernel writes.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::device::Device;
use super::dirty_bits;
use super::shim;
use crate::base::iova::IovaRange;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::Arc;

/// `IOMMU_HWPT_ALLOC_NEST_PARENT`, `_DIRTY_TRACKING` and `_PASID` of linux/iommufd.h.
const ALLOC_NEST_PARENT: u32 = 1 << 0;
const ALLOC_DIRTY_TRACKING: u32 = 1 << 1;
const ALLOC_PASID: u32 = 1 << 3;

/// `IOMMU_READ`, `IOMMU_WRITE` and `IOMMU_CACHE` of linux/iommu.h.
const READ: c_int = 1 << 0;
const WRITE: c_int = 1 << 1;
const CACHE: c_int = 1 << 2;

/// What DMA may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// The device may read.
    pub(crate) read: bool,
    /// The device may write.
    pub(crate) write: bool,
}

/// A domain whose page table the host writes: stage 2, or an address space for some devices.
///
/// # Invariants
///
/// - `domain` is live and owned by this value. With `dirty_bits` it has dirty operations.
/// - `uses` is [`RETIRED`], for ever, or the number of [`InUse`] of this domain. Only who has one
///   attaches the domain, or a nested domain on it: where `uses` is [`RETIRED`] no DMA goes through
///   its page table, nor ever will.
pub(crate) struct PagingDomain {
    domain: NonNull<bindings::iommu_domain>,
    nest_parent: bool,
    dirty_bits: bool,
    coherent: bool,
    uses: Atomic<u32>,
}

/// [`PagingDomain`]'s `uses` of a domain that is retired.
const RETIRED: u32 = u32::MAX;

/// The right to attach a domain, or a nested domain on it; whoever attaches keeps it until the
/// detach. While one lives, the domain is not retired.
///
/// # Invariants
///
/// Counted in `uses` of the domain.
pub(crate) struct InUse(Arc<PagingDomain>);

impl InUse {
    /// Counts one more use.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] if the domain is retired.
    pub(super) fn of(domain: &Arc<PagingDomain>) -> Result<Self> {
        let mut uses = domain.uses.load(Relaxed);
        loop {
            let more = uses.checked_add(1).filter(|&more| more != RETIRED);
            match domain.uses.cmpxchg(uses, more.ok_or(ENODEV)?, Full) {
                // INVARIANT: Counted just now.
                Ok(_) => return Ok(Self(domain.clone())),
                Err(now) => uses = now,
            }
        }
    }

    /// The domain.
    pub(super) fn domain(&self) -> &Arc<PagingDomain> {
        &self.0
    }
}

impl Deref for InUse {
    type Target = PagingDomain;

    fn deref(&self) -> &PagingDomain {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // Does not wrap, for it is counted by the invariant.
        self.0.uses.fetch_sub(1u32, Full);
    }
}

// SAFETY: A domain may be used from any thread.
unsafe impl Send for PagingDomain {}
// SAFETY: The IOMMU core locks what needs it; maps and unmaps of one range are serialised by
// the address space that owns the domain.
unsafe impl Sync for PagingDomain {}

impl PagingDomain {
    /// Allocates an empty domain for the IOMMU of `device`: a nest parent if `nest_parent`, and
    /// if `dirty_bits` with dirty bits where there are any.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if a nest parent is asked for where the hardware cannot nest.
    pub(crate) fn new(device: &Device, nest_parent: bool, dirty_bits: bool) -> Result<Self> {
        let flags = if nest_parent {
            ALLOC_NEST_PARENT | ALLOC_PASID
        } else {
            0
        };
        if dirty_bits && dirty_bits::is_offered_for(device) {
            let with = Self::with_flags(device, flags | ALLOC_DIRTY_TRACKING);
            return with.or_else(|_| Self::with_flags(device, flags));
        }
        Self::with_flags(device, flags)
    }

    /// Allocates an empty domain that can be attached at the RID of `device`, and at a PASID
    /// where its IOMMU has them.
    pub(crate) fn separate(device: &Device) -> Result<Self> {
        Self::with_flags(device, ALLOC_PASID).or_else(|_| Self::with_flags(device, 0))
    }

    /// The same to take page requests, at a PASID or at the RID.
    pub(crate) fn separate_with_page_requests(device: &Device) -> Result<Self> {
        let new = Self::separate(device)?;
        // SAFETY: The domain is live, and attached nowhere yet.
        unsafe { shim::ioasid_take_page_requests(new.as_ptr()) };
        Ok(new)
    }

    fn with_flags(device: &Device, flags: u32) -> Result<Self> {
        // SAFETY: The device is live by its type.
        let domain = from_err_ptr(unsafe {
            bindings::iommu_paging_domain_alloc_flags(device.as_ptr(), flags)
        })?;
        // INVARIANT: The allocation gave the only reference, and nobody uses it; dirty operations
        // are looked for below.
        let mut new = Self {
            domain: NonNull::new(domain).ok_or(ENOMEM)?,
            nest_parent: flags & ALLOC_NEST_PARENT != 0,
            dirty_bits: false,
            coherent: false,
            uses: Atomic::new(0),
        };
        // SAFETY: The domain is live, and its dirty operations do not change.
        let dirty_ops = unsafe { (*new.as_ptr()).dirty_ops };
        // INVARIANT: It has them.
        new.dirty_bits = flags & ALLOC_DIRTY_TRACKING != 0 && !dirty_ops.is_null();
        // SAFETY: Domain and device are live.
        new.coherent = unsafe { shim::ioasid_enforce_coherency(new.as_ptr(), device.as_ptr()) };
        Ok(new)
    }

    /// Allocates an empty domain for `device`, to be attached at a PASID, that takes page
    /// requests.
    pub(crate) fn with_page_requests(device: &Device) -> Result<Self> {
        // SAFETY: The device is live by its type.
        let domain = from_err_ptr(unsafe {
            bindings::iommu_paging_domain_alloc_flags(device.as_ptr(), ALLOC_PASID)
        })?;
        // INVARIANT: The allocation gave the only reference, and nobody uses it.
        let new = Self {
            domain: NonNull::new(domain).ok_or(ENOMEM)?,
            nest_parent: false,
            dirty_bits: false,
            coherent: false,
            uses: Atomic::new(0),
        };
        // SAFETY: The domain is live, and attached nowhere yet.
        unsafe { shim::ioasid_take_page_requests(new.as_ptr()) };
        Ok(new)
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::iommu_domain {
        self.domain.as_ptr()
    }

    /// If nobody uses it, nobody will: what is mapped goes with the domain then, all at once, and
    /// [`Self::unmap_ranges`] has nothing to do. Gives whether it is retired.
    pub(crate) fn retire(&self) -> bool {
        self.uses.cmpxchg(0, RETIRED, Full).is_ok() || self.is_retired()
    }

    /// Whether it was retired.
    pub(crate) fn is_retired(&self) -> bool {
        self.uses.load(Relaxed) == RETIRED
    }

    /// Whether stage-1 tables can be nested on it.
    pub(crate) fn is_nest_parent(&self) -> bool {
        self.nest_parent
    }

    /// Whether it has dirty bits.
    pub(crate) fn has_dirty_bits(&self) -> bool {
        self.dirty_bits
    }

    /// Whether DMA is coherent whatever the device asks for.
    pub(crate) fn is_coherent(&self) -> bool {
        self.coherent
    }

    /// Whether a device that `other` was made for may be attached to `self` as well: the same
    /// driver, and the same promises. The driver has the last word, at attach.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        // SAFETY: The domain is live, and its operations do not change.
        let ours = unsafe { (*self.as_ptr()).ops };
        // SAFETY: As above.
        let others = unsafe { (*other.as_ptr()).ops };
        ours == others
            && self.nest_parent == other.nest_parent
            && self.dirty_bits == other.dirty_bits
            && self.coherent == other.coherent
    }

    /// The addresses that its format can translate.
    pub(crate) fn aperture(&self) -> Option<IovaRange> {
        // SAFETY: The domain is live, and its geometry does not change.
        let geometry = unsafe { (*self.as_ptr()).geometry };
        IovaRange::new(geometry.aperture_start, geometry.aperture_end)
    }

    /// Page sizes in bytes, as a bitmap.
    pub(crate) fn page_sizes(&self) -> u64 {
        // SAFETY: The domain is live, and its page sizes do not change.
        unsafe { (*self.as_ptr()).pgsize_bitmap as u64 }
    }

    /// Maps `size` bytes at `iova` to physical memory at `phys`. Sleeps.
    ///
    /// # Safety
    ///
    /// The memory must stay pinned until the range is unmapped, or the domain is retired.
    pub(super) unsafe fn map(&self, iova: u64, phys: u64, size: u64, access: Access) -> Result {
        let mut prot = CACHE;
        if access.read {
            prot |= READ;
        }
        if access.write {
            prot |= WRITE;
        }
        // SAFETY: The domain is live; by the requirement DMA reaches no memory that is others'.
        to_result(unsafe {
            bindings::iommu_map(
                self.as_ptr(),
                iova as usize,
                phys,
                size as usize,
                prot,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })
    }

    /// Unmaps ranges, with one flush of what is cached of them, of nested domains and device TLBs
    /// too.
    pub(super) fn unmap_ranges(&self, ranges: &[IovaRange]) {
        if self.is_retired() || ranges.is_empty() {
            return;
        }
        // SAFETY: The domain is live; the slice has that many ranges.
        unsafe { shim::ioasid_unmap_ranges(self.as_ptr(), ranges.as_ptr(), ranges.len()) }
    }
}

impl Drop for PagingDomain {
    fn drop(&mut self) {
        // SAFETY: By the invariant the domain is ours. What attaches it has an `InUse`, and a
        // `NestedDomain` on it has an `Arc`, each until it is gone: nobody has any now.
        unsafe { bindings::iommu_domain_free(self.as_ptr()) }
    }
}
