// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A host whose calls are counted and can be made to fail.

use host_iommu::backend::soft::Soft;
use host_iommu::{
    AddressSpaceEntry, AddressSpaceId, Bdf, Binding, Capabilities, DeviceInfo, Error, FaultChannel,
    FaultQueueOptions, HostIommuContext, InvalidationEntry, IovaRange, Mapping, Operation, Pasid,
    PasidRequest, Result, Scope, Stats, Translation,
};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a test decides, and sees.
#[derive(Default)]
pub struct Plan {
    /// The errno of the next binds of tables, one each.
    pub binds: Vec<i32>,
    /// The errno of the next invalidations.
    pub flushes: Vec<i32>,
    /// Invalidations: how many entries each had.
    pub flushed: Vec<usize>,
    /// Binds and unbinds so far.
    pub changes: u32,
    /// The fault queues, as a process keeps them that passes their files on.
    pub channels: Vec<Arc<dyn FaultChannel>>,
    /// A device, and bits of ECAP that its unit lacks.
    pub lacks: Option<(Bdf, u64)>,
    /// Called in each invalidation and bind.
    pub during: Option<Arc<dyn Fn() + Send + Sync>>,
}

#[derive(Clone, Default)]
pub struct Control(Arc<Mutex<Plan>>);

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    pub fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap()
    }

    fn during(&self) {
        let during = self.plan().during.clone();
        if let Some(during) = during {
            during();
        }
    }
}

#[derive(Debug)]
pub struct Unreliable {
    soft: Soft,
    control: Control,
}

impl Unreliable {
    pub fn new(soft: Soft, control: Control) -> Self {
        Self { soft, control }
    }
}

impl HostIommuContext for Unreliable {
    fn capabilities(&self) -> Result<Capabilities> {
        self.soft.capabilities()
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut devices = self.soft.devices()?;
        if let Some((device, bits)) = self.control.plan().lacks {
            let mut all = devices.iter_mut();
            let info = all.find(|info| info.device == device);
            info.into_iter().for_each(|info| info.vtd_ecap &= !bits);
        }
        Ok(devices)
    }

    fn map(&self, mapping: &Mapping<'_>) -> Result<()> {
        self.soft.map(mapping)
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        self.soft.unmap(range)
    }

    fn unmap_all(&self) -> Result<u64> {
        self.soft.unmap_all()
    }

    fn alloc_pasids(&self, request: &PasidRequest) -> Result<Pasid> {
        self.soft.alloc_pasids(request)
    }

    fn free_pasids(&self, first: Pasid, count: u32) -> Result<()> {
        self.soft.free_pasids(first, count)
    }

    fn bind(&self, binding: &Binding<'_>) -> Result<()> {
        self.control.during();
        self.control.plan().changes += 1;
        if matches!(binding.translation, Translation::Stage1(_)) {
            if let Some(errno) = self.control.plan().binds.pop() {
                let operation = Operation::BindStage1 {
                    pasid: binding.pasid,
                    device: binding.device,
                };
                return Err(Error::failed(
                    operation,
                    io::Error::from_raw_os_error(errno),
                ));
            }
        }
        self.soft.bind(binding)
    }

    fn unbind(&self, scope: Scope) -> Result<()> {
        self.control.plan().changes += 1;
        self.soft.unbind(scope)
    }

    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()> {
        self.control.during();
        let mut plan = self.control.plan();
        plan.flushed.push(entries.len());
        if let Some(errno) = plan.flushes.pop() {
            return Err(Error::Flush {
                scope,
                index: 0,
                count: entries.len(),
                source: io::Error::from_raw_os_error(errno),
            });
        }
        drop(plan);
        self.soft.invalidate(scope, entries)
    }

    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<Arc<dyn FaultChannel>> {
        let channel = self.soft.fault_queue(options)?;
        self.control.plan().channels.push(channel.clone());
        Ok(channel)
    }

    fn stats(&self) -> Result<Stats> {
        self.soft.stats()
    }

    fn create_address_space(&self) -> Result<AddressSpaceId> {
        self.soft.create_address_space()
    }

    fn destroy_address_space(&self, id: AddressSpaceId) -> Result<()> {
        self.soft.destroy_address_space(id)
    }

    fn map_address_space(&self, id: AddressSpaceId, entries: &[AddressSpaceEntry]) -> Result<()> {
        self.soft.map_address_space(id, entries)
    }

    fn unmap_address_space(&self, id: AddressSpaceId, ranges: &[IovaRange]) -> Result<()> {
        self.soft.unmap_address_space(id, ranges)
    }
}
