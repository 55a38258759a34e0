// SPDX-License-Identifier: GPL-2.0
//! type1_compat, and the count of calls of type1 containers, for vfio core does not say which
//! backend it chose: /sys/module/vfio_iommu_ioasid/parameters/type1_calls.

use super::shim;

/// Whether the module was loaded to be VFIO_TYPE1_IOMMU and VFIO_TYPE1v2_IOMMU too.
pub(crate) fn is_on() -> bool {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_type1_compat() }
}

/// Counts a call.
pub(crate) fn count_call() {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_count_type1_call() }
}
