// SPDX-License-Identifier: GPL-2.0
//! Devices of a container, its PASIDs, and the stage-1 tables bound at them.

mod capability;
mod stage1;

use crate::fault::{Counters, FaultQueue, Source};
use crate::ffi::device::{Bdf, Device};
use crate::ffi::group::Group;
use crate::ffi::nested::Attachment;
use crate::ffi::paging::PagingDomain;
use crate::ffi::uapi;
use crate::pasid::Pasids;
use crate::uapi::{Bind, Devices, Invalidate, Scope};
use capability::Capability;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::Arc;

/// What a container may hold at a time.
#[derive(Clone, Copy)]
pub(crate) struct Quotas {
    /// PASIDs.
    pub(crate) pasids: u32,
    /// Bindings: each takes a domain id of the IOMMU unit, of which there are 65,536.
    pub(crate) bindings: u32,
    /// Fault queues.
    pub(crate) fault_queues: u32,
}

/// A device and the group it came with.
struct AttachedDevice {
    device: Device,
    group: Group,
    shared: bool,
}

/// A stage-1 table in force.
struct Binding {
    attachment: Attachment,
    source: Option<Arc<Source>>,
}

impl Binding {
    /// Steps 4 and 5 of a binding's life, see [`crate::fault`].
    fn undo(self) {
        if let Some(source) = &self.source {
            source.stop();
        }
        drop(self.attachment);
        if let Some(source) = &self.source {
            source.cancel();
        }
    }
}

/// Bindings stand by PASID, then device, so that those of a PASID are neighbours.
type Key = (u32, Bdf);

/// The nesting side of a container.
///
/// # Invariants
///
/// - Each binding's device is in `devices`, and its PASID in `pasids`.
/// - `bound` is the number of bindings.
pub(crate) struct Nesting {
    quotas: Quotas,
    counters: Arc<Counters>,
    devices: KVec<AttachedDevice>,
    pasids: Pasids,
    bindings: RBTree<Key, Binding>,
    bound: u32,
    queues: KVec<Arc<FaultQueue>>,
    released: bool,
}

impl Nesting {
    /// Nothing attached, allocated or bound.
    pub(crate) fn new(quotas: Quotas, counters: Arc<Counters>) -> Self {
        Self {
            quotas,
            counters,
            devices: KVec::new(),
            pasids: Pasids::new(quotas.pasids),
            bindings: RBTree::new(),
            bound: 0,
            queues: KVec::new(),
            released: false,
        }
    }

    /// The PASIDs of the container.
    pub(crate) fn pasids(&mut self) -> &mut Pasids {
        &mut self.pasids
    }

    /// Makes room for `count` devices, so that adding them cannot fail.
    pub(crate) fn reserve(&mut self, count: usize) -> Result {
        Ok(self.devices.reserve(count, GFP_KERNEL_ACCOUNT)?)
    }

    /// Adds the devices of a group, for which room was made.
    pub(crate) fn attach(&mut self, group: Group, devices: KVec<Device>) {
        let shared = devices.len() > 1;
        for device in devices {
            let attached = AttachedDevice {
                device,
                group,
                shared,
            };
            if self.devices.push_within_capacity(attached).is_err() {
                pr_warn!("a device was attached without room for it\n");
            }
        }
    }

    /// Unbinds and forgets the devices of a group. Sleeps.
    pub(crate) fn detach(&mut self, group: Group) {
        while let Some(device) = self
            .devices
            .iter()
            .position(|attached| attached.group == group)
            .and_then(|at| self.devices.remove(at).ok())
        {
            if let Some(bdf) = device.device.bdf() {
                self.unbind_where(|key| key.1 == bdf);
            }
        }
    }

    /// The container is gone: nothing is attached any more, and no fault comes.
    pub(crate) fn release(&mut self) {
        self.released = true;
        self.unbind_where(|_| true);
        self.pasids = Pasids::new(self.quotas.pasids);
        for queue in &self.queues {
            queue.end();
        }
    }

    /// Frees PASIDs.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if one of them is bound, and those of [`Pasids::free`].
    pub(crate) fn free_pasids(&mut self, first: u32, count: u32) -> Result {
        let lowest = Bdf {
            segment: 0,
            bus: 0,
            devfn: 0,
        };
        let bound = self
            .bindings
            .cursor_lower_bound(&(first, lowest))
            .map(|cursor| cursor.current().0 .0)
            .is_some_and(|pasid| pasid - first < count);
        if bound {
            return Err(EBUSY);
        }
        self.pasids.free(first, count)
    }

    /// Binds a stage-1 table on `parent`. Sleeps.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_BIND` has them.
    pub(crate) fn bind(
        &mut self,
        bind: Bind,
        parent: Arc<PagingDomain>,
        queue: Option<Arc<FaultQueue>>,
    ) -> Result {
        let attached = self.device(bind.device)?;
        let capability = Capability::of(&attached.device, attached.shared, parent.is_nest_parent());
        let support = capability.nesting.map_err(|_| EOPNOTSUPP)?;
        if queue.is_some() {
            capability.page_requests.map_err(|_| EOPNOTSUPP)?;
        }
        stage1::check_data(&bind.data, &support)?;
        if !self.pasids.contains(bind.pasid) {
            return Err(ENOENT);
        }
        if bind.pasid >= attached.device.max_pasids() {
            return Err(EOPNOTSUPP);
        }
        let key = (bind.pasid, bind.device);
        if self.bindings.get(&key).is_some() {
            return Err(EBUSY);
        }
        if self.bound >= self.quotas.bindings {
            return Err(EDQUOT);
        }
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let source = queue
            .map(|queue| Source::new(queue, bind.device, bind.guest_pasid, bind.cookie))
            .transpose()?;
        let attachment = Attachment::new(
            parent,
            &attached.device,
            bind.pasid,
            bind.data,
            source.clone(),
        )
        // Nothing of ours is there, so the core is busy with the device's recovery.
        .map_err(|error| if error == EBUSY { EAGAIN } else { error })?;
        self.bindings
            .insert(node.into_node(key, Binding { attachment, source }));
        self.bound += 1;
        Ok(())
    }

    /// Unbinds what is in scope. Sleeps.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the one binding, or the device, is not there.
    pub(crate) fn unbind(&mut self, scope: Scope) -> Result {
        match scope {
            Scope::Binding(device, pasid) => {
                let binding = self.bindings.remove(&(pasid, device)).ok_or(ENOENT)?;
                self.bound -= 1;
                binding.undo();
            }
            Scope::Device(device) => {
                self.device(device)?;
                self.unbind_where(|key| key.1 == device);
            }
            Scope::Container => self.unbind_where(|_| true),
        }
        Ok(())
    }

    fn unbind_where(&mut self, wanted: impl Fn(&Key) -> bool) {
        let mut cursor = self.bindings.cursor_front_mut();
        while let Some(here) = cursor {
            cursor = if wanted(here.current().0) {
                let (next, node) = here.remove_current();
                self.bound -= 1;
                node.to_key_value().1.undo();
                next
            } else {
                here.move_next()
            };
        }
    }

    /// Carries invalidation entries out. Gives how many were done, the index of the first bad
    /// one (their number if none), and how it ended.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_INVALIDATE` has them.
    pub(crate) fn invalidate(&self, call: &Invalidate) -> (u32, u32, Result) {
        let (good, checked) = match self.check_invalidate(call) {
            Ok(checked) => checked,
            Err(error) => return (0, 0, Err(error)),
        };
        let mut entries = call.entries;
        entries.count = good;
        let mut done = good;
        let mut result = Ok(());
        let mut one = |binding: &Binding| {
            let (count, outcome) = binding.attachment.invalidate(entries);
            self.counters.invalidations.add(u64::from(count));
            done = done.min(count);
            if result.is_ok() {
                result = outcome;
            }
        };
        if good != 0 {
            match call.scope {
                Scope::Binding(device, pasid) => {
                    if let Some(binding) = self.bindings.get(&(pasid, device)) {
                        one(binding);
                    }
                }
                Scope::Device(device) => self
                    .bindings
                    .iter()
                    .filter(|(key, _)| key.1 == device)
                    .for_each(|(_, binding)| one(binding)),
                Scope::Container => self.bindings.values().for_each(one),
            }
        }
        let bad = if result.is_err() { done } else { good };
        (done, bad, result.and(checked))
    }

    fn check_invalidate(&self, call: &Invalidate) -> Result<(u32, Result)> {
        match call.scope {
            Scope::Binding(device, pasid) => {
                self.bindings.get(&(pasid, device)).ok_or(ENOENT)?;
            }
            Scope::Device(device) => {
                self.device(device)?;
            }
            Scope::Container => {}
        }
        stage1::check_entries(&call.entries)
    }

    /// Depth of a fault queue whose user did not choose: no attached device overflows it alone.
    pub(crate) fn default_depth(&self) -> u32 {
        let devices = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        FaultQueue::DEPTH_PER_DEVICE
            .saturating_mul(devices.max(1))
            .min(uapi::VFIO_IOASID_FAULT_DEPTH_MAX)
    }

    /// Takes a new fault queue in.
    ///
    /// # Errors
    ///
    /// - [`EDQUOT`] if there are too many.
    /// - [`EINVAL`] if the container was released meanwhile.
    pub(crate) fn add_queue(&mut self, queue: Arc<FaultQueue>) -> Result {
        if self.released {
            return Err(EINVAL);
        }
        if self.queues.len() >= self.quotas.fault_queues as usize {
            return Err(EDQUOT);
        }
        Ok(self.queues.push(queue, GFP_KERNEL_ACCOUNT)?)
    }

    /// Forgets a fault queue whose fd is closed.
    pub(crate) fn forget_queue(&mut self, queue: &Arc<FaultQueue>) {
        self.queues.retain(|other| !Arc::ptr_eq(other, queue));
    }

    /// The report of the container, on its stage-2 domain.
    pub(crate) fn report(&self, parent: Option<&PagingDomain>) -> uapi::vfio_ioasid_cap_nesting {
        let mut report = capability::no_device();
        for attached in &self.devices {
            let device = &attached.device;
            let capability = self.capability(attached, parent);
            capability::add_to_report(&mut report, device, &capability);
        }
        if parent.is_some_and(PagingDomain::is_nest_parent) {
            report.flags |= uapi::VFIO_IOASID_NESTING_NO_READONLY;
        }
        if parent.is_some_and(PagingDomain::is_coherent) {
            report.flags |= uapi::VFIO_IOASID_NESTING_COHERENT;
        }
        report.max_pasids = self.pasids.quota();
        report.max_bindings = self.quotas.bindings;
        report.max_fault_queues = self.quotas.fault_queues;
        report
    }

    /// Writes the devices into the user's array; gives their number.
    pub(crate) fn write_devices(
        &self,
        call: &Devices,
        parent: Option<&PagingDomain>,
    ) -> Result<u32> {
        for (index, attached) in self.devices.iter().take(call.room as usize).enumerate() {
            let capability = self.capability(attached, parent);
            call.write(
                index,
                &capability::device_info(&attached.device, &capability),
            )?;
        }
        Ok(u32::try_from(self.devices.len())?)
    }

    /// Fills in the numbers that are a matter of this moment.
    pub(crate) fn fill_stats(&self, stats: &mut uapi::vfio_ioasid_stats) {
        stats.pasids = u64::from(self.pasids.taken());
        stats.bindings = u64::from(self.bound);
        stats.fault_queues = self.queues.len() as u64;
    }

    fn capability(&self, attached: &AttachedDevice, parent: Option<&PagingDomain>) -> Capability {
        let nest_parent = parent.is_some_and(PagingDomain::is_nest_parent);
        Capability::of(&attached.device, attached.shared, nest_parent)
    }

    fn device(&self, bdf: Bdf) -> Result<&AttachedDevice> {
        self.devices
            .iter()
            .find(|attached| attached.device.bdf() == Some(bdf))
            .ok_or(ENOENT)
    }
}
