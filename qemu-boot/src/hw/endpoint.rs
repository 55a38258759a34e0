// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The test endpoint as its header for drivers describes it
//! (`include/hw/misc/pasid-dma-testdev.h`), and its configuration space.

/// Slot of the endpoint on the root bus.
pub const SLOT: u8 = 4;
/// Its source id.
pub const SID: u16 = (SLOT as u16) << 3;

/// Where the tests put its BARs.
pub const BAR0: u64 = 0xe000_0000;
pub const BAR2: u64 = 0xe010_0000;

/// Configuration space: offsets and bits (PCIe 6.0, 7.5 and 7.8).
pub mod cfg {
    pub const COMMAND: u64 = 0x04;
    pub const COMMAND_MEMORY: u16 = 1 << 1;
    pub const COMMAND_MASTER: u16 = 1 << 2;
    pub const BAR0: u64 = 0x10;
    pub const BAR2: u64 = 0x18;
    /// Of a bridge: primary, secondary and subordinate bus, then memory base and limit.
    pub const PORT_BUSES: u64 = 0x18;
    pub const PORT_MEMORY: u64 = 0x20;
    pub const CAP_POINTER: u64 = 0x34;
    pub const CAP_MSIX: u8 = 0x11;
    pub const CAP_EXPRESS: u8 = 0x10;
    pub const EXPRESS_CONTROL: u64 = 0x08;
    pub const EXPRESS_FLR: u16 = 1 << 15;
    pub const EXPRESS_SLOT_CONTROL: u64 = 0x18;
    /// Power off, power indicator off.
    pub const SLOT_OFF: u16 = 1 << 10 | 3 << 8;
    pub const MSIX_CONTROL: u64 = 0x02;
    pub const MSIX_ENABLE: u16 = 1 << 15;

    pub const EXT_ATS: u16 = 0x0f;
    pub const EXT_PRI: u16 = 0x13;
    pub const EXT_PASID: u16 = 0x1b;
    pub const ATS_CONTROL: u64 = 0x06;
    pub const ATS_ENABLE: u16 = 1 << 15;
    pub const PASID_CONTROL: u64 = 0x06;
    pub const PASID_ENABLE: u16 = 1 << 0;
    pub const PASID_EXEC: u16 = 1 << 1;
    pub const PASID_PRIV: u16 = 1 << 2;
    pub const PRI_CONTROL: u64 = 0x04;
    pub const PRI_ENABLE: u16 = 1 << 0;
    pub const PRI_RESET: u16 = 1 << 1;
    pub const PRI_STATUS: u64 = 0x06;
    pub const PRI_STATUS_FAILURE: u16 = 1 << 0;
    pub const PRI_STATUS_UNEXPECTED: u16 = 1 << 1;
    pub const PRI_STATUS_STOPPED: u16 = 1 << 8;
    pub const PRI_STATUS_PASID_REQUIRED: u16 = 1 << 15;
    pub const PRI_CAPACITY: u64 = 0x08;
    pub const PRI_ALLOCATION: u64 = 0x0c;
}

/// Registers in BAR 0.
pub mod reg {
    pub const ID: u64 = 0x000;
    pub const HEAD: u64 = 0x008;
    pub const TAIL: u64 = 0x00c;
    pub const CONTROL: u64 = 0x010;
    pub const COMMAND: u64 = 0x014;
    pub const PRI_GROUP: u64 = 0x018;
    pub const ENABLES: u64 = 0x01c;
    pub const PRI_RAW: u64 = 0x020;
    pub const RAW_PASID: u64 = 0x028;
    pub const RAW_PRGI: u64 = 0x02c;
    pub const PRI_STATE: u64 = 0x030;
    pub const DTLB_ENTRIES: u64 = 0x038;
    pub const DTLB_CAPACITY: u64 = 0x03c;
    pub const CNT_ATS: u64 = 0x100;
    pub const CNT_DTLB_HIT: u64 = 0x110;
    pub const CNT_PAGE_REQ: u64 = 0x128;
    pub const CNT_GROUPS: u64 = 0x130;
    pub const CNT_RSP_FAILURE: u64 = 0x148;
    pub const CNT_RSP_STRAY: u64 = 0x150;
    pub const CNT_DONE: u64 = 0x158;
    pub const CNT_ERROR: u64 = 0x160;
    pub const CNT_PRI_PEAK: u64 = 0x170;
    pub const CNT_PRI_STALL: u64 = 0x178;
    pub const CNT_UNTRANSLATED: u64 = 0x180;
    pub const CNT_DTLB_EVICTED: u64 = 0x188;
    pub const RING: u64 = 0x1000;
    pub const BUFFER: u64 = 0x8000;
}

pub const ID: u32 = 0x3154_4450;
pub const CONTROL_PAUSE: u32 = 1 << 1;
pub const COMMAND_FLUSH_DTLB: u32 = 1 << 0;
pub const COMMAND_ABORT: u32 = 1 << 1;
pub const RAW_LAST: u64 = 1 << 0;
pub const RAW_READ: u64 = 1 << 1;
pub const RAW_PASID: u64 = 1 << 3;
pub const RAW_ROGUE: u64 = 1 << 4;
pub const RAW_SENT: u32 = 0;
pub const RAW_DISABLED: u32 = 1;
pub const RAW_NO_CREDIT: u32 = 2;
pub const PRI_FAILED: u32 = 1 << 16;

pub const SLOTS: u32 = 256;
pub const SLOT_SIZE: u64 = 64;
pub const SLOT_STATUS: u64 = 0x34;
pub const SLOT_RESULT: u64 = 0x38;

pub const OP_NOP: u32 = 0;
pub const OP_READ: u32 = 1;
pub const OP_WRITE: u32 = 2;
pub const OP_COPY: u32 = 3;
pub const OP_FILL: u32 = 4;
pub const OP_CHECKSUM: u32 = 5;
pub const OP_FETCH_ADD: u32 = 6;

pub const FLAG_PASID: u32 = 1 << 0;
pub const FLAG_PRIV: u32 = 1 << 1;
pub const FLAG_EXEC: u32 = 1 << 2;
pub const FLAG_NO_ATS: u32 = 1 << 3;
pub const FLAG_NO_PRI: u32 = 1 << 4;
pub const FLAG_IRQ: u32 = 1 << 5;
pub const FLAG_COMPLETION: u32 = 1 << 6;
pub const FLAG_COMPLETION_PASID: u32 = 1 << 7;

pub const QUEUED: u32 = 1;
pub const WAITING: u32 = 2;
pub const OK: u32 = 0x80;
pub const BAD_DESC: u32 = 0x81;
pub const NO_ACCESS: u32 = 0x82;
pub const INVALID: u32 = 0x83;
pub const FAILURE: u32 = 0x84;
pub const ABORTED: u32 = 0x85;
pub const BUS: u32 = 0x86;
pub const RETRIES: u32 = 0x87;
pub const DISABLED: u32 = 0x88;
pub const ATS_ERROR: u32 = 0x89;

pub const RETRY_MAX: u32 = 16;

/// A descriptor of the ring.
#[derive(Debug, Clone, Copy, Default)]
pub struct Op {
    pub op: u32,
    pub flags: u32,
    pub pasid: u32,
    pub length: u32,
    pub src: u64,
    pub dst: u64,
    pub operand: u64,
    pub completion: u64,
    pub tag: u32,
}

impl Op {
    /// The descriptor's bytes, its status and result zero.
    pub fn bytes(&self) -> [u8; SLOT_SIZE as usize] {
        let mut bytes = [0; SLOT_SIZE as usize];
        let words = [self.op, self.flags, self.pasid, self.length];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let quads = [self.src, self.dst, self.operand, self.completion];
        for (place, quad) in bytes[0x10..].chunks_exact_mut(8).zip(quads) {
            place.copy_from_slice(&quad.to_le_bytes());
        }
        bytes[0x30..0x34].copy_from_slice(&self.tag.to_le_bytes());
        bytes
    }
}

/// How a slot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub status: u32,
    pub result: u64,
}

/// FNV-1a with 64 bits, what `OP_CHECKSUM` gives.
pub fn fnv1a(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
