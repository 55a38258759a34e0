// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ioctl request numbers: the `_IO(VFIO_TYPE, …)` macros of the header, which
//! bindgen cannot evaluate.

use crate::uapi::{VFIO_BASE, VFIO_IOASID_BASE, VFIO_TYPE};

/// `_IO(type, nr)` of `asm-generic/ioctl.h`: no direction and no size.
const fn io(nr: u32) -> u32 {
    ((VFIO_TYPE as u32) << 8) | nr
}

/// VFIO_IOMMU_GET_INFO
pub const VFIO_IOMMU_GET_INFO: u32 = io(VFIO_BASE + 12);
/// VFIO_IOMMU_MAP_DMA
pub const VFIO_IOMMU_MAP_DMA: u32 = io(VFIO_BASE + 13);
/// VFIO_IOMMU_UNMAP_DMA
pub const VFIO_IOMMU_UNMAP_DMA: u32 = io(VFIO_BASE + 14);
/// VFIO_IOMMU_DIRTY_PAGES
pub const VFIO_IOMMU_DIRTY_PAGES: u32 = io(VFIO_BASE + 17);

/// VFIO_IOASID_PASID_ALLOC
pub const VFIO_IOASID_PASID_ALLOC: u32 = io(VFIO_IOASID_BASE);
/// VFIO_IOASID_PASID_FREE
pub const VFIO_IOASID_PASID_FREE: u32 = io(VFIO_IOASID_BASE + 1);
/// VFIO_IOASID_BIND
pub const VFIO_IOASID_BIND: u32 = io(VFIO_IOASID_BASE + 2);
/// VFIO_IOASID_UNBIND
pub const VFIO_IOASID_UNBIND: u32 = io(VFIO_IOASID_BASE + 3);
/// VFIO_IOASID_INVALIDATE
pub const VFIO_IOASID_INVALIDATE: u32 = io(VFIO_IOASID_BASE + 4);
/// VFIO_IOASID_FAULT_QUEUE
pub const VFIO_IOASID_FAULT_QUEUE: u32 = io(VFIO_IOASID_BASE + 5);
/// VFIO_IOASID_DEVICES
pub const VFIO_IOASID_DEVICES: u32 = io(VFIO_IOASID_BASE + 6);
/// VFIO_IOASID_STATS
pub const VFIO_IOASID_STATS: u32 = io(VFIO_IOASID_BASE + 7);
