// SPDX-License-Identifier: GPL-2.0
//! Devices behind an IOMMU, and what they and their IOMMU unit can do.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::shim;
use super::unit::Unit;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

/// `IOMMU_HW_INFO_TYPE_INTEL_VTD` of linux/iommufd.h.
const HW_INFO_TYPE_INTEL_VTD: u32 = 1;

/// Segment, bus, device and function of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bdf {
    /// PCI segment.
    pub(crate) segment: u16,
    /// Bus number.
    pub(crate) bus: u8,
    /// Device (bits 7:3) and function (bits 2:0).
    pub(crate) devfn: u8,
}

/// What a VT-d unit can do.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VtdRegisters {
    /// The capability register (VT-d 4.1, 11.4.2).
    pub(crate) cap: u64,
    /// The extended capability register (VT-d 4.1, 11.4.3).
    pub(crate) ecap: u64,
}

/// A device of an attached group: a reference to it and its facts at the time of attach.
#[derive(Clone)]
pub(crate) struct Device {
    device: ARef<kernel::device::Device>,
    facts: shim::DeviceFacts,
    unit: Arc<Unit>,
}

impl Device {
    /// What the device can do now.
    ///
    /// # Safety
    ///
    /// The mutex of the device's IOMMU group is held: so its `dev_iommu` does not go.
    pub(super) unsafe fn new(device: ARef<kernel::device::Device>) -> Result<Self> {
        let mut facts = shim::DeviceFacts::default();
        // SAFETY: `device` holds a reference, and keeps its `dev_iommu` by the requirement; `facts`
        // is writable.
        to_result(unsafe { shim::ioasid_device_facts(raw(&device), &mut facts) })?;
        // SAFETY: `device` holds a reference, and keeps its `dev_iommu` by the requirement. It has an
        // IOMMU unit, for its facts were asked of that.
        let unit = unsafe { Unit::of(raw(&device)) }?;
        let unit = Arc::new(unit, GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            device,
            facts,
            unit,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::device {
        raw(&self.device)
    }

    /// The IOMMU unit that it is behind.
    pub(super) fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    /// Its address; `None` if it is no PCI function.
    pub(crate) fn bdf(&self) -> Option<Bdf> {
        self.facts.is_pci.then_some(Bdf {
            segment: self.facts.segment,
            bus: self.facts.bus,
            devfn: self.facts.devfn,
        })
    }

    /// PASIDs below this number work; zero if its PASID capability is off.
    pub(crate) fn max_pasids(&self) -> u32 {
        self.facts.max_pasids
    }

    /// Whether the IOMMU driver has nested domains at all.
    pub(crate) fn driver_nests(&self) -> bool {
        self.facts.can_nest
    }

    /// Whether it has ATS, switched on, and PRI.
    pub(crate) fn has_pri(&self) -> bool {
        self.facts.ats_enabled && self.facts.pri_supported
    }

    /// What its VT-d unit can do; `None` behind another IOMMU.
    pub(crate) fn vtd_registers(&self) -> Option<VtdRegisters> {
        (self.facts.hw_type == HW_INFO_TYPE_INTEL_VTD).then_some(VtdRegisters {
            cap: self.facts.vtd_cap,
            ecap: self.facts.vtd_ecap,
        })
    }

    /// Waits until the page request thread sees no attach handle of this device that is no
    /// longer attached. Sleeps; takes `intel_iommu::iopf_lock`. Only VT-d nests, so there is no
    /// other driver to wait for.
    pub(super) fn quiesce_page_requests(&self) {
        if self.vtd_registers().is_some() {
            // SAFETY: The registers were asked of this unit, as VT-d's.
            unsafe { self.unit.quiesce_page_requests() };
        }
    }
}

/// `device::Device` is `struct device`, transparently.
fn raw(device: &kernel::device::Device) -> *mut bindings::device {
    core::ptr::from_ref(device).cast_mut().cast()
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.as_ptr(), other.as_ptr())
    }
}
