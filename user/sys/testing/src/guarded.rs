// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes with nothing behind them: a kernel that goes one byte too far gets EFAULT.

use host_iommu_sys::memory::Mapping;
use host_iommu_sys::{Errno, Result};

/// Bytes that end where a page ends, before a page that nobody may access.
#[derive(Debug)]
pub struct Guarded {
    mapping: Mapping,
    /// Bytes before the guard.
    room: usize,
    len: usize,
}

impl Guarded {
    const PAGE: usize = 4096;

    /// A copy of `bytes`.
    ///
    /// # Errors
    ///
    /// Those of mmap and mprotect.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let room = bytes
            .len()
            .checked_next_multiple_of(Self::PAGE)
            .ok_or(Errno::ENOMEM)?;
        let total = room.checked_add(Self::PAGE).ok_or(Errno::ENOMEM)?;
        let mapping = Mapping::new(
            total,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            None,
        )?;
        let guard = mapping.start().wrapping_add(room).cast();
        // SAFETY: the last page of our own mapping, into which there is no reference.
        let value = unsafe { libc::mprotect(guard, Self::PAGE, libc::PROT_NONE) };
        Errno::result(value)?;
        let len = 0;
        let mut guarded = Self { mapping, room, len };
        guarded.replace(bytes);
        Ok(guarded)
    }

    /// Puts other bytes in the place of those that are here; false if there is no room.
    pub fn replace(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room {
            return false;
        }
        self.len = bytes.len();
        let start = self.mapping.start();
        let to = start.wrapping_add(self.room - self.len);
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: the bytes before the guard are mapped writable, and `bytes` fits there.
            unsafe { to.wrapping_add(index).write_volatile(*byte) };
        }
        true
    }

    fn start(&self) -> u64 {
        (self.room - self.len) as u64
    }

    /// The address of the first byte.
    pub fn address(&self) -> u64 {
        (self.mapping.start().expose_provenance() as u64).wrapping_add(self.start())
    }

    /// The address of the guard: no access from here on.
    pub fn end(&self) -> u64 {
        self.address().wrapping_add(self.len as u64)
    }

    /// Copies the first bytes out, as many as `to` has room for.
    pub fn copy_to(&self, to: &mut [u8]) {
        for (index, byte) in (0u64..).zip(to.iter_mut().take(self.len)) {
            let from = self.mapping.place::<u8>(self.start().wrapping_add(index));
            // SAFETY: `place` checked that the byte is in the mapping, and it is before the
            // guard since `index` is below `len`.
            *byte = unsafe { from.read_volatile() };
        }
    }
}
