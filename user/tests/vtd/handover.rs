// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A unit that goes on in another process: here another context over the same backend, which knows
//! only what was handed over.

use crate::guest::{done, Guest, Told, GVA, REQUESTS, SOURCE};
use crate::host::{Control, Unreliable};
use host_iommu::backend::soft::DmaEnd;
use host_iommu::vtd::{SourceId, Vtd, VtdHandover};
use host_iommu::{Delivered, FaultQueue, HostIommu, Iova};
use std::sync::Arc;

const SECOND: u64 = GVA + 0x1000;
const THIRD: u64 = GVA + 0x2000;

fn guest() -> (Guest, Control) {
    let control = Control::default();
    let host = |soft, _| HostIommu::new(Unreliable::new(soft, control.clone()));
    (Guest::over(host, |config| config), control)
}

/// The first process has handed over and is gone.
fn go_on_in_another(guest: &mut Guest, control: &Control, left: VtdHandover) {
    guest.forget();
    let channel = control.plan().channels.last().unwrap().clone();
    let queue = Arc::new(FaultQueue::from_channel(channel));
    guest.host = HostIommu::new(guest.host.shared_context());
    guest.told = Arc::new(Told::default());
    let config = guest.unit.config().clone();
    guest.unit = Vtd::new(config, guest.memory.clone(), guest.told.clone()).unwrap();
    let queues = [(guest.host.clone(), queue)];
    guest.unit.take_over(left, &queues).unwrap();
    let place = SourceId(SOURCE);
    guest.unit.set_source_id(guest.device.address(), place);
    guest.plug();
    while guest.unit.run() {}
}

/// The guest makes a page present and answers the group that asks for it.
fn answer(guest: &mut Guest, root: u64, request: u64, address: u64, word: u64) {
    let second = guest.get(REQUESTS + request * 32 + 8);
    assert_eq!(second & !0xfff, address);
    let page = guest.map(root, address);
    guest.put(page, word);
    guest.write4(0xdc, 1);
    guest.write8(0xc0, (request + 1) * 32);
    let (group, source) = (second >> 3 & 0x1ff, u64::from(SOURCE));
    guest.submit(&[[9 | 1 << 4 | source << 16 | 5 << 32, group << 3]]);
    assert!(guest.is_done());
}

#[test]
fn what_is_bound_stays_and_what_waits_is_answered_by_the_other() {
    let (mut guest, control) = guest();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    guest.put(page, 1);
    let table = guest.page();
    let page = guest.map(table, GVA);
    guest.put(page, 2);
    guest.set_entry(0, [1 | 1 << 6, 1, table]);
    guest.pasid_changed(0);
    // One request waits for the guest, another in the host's queue.
    assert_eq!(guest.load(Some(5), SECOND, true), None);
    assert_eq!(guest.deliver(), Delivered::Events(1));
    assert_eq!(guest.load(Some(5), THIRD, true), None);

    let before = (guest.host.stats().unwrap(), control.plan().changes);
    let left = guest.unit.hand_over().unwrap();
    #[cfg(feature = "serde")]
    let left = {
        let text = serde_json::to_string(&left).unwrap();
        let read: VtdHandover = serde_json::from_str(&text).unwrap();
        assert_eq!(read, left);
        read
    };
    go_on_in_another(&mut guest, &control, left);

    let after = (guest.host.stats().unwrap(), control.plan().changes);
    assert_eq!((before.0.bindings, before.0.pasids), (2, 1));
    assert_eq!((after.0.bindings, after.0.pasids), (2, 1));
    assert_eq!(after.1, before.1, "nothing was bound or unbound");
    assert_eq!(after.0.responses, before.0.responses);
    assert_eq!(guest.unit.waiting(), 1);
    assert_eq!(guest.load(Some(5), GVA, false), done(1));
    assert_eq!(guest.load(None, GVA, false), done(2));

    answer(&mut guest, root, 0, SECOND, 3);
    assert_eq!(guest.deliver(), Delivered::Events(1));
    answer(&mut guest, root, 1, THIRD, 4);
    assert_eq!(guest.unit.waiting(), 0);
    let stats = guest.host.stats().unwrap();
    assert_eq!(
        (stats.page_requests, stats.responses, stats.late_responses),
        (2, 2, 0)
    );
    assert_eq!(guest.device.counters().success, 2);
    assert_eq!(guest.load(Some(5), THIRD, false), done(4));

    // What is bound is the new unit's: it is flushed, replaced and unbound, and its PASID freed.
    guest.map(root, GVA);
    guest.submit(&[[6 | 3 << 4 | 2 << 16 | 5 << 32, GVA]]);
    assert_eq!(guest.load(Some(5), GVA, false), done(0));
    guest.set_entry(5, [0; 3]);
    guest.pasid_changed(5);
    let end = guest.load(Some(5), GVA, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(GVA))));
    let stats = guest.host.stats().unwrap();
    assert_eq!((stats.bindings, stats.pasids), (1, 0));
    guest.unplug();
    assert_eq!(guest.host.stats().unwrap().bindings, 0);
}

#[test]
fn unit_without_translation_and_entries_that_changed_meanwhile_are_followed() {
    let (mut guest, control) = guest();
    guest.put(0x20_0000, 7);
    guest.write4(0x18, 0);
    let left = guest.unit.hand_over().unwrap();
    let changes = control.plan().changes;
    go_on_in_another(&mut guest, &control, left);
    assert_eq!(control.plan().changes, changes);
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));

    guest.boot();
    guest.bind(5);
    let left = guest.unit.hand_over().unwrap();
    // The guest has changed an entry and not told of it yet.
    let root = guest.page();
    let page = guest.map(root, GVA);
    guest.put(page, 8);
    guest.set_entry(5, [1 | 1 << 6, 2, root | 1 << 4]);
    go_on_in_another(&mut guest, &control, left);
    assert_eq!(guest.load(Some(5), GVA, false), done(8));
}

#[test]
fn unit_with_devices_takes_nothing_over() {
    let (guest, _) = guest();
    let left = guest.unit.hand_over().unwrap();
    let error = guest.unit.take_over(left, &[]).unwrap_err();
    assert_eq!(error.to_string(), "Failed to hand over to another process");
}
