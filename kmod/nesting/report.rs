// SPDX-License-Identifier: GPL-2.0
//! What a container tells of its devices and of itself: the capability, DEVICES and STATS.

use super::capability;
use super::Nesting;
use crate::ffi::abi;
use crate::ffi::limits::Limit;
use crate::ioas::Stage2Report;

impl Nesting {
    /// The report of the container: what `stage2` can do, and its devices.
    pub(crate) fn report(&self, stage2: &Stage2Report) -> abi::vfio_ioasid_cap_nesting {
        let mut report = capability::no_device();
        for attached in self.devices.iter().filter(|device| !device.is_gone()) {
            let capability = attached.capability();
            capability::add_to_report(&mut report, &attached.device, &capability);
        }
        if stage2.nests {
            report.flags |= abi::VFIO_IOASID_NESTING_NO_READONLY;
        }
        if stage2.coherent {
            report.flags |= abi::VFIO_IOASID_NESTING_COHERENT;
        }
        match stage2.dirty {
            Ok(()) => report.flags |= abi::VFIO_IOASID_NESTING_DIRTY,
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

    /// What DEVICES tells of the devices from number `from` on, as many as `infos` has room for;
    /// gives how many there are in all.
    pub(crate) fn device_infos(
        &self,
        from: usize,
        infos: &mut [abi::vfio_ioasid_device_info],
    ) -> usize {
        let there = || self.devices.iter().filter(|device| !device.is_gone());
        for (info, attached) in infos.iter_mut().zip(there().skip(from)) {
            *info = capability::device_info(&attached.device, &attached.capability());
        }
        there().count()
    }

    /// Fills in the numbers that are a matter of this moment.
    pub(crate) fn fill_stats(&self, stats: &mut abi::vfio_ioasid_stats) {
        stats.pasids = u64::from(self.pasids.taken());
        stats.bindings = u64::from(self.bound);
    }
}
