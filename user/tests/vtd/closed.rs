// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is not allowed is stopped, status bits tell the truth, and nothing is told as done that is
//! not.

use crate::guest::*;
use crate::host::{Control, Unreliable};
use host_iommu::backend::soft::{Dma, DmaEnd, SoftDeviceOptions};
use host_iommu::shadow::Shadow;
use host_iommu::vtd::{NotCarried, SourceId};
use host_iommu::{Bdf, Error, HostIommu, Iova, Scope, Shadowing};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, IommuMemory};

/// Where the device's DMA goes if it is not translated.
const OPEN: u64 = 0x20_0000;

pub fn unreliable() -> (Guest, Control) {
    let control = Control::default();
    let theirs = control.clone();
    let guest = Guest::over(
        move |soft, _| HostIommu::new(Unreliable::new(soft, theirs)),
        |config| config,
    );
    (guest, control)
}

/// A table that maps the address to a page; gives the table's root and the page.
pub fn table_at(guest: &mut Guest, address: u64) -> (u64, u64) {
    let root = guest.page();
    let page = guest.map(root, address);
    (root, page)
}

#[test]
fn table_that_the_host_refuses_stops_requests_without_pasid() {
    for errno in [libc::EDQUOT, libc::ENOMEM, libc::EINVAL, libc::EOPNOTSUPP] {
        let (mut guest, control) = unreliable();
        guest.boot();
        guest.put(OPEN, 7);
        assert_eq!(guest.load(None, OPEN, false), done(7), "passed through");
        let (root, _) = table_at(&mut guest, OPEN);
        control.plan().binds = vec![errno];
        guest.set_entry(0, [1 | 1 << 6, 1, root]);
        guest.pasid_changed(0);
        let end = guest.load(None, OPEN, false);
        assert_eq!(end, Some(DmaEnd::NoAccess(Iova(OPEN))), "errno {errno}");
        assert_eq!(guest.faults(), [0x5b]);
    }
}

#[test]
fn table_that_the_host_refuses_stops_requests_with_a_pasid() {
    let (mut guest, control) = unreliable();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 1);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    control.plan().binds = vec![libc::ENOMEM];
    // Neither the old table nor any other.
    guest.bind(5);
    let end = guest.load(Some(5), GVA, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(GVA))));
}

#[test]
fn what_the_host_refuses_for_now_is_tried_again() {
    let (mut guest, control) = unreliable();
    guest.boot();
    control.plan().binds = vec![libc::EAGAIN; 3];
    let (root, page) = table_at(&mut guest, GVA);
    guest.put(page, 3);
    guest.set_entry(0, [1 | 1 << 6, 1, root]);
    guest.pasid_changed(0);
    assert_eq!(guest.load(None, GVA, false), done(3));
    assert_eq!(guest.faults(), [0; 0]);
    // A guest that has changed its mind is followed.
    control.plan().binds = vec![libc::EAGAIN];
    guest.set_entry(5, [1 | 1 << 6, 2, root | 1 << 4]);
    guest.write_descriptors(&[[7 | 1 << 4 | 2 << 16 | 5 << 32, 0]]);
    guest.set_entry(5, [0; 3]);
    guest.pasid_changed(5);
    let end = guest.load(Some(5), GVA, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(GVA))));
}

#[test]
fn flush_that_failed_is_not_told_as_done() {
    let (mut guest, control) = unreliable();
    guest.boot();
    let root = guest.bind(5);
    guest.map(root, GVA);
    guest.interrupts();
    control.plan().flushes = vec![libc::EIO];
    let flush = [6 | 3 << 4 | 2 << 16 | 5 << 32, GVA | 1 << 6];
    guest.submit(&[flush]);
    assert!(!guest.is_done());
    assert_eq!(guest.read4(0x34) & 0x40, 0x40, "ITE");
    assert_eq!(
        guest.read8(0xb0) >> 32 & 0xffff,
        u64::from(SOURCE),
        "ITESID"
    );
    assert_eq!(guest.interrupts(), [0x38]);
    // Where Linux looks: behind the wait that was not done.
    assert_eq!(guest.read8(0x80), guest.tail);
    // Nothing goes on until the guest has seen it.
    guest.submit(&[flush]);
    assert!(!guest.is_done());
    guest.write4(0x34, 0x40);
    assert!(guest.is_done());
    assert_eq!(guest.read4(0x34), 0);
}

#[test]
fn flush_of_a_device_that_is_gone_is_done() {
    let (mut guest, control) = unreliable();
    guest.boot();
    guest.bind(5);
    control.plan().flushes = vec![libc::ENODEV];
    guest.submit(&[[6 | 2 << 4 | 2 << 16 | 5 << 32, 0]]);
    assert!(guest.is_done());
}

#[test]
fn device_whose_unit_lacks_what_is_offered_is_refused() {
    let (guest, control) = unreliable();
    let second: Bdf = "0000:3a:05.0".parse().unwrap();
    let _device = guest.bus.add(second, &SoftDeviceOptions::default());
    // The guest's CPUs write to tables, and the unit would not see it.
    control.plan().lacks = Some((second, SMPWC));
    match guest.host.plug(second, guest.unit.clone()) {
        Err(Error::NotCarried { device, what }) => {
            assert_eq!((device, what), (second, NotCarried::CoherentWalks));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
    control.plan().lacks = None;
    guest.host.plug(second, guest.unit.clone()).unwrap();
}

#[test]
fn translation_is_told_as_on_when_it_is() {
    let mut guest = Guest::new();
    // A second device, and directories of 2^20 PASIDs for both.
    let second: Bdf = "0000:3a:05.0".parse().unwrap();
    let device = guest
        .bus
        .add(second, &SoftDeviceOptions::default())
        .unwrap();
    guest.unit.set_source_id(second, SourceId(0x30));
    let _plugged = guest.host.plug(second, guest.unit.clone()).unwrap();
    let directory = 0x80_0000;
    for index in 0..1u64 << 14 {
        guest.put(directory + index * 8, PASIDS | 1);
    }
    guest.boot_but(|guest| {
        for source in [u64::from(SOURCE), 0x30] {
            guest.put(CONTEXTS + source * 32, directory | 7 << 9 | 0x1d);
        }
        // Requests without PASID have no entry.
        guest.set_entry(0, [0; 3]);
    });
    guest.write4(0x18, 1 << 31 | 1 << 26);
    guest.put(OPEN, 7);
    let open = |device: &host_iommu::backend::soft::SoftDevice| {
        let dma = Dma::read(Iova(OPEN), 8).no_page_requests();
        device.run(dma, Duration::ZERO).unwrap() == done(7)
    };
    let mut before = 0;
    loop {
        let on = guest.read4(0x1c) >> 31 == 1;
        if on {
            assert!(!open(&guest.device) && !open(&device), "translation is on");
        } else {
            before += 1;
        }
        if !guest.unit.run() {
            break;
        }
    }
    assert!(before > 1, "it takes a while");
    assert_eq!(guest.read4(0x1c) >> 31, 1);
    assert!(!open(&guest.device) && !open(&device));
}

#[test]
fn restored_unit_lets_nothing_through() {
    let mut guest = Guest::new();
    guest.boot();
    guest.set_entry(0, [0; 3]);
    guest.pasid_changed(0);
    guest.put(OPEN, 7);
    let saved = guest.unit.save();
    guest.unit.reset();
    assert_eq!(guest.load(None, OPEN, false), done(7), "as after power-on");
    guest.unit.restore(saved).unwrap();
    let end = guest.load(None, OPEN, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(OPEN))));
    while guest.unit.run() {}
    let end = guest.load(None, OPEN, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(OPEN))));
}

#[test]
fn unit_is_saved_while_page_requests_wait() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    let _ = guest.load(Some(5), GVA, true);
    guest.deliver();
    assert_eq!(guest.unit.waiting(), 1);
    let group = guest.get(REQUESTS + 8) >> 3 & 0x1ff;
    let saved = guest.unit.save();
    guest.unit.restore(saved).unwrap();
    while guest.unit.run() {}
    assert_eq!(guest.unit.waiting(), 0);
    assert_eq!(guest.device.counters().invalid, 1);
    // The device asks again, and the guest's answer to the old group is not taken for the new one's.
    let _ = guest.load(Some(5), GVA, true);
    guest.deliver();
    assert_eq!(guest.unit.waiting(), 1);
    let source = u64::from(SOURCE);
    guest.submit(&[[9 | 1 << 4 | source << 16 | 5 << 32, group << 3]]);
    assert_eq!(guest.unit.waiting(), 1);
}

#[test]
fn device_reset_leaves_the_guests_entries_alone() {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 5);
    let (rid_root, rid_page) = table_at(&mut guest, GVA);
    guest.put(rid_page, 6);
    guest.set_entry(0, [1 | 1 << 6, 1, rid_root]);
    guest.pasid_changed(0);
    let _ = guest.load(Some(5), GVA + 0x1000, true);
    guest.deliver();
    assert_eq!(guest.unit.waiting(), 1);
    // What the host may lose, and the VMM unbind.
    guest
        .host
        .unbind(Scope::Device(guest.device.address()))
        .unwrap();
    guest.unit.device_reset(guest.device.address());
    assert_eq!(guest.unit.waiting(), 0);
    assert_eq!(guest.load(Some(5), GVA, false), done(5));
    assert_eq!(guest.load(None, GVA, false), done(6));
    // The guest's next descriptor finds nothing wrong.
    guest.pasid_changed(5);
    assert_eq!(guest.faults(), [0; 0]);
    guest.unit.device_reset("0000:00:01.0".parse().unwrap());
}

/// Never anything but the old state, the new one, or nothing at all: for all pairs of tables of both
/// stages, passthrough, and entries that stop requests. First-stage tables are nested by the host,
/// second-stage ones go through a shadow.
#[test]
fn no_other_state_shows_while_an_entry_changes() {
    let shadow = |soft, memory| Shadow::over(soft, memory, Shadowing::SecondStage).unwrap();
    let mut guest = Guest::over(
        |soft, memory| HostIommu::new(shadow(soft, memory)),
        |config| config,
    );
    guest.boot();
    let mut first_stage = || {
        let (root, page) = table_at(&mut guest, OPEN);
        ([1 | 1 << 6, 1, root], page)
    };
    let (first, other) = (first_stage(), first_stage());
    let mut second_stage = || {
        let root = guest.page();
        let page = guest.map_second(root, OPEN, 3);
        ([root | 2 << 6 | 2 << 2 | 1, 1 << 23 | 1, 0], page)
    };
    let (second, other_second) = (second_stage(), second_stage());
    let pass_through = ([1 | 4 << 6, 1, 0], OPEN);
    let places = [first, other, second, other_second, pass_through];
    let (absent, malformed) = ([0; 3], [1 | 5 << 6, 1, 0]);
    let states: Vec<[u64; 3]> = places
        .iter()
        .map(|(words, _)| *words)
        .chain([absent, malformed])
        .collect();
    let device = guest.device.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let hammer = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut stores = 0u64;
            while !stop.load(Ordering::Acquire) {
                let dma = Dma::write(Iova(OPEN), &[0xff; 8]).no_page_requests();
                device.run(dma, Duration::ZERO).unwrap();
                stores += 1;
            }
            stores
        })
    };
    for round in 0..10 {
        for &old in &states {
            for &new in &states {
                guest.set_entry(0, old);
                guest.pasid_changed(0);
                for (_, page) in places {
                    guest.put(page, 0);
                }
                // A store that began before may come yet.
                std::thread::sleep(Duration::from_micros(50));
                guest.set_entry(0, new);
                guest.pasid_changed(0);
                for (state, page) in places {
                    let stored = guest.get(page) != 0;
                    let allowed = state == old || state == new;
                    assert!(
                        !stored || allowed,
                        "{round}: {old:x?} to {new:x?}: {state:x?}"
                    );
                }
            }
        }
    }
    stop.store(true, Ordering::Release);
    assert!(hammer.join().unwrap() > 1000);
}

/// A flush takes its time at the host; registers, faults and emulated devices do not wait for it.
#[test]
fn nothing_waits_for_a_call_of_the_host() {
    let (mut guest, control) = unreliable();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 9);
    let iommu = host_iommu::vtd::VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    let (told, finished) = mpsc::channel();
    let unit = guest.unit.clone();
    let checked = AtomicBool::new(false);
    let told = std::sync::Mutex::new(told);
    control.plan().during = Some(Arc::new(move || {
        if checked.swap(true, Ordering::AcqRel) {
            return;
        }
        let (unit, told) = (unit.clone(), told.lock().unwrap().clone());
        let dma = dma.clone();
        // From another thread, so that one which waits fails the test.
        std::thread::spawn(move || {
            let mut status = [0; 4];
            unit.read(0x1c, &mut status);
            unit.write(0x38, &[0; 4]);
            // Work that comes meanwhile is left to whoever is at work.
            unit.run();
            let found: u64 = dma.read_obj(GuestAddress(GVA)).unwrap();
            told.send(found).unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
    }));
    let flush = [6 | 3 << 4 | 2 << 16 | 5 << 32, GVA | 1 << 6];
    let started = std::time::Instant::now();
    guest.submit(&[flush]);
    assert!(guest.is_done());
    let found = finished.recv_timeout(Duration::from_secs(10));
    assert_eq!(found, Ok(9));
    assert!(started.elapsed() >= Duration::from_millis(50));
}

/// What a shadow had stays when it is at its limit, and the guest is told of the rest.
#[test]
fn shadow_at_its_limit_keeps_what_it_had() {
    let mut guest = Guest::shadowed();
    guest.boot();
    let root = guest.bind_second(5);
    let page = guest.map_second(root, GVA, 3);
    guest.put(page, 1);
    guest.flush_second(2, GVA);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    // One table of 512 pages is named by each entry of two tables of 512: as many as the limit, and
    // the one page.
    let (leaves, middle) = (guest.page(), guest.page());
    let target = guest.page();
    for index in 0..512 {
        guest.put(leaves + index * 8, target | 3);
        guest.put(middle + index * 8, leaves | 3);
    }
    let other: u64 = 0x1000_0000_0000;
    let upper = guest.page();
    guest.put(upper, middle | 3);
    guest.put(root + 8 * (other >> 39 & 0x1ff), upper | 3);
    guest.faults();
    guest.events();
    // All of the domain.
    guest.submit(&[[2 | 2 << 4 | 2 << 16, 0]]);
    assert!(guest.is_done(), "it would not help to ask again");
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    assert_eq!(guest.faults(), [0x78]);
    let events = guest.events();
    assert!(
        events.iter().any(|event| event.contains("not invalidated")),
        "{events:?}"
    );
    // What changed of it is followed all the same.
    let moved = guest.map_second(root, GVA, 3);
    guest.put(moved, 2);
    guest.submit(&[[2 | 2 << 4 | 2 << 16, 0]]);
    assert_eq!(guest.load(Some(5), GVA, false), done(2));
    guest.map_second(root, GVA, 0);
    guest.submit(&[[2 | 2 << 4 | 2 << 16, 0]]);
    let gone = Some(DmaEnd::NoAccess(Iova(GVA)));
    assert_eq!(guest.load(Some(5), GVA, false), gone);
}
