// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests' tables on a machine that others made and that cannot nest: Debian's own QEMU, unpatched,
//! with the DMA of its `edu` and `iommu-testdev`, which has no PASID.

use host_iommu::backend::kmod::Kmod;
use host_iommu::shadow::Shadow;
use host_iommu::{
    Bdf, Error, Gpa, GuestTable, HostIommu, HostIommuContext, Invalidation, Iova, IovaRange,
    MapAccess, Shadowing, Stage1Binding, TableFormat,
};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::qemu_devices::{Edu, IommuTestdev, EDU, TESTDEV};
use host_iommu_tests::shadow::view;
use host_iommu_tests::stage1::{entry, PageSize, Table};
use host_iommu_tests::suite;
use host_iommu_tests::vfio::{devices_of, Group};
use nix::errno::Errno;
use std::os::fd::AsFd;

/// Guest memory, and addresses beyond it.
const SIZE: u64 = 8 << 20;
const AT: u64 = 0x1_4000_0000;
const OTHER: u64 = AT + (4 << 30);
/// Flags of the second stage: read, and write.
const R: u64 = 1;
const W: u64 = 2;

struct Vm {
    host: HostIommu,
    memory: GuestMemory,
    edu: (Bdf, Edu),
    testdev: (Bdf, IommuTestdev),
}

/// The only device of a kind.
fn only((vendor, device): (u32, u32)) -> Outcome<(host_iommu_tests::vfio::Bdf, Bdf)> {
    match devices_of(vendor, device).as_slice() {
        [name] => Ok((*name, Bdf::new(name.segment, name.bus, name.devfn))),
        found => skip(format!("{} devices {vendor:04x}:{device:04x}", found.len())),
    }
}

impl Vm {
    fn new(shadowing: Shadowing) -> Outcome<Self> {
        let (_, edu) = only(EDU)?;
        let (name, testdev) = only(TESTDEV)?;
        let kmod = Kmod::open_device(edu)?;
        kmod.attach(Group::open(name)?.as_fd().try_clone_to_owned()?)?;
        let drivers = (
            Edu::new(kmod.open_device_fd(edu)?)?,
            IommuTestdev::new(kmod.open_device_fd(testdev)?)?,
        );
        let memory = GuestMemory::new(0, SIZE)?;
        let host = HostIommu::new(Shadow::over(kmod, view(&memory)?, shadowing)?);
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
        Ok(Self {
            host,
            memory,
            edu: (edu, drivers.0),
            testdev: (testdev, drivers.1),
        })
    }

    /// A page that holds a value.
    fn page(&self, value: u64) -> u64 {
        let page = self.memory.alloc_page();
        self.memory.write_u64(page, value);
        page
    }

    fn value(&self, gpa: u64) -> u64 {
        self.memory.read_u64(gpa)
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

fn hardware_does_not_nest_and_the_shadow_says_what_it_takes() -> Outcome {
    let (_, edu) = only(EDU)?;
    let kmod = Kmod::open_device(edu)?;
    let Some(plain) = kmod.capabilities()?.nesting else {
        return fail("nothing about nesting");
    };
    // ECAP (VT-d 4.1, 11.4.3): NEST is bit 26.
    assert_eq!(plain.vtd_ecap & (1 << 26), 0, "a unit that nests");
    assert!(!plain.stage1.is_present(), "{}", plain.stage1);
    assert!(!plain.rid, "stage 1 at the RID");
    let memory = GuestMemory::new(0, SIZE)?;
    let shadow = Shadow::over(kmod, view(&memory)?, Shadowing::CachingMode)?;
    let Some(nesting) = shadow.capabilities()?.nesting else {
        return fail("nothing about nesting");
    };
    assert_eq!(nesting.shadowed, Some(Shadowing::CachingMode));
    assert!(nesting.rid && !nesting.stage1.is_present() && !nesting.page_requests.is_present());
    Ok(())
}

fn stage_1_without_a_shadow_is_refused() -> Outcome {
    let (_, edu) = only(EDU)?;
    let host = HostIommu::new(Kmod::open_device(edu)?);
    let memory = GuestMemory::new(0, SIZE)?;
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    let first = GuestTable::four_level(Gpa(Table::new(&memory).root()));
    let refused = host.bind_rid(edu, &first, None);
    let errno = refused.err().and_then(|error| error.errno());
    assert_eq!(errno, Some(Errno::EOPNOTSUPP as i32));
    Ok(())
}

fn edu_copies_by_the_guests_table() -> Outcome {
    let vm = Vm::new(Shadowing::CachingMode)?;
    let (device, edu) = &vm.edu;
    let table = Table::new(&vm.memory);
    let (one, two, three) = (vm.page(0x11), vm.page(0x22), vm.page(0x33));
    table.set_entry(AT, 1, one | R);
    table.set_entry(OTHER, 1, two | R | W);
    let mut binding = vm.host.bind_rid(*device, &second(&table), None)?;
    edu.copy(AT, OTHER)?;
    assert_eq!(vm.value(two), 0x11, "by both entries");
    edu.copy(three, OTHER)?;
    assert_ne!(vm.value(two), 0x33, "read by GPA");
    vm.memory.write_u64(two, 0x22);
    edu.copy(AT, three)?;
    assert_eq!(vm.value(three), 0x33, "written by GPA");

    // Another page in its place: from the invalidation on, and not before.
    table.set_entry(OTHER, 1, three | R | W);
    edu.copy(AT, OTHER)?;
    assert_eq!((vm.value(two), vm.value(three)), (0x11, 0x33), "too early");
    vm.memory.write_u64(two, 0x22);
    flush(&binding, OTHER, PAGE)?;
    edu.copy(AT, OTHER)?;
    assert_eq!((vm.value(two), vm.value(three)), (0x22, 0x11), "too late");

    // What may be read only, and what became present.
    table.set_entry(OTHER, 1, three | R);
    table.set_entry(OTHER + PAGE, 1, two | R | W);
    flush(&binding, OTHER, 2 * PAGE)?;
    vm.memory.write_u64(one, 0x44);
    edu.copy(AT, OTHER)?;
    assert_eq!(vm.value(three), 0x11, "written without permission");
    edu.copy(AT, OTHER + PAGE)?;
    assert_eq!(vm.value(two), 0x44, "an entry that became present");

    // What may not be read comes as zeroes, or not at all.
    table.set_entry(AT, 1, 0);
    flush(&binding, AT, PAGE)?;
    vm.memory.write_u64(one, 0x55);
    edu.copy(AT, OTHER + PAGE)?;
    assert_ne!(vm.value(two), 0x55, "read by an entry that is gone");

    binding.unbind()?;
    vm.memory.write_u64(two, 0x22);
    edu.copy(one, three)?;
    assert_eq!(vm.value(three), 0x55, "stage 2 again");
    edu.copy(one, OTHER + PAGE)?;
    assert_eq!(vm.value(two), 0x22, "the table still in force");
    assert_eq!(vm.host.stats()?.address_spaces, 0);
    Ok(())
}

fn testdev_is_told_of_what_the_table_refuses() -> Outcome {
    let vm = Vm::new(Shadowing::CachingMode)?;
    let (device, testdev) = &vm.testdev;
    let table = Table::new(&vm.memory);
    let (one, two) = (vm.page(1), vm.page(2));
    assert!(!testdev.store(AT)?, "before the table");
    assert!(testdev.store(one)?, "by GPA");
    assert_eq!(vm.value(one), IommuTestdev::VALUE);
    vm.memory.write_u64(one, 1);
    table.set_entry(AT, 1, one | R | W);
    table.set_entry(AT + PAGE, 1, two | R);
    let mut binding = vm.host.bind_rid(*device, &second(&table), None)?;
    assert!(testdev.store(AT)?);
    assert_eq!(vm.value(one), IommuTestdev::VALUE);
    for (at, why) in [
        (one, "by GPA"),
        (AT + PAGE, "read-only"),
        (AT + 2 * PAGE, "a hole"),
    ] {
        assert!(!testdev.store(at)?, "{why}");
    }
    assert_eq!(vm.value(two), 2);
    table.set_entry(AT, 1, 0);
    table.set_entry(AT + PAGE, 1, two | R | W);
    flush(&binding, AT, 2 * PAGE)?;
    assert!(!testdev.store(AT)?, "gone");
    assert!(testdev.store(AT + PAGE)?, "writable now");
    assert_eq!(vm.value(two), IommuTestdev::VALUE);
    // The other device has not been bound.
    vm.edu.1.copy(two, one)?;
    assert_eq!(vm.value(one), IommuTestdev::VALUE);
    binding.unbind()?;
    assert!(!testdev.store(AT + PAGE)?, "unbound");
    Ok(())
}

fn large_page_reaches_no_further_than_memory() -> Outcome {
    let vm = Vm::new(Shadowing::CachingMode)?;
    let (device, testdev) = &vm.testdev;
    let table = Table::new(&vm.memory);
    table.map_sized(AT, 0, R | W, PageSize::Huge);
    let binding = vm.host.bind_rid(*device, &second(&table), None)?;
    let last = SIZE - PAGE;
    assert!(testdev.store(AT + last)?);
    assert_eq!(vm.value(last), IommuTestdev::VALUE);
    assert!(!testdev.store(AT + SIZE)?, "no memory");
    // Memory that goes takes its entries with it.
    assert_eq!(vm.host.unmap(IovaRange::ALL)?, SIZE);
    assert!(!testdev.store(AT + last)?, "no memory any more");
    drop(binding);
    Ok(())
}

fn first_stage_is_taken_where_every_change_is_told() -> Outcome {
    let vm = Vm::new(Shadowing::EveryChange)?;
    let (device, testdev) = &vm.testdev;
    let table = Table::new(&vm.memory);
    let (one, two) = (vm.page(1), vm.page(2));
    table.map(AT, one, entry::RW);
    let first = GuestTable::four_level(Gpa(table.root()));
    let binding = vm.host.bind_rid(*device, &first, None)?;
    assert!(testdev.store(AT)?);
    assert_eq!(vm.value(one), IommuTestdev::VALUE);
    table.map(AT, two, entry::RW);
    flush(&binding, AT, PAGE)?;
    assert!(testdev.store(AT)?);
    assert_eq!(vm.value(two), IommuTestdev::VALUE);
    table.map(AT, two, entry::R);
    flush(&binding, AT, PAGE)?;
    assert!(!testdev.store(AT)?, "read-only");
    Ok(())
}

fn first_stage_is_refused_in_caching_mode() -> Outcome {
    let vm = Vm::new(Shadowing::CachingMode)?;
    let table = Table::new(&vm.memory);
    let first = GuestTable::four_level(Gpa(table.root()));
    match vm.host.bind_rid(vm.edu.0, &first, None) {
        Err(error @ Error::NotShadowed { .. }) => {
            assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP as i32));
        }
        other => return fail(format!("{other:?}")),
    }
    assert_eq!(vm.host.stats()?.bindings, 0);
    Ok(())
}

suite![
    hardware_does_not_nest_and_the_shadow_says_what_it_takes,
    stage_1_without_a_shadow_is_refused,
    edu_copies_by_the_guests_table,
    testdev_is_told_of_what_the_table_refuses,
    large_page_reaches_no_further_than_memory,
    first_stage_is_taken_where_every_change_is_told,
    first_stage_is_refused_in_caching_mode,
];
