// SPDX-License-Identifier: GPL-2.0
//! IOMMU groups as vfio core hands them in.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::device::Device;
use super::shim;
use crate::base::iova::IovaRange;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;

/// A reference to an IOMMU group.
///
/// # Invariants
///
/// The pointer is live by a reference that is this value's.
pub(crate) struct Group(NonNull<bindings::iommu_group>);

// SAFETY: A group may be used, and let go, by any thread.
unsafe impl Send for Group {}
// SAFETY: The functions called here lock the group themselves.
unsafe impl Sync for Group {}

impl Group {
    /// Takes a reference.
    ///
    /// # Safety
    ///
    /// `group` must be live during the call.
    pub(super) unsafe fn from_raw(group: NonNull<bindings::iommu_group>) -> Self {
        // SAFETY: By the requirement.
        unsafe { bindings::iommu_group_ref_get(group.as_ptr()) };
        // INVARIANT: The reference was taken just now.
        Self(group)
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::iommu_group {
        self.0.as_ptr()
    }

    /// The devices of the group. Sleeps; takes the group's mutex.
    pub(crate) fn devices(&self) -> Result<KVec<Device>> {
        let mut devices: KVec<Device> = KVec::new();
        // SAFETY: The group is live by the invariant; `collect` takes the vector that it is
        // passed, which outlives the call.
        to_result(unsafe {
            bindings::iommu_group_for_each_dev(
                self.as_ptr(),
                core::ptr::from_mut(&mut devices).cast(),
                Some(collect),
            )
        })?;
        Ok(devices)
    }

    /// Whether `device` is in the group, and no other. Sleeps; takes the group's mutex.
    pub(crate) fn has_only(&self, device: &Device) -> bool {
        // SAFETY: The group is live by the invariant; `is_other` takes the pointer that it is
        // passed, and compares it.
        let other = unsafe {
            bindings::iommu_group_for_each_dev(
                self.as_ptr(),
                device.as_ptr().cast(),
                Some(is_other),
            )
        };
        other == 0
    }

    /// Whether a device of the group can raise only its own interrupts.
    pub(crate) fn has_isolated_msi(&self) -> bool {
        // SAFETY: The group is live by the invariant.
        unsafe { bindings::iommu_group_has_isolated_msi(self.as_ptr()) }
    }

    /// The addresses that are reserved: what is not DMA's, or the firmware's own.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if there are more than [`REGIONS`].
    pub(crate) fn reserved(&self) -> Result<KVec<IovaRange>> {
        let mut regions = KVec::from_elem(shim::RawRange::default(), REGIONS, GFP_KERNEL_ACCOUNT)?;
        let first = regions.as_mut_ptr();
        // SAFETY: The group is live by the invariant, and `first` is the first of `REGIONS`.
        let count = unsafe { shim::ioasid_group_reserved(self.as_ptr(), first, REGIONS) };
        let count = usize::try_from(count).map_err(|_| Error::from_errno(count as c_int))?;
        let mut reserved = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for region in regions.get(..count).ok_or(ENOSPC)? {
            let range = IovaRange::new(region.start, region.last).ok_or(EINVAL)?;
            reserved.push(range, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(reserved)
    }
}

impl Clone for Group {
    fn clone(&self) -> Self {
        // SAFETY: The group is live by the invariant.
        unsafe { Self::from_raw(self.0) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the invariant.
        unsafe { bindings::iommu_group_put(self.as_ptr()) };
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// Most reserved regions of a group: firmware describes a handful.
const REGIONS: usize = 32;

/// # Safety
///
/// Called by `iommu_group_for_each_dev`, which holds the group's mutex. `dev` is live, and `data` the
/// vector of [`Group::devices`].
unsafe extern "C" fn collect(dev: *mut bindings::device, data: *mut c_void) -> c_int {
    // SAFETY: By the requirement; nobody else uses the vector meanwhile.
    let devices = unsafe { &mut *data.cast::<KVec<Device>>() };
    // SAFETY: By the requirement.
    let device = unsafe { kernel::device::Device::get_device(dev) };
    // SAFETY: The mutex is held by the requirement.
    let new = unsafe { Device::new(device) };
    let pushed = new.and_then(|device| Ok(devices.push(device, GFP_KERNEL_ACCOUNT)?));
    match pushed {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// None: the pointers are compared.
unsafe extern "C" fn is_other(dev: *mut bindings::device, data: *mut c_void) -> c_int {
    c_int::from(!core::ptr::addr_eq(dev, data))
}
