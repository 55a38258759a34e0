// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that somebody else writes too: a guest's, and a device's registers.

use super::{take_fd, Errno, Result};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};

/// Memory that devices may be given.
///
/// # Safety
///
/// For as long as the value lives, the `len` bytes at `as_ptr` are mapped readable and writable,
/// and neither the value nor anybody else makes a Rust reference into them: whoever touches them
/// uses volatile or atomic accesses through raw pointers. When the value goes, the range is
/// unmapped and nothing else is put on its pages: devices may keep them, as they were when they
/// were given. A value that only borrows may go while the memory stays what it is.
pub unsafe trait DmaMemory {
    /// The first byte.
    fn as_ptr(&self) -> *mut u8;

    /// Number of bytes.
    fn len(&self) -> usize;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file that the memory maps, shared, and where in it the first byte is; `None` if it is no
    /// such mapping. For backends that map memory once more.
    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        None
    }
}

/// The first of `size` bytes at `offset` of `memory`; EINVAL for what is not all in it.
pub(super) fn part(memory: &(impl DmaMemory + ?Sized), offset: u64, size: u64) -> Result<*mut u8> {
    let end = offset.checked_add(size).ok_or(Errno::EINVAL)?;
    if usize::try_from(end).map_err(|_| Errno::EINVAL)? > memory.len() {
        return Err(Errno::EINVAL);
    }
    // CAST: below `memory.len()`.
    Ok(memory.as_ptr().wrapping_add(offset as usize))
}

/// `VFIO_IOMMU_MAP_DMA` of `size` bytes at `offset` of `memory` under `iova`.
///
/// # Errors
///
/// The call's own, and EINVAL for what is not all in `memory`.
pub fn map_dma_part(
    container: BorrowedFd<'_>,
    flags: u32,
    memory: &(impl DmaMemory + ?Sized),
    offset: u64,
    iova: u64,
    size: u64,
) -> Result<()> {
    let vaddr = part(memory, offset, size)?;
    // SAFETY: the range is part of `memory`, and `DmaMemory` is the promise that `map_dma` asks
    // for.
    unsafe { super::vfio::map_dma(container, flags, vaddr, iova, size) }
}

/// A range of addresses of the process, unmapped in the end.
///
/// # Invariants
///
/// `start` is the first of `len` bytes that this value alone has mapped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared mapping gives out raw pointers and numbers only.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(
        len: usize,
        prot: i32,
        flags: i32,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<Self> {
        let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset));
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: without MAP_FIXED the kernel picks addresses that nobody has.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        // INVARIANT: the mapping was just made.
        Ok(Self { start, len })
    }

    /// The first byte.
    #[cfg(feature = "raw")]
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    #[cfg(feature = "raw")]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of `size` bytes at `offset`, if they are in the mapping.
    pub(super) fn at(&self, offset: u64, size: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(size)?;
        (end <= self.len).then(|| self.start.as_ptr().wrapping_add(offset))
    }

    fn aligned<T>(&self, offset: u64) -> Option<*mut T> {
        let pointer = self.at(offset, size_of::<T>())?.cast::<T>();
        pointer.is_aligned().then_some(pointer)
    }

    /// As [`Mapping::aligned`].
    ///
    /// # Panics
    ///
    /// If there is no such place: like an index of a slice, it is the caller's to know.
    #[track_caller]
    pub(super) fn place<T>(&self, offset: u64) -> *mut T {
        match self.aligned(offset) {
            Some(pointer) => pointer,
            None => panic!(
                "offset {offset:#x} is unaligned or beyond the {:#x} bytes",
                self.len
            ),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: by the invariant the range is ours, and pointers into it do not outlive us.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A guest's memory: a memfd, mapped shared, so that it survives a fork as the same memory.
///
/// Threads may use it at the same time: bytes are read and written one by one, each atomically, in
/// no order that others could rely on; [`SharedMemory::load`] and [`SharedMemory::store`] are ordered.
///
/// # Panics
///
/// Each access panics beyond the end, and those of a u64 off its alignment, like an index of a
/// slice.
#[derive(Debug)]
pub struct SharedMemory {
    mapping: Mapping,
    file: File,
}

// SAFETY: the mapping lives as long as the value, and only volatile and atomic accesses are made.
unsafe impl DmaMemory for SharedMemory {
    fn as_ptr(&self) -> *mut u8 {
        self.mapping.start.as_ptr()
    }

    fn len(&self) -> usize {
        self.mapping.len
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        Some((self.file.as_fd(), 0))
    }
}

impl SharedMemory {
    /// `len` bytes of zeroes, taken from the system as they are touched.
    ///
    /// # Errors
    ///
    /// Those of memfd_create, ftruncate and mmap.
    pub fn new(name: &CStr, len: usize) -> Result<Self> {
        Self::with_flags(name, len, 0, libc::MAP_NORESERVE)
    }

    /// `len` bytes of zeroes in pages of 2^`page_shift` bytes, of those that the administrator
    /// set aside.
    ///
    /// # Errors
    ///
    /// Those of memfd_create, ftruncate and mmap: ENOMEM if too few are left.
    pub fn huge(name: &CStr, len: usize, page_shift: u32) -> Result<Self> {
        let shift = page_shift << libc::MFD_HUGE_SHIFT;
        Self::with_flags(name, len, libc::MFD_HUGETLB | shift, 0)
    }

    fn with_flags(name: &CStr, len: usize, memfd: u32, mmap: i32) -> Result<Self> {
        // SAFETY: the name is a NUL-terminated string, which is copied.
        let value = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | memfd) };
        let number = Errno::result(value)?;
        // SAFETY: the call has just made the fd.
        let file = File::from(unsafe { take_fd(number) });
        let size = u64::try_from(len).map_err(|_| Errno::EOVERFLOW)?;
        file.set_len(size)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let mapping = Mapping::new(
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | mmap,
            Some((file.as_fd(), 0)),
        )?;
        Ok(Self { mapping, file })
    }

    /// The memfd.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The address of the first byte in this process.
    pub fn address(&self) -> u64 {
        self.as_ptr().expose_provenance() as u64
    }

    /// Copies bytes out.
    #[track_caller]
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        let from = self.bytes(offset, to.len());
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: `bytes` checked that `to.len()` bytes from `from` are mapped, as long as `self`.
            let place = unsafe { AtomicU8::from_ptr(from.wrapping_add(index)) };
            *byte = place.load(Ordering::Relaxed);
        }
    }

    /// Copies bytes in.
    #[track_caller]
    pub fn write(&self, offset: u64, from: &[u8]) {
        let to = self.bytes(offset, from.len());
        for (index, byte) in from.iter().enumerate() {
            // SAFETY: `bytes` checked that `from.len()` bytes from `to` are mapped, as long as `self`.
            let place = unsafe { AtomicU8::from_ptr(to.wrapping_add(index)) };
            place.store(*byte, Ordering::Relaxed);
        }
    }

    /// Sets `len` bytes to `value`.
    #[track_caller]
    pub fn fill(&self, offset: u64, len: usize, value: u8) {
        let to = self.bytes(offset, len);
        for index in 0..len {
            // SAFETY: `bytes` checked that `len` bytes from `to` are mapped, as long as `self`.
            let place = unsafe { AtomicU8::from_ptr(to.wrapping_add(index)) };
            place.store(value, Ordering::Relaxed);
        }
    }

    /// Reads a u64 that others write, as one access; what they wrote before is seen after.
    #[track_caller]
    pub fn load(&self, offset: u64) -> u64 {
        self.atomic(offset).load(Ordering::Acquire)
    }

    /// Writes a u64 that others read, as one access; what was written before is seen with it.
    #[track_caller]
    pub fn store(&self, offset: u64, value: u64) {
        self.atomic(offset).store(value, Ordering::Release);
    }

    /// Replaces `old` by `new`, or gives what was there instead of `old`.
    ///
    /// # Errors
    ///
    /// The value that was there.
    #[track_caller]
    pub fn compare_exchange(
        &self,
        offset: u64,
        old: u64,
        new: u64,
    ) -> std::result::Result<(), u64> {
        self.atomic(offset)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
    }

    #[track_caller]
    fn atomic(&self, offset: u64) -> &AtomicU64 {
        let pointer = self.mapping.place::<u64>(offset);
        // SAFETY: `place` checked that the u64 is mapped, for as long as `self`, and aligned.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    #[track_caller]
    fn bytes(&self, offset: u64, len: usize) -> *mut u8 {
        match self.mapping.at(offset, len) {
            Some(pointer) => pointer,
            None => panic!(
                "{len:#x} bytes at {offset:#x} are beyond the {:#x} bytes",
                self.mapping.len
            ),
        }
    }
}

/// A device's registers, mapped.
///
/// # Panics
///
/// Each access panics beyond the end or off its alignment, like an index of a slice.
#[derive(Debug)]
pub struct Mmio {
    mapping: Mapping,
}

impl Mmio {
    /// Maps `len` bytes at `offset` of a VFIO device's fd, as a region's information gives them.
    ///
    /// # Errors
    ///
    /// Those of mmap.
    pub fn new(device: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        let mapping = Mapping::new(
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            Some((device, offset)),
        )?;
        Ok(Self { mapping })
    }

    /// Number of bytes.
    pub fn size(&self) -> usize {
        self.mapping.len
    }

    /// The address of the first byte in this process.
    pub fn address(&self) -> u64 {
        self.mapping.start.as_ptr().expose_provenance() as u64
    }

    /// Reads four bytes.
    #[track_caller]
    pub fn read_u32(&self, offset: u64) -> u32 {
        let pointer = self.mapping.place::<u32>(offset);
        // SAFETY: `place` checked that the u32 is mapped and aligned.
        u32::from_le(unsafe { pointer.read_volatile() })
    }

    /// Writes four bytes.
    #[track_caller]
    pub fn write_u32(&self, offset: u64, value: u32) {
        let pointer = self.mapping.place::<u32>(offset);
        // SAFETY: as in `read_u32`.
        unsafe { pointer.write_volatile(value.to_le()) };
    }

    /// Reads eight bytes.
    #[track_caller]
    pub fn read_u64(&self, offset: u64) -> u64 {
        let pointer = self.mapping.place::<u64>(offset);
        // SAFETY: `place` checked that the u64 is mapped and aligned.
        u64::from_le(unsafe { pointer.read_volatile() })
    }

    /// Writes eight bytes.
    #[track_caller]
    pub fn write_u64(&self, offset: u64, value: u64) {
        let pointer = self.mapping.place::<u64>(offset);
        // SAFETY: as in `read_u64`.
        unsafe { pointer.write_volatile(value.to_le()) };
    }

    /// Reads one byte.
    #[track_caller]
    pub fn read_u8(&self, offset: u64) -> u8 {
        let pointer = self.mapping.place::<u8>(offset);
        // SAFETY: `place` checked that the byte is mapped.
        unsafe { pointer.read_volatile() }
    }

    /// Writes one byte.
    #[track_caller]
    pub fn write_u8(&self, offset: u64, value: u8) {
        let pointer = self.mapping.place::<u8>(offset);
        // SAFETY: as in `read_u8`.
        unsafe { pointer.write_volatile(value) };
    }
}

/// Bytes that end where a page ends, before a page that nobody may access.
#[cfg(feature = "raw")]
#[derive(Debug)]
pub struct Guarded {
    mapping: Mapping,
    /// Bytes before the guard.
    room: usize,
    len: usize,
}

#[cfg(feature = "raw")]
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
        let guard = mapping.start.as_ptr().wrapping_add(room).cast();
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
        let start = self.mapping.start.as_ptr();
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
        (self.mapping.start.as_ptr().expose_provenance() as u64).wrapping_add(self.start())
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
