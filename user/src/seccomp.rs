// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a jailed VMM's seccomp filter has to let through, for a context on [`kmod`](crate::backend::kmod)
//! that was built from fds handed in.
//!
//! Beside these a VMM needs what its memory, its threads and its Rust runtime do. The lists are
//! those of x86-64 and of this version of the crate; a guest program of the project runs under them.

use host_iommu_bindings::ioctl;
use libc::c_long;

/// System calls of a context, its fault queues and what is bound, once they are built. Nothing is
/// opened: sysfs and /dev are read by [`Kmod::open_device`](crate::backend::kmod::Kmod::open_device)
/// alone. `poll` or its siblings are the VMM's own choice.
pub const SYSCALLS: [c_long; 4] = [
    libc::SYS_ioctl,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
];

/// Requests of `ioctl`, the second argument, of a context that is built.
pub const IOCTLS: [u32; 16] = [
    ioctl::VFIO_IOMMU_GET_INFO,
    ioctl::VFIO_IOMMU_MAP_DMA,
    ioctl::VFIO_IOMMU_UNMAP_DMA,
    ioctl::VFIO_IOMMU_DIRTY_PAGES,
    ioctl::VFIO_IOASID_PASID_ALLOC,
    ioctl::VFIO_IOASID_PASID_FREE,
    ioctl::VFIO_IOASID_BIND,
    ioctl::VFIO_IOASID_UNBIND,
    ioctl::VFIO_IOASID_INVALIDATE,
    ioctl::VFIO_IOASID_FAULT_QUEUE,
    ioctl::VFIO_IOASID_DEVICES,
    ioctl::VFIO_IOASID_STATS,
    ioctl::VFIO_IOASID_AS_CREATE,
    ioctl::VFIO_IOASID_AS_DESTROY,
    ioctl::VFIO_IOASID_AS_MAP,
    ioctl::VFIO_IOASID_AS_UNMAP,
];

/// Further requests of [`Kmod::from_fds`](crate::backend::kmod::Kmod::from_fds), of attaching and
/// detaching a group, and of opening a device: VFIO_GROUP_SET_CONTAINER, VFIO_SET_IOMMU,
/// VFIO_GROUP_UNSET_CONTAINER, VFIO_GROUP_GET_DEVICE_FD.
pub const ATTACH_IOCTLS: [u32; 4] = crate::sys::vfio::ATTACH;
