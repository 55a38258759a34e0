// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The VT-d unit, under a guest that means no good.

use super::Input;
use host_iommu::backend::soft::{Dma, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::shadow::Shadow;
use host_iommu::vtd::{Msi, SourceId, Vtd, VtdConfig, VtdEvents, VtdTranslation, MAX_BINDINGS};
use host_iommu::{Bdf, HostIommu, Iova, Plugged, RegionListener, Shadowing, SharedMemory};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryMmap};

/// Small, so that numbers of the input lead into it.
const MEMORY: usize = 64 << 12;
const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const PASIDS: u64 = 0x4000;
const QUEUE: u64 = 0x5000;
const REQUESTS: u64 = 0x6000;
const TABLE: u64 = 0x7000;
const SOURCE: u64 = 0x28;
/// What the host has: one with all, one with few PASIDs, one without.
const DEVICES: [(Bdf, u64, u32); 3] = [
    (Bdf::new(0, 0x3a, 4 << 3), SOURCE, 1 << 20),
    (Bdf::new(0, 0x3a, 5 << 3), SOURCE + 8, 4),
    (Bdf::new(0, 0x3a, 6 << 3), SOURCE + 0x80, 0),
];
const DEVICE: Bdf = DEVICES[0].0;
/// More calls of `run` than what can be left takes: a queue of 2^15 descriptors and tables of 2^20
/// PASIDs, in pieces.
const ROUNDS: u32 = 200_000;
/// Groups that wait, by the unit's own word.
const MAX_WAITING: usize = 512;

#[derive(Debug)]
struct Events;

impl VtdEvents for Events {
    fn interrupt(&self, _: Msi) {}

    fn work_left(&self) {}
}

/// A word that changes once the unit has read memory so many times more.
type Change = (u8, u64, u64);

/// Guest memory that changes between the unit's reads.
#[derive(Clone)]
struct Shifting {
    memory: Arc<GuestMemoryMmap>,
    changes: Arc<Mutex<VecDeque<Change>>>,
}

impl GuestAddressSpace for Shifting {
    type M = GuestMemoryMmap;
    type T = Arc<GuestMemoryMmap>;

    fn memory(&self) -> Self::T {
        let mut changes = self.changes.lock().expect("no panic");
        match changes.front_mut() {
            Some((0, at, word)) => {
                put(&self.memory, *at, *word);
                changes.pop_front();
            }
            Some((left, ..)) => *left -= 1,
            None => {}
        }
        self.memory.clone()
    }
}

fn put(memory: &GuestMemoryMmap, at: u64, word: u64) {
    // Beyond the memory nothing changes.
    drop(memory.write_obj(word, GuestAddress(at)));
}

/// One memory for all inputs, zeroed for each.
fn memory() -> Arc<GuestMemoryMmap> {
    static ALL: OnceLock<Arc<GuestMemoryMmap>> = OnceLock::new();
    let memory = ALL.get_or_init(|| {
        let shared = SharedMemory::new(c"guest", MEMORY).expect("memory");
        let file = shared.file().try_clone().expect("its file");
        let file = Some(FileOffset::new(file, 0));
        let regions = [(GuestAddress(0), MEMORY, file)];
        Arc::new(GuestMemoryMmap::from_ranges_with_files(regions).expect("a mapping"))
    });
    let zeroes = [0; MEMORY];
    memory
        .write_slice(&zeroes, GuestAddress(0))
        .expect("all of it");
    memory.clone()
}

struct Machine {
    memory: Shifting,
    unit: Arc<Vtd>,
    host: HostIommu,
    devices: Vec<SoftDevice>,
    plugged: Vec<Plugged>,
    /// The guest boots in legacy mode: root and context tables alone.
    legacy: bool,
}

impl Machine {
    /// `kind` chooses what the host and the unit are.
    fn new(kind: u8) -> Self {
        let soft = Soft::new();
        let bus = soft.bus();
        let devices = DEVICES.map(|(device, _, max_pasids)| {
            let options = SoftDeviceOptions {
                max_pasids,
                page_requests: max_pasids != 0,
            };
            bus.add(device, &options).expect("room")
        });
        let memory = Shifting {
            memory: memory(),
            changes: Arc::default(),
        };
        let memory_of = || memory.memory.clone();
        let over = |soft, promise| Shadow::over(soft, memory_of(), promise).expect("empty");
        let host = match kind & 3 {
            0 | 1 => HostIommu::new(soft),
            2 => HostIommu::new(over(soft, Shadowing::SecondStage)),
            _ => HostIommu::new(over(soft, Shadowing::CachingMode)),
        };
        let mapped = RegionListener::new(host.clone()).update(&*memory.memory);
        assert!(mapped.expect("mapped").is_empty());
        let nesting = host.capabilities().expect("a report").nesting;
        let mut config = VtdConfig::carried_by(&nesting.expect("it nests"));
        config.interrupt_remapping = kind & 4 != 0;
        config.extended_interrupts = kind & 12 == 12;
        config.fault_records = if kind & 16 == 0 { 8 } else { 1 };
        let unit = Vtd::new(config, memory.clone(), Arc::new(Events)).expect("a unit");
        let plugged = DEVICES.map(|(device, source, _)| {
            unit.set_source_id(device, SourceId(source as u16));
            host.plug(device, unit.clone()).expect("a place")
        });
        Self {
            memory,
            unit,
            host,
            devices: devices.into(),
            plugged: plugged.into(),
            legacy: kind & 32 != 0,
        }
    }

    fn put(&self, at: u64, word: u64) {
        put(&self.memory.memory, at, word);
    }

    fn write4(&self, offset: u64, value: u32) {
        self.unit.write(offset, &value.to_le_bytes());
    }

    fn write8(&self, offset: u64, value: u64) {
        self.unit.write(offset, &value.to_le_bytes());
    }

    fn command(&self, bit: u32) {
        let mut status = [0; 4];
        self.unit.read(0x1c, &mut status);
        self.write4(0x18, u32::from_le_bytes(status) & 0x8680_0000 | bit);
    }

    /// As Linux does: queue, root table, page requests, a table at PASID 1, translation on.
    fn boot(&self) {
        self.write8(0x88, 0);
        self.write8(0x90, QUEUE | 1 << 11);
        self.command(1 << 26);
        self.put(ROOT, CONTEXTS | 1);
        for (_, source, _) in DEVICES.iter().filter(|_| self.legacy) {
            // A second-stage table of four levels, of domain 2.
            self.put(CONTEXTS + source * 16, TABLE | 1);
            self.put(CONTEXTS + source * 16 + 8, 2 << 8 | 2);
        }
        for (_, source, _) in DEVICES.iter().filter(|_| !self.legacy) {
            self.put(ROOT + (source >> 7) * 8, CONTEXTS | 1);
            self.put(CONTEXTS + (source & 0x7f) * 32, DIRECTORY | 0x1d);
        }
        self.put(DIRECTORY, PASIDS | 1);
        self.put(PASIDS, 1 | 4 << 6);
        self.put(PASIDS + 8, 1);
        self.put(PASIDS + 64 + 8, 2);
        self.put(PASIDS + 64 + 16, TABLE | 1 << 4);
        self.put(PASIDS + 64, 1 | 1 << 6);
        let scalable = if self.legacy { 0 } else { 1 << 10 };
        self.write8(0x20, ROOT | scalable);
        self.command(1 << 30);
        self.write8(0xd0, REQUESTS);
        for control in [0x38, 0xa0, 0xe0] {
            self.write4(control + 8, 0xfee0_0000);
            self.write4(control, 0);
        }
        self.command(1 << 31);
        self.run();
    }

    /// Work that is left comes to an end.
    fn run(&self) {
        let mut rounds = 0;
        while self.unit.run() {
            rounds += 1;
            assert!(rounds < ROUNDS, "work without end");
        }
    }

    fn later(&self, change: Change) {
        let mut changes = self.memory.changes.lock().expect("no panic");
        if changes.len() < 16 {
            changes.push_back(change);
        }
    }

    fn dma(&self, input: &mut Input<'_>) {
        let kind = input.byte();
        let which = usize::from(input.byte());
        let device = &self.devices[which % self.devices.len()];
        // Also at the edges of all address spaces.
        let edge = [
            0,
            1 << 38,
            1 << 47,
            1 << 48,
            1 << 56,
            0xfee0_0000,
            !0 << 47,
            !0 << 12,
        ];
        let edge = edge[which / 3 % edge.len()];
        let address = u64::from(input.half()) << 8;
        if which & 0x80 != 0 {
            // A device of the VMM's.
            let pasid = (kind >> 4 != 0).then_some(u32::from(kind >> 4));
            let source = SourceId((SOURCE + u64::from(kind & 8)) as u16);
            let iommu = VtdTranslation::new(self.unit.clone(), source, pasid);
            let memory =
                vm_memory::IommuMemory::new((*self.memory.memory).clone(), iommu, true, ());
            let at = GuestAddress(address.wrapping_add(edge));
            let mut data = [0; 24];
            // What is not there is a fault.
            if kind & 1 == 0 {
                drop(memory.read_slice(&mut data, at));
            } else {
                drop(memory.write_slice(&data, at));
            }
            let message = Msi {
                address: 0xfee0_0000 | address & 0xf_ffff,
                data: kind.into(),
            };
            self.unit.remap(source, message);
            return;
        }
        let address = Iova(address.saturating_add(edge));
        let mut dma = if kind & 1 == 0 {
            Dma::read(address, 8)
        } else {
            Dma::write(address, &[0x5a; 8])
        };
        if let Ok(pasid) = u32::from(kind >> 4).try_into() {
            if kind >> 4 != 0 {
                dma = match self.host.host_pasid(device.address(), pasid) {
                    Some(pasid) => dma.at(pasid),
                    None => return,
                };
            }
        }
        if kind & 2 != 0 {
            dma = dma.no_ats();
        }
        // Too many that wait are refused.
        drop(device.run(dma, Duration::ZERO));
        self.deliver();
    }

    fn deliver(&self) {
        if let Some(queue) = self.unit.fault_queue(DEVICE) {
            queue.deliver(&*self.unit).expect("the queue is there");
        }
    }

    /// What holds whatever was done.
    fn check(&self) {
        let stats = self.host.stats().expect("counters");
        let most = DEVICES.len() * (MAX_BINDINGS + 1);
        assert!(stats.bindings <= most as u64, "{stats:?}");
        assert!(self.unit.waiting() <= DEVICES.len() * MAX_WAITING);
    }

    /// Saved and restored it is the same; after a reset nothing is left.
    fn end(self) {
        self.memory.changes.lock().expect("no panic").clear();
        self.run();
        self.check();
        self.unit.reset();
        self.run();
        let stats = self.host.stats().expect("counters");
        assert_eq!((stats.bindings, stats.pasids), (0, 0), "after a reset");
        assert_eq!(self.unit.waiting(), 0, "after a reset");
        drop(self.plugged);
        let stats = self.host.stats().expect("counters");
        assert_eq!(
            (stats.bindings, stats.pasids),
            (0, 0),
            "after it was unplugged"
        );
    }
}

/// An address in guest memory, or near its end.
fn place(input: &mut Input<'_>) -> u64 {
    u64::from(input.half()) * 8 % (MEMORY as u64 + 0x1000)
}

/// A word that is likely to mean something: small fields beside an address in memory.
fn entry(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        0 => input.word(),
        page => u64::from(page % 80) << 12 | u64::from(input.half() & 0xfff),
    }
}

/// One step of a guest.
fn step(machine: &Machine, input: &mut Input<'_>) {
    match input.byte() % 8 {
        0 => machine.write4(
            u64::from(input.half() & 0x13fc),
            u32::from_le_bytes(input.bytes()),
        ),
        1 => machine.write8(u64::from(input.half() & 0x13f8), entry(input)),
        2 => {
            let mut data = [0; 16];
            let len = usize::from(input.byte() % 17);
            machine.unit.read(input.half().into(), &mut data[..len]);
        }
        3 => machine.put(place(input), entry(input)),
        4 => machine.later((input.byte(), place(input), entry(input))),
        5 => machine.dma(input),
        6 if input.byte() & 7 == 0 => machine.unit.device_reset(DEVICE),
        6 => machine.run(),
        _ => {
            let odd: [u8; 9] = input.bytes();
            let len = usize::from(odd[0] % 9);
            machine.unit.write(input.half().into(), &odd[..len]);
        }
    }
}

/// The register file.
///
/// # Panics
///
/// If what [`Machine`] asserts does not hold.
pub fn registers(data: &[u8]) {
    let mut input = Input::new(data);
    let machine = Machine::new(input.byte());
    if input.byte() & 1 != 0 {
        machine.boot();
    }
    while !input.is_empty() {
        step(&machine, &mut input);
        machine.check();
    }
    let saved = machine.unit.save();
    machine.unit.restore(saved.clone()).expect("its own state");
    machine.end();
}

/// The invalidation queue.
///
/// # Panics
///
/// If what [`Machine`] asserts does not hold.
pub fn descriptors(data: &[u8]) {
    let mut input = Input::new(data);
    let machine = Machine::new(input.byte());
    machine.boot();
    let mut tail = 0;
    while !input.is_empty() {
        let flags = input.byte();
        let mut first = input.word();
        if flags & 1 != 0 {
            // One of the kinds that there are, for the device or its domain.
            first = first & !0xe0f | u64::from(flags >> 1 & 7);
            first = first & !(0xffff << 16) | 2 << 16;
        }
        let second = if flags & 16 == 0 {
            entry(&mut input)
        } else {
            input.word()
        };
        for (index, word) in [first, second, 0, 0].into_iter().enumerate() {
            machine.put(QUEUE + tail + index as u64 * 8, word);
        }
        tail = (tail + 32) % 4096;
        if flags & 32 != 0 {
            machine.later((input.byte(), place(&mut input), entry(&mut input)));
        }
        if flags & 64 != 0 {
            machine.write8(0x88, tail);
            machine.run();
            machine.check();
        }
        if flags & 128 != 0 {
            // What stopped the queue is cleared, or a device does something.
            machine.write4(0x34, 0x70);
            machine.dma(&mut input);
        }
    }
    machine.write8(0x88, tail);
    machine.end();
}

/// The tables.
///
/// # Panics
///
/// If what [`Machine`] asserts does not hold.
pub fn tables(data: &[u8]) {
    let mut input = Input::new(data);
    let machine = Machine::new(input.byte());
    machine.boot();
    let mut tail = 0;
    while !input.is_empty() {
        let kind = input.byte();
        let context = SOURCE * if machine.legacy { 16 } else { 32 };
        let table = [ROOT, CONTEXTS + context, DIRECTORY, PASIDS, PASIDS, TABLE];
        let at = match table.get(usize::from(kind & 7)) {
            Some(table) => table + u64::from(input.byte() & 0x3f) * 8,
            None => place(&mut input),
        };
        let word = entry(&mut input);
        if kind & 8 == 0 {
            machine.put(at, word);
        } else {
            machine.later((input.byte() % 32, at, word));
        }
        if kind & 16 != 0 {
            // The whole PASID cache, then a wait.
            for first in [7 | 3 << 4, 5 | 1 << 4] {
                machine.put(QUEUE + tail, first);
                machine.put(QUEUE + tail + 8, 0);
                tail = (tail + 32) % 4096;
            }
            machine.write8(0x88, tail);
            machine.run();
            machine.check();
        }
        if kind & 32 != 0 {
            machine.dma(&mut input);
        }
        if kind & 64 != 0 {
            machine.write4(0x34, 0x70);
        }
    }
    machine.end();
}
