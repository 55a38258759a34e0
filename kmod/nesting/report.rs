// SPDX-License-Identifier: GPL-2.0
//! What a container tells of its devices and of itself: the capability, DEVICES and STATS.

use super::capability::{self, Capability};
use super::{AttachedDevice, Nesting};
use crate::ffi::limits::Limit;
use crate::ffi::paging::PagingDomain;
use crate::ffi::uapi;
use crate::uapi::Devices;
use kernel::prelude::*;

impl Nesting {
    /// The report of the container, on its stage-2 domain.
    pub(crate) fn report(
        &self,
        parent: Option<&PagingDomain>,
        dirty: Result<(), u32>,
    ) -> uapi::vfio_ioasid_cap_nesting {
        let mut report = capability::no_device();
        for attached in &self.devices {
            let device = &attached.device;
            let capability = self.capability(attached, parent);
            capability::add_to_report(&mut report, device, &capability);
        }
        if parent.is_some_and(PagingDomain::is_nest_parent) {
            report.flags |= uapi::VFIO_IOASID_NESTING_NO_READONLY;
        }
        if parent.is_some_and(PagingDomain::is_coherent) {
            report.flags |= uapi::VFIO_IOASID_NESTING_COHERENT;
        }
        match dirty {
            Ok(()) => report.flags |= uapi::VFIO_IOASID_NESTING_DIRTY,
            // CAST: the reasons are small numbers of the header.
            Err(reason) => report.dirty_reason = reason as u16,
        }
        report.max_pasids = Limit::Pasids.get();
        report.max_bindings = Limit::Bindings.get();
        report.max_fault_queues = Limit::FaultQueues.get();
        report.max_address_spaces = Limit::AddressSpaces.get();
        report.max_as_entries = Limit::AsEntries.get();
        report
    }

    /// Writes the devices into the user's array; gives their number.
    pub(crate) fn write_devices(
        &self,
        call: &Devices,
        parent: Option<&PagingDomain>,
    ) -> Result<u32> {
        for (index, attached) in self.devices.iter().take(call.room as usize).enumerate() {
            let capability = self.capability(attached, parent);
            call.write(
                index,
                &capability::device_info(&attached.device, &capability),
            )?;
        }
        Ok(u32::try_from(self.devices.len())?)
    }

    /// Fills in the numbers that are a matter of this moment.
    pub(crate) fn fill_stats(&self, stats: &mut uapi::vfio_ioasid_stats) {
        stats.pasids = u64::from(self.pasids.taken());
        stats.bindings = u64::from(self.bound);
        stats.fault_queues = self.queues.len() as u64;
    }

    fn capability(&self, attached: &AttachedDevice, parent: Option<&PagingDomain>) -> Capability {
        let nest_parent = parent.is_some_and(PagingDomain::is_nest_parent);
        Capability::of(&attached.device, attached.shared, nest_parent)
    }
}
