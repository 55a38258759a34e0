// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate's unit for guests on the module: what no entry allows is stopped, by real DMA, while entries
//! change too. First-stage tables are nested by the module, second-stage ones go through a shadow.

use host_iommu::backend::kmod::Kmod;
use host_iommu::shadow::Shadow;
use host_iommu::vtd::{Msi, SourceId, Vtd, VtdConfig, VtdEvent, VtdEvents};
use host_iommu::{Bdf, HostIommu, Iova, MapAccess, Plugged, Scope, Shadowing};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::GuestMemory;
use host_iommu_tests::rig::{Delay, Delays, Limit};
use host_iommu_tests::shadow::view;
use host_iommu_tests::stage1::{entry, Table};
use host_iommu_tests::suite;
use host_iommu_tests::testdev::{reg, status, Order, Slot, Testdev, BAR, DEADLINE, SLOTS};
use host_iommu_tests::vfio::{endpoints, Device};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MEMORY: u64 = 8 << 20;
/// Where the device stores, in every state: an address that is also in guest memory.
const TARGET: u64 = 0x30_0000;
const SOURCE: u16 = 0x28;

/// The guest's PASID of requests with one.
const PASID: u32 = 5;

/// Counts the bindings that the host has refused.
#[derive(Debug, Default)]
struct Refusals(AtomicU32);

impl VtdEvents for Refusals {
    fn interrupt(&self, _: Msi) {}

    fn work_left(&self) {}

    fn event(&self, event: &VtdEvent) {
        if matches!(event, VtdEvent::BindingRefused { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The words of a PASID entry (VT-d 4.1, 9.6).
type Words = [u64; 3];

/// PGTT 100b: requests reach guest memory untranslated.
const PASS_THROUGH: Words = [1 | 4 << 6, 1, 0];
const ABSENT: Words = [0; 3];
/// PGTT 101b is reserved.
const MALFORMED: Words = [1 | 5 << 6, 1, 0];

struct Vmm {
    endpoint: Testdev,
    file: Device,
    memory: GuestMemory,
    device: Bdf,
    host: HostIommu,
    unit: Arc<Vtd>,
    refusals: Arc<Refusals>,
    _plugged: Plugged,
    /// Queue, root, context, directory, PASID table.
    pages: [u64; 5],
    tail: Cell<u64>,
}

impl Vmm {
    fn new() -> Outcome<Self> {
        let device = match endpoints().first() {
            Some(bdf) => Bdf::new(bdf.segment, bdf.bus, bdf.devfn),
            None => return skip("no endpoint is bound to vfio-pci"),
        };
        let kmod = Kmod::open_device(device)?;
        let file = Device::from(kmod.open_device_fd(device)?);
        file.set_bus_master(true)?;
        let memory = GuestMemory::new(0, MEMORY)?;
        // Address zero is no table.
        memory.alloc_page();
        let shadow = Shadow::over(kmod, view(&memory)?, Shadowing::SecondStage)?;
        let host = HostIommu::new(shadow);
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
        let Some(nesting) = host.capabilities()?.nesting else {
            return fail("the module reports nothing about nesting");
        };
        if !nesting.stage1.is_present() {
            return skip(format!("nesting: {}", nesting.stage1));
        }
        let config = VtdConfig::carried_by(&nesting);
        assert!(config.first_stage && config.second_stage, "both stages");
        let refusals = Arc::new(Refusals::default());
        let unit = Vtd::new(config, view(&memory)?, refusals.clone())?;
        unit.set_source_id(device, SourceId(SOURCE));
        let plugged = host.plug(device, unit.clone())?;
        let pages = [0; 5].map(|_| memory.alloc_page());
        let vmm = Self {
            endpoint: Testdev::new(file.map_bar(BAR)?)?,
            file,
            memory,
            device,
            host,
            unit,
            refusals,
            _plugged: plugged,
            pages,
            tail: Cell::new(0),
        };
        vmm.boot();
        Ok(vmm)
    }

    fn write4(&self, offset: u64, value: u32) {
        self.unit.write(offset, &value.to_le_bytes());
        while self.unit.run() {}
    }

    fn write8(&self, offset: u64, value: u64) {
        self.unit.write(offset, &value.to_le_bytes());
        while self.unit.run() {}
    }

    fn read8(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.unit.read(offset, &mut data);
        u64::from_le_bytes(data)
    }

    /// As Linux does, with requests without PASID passed through.
    fn boot(&self) {
        let [queue, root, context, directory, table] = self.pages;
        self.write8(0x88, 0);
        self.write8(0x90, queue | 1 << 11);
        self.write4(0x18, 1 << 26);
        self.memory.write_u64(root, context | 1);
        self.memory
            .write_u64(context + u64::from(SOURCE) * 32, directory | 0xd);
        self.memory.write_u64(directory, table | 1);
        self.write8(0x20, root | 1 << 10);
        self.write4(0x18, 1 << 26 | 1 << 30);
        self.set_entry(PASS_THROUGH);
        self.write4(0x18, 1 << 26 | 1 << 31);
        assert_eq!(self.read8(0x18) >> 63, 1, "translation is on");
    }

    /// The entry of a PASID, and the descriptor that tells of it.
    fn set_entry_at(&self, pasid: u32, words: Words) {
        let [queue, .., table] = self.pages;
        let at = table + u64::from(pasid) * 64;
        self.memory.write_u64(at + 8, words[1]);
        self.memory.write_u64(at + 16, words[2]);
        self.memory.write_u64(at, words[0]);
        // PASID cache, one PASID of domain 1.
        let descriptor = 7 | 1 << 4 | 1 << 16 | u64::from(pasid) << 32;
        let tail = self.tail.get();
        self.memory.write_u64(queue + tail, descriptor);
        self.memory.write_u64(queue + tail + 8, 0);
        let tail = (tail + 32) % 4096;
        self.tail.set(tail);
        self.write8(0x88, tail);
        assert_eq!(self.read8(0x80), tail, "the descriptor is done");
    }

    /// The entry of requests without PASID.
    fn set_entry(&self, words: Words) {
        self.set_entry_at(0, words);
    }

    /// A first-stage table that maps the address to a page of its own: an entry for it, and the page.
    fn first_stage(&self) -> (Words, u64) {
        let (table, page) = self.table();
        ([1 | 1 << 6, 1, table], page)
    }

    /// The same of the second stage, of four levels. Its entries have R and W where those of the first
    /// stage have P and R/W.
    fn second_stage(&self) -> (Words, u64) {
        let (table, page) = self.table();
        ([table | 2 << 6 | 2 << 2 | 1, 1 << 23 | 1, 0], page)
    }

    fn table(&self) -> (u64, u64) {
        let table = Table::new(&self.memory);
        let page = self.memory.alloc_page();
        table.map(TARGET, page, entry::RW);
        (table.root(), page)
    }

    fn store(&self, value: u64) -> Outcome<u32> {
        Ok(self.endpoint.run(&store(value))?.status)
    }

    fn store_at(&self, pasid: u32, value: u64) -> Outcome<u32> {
        Ok(self.endpoint.run(&store(value).at(pasid))?.status)
    }

    /// The reasons of the fault records, which are then cleared.
    fn faults(&self) -> Vec<u64> {
        let capability = self.read8(8);
        let first = (capability >> 24 & 0x3ff) * 16;
        let count = (capability >> 40 & 0xff) + 1;
        let records = (0..count).map(|index| first + index * 16);
        let reasons = records.filter_map(|at| {
            let high = self.read8(at + 8);
            (high >> 63 == 1).then(|| {
                self.write4(at + 12, 1 << 31);
                high >> 32 & 0xff
            })
        });
        reasons.collect()
    }
}

fn store(value: u64) -> Order {
    Order::fill(TARGET, 8, value).no_pri().no_ats()
}

fn entry_decides_where_a_store_goes() -> Outcome {
    let vmm = Vmm::new()?;
    assert_eq!(vmm.store(1)?, status::OK);
    assert_eq!(vmm.memory.read_u64(TARGET), 1);
    for (words, page) in [vmm.first_stage(), vmm.second_stage()] {
        vmm.set_entry(words);
        assert_eq!(vmm.store(2)?, status::OK, "{words:x?}");
        let words_there = (vmm.memory.read_u64(page), vmm.memory.read_u64(TARGET));
        assert_eq!(words_there, (2, 1), "{words:x?}");
        for stopped in [ABSENT, MALFORMED] {
            vmm.set_entry(stopped);
            assert_ne!(vmm.store(3)?, status::OK, "{stopped:x?}");
        }
        assert_eq!(vmm.memory.read_u64(page), 2, "{words:x?}");
    }
    assert_eq!(vmm.memory.read_u64(TARGET), 1);
    vmm.set_entry(PASS_THROUGH);
    assert_eq!(vmm.store(4)?, status::OK);
    assert_eq!(vmm.memory.read_u64(TARGET), 4);
    Ok(())
}

/// Stores that the device does all the time, without PASID.
#[derive(Default)]
struct Stores {
    over: AtomicBool,
    finished: AtomicU32,
}

impl Stores {
    /// Fills the ring once, and then rings its doorbell alone: the slots keep their orders.
    fn hammer(&self, endpoint: &Testdev) -> Outcome {
        for _ in 0..SLOTS / 64 {
            let slots: Vec<Slot> = (0..64)
                .map(|_| endpoint.submit(&store(u64::MAX)))
                .collect::<Result<_, _>>()?;
            for slot in slots {
                endpoint.wait(slot, DEADLINE)?;
            }
        }
        let mut last = endpoint.register(reg::HEAD);
        while !self.over.load(Ordering::Relaxed) {
            let head = endpoint.register(reg::HEAD);
            let finished = head.wrapping_sub(last) % SLOTS;
            self.finished.fetch_add(finished, Ordering::Relaxed);
            last = head;
            endpoint.set_register(reg::TAIL, head.wrapping_sub(1) % SLOTS);
        }
        let end = Instant::now() + DEADLINE;
        while endpoint.register(reg::HEAD) != endpoint.register(reg::TAIL) {
            if Instant::now() > end {
                return fail("the stores do not end");
            }
        }
        Ok(())
    }

    /// Waits until all stores have ended that are under way, and others after them.
    fn pass(&self) -> Outcome {
        let wanted = self
            .finished
            .load(Ordering::Relaxed)
            .wrapping_add(SLOTS + 8);
        let end = Instant::now() + DEADLINE;
        while wanted.wrapping_sub(self.finished.load(Ordering::Relaxed)) as i32 > 0 {
            if Instant::now() > end {
                return fail("the device stores no more");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

/// Ends the stores, also when what is done meanwhile panics.
struct Ending<'a>(&'a Stores);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// Does something while the device stores all the time.
fn under_stores(vmm: &Vmm, work: impl FnOnce(&Stores) -> Outcome) -> Outcome {
    let stores = Stores::default();
    std::thread::scope(|scope| {
        let endpoint = &vmm.endpoint;
        let hammer = scope.spawn(|| stores.hammer(endpoint));
        let ending = Ending(&stores);
        let result = work(&stores);
        drop(ending);
        match hammer.join() {
            Ok(hammered) => result.and(hammered),
            Err(_) => fail("the hammer panicked"),
        }
    })?;
    println!("# {} stores", stores.finished.load(Ordering::Relaxed));
    Ok(())
}

/// Never anything but the old state, the new one, or nothing at all, for all pairs of states.
fn no_other_state_shows_while_an_entry_changes() -> Outcome {
    const ROUNDS: u32 = 3;
    let vmm = Vmm::new()?;
    let places = [
        vmm.first_stage(),
        vmm.first_stage(),
        vmm.second_stage(),
        vmm.second_stage(),
        (PASS_THROUGH, TARGET),
    ];
    let states: Vec<Words> = places
        .iter()
        .map(|(words, _)| *words)
        .chain([ABSENT, MALFORMED])
        .collect();
    let mut shown = Vec::new();
    under_stores(&vmm, |stores| {
        for _ in 0..ROUNDS {
            for (&old, &new) in states
                .iter()
                .flat_map(|old| states.iter().map(move |new| (old, new)))
            {
                vmm.set_entry(old);
                stores.pass()?;
                for (_, page) in places {
                    vmm.memory.write_u64(page, 0);
                }
                vmm.set_entry(new);
                stores.pass()?;
                for (state, page) in places {
                    let stored = vmm.memory.read_u64(page) != 0;
                    if stored && state != old && state != new {
                        shown.push((old, new, state));
                    }
                    // What is in force now is reached.
                    if !stored && state == new {
                        return fail(format!("no store reaches {new:x?} after {old:x?}"));
                    }
                }
            }
        }
        Ok(())
    })?;
    let changes = ROUNDS as usize * states.len() * states.len();
    assert!(
        shown.is_empty(),
        "in {} of {changes} changes; from, to, and what showed: {shown:x?}",
        shown.len(),
    );
    Ok(())
}

/// A host that has no room for a binding: not the old state, not stage 2 alone, but nothing.
fn what_the_host_refuses_is_stopped() -> Outcome {
    let vmm = Vmm::new()?;
    let other = vmm.first_stage();
    for old in [other, (PASS_THROUGH, TARGET), (ABSENT, 0)] {
        for (new, page) in [vmm.first_stage(), vmm.second_stage()] {
            vmm.set_entry(old.0);
            vmm.faults();
            let before = vmm.refusals.0.load(Ordering::Relaxed);
            let limit = Limit::set("total_domains", 0)?;
            under_stores(&vmm, |stores| {
                // The old state is in force.
                stores.pass()?;
                vmm.set_entry(new);
                stores.pass()?;
                for at in [page, old.1, TARGET] {
                    vmm.memory.write_u64(at, 0);
                }
                stores.pass()?;
                for at in [page, old.1, TARGET] {
                    assert_eq!(vmm.memory.read_u64(at), 0, "{old:x?} to {new:x?}: {at:#x}");
                }
                Ok(())
            })?;
            let refused = vmm.refusals.0.load(Ordering::Relaxed) - before;
            assert_ne!(refused, 0, "{old:x?} to {new:x?}");
            let faults = vmm.faults();
            assert!(faults.contains(&0x5b), "{faults:x?}");
            // The guest tells again, and the host has room.
            drop(limit);
            vmm.set_entry(new);
            assert_eq!(vmm.store(1)?, status::OK);
            assert_eq!(vmm.memory.read_u64(page), 1);
        }
    }
    Ok(())
}

/// The same for requests with a PASID.
fn what_the_host_refuses_at_a_pasid_is_stopped() -> Outcome {
    let vmm = Vmm::new()?;
    let ((first, first_page), (second, second_page)) = (vmm.first_stage(), vmm.second_stage());
    for (old, new, pages) in [
        (first, second, [first_page, second_page]),
        (second, first, [first_page, second_page]),
        (ABSENT, first, [first_page, TARGET]),
        (PASS_THROUGH, first, [first_page, TARGET]),
    ] {
        vmm.set_entry_at(PASID, old);
        for page in pages {
            vmm.memory.write_u64(page, 0);
        }
        let limit = Limit::set("total_domains", 0)?;
        vmm.set_entry_at(PASID, new);
        assert_ne!(vmm.store_at(PASID, 1)?, status::OK, "{old:x?} to {new:x?}");
        for page in pages {
            assert_eq!(vmm.memory.read_u64(page), 0, "{old:x?} to {new:x?}");
        }
        drop(limit);
        vmm.set_entry_at(PASID, new);
        assert_eq!(vmm.store_at(PASID, 1)?, status::OK, "{old:x?} to {new:x?}");
        vmm.set_entry_at(PASID, ABSENT);
    }
    Ok(())
}

fn device_reset_leaves_the_entry_in_force() -> Outcome {
    let vmm = Vmm::new()?;
    let (words, page) = vmm.first_stage();
    vmm.set_entry(words);
    vmm.host.unbind(Scope::Device(vmm.device))?;
    vmm.unit.device_reset(vmm.device);
    while vmm.unit.run() {}
    assert_eq!(vmm.store(7)?, status::OK);
    let there = (vmm.memory.read_u64(page), vmm.memory.read_u64(TARGET));
    assert_eq!(there, (7, 0));
    Ok(())
}

/// The host refuses for as long as a reset takes: then the entry is carried out, and until then nothing
/// else is in force.
fn entry_that_changes_during_a_reset_is_carried_out_after_it() -> Outcome {
    const RESET: Delay = Delay {
        function: "pci_dev_reset_iommu_done",
        at_return: false,
        time: Duration::from_millis(400),
    };
    let vmm = Vmm::new()?;
    let passed = (PASS_THROUGH, TARGET);
    let (first, second, other) = (vmm.first_stage(), vmm.second_stage(), vmm.first_stage());
    let mut value = 0;
    let mut waited = Vec::new();
    for (old, new) in [
        (first, other),
        (first, second),
        (second, first),
        (passed, first),
        (first, passed),
        (passed, (ABSENT, 0)),
        ((ABSENT, 0), second),
    ] {
        vmm.set_entry(old.0);
        let delays = Delays::start(&[RESET])?;
        let begun = std::thread::scope(|scope| -> Outcome<Instant> {
            let reset = scope.spawn(|| vmm.file.reset());
            delays.wait_for_call(0)?;
            let begun = Instant::now();
            vmm.set_entry(new.0);
            match reset.join() {
                Ok(reset) => reset?,
                Err(_) => return fail("the reset panicked"),
            }
            Ok(begun)
        })?;
        waited.push(begun.elapsed() > RESET.time / 2);
        drop(delays);
        vmm.file.set_bus_master(true)?;
        value += 1;
        let stored = vmm.store(value)? == status::OK;
        assert_eq!(stored, new.0 != ABSENT, "{old:x?} to {new:x?}");
        for (_, page) in [first, second, other, passed] {
            let here = vmm.memory.read_u64(page) == value;
            assert_eq!(
                here,
                stored && page == new.1,
                "{old:x?} to {new:x?}: {page:#x}"
            );
        }
    }
    assert!(waited.contains(&true), "no change met a reset: {waited:?}");
    Ok(())
}

fn restored_unit_lets_nothing_through() -> Outcome {
    let vmm = Vmm::new()?;
    vmm.set_entry(ABSENT);
    let saved = vmm.unit.save();
    vmm.unit.reset();
    assert_eq!(vmm.store(1)?, status::OK, "as after power-on");
    vmm.unit.restore(saved)?;
    assert_ne!(vmm.store(2)?, status::OK);
    while vmm.unit.run() {}
    assert_ne!(vmm.store(2)?, status::OK);
    assert_eq!(vmm.memory.read_u64(TARGET), 1);
    Ok(())
}

suite![
    entry_decides_where_a_store_goes,
    no_other_state_shows_while_an_entry_changes,
    what_the_host_refuses_is_stopped,
    what_the_host_refuses_at_a_pasid_is_stopped,
    device_reset_leaves_the_entry_in_force,
    entry_that_changes_during_a_reset_is_carried_out_after_it,
    restored_unit_lets_nothing_through,
];
