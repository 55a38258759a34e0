// SPDX-License-Identifier: GPL-2.0
//! The VFIO container backend: registration, and the table of containers.
//!
//! vfio core hands each callback the pointer that `open` gave, and reads it without a lock
//! in its ioctl. So the pointer is a number, never reused, that is looked up here: a stale
//! one finds nothing.
//!
//! C header: [`drivers/vfio/vfio.h`](srctree/drivers/vfio/vfio.h)

use super::account;
use super::debugfs::{Folder, Lines};
use super::device::Device;
use super::group::Group;
use super::shim;
use super::user::Pointer;
use crate::container::Container;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{global_lock, Arc};

/// `VFIO_CHECK_EXTENSION` of linux/vfio.h.
const CHECK_EXTENSION: c_uint = 0x3b65;

/// Number of the next container. A u64 does not come round.
static NEXT_ID: Atomic<u64> = Atomic::new(1);

global_lock! {
    // SAFETY: `Registration::new` initialises it before vfio core can call.
    unsafe(uninit) static CONTAINERS: Mutex<KVec<(u64, Arc<Container>)>> = KVec::new();
}

/// The registration of this module as a container backend.
///
/// # Invariants
///
/// The operations of shim.c are registered with vfio core.
pub(crate) struct Registration {
    /// Dropped before the rest, which its files ask.
    debugfs: Option<Folder>,
}

impl Registration {
    /// Registers the module, whose files in debugfs have the lines of `L`. Only `module_init` calls
    /// it, once.
    pub(crate) fn new<L: Lines>() -> Result<Self> {
        // SAFETY: The module's init runs once in the life of its statics.
        unsafe { CONTAINERS.init() };
        // SAFETY: As above.
        unsafe { account::init() };
        // SAFETY: No requirements; the callbacks of this file are ready.
        to_result(unsafe { shim::ioasid_vfio_register() })?;
        // INVARIANT: It was registered just now.
        Ok(Self {
            // SAFETY: As above: there is no other.
            debugfs: Some(unsafe { Folder::create::<L>() }),
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        drop(self.debugfs.take());
        // SAFETY: By the invariant it is registered. vfio core holds a reference to the module
        // for each container, so there is none left.
        unsafe { shim::ioasid_vfio_unregister() };
        // Statics are not dropped with the module; the table's memory is.
        *CONTAINERS.lock() = KVec::new();
        account::exit();
    }
}

/// The container of number `id`.
pub(crate) fn find(id: u64) -> Option<Arc<Container>> {
    let containers = CONTAINERS.lock();
    let at = containers.binary_search_by_key(&id, |entry| entry.0).ok()?;
    containers.get(at).map(|entry| entry.1.clone())
}

/// The container of the lowest number from `id` on.
pub(crate) fn find_from(id: u64) -> Option<(u64, Arc<Container>)> {
    let containers = CONTAINERS.lock();
    let at = containers.partition_point(|entry| entry.0 < id);
    containers.get(at).cloned()
}

/// Number of containers.
pub(crate) fn count() -> usize {
    CONTAINERS.lock().len()
}

fn find_data(data: *mut c_void) -> Option<Arc<Container>> {
    find(data.addr() as u64)
}

fn errno(error: Error) -> c_int {
    error.to_errno()
}

#[no_mangle]
extern "C" fn ioasid_vfio_open(arg: c_ulong) -> *mut c_void {
    let id = NEXT_ID.fetch_add(1u64, Relaxed);
    let added = Container::new(id, arg).and_then(|container| {
        // Numbers are given in ascending order but may get here in another.
        let mut containers = CONTAINERS.lock();
        containers.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let at = containers.partition_point(|entry| entry.0 < id);
        containers
            .insert_within_capacity(at, (id, container))
            .map_err(|_| ENOMEM)
    });
    match added {
        Ok(()) => core::ptr::without_provenance_mut(id as usize),
        Err(error) => error.to_ptr(),
    }
}

#[no_mangle]
extern "C" fn ioasid_vfio_release(data: *mut c_void) {
    let id = data.addr() as u64;
    let container = {
        let mut containers = CONTAINERS.lock();
        match containers.binary_search_by_key(&id, |entry| entry.0) {
            Ok(at) => containers.remove(at).ok(),
            Err(_) => None,
        }
    };
    if let Some((_, container)) = container {
        container.release();
    }
}

#[no_mangle]
extern "C" fn ioasid_vfio_ioctl(data: *mut c_void, cmd: c_uint, arg: c_ulong) -> c_long {
    let result = if cmd == CHECK_EXTENSION {
        Ok(Container::check_extension(find_data(data).as_deref(), arg))
    } else {
        match find_data(data) {
            Some(container) => container.ioctl(cmd, Pointer::from_arg(arg)),
            None => Err(EINVAL),
        }
    };
    match result {
        Ok(value) => value as c_long,
        Err(error) => errno(error) as c_long,
    }
}

#[no_mangle]
extern "C" fn ioasid_vfio_attach_group(
    data: *mut c_void,
    group: *mut bindings::iommu_group,
    _type: c_int,
) -> c_int {
    let Some(container) = find_data(data) else {
        return errno(EINVAL);
    };
    let Some(group) = NonNull::new(group) else {
        return errno(EINVAL);
    };
    // SAFETY: vfio core passes a group that it holds.
    let group = unsafe { Group::from_raw(group) };
    match container.attach_group(group) {
        Ok(()) => 0,
        Err(error) => errno(error),
    }
}

#[no_mangle]
extern "C" fn ioasid_vfio_detach_group(data: *mut c_void, group: *mut bindings::iommu_group) {
    let Some(container) = find_data(data) else {
        return;
    };
    let Some(group) = NonNull::new(group) else {
        return;
    };
    // SAFETY: As in attach_group.
    let group = unsafe { Group::from_raw(group) };
    container.detach_group(&group);
}

/// Runs in whatever removes a PCI function, with none of our locks held.
#[no_mangle]
extern "C" fn ioasid_device_removed(dev: *mut bindings::device) {
    let mut from = 0;
    while let Some((id, container)) = find_from(from) {
        let is_it = |device: &Device| core::ptr::eq(device.as_ptr(), dev);
        if let Some(device) = container.find_device(is_it) {
            container.device_removed(&device);
        }
        let Some(next) = id.checked_add(1) else {
            return;
        };
        from = next;
    }
}
