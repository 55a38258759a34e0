// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host takes its driver from a device that is bound and has page requests pending.

use std::fs;
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at_rid, endpoint, expect_errno, expect_ok, expect_status, fail, program, status, Endpoint,
    Errno, FaultQueue, Order, Outcome, Rig, Space, DEADLINE,
};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

const GVA: u64 = 0x1618_0339_8000;
const DRIVER: &str = "/sys/bus/pci/drivers/vfio-pci";

/// Takes the driver from an endpoint in a thread: the write returns when the device is closed.
struct Unbinding {
    name: String,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Unbinding {
    fn start(endpoint: &Endpoint) -> Self {
        let name = endpoint.to_string();
        let device = name.clone();
        let thread = std::thread::spawn(move || fs::write(format!("{DRIVER}/unbind"), device));
        Self {
            name,
            thread: Some(thread),
        }
    }

    /// Waits for the end of it.
    fn finish(&mut self) -> Outcome {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => expect_ok(result, "unbind by sysfs"),
            _ => return fail("the unbinding thread panicked"),
        }
        Ok(())
    }
}

impl Drop for Unbinding {
    /// Gives the driver back, for the tests after this one.
    fn drop(&mut self) {
        drop(self.thread.take().map(JoinHandle::join));
        if let Err(error) = fs::write(format!("{DRIVER}/bind"), &self.name) {
            println!("# {} did not go back to vfio-pci: {error}", self.name);
        }
    }
}

/// A device that is bound at a PASID and at its RID, with a request pending at each.
fn under_fire() -> Outcome<(Rig, FaultQueue, EventFd)> {
    let rig = Rig::faulting()?;
    let spaces = [Space::new(&rig)?, Space::new(&rig)?];
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    spaces[0].bind_with(&rig, &queue, 0, 0)?;
    let data = spaces[1].stage1_data();
    let mut bind = bind_at_rid(rig.id(), &data);
    bind.fault_fd = queue.raw_fd();
    rig.container.bind(&bind)?;
    rig.dma()
        .submit(&Order::fill(GVA, 8, 1).at(spaces[0].pasid))?;
    rig.dma().submit(&Order::fill(GVA, 8, 1))?;
    rig.wait_for_page_requests(2)?;
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    rig.set_request_event(event.as_fd())?;
    Ok((rig, queue, event))
}

fn wait_for(event: &EventFd) -> Outcome {
    let limit = PollTimeout::try_from(DEADLINE.as_millis()).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, limit)? {
        0 => fail("the device was not asked for"),
        _ => Ok(()),
    }
}

/// The device works again in a new container.
fn expect_works() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    space.bind(&rig)?;
    let order = Order::fill(GVA, 8, 42).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "in a new container");
    assert_eq!(rig.mem.read_u64(page), 42);
    Ok(())
}

fn driver_unbind_asks_for_the_device_and_waits_for_its_close() -> Outcome {
    let (rig, queue, event) = under_fire()?;
    let mut unbinding = Unbinding::start(&endpoint(0)?);
    wait_for(&event)?;
    std::thread::sleep(Duration::from_millis(50));
    let records = queue.read_all()?;
    assert_eq!(records.len(), 2, "requests go on while the device is open");
    queue.respond(records[0].cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    drop(rig);
    unbinding.finish()?;
    let rest = queue.read_all_to_end()?;
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!(rest[0].kind, VFIO_IOASID_FAULT_CANCELLED);
    assert_eq!(rest[0].cookie, records[1].cookie);
    drop(unbinding);
    expect_works()
}

fn container_outlives_its_last_device_empty() -> Outcome {
    let (mut rig, queue, event) = under_fire()?;
    let mut unbinding = Unbinding::start(&endpoint(0)?);
    wait_for(&event)?;
    rig.close_device();
    unbinding.finish()?;
    // Requests that nobody read leave nothing to read: the file is at its end.
    assert_eq!(queue.read_all_to_end()?.len(), 0, "records");
    expect_errno(rig.container.stats(), Errno::EINVAL, "nothing is attached");
    drop(rig);
    drop(unbinding);
    expect_works()
}

program![
    driver_unbind_asks_for_the_device_and_waits_for_its_close,
    container_outlives_its_last_device_empty,
];
