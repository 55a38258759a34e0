// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Endpoints of two IOMMU units, which have nothing to do with each other but a container.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bdf, bind_at, endpoint, entry, expect_status, fail, program, range, status, Attempt, Delay,
    Delays, Dma, Order, Outcome, Rig, Space, Stop, PAGE,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const GVA: u64 = 0x2468_ace0_0000;
const LIMIT: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(1);

/// A container with an endpoint of each unit.
fn both() -> Outcome<Rig> {
    if endpoint(0)?.unit()?.file_name() == endpoint(1)?.unit()?.file_name() {
        return fail("the endpoints are of one unit");
    }
    match Rig::nesting_with_both_endpoints()? {
        Some(rig) => Ok(rig),
        None => fail("needs two endpoints"),
    }
}

fn bind_second(rig: &Rig, space: &Space) -> Outcome {
    let data = space.stage1_data();
    let bind = bind_at(endpoint(1)?.id(), space.pasid, &data);
    Ok(rig.container.bind(&bind)?)
}

/// What a device reads at [`GVA`].
fn seen(dma: &Dma, space: &Space) -> Outcome<u64> {
    dma.write_buffer(0, &[0; 8]);
    let order = Order::read(GVA, 8, 0).no_pri().at(space.pasid);
    expect_status(dma.run(&order)?, status::OK, "a read");
    let bytes = dma.read_buffer(0, 8);
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn stage_2_is_the_same_for_both() -> Outcome {
    let rig = both()?;
    let devices = rig.container.devices()?;
    assert_eq!(devices.len(), 2, "{devices:?}");
    assert_ne!(bdf(devices[0].device), bdf(devices[1].device));
    let page = rig.mem.alloc_page();
    for (dma, value) in [(rig.dma(), 1), (rig.second_dma(), 2)] {
        let order = Order::fill(page, 8, value).no_pri();
        expect_status(dma.run(&order)?, status::OK, "by stage 2");
        assert_eq!(rig.mem.read_u64(page), value);
    }
    // Unmapped, it is gone from both units.
    rig.unmap_memory()?;
    for dma in [rig.dma(), rig.second_dma()] {
        let ended = dma.run(&Order::fill(page, 8, 3).no_pri())?;
        assert_ne!(ended.status, status::OK, "after UNMAP_DMA");
    }
    Ok(())
}

fn invalidate_of_the_container_reaches_both() -> Outcome {
    let rig = both()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    bind_second(&rig, &space)?;
    let (old, new) = (rig.mem.alloc_page(), rig.mem.alloc_page());
    rig.mem.write_u64(old, 1);
    rig.mem.write_u64(new, 2);
    let leaf = space.map(&rig, GVA, old, entry::RW)?;
    for dma in [rig.dma(), rig.second_dma()] {
        assert_eq!(seen(dma, &space)?, 1);
    }
    rig.mem.write_u64(leaf, new | entry::RW);
    for dma in [rig.dma(), rig.second_dma()] {
        assert_eq!(seen(dma, &space)?, 1, "not cached");
    }
    let scope = VFIO_IOASID_SCOPE_CONTAINER;
    let done = rig
        .container
        .invalidate(scope, rig.id(), 0, &[range(GVA, 1)]);
    done.result?;
    for dma in [rig.dma(), rig.second_dma()] {
        assert_eq!(seen(dma, &space)?, 2);
    }
    Ok(())
}

fn page_requests_of_both_go_to_one_queue() -> Outcome {
    let rig = both()?;
    let space = Space::new(&rig)?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 1)?;
    let data = space.stage1_data();
    let second = vfio_ioasid_bind {
        fault_fd: queue.raw_fd(),
        cookie: 2,
        ..bind_at(endpoint(1)?.id(), space.pasid, &data)
    };
    rig.container.bind(&second)?;
    let order = Order::fill(GVA, 8, 7).at(space.pasid);
    let slots = [rig.dma().submit(&order)?, rig.second_dma().submit(&order)?];
    rig.wait_for_page_requests(2)?;
    let records = queue.read_all()?;
    let mut cookies: Vec<u64> = records.iter().map(|record| record.user_cookie).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [1, 2], "{records:?}");
    space.map(&rig, GVA, rig.mem.alloc_page(), entry::RW)?;
    for record in &records {
        queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    }
    for (dma, slot) in [rig.dma(), rig.second_dma()].into_iter().zip(slots) {
        expect_status(dma.wait(slot)?, status::OK, "after the answer");
    }
    Ok(())
}

/// What a BIND of the device at `index` takes beside an UNBIND of the first, which drains its unit
/// for [`DRAIN`].
fn bind_beside_a_drain(index: usize) -> Outcome<Duration> {
    let rig = Arc::new(both()?);
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    let [drained, bound] = [Space::new(&rig)?, Space::new(&rig)?];
    drained.bind_with(&rig, &queue, 0, 0)?;
    let delays = Delays::start(&[Delay {
        function: "intel_iommu_drain_pasid_prq",
        at_return: false,
        time: DRAIN,
    }])?;
    let unbind = {
        let rig = rig.clone();
        Attempt::start("UNBIND", move || drained.unbind(&rig))
    };
    delays.wait_for_call(0)?;
    let begun = Instant::now();
    let data = bound.stage1_data();
    rig.container.bind(&vfio_ioasid_bind {
        fault_fd: queue.raw_fd(),
        ..bind_at(endpoint(index)?.id(), bound.pasid, &data)
    })?;
    let took = begun.elapsed();
    unbind.ends_within(LIMIT)??;
    println!("# BIND of device {index}: {took:?}");
    Ok(took)
}

/// Whether one of three BINDs took as long as `is_right` says. The host of an emulated machine may have
/// other things to do meanwhile, and the end of a test before may still be draining.
fn one_of_three(index: usize, is_right: impl Fn(Duration) -> bool) -> Outcome<bool> {
    for _ in 0..3 {
        if is_right(bind_beside_a_drain(index)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn bind_does_not_wait_for_a_drain_of_another_unit() -> Outcome {
    // The device itself waits: so the drain was under way.
    assert!(
        one_of_three(0, |took| took > DRAIN / 2)?,
        "BIND does not wait for a drain of its own device"
    );
    match one_of_three(1, |took| took < DRAIN / 2)? {
        true => Ok(()),
        false => fail("BIND waited for a drain of another unit each time"),
    }
}

fn first_unit_goes_on_when_the_other_ones_device_leaves() -> Outcome {
    let mut rig = both()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    bind_second(&rig, &space)?;
    let page = rig.mem.alloc_page();
    space.map(&rig, GVA, page, entry::RW)?;
    rig.close_second();
    assert_eq!(rig.container.stats()?.bindings, 1);
    rig.mem.write_u64(page, 5);
    assert_eq!(seen(rig.dma(), &space)?, 5);
    let other = rig.mem.alloc_page() + PAGE - 8;
    let order = Order::fill(other, 8, 6).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "by stage 2");
    Ok::<(), Stop>(())
}

program![
    stage_2_is_the_same_for_both,
    invalidate_of_the_container_reaches_both,
    page_requests_of_both_go_to_one_queue,
    bind_does_not_wait_for_a_drain_of_another_unit,
    first_unit_goes_on_when_the_other_ones_device_leaves,
];
