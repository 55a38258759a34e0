// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is bound and flushed, and where.

use super::super::result::{Failure, Result};
use super::{map_access, CBdf, Range};
use crate::context::{Scope, Translation};
use crate::nesting::{GuestTable, InvalidationEntry};
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::types::{AddressWidth, Gpa, Pasid};

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
    pub(in super::super) fn guest(&self) -> Option<u32> {
        (self.flags & HOST_IOMMU_GUEST_PASID != 0).then_some(self.guest_pasid)
    }

    pub(in super::super) fn table(&self) -> Result<GuestTable> {
        let has = |flag: u32| self.flags & flag != 0;
        Ok(GuestTable {
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
    pub(in super::super) fn checked(self) -> Result<Self> {
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
