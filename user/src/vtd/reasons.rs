// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Why requests are stopped: the reasons of fault records (VT-d 4.1, 7.1.3). Those of the tables of
//! the stages are in `crate::walk`, those of interrupts in `remap.rs`.

/// Why a request is not translated: the reasons of fault records (VT-d 4.1, 7.1.3).
pub(super) mod reason {
    /// In legacy mode.
    pub(in crate::vtd) mod legacy {
        pub(in crate::vtd) const ROOT_ABSENT: u8 = 0x1;
        pub(in crate::vtd) const CONTEXT_ABSENT: u8 = 0x2;
        pub(in crate::vtd) const CONTEXT_INVALID: u8 = 0x3;
        pub(in crate::vtd) const BEYOND_WIDTH: u8 = 0x4;
        pub(in crate::vtd) const NOT_WRITABLE: u8 = 0x5;
        pub(in crate::vtd) const NOT_READABLE: u8 = 0x6;
        pub(in crate::vtd) const TABLE_ACCESS: u8 = 0x7;
        pub(in crate::vtd) const ROOT_ACCESS: u8 = 0x8;
        pub(in crate::vtd) const CONTEXT_ACCESS: u8 = 0x9;
        pub(in crate::vtd) const ROOT_RESERVED: u8 = 0xa;
        pub(in crate::vtd) const CONTEXT_RESERVED: u8 = 0xb;
        pub(in crate::vtd) const TABLE_RESERVED: u8 = 0xc;
        pub(in crate::vtd) const INTERRUPTS: u8 = 0xe;
    }
    pub(in crate::vtd) const TABLE_MODE: u8 = 0x30;
    pub(in crate::vtd) const LEGACY_PASID: u8 = 0x31;
    pub(in crate::vtd) const LEGACY_PAGE_REQUEST: u8 = 0x32;
    pub(in crate::vtd) const ROOT_ACCESS: u8 = 0x38;
    pub(in crate::vtd) const ROOT_ABSENT: u8 = 0x39;
    pub(in crate::vtd) const ROOT_RESERVED: u8 = 0x3a;
    pub(in crate::vtd) const CONTEXT_ACCESS: u8 = 0x40;
    pub(in crate::vtd) const CONTEXT_ABSENT: u8 = 0x41;
    pub(in crate::vtd) const CONTEXT_RESERVED: u8 = 0x42;
    pub(in crate::vtd) const CONTEXT_INVALID: u8 = 0x43;
    pub(in crate::vtd) const NO_PASIDS: u8 = 0x45;
    pub(in crate::vtd) const PASID_TOO_LARGE: u8 = 0x46;
    pub(in crate::vtd) const NO_PAGE_REQUESTS: u8 = 0x47;
    pub(in crate::vtd) const DIRECTORY_ACCESS: u8 = 0x50;
    pub(in crate::vtd) const DIRECTORY_ABSENT: u8 = 0x51;
    pub(in crate::vtd) const DIRECTORY_RESERVED: u8 = 0x52;
    pub(in crate::vtd) const PASID_ACCESS: u8 = 0x58;
    pub(in crate::vtd) const PASID_ABSENT: u8 = 0x59;
    pub(in crate::vtd) const PASID_RESERVED: u8 = 0x5a;
    pub(in crate::vtd) const PASID_INVALID: u8 = 0x5b;
    pub(in crate::vtd) const STAGE1_ABSENT: u8 = 0x71;
    pub(in crate::vtd) const SECOND_STAGE_ACCESS: u8 = 0x78;
}

/// What a request is stopped by, and whether the guest wants to hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) reason: u8,
    /// The entry says that faults are not to be recorded (FPD).
    pub(super) silent: bool,
}

impl Stopped {
    pub(super) const fn by(reason: u8) -> Self {
        Self {
            reason,
            silent: false,
        }
    }

    pub(super) const fn unless_disabled(reason: u8, disabled: bool) -> Self {
        Self {
            reason,
            silent: disabled,
        }
    }

    /// Whether an entry is only not there, as most are.
    pub(super) fn is_only_absent(&self) -> bool {
        matches!(
            self.reason,
            reason::PASID_ABSENT
                | reason::DIRECTORY_ABSENT
                | reason::CONTEXT_ABSENT
                | reason::ROOT_ABSENT
        )
    }
}

/// The reason that legacy mode has in the place of one of scalable mode (VT-d 4.1, 7.1.3, table 27).
pub(super) fn in_legacy_mode(reason: u8) -> u8 {
    use crate::walk::reason as walk;

    match u32::from(reason) {
        walk::SECOND_NOT_READABLE => reason::legacy::TABLE_ACCESS,
        walk::SECOND_RESERVED => reason::legacy::TABLE_RESERVED,
        walk::BEYOND_WIDTH => reason::legacy::BEYOND_WIDTH,
        walk::INTERRUPTS => reason::legacy::INTERRUPTS,
        _ if reason == reason::PASID_INVALID => reason::legacy::CONTEXT_INVALID,
        _ => reason,
    }
}

/// What is wrong with which entry, of the reasons that entries have from the root to the PASID.
pub(super) fn text(reason: u8) -> &'static str {
    use reason::legacy;

    match reason {
        legacy::ROOT_ABSENT | reason::ROOT_ABSENT => "P of the root entry is clear",
        legacy::ROOT_ACCESS | reason::ROOT_ACCESS => "RTADDR: the root table lies in no memory",
        legacy::ROOT_RESERVED | reason::ROOT_RESERVED => "the root entry has reserved bits set",
        legacy::CONTEXT_ABSENT | reason::CONTEXT_ABSENT => "P of the context entry is clear",
        legacy::CONTEXT_ACCESS | reason::CONTEXT_ACCESS => "the context table lies in no memory",
        legacy::CONTEXT_RESERVED | reason::CONTEXT_RESERVED => {
            "the context entry has reserved bits set"
        }
        legacy::CONTEXT_INVALID => "TT or AW of the context entry is not offered",
        reason::CONTEXT_INVALID => "DTE or PRE of the context entry is not offered",
        reason::TABLE_MODE => "TTM of RTADDR is reserved",
        reason::LEGACY_PASID => "TTM of RTADDR is legacy mode, which has no PASIDs",
        reason::NO_PASIDS => "PASIDE of the context entry is clear",
        reason::PASID_TOO_LARGE => "PDTS of the context entry is for fewer PASIDs",
        reason::DIRECTORY_ACCESS => "the PASID directory lies in no memory",
        reason::DIRECTORY_ABSENT => "P of the PASID directory entry is clear",
        reason::DIRECTORY_RESERVED => "the PASID directory entry has reserved bits set",
        reason::PASID_ACCESS => "the PASID table lies in no memory",
        reason::PASID_ABSENT => "P of the PASID entry is clear",
        reason::PASID_RESERVED => "the PASID entry has reserved bits set",
        reason::PASID_INVALID => "PGTT, AW or FSPM of the PASID entry is not offered",
        _ => "the specification has the reason in 7.1.3",
    }
}
