// SPDX-License-Identifier: GPL-2.0
//! Domains attached to a device, at a PASID or at its requests without PASID.
//!
//! C headers: [`include/linux/iommu.h`](srctree/include/linux/iommu.h),
//! [`drivers/iommu/iommu-priv.h`](srctree/drivers/iommu/iommu-priv.h)

use super::device::Device;
use super::group::Group;
use super::iopf::PageRequests;
use super::nested::NestedDomain;
use super::paging::PagingDomain;
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
}

// SAFETY: The handle is touched by the IOMMU core alone, and not while it is attached nowhere.
unsafe impl Send for Detached {}
// SAFETY: As above.
unsafe impl Sync for Detached {}

impl Detached {
    /// `translation`, and where its page requests go. Only a domain that was made to take page
    /// requests has any.
    pub(crate) fn new(
        translation: Translation,
        page_requests: Option<Arc<dyn PageRequests>>,
    ) -> Result<Self> {
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
                // SAFETY: Domain and group are live; the handle is pinned and outlives the
                // attachment.
                let error = unsafe { shim::ioasid_attach_rid(domain, group.as_ptr(), handle) };
                to_result(error).inspect_err(|_| {
                    // The device may be blocked while the core still names what was there before.
                    // SAFETY: Domain and group are live.
                    unsafe { shim::ioasid_detach_rid(domain, group.as_ptr()) }
                })
            }
            // SAFETY: Domain and device are live; the handle is pinned and outlives the
            // attachment.
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

    /// Attaches it at the RID, where `stage2` is attached. Sleeps.
    ///
    /// # Errors
    ///
    /// As [`Self::attach`].
    pub(crate) fn attach_over_stage2(
        self,
        stage2: &PagingDomain,
        device: &Device,
        group: &Group,
    ) -> Result<Attachment, AttachOverFailed> {
        let unchanged = |error| AttachOverFailed {
            error,
            stage2_in_force: true,
        };
        let _draining = device.unit().drain_unless_killed().map_err(unchanged)?;
        // SAFETY: Domain and group are live; the handle is pinned and outlives the attachment.
        let result = to_result(unsafe {
            shim::ioasid_replace_rid(
                self.translation.as_ptr(),
                group.as_ptr(),
                self.handle.raw.get(),
            )
        });
        match result {
            // INVARIANT: Attached just now.
            Ok(()) => Ok(Attachment {
                device: device.clone(),
                group: group.clone(),
                site: Site::Rid,
                detached: Some(self),
            }),
            // Refused before anything was touched.
            Err(EBUSY) => Err(unchanged(EAGAIN)),
            // The driver may have blocked the device, which the core does not know.
            Err(error) => {
                stage2.detach_group(group);
                Err(AttachOverFailed {
                    error,
                    stage2_in_force: stage2.attach_group(group).is_ok(),
                })
            }
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

/// Nothing was attached in the place of stage 2.
pub(crate) struct AttachOverFailed {
    /// Why.
    pub(crate) error: Error,
    /// Whether stage 2 is in force; if not, nothing is.
    pub(crate) stage2_in_force: bool,
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
    pub(crate) fn replace(self, new: Detached) -> Result<(Self, Option<Detached>), ReplaceFailed> {
        match self.site {
            Site::Rid => self.replace_rid(new),
            Site::Pasid(pasid) => self.replace_pasid(pasid, new),
        }
    }

    fn replace_pasid(
        mut self,
        pasid: u32,
        new: Detached,
    ) -> Result<(Self, Option<Detached>), ReplaceFailed> {
        let device = self.device.clone();
        let draining = match device.unit().drain_unless_killed() {
            Ok(draining) => draining,
            Err(error) => {
                return Err(ReplaceFailed {
                    error,
                    old: Some(self),
                })
            }
        };
        // SAFETY: Domain and device are live; the handle is pinned and outlives the attachment.
        let result = to_result(unsafe {
            shim::ioasid_replace_pasid(
                new.translation.as_ptr(),
                self.device.as_ptr(),
                pasid,
                new.handle.raw.get(),
            )
        });
        drop(draining);
        match result {
            Ok(()) => {
                self.device.quiesce_page_requests();
                // INVARIANT: `new` was attached just now.
                let old = self.detached.replace(new);
                Ok((self, old))
            }
            // Refused before anything was touched.
            Err(EBUSY) => Err(ReplaceFailed {
                error: EAGAIN,
                old: Some(self),
            }),
            // The driver may have removed the old one already, which the core does not know.
            Err(error) => Err(self.restore(error)),
        }
    }

    /// By way of no translation: VT-d's nested domains do not give up the page requests of the
    /// domain that they replace at the RID.
    fn replace_rid(self, new: Detached) -> Result<(Self, Option<Detached>), ReplaceFailed> {
        let (device, group) = (self.device.clone(), self.group.clone());
        let old = self.detach();
        match new.attach(&device, &group, Site::Rid) {
            Ok(new) => Ok((new, old)),
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
            // SAFETY: Attached there by the invariant. The driver waits for the page request
            // thread, which takes none of the locks that are held here.
            Site::Rid => unsafe { shim::ioasid_detach_rid(domain, self.group.as_ptr()) },
            // SAFETY: As above.
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
