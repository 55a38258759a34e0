// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The unit: what a guest's access to its registers does.

use super::descriptor::{Descriptor, QueueError};
use super::device::Device;
use super::events::{Outbox, VtdEvent};
use super::faults::{self, Fault};
use super::memory::Memory;
use super::registers::{
    Msi, Registers, CCMD, FECTL, GCMD, GSTS, ICS, IECTL, IOTLB, IQA, IQH, IQT, PECTL, PRS, RTADDR,
};
use super::requests::{self, Requests};
use super::tables::{Offered, SourceId};
use super::work::{Tables, Work, BUDGET};
use crate::context::HostIommu;
use crate::fault::{FaultGroup, FaultQueue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// GCMD and GSTS.
const TRANSLATION: u64 = 1 << 31;
const SET_ROOT: u64 = 1 << 30;
const QUEUE: u64 = 1 << 26;
/// CCMD's and IOTLB's: an invalidation is asked for.
const INVALIDATE: u64 = 1 << 63;
/// IQA: descriptors of 256 bits.
const WIDE: u64 = 1 << 11;
/// Bytes of one.
const DESCRIPTOR: u64 = 32;
/// What a unit is.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) registers: Registers,
    pub(super) offered: Offered,
    pub(super) devices: BTreeMap<SourceId, Device>,
    pub(super) requests: Requests,
    work: Work,
    /// What RTADDR was when the guest set the root.
    pub(super) root: u64,
    pub(super) next_record: usize,
    /// Counts what may have changed a translation.
    pub(super) epoch: u64,
}

impl Unit {
    pub(super) fn new(registers: Registers, offered: Offered) -> Self {
        Self {
            registers,
            offered,
            devices: BTreeMap::new(),
            requests: Requests::default(),
            work: Work::default(),
            root: 0,
            next_record: 0,
            epoch: 0,
        }
    }

    /// The guest's tables at this moment.
    pub(super) fn tables<'a>(&'a self, memory: &'a dyn Memory) -> Tables<'a> {
        Tables {
            memory,
            offered: &self.offered,
            root: self.translation_root(),
        }
    }

    /// A guest's write.
    pub(super) fn write(
        &mut self,
        memory: &dyn Memory,
        offset: u64,
        data: &[u8],
        out: &mut Outbox,
    ) -> bool {
        if !self.registers.write(offset, data) {
            return false;
        }
        let end = offset.saturating_add(data.len() as u64);
        // Whether the last byte of a register was written: halves come lower first.
        let written = |register: usize, width: usize| {
            let last = (register + width) as u64 - 1;
            offset <= last && last < end
        };
        if written(GCMD, 4) {
            self.command(out);
        }
        // Invalidation by registers is not offered in scalable mode: it is done at once.
        for register in [CCMD, IOTLB] {
            if written(register, 8) {
                self.registers.lower(register, 8, INVALIDATE);
            }
        }
        faults::settle(&mut self.registers);
        if self.registers.get(ICS, 4) & 1 == 0 {
            self.registers.settle(IECTL);
        }
        if self.registers.get(PRS, 4) & 3 == 0 {
            self.registers.settle(PECTL);
        }
        for control in [FECTL, IECTL, PECTL] {
            out.interrupt(self.registers.unmasked(control));
        }
        self.go_on(memory, out)
    }

    /// GCMD: one command at a time.
    fn command(&mut self, out: &mut Outbox) {
        let command = self.registers.get(GCMD, 4);
        self.registers.set(GCMD, 4, 0);
        let status = self.registers.get(GSTS, 4);
        if command & SET_ROOT != 0 {
            self.root = self.registers.get(RTADDR, 8);
            self.registers.raise(GSTS, 4, SET_ROOT);
            // Everything that was cached of the old one goes (CAP.ESRTPS).
            if status & TRANSLATION != 0 {
                self.look_at_all();
            }
        }
        if (command ^ status) & QUEUE != 0 {
            self.registers.set(IQH, 8, 0);
            self.registers
                .set(GSTS, 4, self.registers.get(GSTS, 4) ^ QUEUE);
        }
        if (command ^ status) & TRANSLATION != 0 {
            let status = self.registers.get(GSTS, 4) ^ TRANSLATION;
            self.registers.set(GSTS, 4, status);
            let on = status & TRANSLATION != 0;
            out.event(VtdEvent::Translation { on });
            self.look_at_all();
        }
    }

    /// The guest's entries of all devices may have changed.
    pub(super) fn look_at_all(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        for (&source, device) in &self.devices {
            self.work.device(source, device);
        }
    }

    /// Where the root table is, if translation is on.
    pub(super) fn translation_root(&self) -> Option<u64> {
        (self.registers.get(GSTS, 4) & TRANSLATION != 0).then_some(self.root)
    }

    /// Goes on with what there is to do. True if there is more.
    pub(super) fn go_on(&mut self, memory: &dyn Memory, out: &mut Outbox) -> bool {
        let mut budget = BUDGET;
        let mut found = Vec::new();
        while budget != 0 {
            let tables = Tables {
                memory,
                offered: &self.offered,
                root: self.translation_root(),
            };
            self.work
                .go_on(&tables, &mut self.devices, &mut budget, &mut found, out);
            if self.work.is_done() && !self.next_descriptor(memory, out) {
                break;
            }
            budget = budget.saturating_sub(4);
        }
        for fault in &found {
            out.interrupt(self.fault(fault));
        }
        !self.work.is_done() || self.queue().is_some_and(|(head, tail)| head != tail)
    }

    /// Head and tail of the invalidation queue if it runs.
    fn queue(&self) -> Option<(u64, u64)> {
        let runs = self.registers.get(GSTS, 4) & QUEUE != 0;
        let runs = runs && !faults::queue_is_stopped(&self.registers);
        runs.then(|| (self.registers.get(IQH, 8), self.registers.get(IQT, 8)))
    }

    /// Carries a descriptor out, or leaves the work that it makes. False if there is none.
    fn next_descriptor(&mut self, memory: &dyn Memory, out: &mut Outbox) -> bool {
        let Some((head, tail)) = self.queue().filter(|(head, tail)| head != tail) else {
            return false;
        };
        let address = self.registers.get(IQA, 8);
        let bytes = 4096u64 << (address & 7);
        let descriptor = if address & WIDE == 0 {
            Err(QueueError::InvalidWidth)
        } else if tail >= bytes {
            Err(QueueError::InvalidTail)
        } else {
            // The base is on a page and the head in the queue, which may yet be past the end.
            (address & !0xfff)
                .checked_add(head % bytes)
                .and_then(|at| super::memory::read_words::<4>(memory, at))
                .ok_or(QueueError::Fetch)
                .and_then(|words| Descriptor::decode(&words))
        };
        let done = descriptor.and_then(|descriptor| self.carry_out(memory, descriptor, out));
        match done {
            Ok(()) => {
                let next = (head % bytes + DESCRIPTOR) % bytes;
                self.registers.set(IQH, 8, next);
                true
            }
            Err(error) => {
                out.event(VtdEvent::QueueStopped { error });
                out.interrupt(faults::stop_queue(&mut self.registers, error));
                false
            }
        }
    }

    fn carry_out(
        &mut self,
        memory: &dyn Memory,
        descriptor: Descriptor,
        out: &mut Outbox,
    ) -> Result<(), QueueError> {
        let offered = self.offered;
        let tables = Tables {
            memory,
            offered: &offered,
            root: self.translation_root(),
        };
        if !matches!(
            descriptor,
            Descriptor::Wait { .. } | Descriptor::Response { .. }
        ) {
            self.epoch = self.epoch.wrapping_add(1);
        }
        match descriptor {
            Descriptor::Contexts(None) | Descriptor::Pasids { pasid: None, .. } => {
                self.look_at_all();
            }
            Descriptor::Contexts(Some(source)) => {
                if let Some(device) = self.devices.get(&source) {
                    self.work.device(source, device);
                }
            }
            Descriptor::Pasids {
                pasid: Some(pasid), ..
            } => {
                for &source in self.devices.keys() {
                    self.work.pasid(&tables, source, pasid);
                }
            }
            Descriptor::Iotlb(what) => {
                for (&source, device) in &self.devices {
                    self.work.iotlb(&tables, source, device, &what);
                }
            }
            // The host has them forget with what it forgets itself, and Linux asks for both.
            Descriptor::DeviceTlb { .. } | Descriptor::Interrupts => {}
            Descriptor::Wait { status, interrupt } => {
                if let Some((at, word)) = status {
                    if !memory.write_half(at, word) {
                        return Err(QueueError::Fetch);
                    }
                }
                if interrupt && self.registers.get(ICS, 4) & 1 == 0 {
                    self.registers.raise(ICS, 4, 1);
                    out.interrupt(self.registers.event(IECTL));
                }
            }
            Descriptor::Response {
                source,
                pasid,
                group,
                response,
            } => self.requests.answer(source, pasid, group, response),
        }
        Ok(())
    }

    /// Records a fault.
    pub(super) fn fault(&mut self, fault: &Fault) -> Option<Msi> {
        faults::put(&mut self.registers, &mut self.next_record, fault)
    }

    /// A device asks for pages. A group that the guest is not asked for is answered INVALID.
    pub(super) fn page_request(
        &mut self,
        memory: &dyn Memory,
        group: FaultGroup,
        out: &mut Outbox,
    ) {
        let mut devices = self.devices.iter();
        let asks = |device: &Device| device.bdf() == group.device();
        let Some((&source, device)) = devices.find(|(_, device)| asks(device)) else {
            return;
        };
        let pasid = group.pasid().map(|_| group.guest_pasid());
        let refused = |why| VtdEvent::PageRequestRefused { source, pasid, why };
        if !device.takes_page_requests(pasid) {
            out.event(refused("no first-stage table is bound"));
            return;
        }
        if let Err(stopped) = self.tables(memory).page_requests(source) {
            out.event(refused("the guest's context entry has none"));
            let request = group.requests().first();
            let access = request.map(|request| request.access);
            let fault = Fault {
                source,
                pasid,
                address: request.map_or(0, |request| request.address.0),
                write: access.is_some_and(|access| access.write),
                privileged: access.is_some_and(|access| access.privileged),
                reason: stopped.reason,
            };
            let message = (!stopped.silent).then(|| self.fault(&fault)).flatten();
            out.interrupt(message);
            return;
        }
        let put = self
            .requests
            .put(memory, &mut self.registers, source, group);
        match put {
            Ok(message) => out.interrupt(message),
            Err(message) => {
                out.event(refused("there is no room in the guest's queue"));
                out.interrupt(message);
            }
        }
    }

    /// Page requests were lost before they came here.
    pub(super) fn overflow(&mut self) -> Option<Msi> {
        requests::lost(&mut self.registers)
    }

    /// The fault queue of a context, if a device of it has one.
    pub(super) fn queue_of(&self, host: &HostIommu) -> Option<Arc<FaultQueue>> {
        let mut devices = self.devices.values();
        devices
            .find(|device| device.is_of_host(host))?
            .faults
            .clone()
    }

    /// A device is there: what the guest's entries say of it is bound.
    pub(super) fn add(&mut self, source: SourceId, device: Device) {
        self.work.device(source, &device);
        self.devices.insert(source, device);
    }

    /// A device is gone.
    pub(super) fn remove(&mut self, source: SourceId) {
        self.work.forget(source);
        self.requests.forget(source);
        self.devices.remove(&source);
    }

    /// As after power-on; the devices stay, with nothing bound.
    pub(super) fn reset(&mut self, registers: Registers) {
        self.work.clear();
        self.epoch = self.epoch.wrapping_add(1);
        self.registers = registers;
        self.root = 0;
        self.next_record = 0;
        for (&source, device) in &mut self.devices {
            self.requests.forget(source);
            device.reset();
        }
    }
}
