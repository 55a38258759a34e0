// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fields of the entries in a guest's tables, by the specification's names (VT-d 4.1, chapter 9).

use bitflags::bitflags;

/// The address in an entry, or in RTADDR: bits 63:12. Which of them are reserved depends on the
/// width of guest-physical addresses.
pub(super) const ADDRESS: u64 = !0xfff;

bitflags! {
    /// RTADDR (11.4.5): TTM, the mode of translation tables, in bits 11:10.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct RootTable: u64 {
        /// TTM 01b: scalable mode. 00b is legacy mode, 11b abort-DMA mode, 10b reserved.
        const SCALABLE = 1 << 10;
        const TTM = 3 << 10;
        const _ = !0;
    }

    /// A root entry (9.1), and each half of one in scalable mode (9.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct RootEntry: u64 {
        /// Present.
        const P = 1 << 0;
        const RESERVED = 0xffe;
        const _ = !0;
    }

    /// The low quadword of a context entry in legacy mode (9.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct LegacyContextEntry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Fault processing disable.
        const FPD = 1 << 1;
        const RESERVED = 0xff0;
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
        const RESERVED = 0x1e0;
        const _ = !0;
    }

    /// An entry of the PASID directory (9.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct PasidDirectoryEntry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Fault processing disable.
        const FPD = 1 << 1;
        const RESERVED = 0xffc;
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
        const RESERVED = 1 << 5 | 3 << 10;
        const _ = !0;
    }

    /// The second quadword. Memory types, from bit 25 on, need ECAP.MTS, which is not offered.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct PasidEntrySecond: u64 {
        /// Page-walk snoop (ECAP.SMPWC).
        const PWSNP = 1 << 23;
        /// Page snoop (ECAP.SC).
        const PGSNP = 1 << 24;
        const RESERVED = 0x7f << 16 | !0 << 25;
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
        const RESERVED = Self::ERE.bits() | 1 << 6 | 0xf << 8;
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

/// Context entries in legacy mode (9.3).
pub(super) mod legacy {
    /// TT: untranslated requests go by the table; a device TLB gets nothing.
    pub(in crate::vtd) const UNTRANSLATED: u64 = 0;
    /// TT: all requests go by the table, those of a device TLB too (ECAP.DT).
    pub(in crate::vtd) const DEVICE_TLB: u64 = 1;
    /// TT: addresses are guest-physical (ECAP.PT).
    pub(in crate::vtd) const PASS_THROUGH: u64 = 2;
    /// In the high quadword.
    pub(in crate::vtd) const RESERVED_HIGH: u64 = 1 << 7 | !0 << 24;

    /// AW of the high quadword: 2 is four levels, 3 five.
    pub(in crate::vtd) fn address_width(high: u64) -> u64 {
        high & 7
    }

    /// DID of the high quadword.
    pub(in crate::vtd) fn domain(high: u64) -> u16 {
        // CAST: 16 bits.
        (high >> 8 & 0xffff) as u16
    }
}

impl LegacyContextEntry {
    /// TT, bits 3:2.
    pub(super) fn translation_type(self) -> u64 {
        self.bits() >> 2 & 3
    }
}

impl ContextEntry {
    /// How many PASIDs the directory is for: 2^(PDTS + 7) entries, each of a table of 64. PDTS is
    /// bits 11:9.
    pub(super) fn pasids(self) -> u32 {
        // CAST: 3 bits.
        1 << ((self.bits() >> 9 & 7) as u32 + 13)
    }
}

/// The second quadword of a scalable-mode context entry has RID_PASID in bits 19:0, and in bit 20
/// RID_PRIV, which concerns privileged requests alone.
pub(super) const CONTEXT_RESERVED_HIGH: u64 = !0 << 21;

pub(super) fn rid_pasid(high: u64) -> u32 {
    // CAST: 20 bits.
    (high & 0xf_ffff) as u32
}

/// PGTT of a PASID entry, bits 8:6.
pub(super) mod pasid {
    pub(in crate::vtd) const FIRST_STAGE: u64 = 1;
    pub(in crate::vtd) const SECOND_STAGE: u64 = 2;
    pub(in crate::vtd) const PASS_THROUGH: u64 = 4;
}

impl PasidEntry {
    /// PGTT, bits 8:6.
    pub(super) fn translation_type(self) -> u64 {
        self.bits() >> 6 & 7
    }

    /// AW, bits 4:2: 2 is four levels of the second stage, 3 five.
    pub(super) fn address_width(self) -> u64 {
        self.bits() >> 2 & 7
    }
}

impl PasidEntrySecond {
    /// DID, bits 15:0.
    pub(super) fn domain(self) -> u16 {
        // CAST: 16 bits.
        (self.bits() & 0xffff) as u16
    }
}

impl PasidEntryFirst {
    /// FSPM, bits 3:2: 0 is four levels of the first stage, 1 five.
    pub(super) fn paging_mode(self) -> u64 {
        self.bits() >> 2 & 3
    }
}
