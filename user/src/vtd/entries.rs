// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fields of the entries in a guest's tables, by the specification's names (VT-d 4.1, chapter 9).

use super::bits::Field;
use super::source::SourceId;
use bitflags::bitflags;

bitflags! {
    /// RTADDR (11.4.5): TTM, the mode of translation tables, in bits 11:10.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct RootTable: u64 {
        /// TTM 01b: scalable mode. 00b is legacy mode, 11b abort-DMA mode, 10b reserved.
        const SCALABLE = 1 << 10;
        const TTM = Field::bits(11, 10).mask();
        const _ = !0;
    }

    /// A root entry (9.1), and each half of one in scalable mode (9.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct RootEntry: u64 {
        /// Present.
        const P = 1 << 0;
        const RESERVED = Field::bits(11, 1).mask();
        const _ = !0;
    }

    /// The low quadword of a context entry in legacy mode (9.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct LegacyContextEntry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Fault processing disable.
        const FPD = 1 << 1;
        const RESERVED = Field::bits(11, 4).mask();
        const _ = !0;
    }

    /// The first quadword of a context entry in scalable mode (9.4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct ContextEntry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Fault processing disable.
        const FPD = 1 << 1;
        /// Device TLB enable.
        const DTE = 1 << 2;
        /// PASID enable.
        const PASIDE = 1 << 3;
        /// Page request enable.
        const PRE = 1 << 4;
        const RESERVED = Field::bits(8, 5).mask();
        const _ = !0;
    }

    /// An entry of the PASID directory (9.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct PasidDirectoryEntry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Fault processing disable.
        const FPD = 1 << 1;
        const RESERVED = Field::bits(11, 2).mask();
        const _ = !0;
    }

    /// The first quadword of an entry of the PASID table (9.6); what it has beside these is the second
    /// stage's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct PasidEntry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Fault processing disable.
        const FPD = 1 << 1;
        /// Second-stage accessed and dirty flags enable.
        const SSADE = 1 << 9;
        const RESERVED = Field::bits(5, 5).mask() | Field::bits(11, 10).mask();
        const _ = !0;
    }

    /// The second quadword. Memory types, from bit 25 on, need ECAP.MTS, which is not offered.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct PasidEntrySecond: u64 {
        /// Page-walk snoop (ECAP.SMPWC).
        const PWSNP = 1 << 23;
        /// Page snoop (ECAP.SC).
        const PGSNP = 1 << 24;
        const RESERVED = Field::bits(22, 16).mask() | Field::bits(63, 25).mask();
        const _ = !0;
    }

    /// The third quadword, which is the first stage's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct PasidEntryFirst: u64 {
        /// Supervisor request enable (ECAP.SRS).
        const SRE = 1 << 0;
        /// Execute request enable (ECAP.ERS), which is not offered.
        const ERE = 1 << 1;
        /// Write protect enable.
        const WPE = 1 << 4;
        /// No-execute enable. Reserved since VT-d 4.0, and ignored here: Linux 6.3 to 6.10, and
        /// stable kernels of that time, set it whatever ECAP says.
        const NXE = 1 << 5;
        /// Extended accessed flag enable (ECAP.EAFS).
        const EAFE = 1 << 7;
        const RESERVED =
            Self::ERE.bits() | Field::bits(6, 6).mask() | Field::bits(11, 8).mask();
        const _ = !0;
    }
}

impl RootTable {
    pub(super) fn is_legacy(self) -> bool {
        self.intersection(Self::TTM).is_empty()
    }

    pub(super) fn is_scalable(self) -> bool {
        self.intersection(Self::TTM) == Self::SCALABLE
    }
}

/// AW of a context entry in legacy mode (9.3) and of a PASID entry (9.6): the second stage's levels.
pub(super) const SECOND_STAGE_4_LEVELS: u64 = 2;
pub(super) const SECOND_STAGE_5_LEVELS: u64 = 3;

/// Where a bus's entry is in the root table: 16 bytes each (9.1).
pub(super) fn offset_in_root_table(source: SourceId) -> u64 {
    source.bus() * 16
}

/// Devices of a bus whose contexts are in the lower context table of scalable mode.
const LOWER_HALF: u64 = 128;

/// Where a function's half is in its root entry of scalable mode (9.2): the lower one is for devices
/// 0 to 15, the upper one for 16 to 31.
pub(super) fn offset_of_half(source: SourceId) -> u64 {
    source.device_and_function() / LOWER_HALF * 8
}

/// Where a function's entry is in its context table of scalable mode (9.4): 32 bytes each.
pub(super) fn offset_in_context_table(source: SourceId) -> u64 {
    source.device_and_function() % LOWER_HALF * 32
}

/// Context entries in legacy mode (9.3).
pub(super) mod legacy {
    use super::{Field, SourceId};

    /// TT: untranslated requests go by the table; a device TLB gets nothing.
    pub(in crate::vtd) const UNTRANSLATED: u64 = 0;
    /// TT: all requests go by the table, those of a device TLB too (ECAP.DT).
    pub(in crate::vtd) const DEVICE_TLB: u64 = 1;
    /// TT: addresses are guest-physical (ECAP.PT).
    pub(in crate::vtd) const PASS_THROUGH: u64 = 2;
    /// TT, in the low quadword.
    pub(super) const TRANSLATION_TYPE: Field = Field::bits(3, 2);
    /// AW and DID, in the high quadword.
    const ADDRESS_WIDTH: Field = Field::bits(2, 0);
    const DOMAIN: Field = Field::bits(23, 8);
    /// Bits 6:3 are ignored.
    pub(in crate::vtd) const RESERVED_HIGH: u64 =
        Field::bits(7, 7).mask() | Field::bits(63, 24).mask();

    /// AW of the high quadword.
    pub(in crate::vtd) fn address_width(high: u64) -> u64 {
        ADDRESS_WIDTH.of(high)
    }

    /// DID of the high quadword.
    pub(in crate::vtd) fn domain(high: u64) -> u16 {
        // CAST: 16 bits.
        DOMAIN.of(high) as u16
    }

    /// Where a function's entry is in its context table: 16 bytes each.
    pub(in crate::vtd) fn offset_in_context_table(source: SourceId) -> u64 {
        source.device_and_function() * 16
    }
}

impl LegacyContextEntry {
    /// TT.
    pub(super) fn translation_type(self) -> u64 {
        legacy::TRANSLATION_TYPE.of(self.bits())
    }
}

/// PDTS, in the first quadword of a scalable-mode context entry (9.4).
const DIRECTORY_SIZE: Field = Field::bits(11, 9);
/// RID_PASID, in its second quadword. Bit 20 is RID_PRIV, which concerns privileged requests alone.
const RID_PASID: Field = Field::bits(19, 0);
pub(super) const CONTEXT_RESERVED_HIGH: u64 = Field::bits(63, 21).mask();

impl ContextEntry {
    /// How many PASIDs the directory is for: 2^(PDTS + 7) entries, each of a table of 64.
    pub(super) fn pasids(self) -> u32 {
        // CAST: 3 bits.
        1 << (DIRECTORY_SIZE.of(self.bits()) as u32 + 7 + 6)
    }
}

pub(super) fn rid_pasid(high: u64) -> u32 {
    // CAST: 20 bits.
    RID_PASID.of(high) as u32
}

/// Directory and table of PASIDs (9.5 and 9.6).
pub(super) mod pasid {
    use super::Field;

    /// PGTT.
    pub(in crate::vtd) const FIRST_STAGE: u64 = 1;
    pub(in crate::vtd) const SECOND_STAGE: u64 = 2;
    pub(in crate::vtd) const PASS_THROUGH: u64 = 4;
    /// FSPM.
    pub(in crate::vtd) const FIRST_STAGE_4_LEVELS: u64 = 0;
    pub(in crate::vtd) const FIRST_STAGE_5_LEVELS: u64 = 1;

    /// PGTT and AW, in the first quadword of a PASID entry.
    pub(super) const TRANSLATION_TYPE: Field = Field::bits(8, 6);
    pub(super) const ADDRESS_WIDTH: Field = Field::bits(4, 2);
    /// DID, in the second quadword.
    pub(super) const DOMAIN: Field = Field::bits(15, 0);
    /// FSPM, in the third quadword.
    pub(super) const PAGING_MODE: Field = Field::bits(3, 2);

    /// What of a PASID is the index into the directory, and into the table (3.4.3).
    const DIRECTORY_INDEX: Field = Field::bits(19, 6);
    const TABLE_INDEX: Field = Field::bits(5, 0);
    /// The last of the PASIDs whose entries are in one table, from the first.
    pub(in crate::vtd) const LAST_IN_TABLE: u32 = 63;

    /// Where the entry of a PASID's table is in the directory: 8 bytes each.
    pub(in crate::vtd) fn offset_in_directory(pasid: u32) -> u64 {
        DIRECTORY_INDEX.of(pasid.into()) * 8
    }

    /// Where a PASID's entry is in its table: 64 bytes each.
    pub(in crate::vtd) fn offset_in_table(pasid: u32) -> u64 {
        TABLE_INDEX.of(pasid.into()) * 64
    }
}

impl PasidEntry {
    /// PGTT.
    pub(super) fn translation_type(self) -> u64 {
        pasid::TRANSLATION_TYPE.of(self.bits())
    }

    /// AW.
    pub(super) fn address_width(self) -> u64 {
        pasid::ADDRESS_WIDTH.of(self.bits())
    }
}

impl PasidEntrySecond {
    /// DID.
    pub(super) fn domain(self) -> u16 {
        // CAST: 16 bits.
        pasid::DOMAIN.of(self.bits()) as u16
    }
}

impl PasidEntryFirst {
    /// FSPM.
    pub(super) fn paging_mode(self) -> u64 {
        pasid::PAGING_MODE.of(self.bits())
    }
}
