// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a VMM can see of what it did: bindings refused by their reason, flushes, answers and how
//! long they took.

use host_iommu::backend::soft::{Dma, Soft, SoftDeviceOptions};
use host_iommu::{
    Bdf, FaultEvent, FaultQueueOptions, FaultRead, Gpa, GuestTable, HostIommu, Invalidation, Iova,
    MapAccess, PasidAllocation, PasidRequest, Response, Scope, SharedMemory,
};
use std::time::Duration;

const DEVICE: Bdf = Bdf::new(0, 0, 8);
const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn bindings_and_flushes_are_counted_with_what_was_refused() {
    let soft = Soft::new();
    let bus = soft.bus();
    bus.add(DEVICE, &SoftDeviceOptions::default())
        .expect("a device");
    let host = HostIommu::new(soft);
    let any = || host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
    let (first, second) = (any(), any());
    let table = GuestTable::four_level(Gpa(0x1000)).with_guest_pasid(5);
    let bind = |pasids: &PasidAllocation| host.bind(DEVICE, pasids, pasids.first(), &table, None);
    let mut bound = bind(&first).expect("bound");
    bound.rebind(&table, None).expect("replaced");
    bind(&first).expect_err("it is bound already");
    bind(&second).expect_err("the guest's number is taken");
    bound.flush(&Invalidation::all()).expect("flushed");
    let nothing = Scope::Binding(DEVICE, second.first());
    host.flush(nothing, &Invalidation::all())
        .expect_err("nothing is bound there");

    let metrics = host.clone().metrics();
    assert_eq!((metrics.bound, metrics.replaced), (1, 1));
    assert_eq!(
        metrics.refused.into_iter().collect::<Vec<_>>(),
        [(0, 1), (libc::EBUSY, 1)]
    );
    assert_eq!((metrics.flushed_entries, metrics.failed_flushes), (1, 1));
    assert_eq!(metrics.flushes.count(), 2);
    // What only the host counts.
    assert_eq!(host.stats().expect("counters").bindings, 1);
}

#[test]
fn answers_are_counted_by_how_long_they_took() {
    let soft = Soft::new();
    let device = soft.bus().add(DEVICE, &SoftDeviceOptions::default());
    let device = device.expect("a device");
    let host = HostIommu::new(soft);
    let memory = SharedMemory::new(c"guest", 1 << 20).expect("memory");
    host.map(Iova(0), &memory, MapAccess::ReadWrite)
        .expect("mapped");
    let faults = host.fault_queue(&FaultQueueOptions::nonblocking());
    let faults = faults.expect("a queue");
    let pasids = host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
    let table = GuestTable::four_level(Gpa(0x1000));
    let bound = host.bind(DEVICE, &pasids, pasids.first(), &table, Some(&faults));
    let bound = bound.expect("bound");
    for response in [Some(Response::Invalid), None] {
        let dma = Dma::read(Iova(0x7000), 8).at(bound.pasid());
        device.submit(dma).expect("a DMA");
        let Ok(FaultRead::Events(mut events)) = faults.read() else {
            panic!("nothing came");
        };
        let Some(FaultEvent::PageRequests(group)) = events.pop() else {
            panic!("no page request");
        };
        std::thread::sleep(PAUSE);
        match response {
            Some(response) => group.respond(response).expect("answered"),
            // Dropped, which is INVALID.
            None => drop(group),
        }
    }
    let metrics = faults.metrics();
    assert_eq!((metrics.groups, metrics.page_requests), (2, 2));
    assert_eq!(metrics.answers.count(), 2);
    assert!(metrics.answers.sum() >= PAUSE * 2);
    assert!(metrics.answers.longest() >= PAUSE);
    let short = metrics.answers.steps().take_while(|step| step.0 < PAUSE);
    assert_eq!(short.map(|step| step.1).sum::<u64>(), 0);
    assert_eq!(host.metrics(), metrics, "it is the context's too");
}
