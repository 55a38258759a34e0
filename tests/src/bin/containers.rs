// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two containers of two endpoints at the same time: neither sees nor disturbs the other.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bdf, expect_errno, expect_ok, expect_status, program, skip, status, Errno, Order, Outcome, Rig,
    Slot, Space, Stop, PAGE,
};

const GVA: u64 = 0x1357_9bdf_0000;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;

fn both() -> Result<(Rig, Rig), Stop> {
    let first = Rig::faulting()?;
    match Rig::open_second_device()? {
        Some(second) => Ok((first, second)),
        None => Err(Stop::Skip("needs two endpoints".into())),
    }
}

fn touch(rig: &Rig, space: &Space) -> Result<Slot, Stop> {
    Ok(rig
        .dma()
        .submit(&Order::fill(GVA, 8, 0xabc).at(space.pasid))?)
}

fn each_lists_its_own_device() -> Outcome {
    let (first, second) = both()?;
    for rig in [&first, &second] {
        let devices = rig.container.devices()?;
        assert_eq!(devices.len(), 1);
        assert_eq!(bdf(devices[0].device), bdf(rig.id()));
    }
    assert_ne!(bdf(first.id()), bdf(second.id()));
    Ok(())
}

fn same_iova_is_another_page_in_each() -> Outcome {
    let (first, second) = both()?;
    let page = first.mem.alloc_page();
    assert_eq!(page, second.mem.alloc_page(), "the same GPA in both");
    for (rig, value) in [(&first, 1), (&second, 2)] {
        expect_status(
            rig.dma().run(&Order::fill(page, 8, value).no_pri())?,
            status::OK,
            "by GPA",
        );
    }
    assert_eq!(first.mem.read_u64(page), 1);
    assert_eq!(second.mem.read_u64(page), 2);
    Ok(())
}

fn faults_go_to_the_queue_of_their_container() -> Outcome {
    let (first, second) = both()?;
    let mut queues = Vec::new();
    let mut spaces = Vec::new();
    for rig in [&first, &second] {
        rig.container.pasid_alloc(33, 33, 1)?;
        let space = Space::at(rig, 33)?;
        let queue = rig.container.fault_queue(NONBLOCK, 0)?;
        space.bind_with(rig, &queue, 0, 0)?;
        queues.push(queue);
        spaces.push(space);
    }

    let slot = touch(&second, &spaces[1])?;
    queues[1].wait_readable()?;
    let record = queues[1].read_all()?[0];
    assert_eq!(bdf(record.device), bdf(second.id()));
    expect_errno(
        queues[0].read_all_or_error(),
        Errno::EAGAIN,
        "the other queue",
    );
    expect_errno(
        queues[0].respond(record.cookie, INVALID),
        Errno::ENOENT,
        "an answer by the other container",
    );
    assert_eq!(second.dma().status(slot), status::WAITING);
    queues[1].respond(record.cookie, INVALID)?;
    expect_status(second.dma().wait(slot)?, status::INVALID, "answered");
    assert_eq!(first.container.stats()?.page_requests, 0);
    Ok(())
}

fn invalidate_of_a_device_of_the_other_returns_enoent() -> Outcome {
    let (first, second) = both()?;
    let space = Space::new(&second)?;
    space.bind(&second)?;
    for scope in [VFIO_IOASID_SCOPE_BINDING, VFIO_IOASID_SCOPE_DEVICE] {
        let done = first.container.invalidate(
            scope,
            second.id(),
            space.pasid,
            &[host_iommu_tests::rig::range(0, u64::MAX)],
        );
        expect_errno(done.result, Errno::ENOENT, "INVALIDATE");
        expect_errno(
            first.container.unbind(scope, second.id(), space.pasid),
            Errno::ENOENT,
            "UNBIND",
        );
    }
    assert_eq!(second.container.stats()?.bindings, 1);
    Ok(())
}

fn unbind_of_the_whole_container_leaves_the_other_bound() -> Outcome {
    let (first, second) = both()?;
    let mut spaces = Vec::new();
    for rig in [&first, &second] {
        let space = Space::new(rig)?;
        space.bind(rig)?;
        space.new_page(rig, GVA)?;
        spaces.push(space);
    }
    first
        .container
        .unbind(VFIO_IOASID_SCOPE_CONTAINER, first.id(), 0)?;
    let order = Order::fill(GVA, 8, 5).no_pri();
    assert_ne!(
        first.dma().run(&order.at(spaces[0].pasid))?.status,
        status::OK
    );
    expect_status(
        second.dma().run(&order.at(spaces[1].pasid))?,
        status::OK,
        "the other",
    );
    Ok(())
}

fn end_of_one_leaves_the_other_in_the_middle_of_a_fault() -> Outcome {
    let (first, second) = both()?;
    let ended = Space::new(&first)?;
    let ended_queue = first.container.fault_queue(NONBLOCK, 0)?;
    ended.bind_with(&first, &ended_queue, 0, 0)?;
    let space = Space::new(&second)?;
    let queue = second.container.fault_queue(NONBLOCK, 0)?;
    space.bind_with(&second, &queue, 0, 0)?;
    touch(&first, &ended)?;
    let slot = touch(&second, &space)?;
    queue.wait_readable()?;
    ended_queue.wait_readable()?;

    drop(first);

    let record = queue.read_all()?[0];
    assert_eq!(second.dma().status(slot), status::WAITING);
    let page = space.new_page(&second, GVA)?;
    queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(second.dma().wait(slot)?, status::OK, "goes on");
    assert_eq!(second.mem.read_u64(page), 0xabc);
    Ok(())
}

fn two_devices_of_one_container_share_stage_2() -> Outcome {
    let Some(rig) = Rig::nesting_with_both_endpoints()? else {
        return skip("needs two endpoints");
    };
    let page = rig.mem.alloc_page();
    let write = Order::fill(page, 8, 0x77).no_pri();
    expect_status(rig.dma().run(&write)?, status::OK, "the first writes");
    let add = Order::fetch_add(page, 1).no_pri();
    let done = rig.second_dma().run(&add)?;
    expect_status(done, status::OK, "the second adds");
    assert_eq!(done.result, 0x77);
    assert_eq!(rig.mem.read_u64(page), 0x78);
    Ok(())
}

fn memory_mapped_after_the_second_device_came_reaches_both() -> Outcome {
    let Some(rig) = Rig::nesting_with_both_endpoints()? else {
        return skip("needs two endpoints");
    };
    rig.unmap_memory()?;
    expect_ok(rig.map_memory(), "map again");
    let page = rig.mem.alloc_page();
    for (dma, value) in [(rig.dma(), 3), (rig.second_dma(), 4)] {
        let order = Order::fill(page + value * PAGE / 8, 8, value).no_pri();
        expect_status(dma.run(&order)?, status::OK, "mapped again");
        assert_eq!(rig.mem.read_u64(page + value * PAGE / 8), value);
    }
    Ok(())
}

program![
    each_lists_its_own_device,
    same_iova_is_another_page_in_each,
    faults_go_to_the_queue_of_their_container,
    invalidate_of_a_device_of_the_other_returns_enoent,
    unbind_of_the_whole_container_leaves_the_other_bound,
    end_of_one_leaves_the_other_in_the_middle_of_a_fault,
    two_devices_of_one_container_share_stage_2,
    memory_mapped_after_the_second_device_came_reaches_both,
];
