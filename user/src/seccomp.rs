// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a jailed VMM's seccomp filter has to let through, for a context on [`kmod`](crate::backend::kmod)
//! or [`iommufd`](crate::backend::iommufd) that was built from fds handed in.
//!
//! Beside these a VMM needs what its own code does. The lists are those of x86-64 and of this
//! version of the crate; guest programs of the project run under them, and one under them alone.

use host_iommu_bindings::ioctl;
use libc::c_long;

/// System calls of a context, its fault queues and what is bound, once they are built. Nothing is
/// opened: sysfs and /dev are read by [`Kmod::open_device`](crate::backend::kmod::Kmod::open_device)
/// alone. `poll` or its siblings are the VMM's own choice.
pub const SYSCALLS: [c_long; 5] = [
    libc::SYS_ioctl,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    // Descriptors are duplicated.
    libc::SYS_fcntl,
];

/// System calls by which a thread of Rust's begins, waits for others and ends: those of a deadline's
/// watcher and of iommufd's fault queues, beside the VMM's own. glibc makes them.
pub const THREAD_SYSCALLS: [c_long; 17] = [
    libc::SYS_clone3,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// System calls of Rust's allocator and clock. The clock is read without one where the kernel's
/// clock source is the TSC, and with one elsewhere.
pub const RUNTIME_SYSCALLS: [c_long; 4] = [
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
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

/// System calls of a [`VfioDevice`](crate::vfio::VfioDevice) beside `ioctl`: regions are read,
/// written and mapped.
pub const DEVICE_SYSCALLS: [c_long; 4] = [
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_mmap,
    libc::SYS_munmap,
];

/// Requests of `ioctl` of a [`VfioDevice`](crate::vfio::VfioDevice).
pub const DEVICE_IOCTLS: [u32; 5] = crate::sys::device::REQUESTS;

/// System calls of a context on [`iommufd`](crate::backend::iommufd), once it is built. Each fault
/// queue has a thread, so [`THREAD_SYSCALLS`] are needed too: those by which one begins not where
/// the queues are made before the filter, those by which it ends in any case.
pub const IOMMUFD_SYSCALLS: [c_long; 7] = [
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_poll,
];

/// Requests of `ioctl` of a context on iommufd that is built.
pub const IOMMUFD_IOCTLS: [u32; 13] = [
    ioctl::IOMMU_DESTROY,
    ioctl::IOMMU_IOAS_ALLOC,
    ioctl::IOMMU_IOAS_IOVA_RANGES,
    ioctl::IOMMU_IOAS_MAP,
    ioctl::IOMMU_IOAS_COPY,
    ioctl::IOMMU_IOAS_UNMAP,
    ioctl::IOMMU_HWPT_ALLOC,
    ioctl::IOMMU_HWPT_SET_DIRTY_TRACKING,
    ioctl::IOMMU_HWPT_GET_DIRTY_BITMAP,
    ioctl::IOMMU_HWPT_INVALIDATE,
    ioctl::IOMMU_FAULT_QUEUE_ALLOC,
    ioctl::VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    ioctl::VFIO_DEVICE_DETACH_IOMMUFD_PT,
];

/// Further system calls of attaching a device to an iommufd, which reads its configuration space;
/// the last two where its name is read from sysfs ([`HostIommuContext::attach`], and not
/// [`Iommufd::attach_device`]).
///
/// [`HostIommuContext::attach`]: crate::HostIommuContext::attach
/// [`Iommufd::attach_device`]: crate::backend::iommufd::Iommufd::attach_device
pub const IOMMUFD_ATTACH_SYSCALLS: [c_long; 3] =
    [libc::SYS_pread64, libc::SYS_statx, libc::SYS_readlink];

/// Further requests of [`Iommufd::from_fds`](crate::backend::iommufd::Iommufd::from_fds) and of
/// attaching a device, which reads its configuration space by `pread64`: VFIO_DEVICE_BIND_IOMMUFD,
/// IOMMU_GET_HW_INFO, VFIO_DEVICE_GET_REGION_INFO.
pub const IOMMUFD_ATTACH_IOCTLS: [u32; 3] = [
    ioctl::VFIO_DEVICE_BIND_IOMMUFD,
    ioctl::IOMMU_GET_HW_INFO,
    crate::sys::vfio::GET_REGION_INFO,
];
