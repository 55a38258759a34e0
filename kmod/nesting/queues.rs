// SPDX-License-Identifier: GPL-2.0
//! The fault queues of a container, and the DMA faults that come into them.

use super::{Binding, Nesting, Place};
use crate::fault::FaultQueue;
use crate::ffi::attach::Site;
use crate::ffi::device::Bdf;
use crate::ffi::dma_fault::DmaFault;
use crate::ffi::errno::edquot;
use crate::ffi::limits::Limit;
use crate::ffi::trace;
use crate::ffi::uapi;
use crate::uapi::device_of;
use kernel::prelude::*;
use kernel::sync::Arc;

impl Nesting {
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
    /// - [`EBUSY`] if it is for DMA faults, and another is.
    /// - [`EINVAL`] if the container was released meanwhile.
    pub(crate) fn add_queue(&mut self, queue: Arc<FaultQueue>) -> Result {
        if self.released {
            return Err(EINVAL);
        }
        if queue.takes_dma_faults() && self.dma_queue().is_some() {
            return Err(EBUSY);
        }
        if self.queues.len() >= Limit::FaultQueues.get() as usize {
            return Err(edquot());
        }
        Ok(self.queues.push(queue, GFP_KERNEL_ACCOUNT)?)
    }

    /// Forgets a fault queue whose fd is closed.
    pub(crate) fn forget_queue(&mut self, queue: &Arc<FaultQueue>) {
        self.queues.retain(|other| !Arc::ptr_eq(other, queue));
    }

    /// The queue for DMA faults that no binding's queue gets.
    fn dma_queue(&self) -> Option<&Arc<FaultQueue>> {
        self.queues.iter().find(|queue| queue.takes_dma_faults())
    }

    /// Tells of DMA that the IOMMU stopped: the queue of the binding whose DMA it was, else the
    /// one for DMA faults.
    pub(crate) fn dma_fault(&self, device: Bdf, fault: &DmaFault) {
        trace::dma_fault(self.container, device, fault);
        let site = fault.pasid.map_or(Site::Rid, Site::Pasid);
        let binding = self.bindings.get(&Place::new(site, device));
        let queue = binding.and_then(Binding::queue).or(self.dma_queue());
        let Some(queue) = queue else {
            return;
        };
        queue.push_dma_fault(uapi::vfio_ioasid_fault {
            kind: uapi::VFIO_IOASID_FAULT_DMA,
            flags: fault
                .pasid
                .map_or(0, |_| uapi::VFIO_IOASID_FAULT_FLAG_PASID),
            device: device_of(device),
            pasid: fault.pasid.unwrap_or(0),
            guest_pasid: binding.map_or(0, |binding| binding.guest_pasid),
            perm: fault.perm,
            reason: fault.reason,
            addr: fault.addr,
            user_cookie: binding.map_or(0, |binding| binding.cookie),
            ..Default::default()
        });
    }

    /// DMA faults came that were lost before they could be told of one by one.
    pub(crate) fn lose_dma_faults(&self, device: Bdf, count: u64) {
        let mut of_device = self
            .bindings
            .iter()
            .filter(|(place, _)| place.device() == device);
        let queue = self
            .dma_queue()
            .or(of_device.find_map(|(_, binding)| binding.queue()));
        if let Some(queue) = queue {
            queue.lose(count);
        }
    }
}
