// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading the fault fd: whole groups, buffers that are too small or end mid-way, poll,
//! sleeping readers, several readers.

use std::time::Duration;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    expect_errno, expect_status, poll, program, response, status, Errno, FaultBench, FaultQueue,
    Order, Outcome, PollFlags, Rig, Slot, Space, Stop, PAGE, PAGE_LEN, RECORD,
};

const GVA: u64 = FaultBench::GVA;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;

/// Starts an order that asks for a group of `pages`.
fn group(bench: &FaultBench, gva: u64, pages: u32) -> Result<Slot, Stop> {
    bench.rig.dma().set_group_size(pages);
    let order = Order::fill(gva, pages * PAGE_LEN, 3).at(bench.space.pasid);
    let slot = bench.rig.dma().submit(&order)?;
    bench.queue.wait_readable()?;
    Ok(slot)
}

fn read_that_the_first_group_does_not_fit_returns_einval_and_loses_nothing() -> Outcome {
    let bench = FaultBench::open()?;
    let slot = group(&bench, GVA, 3)?;
    for length in [0, 1, RECORD - 1, RECORD, 2 * RECORD, 3 * RECORD - 1] {
        expect_errno(
            bench.queue.read_bytes(length),
            Errno::EINVAL,
            &format!("{length} bytes for three records"),
        );
    }
    let bytes = bench.queue.read_bytes(3 * RECORD)?;
    assert_eq!(bytes.len(), 3 * RECORD);
    let cookie = FaultQueue::decode(&bytes)[0].cookie;
    bench.queue.respond(cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn read_gives_whole_groups_only() -> Outcome {
    let bench = FaultBench::open()?;
    let first = group(&bench, GVA, 2)?;
    let second = group(&bench, GVA + 64 * PAGE, 3)?;
    bench.queue.wait_for_page_requests(&bench.rig, 2)?;
    // Room for the first group and two thirds of the second.
    let bytes = bench.queue.read_bytes(4 * RECORD + 7)?;
    assert_eq!(bytes.len(), 2 * RECORD, "the first group");
    let rest = bench.queue.read_bytes(4 * RECORD)?;
    assert_eq!(rest.len(), 3 * RECORD, "the second group");
    for (bytes, slot) in [(bytes, first), (rest, second)] {
        bench
            .queue
            .respond(FaultQueue::decode(&bytes)[0].cookie, INVALID)?;
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    }
    Ok(())
}

fn read_gives_several_groups_at_once() -> Outcome {
    let bench = FaultBench::open()?;
    let first = group(&bench, GVA, 2)?;
    let second = group(&bench, GVA + 64 * PAGE, 3)?;
    bench.queue.wait_for_page_requests(&bench.rig, 2)?;
    let records = FaultQueue::decode(&bench.queue.read_bytes(16 * RECORD)?);
    assert_eq!(records.len(), 5);
    bench.queue.respond(records[0].cookie, INVALID)?;
    bench.queue.respond(records[4].cookie, INVALID)?;
    for slot in [first, second] {
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    }
    Ok(())
}

fn read_into_a_page_that_ends_mid_group_returns_efault_and_loses_nothing() -> Outcome {
    let bench = FaultBench::open()?;
    let slot = group(&bench, GVA, 4)?;
    for accessible in [0, 8, RECORD, 2 * RECORD + 5] {
        expect_errno(
            bench.queue.read_past_an_edge(accessible, 8 * RECORD),
            Errno::EFAULT,
            &format!("{accessible} accessible bytes"),
        );
    }
    let records = FaultQueue::decode(&bench.queue.read_bytes(8 * RECORD)?);
    assert_eq!(records.len(), 4, "the whole group is still there");
    bench.queue.respond(records[0].cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn read_into_a_page_that_ends_in_the_second_group_gives_the_first() -> Outcome {
    let bench = FaultBench::open()?;
    let first = group(&bench, GVA, 2)?;
    let second = group(&bench, GVA + 64 * PAGE, 2)?;
    bench.queue.wait_for_page_requests(&bench.rig, 2)?;
    let bytes = bench.queue.read_past_an_edge(3 * RECORD, 8 * RECORD)?;
    assert_eq!(bytes, 2 * RECORD, "the first group");
    let records = FaultQueue::decode(&bench.queue.read_bytes(8 * RECORD)?);
    assert_eq!(records.len(), 2, "the second group is still there");
    bench.queue.respond(records[0].cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(second)?, status::INVALID, "second");
    // The first group's cookie went to memory that is not looked at; the last close
    // answers it.
    drop(bench.queue);
    expect_status(bench.rig.dma().wait(first)?, status::INVALID, "first");
    Ok(())
}

fn write_that_ends_in_an_unmapped_page_takes_what_is_there() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    let taken = bench
        .queue
        .write_record_past_an_edge(&response(record.cookie, INVALID), 48)?;
    assert_eq!(taken, 16);
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn poll_is_exact() -> Outcome {
    let bench = FaultBench::open()?;
    let now = |wanted| poll(&bench.queue, wanted, Duration::ZERO);
    let both = PollFlags::POLLIN | PollFlags::POLLOUT;
    assert_eq!(now(both)?, PollFlags::POLLOUT, "empty");
    let slots = [bench.touch(GVA)?, bench.touch(GVA + PAGE)?];
    bench.queue.wait_for_page_requests(&bench.rig, 2)?;
    assert_eq!(now(both)?, both, "two groups");
    let first = FaultQueue::decode(&bench.queue.read_bytes(RECORD)?)[0];
    assert_eq!(now(both)?, both, "one group");
    let second = FaultQueue::decode(&bench.queue.read_bytes(RECORD)?)[0];
    assert_eq!(now(both)?, PollFlags::POLLOUT, "read, not answered");
    for record in [first, second] {
        bench.queue.respond(record.cookie, INVALID)?;
    }
    assert_eq!(now(both)?, PollFlags::POLLOUT, "answered");
    for slot in slots {
        bench.rig.dma().wait(slot)?;
    }
    Ok(())
}

fn poll_wakes_for_a_request() -> Outcome {
    let bench = FaultBench::open()?;
    let poller = bench.queue.poll_in_a_thread(PollFlags::POLLIN)?;
    poller.wait_until_asleep()?;
    let slot = bench.touch(GVA)?;
    // Nobody reads before the poller has seen it: it would sleep on, and rightly.
    assert!(poller.join()?.contains(PollFlags::POLLIN));
    let record = bench.requests(1)?[0];
    bench.queue.respond(record.cookie, INVALID)?;
    bench.rig.dma().wait(slot)?;
    Ok(())
}

fn read_that_blocks_is_woken_by_a_request() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(0, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let reader = queue.read_in_a_thread(4 * RECORD)?;
    reader.wait_until_asleep()?;
    let slot = rig.dma().submit(&Order::fill(GVA, 8, 1).at(space.pasid))?;
    let bytes = reader
        .join()?
        .map_err(|errno| Stop::Fail(format!("read: {errno}")))?;
    let records = FaultQueue::decode(&bytes);
    assert_eq!(records.len(), 1);
    queue.respond(records[0].cookie, INVALID)?;
    expect_status(rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn two_readers_get_each_group_once() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(0, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let readers = [
        queue.read_in_a_thread(RECORD)?,
        queue.read_in_a_thread(RECORD)?,
    ];
    for reader in &readers {
        reader.wait_until_asleep()?;
    }
    let mut slots = Vec::new();
    for index in 0..2 {
        let order = Order::fill(GVA + index * PAGE, 8, 1).at(space.pasid);
        slots.push(rig.dma().submit(&order)?);
    }
    let mut cookies = std::collections::BTreeSet::new();
    for reader in readers {
        let bytes = reader
            .join()?
            .map_err(|errno| Stop::Fail(format!("read: {errno}")))?;
        cookies.insert(FaultQueue::decode(&bytes)[0].cookie);
    }
    assert_eq!(cookies.len(), 2, "each reader has a group of its own");
    for cookie in cookies {
        queue.respond(cookie, INVALID)?;
    }
    for slot in slots {
        expect_status(rig.dma().wait(slot)?, status::INVALID, "answered");
    }
    assert_eq!(rig.container.stats()?.page_requests, 2);
    Ok(())
}

program![
    read_that_the_first_group_does_not_fit_returns_einval_and_loses_nothing,
    read_gives_whole_groups_only,
    read_gives_several_groups_at_once,
    read_into_a_page_that_ends_mid_group_returns_efault_and_loses_nothing,
    read_into_a_page_that_ends_in_the_second_group_gives_the_first,
    write_that_ends_in_an_unmapped_page_takes_what_is_there,
    poll_is_exact,
    poll_wakes_for_a_request,
    read_that_blocks_is_woken_by_a_request,
    two_readers_get_each_group_once,
];
