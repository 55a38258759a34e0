// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory whose accesses wait until somebody resolves them (userfaultfd(2)): for tests of who
//! waits for a user's memory.

use host_iommu_sys::memory::Mapping;
use host_iommu_sys::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// `UFFD_API` of linux/userfaultfd.h.
const API: u64 = 0xaa;
/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP`.
const FEATURE_WP: u64 = 1;
/// `UFFDIO_API`: version, features, and the calls that there are.
const IO_API: u32 = 0xc018_aa3f;
/// `UFFDIO_REGISTER`: start, length, mode, and the calls that there are.
const IO_REGISTER: u32 = 0xc020_aa00;
/// `UFFDIO_WRITEPROTECT`: start, length, mode.
const IO_WRITEPROTECT: u32 = 0xc018_aa06;
/// `UFFDIO_ZEROPAGE`: start, length, mode, and the bytes done.
const IO_ZEROPAGE: u32 = 0xc020_aa04;
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MODE_MISSING: u64 = 1;
/// `UFFDIO_REGISTER_MODE_WP`.
const MODE_WP: u64 = 2;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const PROTECT: u64 = 1;

/// Memory whose next access waits, the kernel's too, until [`Waiting::resolve`] or the drop.
#[derive(Debug)]
pub struct Waiting {
    /// Closed first: who waits then goes on before the memory is gone.
    fd: OwnedFd,
    memory: Mapping,
    len: usize,
    mode: u64,
}

impl Waiting {
    /// `len` bytes, whole pages, none of which is there: every access waits.
    ///
    /// # Errors
    ///
    /// Those of mmap, userfaultfd and its calls: EPERM for a user without privileges.
    pub fn missing(len: usize) -> Result<Self> {
        Self::new(len, MODE_MISSING, &[])
    }

    /// A page that starts with `bytes` and can be read: every write waits.
    ///
    /// # Errors
    ///
    /// As [`Waiting::missing`].
    pub fn read_only(bytes: &[u8]) -> Result<Self> {
        Self::new(4096, MODE_WP, bytes)
    }

    fn new(len: usize, mode: u64, bytes: &[u8]) -> Result<Self> {
        let memory = Mapping::new(
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            None,
        )?;
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: `place` checks that the byte is mapped, and nobody else has it yet.
            unsafe { memory.place::<u8>(index as u64).write_volatile(*byte) };
        }
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the call takes a number.
        let value = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let number = Errno::result(value)?;
        // SAFETY: the call has just made the fd, which fits.
        let fd = unsafe { OwnedFd::from_raw_fd(number as i32) };
        let features = if mode == MODE_WP { FEATURE_WP } else { 0 };
        let made = Self {
            fd,
            memory,
            len,
            mode,
        };
        made.call(IO_API, &mut [API, features, 0])?;
        let (start, len) = (made.address(), made.len as u64);
        made.call(IO_REGISTER, &mut [start, len, mode, 0])?;
        if mode == MODE_WP {
            made.call(IO_WRITEPROTECT, &mut [start, len, PROTECT])?;
        }
        Ok(made)
    }

    /// The address of the first byte.
    pub fn address(&self) -> u64 {
        self.memory.place::<u8>(0).expose_provenance() as u64
    }

    /// Whether an access waits, or comes to wait within `limit`.
    ///
    /// # Errors
    ///
    /// Those of poll.
    pub fn is_waited_for(&self, limit: Duration) -> Result<bool> {
        let limit = nix::poll::PollTimeout::try_from(limit).map_err(|_| Errno::EINVAL)?;
        let mut fds = [nix::poll::PollFd::new(
            self.fd.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        Ok(nix::poll::poll(&mut fds, limit)? != 0)
    }

    /// Lets all accesses go on, now and later.
    ///
    /// # Errors
    ///
    /// Those of the calls of userfaultfd.
    pub fn resolve(&self) -> Result<()> {
        let (start, len) = (self.address(), self.len as u64);
        match self.mode {
            MODE_WP => self.call(IO_WRITEPROTECT, &mut [start, len, 0]),
            _ => self.call(IO_ZEROPAGE, &mut [start, len, 0, 0]),
        }
    }

    /// Makes a call whose structure is made of `words`.
    fn call(&self, request: u32, words: &mut [u64]) -> Result<()> {
        debug_assert_eq!((request >> 16) as usize & 0x3fff, size_of_val(words));
        // SAFETY: each request's structure is made of as many words as are passed here, which the
        // kernel reads and writes; the range in it is that of `memory`.
        let value = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                request as libc::Ioctl,
                words.as_mut_ptr(),
            )
        };
        Errno::result(value).map(drop)
    }
}
