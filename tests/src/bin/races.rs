// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests and calls that meet an unbind or the end of a container at the worst moment,
//! on a kernel that does not keep them apart: functions of the kernel are delayed, so that it
//! happens every time. The same on iommufd leaves a fault with a freed handle, see
//! kernel_patches.rs.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at_rid, expect_errno, expect_status, fail, pin_page_request_threads, pin_to_cpu, poll,
    program, status, Delay, Delays, Errno, FaultBench, FaultQueue, KernelLog, Order, Outcome,
    PollFlags, Rig, Space, DEADLINE, RECORD,
};
use host_iommu_tests::testdev::raw;
use std::thread;
use std::time::{Duration, Instant};

const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;

/// Two CPUs that take turns of a tenth of a second reach each other's delays.
const LONG: Duration = Duration::from_millis(400);
const LONGER: Duration = Duration::from_millis(900);

/// The driver's own part of a detach is over: translation is blocked, page requests are drained.
const DRAINED: Delay = Delay {
    function: "intel_pasid_tear_down_entry",
    at_return: true,
    time: LONG,
};
/// The page request thread has found the handle.
const LOOKUP: Delay = Delay {
    function: "iommu_attach_handle_get",
    at_return: true,
    time: LONGER,
};

fn send(rig: &Rig, pasid: Option<u32>) -> Outcome {
    let flags = raw::READ | raw::LAST | raw::ROGUE | pasid.map_or(0, |_| raw::PASID);
    match rig
        .dma()
        .raw_page_request(FaultBench::GVA, flags, pasid.unwrap_or(0), 1)
    {
        raw::SENT => Ok(()),
        why => fail(format!("the request was not sent: {why}")),
    }
}

/// Makes `call` on what `prepare` has bound, while a page request of that site comes between the
/// driver's drain and the moment that the core forgets the handle. No record may be left of it,
/// and nobody complain.
fn with_a_request_inside(
    prepare: fn() -> Outcome<(FaultBench, Option<u32>)>,
    call: fn(&FaultBench) -> Outcome,
) -> Outcome {
    pin_page_request_threads(1)?;
    let mut log = KernelLog::from_now()?;
    // A machine under load may miss the moment.
    for _ in 0..8 {
        let (bench, pasid) = prepare()?;
        let met = meet(&bench, pasid, call)?;
        thread::sleep(LONGER);
        for record in bench.queue.read_all_or_nothing()? {
            assert_ne!(record.kind, VFIO_IOASID_FAULT_PAGE_REQUEST, "{record:?}");
        }
        assert_eq!(log.complaints()?, [""; 0]);
        if met {
            return Ok(());
        }
    }
    fail("no request was looked at before the call came back")
}

/// Whether the request had met the binding when the call came back: then the call has waited for
/// the page request thread to be done with the handle.
fn meet(bench: &FaultBench, pasid: Option<u32>, call: fn(&FaultBench) -> Outcome) -> Outcome<bool> {
    let delays = Delays::start(&[DRAINED, LOOKUP])?;
    thread::scope(|scope| {
        let caller = scope.spawn(|| -> Outcome<u64> {
            pin_to_cpu(0)?;
            call(bench)?;
            let stats = bench.rig.container.stats()?;
            Ok(stats.page_requests + stats.host_invalid)
        });
        pin_to_cpu(1)?;
        delays.wait_for_call(0)?;
        send(&bench.rig, pasid)?;
        match caller.join() {
            Ok(requests) => Ok(requests? != 0),
            Err(_) => fail("the calling thread panicked"),
        }
    })
}

fn bound_at_a_pasid() -> Outcome<(FaultBench, Option<u32>)> {
    let bench = FaultBench::open()?;
    let pasid = bench.space.pasid;
    Ok((bench, Some(pasid)))
}

fn bound_at_the_rid() -> Outcome<(FaultBench, Option<u32>)> {
    let bench = FaultBench::open()?;
    let data = bench.space.stage1_data();
    let mut bind = bind_at_rid(bench.rig.id(), &data);
    bind.fault_fd = bench.queue.raw_fd();
    bench.rig.container.bind(&bind)?;
    Ok((bench, None))
}

fn unbind_waits_for_a_request_that_found_its_handle() -> Outcome {
    with_a_request_inside(bound_at_a_pasid, |bench| {
        Ok(bench.space.unbind(&bench.rig)?)
    })
}

fn unbind_of_the_rid_waits_for_a_request_that_found_its_handle() -> Outcome {
    with_a_request_inside(bound_at_the_rid, |bench| {
        let (scope, device) = (VFIO_IOASID_SCOPE_RID, bench.rig.id());
        Ok(bench.rig.container.unbind(scope, device, 0)?)
    })
}

fn unbind_of_all_waits_for_a_request_that_found_its_handle() -> Outcome {
    with_a_request_inside(bound_at_a_pasid, |bench| {
        let (scope, device) = (VFIO_IOASID_SCOPE_CONTAINER, bench.rig.id());
        Ok(bench.rig.container.unbind(scope, device, 0)?)
    })
}

/// A reader's copy to its user meets memory that is not there.
const COPY: Delay = Delay {
    function: "lock_mm_and_find_vma",
    at_return: false,
    time: LONGER,
};

/// Runs `body` while a reader of `queue` has the only group in its hands, which it will give
/// back. Nothing if the reader was never seen with it.
fn while_a_reader_fails<T>(
    queue: &FaultQueue,
    body: impl FnOnce() -> Outcome<T>,
) -> Outcome<Option<T>> {
    pin_to_cpu(0)?;
    let _delays = Delays::start(&[COPY])?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Outcome {
            pin_to_cpu(1)?;
            let read = queue.read_past_an_edge(0, RECORD);
            expect_errno(read, Errno::EFAULT, "nowhere to copy to");
            Ok(())
        });
        while !reader.is_finished() && queue.readable_within(Duration::ZERO)? {
            thread::yield_now();
        }
        let value = match reader.is_finished() {
            true => None,
            false => Some(body()?),
        };
        match reader.join() {
            Ok(outcome) => outcome.map(|()| value),
            Err(_) => fail("the reader panicked"),
        }
    })
}

fn poll_wakes_for_a_group_that_its_reader_gave_back() -> Outcome {
    let bench = FaultBench::open()?;
    let slot = bench.touch(FaultBench::GVA)?;
    bench.queue.wait_readable()?;
    for _ in 0..8 {
        let polled = while_a_reader_fails(&bench.queue, || {
            let since = Instant::now();
            let events = poll(&bench.queue, PollFlags::POLLIN, DEADLINE)?;
            Ok((events, since.elapsed()))
        })?;
        let Some((events, time)) = polled else {
            continue;
        };
        assert_eq!(events, PollFlags::POLLIN, "it came back");
        // A poll that runs out of time looks once more.
        assert!(time < DEADLINE / 2, "nobody woke it");
        let record = bench.requests(1)?[0];
        bench.queue.respond(record.cookie, INVALID)?;
        expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
        return Ok(());
    }
    fail("the reader was never seen with the group")
}

fn reader_beside_one_that_is_held_up_sleeps_and_gets_what_came_back() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(0, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    for _ in 0..8 {
        let order = Order::fill(FaultBench::GVA, 8, 1).at(space.pasid);
        let slot = rig.dma().submit(&order)?;
        queue.wait_readable()?;
        let read = while_a_reader_fails(&queue, || {
            let reader = queue.read_in_a_thread(RECORD)?;
            // Not behind a lock that the other holds, where no signal would reach it. One that
            // came so late that the group was back does not sleep.
            let asleep = reader.wait_until_asleep().is_ok();
            Ok((asleep, reader.join()?))
        })?;
        let (asleep, bytes) = match read {
            Some((asleep, Ok(bytes))) => (asleep, bytes),
            Some((_, Err(errno))) => return fail(format!("the second read: {errno}")),
            None => (false, queue.read_bytes(RECORD)?),
        };
        let records = FaultQueue::decode(&bytes);
        assert_eq!(records.len(), 1);
        queue.respond(records[0].cookie, INVALID)?;
        expect_status(rig.dma().wait(slot)?, status::INVALID, "answered");
        if asleep {
            return Ok(());
        }
    }
    fail("the second reader never slept where a signal reaches it")
}

fn call_that_meets_the_end_of_its_container_is_refused() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let entry = Delay {
        function: "ioasid_vfio_ioctl",
        at_return: false,
        time: LONGER,
    };
    let delays = Delays::start(&[entry])?;
    let Rig {
        container, group, ..
    } = rig;
    thread::scope(|scope| -> Outcome {
        let stats = scope.spawn(|| -> Outcome<_> {
            pin_to_cpu(0)?;
            Ok(container.stats())
        });
        pin_to_cpu(1)?;
        delays.wait_for_call(0)?;
        // On a kernel with our patches this waits, and the call is good.
        group.unset_container()?;
        match stats.join() {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(stats) => {
                expect_errno(stats?, Errno::EINVAL, "the container is gone");
                Ok(())
            }
            Err(_) => fail("the calling thread panicked"),
        }
    })?;
    drop(delays);
    expect_errno(container.stats(), Errno::EINVAL, "no IOMMU any more");
    Ok(())
}

program![
    unbind_waits_for_a_request_that_found_its_handle,
    unbind_of_the_rid_waits_for_a_request_that_found_its_handle,
    unbind_of_all_waits_for_a_request_that_found_its_handle,
    poll_wakes_for_a_group_that_its_reader_gave_back,
    reader_beside_one_that_is_held_up_sleeps_and_gets_what_came_back,
    call_that_meets_the_end_of_its_container_is_refused,
];
