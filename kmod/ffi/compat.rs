// SPDX-License-Identifier: GPL-2.0
//! The count of calls of type1 containers, for vfio core does not say which backend it chose:
//! /sys/module/vfio_iommu_ioasid/parameters/type1_calls.

use super::shim;

/// Counts a call.
pub(crate) fn count_call() {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_count_type1_call() }
}
