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
//! 3. For each passed-through device [`Vtd::assign`] its place on the guest's buses, then
//!    [`HostIommu::plug`].
//! 4. Guest accesses to the page at [`VtdConfig::base`] go to [`Vtd::read`] and [`Vtd::write`].
//! 5. A thread polls each [`Vtd::fault_queue`], one for each context, and calls
//!    [`FaultQueue::deliver`](crate::FaultQueue::deliver) with the unit.
//! 6. When [`VtdEvents::more`] is called, some thread calls [`Vtd::run`] until it gives false.
//!
//! Devices that the VMM emulates are behind the same unit by [`VtdTranslation`].
//!
//! # What is offered, and what is not
//!
//! - Caching mode: Linux tells of PASID entries that become present only then. First-stage pages
//!   that become present need no word: the hardware walks the guest's own tables.
//! - Nested translation is not: the guest's own guests have none.
//! - Second-stage tables are in the place of first-stage ones over a host that shadows
//!   ([`VtdConfig::second_stage`]): caching mode has guests tell of each page, too.
//! - Interrupt remapping is not. A VMM that has an interrupt remapping unit has it in its interrupt
//!   controller's code; the table of this one says that it has none.
//! - Invalidation by registers (CCMD, IOTLB) is not: scalable mode has a queue.
//! - The host's flush reaches device TLBs too, so that a guest's device-TLB descriptor, which must
//!   follow one of the IOTLB, costs nothing.
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
//! Everything may be called from any thread. One lock is held meanwhile, also over calls of the
//! host; interrupts are sent with none.

mod descriptor;
mod device;
mod dmar;
mod events;
mod faults;
mod look_up;
mod memory;
mod offer;
mod registers;
mod requests;
mod state;
mod tables;
mod translate;
mod unit;
mod work;

pub use descriptor::QueueError;
pub use device::MAX_BINDINGS;
pub use events::{VtdEvent, VtdEvents};
pub use offer::{NotCarried, VtdConfig};
pub use registers::{Msi, SIZE};
pub use state::VtdState;
pub use tables::SourceId;
pub use translate::{Guard, VtdTranslation, MAX_ACCESS};
pub use work::BUDGET;

use crate::context::HostIommu;
use crate::error::{Error, Operation, Result};
use crate::fault::{DmaFault, FaultGroup, FaultQueue, FaultQueueOptions};
use crate::ops::PciIommuOps;
use crate::sys::Errno;
use crate::types::Bdf;
use crate::walk::Access;
use device::Device;
use events::Outbox;
use faults::Fault;
use look_up::Request;
use memory::{Memory, Space};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use unit::Unit;
use vm_memory::GuestAddressSpace;

/// Most devices behind a unit, as many as a bus has functions.
pub const MAX_DEVICES: usize = 256;

#[derive(Debug)]
struct State {
    unit: Unit,
    /// Where the guest sees a device that is not at its host's place.
    places: BTreeMap<Bdf, SourceId>,
}

/// A VT-d unit.
#[derive(Debug)]
pub struct Vtd {
    config: VtdConfig,
    memory: Box<dyn Memory>,
    events: Arc<dyn VtdEvents>,
    state: Mutex<State>,
}

impl Vtd {
    /// A unit after power-on.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a configuration that no unit can have.
    pub fn new(
        config: VtdConfig,
        memory: impl GuestAddressSpace + Send + Sync + 'static,
        events: Arc<dyn VtdEvents>,
    ) -> Result<Arc<Self>> {
        if !config.is_sound() {
            return Err(Error::failed(Operation::MakeUnit, Errno::EINVAL));
        }
        let unit = Unit::new(config.registers(), config.offered());
        Ok(Arc::new(Self {
            config,
            memory: Box::new(Space(memory)),
            events,
            state: Mutex::new(State {
                unit,
                places: BTreeMap::new(),
            }),
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

    /// Does something with the unit, then sends what is due.
    fn with(&self, act: impl FnOnce(&mut State, &dyn Memory, &mut Outbox) -> bool) {
        let mut out = Outbox::default();
        let more = act(&mut self.state(), &*self.memory, &mut out);
        out.send(&*self.events);
        if more {
            self.events.more();
        }
    }

    /// Sends an interrupt that is due.
    fn send(&self, message: Option<Msi>) {
        if let Some(message) = message {
            self.events.interrupt(message);
        }
    }

    /// A guest's read of the register file, `offset` bytes from its base. Accesses of 4 and 8 bytes
    /// that are aligned give what is there, others zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.state().unit.registers.read(offset, data);
    }

    /// A guest's write; others than of 4 and 8 aligned bytes are ignored. What it asks for is done when
    /// this returns, or [`VtdEvents::more`] was called.
    pub fn write(&self, offset: u64, data: &[u8]) {
        self.with(|state, memory, out| state.unit.write(memory, offset, data, out));
    }

    /// Goes on with work that was left. True if there is more.
    pub fn run(&self) -> bool {
        let mut out = Outbox::default();
        let more = self.state().unit.go_on(&*self.memory, &mut out);
        out.send(&*self.events);
        more
    }

    /// From now on the guest sees `device` as `source`; by default it does where the host has it.
    /// For a device that is plugged in already it counts from its next time.
    pub fn assign(&self, device: Bdf, source: SourceId) {
        let places = &mut self.state().places;
        if places.len() < MAX_DEVICES || places.contains_key(&device) {
            places.insert(device, source);
        }
    }

    /// Where page requests and DMA faults of a device come, to be delivered to this unit. `None` if
    /// the device is not plugged in, or nothing is offered that comes there.
    pub fn fault_queue(&self, device: Bdf) -> Option<Arc<FaultQueue>> {
        let state = self.state();
        let mut devices = state.unit.devices.values();
        devices.find(|other| other.bdf() == device)?.faults.clone()
    }

    /// Page request groups that wait for the guest.
    pub fn waiting(&self) -> usize {
        self.state().unit.requests.waiting()
    }

    /// What it is saved as. The devices' page requests that wait are to be answered first, as
    /// [`PciIommuOps`] has it: a restored unit knows nothing of them.
    pub fn save(&self) -> VtdState {
        VtdState::save(&self.config, &self.state().unit)
    }

    /// Makes it what was saved, with the devices that are plugged in now: what the guest's tables say is
    /// bound when this returns, or [`VtdEvents::more`] was called. Guest memory must be restored
    /// before.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for what another configuration saved; nothing is changed then.
    pub fn restore(&self, saved: VtdState) -> Result<()> {
        let mut result = Ok(());
        self.with(|state, memory, out| {
            result = saved.restore(&self.config, &mut state.unit);
            result.is_ok() && state.unit.go_on(memory, out)
        });
        result
    }

    /// As after power-on: everything is unbound, what waits is answered INVALID. The devices stay.
    pub fn reset(&self) {
        self.state().unit.reset(self.config.registers());
    }
}

/// Where the host has it, by bus, device and function.
fn own_place(device: Bdf) -> SourceId {
    let devfn = device.device() << 3 | device.function();
    SourceId(u16::from(device.bus()) << 8 | u16::from(devfn))
}

impl PciIommuOps for Vtd {
    /// Refuses a context that does not carry what the unit offers.
    fn set_context(&self, device: Bdf, context: &HostIommu) -> Result<()> {
        let capabilities = context.capabilities()?;
        let not_carried = |what| Error::NotCarried { device, what };
        let Some(nesting) = &capabilities.nesting else {
            return Err(not_carried(NotCarried::Nesting));
        };
        self.config.check(nesting).map_err(not_carried)?;
        let failed = |errno| Error::failed(Operation::PlugIn(device), errno);
        let devices = context.devices()?;
        let info = devices.iter().find(|info| info.device == device);
        // What it can do is its own: the unit offers what any device may have.
        let asks = info.map_or(nesting.page_requests, |info| info.page_requests);
        let mut out = Outbox::default();
        let more = {
            let mut state = self.state();
            let source = state.places.get(&device).copied();
            let source = source.unwrap_or_else(|| own_place(device));
            if state.unit.devices.contains_key(&source) {
                return Err(failed(Errno::EBUSY));
            }
            if state.unit.devices.len() >= MAX_DEVICES {
                return Err(failed(Errno::EDQUOT));
            }
            let faults = state.unit.queue_of(context);
            let faults = match faults {
                None if self.config.page_requests || nesting.dma_faults.is_present() => {
                    let mut options = FaultQueueOptions::nonblocking();
                    if nesting.dma_faults.is_present() {
                        options = options.with_dma_faults();
                    }
                    Some(Arc::new(context.fault_queue(&options)?))
                }
                known => known,
            };
            let asks = asks.is_present() && self.config.page_requests;
            let device = Device::new(device, context.clone(), faults, asks);
            state.unit.add(source, device);
            state.unit.go_on(&*self.memory, &mut out)
        };
        out.send(&*self.events);
        if more {
            self.events.more();
        }
        Ok(())
    }

    fn unset_context(&self, device: Bdf) {
        let mut state = self.state();
        let mut devices = state.unit.devices.iter();
        let found = devices.find(|(_, other)| other.bdf() == device);
        if let Some((&source, _)) = found {
            state.unit.remove(source);
        }
    }

    fn page_request(&self, group: FaultGroup) {
        self.with(|state, memory, out| {
            state.unit.page_request(memory, group, out);
            false
        });
    }

    fn dma_fault(&self, fault: DmaFault) {
        let message = {
            let mut state = self.state();
            let mut devices = state.unit.devices.iter();
            let found = devices.find(|(_, other)| other.bdf() == fault.device);
            let Some((&source, device)) = found else {
                return;
            };
            let pasid = fault.pasid.map(|pasid| match fault.guest_pasid {
                // No binding has named it.
                0 => device.guest_pasid(pasid),
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
            let reason = u8::try_from(fault.reason).unwrap_or(tables::reason::STAGE1_ABSENT);
            let stopped = state.unit.why(&*self.memory, &request, address, reason);
            if stopped.silent {
                return;
            }
            state.unit.fault(&Fault {
                source,
                pasid,
                address,
                write: fault.access.write,
                privileged: fault.access.privileged,
                reason: stopped.reason,
            })
        };
        self.send(message);
    }

    fn cancelled(&self, cookie: u64) {
        self.state().unit.requests.cancel(cookie);
    }

    fn overflow(&self, _lost: u64) {
        let message = self.state().unit.overflow();
        self.send(message);
    }
}
