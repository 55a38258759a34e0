// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The last that passes, and the first that does not.

use crate::closed::{table_at, unreliable};
use crate::guest::*;
use host_iommu::backend::soft::{Dma, DmaEnd, SoftDeviceOptions};
use host_iommu::vtd::{Msi, SourceId, VtdTranslation};
use host_iommu::{Bdf, Iova};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, IommuMemory, Permissions};

fn emulated(guest: &Guest, pasid: Option<u32>) -> IommuMemory<GuestMemoryMmap, VtdTranslation> {
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), pasid);
    IommuMemory::new((*guest.memory).clone(), iommu, true, ())
}

#[test]
fn root_is_told_after_the_accesses_under_the_old_one() {
    let mut guest = Guest::new();
    guest.boot();
    let dma = emulated(&guest, None);
    let held = dma
        .get_slices(GuestAddress(0x20_0000), 8, Permissions::Write)
        .unwrap();
    let empty = guest.page();
    guest.write8(0x20, empty | 1 << 10);
    guest.write4(0x18, 1 << 31 | 1 << 30 | 1 << 26);
    while guest.unit.run() {}
    assert_eq!(guest.read4(0x1c) >> 30 & 1, 0, "the device may write yet");
    drop(held);
    while guest.unit.run() {}
    assert_eq!(guest.read4(0x1c) >> 30 & 1, 1);
}

#[test]
fn tail_right_behind_the_queue_is_none() {
    let mut guest = Guest::new();
    guest.boot();
    guest.write8(0x88, 0x1000);
    assert_eq!((guest.read4(0x34), guest.read8(0xb0)), (0x10, 1));
}

#[test]
fn page_request_that_fpd_silences_is_not_recorded() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    // Present, FPD, DTE, PASIDE, and no PRE.
    let context = CONTEXTS + u64::from(SOURCE) * 32;
    guest.put(context, DIRECTORY | 0xf);
    let _ = guest.load(Some(5), GVA, true);
    guest.deliver();
    assert_eq!(guest.faults(), [0; 0]);
    assert_eq!(guest.device.counters().invalid, 1);
}

#[test]
fn no_page_request_is_taken_before_the_guest_has_seen_the_overflow() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    // There is room for one request of 127.
    guest.write8(0xc0, 0x40);
    for page in 0..2 {
        let _ = guest.load(Some(5), GVA + page * 0x1000, true);
    }
    guest.deliver();
    assert_eq!(guest.read4(0xdc), 3, "PPR and PRO");
    assert_eq!((guest.read8(0xc8), guest.unit.waiting()), (0x20, 1));
    // Room alone is not enough.
    guest.write8(0xc0, 0x20);
    let _ = guest.load(Some(5), GVA + 0x2000, true);
    guest.deliver();
    assert_eq!((guest.read8(0xc8), guest.unit.waiting()), (0x20, 1));
    guest.write4(0xdc, 3);
    let _ = guest.load(Some(5), GVA + 0x3000, true);
    guest.deliver();
    assert_eq!((guest.read8(0xc8), guest.unit.waiting()), (0x40, 2));
}

#[test]
fn reset_of_one_device_leaves_what_another_has_asked_for() {
    let mut guest = Guest::new();
    let bdf: Bdf = "0000:3a:05.0".parse().unwrap();
    let other = guest.bus.add(bdf, &SoftDeviceOptions::default()).unwrap();
    guest.unit.set_source_id(bdf, SourceId(0x30));
    let _plugged = guest.host.plug(bdf, guest.unit.clone()).unwrap();
    guest.boot_but(|guest| guest.put(CONTEXTS + 0x30 * 32, DIRECTORY | 0x1d));
    guest.command(1 << 31);
    guest.bind(5);
    let _ = guest.load(Some(5), GVA, true);
    let dma = Dma::read(Iova(GVA), 8).at(5.try_into().unwrap());
    other.run(dma, Duration::ZERO).unwrap();
    guest.deliver();
    assert_eq!(guest.unit.waiting(), 2);
    guest.unit.device_reset(bdf);
    assert_eq!(guest.unit.waiting(), 1);
    assert_eq!(guest.device.counters().invalid, 0);
}

#[test]
fn only_what_is_named_is_flushed_at_the_host() {
    let (mut guest, control) = unreliable();
    guest.boot();
    let root = guest.bind(5);
    guest.bind(6);
    let calls = |guest: &mut Guest, descriptor| {
        control.plan().flushed.clear();
        guest.submit(&[descriptor]);
        assert!(guest.is_done());
        control.plan().flushed.len()
    };
    let of_pasid = |domain: u64, pasid: u64| [6 | 2 << 4 | domain << 16 | pasid << 32, 0];
    let of_domain = |domain: u64| [2 | 2 << 4 | domain << 16, 0];
    assert_eq!(calls(&mut guest, of_pasid(2, 5)), 1);
    assert_eq!(calls(&mut guest, of_domain(2)), 2);
    // From one domain to another.
    guest.set_entry(5, [1 | 1 << 6, 3, root | 1 << 4]);
    guest.pasid_changed(5);
    assert_eq!(calls(&mut guest, of_domain(2)), 1);
    assert_eq!(calls(&mut guest, of_domain(3)), 1);
    assert_eq!(calls(&mut guest, of_domain(4)), 0);
}

#[test]
fn last_pasid_of_a_directory_is_bound_and_the_next_is_none() {
    const LAST: u64 = 0xf_ffff;
    let mut guest = Guest::new();
    let directory = 0x80_0000;
    let root = guest.page();
    let page = guest.map(root, GVA);
    guest.put(page, 9);
    guest.boot_but(|guest| {
        let context = CONTEXTS + u64::from(SOURCE) * 32;
        guest.put(context, directory | 7 << 9 | 0x1d);
        guest.put(directory + (LAST >> 6) * 8, PASIDS | 1);
        guest.put(directory, PASIDS | 1);
        guest.set_entry(LAST & 0x3f, [1 | 1 << 6, 2, root]);
    });
    guest.write4(0x18, 1 << 31 | 1 << 26);
    while guest.unit.run() {}
    assert_eq!(guest.load(Some(LAST as u32), GVA, false), done(9));
    // A directory of 2^7 entries, and one behind it that leads to a table.
    let context = CONTEXTS + u64::from(SOURCE) * 32;
    guest.put(context, directory | 0x1d);
    guest.put(directory + 8 * (1 << 7), PASIDS | 1);
    guest.set_entry(0, [1 | 1 << 6, 2, root]);
    let dma = emulated(&guest, Some(1 << 13));
    assert!(dma.read_obj::<u64>(GuestAddress(GVA)).is_err());
    assert_eq!(guest.faults().len(), 1);
}

#[test]
fn table_that_cannot_replace_another_leaves_neither() {
    let (mut guest, control) = unreliable();
    guest.boot();
    let (first, _) = table_at(&mut guest, GVA);
    let (second, _) = table_at(&mut guest, GVA);
    guest.set_entry(0, [1 | 1 << 6, 1, first]);
    guest.pasid_changed(0);
    assert_eq!(guest.load(None, GVA, false), done(0));
    control.plan().binds = vec![libc::EINVAL];
    guest.set_entry(0, [1 | 1 << 6, 1, second]);
    guest.pasid_changed(0);
    let stopped = Some(DmaEnd::NoAccess(Iova(GVA)));
    assert_eq!(guest.load(None, GVA, false), stopped);
}

#[test]
fn pasid_of_requests_without_one_is_not_a_devices() {
    let mut guest = Guest::new();
    guest.boot();
    let dma = emulated(&guest, Some(0));
    assert!(dma.read_obj::<u64>(GuestAddress(0x20_0000)).is_err());
    assert!(emulated(&guest, None)
        .read_obj::<u64>(GuestAddress(0x20_0000))
        .is_ok());
    assert_eq!(guest.faults().len(), 1);
}

#[test]
fn no_fault_is_recorded_before_the_guest_has_seen_the_overflow() {
    let mut guest = Guest::with(|mut config| {
        config.fault_records = 1;
        config
    });
    guest.boot();
    guest.bind(5);
    let dma = emulated(&guest, Some(5));
    let fault = || assert!(dma.read_obj::<u64>(GuestAddress(GVA)).is_err());
    fault();
    fault();
    assert_eq!(guest.read4(0x34) & 3, 3, "PFO and PPF");
    assert_eq!(guest.faults().len(), 1);
    fault();
    assert_eq!(guest.faults().len(), 0, "PFO stands");
    guest.write4(0x34, 1);
    fault();
    assert_eq!(guest.faults().len(), 1);
}

#[test]
fn compatibility_format_does_not_pass_in_extended_mode() {
    let mut guest = Guest::with(|mut config| {
        config.interrupt_remapping = true;
        config.extended_interrupts = true;
        config
    });
    guest.boot();
    let table = guest.page();
    let old = Msi {
        address: 0xfee0_1000,
        data: 0x41,
    };
    for (extended, passes) in [(0, true), (1 << 11, false)] {
        guest.write8(0xb8, table | extended | 7);
        guest.command(1 << 24);
        guest.command(1 << 25);
        guest.command(1 << 23);
        let sent = guest.unit.remap(SourceId(SOURCE), old);
        assert_eq!(sent.is_some(), passes, "EIME {extended:#x}");
    }
}

#[test]
fn table_of_interrupts_ends_where_irta_says() {
    let mut guest = Guest::with(|mut config| {
        config.interrupt_remapping = true;
        config
    });
    guest.boot();
    let table = guest.page();
    for index in 0..4 {
        guest.put(table + index * 16, 1 | 0x41 << 16);
    }
    // Two entries.
    guest.write8(0xb8, table);
    guest.command(1 << 24);
    guest.command(1 << 25);
    let of = |index: u64| Msi {
        address: 0xfee0_0010 | index << 5,
        data: 0,
    };
    assert!(guest.unit.remap(SourceId(SOURCE), of(1)).is_some());
    assert!(guest.unit.remap(SourceId(SOURCE), of(2)).is_none());
    assert_eq!(guest.faults(), [0x21]);
}

#[test]
fn interrupt_of_a_bus_behind_the_range_is_blocked() {
    let mut guest = Guest::with(|mut config| {
        config.interrupt_remapping = true;
        config
    });
    guest.boot();
    let table = guest.page();
    // SVT 2: buses 1 to 3.
    guest.put(table + 8, 2 << 18 | 0x0103);
    guest.put(table, 1 | 0x41 << 16);
    guest.write8(0xb8, table);
    guest.command(1 << 24);
    guest.command(1 << 25);
    let message = Msi {
        address: 0xfee0_0010,
        data: 0,
    };
    for (bus, passes) in [(0, false), (1, true), (3, true), (4, false)] {
        let sent = guest.unit.remap(SourceId(bus << 8), message);
        assert_eq!(sent.is_some(), passes, "bus {bus}");
    }
}

#[test]
fn restore_does_not_open_a_device_on_the_way() {
    let (mut guest, control) = unreliable();
    guest.boot();
    let (root, _) = table_at(&mut guest, GVA);
    guest.set_entry(0, [1 | 1 << 6, 1, root]);
    guest.pasid_changed(0);
    let saved = guest.unit.save();
    let (device, open) = (guest.device.clone(), Arc::new(AtomicU32::new(0)));
    let seen = open.clone();
    control.plan().during = Some(Arc::new(move || {
        let dma = Dma::read(Iova(0x20_0000), 8).no_page_requests();
        let end = device.run(dma, Duration::ZERO).unwrap();
        if matches!(end, Some(DmaEnd::Done(_))) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }));
    guest.unit.restore(saved).unwrap();
    while guest.unit.run() {}
    control.plan().during = None;
    assert_eq!(open.load(Ordering::Relaxed), 0);
    assert_eq!(guest.load(None, GVA, false), done(0));
}
