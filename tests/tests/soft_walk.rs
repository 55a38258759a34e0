// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk of the IOMMU in the process against a model: any table, any stage 2, any access.

use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::{
    Bdf, Gpa, GuestTable, HostIommu, Invalidation, Iova, IovaRange, MapAccess, Mapping,
    PasidRequest, SharedMemory, Stage1Binding,
};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::{entry, PageSize, Table};
use proptest::prelude::*;
use std::time::Duration;

const LARGE: u64 = 2 << 20;
/// The guest's own memory: tables and pages.
const MEMORY: u64 = 4 * LARGE;
/// Then nothing, then memory to read only.
const READ_ONLY: u64 = 5 * LARGE;
/// Virtual addresses of pages of 2 MiB: neighbours, another table, the top of the lower half.
const PLACES: [u64; 4] = [0x4000_0000, 0x4020_0000, 0x7f00_0000_0000, 0x7fff_ffe0_0000];
const BITS: u64 = entry::ACCESSED | entry::DIRTY;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes an entry: the place and its page, the target in pages, flags, and large or small.
    Map {
        place: usize,
        page: u64,
        target: u64,
        flags: u64,
        large: bool,
    },
    /// Eight bytes of DMA.
    Touch {
        place: usize,
        page: u64,
        write: bool,
        ats: bool,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let flags = (any::<bool>(), any::<bool>(), 0..20u8).prop_map(|(write, user, present)| {
        let flag = |on: bool, flag: u64| if on { flag } else { 0 };
        flag(present != 0, entry::PRESENT) | flag(write, entry::WRITE) | flag(user, entry::USER)
    });
    let targets = prop_oneof![
        4 => MEMORY / PAGE / 2..MEMORY / PAGE,
        1 => MEMORY / PAGE..READ_ONLY / PAGE,
        2 => READ_ONLY / PAGE..(READ_ONLY + LARGE) / PAGE,
        1 => Just(1 << 30),
    ];
    let map = (0..PLACES.len(), 0..4u64, targets, flags, 0..4u8).prop_map(
        |(place, page, target, flags, large)| Step::Map {
            place,
            page,
            target,
            flags,
            large: large == 0,
        },
    );
    let touch = (0..PLACES.len(), 0..4u64, any::<bool>(), any::<bool>()).prop_map(
        |(place, page, write, ats)| Step::Touch {
            place,
            page,
            write,
            ats,
        },
    );
    prop_oneof![2 => map, 3 => touch]
}

struct World {
    memory: GuestMemory,
    read_only: SharedMemory,
    device: SoftDevice,
    binding: Stage1Binding,
    root: u64,
    /// Whether a place has tables down to level 1, or may have a large page.
    small: [bool; 4],
}

impl World {
    fn new() -> Self {
        let soft = Soft::new();
        let device = soft
            .bus()
            .add(Bdf::new(0, 0, 8), &SoftDeviceOptions::default())
            .expect("a device");
        let host = HostIommu::new(soft);
        let memory = GuestMemory::new(0, MEMORY).expect("memory");
        memory.alloc_page();
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)
            .expect("a mapping");
        let read_only = SharedMemory::new(c"read-only", LARGE as usize).expect("memory");
        host.map_part(&Mapping {
            memory: &read_only,
            offset: 0,
            range: IovaRange::sized(Iova(READ_ONLY), LARGE).expect("a range"),
            access: MapAccess::Read,
        })
        .expect("a mapping");
        let root = Table::new(&memory).root();
        let pasids = host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
        let table = GuestTable::four_level(Gpa(root));
        let pasid = pasids.first();
        let binding = host.bind(device.address(), &pasids, pasid, &table, None);
        Self {
            memory,
            read_only,
            device,
            binding: binding.expect("a binding"),
            root,
            small: [false; 4],
        }
    }

    fn map(&mut self, place: usize, page: u64, target: u64, flags: u64, large: bool) {
        let table = Table::at(&self.memory, self.root);
        let (start, gpa) = (PLACES[place], target * PAGE);
        if large && !self.small[place] {
            table.map_sized(start, gpa & !(LARGE - 1), flags, PageSize::Large);
        } else {
            if !self.small[place] {
                table.set_entry(start, 2, 0);
                self.small[place] = true;
            }
            table.map(start + page * PAGE, gpa, flags);
        }
    }

    /// Where the leaf is, and what it says; the model of the tables is the tests' own walk.
    fn leaf(&self, address: u64) -> Option<(u64, u64, u64)> {
        let table = Table::at(&self.memory, self.root);
        let (gpa, value) = table.walk(address)?;
        let level = if value & entry::LARGE != 0 { 2 } else { 1 };
        Some((gpa, value, table.entry_at(address, level)?))
    }

    fn touch(&self, place: usize, page: u64, write: bool, ats: bool) {
        self.binding.flush(&Invalidation::all()).expect("flushed");
        let address = PLACES[place] + page * PAGE + 16;
        let before = self.leaf(address);
        let allowed = before.is_some_and(|(gpa, value, _)| {
            let stage2 = match gpa {
                0..MEMORY => true,
                gpa if (READ_ONLY..READ_ONLY + LARGE).contains(&gpa) => !write,
                _ => false,
            };
            let stage1 = value & entry::USER != 0 && (!write || value & entry::WRITE != 0);
            stage1 && stage2
        });
        let mark = (address ^ 0x5a5a).to_le_bytes();
        let mut dma = if write {
            Dma::write(Iova(address), &mark)
        } else {
            Dma::read(Iova(address), 8)
        };
        dma = dma.at(self.binding.pasid());
        if !ats {
            dma = dma.no_ats();
        }
        let end = self.device.run(dma.no_page_requests(), Duration::ZERO);
        let end = end.expect("a DMA").expect("its end");
        match (before, allowed) {
            (Some((gpa, value, at)), true) => {
                let now = if gpa < MEMORY {
                    self.memory.read_u64(gpa)
                } else {
                    self.read_only.load(gpa - READ_ONLY)
                };
                if write {
                    assert_eq!(end, DmaEnd::Done(Vec::new()));
                    assert_eq!(now.to_le_bytes(), mark);
                } else {
                    assert_eq!(end, DmaEnd::Done(now.to_le_bytes().to_vec()));
                }
                let bits = if write { BITS } else { entry::ACCESSED };
                assert_eq!(self.memory.read_u64(at), value | bits, "the entry after");
            }
            (Some((_, value, at)), false) => {
                assert_eq!(end, DmaEnd::NoAccess(Iova(address)));
                assert_eq!(self.memory.read_u64(at), value, "the entry is as it was");
            }
            (None, _) => assert_eq!(end, DmaEnd::NoAccess(Iova(address))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn walk_gives_what_the_model_gives(steps in prop::collection::vec(steps(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Map { place, page, target, flags, large } => {
                    world.map(place, page, target, flags, large);
                }
                Step::Touch { place, page, write, ats } => world.touch(place, page, write, ats),
            }
        }
    }
}
