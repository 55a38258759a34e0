// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VMM that is killed at any step leaves nothing behind: the module is free again and
//! the device works for the next one.
//!
//! The program starts itself as the VMM, which goes up to a step, says so and waits.

use std::io::Read;
use std::process::{Child, Stdio};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::cases;
use host_iommu_tests::rig::{
    child, entry, expect_status, fail, module_references, program, range, say_ready, status,
    wait_for_module_references, Container, FaultQueue, Group, Order, Outcome, Rig, Slot, Space,
    Stop, PAGE,
};

const GVA: u64 = 0x2468_ace0_1000;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;

/// What a step has made; the child waits to be killed while it holds all of it.
#[derive(Default)]
struct Held {
    container: Option<Container>,
    group: Option<Group>,
    rig: Option<Rig>,
    spaces: Vec<Space>,
    queue: Option<FaultQueue>,
}

fn touch(rig: &Rig, space: &Space, index: u64) -> Result<Slot, Stop> {
    let order = Order::fill(GVA + index * PAGE, 8, 0xd00d).at(space.pasid);
    Ok(rig.dma().submit(&order)?)
}

/// Goes up to `step`.
fn up_to(step: &str) -> Result<Held, Stop> {
    let mut held = Held::default();
    match step {
        "container_open" => {
            held.container = Some(Container::open()?);
            return Ok(held);
        }
        "group_attached" | "type_chosen" => {
            let container = Container::open()?;
            let group = Group::open(&host_iommu_tests::rig::endpoint(0)?)?;
            group.set_container(&container)?;
            if step == "type_chosen" {
                container.set_iommu(VFIO_IOASID_IOMMU)?;
            }
            held.container = Some(container);
            held.group = Some(group);
            return Ok(held);
        }
        "memory_mapped" => {
            held.rig = Some(Rig::open()?);
            return Ok(held);
        }
        _ => {}
    }

    let rig = held.rig.insert(Rig::faulting()?);
    if step == "device_open" {
        return Ok(held);
    }
    let space = Space::new(rig)?;
    if step == "pasids_allocated" {
        rig.container.pasid_alloc(1000, 5000, 1000)?;
        held.spaces.push(space);
        return Ok(held);
    }
    let flags = if step == "asleep_in_read" {
        0
    } else {
        NONBLOCK
    };
    let queue = rig.container.fault_queue(flags, 0)?;
    if step == "fault_queue_open" {
        held.queue = Some(queue);
        return Ok(held);
    }
    space.bind_with(rig, &queue, 0, 0)?;
    match step {
        "table_bound" => {}
        "many_tables_bound" => {
            for _ in 0..100 {
                let space = Space::new(rig)?;
                space.bind_with(rig, &queue, 0, 0)?;
                held.spaces.push(space);
            }
        }
        "dma_done" | "entry_invalidated" => {
            let page = space.new_page(rig, GVA)?;
            let order = Order::fill(GVA, 8, 1).at(space.pasid);
            expect_status(rig.dma().run(&order)?, status::OK, "DMA");
            if step == "entry_invalidated" {
                space.map(rig, GVA, page, entry::R)?;
                rig.container
                    .invalidate(
                        VFIO_IOASID_SCOPE_BINDING,
                        rig.id(),
                        space.pasid,
                        &[range(GVA, 1)],
                    )
                    .result?;
            }
        }
        "request_not_read" => {
            touch(rig, &space, 0)?;
            queue.wait_readable()?;
        }
        "request_read" => {
            touch(rig, &space, 0)?;
            queue.wait_readable()?;
            queue.read_all()?;
        }
        "many_requests_pending" => {
            for index in 0..100 {
                touch(rig, &space, index)?;
            }
            queue.wait_for_page_requests(rig, 100)?;
            queue.read_one()?;
        }
        "request_answered" | "answered_invalid" => {
            let slot = touch(rig, &space, 0)?;
            queue.wait_readable()?;
            let record = queue.read_one()?;
            if step == "request_answered" {
                space.new_page(rig, GVA)?;
                queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
                expect_status(rig.dma().wait(slot)?, status::OK, "answered");
            } else {
                queue.respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
                expect_status(rig.dma().wait(slot)?, status::INVALID, "answered");
            }
        }
        "unbound" => {
            touch(rig, &space, 0)?;
            queue.wait_readable()?;
            space.unbind(rig)?;
        }
        "asleep_in_read" => {
            let reader = queue.read_in_a_thread(4096)?;
            reader.wait_until_asleep()?;
            std::mem::forget(reader);
        }
        other => return fail(format!("no step {other}")),
    }
    held.spaces.push(space);
    held.queue = Some(queue);
    Ok(held)
}

/// The VMM: goes up to a step, says so, and waits to be killed.
fn victim(arguments: &[String]) -> Outcome {
    let [step] = arguments else {
        return fail("usage: step");
    };
    if step == "in_the_middle_of_everything" {
        return churn();
    }
    let held = up_to(step)?;
    say_ready()?;
    std::thread::park();
    drop(held);
    fail("woke up instead of being killed")
}

/// Binds, maps, does DMA, faults, answers and unbinds for ever.
fn churn() -> Outcome {
    let rig = Rig::faulting()?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    let space = Space::new(&rig)?;
    let mut said = false;
    for round in 0u64.. {
        space.bind_with(&rig, &queue, 0, round)?;
        let slots = [
            touch(&rig, &space, round % 64)?,
            touch(&rig, &space, 64 + round % 64)?,
        ];
        queue.wait_readable()?;
        for record in queue.read_all()? {
            queue.respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
        }
        space.unbind(&rig)?;
        for slot in slots {
            rig.dma().wait(slot)?;
        }
        queue.read_all_or_nothing()?;
        if !said {
            say_ready()?;
            said = true;
        }
    }
    Ok(())
}

fn start(step: &str) -> Result<Child, Stop> {
    let mut process = child(&[step])?.stdout(Stdio::piped()).spawn()?;
    let mut byte = [0u8; 1];
    let ready = match process.stdout.as_mut() {
        Some(stdout) => stdout.read_exact(&mut byte),
        None => Ok(()),
    };
    if let Err(error) = ready {
        let status = process.wait()?;
        return fail(format!("{step}: {error}; the child ended: {status}"));
    }
    Ok(process)
}

fn killed_at(step: &str) -> Outcome {
    let before = module_references()?;
    let mut process = start(step)?;
    process.kill()?;
    process.wait()?;
    wait_for_module_references(before)?;
    works_for_the_next()
}

/// The device, all PASIDs and page requests are there for the next VMM.
fn works_for_the_next() -> Outcome {
    let rig = Rig::faulting()?;
    let stats = rig.container.stats()?;
    assert_eq!(
        (stats.pasids, stats.bindings, stats.fault_queues),
        (0, 0, 0)
    );
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let slot = touch(&rig, &space, 0)?;
    queue.wait_readable()?;
    let record = queue.read_one()?;
    let page = space.new_page(&rig, GVA)?;
    queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "the next VMM");
    assert_eq!(rig.mem.read_u64(page), 0xd00d);
    Ok(())
}

/// Killed while two devices' worth of work goes on, at a moment nobody chose.
fn killed_in_the_middle_of_everything_leaves_nothing() -> Outcome {
    let before = module_references()?;
    for _ in 0..5 {
        let mut process = start("in_the_middle_of_everything")?;
        process.kill()?;
        process.wait()?;
        wait_for_module_references(before)?;
    }
    works_for_the_next()
}

// The steps of the demonstration, and some that are worse to be killed at.
cases! {
    killed_at_container_open_leaves_nothing => killed_at("container_open"),
    killed_at_group_attached_leaves_nothing => killed_at("group_attached"),
    killed_at_type_chosen_leaves_nothing => killed_at("type_chosen"),
    killed_at_memory_mapped_leaves_nothing => killed_at("memory_mapped"),
    killed_at_device_open_leaves_nothing => killed_at("device_open"),
    killed_at_pasids_allocated_leaves_nothing => killed_at("pasids_allocated"),
    killed_at_fault_queue_open_leaves_nothing => killed_at("fault_queue_open"),
    killed_at_table_bound_leaves_nothing => killed_at("table_bound"),
    killed_at_many_tables_bound_leaves_nothing => killed_at("many_tables_bound"),
    killed_at_dma_done_leaves_nothing => killed_at("dma_done"),
    killed_at_entry_invalidated_leaves_nothing => killed_at("entry_invalidated"),
    killed_at_request_not_read_leaves_nothing => killed_at("request_not_read"),
    killed_at_request_read_leaves_nothing => killed_at("request_read"),
    killed_at_many_requests_pending_leaves_nothing => killed_at("many_requests_pending"),
    killed_at_request_answered_leaves_nothing => killed_at("request_answered"),
    killed_at_answered_invalid_leaves_nothing => killed_at("answered_invalid"),
    killed_at_unbound_leaves_nothing => killed_at("unbound"),
    killed_at_asleep_in_read_leaves_nothing => killed_at("asleep_in_read"),
}

program![
    child victim;
    killed_at_container_open_leaves_nothing,
    killed_at_group_attached_leaves_nothing,
    killed_at_type_chosen_leaves_nothing,
    killed_at_memory_mapped_leaves_nothing,
    killed_at_device_open_leaves_nothing,
    killed_at_pasids_allocated_leaves_nothing,
    killed_at_fault_queue_open_leaves_nothing,
    killed_at_table_bound_leaves_nothing,
    killed_at_many_tables_bound_leaves_nothing,
    killed_at_dma_done_leaves_nothing,
    killed_at_entry_invalidated_leaves_nothing,
    killed_at_request_not_read_leaves_nothing,
    killed_at_request_read_leaves_nothing,
    killed_at_many_requests_pending_leaves_nothing,
    killed_at_request_answered_leaves_nothing,
    killed_at_answered_invalid_leaves_nothing,
    killed_at_unbound_leaves_nothing,
    killed_at_asleep_in_read_leaves_nothing,
    killed_in_the_middle_of_everything_leaves_nothing,
];
