// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A device that does not keep the rules: groups that are too large, requests for PASIDs that
//! are not there, requests without PASID, and a flood of them while bindings come and go.

use std::sync::atomic::{AtomicBool, Ordering};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at_rid, bytes_of, expect_errno, expect_status, fail, program, response, status, Errno,
    FaultBench, Order, Outcome, Rig, DEADLINE, PAGE, RECORD,
};
use host_iommu_tests::testdev::{raw, Counter};

const GVA: u64 = FaultBench::GVA;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;
const READ: u64 = raw::READ | raw::PASID | raw::ROGUE;

/// Sends one request past the endpoint's own accounts.
fn send(rig: &Rig, address: u64, flags: u64, pasid: u32, group: u32) -> Outcome {
    match rig.dma().raw_page_request(address, flags, pasid, group) {
        raw::SENT => Ok(()),
        why => fail(format!("the request was not sent: {why}")),
    }
}

/// Waits until that many answers came that fit no order of the endpoint's.
fn wait_for_answers(rig: &Rig, count: u64) -> Outcome {
    let end = std::time::Instant::now() + DEADLINE;
    while rig.dma().counter(Counter::RspStray) < count {
        if std::time::Instant::now() > end {
            let seen = rig.dma().counter(Counter::RspStray);
            return fail(format!("{seen} answers instead of {count}"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Sends a group of `size` requests for consecutive pages.
fn send_group(bench: &FaultBench, size: u64, group: u32) -> Outcome {
    for index in 0..size {
        let last = if index + 1 == size { raw::LAST } else { 0 };
        send(
            &bench.rig,
            GVA + index * PAGE,
            READ | last,
            bench.space.pasid,
            group,
        )?;
    }
    Ok(())
}

fn group_of_the_maximum_is_delivered_whole() -> Outcome {
    let bench = FaultBench::open()?;
    send_group(&bench, u64::from(VFIO_IOASID_FAULT_GROUP_MAX), 3)?;
    let records = bench.records()?;
    assert_eq!(records.len(), VFIO_IOASID_FAULT_GROUP_MAX as usize);
    assert!(records.iter().all(|record| record.group == 3));
    bench.queue.respond(records[0].cookie, INVALID)?;
    wait_for_answers(&bench.rig, 1)
}

fn group_over_the_maximum_is_answered_invalid() -> Outcome {
    let bench = FaultBench::open()?;
    send_group(&bench, u64::from(VFIO_IOASID_FAULT_GROUP_MAX) + 1, 3)?;
    wait_for_answers(&bench.rig, 1)?;
    assert_eq!(bench.rig.container.stats()?.host_invalid, 1);
    assert_eq!(bench.rig.container.stats()?.page_requests, 0);
    let records = bench.records()?;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].kind, VFIO_IOASID_FAULT_OVERFLOW);
    assert_eq!(records[0].addr, u64::from(VFIO_IOASID_FAULT_GROUP_MAX) + 1);
    Ok(())
}

/// Fills a queue with `depth` requests of the bench's binding.
fn fill(bench: &FaultBench, depth: u64) -> Outcome {
    // As many at a time as the IOMMU's page request queue has room for.
    const STEP: u64 = 1024;
    let before = bench.rig.container.stats()?.page_requests;
    for index in 0..depth {
        let (address, group) = (GVA + index * PAGE, (index % 512) as u32);
        send(
            &bench.rig,
            address,
            READ | raw::LAST,
            bench.space.pasid,
            group,
        )?;
        if index % STEP == STEP - 1 {
            bench.rig.wait_for_page_requests(before + index + 1)?;
        }
    }
    bench.rig.wait_for_page_requests(before + depth)
}

fn default_depth_has_room_for_all_that_a_device_may_ask() -> Outcome {
    // Linux lets a device have that many requests outstanding (intel/iommu.h, PRQ_DEPTH).
    const CREDITS: u64 = 2048;
    let bench = FaultBench::open()?;
    fill(&bench, CREDITS)?;
    assert_eq!(bench.rig.container.stats()?.overflows, 0);
    send(&bench.rig, GVA, READ | raw::LAST, bench.space.pasid, 1)?;
    wait_for_answers(&bench.rig, 1)?;
    assert_eq!(bench.rig.container.stats()?.overflows, 1);
    let FaultBench { rig, queue, .. } = bench;
    drop(queue);
    wait_for_answers(&rig, CREDITS + 1)?;
    assert_eq!(rig.container.stats()?.host_invalid, CREDITS + 1);
    Ok(())
}

fn queue_of_the_greatest_depth_is_filled_answered_and_closed() -> Outcome {
    const DEPTH: u64 = VFIO_IOASID_FAULT_DEPTH_MAX as u64;
    let bench = FaultBench::with_depth(VFIO_IOASID_FAULT_DEPTH_MAX)?;
    fill(&bench, DEPTH)?;
    let mut records = bench.queue.read_all()?;
    assert_eq!(records.len() as u64, DEPTH);
    // The last one first.
    records.reverse();
    let answers: Vec<u8> = records
        .iter()
        .flat_map(|record| bytes_of(&response(record.cookie, INVALID)))
        .collect();
    assert_eq!(bench.queue.write_bytes(&answers)?, answers.len());
    wait_for_answers(&bench.rig, DEPTH)?;
    fill(&bench, DEPTH)?;
    let FaultBench { rig, queue, .. } = bench;
    drop(queue);
    wait_for_answers(&rig, 2 * DEPTH)?;
    let stats = rig.container.stats()?;
    assert_eq!((stats.responses, stats.host_invalid), (DEPTH, DEPTH));
    assert_eq!((stats.overflows, stats.late_responses), (0, 0));
    Ok(())
}

fn requests_without_end_are_forgotten_with_the_binding() -> Outcome {
    let bench = FaultBench::open()?;
    // Parts of groups whose last part never comes.
    for index in 0..200 {
        send(
            &bench.rig,
            GVA + index * PAGE,
            READ,
            bench.space.pasid,
            (index % 16) as u32,
        )?;
    }
    // The group of a request that does end may share its index with one of them; the kernel
    // tells groups apart by the index alone.
    let slot = bench.touch(GVA)?;
    let records = bench.records()?;
    let last: Vec<_> = records
        .iter()
        .filter(|record| record.flags & VFIO_IOASID_FAULT_FLAG_LAST != 0)
        .collect();
    assert_eq!(last.len(), 1, "{} records", records.len());
    assert_eq!(last[0].addr, GVA);
    bench.queue.respond(last[0].cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    bench.space.unbind(&bench.rig)?;
    bench.bind()?;
    let page = bench.space.new_page(&bench.rig, GVA)?;
    let order = Order::fill(GVA, 8, 5).no_pri().at(bench.space.pasid);
    expect_status(bench.rig.dma().run(&order)?, status::OK, "goes on");
    assert_eq!(bench.rig.mem.read_u64(page), 5);
    Ok(())
}

fn request_for_a_pasid_that_is_not_bound_reaches_nobody() -> Outcome {
    let bench = FaultBench::open()?;
    let mut answers = 0;
    for pasid in [bench.space.pasid + 1, 1 << 19, VFIO_IOASID_PASID_LIMIT - 1] {
        send(&bench.rig, GVA, READ | raw::LAST, pasid, 1)?;
        answers += 1;
        wait_for_answers(&bench.rig, answers)?;
    }
    expect_errno(bench.queue.read_bytes(RECORD), Errno::EAGAIN, "no record");
    assert_eq!(bench.rig.container.stats()?.page_requests, 0);
    Ok(())
}

fn request_without_pasid_reaches_nobody() -> Outcome {
    let bench = FaultBench::open()?;
    let flags = raw::READ | raw::LAST | raw::ROGUE;
    send(&bench.rig, GVA, flags, 0, 1)?;
    wait_for_answers(&bench.rig, 1)?;
    expect_errno(bench.queue.read_bytes(RECORD), Errno::EAGAIN, "no record");
    Ok(())
}

fn request_that_wants_neither_read_nor_write_does_no_harm() -> Outcome {
    let bench = FaultBench::open()?;
    // With LAST and PASID that is a stop marker, which nobody answers (PCIe 6.0, 10.4.1.2).
    let flags = raw::PASID | raw::LAST | raw::ROGUE;
    send(&bench.rig, GVA, flags, bench.space.pasid, 1)?;
    let (slot, record) = bench.pending()?;
    assert_eq!(record.addr, GVA);
    bench.queue.respond(record.cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "goes on");
    Ok(())
}

fn same_group_index_twice_is_two_groups() -> Outcome {
    let bench = FaultBench::open()?;
    for index in 0..2 {
        send(
            &bench.rig,
            GVA + index * PAGE,
            READ | raw::LAST,
            bench.space.pasid,
            7,
        )?;
    }
    let records = bench.requests(2)?;
    assert_ne!(records[0].cookie, records[1].cookie);
    for record in records {
        bench.queue.respond(record.cookie, INVALID)?;
    }
    wait_for_answers(&bench.rig, 2)
}

fn flood_over_a_small_queue_is_counted_and_answered() -> Outcome {
    const FLOOD: u64 = 300;
    let bench = FaultBench::with_depth(8)?;
    for index in 0..FLOOD {
        send(
            &bench.rig,
            GVA + index * PAGE,
            READ | raw::LAST,
            bench.space.pasid,
            (index % 512) as u32,
        )?;
    }
    // All but the eight that wait are answered by the host.
    wait_for_answers(&bench.rig, FLOOD - 8)?;
    let stats = bench.rig.container.stats()?;
    assert_eq!(stats.page_requests, 8);
    assert_eq!(stats.overflows, FLOOD - 8);
    let records = bench.records()?;
    let lost: u64 = records
        .iter()
        .filter(|record| record.kind == VFIO_IOASID_FAULT_OVERFLOW)
        .map(|record| record.addr)
        .sum();
    assert_eq!(lost, FLOOD - 8, "{records:?}");
    for record in &records {
        if record.kind == VFIO_IOASID_FAULT_PAGE_REQUEST {
            bench.queue.respond(record.cookie, INVALID)?;
        }
    }
    wait_for_answers(&bench.rig, FLOOD)
}

/// Floods the only binding of a device with requests for `pasid` while `again` unbinds and binds
/// it.
///
/// Without the module's domain that keeps the device's page requests on, Linux 7.3 warns here: a
/// request between the end of the last such domain and that of its handle finds the core without
/// the device's fault parameters (iommu_report_device_fault).
fn flood_while(bench: &FaultBench, flags: u64, pasid: u32, again: impl Fn() -> Outcome) -> Outcome {
    const ROUNDS: u32 = 4;
    let stop = AtomicBool::new(false);
    let mut rounds = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut index = 0;
            while !stop.load(Ordering::Relaxed) {
                let address = GVA + (index % 64) * PAGE;
                let group = (index % 512) as u32;
                bench
                    .rig
                    .dma()
                    .raw_page_request(address, flags, pasid, group);
                index += 1;
            }
        });
        let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
        let outcome = (|| -> Outcome {
            // Under load a round may take seconds.
            while rounds < ROUNDS || std::time::Instant::now() < end {
                again()?;
                for record in bench.queue.read_all_or_nothing()? {
                    if record.kind == VFIO_IOASID_FAULT_PAGE_REQUEST {
                        bench.queue.respond(record.cookie, INVALID)?;
                    }
                }
                rounds += 1;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    bench.queue.read_all_or_nothing()?;
    bench.rig.reset_device()
}

fn flood_while_bindings_come_and_go_ends_in_order() -> Outcome {
    let bench = FaultBench::with_depth(64)?;
    flood_while(&bench, READ | raw::LAST, bench.space.pasid, || {
        bench.space.unbind(&bench.rig)?;
        bench.bind()
    })?;
    assert_eq!(bench.rig.container.stats()?.bindings, 1);
    let page = bench.space.new_page(&bench.rig, GVA)?;
    let order = Order::fill(GVA, 8, 6).no_pri().at(bench.space.pasid);
    expect_status(bench.rig.dma().run(&order)?, status::OK, "goes on");
    assert_eq!(bench.rig.mem.read_u64(page), 6);
    Ok(())
}

fn flood_while_the_rid_is_bound_and_unbound_ends_in_order() -> Outcome {
    let bench = FaultBench::with_depth(64)?;
    bench.space.unbind(&bench.rig)?;
    let data = bench.space.stage1_data();
    let mut bind = bind_at_rid(bench.rig.id(), &data);
    bind.fault_fd = bench.queue.raw_fd();
    flood_while(&bench, raw::READ | raw::LAST | raw::ROGUE, 0, || {
        bench.rig.container.bind(&bind)?;
        let scope = VFIO_IOASID_SCOPE_RID;
        Ok(bench.rig.container.unbind(scope, bench.rig.id(), 0)?)
    })?;
    assert_eq!(bench.rig.container.stats()?.bindings, 0);
    let page = bench.rig.mem.alloc_page();
    let order = Order::fill(page, 8, 6).no_pri();
    expect_status(bench.rig.dma().run(&order)?, status::OK, "stage 2 goes on");
    assert_eq!(bench.rig.mem.read_u64(page), 6);
    Ok(())
}

program![
    group_of_the_maximum_is_delivered_whole,
    group_over_the_maximum_is_answered_invalid,
    default_depth_has_room_for_all_that_a_device_may_ask,
    queue_of_the_greatest_depth_is_filled_answered_and_closed,
    requests_without_end_are_forgotten_with_the_binding,
    request_for_a_pasid_that_is_not_bound_reaches_nobody,
    request_without_pasid_reaches_nobody,
    request_that_wants_neither_read_nor_write_does_no_harm,
    same_group_index_twice_is_two_groups,
    flood_over_a_small_queue_is_counted_and_answered,
    flood_while_bindings_come_and_go_ends_in_order,
    flood_while_the_rid_is_bound_and_unbound_ends_in_order,
];
