// SPDX-License-Identifier: GPL-2.0
//! What a device and its VT-d unit can nest, and why not.

use crate::call::device_of;
use crate::ffi::abi;
use crate::ffi::attach::Site;
use crate::ffi::device::{Device, VtdRegisters};
use crate::ffi::dma_fault::DmaWatch;

/// Bits of VT-d's extended capability register (VT-d 4.1, 11.4.3).
mod ecap {
    pub(super) const NEST: u64 = 1 << 26;
    pub(super) const PRS: u64 = 1 << 29;
    pub(super) const SRS: u64 = 1 << 31;
    pub(super) const EAFS: u64 = 1 << 34;
    pub(super) const PASID: u64 = 1 << 40;
    pub(super) const PDS: u64 = 1 << 42;
    pub(super) const SMTS: u64 = 1 << 43;
    pub(super) const SSTS: u64 = 1 << 46;
    pub(super) const FSTS: u64 = 1 << 47;
}

/// `FS5LP` of VT-d's capability register (VT-d 4.1, 11.4.2): 5-level stage 1.
const CAP_FS5LP: u64 = 1 << 60;

/// What stage 1 of a device may look like.
#[derive(Clone, Copy)]
pub(crate) struct Stage1Support {
    /// Supervisor requests (SRE, and WPE with it).
    pub(crate) supervisor: bool,
    /// Extended accessed flags (EAFE).
    pub(crate) extended_accessed: bool,
    /// 57-bit addresses.
    pub(crate) five_level: bool,
}

/// What a device can do in this container. Each `Err` is a `VFIO_IOASID_REASON_*`.
#[derive(Clone, Copy)]
pub(crate) struct Capability {
    /// Its PASIDs can be bound.
    pasids: Result<(), u32>,
    /// It is alone in its group.
    alone: Result<(), u32>,
    /// Stage-1 tables can be bound at its RID.
    rid: Result<Stage1Support, u32>,
    /// Stage-1 tables can be bound at its PASIDs.
    pub(crate) nesting: Result<Stage1Support, u32>,
    /// Its page requests can be delivered.
    pub(crate) page_requests: Result<(), u32>,
}

impl Capability {
    /// What `device` can do; `shared` if others are in its group, `nest_parent` if the
    /// container's stage 2 takes nested tables.
    pub(crate) fn of(device: &Device, shared: bool, nest_parent: bool) -> Self {
        let alone = if shared {
            Err(abi::VFIO_IOASID_REASON_GROUP_SHARED)
        } else {
            Ok(())
        };
        let pasids = if device.max_pasids() == 0 {
            Err(abi::VFIO_IOASID_REASON_NO_PASID)
        } else {
            alone
        };
        let hardware = Self::hardware(device, nest_parent);
        let rid = hardware.and_then(|support| alone.map(|()| support));
        Self {
            pasids,
            alone,
            rid,
            nesting: hardware.and_then(|support| pasids.map(|()| support)),
            page_requests: alone.and_then(|()| Self::page_requests(device)),
        }
    }

    /// Whether anything can be bound at a site.
    pub(crate) fn at(&self, site: Site) -> Result<(), u32> {
        match site {
            Site::Rid => self.alone,
            Site::Pasid(_) => self.pasids,
        }
    }

    /// Whether a stage-1 table can be bound at a site.
    pub(crate) fn stage1(&self, site: Site) -> Result<Stage1Support, u32> {
        match site {
            Site::Rid => self.rid,
            Site::Pasid(_) => self.nesting,
        }
    }

    fn hardware(device: &Device, nest_parent: bool) -> Result<Stage1Support, u32> {
        const WANTED: u64 = ecap::NEST | ecap::SMTS | ecap::SSTS | ecap::FSTS | ecap::PASID;

        if !device.driver_nests() {
            return Err(abi::VFIO_IOASID_REASON_DRIVER);
        }
        let VtdRegisters { cap, ecap } = device
            .vtd_registers()
            .ok_or(abi::VFIO_IOASID_REASON_FORMAT)?;
        if ecap & WANTED != WANTED || !nest_parent {
            return Err(abi::VFIO_IOASID_REASON_HARDWARE);
        }
        Ok(Stage1Support {
            supervisor: ecap & ecap::SRS != 0,
            extended_accessed: ecap & ecap::EAFS != 0,
            five_level: cap & CAP_FS5LP != 0,
        })
    }

    fn page_requests(device: &Device) -> Result<(), u32> {
        const WANTED: u64 = ecap::PRS | ecap::PDS;

        match device.vtd_registers() {
            Some(unit) if unit.ecap & WANTED == WANTED && device.has_pri() => Ok(()),
            _ => Err(abi::VFIO_IOASID_REASON_NO_PRI),
        }
    }

    /// Why no stage-1 table can be bound at a PASID.
    fn reason(&self) -> u16 {
        reason_of(self.nesting)
    }

    /// Why there are no page requests.
    fn prq_reason(&self) -> u16 {
        reason_of(self.page_requests)
    }
}

fn reason_of<T>(support: Result<T, u32>) -> u16 {
    // CAST: the reasons are small numbers of the header.
    support.err().unwrap_or(abi::VFIO_IOASID_REASON_NONE) as u16
}

/// The report of one device.
pub(crate) fn device_info(
    device: &Device,
    capability: &Capability,
) -> abi::vfio_ioasid_device_info {
    let unit = device.vtd_registers().unwrap_or_default();
    let mut flags = 0;
    if capability.nesting.is_ok() {
        flags |= abi::VFIO_IOASID_DEVICE_NESTING;
    }
    if capability.rid.is_ok() {
        flags |= abi::VFIO_IOASID_DEVICE_RID;
    }
    if capability.page_requests.is_ok() {
        flags |= abi::VFIO_IOASID_DEVICE_PRQ;
    }
    abi::vfio_ioasid_device_info {
        device: device.bdf().map(device_of).unwrap_or_default(),
        flags,
        reason: capability.reason(),
        prq_reason: capability.prq_reason(),
        max_pasids: device.max_pasids(),
        vtd_cap: unit.cap,
        vtd_ecap: unit.ecap,
    }
}

/// Adds a device to the report of the container, which started as [`no_device`].
pub(crate) fn add_to_report(
    report: &mut abi::vfio_ioasid_cap_nesting,
    device: &Device,
    capability: &Capability,
) {
    let (reason, prq_reason) = (capability.reason(), capability.prq_reason());
    let bits = device.max_pasids().checked_ilog2().unwrap_or(0);
    match capability.nesting {
        Ok(support) => {
            let widths = if support.five_level { 0b11 } else { 0b01 };
            if report.flags & abi::VFIO_IOASID_NESTING_PASID == 0 {
                report.addr_width = widths;
                report.pasid_bits = bits;
            }
            report.flags |= abi::VFIO_IOASID_NESTING_PASID;
            report.reason = 0;
            report.data_types |= 1 << VTD_S1;
            report.addr_width &= widths;
            report.pasid_bits = report.pasid_bits.min(bits);
        }
        Err(_) if report.flags & abi::VFIO_IOASID_NESTING_PASID == 0 => report.reason = reason,
        Err(_) => {}
    }
    if capability.rid.is_ok() {
        report.flags |= abi::VFIO_IOASID_NESTING_RID;
    }
    if capability.page_requests.is_ok() {
        report.flags |= abi::VFIO_IOASID_NESTING_PRQ;
        report.prq_reason = 0;
    } else if report.flags & abi::VFIO_IOASID_NESTING_PRQ == 0 {
        report.prq_reason = prq_reason;
    }
    if DmaWatch::is_offered() && device.vtd_registers().is_some() {
        report.flags |= abi::VFIO_IOASID_NESTING_DMA_FAULT;
        report.dma_fault_reason = 0;
    } else if DmaWatch::is_offered() && report.flags & abi::VFIO_IOASID_NESTING_DMA_FAULT == 0 {
        report.dma_fault_reason = abi::VFIO_IOASID_REASON_DRIVER as u16;
    }
    if report.vtd_ecap == 0 {
        let unit = device.vtd_registers().unwrap_or_default();
        report.vtd_cap = unit.cap;
        report.vtd_ecap = unit.ecap;
    }
}

/// `IOMMU_HWPT_DATA_VTD_S1` of linux/iommufd.h.
pub(crate) const VTD_S1: u32 = 1;

/// The report of a container without devices.
pub(crate) fn no_device() -> abi::vfio_ioasid_cap_nesting {
    // CAST: the reasons are small numbers of the header.
    abi::vfio_ioasid_cap_nesting {
        reason: abi::VFIO_IOASID_REASON_NO_DEVICE as u16,
        prq_reason: abi::VFIO_IOASID_REASON_NO_DEVICE as u16,
        dma_fault_reason: if DmaWatch::is_offered() {
            abi::VFIO_IOASID_REASON_NO_DEVICE as u16
        } else {
            abi::VFIO_IOASID_REASON_KERNEL as u16
        },
        ..Default::default()
    }
}
