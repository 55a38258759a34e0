// SPDX-License-Identifier: GPL-2.0
//! Stage 2 attached at the RIDs of a group.
//!
//! C headers: [`include/linux/iommu.h`](srctree/include/linux/iommu.h),
//! [`drivers/iommu/iommu-priv.h`](srctree/drivers/iommu/iommu-priv.h)

use super::attach::{Attachment, Detached, ReplaceError};
use super::device::Device;
use super::group::Group;
use super::paging::{InUse, PagingDomain};
use super::unit::Unit;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Stage 2 in force at the RIDs of a group; dropped, it is detached: their DMA is blocked.
///
/// # Invariants
///
/// `domain` is attached to `group`, which is behind `unit`; it is `None` only on the way to the end
/// of this value.
pub(crate) struct GroupAttachment {
    domain: Option<InUse>,
    group: Group,
    unit: Arc<Unit>,
}

/// Nothing was attached in the place of stage 2.
pub(crate) struct ReplaceStage2Failed {
    /// Why.
    pub(crate) error: Error,
    /// Stage 2 if it is in force; otherwise nothing is.
    pub(crate) stage2: Option<GroupAttachment>,
}

impl GroupAttachment {
    /// Attaches `domain` at the RIDs of `group`, the one of `device`. Sleeps.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says; [`EBUSY`] if something is attached there, or the device is
    /// reset; [`ENODEV`] if the domain is retired.
    pub(crate) fn new(domain: &Arc<PagingDomain>, group: &Group, device: &Device) -> Result<Self> {
        let domain = InUse::of(domain)?;
        // SAFETY: Domain and group are live by their types.
        to_result(unsafe { bindings::iommu_attach_group(domain.as_ptr(), group.as_ptr()) })?;
        // INVARIANT: Attached just now.
        Ok(Self {
            domain: Some(domain),
            group: group.clone(),
            unit: device.unit().clone(),
        })
    }

    /// Puts `new` in its place, at the RID of `device`, which is alone in the group. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Detached::attach`]; what is in force then stands in the error.
    pub(crate) fn replace(
        mut self,
        new: Detached,
        device: &Device,
    ) -> Result<Attachment, ReplaceStage2Failed> {
        let error = match new.replace_group(device, &self.group) {
            Ok(attachment) => {
                // INVARIANT: The core has taken it from there.
                self.domain = None;
                return Ok(attachment);
            }
            Err(ReplaceError::Refused(error)) => {
                return Err(ReplaceStage2Failed {
                    error,
                    stage2: Some(self),
                })
            }
            // The driver may have blocked the device, which the core does not know.
            Err(ReplaceError::Failed(error)) => error,
        };
        let group = self.group.clone();
        let domain = self.detach();
        let stage2 = domain.and_then(|domain| Self::new(&domain, &group, device).ok());
        Err(ReplaceStage2Failed { error, stage2 })
    }

    fn detach(mut self) -> Option<Arc<PagingDomain>> {
        self.stop();
        Some(self.domain.take()?.domain().clone())
    }

    fn stop(&self) {
        let Some(domain) = &self.domain else {
            return;
        };
        // The driver waits for the page requests of a device that has any on.
        let _draining = self.unit.drain();
        // SAFETY: Attached there by the invariant. The driver may wait for the page request
        // thread, which takes no lock of the unit.
        unsafe { bindings::iommu_detach_group(domain.as_ptr(), self.group.as_ptr()) }
    }
}

impl Drop for GroupAttachment {
    fn drop(&mut self) {
        self.stop();
    }
}
