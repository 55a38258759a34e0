// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver of the endpoint `pasid-dma-testdev`. Its registers are described in
//! `qemu-boot/qemu/files/include/hw/misc/pasid-dma-testdev.h`, whose numbers a test compares with
//! these.

use host_iommu_sys::memory::Mmio;
use std::fmt;
use std::time::{Duration, Instant};

/// PCI vendor id.
pub const VENDOR_ID: u32 = 0x1234;
/// PCI device id.
pub const DEVICE_ID: u32 = 0x5a1d;
/// BAR of the registers.
pub const BAR: u32 = 0;
/// Descriptors in the ring; one less can be under way.
pub const SLOTS: u32 = 256;
/// Bytes of the buffer.
pub const BUFFER_SIZE: u64 = 0x8000;
/// Bytes a descriptor can move.
pub const LENGTH_MAX: u32 = 0x100_0000;
/// Most page requests of a group.
pub const GROUP_MAX: u32 = 64;

/// How long to wait for a slot that needs no answer to a page request.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Registers.
pub mod reg {
    #![allow(missing_docs, reason = "named and described in the header")]
    pub const ID: u64 = 0x000;
    pub const ID_VALUE: u32 = 0x3154_4450;
    pub const SLOTS: u64 = 0x004;
    pub const HEAD: u64 = 0x008;
    pub const TAIL: u64 = 0x00c;
    pub const CONTROL: u64 = 0x010;
    pub const CONTROL_IRQ: u32 = 1 << 0;
    pub const CONTROL_PAUSE: u32 = 1 << 1;
    pub const COMMAND: u64 = 0x014;
    pub const COMMAND_FLUSH_DTLB: u32 = 1 << 0;
    pub const COMMAND_ABORT: u32 = 1 << 1;
    pub const PRI_GROUP: u64 = 0x018;
    pub const ENABLES: u64 = 0x01c;
    pub const ENABLE_MASTER: u32 = 1 << 0;
    pub const ENABLE_PASID: u32 = 1 << 1;
    pub const ENABLE_ATS: u32 = 1 << 4;
    pub const ENABLE_PRI: u32 = 1 << 5;
    pub const PRI_RAW: u64 = 0x020;
    pub const RAW_PASID: u64 = 0x028;
    pub const RAW_PRGI: u64 = 0x02c;
    pub const PRI_STATE: u64 = 0x030;
    pub const PRI_FAILED: u32 = 1 << 16;
    pub const PRI_ALLOC: u64 = 0x034;
    pub const DTLB_ENTRIES: u64 = 0x038;
    pub const DTLB_CAPACITY: u64 = 0x03c;
    pub const RING: u64 = 0x1000;
    pub const DESC_SIZE: u64 = 64;
    pub const BUFFER: u64 = 0x8000;
}

/// Offsets in a descriptor.
mod desc {
    pub const OP: u64 = 0x00;
    pub const FLAGS: u64 = 0x04;
    pub const PASID: u64 = 0x08;
    pub const LENGTH: u64 = 0x0c;
    pub const SRC: u64 = 0x10;
    pub const DST: u64 = 0x18;
    pub const OPERAND: u64 = 0x20;
    pub const COMPLETION: u64 = 0x28;
    pub const TAG: u64 = 0x30;
    pub const STATUS: u64 = 0x34;
    pub const RESULT: u64 = 0x38;
}

/// Operations.
pub mod op {
    #![allow(missing_docs, reason = "named and described in the header")]
    pub const NOP: u32 = 0;
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const COPY: u32 = 3;
    pub const FILL: u32 = 4;
    pub const CHECKSUM: u32 = 5;
    pub const FETCH_ADD: u32 = 6;
}

/// Flags of a descriptor.
pub mod flag {
    #![allow(missing_docs, reason = "named and described in the header")]
    pub const PASID: u32 = 1 << 0;
    pub const PRIV: u32 = 1 << 1;
    pub const EXEC: u32 = 1 << 2;
    pub const NO_ATS: u32 = 1 << 3;
    pub const NO_PRI: u32 = 1 << 4;
    pub const IRQ: u32 = 1 << 5;
    pub const COMPLETION: u32 = 1 << 6;
    pub const COMPLETION_PASID: u32 = 1 << 7;
}

/// Parts of a raw page request.
pub mod raw {
    #![allow(missing_docs, reason = "named and described in the header")]
    pub const LAST: u64 = 1 << 0;
    pub const READ: u64 = 1 << 1;
    pub const WRITE: u64 = 1 << 2;
    pub const PASID: u64 = 1 << 3;
    pub const ROGUE: u64 = 1 << 4;
    pub const SENT: u64 = 0;
    pub const DISABLED: u64 = 1;
    pub const NO_CREDIT: u64 = 2;
    pub const GROUP_BUSY: u64 = 3;
    pub const REFUSED: u64 = 4;
}

/// Status of a slot.
pub mod status {
    #![allow(missing_docs, reason = "named and described in the header")]
    pub const IDLE: u32 = 0;
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

    /// The status in words.
    pub fn name(status: u32) -> &'static str {
        match status {
            IDLE => "idle",
            QUEUED => "queued",
            WAITING => "waiting for a page",
            OK => "ok",
            BAD_DESC => "bad descriptor",
            NO_ACCESS => "no access",
            INVALID => "page request answered INVALID",
            FAILURE => "page request answered FAILURE",
            ABORTED => "aborted",
            BUS => "no memory behind the translation",
            RETRIES => "still no access after the retries",
            DISABLED => "not enabled in configuration space",
            ATS_ERROR => "translation request refused",
            _ => "unknown status",
        }
    }
}

/// Counters, from [`Testdev::counter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[allow(missing_docs, reason = "named and described in the header")]
pub enum Counter {
    Ats = 0x100,
    AtsFailed = 0x108,
    DtlbHit = 0x110,
    DtlbInval = 0x118,
    DtlbDropped = 0x120,
    PageReq = 0x128,
    Groups = 0x130,
    RspSuccess = 0x138,
    RspInvalid = 0x140,
    RspFailure = 0x148,
    RspStray = 0x150,
    Done = 0x158,
    Error = 0x160,
    Bytes = 0x168,
    PriPeak = 0x170,
    PriStall = 0x178,
    Untranslated = 0x180,
    DtlbEvicted = 0x188,
}

/// Work for the endpoint. Made by [`Order::read`] and its siblings, then refined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the descriptor's fields, described in the header"
)]
pub struct Order {
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

impl Order {
    /// Reads memory into the buffer.
    pub fn read(src: u64, length: u32, buffer: u64) -> Self {
        Self {
            op: op::READ,
            src,
            length,
            operand: buffer,
            ..Self::default()
        }
    }

    /// Writes the buffer to memory.
    pub fn write(buffer: u64, dst: u64, length: u32) -> Self {
        Self {
            op: op::WRITE,
            dst,
            length,
            operand: buffer,
            ..Self::default()
        }
    }

    /// Copies memory to memory.
    pub fn copy(src: u64, dst: u64, length: u32) -> Self {
        Self {
            op: op::COPY,
            src,
            dst,
            length,
            ..Self::default()
        }
    }

    /// Fills memory with the eight bytes of `pattern`.
    pub fn fill(dst: u64, length: u32, pattern: u64) -> Self {
        Self {
            op: op::FILL,
            dst,
            length,
            operand: pattern,
            ..Self::default()
        }
    }

    /// Computes the FNV-1a of memory.
    pub fn checksum(src: u64, length: u32) -> Self {
        Self {
            op: op::CHECKSUM,
            src,
            length,
            ..Self::default()
        }
    }

    /// Adds to a u64 in memory; the result is the old value.
    pub fn fetch_add(dst: u64, addend: u64) -> Self {
        Self {
            op: op::FETCH_ADD,
            dst,
            length: 8,
            operand: addend,
            ..Self::default()
        }
    }

    /// By this PASID.
    #[must_use]
    pub fn at(self, pasid: u32) -> Self {
        Self { pasid, ..self }.with(flag::PASID)
    }

    /// With more of [`flag`].
    #[must_use]
    pub fn with(self, flags: u32) -> Self {
        Self {
            flags: self.flags | flags,
            ..self
        }
    }

    /// Without page requests: a missing page is an error.
    #[must_use]
    pub fn no_pri(self) -> Self {
        self.with(flag::NO_PRI)
    }

    /// With untranslated requests, past the device TLB.
    #[must_use]
    pub fn no_ats(self) -> Self {
        self.with(flag::NO_ATS)
    }
}

/// A slot of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// One of [`status`].
    pub status: u32,
    /// As the header has it for the status and the operation.
    pub result: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = status::name(self.status);
        write!(f, "{name}, result {:#x}", self.result)
    }
}

/// What went wrong between driver and endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The BAR is not that of the endpoint.
    NotTheEndpoint(u32),
    /// Every slot is under way.
    RingFull,
    /// A slot did not finish in time; the status it had.
    Timeout(Slot, u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTheEndpoint(id) => write!(f, "the endpoint's id reads {id:#x}"),
            Self::RingFull => f.write_str("the endpoint's ring is full"),
            Self::Timeout(Slot(slot), status) => {
                let name = status::name(*status);
                write!(f, "slot {slot} did not finish in time: {name}")
            }
        }
    }
}

impl std::error::Error for Error {}

/// The endpoint. One driver at a time.
#[derive(Debug)]
pub struct Testdev {
    registers: Mmio,
}

impl Testdev {
    /// Takes the endpoint's BAR 0.
    ///
    /// # Errors
    ///
    /// [`Error::NotTheEndpoint`]; all ones are what a device gives whose memory is off.
    pub fn new(registers: Mmio) -> Result<Self, Error> {
        let id = registers.read_u32(reg::ID);
        if id == reg::ID_VALUE && registers.read_u32(reg::SLOTS) == SLOTS {
            Ok(Self { registers })
        } else {
            Err(Error::NotTheEndpoint(id))
        }
    }

    /// Reads a register of four bytes.
    pub fn register(&self, offset: u64) -> u32 {
        self.registers.read_u32(offset)
    }

    /// Writes a register of four bytes.
    pub fn set_register(&self, offset: u64, value: u32) {
        self.registers.write_u32(offset, value);
    }

    /// Reads a counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.registers.read_u64(counter as u64)
    }

    /// Starts an order.
    ///
    /// # Errors
    ///
    /// [`Error::RingFull`].
    pub fn submit(&self, order: &Order) -> Result<Slot, Error> {
        let tail = self.registers.read_u32(reg::TAIL) % SLOTS;
        let next = (tail + 1) % SLOTS;
        if next == self.registers.read_u32(reg::HEAD) {
            return Err(Error::RingFull);
        }
        let at = place(Slot(tail));
        let write = |offset, value| self.registers.write_u32(at + offset, value);
        write(desc::OP, order.op);
        write(desc::FLAGS, order.flags);
        write(desc::PASID, order.pasid);
        write(desc::LENGTH, order.length);
        write(desc::TAG, order.tag);
        let write = |offset, value| self.registers.write_u64(at + offset, value);
        write(desc::SRC, order.src);
        write(desc::DST, order.dst);
        write(desc::OPERAND, order.operand);
        write(desc::COMPLETION, order.completion);
        self.registers.write_u32(reg::TAIL, next);
        Ok(Slot(tail))
    }

    /// The status of a slot now.
    pub fn status(&self, slot: Slot) -> u32 {
        self.registers.read_u32(place(slot) + desc::STATUS)
    }

    /// Status and result of a slot, if it has finished.
    pub fn poll(&self, slot: Slot) -> Option<Done> {
        let status = self.status(slot);
        (status >= status::OK).then(|| Done {
            status,
            result: self.registers.read_u64(place(slot) + desc::RESULT),
        })
    }

    /// Waits until a slot has finished.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`].
    pub fn wait(&self, slot: Slot, limit: Duration) -> Result<Done, Error> {
        let end = Instant::now() + limit;
        loop {
            if let Some(done) = self.poll(slot) {
                return Ok(done);
            }
            if Instant::now() >= end {
                return Err(Error::Timeout(slot, self.status(slot)));
            }
            std::thread::yield_now();
        }
    }

    /// Waits until a slot has the status `wanted`, such as [`status::WAITING`].
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`].
    pub fn wait_for_status(&self, slot: Slot, wanted: u32, limit: Duration) -> Result<(), Error> {
        let end = Instant::now() + limit;
        loop {
            let status = self.status(slot);
            if status == wanted {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Error::Timeout(slot, status));
            }
            std::thread::yield_now();
        }
    }

    /// Starts an order and waits for its end, within [`DEADLINE`].
    ///
    /// # Errors
    ///
    /// [`Error::RingFull`] and [`Error::Timeout`].
    pub fn run(&self, order: &Order) -> Result<Done, Error> {
        let slot = self.submit(order)?;
        self.wait(slot, DEADLINE)
    }

    /// Reads the buffer.
    pub fn read_buffer(&self, offset: u64, len: u64) -> Vec<u8> {
        (offset..offset + len)
            .map(|at| self.registers.read_u8(reg::BUFFER + at))
            .collect()
    }

    /// Writes the buffer.
    pub fn write_buffer(&self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            self.registers.write_u8(reg::BUFFER + at, *byte);
        }
    }

    /// Sets how many page requests a group has at most, 1 to [`GROUP_MAX`].
    pub fn set_group_size(&self, requests: u32) {
        self.registers.write_u32(reg::PRI_GROUP, requests);
    }

    /// Drops the device TLB without being told to by the IOMMU.
    pub fn flush_dtlb(&self) {
        self.registers
            .write_u32(reg::COMMAND, reg::COMMAND_FLUSH_DTLB);
    }

    /// Ends every slot.
    pub fn abort(&self) {
        self.registers.write_u32(reg::COMMAND, reg::COMMAND_ABORT);
    }

    /// Holds back new slots, or lets them go.
    pub fn pause(&self, on: bool) {
        let others = self.registers.read_u32(reg::CONTROL) & !reg::CONTROL_PAUSE;
        let pause = if on { reg::CONTROL_PAUSE } else { 0 };
        self.registers.write_u32(reg::CONTROL, others | pause);
    }

    /// Sends one page request of the caller's making: page address, [`raw`] flags, PASID, group
    /// index. Gives [`raw::SENT`] or why it was not sent.
    pub fn raw_page_request(&self, address: u64, flags: u64, pasid: u32, group: u32) -> u64 {
        self.registers.write_u32(reg::RAW_PASID, pasid);
        self.registers.write_u32(reg::RAW_PRGI, group);
        let request = (address & !0xfff) | flags;
        self.registers.write_u64(reg::PRI_RAW, request);
        self.registers.read_u64(reg::PRI_RAW)
    }

    /// Page requests sent and not answered.
    pub fn outstanding(&self) -> u32 {
        self.registers.read_u32(reg::PRI_STATE) & 0xffff
    }
}

fn place(slot: Slot) -> u64 {
    reg::RING + reg::DESC_SIZE * u64::from(slot.0 % SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::path::Path;

    /// The plain numbers that a header defines.
    fn defines(text: &str) -> HashMap<&str, u64> {
        let number = |token: &str| {
            let token = token.trim_matches(|c| c == '(' || c == ')');
            let digits = token.trim_end_matches(['u', 'l', 'U', 'L']);
            match digits.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => digits.parse().ok(),
            }
        };
        let mut found = HashMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("#define") {
                continue;
            }
            let (Some(name), Some(first)) = (words.next(), words.next()) else {
                continue;
            };
            let value = match (words.next(), words.next()) {
                (Some("<<"), Some(shift)) => number(first)
                    .zip(number(shift))
                    .map(|(value, shift)| value << shift),
                _ => number(first),
            };
            if let Some(value) = value {
                found.insert(name, value);
            }
        }
        found
    }

    macro_rules! numbers {
        ($($name:literal = $value:expr),+ $(,)?) => { [$(($name, u64::from($value))),+] };
    }

    #[test]
    fn numbers_are_those_of_the_header() {
        let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it"))
            .join("../qemu-boot/qemu/files/include/hw/misc/pasid-dma-testdev.h");
        let text = std::fs::read_to_string(path).expect("the endpoint's header");
        let header = defines(&text);
        let ours = numbers![
            "PDT_VENDOR_ID" = VENDOR_ID,
            "PDT_DEVICE_ID" = DEVICE_ID,
            "PDT_SLOTS" = SLOTS,
            "PDT_BUFFER_SIZE" = BUFFER_SIZE,
            "PDT_LENGTH_MAX" = LENGTH_MAX,
            "PDT_GROUP_MAX" = GROUP_MAX,
            "PDT_REG_ID" = reg::ID,
            "PDT_ID" = reg::ID_VALUE,
            "PDT_REG_SLOTS" = reg::SLOTS,
            "PDT_REG_HEAD" = reg::HEAD,
            "PDT_REG_TAIL" = reg::TAIL,
            "PDT_REG_CONTROL" = reg::CONTROL,
            "PDT_CONTROL_IRQ" = reg::CONTROL_IRQ,
            "PDT_CONTROL_PAUSE" = reg::CONTROL_PAUSE,
            "PDT_REG_COMMAND" = reg::COMMAND,
            "PDT_COMMAND_FLUSH_DTLB" = reg::COMMAND_FLUSH_DTLB,
            "PDT_COMMAND_ABORT" = reg::COMMAND_ABORT,
            "PDT_REG_PRI_GROUP" = reg::PRI_GROUP,
            "PDT_REG_ENABLES" = reg::ENABLES,
            "PDT_ENABLE_MASTER" = reg::ENABLE_MASTER,
            "PDT_ENABLE_PASID" = reg::ENABLE_PASID,
            "PDT_ENABLE_ATS" = reg::ENABLE_ATS,
            "PDT_ENABLE_PRI" = reg::ENABLE_PRI,
            "PDT_REG_PRI_RAW" = reg::PRI_RAW,
            "PDT_RAW_LAST" = raw::LAST,
            "PDT_RAW_READ" = raw::READ,
            "PDT_RAW_WRITE" = raw::WRITE,
            "PDT_RAW_PASID" = raw::PASID,
            "PDT_RAW_ROGUE" = raw::ROGUE,
            "PDT_RAW_SENT" = raw::SENT,
            "PDT_RAW_DISABLED" = raw::DISABLED,
            "PDT_RAW_NO_CREDIT" = raw::NO_CREDIT,
            "PDT_RAW_GROUP_BUSY" = raw::GROUP_BUSY,
            "PDT_RAW_REFUSED" = raw::REFUSED,
            "PDT_REG_RAW_PASID" = reg::RAW_PASID,
            "PDT_REG_RAW_PRGI" = reg::RAW_PRGI,
            "PDT_REG_PRI_STATE" = reg::PRI_STATE,
            "PDT_PRI_FAILED" = reg::PRI_FAILED,
            "PDT_REG_PRI_ALLOC" = reg::PRI_ALLOC,
            "PDT_REG_DTLB_ENTRIES" = reg::DTLB_ENTRIES,
            "PDT_REG_DTLB_CAPACITY" = reg::DTLB_CAPACITY,
            "PDT_CNT_ATS" = Counter::Ats as u64,
            "PDT_CNT_ATS_FAILED" = Counter::AtsFailed as u64,
            "PDT_CNT_DTLB_HIT" = Counter::DtlbHit as u64,
            "PDT_CNT_DTLB_INVAL" = Counter::DtlbInval as u64,
            "PDT_CNT_DTLB_DROPPED" = Counter::DtlbDropped as u64,
            "PDT_CNT_PAGE_REQ" = Counter::PageReq as u64,
            "PDT_CNT_GROUPS" = Counter::Groups as u64,
            "PDT_CNT_RSP_SUCCESS" = Counter::RspSuccess as u64,
            "PDT_CNT_RSP_INVALID" = Counter::RspInvalid as u64,
            "PDT_CNT_RSP_FAILURE" = Counter::RspFailure as u64,
            "PDT_CNT_RSP_STRAY" = Counter::RspStray as u64,
            "PDT_CNT_DONE" = Counter::Done as u64,
            "PDT_CNT_ERROR" = Counter::Error as u64,
            "PDT_CNT_BYTES" = Counter::Bytes as u64,
            "PDT_CNT_PRI_PEAK" = Counter::PriPeak as u64,
            "PDT_CNT_PRI_STALL" = Counter::PriStall as u64,
            "PDT_CNT_UNTRANSLATED" = Counter::Untranslated as u64,
            "PDT_CNT_DTLB_EVICTED" = Counter::DtlbEvicted as u64,
            "PDT_RING" = reg::RING,
            "PDT_DESC_SIZE" = reg::DESC_SIZE,
            "PDT_BUFFER" = reg::BUFFER,
            "PDT_DESC_OP" = desc::OP,
            "PDT_DESC_FLAGS" = desc::FLAGS,
            "PDT_DESC_PASID" = desc::PASID,
            "PDT_DESC_LENGTH" = desc::LENGTH,
            "PDT_DESC_SRC" = desc::SRC,
            "PDT_DESC_DST" = desc::DST,
            "PDT_DESC_OPERAND" = desc::OPERAND,
            "PDT_DESC_COMPLETION" = desc::COMPLETION,
            "PDT_DESC_TAG" = desc::TAG,
            "PDT_DESC_STATUS" = desc::STATUS,
            "PDT_DESC_RESULT" = desc::RESULT,
            "PDT_OP_NOP" = op::NOP,
            "PDT_OP_READ" = op::READ,
            "PDT_OP_WRITE" = op::WRITE,
            "PDT_OP_COPY" = op::COPY,
            "PDT_OP_FILL" = op::FILL,
            "PDT_OP_CHECKSUM" = op::CHECKSUM,
            "PDT_OP_FETCH_ADD" = op::FETCH_ADD,
            "PDT_FLAG_PASID" = flag::PASID,
            "PDT_FLAG_PRIV" = flag::PRIV,
            "PDT_FLAG_EXEC" = flag::EXEC,
            "PDT_FLAG_NO_ATS" = flag::NO_ATS,
            "PDT_FLAG_NO_PRI" = flag::NO_PRI,
            "PDT_FLAG_IRQ" = flag::IRQ,
            "PDT_FLAG_COMPLETION" = flag::COMPLETION,
            "PDT_FLAG_COMPLETION_PASID" = flag::COMPLETION_PASID,
            "PDT_STATUS_IDLE" = status::IDLE,
            "PDT_STATUS_QUEUED" = status::QUEUED,
            "PDT_STATUS_WAITING" = status::WAITING,
            "PDT_STATUS_OK" = status::OK,
            "PDT_STATUS_BAD_DESC" = status::BAD_DESC,
            "PDT_STATUS_NO_ACCESS" = status::NO_ACCESS,
            "PDT_STATUS_INVALID" = status::INVALID,
            "PDT_STATUS_FAILURE" = status::FAILURE,
            "PDT_STATUS_ABORTED" = status::ABORTED,
            "PDT_STATUS_BUS" = status::BUS,
            "PDT_STATUS_RETRIES" = status::RETRIES,
            "PDT_STATUS_DISABLED" = status::DISABLED,
            "PDT_STATUS_ATS_ERROR" = status::ATS_ERROR,
        ];
        for (name, value) in ours {
            assert_eq!(header.get(name), Some(&value), "{name}");
        }
    }

    #[test]
    fn order_refinements_add_up() {
        let order = Order::fill(0x1000, 8, 3).at(7).no_pri().no_ats();
        assert_eq!(order.flags, flag::PASID | flag::NO_PRI | flag::NO_ATS);
        assert_eq!((order.op, order.pasid, order.dst), (op::FILL, 7, 0x1000));
    }
}
