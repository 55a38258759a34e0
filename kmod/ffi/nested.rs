// SPDX-License-Identifier: GPL-2.0
//! Nested domains: a user's stage-1 table on a stage 2 of ours.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::device::Device;
use super::paging::PagingDomain;
use super::shim;
use super::user::Pointer;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::transmute::{AsBytes, FromBytes};

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

impl InvalidationEntries {
    /// Reads entries from number `index` on, as they are now.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if one cannot be read.
    pub(crate) fn read<T: FromBytes + AsBytes>(&self, index: u32, to: &mut [T]) -> Result {
        self.pointer
            .offset(index as usize * self.len)?
            .read_slice(to)
    }
}

/// A nested domain.
///
/// # Invariants
///
/// `domain` is live, owned by this value, and nested on `parent`.
pub(crate) struct NestedDomain {
    domain: NonNull<bindings::iommu_domain>,
    _parent: Arc<PagingDomain>,
}

// SAFETY: A domain may be used from any thread.
unsafe impl Send for NestedDomain {}
// SAFETY: A shared reference gives only `invalidate`, which the driver locks.
unsafe impl Sync for NestedDomain {}

impl NestedDomain {
    /// Allocates one for `device` on `parent`, with page requests if `page_requests`.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says of the data.
    pub(crate) fn new(
        parent: Arc<PagingDomain>,
        device: &Device,
        data: Stage1Data,
        page_requests: bool,
    ) -> Result<Self> {
        // SAFETY: Device and parent are live; the driver checks the user's pointer.
        let domain = from_err_ptr(unsafe {
            shim::ioasid_alloc_nested(
                device.as_ptr(),
                parent.as_ptr(),
                page_requests,
                data.data_type,
                data.pointer.as_user_ptr().as_mut_ptr(),
                data.len,
            )
        })?;
        // INVARIANT: Allocated just now, on `parent`.
        Ok(Self {
            domain: NonNull::new(domain).ok_or(ENOMEM)?,
            _parent: parent,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::iommu_domain {
        self.domain.as_ptr()
    }

    /// Lets the driver drop what is cached of stage 1. Gives the number of entries done, and
    /// how it ended.
    pub(crate) fn invalidate(&self, entries: InvalidationEntries) -> (u32, Result) {
        let mut count = entries.count;
        // SAFETY: The domain is live; the driver checks the user's pointer.
        let result = to_result(unsafe {
            shim::ioasid_cache_invalidate(
                self.as_ptr(),
                entries.data_type,
                entries.pointer.as_user_ptr().as_mut_ptr(),
                entries.len,
                &mut count,
            )
        });
        (count, result)
    }
}

impl Drop for NestedDomain {
    fn drop(&mut self) {
        // SAFETY: The domain is ours by the invariant, and attached nowhere: an attachment owns
        // it until the detach. The parent goes after it.
        unsafe { bindings::iommu_domain_free(self.as_ptr()) }
    }
}
