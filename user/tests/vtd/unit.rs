// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a guest asks of the unit, and what becomes of it.

use crate::guest::*;
use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDeviceOptions};
use host_iommu::shadow::Shadow;
use host_iommu::vtd::{NotCarried, SourceId, VtdTranslation};
use host_iommu::{Delivered, Error, HostIommu, Iova, Shadowing};
use std::sync::Arc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, GuestMemory, IommuMemory, Permissions};
#[test]
fn pasid_entry_becomes_a_binding_and_a_descriptor_a_flush() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 0x1111);
    assert_eq!(guest.load(Some(5), GVA, false), done(0x1111));
    // The guest moves the page: the device knows the old one until it is told.
    let other = guest.map(root, GVA);
    guest.put(other, 0x2222);
    assert_eq!(guest.load(Some(5), GVA, false), done(0x1111));
    guest.submit(&[[6 | 3 << 4 | 2 << 16 | 5 << 32, GVA | 1 << 6]]);
    assert!(guest.is_done());
    assert_eq!(guest.load(Some(5), GVA, false), done(0x2222));
    // Another domain's flush is not this one's.
    let third = guest.map(root, GVA);
    guest.put(third, 0x3333);
    guest.submit(&[[6 | 2 << 4 | 3 << 16 | 5 << 32, 0]]);
    assert_eq!(guest.load(Some(5), GVA, false), done(0x2222));
    guest.submit(&[[6 | 2 << 4 | 2 << 16 | 5 << 32, 0]]);
    assert_eq!(guest.load(Some(5), GVA, false), done(0x3333));
}

#[test]
fn entry_that_goes_is_unbound_and_one_that_changes_is_rebound() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 1);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    let other = guest.bind(5);
    let page = guest.map(other, GVA);
    guest.put(page, 2);
    assert_eq!(guest.load(Some(5), GVA, false), done(2));
    assert_eq!(guest.host.stats().unwrap().bindings, 1);
    // Passthrough: addresses are guest-physical.
    guest.set_entry(5, [1 | 4 << 6, 2, 0]);
    guest.pasid_changed(5);
    assert_eq!(guest.load(Some(5), page, false), done(2));
    guest.set_entry(5, [0, 0, 0]);
    guest.pasid_changed(5);
    assert_eq!(guest.host.stats().unwrap().bindings, 0);
    let end = guest.load(Some(5), page, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(page))));
}

#[test]
fn requests_without_pasid_follow_their_entry() {
    let mut guest = Guest::new();
    guest.boot();
    guest.put(0x20_0000, 7);
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));
    let root = guest.page();
    let page = guest.map(root, GVA);
    guest.put(page, 8);
    guest.set_entry(0, [1 | 1 << 6, 1, root]);
    guest.pasid_changed(0);
    assert_eq!(guest.load(None, GVA, false), done(8));
    // An entry that is not there stops them.
    guest.set_entry(0, [0, 0, 0]);
    guest.pasid_changed(0);
    assert!(matches!(
        guest.load(None, 0x20_0000, false),
        Some(DmaEnd::NoAccess(_))
    ));
    // Without translation they reach guest memory as before.
    guest.write4(0x18, 1 << 26);
    assert_eq!(guest.read4(0x1c) >> 31, 0);
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));
}

#[test]
fn page_request_reaches_the_guest_and_its_answer_the_device() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    assert_eq!(guest.load(Some(5), GVA, true), None);
    assert_eq!(guest.deliver(), Delivered::Events(1));
    assert_eq!(guest.interrupts(), [0xe0]);
    assert_eq!(guest.read4(0xdc), 1);
    assert_eq!(guest.read8(0xc8), 32);
    let (first, second) = (guest.get(REQUESTS), guest.get(REQUESTS + 8));
    assert_eq!(first & 0xff, 1);
    assert_eq!(first >> 8 & 1, 1);
    assert_eq!(first >> 16 & 0xffff, u64::from(SOURCE));
    assert_eq!(first >> 32 & 0xf_ffff, 5);
    assert_eq!(second & !0xfff, GVA);
    assert_eq!(second & 5, 5, "a read, the last of its group");
    let page = guest.map(root, GVA);
    guest.put(page, 9);
    let group = second >> 3 & 0x1ff;
    guest.write4(0xdc, 1);
    guest.write8(0xc0, 32);
    let source = u64::from(SOURCE);
    guest.submit(&[[9 | 1 << 4 | source << 16 | 5 << 32, group << 3]]);
    assert_eq!(guest.unit.waiting(), 0);
    assert_eq!(guest.device.counters().success, 1);
    assert_eq!(guest.load(Some(5), GVA, false), done(9));
}

#[test]
fn page_requests_over_the_queue_are_invalid_and_told() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    // A page has room for 127.
    for number in 0..130u64 {
        let _ = guest.load(Some(5), GVA + number * 4096, true);
        guest.deliver();
    }
    assert_eq!(guest.read4(0xdc), 3);
    assert_eq!(guest.unit.waiting(), 127);
    assert_eq!(guest.device.counters().invalid, 3);
    // One interrupt for what is there, one for what was lost.
    assert_eq!(guest.interrupts(), [0xe0, 0xe0]);
    // The guest has taken all, and cleared the bits: there is room again.
    let tail = guest.read8(0xc8);
    guest.write8(0xc0, tail);
    guest.write4(0xdc, 3);
    let _ = guest.load(Some(5), GVA + 200 * 4096, true);
    guest.deliver();
    assert_eq!(guest.interrupts(), [0xe0]);
    // What waits is answered when the entry goes.
    guest.set_entry(5, [0, 0, 0]);
    guest.pasid_changed(5);
    guest.deliver();
    assert_eq!(guest.unit.waiting(), 0);
    assert_eq!(guest.device.counters().invalid, 3 + 128);
}

#[test]
fn stopped_dma_is_recorded() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    // Without ATS, whose translation requests end in a refusal and no fault.
    let dma = Dma::read(Iova(GVA), 8).at(5.try_into().unwrap()).no_ats();
    let end = guest.device.run(dma, Duration::ZERO).unwrap();
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(GVA))));
    guest.deliver();
    assert_eq!(guest.interrupts(), [0x38]);
    assert_eq!(guest.read4(0x34) & 3, 2);
    let offset = (guest.read8(8) >> 24 & 0x3ff) * 16;
    assert_eq!(guest.read8(offset), GVA);
    let high = guest.read8(offset + 8);
    assert_eq!(high & 0xffff, u64::from(SOURCE));
    assert_eq!(high >> 40 & 0xf_ffff, 5);
    assert_eq!(high >> 32 & 0xff, 0x71);
    guest.write4(offset + 12, 1 << 31);
    assert_eq!(guest.read4(0x34) & 3, 0);
}

#[test]
fn malformed_descriptor_stops_the_queue_until_it_is_cleared() {
    let mut guest = Guest::new();
    guest.boot();
    guest.submit(&[[0xf, 0]]);
    assert!(!guest.is_done());
    assert_eq!(guest.interrupts(), [0x38]);
    assert_eq!(guest.read4(0x34), 0x10);
    assert_eq!(guest.read8(0xb0) & 0xf, 3);
    assert_eq!(guest.read8(0x80), 0);
    // The guest puts a wait in its place, as Linux does.
    guest.put(QUEUE, 1 << 6 | 5);
    guest.write4(0x34, 0x10);
    assert!(guest.is_done());
    assert_eq!(guest.read8(0x80), guest.read8(0x88));
}

#[test]
fn queue_in_no_memory_and_tail_beyond_it_stop_it() {
    let mut guest = Guest::new();
    guest.boot();
    guest.write8(0x90, 1 << 40 | 1 << 11);
    guest.write8(0x88, 32);
    assert_eq!((guest.read4(0x34), guest.read8(0xb0)), (0x10, 2));
    guest.write8(0x90, QUEUE | 1 << 11);
    guest.write8(0x88, 0x2000);
    guest.write4(0x34, 0x10);
    assert_eq!((guest.read4(0x34), guest.read8(0xb0)), (0x10, 1));
}

#[test]
fn context_that_carries_less_is_refused() {
    let guest = Guest::new();
    let host = HostIommu::new(Soft::new());
    let device = "0000:3a:05.0".parse().unwrap();
    let refused = host.plug(device, guest.unit.clone());
    assert!(
        matches!(refused, Err(Error::NotCarried { .. })),
        "{refused:?}"
    );
}

#[test]
fn emulated_device_is_behind_the_same_unit() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    let next = guest.map(root, GVA + 0x1000);
    // Its own source, which the guest has in the same context table.
    let context = CONTEXTS + 0x30 * 32;
    guest.put(context, DIRECTORY | 0x1d);
    let behind = |pasid| {
        let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(0x30), pasid);
        IommuMemory::new((*guest.memory).clone(), iommu, true, ())
    };
    let dma = behind(Some(5));
    dma.write_slice(&[7; 0x20], GuestAddress(GVA + 0xff0))
        .unwrap();
    assert_eq!(guest.get(page + 0xff8), 0x0707_0707_0707_0707);
    assert_eq!(guest.get(next + 8), 0x0707_0707_0707_0707);
    // Without PASID it passes through.
    let plain = behind(None);
    assert_eq!(
        plain.read_obj::<u64>(GuestAddress(next + 8)).unwrap(),
        0x0707_0707_0707_0707
    );
    // What is not there is recorded.
    assert!(dma.read_obj::<u64>(GuestAddress(GVA + 0x2000)).is_err());
    assert_eq!(guest.interrupts(), [0x38]);
    let offset = (guest.read8(8) >> 24 & 0x3ff) * 16;
    assert_eq!(guest.read8(offset), GVA + 0x2000);
    assert_eq!(guest.read8(offset + 8) & 0xffff, 0x30);
    // What is cached stays until it is invalidated.
    let other = guest.map(root, GVA);
    guest.put(other, 0x42);
    let seen = |dma: &IommuMemory<_, _>| dma.read_obj::<u64>(GuestAddress(GVA)).unwrap();
    assert_eq!(seen(&dma), 0);
    guest.submit(&[[6 | 3 << 4 | 2 << 16 | 5 << 32, GVA | 1 << 6]]);
    assert_eq!(seen(&dma), 0x42);
}

#[test]
fn saved_unit_goes_on_where_it_was() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 4);
    let saved = guest.unit.save();
    guest.unit.reset();
    assert_eq!(guest.host.stats().unwrap().bindings, 0);
    guest.unit.restore(saved.clone()).unwrap();
    while guest.unit.run() {}
    assert_eq!(guest.load(Some(5), GVA, false), done(4));
    assert_eq!(guest.unit.save(), saved);
    guest.submit(&[[1 << 4 | 1, 0]]);
    assert!(guest.is_done());
    // One that offers something else is not made of it.
    let other = Guest::with(|mut config| {
        config.pasid_bits = 8;
        config
    });
    let error = other.unit.restore(saved).unwrap_err();
    assert_eq!(
        error.to_string(),
        "VtdState: pasid_bits is not that of this unit"
    );
}

#[test]
fn pasids_of_a_large_directory_are_looked_at_in_pieces() {
    let mut guest = Guest::new();
    guest.boot();
    // A directory of 2^10 entries which all lead to one table, whose entries are there.
    let directory = 0x80_0000;
    for index in 0..1 << 10 {
        guest.put(directory + index * 8, PASIDS | 1);
    }
    for pasid in 0..64 {
        guest.set_entry(pasid, [1 | 1 << 6, 2, 0x9000]);
    }
    let context = CONTEXTS + u64::from(SOURCE) * 32;
    guest.put(context, directory | 3 << 9 | 0x1d);
    let before = *guest.told.more.lock().unwrap();
    guest.put(QUEUE + guest.tail, 7 | 3 << 4);
    guest.put(QUEUE + guest.tail + 8, 0);
    guest.tail += 32;
    guest.write8(0x88, guest.tail);
    assert_eq!(*guest.told.more.lock().unwrap(), before + 1);
    assert_ne!(guest.read8(0x80), guest.tail, "the descriptor is not done");
    assert!(guest.host.stats().unwrap().bindings < 100);
    let mut rounds = 0;
    while guest.unit.run() {
        rounds += 1;
    }
    assert!(rounds > 100, "{rounds}");
    assert_eq!(guest.read8(0x80), guest.tail);
    let bound = guest.host.stats().unwrap().bindings;
    // And the one of requests without PASID.
    assert_eq!(bound as usize, host_iommu::vtd::MAX_BINDINGS + 1);
    // What could not be bound is told.
    assert_eq!(guest.read4(0x34) & 3, 3);
    guest.unit.reset();
    assert_eq!(guest.host.stats().unwrap().bindings, 0);
    assert_eq!(guest.read4(0x1c), 0);
}

#[test]
fn million_descriptors() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    guest.map(root, GVA);
    let before = guest.host.stats().unwrap().invalidations;
    for slot in 0..4096 / 32 {
        guest.put(QUEUE + slot * 32, 6 | 3 << 4 | 2 << 16 | 5 << 32);
        guest.put(QUEUE + slot * 32 + 8, GVA | 1 << 6);
    }
    let mut done = 0;
    while done < 1_000_000 {
        // As many as the ring holds.
        guest.tail = (guest.tail + 127 * 32) % 4096;
        guest.write8(0x88, guest.tail);
        while guest.unit.run() {}
        assert_eq!(guest.read8(0x80), guest.tail);
        done += 127;
    }
    assert_eq!(guest.unit.stats().descriptors, done + 3);
    // What is asked for between two writes of the tail is one call.
    let after = guest.host.stats().unwrap().invalidations;
    assert!(after - before < done / 100, "{}", after - before);
}

#[test]
fn emulated_device_holds_one_access_over_another() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let (first, second) = (guest.map(root, GVA), guest.map(root, GVA + 0x1000));
    guest.put(first, 1);
    guest.put(second, 2);
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    let (done, wait) = std::sync::mpsc::channel();
    // In a thread, so that one which waits for itself fails the test.
    std::thread::spawn(move || {
        let address = GuestAddress(GVA);
        let held = dma.get_slices(address, 8, Permissions::Read).unwrap();
        let missed = dma.read_obj::<u64>(GuestAddress(GVA + 0x1000)).unwrap();
        let held = held.map(|slice| slice.unwrap().read_obj::<u64>(0).unwrap());
        done.send((missed, held.collect::<Vec<_>>())).unwrap();
    });
    let found = wait.recv_timeout(Duration::from_secs(10));
    assert_eq!(found, Ok((2, vec![1])));
}

#[test]
fn faults_are_told_as_long_as_the_guest_has_records() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    guest.told.events.lock().unwrap().clear();
    let touch = |page: u64| dma.write_obj(1u64, GuestAddress(GVA + page * 0x1000));
    for page in 0..12 {
        touch(page).unwrap_err();
    }
    let (told, stats) = (
        guest.told.events.lock().unwrap().clone(),
        guest.unit.stats(),
    );
    assert_eq!((told.len(), stats.faults, stats.faults_lost), (8, 8, 4));
    for (page, event) in told.iter().enumerate() {
        let address = GVA + page as u64 * 0x1000;
        assert!(
            event.contains("a fault of requests of 00:05.0 with PASID 5"),
            "{event}"
        );
        assert!(
            event.contains(&format!("a write at {address:#x}, reason")),
            "{event}"
        );
    }
}

#[test]
fn emulated_device_reaches_for_the_last_page() {
    let mut guest = Guest::new();
    guest.boot();
    let behind = |pasid| {
        let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), pasid);
        IommuMemory::new((*guest.memory).clone(), iommu, true, ())
    };
    let (plain, dma) = (behind(None), behind(Some(5)));
    let last = u64::MAX - 0xfff;
    assert!(plain.read_obj::<u64>(GuestAddress(last)).is_err());
    assert!(plain.read_obj::<u64>(GuestAddress(u64::MAX - 7)).is_err());
    let root = guest.bind(5);
    let page = guest.map(root, last);
    guest.put(page, 3);
    assert_eq!(dma.read_obj::<u64>(GuestAddress(last)).unwrap(), 3);
}

#[test]
fn unit_over_a_shadow_hides_the_first_stage() {
    let guest = Guest::shadowed();
    let (cap, ecap) = (guest.read8(8), guest.read8(0x10));
    assert_eq!(cap >> 7 & 1, 1, "caching mode");
    assert_eq!(cap >> 8 & 0x1f, 4, "48 bits");
    assert_eq!(cap >> 34 & 3, 3, "large pages");
    assert_eq!((cap >> 56 & 1, cap >> 60 & 1), (0, 0), "of the first stage");
    assert_eq!(ecap >> 46 & 3, 1, "second stage, and no first");
    assert_eq!(ecap >> 29 & 1, 0, "page requests");
    // On a host that nests it is the other way round.
    assert_eq!(Guest::new().read8(0x10) >> 46 & 3, 2);
}

#[test]
fn second_stage_is_followed_by_what_linux_sends_in_caching_mode() {
    let mut guest = Guest::shadowed();
    guest.boot();
    let root = guest.bind_second(5);
    let missing = Some(DmaEnd::NoAccess(Iova(GVA)));
    let gone = |guest: &Guest| guest.load(Some(5), GVA, false);
    assert_eq!(gone(&guest), missing);
    // It becomes present: known from the flush on.
    let page = guest.map_second(root, GVA, 3);
    guest.put(page, 0x1111);
    assert_eq!(gone(&guest), missing);
    guest.flush_second(3, GVA);
    assert_eq!(gone(&guest), missing, "another domain's");
    guest.flush_second(2, GVA);
    assert_eq!(guest.load(Some(5), GVA, false), done(0x1111));
    // Another page in its place, then none.
    let other = guest.map_second(root, GVA, 1);
    guest.put(other, 0x2222);
    assert_eq!(guest.load(Some(5), GVA, false), done(0x1111));
    guest.submit(&[[2 | 2 << 4 | 2 << 16, 0]]);
    assert_eq!(guest.load(Some(5), GVA, false), done(0x2222));
    let write = Dma::write(Iova(GVA), &[7; 8]).at(5.try_into().unwrap());
    let end = guest.device.run(write.no_page_requests(), Duration::ZERO);
    assert_eq!(end.unwrap(), missing, "read-only");
    guest.map_second(root, GVA, 0);
    guest.flush_second(2, GVA);
    assert_eq!(gone(&guest), missing);
    // The entry goes, and so does the shadow's copy.
    guest.set_entry(5, [0, 0, 0]);
    guest.pasid_changed(5);
    assert_eq!(guest.host.stats().unwrap().address_spaces, 0);
}

#[test]
fn second_stage_is_followed_without_pasid() {
    let mut guest = Guest::shadowed();
    guest.boot();
    guest.put(0x20_0000, 7);
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));
    let root = guest.page();
    let page = guest.map_second(root, GVA, 3);
    guest.put(page, 8);
    guest.set_entry(0, [root | 2 << 6 | 2 << 2 | 1, 1, 0]);
    guest.pasid_changed(0);
    assert_eq!(guest.load(None, GVA, false), done(8));
    assert!(matches!(
        guest.load(None, 0x20_0000, false),
        Some(DmaEnd::NoAccess(_))
    ));
    let next = guest.map_second(root, GVA + 0x1000, 1);
    guest.put(next, 9);
    guest.flush_second(1, GVA + 0x1000);
    assert_eq!(guest.load(None, GVA + 0x1000, false), done(9));
    // Passthrough again.
    guest.set_entry(0, [1 | 4 << 6, 1, 0]);
    guest.pasid_changed(0);
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));
}

#[test]
fn first_stage_entry_in_a_unit_over_a_shadow_is_a_fault() {
    let mut guest = Guest::shadowed();
    guest.boot();
    let root = guest.bind(5);
    guest.map(root, GVA);
    assert_eq!(guest.host.stats().unwrap().bindings, 0);
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    assert!(dma.read_obj::<u64>(GuestAddress(GVA)).is_err());
    let offset = (guest.read8(8) >> 24 & 0x3ff) * 16;
    assert_eq!(guest.read8(offset + 8) >> 32 & 0xff, 0x5b);
}

#[test]
fn emulated_device_follows_a_second_stage() {
    let mut guest = Guest::shadowed();
    guest.boot();
    let root = guest.bind_second(5);
    let page = guest.map_second(root, GVA, 3);
    guest.map_second(root, GVA + 0x1000, 1);
    let last = guest.map_second(root, GVA + 0x2000, 2);
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    let write = |at: u64| dma.write_obj(0x77u64, GuestAddress(GVA + at));
    write(0).unwrap();
    assert_eq!(guest.get(page), 0x77);
    assert!(write(0x1000).is_err(), "read-only");
    write(0x2000).unwrap();
    assert_eq!(guest.get(last), 0x77);
    let read = |at: u64| dma.read_obj::<u64>(GuestAddress(at));
    assert!(read(GVA + 0x2000).is_err(), "write-only");
    assert!(read(GVA + 0x3000).is_err(), "a hole");
    assert!(read(1 << 48 | GVA).is_err(), "more bits than it translates");
    let recorded = (0..4).map(|record| {
        let offset = (guest.read8(8) >> 24 & 0x3ff) * 16 + record * 16;
        guest.read8(offset + 8) >> 32 & 0xff
    });
    assert_eq!(recorded.collect::<Vec<_>>(), [0x79, 0x79, 0x79, 0x83]);
}

#[test]
fn unit_and_host_that_shadows_must_agree() {
    let refusal = |guest: Guest, host: HostIommu| {
        let device = "0000:3a:05.0".parse().unwrap();
        match host.plug(device, guest.unit.clone()) {
            Err(Error::NotCarried { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    let soft = || {
        let soft = Soft::new();
        let device = "0000:3a:05.0".parse().unwrap();
        // The bus lets go of a device when its handle is dropped.
        let device = soft.bus().add(device, &SoftDeviceOptions::default());
        (soft, device.unwrap())
    };
    let (native, _held) = soft();
    let what = refusal(Guest::shadowed(), HostIommu::new(native));
    assert_eq!(what, NotCarried::SecondStage);
    let (below, _held) = soft();
    let shadow = Shadow::over(below, Arc::new(memory()), Shadowing::CachingMode).unwrap();
    let what = refusal(Guest::new(), HostIommu::new(shadow));
    assert_eq!(what, NotCarried::FirstStage);
}
