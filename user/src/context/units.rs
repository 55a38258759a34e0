// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest's units over one context have in common.

#[cfg(feature = "vtd")]
use super::host::Inner;
use super::HostIommu;
use crate::error::{Error, Operation, Result};
use crate::ops::PciIommuOps;
#[cfg(feature = "vtd")]
use crate::pasid::PasidRequest;
use crate::pasid::{PasidAllocation, Run};
use crate::sys::Errno;
use crate::types::{Bdf, Pasid};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What is shared.
#[derive(Debug, Default)]
pub(super) struct Units {
    /// Who is told of each device's faults: a context gives those of its DMA to one queue, whichever
    /// vIOMMU the device is behind.
    plugged: Mutex<BTreeMap<Bdf, Weak<dyn PciIommuOps>>>,
    /// PASIDs that several bindings have: those of guests' numbers.
    shared_pasids: Mutex<BTreeMap<Pasid, Weak<Run>>>,
}

/// Tells whether a context is the one it was, and does not keep it.
#[cfg(feature = "vtd")]
#[derive(Clone, Debug)]
pub(crate) struct WeakHost(Weak<Inner>);

#[cfg(feature = "vtd")]
impl WeakHost {
    pub(crate) fn is(&self, host: &HostIommu) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&host.inner))
    }
}

impl HostIommu {
    #[cfg(feature = "vtd")]
    pub(crate) fn weak(&self) -> WeakHost {
        WeakHost(Arc::downgrade(&self.inner))
    }

    /// A vIOMMU has a device from now on, unless another one has it.
    pub(crate) fn set_plugged(&self, device: Bdf, ops: &Arc<dyn PciIommuOps>) -> Result<()> {
        let plugged = self.inner.units.plugged.lock();
        let mut plugged = plugged.unwrap_or_else(PoisonError::into_inner);
        if plugged.contains_key(&device) {
            return Err(Error::failed(Operation::PlugIn(device), Errno::EBUSY));
        }
        plugged.insert(device, Arc::downgrade(ops));
        Ok(())
    }

    /// No vIOMMU has a device any more, and another one may have it.
    pub(crate) fn set_unplugged(&self, device: Bdf) {
        let plugged = self.inner.units.plugged.lock();
        let mut plugged = plugged.unwrap_or_else(PoisonError::into_inner);
        plugged.remove(&device);
    }

    /// The vIOMMU that a device is behind.
    #[cfg(feature = "vtd")]
    pub(crate) fn plugged(&self, device: Bdf) -> Option<Arc<dyn PciIommuOps>> {
        let plugged = self.inner.units.plugged.lock();
        let plugged = plugged.unwrap_or_else(PoisonError::into_inner);
        plugged.get(&device)?.upgrade()
    }

    /// The PASID of a guest's number, which a passed-through device has in its own registers. Numbers
    /// are a device's: several may use the same one, behind one unit or several.
    #[cfg(feature = "vtd")]
    pub(crate) fn shared_pasid(&self, pasid: Pasid) -> Result<PasidAllocation> {
        self.share(pasid, || self.alloc_pasids(&PasidRequest::exactly(pasid)))
    }

    /// The same for one that the host has given to another process, from which this one takes the
    /// context over.
    pub(super) fn adopt_pasid(&self, pasid: Pasid) -> Result<PasidAllocation> {
        self.share(pasid, || Ok(PasidAllocation::adopt(self.clone(), pasid)))
    }

    fn share(
        &self,
        pasid: Pasid,
        make: impl FnOnce() -> Result<PasidAllocation>,
    ) -> Result<PasidAllocation> {
        let shared = self.inner.units.shared_pasids.lock();
        let mut shared = shared.unwrap_or_else(PoisonError::into_inner);
        let known = shared.get(&pasid).and_then(Weak::upgrade);
        if let Some(run) = known {
            return Ok(PasidAllocation::of_run(run));
        }
        let made = make()?;
        // As many as there are PASIDs, and those that are gone leave when another is made.
        shared.retain(|_, run| run.strong_count() != 0);
        shared.insert(pasid, Arc::downgrade(made.run()));
        Ok(made)
    }
}
