// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the unit's lock protects: the registers, and what the guest has asked for by them.
//!
//! Nothing here calls the host. What is to be done there is left to the [`Engine`], between whose
//! rounds [`Unit::next`] takes more of the guest's commands and descriptors.

use super::accesses::Shared;
use super::bits::{PAGE, PAGE_ADDRESS};
use super::descriptor::{Descriptor, QueueError};
use super::events::{Outbox, VtdEvent};
use super::faults::{self, Fault, QueueStop};
use super::memory::Memory;
use super::registers::{
    Command, Msi, PageRequestStatus, Registers, CCMD, FECTL, GCMD, GSTS, ICS, ICS_IWC, IECTL,
    INVALIDATE, IOTLB, IQA, IQA_DW, IQH, IQT, IRTA, PECTL, PRS, QUEUE_SIZE, RTADDR,
};
use super::remap::Remapping;
use super::requests::{self, Requests};
use super::source::SourceId;
use super::stats::VtdStats;
use super::tables::{Offered, Tables};
use super::work::{Batch, Engine, Wait};
use crate::fault::FaultGroup;
use std::sync::Arc;

/// Bytes of a descriptor of 256 bits.
const DESCRIPTOR: u64 = 32;
/// Most descriptors that are carried out together: what the budget lets through, and more than Linux
/// puts between two waits.
const MAX_BATCH: usize = 1024;

/// What a unit is, but for its devices.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) registers: Registers,
    pub(super) offered: Offered,
    pub(super) requests: Requests,
    pub(super) remapping: Remapping,
    pub(super) shared: Arc<Shared>,
    pub(super) next_record: usize,
    /// RTADDR when the guest set the root.
    pub(super) root: u64,
    /// Translation is on, or will be when what GCMD asked for is in force.
    pub(super) translation: bool,
    /// What GCMD asks for, and is not begun.
    pub(super) command: Option<Command>,
    /// What GSTS says when what was begun is in force.
    pub(super) due: Option<Command>,
    pub(super) stats: VtdStats,
}

impl Unit {
    pub(super) fn new(registers: Registers, offered: Offered, shared: Arc<Shared>) -> Self {
        Self {
            registers,
            offered,
            requests: Requests::default(),
            remapping: Remapping::default(),
            shared,
            next_record: 0,
            root: 0,
            translation: false,
            command: None,
            due: None,
            stats: VtdStats::default(),
        }
    }

    /// The guest's tables at this moment.
    pub(super) fn tables<'a>(&'a self, memory: &'a dyn Memory) -> Tables<'a> {
        Tables {
            memory,
            offered: &self.offered,
            root: self.shared.root(),
        }
    }

    /// A guest's write.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], out: &mut Outbox) {
        if !self.registers.write(offset, data) {
            return;
        }
        let end = offset.saturating_add(data.len() as u64);
        // Whether the last byte of a register was written: halves come lower first.
        let written = |register: usize, width: usize| {
            let last = (register + width) as u64 - 1;
            offset <= last && last < end
        };
        if written(GCMD, 4) {
            let command = Command::from_bits_retain(self.registers.get(GCMD, 4));
            self.registers.set(GCMD, 4, 0);
            // A guest that does not wait for one command before the next has asked for both.
            let before = self.command.unwrap_or(Command::empty());
            let once = (before | command) & Command::ONE_SHOT;
            self.registers.lower(GSTS, 4, once.bits());
            self.command = Some(command.difference(Command::ONE_SHOT) | once);
        }
        // Invalidation by registers is not offered in scalable mode: it is done at once.
        for register in [CCMD, IOTLB] {
            if written(register, 8) {
                self.registers.lower(register, 8, INVALIDATE);
            }
        }
        faults::settle(&mut self.registers);
        if self.registers.get(ICS, 4) & ICS_IWC == 0 {
            self.registers.settle(IECTL);
        }
        if self.registers.get(PRS, 4) & PageRequestStatus::all().bits() == 0 {
            self.registers.settle(PECTL);
        }
        for control in [FECTL, IECTL, PECTL] {
            out.interrupt(self.registers.unmasked(control));
        }
    }

    /// Between two rounds of work: tells what is in force by now, and takes what the guest asks for
    /// next. False if there is nothing more to do.
    pub(super) fn next(
        &mut self,
        engine: &mut Engine,
        memory: &dyn Memory,
        budget: &mut u32,
        out: &mut Outbox,
    ) -> bool {
        self.stats.take(&mut engine.stats);
        if !engine.is_done() {
            return true;
        }
        if let Some(batch) = engine.batch.take() {
            self.complete(&batch, memory, out);
        }
        if let Some(due) = self.due.take() {
            let before = Command::from_bits_retain(self.registers.get(GSTS, 4));
            self.registers.set(GSTS, 4, due.bits());
            if (before ^ due).contains(Command::TE) {
                let on = due.contains(Command::TE);
                out.event(VtdEvent::Translation { on });
            }
        }
        if let Some(command) = self.command.take() {
            self.begin(engine, command, out);
            return true;
        }
        engine.batch = self.fetch(engine, memory, budget, out);
        engine.batch.is_some()
    }

    /// Begins what GCMD asks for; GSTS says it when it is in force.
    fn begin(&mut self, engine: &mut Engine, command: Command, out: &mut Outbox) {
        let mut due = Command::from_bits_retain(self.registers.get(GSTS, 4));
        let switch = |due: &mut Command, bit: Command| {
            let changes = due.contains(bit) != command.contains(bit);
            due.set(bit, command.contains(bit));
            changes
        };
        let mut look = false;
        if command.contains(Command::SRTP) {
            self.root = self.registers.get(RTADDR, 8);
            due.insert(Command::SRTP);
            // Everything that was cached of the old one goes (CAP.ESRTPS).
            look = self.translation;
        }
        let mut interrupts = command.contains(Command::SIRTP);
        if interrupts {
            self.remapping.table = self.registers.get(IRTA, 8);
            due.insert(Command::SIRTP);
        }
        interrupts |= switch(&mut due, Command::IRE);
        interrupts |= switch(&mut due, Command::CFI);
        self.remapping.enabled = due.contains(Command::IRE);
        self.remapping.compatibility = due.contains(Command::CFI);
        if interrupts {
            out.event(VtdEvent::InterruptsChanged { entries: None });
        }
        if switch(&mut due, Command::QIE) {
            self.registers.set(IQH, 8, 0);
        }
        let wanted = command.contains(Command::TE);
        look |= self.translation != wanted;
        self.translation = wanted;
        due.set(Command::TE, wanted);
        self.shared.set_root(self.translation.then_some(self.root));
        if look {
            self.shared.invalidate();
            engine.look_at_all();
            engine.drain_accesses();
        }
        self.due = Some(due);
    }

    /// Head and tail of the invalidation queue if it runs.
    fn queue(&self) -> Option<(u64, u64)> {
        let status = Command::from_bits_retain(self.registers.get(GSTS, 4));
        let runs = status.contains(Command::QIE) && !faults::queue_is_stopped(&self.registers);
        runs.then(|| (self.registers.get(IQH, 8), self.registers.get(IQT, 8)))
    }

    /// Takes descriptors that are carried out together; `None` if there are none.
    fn fetch(
        &mut self,
        engine: &mut Engine,
        memory: &dyn Memory,
        budget: &mut u32,
        out: &mut Outbox,
    ) -> Option<Batch> {
        let (mut head, tail) = self.queue().filter(|(head, tail)| head != tail)?;
        let address = self.registers.get(IQA, 8);
        let bytes = PAGE << (address & QUEUE_SIZE);
        // The head is in the queue, but where the guest has made that smaller since.
        head %= bytes;
        let mut batch = Batch::at(head);
        if address & IQA_DW == 0 {
            batch.error = Some(QueueError::InvalidWidth);
            return Some(batch);
        }
        if tail >= bytes {
            batch.error = Some(QueueError::InvalidTail);
            return Some(batch);
        }
        for _ in 0..MAX_BATCH {
            if batch.head == tail || *budget == 0 {
                break;
            }
            *budget = budget.saturating_sub(4);
            let words = (address & PAGE_ADDRESS)
                .checked_add(batch.head)
                .and_then(|at| super::memory::read_words::<4>(memory, at));
            let descriptor = words
                .ok_or(QueueError::Fetch)
                .and_then(|words| Descriptor::decode(&words));
            match descriptor {
                Ok(descriptor) => self.take(engine, &mut batch, descriptor, budget, out),
                Err(error) => {
                    batch.error = Some(error);
                    break;
                }
            }
            self.stats.descriptors = self.stats.descriptors.saturating_add(1);
            batch.head = batch.head.wrapping_add(DESCRIPTOR) % bytes;
        }
        Some(batch)
    }

    /// Adds a descriptor to those that are carried out together.
    fn take(
        &mut self,
        engine: &mut Engine,
        batch: &mut Batch,
        descriptor: Descriptor,
        budget: &mut u32,
        out: &mut Outbox,
    ) {
        let mut translations = true;
        match descriptor {
            Descriptor::Contexts(None) | Descriptor::Pasids { pasid: None, .. } => {
                engine.look_at_all();
            }
            Descriptor::Contexts(Some(source)) => engine.look_at_device(source),
            Descriptor::Pasids {
                pasid: Some(pasid), ..
            } => {
                // CAST: at most MAX_DEVICES.
                *budget = budget.saturating_sub(engine.devices.len() as u32);
                engine.look_at_pasid(pasid);
            }
            Descriptor::Iotlb(what) => {
                let looked = engine.invalidate(batch, &what);
                *budget = budget.saturating_sub(u32::try_from(looked).unwrap_or(u32::MAX));
            }
            // The host has them forget with what it forgets itself, and Linux asks for both. Who
            // listens has translations as a device TLB has.
            Descriptor::DeviceTlb {
                source,
                pasid,
                range,
                ..
            } => batch.tell(source, pasid, range),
            Descriptor::Interrupts(entries) => {
                translations = false;
                out.event(VtdEvent::InterruptsChanged { entries });
            }
            Descriptor::Wait {
                status,
                interrupt,
                drains_requests,
            } => {
                translations = false;
                batch.drains_requests |= drains_requests;
                batch.waits.push(Wait {
                    at: batch.head,
                    status,
                    interrupt,
                });
            }
            Descriptor::Response {
                source,
                pasid,
                group,
                response,
            } => {
                translations = false;
                let waiting = self.requests.answer(source, pasid, group);
                batch
                    .answers
                    .extend(waiting.map(|waiting| (waiting, response)));
            }
        }
        if translations {
            self.shared.invalidate();
            engine.drain_accesses();
        }
    }

    /// Descriptors are done, or have failed.
    fn complete(&mut self, batch: &Batch, memory: &dyn Memory, out: &mut Outbox) {
        if let Some(source) = batch.failed {
            // None of them is told as done: the guest gives them again.
            self.registers.set(IQH, 8, batch.head);
            self.stop(QueueStop::DeviceTimeout(source), out);
            return;
        }
        for wait in &batch.waits {
            if let Some((at, word)) = wait.status {
                if !memory.write_half(at, word) {
                    self.registers.set(IQH, 8, wait.at);
                    self.stop(QueueStop::Error(QueueError::Fetch), out);
                    return;
                }
            }
            if wait.interrupt && self.registers.get(ICS, 4) & ICS_IWC == 0 {
                self.registers.raise(ICS, 4, ICS_IWC);
                out.interrupt(self.registers.event(IECTL));
            }
            self.stats.waits = self.stats.waits.saturating_add(1);
        }
        self.registers.set(IQH, 8, batch.head);
        if let Some(error) = batch.error {
            self.stop(QueueStop::Error(error), out);
        }
    }

    fn stop(&mut self, why: QueueStop, out: &mut Outbox) {
        self.stats.queue_stops = self.stats.queue_stops.saturating_add(1);
        out.event(VtdEvent::QueueStopped { why });
        out.interrupt(faults::stop_queue(&mut self.registers, why));
    }

    /// Records a fault.
    pub(super) fn fault(&mut self, fault: &Fault, out: &mut Outbox) {
        let before = self.next_record;
        let message = faults::put(&mut self.registers, &mut self.next_record, fault);
        out.interrupt(message);
        // A unit of one record counts on from it to itself.
        let recorded = before != self.next_record || faults::records(&self.registers) == 1;
        let counter = if recorded {
            // No more often than the guest makes room for records.
            out.event(VtdEvent::FaultRecorded {
                source: fault.source,
                pasid: fault.pasid,
                address: fault.address,
                write: fault.write,
                reason: fault.reason,
            });
            &mut self.stats.faults
        } else {
            &mut self.stats.faults_lost
        };
        *counter = counter.saturating_add(1);
    }

    /// A device asks for pages. A group that the guest is not asked for is answered INVALID.
    pub(super) fn page_request(
        &mut self,
        memory: &dyn Memory,
        source: SourceId,
        group: FaultGroup,
        out: &mut Outbox,
    ) {
        let pasid = group.pasid().map(|_| group.guest_pasid());
        let refused = |why| VtdEvent::PageRequestRefused { source, pasid, why };
        let (message, why) = match self.tables(memory).page_requests(source) {
            Err(stopped) => {
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
                out.give_up(group);
                if !stopped.silent {
                    self.fault(&fault, out);
                }
                (None, Some("the guest's context entry has none"))
            }
            Ok(()) => {
                let put = self
                    .requests
                    .put(memory, &mut self.registers, source, group);
                let why = put.lost.map(|group| {
                    out.give_up(group);
                    "there is no room in the guest's queue"
                });
                (put.interrupt, why)
            }
        };
        out.interrupt(message);
        let counter = if let Some(why) = why {
            out.event(refused(why));
            &mut self.stats.page_requests_refused
        } else {
            &mut self.stats.page_requests
        };
        *counter = counter.saturating_add(1);
    }

    /// Page requests were lost before they came here.
    pub(super) fn overflow(&mut self, lost: u64) -> Option<Msi> {
        let counter = &mut self.stats.page_requests_refused;
        *counter = counter.saturating_add(lost);
        requests::lost(&mut self.registers)
    }

    /// As after power-on, with these registers.
    pub(super) fn reset(&mut self, registers: Registers, out: &mut Outbox) {
        self.shared.set_root(None);
        self.shared.invalidate();
        self.registers = registers;
        self.remapping = Remapping::default();
        self.root = 0;
        self.translation = false;
        self.command = None;
        self.due = None;
        self.next_record = 0;
        self.requests.forget_all(out);
    }
}
