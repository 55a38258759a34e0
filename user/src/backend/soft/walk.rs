// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk of a stage-1 table in guest memory (VT-d 4.1, 3.6, 3.8, 9.7).

use super::memory::{Page, Stage2, PAGE};
use crate::nesting::Stage1Table;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXTENDED_ACCESSED: u64 = 1 << 10;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An entry that others change so often in a row is given up, as by hardware.
const TRIES: usize = 64;

/// What a device wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) privileged: bool,
}

/// What the entries so far allow.
#[derive(Clone, Copy)]
struct Rights {
    user: bool,
    write: bool,
}

/// A place in a table, and what is in it.
struct Entry {
    page: Page,
    offset: usize,
    value: u64,
}

impl Entry {
    fn read(stage2: &Stage2, gpa: u64) -> Option<Self> {
        let page = stage2.page(gpa).filter(|page| page.read)?;
        let offset = page.offset.checked_add((gpa % PAGE) as usize)?;
        let value = page.memory.load(offset)?;
        Some(Self {
            page,
            offset,
            value,
        })
    }

    /// Sets bits: false if the entry has changed, `None` if it cannot be written.
    fn set(&self, bits: u64) -> Option<bool> {
        if self.value & bits == bits {
            return Some(true);
        }
        let page = Some(&self.page).filter(|page| page.write)?;
        page.memory
            .replace(self.offset, self.value, self.value | bits)
    }
}

fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

fn reserved(value: u64, level: u32, leaf: bool) -> bool {
    let large_above = level >= 4 && value & LARGE != 0;
    // Bit 12 of a large page is PAT.
    let low = (1u64 << shift(level)) - 1;
    large_above || (leaf && level > 1 && value & low & !0x1fff != 0)
}

/// Why a request is stopped (VT-d 4.1, 7.1.3, in scalable mode).
pub(super) mod reason {
    /// The PASID has no table.
    pub(in super::super) const NO_PASID_ENTRY: u32 = 0x59;
    /// A supervisor's request where the PASID allows none.
    pub(super) const NO_SUPERVISOR: u32 = 0x5d;
    /// An entry of stage 1 is not present.
    pub(in super::super) const NOT_PRESENT: u32 = 0x71;
    /// It has reserved bits set.
    pub(super) const RESERVED: u32 = 0x72;
    /// It lies in memory that stage 2 does not let be read.
    pub(super) const ENTRY_NOT_READABLE: u32 = 0x76;
    /// Its accessed or dirty bit lies in memory that stage 2 does not let be written.
    pub(super) const ENTRY_NOT_WRITABLE: u32 = 0x77;
    /// Stage 2 does not allow it.
    pub(in super::super) const STAGE2: u32 = 0x79;
    /// The address is not canonical.
    pub(super) const NOT_CANONICAL: u32 = 0x80;
    /// A user's request for a supervisor's page.
    pub(super) const NOT_USER: u32 = 0x81;
    /// A write to what is read-only.
    pub(in super::super) const NOT_WRITABLE: u32 = 0x85;
    /// A read of what is write-only.
    pub(in super::super) const NOT_READABLE: u32 = 0x86;
}

/// The page of 4 KiB that `address` leads to, if the table allows the access; what else it allows
/// is in the page. Writing is only allowed with the dirty bit set.
///
/// # Errors
///
/// The [`reason`].
pub(super) fn walk(
    stage2: &Stage2,
    table: &Stage1Table,
    address: u64,
    access: Access,
) -> Result<Page, u32> {
    let bits = table.width.bits();
    let unused = 64 - bits;
    // CAST: to spread the sign bit.
    let canonical = ((address << unused) as i64 >> unused) as u64 == address;
    if access.privileged && !table.supervisor {
        return Err(reason::NO_SUPERVISOR);
    }
    if !canonical {
        return Err(reason::NOT_CANONICAL);
    }
    let mut rights = Rights {
        user: true,
        write: true,
    };
    let mut at = table.root.0 & ADDRESS;
    for level in (1..=(bits - 12) / 9).rev() {
        let gpa = at + 8 * ((address >> shift(level)) & 0x1ff);
        match step(stage2, table, gpa, address, level, rights, access)? {
            Step::Table(next, now) => (at, rights) = (next, now),
            Step::Leaf(page) => return Ok(page),
        }
    }
    // The last level has leaves only.
    Err(reason::NOT_PRESENT)
}

enum Step {
    Table(u64, Rights),
    Leaf(Page),
}

fn step(
    stage2: &Stage2,
    table: &Stage1Table,
    gpa: u64,
    address: u64,
    level: u32,
    rights: Rights,
    access: Access,
) -> Result<Step, u32> {
    let accessed = if table.extended_accessed {
        ACCESSED | EXTENDED_ACCESSED
    } else {
        ACCESSED
    };
    for _ in 0..TRIES {
        let entry = Entry::read(stage2, gpa).ok_or(reason::ENTRY_NOT_READABLE)?;
        let leaf = level == 1 || (level <= 3 && entry.value & LARGE != 0);
        if entry.value & PRESENT == 0 {
            return Err(reason::NOT_PRESENT);
        }
        if reserved(entry.value, level, leaf) {
            return Err(reason::RESERVED);
        }
        let now = Rights {
            user: rights.user && entry.value & USER != 0,
            write: rights.write && entry.value & WRITE != 0,
        };
        if !leaf {
            if entry.set(accessed).ok_or(reason::ENTRY_NOT_WRITABLE)? {
                return Ok(Step::Table(entry.value & ADDRESS, now));
            }
            continue;
        }
        let writable = now.write || (access.privileged && !table.write_protect);
        if !access.privileged && !now.user {
            return Err(reason::NOT_USER);
        }
        if access.write && !writable {
            return Err(reason::NOT_WRITABLE);
        }
        let mask = (1 << shift(level)) - 1;
        let target = (entry.value & ADDRESS & !mask) | (address & mask);
        let page = stage2.page(target).ok_or(reason::STAGE2)?;
        if (access.write && !page.write) || (access.read && !page.read) {
            return Err(reason::STAGE2);
        }
        let bits = if access.write {
            accessed | DIRTY
        } else {
            accessed
        };
        if entry.set(bits).ok_or(reason::ENTRY_NOT_WRITABLE)? {
            let dirty = (entry.value | bits) & DIRTY != 0;
            return Ok(Step::Leaf(Page {
                write: page.write && writable && dirty,
                ..page
            }));
        }
    }
    // It changes again and again.
    Err(reason::NOT_PRESENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Mapping;
    use crate::sys::memory::SharedMemory;
    use crate::types::{AddressWidth, Gpa, Iova, IovaRange, MapAccess};

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
        table: Stage1Table,
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
            let table = Stage1Table {
                width,
                ..Stage1Table::four_level(Gpa(root))
            };
            Self {
                memory,
                stage2,
                table,
            }
        }

        fn walk(&self, address: u64, access: Access) -> Option<(usize, bool)> {
            let page = walk(&self.stage2, &self.table, address, access).ok()?;
            Some((page.offset, page.write))
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
}
