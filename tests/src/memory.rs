// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest memory: bytes by guest-physical address (GPA), given out page by page.

use host_iommu_sys::memory::SharedMemory;
use host_iommu_sys::Result;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a small page.
pub const PAGE: u64 = 4096;

/// Guest memory at `base..base + size`.
///
/// Pages are given out upwards and never taken back. The memory is shared over fork.
///
/// # Panics
///
/// Every access panics outside the memory: a test that does so is wrong.
#[derive(Debug)]
pub struct GuestMemory {
    memory: SharedMemory,
    base: u64,
    size: u64,
    next: AtomicU64,
}

impl GuestMemory {
    /// `size` bytes of zeroes from `base` on, both multiples of a page.
    ///
    /// # Errors
    ///
    /// Those of memfd_create and mmap.
    pub fn new(base: u64, size: u64) -> Result<Self> {
        Self::with(base, size, |len| SharedMemory::new(c"guest-memory", len))
    }

    /// The same in pages of 2^`page_shift` bytes.
    ///
    /// # Errors
    ///
    /// ENOMEM if the system has not set so many aside.
    pub fn huge(base: u64, size: u64, page_shift: u32) -> Result<Self> {
        Self::with(base, size, |len| {
            SharedMemory::huge(c"guest-memory", len, page_shift)
        })
    }

    fn with(
        base: u64,
        size: u64,
        make: impl FnOnce(usize) -> Result<SharedMemory>,
    ) -> Result<Self> {
        let len = usize::try_from(size).map_err(|_| crate::Errno::EOVERFLOW)?;
        base.checked_add(size).ok_or(crate::Errno::EOVERFLOW)?;
        Ok(Self {
            memory: make(len)?,
            base,
            size,
            next: AtomicU64::new(0),
        })
    }

    /// The memory itself.
    pub fn shared(&self) -> &SharedMemory {
        &self.memory
    }

    /// The lowest GPA.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The address of the first byte in this process.
    pub fn host_address(&self) -> u64 {
        self.memory.address()
    }

    /// A page that was not given out yet.
    #[track_caller]
    pub fn alloc_page(&self) -> u64 {
        self.alloc(PAGE, PAGE)
    }

    /// `size` bytes, at a multiple of `align`, a power of two.
    #[track_caller]
    pub fn alloc(&self, size: u64, align: u64) -> u64 {
        let place = |next: u64| {
            let gpa = self
                .base
                .checked_add(next)?
                .checked_next_multiple_of(align)?;
            let end = gpa.checked_sub(self.base)?.checked_add(size)?;
            (end <= self.size).then_some((gpa, end))
        };
        let result = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                place(next).map(|(_, end)| end)
            });
        match result.ok().and_then(place) {
            Some((gpa, _)) => gpa,
            None => panic!("no {size:#x} bytes of guest memory are left"),
        }
    }

    /// Bytes from `gpa` on.
    #[track_caller]
    pub fn read(&self, gpa: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.memory.read(self.offset(gpa), &mut bytes);
        bytes
    }

    /// Writes bytes from `gpa` on.
    #[track_caller]
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        self.memory.write(self.offset(gpa), bytes);
    }

    /// Sets bytes from `gpa` on.
    #[track_caller]
    pub fn fill(&self, gpa: u64, len: u64, value: u8) {
        self.memory.fill(self.offset(gpa), len as usize, value);
    }

    /// Reads a u64 as one access.
    #[track_caller]
    pub fn read_u64(&self, gpa: u64) -> u64 {
        self.memory.load(self.offset(gpa))
    }

    /// Writes a u64 as one access.
    #[track_caller]
    pub fn write_u64(&self, gpa: u64, value: u64) {
        self.memory.store(self.offset(gpa), value);
    }

    #[track_caller]
    fn offset(&self, gpa: u64) -> u64 {
        match gpa.checked_sub(self.base) {
            Some(offset) => offset,
            None => panic!("GPA {gpa:#x} is below guest memory"),
        }
    }
}

/// 64-bit FNV-1a, as the endpoint computes its checksums.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alloc_gives_disjoint_aligned_ranges() -> Result<()> {
        let memory = GuestMemory::new(0x10_0000, 0x40_0000)?;
        let first = memory.alloc_page();
        let large = memory.alloc(0x20_0000, 0x20_0000);
        let after = memory.alloc_page();
        assert_eq!(first, 0x10_0000);
        assert_eq!(large, 0x20_0000);
        assert_eq!(after, 0x40_0000);
        Ok(())
    }

    #[test]
    #[should_panic(expected = "no 0x1000 bytes")]
    fn alloc_beyond_the_end_panics() {
        let memory = GuestMemory::new(0, PAGE).expect("a page of memory");
        memory.alloc_page();
        memory.alloc_page();
    }

    #[test]
    fn fnv1a_of_known_bytes_is_the_published_value() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
