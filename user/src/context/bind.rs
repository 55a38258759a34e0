// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a VMM binds at the PASIDs and the RID of its devices, and takes to another host.

use super::{HostIommu, Scope, Translation};
use crate::error::{is_gone, Error, Operation, Result};
use crate::fault::FaultQueue;
use crate::nesting::{GuestTable, Stage1Binding};
use crate::pasid::{PasidAllocation, PasidRequest};
use crate::registry::BoundTable;
use crate::space::AddressSpace;
use crate::sys::Errno;
use crate::trace::{tell, trace_failure};
use crate::types::{Bdf, Pasid};
use std::collections::BTreeMap;

impl HostIommu {
    /// Binds a guest's stage-1 table at `pasid`, one of `pasids`, of a device.
    ///
    /// From now on the device's requests by this PASID are translated by the table and then by
    /// what is mapped. With a fault queue, pages that are not present are asked for there;
    /// without one such a request fails.
    ///
    /// # Errors
    ///
    /// - [`Error::PasidNotAllocated`] and [`Error::OtherContext`] for values that do not belong
    ///   together.
    /// - [`Error::Failed`] with EOPNOTSUPP where the host cannot nest (the capabilities say why),
    ///   EINVAL for a bad table, ENOENT for a device that is not attached, EBUSY where something
    ///   is bound, EDQUOT at the quota, and EAGAIN while the device is being reset.
    pub fn bind(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        table: &GuestTable,
        faults: Option<&FaultQueue>,
    ) -> Result<Stage1Binding> {
        let translation = Translation::Stage1(*table);
        Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, faults)
    }

    /// Binds stage 2 itself at `pasid`: a guest's passthrough entry. `guest_pasid` is the guest's
    /// number, if it is another one.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`].
    pub fn bind_stage2(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        guest_pasid: Option<u32>,
    ) -> Result<Stage1Binding> {
        let translation = Translation::Stage2 { guest_pasid };
        Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, None)
    }

    /// Binds an address space at `pasid`. `guest_pasid` is the guest's number, if it is another
    /// one.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`], and ENOENT for an address space that was destroyed.
    pub fn bind_address_space(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        space: &AddressSpace,
        guest_pasid: Option<u32>,
    ) -> Result<Stage1Binding> {
        if !space.is_of(self) {
            return Err(Error::OtherContext("address space"));
        }
        if !space.is_held(&self.registry()) {
            let operation = Operation::BindStage1 { pasid, device };
            return Err(Error::failed(operation, Errno::ENOENT));
        }
        let translation = Translation::AddressSpace {
            id: space.id(),
            guest_pasid,
        };
        let bound =
            Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, None)?;
        Ok(bound.keeping(space.held().clone()))
    }

    /// Binds a guest's stage-1 table at the requests of a device without PASID, in place of stage 2
    /// alone; that comes back when the binding goes.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`].
    pub fn bind_rid(
        &self,
        device: Bdf,
        table: &GuestTable,
        faults: Option<&FaultQueue>,
    ) -> Result<Stage1Binding> {
        Stage1Binding::at_rid(self.clone(), device, Translation::Stage1(*table), faults)
    }

    /// Stops the requests of a device by `pasid`, as a guest's entry does that is not present.
    /// `guest_pasid` is the guest's number, if it is another one.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`], but for EDQUOT: it counts to no quota.
    pub fn block(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        guest_pasid: Option<u32>,
    ) -> Result<Stage1Binding> {
        let translation = Translation::Blocked { guest_pasid };
        Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, None)
    }

    /// Stops the requests of a device without PASID, in place of stage 2, which comes back when the
    /// binding goes. [`Stage1Binding::rebind`] puts a table there in one step.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOENT for a device that is not attached, EBUSY where something else
    /// than this is bound.
    pub fn block_rid(&self, device: Bdf) -> Result<Stage1Binding> {
        let translation = Translation::Blocked { guest_pasid: None };
        Stage1Binding::at_rid(self.clone(), device, translation, None)
    }

    /// Unbinds what is in a scope, as a guest's reset does. What was owned there does nothing any
    /// more, but keeps its PASIDs.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOENT if nothing is bound there, or the device is not attached.
    pub fn unbind(&self, scope: Scope) -> Result<()> {
        let mut registry = self.registry();
        let unbound = trace_failure(self.context().unbind(scope));
        if is_gone(&unbound) {
            // It went with its device.
            self.settle_all(&mut registry);
        }
        unbound?;
        tell!(debug, %scope, "unbound");
        match scope {
            Scope::Binding(device, pasid) => registry.remove(device, pasid),
            Scope::Device(device) => registry.remove_device(device),
            Scope::All => registry.clear(),
        }
        Ok(())
    }

    /// The host's PASID for a guest's: that of the binding that named it, or else the same number.
    /// `None` if that number stands for another PASID of the guest on this device.
    pub fn host_pasid(&self, device: Bdf, guest: Pasid) -> Option<Pasid> {
        self.registry().host_pasid(device, guest)
    }

    /// The guest's number for a PASID of the host: that of the binding, or else the same.
    pub fn guest_pasid(&self, device: Bdf, pasid: Pasid) -> u32 {
        self.registry().guest_pasid(device, pasid)
    }

    /// The tables, passthrough and blocked bindings in force, by device and PASID: with the tables in
    /// guest memory all that another host needs. Address spaces are the VMM's own, and made anew by it.
    pub fn export(&self) -> Vec<BoundTable> {
        let mut registry = self.registry();
        self.settle_all(&mut registry);
        registry.export()
    }

    /// Takes as its own what another process has bound in this context and leaves to this one, as
    /// [`HostIommu::export`] gave it there: for a VMM that another one's process takes the place of,
    /// with the context's files. The host is asked for nothing, so that DMA goes on, and page requests
    /// go where they went. What is named and is not bound fails with ENOENT when it is used.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOENT for a device that is not attached, EINVAL for an address space,
    /// which a bare number does not own. Nothing is taken then.
    pub fn adopt(&self, tables: &[BoundTable]) -> Result<Vec<Stage1Binding>> {
        let devices = self.devices()?;
        for bound in tables {
            let (pasid, device) = (bound.pasid, bound.device);
            let failed = |errno| Error::failed(Operation::BindStage1 { pasid, device }, errno);
            if matches!(bound.translation, Translation::AddressSpace { .. }) {
                return Err(failed(Errno::EINVAL));
            }
            if !devices.iter().any(|info| info.device == device) {
                return Err(failed(Errno::ENOENT));
            }
        }
        let adopt = |bound: &BoundTable| {
            let pasids = match bound.pasid {
                Pasid::RID => None,
                pasid => Some(self.adopt_pasid(pasid)?),
            };
            Stage1Binding::adopt(self, bound, pasids.as_ref())
        };
        let mut taken = Vec::new();
        for bound in tables {
            match adopt(bound) {
                Ok(binding) => taken.push(binding),
                Err(error) => {
                    // The other process has them still: a drop would unbind them at the host.
                    taken.into_iter().for_each(std::mem::forget);
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Binds what [`HostIommu::export`] gave, at the same PASIDs: all of it, or nothing.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::alloc_pasids`] for PASIDs that are taken, and [`HostIommu::bind`]. EINVAL for
    /// an address space, which a bare number does not own: [`HostIommu::bind_address_space`] does.
    pub fn import(
        &self,
        tables: &[BoundTable],
        faults: Option<&FaultQueue>,
    ) -> Result<Vec<Stage1Binding>> {
        let mut pasids = BTreeMap::new();
        let mut bindings = Vec::new();
        for bound in tables {
            let BoundTable {
                device,
                pasid,
                translation,
            } = *bound;
            if matches!(translation, Translation::AddressSpace { .. }) {
                let operation = Operation::BindStage1 { pasid, device };
                return Err(Error::failed(operation, Errno::EINVAL));
            }
            // Only tables have page requests.
            let faults = faults.filter(|_| matches!(translation, Translation::Stage1(_)));
            let host = self.clone();
            if pasid == Pasid::RID {
                bindings.push(Stage1Binding::at_rid(host, device, translation, faults)?);
                continue;
            }
            let allocation = match pasids.remove(&pasid) {
                Some(allocation) => allocation,
                None => self.alloc_pasids(&PasidRequest::exactly(pasid))?,
            };
            let run = &allocation;
            let bound = Stage1Binding::at_pasid(host, device, run, pasid, translation, faults)?;
            bindings.push(bound);
            pasids.insert(pasid, allocation);
        }
        Ok(bindings)
    }
}
