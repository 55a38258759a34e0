// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The calls of linux/vfio_ioasid.h.

use crate::{call, calls, take_fd, Errno, Result};
use host_iommu_bindings::ioctl;
use host_iommu_bindings::uapi::{
    iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_invalidate, vfio_ioasid_as_change, vfio_ioasid_as_create,
    vfio_ioasid_as_destroy, vfio_ioasid_as_entry, vfio_ioasid_bind, vfio_ioasid_device,
    vfio_ioasid_device_info, vfio_ioasid_devices, vfio_ioasid_fault_queue, vfio_ioasid_invalidate,
    vfio_ioasid_pasid_alloc, vfio_ioasid_pasid_free, vfio_ioasid_stats, vfio_ioasid_unbind,
    VFIO_IOASID_BIND_AS, VFIO_IOASID_BIND_BLOCKED, VFIO_IOASID_BIND_REPLACE, VFIO_IOASID_BIND_RID,
    VFIO_IOASID_BIND_STAGE2, VFIO_IOASID_OUTCOME_BLOCKED,
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
    vfio_ioasid_as_create => ioctl::VFIO_IOASID_AS_CREATE,
    vfio_ioasid_as_destroy => ioctl::VFIO_IOASID_AS_DESTROY,
    vfio_ioasid_as_change => ioctl::VFIO_IOASID_AS_MAP,
    AsUnmap => ioctl::VFIO_IOASID_AS_UNMAP,
}

/// `struct vfio_ioasid_as_change` for `VFIO_IOASID_AS_UNMAP`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AsUnmap {
    argsz: u32,
    flags: u32,
    as_id: u32,
    entry_len: u32,
    entry_num: u32,
    bad_index: u32,
    entries_uptr: u64,
}

const _: () = assert!(size_of::<AsUnmap>() == size_of::<vfio_ioasid_as_change>());

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

/// What is bound.
#[derive(Clone, Copy, Debug)]
pub enum BindWhat {
    /// A VT-d stage-1 table.
    Stage1(iommu_hwpt_vtd_s1),
    /// Stage 2.
    Stage2,
    /// An address space.
    AddressSpace(u32),
    /// Nothing: DMA is stopped.
    Blocked,
}

/// `VFIO_IOASID_BIND`.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// The device.
    pub device: vfio_ioasid_device,
    /// The host's PASID, zero for the requests without one.
    pub pasid: u32,
    /// In place of what is bound there.
    pub replace: bool,
    /// What is bound.
    pub what: BindWhat,
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
    let (what, data, as_id) = match &bind.what {
        BindWhat::Stage1(data) => (0, Some(data), 0),
        BindWhat::Stage2 => (VFIO_IOASID_BIND_STAGE2, None, 0),
        BindWhat::AddressSpace(id) => (VFIO_IOASID_BIND_AS, None, *id),
        BindWhat::Blocked => (VFIO_IOASID_BIND_BLOCKED, None, 0),
    };
    let data_uptr = data.map_or(0, |data| {
        std::ptr::from_ref(data).expose_provenance() as u64
    });
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let mut call_data = vfio_ioasid_bind {
        flags: flag(bind.pasid == 0, VFIO_IOASID_BIND_RID)
            | flag(bind.replace, VFIO_IOASID_BIND_REPLACE)
            | what,
        device: bind.device,
        pasid: bind.pasid,
        data_type: data.map_or(0, |_| DATA_VTD_S1),
        data_len: data.map_or(0, |_| const { size_of::<iommu_hwpt_vtd_s1>() as u32 }),
        data_uptr,
        as_id,
        guest_pasid: bind.guest_pasid,
        fault_fd: bind.fault_queue.map_or(-1, |queue| queue.as_raw_fd()),
        cookie: bind.cookie,
        ..Default::default()
    };
    // SAFETY: `data_uptr` is `data_len` bytes borrowed over the call, which only reads them, or null.
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

/// `VFIO_IOASID_AS_CREATE`: the new address space's name.
pub fn as_create(container: BorrowedFd<'_>) -> Result<u32> {
    let mut create = vfio_ioasid_as_create::default();
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut create) }?;
    Ok(create.as_id)
}

/// `VFIO_IOASID_AS_DESTROY`.
pub fn as_destroy(container: BorrowedFd<'_>, id: u32) -> Result<()> {
    let mut destroy = vfio_ioasid_as_destroy {
        as_id: id,
        ..Default::default()
    };
    // SAFETY: the structure has no pointers.
    unsafe { call(container, &mut destroy) }?;
    Ok(())
}

/// A change of an address space that did not reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeFailure {
    /// Index of the first bad entry.
    pub bad_index: u32,
    /// Why.
    pub errno: Errno,
}

/// The call's own fields for entries.
fn entries_of(
    entries: &[vfio_ioasid_as_entry],
) -> std::result::Result<(u32, u32, u64), ChangeFailure> {
    let too_many = ChangeFailure {
        bad_index: 0,
        errno: Errno::EINVAL,
    };
    let count = u32::try_from(entries.len()).map_err(|_| too_many)?;
    let size = const { size_of::<vfio_ioasid_as_entry>() as u32 };
    Ok((count, size, entries.as_ptr().expose_provenance() as u64))
}

/// The index that the call wrote, or the first where it refused before it looked at the entries.
fn first_bad(bad_index: u32, errno: Errno) -> ChangeFailure {
    ChangeFailure {
        bad_index: if bad_index == u32::MAX { 0 } else { bad_index },
        errno,
    }
}

/// `VFIO_IOASID_AS_MAP`.
pub fn as_map(
    container: BorrowedFd<'_>,
    id: u32,
    entries: &[vfio_ioasid_as_entry],
) -> std::result::Result<(), ChangeFailure> {
    let (entry_num, entry_len, entries_uptr) = entries_of(entries)?;
    let mut change = vfio_ioasid_as_change {
        as_id: id,
        entry_len,
        entry_num,
        bad_index: u32::MAX,
        entries_uptr,
        ..Default::default()
    };
    // SAFETY: `entries_uptr` is `entry_num` entries borrowed over the call, which only reads them.
    let result = unsafe { call(container, &mut change) };
    result
        .map(|_| ())
        .map_err(|errno| first_bad(change.bad_index, errno))
}

/// `VFIO_IOASID_AS_UNMAP`.
pub fn as_unmap(
    container: BorrowedFd<'_>,
    id: u32,
    entries: &[vfio_ioasid_as_entry],
) -> std::result::Result<(), ChangeFailure> {
    let (entry_num, entry_len, entries_uptr) = entries_of(entries)?;
    let mut change = AsUnmap {
        as_id: id,
        entry_len,
        entry_num,
        bad_index: u32::MAX,
        entries_uptr,
        ..Default::default()
    };
    // SAFETY: as in `as_map`.
    let result = unsafe { call(container, &mut change) };
    result
        .map(|_| ())
        .map_err(|errno| first_bad(change.bad_index, errno))
}
