// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The calls of linux/iommufd.h, and those of linux/vfio.h that bind a device to an iommufd.

use crate::memory::{DmaMemory, SharedMemory};
use crate::{call, take_fd, Call, Result};
use host_iommu_bindings::ioctl;
use host_iommu_bindings::uapi::{
    iommu_destroy, iommu_fault_alloc, iommu_hw_info,
    iommu_hw_info_type_IOMMU_HW_INFO_TYPE_INTEL_VTD as TYPE_VTD, iommu_hw_info_vtd,
    iommu_hwpt_alloc, iommu_hwpt_get_dirty_bitmap, iommu_hwpt_invalidate,
    iommu_hwpt_set_dirty_tracking, iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_invalidate,
    iommu_ioas_alloc, iommu_ioas_copy, iommu_ioas_iova_ranges, iommu_ioas_map, iommu_ioas_map_file,
    iommu_ioas_unmap, iommu_iova_range,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_FAULT_ID_VALID as FAULT_ID_VALID,
    iommufd_hwpt_set_dirty_tracking_flags_IOMMU_HWPT_DIRTY_TRACKING_ENABLE as TRACKING_ENABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA as FIXED_IOVA, vfio_device_attach_iommufd_pt,
    vfio_device_bind_iommufd, vfio_device_detach_iommufd_pt,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

pub use host_iommu_bindings::uapi::{
    iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING as CAP_DIRTY_TRACKING,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING as ALLOC_DIRTY_TRACKING,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT as ALLOC_NEST_PARENT,
    iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID as ALLOC_PASID,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as WRITEABLE,
};

/// `VFIO_DEVICE_ATTACH_PASID` and `VFIO_DEVICE_DETACH_PASID` of linux/vfio.h.
const WITH_PASID: u32 = 1 << 0;

/// Implements [`Call`] for structures that say their size in a field of that name.
macro_rules! sized_calls {
    ($($structure:ty => $request:expr, $size:ident);+ $(;)?) => { $(
        // SAFETY: `set_argsz` gives the structure's own size, and the header of the call names
        // this structure for this request.
        unsafe impl Call for $structure {
            const REQUEST: u32 = $request;

            fn set_argsz(&mut self) {
                self.$size = const { size_of::<$structure>() as u32 };
            }
        }
    )+ };
}

sized_calls! {
    iommu_destroy => ioctl::IOMMU_DESTROY, size;
    iommu_ioas_alloc => ioctl::IOMMU_IOAS_ALLOC, size;
    iommu_ioas_iova_ranges => ioctl::IOMMU_IOAS_IOVA_RANGES, size;
    iommu_hw_info => ioctl::IOMMU_GET_HW_INFO, size;
    iommu_hwpt_set_dirty_tracking => ioctl::IOMMU_HWPT_SET_DIRTY_TRACKING, size;
    iommu_hwpt_get_dirty_bitmap => ioctl::IOMMU_HWPT_GET_DIRTY_BITMAP, size;
    iommu_ioas_map => ioctl::IOMMU_IOAS_MAP, size;
    iommu_ioas_map_file => ioctl::IOMMU_IOAS_MAP_FILE, size;
    iommu_ioas_copy => ioctl::IOMMU_IOAS_COPY, size;
    iommu_ioas_unmap => ioctl::IOMMU_IOAS_UNMAP, size;
    iommu_hwpt_alloc => ioctl::IOMMU_HWPT_ALLOC, size;
    iommu_hwpt_invalidate => ioctl::IOMMU_HWPT_INVALIDATE, size;
    iommu_fault_alloc => ioctl::IOMMU_FAULT_QUEUE_ALLOC, size;
    vfio_device_bind_iommufd => ioctl::VFIO_DEVICE_BIND_IOMMUFD, argsz;
    vfio_device_attach_iommufd_pt => ioctl::VFIO_DEVICE_ATTACH_IOMMUFD_PT, argsz;
    vfio_device_detach_iommufd_pt => ioctl::VFIO_DEVICE_DETACH_IOMMUFD_PT, argsz;
}

/// `IOMMU_DESTROY` of any object.
pub fn destroy(iommufd: BorrowedFd<'_>, id: u32) -> Result<()> {
    let mut destroy = iommu_destroy {
        id,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(iommufd, &mut destroy) }?;
    Ok(())
}

/// `IOMMU_IOAS_ALLOC`: the id of a new I/O address space.
pub fn ioas_alloc(iommufd: BorrowedFd<'_>) -> Result<u32> {
    let mut alloc = iommu_ioas_alloc::default();
    // SAFETY: the structure has no pointers.
    unsafe { call(iommufd, &mut alloc) }?;
    Ok(alloc.out_ioas_id)
}

/// `IOMMU_IOAS_MAP_FILE` of all of `memory` at `iova`, for reading and writing.
pub fn ioas_map(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    memory: &SharedMemory,
    iova: u64,
) -> Result<()> {
    let mut map = iommu_ioas_map_file {
        flags: FIXED_IOVA | READABLE | WRITEABLE,
        ioas_id: ioas,
        fd: memory.file().as_raw_fd(),
        length: memory.len() as u64,
        iova,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers; the kernel pins the pages of the file.
    unsafe { call(iommufd, &mut map) }?;
    Ok(())
}

/// `IOMMU_IOAS_MAP` of `size` bytes at `offset` of `memory` at `iova`; `access` is of [`READABLE`]
/// and [`WRITEABLE`].
///
/// # Errors
///
/// The call's own, and EINVAL for what is not all in `memory`.
pub fn ioas_map_part(
    iommufd: BorrowedFd<'_>,
    (ioas, access): (u32, u32),
    memory: &(impl DmaMemory + ?Sized),
    offset: u64,
    iova: u64,
    size: u64,
) -> Result<()> {
    let vaddr = super::memory::part(memory, offset, size)?;
    let mut map = iommu_ioas_map {
        flags: FIXED_IOVA | access,
        ioas_id: ioas,
        user_va: vaddr.expose_provenance() as u64,
        length: size,
        iova,
        ..Default::default()
    };
    // SAFETY: the kernel pins the pages of the range, which is part of `memory`; `DmaMemory` is
    // the promise that devices may have them.
    unsafe { call(iommufd, &mut map) }?;
    Ok(())
}

/// `IOMMU_IOAS_COPY` of `size` bytes at `from_iova` of `from`, mapped there in whole, to `to_iova`
/// of `to`; the pages are not pinned again. `access` is of [`READABLE`] and [`WRITEABLE`].
pub fn ioas_copy(
    iommufd: BorrowedFd<'_>,
    (from, from_iova): (u32, u64),
    (to, to_iova): (u32, u64),
    size: u64,
    access: u32,
) -> Result<()> {
    let mut copy = iommu_ioas_copy {
        flags: FIXED_IOVA | access,
        dst_ioas_id: to,
        src_ioas_id: from,
        length: size,
        dst_iova: to_iova,
        src_iova: from_iova,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(iommufd, &mut copy) }?;
    Ok(())
}

/// `IOMMU_IOAS_UNMAP`: the number of bytes unmapped.
pub fn ioas_unmap(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, size: u64) -> Result<u64> {
    let mut unmap = iommu_ioas_unmap {
        ioas_id: ioas,
        iova,
        length: size,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(iommufd, &mut unmap) }?;
    Ok(unmap.length)
}

/// `IOMMU_HWPT_ALLOC`: the id of a new page table for device `device` on `parent`, an I/O address
/// space, or for a nested table with `data` its nest parent. Page requests go to `fault`.
pub fn hwpt_alloc(
    iommufd: BorrowedFd<'_>,
    flags: u32,
    device: u32,
    parent: u32,
    data: Option<&iommu_hwpt_vtd_s1>,
    fault: Option<u32>,
) -> Result<u32> {
    let mut alloc = iommu_hwpt_alloc {
        flags: flags | fault.map_or(0, |_| FAULT_ID_VALID),
        dev_id: device,
        pt_id: parent,
        fault_id: fault.unwrap_or(0),
        ..Default::default()
    };
    if let Some(data) = data {
        alloc.data_type = super::ioasid::DATA_VTD_S1;
        alloc.data_len = const { size_of::<iommu_hwpt_vtd_s1>() as u32 };
        alloc.data_uptr = std::ptr::from_ref(data).expose_provenance() as u64;
    }
    // SAFETY: `data_uptr` is `data_len` bytes borrowed over the call, which only reads them.
    // What the table lets the device do stays inside memory that was given to the parent.
    unsafe { call(iommufd, &mut alloc) }?;
    Ok(alloc.out_hwpt_id)
}

/// `IOMMU_IOAS_IOVA_RANGES`: the ranges that can be mapped and the alignment of mappings. Gives how
/// many ranges there are; `room` has the first of them.
///
/// # Errors
///
/// The call's own but EMSGSIZE.
pub fn ioas_iova_ranges(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    room: &mut [iommu_iova_range],
) -> Result<(usize, u64)> {
    let mut ranges = iommu_ioas_iova_ranges {
        ioas_id: ioas,
        num_iovas: u32::try_from(room.len()).map_err(|_| super::Errno::E2BIG)?,
        allowed_iovas: room.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: `allowed_iovas` is room for `num_iovas` ranges, borrowed exclusively over the call,
    // which writes no more, and ranges are plain.
    match unsafe { call(iommufd, &mut ranges) } {
        Ok(_) | Err(super::Errno::EMSGSIZE) => {}
        Err(errno) => return Err(errno),
    }
    Ok((ranges.num_iovas as usize, ranges.out_iova_alignment))
}

/// What `IOMMU_GET_HW_INFO` says of a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct HwInfo {
    /// CAP and ECAP behind VT-d.
    pub vtd: Option<(u64, u64)>,
    /// The PASIDs of the device as a power of two, zero for none.
    pub max_pasid_log2: u8,
    /// `enum iommufd_hw_capabilities`.
    pub capabilities: u64,
}

/// `IOMMU_GET_HW_INFO` of a device.
pub fn hw_info(iommufd: BorrowedFd<'_>, device: u32) -> Result<HwInfo> {
    let mut vtd = iommu_hw_info_vtd::default();
    let mut info = iommu_hw_info {
        dev_id: device,
        data_len: const { size_of::<iommu_hw_info_vtd>() as u32 },
        data_uptr: std::ptr::from_mut(&mut vtd).expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: `data_uptr` is `data_len` bytes, borrowed exclusively over the call, and plain.
    unsafe { call(iommufd, &mut info) }?;
    // SAFETY: both fields of the union are a u32.
    let data_type = unsafe { info.__bindgen_anon_1.out_data_type };
    Ok(HwInfo {
        vtd: (data_type == TYPE_VTD).then_some((vtd.cap_reg, vtd.ecap_reg)),
        max_pasid_log2: info.out_max_pasid_log2,
        capabilities: info.out_capabilities,
    })
}

/// `IOMMU_HWPT_SET_DIRTY_TRACKING`.
pub fn hwpt_track_dirty(iommufd: BorrowedFd<'_>, hwpt: u32, on: bool) -> Result<()> {
    let mut set = iommu_hwpt_set_dirty_tracking {
        hwpt_id: hwpt,
        flags: if on { TRACKING_ENABLE } else { 0 },
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(iommufd, &mut set) }?;
    Ok(())
}

/// `IOMMU_HWPT_GET_DIRTY_BITMAP`: sets the bit of each page of 4 KiB of `size` bytes from `iova` on
/// that was written, and makes it clean.
///
/// # Errors
///
/// The call's own, and EINVAL if the bitmap has too few bits.
pub fn hwpt_dirty(
    iommufd: BorrowedFd<'_>,
    hwpt: u32,
    iova: u64,
    size: u64,
    bitmap: &mut [u64],
) -> Result<()> {
    const PAGE: u64 = 4096;

    let words = usize::try_from(size.div_ceil(PAGE).div_ceil(64));
    if words.map_or(true, |words| words > bitmap.len()) {
        return Err(super::Errno::EINVAL);
    }
    let mut get = iommu_hwpt_get_dirty_bitmap {
        hwpt_id: hwpt,
        iova,
        length: size,
        page_size: PAGE,
        data: bitmap.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: the kernel sets bits below `length / page_size`, which are in `bitmap` as checked
    // above, and that is borrowed exclusively over the call.
    unsafe { call(iommufd, &mut get) }?;
    Ok(())
}

/// An invalidation that did not go to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidateFailure {
    /// Entries that were carried out: the number of the one that was not.
    pub done: u32,
    /// Why not.
    pub errno: super::Errno,
}

/// `IOMMU_HWPT_INVALIDATE`, entry by entry.
///
/// # Errors
///
/// The call's own, with how far it came.
pub fn hwpt_invalidate(
    iommufd: BorrowedFd<'_>,
    hwpt: u32,
    entries: &[iommu_hwpt_vtd_s1_invalidate],
) -> std::result::Result<(), InvalidateFailure> {
    let failed = |done, errno| InvalidateFailure { done, errno };
    let mut invalidate = iommu_hwpt_invalidate {
        hwpt_id: hwpt,
        data_uptr: entries.as_ptr().expose_provenance() as u64,
        data_type: super::ioasid::INVALIDATE_DATA_VTD_S1,
        entry_len: const { size_of::<iommu_hwpt_vtd_s1_invalidate>() as u32 },
        entry_num: u32::try_from(entries.len()).map_err(|_| failed(0, super::Errno::E2BIG))?,
        ..Default::default()
    };
    // SAFETY: `data_uptr` is `entry_num` entries of `entry_len` bytes, borrowed over the call,
    // which only reads them.
    match unsafe { call(iommufd, &mut invalidate) } {
        Ok(_) => Ok(()),
        // A call that was refused as a whole leaves the number as it was.
        Err(errno) if invalidate.entry_num as usize >= entries.len() => Err(failed(0, errno)),
        Err(errno) => Err(failed(invalidate.entry_num, errno)),
    }
}

/// `IOMMU_FAULT_QUEUE_ALLOC`: a fault queue's id and its fd.
pub fn fault_alloc(iommufd: BorrowedFd<'_>) -> Result<(u32, OwnedFd)> {
    let mut alloc = iommu_fault_alloc::default();
    // SAFETY: the structure has no pointers.
    unsafe { call(iommufd, &mut alloc) }?;
    let fd = RawFd::try_from(alloc.out_fault_fd).map_err(|_| super::Errno::EOVERFLOW)?;
    // SAFETY: the call has just made it, and nobody else has it.
    Ok((alloc.out_fault_id, unsafe { take_fd(fd) }))
}

/// `VFIO_DEVICE_BIND_IOMMUFD` of a device's own file (/dev/vfio/devices/…): its id there.
pub fn device_bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32> {
    let mut bind = vfio_device_bind_iommufd {
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: the structure has no pointers without `VFIO_DEVICE_BIND_FLAG_TOKEN`.
    unsafe { call(device, &mut bind) }?;
    Ok(bind.out_devid)
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT` to a page table or an I/O address space, at a PASID or else
/// the RID. What is attached there is replaced.
pub fn device_attach(device: BorrowedFd<'_>, pt: u32, pasid: Option<u32>) -> Result<()> {
    let mut attach = vfio_device_attach_iommufd_pt {
        flags: pasid.map_or(0, |_| WITH_PASID),
        pt_id: pt,
        pasid: pasid.unwrap_or(0),
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(device, &mut attach) }?;
    Ok(())
}

/// `VFIO_DEVICE_DETACH_IOMMUFD_PT` from a PASID or else the RID.
pub fn device_detach(device: BorrowedFd<'_>, pasid: Option<u32>) -> Result<()> {
    let mut detach = vfio_device_detach_iommufd_pt {
        flags: pasid.map_or(0, |_| WITH_PASID),
        pasid: pasid.unwrap_or(0),
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(device, &mut detach) }?;
    Ok(())
}
