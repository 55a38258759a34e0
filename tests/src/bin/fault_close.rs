// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The last close of a fault fd answers everything, and nothing but the last close does:
//! duplicates, children and fds in flight between processes keep the queue alive.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    child, expect_errno, expect_ok, expect_status, fail, program, receive_fd, send_fd, status,
    Errno, FaultQueue, Order, Outcome, Rig, Slot, Space, Stop, PAGE, RECORD,
};

const GVA: u64 = 0x5678_9abc_d000;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
const CLOEXEC: u32 = VFIO_IOASID_FAULT_QUEUE_CLOEXEC;
const SUCCESS: u32 = VFIO_IOASID_RESPONSE_SUCCESS;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;

/// A rig, a space bound with a queue, and the queue.
fn bench() -> Result<(Rig, Space, FaultQueue), Stop> {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(NONBLOCK | CLOEXEC, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    Ok((rig, space, queue))
}

fn touch(rig: &Rig, space: &Space, index: u64) -> Result<Slot, Stop> {
    let order = Order::fill(GVA + index * PAGE, 8, 0xd00d).at(space.pasid);
    Ok(rig.dma().submit(&order)?)
}

fn last_close_answers_what_was_read() -> Outcome {
    let (rig, space, queue) = bench()?;
    let slot = touch(&rig, &space, 0)?;
    queue.wait_readable()?;
    queue.read_all()?;
    assert_eq!(rig.dma().status(slot), status::WAITING);
    drop(queue);
    expect_status(rig.dma().wait(slot)?, status::INVALID, "closed");
    assert_eq!(rig.container.stats()?.host_invalid, 1);
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

fn last_close_answers_what_was_not_read() -> Outcome {
    let (rig, space, queue) = bench()?;
    let slots: Vec<_> = (0..10)
        .map(|index| touch(&rig, &space, index))
        .collect::<Result<_, _>>()?;
    queue.wait_for_page_requests(&rig, 10)?;
    drop(queue);
    for slot in slots {
        expect_status(rig.dma().wait(slot)?, status::INVALID, "closed");
    }
    assert_eq!(rig.container.stats()?.host_invalid, 10);
    Ok(())
}

fn last_close_answers_several_bindings() -> Outcome {
    let (rig, first, queue) = bench()?;
    let spaces: Vec<_> = (0..4).map(|_| Space::new(&rig)).collect::<Result<_, _>>()?;
    for space in &spaces {
        space.bind_with(&rig, &queue, 0, 0)?;
    }
    let mut slots = vec![touch(&rig, &first, 0)?];
    for space in &spaces {
        slots.push(touch(&rig, space, 0)?);
    }
    queue.wait_for_page_requests(&rig, 5)?;
    drop(queue);
    for slot in slots {
        expect_status(rig.dma().wait(slot)?, status::INVALID, "closed");
    }
    Ok(())
}

fn requests_after_the_last_close_are_answered_at_once() -> Outcome {
    let (rig, space, queue) = bench()?;
    drop(queue);
    for index in 0..3 {
        let slot = touch(&rig, &space, index)?;
        expect_status(rig.dma().wait(slot)?, status::INVALID, "nobody listens");
    }
    assert_eq!(rig.container.stats()?.host_invalid, 3);
    Ok(())
}

fn binding_outlives_its_queue() -> Outcome {
    let (rig, space, queue) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    drop(queue);
    assert_eq!(rig.container.stats()?.bindings, 1);
    let slot = touch(&rig, &space, 0)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "what is mapped works");
    assert_eq!(rig.mem.read_u64(page), 0xd00d);
    space.unbind(&rig)?;
    Ok(())
}

fn new_queue_after_a_close_serves_a_new_bind() -> Outcome {
    let (rig, space, queue) = bench()?;
    drop(queue);
    space.unbind(&rig)?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let slot = touch(&rig, &space, 0)?;
    queue.wait_readable()?;
    let record = queue.read_all()?[0];
    space.new_page(&rig, GVA)?;
    queue.respond(record.cookie, SUCCESS)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "answered");
    Ok(())
}

fn duplicate_keeps_requests_waiting() -> Outcome {
    let (rig, space, queue) = bench()?;
    let slot = touch(&rig, &space, 0)?;
    queue.wait_readable()?;
    let duplicate = queue.duplicate()?;
    drop(queue);
    let record = duplicate.read_all()?[0];
    assert_eq!(rig.dma().status(slot), status::WAITING);
    space.new_page(&rig, GVA)?;
    duplicate.respond(record.cookie, SUCCESS)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "by the duplicate");
    Ok(())
}

fn reader_asleep_keeps_the_queue_until_it_returns() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(0, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    // The thread reads from a duplicate of its own; the original is closed meanwhile.
    let reader = queue.duplicate()?.read_in_a_thread_owned(RECORD)?;
    reader.wait_until_asleep()?;
    drop(queue);
    let slot = touch(&rig, &space, 0)?;
    let bytes = reader
        .join()?
        .map_err(|errno| Stop::Fail(format!("read: {errno}")))?;
    assert_eq!(bytes.len(), RECORD);
    // The reader's return closed the duplicate: that was the last one.
    expect_status(rig.dma().wait(slot)?, status::INVALID, "closed");
    Ok(())
}

fn child_that_inherited_the_fd_reads_and_answers() -> Outcome {
    let (rig, space, queue) = bench()?;
    let mut process = child(&["answer_invalid"])?
        .stdin(Stdio::from(queue.duplicate()?.into_fd()))
        .spawn()?;
    drop(queue);
    let slot = touch(&rig, &space, 0)?;
    expect_status(rig.dma().wait(slot)?, status::INVALID, "by the child");
    assert!(process.wait()?.success());
    let stats = rig.container.stats()?;
    assert_eq!((stats.responses, stats.host_invalid), (1, 0));
    Ok(())
}

/// Reads one group from the fault fd that is its stdin, and answers it.
fn answer_invalid() -> Outcome {
    let queue = FaultQueue::from_stdin()?;
    queue.wait_readable()?;
    let record = queue.read_all()?[0];
    queue.respond(record.cookie, INVALID)?;
    Ok(())
}

fn child_killed_with_the_last_fd_answers_everything() -> Outcome {
    let (rig, space, queue) = bench()?;
    let mut process = child(&["hold"])?
        .stdin(Stdio::from(queue.duplicate()?.into_fd()))
        .stdout(Stdio::piped())
        .spawn()?;
    let slot = touch(&rig, &space, 0)?;
    wait_for_ready(&mut process)?;
    drop(queue);
    assert_eq!(
        rig.dma().status(slot),
        status::WAITING,
        "the child holds it"
    );
    process.kill()?;
    process.wait()?;
    expect_status(rig.dma().wait(slot)?, status::INVALID, "killed");
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

fn child_killed_asleep_in_a_read_answers_everything() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(CLOEXEC, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let mut process = child(&["read_for_ever"])?
        .stdin(Stdio::from(queue.duplicate()?.into_fd()))
        .stdout(Stdio::piped())
        .spawn()?;
    let slot = touch(&rig, &space, 0)?;
    drop(queue);
    wait_for_ready(&mut process)?;
    assert_eq!(rig.dma().status(slot), status::WAITING, "the child has it");
    process.kill()?;
    process.wait()?;
    expect_status(rig.dma().wait(slot)?, status::INVALID, "killed");
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

/// Reads a request from the fault fd on stdin, and says so once a second read is asleep.
fn read_for_ever() -> Outcome {
    let queue = FaultQueue::from_stdin()?;
    queue.wait_readable()?;
    queue.read_one()?;
    let reader = queue.read_in_a_thread(RECORD)?;
    reader.wait_until_asleep()?;
    host_iommu_tests::rig::say_ready()?;
    reader.join().map(drop)
}

fn wait_for_ready(process: &mut std::process::Child) -> Outcome {
    let Some(stdout) = process.stdout.as_mut() else {
        return fail("the child has no stdout");
    };
    let mut byte = [0u8; 1];
    stdout.read_exact(&mut byte)?;
    Ok(())
}

/// Reads what there is from the fault fd on stdin, says so, and waits to be killed.
fn hold() -> Outcome {
    let queue = FaultQueue::from_stdin()?;
    queue.wait_readable()?;
    queue.read_all()?;
    host_iommu_tests::rig::say_ready()?;
    loop {
        std::thread::park();
    }
}

fn fd_passed_over_a_socket_works_for_the_receiver() -> Outcome {
    let (rig, space, queue) = bench()?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut process = child(&["receive_and_answer"])?
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()?;
    send_fd(&ours, queue.as_fd())?;
    drop(queue);
    let slot = touch(&rig, &space, 0)?;
    expect_status(rig.dma().wait(slot)?, status::INVALID, "by the receiver");
    assert!(process.wait()?.success());
    assert_eq!(rig.container.stats()?.responses, 1);
    Ok(())
}

/// Takes a fault fd from the socket on stdin, reads a group from it and answers it.
fn receive_and_answer() -> Outcome {
    let queue = FaultQueue::from_fd(receive_fd(std::io::stdin().as_fd())?);
    queue.wait_readable()?;
    let record = queue.read_all()?[0];
    queue.respond(record.cookie, INVALID)?;
    Ok(())
}

fn fd_in_flight_on_a_socket_keeps_the_queue_until_the_socket_goes() -> Outcome {
    let (rig, space, queue) = bench()?;
    let (ours, theirs) = UnixStream::pair()?;
    send_fd(&ours, queue.as_fd())?;
    drop(queue);
    let slot = touch(&rig, &space, 0)?;
    rig.wait_for_page_requests(1)?;
    assert_eq!(
        rig.dma().status(slot),
        status::WAITING,
        "the socket holds it"
    );
    assert_eq!(rig.container.stats()?.fault_queues, 1);
    drop(theirs);
    drop(ours);
    expect_status(rig.dma().wait(slot)?, status::INVALID, "closed");
    Ok(())
}

fn close_races_requests_and_every_one_is_answered() -> Outcome {
    for round in 0..10 {
        let (rig, space, queue) = bench()?;
        let slots = std::thread::scope(|scope| {
            let closer = scope.spawn(|| drop(queue));
            let slots: Result<Vec<_>, Stop> =
                (0..12).map(|index| touch(&rig, &space, index)).collect();
            closer.join().expect("closing does not panic");
            slots
        })?;
        for slot in slots {
            expect_status(
                rig.dma().wait(slot)?,
                status::INVALID,
                &format!("round {round}"),
            );
        }
    }
    Ok(())
}

fn answers_race_the_last_close_and_every_request_gets_one() -> Outcome {
    for round in 0..10 {
        let (rig, space, queue) = bench()?;
        let slots: Vec<_> = (0..8)
            .map(|index| touch(&rig, &space, index))
            .collect::<Result<_, _>>()?;
        queue.wait_for_page_requests(&rig, 8)?;
        let records = queue.read_all()?;
        let other = queue.duplicate()?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for record in &records[..4] {
                    other
                        .respond(record.cookie, INVALID)
                        .expect("the duplicate is open");
                }
                drop(other);
            });
            drop(queue);
        });
        for slot in slots {
            expect_status(
                rig.dma().wait(slot)?,
                status::INVALID,
                &format!("round {round}"),
            );
        }
        let stats = rig.container.stats()?;
        assert_eq!(
            (stats.responses, stats.host_invalid),
            (4, 4),
            "round {round}"
        );
        assert_eq!(rig.dma().counters().stray_responses, 0, "round {round}");
    }
    Ok(())
}

fn queue_of_a_dead_container_takes_late_answers() -> Outcome {
    let (rig, space, queue) = bench()?;
    let slot = touch(&rig, &space, 0)?;
    queue.wait_readable()?;
    let record = queue.read_all()?[0];
    assert_eq!(rig.dma().status(slot), status::WAITING);
    drop(rig);
    // The record's CANCELLED comes first, then the end of the file.
    let cancelled = queue.read_all_to_end()?;
    assert_eq!(cancelled.len(), 1, "{cancelled:?}");
    assert_eq!(cancelled[0].kind, VFIO_IOASID_FAULT_CANCELLED);
    assert_eq!(cancelled[0].cookie, record.cookie);
    expect_ok(
        queue.respond(record.cookie, SUCCESS),
        "late, but once valid",
    );
    expect_errno(
        queue.respond(u64::MAX, SUCCESS),
        Errno::ENOENT,
        "never issued",
    );
    Ok(())
}

fn child_main(arguments: &[String]) -> Outcome {
    match arguments.first().map(String::as_str) {
        Some("answer_invalid") => answer_invalid(),
        Some("hold") => hold(),
        Some("read_for_ever") => read_for_ever(),
        Some("receive_and_answer") => receive_and_answer(),
        other => fail(format!("no case {other:?}")),
    }
}

program![
    child child_main;
    last_close_answers_what_was_read,
    last_close_answers_what_was_not_read,
    last_close_answers_several_bindings,
    requests_after_the_last_close_are_answered_at_once,
    binding_outlives_its_queue,
    new_queue_after_a_close_serves_a_new_bind,
    duplicate_keeps_requests_waiting,
    reader_asleep_keeps_the_queue_until_it_returns,
    child_that_inherited_the_fd_reads_and_answers,
    child_killed_with_the_last_fd_answers_everything,
    child_killed_asleep_in_a_read_answers_everything,
    fd_passed_over_a_socket_works_for_the_receiver,
    fd_in_flight_on_a_socket_keeps_the_queue_until_the_socket_goes,
    close_races_requests_and_every_one_is_answered,
    answers_race_the_last_close_and_every_request_gets_one,
    queue_of_a_dead_container_takes_late_answers,
];
