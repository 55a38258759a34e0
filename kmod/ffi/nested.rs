// SPDX-License-Identifier: GPL-2.0
//! Nested domains: a user's stage-1 table on a stage 2 of ours.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::device::Device;
use super::paging::PagingDomain;
use super::shim;
use super::user::Pointer;
use super::work::Work;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::transmute::FromBytes;

/// How often a page of the user's may be gone again when the driver comes to read it: others of its
/// process take it away on purpose then.
const ABSENT_MAX: u32 = 64;

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

impl Stage1Data {
    /// Sees to it that its pages are there, for a moment at least.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if it cannot be read.
    pub(crate) fn touch(&self) -> Result {
        self.pointer.touch(self.len)
    }

    /// How often to try again after [`EFAULT`].
    pub(crate) const TRIES: u32 = ABSENT_MAX;
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
    /// Reads `count` entries from number `index` on, `N` at most, as they are now; whether `is_good`
    /// says so of each.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if one cannot be read.
    pub(crate) fn all<T: FromBytes, const N: usize>(
        &self,
        index: u32,
        count: u32,
        is_good: impl Fn(&T) -> bool,
    ) -> Result<bool> {
        self.at(index)?.all::<T, N>(count as usize, is_good)
    }

    fn at(&self, index: u32) -> Result<Pointer> {
        let offset = (index as usize).checked_mul(self.len).ok_or(EFAULT)?;
        self.pointer.offset(offset)
    }

    /// Sees to it that the pages of an entry are there, for a moment at least.
    fn touch(&self, index: u32) -> Result {
        self.at(index)?.touch(self.len)
    }
}

/// How a flush ended.
pub(crate) struct Flushed {
    /// Entries done.
    pub(crate) done: u32,
    /// How it ended.
    pub(crate) result: Result,
}

/// A nested domain.
///
/// # Invariants
///
/// `domain` is live, owned by this value, and nested on `parent`.
pub(crate) struct NestedDomain {
    domain: NonNull<bindings::iommu_domain>,
    parent: Arc<PagingDomain>,
}

// SAFETY: A domain may be used from any thread.
unsafe impl Send for NestedDomain {}
// SAFETY: A shared reference gives only `invalidate`, which the driver locks.
unsafe impl Sync for NestedDomain {}

impl NestedDomain {
    /// Allocates one for `device` on `parent`, with page requests if `page_requests`. Does not wait
    /// for the user's memory.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says of the data; [`EFAULT`] if a page of it is not there now, see
    /// [`Stage1Data::touch`].
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
            parent,
        })
    }

    /// The stage 2 that it is nested on.
    pub(super) fn parent(&self) -> &Arc<PagingDomain> {
        &self.parent
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::iommu_domain {
        self.domain.as_ptr()
    }

    /// Lets the driver drop what is cached of stage 1, by `count` entries from number `first` on.
    /// It ends well only if all of them are done, for a driver may do fewer than it is given and say
    /// nothing. Sleeps; copies from the user.
    ///
    /// # Errors
    ///
    /// - What the driver says of an entry; [`EFAULT`] if one cannot be read.
    /// - [`EIO`] if the driver does nothing and says nothing.
    /// - [`EINTR`] if a fatal signal came.
    pub(crate) fn invalidate(
        &self,
        entries: &InvalidationEntries,
        first: u32,
        count: u32,
        work: &mut Work,
    ) -> Flushed {
        let mut done = 0;
        let mut absent = 0;
        while done < count {
            let flushed = self.try_invalidate(entries, first + done, count - done);
            let (moved, result) = (flushed.done, flushed.result);
            done += moved;
            if done >= count {
                break;
            }
            let next = match result {
                Ok(()) if moved == 0 => Err(EIO),
                Ok(()) => work.look(),
                // Its page was not there at this moment, or never is.
                Err(EFAULT) if moved != 0 || absent < ABSENT_MAX => {
                    absent = if moved != 0 { 0 } else { absent + 1 };
                    work.look().and_then(|()| entries.touch(first + done))
                }
                error => error,
            };
            if next.is_err() {
                return Flushed { done, result: next };
            }
        }
        Flushed {
            done,
            result: Ok(()),
        }
    }

    fn try_invalidate(&self, entries: &InvalidationEntries, first: u32, count: u32) -> Flushed {
        let pointer = match entries.at(first) {
            Ok(pointer) => pointer,
            Err(error) => {
                return Flushed {
                    done: 0,
                    result: Err(error),
                }
            }
        };
        let mut moved = count;
        // SAFETY: The domain is live; the driver checks the user's pointer.
        let result = to_result(unsafe {
            shim::ioasid_cache_invalidate(
                self.as_ptr(),
                entries.data_type,
                pointer.as_user_ptr().as_mut_ptr(),
                entries.len,
                &mut moved,
            )
        });
        Flushed {
            done: moved.min(count),
            result,
        }
    }
}

impl Drop for NestedDomain {
    fn drop(&mut self) {
        // SAFETY: The domain is ours by the invariant, and attached nowhere: an `Attachment` has
        // an `Arc` of this value until the detach. `parent` is dropped after this.
        unsafe { bindings::iommu_domain_free(self.as_ptr()) }
    }
}
