// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The calls of linux/vfio_ioasid.h.

use super::{call, calls, take_fd, Errno, Result};
use host_iommu_bindings::ioctl;
use host_iommu_bindings::uapi::{
    iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_invalidate, vfio_ioasid_bind, vfio_ioasid_device,
    vfio_ioasid_device_info, vfio_ioasid_devices, vfio_ioasid_fault_queue, vfio_ioasid_invalidate,
    vfio_ioasid_pasid_alloc, vfio_ioasid_pasid_free, vfio_ioasid_stats, vfio_ioasid_unbind,
    VFIO_IOASID_BIND_REPLACE, VFIO_IOASID_BIND_RID, VFIO_IOASID_OUTCOME_BLOCKED,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `IOMMU_HWPT_DATA_VTD_S1` of linux/iommufd.h.
pub const DATA_VTD_S1: u32 = 1;
/// `IOMMU_HWPT_INVALIDATE_DATA_VTD_S1` of linux/iommufd.h.
pub const INVALIDATE_DATA_VTD_S1: u32 = 0;

calls! {
    vfio_ioasid_pasid_alloc => ioctl::VFIO_IOASID_PASID_ALLOC,
    vfio_ioasid_pasid_free => ioctl::VFIO_IOASID_PASID_FREE,
    vfio_ioasid_bind => ioctl::VFIO_IOASID_BIND,
    vfio_ioasid_unbind => ioctl::VFIO_IOASID_UNBIND,
    vfio_ioasid_invalidate => ioctl::VFIO_IOASID_INVALIDATE,
    vfio_ioasid_fault_queue => ioctl::VFIO_IOASID_FAULT_QUEUE,
    vfio_ioasid_devices => ioctl::VFIO_IOASID_DEVICES,
    vfio_ioasid_stats => ioctl::VFIO_IOASID_STATS,
}

/// `VFIO_IOASID_PASID_ALLOC`: the first of `count` consecutive PASIDs in `min..=max`.
pub fn pasid_alloc(container: BorrowedFd<'_>, min: u32, max: u32, count: u32) -> Result<u32> {
    let mut alloc = vfio_ioasid_pasid_alloc {
        min,
        max,
        count,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut alloc) }?;
    Ok(alloc.pasid)
}

/// `VFIO_IOASID_PASID_FREE`.
pub fn pasid_free(container: BorrowedFd<'_>, pasid: u32, count: u32) -> Result<()> {
    let mut free = vfio_ioasid_pasid_free {
        pasid,
        count,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut free) }?;
    Ok(())
}

/// `VFIO_IOASID_BIND` of a VT-d stage-1 table.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// The device.
    pub device: vfio_ioasid_device,
    /// The host's PASID, zero for the requests without one.
    pub pasid: u32,
    /// In place of what is bound there.
    pub replace: bool,
    /// The table.
    pub data: iommu_hwpt_vtd_s1,
    /// The guest's number for `pasid`.
    pub guest_pasid: u32,
    /// Where page requests go.
    pub fault_queue: Option<BorrowedFd<'a>>,
    /// Comes back in fault records.
    pub cookie: u64,
}

/// Why a table was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindFailure {
    /// Why.
    pub errno: Errno,
    /// What was bound before is gone too.
    pub blocked: bool,
}

/// `VFIO_IOASID_BIND`.
pub fn bind(container: BorrowedFd<'_>, bind: &Bind<'_>) -> std::result::Result<(), BindFailure> {
    let data = std::ptr::from_ref(&bind.data);
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let mut call_data = vfio_ioasid_bind {
        flags: flag(bind.pasid == 0, VFIO_IOASID_BIND_RID)
            | flag(bind.replace, VFIO_IOASID_BIND_REPLACE),
        device: bind.device,
        pasid: bind.pasid,
        data_type: DATA_VTD_S1,
        data_len: const { size_of::<iommu_hwpt_vtd_s1>() as u32 },
        data_uptr: data.expose_provenance() as u64,
        guest_pasid: bind.guest_pasid,
        fault_fd: bind.fault_queue.map_or(-1, |queue| queue.as_raw_fd()),
        cookie: bind.cookie,
        ..Default::default()
    };
    // SAFETY: `data_uptr` is `data_len` bytes borrowed over the call, which only reads them.
    // What the table lets the device do stays inside memory that was given to the container.
    match unsafe { call(container, &mut call_data) } {
        Ok(_) => Ok(()),
        Err(errno) => Err(BindFailure {
            errno,
            blocked: call_data.outcome == VFIO_IOASID_OUTCOME_BLOCKED,
        }),
    }
}

/// `VFIO_IOASID_UNBIND`; `scope` is one of `VFIO_IOASID_SCOPE_*`.
pub fn unbind(
    container: BorrowedFd<'_>,
    scope: u32,
    device: vfio_ioasid_device,
    pasid: u32,
) -> Result<()> {
    let mut unbind = vfio_ioasid_unbind {
        flags: scope,
        device,
        pasid,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut unbind) }?;
    Ok(())
}

/// How an invalidation ended that did not reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidateFailure {
    /// Entries carried out.
    pub done: u32,
    /// Index of the first bad one.
    pub bad_index: u32,
    /// Why.
    pub errno: Errno,
}

/// `VFIO_IOASID_INVALIDATE`; `scope` is one of `VFIO_IOASID_SCOPE_*`. Gives the number of entries
/// carried out.
pub fn invalidate(
    container: BorrowedFd<'_>,
    scope: u32,
    device: vfio_ioasid_device,
    pasid: u32,
    entries: &[iommu_hwpt_vtd_s1_invalidate],
) -> std::result::Result<u32, InvalidateFailure> {
    let Ok(entry_num) = u32::try_from(entries.len()) else {
        return Err(InvalidateFailure {
            done: 0,
            bad_index: 0,
            errno: Errno::EINVAL,
        });
    };
    let mut invalidate = vfio_ioasid_invalidate {
        flags: scope,
        device,
        pasid,
        data_type: INVALIDATE_DATA_VTD_S1,
        entry_num,
        ..Default::default()
    };
    if !entries.is_empty() {
        invalidate.entry_len = const { size_of::<iommu_hwpt_vtd_s1_invalidate>() as u32 };
        invalidate.entries_uptr = entries.as_ptr().expose_provenance() as u64;
    }
    // SAFETY: `entries_uptr` is `entry_num` entries borrowed over the call, which only reads
    // them.
    match unsafe { call(container, &mut invalidate) } {
        Ok(_) => Ok(invalidate.entry_num),
        Err(errno) => {
            // The call writes `bad_index` where it looked at the entries; a call refused before
            // leaves all as it was, and has done nothing.
            let looked = invalidate.entry_num != entry_num;
            Err(InvalidateFailure {
                done: if looked { invalidate.entry_num } else { 0 },
                bad_index: invalidate.bad_index,
                errno,
            })
        }
    }
}

/// `VFIO_IOASID_FAULT_QUEUE`; `flags` are `VFIO_IOASID_FAULT_QUEUE_*`, `depth` is zero for the
/// default, `deadline_ms` for no deadline.
pub fn fault_queue(
    container: BorrowedFd<'_>,
    flags: u32,
    depth: u32,
    deadline_ms: u32,
) -> Result<OwnedFd> {
    let mut queue = vfio_ioasid_fault_queue {
        flags,
        depth,
        deadline_ms,
        fd: -1,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut queue) }?;
    // SAFETY: the call has just made the fd.
    Ok(unsafe { take_fd(queue.fd) })
}

/// `VFIO_IOASID_DEVICES`: fills `room` and gives the number of devices attached, which may be
/// more.
pub fn devices(container: BorrowedFd<'_>, room: &mut [vfio_ioasid_device_info]) -> Result<u32> {
    let mut devices = vfio_ioasid_devices {
        entry_len: const { size_of::<vfio_ioasid_device_info>() as u32 },
        count: u32::try_from(room.len()).unwrap_or(u32::MAX),
        entries_uptr: room.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    // SAFETY: the kernel writes `count` entries of `entry_len` bytes at most, which is `room`,
    // borrowed exclusively.
    unsafe { call(container, &mut devices) }?;
    Ok(devices.count)
}

/// `VFIO_IOASID_STATS`.
pub fn stats(container: BorrowedFd<'_>) -> Result<vfio_ioasid_stats> {
    let mut stats = vfio_ioasid_stats::default();
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut stats) }?;
    Ok(stats)
}
