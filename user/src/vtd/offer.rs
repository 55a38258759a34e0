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
    /// Tables in the format of the first stage: for a host that nests.
    #[cfg_attr(feature = "serde", serde(default = "yes"))]
    pub first_stage: bool,
    /// Tables in the format of the second stage, also in legacy mode: for a host that shadows them.
    /// With caching mode, which every unit has, guests tell of each change of theirs, of first-stage
    /// ones not.
    #[cfg_attr(feature = "serde", serde(default))]
    pub second_stage: bool,
    /// Interrupt remapping: the VMM gives messages to [`Vtd::remap`](super::Vtd::remap).
    #[cfg_attr(feature = "serde", serde(default))]
    pub interrupt_remapping: bool,
    /// Destinations of interrupts of 32 bits (EIM), as more than 255 CPUs need.
    #[cfg_attr(feature = "serde", serde(default))]
    pub extended_interrupts: bool,
    /// Snoop control (SC): for a host that is coherent whatever devices say of snooping.
    #[cfg_attr(feature = "serde", serde(default))]
    pub snoop_control: bool,
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

#[cfg(feature = "serde")]
fn yes() -> bool {
    true
}

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
            first_stage: true,
            second_stage: false,
            interrupt_remapping: false,
            extended_interrupts: false,
            snoop_control: false,
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
    /// Guest-physical addresses of so many bits.
    AddressBits,
    /// Snoop control.
    SnoopControl,
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
            Self::AddressBits => "guest-physical addresses of so many bits",
            Self::SnoopControl => "snoop control",
        })
    }
}

/// CAP (VT-d 4.1, 11.4.2). Where a name stands for a field, it is the field's lowest bit.
const CAP_ND_65536: u64 = 6;
/// Caching mode: what becomes present in a PASID table, or one of the second stage, is told.
const CAP_CM: u64 = 1 << 7;
const CAP_SAGAW_4_LEVELS: u64 = 1 << 10;
const CAP_SAGAW_5_LEVELS: u64 = 1 << 11;
const CAP_MGAW: u32 = 16;
/// Reads of no bytes.
const CAP_ZLR: u64 = 1 << 22;
const CAP_FRO: u32 = 24;
const CAP_SSLPS_2M: u64 = 1 << 34;
const CAP_SSLPS_1G: u64 = 1 << 35;
/// Invalidation by pages, of up to 2^MAMV.
const CAP_PSI: u64 = 1 << 39;
const CAP_NFR: u32 = 40;
const CAP_MAMV: u32 = 48;
const MAX_PAGES: u64 = 18;
/// Writes and reads are drained.
const CAP_DWD: u64 = 1 << 54;
const CAP_DRD: u64 = 1 << 55;
/// FS1GP: pages of 1 GiB of the first stage.
const CAP_HUGE_PAGES: u64 = 1 << 56;
/// FS5LP.
const CAP_FIVE_LEVELS: u64 = 1 << 60;
/// What was cached of interrupts, or by a root table, goes when another is set.
const CAP_ESIRTPS: u64 = 1 << 62;
const CAP_ESRTPS: u64 = 1 << 63;

/// ECAP (11.4.3).
const ECAP_C: u64 = 1 << 0;
const ECAP_QI: u64 = 1 << 1;
const ECAP_DT: u64 = 1 << 2;
const ECAP_IR: u64 = 1 << 3;
const ECAP_EIM: u64 = 1 << 4;
const ECAP_PT: u64 = 1 << 6;
const ECAP_SNOOP_CONTROL: u64 = 1 << 7;
const ECAP_IRO: u32 = 8;
/// Most bits of an interrupt's index that one descriptor ignores.
const ECAP_MHMV: u32 = 20;
const MAX_INDEX_BITS: u64 = 15;
const ECAP_PRS: u64 = 1 << 29;
/// SRS.
const ECAP_SUPERVISOR: u64 = 1 << 31;
/// EAFS.
const ECAP_EXTENDED_ACCESSED: u64 = 1 << 34;
const ECAP_PSS: u32 = 35;
const ECAP_PASID: u64 = 1 << 40;
const ECAP_PDS: u64 = 1 << 42;
const ECAP_SMTS: u64 = 1 << 43;
const ECAP_SSTS: u64 = 1 << 46;
const ECAP_FSTS: u64 = 1 << 47;
const ECAP_SMPWC: u64 = 1 << 48;
/// RID_PASID.
const ECAP_RPS: u64 = 1 << 49;

/// Bits of addresses that a host's stage 2 has (CAP.MGAW), which guest-physical ones go through.
fn host_address_bits(host: &NestingCapability) -> u32 {
    // CAST: 6 bits.
    match (host.vtd_cap >> CAP_MGAW & 0x3f) as u32 {
        // No VT-d, or no device that would tell.
        0 => MAX_ADDRESS_BITS,
        mgaw => mgaw.saturating_add(1),
    }
}

/// The architecture has no more (VT-d 4.1, 3.6).
const MAX_ADDRESS_BITS: u32 = 52;

impl VtdConfig {
    /// The most that a host carries, but for requests of a supervisor, which guests of today do not
    /// need. The width of PASIDs and page requests are limits of each device, not of the unit: they
    /// are offered whatever devices there are now, and the VMM tells the guest in each device's own
    /// PASID and PRI capabilities what the device has.
    pub fn carried_by(host: &NestingCapability) -> Self {
        let common = Self {
            address_bits: Self::default().address_bits.min(host_address_bits(host)),
            pasid_bits: MAX_PASID_BITS,
            snoop_control: host.coherent && host.vtd_ecap & ECAP_SNOOP_CONTROL != 0,
            ..Self::default()
        };
        if matches!(host.shadowed, Some(shadowing) if shadowing != Shadowing::SecondStage) {
            // Tables are not walked by the host's hardware, whose limits are not theirs.
            return Self {
                first_stage: false,
                second_stage: true,
                huge_pages: true,
                ..common
            };
        }
        Self {
            second_stage: host.shadowed.is_some(),
            five_levels: host.widths.contains(&AddressWidth::Bits57),
            huge_pages: host.vtd_cap & CAP_HUGE_PAGES != 0,
            page_requests: true,
            extended_accessed: host.vtd_ecap & ECAP_EXTENDED_ACCESSED != 0,
            ..common
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
                self.first_stage && !matches!(host.shadowed, None | Some(Shadowing::SecondStage)),
                NotCarried::FirstStage,
            ),
            (
                // Page requests do not fill the holes of what a guest's own drivers map.
                matches!(host.shadowed, None | Some(Shadowing::PageRequests)) && self.second_stage,
                NotCarried::SecondStage,
            ),
            (
                self.address_bits > host_address_bits(host),
                NotCarried::AddressBits,
            ),
            (
                self.snoop_control && !has(ECAP_SNOOP_CONTROL, host.vtd_ecap),
                NotCarried::SnoopControl,
            ),
            (self.five_levels && !five_levels, NotCarried::FiveLevels),
            (
                self.huge_pages && self.first_stage && !has(CAP_HUGE_PAGES, host.vtd_cap),
                NotCarried::HugePages,
            ),
            (
                self.page_requests && !self.first_stage,
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
            && (39..=MAX_ADDRESS_BITS).contains(&self.address_bits)
            && (6..=MAX_PASID_BITS).contains(&self.pasid_bits)
            && (1..=most_records()).contains(&self.fault_records)
            && (self.device_tlbs || !self.page_requests)
            && (self.first_stage || self.second_stage)
            && (self.first_stage
                || !(self.page_requests || self.supervisor || self.extended_accessed))
            && (self.interrupt_remapping || !self.extended_interrupts)
    }

    pub(super) fn offered(&self) -> Offered {
        Offered {
            address_bits: self.address_bits,
            first_stage: self.first_stage,
            second_stage: self.second_stage,
            snoop_control: self.snoop_control,
            device_tlbs: self.device_tlbs,
            five_levels: self.five_levels,
            supervisor: self.supervisor,
            extended_accessed: self.extended_accessed,
            pasid_bits: self.pasid_bits,
        }
    }

    /// The registers of a unit after a reset (VT-d 4.1, 11.4.2 and 11.4.3).
    pub(super) fn registers(&self) -> Registers {
        let when = |on: bool, bits: u64| if on { bits } else { 0 };
        let cap = CAP_ND_65536
            | CAP_CM
            // Widths of the second stage, which Linux wants to see whichever stage it uses.
            | CAP_SAGAW_4_LEVELS
            | when(self.five_levels, CAP_SAGAW_5_LEVELS)
            | u64::from(self.address_bits.saturating_sub(1)) << CAP_MGAW
            | CAP_ZLR
            | (FRCD as u64 / 16) << CAP_FRO
            | CAP_PSI
            | u64::from(self.fault_records.saturating_sub(1)) << CAP_NFR
            | MAX_PAGES << CAP_MAMV
            | CAP_DWD
            | CAP_DRD
            | when(self.first_stage && self.huge_pages, CAP_HUGE_PAGES)
            | when(self.second_stage, CAP_SSLPS_2M)
            | when(self.second_stage && self.huge_pages, CAP_SSLPS_1G)
            | when(self.first_stage && self.five_levels, CAP_FIVE_LEVELS)
            | CAP_ESRTPS
            | when(self.interrupt_remapping, CAP_ESIRTPS);
        let ecap = ECAP_C
            | ECAP_QI
            | when(self.device_tlbs, ECAP_DT)
            | when(
                self.interrupt_remapping,
                ECAP_IR | MAX_INDEX_BITS << ECAP_MHMV,
            )
            | when(self.extended_interrupts, ECAP_EIM)
            | ECAP_PT
            | when(self.snoop_control, ECAP_SNOOP_CONTROL)
            | (IVA as u64 / 16) << ECAP_IRO
            | when(self.page_requests, ECAP_PRS | ECAP_PDS)
            | when(self.supervisor, ECAP_SUPERVISOR)
            | when(self.extended_accessed, ECAP_EXTENDED_ACCESSED)
            | u64::from(self.pasid_bits.saturating_sub(1)) << ECAP_PSS
            | ECAP_PASID
            | ECAP_SMTS
            | when(self.second_stage, ECAP_SSTS)
            | when(self.first_stage, ECAP_FSTS)
            | ECAP_SMPWC
            | ECAP_RPS;
        Registers::new(cap, ecap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a unit showed before its bits had names.
    #[test]
    fn bits_are_where_they_were() {
        let config = VtdConfig {
            page_requests: true,
            pasid_bits: 20,
            ..VtdConfig::default()
        };
        let registers = config.registers();
        let cap = 6 | 1 << 7 | 4 << 8 | 45 << 16 | 1 << 22 | 0x22 << 24 | 1 << 39;
        let cap = cap | 7 << 40 | 18 << 48 | 3 << 54 | 1 << 63;
        assert_eq!(registers.get(super::super::registers::CAP, 8), cap);
        let ecap = 1 | 1 << 1 | 1 << 2 | 1 << 6 | 0xf << 8 | 1 << 29 | 19 << 35 | 1 << 40;
        let ecap = ecap | 1 << 42 | 1 << 43 | 1 << 47 | 1 << 48 | 1 << 49;
        assert_eq!(registers.get(super::super::registers::ECAP, 8), ecap);
    }
}
