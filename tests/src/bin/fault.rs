// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests: they arrive on the fault fd, the answer reaches the device, and every
//! record says what the device wanted.

use std::time::Duration;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bdf, bytes_of, entry, expect_errno, expect_ok, expect_status, poll, program, response, status,
    Errno, FaultQueue, Order, Outcome, PollFlags, Rig, Slot, Space, Stop, DEADLINE, PAGE, PAGE_LEN,
    RECORD,
};

const GVA: u64 = 0x4567_89ab_c000;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
const SUCCESS: u32 = VFIO_IOASID_RESPONSE_SUCCESS;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;
const PAGE_REQUEST: u32 = VFIO_IOASID_FAULT_PAGE_REQUEST;

/// A rig with one space bound with a fault queue.
struct Bench {
    rig: Rig,
    space: Space,
    queue: FaultQueue,
}

impl Bench {
    fn open() -> Result<Self, Stop> {
        Self::with_depth(0)
    }

    fn with_depth(depth: u32) -> Result<Self, Stop> {
        let rig = Rig::faulting()?;
        let space = Space::new(&rig)?;
        let queue = rig.container.fault_queue(NONBLOCK, depth)?;
        space.bind_with(&rig, &queue, 0x1111, 0xc00c_1e00)?;
        Ok(Self { rig, space, queue })
    }

    /// Starts a write to `gva`, where nothing is mapped.
    fn touch(&self, gva: u64) -> Result<Slot, Stop> {
        let order = Order::fill(gva, 8, 0xd00d).at(self.space.pasid);
        Ok(self.rig.dma().submit(&order)?)
    }

    /// Waits for records and reads them all.
    fn records(&self) -> Result<Vec<vfio_ioasid_fault>, Stop> {
        self.queue.wait_readable()?;
        Ok(self.queue.read_all()?)
    }

    /// Waits until `count` page requests have been read.
    fn requests(&self, count: usize) -> Result<Vec<vfio_ioasid_fault>, Stop> {
        let mut records = Vec::new();
        while records.len() < count {
            records.extend(self.records()?);
        }
        assert_eq!(records.len(), count, "{records:?}");
        assert!(records.iter().all(|record| record.kind == PAGE_REQUEST));
        Ok(records)
    }

    fn pending(&self) -> Result<(Slot, vfio_ioasid_fault), Stop> {
        let slot = self.touch(GVA)?;
        let record = self.requests(1)?[0];
        Ok((slot, record))
    }
}

fn hole_is_filled_and_the_dma_goes_on() -> Outcome {
    let bench = Bench::open()?;
    let (slot, record) = bench.pending()?;
    assert_eq!(bench.rig.dma().status(slot), status::WAITING);

    let page = bench.space.new_page(&bench.rig, record.addr)?;
    bench.queue.respond(record.cookie, SUCCESS)?;

    expect_status(bench.rig.dma().wait(slot)?, status::OK, "after SUCCESS");
    assert_eq!(bench.rig.mem.read_u64(page), 0xd00d);
    Ok(())
}

fn answer_invalid_ends_the_dma_with_an_error() -> Outcome {
    let bench = Bench::open()?;
    let (slot, record) = bench.pending()?;
    bench.queue.respond(record.cookie, INVALID)?;
    let done = bench.rig.dma().wait(slot)?;
    expect_status(done, status::INVALID, "after INVALID");
    assert_eq!(done.result, GVA);
    Ok(())
}

fn answer_success_without_a_page_asks_again_and_gives_up() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
    let (slot, record) = bench.pending()?;
    assert_eq!(record.kind, PAGE_REQUEST);
    assert_eq!(
        record.flags,
        VFIO_IOASID_FAULT_FLAG_PASID | VFIO_IOASID_FAULT_FLAG_LAST
    );
    assert_eq!(bdf(record.device), bdf(bench.rig.id()));
    assert_eq!(record.pasid, bench.space.pasid);
    assert_eq!(record.guest_pasid, 0x1111);
    assert_eq!(record.user_cookie, 0xc00c_1e00);
    assert_eq!(record.addr, GVA);
    assert_ne!(record.perm & VFIO_IOASID_FAULT_PERM_WRITE, 0);
    assert_eq!(record.perm & VFIO_IOASID_FAULT_PERM_PRIV, 0);
    assert_ne!(record.cookie, 0);
    assert!(record.group < 512, "a group index has 9 bits");
    assert_eq!((record.__reserved, record.private_data), (0, 0));
    bench.queue.respond(record.cookie, INVALID)?;
    bench.rig.dma().wait(slot)?;
    Ok(())
}

fn record_of_a_read_asks_for_read_alone() -> Outcome {
    let bench = Bench::open()?;
    let order = Order::checksum(GVA, 8).at(bench.space.pasid);
    let slot = bench.rig.dma().submit(&order)?;
    let record = bench.requests(1)?[0];
    assert_eq!(record.perm, VFIO_IOASID_FAULT_PERM_READ);
    bench.queue.respond(record.cookie, INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "read");
    Ok(())
}

fn write_to_a_read_only_page_asks_for_it() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
        assert_eq!(bench.rig.mem.read_u64(pages[index]), 0xd00d);
    }
    Ok(())
}

fn several_answers_in_one_write_are_all_taken() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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

fn write_with_a_torn_last_record_takes_the_whole_ones() -> Outcome {
    let bench = Bench::open()?;
    let (slot, record) = bench.pending()?;
    let mut bytes = bytes_of(&response(record.cookie, INVALID));
    bytes.extend([0; 7]);
    let taken = bench.queue.write_bytes(&bytes);
    match taken {
        Ok(count) => assert_eq!(count, 16),
        // Refusing the whole write is as good, but then nothing was answered.
        Err(error) => {
            assert_eq!(error.errno, Errno::EINVAL);
            assert_eq!(bench.rig.dma().status(slot), status::WAITING);
            bench.queue.respond(record.cookie, INVALID)?;
        }
    }
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn second_answer_is_taken_as_late_and_reaches_nobody() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::with_depth(4)?;
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
    let bench = Bench::open()?;
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

fn cookie_not_read_yet_cannot_be_answered() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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

/// Starts an order that asks for a group of `pages`.
fn group(bench: &Bench, gva: u64, pages: u32) -> Result<Slot, Stop> {
    bench.rig.dma().set_group_size(pages);
    let order = Order::fill(gva, pages * PAGE_LEN, 3).at(bench.space.pasid);
    let slot = bench.rig.dma().submit(&order)?;
    bench.queue.wait_readable()?;
    Ok(slot)
}

fn read_that_the_first_group_does_not_fit_returns_einval_and_loses_nothing() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
    let (slot, record) = bench.pending()?;
    let taken = bench
        .queue
        .write_record_past_an_edge(&response(record.cookie, INVALID), 48)?;
    assert_eq!(taken, 16);
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn poll_is_exact() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
    let poller = bench.queue.poll_in_a_thread(PollFlags::POLLIN)?;
    poller.wait_until_asleep()?;
    let (slot, record) = bench.pending()?;
    assert!(poller.join()?.contains(PollFlags::POLLIN));
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

fn two_writers_of_the_same_answer_count_one_as_late() -> Outcome {
    let bench = Bench::open()?;
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

fn queue_over_its_depth_answers_invalid_and_reports_the_loss() -> Outcome {
    let bench = Bench::with_depth(2)?;
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
    let bench = Bench::with_depth(3)?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
    for _ in 0..10 {
        let (slot, record) = bench.pending()?;
        bench.queue.respond(record.cookie, INVALID)?;
        bench.rig.dma().wait(slot)?;
        bench.space.unbind(&bench.rig)?;
        bench
            .space
            .bind_with(&bench.rig, &bench.queue, 0x1111, 0xc00c_1e00)?;
    }
    assert_eq!(bench.rig.container.stats()?.responses, 10);
    Ok(())
}

fn requests_after_unbind_reach_nobody() -> Outcome {
    let bench = Bench::open()?;
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
    let bench = Bench::open()?;
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
        bench
            .space
            .bind_with(&bench.rig, &bench.queue, 0x1111, 0xc00c_1e00)?;
    }
    let stats = bench.rig.container.stats()?;
    assert_eq!(stats.responses + stats.late_responses, 40);
    assert_eq!(bench.rig.dma().counters().stray_responses, 0);
    Ok(())
}

fn hundreds_of_requests_are_all_answered() -> Outcome {
    let bench = Bench::open()?;
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
    hole_is_filled_and_the_dma_goes_on,
    answer_invalid_ends_the_dma_with_an_error,
    answer_success_without_a_page_asks_again_and_gives_up,
    record_says_what_the_device_wanted,
    record_of_a_read_asks_for_read_alone,
    write_to_a_read_only_page_asks_for_it,
    several_requests_are_answered_in_any_order,
    several_answers_in_one_write_are_all_taken,
    write_stops_at_the_first_bad_answer_and_reports_what_was_taken,
    write_with_a_torn_last_record_takes_the_whole_ones,
    second_answer_is_taken_as_late_and_reaches_nobody,
    late_answer_of_an_old_cookie_does_not_answer_a_new_request,
    cookies_are_never_reused,
    cookie_of_another_queue_is_unknown_here,
    cookie_not_read_yet_cannot_be_answered,
    group_of_several_pages_is_read_whole_and_answered_once,
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
    two_writers_of_the_same_answer_count_one_as_late,
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
