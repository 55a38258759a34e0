// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit offers its guest, and which hosts can carry it.

use super::bits::{Field, PAGE};
use super::registers::{Registers, FAULT_RECORDS, FRCD, IVA};
use super::tables::Offered;
use crate::capabilities::{DeviceInfo, NestingCapability, Shadowing};
use crate::error::{Error, Result};
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
    /// Walks of tables see what CPUs have in their caches (SMPWC): for a host whose walks do. Linux has
    /// no SVA without.
    #[cfg_attr(feature = "serde", serde(default = "yes"))]
    pub coherent_walks: bool,
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
            coherent_walks: false,
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
    /// Walks of tables that see what CPUs have in their caches.
    CoherentWalks,
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
            Self::CoherentWalks => "walks of tables that are coherent with CPUs' caches (SMPWC)",
        })
    }
}

/// CAP (VT-d 4.1, 11.4.2).
const CAP_ND: Field = Field::bits(2, 0);
/// ND: 65,536 domains.
const DOMAINS_65536: u64 = 6;
/// Caching mode: what becomes present in a PASID table, or one of the second stage, is told.
const CAP_CM: u64 = 1 << 7;
const CAP_SAGAW_4_LEVELS: u64 = 1 << 10;
const CAP_SAGAW_5_LEVELS: u64 = 1 << 11;
const CAP_MGAW: Field = Field::bits(21, 16);
/// Reads of no bytes.
const CAP_ZLR: u64 = 1 << 22;
/// Where the fault records are, in 16 bytes.
const CAP_FRO: Field = Field::bits(33, 24);
const CAP_SSLPS_2M: u64 = 1 << 34;
const CAP_SSLPS_1G: u64 = 1 << 35;
/// Invalidation by pages, of up to 2^MAMV.
const CAP_PSI: u64 = 1 << 39;
const CAP_NFR: Field = Field::bits(47, 40);
const CAP_MAMV: Field = Field::bits(53, 48);
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
/// Where the IOTLB registers are, in 16 bytes.
const ECAP_IRO: Field = Field::bits(17, 8);
/// Most bits of an interrupt's index that one descriptor ignores.
const ECAP_MHMV: Field = Field::bits(23, 20);
const MAX_INDEX_BITS: u64 = 15;
const ECAP_PRS: u64 = 1 << 29;
/// SRS.
const ECAP_SUPERVISOR: u64 = 1 << 31;
/// EAFS.
const ECAP_EXTENDED_ACCESSED: u64 = 1 << 34;
const ECAP_PSS: Field = Field::bits(39, 35);
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
    match CAP_MGAW.of(host.vtd_cap) as u32 {
        // No VT-d, or no device that would tell.
        0 => MAX_ADDRESS_BITS,
        mgaw => mgaw.saturating_add(1),
    }
}

/// Whether walks of a guest's tables see what CPUs have in their caches. A shadow's walks are a CPU's.
fn walks_coherently(host: &NestingCapability) -> bool {
    match host.shadowed {
        None | Some(Shadowing::SecondStage) => host.vtd_ecap & ECAP_SMPWC != 0,
        Some(_) => true,
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
            coherent_walks: walks_coherently(host),
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
    pub fn check(&self, host: &NestingCapability) -> std::result::Result<(), NotCarried> {
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
            (
                self.coherent_walks && !walks_coherently(host),
                NotCarried::CoherentWalks,
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

    /// Whether a host carries all that is offered for one device: those of a context may be behind
    /// different units.
    pub(super) fn check_for(
        &self,
        info: Option<&DeviceInfo>,
        host: &NestingCapability,
    ) -> std::result::Result<(), NotCarried> {
        let mut host = host.clone();
        if let Some(info) = info {
            (host.rid, host.vtd_cap, host.vtd_ecap) = (info.rid, info.vtd_cap, info.vtd_ecap);
        }
        self.check(&host)
    }

    /// Whether a unit can have these fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for the first that it cannot.
    pub(super) fn check_fields(&self) -> Result<()> {
        let first_stage_alone = "needs first_stage";
        let wrong = [
            (self.base % PAGE != 0, "base", "is not on a page"),
            (
                self.base.checked_add(PAGE).is_none(),
                "base",
                "has no page of addresses after it",
            ),
            (
                !(39..=MAX_ADDRESS_BITS).contains(&self.address_bits),
                "address_bits",
                "is not in 39..=52",
            ),
            (
                !(6..=MAX_PASID_BITS).contains(&self.pasid_bits),
                "pasid_bits",
                "is not in 6..=20",
            ),
            (
                !(1..=most_records()).contains(&self.fault_records),
                "fault_records",
                "is not in 1..=8",
            ),
            (
                !self.first_stage && !self.second_stage,
                "first_stage",
                "is off, and second_stage too",
            ),
            (
                self.page_requests && !self.device_tlbs,
                "page_requests",
                "needs device_tlbs",
            ),
            (
                self.page_requests && !self.first_stage,
                "page_requests",
                first_stage_alone,
            ),
            (
                self.supervisor && !self.first_stage,
                "supervisor",
                first_stage_alone,
            ),
            (
                self.extended_accessed && !self.first_stage,
                "extended_accessed",
                first_stage_alone,
            ),
            (
                self.extended_interrupts && !self.interrupt_remapping,
                "extended_interrupts",
                "needs interrupt_remapping",
            ),
        ];
        let first = wrong.into_iter().find(|(wrong, ..)| *wrong);
        first.map_or(Ok(()), |(_, field, why)| {
            Err(Error::InvalidField {
                of: "VtdConfig",
                field,
                why,
            })
        })
    }

    /// The first field that another configuration has otherwise.
    pub(super) fn first_difference(&self, other: &Self) -> Option<&'static str> {
        /// Each field by its name, so that none is forgotten.
        macro_rules! compare {
            ($($field:ident),* $(,)?) => {{
                let Self { $($field),* } = self;
                let differs = [$((*$field != other.$field, stringify!($field))),*];
                differs.into_iter().find(|(differs, _)| *differs).map(|(_, field)| field)
            }};
        }
        compare!(
            base,
            segment,
            address_bits,
            first_stage,
            second_stage,
            interrupt_remapping,
            extended_interrupts,
            snoop_control,
            coherent_walks,
            five_levels,
            huge_pages,
            pasid_bits,
            fault_records,
            page_requests,
            device_tlbs,
            supervisor,
            extended_accessed,
        )
    }

    pub(super) fn offered(&self) -> Offered {
        Offered {
            address_bits: self.address_bits,
            first_stage: self.first_stage,
            second_stage: self.second_stage,
            snoop_control: self.snoop_control,
            coherent_walks: self.coherent_walks,
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
        let cap = CAP_ND.with(DOMAINS_65536)
            | CAP_CM
            // Widths of the second stage, which Linux wants to see whichever stage it uses.
            | CAP_SAGAW_4_LEVELS
            | when(self.five_levels, CAP_SAGAW_5_LEVELS)
            | CAP_MGAW.with(self.address_bits.saturating_sub(1).into())
            | CAP_ZLR
            | CAP_FRO.with(FRCD as u64 / 16)
            | CAP_PSI
            | CAP_NFR.with(self.fault_records.saturating_sub(1).into())
            | CAP_MAMV.with(MAX_PAGES)
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
                ECAP_IR | ECAP_MHMV.with(MAX_INDEX_BITS),
            )
            | when(self.extended_interrupts, ECAP_EIM)
            | ECAP_PT
            | when(self.snoop_control, ECAP_SNOOP_CONTROL)
            | ECAP_IRO.with(IVA as u64 / 16)
            | when(self.page_requests, ECAP_PRS | ECAP_PDS)
            | when(self.supervisor, ECAP_SUPERVISOR)
            | when(self.extended_accessed, ECAP_EXTENDED_ACCESSED)
            | ECAP_PSS.with(self.pasid_bits.saturating_sub(1).into())
            | ECAP_PASID
            | ECAP_SMTS
            | when(self.second_stage, ECAP_SSTS)
            | when(self.first_stage, ECAP_FSTS)
            | when(self.coherent_walks, ECAP_SMPWC)
            | ECAP_RPS;
        Registers::new(cap, ecap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_that_no_unit_can_have_is_named() {
        type Change = fn(&mut VtdConfig);
        let cases: [(Change, &str); 10] = [
            (
                |config| config.base = 0xfed9_0800,
                "VtdConfig: base is not on a page",
            ),
            (|config| config.base = !0xfff, "VtdConfig: base has no page"),
            (|config| config.address_bits = 38, "VtdConfig: address_bits"),
            (|config| config.address_bits = 53, "VtdConfig: address_bits"),
            (|config| config.pasid_bits = 5, "VtdConfig: pasid_bits"),
            (|config| config.pasid_bits = 21, "VtdConfig: pasid_bits"),
            (
                |config| config.fault_records = 0,
                "VtdConfig: fault_records",
            ),
            (
                |config| config.first_stage = false,
                "VtdConfig: first_stage",
            ),
            (
                |config| (config.page_requests, config.device_tlbs) = (true, false),
                "VtdConfig: page_requests needs device_tlbs",
            ),
            (
                |config| config.extended_interrupts = true,
                "VtdConfig: extended_interrupts needs interrupt_remapping",
            ),
        ];
        for (change, text) in cases {
            let mut config = VtdConfig::default();
            assert!(config.check_fields().is_ok());
            change(&mut config);
            let error = config.check_fields().expect_err(text);
            assert!(error.to_string().starts_with(text), "{error}");
            assert_eq!(error.errno(), Some(libc::EINVAL));
        }
        // What needs the first stage, in a unit that has the second alone.
        let cases: [(Change, &str); 3] = [
            (|config| config.page_requests = true, "page_requests"),
            (|config| config.supervisor = true, "supervisor"),
            (
                |config| config.extended_accessed = true,
                "extended_accessed",
            ),
        ];
        for (change, field) in cases {
            let mut config = VtdConfig {
                first_stage: false,
                second_stage: true,
                ..VtdConfig::default()
            };
            assert!(config.check_fields().is_ok());
            change(&mut config);
            let error = config.check_fields().expect_err(field);
            assert_eq!(
                error.to_string(),
                format!("VtdConfig: {field} needs first_stage")
            );
        }
    }

    /// What a unit showed before its bits had names.
    #[test]
    fn bits_are_where_they_were() {
        let config = VtdConfig {
            page_requests: true,
            coherent_walks: true,
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
