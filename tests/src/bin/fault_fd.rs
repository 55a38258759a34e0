// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fault fd as a file: how it is made, and what read, write and poll do while no
//! page request has come.

use std::time::Duration;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bytes_of, expect_errno, expect_ok, poll, program, response, size_u32, Errno, Outcome,
    PollFlags, Rig, RECORD,
};

const CLOEXEC: u32 = VFIO_IOASID_FAULT_QUEUE_CLOEXEC;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;

fn flags_of_the_call_become_flags_of_the_fd() -> Outcome {
    let rig = Rig::open_unmapped()?;
    for flags in [0, CLOEXEC, NONBLOCK, CLOEXEC | NONBLOCK] {
        let queue = rig.container.fault_queue(flags, 0)?;
        assert_eq!(
            queue.is_cloexec()?,
            flags & CLOEXEC != 0,
            "{flags}: CLOEXEC"
        );
        assert_eq!(
            queue.is_nonblock()?,
            flags & NONBLOCK != 0,
            "{flags}: NONBLOCK"
        );
    }
    Ok(())
}

fn depth_of_the_whole_range_is_taken_and_more_is_einval() -> Outcome {
    let rig = Rig::open_unmapped()?;
    for depth in [0, 1, 2, 64, 1000, VFIO_IOASID_FAULT_DEPTH_MAX] {
        expect_ok(
            rig.container.fault_queue(CLOEXEC, depth),
            &format!("{depth}"),
        );
    }
    for depth in [VFIO_IOASID_FAULT_DEPTH_MAX + 1, 1 << 16, 1 << 31, u32::MAX] {
        expect_errno(
            rig.container.fault_queue(CLOEXEC, depth),
            Errno::EINVAL,
            &format!("{depth}"),
        );
    }
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

fn queues_over_the_quota_return_edquot_until_one_is_closed() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let quota = rig.caps.max_fault_queues;
    assert!(quota < 900, "{quota}: more than a process has fds");
    let mut queues = Vec::new();
    for number in 0..quota {
        match rig.container.fault_queue(CLOEXEC, 1) {
            Ok(queue) => queues.push(queue),
            Err(error) => panic!("queue {number} of {quota}: {error}"),
        }
    }
    expect_errno(
        rig.container.fault_queue(CLOEXEC, 1),
        Errno::EDQUOT,
        "one more",
    );
    queues.pop();
    expect_ok(rig.container.fault_queue(CLOEXEC, 1), "one closed");
    drop(queues);
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

fn read_of_an_empty_queue_returns_eagain() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    expect_errno(queue.read_bytes(4 * RECORD), Errno::EAGAIN, "empty");
    Ok(())
}

fn read_of_an_empty_blocking_queue_waits() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(0, 0)?;
    let reader = queue.read_in_a_thread(4 * RECORD)?;
    // It is asleep in read(2), not spinning and not done.
    reader.wait_until_asleep()?;
    // The container's end wakes it.
    let Rig {
        container, group, ..
    } = rig;
    group.unset_container()?;
    assert_eq!(reader.join()?, Ok(Vec::new()), "end of file");
    drop(container);
    Ok(())
}

fn poll_of_an_empty_queue_is_writable_and_not_readable() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    let events = poll(
        &queue,
        PollFlags::POLLIN | PollFlags::POLLOUT,
        Duration::ZERO,
    )?;
    assert_eq!(events, PollFlags::POLLOUT);
    Ok(())
}

fn poll_after_the_container_is_gone_hangs_up() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    drop(rig);
    let events = poll(
        &queue,
        PollFlags::POLLIN | PollFlags::POLLOUT,
        Duration::ZERO,
    )?;
    assert!(events.contains(PollFlags::POLLHUP), "{events:?}");
    assert!(
        events.contains(PollFlags::POLLIN),
        "{events:?}: read does not block"
    );
    assert!(!events.contains(PollFlags::POLLOUT), "{events:?}");
    Ok(())
}

fn poll_wakes_when_the_container_goes() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    let poller = queue.poll_in_a_thread(PollFlags::POLLIN)?;
    poller.wait_until_asleep()?;
    rig.group.unset_container()?;
    assert!(poller.join()?.contains(PollFlags::POLLHUP));
    Ok(())
}

fn read_after_the_container_is_gone_is_end_of_file() -> Outcome {
    for flags in [0, NONBLOCK] {
        let rig = Rig::open_unmapped()?;
        let queue = rig.container.fault_queue(flags, 0)?;
        drop(rig);
        assert_eq!(queue.read_bytes(4 * RECORD)?.len(), 0, "first read");
        assert_eq!(queue.read_bytes(4 * RECORD)?.len(), 0, "and again");
    }
    Ok(())
}

fn read_after_the_last_group_left_is_end_of_file() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    rig.group.unset_container()?;
    assert_eq!(queue.read_bytes(4 * RECORD)?.len(), 0);
    // A container set up again is not the queue's any more.
    rig.group.set_container(&rig.container)?;
    rig.container.set_iommu(VFIO_IOASID_IOMMU)?;
    assert_eq!(queue.read_bytes(4 * RECORD)?.len(), 0);
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

fn write_of_a_wrong_length_returns_einval() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    let record = bytes_of(&response(1, VFIO_IOASID_RESPONSE_SUCCESS));
    for length in [0, 1, 8, 15] {
        expect_errno(
            queue.write_bytes(&record[..length]),
            Errno::EINVAL,
            &format!("{length} bytes"),
        );
    }
    Ok(())
}

fn write_of_a_bad_code_returns_einval() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    // 2 and 0xf are failures that only hardware and host report.
    for code in [2, 0xf, u32::MAX] {
        expect_errno(
            queue.write_bytes(&bytes_of(&response(1, code))),
            Errno::EINVAL,
            &format!("code {code}"),
        );
    }
    Ok(())
}

fn write_of_dirty_padding_returns_einval() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    let mut record = response(1, VFIO_IOASID_RESPONSE_SUCCESS);
    record.__reserved = 1;
    expect_errno(
        queue.write_bytes(&bytes_of(&record)),
        Errno::EINVAL,
        "padding",
    );
    Ok(())
}

fn write_of_a_cookie_never_issued_returns_enoent() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    for cookie in [
        0,
        1,
        2,
        0xffff,
        0x1_0000,
        0x1_0001,
        1 << 32,
        1 << 63,
        u64::MAX,
    ] {
        expect_errno(
            queue.respond(cookie, VFIO_IOASID_RESPONSE_SUCCESS),
            Errno::ENOENT,
            &format!("cookie {cookie:#x}"),
        );
    }
    assert_eq!(rig.container.stats()?.responses, 0);
    assert_eq!(rig.container.stats()?.late_responses, 0);
    Ok(())
}

fn write_from_inaccessible_memory_returns_efault() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    expect_errno(
        queue.write_past_an_edge(8, 8),
        Errno::EFAULT,
        "half a record",
    );
    expect_errno(queue.write_past_an_edge(0, 16), Errno::EFAULT, "no record");
    Ok(())
}

fn seek_does_nothing_and_ioctls_are_refused() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    assert_eq!(queue.seek()?, 0, "lseek");
    let mut bytes = [0u8; 64];
    expect_errno(
        queue.raw_ioctl(host_iommu_bindings::ioctl::VFIO_IOASID_STATS, &mut bytes),
        Errno::ENOTTY,
        "a call of the container",
    );
    Ok(())
}

fn queue_has_a_name_in_proc() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(CLOEXEC, 0)?;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", queue.raw_fd()))?;
    let link = link.to_string_lossy().into_owned();
    assert!(link.starts_with("anon_inode:"), "{link}");
    assert!(link.contains("fault"), "{link}");
    Ok(())
}

fn fault_queue_with_bad_argsz_leaves_no_fd() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let before = open_fds()?;
    let mut bytes = bytes_of(&vfio_ioasid_fault_queue {
        argsz: size_u32::<vfio_ioasid_fault_queue>() - 1,
        ..Default::default()
    });
    expect_errno(
        rig.container.raw(
            host_iommu_bindings::ioctl::VFIO_IOASID_FAULT_QUEUE,
            &mut bytes,
        ),
        Errno::EINVAL,
        "argsz",
    );
    assert_eq!(open_fds()?, before);
    Ok(())
}

fn open_fds() -> std::io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

fn closing_a_queue_frees_its_place() -> Outcome {
    let rig = Rig::open_unmapped()?;
    for _ in 0..200 {
        let queue = rig.container.fault_queue(CLOEXEC, 0)?;
        assert_eq!(rig.container.stats()?.fault_queues, 1);
        drop(queue);
    }
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

fn duplicate_of_the_fd_keeps_the_queue() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let queue = rig.container.fault_queue(CLOEXEC | NONBLOCK, 0)?;
    let duplicate = queue.duplicate()?;
    drop(queue);
    assert_eq!(rig.container.stats()?.fault_queues, 1);
    expect_errno(duplicate.read_bytes(RECORD), Errno::EAGAIN, "still a queue");
    drop(duplicate);
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

program![
    flags_of_the_call_become_flags_of_the_fd,
    depth_of_the_whole_range_is_taken_and_more_is_einval,
    queues_over_the_quota_return_edquot_until_one_is_closed,
    read_of_an_empty_queue_returns_eagain,
    read_of_an_empty_blocking_queue_waits,
    poll_of_an_empty_queue_is_writable_and_not_readable,
    poll_after_the_container_is_gone_hangs_up,
    poll_wakes_when_the_container_goes,
    read_after_the_container_is_gone_is_end_of_file,
    read_after_the_last_group_left_is_end_of_file,
    write_of_a_wrong_length_returns_einval,
    write_of_a_bad_code_returns_einval,
    write_of_dirty_padding_returns_einval,
    write_of_a_cookie_never_issued_returns_enoent,
    write_from_inaccessible_memory_returns_efault,
    seek_does_nothing_and_ioctls_are_refused,
    queue_has_a_name_in_proc,
    fault_queue_with_bad_argsz_leaves_no_fd,
    closing_a_queue_frees_its_place,
    duplicate_of_the_fd_keeps_the_queue,
];
