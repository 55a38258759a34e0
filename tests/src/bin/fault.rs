// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests: they arrive on the fault fd, the answer reaches the device, and every
//! record says what the device wanted.

use std::time::Duration;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bdf, bytes_of, entry, expect_errno, expect_ok, expect_status, program, response, status, Errno,
    FaultBench, Order, Outcome, Slot, Space, PAGE, PAGE_LEN,
};

const GVA: u64 = FaultBench::GVA;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
const SUCCESS: u32 = VFIO_IOASID_RESPONSE_SUCCESS;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;
const PAGE_REQUEST: u32 = VFIO_IOASID_FAULT_PAGE_REQUEST;

fn hole_is_filled_and_the_dma_goes_on() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    assert_eq!(bench.rig.dma().status(slot), status::WAITING);

    let page = bench.space.new_page(&bench.rig, record.addr)?;
    bench.queue.respond(record.cookie, SUCCESS)?;

    expect_status(bench.rig.dma().wait(slot)?, status::OK, "after SUCCESS");
    assert_eq!(bench.rig.mem.read_u64(page), FaultBench::MARK);
    Ok(())
}

fn answer_invalid_ends_the_dma_with_an_error() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    bench.queue.respond(record.cookie, INVALID)?;
    let done = bench.rig.dma().wait(slot)?;
    expect_status(done, status::INVALID, "after INVALID");
    assert_eq!(done.result, GVA);
    Ok(())
}

fn answer_success_without_a_page_asks_again_and_gives_up() -> Outcome {
    let bench = FaultBench::open()?;
    let slot = bench.touch(GVA)?;
    let mut cookies = std::collections::BTreeSet::new();
    let done = loop {
        if let Some(done) = bench.rig.dma().poll(slot) {
            break done;
        }
        if !bench.queue.readable_within(Duration::from_millis(20))? {
            continue;
        }
        for record in bench.queue.read_all()? {
            assert!(
                cookies.insert(record.cookie),
                "cookie {:#x} again",
                record.cookie
            );
            bench.queue.respond(record.cookie, SUCCESS)?;
        }
    };
    expect_status(done, status::RETRIES, "no page ever comes");
    assert!(cookies.len() >= 16, "{} requests", cookies.len());
    Ok(())
}

fn record_says_what_the_device_wanted() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    assert_eq!(record.kind, PAGE_REQUEST);
    assert_eq!(
        record.flags,
        VFIO_IOASID_FAULT_FLAG_PASID | VFIO_IOASID_FAULT_FLAG_LAST
    );
    assert_eq!(bdf(record.device), bdf(bench.rig.id()));
    assert_eq!(record.pasid, bench.space.pasid);
    assert_eq!(record.guest_pasid, FaultBench::GUEST_PASID);
    assert_eq!(record.user_cookie, FaultBench::COOKIE);
    assert_eq!(record.addr, GVA);
    assert_ne!(record.perm & VFIO_IOASID_FAULT_PERM_WRITE, 0);
    assert_eq!(record.perm & VFIO_IOASID_FAULT_PERM_PRIV, 0);
    assert_ne!(record.cookie, 0);
    assert!(record.group < 512, "a group index has 9 bits");
    assert_eq!((record.reason, record.private_data), (0, 0));
    bench.queue.respond(record.cookie, INVALID)?;
    bench.rig.dma().wait(slot)?;
    Ok(())
}

fn record_of_a_read_asks_for_read_alone() -> Outcome {
    let bench = FaultBench::open()?;
    let order = Order::checksum(GVA, 8).at(bench.space.pasid);
    let slot = bench.rig.dma().submit(&order)?;
    let record = bench.requests(1)?[0];
    assert_eq!(record.perm, VFIO_IOASID_FAULT_PERM_READ);
    bench.queue.respond(record.cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "read");
    Ok(())
}

fn write_to_a_read_only_page_asks_for_it() -> Outcome {
    let bench = FaultBench::open()?;
    let page = bench.rig.mem.alloc_page();
    let leaf = bench.space.map(&bench.rig, GVA, page, entry::R)?;
    let (slot, record) = bench.pending()?;
    assert_ne!(record.perm & VFIO_IOASID_FAULT_PERM_WRITE, 0);
    bench.rig.mem.write_u64(leaf, page | entry::RW);
    bench.queue.respond(record.cookie, SUCCESS)?;
    expect_status(bench.rig.dma().wait(slot)?, status::OK, "made writable");
    Ok(())
}

fn several_requests_are_answered_in_any_order() -> Outcome {
    let bench = FaultBench::open()?;
    let slots: Vec<Slot> = (0..8)
        .map(|index| bench.touch(GVA + index * PAGE))
        .collect::<Result<_, _>>()?;
    let mut records = bench.requests(8)?;
    records.sort_by_key(|record| record.addr);
    let mut pages = Vec::new();
    for record in &records {
        pages.push(bench.space.new_page(&bench.rig, record.addr)?);
    }
    for index in [5, 0, 7, 2, 6, 1, 4, 3] {
        bench.queue.respond(records[index].cookie, SUCCESS)?;
        expect_status(bench.rig.dma().wait(slots[index])?, status::OK, "answered");
        assert_eq!(bench.rig.mem.read_u64(pages[index]), FaultBench::MARK);
    }
    Ok(())
}

fn several_answers_in_one_write_are_all_taken() -> Outcome {
    let bench = FaultBench::open()?;
    let slots: Vec<Slot> = (0..5)
        .map(|index| bench.touch(GVA + index * PAGE))
        .collect::<Result<_, _>>()?;
    let bytes: Vec<u8> = bench
        .requests(5)?
        .iter()
        .flat_map(|record| bytes_of(&response(record.cookie, INVALID)))
        .collect();
    assert_eq!(bench.queue.write_bytes(&bytes)?, bytes.len());
    for slot in slots {
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "one of five");
    }
    Ok(())
}

fn write_stops_at_the_first_bad_answer_and_reports_what_was_taken() -> Outcome {
    let bench = FaultBench::open()?;
    let slots = [bench.touch(GVA)?, bench.touch(GVA + PAGE)?];
    let records = bench.requests(2)?;
    let mut bytes = bytes_of(&response(records[0].cookie, INVALID));
    bytes.extend(bytes_of(&response(u64::MAX, INVALID)));
    bytes.extend(bytes_of(&response(records[1].cookie, INVALID)));

    assert_eq!(bench.queue.write_bytes(&bytes)?, 16, "the first alone");

    assert_eq!(bench.rig.container.stats()?.responses, 1);
    expect_errno(
        bench.queue.write_bytes(&bytes[16..]),
        Errno::ENOENT,
        "the bad one is first now",
    );
    assert_eq!(bench.queue.write_bytes(&bytes[32..])?, 16, "the third");
    for slot in slots {
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    }
    Ok(())
}

fn write_that_ends_in_a_torn_record_is_einval_and_takes_nothing() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    let mut bytes = bytes_of(&response(record.cookie, INVALID));
    bytes.extend([0; 7]);
    let written = bench.queue.write_bytes(&bytes);
    expect_errno(written, Errno::EINVAL, "23 bytes");
    let stats = bench.rig.container.stats()?;
    assert_eq!((stats.responses, stats.late_responses), (0, 0));
    assert_eq!(bench.rig.dma().status(slot), status::WAITING);
    bench.queue.respond(record.cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn second_answer_is_taken_as_late_and_reaches_nobody() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    bench.queue.respond(record.cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "first answer");
    let stray = bench.rig.dma().counters().stray_responses;

    expect_ok(bench.queue.respond(record.cookie, SUCCESS), "second answer");

    let stats = bench.rig.container.stats()?;
    assert_eq!((stats.responses, stats.late_responses), (1, 1));
    assert_eq!(bench.rig.dma().counters().stray_responses, stray);
    Ok(())
}

fn late_answer_of_an_old_cookie_does_not_answer_a_new_request() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, old) = bench.pending()?;
    bench.queue.respond(old.cookie, INVALID)?;
    bench.rig.dma().wait(slot)?;
    let (slot, new) = bench.pending()?;
    assert_ne!(old.cookie, new.cookie);

    expect_ok(bench.queue.respond(old.cookie, INVALID), "late");

    assert_eq!(
        bench.rig.dma().status(slot),
        status::WAITING,
        "not answered"
    );
    bench.space.new_page(&bench.rig, GVA)?;
    bench.queue.respond(new.cookie, SUCCESS)?;
    expect_status(bench.rig.dma().wait(slot)?, status::OK, "its own answer");
    Ok(())
}

fn cookies_are_never_reused() -> Outcome {
    let bench = FaultBench::with_depth(4)?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let (slot, record) = bench.pending()?;
        assert!(seen.insert(record.cookie), "{:#x}", record.cookie);
        bench.queue.respond(record.cookie, INVALID)?;
        bench.rig.dma().wait(slot)?;
    }
    Ok(())
}

fn cookie_of_another_queue_is_unknown_here() -> Outcome {
    let bench = FaultBench::open()?;
    let other = bench.rig.container.fault_queue(NONBLOCK, 0)?;
    let (slot, record) = bench.pending()?;
    expect_errno(
        other.respond(record.cookie, INVALID),
        Errno::ENOENT,
        "the other queue",
    );
    assert_eq!(bench.rig.dma().status(slot), status::WAITING);
    bench.queue.respond(record.cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "its own");
    Ok(())
}

fn each_of_two_queues_gets_the_requests_of_its_bindings() -> Outcome {
    let bench = FaultBench::open()?;
    let other = bench.rig.container.fault_queue(NONBLOCK, 0)?;
    let spaces = [Space::new(&bench.rig)?, Space::new(&bench.rig)?];
    spaces[0].bind_with(&bench.rig, &other, 7, 70)?;
    spaces[1].bind_with(&bench.rig, &bench.queue, 8, 80)?;
    let order = |space: &Space| Order::fill(GVA, 8, 1).at(space.pasid);
    let slots = [
        bench.rig.dma().submit(&order(&spaces[0]))?,
        bench.rig.dma().submit(&order(&spaces[1]))?,
        bench.touch(GVA)?,
    ];
    bench.rig.wait_for_page_requests(3)?;
    let theirs = other.read_all()?;
    let ours = bench.queue.read_all()?;
    let names = |records: &[vfio_ioasid_fault]| {
        let mut names: Vec<_> = records
            .iter()
            .map(|record| (record.guest_pasid, record.user_cookie, record.pasid))
            .collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&theirs), [(7, 70, spaces[0].pasid)]);
    let first = (
        FaultBench::GUEST_PASID,
        FaultBench::COOKIE,
        bench.space.pasid,
    );
    assert_eq!(names(&ours), [(8, 80, spaces[1].pasid), first]);
    for (queue, records) in [(&other, theirs), (&bench.queue, ours)] {
        for record in records {
            queue.respond(record.cookie, INVALID)?;
        }
    }
    for slot in slots {
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    }
    Ok(())
}

fn cookie_not_read_yet_cannot_be_answered() -> Outcome {
    let bench = FaultBench::open()?;
    // The second request's cookie is guessed from the first's; neither was read.
    let slot = bench.touch(GVA)?;
    bench.queue.wait_readable()?;
    for guess in 0..64u64 {
        for cookie in [guess, guess << 16, (guess << 16) | 1, (1 << 16) + guess] {
            expect_errno(
                bench.queue.respond(cookie, SUCCESS),
                Errno::ENOENT,
                &format!("guess {cookie:#x}"),
            );
        }
    }
    assert_eq!(bench.rig.dma().status(slot), status::WAITING);
    let record = bench.requests(1)?[0];
    bench.queue.respond(record.cookie, INVALID)?;
    bench.rig.dma().wait(slot)?;
    Ok(())
}

fn group_of_several_pages_is_read_whole_and_answered_once() -> Outcome {
    let bench = FaultBench::open()?;
    bench.rig.dma().set_group_size(8);
    let order = Order::fill(GVA, 6 * PAGE_LEN, 3).at(bench.space.pasid);
    let slot = bench.rig.dma().submit(&order)?;
    let records = bench.records()?;
    assert_eq!(records.len(), 6, "one group of six pages");
    let cookie = records[0].cookie;
    assert!(records.iter().all(|record| record.cookie == cookie));
    assert!(records
        .iter()
        .all(|record| record.group == records[0].group));
    let last: Vec<bool> = records
        .iter()
        .map(|record| record.flags & VFIO_IOASID_FAULT_FLAG_LAST != 0)
        .collect();
    assert_eq!(last, [false, false, false, false, false, true]);
    let mut addresses: Vec<u64> = records.iter().map(|record| record.addr).collect();
    addresses.sort_unstable();
    let expected: Vec<u64> = (0..6).map(|index| GVA + index * PAGE).collect();
    assert_eq!(addresses, expected);

    for address in addresses {
        bench.space.new_page(&bench.rig, address)?;
    }
    bench.queue.respond(cookie, SUCCESS)?;
    expect_status(bench.rig.dma().wait(slot)?, status::OK, "six pages");
    Ok(())
}

fn two_writers_of_the_same_answer_count_one_as_late() -> Outcome {
    let bench = FaultBench::open()?;
    for round in 1..=30u64 {
        let (slot, record) = bench.pending()?;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    bench
                        .queue
                        .respond(record.cookie, INVALID)
                        .expect("both are taken");
                });
            }
        });
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
        let stats = bench.rig.container.stats()?;
        assert_eq!((stats.responses, stats.late_responses), (round, round));
    }
    assert_eq!(bench.rig.dma().counters().stray_responses, 0);
    Ok(())
}

program![
    hole_is_filled_and_the_dma_goes_on,
    answer_invalid_ends_the_dma_with_an_error,
    answer_success_without_a_page_asks_again_and_gives_up,
    record_says_what_the_device_wanted,
    record_of_a_read_asks_for_read_alone,
    write_to_a_read_only_page_asks_for_it,
    several_requests_are_answered_in_any_order,
    several_answers_in_one_write_are_all_taken,
    write_stops_at_the_first_bad_answer_and_reports_what_was_taken,
    write_that_ends_in_a_torn_record_is_einval_and_takes_nothing,
    second_answer_is_taken_as_late_and_reaches_nobody,
    late_answer_of_an_old_cookie_does_not_answer_a_new_request,
    cookies_are_never_reused,
    cookie_of_another_queue_is_unknown_here,
    each_of_two_queues_gets_the_requests_of_its_bindings,
    cookie_not_read_yet_cannot_be_answered,
    group_of_several_pages_is_read_whole_and_answered_once,
    two_writers_of_the_same_answer_count_one_as_late,
];
