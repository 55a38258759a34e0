// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The calls from the host's side into a virtual IOMMU.

use crate::context::{HostIommu, Scope};
use crate::error::Result;
use crate::fault::{
    delivery::Turn, DmaFault, FaultEvent, FaultGroup, FaultQueue, FaultQueueId, FaultRead,
};
use crate::types::Bdf;
use std::fmt;
use std::sync::Arc;

/// What a virtual IOMMU (vIOMMU) implements to be told of contexts and faults: the `PCIIOMMUOps` of
/// a VMM's PCI bus.
///
/// # The life of a page request
///
/// 1. The device needs a page that its stage-1 table does not give, and asks the host's IOMMU for
///    a group of them.
/// 2. The host puts the group into the fault queue of the binding, under a cookie that is never
///    used again there, and the queue's fd becomes readable. Over the queue's depth it answers INVALID
///    instead, and [`PciIommuOps::overflow`] tells how many.
/// 3. The VMM calls [`FaultQueue::deliver`]; the group comes to [`PciIommuOps::page_request`] with
///    the guest's number for the PASID.
/// 4. The vIOMMU keeps the [`FaultGroup`], writes the requests into the guest's page request queue
///    and interrupts the guest.
/// 5. The guest makes the pages present and sends a page group response to the vIOMMU.
/// 6. The vIOMMU calls [`FaultGroup::respond`]; the host answers the device, which tries again.
/// 7. Where the binding goes first, the host answers INVALID, and
///    [`PciIommuOps::cancelled`] names the cookie: the group may be dropped, and a response that
///    comes later has no effect.
///
/// # Reset and snapshot
///
/// A guest's reset, and that of a device, is [`HostIommu::unbind`] of [`Scope::Device`]. Before a
/// snapshot: [`FaultQueue::freeze`], then let the guest answer what it was given
/// ([`FaultQueue::drain`]), then [`HostIommu::export`]; afterwards [`FaultQueue::thaw`], or
/// [`HostIommu::import`] where the guest goes on.
///
/// # Context
///
/// Methods are called without any lock of this crate held and may call into it. Those for faults
/// come from the thread that delivers.
pub trait PciIommuOps: fmt::Debug + Send + Sync {
    /// Required. From now on `device` is translated by this context: one for all devices or one
    /// each, as the VMM decides.
    ///
    /// # Errors
    ///
    /// What the vIOMMU cannot do with the context; the device is then not plugged in.
    fn set_context(&self, device: Bdf, context: &HostIommu) -> Result<()>;

    /// Required. The context of `device` goes: what the vIOMMU has bound for it is to be dropped.
    /// Until this returns the device's requests go by what is bound; what is left then is unbound,
    /// and owned values for it do nothing any more.
    fn unset_context(&self, device: Bdf);

    /// Required. A device asks for pages. Dropping the group answers INVALID.
    fn page_request(&self, group: FaultGroup);

    /// Optional: a request failed for good. Ignored by default.
    fn dma_fault(&self, fault: DmaFault) {
        let _ = fault;
    }

    /// Optional: the group of this queue with this cookie needs no answer any more. Groups of other
    /// queues may have the same cookie. Ignored by default.
    fn cancelled(&self, queue: FaultQueueId, cookie: u64) {
        let _ = (queue, cookie);
    }

    /// Optional: this many page requests were answered INVALID for want of room in the queue.
    /// Ignored by default.
    fn overflow(&self, lost: u64) {
        let _ = lost;
    }
}

/// The outcome of [`FaultQueue::deliver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// So many events, at least one.
    Events(usize),
    /// There were none, in a queue that does not wait or is frozen.
    Nothing,
    /// There will be none any more.
    Ended,
}

impl FaultQueue {
    /// Reads once, as [`FaultQueue::read`] does, and hands each event to the vIOMMU. Threads that
    /// deliver take turns: when this returns, everything that any of them has read before was handed
    /// on. A delivery from inside a method of the vIOMMU, on the same thread, goes on where the outer
    /// one is.
    ///
    /// # Errors
    ///
    /// As [`FaultQueue::read`].
    pub fn deliver(&self, ops: &dyn PciIommuOps) -> Result<Delivered> {
        let turn = self.delivery.turn();
        // What a delivery around this one has read comes first.
        let mut count = self.hand_on(&turn, ops);
        if count == 0 {
            match self.read()? {
                FaultRead::Events(events) => turn.put(events),
                FaultRead::Empty => return Ok(Delivered::Nothing),
                FaultRead::Ended => return Ok(Delivered::Ended),
            }
            count = self.hand_on(&turn, ops);
        }
        Ok(Delivered::Events(count))
    }

    fn hand_on(&self, turn: &Turn<'_>, ops: &dyn PciIommuOps) -> usize {
        let mut count = 0usize;
        while let Some(event) = turn.next() {
            match event {
                FaultEvent::PageRequests(group) => ops.page_request(group),
                FaultEvent::Dma(fault) => ops.dma_fault(fault),
                FaultEvent::Overflow(lost) => ops.overflow(lost),
                FaultEvent::Cancelled(cookie) | FaultEvent::Expired(cookie) => {
                    ops.cancelled(self.id(), cookie);
                }
            }
            count = count.saturating_add(1);
        }
        count
    }
}

/// A device that a vIOMMU knows the context of. Dropping it takes the context away from the vIOMMU,
/// then unbinds what is left of the device: its requests without PASID reach stage 2 again.
#[derive(Debug)]
pub struct Plugged {
    host: HostIommu,
    device: Bdf,
    ops: Arc<dyn PciIommuOps>,
}

impl Plugged {
    pub(crate) fn new(host: HostIommu, device: Bdf, ops: Arc<dyn PciIommuOps>) -> Result<Self> {
        host.set_plugged(device, &ops)?;
        if let Err(error) = ops.set_context(device, &host) {
            host.set_unplugged(device);
            return Err(error);
        }
        Ok(Self { host, device, ops })
    }

    /// The device.
    pub fn device(&self) -> Bdf {
        self.device
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        // While the vIOMMU knows the device, its requests go by what is bound, or are stopped.
        self.ops.unset_context(self.device);
        // A device that has left the context has no bindings.
        let _ = self.host.unbind(Scope::Device(self.device));
        // Only now may somebody else have it, whose bindings it would have been.
        self.host.set_unplugged(self.device);
    }
}
