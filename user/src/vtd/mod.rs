// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VT-d unit for the guests of a VMM: what stands between a guest's IOMMU driver and
//! [`HostIommu`].
//!
//! A [`Vtd`] is placed at an MMIO address and gives the guest one scalable-mode unit with first-stage
//! tables, PASIDs, page requests and passthrough. What the guest's PASID entries say of a passed-through
//! device is bound at the host; its invalidations become flushes; what the device asks for comes
//! into the guest's page request queue, and its answers go back; DMA that the host stops is recorded
//! in the fault registers.
//!
//! # How a VMM uses it
//!
//! 1. Ask the host's context what it carries: [`VtdConfig::carried_by`]; offer less if you like.
//! 2. [`Vtd::new`] with the guest's memory and something that sends interrupts.
//! 3. For each passed-through device [`Vtd::set_source_id`] its place on the guest's buses, then
//!    [`HostIommu::plug`].
//! 4. Guest accesses to the page at [`VtdConfig::base`] go to [`Vtd::read`] and [`Vtd::write`].
//! 5. A thread polls each [`Vtd::fault_queue`], one for each context, and calls
//!    [`FaultQueue::deliver`](crate::FaultQueue::deliver) with the unit.
//! 6. When [`VtdEvents::work_left`] is called, some thread calls [`Vtd::run`] until it gives false.
//!
//! Devices that the VMM emulates are behind the same unit by [`VtdTranslation`].
//!
//! # What is offered, and what is not
//!
//! - Caching mode: Linux tells of PASID entries that become present only then. First-stage pages
//!   that become present need no word: the hardware walks the guest's own tables.
//! - Nested translation is not: the guest's own guests have none.
//! - Second-stage tables, also of the context entries of legacy mode, over a host that shadows them
//!   ([`VtdConfig::second_stage`]): caching mode has guests tell of each page, too.
//! - Interrupt remapping ([`VtdConfig::interrupt_remapping`]): the VMM gives each message of its
//!   devices and IOAPICs to [`Vtd::remap`]. Linux turns it off for the whole machine if one unit
//!   lacks it. Posted interrupts are not offered.
//! - Invalidation by registers (CCMD, IOTLB) is not: scalable mode has a queue.
//! - The host's flush reaches device TLBs too, so that a guest's device-TLB descriptor, which must
//!   follow one of the IOTLB, costs nothing.
//!
//! # What is not allowed is stopped
//!
//! While translation is on, requests that no entry of the guest's allows, or whose entry the host
//! does not carry out, are stopped. From one entry to the next they go by the old one, by the new
//! one, or are stopped, and never by anything else. GSTS.TES and RTPS say what is in force. A flush
//! that the host does not carry out stops the queue with FSTS.ITE, and the guest's wait is not done.
//! What the host refuses only for now (EAGAIN, while a device is reset) is tried again. A VMM hears
//! of all this by [`VtdEvents::event`], and [`Vtd::stats`] counts.
//!
//! # Hostile guests
//!
//! One call does work of [`BUDGET`] at most, and the rest when [`Vtd::run`] is called. Tables
//! and descriptors are read word by word and once: what changes meanwhile is seen or not, but never
//! twice. What makes no sense ends as VT-d says: descriptors stop the queue (FSTS.IQE), and entries stop their
//! device's requests. Bindings are at most [`MAX_BINDINGS`] a device, groups that wait 512.
//!
//! # Threads and locks
//!
//! Everything may be called from any thread. No lock is held over a call of the host, nor when
//! interrupts and events are sent. One thread at a time does the unit's work: a guest's write that
//! comes meanwhile leaves what it asks for to that thread and returns. Plugging, resetting, saving
//! and restoring wait for it.

mod accesses;
mod bits;
mod descriptor;
mod device;
mod dmar;
mod entries;
mod events;
mod faults;
mod handover;
mod listen;
mod look_up;
mod memory;
mod offer;
mod reasons;
mod registers;
mod remap;
mod requests;
mod source;
mod state;
mod stats;
mod tables;
mod translate;
mod unit;
mod work;

pub use descriptor::QueueError;
pub use device::MAX_BINDINGS;
pub use dmar::{DmarScope, DmarTable};
pub use events::{VtdEvent, VtdEvents};
pub use faults::QueueStop;
pub use handover::VtdHandover;
pub use listen::{Invalidated, InvalidationListener};
pub use offer::{NotCarried, VtdConfig};
pub use registers::{Msi, SIZE};
pub use source::SourceId;
pub use state::VtdState;
pub use stats::VtdStats;
pub use translate::{Guard, VtdTranslation, MAX_ACCESS};
pub use work::BUDGET;

use crate::context::{HostIommu, WeakHost};
use crate::error::{Error, Operation, Result};
use crate::fault::{DmaFault, FaultGroup, FaultQueue, FaultQueueId, FaultQueueOptions};
use crate::ops::PciIommuOps;
use crate::sys::Errno;
use crate::types::Bdf;
use crate::walk::Access;
use accesses::Shared;
use device::Device;
use events::Outbox;
use faults::Fault;
use handover::Left;
use listen::Listeners;
use look_up::Request;
use memory::{Memory, Space};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tables::{Offered, Tables};
use unit::Unit;
use vm_memory::GuestAddressSpace;
use work::{Engine, Progress};

/// Most devices behind a unit, as many as a bus has functions.
pub const MAX_DEVICES: usize = 256;

/// How long [`Vtd::run`] waits before it tries again what the host refused for now, when nothing else
/// is left.
const PAUSE: Duration = Duration::from_millis(1);

/// What is known of a device without the engine.
#[derive(Debug)]
struct Seat {
    source: SourceId,
    host: HostIommu,
    faults: Option<Arc<FaultQueue>>,
}

#[derive(Debug)]
struct State {
    unit: Unit,
    /// The devices and the work on them; `None` while a thread has it.
    engine: Option<Engine>,
    seats: BTreeMap<Bdf, Seat>,
    /// Where the guest sees a device that is not at its host's place.
    places: BTreeMap<Bdf, SourceId>,
    /// The queue of each context, as long as somebody polls it: the host gives DMA faults to one.
    queues: Vec<(WeakHost, Weak<FaultQueue>)>,
    /// What a unit in another process has left, until the devices are plugged in.
    left: Left,
}

/// A VT-d unit.
#[derive(Debug)]
pub struct Vtd {
    config: VtdConfig,
    offered: Offered,
    memory: Box<dyn Memory>,
    events: Arc<dyn VtdEvents>,
    shared: Arc<Shared>,
    listeners: Listeners,
    state: Mutex<State>,
    /// The engine was given back.
    given_back: Condvar,
}

/// A thread's hold on the engine.
struct Hold<'a> {
    unit: &'a Vtd,
    engine: Option<Engine>,
}

impl Hold<'_> {
    fn engine(&mut self) -> &mut Engine {
        // It is there until it is given back, which consumes the hold.
        self.engine.get_or_insert_default()
    }

    /// Gives it back under the lock under which it was found that nothing is left to do.
    fn give_back(mut self, state: &mut State) {
        state.engine = self.engine.take();
        self.unit.given_back.notify_all();
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.unit.state().engine = Some(engine);
            self.unit.given_back.notify_all();
        }
    }
}

impl Vtd {
    /// A unit after power-on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] names the field of a configuration that no unit can have.
    pub fn new(
        config: VtdConfig,
        memory: impl GuestAddressSpace + Send + Sync + 'static,
        events: Arc<dyn VtdEvents>,
    ) -> Result<Arc<Self>> {
        config.check_fields()?;
        let shared = Arc::new(Shared::default());
        let listeners = Listeners::default();
        let unit = Unit::new(config.registers(), config.offered(), shared.clone());
        let engine = Engine::new(listeners.clone());
        Ok(Arc::new(Self {
            offered: config.offered(),
            config,
            memory: Box::new(Space(memory)),
            events,
            shared,
            listeners,
            state: Mutex::new(State {
                unit,
                engine: Some(engine),
                seats: BTreeMap::new(),
                places: BTreeMap::new(),
                queues: Vec::new(),
                left: Left::default(),
            }),
            given_back: Condvar::new(),
        }))
    }

    /// What it offers.
    pub fn config(&self) -> &VtdConfig {
        &self.config
    }

    /// No method of the unit panics half-way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest's tables at this moment.
    fn tables(&self) -> Tables<'_> {
        Tables {
            memory: &*self.memory,
            offered: &self.offered,
            root: self.shared.root(),
        }
    }

    /// The engine, when no other thread has it.
    fn hold(&self) -> Hold<'_> {
        let mut state = self.state();
        loop {
            if let Some(engine) = state.engine.take() {
                return Hold {
                    unit: self,
                    engine: Some(engine),
                };
            }
            let waited = self.given_back.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does what the budget allows. True if there is more.
    fn work(&self, mut hold: Hold<'_>) -> bool {
        let mut budget = BUDGET;
        let mut faults = Vec::new();
        let deliver = |queue: &FaultQueue| {
            // Few reads find something: a queue is as deep as what devices may have under way.
            for _ in 0..64 {
                match queue.deliver(self) {
                    Ok(crate::ops::Delivered::Events(_)) => {}
                    _ => break,
                }
            }
        };
        loop {
            let mut out = Outbox::default();
            let mut state = self.state();
            for fault in faults.drain(..) {
                state.unit.fault(&fault, &mut out);
            }
            let memory = &*self.memory;
            let left = state
                .unit
                .next(hold.engine(), memory, &mut budget, &mut out);
            if !left || budget == 0 {
                let more = left || hold.engine().is_retrying();
                hold.give_back(&mut state);
                drop(state);
                out.send(&*self.events);
                return more;
            }
            drop(state);
            let tables = self.tables();
            let engine = hold.engine();
            let progress = engine.work(
                &tables,
                &self.shared,
                &deliver,
                &mut budget,
                &mut faults,
                &mut out,
            );
            out.send(&*self.events);
            if progress == Progress::Draining {
                let mut state = self.state();
                // Whoever ends the last access after this says that there is more.
                if !self.shared.is_drained() {
                    let mut out = Outbox::default();
                    for fault in faults.drain(..) {
                        state.unit.fault(&fault, &mut out);
                    }
                    hold.give_back(&mut state);
                    drop(state);
                    out.send(&*self.events);
                    return false;
                }
            }
        }
    }

    /// Does what the budget allows, and has somebody go on with the rest.
    fn begin_work(&self, hold: Hold<'_>) {
        if self.work(hold) {
            self.events.work_left();
        }
    }

    /// Sends an interrupt that is due.
    fn send(&self, message: Option<Msi>) {
        if let Some(message) = message {
            self.events.interrupt(message);
        }
    }

    /// Records a fault.
    fn record(&self, fault: &Fault) {
        let mut out = Outbox::default();
        self.state().unit.fault(fault, &mut out);
        out.send(&*self.events);
    }

    /// A guest's read of the register file, `offset` bytes from its base. Accesses of 4 and 8 bytes
    /// that are aligned give what is there, others zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.state().unit.registers.read(offset, data);
    }

    /// A guest's write; others than of 4 and 8 aligned bytes are ignored. What it asks for is in force
    /// when this returns, or [`VtdEvents::work_left`] was called, or another thread is at work and goes on
    /// with it. The registers and the guest's wait descriptors tell when it is.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut out = Outbox::default();
        let engine = {
            let mut state = self.state();
            state.unit.write(offset, data, &mut out);
            state.engine.take()
        };
        out.send(&*self.events);
        if engine.is_some() {
            self.begin_work(Hold { unit: self, engine });
        }
    }

    /// Goes on with work that was left. True if there is more: this is to be called again. Waits a
    /// millisecond if all that is left is what the host refuses for now.
    pub fn run(&self) -> bool {
        let Some(engine) = self.state().engine.take() else {
            // Another thread is at work, which goes on or tells that there is more.
            return false;
        };
        let mut hold = Hold {
            unit: self,
            engine: Some(engine),
        };
        if hold.engine().is_retrying() {
            if hold.engine().is_done() {
                std::thread::sleep(PAUSE);
            }
            hold.engine().try_again();
        }
        self.work(hold)
    }

    /// From now on the guest sees `device` as `source`; by default it does where the host has it.
    /// For a device that is plugged in already it counts from its next time.
    pub fn set_source_id(&self, device: Bdf, source: SourceId) {
        let places = &mut self.state().places;
        if places.len() < MAX_DEVICES || places.contains_key(&device) {
            places.insert(device, source);
        }
    }

    /// Where page requests and DMA faults of a device come, to be delivered to this unit. `None` if
    /// the device is not plugged in, or nothing is offered that comes there. Devices of one context
    /// have the same queue, and keep it when they are unplugged and plugged in again as long as it is
    /// held.
    pub fn fault_queue(&self, device: Bdf) -> Option<Arc<FaultQueue>> {
        self.state().seats.get(&device)?.faults.clone()
    }

    /// Page request groups that wait for the guest.
    pub fn waiting(&self) -> usize {
        self.state().unit.requests.waiting()
    }

    /// What it has done so far.
    pub fn stats(&self) -> VtdStats {
        self.state().unit.stats
    }

    /// What becomes of an interrupt that a device or an IOAPIC behind the unit sends: the message
    /// that reaches the CPUs. `None` if the guest's table blocks it, which is recorded.
    ///
    /// Destinations of more than 8 bits (extended mode) have bits 31:8 in the upper half of the
    /// address, as KVM has them. The VMM may keep what this gives until the unit tells
    /// [`VtdEvent::InterruptsChanged`].
    pub fn remap(&self, source: SourceId, message: Msi) -> Option<Msi> {
        let mut out = Outbox::default();
        let remapped = {
            let mut state = self.state();
            let unit = &mut state.unit;
            match unit.remapping.remap(&*self.memory, source, message) {
                Ok(remapped) => {
                    let counter = &mut unit.stats.interrupts_remapped;
                    *counter = counter.saturating_add(1);
                    Some(remapped)
                }
                Err(blocked) => {
                    let counter = &mut unit.stats.interrupts_blocked;
                    *counter = counter.saturating_add(1);
                    let fault = Fault::of_interrupt(source, blocked.index, blocked.reason);
                    if !blocked.silent {
                        unit.fault(&fault, &mut out);
                    }
                    None
                }
            }
        };
        out.send(&*self.events);
        remapped
    }

    /// From now on the listener is told what the guest invalidates, as long as it is there.
    pub fn add_listener(&self, listener: &Arc<dyn InvalidationListener>) {
        self.listeners.add(listener);
    }

    /// What it is saved as, at any time, also while page requests wait: the answers that the guest
    /// gives after a restore have no effect then. Devices that are to go on are saved by the VMM.
    pub fn save(&self) -> VtdState {
        let hold = self.hold();
        let mut state = self.state();
        let saved = VtdState::save(&self.config, &state.unit);
        hold.give_back(&mut state);
        saved
    }

    /// Makes it what was saved, with the devices that are plugged in now. Guest memory must be
    /// restored before.
    ///
    /// If translation was on, the devices' requests are stopped first. Those without PASID go by the
    /// guest's entries, and what has a PASID is bound, when this returns or, if [`VtdEvents::work_left`]
    /// was called, when [`Vtd::run`] has given false. Devices and CPUs may run from then on; if they
    /// run before, some requests of the devices are stopped.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] names the field in which the configuration that saved it was another,
    /// or what no unit can have been saved with; nothing is changed then.
    pub fn restore(&self, saved: VtdState) -> Result<()> {
        let mut hold = self.hold();
        let mut out = Outbox::default();
        saved.fits(&self.config)?;
        if saved.translation_is_on() {
            hold.engine().block_all(&mut out);
        } else {
            hold.engine().reset(&mut out);
        }
        {
            let mut state = self.state();
            saved.restore(&mut state.unit, hold.engine(), &mut out);
        }
        out.send(&*self.events);
        self.begin_work(hold);
        Ok(())
    }

    /// As after power-on: everything is unbound, what waits is answered INVALID. The devices stay.
    pub fn reset(&self) {
        let mut hold = self.hold();
        let mut out = Outbox::default();
        self.state().unit.reset(self.config.registers(), &mut out);
        hold.engine().reset(&mut out);
        drop(hold);
        out.send(&*self.events);
    }

    /// To be called when a device was reset, as by a function-level reset of the guest's. The guest's
    /// entries stay in force, and what the host has lost of them is bound again; what the device had
    /// asked for is given up, and the guest's answer to it has no effect.
    pub fn device_reset(&self, device: Bdf) {
        let mut hold = self.hold();
        let mut out = Outbox::default();
        {
            let mut state = self.state();
            let Some(source) = state.seats.get(&device).map(|seat| seat.source) else {
                hold.give_back(&mut state);
                return;
            };
            state.unit.requests.forget(source, &mut out);
            hold.engine().look_at_device(source);
        }
        out.send(&*self.events);
        self.begin_work(hold);
    }

    /// Another unit over the same context has the device: the host gives all faults to one queue.
    fn pass_on(&self, fault: DmaFault) {
        let hosts: Vec<HostIommu> = {
            let state = self.state();
            state.seats.values().map(|seat| seat.host.clone()).collect()
        };
        let other = hosts.iter().find_map(|host| host.plugged(fault.device));
        if let Some(other) = other {
            // A device that is being plugged in or out is nobody's for a moment.
            if !std::ptr::addr_eq(Arc::as_ptr(&other), self) {
                other.dma_fault(fault);
            }
        }
    }

    /// The fault queue of a context: that of its other devices, or one that is polled still.
    fn queue_of(&self, context: &HostIommu, dma_faults: bool) -> Result<Arc<FaultQueue>> {
        {
            let mut state = self.state();
            let queues = &mut state.queues;
            queues.retain(|(_, queue)| queue.strong_count() != 0);
            let known = queues.iter().find(|(host, _)| host.is(context));
            if let Some(queue) = known.and_then(|(_, queue)| queue.upgrade()) {
                return Ok(queue);
            }
        }
        let mut options = FaultQueueOptions::nonblocking();
        if dma_faults {
            options = options.with_dma_faults();
        }
        let queue = match context.fault_queue(&options) {
            // Another unit's has them, and passes them on.
            Err(error) if dma_faults && error.errno() == Some(Errno::EBUSY.raw()) => {
                context.fault_queue(&FaultQueueOptions::nonblocking())?
            }
            made => made?,
        };
        let queue = Arc::new(queue);
        let known = (context.weak(), Arc::downgrade(&queue));
        self.state().queues.push(known);
        Ok(queue)
    }
}

impl PciIommuOps for Vtd {
    /// Refuses a context that does not carry what the unit offers, and a device that the host cannot
    /// stop.
    fn set_context(&self, device: Bdf, context: &HostIommu) -> Result<()> {
        let capabilities = context.capabilities()?;
        let not_carried = |what| Error::NotCarried { device, what };
        let Some(nesting) = &capabilities.nesting else {
            return Err(not_carried(NotCarried::Nesting));
        };
        let devices = context.devices()?;
        let info = devices.iter().find(|info| info.device == device);
        self.config.check_for(info, nesting).map_err(not_carried)?;
        // What it can do is its own: the unit offers what any device may have.
        let asks = info.map_or(nesting.page_requests, |info| info.page_requests);
        let failed = |errno| Error::failed(Operation::PlugIn(device), errno);
        let mut hold = self.hold();
        let source = {
            let state = self.state();
            let source = state.places.get(&device).copied();
            source.unwrap_or_else(|| SourceId::of_host(device))
        };
        let devices = &hold.engine().devices;
        if devices.contains_key(&source) || self.state().seats.contains_key(&device) {
            return Err(failed(Errno::EBUSY));
        }
        if devices.len() >= MAX_DEVICES {
            return Err(failed(Errno::EDQUOT));
        }
        let dma_faults = nesting.dma_faults.is_present();
        let faults = if self.config.page_requests || dma_faults {
            Some(self.queue_of(context, dma_faults)?)
        } else {
            None
        };
        let asks = asks.is_present() && self.config.page_requests;
        let left = self.state().left.take_device(device);
        let (host, queue) = (context.clone(), faults.clone());
        let made = match left {
            Some(tables) => Device::adopt(device, host, queue, asks, &tables)?,
            None => Device::new(device, host, queue, asks)?,
        };
        let seat = Seat {
            source,
            host: context.clone(),
            faults,
        };
        self.state().take_seat(device, seat);
        hold.engine().add(source, made);
        self.begin_work(hold);
        Ok(())
    }

    fn unset_context(&self, device: Bdf) {
        let mut hold = self.hold();
        let mut out = Outbox::default();
        let seat = {
            let mut state = self.state();
            let seat = state.seats.remove(&device);
            if let Some(seat) = &seat {
                state.unit.requests.forget(seat.source, &mut out);
            }
            seat
        };
        // What it has bound goes before anybody can plug it in again.
        drop(seat.and_then(|seat| hold.engine().remove(seat.source)));
        // It may be that others waited for its flush.
        self.begin_work(hold);
        out.send(&*self.events);
    }

    fn page_request(&self, group: FaultGroup) {
        let mut out = Outbox::default();
        {
            let mut state = self.state();
            let source = state.seats.get(&group.device()).map(|seat| seat.source);
            match source {
                Some(source) => {
                    let memory = &*self.memory;
                    state.unit.page_request(memory, source, group, &mut out);
                }
                // Unplugged meanwhile.
                None => out.give_up(group),
            }
        }
        out.send(&*self.events);
    }

    fn dma_fault(&self, fault: DmaFault) {
        let found = {
            let state = self.state();
            let seat = state.seats.get(&fault.device);
            seat.map(|seat| (seat.source, seat.host.clone()))
        };
        let Some((source, host)) = found else {
            self.pass_on(fault);
            return;
        };
        let pasid = fault.pasid.map(|pasid| match fault.guest_pasid {
            // No binding has named it.
            0 => host.guest_pasid(fault.device, pasid),
            named => named,
        });
        let request = Request {
            source,
            pasid,
            access: Access {
                read: !fault.access.write,
                write: fault.access.write,
                privileged: fault.access.privileged,
            },
        };
        let address = fault.address.0;
        // What has no reason of VT-d's is told as an entry that is not there.
        let reason = u8::try_from(fault.reason).unwrap_or(reasons::reason::STAGE1_ABSENT);
        let stopped = self.tables().why(&request, address, reason);
        if !stopped.silent {
            self.record(&Fault {
                source,
                pasid,
                address,
                write: fault.access.write,
                privileged: fault.access.privileged,
                reason: stopped.reason,
            });
        }
    }

    fn cancelled(&self, queue: FaultQueueId, cookie: u64) {
        let mut out = Outbox::default();
        self.state().unit.requests.cancel(queue, cookie, &mut out);
        out.send(&*self.events);
    }

    fn overflow(&self, lost: u64) {
        let message = self.state().unit.overflow(lost);
        self.send(message);
    }
}
