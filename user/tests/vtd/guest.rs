// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that drives the unit as Linux drives one, and a passed-through device, with the IOMMU in
//! the process as the host.

use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftBus, SoftDevice, SoftDeviceOptions};
use host_iommu::shadow::Shadow;
use host_iommu::vtd::{Msi, SourceId, Vtd, VtdConfig, VtdEvent, VtdEvents};
use host_iommu::{Bdf, Delivered, HostIommu, Iova, Plugged, RegionListener, Shadowing};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

pub const MEMORY: usize = 32 << 20;
pub const ROOT: u64 = 0x1000;
pub const CONTEXTS: u64 = 0x2000;
pub const DIRECTORY: u64 = 0x3000;
pub const PASIDS: u64 = 0x4000;
pub const QUEUE: u64 = 0x5000;
pub const REQUESTS: u64 = 0x6000;
pub const STATUS: u64 = 0x7000;
/// The first page of page tables and of data.
pub const FREE: u64 = 0x10_0000;
/// ECAP: page walks are coherent with the CPUs' caches.
pub const SMPWC: u64 = 1 << 48;
pub const GVA: u64 = 0x7f12_3456_7000;
pub const SOURCE: u16 = 0x0028;

#[derive(Debug, Default)]
pub struct Told {
    pub interrupts: Mutex<Vec<Msi>>,
    pub more: Mutex<u32>,
    pub events: Mutex<Vec<String>>,
    /// How many milliseconds it takes to interrupt the guest.
    pub slow: AtomicU64,
}

impl VtdEvents for Told {
    fn interrupt(&self, message: Msi) {
        self.interrupts.lock().unwrap().push(message);
        let slow = self.slow.load(Ordering::Relaxed);
        if slow != 0 {
            std::thread::sleep(Duration::from_millis(slow));
        }
    }

    fn work_left(&self) {
        *self.more.lock().unwrap() += 1;
    }

    fn event(&self, event: &VtdEvent) {
        self.events.lock().unwrap().push(event.to_string());
    }
}

/// A guest with its driver, and a device that was passed through.
pub struct Guest {
    pub memory: Arc<GuestMemoryMmap>,
    pub unit: Arc<Vtd>,
    pub told: Arc<Told>,
    pub host: HostIommu,
    pub bus: SoftBus,
    pub device: Arc<SoftDevice>,
    plugged: Option<Plugged>,
    pub free: u64,
    pub tail: u64,
}

pub fn memory() -> GuestMemoryMmap {
    let fd = nix::sys::memfd::memfd_create(c"guest", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let file = std::fs::File::from(fd);
    file.set_len(MEMORY as u64).unwrap();
    let file = Some(FileOffset::new(file, 0));
    GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY, file)]).unwrap()
}

impl Guest {
    pub fn new() -> Self {
        Self::with(|config| config)
    }

    pub fn with(change: impl FnOnce(VtdConfig) -> VtdConfig) -> Self {
        Self::over(|soft, _| HostIommu::new(soft), change)
    }

    /// On a host that does not nest.
    pub fn shadowed() -> Self {
        let shadow = |soft, memory| Shadow::over(soft, memory, Shadowing::CachingMode).unwrap();
        Self::over(
            |soft, memory| HostIommu::new(shadow(soft, memory)),
            |config| config,
        )
    }

    pub fn over(
        host: impl FnOnce(Soft, Arc<GuestMemoryMmap>) -> HostIommu,
        change: impl FnOnce(VtdConfig) -> VtdConfig,
    ) -> Self {
        Self::of(&SoftDeviceOptions::default(), host, change)
    }

    /// With a device of these options.
    pub fn with_device(options: &SoftDeviceOptions) -> Self {
        Self::of(options, |soft, _| HostIommu::new(soft), |config| config)
    }

    pub fn of(
        options: &SoftDeviceOptions,
        host: impl FnOnce(Soft, Arc<GuestMemoryMmap>) -> HostIommu,
        change: impl FnOnce(VtdConfig) -> VtdConfig,
    ) -> Self {
        let soft = Soft::new();
        let bdf: Bdf = "0000:3a:04.0".parse().unwrap();
        let bus = soft.bus();
        let device = Arc::new(bus.add(bdf, options).unwrap());
        let memory = Arc::new(memory());
        let host = host(soft, memory.clone());
        let skipped = RegionListener::new(host.clone()).update(&*memory).unwrap();
        assert!(skipped.is_empty());
        let nesting = host.capabilities().unwrap().nesting.unwrap();
        let config = change(VtdConfig::carried_by(&nesting));
        let told = Arc::new(Told::default());
        let unit = Vtd::new(config, memory.clone(), told.clone()).unwrap();
        unit.set_source_id(bdf, SourceId(SOURCE));
        let plugged = host.plug(bdf, unit.clone()).unwrap();
        Self {
            memory,
            unit,
            told,
            host,
            bus,
            device,
            plugged: Some(plugged),
            free: FREE,
            tail: 0,
        }
    }

    /// Takes the device out of the unit.
    pub fn unplug(&mut self) {
        drop(self.plugged.take());
    }

    /// As the end of a process does that drops nothing.
    pub fn forget(&mut self) {
        std::mem::forget((self.plugged.take(), self.unit.clone(), self.host.clone()));
    }

    /// Plugs it in again.
    pub fn plug(&mut self) {
        let plugged = self.host.plug(self.device.address(), self.unit.clone());
        self.plugged = Some(plugged.unwrap());
    }

    pub fn put(&self, at: u64, word: u64) {
        self.memory.write_obj(word, GuestAddress(at)).unwrap();
    }

    pub fn get(&self, at: u64) -> u64 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    pub fn write4(&self, offset: u64, value: u32) {
        self.unit.write(offset, &value.to_le_bytes());
    }

    pub fn write8(&self, offset: u64, value: u64) {
        self.unit.write(offset, &value.to_le_bytes());
    }

    pub fn read4(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.unit.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn read8(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.unit.read(offset, &mut data);
        u64::from_le_bytes(data)
    }

    pub fn page(&mut self) -> u64 {
        self.free += 0x1000;
        self.free - 0x1000
    }

    /// As Linux does at boot: queue, root table, page requests, translation on.
    pub fn boot(&mut self) {
        self.boot_but(|_| {});
        self.command(1 << 31);
    }

    /// The same without turning translation on, with other entries.
    pub fn boot_but(&mut self, change: impl FnOnce(&mut Self)) {
        self.write8(0x88, 0);
        self.write8(0x90, QUEUE | 1 << 11);
        self.command(1 << 26);
        self.put(ROOT, CONTEXTS | 1);
        let context = CONTEXTS + u64::from(SOURCE) * 32;
        self.put(context, DIRECTORY | 0x1d);
        self.put(DIRECTORY, PASIDS | 1);
        self.write8(0x20, ROOT | 1 << 10);
        self.command(1 << 30);
        self.write8(0xc0, 0);
        self.write8(0xc8, 0);
        self.write8(0xd0, REQUESTS);
        for control in [0x38, 0xa0, 0xe0] {
            self.write4(control + 4, control as u32);
            self.write4(control + 8, 0xfee0_0000);
            self.write4(control, 0);
        }
        // Requests without PASID pass through.
        self.set_entry(0, [1 | 4 << 6, 1, 0]);
        change(self);
    }

    /// A bit of GCMD beside those in force.
    pub fn command(&self, bit: u32) {
        let status = self.read4(0x1c) & 0x8680_0000;
        self.write4(0x18, status | bit);
        assert_eq!(self.read4(0x1c) & bit, bit, "GSTS");
    }

    pub fn set_entry(&self, pasid: u64, words: [u64; 3]) {
        let at = PASIDS + pasid * 64;
        self.put(at + 8, words[1]);
        self.put(at + 16, words[2]);
        self.put(at, words[0]);
    }

    /// Gives descriptors to the queue and waits for them.
    pub fn submit(&mut self, descriptors: &[[u64; 2]]) {
        self.put(STATUS, 0);
        let wait = [1 << 32 | 1 << 5 | 5, STATUS];
        let all: Vec<[u64; 2]> = descriptors.iter().copied().chain([wait]).collect();
        self.write_descriptors(&all);
        while self.unit.run() {}
    }

    /// Gives descriptors to the queue.
    pub fn write_descriptors(&mut self, descriptors: &[[u64; 2]]) {
        for descriptor in descriptors {
            let at = QUEUE + self.tail;
            for (index, word) in [descriptor[0], descriptor[1], 0, 0].into_iter().enumerate() {
                self.put(at + index as u64 * 8, word);
            }
            self.tail = (self.tail + 32) % 4096;
        }
        self.write8(0x88, self.tail);
    }

    pub fn is_done(&self) -> bool {
        self.get(STATUS) == 1
    }

    /// A PASID entry has changed.
    pub fn pasid_changed(&mut self, pasid: u64) {
        self.submit(&[
            [7 | 1 << 4 | 2 << 16 | pasid << 32, 0],
            [6 | 2 << 4 | 2 << 16 | pasid << 32, 0],
        ]);
        assert!(self.is_done());
    }

    /// Binds an empty table at a PASID; gives its root.
    pub fn bind(&mut self, pasid: u64) -> u64 {
        let root = self.page();
        self.set_entry(pasid, [1 | 1 << 6, 2, root | 1 << 4]);
        self.pasid_changed(pasid);
        root
    }

    /// Maps a page in a table of four levels; gives the page.
    pub fn map(&mut self, root: u64, address: u64) -> u64 {
        let mut table = root;
        for shift in [39, 30, 21] {
            let at = table + 8 * (address >> shift & 0x1ff);
            if self.get(at) & 1 == 0 {
                let next = self.page();
                self.put(at, next | 7);
            }
            table = self.get(at) & !0xfff;
        }
        let page = self.page();
        self.put(table + 8 * (address >> 12 & 0x1ff), page | 7);
        page
    }

    /// Maps a page in a second-stage table of four levels; gives the page.
    pub fn map_second(&mut self, root: u64, address: u64, rights: u64) -> u64 {
        let mut table = root;
        for shift in [39, 30, 21] {
            let at = table + 8 * (address >> shift & 0x1ff);
            if self.get(at) & 3 == 0 {
                let next = self.page();
                self.put(at, next | 3);
            }
            table = self.get(at) & !0xfff;
        }
        let page = self.page();
        self.put(table + 8 * (address >> 12 & 0x1ff), page | rights);
        page
    }

    /// Binds an empty second-stage table of domain 2 at a PASID; gives its root.
    pub fn bind_second(&mut self, pasid: u64) -> u64 {
        let root = self.page();
        self.set_entry(pasid, [root | 2 << 6 | 2 << 2 | 1, 1 << 23 | 2, 0]);
        self.pasid_changed(pasid);
        root
    }

    /// As Linux flushes a page of a second-stage table.
    pub fn flush_second(&mut self, domain: u64, address: u64) {
        self.submit(&[[2 | 3 << 4 | 3 << 6 | domain << 16, address]]);
        assert!(self.is_done());
    }

    pub fn load(&self, pasid: Option<u32>, address: u64, asking: bool) -> Option<DmaEnd> {
        let mut dma = Dma::read(Iova(address), 8);
        if let Some(pasid) = pasid {
            let guest = pasid.try_into().unwrap();
            let host = self.host.host_pasid(self.device.address(), guest);
            dma = dma.at(host.unwrap());
        }
        if !asking {
            dma = dma.no_page_requests();
        }
        self.device.run(dma, Duration::ZERO).unwrap()
    }

    pub fn deliver(&self) -> Delivered {
        let queue = self.unit.fault_queue(self.device.address()).unwrap();
        queue.deliver(&*self.unit).unwrap()
    }

    /// What the unit has told since it was last asked.
    pub fn events(&self) -> Vec<String> {
        self.told.events.lock().unwrap().drain(..).collect()
    }

    /// The reasons of the fault records, in their order, which are then cleared.
    pub fn faults(&self) -> Vec<u64> {
        let first = (self.read8(8) >> 24 & 0x3ff) * 16;
        let count = (self.read8(8) >> 40 & 0xff) + 1;
        let records = (0..count).map(|index| first + index * 16);
        let found = records.filter_map(|at| {
            let high = self.read8(at + 8);
            (high >> 63 == 1).then(|| {
                self.write4(at + 12, 1 << 31);
                high >> 32 & 0xff
            })
        });
        found.collect()
    }

    pub fn interrupts(&self) -> Vec<u32> {
        let told: Vec<Msi> = self.told.interrupts.lock().unwrap().drain(..).collect();
        told.iter().map(|message| message.data).collect()
    }
}

pub fn done(word: u64) -> Option<DmaEnd> {
    Some(DmaEnd::Done(word.to_le_bytes().to_vec()))
}
