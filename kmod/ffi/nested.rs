// SPDX-License-Identifier: GPL-2.0
//! Nested domains, a user's stage-1 table on a stage 2 of ours, attached at a PASID.
//!
//! C headers: [`include/linux/iommu.h`](srctree/include/linux/iommu.h),
//! [`drivers/iommu/iommu-priv.h`](srctree/drivers/iommu/iommu-priv.h)

use super::device::Device;
use super::paging::PagingDomain;
use super::shim;
use super::user::Pointer;
use crate::fault::Source;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::Opaque;

/// The user's stage-1 data, which the IOMMU driver reads itself.
#[derive(Clone, Copy)]
pub(crate) struct Stage1Data {
    /// `enum iommu_hwpt_data_type` of linux/iommufd.h.
    pub(crate) data_type: u32,
    /// Where it is.
    pub(crate) pointer: Pointer,
    /// Its size in bytes.
    pub(crate) len: usize,
}

/// Invalidation entries, which the IOMMU driver reads itself.
#[derive(Clone, Copy)]
pub(crate) struct InvalidationEntries {
    /// `enum iommu_hwpt_invalidate_data_type` of linux/iommufd.h.
    pub(crate) data_type: u32,
    /// Where they are.
    pub(crate) pointer: Pointer,
    /// Size of each in bytes.
    pub(crate) len: usize,
    /// How many.
    pub(crate) count: u32,
}

/// A nested domain.
///
/// # Invariants
///
/// `domain` is live, owned by this value, and nested on `parent`.
struct NestedDomain {
    domain: NonNull<bindings::iommu_domain>,
    _parent: Arc<PagingDomain>,
}

impl Drop for NestedDomain {
    fn drop(&mut self) {
        // SAFETY: The domain is ours by the invariant, and attached nowhere: `Attachment` drops
        // it after the detach. The parent goes after it.
        unsafe { bindings::iommu_domain_free(self.domain.as_ptr()) }
    }
}

/// What the IOMMU core keeps at an attached PASID, and page requests are found by.
#[repr(C)]
pub(super) struct Handle {
    raw: Opaque<bindings::iommu_attach_handle>,
    source: Option<Arc<Source>>,
}

impl Handle {
    /// # Safety
    ///
    /// `raw` must be the first field of a `Handle` that lives for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::iommu_attach_handle) -> &'a Self {
        // SAFETY: By the requirement; `raw` is the first field of a `repr(C)` structure.
        unsafe { &*raw.cast() }
    }

    pub(super) fn source(&self) -> Option<ArcBorrow<'_, Source>> {
        self.source.as_ref().map(Arc::as_arc_borrow)
    }
}

/// A stage-1 table in force at (device, PASID); dropped, the PASID is detached.
///
/// # Invariants
///
/// `domain` is attached at `pasid` of `device` with `_handle`.
pub(crate) struct Attachment {
    device: Device,
    pasid: u32,
    domain: NestedDomain,
    _handle: Pin<KBox<Handle>>,
}

// SAFETY: The IOMMU core takes these calls on any thread.
unsafe impl Send for Attachment {}
// SAFETY: A shared reference gives only `invalidate`, which the driver locks.
unsafe impl Sync for Attachment {}

impl Attachment {
    /// Attaches the user's stage-1 table at (`device`, `pasid`), on `parent`, with page requests
    /// for `source` if there is one. Sleeps.
    ///
    /// The caller has checked that the device is alone in its group and that its PASID works:
    /// the core reports success where nothing was programmed.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says of the data, and [`EBUSY`] while the device is reset.
    pub(crate) fn new(
        parent: Arc<PagingDomain>,
        device: &Device,
        pasid: u32,
        data: Stage1Data,
        source: Option<Arc<Source>>,
    ) -> Result<Self> {
        // SAFETY: Device and parent are live; the driver checks the user's pointer.
        let domain = from_err_ptr(unsafe {
            shim::ioasid_alloc_nested(
                device.as_ptr(),
                parent.as_ptr(),
                source.is_some(),
                data.data_type,
                data.pointer.as_user_ptr().as_mut_ptr(),
                data.len,
            )
        })?;
        // INVARIANT: Allocated just now, on `parent`.
        let domain = NestedDomain {
            domain: NonNull::new(domain).ok_or(ENOMEM)?,
            _parent: parent,
        };
        let handle = KBox::pin(
            Handle {
                raw: Opaque::zeroed(),
                source,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: Domain and device are live; the handle is pinned and outlives the attachment.
        to_result(unsafe {
            bindings::iommu_attach_device_pasid(
                domain.domain.as_ptr(),
                device.as_ptr(),
                pasid,
                handle.raw.get(),
            )
        })?;
        // INVARIANT: Attached just now.
        Ok(Self {
            device: device.clone(),
            pasid,
            domain,
            _handle: handle,
        })
    }

    /// Lets the driver drop what is cached of stage 1. Gives the number of entries done, and
    /// how it ended.
    pub(crate) fn invalidate(&self, entries: InvalidationEntries) -> (u32, Result) {
        let mut count = entries.count;
        // SAFETY: The domain is live; the driver checks the user's pointer.
        let result = to_result(unsafe {
            shim::ioasid_cache_invalidate(
                self.domain.domain.as_ptr(),
                entries.data_type,
                entries.pointer.as_user_ptr().as_mut_ptr(),
                entries.len,
                &mut count,
            )
        });
        (count, result)
    }
}

impl Drop for Attachment {
    /// Translation stops; page requests that were sent are handled; nobody sees the handle.
    fn drop(&mut self) {
        // SAFETY: Attached there by the invariant. The driver waits for the page request thread,
        // which takes none of the locks that are held here.
        unsafe {
            bindings::iommu_detach_device_pasid(
                self.domain.domain.as_ptr(),
                self.device.as_ptr(),
                self.pasid,
            )
        };
        // The core drops the handle only after the driver has waited: a page request that came
        // between still sees it.
        self.device.quiesce_page_requests();
    }
}
