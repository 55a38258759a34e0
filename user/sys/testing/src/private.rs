// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process's own memory, and the calls that change what is mapped there: for devices that share the
//! process's addresses.

use host_iommu_sys::memory::Mapping;
use host_iommu_sys::{Errno, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// What the kernel is told about pages (madvise).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Their contents are not needed any more: they read as zeros.
    DontNeed,
    /// They are to be swapped out.
    PageOut,
    /// They are to be huge.
    HugePages,
}

/// Anonymous memory of this process.
///
/// Others, such as devices, may write it at any time. Accesses are atomic, in no order that others
/// could rely on.
///
/// # Panics
///
/// Each access panics beyond the end or off its alignment, like an index of a slice.
#[derive(Debug)]
pub struct PrivateMemory(Mapping);

impl PrivateMemory {
    /// `len` bytes of zeros, taken from the system as they are touched.
    ///
    /// # Errors
    ///
    /// Those of mmap.
    pub fn new(len: usize) -> Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        Ok(Self(Self::reserve(len, prot)?))
    }

    fn reserve(len: usize, prot: i32) -> Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Mapping::new(len, prot, flags, None)
    }

    /// The address of the first byte.
    pub fn address(&self) -> u64 {
        self.0.start().expose_provenance() as u64
    }

    /// Reads a u64.
    #[track_caller]
    pub fn load(&self, offset: u64) -> u64 {
        self.atomic(offset).load(Ordering::Acquire)
    }

    /// Writes a u64. The process is killed if [`PrivateMemory::protect`] has forbidden it.
    #[track_caller]
    pub fn store(&self, offset: u64, value: u64) {
        self.atomic(offset).store(value, Ordering::Release);
    }

    #[track_caller]
    fn atomic(&self, offset: u64) -> &AtomicU64 {
        let pointer = self.0.place::<u64>(offset);
        // SAFETY: `place` checked that the u64 is mapped, for as long as `self`, and aligned.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// Allows or forbids writes to all of it.
    ///
    /// # Errors
    ///
    /// Those of mprotect.
    pub fn protect(&self, writable: bool) -> Result<()> {
        let write = if writable { libc::PROT_WRITE } else { 0 };
        let prot = libc::PROT_READ | write;
        // SAFETY: the range is the mapping's own, and stays readable. Who writes it is killed.
        let value = unsafe { libc::mprotect(self.0.start().cast(), self.0.size(), prot) };
        Errno::result(value).map(drop)
    }

    /// Tells the kernel about `len` bytes at `offset`, both multiples of a page.
    ///
    /// # Errors
    ///
    /// Those of madvise, and EINVAL for what is not all in the memory.
    pub fn advise(&self, offset: u64, len: usize, advice: Advice) -> Result<()> {
        let advice = match advice {
            Advice::DontNeed => libc::MADV_DONTNEED,
            Advice::PageOut => libc::MADV_PAGEOUT,
            Advice::HugePages => libc::MADV_HUGEPAGE,
        };
        let start = self.0.at(offset, len).ok_or(Errno::EINVAL)?;
        // SAFETY: the range is part of the mapping, which holds plain bytes: any others may be there.
        let value = unsafe { libc::madvise(start.cast(), len, advice) };
        Errno::result(value).map(drop)
    }

    /// The same memory at another address; at the old one nothing is left.
    ///
    /// # Errors
    ///
    /// Those of mmap and mremap; the memory is gone then.
    pub fn moved(self) -> Result<Self> {
        let to = Self::reserve(self.0.size(), libc::PROT_NONE)?;
        let (old, new) = (self.0.start(), to.start());
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are mappings of ours, of the same size. The old one has no references
        // into it, for `self` is consumed.
        let moved = unsafe {
            libc::mremap(
                old.cast(),
                self.0.size(),
                to.size(),
                flags,
                new.cast::<u8>(),
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // The kernel has unmapped the old range, which may be somebody else's by now.
        std::mem::forget(self);
        Ok(Self(to))
    }
}
