// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The calls into a virtual IOMMU, the guest's PASIDs, reset and snapshot.
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "the names of tests say what they check"
)]

use super::{
    expect, expect_errno, next_group, run_on, wait_readable, End, Job, Machine, Opened, Vm, GVA,
    HOLE,
};
use crate::ktap::{fail, Outcome};
use crate::memory::GuestMemory;
use crate::stage1::{entry, Table};
use host_iommu::{
    Bdf, Delivered, Error, FaultGroup, FaultQueueId, FaultRead, HostIommu, Invalidation, Iova,
    MapAccess, Pasid, PasidRequest, PciIommuOps, Response, Scope, Stage1Binding,
};
use nix::errno::Errno;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const DONE: End = End::Done(0);

/// A virtual IOMMU that writes down what it is told.
#[derive(Debug, Default)]
struct Viommu {
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    contexts: Vec<(Bdf, HostIommu)>,
    gone: Vec<Bdf>,
    groups: Vec<FaultGroup>,
    cancelled: Vec<u64>,
    overflow: u64,
}

impl Viommu {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PciIommuOps for Viommu {
    fn set_context(&self, device: Bdf, context: &HostIommu) -> host_iommu::Result<()> {
        self.told().contexts.push((device, context.clone()));
        Ok(())
    }

    fn unset_context(&self, device: Bdf) {
        let mut told = self.told();
        told.contexts.retain(|(known, _)| *known != device);
        told.gone.push(device);
    }

    fn page_request(&self, group: FaultGroup) {
        self.told().groups.push(group);
    }

    fn cancelled(&self, _: FaultQueueId, cookie: u64) {
        self.told().cancelled.push(cookie);
    }

    fn overflow(&self, lost: u64) {
        self.told().overflow += lost;
    }
}

/// Binds with a number of the guest's own.
fn bind_for_guest(vm: &Vm, host: u32, guest: u32) -> Outcome<(Stage1Binding, super::Space)> {
    let request = PasidRequest::exactly(host.try_into()?);
    let pasids = vm.host.alloc_pasids(&request)?;
    let space = vm.space();
    let table = space.table().with_guest_pasid(guest);
    let pasid = pasids.first();
    let bound = vm.host.bind(vm.device, &pasids, pasid, &table, None)?;
    Ok((bound, space))
}

pub fn guest_pasid_is_translated_both_ways(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let guest: Pasid = 5.try_into()?;
    expect(vm.host.host_pasid(vm.device, guest), Some(guest), "before")?;
    let faults = vm.queue()?;
    let pasids = vm
        .host
        .alloc_pasids(&PasidRequest::exactly(70.try_into()?))?;
    let space = vm.space();
    let table = space.table().with_guest_pasid(5);
    let host = pasids.first();
    let bound = vm
        .host
        .bind(vm.device, &pasids, host, &table, Some(&faults))?;

    expect(vm.host.host_pasid(vm.device, guest), Some(host), "there")?;
    expect(vm.host.guest_pasid(vm.device, host), 5, "and back")?;
    // The host's number is not a name for the guest to use.
    expect(vm.host.host_pasid(vm.device, host), None, "the other's")?;

    // The guest's invalidation, by its number.
    expect(vm.run(Job::load(GVA).at(host))?, DONE, "the DMA")?;
    let fresh = vm.memory.alloc_page();
    vm.memory.write_u64(fresh, 3);
    vm.table(space).map(GVA, fresh, entry::RW);
    let Some(named) = vm.host.host_pasid(vm.device, guest) else {
        return fail("no such PASID");
    };
    let scope = Scope::Binding(vm.device, named);
    vm.host.flush(scope, &Invalidation::all())?;
    expect(vm.run(Job::load(GVA).at(host))?, End::Done(3), "flushed")?;

    // The fault, with its number.
    let job = vm.start(Job::store(HOLE, 7).at(host).asking())?;
    let group = next_group(&faults)?;
    expect(group.guest_pasid(), 5, "the fault's guest PASID")?;
    expect(group.pasid(), Some(host), "the fault's host PASID")?;
    drop(group);
    expect(vm.end(job)?, End::Invalid, "the end")?;
    drop(bound);
    expect(vm.host.host_pasid(vm.device, guest), Some(guest), "after")
}

pub fn guest_pasid_twice_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (_bound, _) = bind_for_guest(&vm, 70, 5)?;
    let pasids = vm.pasid()?;
    let table = vm.space().table().with_guest_pasid(5);
    let (device, pasid) = (vm.device, pasids.first());
    match vm.host.bind(device, &pasids, pasid, &table, None) {
        Err(Error::GuestPasidBound { guest: 5, .. }) => {}
        other => return fail(format!("{other:?}")),
    }
    expect(vm.host.stats()?.bindings, 1, "bindings")
}

/// Binds the same table at two devices and has both write by it.
fn both_write(opened: &[(&HostIommu, Bdf, &dyn super::Client)], memory: &GuestMemory) -> Outcome {
    let table = Table::new(memory);
    let page = memory.alloc_page();
    table.map(GVA, page, entry::RW);
    let stage1 = host_iommu::GuestTable::four_level(host_iommu::Gpa(table.root()));
    let mut bound = Vec::new();
    for (host, device, _) in opened {
        let pasids = host.alloc_pasids(&PasidRequest::any())?;
        bound.push(host.bind(*device, &pasids, pasids.first(), &stage1, None)?);
    }
    for (number, (binding, (_, _, client))) in (1..).zip(bound.iter().zip(opened)) {
        let store = Job::store(GVA, number).at(binding.pasid());
        expect(run_on(*client, store)?, DONE, "the DMA")?;
        expect(memory.read_u64(page), number, "memory")?;
    }
    // The reset of one does not reach the other.
    let [(host, device, client), (_, _, other)] = opened else {
        return fail("two devices were due");
    };
    host.unbind(Scope::Device(*device))?;
    let store = |binding: &Stage1Binding| Job::store(GVA, 9).at(binding.pasid());
    expect(run_on(*client, store(&bound[0]))?, End::NoAccess, "reset")?;
    expect(run_on(*other, store(&bound[1]))?, DONE, "the other")
}

pub fn one_context_for_two_devices(machine: &dyn Machine) -> Outcome {
    let Opened { host, devices } = machine.open(&[0, 1])?;
    let memory = GuestMemory::new(0, super::MEMORY)?;
    memory.alloc_page();
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    expect(host.devices()?.len(), 2, "devices")?;
    let both: Vec<(&HostIommu, Bdf, &dyn super::Client)> = devices
        .iter()
        .map(|(device, client)| (&host, *device, &**client))
        .collect();
    both_write(&both, &memory)
}

pub fn one_context_for_each_device(machine: &dyn Machine) -> Outcome {
    let one = machine.open(&[0])?;
    let two = machine.open(&[1])?;
    let memory = GuestMemory::new(0, super::MEMORY)?;
    memory.alloc_page();
    let mut both: Vec<(&HostIommu, Bdf, &dyn super::Client)> = Vec::new();
    for opened in [&one, &two] {
        let host = &opened.host;
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
        for (device, client) in &opened.devices {
            both.push((host, *device, &**client));
        }
    }
    both_write(&both, &memory)
}

pub fn page_request_goes_through_the_viommu_and_back(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let viommu = Arc::new(Viommu::default());
    let _plugged = vm.host.plug(vm.device, viommu.clone())?;
    let faults = vm.queue()?;
    let (bound, space) = vm.bind(Some(&faults))?;
    expect(faults.deliver(&*viommu)?, Delivered::Nothing, "nothing yet")?;
    let job = vm.start(Job::store(HOLE, 7).at(bound.pasid()).asking())?;
    wait_readable(&faults)?;
    expect(faults.deliver(&*viommu)?, Delivered::Events(1), "delivered")?;
    // The guest makes the page present, and its answer comes to the vIOMMU.
    vm.table(space).map(HOLE, space.page, entry::RW);
    let group = viommu.told().groups.pop();
    match group {
        Some(group) => group.respond(Response::Success)?,
        None => return fail("the vIOMMU was not told"),
    }
    expect(vm.end(job)?, DONE, "the end")?;

    // A group of a binding that goes is taken back.
    let job = vm.start(Job::store(HOLE + (1 << 20), 7).at(bound.pasid()).asking())?;
    wait_readable(&faults)?;
    expect(faults.deliver(&*viommu)?, Delivered::Events(1), "delivered")?;
    drop(bound);
    expect(vm.end(job)?, End::Invalid, "the end")?;
    wait_readable(&faults)?;
    expect(faults.deliver(&*viommu)?, Delivered::Events(1), "delivered")?;
    let told = viommu.told();
    let cookies: Vec<u64> = told.groups.iter().map(FaultGroup::cookie).collect();
    expect(&told.cancelled, &cookies, "cancelled")?;
    expect((cookies.len(), told.overflow), (1, 0), "groups")
}

pub fn plugged_device_loses_its_bindings_with_it(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let viommu = Arc::new(Viommu::default());
    let plugged = vm.host.plug(vm.device, viommu.clone())?;
    let known = viommu.told().contexts.first().cloned();
    let Some((device, context)) = known else {
        return fail("the vIOMMU was not told of the context");
    };
    expect(device, vm.device, "the device")?;
    expect(context.devices()?.len(), 1, "devices of the context")?;
    let (bound, _) = vm.bind(None)?;
    drop(plugged);
    expect(viommu.told().gone.clone(), vec![vm.device], "gone")?;
    expect(bound.is_bound(), false, "bound")?;
    let job = Job::store(GVA, 1).at(bound.pasid());
    expect(vm.run(job)?, End::NoAccess, "the DMA")
}

pub fn snapshot_freezes_and_drains(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let faults = vm.queue()?;
    let (bound, space) = vm.bind(Some(&faults))?;
    let pasid = bound.pasid();
    let first = vm.start(Job::store(HOLE, 7).at(pasid).asking())?;
    let group = next_group(&faults)?;
    faults.freeze();
    let second = vm.start(Job::store(HOLE + (1 << 20), 7).at(pasid).asking())?;
    wait_readable(&faults)?;
    if !matches!(faults.read()?, FaultRead::Empty) {
        return fail("a frozen queue gave something");
    }
    expect(faults.outstanding(), 1, "outstanding")?;
    expect(faults.drain(Duration::from_millis(1)), 1, "not answered")?;
    vm.table(space).map(HOLE, space.page, entry::RW);
    group.respond(Response::Success)?;
    expect(faults.drain(super::DEADLINE), 0, "answered")?;
    expect(vm.end(first)?, DONE, "the first")?;
    expect(
        vm.client.end(second, Duration::from_millis(5))?,
        None,
        "waits",
    )?;
    faults.thaw();
    next_group(&faults)?.respond(Response::Invalid)?;
    expect(vm.end(second)?, End::Invalid, "the second")
}

pub fn export_is_imported_by_another_context(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (one, first) = bind_for_guest(&vm, 70, 5)?;
    let (two, second) = bind_for_guest(&vm, 71, 6)?;
    let rid = vm.space();
    let at_rid = vm.host.bind_rid(vm.device, &rid.table(), None)?;
    let exported = vm.host.export();
    expect(exported.len(), 3, "exported")?;

    // The machine goes, the guest's memory goes on.
    drop((one, two, at_rid));
    let Vm {
        client,
        memory,
        host,
        ..
    } = vm;
    drop((client, host));
    let Opened { host, devices } = machine.open(&[0])?;
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    let Some((device, client)) = devices.into_iter().next() else {
        return fail("the context has no device");
    };
    let imported = host.import(&exported, None)?;
    expect(host.export(), exported, "exported again")?;
    for (guest, space) in [(5u32, first), (6, second)] {
        let Some(pasid) = host.host_pasid(device, guest.try_into()?) else {
            return fail("no such PASID");
        };
        let store = Job::store(GVA, guest.into()).at(pasid);
        expect(run_on(&*client, store)?, DONE, "the DMA")?;
        expect(memory.read_u64(space.page), guest.into(), "memory")?;
    }
    expect(run_on(&*client, Job::store(GVA, 1))?, DONE, "at the RID")?;
    expect(memory.read_u64(rid.page), 1, "memory")?;
    drop(imported);
    let stats = host.stats()?;
    expect((stats.bindings, stats.pasids), (0, 0), "left")
}

pub fn import_is_all_or_nothing(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (one, _) = bind_for_guest(&vm, 70, 5)?;
    let (two, _) = bind_for_guest(&vm, 71, 6)?;
    let exported = vm.host.export();
    drop((one, two));
    let _taken = vm
        .host
        .alloc_pasids(&PasidRequest::exactly(71.try_into()?))?;
    expect_errno(vm.host.import(&exported, None), Errno::ENOSPC)?;
    let stats = vm.host.stats()?;
    expect((stats.bindings, stats.pasids), (0, 1), "left")
}
