// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A fault queue with a deadline: what is not answered in time is answered INVALID.

use std::time::{Duration, Instant};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    expect_errno, expect_ok, expect_status, program, status, Errno, FaultBench, FaultQueue, Order,
    Outcome, Rig, Space, PAGE, RECORD,
};

const GVA: u64 = FaultBench::GVA;
const SUCCESS: u32 = VFIO_IOASID_RESPONSE_SUCCESS;
/// Long enough that an answer within it is no race.
const LONG: u32 = 600_000;

/// A rig with one space, bound with a queue of that deadline.
fn open(deadline_ms: u32) -> Outcome<FaultBench> {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue_with_deadline(deadline_ms)?;
    let bench = FaultBench { rig, space, queue };
    bench.bind()?;
    Ok(bench)
}

fn request_that_nobody_reads_expires() -> Outcome {
    const DEADLINE_MS: u32 = 100;
    let bench = open(DEADLINE_MS)?;
    let start = Instant::now();
    let slot = bench.touch(GVA)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "expired");
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_millis(DEADLINE_MS.into()),
        "{waited:?}"
    );
    expect_errno(bench.queue.read_bytes(RECORD), Errno::EAGAIN, "never seen");
    let stats = bench.rig.container.stats()?;
    assert_eq!((stats.expired, stats.host_invalid), (1, 1));
    assert_eq!((stats.page_requests, stats.responses), (1, 0));
    Ok(())
}

fn request_that_was_read_expires_with_a_record() -> Outcome {
    let bench = open(300)?;
    let (slot, record) = bench.pending()?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "expired");
    bench.queue.wait_readable()?;
    let expired = bench.queue.read_one()?;
    assert_eq!(expired.kind, VFIO_IOASID_FAULT_CANCELLED);
    assert_eq!(expired.flags, VFIO_IOASID_FAULT_FLAG_EXPIRED);
    assert_eq!(expired.cookie, record.cookie);
    expect_ok(bench.queue.respond(record.cookie, SUCCESS), "a late answer");
    assert_eq!(bench.rig.container.stats()?.late_responses, 1);
    Ok(())
}

fn answer_in_time_is_the_only_one() -> Outcome {
    let bench = open(200)?;
    let (slot, record) = bench.pending()?;
    let page = bench.space.new_page(&bench.rig, GVA)?;
    expect_ok(bench.queue.respond(record.cookie, SUCCESS), "in time");
    expect_status(bench.rig.dma().wait(slot)?, status::OK, "answered");
    assert_eq!(bench.rig.mem.read_u64(page), FaultBench::MARK);
    // The timer was armed for the first; the next has a deadline of its own.
    let (slot, record) = {
        let slot = bench.touch(GVA + PAGE)?;
        (slot, bench.requests(1)?[0])
    };
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(bench.rig.container.stats()?.expired, 0);
    expect_errno(bench.queue.read_bytes(RECORD), Errno::EAGAIN, "no record");
    Ok(())
}

fn later_requests_expire_later() -> Outcome {
    let bench = open(150)?;
    for round in 0..6 {
        let slot = bench.touch(GVA + round * PAGE)?;
        std::thread::sleep(Duration::from_millis(40));
        let second = bench.touch(GVA + (100 + round) * PAGE)?;
        let start = Instant::now();
        for slot in [slot, second] {
            expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "expired");
        }
        assert!(start.elapsed() >= Duration::from_millis(140), "the second");
    }
    assert_eq!(bench.rig.container.stats()?.expired, 12);
    Ok(())
}

fn requests_of_several_bindings_expire() -> Outcome {
    const DEADLINE_MS: u32 = 150;
    let bench = open(DEADLINE_MS)?;
    let others = [Space::new(&bench.rig)?, Space::new(&bench.rig)?];
    for space in &others {
        space.bind_with(&bench.rig, &bench.queue, 0, 0)?;
    }
    // In turns, so that the oldest is another binding's each time.
    let mut slots = Vec::new();
    for round in 0..4 {
        for space in [&bench.space, &others[0], &others[1]] {
            let order = Order::fill(GVA + round * PAGE, 8, 1).at(space.pasid);
            slots.push((bench.rig.dma().submit(&order)?, Instant::now()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for (slot, since) in slots {
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "expired");
        // The request came after it was told to, and the endpoint knows of the answer at once.
        let least = Duration::from_millis(u64::from(DEADLINE_MS) - 10);
        assert!(since.elapsed() >= least, "{:?}", since.elapsed());
    }
    let stats = bench.rig.container.stats()?;
    assert_eq!((stats.page_requests, stats.expired), (12, 12));
    assert_eq!(bench.rig.dma().counters().stray_responses, 0);
    Ok(())
}

fn without_a_deadline_nothing_expires() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(bench.rig.dma().status(slot), status::WAITING);
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    assert_eq!(bench.rig.container.stats()?.expired, 0);
    Ok(())
}

fn unbind_and_close_before_the_deadline_answer_at_once() -> Outcome {
    let bench = open(LONG)?;
    let (slot, record) = bench.pending()?;
    bench.space.unbind(&bench.rig)?;
    assert_ne!(bench.rig.dma().wait(slot)?.status, status::OK, "unbound");
    let cancelled = bench.queue.read_one()?;
    assert_eq!((cancelled.flags, cancelled.cookie), (0, record.cookie));
    bench.bind()?;
    let slot = bench.touch(GVA)?;
    bench.queue.wait_readable()?;
    let FaultBench { rig, queue, .. } = bench;
    drop(queue);
    assert_ne!(rig.dma().wait(slot)?.status, status::OK, "closed");
    assert_eq!(rig.container.stats()?.expired, 0);
    Ok(())
}

fn answers_that_race_the_deadline_are_one_each() -> Outcome {
    const ROUNDS: u64 = 150;
    let bench = open(3)?;
    let mut late = 0;
    for round in 0..ROUNDS {
        let slot = bench.touch(GVA + round * PAGE)?;
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_micros(2500 + (round % 10) * 100));
        }
        let cookie = first_request(&bench.queue)?;
        if let Some(cookie) = cookie {
            bench.queue.respond(cookie, VFIO_IOASID_RESPONSE_INVALID)?;
        } else {
            late += 1;
        }
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "either way");
    }
    let stats = bench.rig.container.stats()?;
    assert_eq!(stats.page_requests, ROUNDS);
    assert_eq!(stats.responses + stats.expired, ROUNDS, "{late} were late");
    assert_eq!(bench.rig.dma().counters().stray_responses, 0);
    let page = bench.rig.mem.alloc_page();
    let order = Order::fill(page, 8, 1).no_pri();
    expect_status(bench.rig.dma().run(&order)?, status::OK, "goes on");
    Ok(())
}

/// The cookie of a page request that is there now, if there is one.
fn first_request(queue: &FaultQueue) -> Outcome<Option<u64>> {
    Ok(queue
        .read_all_or_nothing()?
        .into_iter()
        .find(|record| record.kind == VFIO_IOASID_FAULT_PAGE_REQUEST)
        .map(|record| record.cookie))
}

program![
    request_that_nobody_reads_expires,
    request_that_was_read_expires_with_a_record,
    answer_in_time_is_the_only_one,
    later_requests_expire_later,
    requests_of_several_bindings_expire,
    without_a_deadline_nothing_expires,
    unbind_and_close_before_the_deadline_answer_at_once,
    answers_that_race_the_deadline_are_one_each,
];
