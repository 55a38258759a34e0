// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The structures of the C API, and what they are in Rust.

use super::pointer::Sized32;
use super::result::{Failure, Result};
use crate::capabilities::{self, MissingBecause, NestingCapability, Support};
use crate::context::{Scope, Translation};
use crate::fault::RequestedAccess;
use crate::nesting::{InvalidationEntry, Stage1Table};
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::types::{AddressWidth, Bdf, Gpa, Iova, IovaRange, MapAccess, Pasid};

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
pub(super) fn map_access(access: u32) -> Result<MapAccess> {
    const BOTH: u32 = HOST_IOMMU_READ | HOST_IOMMU_WRITE;
    match access {
        HOST_IOMMU_READ => Ok(MapAccess::Read),
        HOST_IOMMU_WRITE => Ok(MapAccess::Write),
        BOTH => Ok(MapAccess::ReadWrite),
        _ => Err(Failure::argument("The access is neither read nor write")),
    }
}

pub(super) fn requested(access: RequestedAccess) -> u32 {
    [
        (access.read, HOST_IOMMU_READ),
        (access.write, HOST_IOMMU_WRITE),
        (access.execute, HOST_IOMMU_EXECUTE),
        (access.privileged, HOST_IOMMU_PRIVILEGED),
    ]
    .into_iter()
    .fold(0, |all, (has, flag)| if has { all | flag } else { all })
}

/// A guest's stage-1 table.
pub const HOST_IOMMU_STAGE1: u32 = 1;
/// Stage 2 itself: a guest's passthrough entry.
pub const HOST_IOMMU_STAGE2: u32 = 2;
/// An address space.
pub const HOST_IOMMU_SPACE: u32 = 3;
/// Nothing: DMA is stopped.
pub const HOST_IOMMU_BLOCKED: u32 = 4;

/// Of a stage-1 table: supervisor requests are allowed.
pub const HOST_IOMMU_SUPERVISOR: u32 = 1 << 0;
/// Of a stage-1 table: accessed flags are extended.
pub const HOST_IOMMU_EXTENDED_ACCESSED: u32 = 1 << 1;
/// Of a stage-1 table: supervisor requests obey write protection.
pub const HOST_IOMMU_WRITE_PROTECT: u32 = 1 << 2;
/// `guest_pasid` is the guest's number for the PASID; otherwise that is the host's.
pub const HOST_IOMMU_GUEST_PASID: u32 = 1 << 3;

/// What translates a device's requests.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CTranslation {
    /// Set to sizeof(struct host_iommu_translation).
    pub size: u32,
    /// HOST_IOMMU_STAGE1, HOST_IOMMU_STAGE2, HOST_IOMMU_SPACE or HOST_IOMMU_BLOCKED.
    pub kind: u32,
    /// Of a stage-1 table: 48 address bits for four levels, 57 for five.
    pub width: u32,
    /// HOST_IOMMU_SUPERVISOR to HOST_IOMMU_GUEST_PASID.
    pub flags: u32,
    /// See HOST_IOMMU_GUEST_PASID.
    pub guest_pasid: u32,
    /// Zero.
    pub reserved: u32,
    /// Of a stage-1 table: the guest-physical address of its top level.
    pub root: u64,
    /// Of a stage-1 table: a number of the caller's own, given back with faults.
    pub cookie: u64,
}

impl CTranslation {
    pub(super) fn guest(&self) -> Option<u32> {
        (self.flags & HOST_IOMMU_GUEST_PASID != 0).then_some(self.guest_pasid)
    }

    pub(super) fn table(&self) -> Result<Stage1Table> {
        let has = |flag: u32| self.flags & flag != 0;
        Ok(Stage1Table {
            format: crate::TableFormat::FirstStage,
            root: Gpa(self.root),
            width: match self.width {
                48 => AddressWidth::Bits48,
                57 => AddressWidth::Bits57,
                _ => return Err(Failure::argument("The width is neither 48 nor 57")),
            },
            supervisor: has(HOST_IOMMU_SUPERVISOR),
            extended_accessed: has(HOST_IOMMU_EXTENDED_ACCESSED),
            write_protect: has(HOST_IOMMU_WRITE_PROTECT),
            guest_pasid: self.guest(),
            cookie: self.cookie,
        })
    }

    /// Refuses flags and reserved fields that mean nothing yet.
    pub(super) fn checked(self) -> Result<Self> {
        let known = HOST_IOMMU_SUPERVISOR
            | HOST_IOMMU_EXTENDED_ACCESSED
            | HOST_IOMMU_WRITE_PROTECT
            | HOST_IOMMU_GUEST_PASID;
        if self.flags & !known != 0 || self.reserved != 0 {
            return Err(Failure::argument("The translation has unknown flags"));
        }
        Ok(self)
    }
}

impl From<Translation> for CTranslation {
    fn from(translation: Translation) -> Self {
        let guest = translation.guest_pasid();
        let mut flags = guest.map_or(0, |_| HOST_IOMMU_GUEST_PASID);
        let (mut kind, mut width, mut root) = (HOST_IOMMU_STAGE2, 0, 0);
        match &translation {
            Translation::Stage1(table) => {
                (kind, width, root) = (HOST_IOMMU_STAGE1, table.width.bits(), table.root.0);
                for (has, flag) in [
                    (table.supervisor, HOST_IOMMU_SUPERVISOR),
                    (table.extended_accessed, HOST_IOMMU_EXTENDED_ACCESSED),
                    (table.write_protect, HOST_IOMMU_WRITE_PROTECT),
                ] {
                    flags |= if has { flag } else { 0 };
                }
            }
            Translation::Stage2 { .. } => {}
            Translation::Blocked { .. } => kind = HOST_IOMMU_BLOCKED,
            Translation::AddressSpace { id, .. } => {
                (kind, root) = (HOST_IOMMU_SPACE, AddressSpaceId::get(*id).into());
            }
        }
        Self {
            size: size_of::<Self>() as u32,
            kind,
            width,
            flags,
            guest_pasid: guest.unwrap_or(0),
            reserved: 0,
            root,
            cookie: translation.cookie(),
        }
    }
}

/// A binding, as host_iommu_export() gives it and host_iommu_import() takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The device.
    pub device: CBdf,
    /// The host's PASID, or HOST_IOMMU_RID.
    pub pasid: u32,
    /// What is bound.
    pub translation: CTranslation,
}

/// One binding.
pub const HOST_IOMMU_SCOPE_BINDING: u32 = 1;
/// Every binding of a device.
pub const HOST_IOMMU_SCOPE_DEVICE: u32 = 2;
/// Every binding.
pub const HOST_IOMMU_SCOPE_ALL: u32 = 3;

/// What an unbind or a flush is about.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CScope {
    /// HOST_IOMMU_SCOPE_BINDING, HOST_IOMMU_SCOPE_DEVICE or HOST_IOMMU_SCOPE_ALL.
    pub kind: u32,
    /// The device, unless the scope is all.
    pub device: CBdf,
    /// The host's PASID of the binding, or HOST_IOMMU_RID.
    pub pasid: u32,
}

impl TryFrom<CScope> for Scope {
    type Error = Failure;

    fn try_from(scope: CScope) -> Result<Self> {
        let device = scope.device.into();
        Ok(match scope.kind {
            HOST_IOMMU_SCOPE_BINDING => Self::Binding(device, Pasid::try_from(scope.pasid)?),
            HOST_IOMMU_SCOPE_DEVICE => Self::Device(device),
            HOST_IOMMU_SCOPE_ALL => Self::All,
            _ => return Err(Failure::argument("The scope is of no known kind")),
        })
    }
}

/// One step of an invalidation: addresses of stage 1, from 0 to UINT64_MAX for everything.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CInvalidation {
    /// What to drop; whole pages of 4 KiB, and the hardware may round up further.
    pub range: Range,
    /// Not zero if only entries that map pages changed, and no tables.
    pub leaf_only: u32,
    /// Zero.
    pub reserved: u32,
}

impl TryFrom<&CInvalidation> for InvalidationEntry {
    type Error = Failure;

    fn try_from(entry: &CInvalidation) -> Result<Self> {
        Ok(Self {
            range: entry.range.try_into()?,
            leaf_only: entry.leaf_only != 0,
        })
    }
}

/// An entry of an address space.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SpaceEntry {
    /// Addresses in the address space, whole pages of 4 KiB.
    pub range: Range,
    /// The guest-physical address of the first: it leads into memory that is mapped.
    pub gpa: u64,
    /// HOST_IOMMU_READ, HOST_IOMMU_WRITE, or both.
    pub access: u32,
    /// Zero.
    pub reserved: u32,
}

impl TryFrom<&SpaceEntry> for AddressSpaceEntry {
    type Error = Failure;

    fn try_from(entry: &SpaceEntry) -> Result<Self> {
        Ok(Self {
            range: entry.range.try_into()?,
            gpa: Gpa(entry.gpa),
            access: map_access(entry.access)?,
        })
    }
}

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

/// How a fault queue is made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Set to sizeof(struct host_iommu_queue_options).
    pub size: u32,
    /// Page requests that may wait unanswered; zero for as many as the devices can have.
    pub depth: u32,
    /// Milliseconds after which the host answers a page request INVALID; zero for never.
    pub deadline_ms: u32,
    /// Not zero if the queue also gets the DMA faults that no other queue of the context does.
    pub dma_faults: u32,
}

/// Pages are asked for, and an answer is due.
pub const HOST_IOMMU_PAGE_REQUESTS: u32 = 1;
/// A request failed; there is nothing to answer.
pub const HOST_IOMMU_DMA_FAULT: u32 = 2;
/// The queue was full: `cookie` page requests were answered INVALID.
pub const HOST_IOMMU_OVERFLOW: u32 = 3;
/// The group with this cookie needs no answer any more: its binding is gone.
pub const HOST_IOMMU_CANCELLED: u32 = 4;
/// The group with this cookie needs no answer any more: its deadline passed.
pub const HOST_IOMMU_EXPIRED: u32 = 5;

/// What a fault queue gives. Fields that the kind does not name are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// Set to sizeof(struct host_iommu_event).
    pub size: u32,
    /// HOST_IOMMU_PAGE_REQUESTS to HOST_IOMMU_EXPIRED.
    pub kind: u32,
    /// Of page requests and DMA faults: the device.
    pub segment: u16,
    pub bus: u8,
    pub devfn: u8,
    /// And the host's PASID, HOST_IOMMU_RID if there is none.
    pub pasid: u32,
    /// And the guest's, as the binding named it.
    pub guest_pasid: u32,
    /// Of DMA faults: HOST_IOMMU_READ to HOST_IOMMU_PRIVILEGED.
    pub access: u32,
    /// Of DMA faults: why, as the IOMMU has it. Of page requests: the group's index.
    pub reason: u32,
    /// Of page requests: how many pages.
    pub pages: u32,
    /// Of DMA faults: the address.
    pub address: u64,
    /// The group's name in its queue, or the count of an overflow.
    pub cookie: u64,
    /// Of page requests and DMA faults: the cookie of the binding.
    pub user_cookie: u64,
}

/// A page that a device asks for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Its address.
    pub address: u64,
    /// HOST_IOMMU_READ to HOST_IOMMU_PRIVILEGED.
    pub access: u32,
    /// Zero.
    pub reserved: u32,
}

/// The pages are there, or the device finds out when it tries again.
pub const HOST_IOMMU_SUCCESS: u32 = 0;
/// They are not, and will not be.
pub const HOST_IOMMU_INVALID: u32 = 1;

/// Past the device TLB, and so without page requests.
pub const HOST_IOMMU_SOFT_NO_ATS: u32 = 1 << 0;
/// Without page requests: a missing page is the end.
pub const HOST_IOMMU_SOFT_NO_PAGE_REQUESTS: u32 = 1 << 1;
/// As a supervisor.
pub const HOST_IOMMU_SOFT_PRIVILEGED: u32 = 1 << 2;
/// It writes to memory; otherwise it reads.
pub const HOST_IOMMU_SOFT_WRITE: u32 = 1 << 3;

/// A DMA of a device in the process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SoftDma {
    /// Set to sizeof(struct host_iommu_soft_dma).
    pub size: u32,
    /// HOST_IOMMU_SOFT_NO_ATS to HOST_IOMMU_SOFT_WRITE.
    pub flags: u32,
    /// By which PASID; HOST_IOMMU_RID for none.
    pub pasid: u32,
    /// Bytes.
    pub length: u32,
    /// Where.
    pub address: u64,
}

/// All of it was moved.
pub const HOST_IOMMU_DMA_DONE: u32 = 1;
/// An address is not to be had, and no page was asked for.
pub const HOST_IOMMU_DMA_NO_ACCESS: u32 = 2;
/// A page request was answered INVALID.
pub const HOST_IOMMU_DMA_INVALID: u32 = 3;
/// An address was still not to be had after many answers SUCCESS.
pub const HOST_IOMMU_DMA_RETRIES: u32 = 4;
/// The device was reset or is gone, or the end was told before.
pub const HOST_IOMMU_DMA_ABORTED: u32 = 5;

/// How a DMA ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SoftEnd {
    /// Set to sizeof(struct host_iommu_soft_end).
    pub size: u32,
    /// HOST_IOMMU_DMA_DONE to HOST_IOMMU_DMA_ABORTED.
    pub kind: u32,
    /// The address that was not to be had.
    pub address: u64,
}

/// A VT-d unit offers stage-1 tables of five levels beside those of four.
pub const HOST_IOMMU_VTD_FIVE_LEVELS: u32 = 1 << 0;
/// Stage-1 pages of 1 GiB.
pub const HOST_IOMMU_VTD_HUGE_PAGES: u32 = 1 << 1;
/// Page requests.
pub const HOST_IOMMU_VTD_PAGE_REQUESTS: u32 = 1 << 2;
/// Device TLBs (ATS), without which there are no page requests.
pub const HOST_IOMMU_VTD_DEVICE_TLBS: u32 = 1 << 3;
/// Requests of a supervisor.
pub const HOST_IOMMU_VTD_SUPERVISOR: u32 = 1 << 4;
/// Extended accessed flags.
pub const HOST_IOMMU_VTD_EXTENDED_ACCESSED: u32 = 1 << 5;

/// Tables in the format of the second stage: for a context that shadows. None of the first, but with
/// HOST_IOMMU_VTD_BOTH_STAGES.
pub const HOST_IOMMU_VTD_SECOND_STAGE: u32 = 1 << 6;
/// Tables in the format of the first stage beside those of the second.
pub const HOST_IOMMU_VTD_BOTH_STAGES: u32 = 1 << 7;
/// Interrupt remapping, by host_iommu_vtd_remap().
pub const HOST_IOMMU_VTD_INTERRUPT_REMAPPING: u32 = 1 << 8;
/// Destinations of interrupts of 32 bits, for more than 255 CPUs.
pub const HOST_IOMMU_VTD_EXTENDED_INTERRUPTS: u32 = 1 << 9;
/// Snoop control.
pub const HOST_IOMMU_VTD_SNOOP_CONTROL: u32 = 1 << 10;

/// A guest tells of each change of its second-stage tables, as it does for a unit with caching mode;
/// tables of the first stage are refused.
pub const HOST_IOMMU_SHADOW_CACHING_MODE: u32 = 1;
/// It tells of each change of any table; Linux does not for those of the first stage.
pub const HOST_IOMMU_SHADOW_EVERY_CHANGE: u32 = 2;
/// It tells of what changes or goes, and page requests fill the holes: bindings need a fault queue.
pub const HOST_IOMMU_SHADOW_PAGE_REQUESTS: u32 = 3;
/// As HOST_IOMMU_SHADOW_CACHING_MODE; tables of the first stage are nested by the context below.
pub const HOST_IOMMU_SHADOW_SECOND_STAGE: u32 = 4;

/// What a VT-d unit is and offers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnitConfig {
    /// Set to sizeof(struct host_iommu_vtd_config).
    pub size: u32,
    /// HOST_IOMMU_VTD_FIVE_LEVELS to HOST_IOMMU_VTD_SNOOP_CONTROL.
    pub flags: u32,
    /// The guest-physical address of its registers, on a page.
    pub base: u64,
    /// The PCI segment of the devices behind it.
    pub segment: u32,
    /// Bits of guest-physical addresses, 39 to 52.
    pub address_bits: u32,
    /// Bits of a PASID, 6 to 20.
    pub pasid_bits: u32,
    /// Zero.
    pub reserved: u32,
}

/// A region of a guest's memory: a part of a file.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Guest-physical.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// Of its first byte in the file.
    pub fd_offset: u64,
    /// The file.
    pub fd: i32,
    /// Zero.
    pub reserved: u32,
}

/// An interrupt message: `data` is written to `address`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
    /// Zero.
    pub reserved: u32,
}

/// Implements [`Sized32`], with the types that fill the structure.
macro_rules! sized {
    ($($structure:ident: [$($field:ty),+]),+ $(,)?) => { $(
        const _: () = assert!(size_of::<$structure>() == 0 $(+ size_of::<$field>())+);
        const _: () = assert!(std::mem::offset_of!($structure, size) == 0);

        // SAFETY: `repr(C)`, integers alone, which leave no room for padding, as the first
        // assertion shows; the second shows that the size comes first.
        unsafe impl Sized32 for $structure {
            const FIRST: usize = size_of::<$structure>();
        }
    )+ };
}

sized! {
    Mapping: [u32, u32, u64, u64, u64, i32, u32],
    CTranslation: [u32, u32, u32, u32, u32, u32, u64, u64],
    CCapabilities: [u32, u32, u64, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u64, u64],
    CStats: [u32, u32, [u64; 14]],
    QueueOptions: [u32, u32, u32, u32],
    Event: [u32, u32, u16, u8, u8, u32, u32, u32, u32, u32, u64, u64, u64],
    SoftDma: [u32, u32, u32, u32, u64],
    SoftEnd: [u32, u32, u64],
    UnitConfig: [u32, u32, u64, u32, u32, u32, u32],
}
