// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses, accesses and what is mapped.

use super::super::result::{Failure, Result};
use crate::fault::RequestedAccess;
use crate::types::{Bdf, Iova, IovaRange, MapAccess};

/// Devices may read.
pub const HOST_IOMMU_READ: u32 = 1 << 0;
/// Devices may write.
pub const HOST_IOMMU_WRITE: u32 = 1 << 1;
/// In faults: to fetch instructions.
pub const HOST_IOMMU_EXECUTE: u32 = 1 << 2;
/// In faults: as a supervisor.
pub const HOST_IOMMU_PRIVILEGED: u32 = 1 << 3;

/// Stands for requests without PASID, which the requester id alone names.
pub const HOST_IOMMU_RID: u32 = 0;

/// A PCI function. `devfn` is the device in bits 7:3 and the function in bits 2:0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CBdf {
    pub segment: u16,
    pub bus: u8,
    pub devfn: u8,
}

impl From<CBdf> for Bdf {
    fn from(bdf: CBdf) -> Self {
        Self::new(bdf.segment, bdf.bus, bdf.devfn)
    }
}

impl From<Bdf> for CBdf {
    fn from(bdf: Bdf) -> Self {
        Self {
            segment: bdf.segment(),
            bus: bdf.bus(),
            devfn: bdf.device() << 3 | bdf.function(),
        }
    }
}

/// Addresses from the first to the last, both inclusive.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub first: u64,
    pub last: u64,
}

impl TryFrom<Range> for IovaRange {
    type Error = Failure;

    fn try_from(range: Range) -> Result<Self> {
        Self::new(Iova(range.first), Iova(range.last))
            .ok_or_else(|| Failure::argument("A range ends before it begins"))
    }
}

impl From<IovaRange> for Range {
    fn from(range: IovaRange) -> Self {
        Self {
            first: range.start().0,
            last: range.last().0,
        }
    }
}

/// Memory to map. It is given to devices: they may write to it whatever the caller does, and its
/// addresses must not be used for anything else until it is unmapped.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// Set to sizeof(struct host_iommu_mapping).
    pub size: u32,
    /// HOST_IOMMU_READ, HOST_IOMMU_WRITE, or both.
    pub access: u32,
    /// Where devices find it: for a VMM the guest-physical address.
    pub iova: u64,
    /// Bytes.
    pub length: u64,
    /// If the memory is a shared mapping of a file: where in the file it begins, in bytes.
    pub fd_offset: u64,
    /// The file's descriptor, which need not stay open; -1 if there is no file. What
    /// host_iommu_open_soft() made maps nothing else.
    pub fd: i32,
    /// Zero.
    pub reserved: u32,
}

/// The caller's memory access flags for a mapping.
pub(in super::super) fn map_access(access: u32) -> Result<MapAccess> {
    const BOTH: u32 = HOST_IOMMU_READ | HOST_IOMMU_WRITE;
    match access {
        HOST_IOMMU_READ => Ok(MapAccess::Read),
        HOST_IOMMU_WRITE => Ok(MapAccess::Write),
        BOTH => Ok(MapAccess::ReadWrite),
        _ => Err(Failure::argument("The access is neither read nor write")),
    }
}

pub(in super::super) fn requested(access: RequestedAccess) -> u32 {
    [
        (access.read, HOST_IOMMU_READ),
        (access.write, HOST_IOMMU_WRITE),
        (access.execute, HOST_IOMMU_EXECUTE),
        (access.privileged, HOST_IOMMU_PRIVILEGED),
    ]
    .into_iter()
    .fold(0, |all, (has, flag)| if has { all | flag } else { all })
}
