// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's IOMMU: the crate's VT-d unit at its address, its interrupts, the work that it leaves,
//! and the faults that come for it.

use crate::bus::Registers;
use crate::irq::{Interrupts, Message};
use anyhow::{Context, Result};
use host_iommu::vtd::{Msi, Vtd, VtdConfig, VtdEvents, SIZE};
use host_iommu::{Bdf, DmaFault, FaultGroup, FaultQueueId, HostIommu, PciIommuOps};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// How many bytes the unit's registers are.
pub const REGISTERS: u64 = SIZE;

/// What the unit tells: interrupts go to the guest, work that is left to the main thread.
#[derive(Debug)]
struct Events {
    interrupts: Arc<Interrupts>,
    more: EventFd,
}

impl VtdEvents for Events {
    fn interrupt(&self, message: Msi) {
        self.interrupts.send(Message {
            address: message.address,
            data: message.data,
        });
    }

    fn work_left(&self) {
        // It fails when it has been signalled for ever.
        drop(self.more.write(1));
    }
}

/// What went through the unit since the machine started.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Groups of page requests that came for the guest.
    pub groups: AtomicU64,
    /// Page requests in them.
    pub page_requests: AtomicU64,
    /// Groups that the host answered itself, as their binding went.
    pub cancelled: AtomicU64,
    /// Page requests that the host answered INVALID for want of room.
    pub lost: AtomicU64,
    /// DMA that was stopped.
    pub dma_faults: AtomicU64,
}

impl Counters {
    /// What they are now.
    pub fn copy(&self) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Ordering::Relaxed));
        Self {
            groups: copy(&self.groups),
            page_requests: copy(&self.page_requests),
            cancelled: copy(&self.cancelled),
            lost: copy(&self.lost),
            dma_faults: copy(&self.dma_faults),
        }
    }
}

/// The unit of a machine.
#[derive(Debug)]
pub struct Iommu {
    /// The crate's.
    pub unit: Arc<Vtd>,
    /// What went through it.
    pub counters: Counters,
    more: Arc<Events>,
}

impl Iommu {
    /// A unit after power-on; what is counted goes on from `counters`.
    pub fn new(
        config: VtdConfig,
        ram: &crate::memory::Ram,
        interrupts: &Arc<Interrupts>,
        counters: Counters,
    ) -> Result<Arc<Self>> {
        let events = Arc::new(Events {
            interrupts: interrupts.clone(),
            more: EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?,
        });
        let unit = Vtd::new(config, Arc::new(ram.clone()), events.clone())?;
        Ok(Arc::new(Self {
            unit,
            counters,
            more: events,
        }))
    }

    /// What is readable when the unit has work left.
    pub fn more(&self) -> &EventFd {
        &self.more.more
    }

    /// Goes on with the work that is left.
    pub fn go_on(&self) {
        drop(self.more.more.read());
        if self.unit.run() {
            self.more.work_left();
        }
    }
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Passes everything on to the unit, and counts it.
impl PciIommuOps for Iommu {
    fn set_context(&self, device: Bdf, context: &HostIommu) -> host_iommu::Result<()> {
        self.unit.set_context(device, context)
    }

    fn unset_context(&self, device: Bdf) {
        self.unit.unset_context(device);
    }

    fn page_request(&self, group: FaultGroup) {
        count(&self.counters.groups, 1);
        count(&self.counters.page_requests, group.requests().len() as u64);
        self.unit.page_request(group);
    }

    fn dma_fault(&self, fault: DmaFault) {
        count(&self.counters.dma_faults, 1);
        self.unit.dma_fault(fault);
    }

    fn cancelled(&self, queue: FaultQueueId, cookie: u64) {
        count(&self.counters.cancelled, 1);
        self.unit.cancelled(queue, cookie);
    }

    fn overflow(&self, lost: u64) {
        count(&self.counters.lost, lost);
        self.unit.overflow(lost);
    }
}

impl Registers for Iommu {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.unit.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.unit.write(offset, data);
    }
}
