// SPDX-License-Identifier: GPL-2.0
//! The module's limits, parameters that root may change while it runs, and what it is told at
//! load alone.

use super::shim;

/// A limit. The discriminants are `enum ioasid_limit` of shim.h.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Limit {
    /// PASIDs of a container.
    Pasids = 0,
    /// Bindings of a container.
    Bindings = 1,
    /// Fault queues of a container.
    FaultQueues = 2,
    /// Address spaces of a container.
    AddressSpaces = 3,
    /// Entries in all address spaces of a container.
    AsEntries = 4,
    /// Mappings of a container: type1's `dma_entry_limit`.
    Mappings = 5,
    /// PASIDs of all containers.
    TotalPasids = 6,
    /// Bindings and address spaces of all containers. Each may take a domain id, of which an
    /// IOMMU unit has 65,536 (VT-d 4.1, 11.4.2, ND); what is above this limit is the host's.
    TotalDomains = 7,
    /// Fault queues of all containers, those among them whose fd outlives its container.
    TotalQueues = 8,
    /// Records that all fault queues have room for, of 256 bytes each.
    TotalRecords = 9,
    /// PASIDs of a user.
    UserPasids = 10,
    /// Bindings and address spaces of a user.
    UserDomains = 11,
    /// Fault queues of a user.
    UserQueues = 12,
    /// Records that the fault queues of a user have room for.
    UserRecords = 13,
}

impl Limit {
    /// Its value now.
    pub(crate) fn get(self) -> u32 {
        // SAFETY: No requirements; the number is one of `enum ioasid_limit`.
        unsafe { shim::ioasid_limit(self as u32) }
    }
}

/// Whether devices may be attached where interrupts are not remapped.
pub(crate) fn allow_unsafe_interrupts() -> bool {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_allow_unsafe_interrupts() }
}
