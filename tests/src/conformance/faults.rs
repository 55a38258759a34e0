// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests and fault queues.
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "the names of tests say what they check"
)]

use super::{
    expect, expect_errno, next_event, next_events, next_group, wait_readable, End, Job, Machine,
    Vm, COOKIE, DEADLINE, GVA, HOLE, MEMORY,
};
use crate::ktap::{fail, patience, Outcome};
use crate::memory::PAGE;
use crate::stage1::entry;
use host_iommu::{
    DmaFault, Error, FaultChannel, FaultEvent, FaultQueue, FaultQueueOptions, FaultRead, Iova,
    Response, ResponseRecord, Stage1Binding,
};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

const DONE: End = End::Done(0);

pub fn group_says_who_asks_and_goes_on(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, space) = vm.bind(Some(&faults))?;
    if !matches!(faults.read()?, FaultRead::Empty) {
        return fail("something to read before anything was asked for");
    }
    let pasid = bound.pasid();
    let job = vm.start(Job::store(HOLE + 8, 7).at(pasid).asking())?;
    let group = next_group(&faults)?;
    expect(group.device(), vm.device, "the device")?;
    expect(group.pasid(), Some(pasid), "the PASID")?;
    expect(group.guest_pasid(), pasid.get(), "the guest's PASID")?;
    expect(group.user_cookie(), COOKIE, "the cookie of the binding")?;
    let [request] = group.requests() else {
        return fail(format!("{:?}", group.requests()));
    };
    expect(request.address, Iova(HOLE), "the page")?;
    expect(request.access.write, true, "to write")?;
    expect(vm.client.end(job, Duration::from_millis(5))?, None, "waits")?;
    vm.table(space).map(HOLE, space.page, entry::RW);
    group.respond(Response::Success)?;
    expect(vm.end(job)?, DONE, "the end")?;
    expect(vm.memory.read_u64(space.page + 8), 7, "memory")?;
    let stats = vm.host.stats()?;
    expect(
        (stats.page_requests, stats.responses, stats.host_invalid),
        (1, 1, 0),
        "counters",
    )
}

pub fn group_answered_invalid_ends_the_dma(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    next_group(&faults)?.respond(Response::Invalid)?;
    expect(vm.end(job)?, End::Invalid, "the end")
}

pub fn group_answered_success_for_nothing_ends_after_retries(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    // The device asks again each time, but not for ever.
    let mut answers = 0;
    while answers < 100 {
        if let Some(end) = vm.client.end(job, Duration::from_millis(1))? {
            expect(end, End::Retries, "the end")?;
            return expect(answers > 1, true, "it asked again");
        }
        if let FaultRead::Events(events) = faults.read()? {
            for event in events {
                if let FaultEvent::PageRequests(group) = event {
                    group.respond(Response::Success)?;
                    answers += 1;
                }
            }
        }
    }
    fail("the device asks for ever")
}

pub fn group_dropped_is_answered_invalid(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    drop(next_group(&faults)?);
    expect(vm.end(job)?, End::Invalid, "the end")?;
    expect(vm.host.stats()?.responses, 1, "answers")
}

pub fn group_has_every_page_that_is_missing(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    vm.client.set_group_size(8);
    let faults = vm.queue()?;
    let (bound, space) = vm.bind(Some(&faults))?;
    // The first page is there, three are not.
    let job = Job::store(GVA, 7).of(4 * PAGE).at(bound.pasid()).asking();
    let job = vm.start(job)?;
    let group = next_group(&faults)?;
    let asked: Vec<u64> = group.requests().iter().map(|page| page.address.0).collect();
    expect(asked, vec![HOLE, HOLE + PAGE, HOLE + 2 * PAGE], "pages")?;
    for number in 0..3 {
        let page = vm.memory.alloc_page();
        vm.table(space).map(HOLE + number * PAGE, page, entry::RW);
    }
    group.respond(Response::Success)?;
    expect(vm.end(job)?, DONE, "the end")
}

pub fn group_without_queue_is_answered_invalid(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    // Another binding of the device has one: page requests are on.
    let faults = vm.queue()?;
    let _other = vm.bind(Some(&faults))?;
    let (bound, _) = vm.bind(None)?;
    let job = Job::store(HOLE, 7).at(bound.pasid()).asking();
    expect(vm.run(job)?, End::Invalid, "the end")?;
    if matches!(faults.read()?, FaultRead::Empty) {
        return Ok(());
    }
    fail("the other binding's queue got it")
}

pub fn group_of_an_unbound_table_is_cancelled(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let read = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    let group = next_group(&faults)?;
    let unread = vm.start(Job::store(HOLE + PAGE, 7).at(bound.pasid()).asking())?;
    wait_readable(&faults)?;
    drop(bound);
    expect(vm.end(read)?, End::Invalid, "what was read")?;
    expect(vm.end(unread)?, End::Invalid, "what was not")?;
    // Only what was read is told.
    match next_event(&faults)? {
        FaultEvent::Cancelled(cookie) => expect(cookie, group.cookie(), "cookie")?,
        other => return fail(format!("{other:?}")),
    }
    group.respond(Response::Success)?;
    let stats = vm.host.stats()?;
    expect(
        (stats.late_responses, stats.responses, stats.host_invalid),
        (1, 0, 2),
        "counters",
    )
}

/// Puts a table with its buffer complete in the place of one whose group was read.
fn replaced(vm: &Vm, faults: &FaultQueue, mut bound: Stage1Binding, ask: Job) -> Outcome {
    let waits = vm.start(ask)?;
    let group = next_group(faults)?;
    let next = vm.space();
    vm.table(next).map(HOLE, next.page, entry::RW);
    bound.rebind(&next.table(), Some(faults))?;
    expect(vm.end(waits)?, End::Invalid, "what waited")?;
    match next_event(faults)? {
        FaultEvent::Cancelled(cookie) => expect(cookie, group.cookie(), "cookie")?,
        other => return fail(format!("{other:?}")),
    }
    group.respond(Response::Success)?;
    expect(vm.run(ask)?, DONE, "by the new table")?;
    expect(vm.memory.read_u64(next.page), 7, "memory")?;
    // The new one asks too.
    let job = vm.start(Job {
        address: HOLE + PAGE,
        ..ask
    })?;
    drop(next_group(faults)?);
    expect(vm.end(job)?, End::Invalid, "the end")?;
    expect(vm.host.stats()?.late_responses, 1, "late answers")
}

pub fn group_of_a_replaced_table_is_cancelled(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let ask = Job::store(HOLE, 7).at(bound.pasid()).asking();
    replaced(&vm, &faults, bound, ask)
}

pub fn group_of_a_replaced_table_at_the_rid_is_cancelled(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let table = vm.space().table();
    let bound = vm.host.bind_rid(vm.device, &table, Some(&faults))?;
    replaced(&vm, &faults, bound, Job::store(HOLE, 7).asking())
}

pub fn group_cookie_is_never_used_again(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let mut seen = Vec::new();
    let faults = vm.queue()?;
    for _ in 0..2 {
        let (bound, _) = vm.bind(Some(&faults))?;
        for _ in 0..3 {
            let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
            let group = next_group(&faults)?;
            let cookie = group.cookie();
            expect(seen.contains(&cookie), false, "a cookie of before")?;
            seen.push(cookie);
            group.respond(Response::Invalid)?;
            expect(vm.end(job)?, End::Invalid, "the end")?;
        }
    }
    Ok(())
}

pub fn group_of_a_closed_queue_is_answered_invalid(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    let group = next_group(&faults)?;
    drop(faults);
    expect(vm.end(job)?, End::Invalid, "what waited")?;
    match group.respond(Response::Success) {
        Err(Error::QueueClosed) => {}
        other => return fail(format!("{other:?}")),
    }
    let later = Job::store(HOLE, 7).at(bound.pasid()).asking();
    expect(vm.run(later)?, End::Invalid, "what came later")?;
    expect(vm.host.stats()?.fault_queues, 0, "queues")
}

pub fn group_after_its_deadline_is_answered_invalid(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    // Long enough to be read before, on a busy machine too.
    let deadline = Duration::from_millis(500) * patience();
    let options = FaultQueueOptions::nonblocking().with_deadline(deadline);
    let faults = vm.host.fault_queue(&options)?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    let group = next_group(&faults)?;
    expect(vm.end(job)?, End::Invalid, "the end")?;
    match next_event(&faults)? {
        FaultEvent::Expired(cookie) => expect(cookie, group.cookie(), "cookie")?,
        other => return fail(format!("{other:?}")),
    }
    group.respond(Response::Success)?;
    expect(vm.host.stats()?.late_responses, 1, "late answers")
}

/// The queue for DMA faults; `None` where the host cannot tell of them, and then it says so.
fn for_dma(vm: &Vm) -> Outcome<Option<FaultQueue>> {
    let options = FaultQueueOptions::nonblocking().with_dma_faults();
    let made = vm.host.fault_queue(&options);
    let nesting = vm.host.capabilities()?.nesting;
    if nesting.is_some_and(|nesting| nesting.dma_faults.is_present()) {
        return Ok(Some(made?));
    }
    expect_errno(made, Errno::EOPNOTSUPP)?;
    Ok(None)
}

/// A job that the IOMMU stops itself: the device asks for no translation.
fn stopped(vm: &Vm, job: Job) -> Outcome {
    let job = Job { ats: false, ..job };
    expect(vm.run(job)?, End::NoAccess, "the end")
}

/// The next DMA fault, which must be alone.
fn next_dma_fault(faults: &FaultQueue) -> Outcome<DmaFault> {
    match next_event(faults)? {
        FaultEvent::Dma(fault) => Ok(fault),
        other => fail(format!("a DMA fault was due: {other:?}")),
    }
}

pub fn dma_fault_goes_to_the_binding_or_to_the_queue_for_dma(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let Some(all) = for_dma(&vm)? else {
        return Ok(());
    };
    let options = FaultQueueOptions::nonblocking().with_dma_faults();
    expect_errno(vm.host.fault_queue(&options), Errno::EBUSY)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let pasid = bound.pasid();
    stopped(&vm, Job::store(HOLE + 8, 1).at(pasid))?;
    let fault = next_dma_fault(&faults)?;
    expect(fault.device, vm.device, "the device")?;
    expect(fault.pasid, Some(pasid), "the PASID")?;
    expect(fault.guest_pasid, pasid.get(), "the guest's PASID")?;
    expect(fault.user_cookie, COOKIE, "the cookie")?;
    expect(fault.address, Iova(HOLE), "the page")?;
    expect(
        (fault.access.read, fault.access.write),
        (false, true),
        "access",
    )?;
    // VT-d 4.1, 7.1.3: a first-stage entry is not present; stage 2 forbids it.
    expect(fault.reason, 0x71, "the reason")?;
    if !matches!(all.read()?, FaultRead::Empty) {
        return fail("two queues got it");
    }
    let (silent, _) = vm.bind(None)?;
    stopped(&vm, Job::load(HOLE).at(silent.pasid()))?;
    let fault = next_dma_fault(&all)?;
    expect(fault.pasid, Some(silent.pasid()), "without queue")?;
    expect(
        (fault.access.read, fault.access.write),
        (true, false),
        "access",
    )?;
    stopped(&vm, Job::store(MEMORY, 1))?;
    let fault = next_dma_fault(&all)?;
    expect((fault.pasid, fault.reason), (None, 0x79), "at the RID")?;
    expect(fault.address, Iova(MEMORY), "the page")?;
    expect(vm.host.stats()?.dma_faults, 3, "counted")
}

pub fn dma_faults_do_not_keep_page_requests_out(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    if for_dma(&vm)?.is_none() {
        return Ok(());
    }
    let options = FaultQueueOptions::nonblocking().with_depth(4);
    let faults = vm.host.fault_queue(&options)?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let pasid = bound.pasid();
    for number in 0..6 {
        stopped(&vm, Job::store(HOLE + (number << 12), 1).at(pasid))?;
    }
    // The kernel's come by a worker of their own.
    let end = Instant::now() + DEADLINE;
    while vm.host.stats()?.dma_faults < 6 {
        if Instant::now() > end {
            return fail("six faults did not come");
        }
        thread::sleep(Duration::from_millis(1));
    }
    let job = vm.start(Job::store(HOLE, 7).at(pasid).asking())?;
    let (mut told, mut lost, mut groups) = (0, 0, Vec::new());
    while groups.is_empty() {
        for event in next_events(&faults)? {
            match event {
                FaultEvent::Dma(_) => told += 1,
                FaultEvent::Overflow(count) => lost += count,
                FaultEvent::PageRequests(group) => groups.push(group),
                other => return fail(format!("{other:?}")),
            }
        }
    }
    expect((told, lost), (2, 4), "told and lost")?;
    drop(groups);
    expect(vm.end(job)?, End::Invalid, "the end")
}

pub fn queue_over_its_depth_loses_and_counts(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let options = FaultQueueOptions::nonblocking().with_depth(1);
    let faults = vm.host.fault_queue(&options)?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let pasid = bound.pasid();
    let first = vm.start(Job::store(HOLE, 7).at(pasid).asking())?;
    wait_readable(&faults)?;
    let lost = Job::store(HOLE + PAGE, 7).at(pasid).asking();
    expect(vm.run(lost)?, End::Invalid, "what was too much")?;
    let mut events = next_events(&faults)?.into_iter();
    match (events.next(), events.next(), events.next()) {
        (Some(FaultEvent::Overflow(1)), Some(FaultEvent::PageRequests(group)), None) => {
            // It still waits: reading makes no room.
            expect(vm.run(lost)?, End::Invalid, "what was too much again")?;
            group.respond(Response::Invalid)?;
        }
        other => return fail(format!("{other:?}")),
    }
    expect(vm.end(first)?, End::Invalid, "the first")?;
    match next_event(&faults)? {
        FaultEvent::Overflow(1) => {}
        other => return fail(format!("{other:?}")),
    }
    let again = vm.start(lost)?;
    next_group(&faults)?.respond(Response::Invalid)?;
    expect(vm.end(again)?, End::Invalid, "after there was room")?;
    expect(vm.host.stats()?.overflows, 2, "lost")
}

fn answer(channel: &dyn FaultChannel, cookie: u64, code: u32) -> Option<i32> {
    let record = ResponseRecord {
        cookie,
        code,
        ..Default::default()
    };
    channel.write(&[record]).err()?.raw_os_error()
}

pub fn queue_takes_back_only_cookies_it_gave(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let channel = vm
        .host
        .context()
        .fault_queue(&FaultQueueOptions::nonblocking())?;
    let enoent = Some(Errno::ENOENT as i32);
    for cookie in [0, 1, u64::MAX] {
        expect(answer(&*channel, cookie, 0), enoent, "never given")?;
    }
    let faults = FaultQueue::from_channel(channel.clone());
    let (bound, _) = vm.bind(Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    let group = next_group(&faults)?;
    let cookie = group.cookie();
    let einval = Some(Errno::EINVAL as i32);
    expect(answer(&*channel, cookie, 2), einval, "an unknown code")?;
    group.respond(Response::Invalid)?;
    expect(vm.end(job)?, End::Invalid, "the end")?;
    expect(answer(&*channel, cookie, 0), None, "answered before")?;
    expect(answer(&*channel, cookie + (1 << 60), 0), enoent, "another")?;
    let stats = vm.host.stats()?;
    expect((stats.responses, stats.late_responses), (1, 1), "counters")
}

pub fn queue_of_another_context_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let other = Vm::on(machine.open(&[1])?)?;
    let foreign = other.queue()?;
    let pasids = vm.pasid()?;
    let table = vm.space().table();
    let (device, pasid) = (vm.device, pasids.first());
    let result = vm.host.bind(device, &pasids, pasid, &table, Some(&foreign));
    expect_errno(result, Errno::EINVAL)
}

pub fn queue_that_waits_wakes_up(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.host.fault_queue(&FaultQueueOptions::default())?;
    let (bound, _) = vm.bind(Some(&faults))?;
    let (job, read) = thread::scope(|scope| {
        let reader = scope.spawn(|| faults.read());
        thread::sleep(Duration::from_millis(20));
        let early = reader.is_finished();
        let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking());
        (job, reader.join().map(|read| (early, read)))
    });
    match read {
        Ok((false, Ok(FaultRead::Events(events)))) => {
            expect(events.len(), 1, "events")?;
        }
        other => return fail(format!("{other:?}")),
    }
    expect(vm.end(job?)?, End::Invalid, "the end")
}

pub fn queue_too_deep_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let options = FaultQueueOptions::default().with_depth(16_385);
    expect_errno(vm.host.fault_queue(&options), Errno::EINVAL)?;
    let most = FaultQueueOptions::default().with_depth(16_384);
    vm.host.fault_queue(&most)?;
    Ok(())
}

/// A queue whose context is gone, with a record to read before the end.
fn ended(machine: &dyn Machine) -> Outcome<FaultQueue> {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, _) = vm.bind(Some(&faults))?;
    vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    let group = next_group(&faults)?;
    drop((bound, vm));
    wait_readable(&faults)?;
    match next_event(&faults)? {
        FaultEvent::Cancelled(cookie) => expect(cookie, group.cookie(), "cookie")?,
        other => return fail(format!("{other:?}")),
    }
    Ok(faults)
}

pub fn queue_at_its_end_says_so(machine: &dyn Machine) -> Outcome {
    let faults = ended(machine)?;
    for _ in 0..2 {
        wait_readable(&faults)?;
        match faults.read()? {
            FaultRead::Ended => {}
            other => return fail(format!("{other:?}")),
        }
    }
    Ok(())
}

pub fn queue_at_its_end_hangs_up(machine: &dyn Machine) -> Outcome {
    let faults = ended(machine)?;
    let mut fds = [PollFd::new(faults.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(DEADLINE)?)?;
    match fds[0].revents() {
        Some(events) if events.contains(PollFlags::POLLHUP) => Ok(()),
        events => fail(format!("no POLLHUP: {events:?}")),
    }
}
