// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The IOMMU in the process forgives no forgotten invalidation: what hardware may still have, it has.

use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::{
    Bdf, Gpa, GuestTable, HostIommu, Invalidation, Iova, IovaRange, MapAccess, PasidAllocation,
    PasidRequest, Stage1Binding,
};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::{entry, PageSize, Table};
use std::time::Duration;

const DEVICE: Bdf = Bdf::new(0, 0, 8);
const GVA: u64 = 0x7f00_1234_5000;
const MEMORY: u64 = 16 << 20;

struct World {
    memory: GuestMemory,
    device: SoftDevice,
    root: u64,
    binding: Stage1Binding,
    _pasids: PasidAllocation,
    _host: HostIommu,
}

impl World {
    fn new() -> Self {
        let soft = Soft::new();
        let device = soft.bus().add(DEVICE, &SoftDeviceOptions::default());
        let host = HostIommu::new(soft);
        let memory = GuestMemory::new(0, MEMORY).expect("memory");
        memory.alloc_page();
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)
            .expect("mapped");
        let root = Table::new(&memory).root();
        let pasids = host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
        let table = GuestTable::four_level(Gpa(root));
        let binding = host.bind(DEVICE, &pasids, pasids.first(), &table, None);
        Self {
            device: device.expect("a device"),
            root,
            binding: binding.expect("a binding"),
            _pasids: pasids,
            _host: host,
            memory,
        }
    }

    fn table(&self) -> Table<'_> {
        Table::at(&self.memory, self.root)
    }

    /// A page that holds a number.
    fn page(&self, number: u64) -> u64 {
        let page = self.memory.alloc_page();
        self.memory.write_u64(page, number);
        page
    }

    /// What DMA past the device TLB reads, `None` if it is stopped.
    fn load(&self, address: u64) -> Option<u64> {
        let dma = Dma::read(Iova(address), 8).at(self.binding.pasid());
        match self.device.run(dma.no_ats(), Duration::ZERO) {
            Ok(Some(DmaEnd::Done(bytes))) => {
                Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
            }
            Ok(Some(DmaEnd::NoAccess(_))) => None,
            other => panic!("{other:?}"),
        }
    }

    fn flush(&self, invalidation: &Invalidation) {
        self.binding.flush(invalidation).expect("flushed");
    }
}

fn pages(address: u64, count: u64) -> IovaRange {
    IovaRange::sized(Iova(address), count * PAGE).expect("a range")
}

#[test]
fn page_taken_away_is_reached_until_it_is_flushed() {
    let world = World::new();
    world.table().map(GVA, world.page(1), entry::RW);
    assert_eq!(world.load(GVA), Some(1));
    world.table().unmap(GVA);
    assert_eq!(world.load(GVA), Some(1), "nothing was flushed");
    world.flush(&Invalidation::new().leaf(pages(GVA + PAGE, 1)));
    assert_eq!(world.load(GVA), Some(1), "another page was");
    world.flush(&Invalidation::new().leaf(pages(GVA, 1)));
    assert_eq!(world.load(GVA), None);
    // What is absent is not remembered.
    world.table().map(GVA, world.page(2), entry::RW);
    assert_eq!(world.load(GVA), Some(2));
}

#[test]
fn table_replaced_is_walked_until_more_than_leaves_are_flushed() {
    let world = World::new();
    world.table().map(GVA, world.page(1), entry::RW);
    assert_eq!(world.load(GVA), Some(1));
    // Another table of the lowest level, which leads elsewhere.
    let lowest = world.memory.alloc_page();
    let at = lowest + 8 * ((GVA >> 12) & 0x1ff);
    world.memory.write_u64(at, world.page(2) | entry::RW);
    world.table().set_entry(GVA, 2, lowest | entry::RW);
    world.flush(&Invalidation::new().leaf(pages(GVA, 1)));
    assert_eq!(world.load(GVA), Some(1), "the old table is remembered");
    world.flush(&Invalidation::new().range(pages(GVA, 1)));
    assert_eq!(world.load(GVA), Some(2));
}

#[test]
fn flush_of_one_address_takes_all_of_a_large_page() {
    let world = World::new();
    let large = PageSize::Large.bytes();
    let address = 0x5600_0000_0000;
    let page = world.memory.alloc(large, large);
    let last = address + large - PAGE;
    world.memory.write_u64(page + large - PAGE, 3);
    world
        .table()
        .map_sized(address, page, entry::RW, PageSize::Large);
    assert_eq!(world.load(last), Some(3));
    world.table().set_entry(address, 2, 0);
    assert_eq!(world.load(last), Some(3));
    world.flush(&Invalidation::new().leaf(pages(address, 1)));
    assert_eq!(world.load(last), None);
}

#[test]
fn rights_that_grew_need_no_flush() {
    let world = World::new();
    let page = world.page(1);
    world.table().map(GVA, page, entry::R);
    assert_eq!(world.load(GVA), Some(1));
    world.table().map(GVA, page, entry::RW);
    let write = Dma::write(Iova(GVA), &7u64.to_le_bytes());
    let write = write.at(world.binding.pasid()).no_ats();
    let end = world.device.run(write, Duration::ZERO).expect("a DMA");
    assert_eq!(end, Some(DmaEnd::Done(Vec::new())));
    assert_eq!(world.memory.read_u64(page), 7);
}

#[test]
fn binding_anew_forgets_the_old_tables() {
    let mut world = World::new();
    world.table().map(GVA, world.page(1), entry::RW);
    assert_eq!(world.load(GVA), Some(1));
    let other = Table::new(&world.memory).root();
    Table::at(&world.memory, other).map(GVA, world.page(2), entry::RW);
    let table = GuestTable::four_level(Gpa(other));
    world.binding.rebind(&table, None).expect("bound anew");
    assert_eq!(world.load(GVA), Some(2));
}
