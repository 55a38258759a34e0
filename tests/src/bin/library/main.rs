// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate `host-iommu` on the module: what is owned undoes itself, errors say what and where,
//! and fault queues work in a poll loop.

mod faults;

use faults::{
    fault_group_dropped_is_answered_invalid, fault_group_of_a_dropped_binding_is_cancelled,
    fault_group_of_a_dropped_queue_is_answered_by_the_host, fault_group_says_who_asks_for_what,
    fault_queue_outlives_its_context_and_ends, fault_queue_overflow_tells_the_number_lost,
};
use host_iommu::backend::kmod::Kmod;
use host_iommu::{
    Bdf, Error, FaultQueue, Gpa, GuestTable, HostIommu, Invalidation, InvalidationEntry, Iova,
    IovaRange, MapAccess, Mapping, PasidAllocation, PasidRequest, Scope, SharedMemory,
    Stage1Binding,
};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::{entry, Table};
use host_iommu_tests::testdev::{status, Order, Slot, Testdev, BAR};
use host_iommu_tests::vfio::{endpoints, Container, Device, Group};
use host_iommu_tests::{suite, Errno};
use std::os::fd::{AsFd, OwnedFd};

const MEMORY: u64 = 8 << 20;
const GVA: u64 = 0x7f00_1234_5000;
const HOLE: u64 = GVA + PAGE;
const COOKIE: u64 = 0xc001_c001;

fn endpoint(index: usize) -> Outcome<Bdf> {
    match endpoints().get(index) {
        Some(bdf) => Ok(Bdf::new(bdf.segment, bdf.bus, bdf.devfn)),
        None => skip(format!("no endpoint number {index} is bound to vfio-pci")),
    }
}

/// A context with memory at IOVA 0 and the endpoint.
struct Vmm {
    endpoint: Testdev,
    memory: GuestMemory,
    device: Bdf,
    host: HostIommu,
}

impl Vmm {
    fn new() -> Outcome<Self> {
        let device = endpoint(0)?;
        Self::on(Kmod::open_device(device)?, device)
    }

    fn on(kmod: Kmod, device: Bdf) -> Outcome<Self> {
        let file = Device::from(kmod.open_device_fd(device)?);
        file.set_bus_master(true)?;
        let memory = GuestMemory::new(0, MEMORY)?;
        memory.alloc_page();
        let host = HostIommu::new(kmod);
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
        let nesting = host.capabilities()?.nesting;
        match nesting.map(|nesting| nesting.stage1) {
            Some(support) if support.is_present() => {}
            Some(support) => return skip(format!("nesting: {support}")),
            None => return fail("the module reports nothing about nesting"),
        }
        Ok(Self {
            endpoint: Testdev::new(file.map_bar(BAR)?)?,
            memory,
            device,
            host,
        })
    }

    /// A table that maps [`GVA`] to a page of its own.
    fn table(&self) -> (GuestTable, u64) {
        let table = Table::new(&self.memory);
        let page = self.memory.alloc_page();
        table.map(GVA, page, entry::RW);
        let stage1 = GuestTable::four_level(Gpa(table.root())).with_cookie(COOKIE);
        (stage1, page)
    }

    fn bind(&self, pasids: &PasidAllocation, faults: Option<&FaultQueue>) -> Outcome<Bound> {
        let (table, page) = self.table();
        let binding = self
            .host
            .bind(self.device, pasids, pasids.first(), &table, faults)?;
        Ok(Bound { binding, page })
    }

    fn any_pasid(&self) -> Outcome<PasidAllocation> {
        Ok(self.host.alloc_pasids(&PasidRequest::any())?)
    }

    /// What the endpoint's DMA at [`GVA`] ends with.
    fn dma(&self, pasid: u32) -> Outcome<u32> {
        let order = Order::fill(GVA, 8, 0xd3a).at(pasid).no_pri();
        Ok(self.endpoint.run(&order)?.status)
    }

    /// Has the endpoint touch [`HOLE`].
    fn touch(&self, pasid: u32) -> Outcome<Slot> {
        Ok(self.endpoint.submit(&Order::fill(HOLE, 8, 1).at(pasid))?)
    }
}

struct Bound {
    binding: Stage1Binding,
    page: u64,
}

impl Bound {
    fn pasid(&self) -> u32 {
        self.binding.pasid().get()
    }
}

/// The errno and the text of an error that has to come.
#[track_caller]
fn expect_error<T>(result: Result<T, Error>, errno: impl Into<Option<Errno>>, text: &str) {
    match result {
        Ok(_) => panic!("it worked, instead of: {text}"),
        Err(error) => {
            assert_eq!(error.to_string(), text);
            assert_eq!(error.errno(), errno.into().map(Errno::raw), "{text}");
        }
    }
}

fn open_device_lists_the_device_with_its_abilities() -> Outcome {
    let vmm = Vmm::new()?;
    let capabilities = vmm.host.capabilities()?;
    let devices = vmm.host.devices()?;
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].device, vmm.device);
    assert!(devices[0].stage1.is_present());
    assert!(capabilities.page_sizes & PAGE != 0);
    assert!(!capabilities.iova_ranges.is_empty());
    let nesting = capabilities.nesting.ok_or(Errno::ENOENT)?;
    assert!(devices[0].max_pasids.trailing_zeros() >= nesting.pasid_bits);
    Ok(())
}

fn open_device_in_use_names_its_group() -> Outcome {
    let device = endpoint(0)?;
    let _first = Kmod::open_device(device)?;
    let group = endpoints()[0].group()?;
    expect_error(
        Kmod::open_device(device),
        Errno::EBUSY,
        &format!("Failed to open /dev/vfio/{group}"),
    );
    Ok(())
}

fn open_device_that_is_not_there_names_it() -> Outcome {
    expect_error(
        Kmod::open_device(Bdf::new(0xfffe, 0xff, 0xff)),
        Errno::ENOENT,
        "Failed to find the IOMMU group of fffe:ff:1f.7",
    );
    Ok(())
}

fn from_fds_of_others_works() -> Outcome {
    let device = endpoint(0)?;
    let container = Container::open()?;
    let group = Group::open(endpoints()[0])?.as_fd().try_clone_to_owned()?;
    let vmm = Vmm::on(Kmod::from_fds(container.into_fd(), group)?, device)?;
    let bound = vmm.bind(&vmm.any_pasid()?, None)?;
    assert_eq!(vmm.dma(bound.pasid())?, status::OK);
    Ok(())
}

fn from_container_that_is_set_up_shares_it() -> Outcome {
    let vmm = Vmm::new()?;
    let kmod = Kmod::open_device(endpoint(1)?)?;
    let copy = kmod.as_fd().try_clone_to_owned()?;
    let (one, two) = (
        HostIommu::new(kmod),
        HostIommu::new(Kmod::from_container(copy)?),
    );
    let _pasids = one.alloc_pasids(&PasidRequest::any())?;
    assert_eq!(two.stats()?.pasids, 1);
    assert_eq!(vmm.host.stats()?.pasids, 0);
    Ok(())
}

fn from_container_without_the_module_fails() -> Outcome {
    let result = Kmod::from_container(Container::open()?.into_fd());
    expect_error(result, Errno::EINVAL, "Failed to read the counters");
    Ok(())
}

fn detach_and_attach_again_starts_from_nothing() -> Outcome {
    let device = endpoint(0)?;
    let host = HostIommu::new(Kmod::from_fds(
        Container::open()?.into_fd(),
        Group::open(endpoints()[0])?.as_fd().try_clone_to_owned()?,
    )?);
    let pasids = host.alloc_pasids(&PasidRequest::any())?;
    let group: OwnedFd = host.detach(0)?;
    assert!(host.stats().is_err());
    host.attach(group)?;
    assert_eq!(host.stats()?.pasids, 0);
    assert_eq!(host.devices()?[0].device, device);
    // What was allocated before is gone, which is what its owner wants.
    pasids.free()?;
    Ok(())
}

fn binding_that_went_with_its_group_is_gone() -> Outcome {
    let device = endpoint(0)?;
    let host = HostIommu::new(Kmod::from_fds(
        Container::open()?.into_fd(),
        Group::open(endpoints()[0])?.as_fd().try_clone_to_owned()?,
    )?);
    match host.capabilities()?.nesting {
        Some(nesting) if nesting.stage1.is_present() => {}
        _ => return skip("the host does not nest"),
    }
    let table = GuestTable::four_level(Gpa(0)).with_guest_pasid(5);
    let bind = |pasids: &PasidAllocation| host.bind(device, pasids, pasids.first(), &table, None);
    // By a call that the owned values are told of, and behind their back as an unplug is.
    for behind in [false, true] {
        let pasids = host.alloc_pasids(&PasidRequest::exactly(70.try_into()?))?;
        let mut old = bind(&pasids)?;
        let number = u64::from(behind);
        let group = match behind {
            true => host.context().detach(number)?,
            false => host.detach(number)?,
        };
        host.attach(group)?;
        assert!(!old.is_bound());
        assert_eq!(host.export(), []);

        // The host has forgotten the PASIDs too: another owner's, at the same guest's number.
        let again = host.alloc_pasids(&PasidRequest::exactly(70.try_into()?))?;
        expect_error(
            bind(&pasids).map(drop),
            None::<Errno>,
            "PASID 70 is not of this allocation",
        );
        let new = bind(&again)?;
        old.unbind()?;
        drop((old, pasids));
        assert!(new.is_bound());
        assert_eq!(host.stats()?.bindings, 1);
        assert_eq!(host.stats()?.pasids, 1);
        drop((new, again));
    }
    Ok(())
}

fn detach_of_an_open_device_is_busy() -> Outcome {
    let kmod = Kmod::open_device(endpoint(0)?)?;
    let open = kmod.open_device_fd(endpoint(0)?)?;
    let host = HostIommu::new(kmod);
    expect_error(
        host.detach(0),
        Errno::EBUSY,
        "Failed to detach a group from the container",
    );
    drop(open);
    host.detach(0)?;
    expect_error(
        host.detach(0),
        Errno::ENOENT,
        "Failed to detach a group from the container",
    );
    Ok(())
}

fn map_over_a_mapping_names_the_range() -> Outcome {
    let vmm = Vmm::new()?;
    let more = SharedMemory::new(c"more", 2 * PAGE as usize)?;
    expect_error(
        vmm.host.map(Iova(0x1000), &more, MapAccess::ReadWrite),
        Errno::EEXIST,
        "Failed to map 0x1000..=0x2fff",
    );
    Ok(())
}

fn map_beyond_the_memory_is_refused_by_the_crate() -> Outcome {
    let vmm = Vmm::new()?;
    let more = SharedMemory::new(c"more", PAGE as usize)?;
    let range = IovaRange::sized(Iova(1 << 32), PAGE).ok_or(Errno::EINVAL)?;
    let mapping = Mapping {
        memory: &more,
        offset: 1,
        range,
        access: MapAccess::ReadWrite,
    };
    expect_error(
        vmm.host.map_part(&mapping),
        Errno::EINVAL,
        "Failed to map 0x100000000..=0x100000fff",
    );
    Ok(())
}

fn map_read_only_where_the_host_nests_is_not_supported() -> Outcome {
    let vmm = Vmm::new()?;
    if !vmm
        .host
        .capabilities()?
        .nesting
        .is_some_and(|nesting| nesting.no_read_only)
    {
        return skip("the host takes read-only mappings");
    }
    let more = SharedMemory::new(c"more", PAGE as usize)?;
    expect_error(
        vmm.host.map(Iova(1 << 32), &more, MapAccess::Read),
        Errno::EOPNOTSUPP,
        "Failed to map 0x100000000..=0x100000fff",
    );
    Ok(())
}

fn map_outlives_the_memory_until_unmapped() -> Outcome {
    let vmm = Vmm::new()?;
    let more = SharedMemory::new(c"more", 4 * PAGE as usize)?;
    vmm.host.map(Iova(1 << 32), &more, MapAccess::ReadWrite)?;
    drop(more);
    let order = Order::fill(1 << 32, 4096, 7).no_pri();
    assert_eq!(vmm.endpoint.run(&order)?.status, status::OK);
    let sum = Order::fetch_add((1 << 32) + 8, 1).no_pri();
    assert_eq!(vmm.endpoint.run(&sum)?.result, 7);

    let range = IovaRange::sized(Iova(1 << 32), 4 * PAGE).ok_or(Errno::EINVAL)?;
    assert_eq!(vmm.host.unmap(range)?, 4 * PAGE);
    assert_ne!(vmm.endpoint.run(&order)?.status, status::OK);
    assert_eq!(vmm.host.stats()?.mapped_pages, MEMORY / PAGE);
    Ok(())
}

fn unmap_of_everything_gives_the_bytes() -> Outcome {
    let vmm = Vmm::new()?;
    assert_eq!(vmm.host.unmap(IovaRange::ALL)?, MEMORY);
    assert_eq!(vmm.host.stats()?.mapped_pages, 0);
    Ok(())
}

fn pasids_dropped_are_free() -> Outcome {
    let vmm = Vmm::new()?;
    let request = PasidRequest {
        count: 16,
        ..PasidRequest::any()
    };
    let pasids = vmm.host.alloc_pasids(&request)?;
    assert_eq!(vmm.host.stats()?.pasids, 16);
    assert!(pasids.contains(pasids.first()));
    drop(pasids);
    assert_eq!(vmm.host.stats()?.pasids, 0);
    Ok(())
}

fn pasids_freed_explicitly_are_freed_once() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm.any_pasid()?;
    pasids.free()?;
    let again = vmm
        .host
        .alloc_pasids(&PasidRequest::exactly(pasids.first()))?;
    // Neither a second free nor the drop reaches the new owner's.
    pasids.free()?;
    drop(pasids);
    assert_eq!(vmm.host.stats()?.pasids, 1);
    again.free()?;
    Ok(())
}

fn pasids_taken_name_the_range() -> Outcome {
    let vmm = Vmm::new()?;
    let _taken = vmm
        .host
        .alloc_pasids(&PasidRequest::exactly(9.try_into()?))?;
    expect_error(
        vmm.host.alloc_pasids(&PasidRequest::exactly(9.try_into()?)),
        Errno::ENOSPC,
        "Failed to allocate 1 PASIDs in 9..=9",
    );
    Ok(())
}

fn pasids_bound_are_busy_and_freed_with_the_binding() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm
        .host
        .alloc_pasids(&PasidRequest::exactly(9.try_into()?))?;
    let bound = vmm.bind(&pasids, None)?;
    expect_error(pasids.free(), Errno::EBUSY, "Failed to free PASID 9");
    drop(pasids);
    assert_eq!(vmm.host.stats()?.pasids, 1);
    assert_eq!(vmm.dma(9)?, status::OK);
    drop(bound);
    assert_eq!(vmm.host.stats()?.pasids, 0);
    Ok(())
}

fn bind_failure_names_pasid_and_device() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm
        .host
        .alloc_pasids(&PasidRequest::exactly(5.try_into()?))?;
    let bind = |root| {
        let table = GuestTable::four_level(Gpa(root));
        let first = pasids.first();
        vmm.host.bind(vmm.device, &pasids, first, &table, None)
    };
    let text = format!("Failed to bind stage 1 at PASID 5 of {}", vmm.device);
    expect_error(bind(0x1001), Errno::EINVAL, &text);
    let _bound = bind(0x1000)?;
    expect_error(bind(0x1000), Errno::EBUSY, &text);
    Ok(())
}

fn bind_at_a_pasid_of_others_is_refused_by_the_crate() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm.any_pasid()?;
    let other = HostIommu::new(Kmod::open_device(endpoint(1)?)?);
    let (table, _) = vmm.table();
    let next = pasids.first().checked_add(1).ok_or(Errno::EINVAL)?;
    assert!(matches!(
        vmm.host.bind(vmm.device, &pasids, next, &table, None),
        Err(Error::PasidNotAllocated(_))
    ));
    assert!(matches!(
        other.bind(endpoint(1)?, &pasids, pasids.first(), &table, None),
        Err(Error::OtherContext("PASID allocation"))
    ));
    Ok(())
}

fn binding_dropped_is_unbound() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm.any_pasid()?;
    let bound = vmm.bind(&pasids, None)?;
    assert_eq!(vmm.dma(bound.pasid())?, status::OK);
    assert_eq!(vmm.memory.read_u64(bound.page), 0xd3a);
    drop(bound);
    assert_eq!(vmm.host.stats()?.bindings, 0);
    assert_ne!(vmm.dma(pasids.first().get())?, status::OK);
    Ok(())
}

fn binding_unbound_twice_leaves_the_next_one() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm.any_pasid()?;
    let mut bound = vmm.bind(&pasids, None)?;
    bound.binding.unbind()?;
    let next = vmm.bind(&pasids, None)?;
    bound.binding.unbind()?;
    drop(bound);
    assert_eq!(vmm.host.stats()?.bindings, 1);
    assert_eq!(vmm.dma(next.pasid())?, status::OK);
    Ok(())
}

fn flush_of_more_entries_than_a_call_takes_does_them_all() -> Outcome {
    const COUNT: u64 = 70_000;
    let vmm = Vmm::new()?;
    let pasids = vmm.any_pasid()?;
    let bound = vmm.bind(&pasids, None)?;
    assert_eq!(vmm.dma(bound.pasid())?, status::OK);
    let other = vmm.memory.alloc_page();
    let root = vmm.table_root(&bound)?;
    Table::at(&vmm.memory, root).map(GVA, other, entry::RW);
    let before = vmm.host.stats()?.invalidations;

    // The page that matters comes last, in the second call.
    let page = |address| IovaRange::sized(Iova(address), PAGE);
    let far = (1..COUNT).map(|number| page(GVA + number * PAGE));
    let invalidation: Invalidation = far
        .chain([page(GVA)])
        .flatten()
        .map(|range| InvalidationEntry {
            range,
            leaf_only: true,
        })
        .collect();
    bound.binding.flush(&invalidation)?;

    assert_eq!(vmm.host.stats()?.invalidations - before, COUNT);
    assert_eq!(vmm.dma(bound.pasid())?, status::OK);
    assert_eq!(vmm.memory.read_u64(other), 0xd3a);
    Ok(())
}

fn flush_of_everything_in_each_scope_shows_the_new_page() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm.any_pasid()?;
    let bound = vmm.bind(&pasids, None)?;
    let root = vmm.table_root(&bound)?;
    let pasid = bound.binding.pasid();
    for scope in [
        Scope::Binding(vmm.device, pasid),
        Scope::Device(vmm.device),
        Scope::All,
    ] {
        assert_eq!(vmm.dma(pasid.get())?, status::OK);
        let fresh = vmm.memory.alloc_page();
        Table::at(&vmm.memory, root).map(GVA, fresh, entry::RW);
        assert_eq!(vmm.dma(pasid.get())?, status::OK);
        assert_eq!(vmm.memory.read_u64(fresh), 0, "{scope:?}: before");
        vmm.host.flush(scope, &Invalidation::all())?;
        assert_eq!(vmm.dma(pasid.get())?, status::OK);
        assert_eq!(vmm.memory.read_u64(fresh), 0xd3a, "{scope:?}: after");
    }
    Ok(())
}

fn flush_of_what_is_not_bound_names_it() -> Outcome {
    let vmm = Vmm::new()?;
    let scope = Scope::Binding(vmm.device, 77.try_into()?);
    let result = vmm.host.flush(scope, &Invalidation::all());
    let text = format!(
        "Failed to flush stage 1 at PASID 77 of {}: entry 0 of 1",
        vmm.device
    );
    expect_error(result, Errno::ENOENT, &text);
    Ok(())
}

impl Vmm {
    /// Finds the table that [`Vmm::table`] made: its page stands right before its first leaf.
    fn table_root(&self, bound: &Bound) -> Outcome<u64> {
        let root = bound.page - PAGE;
        let walked = Table::at(&self.memory, root).walk(GVA);
        match walked {
            Some((gpa, _)) if gpa == bound.page => Ok(root),
            _ => fail("the table is elsewhere"),
        }
    }
}

fn context_lives_as_long_as_what_it_gave() -> Outcome {
    let vmm = Vmm::new()?;
    let pasids = vmm.any_pasid()?;
    let bound = vmm.bind(&pasids, None)?;
    let Vmm {
        endpoint,
        memory,
        host,
        ..
    } = vmm;
    drop((host, pasids));
    let order = Order::fill(GVA, 8, 3).at(bound.pasid()).no_pri();
    assert_eq!(endpoint.run(&order)?.status, status::OK);
    assert_eq!(memory.read_u64(bound.page), 3);
    Ok(())
}

suite![
    open_device_lists_the_device_with_its_abilities,
    open_device_in_use_names_its_group,
    open_device_that_is_not_there_names_it,
    from_fds_of_others_works,
    from_container_that_is_set_up_shares_it,
    from_container_without_the_module_fails,
    detach_and_attach_again_starts_from_nothing,
    binding_that_went_with_its_group_is_gone,
    detach_of_an_open_device_is_busy,
    map_over_a_mapping_names_the_range,
    map_beyond_the_memory_is_refused_by_the_crate,
    map_read_only_where_the_host_nests_is_not_supported,
    map_outlives_the_memory_until_unmapped,
    unmap_of_everything_gives_the_bytes,
    pasids_dropped_are_free,
    pasids_freed_explicitly_are_freed_once,
    pasids_taken_name_the_range,
    pasids_bound_are_busy_and_freed_with_the_binding,
    bind_failure_names_pasid_and_device,
    bind_at_a_pasid_of_others_is_refused_by_the_crate,
    binding_dropped_is_unbound,
    binding_unbound_twice_leaves_the_next_one,
    flush_of_more_entries_than_a_call_takes_does_them_all,
    flush_of_everything_in_each_scope_shows_the_new_page,
    flush_of_what_is_not_bound_names_it,
    fault_group_says_who_asks_for_what,
    fault_group_dropped_is_answered_invalid,
    fault_group_of_a_dropped_queue_is_answered_by_the_host,
    fault_group_of_a_dropped_binding_is_cancelled,
    fault_queue_overflow_tells_the_number_lost,
    fault_queue_outlives_its_context_and_ends,
    context_lives_as_long_as_what_it_gave,
];
