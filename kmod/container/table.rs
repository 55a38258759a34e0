// SPDX-License-Identifier: GPL-2.0
//! The containers of the module by number, and what vfio core asks of them.

use super::Container;
use crate::ffi::device::Device;
use crate::ffi::group::Group;
use crate::ffi::table_lock::UnderTableLock;
use crate::ffi::user::Pointer;
use crate::ffi::vfio::Backend;
use kernel::prelude::*;
use kernel::sync::Arc;

/// In the order of their numbers.
static CONTAINERS: UnderTableLock<KVec<Arc<Container>>> = UnderTableLock::new(KVec::new());

/// The container of number `id`.
pub(crate) fn find(id: u64) -> Option<Arc<Container>> {
    let containers = CONTAINERS.lock();
    let at = containers
        .binary_search_by_key(&id, |entry| entry.id())
        .ok()?;
    containers.get(at).cloned()
}

/// The container of the lowest number from `id` on.
pub(crate) fn find_from(id: u64) -> Option<Arc<Container>> {
    let containers = CONTAINERS.lock();
    let at = containers.partition_point(|entry| entry.id() < id);
    containers.get(at).cloned()
}

/// Number of containers.
pub(crate) fn count() -> usize {
    CONTAINERS.lock().len()
}

/// The containers, to vfio core.
pub(crate) struct Containers;

impl Backend for Containers {
    fn open(id: u64, iommu_type: usize) -> Result {
        let container = Container::new(id, iommu_type)?;
        // Numbers are given in ascending order but may get here in another.
        let mut containers = CONTAINERS.lock();
        containers.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let at = containers.partition_point(|entry| entry.id() < id);
        containers
            .insert_within_capacity(at, container)
            .map_err(|_| ENOMEM)
    }

    fn release(id: u64) {
        let container = {
            let mut containers = CONTAINERS.lock();
            let at = containers.binary_search_by_key(&id, |entry| entry.id());
            let container = at.ok().and_then(|at| containers.remove(at).ok());
            if containers.is_empty() {
                // The memory of a static does not go with the module.
                *containers = KVec::new();
            }
            container
        };
        if let Some(container) = container {
            container.release();
        }
    }

    fn check_extension(id: u64, extension: usize) -> isize {
        Container::check_extension(find(id).as_deref(), extension)
    }

    fn ioctl(id: u64, cmd: u32, arg: Pointer) -> Result<isize> {
        find(id).ok_or(EINVAL)?.ioctl(cmd, arg)
    }

    fn attach_group(id: u64, group: Group) -> Result {
        find(id).ok_or(EINVAL)?.attach_group(group)
    }

    fn detach_group(id: u64, group: &Group) {
        if let Some(container) = find(id) {
            container.detach_group(group);
        }
    }

    fn device_removed(is_it: &dyn Fn(&Device) -> bool) {
        let mut from = 0;
        while let Some(container) = find_from(from) {
            if let Some(device) = container.find_device(is_it) {
                container.device_removed(&device);
            }
            let Some(next) = container.id().checked_add(1) else {
                return;
            };
            from = next;
        }
    }
}
