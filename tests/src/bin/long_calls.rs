// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls as long as a user likes: they end soon after SIGKILL, nobody waits for them, and short
//! calls beside them are as short as alone.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    child, endpoint, expect_ok, fail, program, range, receive_fd, send_fd, skip, Attempt, Called,
    Memory, Outcome, Rig, Space, Unbinding, PAGE,
};
use nix::mount::{mount, MsFlags};
use nix::sys::resource::{getrusage, UsageWho};

const GVA: u64 = 0x1234_5678_9000;
const ELSEWHERE: u64 = 0x7_0000_0000;
const TRACEFS: &str = "/sys/kernel/tracing";
/// What a call may go on after SIGKILL: a tenth of a second on a machine that is not emulated.
const SOON: Duration = Duration::from_millis(500);
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

    /// Kills it, and sees to it that it goes.
    fn dies(mut self) -> Outcome {
        let begun = Instant::now();
        self.child.kill()?;
        let attempt = Attempt::start("the killed call", move || self.child.wait().map(drop));
        attempt.ends_within(SOON)??;
        println!("# ended {:?} after SIGKILL", begun.elapsed());
        drop((self.socket, self.files));
        Ok(())
    }
}

fn invalidate_of_many_entries_ends_after_sigkill() -> Outcome {
    Caller::start("invalidate")?.dies()
}

fn detach_does_not_wait_for_an_invalidate_of_many_entries() -> Outcome {
    let caller = Caller::start("invalidate")?;
    let unbinding = Unbinding::start(&endpoint(0)?.to_string());
    // It undoes all the bindings, which is work of its own.
    let detached = unbinding.ends_within(8 * SOON);
    let died = caller.dies();
    drop(unbinding);
    detached.and(died)
}

fn unmap_of_many_mappings_ends_after_sigkill() -> Outcome {
    Caller::start("unmap")?.dies()
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

/// Voluntary switches of this thread: it slept, for a lock or else.
fn switches() -> Outcome<i64> {
    Ok(getrusage(UsageWho::RUSAGE_THREAD)?.voluntary_context_switches())
}

/// Calls of one entry for `time`: how long one takes, the longest, and how often they slept.
fn invalidate_for(rig: &Rig, space: &Space, time: Duration) -> Outcome<(Duration, Duration, i64)> {
    let slept = switches()?;
    let begun = Instant::now();
    let (mut count, mut longest) = (0, Duration::ZERO);
    while begun.elapsed() < time {
        let one = Instant::now();
        let done = rig.container.invalidate(
            VFIO_IOASID_SCOPE_BINDING,
            rig.id(),
            space.pasid,
            &[range(GVA, 1)],
        );
        done.result?;
        longest = longest.max(one.elapsed());
        count += 1;
    }
    Ok((begun.elapsed() / count, longest, switches()? - slept))
}

fn invalidate_takes_no_longer_beside_map_bind_and_close() -> Outcome {
    const TIME: Duration = Duration::from_secs(2);

    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let other = Space::new(&rig)?;
    let memory = Memory::new(32 << 20)?;
    let mut seen = Vec::new();
    // The emulated CPUs take turns, so that each of two that work takes twice its time.
    for _ in 0..3 {
        let (alone, ..) = invalidate_for(&rig, &space, TIME / 4)?;
        let stop = AtomicBool::new(false);
        let (beside, longest, slept) = std::thread::scope(|scope| {
            let work = || -> Outcome {
                while !stop.load(Ordering::Relaxed) {
                    rig.container.map(&memory, ELSEWHERE)?;
                    other.bind(&rig)?;
                    drop(rig.container.fault_queue(0, 0)?);
                    other.unbind(&rig)?;
                    rig.container.unmap(ELSEWHERE, memory.size())?;
                }
                Ok(())
            };
            let worker = scope.spawn(work);
            let measured = invalidate_for(&rig, &space, TIME);
            stop.store(true, Ordering::Relaxed);
            match worker.join() {
                Ok(worked) => expect_ok(worked, "the other thread"),
                Err(panic) => std::panic::resume_unwind(panic),
            }
            measured
        })?;
        println!("# alone {alone:?}, beside {beside:?}, longest {longest:?}, slept {slept} times");
        if beside <= 4 * alone {
            return Ok(());
        }
        seen.push((alone, beside));
    }
    fail(format!("alone and beside: {seen:?}"))
}

program![
    child call;
    invalidate_of_many_entries_ends_after_sigkill,
    detach_does_not_wait_for_an_invalidate_of_many_entries,
    unmap_of_many_mappings_ends_after_sigkill,
    unmap_of_a_range_flushes_once_for_all_its_mappings,
    invalidate_takes_no_longer_beside_map_bind_and_close,
];
