// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA that is stopped, and the way from each state to each.
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "the names of tests say what they check"
)]

use super::{
    expect, expect_errno, next_event, next_group, pages, End, Job, Machine, Vm, GVA, HOLE, MEMORY,
};
use crate::ktap::{fail, Outcome};
use crate::memory::PAGE;
use host_iommu::{
    AddressSpaceEntry, Binding, FaultEvent, Gpa, MapAccess, Pasid, Scope, Translation,
};
use nix::errno::Errno;

const DONE: End = End::Done(0);
const BLOCKED: Translation = Translation::Blocked { guest_pasid: None };

/// With and without translations of the device's own.
fn expect_stopped(vm: &Vm, job: Job, what: &str) -> Outcome {
    for ats in [true, false] {
        expect(vm.run(Job { ats, ..job })?, End::NoAccess, what)?;
    }
    Ok(())
}

pub fn block_stops_the_requests_without_pasid(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (space, page) = (vm.space(), vm.memory.alloc_page());
    expect(vm.run(Job::store(page, 1))?, DONE, "stage 2")?;
    let mut bound = vm.host.block_rid(vm.device)?;
    expect(bound.pasid(), Pasid::RID, "the binding's PASID")?;
    expect_stopped(&vm, Job::store(page, 2), "blocked")?;
    bound.rebind(&space.table(), None)?;
    expect(vm.run(Job::store(GVA, 3))?, DONE, "a table")?;
    expect_stopped(&vm, Job::store(page, 4), "stage 2 under the table")?;
    bound.block()?;
    for address in [GVA, page] {
        expect_stopped(&vm, Job::store(address, 5), "blocked again")?;
    }
    expect(vm.memory.read_u64(page), 1, "memory")?;
    expect(vm.memory.read_u64(space.page), 3, "the table's page")?;
    drop(bound);
    expect(vm.run(Job::store(page, 6))?, DONE, "stage 2 again")?;
    expect(vm.memory.read_u64(page), 6, "memory")
}

pub fn block_stops_the_requests_of_a_pasid_and_keeps_it(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (pasids, space) = (vm.pasid()?, vm.space());
    let (device, pasid) = (vm.device, pasids.first());
    let table = space.table().with_guest_pasid(5);
    let mut bound = vm.host.bind(device, &pasids, pasid, &table, None)?;
    let store = |value| Job::store(GVA, value).at(pasid);
    expect(vm.run(store(1))?, DONE, "a table")?;
    bound.block()?;
    expect_stopped(&vm, store(2), "blocked")?;
    expect(vm.run(Job::store(space.page, 7))?, DONE, "without PASID")?;
    let host_pasid = vm.host.host_pasid(device, 5.try_into()?);
    expect(host_pasid, Some(pasid), "the guest's PASID")?;

    // It counts as bound.
    expect_errno(pasids.free(), Errno::EBUSY)?;
    let again = vm.host.bind(device, &pasids, pasid, &table, None);
    expect_errno(again, Errno::EBUSY)?;
    bound.rebind(&table, None)?;
    expect(vm.run(store(3))?, DONE, "a table again")?;
    expect(vm.memory.read_u64(space.page), 3, "memory")?;
    bound.unbind()?;
    let bound = vm.host.block(device, &pasids, pasid, Some(5))?;
    expect_stopped(&vm, store(4), "blocked from nothing")?;
    drop(bound);
    pasids.free()?;
    expect_stopped(&vm, store(5), "unbound")
}

pub fn block_counts_to_no_quota(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let pasids = vm.pasid()?;
    let pasid = pasids.first();
    let _at_pasid = vm.host.block(vm.device, &pasids, pasid, None)?;
    let mut at_rid = vm.host.block_rid(vm.device)?;
    expect(vm.host.stats()?.bindings, 0, "bindings")?;
    at_rid.rebind(&vm.space().table(), None)?;
    expect(vm.host.stats()?.bindings, 1, "bindings with a table")?;
    at_rid.block()?;
    expect(vm.host.stats()?.bindings, 0, "bindings, blocked again")?;
    vm.host.unbind(Scope::All)?;
    let page = vm.memory.alloc_page();
    expect(vm.run(Job::store(page, 1))?, DONE, "all unbound")
}

pub fn block_is_exported_and_imported(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let pasids = vm.pasid()?;
    let pasid = pasids.first();
    let at_pasid = vm.host.block(vm.device, &pasids, pasid, Some(5))?;
    let at_rid = vm.host.block_rid(vm.device)?;
    let exported = vm.host.export();
    expect(exported.len(), 2, "exported")?;
    drop((at_pasid, at_rid, pasids));
    let page = vm.memory.alloc_page();
    expect(vm.run(Job::store(page, 1))?, DONE, "nothing bound")?;
    let imported = vm.host.import(&exported, None)?;
    expect(vm.host.export(), exported, "exported again")?;
    expect_stopped(&vm, Job::store(page, 2), "imported")?;
    drop(imported);
    expect(vm.run(Job::store(page, 3))?, DONE, "dropped")
}

pub fn block_cancels_page_requests(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (mut bound, space) = vm.bind(Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    let group = next_group(&faults)?;
    bound.block()?;
    expect(vm.end(job)?, End::Invalid, "the end")?;
    match next_event(&faults)? {
        FaultEvent::Cancelled(cookie) => expect(cookie, group.cookie(), "the cookie")?,
        other => return fail(format!("{other:?}")),
    }
    drop(group);
    bound.rebind(&space.table(), Some(&faults))?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    drop(next_group(&faults)?);
    expect(vm.end(job)?, End::Invalid, "the end of the next")
}

/// From each state at the RID to each, in one call; the last is the one in force.
pub fn rid_goes_from_each_state_to_each(machine: &dyn Machine) -> Outcome {
    const AT: u64 = 0x4000_0000;
    let vm = Vm::new(machine)?;
    let (table, page) = (vm.space(), vm.memory.alloc_page());
    let space = vm.host.address_space()?;
    space.map(&[AddressSpaceEntry {
        range: pages(AT, 1)?,
        gpa: Gpa(page),
        access: MapAccess::ReadWrite,
    }])?;
    let states = [
        (Translation::Stage2 { guest_pasid: None }, Some(page)),
        (Translation::Stage1(table.table()), Some(GVA)),
        (
            Translation::AddressSpace {
                id: space.id(),
                guest_pasid: None,
            },
            Some(AT),
        ),
        (BLOCKED, None),
    ];
    let addresses = [page, GVA, AT, MEMORY - PAGE];
    let context = vm.host.context();
    let bind = |translation| {
        context.bind(&Binding {
            device: vm.device,
            pasid: Pasid::RID,
            translation,
            fault_queue: None,
            replace: true,
        })
    };
    let probe = |reached: Option<u64>, what: &str| -> Outcome {
        for address in addresses {
            // All of memory by stage 2.
            let all = reached == Some(page) && address < MEMORY;
            let wanted = if all || reached == Some(address) {
                DONE
            } else {
                End::NoAccess
            };
            let what = format!("{what} at {address:#x}");
            expect(vm.run(Job::store(address, 1))?, wanted, &what)?;
        }
        Ok(())
    };
    for (from, before) in states {
        for (to, after) in states {
            let what = format!("{from:?} to {to:?}");
            bind(from)?;
            probe(before, &format!("before {what}"))?;
            bind(to)?;
            probe(after, &format!("after {what}"))?;
        }
    }
    // And from stage 2 with nothing bound.
    for (to, after) in states {
        context.unbind(Scope::Binding(vm.device, Pasid::RID))?;
        probe(Some(page), "unbound")?;
        bind(to)?;
        probe(after, &format!("from nothing to {to:?}"))?;
    }
    context
        .unbind(Scope::Binding(vm.device, Pasid::RID))
        .map_err(Into::into)
}
