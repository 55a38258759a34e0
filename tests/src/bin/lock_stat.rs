// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long calls wait for the locks of a container, by the kernel's own statistics
//! (CONFIG_LOCK_STAT).

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{fail, program, range, skip, Memory, Outcome, Rig, Space, PAGE};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STATISTICS: &str = "/proc/lock_stat";
const GVA: u64 = 0x3141_5926_5000;
const IOVA: u64 = 0x7_0000_0000;
/// Pages that are mapped and unmapped again and again.
const PAGES: u64 = 64;
const TIME: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;

/// The locks of a container, by the names that lockdep knows them by.
const OURS: [&str; 5] = [
    "Container::",
    "AttachedDevice::",
    "AddressSpace::",
    "GroupStage2::",
    "FaultQueue::",
];

/// What is known of a lock.
#[derive(Debug)]
struct Lock {
    name: String,
    contentions: u64,
    acquisitions: u64,
}

/// The locks of ours that were taken.
fn locks() -> Outcome<Vec<Lock>> {
    let text = fs::read_to_string(STATISTICS)?;
    let lock = |line: &str| -> Option<Lock> {
        let (name, numbers) = line.trim().rsplit_once(": ")?;
        // con-bounces, contentions, waittime-min, -max, -total, -avg, acq-bounces, acquisitions, …
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        Some(Lock {
            name: name.to_owned(),
            contentions: numbers.get(1)?.parse().ok()?,
            acquisitions: numbers.get(7)?.parse().ok()?,
        })
    };
    Ok(text
        .lines()
        .filter(|line| OURS.iter().any(|ours| line.trim().starts_with(ours)))
        .filter_map(lock)
        .collect())
}

/// Two bindings: one is invalidated without a pause, while MAP_DMA, UNMAP_DMA, BIND and UNBIND of the
/// other and the close of fault queues go on.
fn invalidate_waits_for_no_lock_of_the_container() -> Outcome {
    if fs::write(STATISTICS, "0").is_err() {
        return skip("the kernel has no lock statistics");
    }
    let rig = Rig::nesting()?;
    let memory = Memory::new(PAGES * PAGE)?;
    let [flushed, other] = [Space::new(&rig)?, Space::new(&rig)?];
    flushed.bind(&rig)?;
    // A thread that is preempted with a lock held lets the other wait: not every time.
    for _ in 0..ROUNDS {
        fs::write(STATISTICS, "0")?;
        let over = AtomicBool::new(false);
        let (calls, changes) = std::thread::scope(|scope| -> Outcome<_> {
            let changes = scope.spawn(|| -> Outcome<u32> {
                let mut changes = 0;
                while !over.load(Ordering::Relaxed) {
                    rig.container.map(&memory, IOVA)?;
                    let queue = rig
                        .container
                        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
                    other.bind(&rig)?;
                    other.unbind(&rig)?;
                    drop(queue);
                    rig.container.unmap(IOVA, PAGES * PAGE)?;
                    changes += 1;
                }
                Ok(changes)
            });
            let end = Instant::now() + TIME;
            let mut calls = 0u32;
            let mut result = Ok(());
            while result.is_ok() && Instant::now() < end && !changes.is_finished() {
                let done = rig.container.invalidate(
                    VFIO_IOASID_SCOPE_BINDING,
                    rig.id(),
                    flushed.pasid,
                    &[range(GVA, 1)],
                );
                result = done.result;
                calls += 1;
            }
            over.store(true, Ordering::Relaxed);
            let changes = match changes.join() {
                Ok(changes) => changes?,
                Err(_) => return fail("the other thread panicked"),
            };
            result?;
            Ok((calls, changes))
        })?;
        let locks = locks()?;
        println!("# {calls} calls of INVALIDATE, {changes} rounds of the others");
        for lock in &locks {
            let (name, taken) = (&lock.name, lock.acquisitions);
            println!(
                "# {name}: taken {taken} times, waited for {}",
                lock.contentions
            );
        }
        let taken: u64 = locks.iter().map(|lock| lock.acquisitions).sum();
        assert!(taken > u64::from(calls), "{locks:?}");
        assert!(changes != 0, "nothing went on beside it");
        if locks.iter().all(|lock| lock.contentions == 0) {
            return Ok(());
        }
    }
    fail("somebody waited each time")
}

program![invalidate_waits_for_no_lock_of_the_container];
