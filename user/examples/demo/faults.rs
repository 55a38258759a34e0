// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests, from the device to the VMM and back.

use crate::report::{check, Seen};
use crate::setup::{World, COOKIE, HOLES};
use host_iommu::{FaultEvent, FaultGroup, FaultQueue, FaultRead, Response};
use host_iommu_tests::memory::PAGE;
use host_iommu_tests::stage1::entry;
use host_iommu_tests::testdev::{status, Order, Slot, DEADLINE};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;

/// Waits for the one page request group that is due.
pub fn next_group(faults: &FaultQueue) -> Seen<FaultGroup> {
    let mut fds = [PollFd::new(faults.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE)?;
    let ready = poll(&mut fds, timeout)?;
    check(ready == 1, "no page request came")?;
    let FaultRead::Events(mut events) = faults.read()? else {
        return Err("the fault queue is readable, and empty".into());
    };
    check(events.len() == 1, format!("{} events came", events.len()))?;
    match events.pop() {
        Some(FaultEvent::PageRequests(group)) => Ok(group),
        other => Err(format!("another event came: {other:?}").into()),
    }
}

/// Has the device write to a hole, and takes its page request.
fn touch(world: &World, hole: u64) -> Seen<(Slot, FaultGroup)> {
    let space = world.space(0)?;
    let endpoint = world.endpoint()?;
    let order = Order::fill(hole, 64, 0xf111_f111_f111_f111).at(space.pasid());
    let slot = endpoint.submit(&order)?;
    let group = next_group(world.faults()?)?;

    check(
        group.device() == world.device()?,
        format!("{} asks", group.device()),
    )?;
    check(
        group.pasid() == Some(space.pasids.first()) && group.guest_pasid() == space.pasid(),
        format!("it asks by PASID {:?}", group.pasid()),
    )?;
    check(
        group.user_cookie() == COOKIE,
        format!("the cookie is {:#x}", group.user_cookie()),
    )?;
    let pages = group.requests();
    check(
        pages.len() == 1 && pages[0].address.0 == hole && pages[0].access.write,
        format!("it asks for {pages:?}"),
    )?;
    let now = endpoint.status(slot);
    check(
        now == status::WAITING,
        format!("the device did not wait: {}", status::name(now)),
    )?;
    Ok((slot, group))
}

/// The page comes while the device waits.
pub fn fill_a_hole(world: &mut World) -> Seen {
    let (slot, group) = touch(world, HOLES[0])?;
    let memory = world.memory()?;
    let page = memory.alloc_page();
    world.table(0)?.map(HOLES[0], page, entry::RW);
    group.respond(Response::Success)?;
    let done = world.endpoint()?.wait(slot, DEADLINE)?;
    check(done.status == status::OK, format!("the DMA ended: {done}"))?;
    let seen = memory.read_u64(page);
    check(
        seen == 0xf111_f111_f111_f111 && memory.read_u64(page + PAGE - 8) == 0,
        format!("the new page has {seen:#x}"),
    )?;
    Ok(format!(
        "{:#x} was asked for, mapped and answered, and the DMA went on",
        HOLES[0]
    ))
}

/// The page does not come.
pub fn refuse_a_hole(world: &mut World) -> Seen {
    let (slot, group) = touch(world, HOLES[1])?;
    group.respond(Response::Invalid)?;
    let done = world.endpoint()?.wait(slot, DEADLINE)?;
    check(
        done.status == status::INVALID && done.result == HOLES[1],
        format!("the DMA ended: {done}"),
    )?;
    let stats = world.host()?.stats()?;
    check(
        stats.page_requests == 2 && stats.responses == 2 && stats.host_invalid == 0,
        format!("the counters say {stats:?}"),
    )?;
    Ok(format!(
        "the device reports \"{}\" at {:#x}",
        status::name(done.status),
        done.result
    ))
}
