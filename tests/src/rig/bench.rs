// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A rig that is ready for page requests.

use super::{FaultQueue, Order, Outcome, Rig, Slot, Space};
use host_iommu_bindings::uapi::{
    vfio_ioasid_fault, VFIO_IOASID_FAULT_PAGE_REQUEST, VFIO_IOASID_FAULT_QUEUE_NONBLOCK,
};

/// A rig with one space, bound with a fault queue.
#[derive(Debug)]
pub struct FaultBench {
    /// The rig.
    pub rig: Rig,
    /// The space.
    pub space: Space,
    /// The queue; its reads do not block.
    pub queue: FaultQueue,
}

impl FaultBench {
    /// Where [`FaultBench::pending`] touches.
    pub const GVA: u64 = 0x4567_89ab_c000;
    /// The binding's guest PASID.
    pub const GUEST_PASID: u32 = 0x1111;
    /// The binding's cookie.
    pub const COOKIE: u64 = 0xc00c_1e00;
    /// What [`FaultBench::touch`] writes.
    pub const MARK: u64 = 0xd00d;

    /// With a queue of the default depth.
    pub fn open() -> Outcome<Self> {
        Self::with_depth(0)
    }

    /// With a queue of that depth.
    pub fn with_depth(depth: u32) -> Outcome<Self> {
        let rig = Rig::faulting()?;
        let space = Space::new(&rig)?;
        let queue = rig
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, depth)?;
        let bench = Self { rig, space, queue };
        bench.bind()?;
        Ok(bench)
    }

    /// Binds the space again.
    pub fn bind(&self) -> Outcome {
        self.space
            .bind_with(&self.rig, &self.queue, Self::GUEST_PASID, Self::COOKIE)?;
        Ok(())
    }

    /// Starts a write to `gva`, where nothing is mapped.
    pub fn touch(&self, gva: u64) -> Outcome<Slot> {
        let order = Order::fill(gva, 8, Self::MARK).at(self.space.pasid);
        Ok(self.rig.dma().submit(&order)?)
    }

    /// Waits for records and reads them all.
    pub fn records(&self) -> Outcome<Vec<vfio_ioasid_fault>> {
        self.queue.wait_readable()?;
        Ok(self.queue.read_all()?)
    }

    /// Waits until `count` records have been read, all of them page requests.
    pub fn requests(&self, count: usize) -> Outcome<Vec<vfio_ioasid_fault>> {
        let mut records = Vec::new();
        while records.len() < count {
            records.extend(self.records()?);
        }
        assert_eq!(records.len(), count, "{records:?}");
        assert!(
            records
                .iter()
                .all(|record| record.kind == VFIO_IOASID_FAULT_PAGE_REQUEST),
            "{records:?}"
        );
        Ok(records)
    }

    /// A write that waits for its page, and the record that asks for it.
    pub fn pending(&self) -> Outcome<(Slot, vfio_ioasid_fault)> {
        let slot = self.touch(Self::GVA)?;
        let record = self.requests(1)?[0];
        Ok((slot, record))
    }
}
