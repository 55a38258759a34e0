// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stage-1 tables: bind, unbind, invalidate.
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "the names of tests say what they check"
)]

use super::{expect, expect_errno, pages, End, Job, Machine, Vm, GVA, HOLE, MEMORY};
use crate::ktap::{fail, skip, Outcome};
use crate::memory::PAGE;
use crate::stage1::{entry, PageSize};
use host_iommu::{AddressWidth, Bdf, Error, Gpa, GuestTable, Invalidation, Pasid, Scope};
use nix::errno::Errno;

const DONE: End = End::Done(0);

pub fn capabilities_and_devices_agree(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let capabilities = vm.host.capabilities()?;
    let devices = vm.host.devices()?;
    let [device] = &devices[..] else {
        return fail(format!("{devices:?}"));
    };
    expect(device.device, vm.device, "the device")?;
    let Some(nesting) = capabilities.nesting else {
        return fail("nothing about nesting");
    };
    expect(nesting.stage1, device.stage1, "stage 1")?;
    expect(nesting.page_requests, device.page_requests, "page requests")?;
    expect(
        device.max_pasids >> nesting.pasid_bits != 0,
        true,
        "PASIDs of the device for all bits",
    )?;
    expect(nesting.vtd_ecap, device.vtd_ecap, "ECAP")?;
    // NEST, PASID and PRS of VT-d 4.1, 11.4.3.
    for bit in [26, 40, 29] {
        expect(nesting.vtd_ecap >> bit & 1, 1, &format!("ECAP bit {bit}"))?;
    }
    expect(
        nesting.widths.contains(&AddressWidth::Bits48),
        true,
        "four levels",
    )?;
    expect(capabilities.page_sizes & PAGE, PAGE, "pages of 4 KiB")
}

pub fn bind_translates_by_pasid(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (one, first) = vm.bind(None)?;
    let (two, second) = vm.bind(None)?;
    expect(vm.run(Job::store(GVA, 1).at(one.pasid()))?, DONE, "one")?;
    expect(vm.run(Job::store(GVA, 2).at(two.pasid()))?, DONE, "two")?;
    expect(vm.memory.read_u64(first.page), 1, "the first's page")?;
    expect(vm.memory.read_u64(second.page), 2, "the second's page")?;
    let untranslated = Job {
        ats: false,
        ..Job::load(GVA).at(one.pasid())
    };
    expect(vm.run(untranslated)?, End::Done(1), "without ATS")?;
    expect(vm.host.stats()?.bindings, 2, "bindings")?;
    let hole = Job::load(HOLE).at(one.pasid());
    expect(vm.run(hole)?, End::NoAccess, "what is not mapped")
}

pub fn bind_of_nonsense_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let pasids = vm.pasid()?;
    let (pasid, table) = (pasids.first(), vm.space().table());
    let odd = GuestTable {
        root: Gpa(table.root.0 + 8),
        ..table
    };
    let bind = |device, table| vm.host.bind(device, &pasids, pasid, table, None);
    expect_errno(bind(vm.device, &odd), Errno::EINVAL)?;
    let stranger = Bdf::new(0xfff0, 0, 0);
    expect_errno(bind(stranger, &table), Errno::ENOENT)?;
    expect_errno(vm.host.unbind(Scope::Device(stranger)), Errno::ENOENT)?;
    let unbound = Scope::Binding(vm.device, pasid);
    expect_errno(vm.host.unbind(unbound), Errno::ENOENT)?;

    let not_allocated = host_iommu::Binding {
        device: vm.device,
        pasid: Pasid::MAX,
        translation: table.into(),
        fault_queue: None,
        replace: false,
    };
    let context = vm.host.context();
    expect_errno(context.bind(&not_allocated), Errno::ENOENT)?;
    let nothing_there = host_iommu::Binding {
        pasid,
        replace: true,
        ..not_allocated
    };
    expect_errno(context.bind(&nothing_there), Errno::ENOENT)?;
    expect(vm.host.stats()?.bindings, 0, "bindings")
}

pub fn bind_twice_is_busy(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let pasids = vm.pasid()?;
    let (pasid, table) = (pasids.first(), vm.space().table());
    let bind = || vm.host.bind(vm.device, &pasids, pasid, &table, None);
    let _bound = bind()?;
    expect_errno(bind(), Errno::EBUSY)?;
    expect(vm.run(Job::store(GVA, 1).at(pasid))?, DONE, "the first")
}

pub fn bind_of_five_levels_reaches_high_addresses(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let nesting = vm.host.capabilities()?.nesting;
    if !nesting.is_some_and(|nesting| nesting.widths.contains(&AddressWidth::Bits57)) {
        return skip("the host has no tables of five levels");
    }
    let space = vm.space();
    let top = vm.memory.alloc_page();
    // Index 3 of level 5 leads to the table of four levels.
    vm.memory.write_u64(top + 8 * 3, space.root | entry::RW);
    let table = GuestTable {
        width: AddressWidth::Bits57,
        ..GuestTable::four_level(Gpa(top))
    };
    let pasids = vm.pasid()?;
    let pasid = pasids.first();
    let _bound = vm.host.bind(vm.device, &pasids, pasid, &table, None)?;
    let high = 3 << 48 | GVA;
    expect(vm.run(Job::store(high, 5).at(pasid))?, DONE, "high")?;
    expect(vm.memory.read_u64(space.page), 5, "the page")?;
    expect(vm.run(Job::store(GVA, 5).at(pasid))?, End::NoAccess, "low")
}

pub fn bind_at_the_rid_and_back(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let space = vm.space();
    let page = vm.memory.alloc_page();
    expect(vm.run(Job::store(page, 1))?, DONE, "stage 2 before")?;
    let bound = vm.host.bind_rid(vm.device, &space.table(), None)?;
    expect(bound.pasid(), Pasid::RID, "the binding's PASID")?;
    expect(vm.run(Job::store(GVA, 2))?, DONE, "stage 1")?;
    expect(vm.memory.read_u64(space.page), 2, "the page")?;
    expect(
        vm.run(Job::store(page, 3))?,
        End::NoAccess,
        "stage 2 under it",
    )?;
    drop(bound);
    expect(vm.run(Job::store(page, 4))?, DONE, "stage 2 after")?;
    expect(vm.run(Job::store(GVA, 5))?, End::NoAccess, "stage 1 after")
}

pub fn rebind_takes_the_place(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (mut bound, old) = vm.bind(None)?;
    // The PASID does not change with the table.
    let pasid = bound.pasid();
    let store = |value| Job::store(GVA, value).at(pasid);
    expect(vm.run(store(1))?, DONE, "the old table")?;
    let new = vm.space();
    bound.rebind(&new.table(), None)?;
    expect(vm.run(store(2))?, DONE, "the new table")?;
    expect(vm.memory.read_u64(old.page), 1, "the old page")?;
    expect(vm.memory.read_u64(new.page), 2, "the new page")?;

    let odd = GuestTable {
        root: Gpa(old.root + 8),
        ..old.table()
    };
    match bound.rebind(&odd, None) {
        Err(Error::Failed { .. }) => {}
        other => return fail(format!("{other:?}")),
    }
    expect(bound.is_bound(), true, "after a table that is wrong")?;
    expect(vm.run(store(3))?, DONE, "after a table that is wrong")?;
    expect(vm.memory.read_u64(new.page), 3, "the new page")
}

pub fn unbind_stops_dma(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let pasids = vm.pasid()?;
    let (pasid, space) = (pasids.first(), vm.space());
    let bind = || {
        let table = space.table();
        vm.host.bind(vm.device, &pasids, pasid, &table, None)
    };
    let mut bound = bind()?;
    expect(vm.run(Job::store(GVA, 1).at(pasid))?, DONE, "bound")?;
    bound.unbind()?;
    expect(bound.is_bound(), false, "bound")?;
    for ats in [true, false] {
        let job = Job {
            ats,
            ..Job::store(GVA, 2).at(pasid)
        };
        expect(vm.run(job)?, End::NoAccess, "unbound")?;
    }
    let _next = bind()?;
    // Neither again nor by the drop.
    bound.unbind()?;
    drop(bound);
    expect(vm.run(Job::store(GVA, 3).at(pasid))?, DONE, "bound again")?;
    expect(vm.memory.read_u64(space.page), 3, "the page")
}

pub fn unbind_of_a_device_leaves_later_bindings_alone(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (one, _) = vm.bind(None)?;
    let (two, _) = vm.bind(None)?;
    vm.host.unbind(Scope::Device(vm.device))?;
    expect(one.is_bound() || two.is_bound(), false, "bound")?;
    for bound in [&one, &two] {
        let job = Job::store(GVA, 1).at(bound.pasid());
        expect(vm.run(job)?, End::NoAccess, "unbound")?;
    }
    let pasid = one.pasid();
    let (three, space) = vm.bind(None)?;
    drop((one, two));
    expect(vm.host.stats()?.bindings, 1, "bindings")?;
    expect(vm.host.stats()?.pasids, 1, "PASIDs")?;
    expect(three.pasid() == pasid, false, "a PASID that is still owned")?;
    expect(vm.run(Job::store(GVA, 2).at(three.pasid()))?, DONE, "later")?;
    expect(vm.memory.read_u64(space.page), 2, "the page")?;
    vm.host.unbind(Scope::All)?;
    expect(vm.host.stats()?.bindings, 0, "bindings")
}

pub fn table_gets_accessed_and_dirty(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (bound, space) = vm.bind(None)?;
    let bits = || {
        let value = vm.table(space).entry(GVA, 1).unwrap_or(0);
        value & (entry::ACCESSED | entry::DIRTY)
    };
    expect(bits(), 0, "before")?;
    expect(vm.run(Job::load(GVA).at(bound.pasid()))?, DONE, "read")?;
    expect(bits(), entry::ACCESSED, "after a read")?;
    expect(vm.run(Job::store(GVA, 1).at(bound.pasid()))?, DONE, "write")?;
    expect(bits(), entry::ACCESSED | entry::DIRTY, "after a write")
}

pub fn table_read_only_is_for_reading(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (bound, space) = vm.bind(None)?;
    vm.memory.write_u64(space.page, 6);
    vm.table(space).map(GVA, space.page, entry::R);
    let pasid = bound.pasid();
    expect(vm.run(Job::load(GVA).at(pasid))?, End::Done(6), "read")?;
    expect(
        vm.run(Job::store(GVA, 7).at(pasid))?,
        End::NoAccess,
        "write",
    )?;
    // Nor may a device have what is a supervisor's.
    vm.table(space)
        .map(HOLE, space.page, entry::PRESENT | entry::WRITE);
    expect(
        vm.run(Job::load(HOLE).at(pasid))?,
        End::NoAccess,
        "supervisor",
    )?;
    expect(vm.memory.read_u64(space.page), 6, "the page")
}

pub fn table_cannot_leave_stage_2(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (bound, space) = vm.bind(None)?;
    let flags = entry::RW | entry::ACCESSED | entry::DIRTY;
    for outside in [MEMORY, 1 << 40, 0xfee0_0000] {
        vm.table(space).map(HOLE, outside, flags);
        bound.flush(&Invalidation::all())?;
        let job = Job::store(HOLE, 1).at(bound.pasid());
        expect(vm.run(job)?, End::NoAccess, &format!("{outside:#x}"))?;
    }
    // A table of its own that is not in guest memory.
    vm.table(space).set_entry(HOLE, 2, MEMORY | entry::RW);
    bound.flush(&Invalidation::all())?;
    let job = Job::store(HOLE, 1).at(bound.pasid());
    expect(vm.run(job)?, End::NoAccess, "a table outside")
}

pub fn table_with_a_large_page(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (bound, space) = vm.bind(None)?;
    let large = PageSize::Large.bytes();
    let page = vm.memory.alloc(large, large);
    let address = 0x5600_0000_0000;
    vm.table(space)
        .map_sized(address, page, entry::RW, PageSize::Large);
    for offset in [0, 0x12_3458, large - 8] {
        let job = Job::store(address + offset, offset + 1).at(bound.pasid());
        expect(vm.run(job)?, DONE, "the DMA")?;
        expect(vm.memory.read_u64(page + offset), offset + 1, "memory")?;
    }
    let beyond = Job::load(address + large).at(bound.pasid());
    expect(vm.run(beyond)?, End::NoAccess, "beyond it")
}

pub fn flush_shows_a_new_page_and_not_before(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (bound, space) = vm.bind(None)?;
    let pasid = bound.pasid();
    let load = Job::load(GVA).at(pasid);
    let page = pages(GVA, 1)?;
    let everything = Invalidation::all();
    let flushes = [
        (bound.scope(), Invalidation::new().leaf(page)),
        (bound.scope(), Invalidation::new().range(page)),
        (bound.scope(), everything.clone()),
        (Scope::Device(vm.device), everything.clone()),
        (Scope::All, everything),
    ];
    for (value, (scope, invalidation)) in (1..).zip(flushes) {
        let old = vm.run(load)?;
        let fresh = vm.memory.alloc_page();
        vm.memory.write_u64(fresh, value);
        vm.table(space).map(GVA, fresh, entry::RW);
        expect(vm.run(load)?, old, &format!("before {scope}"))?;
        let before = vm.host.stats()?.invalidations;
        vm.host.flush(scope, &invalidation)?;
        expect(vm.run(load)?, End::Done(value), &format!("after {scope}"))?;
        let count = vm.host.stats()?.invalidations - before;
        expect(count, 1, "invalidations counted")?;
    }
    Ok(())
}

pub fn flush_is_needed_past_the_device_tlb_too(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (bound, space) = vm.bind(None)?;
    let load = Job {
        ats: false,
        ..Job::load(GVA).at(bound.pasid())
    };
    let old = vm.run(load)?;
    let fresh = vm.memory.alloc_page();
    vm.memory.write_u64(fresh, 1);
    vm.table(space).map(GVA, fresh, entry::RW);
    expect(vm.run(load)?, old, "before the flush")?;
    bound.flush(&Invalidation::new().leaf(pages(GVA, 1)?))?;
    expect(vm.run(load)?, End::Done(1), "after the flush")
}

pub fn flush_of_nothing_bound_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let scope = Scope::Binding(vm.device, 77.try_into()?);
    match vm.host.flush(scope, &Invalidation::all()) {
        Err(Error::Flush {
            index: 0,
            count: 1,
            source,
            ..
        }) => {
            expect(source.raw_os_error(), Some(Errno::ENOENT as i32), "errno")?;
        }
        other => return fail(format!("{other:?}")),
    }
    vm.host.flush(Scope::All, &Invalidation::all())?;
    Ok(())
}
