// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests' tables shadowed by the module's address spaces: at the RID on any hardware, at PASIDs
//! where devices have them.

use host_iommu::backend::kmod::Kmod;
use host_iommu::shadow::Shadow;
use host_iommu::{
    Bdf, Error, Gpa, HostIommu, Invalidation, Iova, IovaRange, MapAccess, PasidRequest, Shadowing,
    Stage1Binding, Stage1Table, TableFormat,
};
use host_iommu_tests::conformance::kmod::client;
use host_iommu_tests::conformance::{Client, End, Job, DEADLINE};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::shadow::view;
use host_iommu_tests::stage1::{entry, PageSize, Table};
use host_iommu_tests::suite;
use host_iommu_tests::vfio::endpoints;
use nix::errno::Errno;

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

impl Vm {
    fn new(shadowing: Shadowing) -> Outcome<Self> {
        let Some(name) = endpoints().first().copied() else {
            return skip("no endpoint is bound to vfio-pci");
        };
        let device = Bdf::new(name.segment, name.bus, name.devfn);
        let kmod = Kmod::open_device(device)?;
        let client = client(kmod.open_device_fd(device)?)?;
        let memory = GuestMemory::new(0, SIZE)?;
        let host = HostIommu::new(Shadow::over(kmod, view(&memory)?, shadowing)?);
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

fn second(table: &Table<'_>) -> Stage1Table {
    Stage1Table {
        format: TableFormat::SecondStage,
        ..Stage1Table::four_level(Gpa(table.root()))
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
    let vm = Vm::new(Shadowing::CachingMode)?;
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
    let first = Stage1Table::four_level(Gpa(table.root()));
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
    let first = Stage1Table::four_level(Gpa(table.root()));
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

suite![
    capability_says_what_the_guest_promises,
    rid_follows_a_caching_mode_table,
    rid_with_a_large_page_reaches_no_further_than_memory,
    first_stage_is_refused_in_caching_mode,
    pasid_follows_a_first_stage_table,
];
