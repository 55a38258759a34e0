// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What VMMs need of the unit beside translation.

use crate::guest::*;
use crate::host::{Control, Unreliable};
use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDeviceOptions};
use host_iommu::shadow::Shadow;
use host_iommu::vtd::{
    Invalidated, InvalidationListener, Msi, SourceId, Vtd, VtdConfig, VtdTranslation,
};
use host_iommu::{Bdf, Delivered, HostIommu, Iova, Pasid, PciIommuOps, RegionListener, Shadowing};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, GuestMemory, IommuMemory, Permissions};

/// Over a host that nests the first stage and shadows the second.
fn both_stages() -> Guest {
    let shadow = |soft, memory| Shadow::over(soft, memory, Shadowing::SecondStage).unwrap();
    Guest::over(
        move |soft, memory| HostIommu::new(shadow(soft, memory)),
        |config| config,
    )
}

#[test]
fn guest_chooses_the_stage_in_each_entry() {
    let mut guest = both_stages();
    let ecap = guest.read8(0x10);
    assert_eq!(ecap >> 46 & 3, 3, "both stages");
    assert_eq!(ecap >> 29 & 1, 1, "page requests");
    guest.boot();
    let first = guest.bind(5);
    let page = guest.map(first, GVA);
    guest.put(page, 1);
    let second = guest.bind_second(6);
    let page = guest.map_second(second, GVA, 3);
    guest.put(page, 2);
    guest.flush_second(2, GVA);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    assert_eq!(guest.load(Some(6), GVA, false), done(2));
    assert_eq!(guest.host.stats().unwrap().address_spaces, 1);
    // The one with page requests asks for what is missing.
    let _ = guest.load(Some(5), GVA + 0x1000, true);
    assert_eq!(guest.deliver(), Delivered::Events(1));
    assert_eq!(guest.unit.waiting(), 1);
    // And from one stage to the other.
    guest.set_entry(5, [second | 2 << 6 | 2 << 2 | 1, 1 << 23 | 2, 0]);
    guest.pasid_changed(5);
    assert_eq!(guest.load(Some(5), GVA, false), done(2));
}

/// As a guest without scalable mode does.
fn boot_in_legacy_mode(guest: &mut Guest, context: [u64; 2]) {
    guest.write8(0x88, 0);
    guest.write8(0x90, QUEUE | 1 << 11);
    guest.command(1 << 26);
    guest.put(ROOT, CONTEXTS | 1);
    guest.put(ROOT + 8, 0);
    let at = CONTEXTS + u64::from(SOURCE) * 16;
    guest.put(at + 8, context[1]);
    guest.put(at, context[0]);
    guest.write8(0x20, ROOT);
    guest.command(1 << 30);
    for control in [0x38, 0xa0] {
        guest.write4(control + 8, 0xfee0_0000);
        guest.write4(control, 0);
    }
    guest.command(1 << 31);
}

#[test]
fn legacy_mode_is_translated_by_its_second_stage() {
    let mut guest = both_stages();
    let root = guest.page();
    // Domain 9, four levels.
    boot_in_legacy_mode(&mut guest, [root | 1, 9 << 8 | 2]);
    guest.put(0x20_0000, 7);
    let missing = |address| Some(DmaEnd::NoAccess(Iova(address)));
    assert_eq!(guest.load(None, 0x20_0000, false), missing(0x20_0000));
    let page = guest.map_second(root, GVA, 3);
    guest.put(page, 4);
    guest.flush_second(9, GVA);
    assert_eq!(guest.load(None, GVA, false), done(4));
    // Passed through.
    let at = CONTEXTS + u64::from(SOURCE) * 16;
    guest.put(at + 8, 9 << 8 | 2);
    guest.put(at, 2 << 2 | 1);
    guest.submit(&[[1 | 3 << 4 | u64::from(SOURCE) << 32, 0]]);
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));
    guest.put(at, 0);
    guest.submit(&[[1 | 1 << 4, 0]]);
    assert_eq!(guest.load(None, 0x20_0000, false), missing(0x20_0000));
}

#[test]
fn legacy_mode_has_its_own_reasons() {
    let context = |low: u64, high: u64| {
        let mut guest = both_stages();
        let root = guest.page();
        boot_in_legacy_mode(&mut guest, [low | (root * (low & 1)), high]);
        let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), None);
        let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
        guest.map_second(root, GVA + 0x1000, 1);
        guest.map_second(root, GVA + 0x2000, 2);
        (guest, dma)
    };
    let read = |(guest, dma): &(Guest, IommuMemory<_, _>), address| {
        assert!(dma.read_obj::<u64>(GuestAddress(address)).is_err());
        guest.faults()
    };
    assert_eq!(read(&context(0, 0), GVA), [2], "context entry not present");
    assert_eq!(
        read(&context(1 | 3 << 2, 2), GVA),
        [3],
        "type of translation"
    );
    assert_eq!(read(&context(1, 5), GVA), [3], "width");
    assert_eq!(read(&context(1 | 1 << 5, 2), GVA), [0xb], "reserved");
    let good = context(1, 2);
    assert_eq!(read(&good, 1 << 48), [4], "beyond the width");
    assert_eq!(read(&good, GVA), [6], "not readable");
    assert_eq!(read(&good, GVA + 0x2000), [6], "write-only");
    let written = good.1.write_obj(0u64, GuestAddress(GVA + 0x1000));
    assert!(written.is_err());
    assert_eq!(good.0.faults(), [5], "not writable");
    let iommu = VtdTranslation::new(good.0.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*good.0.memory).clone(), iommu, true, ());
    assert!(dma.read_obj::<u64>(GuestAddress(GVA)).is_err());
    assert_eq!(good.0.faults(), [0x31], "a PASID in legacy mode");
}

#[test]
fn interrupts_are_remapped_as_linux_sets_them_up() {
    let mut guest = Guest::with(|mut config| {
        config.interrupt_remapping = true;
        config.extended_interrupts = true;
        config
    });
    let ecap = guest.read8(0x10);
    assert_eq!(ecap >> 3 & 3, 3, "IR and EIM");
    assert_eq!(ecap >> 20 & 0xf, 15, "MHMV");
    let dmar = guest.unit.config().dmar(*b"OEMIDX", *b"TABLEIDX", 1);
    assert_eq!(dmar[37] & 1, 1, "INTR_REMAP");
    guest.boot();
    let table = guest.page();
    let entry = |index: u64, low: u64, high: u64| {
        guest.put(table + index * 16 + 8, high);
        guest.put(table + index * 16, low);
    };
    let source = SourceId(SOURCE);
    entry(4, 1 | 0x33 << 16 | 0x105 << 32, 1 << 18 | u64::from(SOURCE));
    let message = Msi {
        address: 0xfee0_0010 | 1 << 3 | 4 << 5,
        data: 0,
    };
    // Off, messages are what they are.
    assert_eq!(guest.unit.remap(source, message), Some(message));
    guest.events();
    guest.write8(0xb8, table | 1 << 11 | 7);
    guest.command(1 << 24);
    guest.command(1 << 25);
    assert!(!guest.events().is_empty(), "routes are to be made again");
    let remapped = Msi {
        address: 0x100_0000_0000 | 0xfee0_5000,
        data: 0x33,
    };
    assert_eq!(guest.unit.remap(source, message), Some(remapped));
    // Another function's, one that is not there, and the old format are blocked and recorded.
    assert_eq!(guest.unit.remap(SourceId(0x30), message), None);
    let absent = Msi {
        address: 0xfee0_0010 | 5 << 5,
        data: 0,
    };
    assert_eq!(guest.unit.remap(source, absent), None);
    let old = Msi {
        address: 0xfee0_0000,
        data: 0x33,
    };
    assert_eq!(guest.unit.remap(source, old), None);
    let first = (guest.read8(8) >> 24 & 0x3ff) * 16;
    assert_eq!(guest.read8(first) >> 48, 4, "the index");
    assert_eq!(guest.read8(first + 16) >> 48, 5);
    assert_eq!(guest.faults(), [0x26, 0x22, 0x25]);
    // An entry changes.
    guest.events();
    guest.submit(&[[4 | 1 << 4 | 4 << 32, 0]]);
    let events = guest.events();
    assert!(
        events.iter().any(|event| event.contains("entries 4 to 4")),
        "{events:?}"
    );
    guest.submit(&[[4, 0]]);
    assert!(guest
        .events()
        .iter()
        .any(|event| event.contains("all entries")));
    let stats = guest.unit.stats();
    assert_eq!(
        (stats.interrupts_remapped, stats.interrupts_blocked),
        (2, 3)
    );
    // After a reset they are as they were.
    guest.unit.reset();
    assert_eq!(guest.unit.remap(source, message), Some(message));
}

/// A second device behind a unit, in the same context.
fn second(guest: &Guest, unit: &Arc<Vtd>, source: u16) -> Second {
    let bdf: Bdf = "0000:3a:05.0".parse().unwrap();
    let device = guest.bus.add(bdf, &SoftDeviceOptions::default()).unwrap();
    unit.set_source_id(bdf, SourceId(source));
    let plugged = guest.host.plug(bdf, unit.clone()).unwrap();
    Second {
        device,
        _plugged: plugged,
    }
}

struct Second {
    device: host_iommu::backend::soft::SoftDevice,
    _plugged: host_iommu::Plugged,
}

impl Second {
    fn load(&self, pasid: u32, address: u64) -> Option<DmaEnd> {
        let dma = Dma::read(Iova(address), 8).at(pasid.try_into().unwrap());
        self.device
            .run(dma.no_page_requests(), Duration::ZERO)
            .unwrap()
    }
}

#[test]
fn devices_share_a_pasids_number() {
    let mut guest = Guest::new();
    let other = second(&guest, &guest.unit.clone(), 0x30);
    guest.boot_but(|guest| guest.put(CONTEXTS + 0x30 * 32, DIRECTORY | 0x1d));
    guest.command(1 << 31);
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 1);
    // The number that the guest has written into both devices' registers.
    let five = Pasid::try_from(5).unwrap();
    for device in [guest.device.address(), other.device.address()] {
        assert_eq!(guest.host.host_pasid(device, five), Some(five));
    }
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    assert_eq!(other.load(5, GVA), done(1));
    guest.set_entry(5, [0; 3]);
    guest.pasid_changed(5);
    assert_eq!(guest.host.stats().unwrap().pasids, 0, "freed with the last");
}

/// Boots the guest's unit, and another one on tables of its own. PASID 5 of [`SOURCE`] is bound in both,
/// with 1 at [`GVA`] in the first and 2 in the other.
fn boot_both(guest: &mut Guest, unit: &Vtd) {
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 1);
    let [context, directory, table, root, root_table] = [0; 5].map(|_: u64| guest.page());
    let page = guest.map(root, GVA);
    guest.put(page, 2);
    guest.put(root_table, context | 1);
    guest.put(context + u64::from(SOURCE) * 32, directory | 0xd);
    guest.put(directory, table | 1);
    guest.put(table + 5 * 64 + 8, 2);
    guest.put(table + 5 * 64 + 16, root);
    guest.put(table + 5 * 64, 1 | 1 << 6);
    unit.write(0x20, &(root_table | 1 << 10).to_le_bytes());
    unit.write(0x18, &(1u32 << 30).to_le_bytes());
    unit.write(0x18, &(1u32 << 31).to_le_bytes());
    while unit.run() {}
}

/// Whether a unit has a fault in its first record.
fn has_fault(guest: &Guest, unit: &Vtd) -> bool {
    let mut high = [0; 8];
    let first = (guest.read8(8) >> 24 & 0x3ff) * 16;
    unit.read(first + 8, &mut high);
    u64::from_le_bytes(high) >> 63 == 1
}

#[test]
fn units_of_one_context_have_the_same_numbers() {
    let mut guest = Guest::new();
    let told = Arc::new(Told::default());
    let config = guest.unit.config().clone();
    let unit = Vtd::new(config, guest.memory.clone(), told).unwrap();
    let other = second(&guest, &unit, SOURCE);
    boot_both(&mut guest, &unit);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    assert_eq!(other.load(5, GVA), done(2));
    // A fault of the second unit's device comes to the first one's queue, and to its own registers.
    let dma = Dma::read(Iova(GVA + 0x1000), 8).no_ats();
    other.device.run(dma, Duration::ZERO).unwrap();
    guest.deliver();
    assert!(has_fault(&guest, &unit));
    assert_eq!(guest.faults(), [0; 0]);
}

#[test]
fn units_of_two_contexts_have_nothing_to_do_with_each_other() {
    let mut guest = Guest::new();
    let soft = Soft::new();
    let bus = soft.bus();
    // The name of the first one's device, too.
    let bdf = guest.device.address();
    let device = bus.add(bdf, &SoftDeviceOptions::default()).unwrap();
    let host = HostIommu::new(soft);
    RegionListener::new(host.clone())
        .update(&*guest.memory)
        .unwrap();
    let config = guest.unit.config().clone();
    let told = Arc::new(Told::default());
    let unit = Vtd::new(config, guest.memory.clone(), told).unwrap();
    unit.set_source_id(bdf, SourceId(SOURCE));
    let other = Second {
        device,
        _plugged: host.plug(bdf, unit.clone()).unwrap(),
    };
    boot_both(&mut guest, &unit);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    assert_eq!(other.load(5, GVA), done(2));
    let pasids = |host: &HostIommu| host.stats().unwrap().pasids;
    assert_eq!((pasids(&guest.host), pasids(&host)), (1, 1));
    // What becomes of one is nothing to the other: a fault, an entry that goes, a reset.
    let dma = Dma::read(Iova(GVA + 0x1000), 8).no_ats();
    other.device.run(dma, Duration::ZERO).unwrap();
    let queue = unit.fault_queue(bdf).unwrap();
    while !matches!(queue.deliver(&*unit).unwrap(), Delivered::Nothing) {}
    guest.deliver();
    assert!(has_fault(&guest, &unit));
    assert_eq!(guest.faults(), [0; 0]);
    guest.set_entry(5, [0; 3]);
    guest.pasid_changed(5);
    assert_eq!((pasids(&guest.host), pasids(&host)), (0, 1));
    assert_eq!(other.load(5, GVA), done(2));
    unit.reset();
    assert_eq!(pasids(&host), 0);
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 3);
    assert_eq!(guest.load(Some(5), GVA, false), done(3));
}

#[test]
fn device_is_plugged_in_again_while_its_queue_is_polled() {
    let mut guest = Guest::new();
    guest.boot();
    let polled = guest.unit.fault_queue(guest.device.address()).unwrap();
    guest.unplug();
    assert!(guest.unit.fault_queue(guest.device.address()).is_none());
    assert_eq!(polled.deliver(&*guest.unit).unwrap(), Delivered::Nothing);
    guest.plug();
    let queue = guest.unit.fault_queue(guest.device.address()).unwrap();
    assert!(
        Arc::ptr_eq(&polled, &queue),
        "the poll thread goes on with it"
    );
    guest.bind(5);
    let _ = guest.load(Some(5), GVA, true);
    assert_eq!(polled.deliver(&*guest.unit).unwrap(), Delivered::Events(1));
    assert_eq!(guest.unit.waiting(), 1);
    // And so it does when nobody polled.
    drop((polled, queue));
    guest.unplug();
    guest.plug();
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Invalidated>>);

impl InvalidationListener for Heard {
    fn invalidated(&self, what: &Invalidated) {
        self.0.lock().unwrap().push(*what);
    }
}

#[test]
fn who_keeps_translations_hears_of_invalidations_before_the_guest_does() {
    let mut guest = Guest::new();
    guest.boot();
    let heard = Arc::new(Heard::default());
    let listener: Arc<dyn InvalidationListener> = heard.clone();
    guest.unit.add_listener(&listener);
    // Of a PASID that no passed-through device has.
    guest.submit(&[[6 | 3 << 4 | 2 << 16 | 77 << 32, GVA | 1]]);
    let all: Vec<Invalidated> = heard.0.lock().unwrap().drain(..).collect();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].pasid, Some(77));
    assert_eq!(all[0].range.start().0, GVA & !0x1fff);
    guest.submit(&[[2 | 1 << 4, 0]]);
    assert_eq!(heard.0.lock().unwrap()[0].pasid, None);
    drop((heard, listener));
    guest.submit(&[[2 | 1 << 4, 0]]);
    assert!(guest.is_done());
}

#[test]
fn wait_is_not_done_before_an_access_that_began_before() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 1);
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    for _ in 0..3 {
        let held = dma
            .get_slices(GuestAddress(GVA), 8, Permissions::Write)
            .unwrap();
        guest.submit(&[[6 | 3 << 4 | 2 << 16 | 5 << 32, GVA]]);
        assert!(!guest.is_done(), "the device may write yet");
        // Another access begins and ends meanwhile.
        let _: u64 = dma.read_obj(GuestAddress(GVA)).unwrap();
        while guest.unit.run() {}
        assert!(!guest.is_done());
        let before = *guest.told.more.lock().unwrap();
        for slice in held {
            slice.unwrap().write_obj(7u64, 0).unwrap();
        }
        assert_eq!(*guest.told.more.lock().unwrap(), before + 1);
        while guest.unit.run() {}
        assert!(guest.is_done());
    }
}

#[test]
fn wait_with_pd_comes_after_the_page_requests_before_it() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    let _ = guest.load(Some(5), GVA, true);
    // In the host's queue, and not delivered.
    assert_eq!(guest.read8(0xc8), 0, "PQT");
    guest.put(STATUS, 0);
    guest.write_descriptors(&[[1 << 32 | 1 << 7 | 1 << 5 | 5, STATUS]]);
    while guest.unit.run() {}
    assert!(guest.is_done());
    assert_eq!(guest.read8(0xc8), 32, "PQT");
    assert_eq!(guest.unit.waiting(), 1);
}

#[test]
fn requests_that_the_host_lost_interrupt_the_guest() {
    let mut guest = Guest::new();
    guest.boot();
    guest.interrupts();
    guest.unit.overflow(1);
    assert_eq!(guest.read4(0xdc) & 2, 2, "PRO");
    assert_eq!(guest.interrupts(), [0xe0]);
}

#[test]
fn pages_between_two_waits_are_one_call_of_the_host() {
    let control = Control::default();
    let theirs = control.clone();
    let mut guest = Guest::over(
        move |soft, _| HostIommu::new(Unreliable::new(soft, theirs)),
        |config| config,
    );
    guest.boot();
    guest.bind(5);
    control.plan().flushed.clear();
    let page = |index: u64| {
        [
            6 | 3 << 4 | 2 << 16 | 5 << 32,
            (GVA + index * 0x2000) | 1 << 6,
        ]
    };
    let pages: Vec<[u64; 2]> = (0..100).map(page).collect();
    guest.submit(&pages);
    assert!(guest.is_done());
    assert_eq!(control.plan().flushed, [100]);
    // Pages that follow each other are one entry.
    control.plan().flushed.clear();
    let page = |index: u64| {
        [
            6 | 3 << 4 | 2 << 16 | 5 << 32,
            (GVA + index * 0x1000) | 1 << 6,
        ]
    };
    let pages: Vec<[u64; 2]> = (0..100).map(page).collect();
    guest.submit(&pages);
    assert_eq!(control.plan().flushed, [1]);
    let stats = guest.unit.stats();
    assert_eq!(stats.flushes_failed, 0);
    assert!(stats.descriptors >= 200 && stats.waits >= 2, "{stats:?}");
}

#[test]
fn host_with_fewer_address_bits_is_followed() {
    let guest = Guest::new();
    let mut nesting = guest.host.capabilities().unwrap().nesting.unwrap();
    nesting.vtd_cap |= 38 << 16;
    let config = VtdConfig::carried_by(&nesting);
    assert_eq!(config.address_bits, 39);
    assert!(config.check(&nesting).is_ok());
    let mut wide = config;
    wide.address_bits = 46;
    let refused = wide.check(&nesting);
    assert_eq!(refused, Err(host_iommu::vtd::NotCarried::AddressBits));
}

#[test]
fn walks_are_coherent_where_the_hosts_are() {
    let guest = Guest::new();
    let mut nesting = guest.host.capabilities().unwrap().nesting.unwrap();
    nesting.vtd_ecap |= SMPWC;
    let coherent = VtdConfig::carried_by(&nesting);
    nesting.vtd_ecap &= !SMPWC;
    let others = VtdConfig::carried_by(&nesting);
    let refused = coherent.check(&nesting);
    assert_eq!(refused, Err(host_iommu::vtd::NotCarried::CoherentWalks));
    assert!(others.check(&nesting).is_ok());
    for (config, offered) in [(coherent, true), (others, false)] {
        let mut guest = Guest::with(|_| config);
        assert_eq!(guest.read8(0x10) & SMPWC != 0, offered);
        // An entry that asks for it where it is not offered is reserved.
        guest.boot();
        let root = guest.page();
        guest.set_entry(5, [1 | 1 << 6, 1 << 23 | 2, root]);
        guest.events();
        guest.pasid_changed(5);
        let events = guest.events();
        let reserved = events.iter().any(|event| event.contains("0x5a"));
        assert_eq!(reserved, !offered, "{events:?}");
    }
    // A shadow's walks are a CPU's.
    nesting.shadowed = Some(Shadowing::CachingMode);
    assert!(VtdConfig::carried_by(&nesting).coherent_walks);
}

#[test]
fn snoop_control_is_that_of_the_host() {
    let guest = Guest::new();
    let mut nesting = guest.host.capabilities().unwrap().nesting.unwrap();
    nesting.coherent = true;
    nesting.vtd_ecap |= 1 << 7;
    assert!(VtdConfig::carried_by(&nesting).snoop_control);
    nesting.coherent = false;
    assert!(!VtdConfig::carried_by(&nesting).snoop_control);
    // An entry that asks for it where it is not offered is reserved.
    let mut guest = Guest::with(|mut config| {
        config.snoop_control = false;
        config
    });
    guest.boot();
    let root = guest.page();
    guest.set_entry(5, [1 | 1 << 6, 1 << 24 | 2, root]);
    guest.events();
    guest.pasid_changed(5);
    let events = guest.events();
    assert!(
        events.iter().any(|event| event.contains("0x5a")),
        "{events:?}"
    );
}

#[test]
fn legacy_mode_has_the_reasons_of_tables_too() {
    let mut guest = both_stages();
    let root = guest.page();
    boot_in_legacy_mode(&mut guest, [root | 1, 9 << 8 | 2]);
    guest.map_second(root, GVA, 3);
    let fault = |guest: &Guest, pasid: Option<u32>, address: u64| {
        let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), pasid);
        let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
        assert!(dma.read_obj::<u64>(GuestAddress(address)).is_err());
        guest.faults()
    };
    let mut leaf = root;
    for shift in [39, 30, 21] {
        leaf = guest.get(leaf + 8 * (GVA >> shift & 0x1ff)) & !0xfff;
    }
    let leaf = leaf + 8 * (GVA >> 12 & 0x1ff);
    let upper = root + 8 * (GVA >> 39 & 0x1ff);
    let context = CONTEXTS + u64::from(SOURCE) * 16;
    let nowhere = 0x30_0000_0000;
    for (at, word, reason) in [
        (upper, nowhere | 3, 0x7),
        (leaf, 1 << 46 | 3, 0xc),
        (leaf, 0xfee0_0003, 0xe),
        (context, 1 << 46 | 1, 0xb),
        (ROOT, nowhere | 1, 0x9),
        (ROOT, CONTEXTS | 3, 0xa),
        (ROOT, 0, 0x1),
    ] {
        let good = guest.get(at);
        guest.put(at, word);
        assert_eq!(fault(&guest, None, GVA), [reason], "{word:#x} at {at:#x}");
        guest.put(at, good);
    }
    guest.write8(0x20, nowhere);
    guest.command(1 << 30);
    assert_eq!(fault(&guest, None, GVA), [0x8]);
    // The same of a PASID's second stage.
    let mut guest = both_stages();
    guest.boot();
    let root = guest.bind_second(5);
    guest.map_second(root, GVA, 3);
    for (word, reason) in [(nowhere | 3, 0x78), (1 << 46 | 3, 0x7a), (0, 0x79)] {
        guest.put(root + 8 * (GVA >> 39 & 0x1ff), word);
        assert_eq!(fault(&guest, Some(5), GVA), [reason], "{word:#x}");
    }
}

#[test]
fn shadows_flags_are_dirty_memory() {
    use host_iommu::backend::soft::Soft;
    use host_iommu::{Gpa, GuestTable, PasidRequest, SharedMemory};
    use vm_memory::bitmap::{AtomicBitmap, Bitmap};
    use vm_memory::{FileOffset, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

    let soft = Soft::new();
    let bus = soft.bus();
    let device: Bdf = "0000:3a:04.0".parse().unwrap();
    let _device = bus.add(device, &SoftDeviceOptions::default()).unwrap();
    let shared = SharedMemory::new(c"guest", 1 << 20).unwrap();
    let file = Some(FileOffset::new(shared.file().try_clone().unwrap(), 0));
    let ranges = [(GuestAddress(0), 1 << 20, file)];
    let memory = GuestMemoryMmap::<AtomicBitmap>::from_ranges_with_files(ranges).unwrap();
    let memory = Arc::new(memory);
    let shadow = Shadow::over(soft, memory.clone(), Shadowing::EveryChange).unwrap();
    let host = HostIommu::new(shadow);
    host.map(Iova(0), &shared, host_iommu::MapAccess::ReadWrite)
        .unwrap();
    for (at, word) in [
        (0x1000u64, 0x2007u64),
        (0x2000, 0x3007),
        (0x3000, 0x4007),
        (0x4008, 0x5007),
    ] {
        // Past the bitmap.
        let file = shared.file();
        std::os::unix::fs::FileExt::write_all_at(file, &word.to_le_bytes(), at).unwrap();
    }
    let is_dirty = |at: usize| {
        let region = memory.find_region(GuestAddress(at as u64)).unwrap();
        region.bitmap().dirty_at(at)
    };
    let pasids = host.alloc_pasids(&PasidRequest::any()).unwrap();
    let table = GuestTable::four_level(Gpa(0x1000));
    let _bound = host
        .bind(device, &pasids, pasids.first(), &table, None)
        .unwrap();
    for at in [0x1000, 0x2000, 0x3000, 0x4008] {
        assert!(is_dirty(at), "{at:#x}");
    }
    assert!(!is_dirty(0x5000));
}
