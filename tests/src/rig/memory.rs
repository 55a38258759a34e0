// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of the tests, and what shows that nobody wrote it.

use super::{GUEST_BASE, GUEST_SIZE};
use crate::ktap::Outcome;
use crate::memory::{GuestMemory, PAGE};
use crate::stage1::{entry, LEVELS};
use host_iommu_sys::Result;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;

/// Memory that can be mapped for a device.
#[derive(Debug)]
pub struct Memory(GuestMemory);

impl Deref for Memory {
    type Target = GuestMemory;

    fn deref(&self) -> &GuestMemory {
        &self.0
    }
}

impl Memory {
    /// `size` bytes, addressed from zero.
    pub fn new(size: u64) -> Result<Self> {
        GuestMemory::new(0, size).map(Self)
    }

    /// `size` bytes in pages of 2^`page_shift` bytes, addressed from zero.
    pub fn huge(size: u64, page_shift: u32) -> Result<Self> {
        GuestMemory::huge(0, size, page_shift).map(Self)
    }

    /// `size` bytes from GPA `base` on.
    pub fn at(base: u64, size: u64) -> Result<Self> {
        GuestMemory::new(base, size).map(Self)
    }

    /// A rig's memory.
    pub(crate) fn guest() -> Result<Self> {
        GuestMemory::new(GUEST_BASE, GUEST_SIZE).map(Self)
    }

    /// Where it is in this process.
    pub fn address(&self) -> u64 {
        self.host_address()
    }

    /// Takes the memory behind `size` away: an access there is SIGBUS, and EFAULT in a call.
    pub fn truncate(&self, size: u64) -> io::Result<()> {
        self.shared().file().set_len(size)
    }

    /// Unmaps the memory from the process and keeps its file.
    pub fn into_file(self) -> io::Result<File> {
        self.shared().file().try_clone()
    }

    /// Reads a u32.
    pub fn read_u32(&self, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.read(gpa, 4));
        u32::from_le_bytes(bytes)
    }

    /// A free range of that size at a multiple of it.
    pub fn alloc_aligned(&self, size: u64) -> u64 {
        self.alloc(size, size)
    }

    /// All bytes.
    pub fn snapshot(&self) -> Outcome<Snapshot> {
        let mut bytes = vec![0; self.size() as usize];
        self.shared().file().read_exact_at(&mut bytes, 0)?;
        Ok(Snapshot {
            base: self.base(),
            bytes,
        })
    }

    /// The pages of the table at `root`. The hardware sets A and D in them.
    pub fn table_pages(&self, root: u64) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        self.add_table_pages(root, LEVELS, &mut pages);
        pages
    }

    fn add_table_pages(&self, table: u64, level: u32, pages: &mut BTreeSet<u64>) {
        let inside = table >= self.base() && table < self.base() + self.size();
        if !inside || !pages.insert(table) || level == 1 {
            return;
        }
        for index in 0..512 {
            let value = self.read_u64(table + index * 8);
            let leaf = level < LEVELS && value & entry::LARGE != 0;
            if value & entry::PRESENT != 0 && !leaf {
                self.add_table_pages(value & entry::ADDRESS, level - 1, pages);
            }
        }
    }
}

/// Memory as it was.
#[derive(Debug)]
pub struct Snapshot {
    base: u64,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// Expects `memory` as it was, but for the pages in `but`.
    #[track_caller]
    pub fn expect_unchanged(&self, memory: &Memory, but: &BTreeSet<u64>, what: &str) {
        let now = match memory.snapshot() {
            Ok(now) => now,
            Err(error) => panic!("{what}: {error:?}"),
        };
        let size = PAGE as usize;
        for (index, (old, new)) in self
            .bytes
            .chunks(size)
            .zip(now.bytes.chunks(size))
            .enumerate()
        {
            let gpa = self.base + index as u64 * PAGE;
            assert!(
                old == new || but.contains(&gpa),
                "{what}: the page at {gpa:#x} was written"
            );
        }
    }
}

/// Memory of the process that no device was ever given.
#[derive(Debug)]
pub struct Canary(Memory);

impl Canary {
    const MARK: u8 = 0xc5;
    const SIZE: u64 = 16 * PAGE;

    /// A new one.
    pub fn new() -> Result<Self> {
        let memory = Memory::new(Self::SIZE)?;
        memory.fill(0, Self::SIZE, Self::MARK);
        Ok(Self(memory))
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Expects it untouched.
    #[track_caller]
    pub fn check(&self, what: &str) {
        let bytes = self.0.read(0, Self::SIZE);
        assert!(
            bytes.iter().all(|&byte| byte == Self::MARK),
            "{what}: memory that is no device's was written"
        );
    }
}
