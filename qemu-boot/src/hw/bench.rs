// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One machine under test: the IOMMU brought up by hand, the endpoint before it,
//! and an arena of pages for tables.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::endpoint::{self as ep, cfg, Done, Op};
use super::hardware::{Hardware, Place};
use super::machine::Machine;
use super::qtest::Qtest;
use super::vtd::{self, desc::Desc, Fault, PageRequest};
use super::Program;

/// RAM of the machine.
pub const RAM: u64 = 512 << 20;
/// Where tables are taken from, upwards.
const ARENA: u64 = 64 << 20;
const ARENA_END: u64 = DATA;
/// Memory for data, 2 MiB aligned; everything above the arena.
pub const DATA: u64 = 256 << 20;

pub const ECAM: u64 = 0xb000_0000;
const PAGE: u64 = 0x1000;
/// Pages of the invalidation queue, as a power of two.
const IQ_ORDER: u64 = 2;
const PDTS: u64 = 7;

/// How long a slot may take.
pub const SLOT_TIMEOUT: Duration = Duration::from_secs(20);

/// The machine, and what the tests know of it.
pub struct Bench {
    /// Memory and registers.
    pub q: Box<dyn Machine>,
    next: u64,
    iq: u64,
    iq_tail: u64,
    wait_page: u64,
    waits: u32,
    /// Context entry of the endpoint.
    pub context: u64,
    /// Root table.
    pub root: u64,
    /// PASID directory.
    pub directory: u64,
    tail: u32,
    prq: u64,
    prq_size: u64,
    ats: u64,
    pasid: u64,
    pri: u64,
    stamps: u64,
    notes: Vec<String>,
    /// The endpoint's bus, device and function.
    sid: u16,
}

impl Bench {
    /// Starts QEMU and brings up the IOMMU in scalable mode with an empty PASID table, and
    /// the endpoint with PASID; ATS and PRI stay off.
    ///
    /// # Errors
    /// If QEMU fails, or lacks a capability that the tests are about.
    pub fn start(program: &Program, hardware: &Hardware) -> Result<Self> {
        let mut b = Self::bare(program, hardware)?;
        if hardware.iommu.is_some() {
            let ecap = b.vtd64(vtd::reg::ECAP)?;
            for (name, bit) in vtd::ECAP_NEEDED {
                ensure!(ecap & bit != 0, "ECAP {ecap:#x} lacks {name}");
            }
            b.start_iommu()?;
        }
        match hardware.place {
            Place::Root => b.start_endpoint()?,
            Place::Port => {
                b.start_port(ep::BAR0, ep::BAR2)?;
                b.start_endpoint()?;
            }
            Place::Absent => {}
        }
        Ok(b)
    }

    /// Starts QEMU and touches nothing in its machine.
    ///
    /// # Errors
    /// If QEMU fails.
    pub fn bare(program: &Program, hardware: &Hardware) -> Result<Self> {
        let qtest = Qtest::start(program, &hardware.args())?;
        Ok(Self::of(Box::new(qtest)))
    }

    /// A machine as it is after power-on.
    pub fn of(machine: Box<dyn Machine>) -> Self {
        Self {
            q: machine,
            next: ARENA,
            iq: 0,
            iq_tail: 0,
            wait_page: 0,
            waits: 0,
            context: 0,
            root: 0,
            directory: 0,
            tail: 0,
            prq: 0,
            prq_size: 0,
            ats: 0,
            pasid: 0,
            pri: 0,
            stamps: 0,
            notes: Vec::new(),
            sid: ep::SID,
        }
    }

    /// Brings up scalable mode with an empty PASID table.
    pub fn start_iommu(&mut self) -> Result<()> {
        let ecap = self.vtd64(vtd::reg::ECAP)?;
        ensure!(ecap >> 35 & 0x1f == 19, "ECAP.PSS is not 20 bits");

        self.root = self.pages(1)?;
        let contexts = self.pages(1)?;
        self.make_directory()?;
        self.iq = self.pages(1 << IQ_ORDER)?;
        self.wait_page = self.pages(1)?;
        self.context = contexts + u64::from(ep::SID & 0x7f) * 32;
        self.q.write64(self.root, contexts | 1)?;
        let entry = self.directory
            | vtd::CTX_PRESENT
            | vtd::CTX_DTE
            | vtd::CTX_PASIDE
            | vtd::CTX_PRE
            | PDTS << vtd::CTX_PDTS_SHIFT;
        self.q.write64(self.context, entry)?;

        self.set_vtd64(vtd::reg::IQT, 0)?;
        self.set_vtd64(vtd::reg::IQA, self.iq | vtd::IQA_256_BIT | IQ_ORDER)?;
        self.global_command(vtd::G_QUEUED_INVALIDATION)?;
        self.set_root(vtd::RTADDR_SCALABLE)?;
        self.global_command(vtd::G_TRANSLATION)
    }

    /// Makes an empty PASID directory.
    pub fn make_directory(&mut self) -> Result<()> {
        self.directory = self.pages(1 << (PDTS + 7 + 3 - 12))?;
        Ok(())
    }

    /// Sets the root table anew, in the mode of `flags`.
    pub fn set_root(&mut self, flags: u64) -> Result<()> {
        self.set_root_alone(flags)?;
        self.invalidate(&[
            vtd::desc::context_all(),
            vtd::desc::pasid_all(),
            vtd::desc::iotlb_all(),
        ])
    }

    /// Sets the root table anew and invalidates nothing.
    pub fn set_root_alone(&mut self, flags: u64) -> Result<()> {
        self.set_vtd64(vtd::reg::RTADDR, self.root | flags)?;
        self.global_command(vtd::G_ROOT_TABLE)
    }

    fn global_command(&mut self, bit: u32) -> Result<()> {
        let status = self.q.read32(vtd::BASE + vtd::reg::GSTS)?;
        let command = status & vtd::G_LASTING | bit;
        self.q.write32(vtd::BASE + vtd::reg::GCMD, command)?;
        let status = self.q.read32(vtd::BASE + vtd::reg::GSTS)?;
        ensure!(
            status & bit != 0,
            "The global command {bit:#x} was not taken"
        );
        Ok(())
    }

    /// Turns on memory-mapped configuration, by PCIEXBAR of the host bridge.
    fn start_ecam(&mut self) -> Result<()> {
        self.q.out32(0xcf8, 0x8000_0060)?;
        self.q.out32(0xcfc, u32::try_from(ECAM | 1)?)
    }

    /// Gives the root port a bus, that of the device that the bench drives from then on, and
    /// the memory of its BARs: the first, and the last of less than 1 MiB.
    pub fn start_port(&mut self, first: u64, last: u64) -> Result<()> {
        self.start_ecam()?;
        self.sid = ep::SID;
        self.set_cfg32(cfg::PORT_BUSES, 1 << 16 | 1 << 8)?;
        let window = u32::try_from(last & 0xfff0_0000 | first >> 16)?;
        self.set_cfg32(cfg::PORT_MEMORY, window)?;
        self.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER)?;
        self.sid = 1 << 8;
        Ok(())
    }

    /// Gives the endpoint's BAR 0 an address of its own and lets it answer there.
    pub fn start_endpoint_at(&mut self, bar: u64) -> Result<()> {
        self.start_ecam()?;
        self.set_cfg32(cfg::BAR0, u32::try_from(bar)?)?;
        self.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER)
    }

    /// Brings up the endpoint with PASID; ATS and PRI stay off.
    pub fn start_endpoint(&mut self) -> Result<()> {
        self.start_ecam()?;
        self.set_cfg32(cfg::BAR0, u32::try_from(ep::BAR0)?)?;
        self.set_cfg32(cfg::BAR2, u32::try_from(ep::BAR2)?)?;
        self.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER)?;
        ensure!(
            self.reg32(ep::reg::ID)? == ep::ID,
            "The endpoint does not answer"
        );
        self.find_capabilities()?;
        self.enable_pasid(cfg::PASID_ENABLE | cfg::PASID_EXEC | cfg::PASID_PRIV)
    }

    /// From now on this is about the configuration space of `sid`.
    pub fn drive(&mut self, sid: u16) -> Result<()> {
        self.sid = sid;
        self.start_ecam()
    }

    /// Finds ATS, PASID and PRI.
    pub fn find_capabilities(&mut self) -> Result<()> {
        self.ats = self.extended_capability(cfg::EXT_ATS)?;
        self.pasid = self.extended_capability(cfg::EXT_PASID)?;
        self.pri = self.extended_capability(cfg::EXT_PRI)?;
        Ok(())
    }

    /// Sets PASID Control.
    pub fn enable_pasid(&mut self, bits: u16) -> Result<()> {
        self.set_cfg16(self.pasid + cfg::PASID_CONTROL, bits)
    }

    /// Turns ATS on or off.
    pub fn enable_ats(&mut self, on: bool) -> Result<()> {
        let value = if on { cfg::ATS_ENABLE } else { 0 };
        self.set_cfg16(self.ats + cfg::ATS_CONTROL, value)
    }

    /// Turns ATS and PRI on, with room for `allocation` page requests, and
    /// gives the IOMMU a queue of 2^`order` pages.
    pub fn enable_pri(&mut self, allocation: u32, order: u64) -> Result<()> {
        self.enable_ats(true)?;
        self.prq = self.pages(1 << order)?;
        self.prq_size = PAGE << order;
        self.set_vtd64(vtd::reg::PQT, 0)?;
        self.set_vtd64(vtd::reg::PQH, 0)?;
        self.set_vtd64(vtd::reg::PQA, self.prq | order)?;
        self.set_pri_allocation(allocation)?;
        self.set_pri_control(cfg::PRI_ENABLE)
    }

    /// Sets Outstanding Page Request Allocation.
    pub fn set_pri_allocation(&mut self, allocation: u32) -> Result<()> {
        self.set_cfg32(self.pri + cfg::PRI_ALLOCATION, allocation)
    }

    /// Sets PRI Control.
    pub fn set_pri_control(&mut self, bits: u16) -> Result<()> {
        self.set_cfg16(self.pri + cfg::PRI_CONTROL, bits)
    }

    /// Page Request Status.
    pub fn pri_status(&mut self) -> Result<u16> {
        self.cfg16(self.pri + cfg::PRI_STATUS)
    }

    /// Writes Page Request Status (its bits are cleared by ones).
    pub fn set_pri_status(&mut self, bits: u16) -> Result<()> {
        self.set_cfg16(self.pri + cfg::PRI_STATUS, bits)
    }

    /// Outstanding Page Request Capacity.
    pub fn pri_capacity(&mut self) -> Result<u32> {
        self.cfg32(self.pri + cfg::PRI_CAPACITY)
    }

    /// Function-level reset; PASID, ATS and PRI are off after it.
    pub fn function_reset(&mut self) -> Result<()> {
        let express = self.capability(cfg::CAP_EXPRESS)?;
        let at = express + cfg::EXPRESS_CONTROL;
        let value = self.cfg16(at)?;
        self.set_cfg16(at, value | cfg::EXPRESS_FLR)?;
        self.tail = 0;
        Ok(())
    }

    /// Writes the BARs and the command register again, as after a reset.
    pub fn restore_endpoint(&mut self) -> Result<()> {
        self.set_cfg32(cfg::BAR0, u32::try_from(ep::BAR0)?)?;
        self.set_cfg32(cfg::BAR2, u32::try_from(ep::BAR2)?)?;
        self.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER)
    }

    // Configuration space of the endpoint

    fn cfg_addr(&self, offset: u64) -> u64 {
        ECAM + (u64::from(self.sid) << 12) + offset
    }

    /// Reads 2 bytes of configuration space.
    pub fn cfg16(&mut self, offset: u64) -> Result<u16> {
        let at = self.cfg_addr(offset);
        self.q.read16(at)
    }

    /// Reads 4 bytes of configuration space.
    pub fn cfg32(&mut self, offset: u64) -> Result<u32> {
        let at = self.cfg_addr(offset);
        self.q.read32(at)
    }

    /// Writes 2 bytes of configuration space.
    pub fn set_cfg16(&mut self, offset: u64, value: u16) -> Result<()> {
        let at = self.cfg_addr(offset);
        self.q.write16(at, value)
    }

    /// Writes 4 bytes of configuration space.
    pub fn set_cfg32(&mut self, offset: u64, value: u32) -> Result<()> {
        let at = self.cfg_addr(offset);
        self.q.write32(at, value)
    }

    /// Finds a capability of the first 256 bytes.
    pub fn capability(&mut self, id: u8) -> Result<u64> {
        let mut at = u64::from(self.cfg16(cfg::CAP_POINTER)? & 0xfc);
        for _ in 0..48 {
            ensure!(at != 0, "No capability {id:#x}");
            let [found, next] = self.cfg16(at)?.to_le_bytes();
            if found == id {
                return Ok(at);
            }
            at = u64::from(next & 0xfc);
        }
        bail!("The capability list has no end")
    }

    /// Finds an extended capability.
    pub fn extended_capability(&mut self, id: u16) -> Result<u64> {
        let mut at = 0x100;
        for _ in 0..64 {
            let header = self.cfg32(at)?;
            if header & 0xffff == u32::from(id) {
                return Ok(at);
            }
            at = u64::from(header >> 20 & 0xffc);
            ensure!(at != 0, "No extended capability {id:#x}");
        }
        bail!("The extended capability list has no end")
    }

    // Registers of the IOMMU

    /// Reads an 8-byte register of the IOMMU.
    pub fn vtd64(&mut self, offset: u64) -> Result<u64> {
        self.q.read64(vtd::BASE + offset)
    }

    /// Reads a 4-byte register of the IOMMU.
    pub fn vtd32(&mut self, offset: u64) -> Result<u32> {
        self.q.read32(vtd::BASE + offset)
    }

    /// Writes an 8-byte register of the IOMMU.
    pub fn set_vtd64(&mut self, offset: u64, value: u64) -> Result<()> {
        self.q.write64(vtd::BASE + offset, value)
    }

    /// Writes a 4-byte register of the IOMMU.
    pub fn set_vtd32(&mut self, offset: u64, value: u32) -> Result<()> {
        self.q.write32(vtd::BASE + offset, value)
    }

    /// Queues `descriptors` and a wait, and checks that the wait was done.
    pub fn invalidate(&mut self, descriptors: &[Desc]) -> Result<()> {
        self.queue(descriptors)?;
        let fsts = self.vtd32(vtd::reg::FSTS)?;
        ensure!(
            fsts & vtd::FSTS_QUEUE_ERROR == 0,
            "Invalidation queue error at {descriptors:x?}"
        );
        let data = self.waits;
        let seen = self.q.read32(self.wait_page)?;
        ensure!(seen == data, "The wait descriptor wrote {seen}, not {data}");
        Ok(())
    }

    /// Queues `descriptors` and a wait, without a look at what comes of them.
    pub fn queue(&mut self, descriptors: &[Desc]) -> Result<()> {
        self.waits += 1;
        let wait = vtd::desc::wait(self.wait_page, self.waits, 0);
        for d in descriptors.iter().chain([&wait]) {
            for (i, quad) in d.iter().enumerate() {
                self.q
                    .write64(self.iq + self.iq_tail + 8 * i as u64, *quad)?;
            }
            self.iq_tail = (self.iq_tail + 32) % (PAGE << IQ_ORDER);
        }
        self.set_vtd64(vtd::reg::IQT, self.iq_tail)
    }

    /// After an invalidation queue error: clears it and starts the queue anew.
    pub fn restart_queue_after_error(&mut self) -> Result<()> {
        let fsts = self.vtd32(vtd::reg::FSTS)?;
        if fsts & vtd::FSTS_QUEUE_ERROR == 0 {
            return Ok(());
        }
        let status = self.vtd32(vtd::reg::GSTS)? & vtd::G_LASTING;
        self.set_vtd32(vtd::reg::GCMD, status & !vtd::G_QUEUED_INVALIDATION)?;
        self.set_vtd32(vtd::reg::FSTS, vtd::FSTS_QUEUE_ERROR)?;
        self.set_vtd64(vtd::reg::IQT, 0)?;
        self.iq_tail = 0;
        self.global_command(vtd::G_QUEUED_INVALIDATION)
    }

    /// Drops everything that the IOMMU has cached.
    pub fn flush_iommu(&mut self) -> Result<()> {
        self.invalidate(&[
            vtd::desc::context_all(),
            vtd::desc::pasid_all(),
            vtd::desc::iotlb_all(),
        ])
    }

    /// Drops everything that the IOMMU and the endpoint have cached.
    pub fn flush_all(&mut self) -> Result<()> {
        self.flush_iommu()?;
        self.set_reg32(ep::reg::COMMAND, ep::COMMAND_FLUSH_DTLB)
    }

    /// Takes the recorded faults and makes room for new ones.
    pub fn faults(&mut self) -> Result<Vec<Fault>> {
        let cap = self.vtd64(vtd::reg::CAP)?;
        let first = (cap >> 24 & 0x3ff) * 16;
        let count = (cap >> 40 & 0xff) + 1;
        let mut faults = Vec::new();
        for i in 0..count {
            let lo = self.vtd64(first + i * 16)?;
            let hi = self.vtd64(first + i * 16 + 8)?;
            if let Some(fault) = Fault::decode(lo, hi) {
                faults.push(fault);
                self.set_vtd32(first + i * 16 + 12, 1 << 31)?;
            }
        }
        let fsts = self.vtd32(vtd::reg::FSTS)?;
        self.set_vtd32(vtd::reg::FSTS, fsts & vtd::FSTS_OVERFLOW)?;
        Ok(faults)
    }

    /// Takes the page requests that have come, and moves the head.
    pub fn page_requests(&mut self) -> Result<Vec<PageRequest>> {
        let tail = self.vtd64(vtd::reg::PQT)?;
        let mut head = self.vtd64(vtd::reg::PQH)?;
        ensure!(tail < self.prq_size, "PQT {tail:#x} is out of the queue");
        let mut requests = Vec::new();
        while head != tail {
            let lo = self.q.read64(self.prq + head)?;
            let hi = self.q.read64(self.prq + head + 8)?;
            let request = PageRequest::decode(lo, hi)
                .with_context(|| format!("No page request: {lo:#x} {hi:#x}"))?;
            requests.push(request);
            head = (head + 32) % self.prq_size;
        }
        self.set_vtd64(vtd::reg::PQH, head)?;
        self.set_vtd32(vtd::reg::PRS, vtd::PRS_PENDING)?;
        Ok(requests)
    }

    /// Waits until at least `count` page requests have come, and takes all.
    pub fn await_page_requests(&mut self, count: usize) -> Result<Vec<PageRequest>> {
        let begun = Instant::now();
        let mut requests = Vec::new();
        loop {
            requests.extend(self.page_requests()?);
            if requests.len() >= count {
                return Ok(requests);
            }
            ensure!(
                begun.elapsed() < SLOT_TIMEOUT,
                "{} page requests came, not {count}",
                requests.len()
            );
        }
    }

    // Memory

    /// Takes `count` zeroed pages for tables, aligned to their size.
    pub fn pages(&mut self, count: u64) -> Result<u64> {
        let size = count.next_power_of_two() * PAGE;
        let at = self.next.next_multiple_of(size);
        ensure!(at + count * PAGE <= ARENA_END, "The arena is used up");
        self.next = at + count * PAGE;
        Ok(at)
    }

    /// The table pages in use, from the first on.
    pub fn arena_in_use(&self) -> std::ops::Range<u64> {
        ARENA..self.next
    }

    /// Keeps a line for the report of this case.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// Takes the lines for the report.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// A value that was not used before in this machine.
    pub fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        0x5a5a_0000_0000_0000 | self.stamps.wrapping_mul(0x1_0001_0001)
    }

    // The endpoint

    /// Reads a 4-byte register of the endpoint.
    pub fn reg32(&mut self, offset: u64) -> Result<u32> {
        self.q.read32(ep::BAR0 + offset)
    }

    /// Reads a counter of the endpoint.
    pub fn reg64(&mut self, offset: u64) -> Result<u64> {
        self.q.read64(ep::BAR0 + offset)
    }

    /// Writes a 4-byte register of the endpoint.
    pub fn set_reg32(&mut self, offset: u64, value: u32) -> Result<()> {
        self.q.write32(ep::BAR0 + offset, value)
    }

    /// Writes an 8-byte register of the endpoint.
    pub fn set_reg64(&mut self, offset: u64, value: u64) -> Result<()> {
        self.q.write64(ep::BAR0 + offset, value)
    }

    fn slot_addr(slot: u32) -> u64 {
        ep::BAR0 + ep::reg::RING + u64::from(slot) * ep::SLOT_SIZE
    }

    /// Orders `ops` with one doorbell and returns their slots.
    pub fn order(&mut self, ops: &[Op]) -> Result<Vec<u32>> {
        let slots = self.place(ops)?;
        self.doorbell()?;
        Ok(slots)
    }

    /// Writes `ops` after the device's own idea of the tail, whether there is room
    /// or not, and rings the doorbell.
    pub fn order_anyhow(&mut self, ops: &[Op]) -> Result<()> {
        self.tail = self.reg32(ep::reg::TAIL)? % ep::SLOTS;
        self.order(ops).map(drop)
    }

    /// Writes `ops` into the next slots, without the doorbell.
    pub fn place(&mut self, ops: &[Op]) -> Result<Vec<u32>> {
        let mut slots = Vec::new();
        for op in ops {
            self.q
                .write_bytes(Self::slot_addr(self.tail), &op.bytes())?;
            slots.push(self.tail);
            self.tail = (self.tail + 1) % ep::SLOTS;
        }
        Ok(slots)
    }

    /// Rings the doorbell for all that was placed.
    pub fn doorbell(&mut self) -> Result<()> {
        self.set_reg32(ep::reg::TAIL, self.tail)
    }

    /// The status of `slot` now.
    pub fn status(&mut self, slot: u32) -> Result<u32> {
        self.q.read32(Self::slot_addr(slot) + ep::SLOT_STATUS)
    }

    /// Waits until `slot` has the status `wanted`.
    pub fn await_status(&mut self, slot: u32, wanted: u32) -> Result<()> {
        let begun = Instant::now();
        loop {
            let status = self.status(slot)?;
            if status == wanted {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < SLOT_TIMEOUT && status < ep::OK,
                "Slot {slot} has the status {status:#x}, not {wanted:#x}"
            );
        }
    }

    /// Waits until `slot` is done.
    pub fn finish(&mut self, slot: u32) -> Result<Done> {
        let begun = Instant::now();
        loop {
            let status = self.status(slot)?;
            if status >= ep::OK {
                let result = self.q.read64(Self::slot_addr(slot) + ep::SLOT_RESULT)?;
                return Ok(Done { status, result });
            }
            ensure!(
                begun.elapsed() < SLOT_TIMEOUT,
                "Slot {slot} stays {status:#x}"
            );
        }
    }

    /// Orders one operation and waits for it.
    pub fn run(&mut self, op: Op) -> Result<Done> {
        let slots = self.order(&[op])?;
        self.finish(slots[0])
    }

    /// Orders one operation that has to succeed; returns its result.
    pub fn run_ok(&mut self, op: Op) -> Result<u64> {
        let done = self.run(op)?;
        ensure!(done.status == ep::OK, "{op:x?} ended with {done:x?}");
        Ok(done.result)
    }

    /// Address of the endpoint's buffer at `offset`.
    pub fn buffer(offset: u64) -> u64 {
        ep::BAR0 + ep::reg::BUFFER + offset
    }
}
