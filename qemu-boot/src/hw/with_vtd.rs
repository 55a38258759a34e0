// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The layouts on the crate's unit for guests, as far as it offers what they need: a machine in the
//! process, whose IOMMU is `host_iommu::vtd` and whose host is `host_iommu::backend::soft`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail, ensure, Context, Result};
use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::vtd::{Msi, SourceId, Vtd, VtdConfig, VtdEvents, VtdTranslation, SIZE};
use host_iommu::{Bdf, Delivered, HostIommu, Iova, Pasid, Plugged, RegionListener};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, IommuMemory};

use super::bench::{Bench, ECAM, RAM};
use super::endpoint::{self as ep, cfg, Op};
use super::machine::Machine;
use super::{layouts, vtd};

/// Who makes the endpoint's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    /// The VMM, whose device is behind the unit by `VtdTranslation`.
    Emulated,
    /// A device of the host's that was passed through: it goes through what the unit has bound.
    PassedThrough,
}

#[derive(Debug, Default)]
struct Interrupts(Mutex<Vec<Msi>>);

impl VtdEvents for Interrupts {
    fn interrupt(&self, message: Msi) {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(message);
    }

    fn work_left(&self) {}
}

/// Room of the endpoint's registers, ring and buffer.
const BAR: usize = 0x1_0000;
/// Where its extended capabilities are.
const CAPABILITIES: [(usize, u16, usize); 3] = [
    (0x100, cfg::EXT_ATS, 0x110),
    (0x110, cfg::EXT_PASID, 0x120),
    (0x120, cfg::EXT_PRI, 0),
];

struct UnitMachine {
    ram: Arc<GuestMemoryMmap>,
    unit: Arc<Vtd>,
    host: HostIommu,
    device: SoftDevice,
    _plugged: Plugged,
    endpoint: Endpoint,
    config: Vec<u8>,
    bar: Vec<u8>,
    head: u32,
}

impl UnitMachine {
    fn new(endpoint: Endpoint) -> Result<Self> {
        let memory = nix::sys::memfd::memfd_create(c"ram", nix::sys::memfd::MFdFlags::empty())?;
        let memory = std::fs::File::from(memory);
        memory.set_len(RAM)?;
        let ranges = [(
            GuestAddress(0),
            usize::try_from(RAM)?,
            Some(FileOffset::new(memory, 0)),
        )];
        let ram = Arc::new(GuestMemoryMmap::from_ranges_with_files(ranges)?);

        let soft = Soft::new();
        let bdf: Bdf = "0000:00:04.0".parse()?;
        let device = soft.bus().add(bdf, &SoftDeviceOptions::default())?;
        let host = HostIommu::new(soft);
        let skipped = RegionListener::new(host.clone()).update(&*ram)?;
        ensure!(skipped.is_empty(), "skipped {skipped:?}");
        let nesting = host.capabilities()?.nesting.context("no nesting")?;
        let mut config = VtdConfig::carried_by(&nesting);
        config.supervisor = true;
        config.address_bits = 48;
        let unit = Vtd::new(config, ram.clone(), Arc::new(Interrupts::default()))?;
        unit.set_source_id(bdf, SourceId(ep::SID));
        let plugged = host.plug(bdf, unit.clone())?;

        let mut machine = Self {
            ram,
            unit,
            host,
            device,
            _plugged: plugged,
            endpoint,
            config: vec![0; 4096],
            bar: vec![0; BAR],
            head: 0,
        };
        for (at, id, next) in CAPABILITIES {
            let header = u32::from(id) | 1 << 16 | u32::try_from(next)? << 20;
            machine.config[at..at + 4].copy_from_slice(&header.to_le_bytes());
        }
        machine.set_bar(ep::reg::ID, &ep::ID.to_le_bytes())?;
        Ok(machine)
    }

    /// Whatever the unit and the host have left to do.
    fn settle(&mut self) -> Result<()> {
        while self.unit.run() {}
        if let Some(queue) = self.unit.fault_queue(self.device.address()) {
            while let Delivered::Events(_) = queue.deliver(&*self.unit)? {}
        }
        Ok(())
    }

    fn set_bar(&mut self, at: u64, data: &[u8]) -> Result<()> {
        let at = usize::try_from(at)?;
        let place = self.bar.get_mut(at..at + data.len());
        place.context("out of the BAR")?.copy_from_slice(data);
        Ok(())
    }

    fn bar(&self, at: u64, len: usize) -> Result<&[u8]> {
        let at = usize::try_from(at)?;
        self.bar.get(at..at + len).context("out of the BAR")
    }

    fn word(&self, at: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bar(at, 4)?.try_into()?))
    }

    fn quad(&self, at: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bar(at, 8)?.try_into()?))
    }

    fn ats(&self) -> bool {
        let [(ats, ..), ..] = CAPABILITIES;
        let control = ats + cfg::ATS_CONTROL as usize;
        self.config[control + 1] & 0x80 != 0
    }

    fn doorbell(&mut self) -> Result<()> {
        let tail = self.word(ep::reg::TAIL)?;
        while self.head != tail {
            let slot = ep::reg::RING + u64::from(self.head) * ep::SLOT_SIZE;
            let op = Op {
                op: self.word(slot)?,
                flags: self.word(slot + 4)?,
                pasid: self.word(slot + 8)?,
                length: self.word(slot + 12)?,
                src: self.quad(slot + 16)?,
                dst: self.quad(slot + 24)?,
                ..Op::default()
            };
            let end = match self.endpoint {
                Endpoint::Emulated => self.emulated(&op)?,
                Endpoint::PassedThrough => self.passed_through(&op)?,
            };
            let (status, result) = match end {
                Some(data) => {
                    if op.op == ep::OP_READ {
                        self.set_bar(ep::reg::BUFFER, &data)?;
                    }
                    (ep::OK, u64::from(op.length))
                }
                None if op.op == ep::OP_READ => (ep::NO_ACCESS, op.src),
                None => (ep::NO_ACCESS, op.dst),
            };
            self.set_bar(slot + ep::SLOT_STATUS, &status.to_le_bytes())?;
            self.set_bar(slot + ep::SLOT_RESULT, &result.to_le_bytes())?;
            self.head = (self.head + 1) % ep::SLOTS;
            self.settle()?;
        }
        let translations = self.device.counters().translations;
        self.set_bar(ep::reg::CNT_ATS, &translations.to_le_bytes())
    }

    fn pasid(op: &Op) -> Option<u32> {
        (op.flags & ep::FLAG_PASID != 0).then_some(op.pasid)
    }

    /// What was read, or `None` for an access that was stopped.
    fn emulated(&self, op: &Op) -> Result<Option<Vec<u8>>> {
        let iommu = VtdTranslation::new(self.unit.clone(), SourceId(ep::SID), Self::pasid(op));
        let memory = IommuMemory::new((*self.ram).clone(), iommu, true, ());
        let mut data = vec![0; op.length as usize];
        let moved = match op.op {
            ep::OP_READ => memory.read_slice(&mut data, GuestAddress(op.src)),
            ep::OP_WRITE => {
                data = self.bar(ep::reg::BUFFER, op.length as usize)?.to_vec();
                memory.write_slice(&data, GuestAddress(op.dst))
            }
            other => bail!("no operation {other}"),
        };
        Ok(moved.is_ok().then_some(data))
    }

    fn passed_through(&self, op: &Op) -> Result<Option<Vec<u8>>> {
        let mut dma = match op.op {
            ep::OP_READ => Dma::read(Iova(op.src), op.length as usize),
            ep::OP_WRITE => {
                let data = self.bar(ep::reg::BUFFER, op.length as usize)?;
                Dma::write(Iova(op.dst), data)
            }
            other => bail!("no operation {other}"),
        };
        if let Some(guest) = Self::pasid(op) {
            // A PASID that the unit has not bound is none of the host's.
            let guest = Pasid::try_from(guest)?;
            let host = self.host.host_pasid(self.device.address(), guest);
            dma = dma.at(host.unwrap_or(guest));
        }
        if op.flags & ep::FLAG_PRIV != 0 {
            dma = dma.privileged();
        }
        if !self.ats() {
            dma = dma.no_ats();
        }
        let end = self.device.run(dma.no_page_requests(), Duration::ZERO)?;
        match end.context("it has not ended")? {
            DmaEnd::Done(data) => Ok(Some(data)),
            DmaEnd::NoAccess(_) => Ok(None),
            other => Err(anyhow!("ended with {other:?}")),
        }
    }
}

/// Where an address leads.
enum Place {
    Ram,
    Unit(u64),
    Config(usize),
    Bar(u64),
}

fn place(addr: u64) -> Result<Place> {
    let config = ECAM + (u64::from(ep::SID) << 12);
    Ok(match addr {
        _ if addr < RAM => Place::Ram,
        _ if (vtd::BASE..vtd::BASE + SIZE).contains(&addr) => Place::Unit(addr - vtd::BASE),
        _ if (config..config + 4096).contains(&addr) => {
            Place::Config(usize::try_from(addr - config)?)
        }
        _ if (ep::BAR0..ep::BAR0 + BAR as u64).contains(&addr) => Place::Bar(addr - ep::BAR0),
        _ => bail!("Nothing is at {addr:#x}"),
    })
}

impl Machine for UnitMachine {
    fn read(&mut self, addr: u64, size: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.read_bytes(addr, size)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(&mut self, addr: u64, size: usize, value: u64) -> Result<()> {
        self.write_bytes(addr, &value.to_le_bytes()[..size])
    }

    fn read_bytes(&mut self, addr: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        match place(addr)? {
            Place::Ram => self.ram.read_slice(&mut bytes, GuestAddress(addr))?,
            Place::Unit(at) => self.unit.read(at, &mut bytes),
            Place::Config(at) => bytes.copy_from_slice(&self.config[at..at + len]),
            Place::Bar(at) => bytes.copy_from_slice(self.bar(at, len)?),
        }
        Ok(bytes)
    }

    fn write_bytes(&mut self, addr: u64, data: &[u8]) -> Result<()> {
        match place(addr)? {
            Place::Ram => self.ram.write_slice(data, GuestAddress(addr))?,
            Place::Unit(at) => {
                self.unit.write(at, data);
                self.settle()?;
            }
            Place::Config(at) => self.config[at..at + data.len()].copy_from_slice(data),
            Place::Bar(at) => {
                self.set_bar(at, data)?;
                if at == ep::reg::TAIL {
                    self.doorbell()?;
                }
            }
        }
        Ok(())
    }

    fn has_requests(&self, flags: u32, ats: bool) -> bool {
        match self.endpoint {
            // vm-memory's devices are users, and the unit is their device TLB.
            Endpoint::Emulated => flags == 0 && !ats,
            // None of `soft` asks to execute.
            Endpoint::PassedThrough => flags & ep::FLAG_EXEC == 0,
        }
    }

    /// A device of `soft` knows only that it has no access.
    fn tells_failures(&self) -> bool {
        false
    }
}

fn check(endpoint: Endpoint) {
    let mut checked = 0;
    let mut failed = Vec::new();
    for layout in layouts::all().iter().filter(|layout| layout.is_offered()) {
        let result = UnitMachine::new(endpoint).and_then(|machine| {
            let mut bench = Bench::of(Box::new(machine));
            bench.start_iommu()?;
            bench.start_endpoint()?;
            layout.check(&mut bench)
        });
        checked += 1;
        if let Err(e) = result {
            failed.push(format!("{}: {e:#}", layout.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(checked >= 50, "{checked} layouts only");
}

#[test]
fn layouts_hold_for_emulated_devices_behind_the_crates_unit() {
    check(Endpoint::Emulated);
}

#[test]
fn layouts_hold_for_devices_passed_through_behind_the_crates_unit() {
    check(Endpoint::PassedThrough);
}
