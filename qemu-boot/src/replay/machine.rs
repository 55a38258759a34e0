// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate's unit, the memory of a guest that was recorded, and its devices.

use super::recording::{Act, Group, Request, Step};
use anyhow::{bail, ensure, Context, Result};
use host_iommu::backend::soft::{Dma, DmaEnd, DmaId, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::vtd::{Msi, SourceId, Vtd, VtdConfig, VtdEvents};
use host_iommu::{
    AddressWidth, Bdf, Delivered, HostIommu, Iova, Pasid, Plugged, RegionListener, Translation,
};
use nix::sys::memfd::{memfd_create, MFdFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

/// Memory below the hole for devices, and above; the machine that is recorded has less.
const REGIONS: [(u64, u64); 2] = [(0, 2 << 30), (4 << 30, 6 << 30)];
/// Pages that no guest has: for tables of the stages, and for data.
const SPARE: u64 = 8 << 30;

/// Registers of the unit (VT-d 4.1, chapter 11.4).
const RTADDR: u64 = 0x20;
const IQH: u64 = 0x80;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
const DESCRIPTOR: u64 = 32;
/// A page group response, by its type.
const RESPONSE: u64 = 9;
/// Where a group's number is in its second word, and in that of a page request.
const NUMBER: u64 = 0xff8;

#[derive(Debug, Default)]
struct Sent(Mutex<Vec<Msi>>);

impl VtdEvents for Sent {
    fn interrupt(&self, message: Msi) {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(message);
    }

    fn work_left(&self) {}
}

/// A group that waits, and the DMA that does.
struct Waiting {
    dma: DmaId,
    pages: Vec<u64>,
}

struct Device {
    device: SoftDevice,
    _plugged: Plugged,
}

pub struct Machine {
    memory: Arc<GuestMemoryMmap>,
    /// The guest's own words; those of answers are others in `memory`.
    words: BTreeMap<u64, u64>,
    unit: Arc<Vtd>,
    sent: Arc<Sent>,
    host: HostIommu,
    devices: BTreeMap<u16, Device>,
    waiting: BTreeMap<Group, Waiting>,
    /// The unit's numbers for groups.
    numbers: BTreeMap<Group, u64>,
    spare: u64,
}

fn config(host: &HostIommu) -> Result<VtdConfig> {
    let nesting = host.capabilities()?.nesting.context("soft does not nest")?;
    let mut config = VtdConfig::carried_by(&nesting);
    // QEMU's unit has one, after which the driver finds nothing.
    config.fault_records = 1;
    Ok(config)
}

fn soft(sources: &[u16]) -> Result<(HostIommu, BTreeMap<u16, SoftDevice>)> {
    let soft = Soft::new();
    let mut devices = BTreeMap::new();
    for &source in sources {
        let [devfn, bus] = source.to_le_bytes();
        let bdf = Bdf::new(0, bus, devfn);
        let device = soft.bus().add(bdf, &SoftDeviceOptions::default())?;
        devices.insert(source, device);
    }
    Ok((HostIommu::new(soft), devices))
}

/// What CAP and ECAP of the unit say: what the driver is to see.
pub fn shown() -> Result<(u64, u64)> {
    let (host, _devices) = soft(&[0x20])?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4096)])?;
    let unit = Vtd::new(config(&host)?, Arc::new(memory), Arc::new(Sent::default()))?;
    let register = |offset| {
        let mut bytes = [0; 8];
        unit.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    Ok((register(0x8), register(0x10)))
}

/// The devices that the guest's tables ever name.
fn sources(steps: &[Step]) -> Vec<u16> {
    let mut words = BTreeMap::new();
    let mut roots = Vec::new();
    for step in steps {
        words.extend(step.memory.iter().copied());
        match step.act {
            // Halves come lower first, and the lower one has all that is below 4 GiB.
            Act::Write { offset, value, .. } if offset == RTADDR => roots.push(value & !0xfff),
            _ => {}
        }
    }
    let word = |at: u64| words.get(&at).copied().unwrap_or(0);
    let mut found = Vec::new();
    for root in roots {
        for bus in 0..256u16 {
            for half in 0..2u16 {
                let entry = word(root + u64::from(bus) * 16 + u64::from(half) * 8);
                if entry & 1 == 0 {
                    continue;
                }
                for index in 0..128u16 {
                    if word((entry & !0xfff) + u64::from(index) * 32) & 1 != 0 {
                        found.push(bus << 8 | half << 7 | index);
                    }
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

impl Machine {
    /// A unit as after power-on, with the devices that the recording has.
    pub fn new(steps: &[Step]) -> Result<Self> {
        let sources = sources(steps);
        ensure!(
            !sources.is_empty(),
            "the guest has no devices behind its unit"
        );
        let mut ranges = Vec::new();
        for (at, size) in REGIONS {
            let file = File::from(memfd_create(c"guest", MFdFlags::empty())?);
            file.set_len(size)?;
            let file = Some(FileOffset::new(file, 0));
            ranges.push((GuestAddress(at), usize::try_from(size)?, file));
        }
        let memory = Arc::new(GuestMemoryMmap::from_ranges_with_files(ranges)?);
        let (host, soft) = soft(&sources)?;
        let skipped = RegionListener::new(host.clone()).update(&*memory)?;
        ensure!(skipped.is_empty(), "{skipped:?}");
        let sent = Arc::new(Sent::default());
        let unit = Vtd::new(config(&host)?, memory.clone(), sent.clone())?;
        let mut devices = BTreeMap::new();
        for (source, device) in soft {
            unit.set_source_id(device.address(), SourceId(source));
            let plugged = host.plug(device.address(), unit.clone())?;
            devices.insert(
                source,
                Device {
                    device,
                    _plugged: plugged,
                },
            );
        }
        Ok(Self {
            memory,
            words: BTreeMap::new(),
            unit,
            sent,
            host,
            devices,
            waiting: BTreeMap::new(),
            numbers: BTreeMap::new(),
            spare: SPARE,
        })
    }

    fn put(&self, at: u64, word: u64) -> Result<()> {
        Ok(self.memory.write_obj(word, GuestAddress(at))?)
    }

    fn get(&self, at: u64) -> Result<u64> {
        Ok(self.memory.read_obj(GuestAddress(at))?)
    }

    /// What was written as a status.
    pub fn half(&self, at: u64) -> Result<u32> {
        Ok(self.memory.read_obj(GuestAddress(at))?)
    }

    /// What the guest has changed in its memory.
    pub fn remember(&mut self, changes: &[(u64, u64)]) -> Result<()> {
        for &(at, word) in changes {
            self.words.insert(at, word);
            self.put(at, word)?;
        }
        Ok(())
    }

    pub fn read(&self, offset: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        if let Some(bytes) = bytes.get_mut(..size) {
            self.unit.read(offset, bytes);
        }
        u64::from_le_bytes(bytes)
    }

    pub fn write(&mut self, offset: u64, size: usize, value: u64) -> Result<()> {
        if offset == IQT {
            self.number_answers(value)?;
        }
        let bytes = value.to_le_bytes();
        let bytes = bytes.get(..size).context("no access is so wide")?;
        self.unit.write(offset, bytes);
        while self.unit.run() {}
        self.deliver()
    }

    /// Puts the unit's numbers into the answers that the guest has queued.
    fn number_answers(&self, tail: u64) -> Result<()> {
        let queue = self.read(IQA, 8);
        let (base, bytes) = (queue & !0xfff, 4096 << (queue & 7));
        let mut head = self.read(IQH, 8);
        ensure!(
            tail < bytes && head < bytes,
            "the queue ends before {tail:#x}"
        );
        while head != tail {
            let at = base + head;
            let word = |at: u64| self.words.get(&at).copied().unwrap_or(0);
            let (low, mut high) = (word(at), word(at + 8));
            if low & 0xf == RESPONSE {
                // CAST: 16, 20 and 9 bits.
                let group = Group {
                    source: (low >> 16) as u16,
                    pasid: (low >> 4 & 1 == 1).then_some((low >> 32 & 0xf_ffff) as u32),
                    index: (high >> 3 & 0x1ff) as u16,
                };
                if let Some(number) = self.numbers.get(&group) {
                    high = high & !NUMBER | number;
                }
            }
            self.put(at + 8, high)?;
            head = (head + DESCRIPTOR) % bytes;
        }
        Ok(())
    }

    fn deliver(&self) -> Result<()> {
        let Some(device) = self.devices.values().next() else {
            return Ok(());
        };
        // Devices of one context have one queue.
        if let Some(queue) = self.unit.fault_queue(device.device.address()) {
            while let Delivered::Events(_) = queue.deliver(&*self.unit)? {}
        }
        Ok(())
    }

    /// The interrupts since the last time.
    pub fn interrupts(&self) -> Vec<(u64, u32)> {
        let mut sent = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = sent.drain(..);
        messages.map(|msi| (msi.address, msi.data)).collect()
    }

    fn device(&self, source: u16) -> Result<&SoftDevice> {
        let found = self.devices.get(&source);
        Ok(&found
            .with_context(|| format!("no device {source:#x}"))?
            .device)
    }

    /// A DMA of a device's by a guest's PASID.
    fn dma(&self, device: &SoftDevice, pasid: Option<u32>, dma: Dma) -> Result<Dma> {
        let Some(guest) = pasid else {
            return Ok(dma);
        };
        let guest = Pasid::try_from(guest)?;
        let host = self.host.host_pasid(device.address(), guest);
        Ok(dma.at(host.unwrap_or(guest)))
    }

    /// An endpoint asks for pages.
    pub fn ask(&mut self, request: &Request) -> Result<()> {
        let Group { source, pasid, .. } = request.group;
        let device = self.device(source)?;
        let first = *request.pages.first().context("a group of nothing")?;
        let pages = (first..).step_by(4096).zip(&request.pages);
        ensure!(
            pages.into_iter().all(|(at, page)| at == *page),
            "pages that do not follow each other"
        );
        let len = (request.pages.len() - 1) * 4096 + 1;
        let mut dma = match request.write {
            true => Dma::write(Iova(first), &vec![0; len]),
            false => Dma::read(Iova(first), len),
        };
        if request.privileged {
            dma = dma.privileged();
        }
        device.set_group_size(request.pages.len());
        let id = device.submit(self.dma(device, pasid, dma)?)?;
        ensure!(
            device.is_waiting(id),
            "the device does not ask: {:?}",
            device.poll(id)
        );
        let waiting = Waiting {
            dma: id,
            pages: request.pages.clone(),
        };
        ensure!(
            self.waiting.insert(request.group, waiting).is_none(),
            "the group waits already"
        );
        self.deliver()
    }

    /// What stands in the guest's page request queue, and the number of its group.
    pub fn queued(&self, at: u64) -> Result<([u64; 2], u64)> {
        let words = [self.get(at)?, self.get(at + 8)?];
        Ok((words, words[1] & NUMBER))
    }

    /// The number of a group in the guest's queue.
    pub fn number(&self, at: u64) -> u64 {
        self.get(at + 8).unwrap_or(0) & NUMBER
    }

    /// The unit's number of a group, which the guest knows by the recorded one.
    pub fn name(&mut self, group: Group, number: u64) {
        self.numbers.insert(group, number);
    }

    /// The pages of groups that are about to be answered with success are there.
    pub fn expect(&mut self, groups: impl Iterator<Item = Group>) -> Result<()> {
        for group in groups {
            let Some(waiting) = self.waiting.get(&group) else {
                continue;
            };
            for page in waiting.pages.clone() {
                let at = self.leaf(group, page)?;
                let data = self.page();
                self.put(at, data | 7)?;
            }
        }
        Ok(())
    }

    fn page(&mut self) -> u64 {
        self.spare += 4096;
        self.spare
    }

    /// Where the last entry for an address is, in a table bound for a group's device.
    fn leaf(&mut self, group: Group, address: u64) -> Result<u64> {
        let device = self.device(group.source)?.address();
        let pasid = match group.pasid {
            Some(guest) => self.host.host_pasid(device, Pasid::try_from(guest)?),
            None => Some(Pasid::RID),
        };
        let bound = self.host.export();
        let mut bound = bound.iter().filter(|bound| bound.device == device);
        let bound = bound.find(|bound| Some(bound.pasid) == pasid);
        let table = bound.and_then(|bound| match bound.translation {
            Translation::Stage1(table) => Some(table),
            _ => None,
        });
        let table = table.context("nothing is bound there")?;
        let levels = match table.width {
            AddressWidth::Bits57 => 5,
            AddressWidth::Bits48 => 4,
        };
        let mut at = table.root.0;
        for level in (1..levels).rev() {
            let entry = at + (address >> (12 + 9 * level) & 0x1ff) * 8;
            at = self.get(entry)? & !0xfff;
            if at == 0 {
                at = self.page();
                self.put(entry, at | 7)?;
            }
        }
        Ok(at + (address >> 12 & 0x1ff) * 8)
    }

    /// A group was answered: its device has it, and the pages are gone again.
    pub fn answered(&mut self, group: Group, code: u32) -> Result<()> {
        let waiting = self.waiting.remove(&group).context("it did not wait")?;
        let end = self.device(group.source)?.poll(waiting.dma);
        match (code, end) {
            (0, Some(DmaEnd::Done(_))) => {
                for page in waiting.pages {
                    let at = self.leaf(group, page)?;
                    self.put(at, 0)?;
                }
                Ok(())
            }
            (1, Some(DmaEnd::Invalid(_))) => Ok(()),
            (code, end) => bail!("the answer {code} became {end:?}"),
        }
    }

    /// Groups that do not wait any more, though nobody has answered.
    pub fn ended(&mut self) -> Vec<Group> {
        let devices = &self.devices;
        let ended = |group: &Group, waiting: &Waiting| {
            let device = devices.get(&group.source);
            !device.is_some_and(|device| device.device.is_waiting(waiting.dma))
        };
        let gone: Vec<Group> = self
            .waiting
            .iter()
            .filter(|(group, waiting)| ended(group, waiting))
            .map(|(group, _)| *group)
            .collect();
        for group in &gone {
            self.waiting.remove(group);
        }
        gone
    }

    /// A request that is stopped, by the words of the record that it got.
    pub fn stop(&mut self, source: u16, low: u64, high: u64) -> Result<()> {
        let device = self.device(source)?;
        // CAST: 20 bits.
        let pasid = (high >> 31 & 1 == 1).then_some((high >> 40 & 0xf_ffff) as u32);
        let write = high >> 62 & 1 == 0;
        let address = Iova(low & !0xfff);
        let dma = match write {
            true => Dma::write(address, &[0; 8]),
            false => Dma::read(address, 8),
        };
        let dma = self.dma(device, pasid, dma.no_ats())?;
        let end = device.run(dma, Duration::ZERO)?;
        ensure!(matches!(end, Some(DmaEnd::NoAccess(_))), "{end:?}");
        self.deliver()
    }
}
