// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The IOMMU in the process under fire: DMA, page requests, binds, flushes and maps from several
//! threads. Nothing hangs, nothing is lost, and no DMA reaches memory that is not its own.

use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDeviceOptions};
use host_iommu::{
    Bdf, Delivered, FaultGroup, FaultQueue, FaultQueueOptions, Gpa, GuestTable, HostIommu,
    Invalidation, Iova, MapAccess, PasidRequest, PciIommuOps, Response, Scope,
};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::{entry, Table};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const ROUNDS: u64 = 200;
const WORKERS: u64 = 3;
const GVA: u64 = 0x7f00_0000_0000;
const LIMIT: Duration = Duration::from_secs(20);

/// Answers SUCCESS and INVALID in turn.
#[derive(Debug, Default)]
struct Guest(AtomicU64);

impl PciIommuOps for Guest {
    fn set_context(&self, _: Bdf, _: &HostIommu) -> host_iommu::Result<()> {
        Ok(())
    }

    fn unset_context(&self, _: Bdf) {}

    fn page_request(&self, group: FaultGroup) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let response = if number % 2 == 0 {
            Response::Success
        } else {
            Response::Invalid
        };
        group.respond(response).expect("an answer");
    }
}

fn worker(
    number: u64,
    host: &HostIommu,
    memory: &GuestMemory,
    faults: &FaultQueue,
    soft: &Devices,
) {
    let device = &soft.0[number as usize % soft.0.len()];
    for round in 0..ROUNDS {
        let table = Table::new(memory);
        let page = memory.alloc_page();
        table.map(GVA, page, entry::RW);
        let pasids = host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
        let pasid = pasids.first();
        let stage1 = GuestTable::four_level(Gpa(table.root()));
        let mut bound = host
            .bind(device.address(), &pasids, pasid, &stage1, Some(faults))
            .expect("a binding");
        let mark = number << 32 | round;
        let store = |address| Dma::write(Iova(address), &mark.to_le_bytes()).at(pasid);
        let run = |dma| device.run(dma, LIMIT).expect("a DMA").expect("its end");

        // A storm of resets may have unbound it meanwhile; then nothing is written.
        match run(store(GVA)) {
            DmaEnd::Done(_) => assert_eq!(memory.read_u64(page), mark),
            DmaEnd::NoAccess(_) => assert!(!bound.is_bound()),
            end => panic!("{end:?}"),
        }
        match run(store(GVA + PAGE)) {
            DmaEnd::Invalid(_) | DmaEnd::Retries(_) | DmaEnd::NoAccess(_) => {}
            end => panic!("{end:?}"),
        }
        // The other workers' resets make it fail, and nothing else does.
        if bound.flush(&Invalidation::all()).is_err() {
            assert!(!bound.is_bound());
        }
        bound.unbind().expect("unbound");
        assert_eq!(run(store(GVA)), DmaEnd::NoAccess(Iova(GVA)));
        if round % 50 == 49 {
            host.unbind(Scope::Device(device.address()))
                .expect("a reset");
        }
    }
}

struct Devices(Vec<host_iommu::backend::soft::SoftDevice>);

#[test]
fn threads_that_do_everything_at_once_come_to_an_end() {
    let soft = Soft::new();
    let options = SoftDeviceOptions::default();
    let add = |devfn| soft.bus().add(Bdf::new(0, 0, devfn), &options);
    let devices = Devices(vec![add(8).expect("a device"), add(16).expect("a device")]);
    let host = HostIommu::new(soft);
    let memory = GuestMemory::new(0, 64 << 20).expect("memory");
    memory.alloc_page();
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)
        .expect("a mapping");
    let options = FaultQueueOptions::default().with_deadline(Duration::from_millis(50));
    let faults = host.fault_queue(&options).expect("a queue");
    let stop = AtomicBool::new(false);
    let guest = Guest::default();

    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let (host, memory, faults, devices) = (&host, &memory, &faults, &devices);
                scope.spawn(move || worker(number, host, memory, faults, devices))
            })
            .collect();
        // A queue that waits: it is woken up by what happens, and at last by the end.
        scope.spawn(|| {
            while faults.deliver(&guest).expect("a delivery") != Delivered::Ended {
                if stop.load(Ordering::Acquire) {
                    break;
                }
            }
        });
        for worker in workers {
            worker.join().expect("a worker");
        }
        stop.store(true, Ordering::Release);
        // Wakes the reader once more.
        let pasids = host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
        let table = GuestTable::four_level(Gpa(memory.alloc_page()));
        let device = &devices.0[0];
        let bound = host.bind(
            device.address(),
            &pasids,
            pasids.first(),
            &table,
            Some(&faults),
        );
        let bound = bound.expect("a binding");
        let end = device.run(Dma::read(Iova(GVA), 8).at(bound.pasid()), LIMIT);
        assert!(matches!(
            end.expect("a DMA").expect("its end"),
            DmaEnd::Invalid(_) | DmaEnd::Retries(_)
        ));
    });

    assert!(guest.0.load(Ordering::Relaxed) > 0, "no page request came");
    assert_eq!(faults.outstanding(), 0);
    let stats = host.stats().expect("counters");
    assert_eq!((stats.bindings, stats.pasids), (0, 0));
    let sent: u64 = devices
        .0
        .iter()
        .map(|device| device.counters().groups)
        .sum();
    let answered: u64 = devices
        .0
        .iter()
        .map(|device| device.counters().success + device.counters().invalid)
        .sum();
    assert_eq!(sent, answered, "every group is answered once");
    assert_eq!(stats.page_requests, stats.responses + stats.host_invalid);
}
