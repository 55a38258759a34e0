// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the VT-d specification (revision 4.1) fixes: registers, table entries,
//! descriptors of the invalidation queue, fault records.

/// Where QEMU's machine puts the registers.
pub const BASE: u64 = 0xfed9_0000;

/// Register offsets (chapter 11.4).
pub mod reg {
    pub const CAP: u64 = 0x08;
    pub const ECAP: u64 = 0x10;
    pub const GCMD: u64 = 0x18;
    pub const GSTS: u64 = 0x1c;
    pub const RTADDR: u64 = 0x20;
    pub const FSTS: u64 = 0x34;
    pub const IQH: u64 = 0x80;
    pub const IQT: u64 = 0x88;
    pub const IQA: u64 = 0x90;
    pub const PQH: u64 = 0xc0;
    pub const PQT: u64 = 0xc8;
    pub const PQA: u64 = 0xd0;
    pub const PRS: u64 = 0xdc;
    pub const PECTL: u64 = 0xe0;
}

/// Global command and status (11.4.4).
pub const G_TRANSLATION: u32 = 1 << 31;
pub const G_ROOT_TABLE: u32 = 1 << 30;
pub const G_QUEUED_INVALIDATION: u32 = 1 << 26;
/// The commands that stay in force; the others are one-shot.
pub const G_LASTING: u32 = 0x96ff_ffff;

pub const RTADDR_SCALABLE: u64 = 1 << 10;
pub const IQA_256_BIT: u64 = 1 << 11;

pub const FSTS_OVERFLOW: u32 = 1 << 0;
pub const FSTS_QUEUE_ERROR: u32 = 1 << 4;

pub const PRS_PENDING: u32 = 1 << 0;
pub const PRS_OVERFLOW: u32 = 1 << 1;
pub const PECTL_PENDING: u32 = 1 << 30;

/// Extended capabilities (11.4.3) that nested translation and PRI need.
pub const ECAP_NEEDED: &[(&str, u64)] = &[
    ("NEST", 1 << 26),
    ("PRS", 1 << 29),
    ("SRS", 1 << 31),
    ("PASID", 1 << 40),
    ("PDS", 1 << 42),
    ("SMTS", 1 << 43),
    ("SSTS", 1 << 46),
    ("FSTS", 1 << 47),
    ("SMPWC", 1 << 48),
    ("DT", 1 << 2),
];

/// Scalable-mode context entry, first quadword (9.4).
pub const CTX_PRESENT: u64 = 1 << 0;
pub const CTX_DTE: u64 = 1 << 2;
pub const CTX_PASIDE: u64 = 1 << 3;
pub const CTX_PRE: u64 = 1 << 4;
pub const CTX_PDTS_SHIFT: u32 = 9;

/// PASID table entry, first quadword (9.6).
pub const PE_PRESENT: u64 = 1 << 0;
pub const PE_FPD: u64 = 1 << 1;
pub const PE_AW_SHIFT: u32 = 2;
pub const PE_PGTT_SHIFT: u32 = 6;
pub const PE_SSADE: u64 = 1 << 9;
/// Quadword 1: page snoop, which is ECAP.SC's, and memory types, which are ECAP.MTS's.
pub const PE_PGSNP: u64 = 1 << 24;
pub const PE_CD: u64 = 1 << 25;
pub const PE_EMTE: u64 = 1 << 26;
pub const PE_EMT: u64 = 7 << 27;
pub const PE_PWT: u64 = 1 << 30;
pub const PE_PCD: u64 = 1 << 31;
pub const PE_PAT: u64 = 0xffff_ffff << 32;
pub const PGTT_FIRST: u64 = 1;
pub const PGTT_SECOND: u64 = 2;
pub const PGTT_NESTED: u64 = 3;
pub const PGTT_PASS: u64 = 4;
/// PASID table entry, third quadword.
pub const PE_SRE: u64 = 1 << 0;
pub const PE_FSPM_5: u64 = 1 << 2;
pub const PE_WPE: u64 = 1 << 4;
pub const PE_EAFE: u64 = 1 << 7;

/// First-stage paging entries (9.7).
pub const S1_P: u64 = 1 << 0;
pub const S1_RW: u64 = 1 << 1;
pub const S1_US: u64 = 1 << 2;
pub const S1_A: u64 = 1 << 5;
pub const S1_D: u64 = 1 << 6;
pub const S1_PS: u64 = 1 << 7;
pub const S1_G: u64 = 1 << 8;
pub const S1_EA: u64 = 1 << 10;
/// Second-stage paging entries (9.8).
pub const S2_R: u64 = 1 << 0;
pub const S2_W: u64 = 1 << 1;
pub const S2_PS: u64 = 1 << 7;
pub const S2_A: u64 = 1 << 8;
pub const S2_D: u64 = 1 << 9;

/// Descriptors of the invalidation queue in its 256-bit form (6.5.2).
pub mod desc {
    use super::super::endpoint::SID;

    /// Quadwords of a descriptor; the upper two are reserved in all of these.
    pub type Desc = [u64; 4];

    /// Context cache, global (type 1).
    pub fn context_all() -> Desc {
        [1 | 1 << 4, 0, 0, 0]
    }

    /// Context cache of the endpoint (type 1, device selective).
    pub fn context_device() -> Desc {
        [1 | 3 << 4 | u64::from(SID) << 32, 0, 0, 0]
    }

    /// IOTLB, global (type 2).
    pub fn iotlb_all() -> Desc {
        [2 | 1 << 4, 0, 0, 0]
    }

    /// IOTLB of a domain (type 2).
    pub fn iotlb_domain(did: u16) -> Desc {
        [2 | 2 << 4 | u64::from(did) << 16, 0, 0, 0]
    }

    /// IOTLB, 2^`am` pages of a domain (type 2).
    pub fn iotlb_pages(did: u16, addr: u64, am: u64) -> Desc {
        [
            2 | 3 << 4 | u64::from(did) << 16,
            (addr & !0xfff) | am,
            0,
            0,
        ]
    }

    /// Device TLB without PASID (type 3). `addr` carries the range where `size`.
    pub fn dev_tlb(addr: u64, size: bool) -> Desc {
        [
            3 | u64::from(SID) << 32,
            (addr & !0xfff) | u64::from(size),
            0,
            0,
        ]
    }

    /// PASID-based IOTLB, all of a PASID (type 6).
    pub fn piotlb_all(did: u16, pasid: u32) -> Desc {
        [
            6 | 2 << 4 | u64::from(did) << 16 | u64::from(pasid) << 32,
            0,
            0,
            0,
        ]
    }

    /// PASID-based IOTLB, 2^`am` pages (type 6).
    pub fn piotlb_pages(did: u16, pasid: u32, addr: u64, am: u64) -> Desc {
        [
            6 | 3 << 4 | u64::from(did) << 16 | u64::from(pasid) << 32,
            (addr & !0xfff) | am,
            0,
            0,
        ]
    }

    /// PASID cache of one PASID (type 7).
    pub fn pasid_one(did: u16, pasid: u32) -> Desc {
        [
            7 | 1 << 4 | u64::from(did) << 16 | u64::from(pasid) << 32,
            0,
            0,
            0,
        ]
    }

    /// PASID cache of a domain (type 7).
    pub fn pasid_domain(did: u16) -> Desc {
        [7 | u64::from(did) << 16, 0, 0, 0]
    }

    /// PASID cache, global (type 7).
    pub fn pasid_all() -> Desc {
        [7 | 3 << 4, 0, 0, 0]
    }

    /// Device TLB of a PASID (type 8).
    pub fn pasid_dev_tlb(pasid: u32, addr: u64, size: bool, global: bool) -> Desc {
        [
            8 | u64::from(SID) << 16 | u64::from(pasid) << 32,
            (addr & !0xfff) | u64::from(size) << 11 | u64::from(global),
            0,
            0,
        ]
    }

    /// Page group response (type 9).
    pub fn page_response(pasid: Option<u32>, prgi: u64, code: u64) -> Desc {
        let (has, pasid) = match pasid {
            Some(p) => (1, u64::from(p)),
            None => (0, 0),
        };
        [
            9 | has << 4 | code << 12 | u64::from(SID) << 16 | pasid << 32,
            prgi << 3,
            0,
            0,
        ]
    }

    /// Wait, writing `data` to `addr` (type 5); `flags` adds fence or drain.
    pub fn wait(addr: u64, data: u32, flags: u64) -> Desc {
        [5 | 1 << 5 | flags | u64::from(data) << 32, addr, 0, 0]
    }

    /// Wait that is a fence alone, as Linux's drain sends it.
    pub fn fence() -> Desc {
        [5 | WAIT_FENCE, 0, 0, 0]
    }

    pub const WAIT_FENCE: u64 = 1 << 6;
    pub const WAIT_DRAIN: u64 = 1 << 7;
}

/// One fault recording register (11.4.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub reason: u8,
    pub source: u16,
    pub pasid: Option<u32>,
    /// Page of the faulting address.
    pub page: u64,
    pub write: bool,
    pub privileged: bool,
}

impl Fault {
    /// Decodes a record, or `None` if it is empty.
    pub fn decode(lo: u64, hi: u64) -> Option<Self> {
        if hi >> 63 == 0 {
            return None;
        }
        let has_pasid = hi >> 31 & 1 == 1;
        Some(Self {
            reason: (hi >> 32 & 0xff) as u8,
            source: (hi & 0xffff) as u16,
            pasid: has_pasid.then_some((hi >> 40 & 0xf_ffff) as u32),
            page: lo & !0xfff,
            write: hi >> 62 & 1 == 0 && hi >> 28 & 1 == 0,
            privileged: has_pasid && hi >> 29 & 1 == 1,
        })
    }
}

/// A page request descriptor in the queue (7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    pub source: u16,
    pub pasid: Option<u32>,
    pub privileged: bool,
    pub read: bool,
    pub write: bool,
    pub last: bool,
    pub prgi: u64,
    pub page: u64,
}

impl PageRequest {
    /// Decodes the first two quadwords; `None` if it is no page request.
    pub fn decode(lo: u64, hi: u64) -> Option<Self> {
        if lo & 0xff != 1 {
            return None;
        }
        Some(Self {
            source: (lo >> 16 & 0xffff) as u16,
            pasid: (lo >> 8 & 1 == 1).then_some((lo >> 32 & 0xf_ffff) as u32),
            privileged: lo >> 53 & 1 == 1,
            read: hi & 1 == 1,
            write: hi >> 1 & 1 == 1,
            last: hi >> 2 & 1 == 1,
            prgi: hi >> 3 & 0x1ff,
            page: hi & !0xfff,
        })
    }
}
