// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests: what a group says, and how it ends.

use super::{Bound, Vmm, COOKIE, HOLE};
use host_iommu::{
    Error, FaultEvent, FaultGroup, FaultQueue, FaultQueueOptions, FaultRead, Iova, PasidAllocation,
    Response,
};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::PAGE;
use host_iommu_tests::stage1::{entry, Table};
use host_iommu_tests::testdev::{status, Counter, Order, DEADLINE};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;

fn wait_readable(faults: &FaultQueue) -> Outcome {
    let mut fds = [PollFd::new(faults.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(DEADLINE)?)? {
        0 => fail("nothing to read before the deadline"),
        _ => Ok(()),
    }
}

fn next_event(faults: &FaultQueue) -> Outcome<FaultEvent> {
    wait_readable(faults)?;
    match faults.read()? {
        FaultRead::Events(mut events) if events.len() == 1 => match events.pop() {
            Some(event) => Ok(event),
            None => fail("no event"),
        },
        other => fail(format!("one event was due: {other:?}")),
    }
}

fn next_group(faults: &FaultQueue) -> Outcome<FaultGroup> {
    match next_event(faults)? {
        FaultEvent::PageRequests(group) => Ok(group),
        other => fail(format!("a page request was due: {other:?}")),
    }
}

fn faults() -> Outcome<(Vmm, FaultQueue, PasidAllocation, Bound)> {
    let vmm = Vmm::new()?;
    if !vmm
        .host
        .devices()?
        .iter()
        .all(|info| info.page_requests.is_present())
    {
        return skip("the endpoint's page requests cannot be delivered");
    }
    let faults = vmm.host.fault_queue(&FaultQueueOptions::nonblocking())?;
    let pasids = vmm.any_pasid()?;
    let bound = vmm.bind(&pasids, Some(&faults))?;
    Ok((vmm, faults, pasids, bound))
}

pub fn fault_group_says_who_asks_for_what() -> Outcome {
    let (vmm, faults, _pasids, bound) = faults()?;
    assert!(matches!(faults.read()?, FaultRead::Empty));
    let slot = vmm.touch(bound.pasid())?;
    let group = next_group(&faults)?;
    assert_eq!(group.device(), vmm.device);
    assert_eq!(group.pasid(), Some(bound.binding.pasid()));
    assert_eq!(group.user_cookie(), COOKIE);
    let [page] = group.requests() else {
        return fail(format!("{:?}", group.requests()));
    };
    assert_eq!(page.address, Iova(HOLE));
    assert!(page.access.write && !page.access.execute);
    Table::at(&vmm.memory, vmm.table_root(&bound)?).map(HOLE, bound.page, entry::RW);
    group.respond(Response::Success)?;
    assert_eq!(vmm.endpoint.wait(slot, DEADLINE)?.status, status::OK);
    assert_eq!(vmm.memory.read_u64(bound.page), 1);
    Ok(())
}

pub fn fault_group_dropped_is_answered_invalid() -> Outcome {
    let (vmm, faults, _pasids, bound) = faults()?;
    let slot = vmm.touch(bound.pasid())?;
    drop(next_group(&faults)?);
    assert_eq!(vmm.endpoint.wait(slot, DEADLINE)?.status, status::INVALID);
    assert_eq!(vmm.host.stats()?.responses, 1);
    assert_eq!(vmm.host.stats()?.host_invalid, 0);
    Ok(())
}

pub fn fault_group_of_a_dropped_queue_is_answered_by_the_host() -> Outcome {
    let (vmm, faults, _pasids, bound) = faults()?;
    let slot = vmm.touch(bound.pasid())?;
    let group = next_group(&faults)?;
    drop(faults);
    assert_eq!(vmm.endpoint.wait(slot, DEADLINE)?.status, status::INVALID);
    assert!(matches!(
        group.respond(Response::Success),
        Err(Error::QueueClosed)
    ));
    assert_eq!(vmm.host.stats()?.host_invalid, 1);
    Ok(())
}

pub fn fault_group_of_a_dropped_binding_is_cancelled() -> Outcome {
    let (vmm, faults, _pasids, bound) = faults()?;
    let slot = vmm.touch(bound.pasid())?;
    let group = next_group(&faults)?;
    let cookie = group.cookie();
    drop(bound);
    assert_eq!(vmm.endpoint.wait(slot, DEADLINE)?.status, status::INVALID);
    match next_event(&faults)? {
        FaultEvent::Cancelled(cancelled) => assert_eq!(cancelled, cookie),
        other => return fail(format!("{other:?}")),
    }
    // Late, and taken.
    group.respond(Response::Success)?;
    assert_eq!(vmm.host.stats()?.late_responses, 1);
    assert_eq!(vmm.endpoint.counter(Counter::RspSuccess), 0);
    Ok(())
}

pub fn fault_queue_overflow_tells_the_number_lost() -> Outcome {
    let vmm = Vmm::new()?;
    let options = FaultQueueOptions::nonblocking().with_depth(1);
    let faults = vmm.host.fault_queue(&options)?;
    let pasids = vmm.any_pasid()?;
    let bound = vmm.bind(&pasids, Some(&faults))?;
    let first = vmm.touch(bound.pasid())?;
    wait_readable(&faults)?;
    let lost = Order::fill(HOLE + PAGE, 8, 1).at(bound.pasid());
    assert_eq!(vmm.endpoint.run(&lost)?.status, status::INVALID);
    let FaultRead::Events(events) = faults.read()? else {
        return fail("nothing to read");
    };
    let overflow = events.iter().find_map(|event| match event {
        FaultEvent::Overflow(count) => Some(*count),
        _ => None,
    });
    assert_eq!(overflow, Some(1));
    drop(events);
    assert_eq!(vmm.endpoint.wait(first, DEADLINE)?.status, status::INVALID);
    Ok(())
}

pub fn fault_queue_outlives_its_context_and_ends() -> Outcome {
    let (vmm, faults, pasids, bound) = faults()?;
    drop((bound, pasids, vmm));
    wait_readable(&faults)?;
    assert!(matches!(faults.read()?, FaultRead::Ended));
    Ok(())
}
