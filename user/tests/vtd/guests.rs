// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guests that people run do, and what their VMM is told.

use crate::guest::*;
use host_iommu::backend::soft::{DmaEnd, SoftDeviceOptions};
use host_iommu::Iova;

/// Bit 5 of the third quadword, which Linux 6.3 to 6.10 and stable kernels set.
const NXE: u64 = 1 << 5;

#[test]
fn no_execute_enable_of_linux_6_is_accepted() {
    let mut guest = Guest::new();
    guest.boot();
    for pasid in [0, 5] {
        let root = guest.page();
        let page = guest.map(root, GVA);
        guest.put(page, 100 + pasid);
        guest.set_entry(pasid, [1 | 1 << 6, 2, root | 1 << 4 | NXE]);
        guest.pasid_changed(pasid);
        let at = (pasid != 0).then_some(pasid as u32);
        assert_eq!(guest.load(at, GVA, false), done(100 + pasid));
    }
}

#[test]
fn page_request_without_pre_is_a_fault_and_no_request() {
    let mut guest = Guest::new();
    guest.boot();
    // The context entry has ATS and PASIDs, and no page requests.
    let context = CONTEXTS + u64::from(SOURCE) * 32;
    guest.put(context, DIRECTORY | 0xd);
    guest.submit(&[[1 << 4 | 1, 0]]);
    guest.bind(5);
    let end = guest.load(Some(5), GVA, true);
    guest.deliver();
    assert_eq!(guest.read8(0xc8), 0, "PQT");
    assert_eq!(guest.unit.waiting(), 0);
    assert_eq!(guest.device.counters().invalid, 1);
    assert!(
        matches!(end, None | Some(DmaEnd::Invalid(Iova(GVA)))),
        "{end:?}"
    );
    assert_eq!(guest.faults(), [0x47]);
}

#[test]
fn page_request_without_a_queue_writes_nothing() {
    let mut guest = Guest::new();
    guest.boot();
    guest.write8(0xd0, 0);
    guest.bind(5);
    guest.put(0, 0x5555);
    let _ = guest.load(Some(5), GVA, true);
    guest.deliver();
    assert_eq!(guest.get(0), 0x5555);
    assert_eq!(guest.unit.waiting(), 0);
    assert_eq!(guest.device.counters().invalid, 1);
}

#[test]
fn page_request_queue_at_the_end_of_all_addresses_is_no_memory() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    guest.write8(0xd0, 0xffff_ffff_ffff_f007);
    guest.write8(0xc0, 0x2000);
    guest.write8(0xc8, 0x2000);
    let _ = guest.load(Some(5), GVA, true);
    guest.deliver();
    assert_eq!(guest.unit.waiting(), 0);
    assert_eq!(guest.device.counters().invalid, 1);
}

#[test]
fn binding_that_the_host_refuses_is_told() {
    let options = SoftDeviceOptions {
        max_pasids: 16,
        ..SoftDeviceOptions::default()
    };
    let mut guest = Guest::with_device(&options);
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 1);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    guest.events();
    guest.bind(40);
    let events = guest.events();
    let told = events.iter().any(|event| {
        event.contains("00:05.0") && event.contains("PASID 40") && event.contains("Failed to bind")
    });
    assert!(told, "{events:?}");
    assert_eq!(guest.faults(), [0x5b]);
}

#[test]
fn entry_that_makes_no_sense_is_told() {
    let mut guest = Guest::new();
    guest.boot();
    guest.events();
    // Nested translation is not offered.
    guest.set_entry(5, [1 | 3 << 6, 2, 0]);
    guest.pasid_changed(5);
    let events = guest.events();
    let told = |event: &String| event.contains("PASID 5") && event.contains("0x5b");
    assert!(events.iter().any(told), "{events:?}");
    // One that is only not there is nothing to tell.
    guest.set_entry(5, [0, 0, 0]);
    guest.pasid_changed(5);
    assert_eq!(guest.events(), [""; 0]);
    guest.set_entry(0, [0, 0, 0]);
    guest.pasid_changed(0);
    let events = guest.events();
    let told = |event: &String| event.contains("without PASID") && event.contains("0x59");
    assert!(events.iter().any(told), "{events:?}");
}

#[test]
fn queue_that_stops_is_told() {
    let mut guest = Guest::new();
    guest.boot();
    guest.events();
    guest.submit(&[[0xf, 0]]);
    let events = guest.events();
    assert!(
        events.iter().any(|event| event.contains("queue")),
        "{events:?}"
    );
}

#[test]
fn device_without_pasids_is_behind_the_unit() {
    let options = SoftDeviceOptions {
        max_pasids: 0,
        page_requests: false,
    };
    let mut guest = Guest::with_device(&options);
    guest.boot();
    let root = guest.page();
    let page = guest.map(root, GVA);
    guest.put(page, 8);
    guest.set_entry(0, [1 | 1 << 6, 1, root]);
    guest.pasid_changed(0);
    assert_eq!(guest.load(None, GVA, false), done(8));
}

#[test]
fn devices_limits_are_not_the_units() {
    let small = SoftDeviceOptions {
        max_pasids: 256,
        page_requests: false,
    };
    let mut guest = Guest::with_device(&small);
    assert_eq!(guest.read8(0x10) >> 35 & 0x1f, 19, "PSS");
    assert_eq!(guest.read8(0x10) >> 29 & 1, 1, "PRS");
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 8);
    assert_eq!(guest.load(Some(5), GVA, false), done(8));
}
