// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA that the IOMMU stops is reported by the fault fd, on a kernel that tells of it.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bdf, bind_at, expect_errno, expect_ok, expect_status, fail, program, skip, status, Errno,
    FaultBench, FaultQueue, Order, Outcome, Rig, Space, DEADLINE, INACCESSIBLE, PAGE, RECORD,
};
use host_iommu_tests::testdev::Error as DmaError;
use std::time::{Duration, Instant};

const GVA: u64 = FaultBench::GVA;
const DMA: u32 = VFIO_IOASID_FAULT_DMA;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
const FOR_DMA: u32 = NONBLOCK | VFIO_IOASID_FAULT_QUEUE_DMA;

/// VT-d 4.1, 7.1.3: the PASID entry is not present; a first-stage entry is not present; a
/// second-stage entry is not present.
const NO_PASID_ENTRY: u32 = 0x59;
const FIRST_STAGE_HOLE: u32 = 0x71;
const SECOND_STAGE_HOLE: u32 = 0x79;

/// Writes to an address past the device's TLB and without page requests: it must be stopped.
fn stopped_write(rig: &Rig, address: u64, pasid: Option<u32>) -> Outcome {
    let order = Order::fill(address, 8, 1).no_ats().no_pri();
    let order = match pasid {
        Some(pasid) => order.at(pasid),
        None => order,
    };
    let done = rig.dma().run(&order)?;
    assert_ne!(done.status, status::OK, "DMA went through");
    Ok(())
}

/// Waits for records and reads them all.
fn records(queue: &FaultQueue) -> Outcome<Vec<vfio_ioasid_fault>> {
    queue.wait_readable()?;
    Ok(queue.read_all()?)
}

/// Waits until `count` faults came in.
fn wait_for_faults(rig: &Rig, count: u64) -> Outcome {
    let end = Instant::now() + DEADLINE;
    while rig.container.stats()?.dma_faults < count {
        if Instant::now() > end {
            return fail(format!("{count} faults did not come"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn fault_of_a_binding_goes_to_its_queue() -> Outcome {
    let bench = FaultBench::open()?;
    let all = bench.rig.container.fault_queue(FOR_DMA, 0)?;
    stopped_write(&bench.rig, GVA + 8, Some(bench.space.pasid))?;
    let records = records(&bench.queue)?;
    assert_eq!(records.len(), 1, "{records:?}");
    let fault = records[0];
    assert_eq!(fault.kind, DMA);
    assert_eq!(fault.flags, VFIO_IOASID_FAULT_FLAG_PASID);
    assert_eq!(bdf(fault.device), bdf(bench.rig.id()));
    assert_eq!(fault.pasid, bench.space.pasid);
    assert_eq!(fault.guest_pasid, FaultBench::GUEST_PASID);
    assert_eq!(fault.user_cookie, FaultBench::COOKIE);
    assert_eq!(fault.addr, GVA);
    assert_eq!(fault.perm, VFIO_IOASID_FAULT_PERM_WRITE);
    assert_eq!(fault.reason, FIRST_STAGE_HOLE);
    assert_eq!(fault.cookie, 0, "needs no answer");
    expect_errno(all.read_bytes(RECORD), Errno::EAGAIN, "one queue gets it");
    assert_eq!(bench.rig.container.stats()?.dma_faults, 1);
    Ok(())
}

fn fault_of_a_binding_without_queue_goes_to_that_for_dma() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    let mut bind = bind_at(rig.id(), space.pasid, &data);
    bind.guest_pasid = 0x2222;
    bind.cookie = 0xc0de;
    rig.container.bind(&bind)?;
    let all = rig.container.fault_queue(FOR_DMA, 0)?;
    let done = rig
        .dma()
        .run(&Order::read(GVA, 8, 0).no_ats().no_pri().at(space.pasid))?;
    assert_ne!(done.status, status::OK);
    let fault = records(&all)?[0];
    assert_eq!((fault.kind, fault.guest_pasid), (DMA, 0x2222));
    assert_eq!(fault.user_cookie, 0xc0de);
    assert_eq!(fault.perm, VFIO_IOASID_FAULT_PERM_READ);
    Ok(())
}

fn fault_of_a_pasid_that_nobody_bound_is_told() -> Outcome {
    let rig = Rig::nesting_device()?;
    let all = rig.container.fault_queue(FOR_DMA, 0)?;
    stopped_write(&rig, GVA, Some(4321))?;
    let fault = records(&all)?[0];
    assert_eq!((fault.pasid, fault.guest_pasid), (4321, 0));
    assert_eq!(fault.user_cookie, 0);
    // The directory entry may be absent as well as the table's.
    assert!([0x51, NO_PASID_ENTRY].contains(&fault.reason), "{fault:?}");
    Ok(())
}

fn fault_of_the_rid_has_no_pasid() -> Outcome {
    let rig = Rig::nesting_device()?;
    let all = rig.container.fault_queue(FOR_DMA, 0)?;
    let outside = rig.mem.base() + rig.mem.size() + 3 * PAGE;
    stopped_write(&rig, outside, None)?;
    let fault = records(&all)?[0];
    assert_eq!((fault.kind, fault.flags, fault.pasid), (DMA, 0, 0));
    assert_eq!(fault.addr, outside);
    assert_eq!(fault.reason, SECOND_STAGE_HOLE);
    Ok(())
}

fn second_queue_for_dma_is_refused() -> Outcome {
    let rig = Rig::nesting()?;
    let first = rig.container.fault_queue(FOR_DMA, 0)?;
    expect_errno(
        rig.container.fault_queue(FOR_DMA, 0),
        Errno::EBUSY,
        "a second",
    );
    expect_ok(
        rig.container.fault_queue(NONBLOCK, 0),
        "one for page requests",
    );
    drop(first);
    expect_ok(
        rig.container.fault_queue(FOR_DMA, 0),
        "another after the first",
    );
    Ok(())
}

fn fault_without_a_queue_is_counted() -> Outcome {
    let rig = Rig::nesting_device()?;
    stopped_write(&rig, GVA, Some(4321))?;
    wait_for_faults(&rig, 1)
}

fn fault_of_another_container_does_not_come() -> Outcome {
    let rig = Rig::nesting_device()?;
    let Some(other) = Rig::open_second_device()? else {
        return skip("one endpoint alone");
    };
    let queue = rig.container.fault_queue(FOR_DMA, 0)?;
    let other_queue = other.container.fault_queue(FOR_DMA, 0)?;
    stopped_write(&other, GVA, Some(4321))?;
    assert_eq!(bdf(records(&other_queue)?[0].device), bdf(other.id()));
    expect_errno(queue.read_bytes(RECORD), Errno::EAGAIN, "not ours");
    assert_eq!(rig.container.stats()?.dma_faults, 0);
    Ok(())
}

fn fault_that_cannot_be_copied_is_read_later() -> Outcome {
    let bench = FaultBench::open()?;
    stopped_write(&bench.rig, GVA, Some(bench.space.pasid))?;
    bench.queue.wait_readable()?;
    let read = host_iommu_tests_sys::raw::read_at_address(
        std::os::fd::AsFd::as_fd(&bench.queue),
        INACCESSIBLE,
        RECORD,
    );
    assert_eq!(read, Err(Errno::EFAULT));
    assert_eq!(records(&bench.queue)?[0].addr, GVA);
    Ok(())
}

fn flood_of_faults_leaves_room_for_page_requests() -> Outcome {
    let bench = FaultBench::with_depth(16)?;
    for index in 0..300 {
        stopped_write(&bench.rig, GVA + index * PAGE, Some(bench.space.pasid))?;
    }
    wait_for_faults(&bench.rig, 100)?;
    let slot = bench.touch(GVA)?;
    bench.queue.wait_for_page_requests(&bench.rig, 1)?;
    let records = bench.queue.read_all()?;
    let of = |kind| records.iter().filter(move |record| record.kind == kind);
    let lost: u64 = of(VFIO_IOASID_FAULT_OVERFLOW)
        .map(|record| record.addr)
        .sum();
    assert_eq!(of(DMA).count(), 8, "half of the queue");
    let counted = bench.rig.container.stats()?.dma_faults;
    assert_eq!(lost + 8, counted, "each fault is told of or counted");
    let request = of(VFIO_IOASID_FAULT_PAGE_REQUEST).next();
    let Some(request) = request else {
        return fail("no page request among the faults");
    };
    bench
        .queue
        .respond(request.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn teardown_under_a_flood_of_faults_ends() -> Outcome {
    for round in 0..10 {
        let bench = FaultBench::with_depth(16)?;
        let pasid = bench.space.pasid;
        let mut slots = Vec::new();
        for index in 0..100 {
            let order = Order::fill(GVA + index * PAGE, 8, 1)
                .no_ats()
                .no_pri()
                .at(pasid);
            match bench.rig.dma().submit(&order) {
                Ok(slot) => slots.push(slot),
                Err(DmaError::RingFull) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let FaultBench { rig, queue, .. } = bench;
        let (dma, (container, group, device), mem) = rig.into_pieces();
        match round % 3 {
            0 => drop((container, queue, device, group)),
            1 => drop((group, device, container, queue)),
            _ => drop((queue, device, group, container)),
        }
        drop((dma, mem));
    }
    expect_ok(Rig::nesting_device(), "a container afterwards");
    Ok(())
}

program![
    fault_of_a_binding_goes_to_its_queue,
    fault_of_a_binding_without_queue_goes_to_that_for_dma,
    fault_of_a_pasid_that_nobody_bound_is_told,
    fault_of_the_rid_has_no_pasid,
    second_queue_for_dma_is_refused,
    fault_without_a_queue_is_counted,
    fault_of_another_container_does_not_come,
    fault_that_cannot_be_copied_is_read_later,
    flood_of_faults_leaves_room_for_page_requests,
    teardown_under_a_flood_of_faults_ends,
];
