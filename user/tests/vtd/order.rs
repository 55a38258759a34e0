// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is told only after what: status bits, waits, answers, and the end of a device's stay.

use crate::closed::{table_at, unreliable};
use crate::guest::*;
use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::vtd::{SourceId, Vtd};
use host_iommu::{
    Bdf, Delivered, DmaFault, FaultGroup, FaultQueue, HostIommu, Iova, PciIommuOps, RegionListener,
    Scope,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TES: u32 = 1 << 31;
const RTPS: u32 = 1 << 30;

/// A bit of GSTS reads 0 in each call of the host that brings it into force, and 1 afterwards.
fn is_told_after_the_hosts_calls(bit: u32, change: impl FnOnce(&mut Guest)) {
    let (mut guest, control) = unreliable();
    guest.boot_but(|_| {});
    if bit == RTPS {
        guest.command(TES);
        guest.bind(5);
    }
    let (calls, early) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (unit, seen) = (guest.unit.clone(), (calls.clone(), early.clone()));
    control.plan().during = Some(Arc::new(move || {
        let mut status = [0; 4];
        unit.read(0x1c, &mut status);
        seen.0.fetch_add(1, Ordering::Relaxed);
        if u32::from_le_bytes(status) & bit != 0 {
            seen.1.fetch_add(1, Ordering::Relaxed);
        }
    }));
    change(&mut guest);
    while guest.unit.run() {}
    control.plan().during = None;
    assert_ne!(calls.load(Ordering::Relaxed), 0, "the host was called");
    assert_eq!(early.load(Ordering::Relaxed), 0, "told too early");
    assert_eq!(guest.read4(0x1c) & bit, bit);
}

#[test]
fn translation_is_told_after_the_hosts_calls() {
    is_told_after_the_hosts_calls(TES, |guest| {
        let (root, _) = table_at(guest, GVA);
        guest.set_entry(0, [1 | 1 << 6, 1, root]);
        guest.write4(0x18, TES | 1 << 26);
    });
}

#[test]
fn root_is_told_after_the_hosts_calls() {
    is_told_after_the_hosts_calls(RTPS, |guest| {
        // In this one the function has nothing.
        let empty = guest.page();
        guest.write8(0x20, empty | 1 << 10);
        guest.write4(0x18, TES | RTPS | 1 << 26);
    });
}

#[test]
fn wait_with_pd_comes_after_requests_that_are_being_delivered() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    let _ = guest.load(Some(5), GVA, true);
    let _ = guest.load(Some(5), GVA + 0x1000, true);
    // The thread that delivers has read both, and takes its time to interrupt for the first.
    guest.told.slow.store(200, Ordering::Relaxed);
    let (unit, queue) = (
        guest.unit.clone(),
        guest.unit.fault_queue(guest.device.address()),
    );
    let poll = std::thread::spawn(move || queue.unwrap().deliver(&*unit).unwrap());
    while guest.told.interrupts.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    guest.put(STATUS, 0);
    guest.write_descriptors(&[[1 << 32 | 1 << 7 | 1 << 5 | 5, STATUS]]);
    while guest.unit.run() {}
    assert!(guest.is_done());
    assert_eq!(guest.read8(0xc8), 64, "PQT: both are in the guest's queue");
    assert_eq!(poll.join().unwrap(), Delivered::Events(2));
}

/// Delivers from inside a delivery.
#[derive(Debug)]
struct Nested {
    queue: Arc<FaultQueue>,
    cookies: Mutex<Vec<u64>>,
}

impl PciIommuOps for Nested {
    fn set_context(&self, _: Bdf, _: &HostIommu) -> host_iommu::Result<()> {
        Ok(())
    }

    fn unset_context(&self, _: Bdf) {}

    fn page_request(&self, group: FaultGroup) {
        self.cookies.lock().unwrap().push(group.cookie());
        self.queue.deliver(self).unwrap();
    }
}

#[test]
fn delivery_inside_a_delivery_goes_on_with_it() {
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    for page in 0..3 {
        let _ = guest.load(Some(5), GVA + page * 0x1000, true);
    }
    let queue = guest.unit.fault_queue(guest.device.address()).unwrap();
    let nested = Nested {
        queue: queue.clone(),
        cookies: Mutex::default(),
    };
    assert_eq!(queue.deliver(&nested).unwrap(), Delivered::Events(1));
    let cookies = nested.cookies.lock().unwrap().clone();
    assert_eq!(cookies.len(), 3);
    assert!(cookies.is_sorted(), "{cookies:?}");
    assert_eq!(queue.deliver(&nested).unwrap(), Delivered::Nothing);
}

/// Queues count each for itself.
#[test]
fn group_of_another_queue_is_not_cancelled() {
    let mut guest = Guest::new();
    let soft = Soft::new();
    let bdf: Bdf = "0000:3b:00.0".parse().unwrap();
    let device = soft.bus().add(bdf, &SoftDeviceOptions::default()).unwrap();
    let other = HostIommu::new(soft);
    RegionListener::new(other.clone())
        .update(&*guest.memory)
        .unwrap();
    guest.unit.set_source_id(bdf, SourceId(0x30));
    let _plugged = other.plug(bdf, guest.unit.clone()).unwrap();
    guest.boot_but(|guest| guest.put(CONTEXTS + 0x30 * 32, DIRECTORY | 0x1d));
    guest.command(TES);
    guest.bind(5);
    let _ = guest.load(Some(5), GVA, true);
    let dma = Dma::read(Iova(GVA), 8).at(5.try_into().unwrap());
    device.run(dma, Duration::ZERO).unwrap();
    let queue = guest.unit.fault_queue(bdf).unwrap();
    guest.deliver();
    queue.deliver(&*guest.unit).unwrap();
    assert_eq!(guest.unit.waiting(), 2);
    // The binding of the one goes.
    other.unbind(Scope::Device(bdf)).unwrap();
    queue.deliver(&*guest.unit).unwrap();
    assert_eq!(guest.unit.waiting(), 1);
    assert_eq!(device.counters().invalid, 1);
    assert_eq!(guest.device.counters().invalid, 0);
}

#[test]
fn pages_of_a_large_wait_are_one_call_of_the_host() {
    let (mut guest, control) = unreliable();
    guest.boot();
    guest.bind(5);
    // A queue of 1,024 descriptors (IQA.QS = 3).
    let queue = guest.page();
    for _ in 1..8 {
        guest.page();
    }
    guest.write4(0x18, TES);
    guest.write8(0x88, 0);
    guest.write8(0x90, queue | 1 << 11 | 3);
    guest.command(1 << 26);
    control.plan().flushed.clear();
    let flush = |index: u64| {
        let address = GVA + index * 0x2000;
        [6 | 3 << 4 | 2 << 16 | 5 << 32, address | 1 << 6]
    };
    let wait = [1 << 32 | 1 << 5 | 5, STATUS];
    guest.put(STATUS, 0);
    for (index, words) in (0..512).map(flush).chain([wait]).enumerate() {
        let at = queue + index as u64 * 32;
        guest.put(at, words[0]);
        guest.put(at + 8, words[1]);
    }
    guest.write8(0x88, 513 * 32);
    while guest.unit.run() {}
    assert!(guest.is_done());
    assert_eq!(control.plan().flushed, [512]);
}

/// Linux invalidates the range that a `munmap` takes away by one descriptor of 2^AM pages, however
/// many they are (`cache_tag_flush_range`), then the device TLB by another.
#[test]
fn pages_that_a_guest_unmaps_are_one_call_of_the_host() {
    let (mut guest, control) = unreliable();
    guest.boot();
    guest.bind(5);
    for pages in [1u64, 100, 100_000] {
        let order = pages.next_power_of_two().trailing_zeros();
        let size = 0x1000u64 << order;
        let address = GVA & !(size - 1);
        let source = u64::from(SOURCE) << 16;
        // S of a device TLB's: the lowest zero of the address tells the size.
        let device_range = if pages == 1 {
            address
        } else {
            address | ((size >> 1) - 0x1000) | 1 << 11
        };
        control.plan().flushed.clear();
        guest.submit(&[
            [
                6 | 3 << 4 | 2 << 16 | 5 << 32,
                address | 1 << 6 | u64::from(order),
            ],
            [8 | source | 5 << 32, device_range],
        ]);
        assert!(guest.is_done());
        assert_eq!(control.plan().flushed, [1], "{pages} pages");
    }
}

/// Looks at a device's DMA when its context goes.
#[derive(Debug)]
struct Watching {
    unit: Arc<Vtd>,
    device: Arc<SoftDevice>,
    seen: Mutex<Vec<Option<DmaEnd>>>,
}

impl Watching {
    fn look(&self) {
        let dma = Dma::read(Iova(GVA & 0xf_ffff), 8).no_page_requests();
        let end = self.device.run(dma, Duration::ZERO).unwrap();
        self.seen.lock().unwrap().push(end);
    }
}

impl PciIommuOps for Watching {
    fn set_context(&self, device: Bdf, context: &HostIommu) -> host_iommu::Result<()> {
        self.unit.set_context(device, context)
    }

    fn unset_context(&self, device: Bdf) {
        self.look();
        self.unit.unset_context(device);
    }

    fn page_request(&self, group: FaultGroup) {
        self.unit.page_request(group);
    }

    fn dma_fault(&self, fault: DmaFault) {
        self.unit.dma_fault(fault);
    }
}

#[test]
fn device_goes_by_its_entries_until_it_is_unplugged() {
    let mut guest = Guest::new();
    guest.boot();
    guest.set_entry(0, [0; 3]);
    guest.pasid_changed(0);
    guest.unplug();
    let watching = Arc::new(Watching {
        unit: guest.unit.clone(),
        device: guest.device.clone(),
        seen: Mutex::default(),
    });
    let address = guest.device.address();
    let plugged = guest.host.plug(address, watching.clone()).unwrap();
    let twice = guest.host.plug(address, guest.unit.clone());
    assert_eq!(twice.unwrap_err().errno(), Some(libc::EBUSY));
    watching.look();
    drop(plugged);
    let seen = watching.seen.lock().unwrap().clone();
    let stopped = Some(DmaEnd::NoAccess(Iova(GVA & 0xf_ffff)));
    assert_eq!(seen, [stopped.clone(), stopped]);
    guest.plug();
}
