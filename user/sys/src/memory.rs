// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that somebody else writes too: a guest's, and a device's registers.

use crate::{take_fd, Errno, Result};
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
pub(crate) fn part(memory: &(impl DmaMemory + ?Sized), offset: u64, size: u64) -> Result<*mut u8> {
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
    unsafe { crate::vfio::map_dma(container, flags, vaddr, iova, size) }
}

/// A range of addresses of the process, unmapped when the value is dropped.
///
/// The value gives out raw pointers alone. Whoever uses one says why that is right.
///
/// # Invariants
///
/// `start` is the first of `len` bytes that this value alone has mapped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared mapping gives out raw pointers and numbers only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes where the kernel has room: of a file from an offset on, or of no file.
    /// `prot` and `flags` are those of mmap(2).
    ///
    /// # Errors
    ///
    /// Those of mmap. EINVAL for `MAP_FIXED`, which would replace what others have mapped, and for
    /// `MAP_GROWSDOWN`, whose range is not the one that is unmapped.
    pub fn new(
        len: usize,
        prot: i32,
        flags: i32,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<Self> {
        if flags & (libc::MAP_FIXED | libc::MAP_GROWSDOWN) != 0 {
            return Err(Errno::EINVAL);
        }
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
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The number of bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// The address of `size` bytes at `offset`, if they are in the mapping.
    pub fn at(&self, offset: u64, size: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(size)?;
        (end <= self.len).then(|| self.start.as_ptr().wrapping_add(offset))
    }

    fn aligned<T>(&self, offset: u64) -> Option<*mut T> {
        let pointer = self.at(offset, size_of::<T>())?.cast::<T>();
        pointer.is_aligned().then_some(pointer)
    }

    /// The address of a `T` at `offset`, aligned as a `T` is.
    ///
    /// # Panics
    ///
    /// Beyond the end or off the alignment, like an index of a slice.
    #[track_caller]
    pub fn place<T>(&self, offset: u64) -> *mut T {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};
    use std::sync::atomic::AtomicBool;
    use std::thread;

    const PAGE: usize = 4096;

    fn memory(len: usize) -> SharedMemory {
        SharedMemory::new(c"guest", len).expect("a memfd")
    }

    fn panics<T>(act: impl FnOnce() -> T) -> bool {
        catch_unwind(AssertUnwindSafe(act)).is_err()
    }

    #[test]
    fn mapping_replaces_nothing() {
        for flag in [libc::MAP_FIXED, libc::MAP_GROWSDOWN] {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flag;
            let mapping = Mapping::new(PAGE, libc::PROT_READ, flags, None);
            assert_eq!(mapping.expect_err("it replaces"), Errno::EINVAL);
        }
    }

    #[test]
    fn shared_memory_ends_where_it_says() {
        let memory = memory(PAGE);
        memory.write(PAGE as u64 - 2, &[1, 2]);
        memory.fill(0, 2, 7);
        let mut bytes = [0; 2];
        memory.read(PAGE as u64 - 2, &mut bytes);
        assert_eq!(bytes, [1, 2]);
        assert_eq!(memory.load(0), 0x0707);
        memory.read(PAGE as u64, &mut []);
        for offset in [PAGE as u64 - 1, PAGE as u64, u64::MAX - 1, u64::MAX] {
            assert!(panics(|| memory.read(offset, &mut [0; 2])), "{offset:#x}");
            assert!(panics(|| memory.write(offset, &[0; 2])), "{offset:#x}");
            assert!(panics(|| memory.fill(offset, 2, 0)), "{offset:#x}");
            assert!(panics(|| memory.load(offset)), "{offset:#x}");
            assert!(panics(|| memory.store(offset, 0)), "{offset:#x}");
        }
        assert!(panics(|| memory.load(4)), "off its alignment");
    }

    #[test]
    fn part_is_all_in_the_memory() {
        let memory = memory(2 * PAGE);
        let size = memory.len() as u64;
        assert_eq!(part(&memory, 0, size), Ok(memory.as_ptr()));
        assert!(part(&memory, size, 0).is_ok());
        for (offset, size) in [(1, size), (size, 1), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(part(&memory, offset, size), Err(Errno::EINVAL));
        }
    }

    /// Two threads at once at the same bytes: no race for a tool that looks for them, and what is
    /// written before a store is seen after the load that sees the store.
    #[test]
    fn shared_memory_is_shared_by_threads() {
        const ROUNDS: u64 = 200;
        const TEXT: u64 = 64;
        let memory = memory(PAGE);
        let (memory, done) = (&memory, &AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    memory.fill(TEXT, 8, round as u8);
                    memory.store(0, round);
                    // Goes on when the other has seen it: the next round is not seen in this one's place.
                    while memory.load(8) != round && !done.load(Ordering::Relaxed) {
                        thread::yield_now();
                    }
                }
            });
            // Nobody waits for it: its bytes race with those of the others, each byte one by one.
            scope.spawn(move || {
                let mut bytes = [0; 16];
                while !done.load(Ordering::Relaxed) {
                    memory.read(TEXT, &mut bytes);
                    memory.write(TEXT + 8, &bytes[..8]);
                    assert_eq!(memory.compare_exchange(16, 0, 0), Ok(()));
                    thread::yield_now();
                }
            });
            for round in 1..=ROUNDS {
                while memory.load(0) != round {
                    thread::yield_now();
                }
                let mut bytes = [0; 8];
                memory.read(TEXT, &mut bytes);
                assert_eq!(bytes, [round as u8; 8]);
                memory.store(8, round);
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn registers_are_read_in_the_width_asked_for() {
        let memory = memory(PAGE);
        let registers = Mmio::new(memory.file().as_fd(), 0, PAGE).expect("a mapping");
        assert_eq!((registers.size(), memory.len()), (PAGE, PAGE));
        registers.write_u64(8, 0x1122_3344_5566_7788);
        assert_eq!(registers.read_u32(12), 0x1122_3344);
        registers.write_u8(15, 0xff);
        registers.write_u32(8, 1);
        assert_eq!(memory.load(8), 0xff22_3344_0000_0001);
        assert_eq!(registers.read_u8(15), 0xff);
        assert!(panics(|| registers.read_u32(2)) && panics(|| registers.read_u64(PAGE as u64 - 4)));
    }
}
