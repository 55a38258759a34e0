// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The system calls below the crate `host-iommu`, one safe function each: those of VFIO, of the
//! kernel module `vfio_iommu_ioasid` and of iommufd, and the memory that devices share with the
//! process.
//!
//! VMMs use [`host-iommu`](https://docs.rs/host-iommu), which keeps the books and owns what it gives
//! out. The functions here keep no state and interpret no error: each takes the file descriptor that
//! it works on and gives the call's own errno. The structures are those of `host-iommu-bindings`.
//! What `host-iommu` takes from here may change with each of its versions.

#![deny(missing_docs)]
#![allow(unsafe_code, reason = "the system calls")]

pub mod device;
mod errno;
pub mod ioasid;
pub mod iommufd;
pub mod memory;
pub mod plain;
pub mod vfio;

use plain::Plain;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub use errno::Errno;

/// What a system call gives: its value, or the error number.
pub type Result<T> = std::result::Result<T, Errno>;

/// The argument of a call that starts with `argsz`.
///
/// # Safety
///
/// The kernel must read and write no more than `argsz` bytes of the structure for `REQUEST`,
/// with `argsz` as [`Call::set_argsz`] sets it: at most its size.
unsafe trait Call: Plain {
    const REQUEST: u32;

    fn set_argsz(&mut self);
}

/// Implements [`Call`] for structures with a field `argsz`.
macro_rules! calls {
    ($($structure:ty => $request:expr),+ $(,)?) => { $(
        // SAFETY: `set_argsz` gives the structure's own size, and the header of the call names
        // this structure for this request.
        unsafe impl $crate::Call for $structure {
            const REQUEST: u32 = $request;

            fn set_argsz(&mut self) {
                self.argsz = const {
                    assert!(size_of::<$structure>() <= u32::MAX as usize);
                    size_of::<$structure>() as u32
                };
            }
        }
    )+ };
}
use calls;

/// Makes a call whose argument is a structure without pointers into the caller's memory, or
/// whose pointers the caller vouches for.
///
/// # Safety
///
/// What the pointers in `arg` point at must be good for what the call does with it.
unsafe fn call<T: Call>(fd: BorrowedFd<'_>, arg: &mut T) -> Result<i32> {
    arg.set_argsz();
    let pointer = std::ptr::from_mut(arg);
    // SAFETY: by the contract of `Call` the kernel stays inside `arg`, which is borrowed
    // exclusively; the caller vouches for the pointers in it.
    let value = unsafe { libc::ioctl(fd.as_raw_fd(), T::REQUEST as libc::Ioctl, pointer) };
    Errno::result(value)
}

/// Makes a call whose argument is a number.
///
/// # Safety
///
/// The request must take a number, or nothing, and no pointer.
unsafe fn call_number(fd: BorrowedFd<'_>, request: u32, number: libc::c_ulong) -> Result<i32> {
    // SAFETY: the caller says that the kernel takes `number` as a number.
    let value = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, number) };
    Errno::result(value)
}

/// Takes over a fd that a call has just made.
///
/// # Safety
///
/// `number` must be a fresh fd that nobody else owns.
unsafe fn take_fd(number: i32) -> OwnedFd {
    // SAFETY: by the contract of this function.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Whether reads of a file do not wait (`O_NONBLOCK`).
pub fn is_nonblocking(file: BorrowedFd<'_>) -> bool {
    // SAFETY: the call takes numbers and touches no memory of ours.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    // Of an open file it does not fail.
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// Gives another file descriptor of the file that a value of another crate has open, where that
/// value has no [`AsFd`](std::os::fd::AsFd), as those of vfio-ioctls and vmm-sys-util have none.
///
/// # Errors
///
/// EBADF if the value has no file open, EMFILE if the process has too many.
pub fn duplicate(file: &impl AsRawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: the call takes numbers and touches no memory of ours.
    let value = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    let number = Errno::result(value)?;
    // SAFETY: the call has just made it, and nobody else has it.
    Ok(unsafe { take_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::SharedMemory;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    /// Calls to a file that knows none of them: each gives the kernel's own errno, and reads no more
    /// than its argument.
    #[test]
    fn calls_give_the_errno_of_the_kernel() {
        let file = File::open("/dev/null").expect("a file");
        let fd = file.as_fd();
        let memory = SharedMemory::new(c"guest", 4096).expect("a memfd");
        let mut words = [0u64; 4];
        let results = [
            vfio::get_api_version(fd).map(drop),
            vfio::check_extension(fd, 1).map(drop),
            vfio::set_iommu(fd, 1),
            vfio::group_get_status(fd).map(drop),
            vfio::group_set_container(fd, fd),
            vfio::group_get_device_fd(fd, c"0000:00:04.0").map(drop),
            vfio::get_info(fd).map(drop),
            vfio::unmap_dma(fd, 0, 0, 4096).map(drop),
            vfio::track_dirty(fd, true),
            vfio::read_dirty(fd, 0, 4096, &mut words),
            memory::map_dma_part(fd, 3, &memory, 0, 0, 4096),
            device::info(fd).map(drop),
            device::region_info(fd, 0).map(drop),
            device::irq_info(fd, 0).map(drop),
            device::set_irqs(fd, 0, 0, 0, 1, &[Some(fd), None]),
            device::reset(fd),
            ioasid::pasid_alloc(fd, 1, 2, 1).map(drop),
            ioasid::pasid_free(fd, 1, 1),
            ioasid::stats(fd).map(drop),
            ioasid::devices(fd, &mut [Default::default(); 2]).map(drop),
            ioasid::fault_queue(fd, 0, 0, 0).map(drop),
            ioasid::as_create(fd).map(drop),
            ioasid::as_destroy(fd, 0),
            iommufd::destroy(fd, 1),
            iommufd::ioas_alloc(fd).map(drop),
            iommufd::ioas_map_part(fd, (1, 3), &memory, 0, 0, 4096),
            iommufd::ioas_unmap(fd, 1, 0, 4096).map(drop),
            iommufd::ioas_iova_ranges(fd, 1, &mut [Default::default(); 2]).map(drop),
            iommufd::hw_info(fd, 1).map(drop),
            iommufd::hwpt_dirty(fd, 1, 0, 4096, &mut words),
            iommufd::fault_alloc(fd).map(drop),
            iommufd::device_bind(fd, fd).map(drop),
            iommufd::device_attach(fd, 1, Some(1)),
        ];
        for (number, result) in results.into_iter().enumerate() {
            assert_eq!(result, Err(Errno::ENOTTY), "call {number}");
        }
        assert_eq!(words, [0; 4]);
    }

    #[test]
    #[ignore = "what valgrind has to find (tests/tests/valgrind.rs)"]
    fn planted_leak() {
        std::mem::forget(std::hint::black_box(vec![7u8; 64]));
    }

    #[test]
    fn duplicate_is_another_descriptor_of_the_file() {
        let (mut reader, mut writer) = UnixStream::pair().expect("a pair");
        let copy = duplicate(&writer).expect("a copy");
        assert_ne!(copy.as_raw_fd(), writer.as_raw_fd());
        assert!(!is_nonblocking(copy.as_fd()));
        writer.write_all(b"a").expect("written");
        drop(writer);
        File::from(copy).write_all(b"b").expect("written");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "ab");
    }
}
