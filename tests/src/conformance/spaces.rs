// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stage 2 at a PASID, address spaces, dirty pages.
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "the names of tests say what they check"
)]

use super::{expect, expect_errno, pages, End, Job, Machine, Vm, MEMORY};
use crate::ktap::{fail, Outcome};
use crate::memory::PAGE;
use host_iommu::{
    AddressSpace, AddressSpaceEntry, Error, Gpa, Iova, MapAccess, SharedMemory, Stage1Binding,
};
use nix::errno::Errno;

const DONE: End = End::Done(0);
/// Where the tests map.
const AT: u64 = 0x4000_0000;

fn entry(at: u64, gpa: u64, count: u64, access: MapAccess) -> Outcome<AddressSpaceEntry> {
    Ok(AddressSpaceEntry {
        range: pages(at, count)?,
        gpa: Gpa(gpa),
        access,
    })
}

/// An address space with two pages of memory at [`AT`], bound.
fn bound(vm: &Vm) -> Outcome<(AddressSpace, Stage1Binding, u64)> {
    let memory = vm.memory.alloc(2 * PAGE, PAGE);
    let space = vm.host.address_space()?;
    space.map(&[entry(AT, memory, 2, MapAccess::ReadWrite)?])?;
    let pasids = vm.pasid()?;
    let pasid = pasids.first();
    let bound = vm
        .host
        .bind_address_space(vm.device, &pasids, pasid, &space, None)?;
    Ok((space, bound, memory))
}

pub fn stage_2_at_a_pasid_is_guest_memory(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let pasids = vm.pasid()?;
    let pasid = pasids.first();
    let page = vm.memory.alloc_page();
    let store = |value| Job::store(page, value).at(pasid);
    expect(vm.run(store(1))?, End::NoAccess, "before")?;
    let bound = vm.host.bind_stage2(vm.device, &pasids, pasid, None)?;
    expect(vm.run(store(2))?, DONE, "bound")?;
    expect(vm.memory.read_u64(page), 2, "memory")?;
    expect(
        vm.run(Job::store(MEMORY, 1).at(pasid))?,
        End::NoAccess,
        "beyond",
    )?;
    drop(bound);
    expect(vm.run(store(3))?, End::NoAccess, "unbound")
}

pub fn space_reaches_what_is_in_it(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (space, bound, memory) = bound(&vm)?;
    let pasid = bound.pasid();
    expect(vm.run(Job::store(AT + PAGE, 5).at(pasid))?, DONE, "in it")?;
    expect(vm.memory.read_u64(memory + PAGE), 5, "memory")?;
    for outside in [AT - PAGE, AT + 2 * PAGE, memory] {
        let job = Job::store(outside, 1).at(pasid);
        expect(vm.run(job)?, End::NoAccess, "outside")?;
    }
    let high = AT + (1 << 30);
    space.map(&[entry(high, memory, 1, MapAccess::Read)?])?;
    vm.memory.write_u64(memory, 6);
    expect(vm.run(Job::load(high).at(pasid))?, End::Done(6), "to read")?;
    expect(
        vm.run(Job::store(high, 1).at(pasid))?,
        End::NoAccess,
        "to write",
    )?;
    let stats = vm.host.stats()?;
    expect(
        (stats.address_spaces, stats.address_space_entries),
        (1, 2),
        "address spaces and entries",
    )
}

pub fn space_unmapped_stops_dma(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (space, bound, memory) = bound(&vm)?;
    let store = |value| Job::store(AT, value).at(bound.pasid());
    expect(vm.run(store(1))?, DONE, "mapped")?;
    expect_errno(space.unmap(&[pages(AT, 1)?]), Errno::EINVAL)?;
    expect(vm.run(store(2))?, DONE, "after an unmap that would cut")?;
    space.unmap(&[pages(AT - PAGE, 4)?])?;
    expect(vm.run(store(3))?, End::NoAccess, "unmapped")?;
    expect(vm.memory.read_u64(memory), 2, "memory")?;
    expect(vm.host.stats()?.address_space_entries, 0, "entries")
}

pub fn space_names_the_entry_that_is_wrong(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (space, bound, memory) = bound(&vm)?;
    let next = AT + 2 * PAGE;
    let good = entry(next, memory, 1, MapAccess::ReadWrite)?;
    let at = |at, gpa| entry(at, gpa, 1, MapAccess::ReadWrite);
    for (wrong, errno) in [
        (at(AT + PAGE, memory)?, Errno::EEXIST),
        (at(AT + (1 << 30), MEMORY)?, Errno::EFAULT),
        (at(AT + (1 << 30), memory + 8)?, Errno::EINVAL),
        (at(AT + (1 << 30) + 8, memory)?, Errno::EINVAL),
    ] {
        match space.map(&[good, wrong, wrong]) {
            Err(Error::Entries {
                index: 1,
                count: 3,
                source,
                ..
            }) => {
                let seen = source.raw_os_error().map(Errno::from_raw);
                expect(seen, Some(errno), &format!("{wrong:?}"))?;
            }
            other => return fail(format!("{other:?}")),
        }
        // The one before is in force.
        let job = Job::store(next, 1).at(bound.pasid());
        expect(vm.run(job)?, DONE, "the good entry")?;
        space.unmap(&[pages(next, 1)?])?;
    }
    Ok(())
}

pub fn space_goes_with_the_memory(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let more = SharedMemory::new(c"more", 2 * PAGE as usize)?;
    vm.host.map(Iova(1 << 32), &more, MapAccess::ReadWrite)?;
    let (space, bound, _) = bound(&vm)?;
    let next = AT + 2 * PAGE;
    space.map(&[entry(next, 1 << 32, 2, MapAccess::ReadWrite)?])?;
    let store = |at, value| Job::store(at, value).at(bound.pasid());
    expect(vm.run(store(next, 1))?, DONE, "mapped")?;
    vm.host.unmap(pages(1 << 32, 2)?)?;
    expect(vm.run(store(next, 2))?, End::NoAccess, "unmapped")?;
    expect(vm.run(store(AT, 3))?, DONE, "the other memory")?;
    expect(more.load(0), 1, "memory")?;
    expect(vm.host.stats()?.address_space_entries, 1, "entries")
}

pub fn space_lives_as_long_as_it_is_bound(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (space, bound, _) = bound(&vm)?;
    expect_errno(space.destroy(), Errno::EBUSY)?;
    let store = Job::store(AT, 1).at(bound.pasid());
    drop(space);
    expect(vm.run(store)?, DONE, "dropped, and still bound")?;
    drop(bound);
    expect(vm.run(store)?, End::NoAccess, "unbound")?;
    expect(vm.host.stats()?.address_spaces, 0, "address spaces")
}

pub fn space_is_not_exported(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let (_space, _bound, _) = bound(&vm)?;
    let pasids = vm.pasid()?;
    let (device, pasid) = (vm.device, pasids.first());
    let passthrough = vm.host.bind_stage2(device, &pasids, pasid, Some(5))?;
    let exported = vm.host.export();
    expect(exported.len(), 1, "exported")?;
    expect(exported[0].pasid, passthrough.pasid(), "the PASID")?;
    drop((passthrough, pasids));
    let imported = vm.host.import(&exported, None)?;
    let page = vm.memory.alloc_page();
    let Some(pasid) = vm.host.host_pasid(device, 5.try_into()?) else {
        return fail("no such PASID");
    };
    expect(vm.run(Job::store(page, 1).at(pasid))?, DONE, "imported")?;
    drop(imported);
    expect(
        vm.run(Job::store(page, 1).at(pasid))?,
        End::NoAccess,
        "gone",
    )
}

pub fn dirty_pages_are_those_written_at_least(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let all = pages(0, MEMORY / PAGE)?;
    expect_errno(vm.host.read_dirty(all), Errno::EINVAL)?;
    vm.host.track_dirty(true)?;
    let page = vm.memory.alloc_page();
    expect(vm.run(Job::store(page, 1))?, DONE, "the DMA")?;
    let bitmap = vm.host.read_dirty(all)?;
    let number = (page / PAGE) as usize;
    expect(
        bitmap[number / 64] >> (number % 64) & 1,
        1,
        "the page's bit",
    )?;
    expect(bitmap.len() as u64, MEMORY / PAGE / 64, "words")?;
    // Only of whole mappings.
    expect_errno(vm.host.read_dirty(pages(PAGE, 1)?), Errno::EINVAL)?;
    vm.host.track_dirty(false)?;
    expect_errno(vm.host.read_dirty(all), Errno::EINVAL)
}
