// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where page requests end otherwise than by an answer: a full queue, no queue, UNBIND, and
//! answers that race it.

use std::time::Duration;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    expect_errno, expect_ok, expect_status, program, status, Errno, FaultBench, Order, Outcome,
    Rig, Slot, Space, DEADLINE, PAGE, PAGE_LEN, RECORD,
};

const GVA: u64 = FaultBench::GVA;
const SUCCESS: u32 = VFIO_IOASID_RESPONSE_SUCCESS;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;
const PAGE_REQUEST: u32 = VFIO_IOASID_FAULT_PAGE_REQUEST;

fn queue_over_its_depth_answers_invalid_and_reports_the_loss() -> Outcome {
    let bench = FaultBench::with_depth(2)?;
    let kept = [bench.touch(GVA)?, bench.touch(GVA + PAGE)?];
    bench.queue.wait_for_page_requests(&bench.rig, 2)?;
    for index in 2..5 {
        let lost = bench.touch(GVA + index * PAGE)?;
        expect_status(
            bench.rig.dma().wait(lost)?,
            status::INVALID,
            "over the depth",
        );
    }
    let records = bench.records()?;
    let overflow: Vec<_> = records
        .iter()
        .filter(|record| record.kind == VFIO_IOASID_FAULT_OVERFLOW)
        .collect();
    assert_eq!(overflow.len(), 1, "{records:?}");
    assert_eq!(overflow[0].addr, 3, "page requests lost");
    assert_eq!(overflow[0].cookie, 0, "nothing to answer");
    let requests: Vec<_> = records
        .iter()
        .filter(|record| record.kind == PAGE_REQUEST)
        .collect();
    assert_eq!(requests.len(), 2, "{records:?}");
    assert_eq!(bench.rig.container.stats()?.overflows, 3);

    // Reading makes no room, answering does.
    let still = bench.touch(GVA + 9 * PAGE)?;
    expect_status(bench.rig.dma().wait(still)?, status::INVALID, "still full");
    for (record, slot) in requests.iter().zip(kept) {
        bench.queue.respond(record.cookie, INVALID)?;
        bench.rig.dma().wait(slot)?;
    }
    let slot = bench.touch(GVA + 10 * PAGE)?;
    let mut after = bench.records()?;
    while after.iter().all(|record| record.kind != PAGE_REQUEST) {
        after.extend(bench.records()?);
    }
    assert_eq!(after[0].kind, VFIO_IOASID_FAULT_OVERFLOW, "{after:?}");
    assert_eq!(after[0].addr, 1);
    bench.queue.respond(after[1].cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "room again");
    Ok(())
}

fn group_larger_than_the_depth_is_answered_invalid() -> Outcome {
    let bench = FaultBench::with_depth(3)?;
    bench.rig.dma().set_group_size(8);
    let order = Order::fill(GVA, 4 * PAGE_LEN, 3).at(bench.space.pasid);
    let done = bench.rig.dma().run(&order)?;
    expect_status(done, status::INVALID, "four pages in a queue of three");
    let records = bench.records()?;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].kind, VFIO_IOASID_FAULT_OVERFLOW);
    assert_eq!(records[0].addr, 4);
    Ok(())
}

fn binding_without_queue_answers_invalid() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let done = rig.dma().run(&Order::fill(GVA, 8, 1).at(space.pasid))?;
    expect_status(done, status::INVALID, "nobody to ask");
    Ok(())
}

fn unbind_answers_what_waits_and_marks_it_cancelled() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    bench.space.unbind(&bench.rig)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "unbound");
    let records = bench.records()?;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].kind, VFIO_IOASID_FAULT_CANCELLED);
    assert_eq!(records[0].cookie, record.cookie);
    expect_ok(bench.queue.respond(record.cookie, SUCCESS), "a late answer");
    let stats = bench.rig.container.stats()?;
    assert_eq!(stats.late_responses, 1);
    assert_eq!(stats.responses, 0);
    assert_eq!(stats.host_invalid, 1);
    Ok(())
}

fn unbind_answers_what_was_not_read() -> Outcome {
    let bench = FaultBench::open()?;
    let slots = [bench.touch(GVA)?, bench.touch(GVA + PAGE)?];
    bench.queue.wait_for_page_requests(&bench.rig, 2)?;
    bench.space.unbind(&bench.rig)?;
    for slot in slots {
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "unbound");
    }
    // What is still read of them needs no answer: each request has its CANCELLED.
    let records = bench.queue.read_all_or_nothing()?;
    let cookies = |kind| {
        let mut cookies: Vec<u64> = records
            .iter()
            .filter(|record| record.kind == kind)
            .map(|record| record.cookie)
            .collect();
        cookies.sort_unstable();
        cookies
    };
    assert_eq!(
        cookies(PAGE_REQUEST),
        cookies(VFIO_IOASID_FAULT_CANCELLED)
            .into_iter()
            .filter(|cookie| cookies(PAGE_REQUEST).contains(cookie))
            .collect::<Vec<_>>(),
        "{records:?}"
    );
    Ok(())
}

fn unbind_of_one_leaves_the_requests_of_the_other() -> Outcome {
    let bench = FaultBench::open()?;
    let other = Space::new(&bench.rig)?;
    other.bind_with(&bench.rig, &bench.queue, 0x2222, 2)?;
    let (slot, _) = bench.pending()?;
    let order = Order::fill(GVA, 8, 4).at(other.pasid);
    let theirs = bench.rig.dma().submit(&order)?;
    let record = bench.requests(1)?[0];
    assert_eq!((record.guest_pasid, record.user_cookie), (0x2222, 2));

    bench.space.unbind(&bench.rig)?;

    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "unbound");
    assert_eq!(
        bench.rig.dma().status(theirs),
        status::WAITING,
        "not theirs"
    );
    other.new_page(&bench.rig, GVA)?;
    bench.queue.respond(record.cookie, SUCCESS)?;
    expect_status(bench.rig.dma().wait(theirs)?, status::OK, "answered");
    Ok(())
}

fn queue_can_be_bound_again_after_unbind() -> Outcome {
    let bench = FaultBench::open()?;
    for _ in 0..10 {
        let (slot, record) = bench.pending()?;
        bench.queue.respond(record.cookie, INVALID)?;
        bench.rig.dma().wait(slot)?;
        bench.space.unbind(&bench.rig)?;
        bench.bind()?;
    }
    assert_eq!(bench.rig.container.stats()?.responses, 10);
    Ok(())
}

fn requests_after_unbind_reach_nobody() -> Outcome {
    let bench = FaultBench::open()?;
    let other = Space::new(&bench.rig)?;
    other.bind_with(&bench.rig, &bench.queue, 0, 0)?;
    bench.space.unbind(&bench.rig)?;
    let done = bench
        .rig
        .dma()
        .run(&Order::fill(GVA, 8, 1).at(bench.space.pasid))?;
    assert!(
        [
            status::INVALID,
            status::NO_ACCESS,
            status::FAILURE,
            status::ATS_ERROR
        ]
        .contains(&done.status),
        "status {:#x}",
        done.status
    );
    expect_errno(bench.queue.read_bytes(RECORD), Errno::EAGAIN, "no record");
    Ok(())
}

fn answers_race_unbind_and_the_device_always_gets_one() -> Outcome {
    let bench = FaultBench::open()?;
    for _ in 0..40 {
        let (slot, record) = bench.pending()?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bench
                    .queue
                    .respond(record.cookie, INVALID)
                    .expect("in time or late, it is taken");
            });
            bench.space.unbind(&bench.rig).expect("it is bound");
        });
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "one answer");
        bench.queue.read_all_or_nothing()?;
        bench.bind()?;
    }
    let stats = bench.rig.container.stats()?;
    assert_eq!(stats.responses + stats.late_responses, 40);
    assert_eq!(bench.rig.dma().counters().stray_responses, 0);
    Ok(())
}

fn hundreds_of_requests_are_all_answered() -> Outcome {
    let bench = FaultBench::open()?;
    let mut answered = 0u32;
    for round in 0..8 {
        let slots: Vec<Slot> = (0..32)
            .map(|index| bench.touch(GVA + (round * 32 + index) * PAGE))
            .collect::<Result<_, _>>()?;
        let deadline = std::time::Instant::now() + DEADLINE;
        while slots
            .iter()
            .any(|slot| bench.rig.dma().status(*slot) < status::OK)
        {
            assert!(std::time::Instant::now() < deadline, "round {round} hangs");
            if !bench.queue.readable_within(Duration::from_millis(20))? {
                continue;
            }
            for record in bench.queue.read_all()? {
                assert_eq!(
                    record.kind, PAGE_REQUEST,
                    "no overflow at the default depth"
                );
                bench.space.new_page(&bench.rig, record.addr)?;
                bench.queue.respond(record.cookie, SUCCESS)?;
                answered += 1;
            }
        }
        for slot in slots {
            expect_status(bench.rig.dma().wait(slot)?, status::OK, "filled");
        }
    }
    assert_eq!(answered, 256);
    assert_eq!(bench.rig.container.stats()?.responses, 256);
    assert_eq!(bench.rig.container.stats()?.overflows, 0);
    Ok(())
}

program![
    queue_over_its_depth_answers_invalid_and_reports_the_loss,
    group_larger_than_the_depth_is_answered_invalid,
    binding_without_queue_answers_invalid,
    unbind_answers_what_waits_and_marks_it_cancelled,
    unbind_answers_what_was_not_read,
    unbind_of_one_leaves_the_requests_of_the_other,
    queue_can_be_bound_again_after_unbind,
    requests_after_unbind_reach_nobody,
    answers_race_unbind_and_the_device_always_gets_one,
    hundreds_of_requests_are_all_answered,
];
