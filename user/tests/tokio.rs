// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A fault queue in a task of tokio.

use host_iommu::backend::soft::{Dma, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::{
    AsyncFaultQueue, Bdf, FaultEvent, FaultGroup, FaultQueueOptions, Gpa, GuestTable, HostIommu,
    Iova, Pasid, PasidAllocation, PasidRequest, Response, Stage1Binding,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const DEVICE: Bdf = Bdf::new(0, 0, 8);
/// For what comes.
const LONG: Duration = Duration::from_secs(20);
/// For what does not.
const SHORT: Duration = Duration::from_millis(50);

struct World {
    faults: AsyncFaultQueue,
    device: Arc<SoftDevice>,
    binding: Stage1Binding,
    _pasids: PasidAllocation,
    _host: HostIommu,
}

impl World {
    fn new() -> Self {
        let soft = Soft::new();
        let device = soft.bus().add(DEVICE, &SoftDeviceOptions::default());
        let host = HostIommu::new(soft);
        let faults = host.fault_queue(&FaultQueueOptions::nonblocking());
        let faults = faults.expect("a queue");
        let pasids = host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
        let table = GuestTable::four_level(Gpa(0x1000));
        let binding = host.bind(DEVICE, &pasids, pasids.first(), &table, Some(&faults));
        Self {
            faults: AsyncFaultQueue::new(faults).expect("watched"),
            device: Arc::new(device.expect("a device")),
            binding: binding.expect("a binding"),
            _pasids: pasids,
            _host: host,
        }
    }

    async fn next(&mut self) -> FaultGroup {
        let read = timeout(LONG, self.faults.read()).await;
        let events = read.expect("in time").expect("a read");
        match events.expect("not the end").pop() {
            Some(FaultEvent::PageRequests(group)) => group,
            other => panic!("{other:?}"),
        }
    }
}

fn ask(device: &SoftDevice, pasid: Pasid) {
    let dma = Dma::read(Iova(0x7000), 8).at(pasid);
    device.submit(dma).expect("a DMA");
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    runtime.expect("a runtime").block_on(test);
}

#[test]
fn page_requests_wake_the_task_again_and_again() {
    run(async {
        let mut world = World::new();
        let empty = timeout(SHORT, world.faults.read()).await;
        assert!(empty.is_err(), "{empty:?}");
        for _ in 0..3 {
            let (device, pasid) = (world.device.clone(), world.binding.pasid());
            let asks = tokio::spawn(async move {
                tokio::time::sleep(SHORT).await;
                ask(&device, pasid);
            });
            let read = timeout(LONG, world.faults.read()).await;
            asks.await.expect("asked");
            let events = read.expect("in time").expect("a read").expect("events");
            assert_eq!(events.len(), 1);
            drop(events);
            // Nothing is left.
            assert!(timeout(SHORT, world.faults.read()).await.is_err());
        }
    });
}

#[test]
fn frozen_queue_gives_what_came_after_the_thaw() {
    run(async {
        let mut world = World::new();
        world.faults.freeze();
        ask(&world.device, world.binding.pasid());
        let frozen = timeout(SHORT, world.faults.read()).await;
        assert!(frozen.is_err(), "{frozen:?}");
        world.faults.thaw();
        let group = world.next().await;
        group.respond(Response::Invalid).expect("answered");
    });
}

#[test]
fn end_of_the_context_is_the_end() {
    run(async {
        let World {
            mut faults,
            device,
            binding,
            _pasids,
            _host,
        } = World::new();
        drop((device, binding, _pasids, _host));
        let read = timeout(LONG, faults.read()).await.expect("in time");
        assert!(read.expect("a read").is_none());
    });
}

#[test]
fn queue_that_waits_is_refused() {
    run(async {
        let host = HostIommu::new(Soft::new());
        let faults = host.fault_queue(&FaultQueueOptions::default());
        let error = AsyncFaultQueue::new(faults.expect("a queue")).expect_err("it waits");
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().contains("nonblocking"), "{error}");
    });
}
