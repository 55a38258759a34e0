// SPDX-License-Identifier: GPL-2.0
//! IOMMU groups as vfio core hands them in.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::device::Device;
use super::shim;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use kernel::sync::aref::ARef;

/// An IOMMU group that vfio core owns for the user.
///
/// # Invariants
///
/// The pointer is a live group from attach_group until detach_group has returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group(*mut bindings::iommu_group);

// SAFETY: A group may be used from any thread.
unsafe impl Send for Group {}
// SAFETY: The functions called here lock the group themselves.
unsafe impl Sync for Group {}

impl Group {
    /// # Safety
    ///
    /// `group` must be live for as long as the result is used.
    pub(super) unsafe fn from_raw(group: *mut bindings::iommu_group) -> Self {
        // INVARIANT: By the safety requirement.
        Self(group)
    }

    pub(super) fn as_ptr(self) -> *mut bindings::iommu_group {
        self.0
    }

    /// The devices of the group.
    pub(crate) fn devices(self) -> Result<KVec<Device>> {
        let mut raw: KVec<ARef<kernel::device::Device>> = KVec::new();
        // SAFETY: The group is live by the invariant; `collect` takes the vector that it is
        // passed, which outlives the call.
        to_result(unsafe {
            bindings::iommu_group_for_each_dev(
                self.0,
                core::ptr::from_mut(&mut raw).cast(),
                Some(collect),
            )
        })?;
        let mut devices = KVec::with_capacity(raw.len(), GFP_KERNEL_ACCOUNT)?;
        for device in raw {
            devices.push(Device::new(device)?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(devices)
    }

    /// Whether a device of the group can raise only its own interrupts.
    pub(crate) fn has_isolated_msi(self) -> bool {
        // SAFETY: The group is live by the invariant.
        unsafe { bindings::iommu_group_has_isolated_msi(self.0) }
    }

    /// Calls `each` with the first and last address of each reserved region.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if there are more than [`REGIONS`], or what `each` gives.
    pub(crate) fn for_each_reserved(self, mut each: impl FnMut(u64, u64) -> Result) -> Result {
        let mut regions = [shim::RawRange::default(); REGIONS];
        // SAFETY: The group is live by the invariant, and `regions` has `REGIONS` entries.
        let count = unsafe { shim::ioasid_group_reserved(self.0, regions.as_mut_ptr(), REGIONS) };
        let count = usize::try_from(count).map_err(|_| Error::from_errno(count as c_int))?;
        for region in regions.get(..count).ok_or(ENOSPC)? {
            each(region.start, region.last)?;
        }
        Ok(())
    }
}

/// Most reserved regions of a group: firmware describes a handful.
const REGIONS: usize = 32;

extern "C" fn collect(dev: *mut bindings::device, data: *mut c_void) -> c_int {
    // SAFETY: `devices` passes its vector, which nobody else uses meanwhile.
    let devices = unsafe { &mut *data.cast::<KVec<ARef<kernel::device::Device>>>() };
    // SAFETY: iommu_group_for_each_dev passes live devices.
    let device = unsafe { kernel::device::Device::get_device(dev) };
    match devices.push(device, GFP_KERNEL_ACCOUNT) {
        Ok(()) => 0,
        Err(_) => ENOMEM.to_errno(),
    }
}
