// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA of devices in the process.

/// Past the device TLB, and so without page requests.
pub const HOST_IOMMU_SOFT_NO_ATS: u32 = 1 << 0;
/// Without page requests: a missing page is the end.
pub const HOST_IOMMU_SOFT_NO_PAGE_REQUESTS: u32 = 1 << 1;
/// As a supervisor.
pub const HOST_IOMMU_SOFT_PRIVILEGED: u32 = 1 << 2;
/// It writes to memory; otherwise it reads.
pub const HOST_IOMMU_SOFT_WRITE: u32 = 1 << 3;

/// A DMA of a device in the process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SoftDma {
    /// Set to sizeof(struct host_iommu_soft_dma).
    pub size: u32,
    /// HOST_IOMMU_SOFT_NO_ATS to HOST_IOMMU_SOFT_WRITE.
    pub flags: u32,
    /// By which PASID; HOST_IOMMU_RID for none.
    pub pasid: u32,
    /// Bytes.
    pub length: u32,
    /// Where.
    pub address: u64,
}

/// All of it was moved.
pub const HOST_IOMMU_DMA_DONE: u32 = 1;
/// An address is not to be had, and no page was asked for.
pub const HOST_IOMMU_DMA_NO_ACCESS: u32 = 2;
/// A page request was answered INVALID.
pub const HOST_IOMMU_DMA_INVALID: u32 = 3;
/// An address was still not to be had after many answers SUCCESS.
pub const HOST_IOMMU_DMA_RETRIES: u32 = 4;
/// The device was reset or is gone, or the end was told before.
pub const HOST_IOMMU_DMA_ABORTED: u32 = 5;

/// How a DMA ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SoftEnd {
    /// Set to sizeof(struct host_iommu_soft_end).
    pub size: u32,
    /// HOST_IOMMU_DMA_DONE to HOST_IOMMU_DMA_ABORTED.
    pub kind: u32,
    /// The address that was not to be had.
    pub address: u64,
}
