// SPDX-License-Identifier: GPL-2.0
//! Domains attached to a device, at a PASID or at its requests without PASID.
//!
//! C headers: [`include/linux/iommu.h`](srctree/include/linux/iommu.h),
//! [`drivers/iommu/iommu-priv.h`](srctree/drivers/iommu/iommu-priv.h)

use super::device::Device;
use super::group::Group;
use super::iopf::PageRequests;
use super::nested::NestedDomain;
use super::paging::{InUse, PagingDomain};
use super::shim;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// Which requests of a device. The RID comes before every PASID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// Those without PASID.
    Rid,
    /// Those with this PASID.
    Pasid(u32),
}

/// What translates.
pub(crate) enum Translation {
    /// A user's stage-1 table on stage 2.
    Nested(Arc<NestedDomain>),
    /// A page table of the host's.
    Paging(Arc<PagingDomain>),
}

impl Translation {
    fn as_ptr(&self) -> *mut bindings::iommu_domain {
        match self {
            Self::Nested(domain) => domain.as_ptr(),
            Self::Paging(domain) => domain.as_ptr(),
        }
    }

    /// The host's page table that DMA goes through.
    fn page_table(&self) -> &Arc<PagingDomain> {
        match self {
            Self::Nested(domain) => domain.parent(),
            Self::Paging(domain) => domain,
        }
    }
}

/// What the IOMMU core keeps where a domain is attached, and page requests are found by.
#[repr(C)]
pub(super) struct Handle {
    raw: Opaque<bindings::iommu_attach_handle>,
    page_requests: Option<Arc<dyn PageRequests>>,
}

impl Handle {
    /// # Safety
    ///
    /// `raw` must be the first field of a `Handle` that lives for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::iommu_attach_handle) -> &'a Self {
        // SAFETY: By the requirement; `raw` is the first field of a `repr(C)` structure.
        unsafe { &*raw.cast() }
    }

    pub(super) fn page_requests(&self) -> Option<Arc<dyn PageRequests>> {
        self.page_requests.clone()
    }
}

/// A translation that is attached nowhere, and all that attaching it takes.
pub(crate) struct Detached {
    translation: Translation,
    handle: Pin<KBox<Handle>>,
    _page_table: InUse,
}

// SAFETY: The handle is touched by the IOMMU core alone, which has locks of its own for it.
unsafe impl Send for Detached {}
// SAFETY: A shared reference gives nothing that changes.
unsafe impl Sync for Detached {}

impl Detached {
    /// `translation`, and where its page requests go. Only a domain that was made to take page
    /// requests has any.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`ENODEV`] if the page table is retired.
    pub(crate) fn new(
        translation: Translation,
        page_requests: Option<Arc<dyn PageRequests>>,
    ) -> Result<Self> {
        let page_table = InUse::of(translation.page_table())?;
        let handle = KBox::pin(
            Handle {
                raw: Opaque::zeroed(),
                page_requests,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(Self {
            translation,
            handle,
            _page_table: page_table,
        })
    }

    /// Attaches it where nothing is attached. Sleeps.
    ///
    /// The caller has checked that `device` is alone in `group`, and that its PASID works: the
    /// core reports success where nothing was programmed.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says, and [`EAGAIN`] while the device is reset. Nothing is attached
    /// then.
    pub(crate) fn attach(self, device: &Device, group: &Group, site: Site) -> Result<Attachment> {
        let domain = self.translation.as_ptr();
        let handle = self.handle.raw.get();
        let _draining = device.unit().drain();
        let result = match site {
            Site::Rid => {
                // SAFETY: Domain and group are live by their types; the handle is pinned, and its
                // owner goes into the attachment.
                let error = unsafe { shim::ioasid_attach_rid(domain, group.as_ptr(), handle) };
                to_result(error).inspect_err(|_| {
                    // The device may be blocked while the core still names what was there before.
                    // SAFETY: Domain and group are live by their types.
                    unsafe { shim::ioasid_detach_rid(domain, group.as_ptr()) }
                })
            }
            // SAFETY: Domain and device are live by their types; the handle is pinned, and its
            // owner goes into the attachment.
            Site::Pasid(pasid) => to_result(unsafe {
                bindings::iommu_attach_device_pasid(domain, device.as_ptr(), pasid, handle)
            }),
        };
        match result {
            // INVARIANT: Attached just now.
            Ok(()) => Ok(Attachment {
                device: device.clone(),
                group: group.clone(),
                site,
                detached: Some(self),
            }),
            // Nothing else is there, so the core is busy with the device's recovery.
            Err(error) => Err(if error == EBUSY { EAGAIN } else { error }),
        }
    }

    /// Attaches it at the RID of `device`, in the place of what is attached to its group. Sleeps.
    pub(super) fn replace_group(
        self,
        device: &Device,
        group: &Group,
    ) -> Result<Attachment, ReplaceError> {
        let _draining = device
            .unit()
            .drain_unless_killed()
            .map_err(ReplaceError::Refused)?;
        // SAFETY: Domain and group are live by their types; the handle is pinned, and its owner
        // goes into the attachment.
        let result = to_result(unsafe {
            shim::ioasid_replace_rid(
                self.translation.as_ptr(),
                group.as_ptr(),
                self.handle.raw.get(),
            )
        });
        result.map_err(ReplaceError::of_core)?;
        // INVARIANT: Attached just now.
        Ok(Attachment {
            device: device.clone(),
            group: group.clone(),
            site: Site::Rid,
            detached: Some(self),
        })
    }
}

/// How the IOMMU core failed to replace what is attached.
pub(super) enum ReplaceError {
    /// Before anything was touched.
    Refused(Error),
    /// On the way: what the core believes to be in force may not be.
    Failed(Error),
}

impl ReplaceError {
    fn of_core(error: Error) -> Self {
        match error {
            // It is busy with the device's recovery.
            EBUSY => Self::Refused(EAGAIN),
            error => Self::Failed(error),
        }
    }
}

/// A translation in force; dropped, it is detached.
///
/// # Invariants
///
/// `detached` is attached at `site` of `device`, the only device of `group`; it is `None` only on
/// the way to the end of this value.
pub(crate) struct Attachment {
    device: Device,
    group: Group,
    site: Site,
    detached: Option<Detached>,
}

/// A replacement that was made.
pub(crate) struct Replaced {
    /// What is in force.
    pub(crate) attachment: Attachment,
    /// What was before.
    pub(crate) old: Option<Detached>,
}

/// A replacement that failed.
pub(crate) struct ReplaceFailed {
    /// Why.
    pub(crate) error: Error,
    /// The old translation if it is in force; otherwise nothing is.
    pub(crate) old: Option<Attachment>,
}

impl Attachment {
    /// Detaches it: translation stops, page requests that were sent are handled, and nobody sees
    /// the handle any more. Sleeps.
    pub(crate) fn detach(mut self) -> Option<Detached> {
        self.stop();
        self.detached.take()
    }

    /// Puts `new` in its place; gives the new attachment and the old translation. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Detached::attach`]; what is in force then stands in the error.
    pub(crate) fn replace(self, new: Detached) -> Result<Replaced, ReplaceFailed> {
        match self.site {
            Site::Rid => self.replace_rid(new),
            Site::Pasid(pasid) => self.replace_pasid(pasid, new),
        }
    }

    fn replace_pasid(mut self, pasid: u32, new: Detached) -> Result<Replaced, ReplaceFailed> {
        match self.try_replace_pasid(pasid, &new) {
            Ok(()) => {
                self.device.quiesce_page_requests();
                // INVARIANT: `new` was attached just now.
                let old = self.detached.replace(new);
                Ok(Replaced {
                    attachment: self,
                    old,
                })
            }
            Err(ReplaceError::Refused(error)) => Err(ReplaceFailed {
                error,
                old: Some(self),
            }),
            // The driver may have removed the old one already, which the core does not know.
            Err(ReplaceError::Failed(error)) => Err(self.restore(error)),
        }
    }

    fn try_replace_pasid(&self, pasid: u32, new: &Detached) -> Result<(), ReplaceError> {
        let unit = self.device.unit();
        let _draining = unit.drain_unless_killed().map_err(ReplaceError::Refused)?;
        // SAFETY: Domain and device are live by their types; the handle is pinned, and the caller
        // puts its owner into the attachment.
        let result = to_result(unsafe {
            shim::ioasid_replace_pasid(
                new.translation.as_ptr(),
                self.device.as_ptr(),
                pasid,
                new.handle.raw.get(),
            )
        });
        result.map_err(ReplaceError::of_core)
    }

    /// By way of no translation: VT-d's nested domains do not give up the page requests of the
    /// domain that they replace at the RID.
    fn replace_rid(self, new: Detached) -> Result<Replaced, ReplaceFailed> {
        let (device, group) = (self.device.clone(), self.group.clone());
        let old = self.detach();
        match new.attach(&device, &group, Site::Rid) {
            Ok(attachment) => Ok(Replaced { attachment, old }),
            Err(error) => Err(ReplaceFailed {
                error,
                old: old.and_then(|old| old.attach(&device, &group, Site::Rid).ok()),
            }),
        }
    }

    /// Detaches it and attaches it again.
    fn restore(self, error: Error) -> ReplaceFailed {
        let (device, group, site) = (self.device.clone(), self.group.clone(), self.site);
        let old = self
            .detach()
            .and_then(|old| old.attach(&device, &group, site).ok());
        ReplaceFailed { error, old }
    }

    fn stop(&mut self) {
        let Some(attached) = &self.detached else {
            return;
        };
        let domain = attached.translation.as_ptr();
        let draining = self.device.unit().drain();
        match self.site {
            // SAFETY: Attached there by the invariant.
            Site::Rid => unsafe { shim::ioasid_detach_rid(domain, self.group.as_ptr()) },
            // SAFETY: Attached there by the invariant.
            Site::Pasid(pasid) => unsafe {
                bindings::iommu_detach_device_pasid(domain, self.device.as_ptr(), pasid)
            },
        }
        drop(draining);
        // The core drops the handle only after the driver has waited: a page request that came
        // between still sees it.
        self.device.quiesce_page_requests();
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.stop();
    }
}
