// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a context and its devices can do, and counters.

use super::CBdf;
use crate::capabilities::{self, MissingBecause, NestingCapability, Support};
use crate::types::AddressWidth;

/// The host can do it.
pub const HOST_IOMMU_PRESENT: u32 = 0;
/// The IOMMU driver of the device cannot nest.
pub const HOST_IOMMU_MISSING_DRIVER: u32 = 1;
/// The IOMMU lacks nested translation or scalable mode.
pub const HOST_IOMMU_MISSING_HARDWARE: u32 = 2;
/// The device has no PASID capability, or it is off.
pub const HOST_IOMMU_MISSING_PASID: u32 = 3;
/// The device or its IOMMU has no page requests, or they are off.
pub const HOST_IOMMU_MISSING_PRI: u32 = 4;
/// More than one device is in the IOMMU group.
pub const HOST_IOMMU_MISSING_GROUP_SHARED: u32 = 5;
/// No device is attached yet.
pub const HOST_IOMMU_MISSING_DEVICE: u32 = 6;
/// The format of the IOMMU's stage 1 is not known.
pub const HOST_IOMMU_MISSING_FORMAT: u32 = 7;
/// The running kernel does not offer it.
pub const HOST_IOMMU_MISSING_KERNEL: u32 = 8;
/// Added to a reason that a later kernel gave.
pub const HOST_IOMMU_MISSING_OTHER: u32 = 0x10000;

fn support(support: Support) -> u32 {
    match support {
        Support::Present => HOST_IOMMU_PRESENT,
        Support::Missing(reason) => match reason {
            MissingBecause::Driver => HOST_IOMMU_MISSING_DRIVER,
            MissingBecause::Hardware => HOST_IOMMU_MISSING_HARDWARE,
            MissingBecause::NoPasid => HOST_IOMMU_MISSING_PASID,
            MissingBecause::NoPri => HOST_IOMMU_MISSING_PRI,
            MissingBecause::GroupShared => HOST_IOMMU_MISSING_GROUP_SHARED,
            MissingBecause::NoDevice => HOST_IOMMU_MISSING_DEVICE,
            MissingBecause::Format => HOST_IOMMU_MISSING_FORMAT,
            MissingBecause::Kernel => HOST_IOMMU_MISSING_KERNEL,
            // No context of this API shadows.
            MissingBecause::Shadowed => HOST_IOMMU_MISSING_OTHER,
            MissingBecause::Other(number) => HOST_IOMMU_MISSING_OTHER | u32::from(number),
        },
    }
}

/// Stage 1 can be bound at the RID.
pub const HOST_IOMMU_CAN_RID: u32 = 1 << 0;
/// Read-only mappings are refused.
pub const HOST_IOMMU_NO_READ_ONLY: u32 = 1 << 1;
/// The IOMMU reads tables coherently.
pub const HOST_IOMMU_COHERENT: u32 = 1 << 2;
/// Stage-1 tables of four levels.
pub const HOST_IOMMU_WIDTH_48: u32 = 1 << 3;
/// Stage-1 tables of five levels.
pub const HOST_IOMMU_WIDTH_57: u32 = 1 << 4;

/// What a context can do with the devices attached now. What can be present or not is
/// HOST_IOMMU_PRESENT or one of HOST_IOMMU_MISSING_*.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CCapabilities {
    /// Set to sizeof(struct host_iommu_capabilities).
    pub size: u32,
    /// HOST_IOMMU_CAN_RID to HOST_IOMMU_WIDTH_57.
    pub flags: u32,
    /// A bit for each size of pages of stage 2.
    pub page_sizes: u64,
    /// Mappings that can still be made; UINT32_MAX if nobody knows.
    pub mappings_left: u32,
    /// Stage-1 tables.
    pub stage1: u32,
    /// Page requests that can be answered.
    pub page_requests: u32,
    /// Reports of failed DMA.
    pub dma_faults: u32,
    /// Dirty pages by hardware.
    pub dirty: u32,
    /// Bits of a PASID.
    pub pasid_bits: u32,
    /// Quotas.
    pub max_pasids: u32,
    pub max_bindings: u32,
    pub max_fault_queues: u32,
    pub max_spaces: u32,
    pub max_space_entries: u32,
    /// Zero.
    pub reserved: u32,
    /// VT-d's capability register.
    pub vtd_cap: u64,
    /// VT-d's extended capability register.
    pub vtd_ecap: u64,
}

impl From<&capabilities::Capabilities> for CCapabilities {
    fn from(all: &capabilities::Capabilities) -> Self {
        let missing = HOST_IOMMU_MISSING_DRIVER;
        let nothing = Self {
            size: size_of::<Self>() as u32,
            flags: 0,
            page_sizes: all.page_sizes,
            mappings_left: all.mappings_left.unwrap_or(u32::MAX),
            stage1: missing,
            page_requests: missing,
            dma_faults: missing,
            dirty: missing,
            pasid_bits: 0,
            max_pasids: 0,
            max_bindings: 0,
            max_fault_queues: 0,
            max_spaces: 0,
            max_space_entries: 0,
            reserved: 0,
            vtd_cap: 0,
            vtd_ecap: 0,
        };
        match &all.nesting {
            Some(nesting) => nothing.with(nesting),
            None => nothing,
        }
    }
}

impl CCapabilities {
    fn with(self, nesting: &NestingCapability) -> Self {
        let flags = [
            (nesting.rid, HOST_IOMMU_CAN_RID),
            (nesting.no_read_only, HOST_IOMMU_NO_READ_ONLY),
            (nesting.coherent, HOST_IOMMU_COHERENT),
            (
                nesting.widths.contains(&AddressWidth::Bits48),
                HOST_IOMMU_WIDTH_48,
            ),
            (
                nesting.widths.contains(&AddressWidth::Bits57),
                HOST_IOMMU_WIDTH_57,
            ),
        ];
        Self {
            flags: flags
                .into_iter()
                .fold(0, |all, (has, flag)| if has { all | flag } else { all }),
            stage1: support(nesting.stage1),
            page_requests: support(nesting.page_requests),
            dma_faults: support(nesting.dma_faults),
            dirty: support(nesting.dirty),
            pasid_bits: nesting.pasid_bits,
            max_pasids: nesting.max_pasids,
            max_bindings: nesting.max_bindings,
            max_fault_queues: nesting.max_fault_queues,
            max_spaces: nesting.max_address_spaces,
            max_space_entries: nesting.max_address_space_entries,
            vtd_cap: nesting.vtd_cap,
            vtd_ecap: nesting.vtd_ecap,
            ..self
        }
    }
}

/// An attached device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeviceInfo {
    /// Its address.
    pub device: CBdf,
    /// Not zero if stage 1 can be bound at its RID.
    pub rid: u32,
    /// HOST_IOMMU_PRESENT, or why stage 1 cannot be bound at a PASID of it.
    pub stage1: u32,
    /// HOST_IOMMU_PRESENT, or why its page requests cannot be delivered.
    pub page_requests: u32,
    /// PASIDs below this number work; zero for none.
    pub max_pasids: u32,
    /// Zero.
    pub reserved: u32,
    /// VT-d's capability register of its unit.
    pub vtd_cap: u64,
    /// VT-d's extended capability register of its unit.
    pub vtd_ecap: u64,
}

impl From<&capabilities::DeviceInfo> for DeviceInfo {
    fn from(info: &capabilities::DeviceInfo) -> Self {
        Self {
            device: info.device.into(),
            rid: info.rid.into(),
            stage1: support(info.stage1),
            page_requests: support(info.page_requests),
            max_pasids: info.max_pasids,
            reserved: 0,
            vtd_cap: info.vtd_cap,
            vtd_ecap: info.vtd_ecap,
        }
    }
}

/// Counters of a context; the first six are what there is now, the others only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CStats {
    /// Set to sizeof(struct host_iommu_stats).
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    pub pasids: u64,
    pub bindings: u64,
    pub fault_queues: u64,
    pub spaces: u64,
    pub space_entries: u64,
    /// Pages of 4 KiB.
    pub mapped_pages: u64,
    /// Page request groups given to a fault queue.
    pub page_requests: u64,
    /// Groups answered through a fault queue.
    pub responses: u64,
    /// Groups that the host answered INVALID itself.
    pub host_invalid: u64,
    /// Page requests answered INVALID because a queue was full.
    pub overflows: u64,
    /// Answers that came after the group was settled.
    pub late_responses: u64,
    /// Groups whose deadline passed.
    pub expired: u64,
    /// Failed DMA that was reported.
    pub dma_faults: u64,
    /// Invalidation entries carried out.
    pub invalidations: u64,
}

impl From<capabilities::Stats> for CStats {
    fn from(stats: capabilities::Stats) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            reserved: 0,
            pasids: stats.pasids,
            bindings: stats.bindings,
            fault_queues: stats.fault_queues,
            spaces: stats.address_spaces,
            space_entries: stats.address_space_entries,
            mapped_pages: stats.mapped_pages,
            page_requests: stats.page_requests,
            responses: stats.responses,
            host_invalid: stats.host_invalid,
            overflows: stats.overflows,
            late_responses: stats.late_responses,
            expired: stats.expired,
            dma_faults: stats.dma_faults,
            invalidations: stats.invalidations,
        }
    }
}
