// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Eight threads do everything at once in random order: every call with good and bad arguments,
//! DMA, page requests, answers, resets. It takes 3 seconds, or `STORM_SECONDS`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::dice::Dice;
use host_iommu_tests::rig::{
    as_entry, bind_as_at, bind_at, bind_at_rid, bind_stage2_at, expect_status, fail, program,
    range, status, storm_time, CallError, Canary, Container, Errno, FaultQueue, Memory, Order,
    Outcome, Rig, Space, PAGE,
};

const GVA: u64 = 0x2345_6789_a000;
const ELSEWHERE: u64 = 0x6_0000_0000;
/// PASIDs that the threads share.
const PASIDS: usize = 12;

/// What the threads share.
struct Sea<'r> {
    rig: &'r Rig,
    spaces: Vec<Space>,
    queues: Vec<Mutex<Option<FaultQueue>>>,
    memory: Memory,
    address_space: AtomicU32,
    done: [AtomicU64; ACTS.len()],
    stop: AtomicBool,
}

type Act = fn(&Sea<'_>, &mut Dice) -> Outcome;

const ACTS: [(&str, Act); 16] = [
    ("map", map),
    ("unmap", unmap),
    ("pasid", pasid),
    ("bind", bind),
    ("bind_queue", bind_queue),
    ("replace", replace),
    ("bind_rid", bind_rid),
    ("bind_as", bind_as),
    ("unbind", unbind),
    ("unbind_all", unbind_all),
    ("invalidate", invalidate),
    ("queue", queue),
    ("answer", answer),
    ("address_space", address_space),
    ("as_change", as_change),
    ("reports", reports),
];

/// What a call may say when others are at it as well.
fn expected(result: Result<(), CallError>) -> Outcome {
    const KNOWN: [Errno; 10] = [
        Errno::EINVAL,
        Errno::ENOENT,
        Errno::EBUSY,
        Errno::EEXIST,
        Errno::EDQUOT,
        Errno::ENOSPC,
        Errno::EFAULT,
        Errno::EAGAIN,
        Errno::EBADF,
        Errno::EPERM,
    ];
    match result {
        Err(error) if !KNOWN.contains(&error.errno) => fail(error.to_string()),
        _ => Ok(()),
    }
}

fn map(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let at = ELSEWHERE + dice.roll(8) * sea.memory.size() / 2;
    expected(sea.rig.container.map(&sea.memory, at))
}

fn unmap(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let size = sea.memory.size() / 2;
    let at = ELSEWHERE + dice.roll(8) * size;
    let size = size * (1 + dice.roll(3));
    expected(sea.rig.container.unmap(at, size).map(drop))
}

fn pasid(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let count = 1 + dice.roll(40) as u32;
    let container = &sea.rig.container;
    match container.pasid_alloc(5_000, 5_100, count) {
        Ok(first) => container.pasid_free(first, count)?,
        Err(error) => expected(Err(error))?,
    }
    // One that is bound now and then, and one that nobody has.
    expected(container.pasid_free(900_000, 1))
}

fn bind(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let space = dice.pick(&sea.spaces);
    let data = space.stage1_data();
    let call = match dice.roll(3) {
        0 => bind_stage2_at(sea.rig.id(), space.pasid),
        _ => bind_at(sea.rig.id(), space.pasid, &data),
    };
    expected(sea.rig.container.bind(&call))
}

fn bind_queue(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let space = dice.pick(&sea.spaces);
    let queue = lock(dice.pick(&sea.queues));
    match &*queue {
        Some(queue) => expected(space.bind_with(sea.rig, queue, space.pasid + 7, 1)),
        None => Ok(()),
    }
}

fn replace(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let space = dice.pick(&sea.spaces);
    let data = dice.pick(&sea.spaces).stage1_data();
    let mut call = bind_at(sea.rig.id(), space.pasid, &data);
    call.flags = VFIO_IOASID_BIND_REPLACE;
    expected(sea.rig.container.bind(&call))
}

fn bind_rid(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let data = dice.pick(&sea.spaces).stage1_data();
    expected(sea.rig.container.bind(&bind_at_rid(sea.rig.id(), &data)))?;
    let unbound = sea
        .rig
        .container
        .unbind(VFIO_IOASID_SCOPE_RID, sea.rig.id(), 0);
    expected(unbound)
}

fn bind_as(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let id = sea.address_space.load(Ordering::Relaxed);
    let mut call = bind_as_at(sea.rig.id(), dice.pick(&sea.spaces).pasid, id);
    let queue = lock(dice.pick(&sea.queues));
    if let Some(queue) = queue.as_ref().filter(|_| dice.roll(2) == 0) {
        call.fault_fd = queue.raw_fd();
    }
    expected(sea.rig.container.bind(&call))
}

fn unbind(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    expected(dice.pick(&sea.spaces).unbind(sea.rig))
}

fn unbind_all(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let scope = *dice.pick(&[VFIO_IOASID_SCOPE_DEVICE, VFIO_IOASID_SCOPE_CONTAINER]);
    if dice.roll(8) != 0 {
        return Ok(());
    }
    expected(sea.rig.container.unbind(scope, sea.rig.id(), 0))
}

fn invalidate(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let scope = *dice.pick(&[
        VFIO_IOASID_SCOPE_BINDING,
        VFIO_IOASID_SCOPE_DEVICE,
        VFIO_IOASID_SCOPE_CONTAINER,
    ]);
    let pasid = match scope {
        VFIO_IOASID_SCOPE_BINDING => dice.pick(&sea.spaces).pasid,
        _ => 0,
    };
    let entries = [
        range(GVA, 1 + dice.roll(64)),
        range(0, u64::MAX),
        range(GVA, dice.roll(2)),
    ];
    expected(
        sea.rig
            .container
            .invalidate(scope, sea.rig.id(), pasid, &entries)
            .result,
    )
}

/// Closes a queue, whoever uses it, and makes another.
fn queue(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let mut slot = lock(dice.pick(&sea.queues));
    *slot = None;
    let queue = match dice.roll(2) {
        0 => sea.rig.container.fault_queue_with_deadline(5),
        _ => sea
            .rig
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 3),
    };
    match queue {
        Ok(queue) => *slot = Some(queue),
        Err(error) => expected(Err(error))?,
    }
    Ok(())
}

fn answer(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let queue = lock(dice.pick(&sea.queues));
    let Some(queue) = &*queue else { return Ok(()) };
    let records = queue.read_all_or_nothing()?;
    for record in records {
        if dice.roll(5) != 0 {
            expected(queue.respond(record.cookie, dice.roll(3) as u32))?;
        }
    }
    expected(queue.respond(dice.roll(1 << 30), 0))
}

/// Another address space in the place of the one that there is, if nothing is bound to it.
fn address_space(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    if dice.roll(4) != 0 {
        return Ok(());
    }
    let container = &sea.rig.container;
    let old = sea.address_space.load(Ordering::Relaxed);
    let result = container.as_destroy(old);
    let gone = result.is_ok();
    expected(result)?;
    if gone {
        sea.address_space
            .store(container.as_create()?, Ordering::Relaxed);
    }
    Ok(())
}

fn as_change(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let id = sea.address_space.load(Ordering::Relaxed);
    let iova = 0x1000_0000 + dice.roll(64) * PAGE;
    let gpa = match dice.roll(2) {
        0 => sea.rig.mem.base() + dice.roll(64) * PAGE,
        _ => ELSEWHERE + dice.roll(64) * PAGE,
    };
    let entries = [as_entry(
        iova,
        gpa,
        PAGE * (1 + dice.roll(16)),
        VFIO_IOASID_AS_READ,
    )];
    let (result, ..) = match dice.roll(2) {
        0 => sea.rig.container.as_map(id, &entries),
        _ => sea.rig.container.as_unmap(id, 0x1000_0000, 128 * PAGE),
    };
    expected(result.map_err(|errno| CallError {
        call: "AS_MAP or AS_UNMAP",
        errno,
    }))
}

fn reports(sea: &Sea<'_>, _dice: &mut Dice) -> Outcome {
    let container: &Container = &sea.rig.container;
    container.stats()?;
    container.info()?;
    assert_eq!(container.devices()?.len(), 1);
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The endpoint's thread: DMA to what is mapped and to holes, and a reset now and then. How an
/// order ends depends on the others; that it ends does not.
fn device(sea: &Sea<'_>, dice: &mut Dice) -> Outcome {
    let dma = sea.rig.dma();
    let mut slots = Vec::new();
    for _ in 0..dice.roll(12) {
        let space = dice.pick(&sea.spaces);
        let gva = GVA + dice.roll(4) * PAGE;
        let order = Order::fill(gva, 8, dice.roll(1 << 20));
        let order = match dice.roll(4) {
            0 => order.no_pri(),
            1 => order.no_ats().no_pri(),
            _ => order,
        };
        slots.push(dma.submit(&order.at(space.pasid))?);
    }
    if dice.roll(50) == 0 {
        return sea.rig.reset_device();
    }
    // A queue that nobody reads holds requests back; its end or an unbind answers them.
    for slot in slots {
        let end = Instant::now() + Duration::from_secs(5);
        while dma.poll(slot).is_none() && Instant::now() < end {
            if sea.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::yield_now();
        }
    }
    Ok(())
}

fn everything_at_once_leaves_nothing() -> Outcome {
    let rig = Rig::faulting()?;
    let canary = Canary::new()?;
    let before = rig.container.stats()?;
    let spaces = (0..PASIDS)
        .map(|_| {
            let space = Space::new(&rig)?;
            space.new_page(&rig, GVA)?;
            Ok(space)
        })
        .collect::<Outcome<Vec<_>>>()?;
    let sea = Sea {
        rig: &rig,
        spaces,
        queues: (0..4).map(|_| Mutex::new(None)).collect(),
        memory: Memory::new(128 * PAGE)?,
        address_space: AtomicU32::new(rig.container.as_create()?),
        done: [const { AtomicU64::new(0) }; ACTS.len()],
        stop: AtomicBool::new(false),
    };
    let end = Instant::now() + storm_time();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u64)
            .map(|number| {
                let sea = &sea;
                scope.spawn(move || -> Outcome {
                    let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15 ^ (number + 1));
                    let result = (|| {
                        while Instant::now() < end && !sea.stop.load(Ordering::Relaxed) {
                            if number == 0 {
                                device(sea, &mut dice)?;
                                continue;
                            }
                            let index = dice.roll(ACTS.len() as u64) as usize;
                            (ACTS[index].1)(sea, &mut dice)?;
                            sea.done[index].fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })();
                    sea.stop.store(true, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Outcome::Ok(())
    })?;
    for ((name, _), done) in ACTS.iter().zip(&sea.done) {
        let done = done.load(Ordering::Relaxed);
        println!("# {name}: {done}");
        assert!(done > 0, "{name} was never done");
    }

    let container = &rig.container;
    container.unbind(VFIO_IOASID_SCOPE_CONTAINER, rig.id(), 0)?;
    container.unmap(ELSEWHERE, 8 * sea.memory.size())?;
    container.as_destroy(sea.address_space.load(Ordering::Relaxed))?;
    for space in &sea.spaces {
        container.pasid_free(space.pasid, 1)?;
    }
    drop(sea);
    let after = container.stats()?;
    let held = |stats: &vfio_ioasid_stats| {
        [
            stats.pasids,
            stats.bindings,
            stats.fault_queues,
            stats.address_spaces,
            stats.as_entries,
            stats.mappings,
            stats.mapped_pages,
        ]
    };
    assert_eq!(held(&after), held(&before));
    assert!(after.page_requests > 0, "no page request came");

    rig.reset_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    let order = Order::fill(GVA, 8, 0x5707).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "after the storm");
    assert_eq!(rig.mem.read_u64(page), 0x5707);
    canary.check("the storm");
    Ok(())
}

program![everything_at_once_leaves_nothing];
