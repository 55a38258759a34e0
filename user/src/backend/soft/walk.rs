// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk of a table through stage 2, tested.

use super::memory::{Stage2, PAGE};
use crate::context::Mapping;
use crate::nesting::GuestTable;
use crate::sys::memory::SharedMemory;
use crate::types::{AddressWidth, Gpa, Iova, IovaRange, MapAccess};
use crate::walk::{walk, Access};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXTENDED_ACCESSED: u64 = 1 << 10;

const READ: Access = Access {
    read: true,
    write: false,
    privileged: false,
};
const WRITES: Access = Access {
    read: false,
    write: true,
    privileged: false,
};
const RW: u64 = PRESENT | WRITE | USER;
/// Index 1 at each level.
const VA: u64 = 1 << 48 | 1 << 39 | 1 << 30 | 1 << 21 | 1 << 12;

/// Tables of level n at page n, from level 5 at 0x5000 down; the last page is at 0x9000.
struct World {
    memory: SharedMemory,
    stage2: Stage2,
    table: GuestTable,
}

impl World {
    fn new(width: AddressWidth) -> Self {
        let memory = SharedMemory::new(c"walk", 4 << 20).expect("memory");
        let mut stage2 = Stage2::default();
        let range = IovaRange::sized(Iova(0), 4 << 20).expect("a range");
        let mapping = Mapping {
            memory: &memory,
            offset: 0,
            range,
            access: MapAccess::ReadWrite,
        };
        stage2.map(&mapping).expect("a mapping");
        for level in 2..=5u64 {
            memory.store(level * PAGE + 8, ((level - 1) * PAGE) | RW);
        }
        memory.store(PAGE + 8, 0x9000 | RW);
        let root = match width {
            AddressWidth::Bits48 => 4 * PAGE,
            AddressWidth::Bits57 => 5 * PAGE,
        };
        let table = GuestTable {
            width,
            ..GuestTable::four_level(Gpa(root))
        };
        Self {
            memory,
            stage2,
            table,
        }
    }

    fn walk(&self, address: u64, access: Access) -> Option<(usize, bool)> {
        let leaf = walk(&self.stage2, &self.table, address, access).ok()?;
        let page = self.stage2.page(leaf.address)?;
        Some((page.offset, page.write && leaf.write))
    }

    fn four() -> (Self, u64) {
        (Self::new(AddressWidth::Bits48), VA & !(1 << 48))
    }
}

#[test]
fn walk_of_four_and_five_levels_sets_accessed_then_dirty() {
    let (four, va4) = World::four();
    let five = World::new(AddressWidth::Bits57);
    for (world, va) in [(&four, va4), (&five, VA)] {
        assert_eq!(world.walk(va + 0x123, READ), Some((0x9000, false)));
        assert_eq!(world.memory.load(PAGE + 8), 0x9000 | RW | ACCESSED);
        assert_eq!(world.walk(va, WRITES), Some((0x9000, true)));
        assert_eq!(world.memory.load(PAGE + 8), 0x9000 | RW | ACCESSED | DIRTY);
        assert_eq!(world.walk(va, READ), Some((0x9000, true)));
        assert_eq!(world.walk(va + PAGE, READ), None);
    }
    assert_eq!(four.memory.load(5 * PAGE + 8) & ACCESSED, 0);
    assert_ne!(five.memory.load(5 * PAGE + 8) & ACCESSED, 0);
}

#[test]
fn walk_of_addresses_that_are_not_canonical_ends() {
    let (world, va) = World::four();
    assert_eq!(world.walk(va | 1 << 48, READ), None);
    assert_eq!(world.walk(va | 0xffff << 48, READ), None);
    let five = World::new(AddressWidth::Bits57);
    assert_eq!(five.walk(VA | 1 << 57, READ), None);
}

#[test]
fn walk_intersects_the_rights_of_all_levels_and_of_stage_2() {
    for level in 1..=4u64 {
        let (world, va) = World::four();
        let at = level * PAGE + 8;
        let value = world.memory.load(at);
        world.memory.store(at, value & !WRITE);
        assert_eq!(world.walk(va, WRITES), None, "level {level}");
        assert_eq!(world.walk(va, READ), Some((0x9000, false)));
        world.memory.store(at, value & !USER);
        assert_eq!(world.walk(va, READ), None, "level {level}");
        world.memory.store(at, value & !PRESENT);
        assert_eq!(world.walk(va, READ), None, "level {level}");
    }
    let (mut world, va) = World::four();
    let mapping = Mapping {
        memory: &world.memory,
        offset: 0,
        range: IovaRange::sized(Iova(1 << 30), PAGE).expect("a range"),
        access: MapAccess::Read,
    };
    world.stage2.map(&mapping).expect("a mapping");
    world.memory.store(PAGE + 8, 1 << 30 | RW | DIRTY);
    assert_eq!(world.walk(va, WRITES), None);
    assert_eq!(world.walk(va, READ), Some((0, false)));
    world.memory.store(PAGE + 8, 1 << 31 | RW);
    assert_eq!(world.walk(va, READ), None);
}

#[test]
fn walk_of_large_and_huge_pages() {
    let (world, va) = World::four();
    world.memory.store(2 * PAGE + 8, 0x20_0000 | RW | LARGE);
    assert_eq!(
        world.walk(va | 0x4_4000, READ),
        Some((0x20_0000 + 0x4_5000, false))
    );
    world.memory.store(2 * PAGE + 8, 0x20_2000 | RW | LARGE);
    assert_eq!(world.walk(va, READ), None, "a reserved bit");
    world.memory.store(2 * PAGE + 8, 0x20_1000 | RW | LARGE);
    assert_eq!(
        world.walk(va, READ),
        Some((0x20_1000, false)),
        "PAT is no address"
    );
    world.memory.store(3 * PAGE + 8, RW | LARGE);
    assert_eq!(world.walk(va, READ), Some((0x20_1000, false)));
    world.memory.store(4 * PAGE + 8, RW | LARGE);
    assert_eq!(world.walk(va, READ), None, "no page of 512 GiB");
}

#[test]
fn walk_by_supervisors_needs_sre_and_obeys_wpe() {
    let (mut world, va) = World::four();
    let privileged = |access| Access {
        privileged: true,
        ..access
    };
    world.memory.store(PAGE + 8, 0x9000 | PRESENT);
    assert_eq!(world.walk(va, privileged(READ)), None);
    world.table.supervisor = true;
    assert_eq!(world.walk(va, privileged(READ)), Some((0x9000, false)));
    assert_eq!(world.walk(va, READ), None);
    assert_eq!(world.walk(va, privileged(WRITES)), Some((0x9000, true)));
    world.table.write_protect = true;
    assert_eq!(world.walk(va, privileged(WRITES)), None);
}

#[test]
fn walk_with_extended_accessed_sets_its_bit() {
    let (mut world, va) = World::four();
    world.table.extended_accessed = true;
    assert!(world.walk(va, READ).is_some());
    for level in 1..=4 {
        let value = world.memory.load(level * PAGE + 8);
        assert_ne!(value & EXTENDED_ACCESSED, 0, "level {level}");
    }
}
