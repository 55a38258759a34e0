// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls from several threads at once, and calls that race the end of their container.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry, endpoint, expect_status, program, range, skip, status, Called, Container, Errno,
    Group, Memory, Order, Outcome, Rig, Space, PAGE,
};
use host_iommu_tests::testdev::raw;

const GVA: u64 = 0x7654_3210_0000;
const ELSEWHERE: u64 = 0x5_0000_0000;
const LIMIT: Duration = Duration::from_secs(2);

/// Runs each of `bodies` again and again in a thread of its own until [`LIMIT`], and gives how
/// often each ran.
fn run_together(bodies: &[&(dyn Fn() -> Outcome + Sync)]) -> Outcome<Vec<u64>> {
    let end = Instant::now() + LIMIT;
    let stop = AtomicBool::new(false);
    let rounds: Vec<AtomicU64> = bodies.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = bodies
            .iter()
            .zip(&rounds)
            .map(|(body, rounds)| {
                let stop = &stop;
                scope.spawn(move || -> Outcome {
                    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
                        if let Err(error) = body() {
                            stop.store(true, Ordering::Relaxed);
                            return Err(error);
                        }
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
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
    Ok(rounds.into_iter().map(AtomicU64::into_inner).collect())
}

fn bind_invalidate_and_unbind_in_four_threads_succeed() -> Outcome {
    let rig = Rig::nesting()?;
    let spaces: Vec<Space> = (0..4).map(|_| Space::new(&rig)).collect::<Called<_>>()?;
    let body = |space: &Space| -> Outcome {
        space.bind(&rig)?;
        let done = rig.container.invalidate(
            VFIO_IOASID_SCOPE_BINDING,
            rig.id(),
            space.pasid,
            &[range(GVA, 1), range(0, u64::MAX)],
        );
        done.result?;
        space.unbind(&rig)?;
        Ok(())
    };
    let rounds = run_together(&[
        &|| body(&spaces[0]),
        &|| body(&spaces[1]),
        &|| body(&spaces[2]),
        &|| body(&spaces[3]),
    ])?;
    assert!(rounds.iter().all(|&rounds| rounds > 0), "{rounds:?}");
    assert_eq!(rig.container.stats()?.bindings, 0);
    Ok(())
}

fn map_and_unmap_beside_dma_and_invalidation_keep_both_right() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    let memory = Memory::new(256 * PAGE)?;
    let value = AtomicU64::new(0);
    let rounds = run_together(&[
        &|| {
            rig.container.map(&memory, ELSEWHERE)?;
            let unmapped = rig.container.unmap(ELSEWHERE, memory.size())?;
            assert_eq!(unmapped, memory.size());
            Ok(())
        },
        &|| {
            let value = value.fetch_add(1, Ordering::Relaxed);
            let order = Order::fill(GVA, 8, value).no_pri().at(space.pasid);
            expect_status(rig.dma().run(&order)?, status::OK, "DMA");
            assert_eq!(rig.mem.read_u64(page), value);
            Ok(())
        },
        &|| {
            rig.container
                .invalidate(VFIO_IOASID_SCOPE_CONTAINER, rig.id(), 0, &[range(GVA, 1)])
                .result?;
            Ok(())
        },
    ])?;
    assert!(rounds.iter().all(|&rounds| rounds > 0), "{rounds:?}");
    assert_eq!(rig.container.stats()?.mapped_pages, rig.mem.size() / PAGE);
    Ok(())
}

fn map_of_the_same_range_in_two_threads_succeeds_for_one_at_a_time() -> Outcome {
    let rig = Rig::open()?;
    let memory = Memory::new(16 * PAGE)?;
    let body = || -> Outcome {
        match rig.container.map(&memory, ELSEWHERE) {
            Ok(()) => {
                // Whoever mapped it is alone in unmapping it.
                assert_eq!(
                    rig.container.unmap(ELSEWHERE, memory.size())?,
                    memory.size()
                );
            }
            Err(error) => assert_eq!(error.errno, Errno::EEXIST, "MAP_DMA"),
        }
        Ok(())
    };
    let rounds = run_together(&[&body, &body])?;
    assert!(rounds.iter().all(|&rounds| rounds > 0), "{rounds:?}");
    assert_eq!(rig.container.stats()?.mapped_pages, rig.mem.size() / PAGE);
    Ok(())
}

fn destroy_of_the_same_address_space_in_two_threads_succeeds_for_one() -> Outcome {
    let rig = Rig::nesting()?;
    // More than the module takes out between two moments without the lock: the other comes then.
    let entry = |page| as_entry(GVA + page * PAGE, rig.mem.base(), PAGE, VFIO_IOASID_AS_READ);
    let entries: Vec<_> = (0..600).map(entry).collect();
    let full = || -> Outcome<u32> {
        let id = rig.container.as_create()?;
        assert_eq!(rig.container.as_map(id, &entries).0, Ok(()), "AS_MAP");
        Ok(id)
    };
    let current = AtomicU32::new(full()?);
    let body = || -> Outcome {
        match rig.container.as_destroy(current.load(Ordering::Relaxed)) {
            // Whoever destroyed it makes the next one.
            Ok(()) => current.store(full()?, Ordering::Relaxed),
            Err(error) => assert_eq!(error.errno, Errno::ENOENT, "AS_DESTROY"),
        }
        Ok(())
    };
    let rounds = run_together(&[&body, &body])?;
    assert!(rounds.iter().all(|&rounds| rounds > 0), "{rounds:?}");
    let stats = rig.container.stats()?;
    assert_eq!((stats.address_spaces, stats.as_entries), (1, 600));
    rig.container.as_destroy(current.into_inner())?;
    let stats = rig.container.stats()?;
    assert_eq!((stats.address_spaces, stats.as_entries), (0, 0));
    Ok(())
}

fn map_into_an_address_space_that_is_destroyed_leaves_nothing() -> Outcome {
    let rig = Rig::nesting()?;
    let current = AtomicU32::new(rig.container.as_create()?);
    let entries: Vec<_> = (0..40)
        .map(|page| as_entry(GVA + page * PAGE, rig.mem.base(), PAGE, VFIO_IOASID_AS_READ))
        .collect();
    let map = || -> Outcome {
        let (mapped, ..) = rig
            .container
            .as_map(current.load(Ordering::Relaxed), &entries);
        let known = [Ok(()), Err(Errno::ENOENT), Err(Errno::EEXIST)];
        assert!(known.contains(&mapped), "AS_MAP: {mapped:?}");
        Ok(())
    };
    let destroy = || -> Outcome {
        let old = current.swap(rig.container.as_create()?, Ordering::Relaxed);
        Ok(rig.container.as_destroy(old)?)
    };
    let rounds = run_together(&[&map, &map, &destroy])?;
    assert!(rounds.iter().all(|&rounds| rounds > 0), "{rounds:?}");
    rig.container.as_destroy(current.into_inner())?;
    let stats = rig.container.stats()?;
    assert_eq!((stats.address_spaces, stats.as_entries), (0, 0));
    rig.unmap_memory()?;
    Ok(())
}

fn calls_that_race_the_end_of_the_container_return_einval_alone() -> Outcome {
    let container = Container::open()?;
    let group = Group::open(&endpoint(0)?)?;
    let seen = AtomicU64::new(0);
    let only_einval = |result: Called<()>| -> Outcome {
        match result {
            Ok(()) => {
                seen.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => assert_eq!(error.errno, Errno::EINVAL, "{}", error.call),
        }
        Ok(())
    };
    let rounds = run_together(&[
        &|| {
            group.set_container(&container)?;
            container.set_iommu(VFIO_IOASID_IOMMU)?;
            group.unset_container()?;
            Ok(())
        },
        &|| only_einval(container.stats().map(drop)),
        &|| {
            only_einval(
                container
                    .fault_queue(VFIO_IOASID_FAULT_QUEUE_CLOEXEC, 4)
                    .map(drop),
            )
        },
        &|| {
            only_einval(container.devices().map(|devices| {
                assert!(devices.len() <= 1, "{} devices", devices.len());
            }))
        },
    ])?;
    assert!(rounds.iter().all(|&rounds| rounds > 0), "{rounds:?}");
    assert!(seen.into_inner() > 0, "no call met a living container");
    Ok(())
}

fn unbind_races_the_last_close_of_its_queue() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    for round in 0..30 {
        let queue = rig
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
        space.bind_with(&rig, &queue, 0, 0)?;
        let slot = rig
            .dma()
            .submit(&Order::fill(GVA + PAGE, 8, 1).at(space.pasid))?;
        queue.wait_readable()?;
        std::thread::scope(|scope| {
            scope.spawn(|| drop(queue));
            space.unbind(&rig)
        })?;
        expect_status(
            rig.dma().wait(slot)?,
            status::INVALID,
            &format!("round {round}"),
        );
    }
    assert_eq!(rig.container.stats()?.host_invalid, 30);
    assert_eq!(rig.container.stats()?.fault_queues, 0);
    Ok(())
}

/// Two devices of one IOMMU unit, each of a container of its own, whose tables are unbound while
/// page requests are in flight.
///
/// Linux has one completion for all who wait for a unit's page requests
/// (intel_iommu_drain_pasid_prq), and each arms it anew: without the module's lock one of two may
/// wait until the unit's next request.
fn unbinds_of_two_containers_under_requests_both_end() -> Outcome {
    const REQUEST: u64 = raw::READ | raw::PASID | raw::ROGUE | raw::LAST;
    let rig = Rig::faulting()?;
    let Some(second) = Rig::open_second_device()? else {
        return skip("there is one endpoint only");
    };
    let body = |rig: &Rig| -> Outcome {
        let queue = rig
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 64)?;
        let space = Space::new(rig)?;
        space.bind_with(rig, &queue, 0, 0)?;
        for group in 0..8 {
            rig.dma().raw_page_request(GVA, REQUEST, space.pasid, group);
        }
        space.unbind(rig)?;
        Ok(rig.container.pasid_free(space.pasid, 1)?)
    };
    let rounds = run_together(&[&|| body(&rig), &|| body(&second)])?;
    println!("# rounds: {rounds:?}");
    assert!(rounds.iter().all(|&rounds| rounds > 0), "{rounds:?}");
    rig.reset_device()?;
    second.reset_device()
}

program![
    bind_invalidate_and_unbind_in_four_threads_succeed,
    map_and_unmap_beside_dma_and_invalidation_keep_both_right,
    map_of_the_same_range_in_two_threads_succeeds_for_one_at_a_time,
    destroy_of_the_same_address_space_in_two_threads_succeeds_for_one,
    map_into_an_address_space_that_is_destroyed_leaves_nothing,
    calls_that_race_the_end_of_the_container_return_einval_alone,
    unbind_races_the_last_close_of_its_queue,
    unbinds_of_two_containers_under_requests_both_end,
];
