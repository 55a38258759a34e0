// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every call with each of its allocations failing once: it fails with ENOMEM and changes nothing,
//! or it succeeds. Needs a kernel that injects failures; the others skip.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry, bind_as_at, bind_at, bind_at_rid, bind_stage2_at, endpoint, expect_status, fail,
    held_bytes, prepare_injection, program, range, status, with_nth_failing, CallError, Called,
    Container, Errno, FaultBench, Group, Memory, Order, Outcome, Rig, Space, PAGE,
};

const GVA: u64 = 0x3456_789a_b000;
const ELSEWHERE: u64 = 0x7_0000_0000;
/// More allocations than any call makes.
const LIMIT: u32 = 2_000;

/// What a call that failed must leave as it was.
fn held(rig: &Rig) -> Outcome<[u64; 9]> {
    let stats = rig.container.stats()?;
    Ok([
        stats.pasids,
        stats.bindings,
        stats.fault_queues,
        stats.address_spaces,
        stats.as_entries,
        stats.mappings,
        stats.mapped_pages,
        stats.pages_2m,
        held_bytes()?,
    ])
}

/// Runs `call` with its first allocation failing, then its second, until it makes fewer. `undo`
/// is given what a call gave that succeeded. At least `least` allocations must fail.
fn sweep<T>(
    rig: &Rig,
    what: &str,
    least: u32,
    call: impl Fn() -> Called<T>,
    undo: impl Fn(T) -> Outcome,
) -> Outcome {
    prepare_injection()?;
    // Not the first: what is made once and kept is not a leak.
    undo(call()?)?;
    let before = held(rig)?;
    let mut refused = 0;
    for nth in 1..LIMIT {
        let (result, failed) = with_nth_failing(nth, &call)?;
        match result {
            Ok(value) => undo(value)?,
            Err(CallError { errno, .. }) if failed => {
                assert_eq!(errno, Errno::ENOMEM, "{what}, allocation {nth}");
                refused += 1;
            }
            Err(error) => return fail(format!("{what}: {error} without a failure")),
        }
        assert_eq!(held(rig)?, before, "{what}, allocation {nth}");
        if !failed {
            println!("# {what}: {} allocations, {refused} refusals", nth - 1);
            assert!(nth > least, "{what}: only {} allocations", nth - 1);
            return Ok(());
        }
    }
    fail(format!("{what} makes more than {LIMIT} allocations"))
}

/// [`sweep`] for what a container makes once and keeps: each time in a new container.
fn sweep_fresh<T>(what: &str, least: u32, call: impl Fn(&Rig) -> Called<T>) -> Outcome {
    prepare_injection()?;
    for nth in 1..LIMIT {
        let rig = Rig::nesting()?;
        let before = held(&rig)?;
        let (result, failed) = with_nth_failing(nth, || call(&rig))?;
        if let Err(error) = result {
            assert!(failed, "{error} without a failure");
            assert_eq!(error.errno, Errno::ENOMEM, "{what}, allocation {nth}");
            assert_eq!(held(&rig)?, before, "{what}, allocation {nth}");
            call(&rig)?;
        }
        if !failed {
            println!("# {what}: {} allocations", nth - 1);
            assert!(nth > least, "{what}: only {} allocations", nth - 1);
            return Ok(());
        }
    }
    fail(format!("{what} makes more than {LIMIT} allocations"))
}

fn map_dma() -> Outcome {
    prepare_injection()?;
    let rig = Rig::nesting()?;
    let memory = Memory::new(600 * PAGE)?;
    let unmap = |()| {
        assert_eq!(
            rig.container.unmap(ELSEWHERE, memory.size())?,
            memory.size()
        );
        Ok(())
    };
    sweep(
        &rig,
        "MAP_DMA",
        4,
        || rig.container.map(&memory, ELSEWHERE),
        unmap,
    )
}

fn unmap_dma() -> Outcome {
    prepare_injection()?;
    let rig = Rig::nesting()?;
    let base = rig.mem.base();
    let entries = [as_entry(0x10_0000, base, 64 * PAGE, VFIO_IOASID_AS_READ)];
    let id = rig.container.as_create()?;
    assert_eq!(rig.container.as_map(id, &entries).0, Ok(()));
    sweep(
        &rig,
        "UNMAP_DMA",
        0,
        || rig.unmap_memory(),
        |_| {
            rig.map_memory()?;
            assert_eq!(rig.container.as_map(id, &entries).0, Ok(()));
            Ok(())
        },
    )
}

fn pasid_alloc() -> Outcome {
    sweep_fresh("PASID_ALLOC", 1, |rig| rig.container.pasid_alloc_any())
}

fn fault_queue() -> Outcome {
    prepare_injection()?;
    let rig = Rig::nesting()?;
    let call = || {
        rig.container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)
    };
    sweep(&rig, "FAULT_QUEUE", 3, call, |queue| {
        drop(queue);
        Ok(())
    })
}

fn bind_with_a_fault_queue() -> Outcome {
    prepare_injection()?;
    let bench = FaultBench::open()?;
    let (rig, space) = (&bench.rig, &bench.space);
    space.unbind(rig)?;
    let call = || space.bind_with(rig, &bench.queue, 5, 6);
    sweep(rig, "BIND", 3, call, |()| Ok(space.unbind(rig)?))
}

fn bind_stage2_and_at_the_rid() -> Outcome {
    prepare_injection()?;
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    let stage2 = bind_stage2_at(rig.id(), space.pasid);
    let unbind = |()| Ok(space.unbind(&rig)?);
    sweep(
        &rig,
        "BIND stage 2",
        1,
        || rig.container.bind(&stage2),
        unbind,
    )?;
    let at_rid = bind_at_rid(rig.id(), &data);
    sweep(
        &rig,
        "BIND at the RID",
        3,
        || rig.container.bind(&at_rid),
        |()| {
            rig.container.unbind(VFIO_IOASID_SCOPE_RID, rig.id(), 0)?;
            Ok(())
        },
    )?;
    let order = Order::fill(rig.mem.base(), 8, 1).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "by stage 2 again");
    Ok(())
}

/// A rebind that fails says what is in force, and the binding's count agrees.
fn rebind() -> Outcome {
    prepare_injection()?;
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    let mut bind = bind_at(rig.id(), space.pasid, &data);
    for nth in 1..LIMIT {
        bind.flags = 0;
        rig.container.bind(&bind)?;
        bind.flags = VFIO_IOASID_BIND_REPLACE;
        let ((result, outcome), failed) =
            with_nth_failing(nth, || rig.container.bind_with_outcome(&bind))?;
        let bindings = rig.container.stats()?.bindings;
        match (&result, failed) {
            (Ok(()), _) => assert_eq!(bindings, 1),
            (Err(error), true) => {
                assert_eq!(error.errno, Errno::ENOMEM, "allocation {nth}");
                let kept = outcome != VFIO_IOASID_OUTCOME_BLOCKED;
                assert_eq!(
                    bindings,
                    u64::from(kept),
                    "allocation {nth}: outcome {outcome}"
                );
            }
            (Err(error), false) => return fail(format!("{error} without a failure")),
        }
        if bindings != 0 {
            space.unbind(&rig)?;
        }
        if !failed {
            println!("# rebind: {} allocations", nth - 1);
            assert!(nth > 3, "only {} allocations", nth - 1);
            return Ok(());
        }
    }
    fail("too many allocations")
}

fn unbind() -> Outcome {
    prepare_injection()?;
    let bench = FaultBench::open()?;
    let (rig, space) = (&bench.rig, &bench.space);
    sweep(rig, "UNBIND", 0, || space.unbind(rig), |()| bench.bind())
}

fn invalidate() -> Outcome {
    prepare_injection()?;
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let entries = vec![range(GVA, 1); 300];
    let call = || {
        let scope = VFIO_IOASID_SCOPE_BINDING;
        let done = rig
            .container
            .invalidate(scope, rig.id(), space.pasid, &entries);
        if done.result.is_ok() {
            assert_eq!(done.done, 300);
        }
        done.result
    };
    sweep(&rig, "INVALIDATE", 0, call, |()| Ok(()))
}

fn address_spaces() -> Outcome {
    sweep_fresh("AS_CREATE", 1, |rig| rig.container.as_create())?;
    let rig = Rig::nesting()?;

    let id = rig.container.as_create()?;
    let base = rig.mem.base();
    let perm = VFIO_IOASID_AS_READ | VFIO_IOASID_AS_WRITE;
    let entries = [as_entry(0x4000_0000, base, 32 * PAGE, perm)];
    let map = || {
        let (result, ..) = rig.container.as_map(id, &entries);
        result.map_err(|errno| CallError {
            call: "AS_MAP",
            errno,
        })
    };
    sweep(&rig, "AS_MAP", 2, map, |()| {
        assert_eq!(rig.container.as_unmap(id, 0, 1 << 40).0, Ok(()));
        Ok(())
    })?;
    let space = Space::new(&rig)?;
    let bind = bind_as_at(rig.id(), space.pasid, id);
    let unbind = |()| Ok(space.unbind(&rig)?);
    sweep(
        &rig,
        "BIND address space",
        1,
        || rig.container.bind(&bind),
        unbind,
    )
}

/// What an AS_MAP did before its memory ran out is told, in each of the steps that it reads its
/// entries by: the rest can be mapped.
fn as_map_tells_what_was_done() -> Outcome {
    const COUNT: u32 = 300;
    /// Entries that are read between two moments without the lock.
    const STEP: u32 = 256;

    prepare_injection()?;
    let rig = Rig::nesting()?;
    let id = rig.container.as_create()?;
    let base = rig.mem.base();
    let entries: Vec<_> = (0..COUNT)
        .map(|index| {
            let iova = 0x4000_0000 + u64::from(index) * 2 * PAGE;
            as_entry(iova, base, PAGE, VFIO_IOASID_AS_READ)
        })
        .collect();
    let map = |nth| -> Outcome<u32> {
        let ((result, done, _), failed) =
            with_nth_failing(nth, || rig.container.as_map(id, &entries))?;
        match result {
            Ok(()) => assert_eq!(done, COUNT),
            Err(errno) => assert_eq!((errno, failed), (Errno::ENOMEM, true)),
        }
        let rest = entries.get(done as usize..).unwrap_or_default();
        let (result, more, _) = rig.container.as_map(id, rest);
        assert_eq!(
            (result, more),
            (Ok(()), COUNT - done),
            "after {done}, {nth}"
        );
        assert_eq!(rig.container.stats()?.as_entries, u64::from(COUNT));
        assert_eq!(rig.container.as_unmap(id, 0, 1 << 40).0, Ok(()));
        Ok(done)
    };
    // An entry takes three allocations or so: some of the failures fall into each step, and all of
    // those where the second step begins are tried.
    let there = STEP * 3;
    let mut refused = [0, 0];
    for nth in (1..COUNT * 4).step_by(7).chain(there - 30..there + 40) {
        let done = map(nth)?;
        if done < COUNT {
            refused[usize::from(done >= STEP)] += 1;
        }
    }
    println!("# refusals in the first step and in the second: {refused:?}");
    assert!(refused.iter().all(|&count| count > 1), "{refused:?}");
    Ok(())
}

fn reports() -> Outcome {
    prepare_injection()?;
    let rig = Rig::nesting()?;
    sweep(&rig, "STATS", 0, || rig.container.stats(), |_| Ok(()))?;
    sweep(&rig, "DEVICES", 0, || rig.container.devices(), |_| Ok(()))?;
    sweep(&rig, "GET_INFO", 0, || rig.container.info(), |_| Ok(()))
}

/// A container from open to the attached group. VFIO has errors of its own for what the core
/// could not allocate.
fn attach_of_a_group() -> Outcome {
    prepare_injection()?;
    let endpoint = endpoint(0)?;
    // What was opened is closed by the caller: the core WARNs when it cannot allocate there.
    let attach = || -> Called<(Container, Group)> {
        let container = Container::open()?;
        let group = Group::open(&endpoint)?;
        group.set_container(&container)?;
        container.set_iommu(VFIO_IOASID_IOMMU)?;
        Ok((container, group))
    };
    drop(attach()?);
    for nth in 1..LIMIT {
        let (result, failed) = with_nth_failing(nth, attach)?;
        if let Err(error) = &result {
            assert!(failed, "{error} without a failure");
            let known = [Errno::ENOMEM, Errno::EINVAL, Errno::ENODEV, Errno::ENFILE];
            assert!(known.contains(&error.errno), "allocation {nth}: {error}");
        }
        if !failed {
            println!("# attach: {} allocations", nth - 1);
            assert!(nth > 10, "only {} allocations", nth - 1);
            return Ok(());
        }
    }
    fail("too many allocations")
}

/// What takes everything down must not fail for want of memory.
fn teardown() -> Outcome {
    prepare_injection()?;
    let perm = VFIO_IOASID_AS_READ;
    for nth in 1..LIMIT {
        let bench = FaultBench::open()?;
        let (slot, _) = bench.pending()?;
        let (rig, space) = (&bench.rig, &bench.space);
        let id = rig.container.as_create()?;
        let entries = [0x10_0000, 0x20_0000].map(|at| as_entry(at, rig.mem.base(), PAGE, perm));
        assert_eq!(rig.container.as_map(id, &entries).0, Ok(()));
        // Two mappings that go with one call.
        let (base, size) = (rig.mem.base(), rig.mem.size());
        let other = Memory::new(PAGE)?;
        rig.container.map(&other, base + size)?;
        let (result, failed) = with_nth_failing(nth, || -> Called<()> {
            rig.container
                .unbind(VFIO_IOASID_SCOPE_CONTAINER, rig.id(), 0)?;
            drop(bench.queue);
            let (unmapped, ..) = rig.container.as_unmap(id, 0x10_0000, PAGE);
            unmapped.map_err(|errno| CallError {
                call: "AS_UNMAP",
                errno,
            })?;
            rig.container.unmap(base, size + PAGE)?;
            rig.container.as_destroy(id)?;
            rig.container.pasid_free(space.pasid, 1)
        })?;
        result?;
        expect_status(
            rig.dma().wait(slot)?,
            status::INVALID,
            "it waited for its page",
        );
        let held = held(rig)?;
        assert_eq!(held[..8], [0; 8], "allocation {nth}");
        if !failed {
            println!("# teardown: {} allocations", nth - 1);
            return Ok(());
        }
    }
    fail("too many allocations")
}

program![
    map_dma,
    unmap_dma,
    pasid_alloc,
    fault_queue,
    bind_with_a_fault_queue,
    bind_stage2_and_at_the_rid,
    rebind,
    unbind,
    invalidate,
    address_spaces,
    as_map_tells_what_was_done,
    reports,
    attach_of_a_group,
    teardown,
];
