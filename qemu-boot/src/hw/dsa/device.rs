// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The DSA as its driver sees it, and a machine with one that is set up.

use std::time::Instant;

use anyhow::{ensure, Context, Result};

use super::super::bench::{Bench, DATA, SLOT_TIMEOUT};
use super::super::endpoint::cfg;
use super::super::layout::URW;
use super::super::tables::{PasidEntry, Table, SIZE_4K};
use super::super::vtd;

/// Its source id.
pub const SID: u16 = (super::SLOT as u16) << 3;
pub const BAR0: u64 = 0xe020_0000;
pub const BAR2: u64 = 0xe040_0000;
const MSIX_TABLE: u64 = BAR0 + 0x2000;

/// Registers in BAR 0.
pub mod reg {
    pub const VERSION: u64 = 0x00;
    pub const GENCAP: u64 = 0x10;
    pub const WQCAP: u64 = 0x20;
    pub const OPCAP: u64 = 0x40;
    pub const GENCFG: u64 = 0x80;
    pub const GENCTRL: u64 = 0x88;
    pub const GENSTS: u64 = 0x90;
    pub const INTCAUSE: u64 = 0x98;
    pub const CMD: u64 = 0xa0;
    pub const CMDSTS: u64 = 0xa8;
    pub const SWERR: u64 = 0xc0;
    pub const EVLCFG: u64 = 0xe0;
    pub const EVLSTATUS: u64 = 0xf0;
    pub const GRPCFG: u64 = 0x400;
    pub const WQCFG: u64 = 0x600;
    pub const MSIX_PERM: u64 = 0x900;
}

/// The operations of OPCAP.
pub const OPERATIONS: u64 = 0x1_003f_03ff;
pub const GENCTRL_EVL_INT: u32 = 1 << 2;
pub const MSIX_PERM_IGNORE: u32 = 1 << 2;
pub const MSIX_PERM_PASID_ENABLE: u32 = 1 << 3;
pub const GENCFG_USER_INT: u32 = 1 << 12;
pub const GENCFG_EVL: u32 = 1 << 13;
pub const CAUSE_SWERR: u32 = 1 << 0;
pub const CAUSE_COMMAND: u32 = 1 << 1;
pub const CAUSE_EVL: u32 = 1 << 5;

/// Commands.
pub mod cmd {
    pub const ENABLE_DEVICE: u32 = 1;
    pub const DISABLE_DEVICE: u32 = 2;
    pub const RESET_DEVICE: u32 = 5;
    pub const ENABLE_WQ: u32 = 6;
    pub const DISABLE_WQ: u32 = 7;
    pub const DRAIN_WQ: u32 = 8;
    pub const ABORT_WQ: u32 = 9;
    pub const RESET_WQ: u32 = 10;
    pub const DRAIN_PASID: u32 = 11;
    pub const INTERRUPT: u32 = 1 << 31;
    pub const ACTIVE: u32 = 1 << 31;
}

/// Word 2 of WQCFG.
pub mod wq {
    pub const DEDICATED: u32 = 1 << 0;
    pub const BLOCK_ON_FAULT: u32 = 1 << 1;
    pub const ATS_DISABLE: u32 = 1 << 2;
    pub const PRS_DISABLE: u32 = 1 << 3;
    pub const PRIORITY_1: u32 = 1 << 4;
    pub const PASID_ENABLE: u32 = 1 << 28;
}

/// Operations.
pub mod op {
    pub const NOOP: u8 = 0;
    pub const BATCH: u8 = 1;
    pub const DRAIN: u8 = 2;
    pub const MEMMOVE: u8 = 3;
    pub const FILL: u8 = 4;
    pub const COMPARE: u8 = 5;
    pub const COMPARE_PATTERN: u8 = 6;
    pub const CREATE_DELTA: u8 = 7;
    pub const APPLY_DELTA: u8 = 8;
    pub const DUALCAST: u8 = 9;
    pub const CRC: u8 = 0x10;
    pub const COPY_CRC: u8 = 0x11;
    pub const DIF_CHECK: u8 = 0x12;
    pub const DIF_INSERT: u8 = 0x13;
    pub const DIF_STRIP: u8 = 0x14;
    pub const DIF_UPDATE: u8 = 0x15;
    pub const CACHE_FLUSH: u8 = 0x20;
}

/// Flags of a descriptor.
pub mod flag {
    pub const FENCE: u32 = 1 << 0;
    pub const BLOCK_ON_FAULT: u32 = 1 << 1;
    pub const RECORD_VALID: u32 = 1 << 2;
    pub const RECORD: u32 = 1 << 3;
    pub const INTERRUPT: u32 = 1 << 4;
    pub const CHECK_RESULT: u32 = 1 << 7;
    pub const CRC_READ_SEED: u32 = 1 << 16;
    pub const CRC_PLAIN: u32 = 1 << 17;
    pub const CRC_PLAIN_DATA: u32 = 1 << 18;
}

/// Status of a record.
pub mod status {
    pub const SUCCESS: u8 = 0x01;
    pub const SUCCESS_FALSE: u8 = 0x02;
    pub const PAGE_FAULT: u8 = 0x03;
    pub const PAGE_FAULT_REFUSED: u8 = 0x04;
    pub const BATCH_FAILED: u8 = 0x05;
    pub const BATCH_PAGE_FAULT: u8 = 0x06;
    pub const DELTA_ORDER: u8 = 0x07;
    pub const DELTA_RANGE: u8 = 0x08;
    pub const DIF_ERROR: u8 = 0x09;
    pub const BAD_OPCODE: u8 = 0x10;
    pub const BAD_FLAGS: u8 = 0x11;
    pub const BAD_RESERVED: u8 = 0x12;
    pub const BAD_XFER_SIZE: u8 = 0x13;
    pub const BAD_COUNT: u8 = 0x14;
    pub const BAD_DELTA_SIZE: u8 = 0x15;
    pub const BAD_OVERLAP: u8 = 0x16;
    pub const BAD_DUALCAST: u8 = 0x17;
    pub const BAD_LIST_ALIGN: u8 = 0x18;
    pub const BAD_INT_HANDLE: u8 = 0x19;
    pub const RECORD_FAULT: u8 = 0x1a;
    pub const BAD_RECORD_ALIGN: u8 = 0x1b;
    pub const BAD_ALIGN: u8 = 0x1c;
    pub const HW_ERROR: u8 = 0x20;
    pub const TRANSLATION_FAILED: u8 = 0x22;
    /// Of entries of the event log: the record of a drain, and of a batch with such children.
    pub const DRAIN_LOGGED: u8 = 0x26;
    pub const BATCH_LOGGED: u8 = 0x27;
    /// Of SWERR: a queue was full, the event log was.
    pub const WQ_FULL: u8 = 0x53;
    pub const EVL_LOST: u8 = 0x54;
    /// Added: the access that faulted was a write.
    pub const WRITE: u8 = 0x80;
}

/// What a process sees at these addresses: pages of data, then the record, then a hole.
pub const V: u64 = 0x7f12_3440_0000;
pub const PAGES: u64 = 600;
/// The page of the records, and where record `n` is.
pub const RECORDS: u64 = V + PAGES * SIZE_4K;
pub const PASID: u32 = 0x1_2345;
pub const DID: u16 = 0x77;

/// Address of record `n`.
pub fn record(n: u64) -> u64 {
    RECORDS + n * 32
}

/// Where the memory of `address` is.
pub fn memory(address: u64) -> u64 {
    DATA + (address - V)
}

/// A descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Desc {
    pub opcode: u8,
    pub flags: u32,
    pub first: u32,
    pub record: u64,
    pub src: u64,
    pub dst: u64,
    pub size: u32,
    pub int_handle: u16,
    pub op: [u8; 24],
}

impl Desc {
    /// `opcode` with a record at place 0.
    pub fn new(opcode: u8) -> Self {
        Self {
            opcode,
            flags: flag::RECORD_VALID | flag::RECORD,
            first: 0,
            record: record(0),
            src: 0,
            dst: 0,
            size: 0,
            int_handle: 0,
            op: [0; 24],
        }
    }

    /// With operands.
    pub fn moving(opcode: u8, src: u64, dst: u64, size: u32) -> Self {
        Self {
            src,
            dst,
            size,
            ..Self::new(opcode)
        }
    }

    /// With these bytes of the operation's own.
    pub fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.op[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// With these flags beside its own.
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags |= flags;
        self
    }

    /// With record `n`.
    pub fn record(mut self, n: u64) -> Self {
        self.record = record(n);
        self
    }

    /// The 64 bytes.
    pub fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&self.first.to_le_bytes());
        let second = self.flags | u32::from(self.opcode) << 24;
        bytes[4..8].copy_from_slice(&second.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.record.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.src.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.dst.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.size.to_le_bytes());
        bytes[36..38].copy_from_slice(&self.int_handle.to_le_bytes());
        bytes[40..64].copy_from_slice(&self.op);
        bytes
    }
}

/// A completion record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub status: u8,
    pub result: u8,
    pub bytes: u32,
    pub fault: u64,
    pub op: [u8; 16],
}

impl Record {
    /// The first four bytes of the operation's own.
    pub fn word(&self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.op[..4].try_into()?))
    }
}

/// How a work queue is set up.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// Word 2 beside size, mode, priority and PASID.
    pub bits: u32,
    /// Entries.
    pub size: u32,
    pub pasid: Option<u32>,
}

impl Queue {
    /// Sixteen entries of [`PASID`].
    pub const USUAL: Self = Self {
        bits: 0,
        size: 16,
        pasid: Some(PASID),
    };
    /// The same, that may block on a fault.
    pub const BLOCKING: Self = Self {
        bits: wq::BLOCK_ON_FAULT,
        ..Self::USUAL
    };
}

/// The memory that [`V`] leads to; gives the stage 1.
pub fn world(b: &mut Bench) -> Result<Table> {
    let s1 = Table::stage1(b, 4, false)?;
    for n in 0..=PAGES {
        s1.map(b, V + n * SIZE_4K, DATA + n * SIZE_4K, SIZE_4K, URW)?;
    }
    b.set_pasid(PASID, &PasidEntry::first(DID, &s1))?;
    b.set_pasid(0, &PasidEntry::pass(DID + 1))?;
    Ok(s1)
}

/// Brings up the DSA's function, with PASID; ATS and PRI stay off.
pub fn start(b: &mut Bench) -> Result<()> {
    b.drive(SID)?;
    for (at, value) in [(0x10, BAR0), (0x18, BAR2)] {
        b.set_cfg32(at, u32::try_from(value)?)?;
        b.set_cfg32(at + 4, 0)?;
    }
    b.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER)?;
    b.find_capabilities()?;
    b.enable_pasid(cfg::PASID_ENABLE)?;
    // Its own context entry names the same PASIDs.
    let entry = b.q.read64(b.context)?;
    let own =
        b.context - 32 * u64::from(super::super::endpoint::SID & 0x7f) + 32 * u64::from(SID & 0x7f);
    b.q.write64(own, entry)
}

/// World, function and the configuration of work queue 0 as `queue` says, in group 0 with all
/// engines. Device and queue are off.
pub fn configured(b: &mut Bench, queue: Queue) -> Result<Table> {
    let s1 = world(b)?;
    start(b)?;
    configure(b, 0, queue)?;
    group(b, 0, 1, 0xf)?;
    Ok(s1)
}

/// [`configured`], then device and queue are turned on.
pub fn ready(b: &mut Bench, queue: Queue) -> Result<Table> {
    let s1 = configured(b, queue)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    Ok(s1)
}

/// Puts work queues and engines, a bit each, into group `n`.
pub fn group(b: &mut Bench, n: u64, queues: u64, engines: u64) -> Result<()> {
    b.q.write64(BAR0 + reg::GRPCFG + n * 64, queues)?;
    b.q.write64(BAR0 + reg::GRPCFG + n * 64 + 32, engines)
}

/// Writes WQCFG of work queue `n`.
pub fn configure(b: &mut Bench, n: u64, queue: Queue) -> Result<()> {
    let pasid = match queue.pasid {
        Some(pasid) => wq::PASID_ENABLE | pasid << 8,
        None => 0,
    };
    let mut words = [0; 16];
    words[0] = queue.size;
    words[2] = queue.bits | wq::DEDICATED | wq::PRIORITY_1 | pasid;
    // Transfers up to 4 MiB, batches up to 64.
    words[3] = 22 | 6 << 5;
    words[8] = OPERATIONS as u32;
    words[9] = (OPERATIONS >> 32) as u32;
    for (i, word) in (0u64..).zip(words) {
        b.q.write32(BAR0 + reg::WQCFG + n * 64 + 4 * i, word)?;
    }
    Ok(())
}

/// Runs a command and gives how it ended.
pub fn command(b: &mut Bench, code: u32, operand: u32) -> Result<u32> {
    b.q.write32(BAR0 + reg::CMD, code << 20 | operand)?;
    let begun = Instant::now();
    loop {
        let status = b.q.read32(BAR0 + reg::CMDSTS)?;
        if status & cmd::ACTIVE == 0 {
            return Ok(status);
        }
        ensure!(
            begun.elapsed() < SLOT_TIMEOUT,
            "command {code} stays active"
        );
    }
}

/// Runs a command that has to succeed.
pub fn done(b: &mut Bench, code: u32, operand: u32) -> Result<()> {
    let status = command(b, code, operand)?;
    ensure!(status == 0, "command {code} ends with {status:#x}");
    Ok(())
}

/// Portal `page` of work queue `n`.
pub fn portal(n: u64, page: u64) -> u64 {
    BAR2 + (n * 4 + page) * SIZE_4K
}

/// Writes a descriptor as MOVDIR64B does.
pub fn submit_at(b: &mut Bench, at: u64, desc: &Desc) -> Result<()> {
    for (i, quad) in (0u64..).zip(desc.bytes().chunks_exact(8)) {
        b.q.write64(at + 8 * i, u64::from_le_bytes(quad.try_into()?))?;
    }
    Ok(())
}

/// Clears the descriptor's record and submits it to work queue 0.
pub fn submit(b: &mut Bench, desc: &Desc) -> Result<()> {
    if (RECORDS..RECORDS + SIZE_4K).contains(&desc.record) {
        b.q.write_bytes(memory(desc.record), &[0; 32])?;
    }
    submit_at(b, portal(0, 0), desc)
}

/// The record `n` now.
pub fn look(b: &mut Bench, n: u64) -> Result<Record> {
    record_at(b, memory(record(n)))
}

/// The record at an address of memory.
pub fn record_at(b: &mut Bench, at: u64) -> Result<Record> {
    let raw = b.q.read_bytes(at, 32)?;
    Ok(Record {
        status: raw[0],
        result: raw[1],
        bytes: u32::from_le_bytes(raw[4..8].try_into()?),
        fault: u64::from_le_bytes(raw[8..16].try_into()?),
        op: raw[16..32].try_into()?,
    })
}

/// Waits for record `n`.
pub fn wait(b: &mut Bench, n: u64) -> Result<Record> {
    let begun = Instant::now();
    loop {
        let record = look(b, n)?;
        if record.status != 0 {
            return Ok(record);
        }
        ensure!(begun.elapsed() < SLOT_TIMEOUT, "record {n} is not written");
    }
}

/// Submits a descriptor and waits for record 0.
pub fn run(b: &mut Bench, desc: &Desc) -> Result<Record> {
    submit(b, desc)?;
    wait(b, 0).with_context(|| format!("{desc:x?}"))
}

/// Runs a descriptor that has to end with `status`.
pub fn ends(b: &mut Bench, desc: &Desc, status: u8) -> Result<Record> {
    let record = run(b, desc)?;
    ensure!(
        record.status == status,
        "{desc:x?} ends with {record:x?}, not {status:#x}"
    );
    Ok(record)
}

/// Waits until a register has some of the bits of `mask`.
pub fn await_bits(b: &mut Bench, register: u64, mask: u32) -> Result<u32> {
    let begun = Instant::now();
    loop {
        let value = b.q.read32(BAR0 + register)?;
        if value & mask != 0 {
            return Ok(value);
        }
        ensure!(
            begun.elapsed() < SLOT_TIMEOUT,
            "register {register:#x} is {value:#x}"
        );
    }
}

/// Sets vector `n` to write `data` to `address`.
pub fn vector(b: &mut Bench, n: u64, address: u64, data: u32) -> Result<()> {
    b.q.write64(MSIX_TABLE + 16 * n, address)?;
    b.q.write64(MSIX_TABLE + 16 * n + 8, data.into())?;
    let msix = b.capability(cfg::CAP_MSIX)?;
    b.set_cfg16(msix + cfg::MSIX_CONTROL, cfg::MSIX_ENABLE)
}

/// The answer to a page request of the DSA.
pub fn answer(request: &vtd::PageRequest, code: u64) -> vtd::desc::Desc {
    let mut d = vtd::desc::page_response(request.pasid, request.prgi, code);
    d[0] = d[0] & !(0xffff << 16) | u64::from(SID) << 16;
    d
}

/// Bytes that repeat after no power of two.
pub fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i + seed) % 251) as u8 ^ (i / 251) as u8)
        .collect()
}

/// Writes memory as the process sees it.
pub fn put(b: &mut Bench, at: u64, data: &[u8]) -> Result<()> {
    b.q.write_bytes(memory(at), data)
}

/// Reads it.
pub fn get(b: &mut Bench, at: u64, len: usize) -> Result<Vec<u8>> {
    b.q.read_bytes(memory(at), len)
}
