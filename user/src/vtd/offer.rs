// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit offers its guest, and which hosts can carry it.

use super::registers::{Registers, FAULT_RECORDS, FRCD, IVA};
use super::tables::Offered;
use crate::capabilities::{NestingCapability, Shadowing};
use crate::types::AddressWidth;

/// What a unit is and offers. Made by [`VtdConfig::carried_by`], or by hand to offer less.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VtdConfig {
    /// The guest-physical address of the register file, on a page.
    pub base: u64,
    /// The PCI segment of the devices behind it.
    pub segment: u16,
    /// Bits of guest-physical addresses, 39 to 52.
    pub address_bits: u32,
    /// Tables in the format of the second stage, and none of the first: for a host that shadows
    /// them. With caching mode, which every unit has, guests tell of each change of theirs, of
    /// first-stage ones not.
    #[cfg_attr(feature = "serde", serde(default))]
    pub second_stage: bool,
    /// Stage-1 tables of five levels beside those of four.
    pub five_levels: bool,
    /// Stage-1 pages of 1 GiB.
    pub huge_pages: bool,
    /// Bits of a PASID, 6 to 20.
    pub pasid_bits: u32,
    /// Fault recording registers, 1 to 8.
    #[cfg_attr(feature = "serde", serde(default = "most_records"))]
    pub fault_records: u32,
    /// Page requests.
    pub page_requests: bool,
    /// Device TLBs (ATS).
    pub device_tlbs: bool,
    /// Requests of a supervisor (SRS).
    pub supervisor: bool,
    /// Extended accessed flags (EAFS).
    pub extended_accessed: bool,
}

/// PCIe has no wider ones (PCIe 6.0, 6.20).
const MAX_PASID_BITS: u32 = 20;

fn most_records() -> u32 {
    FAULT_RECORDS as u32
}

impl Default for VtdConfig {
    /// What every host carries that nests at all, at the address where PCs have the first unit.
    fn default() -> Self {
        Self {
            base: 0xfed9_0000,
            segment: 0,
            address_bits: 46,
            second_stage: false,
            five_levels: false,
            huge_pages: false,
            pasid_bits: 6,
            fault_records: most_records(),
            page_requests: false,
            device_tlbs: true,
            supervisor: false,
            extended_accessed: false,
        }
    }
}

/// Why a context cannot carry what a unit offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotCarried {
    /// The host does not nest: stage-1 tables cannot be bound.
    Nesting,
    /// Nothing can be bound for requests without PASID.
    Rid,
    /// First-stage tables: the host shadows, and is not told when their entries become present.
    FirstStage,
    /// Second-stage tables of the guest's: the host nests, or shadows what page requests fill.
    SecondStage,
    /// Stage-1 tables of five levels.
    FiveLevels,
    /// Stage-1 pages of 1 GiB.
    HugePages,
    /// Page requests.
    PageRequests,
    /// Requests of a supervisor.
    Supervisor,
    /// Extended accessed flags.
    ExtendedAccessed,
}

impl std::fmt::Display for NotCarried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nesting => "nested translation",
            Self::Rid => "stage-1 tables for requests without PASID",
            Self::FirstStage => "first-stage tables, which it shadows and is not told of",
            Self::SecondStage => "second-stage tables, as it does not shadow them",
            Self::FiveLevels => "stage-1 tables of five levels",
            Self::HugePages => "stage-1 pages of 1 GiB",
            Self::PageRequests => "page requests",
            Self::Supervisor => "requests of a supervisor",
            Self::ExtendedAccessed => "extended accessed flags",
        })
    }
}

/// CAP and ECAP bits that a host may have and a unit offers.
const CAP_HUGE_PAGES: u64 = 1 << 56;
const CAP_FIVE_LEVELS: u64 = 1 << 60;
const ECAP_SUPERVISOR: u64 = 1 << 31;
const ECAP_EXTENDED_ACCESSED: u64 = 1 << 34;

impl VtdConfig {
    /// The most that a host carries, but for requests of a supervisor, which guests of today do not
    /// need. The width of PASIDs and page requests are limits of each device, not of the unit: they
    /// are offered whatever devices there are now, and the VMM tells the guest in each device's own
    /// PASID and PRI capabilities what the device has.
    pub fn carried_by(host: &NestingCapability) -> Self {
        let pasid_bits = MAX_PASID_BITS;
        if host.shadowed.is_some() {
            // Tables are not walked by the host's hardware, whose limits are not theirs.
            return Self {
                second_stage: true,
                huge_pages: true,
                pasid_bits,
                ..Self::default()
            };
        }
        let five_levels = host.widths.contains(&AddressWidth::Bits57);
        Self {
            five_levels,
            huge_pages: host.vtd_cap & CAP_HUGE_PAGES != 0,
            pasid_bits,
            page_requests: true,
            extended_accessed: host.vtd_ecap & ECAP_EXTENDED_ACCESSED != 0,
            ..Self::default()
        }
    }

    /// Whether a host carries all that is offered.
    ///
    /// # Errors
    ///
    /// The first thing that it does not.
    pub fn check(&self, host: &NestingCapability) -> Result<(), NotCarried> {
        let has = |bit: u64, register: u64| register & bit != 0;
        let five_levels = host.widths.contains(&AddressWidth::Bits57);
        // A device without PASIDs is no less behind a unit that has them.
        let nests = host.stage1.is_present() || host.rid;
        let lacks = [
            (!nests, NotCarried::Nesting),
            (!host.rid, NotCarried::Rid),
            (
                host.shadowed.is_some() && !self.second_stage,
                NotCarried::FirstStage,
            ),
            (
                // Page requests do not fill the holes of what a guest's own drivers map.
                matches!(host.shadowed, None | Some(Shadowing::PageRequests)) && self.second_stage,
                NotCarried::SecondStage,
            ),
            (self.five_levels && !five_levels, NotCarried::FiveLevels),
            (
                self.huge_pages && !self.second_stage && !has(CAP_HUGE_PAGES, host.vtd_cap),
                NotCarried::HugePages,
            ),
            (
                self.page_requests && host.shadowed.is_some(),
                NotCarried::PageRequests,
            ),
            (
                self.supervisor && !has(ECAP_SUPERVISOR, host.vtd_ecap),
                NotCarried::Supervisor,
            ),
            (
                self.extended_accessed && !has(ECAP_EXTENDED_ACCESSED, host.vtd_ecap),
                NotCarried::ExtendedAccessed,
            ),
        ];
        let first = lacks.into_iter().find(|(lacks, _)| *lacks);
        first.map_or(Ok(()), |(_, what)| Err(what))
    }

    /// Whether the numbers are ones that a unit can have.
    pub(super) fn is_sound(&self) -> bool {
        self.base % 4096 == 0
            && self.base.checked_add(4096).is_some()
            && (39..=52).contains(&self.address_bits)
            && (6..=MAX_PASID_BITS).contains(&self.pasid_bits)
            && (1..=most_records()).contains(&self.fault_records)
            && (self.device_tlbs || !self.page_requests)
            && !(self.second_stage
                && (self.page_requests || self.supervisor || self.extended_accessed))
    }

    pub(super) fn offered(&self) -> Offered {
        Offered {
            address_bits: self.address_bits,
            second_stage: self.second_stage,
            five_levels: self.five_levels,
            supervisor: self.supervisor,
            extended_accessed: self.extended_accessed,
            pasid_bits: self.pasid_bits,
        }
    }

    /// The registers of a unit after a reset (VT-d 4.1, 11.4.2 and 11.4.3).
    pub(super) fn registers(&self) -> Registers {
        let when = |on: bool, bits: u64| if on { bits } else { 0 };
        let first = !self.second_stage;
        // 65,536 domains; caching mode, for what becomes present in a PASID table must be told.
        let cap = 6
            | 1 << 7
            // Widths of the second stage, which go with passthrough too.
            | 0x4 << 8
            | when(self.five_levels, 0x8 << 8)
            | u64::from(self.address_bits - 1) << 16
            // Reads of no bytes.
            | 1 << 22
            | (FRCD as u64 / 16) << 24
            // Invalidation by pages, of up to 2^18.
            | 1 << 39
            | u64::from(self.fault_records - 1) << 40
            | 18 << 48
            // Drains.
            | 3 << 54
            // Large pages of each stage.
            | when(first && self.huge_pages, CAP_HUGE_PAGES)
            | when(self.second_stage, 1 << 34)
            | when(self.second_stage && self.huge_pages, 1 << 35)
            | when(first && self.five_levels, CAP_FIVE_LEVELS)
            // A new root drops what was cached.
            | 1 << 63;
        let ecap = 1 << 1
            | when(self.device_tlbs, 1 << 2)
            | 1 << 6
            | (IVA as u64 / 16) << 8
            | when(self.page_requests, 1 << 29)
            | when(self.supervisor, ECAP_SUPERVISOR)
            | when(self.extended_accessed, ECAP_EXTENDED_ACCESSED)
            | u64::from(self.pasid_bits - 1) << 35
            | 1 << 40
            // Page request drain.
            | when(self.page_requests, 1 << 42)
            // Scalable mode, one stage or the other, coherent walks.
            | 1 << 43
            | when(self.second_stage, 1 << 46)
            | when(first, 1 << 47)
            | 1 << 48
            // RID_PASID.
            | 1 << 49
            | 1;
        Registers::new(cap, ecap)
    }
}
