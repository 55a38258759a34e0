// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls as long as a user likes: they end soon after SIGKILL, nobody waits for them, and short
//! calls beside them are as short as alone.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    child, endpoint, fail, needs_userfaultfd, program, range, receive_fd, send_fd, size_u32, skip,
    Attempt, Called, Memory, Outcome, Rig, Space, Unbinding, PAGE,
};
use host_iommu_tests_sys::userfault::Waiting;
use nix::mount::{mount, MsFlags};

const GVA: u64 = 0x1234_5678_9000;
const ELSEWHERE: u64 = 0x7_0000_0000;
const TRACEFS: &str = "/sys/kernel/tracing";
/// What a call may go on after SIGKILL.
const SOON: Duration = Duration::from_millis(100);
/// How often it is tried: the host of an emulated machine may have other things to do meanwhile.
const TRIES: u32 = 5;
/// What hangs.
const LIMIT: Duration = Duration::from_secs(10);
/// Bindings, and entries for all of them: half a minute of flushes where everything is emulated.
const BINDINGS: usize = 128;
const ENTRIES: usize = VFIO_IOASID_INVALIDATE_MAX as usize;
const MAPPINGS: u64 = 4000;

fn bind_many(rig: &Rig, count: usize) -> Called<Vec<Space>> {
    (0..count)
        .map(|_| {
            let space = Space::new(rig)?;
            space.bind(rig).map(|()| space)
        })
        .collect()
}

/// Maps pages one by one that follow each other.
fn map_many(rig: &Rig, memory: &Memory, count: u64) -> Called<()> {
    (0..count).try_for_each(|index| {
        rig.container.map_raw(&vfio_iommu_type1_dma_map {
            argsz: host_iommu_tests::rig::size_u32::<vfio_iommu_type1_dma_map>(),
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: memory.address() + index * PAGE,
            iova: ELSEWHERE + index * PAGE,
            size: PAGE,
        })
    })
}

fn unmap_all(rig: &Rig) -> Called<u64> {
    rig.container.unmap_raw(24, VFIO_DMA_UNMAP_FLAG_ALL, 0, 0)
}

/// The child: gives container and group away, says that it begins, and makes a long call.
fn call(arguments: &[String]) -> Outcome {
    let [case] = arguments else {
        return fail("usage: case");
    };
    let parent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let rig = Rig::nesting()?;
    let memory = Memory::new(MAPPINGS * PAGE)?;
    let spaces = match case.as_str() {
        "invalidate" => bind_many(&rig, BINDINGS)?,
        _ => {
            map_many(&rig, &memory, MAPPINGS)?;
            bind_many(&rig, 2 * BINDINGS)?
        }
    };
    send_fd(&parent, rig.container.as_fd())?;
    send_fd(&parent, rig.group.as_fd())?;
    let entries: Vec<_> = (0..ENTRIES)
        .map(|index| range(GVA + index as u64 * PAGE, 1))
        .collect();
    rustix::net::send(&parent, b"b", rustix::net::SendFlags::empty())?;
    let ended = match case.as_str() {
        "invalidate" => {
            let done = rig
                .container
                .invalidate(VFIO_IOASID_SCOPE_CONTAINER, rig.id(), 0, &entries);
            format!("{done:?}")
        }
        _ => format!("{:?}", unmap_all(&rig)),
    };
    // Not before the parent has killed it, if the call was as short as that.
    let _ = (&parent).read(&mut [0]);
    fail(format!("{ended}, {} bindings", spaces.len()))
}

/// The child in its call. The parent has the container and the group too, so that the end of the
/// child ends nothing else.
struct Caller {
    child: Child,
    socket: UnixStream,
    files: [OwnedFd; 2],
}

impl Caller {
    fn start(case: &str) -> Outcome<Self> {
        let (socket, childs) = UnixStream::pair()?;
        let mut command = child(&[case])?;
        command.stdin(OwnedFd::from(childs)).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        drop(command);
        let begun = (|| -> Outcome<_> {
            let files = [receive_fd(socket.as_fd())?, receive_fd(socket.as_fd())?];
            (&socket).read_exact(&mut [0])?;
            Ok(files)
        })();
        if let Ok(files) = begun {
            // In the middle of its call.
            std::thread::sleep(Duration::from_millis(100));
            return Ok(Self {
                child,
                socket,
                files,
            });
        }
        let mut text = String::new();
        if let Some(stdout) = &mut child.stdout {
            stdout.read_to_string(&mut text)?;
        }
        match child.wait()?.code() {
            Some(4) => skip(text.trim()),
            _ => fail(format!("the child: {text}")),
        }
    }

    /// Kills it, and gives how long it goes on.
    fn dies(mut self) -> Outcome<Duration> {
        let begun = Instant::now();
        self.child.kill()?;
        let attempt = Attempt::start("the killed call", move || {
            self.child.wait().map(|_| begun.elapsed())
        });
        let took = attempt.ends_within(LIMIT)??;
        println!("# ended {took:?} after SIGKILL");
        drop((self.socket, self.files));
        Ok(took)
    }
}

/// Kills a child in its call, some times if need be.
fn ends_soon(case: &str) -> Outcome {
    for _ in 0..TRIES {
        if Caller::start(case)?.dies()? <= SOON {
            return Ok(());
        }
    }
    fail(format!("{case} never ended within {SOON:?} of SIGKILL"))
}

fn invalidate_of_many_entries_ends_after_sigkill() -> Outcome {
    ends_soon("invalidate")
}

fn detach_does_not_wait_for_an_invalidate_of_many_entries() -> Outcome {
    let caller = Caller::start("invalidate")?;
    let unbinding = Unbinding::start(&endpoint(0)?.to_string());
    // It undoes all the bindings, which is work of its own; the call would go on for half a minute.
    let detached = unbinding.ends_within(LIMIT / 2);
    let died = caller.dies();
    drop(unbinding);
    detached.and(died.map(drop))
}

fn unmap_of_many_mappings_ends_after_sigkill() -> Outcome {
    ends_soon("unmap")
}

/// How many descriptors the IOMMU's invalidation queue got while `body` ran.
fn descriptors(body: impl FnOnce() -> Outcome) -> Outcome<usize> {
    let none = None::<&str>;
    if !Path::new(TRACEFS).exists() {
        return skip("the kernel has no tracefs");
    }
    if fs::read_dir(TRACEFS)?.next().is_none() {
        mount(
            Some("tracefs"),
            TRACEFS,
            Some("tracefs"),
            MsFlags::empty(),
            none,
        )?;
    }
    let enable = Path::new(TRACEFS).join("events/intel_iommu/qi_submit/enable");
    let trace = Path::new(TRACEFS).join("trace");
    if !enable.exists() {
        return skip("the kernel does not trace VT-d");
    }
    fs::write(&trace, "")?;
    fs::write(&enable, "1")?;
    let done = body();
    fs::write(&enable, "0")?;
    done?;
    let text = fs::read_to_string(&trace)?;
    Ok(text
        .lines()
        .filter(|line| line.contains("qi_submit"))
        .count())
}

fn unmap_of_a_range_flushes_once_for_all_its_mappings() -> Outcome {
    let rig = Rig::nesting()?;
    let _spaces = bind_many(&rig, 4)?;
    let memory = Memory::new(64 * PAGE)?;
    let flushed = |count: u64| -> Outcome<usize> {
        map_many(&rig, &memory, count)?;
        descriptors(|| {
            let bytes = rig.container.unmap(ELSEWHERE, memory.size())?;
            assert_eq!(bytes, count * PAGE, "unmapped");
            Ok(())
        })
    };
    let one = flushed(1)?;
    let many = flushed(64)?;
    println!("# {one} descriptors for a mapping, {many} for 64");
    assert!(one > 0, "nothing was flushed");
    assert!(many <= 4 * one, "{many} descriptors for 64, {one} for one");
    Ok(())
}

/// A MAP_DMA goes on for as long as its user likes; beside it a binding is made, and one that is
/// there is invalidated, mapped memory unmapped, a queue made and closed.
fn short_calls_do_not_wait_for_a_long_map() -> Outcome {
    needs_userfaultfd()?;
    let rig = Arc::new(Rig::nesting()?);
    let space = Arc::new(Space::new(&rig)?);
    space.bind(&rig)?;
    let other = Space::new(&rig)?;
    let memory = Waiting::missing(PAGE as usize)?;
    let map = vfio_iommu_type1_dma_map {
        argsz: size_u32::<vfio_iommu_type1_dma_map>(),
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: memory.address(),
        iova: ELSEWHERE,
        size: PAGE,
    };
    let mapping = {
        let rig = rig.clone();
        Attempt::start("MAP_DMA", move || rig.container.map_raw(&map))
    };
    assert!(memory.is_waited_for(LIMIT)?, "MAP_DMA does not wait");
    let bind = {
        let rig = rig.clone();
        Attempt::start("BIND beside MAP_DMA", move || -> Outcome {
            other.bind(&rig)?;
            drop(rig.container.fault_queue(0, 0)?);
            rig.unmap_memory()?;
            rig.map_memory()?;
            Ok(other.unbind(&rig)?)
        })
    };
    let invalidate = {
        let rig = rig.clone();
        Attempt::start("INVALIDATE beside both", move || {
            let (scope, entries) = (VFIO_IOASID_SCOPE_BINDING, [range(GVA, 1)]);
            // For some time, so that it meets the others.
            let calls = (0..1000).map(|_| {
                let done = rig
                    .container
                    .invalidate(scope, rig.id(), space.pasid, &entries);
                done.result
            });
            calls.collect::<Called<Vec<()>>>()
        })
    };
    let bound = bind.ends_within(LIMIT).and_then(|bound| bound);
    let invalidated = invalidate.ends_within(LIMIT).map(|done| done.map(drop));
    memory.resolve()?;
    mapping.ends_within(LIMIT)??;
    bound?;
    Ok(invalidated??)
}

program![
    child call;
    invalidate_of_many_entries_ends_after_sigkill,
    detach_does_not_wait_for_an_invalidate_of_many_entries,
    unmap_of_many_mappings_ends_after_sigkill,
    unmap_of_a_range_flushes_once_for_all_its_mappings,
    short_calls_do_not_wait_for_a_long_map,
];
