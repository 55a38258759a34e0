// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The calls of linux/vfio.h: container, group and device.

use crate::{call, call_number, calls, take_fd, Errno, Plain, Result};
use host_iommu_bindings::ioctl;
use host_iommu_bindings::uapi::{
    vfio_iommu_type1_dma_map, vfio_iommu_type1_info, VFIO_BASE, VFIO_TYPE,
};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub(crate) const fn request(nr: u32) -> u32 {
    (VFIO_TYPE as u32) << 8 | (VFIO_BASE + nr)
}

const GET_API_VERSION: u32 = request(0);
const CHECK_EXTENSION: u32 = request(1);
const SET_IOMMU: u32 = request(2);
const GROUP_GET_STATUS: u32 = request(3);
const GROUP_SET_CONTAINER: u32 = request(4);
const GROUP_UNSET_CONTAINER: u32 = request(5);
const GROUP_GET_DEVICE_FD: u32 = request(6);
const DEVICE_GET_INFO: u32 = request(7);
const DEVICE_GET_REGION_INFO: u32 = request(8);
const DEVICE_SET_IRQS: u32 = request(10);
const DEVICE_RESET: u32 = request(11);

/// The calls that attach and detach a group and open a device.
pub const ATTACH: [u32; 4] = [
    GROUP_SET_CONTAINER,
    SET_IOMMU,
    GROUP_UNSET_CONTAINER,
    GROUP_GET_DEVICE_FD,
];

/// What attaching a device to an iommufd asks of it.
pub const GET_REGION_INFO: u32 = DEVICE_GET_REGION_INFO;

/// `VFIO_GROUP_FLAGS_VIABLE`: every device of the group is bound to a VFIO driver, or to none.
pub const GROUP_VIABLE: u32 = 1 << 0;
/// `VFIO_GROUP_FLAGS_CONTAINER_SET`.
pub const GROUP_CONTAINER_SET: u32 = 1 << 1;
/// `VFIO_DEVICE_FLAGS_RESET`: the device can be reset.
pub const DEVICE_RESETTABLE: u32 = 1 << 0;
/// `VFIO_REGION_INFO_FLAG_MMAP`: the region can be mapped.
pub const REGION_MMAP: u32 = 1 << 2;
/// `VFIO_PCI_CONFIG_REGION_INDEX`: the region that is configuration space.
pub const PCI_CONFIG_REGION: u32 = 7;
/// `VFIO_PCI_MSIX_IRQ_INDEX`.
pub const PCI_MSIX_IRQ: u32 = 2;
/// The host wants the device back: `VFIO_PCI_REQ_IRQ_INDEX`.
pub const PCI_REQ_IRQ: u32 = 4;

const IRQ_SET_DATA_NONE: u32 = 1 << 0;
const IRQ_SET_DATA_EVENTFD: u32 = 1 << 2;
const IRQ_SET_ACTION_TRIGGER: u32 = 1 << 5;

/// `struct vfio_group_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupStatus {
    /// Size of the structure.
    pub argsz: u32,
    /// [`GROUP_VIABLE`] and [`GROUP_CONTAINER_SET`].
    pub flags: u32,
}

/// `struct vfio_device_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceInfo {
    /// Size of the structure.
    pub argsz: u32,
    /// [`DEVICE_RESETTABLE`] and others.
    pub flags: u32,
    /// Highest region index plus one.
    pub num_regions: u32,
    /// Highest interrupt index plus one.
    pub num_irqs: u32,
    /// Offset of the first capability, zero for none.
    pub cap_offset: u32,
    /// Unused.
    pub pad: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionInfo {
    /// Size of the structure.
    pub argsz: u32,
    /// [`REGION_MMAP`] and others.
    pub flags: u32,
    /// Which region; for PCI the number of the BAR.
    pub index: u32,
    /// Offset of the first capability, zero for none.
    pub cap_offset: u32,
    /// Bytes.
    pub size: u64,
    /// Offset in the device's fd, for mmap, pread and pwrite.
    pub offset: u64,
}

/// `struct vfio_irq_set` with one eventfd after it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    eventfd: i32,
}

/// `struct vfio_iommu_type1_dma_unmap` without the bitmap that may follow it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DmaUnmap {
    /// Size of the structure.
    pub argsz: u32,
    /// `VFIO_DMA_UNMAP_FLAG_*`.
    pub flags: u32,
    /// First address.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
}

/// `struct vfio_iommu_type1_dirty_bitmap` with its `_get` part.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DirtyBitmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
    pgsize: u64,
    bytes: u64,
    data: u64,
}

/// `VFIO_IOMMU_DIRTY_PAGES_FLAG_START`.
const DIRTY_START: u32 = 1 << 0;
/// `VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP`.
const DIRTY_STOP: u32 = 1 << 1;
/// `VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP`.
const DIRTY_GET: u32 = 1 << 2;

calls! {
    DirtyBitmap => ioctl::VFIO_IOMMU_DIRTY_PAGES,
    GroupStatus => GROUP_GET_STATUS,
    DeviceInfo => DEVICE_GET_INFO,
    RegionInfo => DEVICE_GET_REGION_INFO,
    IrqSet => DEVICE_SET_IRQS,
    DmaUnmap => ioctl::VFIO_IOMMU_UNMAP_DMA,
    vfio_iommu_type1_dma_map => ioctl::VFIO_IOMMU_MAP_DMA,
}

/// `VFIO_GET_API_VERSION`.
pub fn get_api_version(container: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the call takes no argument.
    unsafe { call_number(container, GET_API_VERSION, 0) }
}

/// `VFIO_CHECK_EXTENSION`: zero where `extension` is unknown.
pub fn check_extension(container: BorrowedFd<'_>, extension: u32) -> Result<i32> {
    // SAFETY: the call takes a number.
    unsafe { call_number(container, CHECK_EXTENSION, extension.into()) }
}

/// `VFIO_SET_IOMMU`. The container must have a group.
pub fn set_iommu(container: BorrowedFd<'_>, iommu_type: u32) -> Result<()> {
    // SAFETY: the call takes a number.
    unsafe { call_number(container, SET_IOMMU, iommu_type.into()) }?;
    Ok(())
}

/// `VFIO_GROUP_GET_STATUS`.
pub fn group_get_status(group: BorrowedFd<'_>) -> Result<GroupStatus> {
    let mut status = GroupStatus::default();
    // SAFETY: the structure has no pointers.
    unsafe { call(group, &mut status) }?;
    Ok(status)
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub fn group_set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
    let mut number = container.as_raw_fd();
    let pointer = std::ptr::from_mut(&mut number);
    // SAFETY: the call reads one `__s32` at the pointer.
    let value = unsafe {
        libc::ioctl(
            group.as_raw_fd(),
            GROUP_SET_CONTAINER as libc::Ioctl,
            pointer,
        )
    };
    Errno::result(value)?;
    Ok(())
}

/// `VFIO_GROUP_UNSET_CONTAINER`: fails with EBUSY while a device of the group is open.
pub fn group_unset_container(group: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call takes no argument.
    unsafe { call_number(group, GROUP_UNSET_CONTAINER, 0) }?;
    Ok(())
}

/// `VFIO_GROUP_GET_DEVICE_FD` for the device `name`, as in "0000:00:04.0".
pub fn group_get_device_fd(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    // SAFETY: the call reads the string up to its NUL.
    let value = unsafe {
        libc::ioctl(
            group.as_raw_fd(),
            GROUP_GET_DEVICE_FD as libc::Ioctl,
            name.as_ptr(),
        )
    };
    let number = Errno::result(value)?;
    // SAFETY: the call has just made the fd.
    Ok(unsafe { take_fd(number) })
}

/// `VFIO_DEVICE_GET_INFO`.
pub fn device_get_info(device: BorrowedFd<'_>) -> Result<DeviceInfo> {
    let mut info = DeviceInfo::default();
    // SAFETY: the structure has no pointers.
    unsafe { call(device, &mut info) }?;
    Ok(info)
}

/// `VFIO_DEVICE_GET_REGION_INFO` without its capabilities.
pub fn device_get_region_info(device: BorrowedFd<'_>, index: u32) -> Result<RegionInfo> {
    let mut info = RegionInfo {
        index,
        ..RegionInfo::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(device, &mut info) }?;
    Ok(info)
}

/// `VFIO_DEVICE_SET_IRQS`: has vector `vector` of interrupt `index` signal `eventfd`.
pub fn device_set_irq(
    device: BorrowedFd<'_>,
    index: u32,
    vector: u32,
    eventfd: BorrowedFd<'_>,
) -> Result<()> {
    let mut set = IrqSet {
        flags: IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER,
        index,
        start: vector,
        count: 1,
        eventfd: eventfd.as_raw_fd(),
        ..IrqSet::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(device, &mut set) }?;
    Ok(())
}

/// `VFIO_DEVICE_SET_IRQS`: turns interrupt `index` off.
pub fn device_clear_irqs(device: BorrowedFd<'_>, index: u32) -> Result<()> {
    let mut set = IrqSet {
        flags: IRQ_SET_DATA_NONE | IRQ_SET_ACTION_TRIGGER,
        index,
        ..IrqSet::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(device, &mut set) }?;
    Ok(())
}

/// `VFIO_DEVICE_RESET`.
pub fn device_reset(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call takes no argument.
    unsafe { call_number(device, DEVICE_RESET, 0) }?;
    Ok(())
}

/// `VFIO_IOMMU_GET_INFO`: the reply as bytes, with its chain of capabilities.
pub fn get_info(container: BorrowedFd<'_>) -> Result<Vec<u8>> {
    /// Longer than any reply: 4 KiB hold more than 200 IOVA ranges.
    const MAX_REPLY: usize = 1 << 16;

    let mut len = size_of::<vfio_iommu_type1_info>();
    loop {
        // The call wants no alignment: the kernel copies.
        let mut reply = vec![0u8; len];
        let argsz = u32::try_from(len).map_err(|_| Errno::E2BIG)?;
        reply
            .iter_mut()
            .zip(argsz.to_ne_bytes())
            .for_each(|(to, from)| *to = from);
        // SAFETY: the kernel writes `argsz` bytes at most, the size of `reply`.
        let value = unsafe {
            libc::ioctl(
                container.as_raw_fd(),
                ioctl::VFIO_IOMMU_GET_INFO as libc::Ioctl,
                reply.as_mut_ptr(),
            )
        };
        Errno::result(value)?;
        let needed = u32::from_bytes(&reply).map_or(0, |needed| needed as usize);
        if needed <= len {
            return Ok(reply);
        }
        if needed > MAX_REPLY {
            return Err(Errno::E2BIG);
        }
        len = needed;
    }
}

/// `VFIO_IOMMU_MAP_DMA`: gives the container's devices `size` bytes at `vaddr` under `iova`.
///
/// # Safety
///
/// From now on until the range is unmapped, or the container is gone, a device may read, and
/// with `VFIO_DMA_MAP_FLAG_WRITE` write, the memory at any time. While that may happen, no Rust
/// reference to it may exist, and the process may touch it by volatile and atomic accesses
/// through raw pointers only. The kernel pins the pages: unmapping or reusing the addresses in
/// the process is no danger to memory, but leaves the devices with the old pages.
pub unsafe fn map_dma(
    container: BorrowedFd<'_>,
    flags: u32,
    vaddr: *mut u8,
    iova: u64,
    size: u64,
) -> Result<()> {
    let mut map = vfio_iommu_type1_dma_map {
        argsz: 0,
        flags,
        vaddr: vaddr.expose_provenance() as u64,
        iova,
        size,
    };
    // SAFETY: the kernel pins the memory at `vaddr`, which may fail; what devices do to it is
    // the caller's promise.
    unsafe { call(container, &mut map) }?;
    Ok(())
}

/// `VFIO_IOMMU_UNMAP_DMA`: gives the number of bytes unmapped.
pub fn unmap_dma(container: BorrowedFd<'_>, flags: u32, iova: u64, size: u64) -> Result<u64> {
    let mut unmap = DmaUnmap {
        flags,
        iova,
        size,
        ..DmaUnmap::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut unmap) }?;
    Ok(unmap.size)
}

/// `VFIO_IOMMU_DIRTY_PAGES`: starts or ends the tracking.
pub fn track_dirty(container: BorrowedFd<'_>, on: bool) -> Result<()> {
    let mut dirty = DirtyBitmap {
        flags: if on { DIRTY_START } else { DIRTY_STOP },
        ..DirtyBitmap::default()
    };
    // SAFETY: the structure has no pointers that these calls look at.
    unsafe { call(container, &mut dirty) }?;
    Ok(())
}

/// `VFIO_IOMMU_DIRTY_PAGES`: the dirty pages of 4 KiB of `size` bytes from `iova` on.
pub fn read_dirty(
    container: BorrowedFd<'_>,
    iova: u64,
    size: u64,
    bitmap: &mut [u64],
) -> Result<()> {
    let bytes = u64::try_from(size_of_val(bitmap)).map_err(|_| Errno::EINVAL)?;
    let mut dirty = DirtyBitmap {
        flags: DIRTY_GET,
        iova,
        size,
        pgsize: 4096,
        bytes,
        data: bitmap.as_mut_ptr().expose_provenance() as u64,
        ..DirtyBitmap::default()
    };
    // SAFETY: the kernel writes `bytes` bytes at most at `data`, which is `bitmap`, borrowed
    // exclusively.
    unsafe { call(container, &mut dirty) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_linux_vfio_h() {
        assert_eq!(size_of::<GroupStatus>(), 8);
        assert_eq!(size_of::<DeviceInfo>(), 24);
        assert_eq!(size_of::<RegionInfo>(), 32);
        assert_eq!(size_of::<DmaUnmap>(), 24);
        assert_eq!(size_of::<IrqSet>(), 24);
    }

    #[test]
    fn requests_have_the_numbers_of_linux_vfio_h() {
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DEVICE_RESET, 0x3b6f);
        assert_eq!(ioctl::VFIO_IOMMU_MAP_DMA, 0x3b71);
        assert_eq!(ioctl::VFIO_IOASID_PASID_ALLOC, 0x3bc8);
        assert_eq!(ioctl::VFIO_IOASID_STATS, 0x3bcf);
    }
}
