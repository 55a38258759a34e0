// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a soft context holds, under one lock.

use super::super::bindings::{self, Bindings};
use super::super::pasid::Pool;
use super::super::queue::Queue;
use super::super::shared::{count, Kept, Shared};
use super::dma::Device;
use super::iotlb::Iotlb;
use super::memory::Stage2;
use super::queue::Asker;
use super::spaces::Spaces;
use super::MAX_BINDINGS;
use crate::capabilities::Stats;
use crate::context::{Scope, Translation};
use crate::nesting::InvalidationEntry;
use crate::sys::Errno;
use crate::types::{Bdf, IovaRange, Pasid};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The state, and who waits for it to change.
pub(super) type Inner = Shared<State>;

/// A translation in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) translation: Translation,
    /// Where page requests go.
    pub(super) queue: Option<u64>,
}

impl bindings::Bound for Bound {
    fn translation(&self) -> Translation {
        self.translation
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) ended: bool,
    /// Devices that were plugged in so far.
    pub(super) stays: u64,
    /// Whether dirty pages may be asked for.
    pub(super) tracking: bool,
    pub(super) stage2: Stage2,
    pub(super) iotlb: Iotlb,
    pub(super) spaces: Spaces,
    pub(super) pasids: Pool,
    pub(super) devices: BTreeMap<Bdf, Device>,
    pub(super) bindings: Bindings<Bound>,
    pub(super) queues: BTreeMap<u64, Queue<Asker>>,
    pub(super) next_queue: u64,
    /// The queue that gets the DMA faults that no binding's queue gets.
    pub(super) dma_queue: Option<u64>,
    pub(super) counters: Stats,
}

impl Kept for State {
    type Asker = Asker;

    fn queue(&mut self, id: u64) -> Option<&mut Queue<Asker>> {
        self.queues.get_mut(&id)
    }

    fn signal(&mut self) {
        self.queues.values_mut().for_each(Queue::signal);
    }

    fn resume(&mut self, _queue: u64, asker: Asker, success: bool) {
        self.go_on(&asker, success);
    }

    fn close(&mut self, queue: u64) {
        if let Some(mut found) = self.queues.remove(&queue) {
            let askers = found.cancel_all();
            self.refuse(&askers);
        }
        if self.dma_queue == Some(queue) {
            self.dma_queue = None;
        }
    }

    fn counters(&mut self) -> &mut Stats {
        &mut self.counters
    }
}

impl State {
    pub(super) fn bind(
        &mut self,
        device: Bdf,
        pasid: Pasid,
        bound: Bound,
        replace: bool,
    ) -> Result<(), Errno> {
        let options = self.devices.get(&device).ok_or(Errno::ENOENT)?.options;
        if let Translation::Stage1(table) = &bound.translation {
            table.walked_by_host()?;
        }
        match bound.translation {
            // Both widths are there.
            Translation::Stage1(table) if table.root.0 % 4096 == 0 && table.root.0 >> 52 == 0 => {}
            Translation::AddressSpace { .. } => {}
            Translation::Stage2 { .. } | Translation::Blocked { .. } if bound.queue.is_none() => {}
            _ => return Err(Errno::EINVAL),
        }
        // Requests without PASID are any device's.
        if (pasid != Pasid::RID && options.max_pasids == 0)
            || (bound.queue.is_some() && !options.page_requests)
        {
            return Err(Errno::EOPNOTSUPP);
        }
        if bound.queue.is_some_and(|id| !self.queues.contains_key(&id)) {
            return Err(Errno::EINVAL);
        }
        if pasid != Pasid::RID {
            if !self.pasids.holds(pasid.get()) {
                return Err(Errno::ENOENT);
            }
            if pasid.get() >= options.max_pasids {
                return Err(Errno::EINVAL);
            }
        }
        if let Translation::AddressSpace { id, .. } = bound.translation {
            self.spaces.find(id.get())?;
        }
        let key = (device, pasid);
        self.bindings
            .admit(&key, bound.translation, replace, MAX_BINDINGS)?;
        // With what the device has cached, of stage 2 alone if nothing is bound.
        self.detach(device, pasid);
        self.bindings.insert(key, bound);
        Ok(())
    }

    pub(super) fn destroy_space(&mut self, id: u32) -> Result<(), Errno> {
        self.spaces.find(id)?;
        if self.bindings.of_space(id).next().is_some() {
            return Err(Errno::EBUSY);
        }
        self.spaces.remove(id, &mut self.stage2);
        Ok(())
    }

    pub(super) fn unmap_space(&mut self, id: u32, range: IovaRange) -> Result<(), Errno> {
        self.spaces.unmap(id, range, &mut self.stage2)?;
        for (device, pasid) in self.bindings.of_space(id) {
            if let Some(device) = self.devices.get_mut(&device) {
                device.invalidate(pasid, range);
            }
        }
        Ok(())
    }

    fn drop_cached(&mut self, device: Bdf, pasid: Pasid, range: IovaRange) {
        if let Some(device) = self.devices.get_mut(&device) {
            device.invalidate(pasid, range);
        }
    }

    /// Takes a binding out: nothing is translated by it or waits for it afterwards.
    fn detach(&mut self, device: Bdf, pasid: Pasid) {
        self.bindings.remove(&(device, pasid));
        self.iotlb
            .invalidate((device, pasid), IovaRange::ALL, false);
        self.drop_cached(device, pasid, IovaRange::ALL);
        let askers: Vec<Asker> = self
            .queues
            .values_mut()
            .flat_map(|queue| queue.cancel_binding(device, pasid))
            .collect();
        self.refuse(&askers);
    }

    /// The host answers INVALID.
    fn refuse(&mut self, askers: &[Asker]) {
        for asker in askers {
            count(&mut self.counters.host_invalid, 1);
            self.go_on(asker, false);
        }
    }

    fn in_scope(&self, scope: Scope) -> Result<Vec<(Bdf, Pasid)>, Errno> {
        let attached = |device| self.devices.contains_key(&device);
        self.bindings.in_scope(attached, scope)
    }

    pub(super) fn unbind(&mut self, scope: Scope) -> Result<(), Errno> {
        for (device, pasid) in self.in_scope(scope)? {
            self.detach(device, pasid);
        }
        Ok(())
    }

    pub(super) fn invalidate(
        &mut self,
        scope: Scope,
        entries: &[InvalidationEntry],
    ) -> Result<(), Errno> {
        let mut keys = self.in_scope(scope)?;
        // What is cached of the others goes with the calls that change them.
        keys.retain(|key| {
            let bound = self.bindings.get(key);
            bound.is_some_and(|bound| matches!(bound.translation, Translation::Stage1(_)))
        });
        for (device, pasid) in keys {
            for entry in entries {
                self.iotlb
                    .invalidate((device, pasid), entry.range, entry.leaf_only);
                self.drop_cached(device, pasid, entry.range);
                count(&mut self.counters.invalidations, 1);
            }
        }
        Ok(())
    }

    /// Whatever devices have cached goes with a mapping.
    pub(super) fn unmap(&mut self, range: IovaRange) -> Result<u64, Errno> {
        let (bytes, users) = self.stage2.unmap(range)?;
        for user in users {
            self.spaces.take_out(user, &mut self.stage2);
        }
        if bytes != 0 {
            self.devices.values_mut().for_each(Device::invalidate_all);
        }
        Ok(bytes)
    }

    /// Answers what is due in a queue: whether something was, and how long until the next is, at
    /// most `limit`. `None` if there is no such queue, or it is at its end.
    pub(super) fn expire(&mut self, queue: u64, limit: Duration) -> Option<(bool, Duration)> {
        let now = Instant::now();
        let queue = self.queues.get_mut(&queue).filter(|_| !self.ended)?;
        let (askers, next) = queue.expire(now);
        count(&mut self.counters.expired, askers.len() as u64);
        self.refuse(&askers);
        let next = next.map(|next| next.saturating_duration_since(now));
        Some((
            !askers.is_empty(),
            next.map_or(limit, |next| next.min(limit)),
        ))
    }

    /// A device is unplugged.
    pub(super) fn remove_device(&mut self, device: Bdf) -> Result<(), Errno> {
        self.unbind(Scope::Device(device))?;
        self.devices.remove(&device);
        Ok(())
    }

    /// The context goes.
    pub(super) fn end(&mut self) {
        self.ended = true;
        while let Some((device, pasid)) = self.bindings.first() {
            self.detach(device, pasid);
        }
        self.devices.clear();
        self.pasids.clear();
        self.stage2 = Stage2::default();
        self.spaces = Spaces::default();
        self.iotlb.clear();
        self.queues.values_mut().for_each(Queue::end);
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            pasids: self.pasids.count() as u64,
            bindings: self.bindings.count() as u64,
            fault_queues: self.queues.len() as u64,
            address_spaces: self.spaces.count() as u64,
            address_space_entries: self.spaces.entries() as u64,
            mapped_pages: self.stage2.pages(),
            ..self.counters
        }
    }
}
