// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a fault queue is and gives, and what it is answered.

/// How a fault queue is made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Set to sizeof(struct host_iommu_queue_options).
    pub size: u32,
    /// Page requests that may wait unanswered; zero for as many as the devices can have.
    pub depth: u32,
    /// Milliseconds after which the host answers a page request INVALID; zero for never.
    pub deadline_ms: u32,
    /// Not zero if the queue also gets the DMA faults that no other queue of the context does.
    pub dma_faults: u32,
}

/// Pages are asked for, and an answer is due.
pub const HOST_IOMMU_PAGE_REQUESTS: u32 = 1;
/// A request failed; there is nothing to answer.
pub const HOST_IOMMU_DMA_FAULT: u32 = 2;
/// The queue was full: `cookie` page requests were answered INVALID.
pub const HOST_IOMMU_OVERFLOW: u32 = 3;
/// The group with this cookie needs no answer any more: its binding is gone.
pub const HOST_IOMMU_CANCELLED: u32 = 4;
/// The group with this cookie needs no answer any more: its deadline passed.
pub const HOST_IOMMU_EXPIRED: u32 = 5;

/// What a fault queue gives. Fields that the kind does not name are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// Set to sizeof(struct host_iommu_event).
    pub size: u32,
    /// HOST_IOMMU_PAGE_REQUESTS to HOST_IOMMU_EXPIRED.
    pub kind: u32,
    /// Of page requests and DMA faults: the device.
    pub segment: u16,
    pub bus: u8,
    pub devfn: u8,
    /// And the host's PASID, HOST_IOMMU_RID if there is none.
    pub pasid: u32,
    /// And the guest's, as the binding named it.
    pub guest_pasid: u32,
    /// Of DMA faults: HOST_IOMMU_READ to HOST_IOMMU_PRIVILEGED.
    pub access: u32,
    /// Of DMA faults: why, as the IOMMU has it. Of page requests: the group's index.
    pub reason: u32,
    /// Of page requests: how many pages.
    pub pages: u32,
    /// Of DMA faults: the address.
    pub address: u64,
    /// The group's name in its queue, or the count of an overflow.
    pub cookie: u64,
    /// Of page requests and DMA faults: the cookie of the binding.
    pub user_cookie: u64,
}

/// A page that a device asks for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Its address.
    pub address: u64,
    /// HOST_IOMMU_READ to HOST_IOMMU_PRIVILEGED.
    pub access: u32,
    /// Zero.
    pub reserved: u32,
}

/// The pages are there, or the device finds out when it tries again.
pub const HOST_IOMMU_SUCCESS: u32 = 0;
/// They are not, and will not be.
pub const HOST_IOMMU_INVALID: u32 = 1;
