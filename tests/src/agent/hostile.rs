// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that means harm. Its kernel leaves the unit alone (intel_iommu=off) and lets this process map
//! what it likes (iomem=relaxed); the process writes the unit's registers, tables that it has the unit
//! look at, its device's configuration space and orders to its device, at random, as fast as it can.

use crate::share::PAGE;
use host_iommu_sys::memory::Mmio;
use host_iommu_tests::dice::Dice;
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::testdev::{raw, Order, Testdev};
use host_iommu_tests_sys::private::PrivateMemory;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the crate's unit is (`VtdConfig::base`), and how many bytes its registers are.
const UNIT: u64 = 0xfed9_0000;
const REGISTERS: u64 = 0x1000;
/// Registers with an effect (VT-d 5.0, 11.4): commands, the queues' addresses and tails, interrupts.
const KNOWN: [u64; 16] = [
    0x18, 0x20, 0x28, 0x34, 0x38, 0x3c, 0x40, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xb8, 0xc8, 0xd0, 0xdc,
];
const GCMD: u64 = 0x18;
const RTADDR: u64 = 0x20;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
/// Of GCMD: translation, root table, queued invalidation.
const COMMANDS: [u32; 4] = [1 << 30, 1 << 31, 1 << 26, 1 << 31 | 1 << 30 | 1 << 26];
/// Pages that the unit finds tables and descriptors in.
const PAGES: usize = 16;
const BAR_SIZE: usize = 0x1_0000;
/// Of the command register: memory and bus master.
const COMMAND: u64 = 4;
const DECODE: [u8; 2] = [6, 4];
const BAR: u64 = 0x10;

/// What was done.
#[derive(Debug, Default)]
struct Harm {
    registers: u64,
    entries: u64,
    config: u64,
    orders: u64,
    requests: u64,
}

struct Attacker {
    dice: Dice,
    unit: Mmio,
    tables: PrivateMemory,
    /// Of each page of the tables, guest-physical.
    places: Vec<u64>,
    config: File,
    bar: [u8; 4],
    device: Testdev,
    harm: Harm,
}

/// Where the pages of the memory are (Documentation/admin-guide/mm/pagemap.rst).
fn places(memory: &PrivateMemory) -> Outcome<Vec<u64>> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut found = Vec::new();
    for page in 0..PAGES {
        let address = memory.address() + (page * PAGE) as u64;
        memory.store((page * PAGE) as u64, 0);
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, address / PAGE as u64 * 8)?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 || entry & FRAME == 0 {
            return fail("the kernel does not tell where memory is");
        }
        found.push((entry & FRAME) * PAGE as u64);
    }
    Ok(found)
}

impl Attacker {
    fn new(endpoint: &Path, seed: u64) -> Outcome<Self> {
        let memory = OpenOptions::new().read(true).write(true).open("/dev/mem")?;
        let unit = Mmio::new(memory.as_fd(), UNIT, REGISTERS as usize)?;
        fs::write(endpoint.join("enable"), "1")?;
        let mut writable = OpenOptions::new();
        let writable = writable.read(true).write(true);
        let config = writable.open(endpoint.join("config"))?;
        let mut bar = [0; 4];
        config.read_exact_at(&mut bar, BAR)?;
        config.write_all_at(&DECODE, COMMAND)?;
        let resource = writable.open(endpoint.join("resource0"))?;
        let device = Testdev::new(Mmio::new(resource.as_fd(), 0, BAR_SIZE)?)?;
        let tables = PrivateMemory::new(PAGES * PAGE)?;
        Ok(Self {
            dice: Dice::new(0x5eed + seed),
            unit,
            places: places(&tables)?,
            tables,
            config,
            bar,
            device,
            harm: Harm::default(),
        })
    }

    /// Any bits, few of them, or the address of a table with some bits.
    fn value(&mut self) -> u64 {
        let any = self.dice.roll(1 << 32) << 32 | self.dice.roll(1 << 32);
        match self.dice.roll(4) {
            0 => any,
            1 => any & 0xfff,
            _ => *self.dice.pick(&self.places) | any & 0x7ff,
        }
    }

    fn write_register(&mut self) {
        let any = self.dice.roll(REGISTERS / 4) * 4;
        let offset = match self.dice.roll(4) {
            0 => any,
            _ => *self.dice.pick(&KNOWN),
        };
        let value = self.value();
        match offset % 8 == 0 && self.dice.roll(2) == 0 {
            true => self.unit.write_u64(offset, value),
            // CAST: its lower half.
            false => self.unit.write_u32(offset, value as u32),
        }
        self.harm.registers += 1;
    }

    fn write_entry(&mut self) {
        let at = self.dice.roll((PAGES * PAGE / 8) as u64) * 8;
        let value = self.value();
        self.tables.store(at, value);
        self.harm.entries += 1;
    }

    /// Has the unit look at tables and a queue that are at least there.
    fn begin(&mut self) {
        let root = *self.dice.pick(&self.places) | 1 << 10;
        let queue = *self.dice.pick(&self.places) | 1 << 11;
        self.unit.write_u64(RTADDR, root);
        self.unit.write_u64(IQA, queue);
        let command = *self.dice.pick(&COMMANDS);
        self.unit.write_u32(GCMD, command);
        let tail = self.dice.roll(1 << 15) & !0x1f;
        self.unit.write_u64(IQT, tail);
        self.harm.registers += 4;
    }

    fn write_config(&mut self) -> Outcome {
        let offset = self.dice.roll(0x200);
        let value = self.value().to_le_bytes();
        let size = *self.dice.pick(&[1, 2, 4]);
        // What the kernel refuses is not to be written.
        drop(self.config.write_at(&value[..size], offset));
        // The registers below must be reached.
        self.config.write_all_at(&self.bar, BAR)?;
        self.config.write_all_at(&DECODE, COMMAND)?;
        self.harm.config += 1;
        Ok(())
    }

    fn order(&mut self) {
        let order = Order {
            op: self.dice.roll(8) as u32,
            flags: self.dice.roll(1 << 8) as u32,
            pasid: self.dice.roll(4) as u32,
            length: self.dice.roll(1 << 14) as u32,
            src: self.value(),
            dst: self.value(),
            operand: self.value(),
            completion: self.value(),
            tag: 0,
        };
        if self.device.submit(&order).is_err() {
            self.device.abort();
        }
        self.harm.orders += 1;
    }

    fn flood(&mut self) {
        for group in 0..32 {
            let address = self.value();
            let flags = self.dice.roll(16) | raw::ROGUE;
            let pasid = self.dice.roll(4) as u32;
            self.device.raw_page_request(address, flags, pasid, group);
            self.harm.requests += 1;
        }
    }

    fn step(&mut self) -> Outcome {
        match self.dice.roll(16) {
            0..8 => self.write_register(),
            8..11 => self.write_entry(),
            11 => self.begin(),
            12 => self.write_config()?,
            13 | 14 => self.order(),
            _ => self.flood(),
        }
        Ok(())
    }
}

/// Does harm for so many seconds.
pub fn attack(endpoint: &Path, seconds: u64, seed: u64) -> Outcome<String> {
    let mut attacker = Attacker::new(endpoint, seed)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        attacker.step()?;
    }
    let Harm {
        registers,
        entries,
        config,
        orders,
        requests,
    } = attacker.harm;
    Ok(format!(
        "registers={registers} tables={entries} configuration={config} orders={orders} \
         requests={requests}"
    ))
}

/// Computes for so many seconds: what any guest may do.
pub fn compute(seconds: u64) -> Outcome<String> {
    let mut dice = Dice::new(1);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        dice.roll(2);
    }
    Ok("computed".into())
}
