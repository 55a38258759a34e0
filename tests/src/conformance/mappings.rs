// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stage 2 and PASIDs.
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "the names of tests say what they check"
)]

use super::{expect, expect_errno, pages, End, Job, Machine, Vm, MEMORY};
use crate::ktap::{fail, Outcome};
use crate::memory::PAGE;
use host_iommu::{
    Iova, IovaRange, MapAccess, Mapping, Pasid, PasidRequest, RegionListener, SharedMemory,
};
use nix::errno::Errno;
use std::fs::File;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

/// Where tests map more.
const MORE: u64 = 1 << 32;

fn more(pages: u64) -> Outcome<SharedMemory> {
    Ok(SharedMemory::new(c"more", (pages * PAGE) as usize)?)
}

pub fn map_gives_devices_memory(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let page = vm.memory.alloc_page();
    for ats in [true, false] {
        let value = 0x1000 + u64::from(ats);
        let job = Job {
            ats,
            ..Job::store(page, value)
        };
        expect(vm.run(job)?, End::Done(0), "the end of the DMA")?;
        expect(vm.memory.read_u64(page), value, "what is in memory")?;
        let load = Job {
            ats,
            ..Job::load(page)
        };
        expect(vm.run(load)?, End::Done(value), "what was read")?;
    }
    expect(vm.run(Job::store(MEMORY, 1))?, End::NoAccess, "beyond it")?;
    expect(vm.host.stats()?.mapped_pages, MEMORY / PAGE, "pages mapped")
}

pub fn map_over_a_mapping_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let memory = more(2)?;
    for at in [0, MEMORY - PAGE] {
        let result = vm.host.map(Iova(at), &memory, MapAccess::ReadWrite);
        expect_errno(result, Errno::EEXIST)?;
    }
    vm.host.map(Iova(MEMORY), &memory, MapAccess::ReadWrite)?;
    Ok(())
}

pub fn map_where_nothing_can_be_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let memory = more(2)?;
    // Off a page, where interrupts are written to, and at the top.
    for at in [MORE + 1, 0xfee0_0000, 0xfedf_f000, u64::MAX - 2 * PAGE + 1] {
        let result = vm.host.map(Iova(at), &memory, MapAccess::ReadWrite);
        expect_errno(result, Errno::EINVAL)?;
    }
    let beyond = Mapping {
        memory: &memory,
        offset: PAGE,
        range: pages(MORE, 2)?,
        access: MapAccess::ReadWrite,
    };
    expect_errno(vm.host.map_part(&beyond), Errno::EINVAL)
}

pub fn map_of_part_of_a_memory_starts_there(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let memory = more(4)?;
    memory.store(2 * PAGE, 77);
    vm.host.map_part(&Mapping {
        memory: &memory,
        offset: 2 * PAGE,
        range: pages(MORE, 1)?,
        access: MapAccess::ReadWrite,
    })?;
    expect(vm.run(Job::load(MORE))?, End::Done(77), "what was read")?;
    expect(vm.run(Job::load(MORE + PAGE))?, End::NoAccess, "the next")
}

pub fn map_outlives_its_memory(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let memory = more(1)?;
    memory.store(8, 5);
    vm.host.map(Iova(MORE), &memory, MapAccess::ReadWrite)?;
    drop(memory);
    expect(vm.run(Job::load(MORE + 8))?, End::Done(5), "what was read")
}

pub fn map_read_only_is_for_reading(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let memory = more(1)?;
    memory.store(0, 9);
    vm.host
        .map(Iova(MORE), &memory, MapAccess::Read)
        .or_else(|error| {
            let errno = error.errno().map(Errno::from_raw);
            fail(format!("{error}: {errno:?}"))
        })?;
    expect(vm.run(Job::load(MORE))?, End::Done(9), "what was read")?;
    expect(vm.run(Job::store(MORE, 1))?, End::NoAccess, "writing")
}

pub fn attach_of_what_is_no_group_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let file = File::open("/dev/null")?;
    expect_errno(vm.host.attach(file.into()), Errno::ENOTTY)?;
    expect_errno(vm.host.context().detach(77), Errno::ENOENT)?;
    expect(vm.host.devices()?.len(), 1, "devices")
}

type GuestRam = GuestMemoryMmap<()>;

/// Guest memory of vm-memory from [`MORE`] on, with 77 at its start, given to devices.
fn listened(vm: &Vm, ram: &GuestRam) -> Outcome<RegionListener> {
    ram.write_obj(77u64, GuestAddress(MORE))?;
    let mut listener = RegionListener::new(vm.host.clone());
    let skipped = listener.update(ram).or_else(|error| {
        let errno = error.errno().map(Errno::from_raw);
        fail(format!("{error}: {errno:?}"))
    })?;
    expect(skipped, Vec::new(), "skipped")?;
    Ok(listener)
}

pub fn listener_maps_memory_without_a_file(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let ram = GuestRam::from_ranges(&[(GuestAddress(MORE), 4 * PAGE as usize)])?;
    let _listener = listened(&vm, &ram)?;
    expect(vm.run(Job::load(MORE))?, End::Done(77), "what was read")
}

pub fn listener_follows_guest_memory(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let len = 4 * PAGE as usize;
    let file = || -> Outcome<FileOffset> {
        let memory = SharedMemory::new(c"guest-ram", len)?;
        Ok(FileOffset::new(memory.file().try_clone()?, 0))
    };
    let first = (GuestAddress(MORE), len, Some(file()?));
    let ram = GuestRam::from_ranges_with_files([first])?;
    let mut listener = listened(&vm, &ram)?;
    expect(vm.run(Job::load(MORE))?, End::Done(77), "what was read")?;
    expect(vm.run(Job::store(MORE + 8, 78))?, End::Done(0), "the DMA")?;
    let seen: u64 = ram.read_obj(GuestAddress(MORE + 8))?;
    expect(seen, 78, "guest memory")?;

    // Memory is plugged in further on, and the first goes.
    let further = MORE + (1 << 30);
    let second = (GuestAddress(further), len, Some(file()?));
    let ram = GuestRam::from_ranges_with_files([second])?;
    ram.write_obj(79u64, GuestAddress(further))?;
    expect(listener.update(&ram)?, Vec::new(), "skipped")?;
    expect(vm.run(Job::load(further))?, End::Done(79), "what came")?;
    expect(vm.run(Job::load(MORE))?, End::NoAccess, "what went")?;
    let pages = MEMORY / PAGE + 4;
    expect(vm.host.stats()?.mapped_pages, pages, "pages mapped")
}

pub fn unmap_stops_what_the_device_has_cached(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let memory = more(2)?;
    vm.host.map(Iova(MORE), &memory, MapAccess::ReadWrite)?;
    expect(vm.run(Job::store(MORE, 1))?, End::Done(0), "mapped")?;
    expect(vm.host.unmap(pages(MORE, 2)?)?, 2 * PAGE, "bytes")?;
    expect(vm.run(Job::store(MORE, 2))?, End::NoAccess, "unmapped")?;
    expect(memory.load(0), 1, "what is in memory")?;
    expect(vm.host.unmap(IovaRange::ALL)?, MEMORY, "all bytes")?;
    expect(vm.host.stats()?.mapped_pages, 0, "pages mapped")
}

pub fn unmap_of_part_of_a_mapping_is_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    for (start, count) in [(0, 1), (PAGE, 1), (MEMORY - PAGE, 2)] {
        let result = vm.host.unmap(pages(start, count)?);
        expect_errno(result, Errno::EINVAL)?;
    }
    expect(vm.host.stats()?.mapped_pages, MEMORY / PAGE, "pages mapped")
}

pub fn unmap_of_nothing_is_no_bytes(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    expect(vm.host.unmap(pages(MORE, 16)?)?, 0, "bytes")
}

pub fn pasids_are_had_once(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let one = PasidRequest::exactly(9.try_into()?);
    let nine = vm.host.alloc_pasids(&one)?;
    expect_errno(vm.host.alloc_pasids(&one), Errno::ENOSPC)?;
    let many = vm.host.alloc_pasids(&PasidRequest {
        min: 5.try_into()?,
        max: 20.try_into()?,
        count: 8,
    })?;
    expect(many.first().get(), 10, "the first of eight")?;
    expect(vm.host.stats()?.pasids, 9, "allocated")?;
    many.free()?;
    nine.free()?;
    expect(vm.host.stats()?.pasids, 0, "allocated")
}

pub fn pasids_of_nonsense_are_refused(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let request = |min: u32, max: u32, count| -> Outcome<PasidRequest> {
        Ok(PasidRequest {
            min: min.try_into()?,
            max: max.try_into()?,
            count,
        })
    };
    for (min, max, count) in [(0, 5, 1), (6, 5, 1), (1, 5, 0)] {
        let request = request(min, max, count)?;
        expect_errno(vm.host.alloc_pasids(&request), Errno::EINVAL)?;
    }
    expect_errno(vm.host.alloc_pasids(&request(1, 5, 6)?), Errno::ENOSPC)?;
    let context = vm.host.context();
    expect_errno(context.free_pasids(Pasid::MIN, 1), Errno::ENOENT)
}

pub fn pasids_are_freed_with_the_last_binding(machine: &dyn Machine) -> Outcome {
    let vm = Vm::new(machine)?;
    let pasids = vm.pasid()?;
    let table = vm.space().table();
    let binding = vm
        .host
        .bind(vm.device, &pasids, pasids.first(), &table, None)?;
    expect_errno(pasids.free(), Errno::EBUSY)?;
    drop(pasids);
    expect(vm.host.stats()?.pasids, 1, "while it is bound")?;
    drop(binding);
    expect(vm.host.stats()?.pasids, 0, "afterwards")
}
