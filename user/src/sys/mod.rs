// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The system calls, one function each: the only unsafe code of the crate.
//!
//! Nothing here keeps state or interprets an error. Functions take the fd they work on; the
//! structures are those of `host-iommu-bindings`.

#[cfg(feature = "capi")]
mod c;
pub mod device;
mod errno;
#[cfg(feature = "raw")]
pub mod forked;
pub mod ioasid;
pub mod iommufd;
#[cfg(feature = "raw")]
pub mod kcov;
#[cfg(feature = "kvm")]
pub mod kvm;
pub mod memory;
pub mod plain;
#[cfg(feature = "raw")]
pub mod private;
#[cfg(feature = "raw")]
pub mod raw;
#[cfg(feature = "vm-memory")]
pub(crate) mod region;
#[cfg(feature = "raw")]
pub mod userfault;
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
        unsafe impl $crate::sys::Call for $structure {
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
pub(crate) fn is_nonblocking(file: BorrowedFd<'_>) -> bool {
    // SAFETY: the call takes numbers and touches no memory of ours.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    // Of an open file it does not fail.
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// Has tokio watch a file for what there is to read.
#[cfg(feature = "tokio")]
pub(crate) fn watch(file: OwnedFd) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    let readable = tokio::io::Interest::READABLE;
    // SAFETY: an `OwnedFd` is open, and gives the same number, until it is dropped.
    let watched = unsafe { tokio::io::unix::AsyncFd::register_with_interest(file, readable) };
    Ok(watched?)
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
