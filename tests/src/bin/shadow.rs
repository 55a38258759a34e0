// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests' tables shadowed by address spaces of the module and of iommufd: at the RID on any hardware,
//! at PASIDs where devices have them, and where page requests fill their holes.

use host_iommu::backend::iommufd::Iommufd;
use host_iommu::backend::kmod::Kmod;
use host_iommu::shadow::Shadow;
use host_iommu::{
    Bdf, Error, FaultQueueOptions, FaultRead, Gpa, GuestTable, HostIommu, HostIommuContext,
    Invalidation, Iova, IovaRange, MapAccess, PasidRequest, Response, Shadowing, Stage1Binding,
    TableFormat,
};
use host_iommu_tests::conformance::kmod::client;
use host_iommu_tests::conformance::{next_group, wait_readable, Client, End, Job, DEADLINE};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::shadow::view;
use host_iommu_tests::stage1::{entry, PageSize, Table};
use host_iommu_tests::suite;
use host_iommu_tests::vfio::endpoints;
use nix::errno::Errno;
use std::fs;

/// Guest memory, and an address beyond it.
const SIZE: u64 = 8 << 20;
const AT: u64 = 0x4000_0000;
/// Flags of the second stage: read, and write.
const R: u64 = 1;
const W: u64 = 2;

struct Vm {
    host: HostIommu,
    device: Bdf,
    client: Box<dyn Client>,
    memory: GuestMemory,
}

fn device() -> Outcome<Bdf> {
    match endpoints().first() {
        Some(name) => Ok(Bdf::new(name.segment, name.bus, name.devfn)),
        None => skip("no endpoint is bound to vfio-pci"),
    }
}

impl Vm {
    fn new(shadowing: Shadowing) -> Outcome<Self> {
        let device = device()?;
        let kmod = Kmod::open_device(device)?;
        let client = client(kmod.open_device_fd(device)?)?;
        Self::over(kmod, device, client, shadowing)
    }

    fn on_iommufd(shadowing: Shadowing) -> Outcome<Self> {
        if fs::metadata("/dev/iommu").is_err() {
            return skip("the kernel has no iommufd");
        }
        let device = device()?;
        let iommufd = Iommufd::open_device(device)?;
        let client = client(iommufd.open_device_fd(device)?)?;
        Self::over(iommufd, device, client, shadowing)
    }

    fn over(
        context: impl HostIommuContext + 'static,
        device: Bdf,
        client: Box<dyn Client>,
        shadowing: Shadowing,
    ) -> Outcome<Self> {
        let memory = GuestMemory::new(0, SIZE)?;
        let host = HostIommu::new(Shadow::over(context, view(&memory)?, shadowing)?);
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
        Ok(Self {
            host,
            device,
            client,
            memory,
        })
    }

    fn run(&self, job: Job) -> Outcome<End> {
        let id = self.client.start(&job)?;
        match self.client.end(id, DEADLINE)? {
            Some(end) => Ok(end),
            None => fail(format!("{job:?} does not end")),
        }
    }

    /// By the RID, past the device TLB.
    fn rid(&self, job: Job) -> Outcome<End> {
        self.run(Job { ats: false, ..job })
    }
}

fn second(table: &Table<'_>) -> GuestTable {
    GuestTable {
        format: TableFormat::SecondStage,
        ..GuestTable::four_level(Gpa(table.root()))
    }
}

fn flush(binding: &Stage1Binding, at: u64, size: u64) -> Outcome {
    let Some(range) = IovaRange::sized(Iova(at), size) else {
        return fail("an empty range");
    };
    binding.flush(&Invalidation::new().range(range))?;
    Ok(())
}

fn capability_says_what_the_guest_promises() -> Outcome {
    let vm = Vm::new(Shadowing::CachingMode)?;
    let Some(nesting) = vm.host.capabilities()?.nesting else {
        return fail("nothing about nesting");
    };
    assert_eq!(nesting.shadowed, Some(Shadowing::CachingMode));
    assert!(nesting.rid && !nesting.page_requests.is_present());
    Ok(())
}

fn rid_follows_a_caching_mode_table() -> Outcome {
    caching_mode_table_is_followed(&Vm::new(Shadowing::CachingMode)?)
}

fn rid_follows_a_caching_mode_table_on_iommufd() -> Outcome {
    caching_mode_table_is_followed(&Vm::on_iommufd(Shadowing::CachingMode)?)
}

fn caching_mode_table_is_followed(vm: &Vm) -> Outcome {
    let (one, two) = (vm.memory.alloc_page(), vm.memory.alloc_page());
    let table = Table::new(&vm.memory);
    table.set_entry(AT, 1, one | R | W);
    assert_eq!(vm.rid(Job::store(AT, 1))?, End::NoAccess, "before");
    let mut binding = vm.host.bind_rid(vm.device, &second(&table), None)?;
    assert_eq!(vm.rid(Job::store(AT, 2))?, End::Done(0));
    assert_eq!(vm.memory.read_u64(one), 2);
    assert_eq!(vm.rid(Job::store(one, 3))?, End::NoAccess, "by GPA");
    assert_eq!(vm.rid(Job::store(AT + PAGE, 3))?, End::NoAccess, "a hole");

    // What becomes present, and what is read-only now.
    table.set_entry(AT + PAGE, 1, two | R | W);
    table.set_entry(AT, 1, one | R);
    flush(&binding, AT, 2 * PAGE)?;
    assert_eq!(vm.rid(Job::store(AT + PAGE, 4))?, End::Done(0));
    assert_eq!(vm.memory.read_u64(two), 4);
    assert_eq!(vm.rid(Job::load(AT))?, End::Done(2));
    assert_eq!(vm.rid(Job::store(AT, 5))?, End::NoAccess, "read-only");
    assert_eq!(vm.memory.read_u64(one), 2);

    table.set_entry(AT, 1, 0);
    flush(&binding, AT, PAGE)?;
    assert_eq!(vm.rid(Job::load(AT))?, End::NoAccess, "gone");
    assert_eq!(vm.rid(Job::load(AT + PAGE))?, End::Done(4), "untouched");

    binding.unbind()?;
    assert_eq!(vm.rid(Job::load(AT + PAGE))?, End::NoAccess, "unbound");
    assert_eq!(vm.rid(Job::load(two))?, End::Done(4), "stage 2 again");
    assert_eq!(vm.host.stats()?.address_spaces, 0);
    Ok(())
}

fn rid_with_a_large_page_reaches_no_further_than_memory() -> Outcome {
    let vm = Vm::new(Shadowing::CachingMode)?;
    let table = Table::new(&vm.memory);
    let large = vm.memory.alloc(2 << 20, 2 << 20);
    table.map_sized(AT, large, R | W, PageSize::Large);
    let huge = AT << 1;
    table.map_sized(huge, 0, R, PageSize::Huge);
    let binding = vm.host.bind_rid(vm.device, &second(&table), None)?;
    assert_eq!(vm.rid(Job::store(AT + 0x12_3000, 6))?, End::Done(0));
    assert_eq!(vm.memory.read_u64(large + 0x12_3000), 6);
    assert_eq!(vm.rid(Job::load(huge + large + 0x12_3000))?, End::Done(6));
    assert_eq!(vm.rid(Job::load(huge + SIZE))?, End::NoAccess, "no memory");
    // A part of the large page is another one now.
    table.set_entry(AT, 2, 0);
    table.set_entry(AT + PAGE, 1, large | R);
    flush(&binding, AT + PAGE, PAGE)?;
    assert_eq!(vm.rid(Job::store(AT + 0x12_3000, 7))?, End::NoAccess);
    Ok(())
}

fn first_stage_is_refused_in_caching_mode() -> Outcome {
    let vm = Vm::new(Shadowing::CachingMode)?;
    let table = Table::new(&vm.memory);
    let first = GuestTable::four_level(Gpa(table.root()));
    match vm.host.bind_rid(vm.device, &first, None) {
        Err(error @ Error::NotShadowed { .. }) => {
            assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP as i32));
        }
        other => return fail(format!("{other:?}")),
    }
    assert_eq!(vm.host.stats()?.bindings, 0);
    Ok(())
}

fn pasid_follows_a_first_stage_table() -> Outcome {
    let vm = Vm::new(Shadowing::EveryChange)?;
    if vm.host.devices()?.iter().all(|info| info.max_pasids == 0) {
        return skip("the device has no PASIDs");
    }
    let pasids = vm.host.alloc_pasids(&PasidRequest::any())?;
    let pasid = pasids.first();
    let (one, two) = (vm.memory.alloc_page(), vm.memory.alloc_page());
    let table = Table::new(&vm.memory);
    table.map(AT, one, entry::RW);
    let first = GuestTable::four_level(Gpa(table.root()));
    let binding = vm.host.bind(vm.device, &pasids, pasid, &first, None)?;
    assert_eq!(vm.run(Job::store(AT, 2).at(pasid))?, End::Done(0));
    assert_eq!(vm.memory.read_u64(one), 2);
    let flags = entry::ACCESSED | entry::DIRTY;
    assert_eq!(table.entry(AT, 1), Some(one | entry::RW | flags));
    table.map(AT, two, entry::R);
    flush(&binding, AT, PAGE)?;
    assert_eq!(vm.run(Job::load(AT).at(pasid))?, End::Done(0));
    assert_eq!(vm.run(Job::store(AT, 3).at(pasid))?, End::NoAccess);
    table.unmap(AT);
    flush(&binding, AT, PAGE)?;
    assert_eq!(vm.run(Job::load(AT).at(pasid))?, End::NoAccess);
    drop(binding);
    assert_eq!(vm.host.stats()?.address_space_entries, 0);
    Ok(())
}

/// What page requests fill: bound at a PASID, or at the RID.
fn holes_are_filled(vm: &Vm, at_pasid: bool) -> Outcome {
    let Some(nesting) = vm.host.capabilities()?.nesting else {
        return fail("nothing about nesting");
    };
    if !nesting.page_requests.is_present() {
        return skip(format!("page requests: {}", nesting.page_requests));
    }
    let pasids = vm.host.alloc_pasids(&PasidRequest::any())?;
    let pasid = pasids.first();
    let (one, two) = (vm.memory.alloc_page(), vm.memory.alloc_page());
    let table = Table::new(&vm.memory);
    table.map(AT, one, entry::RW);
    let first = GuestTable::four_level(Gpa(table.root())).with_cookie(88);
    let options = FaultQueueOptions::nonblocking();
    let queue = vm.host.fault_queue(&options)?;
    let binding = match at_pasid {
        true => vm
            .host
            .bind(vm.device, &pasids, pasid, &first, Some(&queue))?,
        false => vm.host.bind_rid(vm.device, &first, Some(&queue))?,
    };
    let job = |job: Job| match at_pasid {
        true => job.at(pasid).asking(),
        false => job.asking(),
    };
    assert_eq!(vm.run(job(Job::store(AT, 1)))?, End::Done(0));

    // It is there by now: nobody hears of it.
    table.map(AT + PAGE, two, entry::RW);
    let store = vm.client.start(&job(Job::store(AT + PAGE, 2)))?;
    wait_readable(&queue)?;
    assert!(matches!(queue.read()?, FaultRead::Empty));
    assert_eq!(vm.client.end(store, DEADLINE)?, Some(End::Done(0)));
    assert_eq!(vm.memory.read_u64(two), 2);

    // It is not: the guest makes it so, or does not.
    let late = AT + 2 * PAGE;
    let load = vm.client.start(&job(Job::load(late)))?;
    let group = next_group(&queue)?;
    assert_eq!(group.user_cookie(), 88);
    assert_eq!(group.requests()[0].address, Iova(late));
    table.map(late, two, entry::R);
    group.respond(Response::Success)?;
    assert_eq!(vm.client.end(load, DEADLINE)?, Some(End::Done(2)));
    let store = vm.client.start(&job(Job::store(late, 3)))?;
    next_group(&queue)?.respond(Response::Invalid)?;
    assert_eq!(vm.client.end(store, DEADLINE)?, Some(End::Invalid));
    assert_eq!(vm.memory.read_u64(two), 2);

    // What goes is told, and asked for when it is back.
    table.unmap(AT + PAGE);
    flush(&binding, AT + PAGE, PAGE)?;
    let gone = Job {
        ask: false,
        ..job(Job::load(AT + PAGE))
    };
    assert_eq!(vm.run(gone)?, End::NoAccess);
    table.map(AT + PAGE, one, entry::R);
    let load = vm.client.start(&job(Job::load(AT + PAGE)))?;
    wait_readable(&queue)?;
    assert!(matches!(queue.read()?, FaultRead::Empty));
    assert_eq!(vm.client.end(load, DEADLINE)?, Some(End::Done(1)));
    drop(binding);
    assert_eq!(vm.host.stats()?.address_spaces, 0);
    Ok(())
}

fn holes_at_a_pasid_are_filled_by_page_requests() -> Outcome {
    holes_are_filled(&Vm::new(Shadowing::PageRequests)?, true)
}

fn holes_at_the_rid_are_filled_by_page_requests() -> Outcome {
    holes_are_filled(&Vm::new(Shadowing::PageRequests)?, false)
}

fn holes_at_a_pasid_are_filled_on_iommufd() -> Outcome {
    holes_are_filled(&Vm::on_iommufd(Shadowing::PageRequests)?, true)
}

suite![
    capability_says_what_the_guest_promises,
    rid_follows_a_caching_mode_table,
    rid_follows_a_caching_mode_table_on_iommufd,
    rid_with_a_large_page_reaches_no_further_than_memory,
    first_stage_is_refused_in_caching_mode,
    pasid_follows_a_first_stage_table,
    holes_at_a_pasid_are_filled_by_page_requests,
    holes_at_the_rid_are_filled_by_page_requests,
    holes_at_a_pasid_are_filled_on_iommufd,
];
