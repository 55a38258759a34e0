// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every order in which container, group, device and fault fd can be closed, with a
//! binding and page requests that nobody answered, and a fresh start after each.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::cases;
use host_iommu_tests::rig::{
    expect_ok, expect_status, module_references, program, status, wait_for_module_references,
    Order, Outcome, Rig, Slot, Space, Stop, PAGE,
};

const GVA: u64 = 0x6789_abcd_e000;

/// What is closed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece {
    Container,
    Group,
    Device,
    Fault,
}

use Piece::{Container, Device, Fault, Group};

/// Starts DMA into holes and waits until the requests are pending.
fn pending(rig: &Rig, space: &Space, count: u64) -> Result<Vec<Slot>, Stop> {
    let slots = (0..count)
        .map(|index| {
            let order = Order::fill(GVA + index * PAGE, 8, 1).at(space.pasid);
            Ok(rig.dma().submit(&order)?)
        })
        .collect::<Result<Vec<_>, Stop>>()?;
    rig.wait_for_page_requests(count)?;
    Ok(slots)
}

fn close_in_order(order: &[Piece]) -> Outcome {
    let before = module_references()?;
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let slots = pending(&rig, &space, 3)?;
    // One of them was read, the others were not.
    let read = queue.read_one()?;

    let mut queue = Some(queue);
    let (dma, (mut container, mut group, mut device), _memory) = rig.into_pieces();
    let mut dma = Some(dma);
    let mut ended = false;
    for piece in order {
        match piece {
            Container => drop(container.take()),
            Group => drop(group.take()),
            Device => {
                // The mapping of the registers is a reference to the device's file.
                drop(dma.take());
                drop(device.take());
            }
            Fault => drop(queue.take()),
        }
        let container_gone = device.is_none() && group.is_none();
        if let Some(queue) = &queue {
            if container_gone && !ended {
                ended = true;
                // Group and device hold the container's groups: without both it is reset.
                let records = queue.read_all_to_end()?;
                assert!(
                    records
                        .iter()
                        .any(|record| record.kind == VFIO_IOASID_FAULT_CANCELLED
                            && record.cookie == read.cookie),
                    "{order:?} after {piece:?}: {records:?}"
                );
                expect_ok(queue.respond(read.cookie, 0), "a late answer");
            }
        } else if let Some(dma) = &dma {
            for slot in &slots {
                expect_status(dma.wait(*slot)?, status::INVALID, "answered by the close");
            }
        }
    }

    wait_for_module_references(before)?;
    fresh_start()
}

/// A new container on the same device works from the start.
fn fresh_start() -> Outcome {
    let rig = Rig::faulting()?;
    let stats = rig.container.stats()?;
    assert_eq!(
        (stats.pasids, stats.bindings, stats.page_requests),
        (0, 0, 0)
    );
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    let order = Order::fill(GVA, 8, 77).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "fresh start");
    assert_eq!(rig.mem.read_u64(page), 77);
    Ok(())
}

/// The group leaves the container by ioctl while everything is open.
fn unset_container_with_an_open_device_is_refused() -> Outcome {
    let before = module_references()?;
    {
        let rig = Rig::faulting()?;
        let space = Space::new(&rig)?;
        let queue = rig
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
        space.bind_with(&rig, &queue, 0, 0)?;
        pending(&rig, &space, 2)?;
        // The device is open: vfio refuses to take the group out.
        let refused = rig.group.unset_container();
        assert!(refused.is_err(), "the device is still open");
        assert_eq!(rig.container.stats()?.bindings, 1);
    }
    wait_for_module_references(before)?;
    fresh_start()
}

/// Memory is unmapped while requests of a table in it are pending.
fn unmap_with_pending_requests_leaves_them_answerable() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let slots = pending(&rig, &space, 2)?;
    rig.unmap_memory()?;
    for record in queue.read_all()? {
        queue.respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    }
    for slot in slots {
        expect_status(rig.dma().wait(slot)?, status::INVALID, "answered");
    }
    Ok(())
}

cases! {
    close_container_group_device_fault_leaves_nothing => close_in_order(&[Container, Group, Device, Fault]),
    close_container_group_fault_device_leaves_nothing => close_in_order(&[Container, Group, Fault, Device]),
    close_container_device_group_fault_leaves_nothing => close_in_order(&[Container, Device, Group, Fault]),
    close_container_device_fault_group_leaves_nothing => close_in_order(&[Container, Device, Fault, Group]),
    close_container_fault_group_device_leaves_nothing => close_in_order(&[Container, Fault, Group, Device]),
    close_container_fault_device_group_leaves_nothing => close_in_order(&[Container, Fault, Device, Group]),
    close_group_container_device_fault_leaves_nothing => close_in_order(&[Group, Container, Device, Fault]),
    close_group_container_fault_device_leaves_nothing => close_in_order(&[Group, Container, Fault, Device]),
    close_group_device_container_fault_leaves_nothing => close_in_order(&[Group, Device, Container, Fault]),
    close_group_device_fault_container_leaves_nothing => close_in_order(&[Group, Device, Fault, Container]),
    close_group_fault_container_device_leaves_nothing => close_in_order(&[Group, Fault, Container, Device]),
    close_group_fault_device_container_leaves_nothing => close_in_order(&[Group, Fault, Device, Container]),
    close_device_container_group_fault_leaves_nothing => close_in_order(&[Device, Container, Group, Fault]),
    close_device_container_fault_group_leaves_nothing => close_in_order(&[Device, Container, Fault, Group]),
    close_device_group_container_fault_leaves_nothing => close_in_order(&[Device, Group, Container, Fault]),
    close_device_group_fault_container_leaves_nothing => close_in_order(&[Device, Group, Fault, Container]),
    close_device_fault_container_group_leaves_nothing => close_in_order(&[Device, Fault, Container, Group]),
    close_device_fault_group_container_leaves_nothing => close_in_order(&[Device, Fault, Group, Container]),
    close_fault_container_group_device_leaves_nothing => close_in_order(&[Fault, Container, Group, Device]),
    close_fault_container_device_group_leaves_nothing => close_in_order(&[Fault, Container, Device, Group]),
    close_fault_group_container_device_leaves_nothing => close_in_order(&[Fault, Group, Container, Device]),
    close_fault_group_device_container_leaves_nothing => close_in_order(&[Fault, Group, Device, Container]),
    close_fault_device_container_group_leaves_nothing => close_in_order(&[Fault, Device, Container, Group]),
    close_fault_device_group_container_leaves_nothing => close_in_order(&[Fault, Device, Group, Container]),
}

program![
    close_container_group_device_fault_leaves_nothing,
    close_container_group_fault_device_leaves_nothing,
    close_container_device_group_fault_leaves_nothing,
    close_container_device_fault_group_leaves_nothing,
    close_container_fault_group_device_leaves_nothing,
    close_container_fault_device_group_leaves_nothing,
    close_group_container_device_fault_leaves_nothing,
    close_group_container_fault_device_leaves_nothing,
    close_group_device_container_fault_leaves_nothing,
    close_group_device_fault_container_leaves_nothing,
    close_group_fault_container_device_leaves_nothing,
    close_group_fault_device_container_leaves_nothing,
    close_device_container_group_fault_leaves_nothing,
    close_device_container_fault_group_leaves_nothing,
    close_device_group_container_fault_leaves_nothing,
    close_device_group_fault_container_leaves_nothing,
    close_device_fault_container_group_leaves_nothing,
    close_device_fault_group_container_leaves_nothing,
    close_fault_container_group_device_leaves_nothing,
    close_fault_container_device_group_leaves_nothing,
    close_fault_group_container_device_leaves_nothing,
    close_fault_group_device_container_leaves_nothing,
    close_fault_device_container_group_leaves_nothing,
    close_fault_device_group_container_leaves_nothing,
    unset_container_with_an_open_device_is_refused,
    unmap_with_pending_requests_leaves_them_answerable,
];
