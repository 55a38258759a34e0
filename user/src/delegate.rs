// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A context that is shared, or whose backend was chosen at run time, is a context.

use crate::capabilities::{Capabilities, DeviceInfo, Stats};
use crate::context::{Binding, HostIommuContext, Mapping, Scope};
use crate::error::Result;
use crate::fault::{FaultChannel, FaultQueueOptions};
use crate::nesting::InvalidationEntry;
use crate::pasid::PasidRequest;
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::types::{Bdf, IovaRange, Pasid};
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl HostIommuContext for Arc<dyn HostIommuContext> {
    fn attach(&self, fd: OwnedFd) -> Result<u64> {
        (**self).attach(fd)
    }

    fn detach(&self, attached: u64) -> Result<OwnedFd> {
        (**self).detach(attached)
    }

    fn device_fd(&self, device: Bdf) -> Result<OwnedFd> {
        (**self).device_fd(device)
    }

    fn capabilities(&self) -> Result<Capabilities> {
        (**self).capabilities()
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        (**self).devices()
    }

    fn stay(&self, device: Bdf) -> Result<Option<u64>> {
        (**self).stay(device)
    }

    fn map(&self, mapping: &Mapping<'_>) -> Result<()> {
        (**self).map(mapping)
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        (**self).unmap(range)
    }

    fn unmap_all(&self) -> Result<u64> {
        (**self).unmap_all()
    }

    fn alloc_pasids(&self, request: &PasidRequest) -> Result<Pasid> {
        (**self).alloc_pasids(request)
    }

    fn free_pasids(&self, first: Pasid, count: u32) -> Result<()> {
        (**self).free_pasids(first, count)
    }

    fn bind(&self, binding: &Binding<'_>) -> Result<()> {
        (**self).bind(binding)
    }

    fn unbind(&self, scope: Scope) -> Result<()> {
        (**self).unbind(scope)
    }

    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()> {
        (**self).invalidate(scope, entries)
    }

    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<Arc<dyn FaultChannel>> {
        (**self).fault_queue(options)
    }

    fn stats(&self) -> Result<Stats> {
        (**self).stats()
    }

    fn create_address_space(&self) -> Result<AddressSpaceId> {
        (**self).create_address_space()
    }

    fn destroy_address_space(&self, id: AddressSpaceId) -> Result<()> {
        (**self).destroy_address_space(id)
    }

    fn map_address_space(&self, id: AddressSpaceId, entries: &[AddressSpaceEntry]) -> Result<()> {
        (**self).map_address_space(id, entries)
    }

    fn unmap_address_space(&self, id: AddressSpaceId, ranges: &[IovaRange]) -> Result<()> {
        (**self).unmap_address_space(id, ranges)
    }

    fn track_dirty(&self, on: bool) -> Result<()> {
        (**self).track_dirty(on)
    }

    fn read_dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> Result<()> {
        (**self).read_dirty(range, bitmap)
    }
}
