// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stage-1 page tables in guest memory, in the format of VT-d 4.1, 9.5 and 9.6 (which is that of
//! the CPU's): four levels, leaves of 4 KiB, 2 MiB and 1 GiB.
//!
//! Tables hold guest-physical addresses: stage 2 translates them.

use crate::memory::{GuestMemory, PAGE};

/// Bits of an entry.
pub mod entry {
    /// P: there is something.
    pub const PRESENT: u64 = 1 << 0;
    /// R/W: writes are allowed.
    pub const WRITE: u64 = 1 << 1;
    /// U/S: user requests are allowed; a request by PASID is one unless it says "privileged".
    pub const USER: u64 = 1 << 2;
    /// A: set by the hardware when it uses the entry.
    pub const ACCESSED: u64 = 1 << 5;
    /// D, in leaves: set by the hardware when it writes.
    pub const DIRTY: u64 = 1 << 6;
    /// PS: the entry of level 2 or 3 is a leaf.
    pub const LARGE: u64 = 1 << 7;
    /// EA: extended accessed, where the binding enables it.
    pub const EXTENDED_ACCESSED: u64 = 1 << 10;
    /// XD: no instruction fetches.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The address in an entry.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// User may read.
    pub const R: u64 = PRESENT | USER;
    /// User may read and write.
    pub const RW: u64 = PRESENT | USER | WRITE;
}

/// Size of a page by the level of its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB, level 1.
    Small,
    /// 2 MiB, level 2.
    Large,
    /// 1 GiB, level 3.
    Huge,
}

impl PageSize {
    /// Level of the leaf: 1 to 3.
    pub fn level(self) -> u32 {
        match self {
            Self::Small => 1,
            Self::Large => 2,
            Self::Huge => 3,
        }
    }

    /// Bytes.
    pub fn bytes(self) -> u64 {
        1 << shift(self.level())
    }
}

/// Levels of a 4-level table.
pub const LEVELS: u32 = 4;

fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

fn index(address: u64, level: u32) -> u64 {
    (address >> shift(level)) & 0x1ff
}

/// A 4-level table in guest memory.
///
/// Tables are taken from the memory's allocator and stay there. Nothing invalidates: that is what
/// the tests are about.
#[derive(Clone, Copy, Debug)]
pub struct Table<'m> {
    memory: &'m GuestMemory,
    root: u64,
}

impl<'m> Table<'m> {
    /// An empty table.
    pub fn new(memory: &'m GuestMemory) -> Self {
        Self {
            memory,
            root: memory.alloc_page(),
        }
    }

    /// The table whose level-4 page is at `root`.
    pub fn at(memory: &'m GuestMemory, root: u64) -> Self {
        Self { memory, root }
    }

    /// GPA of the level-4 page: what a binding names.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Maps the 4 KiB page at `address` to `gpa`, with `flags` such as [`entry::RW`].
    #[track_caller]
    pub fn map(&self, address: u64, gpa: u64, flags: u64) {
        self.map_sized(address, gpa, flags, PageSize::Small);
    }

    /// Maps a page of any size.
    ///
    /// # Panics
    ///
    /// If an address is not the page's first, or `gpa` does not fit an entry.
    #[track_caller]
    pub fn map_sized(&self, address: u64, gpa: u64, flags: u64, size: PageSize) {
        let misplaced = (address | gpa) & (size.bytes() - 1) != 0 || gpa & !entry::ADDRESS != 0;
        assert!(!misplaced, "{address:#x} to {gpa:#x} is no {size:?} page");
        let large = if size == PageSize::Small {
            0
        } else {
            entry::LARGE
        };
        self.set_entry(address, size.level(), gpa | flags | large);
    }

    /// Clears the 4 KiB entry of `address`; the tables above stay.
    pub fn unmap(&self, address: u64) {
        self.set_entry(address, 1, 0);
    }

    /// Writes the entry for `address` at `level` as it is, with the tables above made where they
    /// are missing.
    ///
    /// # Panics
    ///
    /// If there is a leaf above.
    #[track_caller]
    pub fn set_entry(&self, address: u64, level: u32, value: u64) {
        let mut table = self.root;
        for above in (level + 1..=LEVELS).rev() {
            let at = table + 8 * index(address, above);
            let mut present = self.memory.read_u64(at);
            if present & entry::PRESENT == 0 {
                present = self.memory.alloc_page() | entry::RW;
                self.memory.write_u64(at, present);
            }
            assert!(
                above == LEVELS || present & entry::LARGE == 0,
                "{address:#x} has a leaf at level {above}"
            );
            table = present & entry::ADDRESS;
        }
        self.memory
            .write_u64(table + 8 * index(address, level), value);
    }

    /// GPA of the entry for `address` at `level`, if the tables above are there.
    pub fn entry_at(&self, address: u64, level: u32) -> Option<u64> {
        let mut table = self.root;
        for above in (level + 1..=LEVELS).rev() {
            let value = self.memory.read_u64(table + 8 * index(address, above));
            if value & entry::PRESENT == 0 || (above < LEVELS && value & entry::LARGE != 0) {
                return None;
            }
            table = value & entry::ADDRESS;
        }
        Some(table + 8 * index(address, level))
    }

    /// The entry for `address` at `level`, if the tables above are there.
    pub fn entry(&self, address: u64, level: u32) -> Option<u64> {
        self.entry_at(address, level)
            .map(|gpa| self.memory.read_u64(gpa))
    }

    /// Where `address` leads, as the hardware would walk: GPA and the leaf entry.
    pub fn walk(&self, address: u64) -> Option<(u64, u64)> {
        for level in (1..=LEVELS).rev() {
            let value = self.entry(address, level)?;
            if value & entry::PRESENT == 0 {
                return None;
            }
            if level == 1 || (level < LEVELS && value & entry::LARGE != 0) {
                let mask = (1 << shift(level)) - 1;
                return Some(((value & entry::ADDRESS & !mask) | (address & mask), value));
            }
        }
        None
    }

    /// Maps `len` bytes of consecutive small pages.
    #[track_caller]
    pub fn map_range(&self, address: u64, gpa: u64, len: u64, flags: u64) {
        for offset in (0..len).step_by(PAGE as usize) {
            self.map(address + offset, gpa + offset, flags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::new(0x8000_0000, 1 << 20).expect("a MiB of memory")
    }

    #[test]
    fn map_small_page_writes_one_entry_per_level() {
        let memory = memory();
        let table = Table::new(&memory);
        // Index 1 at level 4, 2 at level 3, 3 at level 2, 4 at level 1.
        let address = (1 << 39) | (2 << 30) | (3 << 21) | (4 << 12);

        table.map(address, 0x1234_5000, entry::RW);

        let level3 = memory.read_u64(table.root() + 8) & entry::ADDRESS;
        let level2 = memory.read_u64(level3 + 16) & entry::ADDRESS;
        let level1 = memory.read_u64(level2 + 24) & entry::ADDRESS;
        assert_eq!(memory.read_u64(level1 + 32), 0x1234_5007);
        assert_eq!(table.entry_at(address, 1), Some(level1 + 32));
        assert_eq!(
            table.walk(address + 0x18).map(|(gpa, _)| gpa),
            Some(0x1234_5018)
        );
        assert_eq!(table.walk(address + PAGE), None);
    }

    #[test]
    fn map_large_and_huge_pages_set_the_size_bit() {
        let memory = memory();
        let table = Table::new(&memory);
        table.map_sized(0x4000_0000, 0x1_c000_0000, entry::R, PageSize::Huge);
        table.map_sized(0x20_0000, 0x60_0000, entry::RW, PageSize::Large);
        assert_eq!(table.entry(0x4000_0000, 3), Some(0x1_c000_0085));
        assert_eq!(table.entry(0x20_0000, 2), Some(0x60_0087));
        assert_eq!(
            table.walk(0x4012_3456).map(|(gpa, _)| gpa),
            Some(0x1_c012_3456)
        );
        assert_eq!(table.walk(0x2f_ffff).map(|(gpa, _)| gpa), Some(0x6f_ffff));
        assert_eq!(table.entry(0x20_0000, 1), None);
    }

    #[test]
    #[should_panic(expected = "no Large page")]
    fn map_large_page_off_its_alignment_panics() {
        let memory = memory();
        Table::new(&memory).map_sized(0x20_1000, 0, entry::RW, PageSize::Large);
    }

    #[test]
    fn unmap_clears_the_leaf_alone() {
        let memory = memory();
        let table = Table::new(&memory);
        table.map_range(0x1000, 0x8000, 2 * PAGE, entry::RW);
        table.unmap(0x1000);
        assert_eq!(table.walk(0x1000), None);
        assert_eq!(table.walk(0x2000).map(|(gpa, _)| gpa), Some(0x9000));
    }
}
