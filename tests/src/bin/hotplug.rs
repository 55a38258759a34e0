// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An endpoint behind a root port: it works there, it leaves its slot while it is bound and has
//! page requests pending, and it comes back.
//!
//! Plugging is done by QEMU's monitor, which the machine has on a virtio port.

use std::os::fd::AsFd;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, endpoint, endpoint_count, expect_ok, expect_status, program, skip, status, wait_until,
    Endpoint, FaultQueue, Monitor, Order, Outcome, Plugged, Rig, Slot, Space,
};
use nix::sys::eventfd::{EfdFlags, EventFd};

const GVA: u64 = 0x2718_2818_2000;

/// The endpoint that is not on the root bus.
fn behind_port() -> Outcome<(Endpoint, Plugged)> {
    for index in 0..endpoint_count() {
        let endpoint = endpoint(index)?;
        let plugged = Plugged::new(&endpoint, "endpoint4", "port0");
        if let Some(plugged) = plugged.filter(|plugged| plugged.bdf.bus != 0) {
            return Ok((endpoint, plugged));
        }
    }
    skip("no endpoint behind a root port, alone in its group")
}

/// Both devices bound; the one behind the port has asked for a page and waits.
struct Fire {
    rig: Rig,
    first: Space,
    second: Space,
    queue: FaultQueue,
    slot: Slot,
}

fn under_fire(endpoint: &Endpoint) -> Outcome<Fire> {
    let mut rig = Rig::faulting()?;
    rig.add_second(endpoint)?;
    let (first, second) = (Space::new(&rig)?, Space::new(&rig)?);
    first.bind(&rig)?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    let data = second.stage1_data();
    let mut bind = bind_at(endpoint.id(), second.pasid, &data);
    bind.fault_fd = queue.raw_fd();
    expect_ok(rig.container.bind(&bind), "bind behind the port");
    let slot = rig
        .second_dma()
        .submit(&Order::fill(GVA, 8, 0x55).at(second.pasid))?;
    rig.wait_for_page_requests(1)?;
    Ok(Fire {
        rig,
        first,
        second,
        queue,
        slot,
    })
}

/// A page request of the endpoint is answered, and its DMA reaches the page.
fn expect_works(endpoint: &Endpoint) -> Outcome {
    let fire = under_fire(endpoint)?;
    let records = fire.queue.read_all()?;
    assert_eq!(records.len(), 1, "{records:?}");
    let page = fire.second.new_page(&fire.rig, GVA)?;
    fire.queue
        .respond(records[0].cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    let done = fire.rig.second_dma().wait(fire.slot)?;
    expect_status(done, status::OK, "after SUCCESS");
    assert_eq!(fire.rig.mem.read_u64(page), 0x55);
    Ok(())
}

fn endpoint_behind_a_root_port_is_bound_and_faults() -> Outcome {
    expect_works(&behind_port()?.0)
}

fn unplugged_while_faulting_leaves_the_other_device_and_comes_back() -> Outcome {
    let (endpoint, plugged) = behind_port()?;
    let mut monitor = Monitor::open()?;
    let mut fire = under_fire(&endpoint)?;
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    fire.rig.set_second_request_event(event.as_fd())?;

    plugged.unplug(&mut monitor)?;
    wait_until("the device is asked for", || event.read().is_ok())?;
    assert!(plugged.bdf.sysfs().exists(), "the slot waits for the close");
    fire.rig.close_second();
    plugged.wait_until_gone()?;

    assert_eq!(fire.rig.container.stats()?.bindings, 1, "the other's");
    let page = fire.first.new_page(&fire.rig, GVA)?;
    let order = Order::fill(GVA, 8, 7).no_pri().at(fire.first.pasid);
    expect_status(fire.rig.dma().run(&order)?, status::OK, "the other device");
    assert_eq!(fire.rig.mem.read_u64(page), 7);
    expect_ok(
        fire.rig.container.pasid_free(fire.second.pasid, 1),
        "no longer bound",
    );
    drop(fire);

    plugged.wait_until_deleted(&mut monitor)?;
    plugged.plug(&mut monitor)?;
    expect_works(&endpoint)
}

program![
    endpoint_behind_a_root_port_is_bound_and_faults,
    unplugged_while_faulting_leaves_the_other_device_and_comes_back,
];
