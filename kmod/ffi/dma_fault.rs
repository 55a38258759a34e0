// SPDX-License-Identifier: GPL-2.0
//! DMA that the IOMMU stopped, and who is told of it.

use super::device::Bdf;
use super::shim;
use core::ptr::NonNull;
use kernel::prelude::*;

/// One fault.
#[derive(Clone, Copy)]
pub(crate) struct DmaFault {
    /// Address of the page.
    pub(crate) addr: u64,
    /// The PASID, if the request had one.
    pub(crate) pasid: Option<u32>,
    /// `IOMMU_FAULT_PERM_*`, the bits of `VFIO_IOASID_FAULT_PERM_*`: the access asked for.
    pub(crate) perm: u32,
    /// The IOMMU's reason.
    pub(crate) reason: u32,
}

/// Who is told.
pub(crate) trait DmaFaults {
    /// DMA of `device` of container number `container` was stopped, `lost` more times than is told.
    /// Sleeps.
    fn stopped(
        container: u64,
        device: Bdf,
        faults: impl ExactSizeIterator<Item = DmaFault>,
        lost: u64,
    );
}

/// Hands the DMA faults of one device to its container for as long as it lives.
///
/// # Invariants
///
/// The pointer is live and owned by this value.
pub(crate) struct DmaWatch(NonNull<shim::DmaWatch>);

// SAFETY: It has no thread of its own; the notifier chain and the workqueue lock it.
unsafe impl Send for DmaWatch {}

impl DmaWatch {
    /// Whether the running kernel tells of DMA faults.
    pub(crate) fn is_offered() -> bool {
        // SAFETY: No requirements.
        unsafe { shim::ioasid_dma_faults_offered() }
    }

    /// Tells `T` of the faults of `device` of container number `container`; nothing where the kernel
    /// does not tell of them.
    pub(crate) fn new<T: DmaFaults>(container: u64, device: Bdf) -> Result<Option<Self>> {
        if !Self::is_offered() {
            return Ok(None);
        }
        let source_id = u16::from_be_bytes([device.bus, device.devfn]);
        // SAFETY: No requirements.
        let watch = unsafe {
            shim::ioasid_dma_watch_new(stopped::<T>, container, device.segment, source_id)
        };
        // INVARIANT: Made just now.
        Ok(Some(Self(NonNull::new(watch).ok_or(ENOMEM)?)))
    }
}

impl Drop for DmaWatch {
    /// Waits for a fault that is being handed over.
    fn drop(&mut self) {
        // SAFETY: It is ours by the invariant, and not used any more.
        unsafe { shim::ioasid_dma_watch_free(self.0.as_ptr()) };
    }
}

/// Runs in a work queue.
///
/// # Safety
///
/// There are `count` faults at `faults`, which do not change during the call.
unsafe extern "C" fn stopped<T: DmaFaults>(
    container: u64,
    segment: u16,
    source_id: u16,
    faults: *const shim::DmaFault,
    count: usize,
    lost: u64,
) {
    let [bus, devfn] = source_id.to_be_bytes();
    let device = Bdf {
        segment,
        bus,
        devfn,
    };
    // SAFETY: By the requirement.
    let faults = unsafe { core::slice::from_raw_parts(faults, count) };
    let faults = faults.iter().map(|fault| DmaFault {
        addr: fault.addr,
        pasid: fault.has_pasid.then_some(fault.pasid),
        perm: fault.perm,
        reason: u32::from(fault.reason),
    });
    T::stopped(container, device, faults, lost);
}
