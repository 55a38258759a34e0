// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which points of instrumented kernel code a thread's calls reached: Linux's KCOV (Linux
//! Documentation/dev-tools/kcov.rst), for tests that go by it.

use host_iommu_sys::memory::Mapping;
use host_iommu_sys::{Errno, Result};
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// `_IOR('c', 1, unsigned long)` of linux/kcov.h.
const INIT_TRACE: u32 = 0x8008_6301;
/// `_IO('c', 100)`.
const ENABLE: u32 = 0x6364;
/// `_IO('c', 101)`.
const DISABLE: u32 = 0x6365;
/// `KCOV_TRACE_PC`.
const TRACE_PC: u64 = 0;

/// The points that the calls of one thread reach, which is the thread that made this.
#[derive(Debug)]
pub struct Kcov {
    trace: Mapping,
    file: File,
    room: usize,
    _one_thread: PhantomData<*const ()>,
}

impl Kcov {
    /// The kernel's file.
    pub const PATH: &'static str = "/sys/kernel/debug/kcov";

    /// Traces the calling thread from now on, with room for so many points at a time, less one: a
    /// multiple of 512.
    ///
    /// # Errors
    ///
    /// ENOENT on a kernel without KCOV; EBUSY if the thread is traced already; EINVAL for another
    /// number; those of mmap.
    pub fn start(room: usize) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(Path::new(Self::PATH))
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let bytes = room.checked_mul(8).ok_or(Errno::EOVERFLOW)?;
        call(&file, INIT_TRACE, room as u64)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let trace = Mapping::new(bytes, prot, libc::MAP_SHARED, Some((file.as_fd(), 0)))?;
        call(&file, ENABLE, TRACE_PC)?;
        Ok(Self {
            trace,
            file,
            room,
            _one_thread: PhantomData,
        })
    }

    /// Forgets what was reached.
    pub fn clear(&self) {
        let count = self.trace.place::<u64>(0);
        // SAFETY: `place` checked that the u64 is mapped and aligned; the kernel writes it in this
        // thread's calls alone.
        unsafe { count.write_volatile(0) };
    }

    /// Gives the addresses of the points reached since [`Kcov::clear`], in order and as often as
    /// they were, as far as there was room.
    pub fn each(&self, mut point: impl FnMut(u64)) {
        let count = self.trace.place::<u64>(0);
        // SAFETY: as in `clear`.
        let count = unsafe { count.read_volatile() };
        let last = (self.room as u64).saturating_sub(1);
        for index in 1..=count.min(last) {
            let at = self.trace.place::<u64>(index.saturating_mul(8));
            // SAFETY: as in `clear`.
            point(unsafe { at.read_volatile() });
        }
    }
}

impl Drop for Kcov {
    fn drop(&mut self) {
        // A thread that cannot be left untraced is no concern of whoever drops this.
        let _ = call(&self.file, DISABLE, 0);
    }
}

fn call(file: &File, request: u32, number: u64) -> Result<()> {
    // SAFETY: KCOV's calls take numbers.
    let value = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            request as libc::Ioctl,
            number as libc::c_ulong,
        )
    };
    Errno::result(value).map(drop)
}
