// SPDX-License-Identifier: Apache-2.0 OR MIT
//! VFIO calls with arguments of any shape, for tests of the kernel's checks.
//!
//! These functions are safe as the rest of a test program allows it: the argument itself cannot
//! make the kernel touch other memory, but addresses that the test puts into it are the test's
//! own affair.

use crate::guarded::Guarded;
use host_iommu_bindings::uapi::VFIO_TYPE;
use host_iommu_sys::plain::Plain;
use host_iommu_sys::{Errno, Result};
use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd};

thread_local! {
    /// The memory of this thread's last call: a call that fits allocates nothing.
    static LAST: Cell<Option<Guarded>> = const { Cell::new(None) };
}

/// Longest argument.
pub const MAX_ARGUMENT: usize = 1 << 16;

/// An address where no process has memory: the first page.
pub const INACCESSIBLE: u64 = 8;

/// Calls `request` with a copy of `argument`, which stands right in front of memory that
/// nobody may touch: a kernel that goes by one byte too many gets EFAULT. What the call wrote
/// is copied back.
///
/// # Errors
///
/// The call's own; EINVAL for a request that is not VFIO's or an argument over
/// [`MAX_ARGUMENT`]; ENOMEM if the copy cannot be made.
pub fn ioctl(fd: BorrowedFd<'_>, request: u32, argument: &mut [u8]) -> Result<i32> {
    check(request)?;
    if argument.len() > MAX_ARGUMENT {
        return Err(Errno::EINVAL);
    }
    let mut last = LAST.take();
    let fits = last.as_mut().is_some_and(|last| last.replace(argument));
    let guarded = match last {
        Some(last) if fits => last,
        _ => Guarded::new(argument)?,
    };
    // SAFETY: all VFIO calls take a pointer or a number. At the pointer the kernel finds the
    // argument, and then memory it cannot access.
    let value = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            request as libc::Ioctl,
            guarded.address() as libc::c_ulong,
        )
    };
    let value = Errno::result(value);
    guarded.copy_to(argument);
    LAST.set(Some(guarded));
    value
}

/// Calls `request` with a structure as it is.
///
/// # Errors
///
/// As [`ioctl`].
pub fn call<T: Plain>(fd: BorrowedFd<'_>, request: u32, argument: &mut T) -> Result<i32> {
    let mut bytes = argument.as_bytes().to_vec();
    let value = ioctl(fd, request, &mut bytes);
    if let Some(written) = T::from_bytes(&bytes) {
        *argument = written;
    }
    value
}

/// Calls `request` with a number, which may be an address such as [`INACCESSIBLE`].
///
/// # Errors
///
/// As [`ioctl`].
pub fn ioctl_number(fd: BorrowedFd<'_>, request: u32, number: u64) -> Result<i32> {
    check(request)?;
    // SAFETY: the kernel finds nothing at an address that is not the process's; an address that
    // is belongs to the test that gave it.
    let value = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            request as libc::Ioctl,
            number as libc::c_ulong,
        )
    };
    Errno::result(value)
}

/// `read(2)` with an address of the caller's choice: [`INACCESSIBLE`], or part of a
/// [`Guarded`] one.
///
/// # Errors
///
/// The call's own.
pub fn read_at_address(fd: BorrowedFd<'_>, address: u64, len: usize) -> Result<usize> {
    let pointer = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address as usize);
    // SAFETY: the kernel writes where the process may; the test gave it an address of its own.
    let value = unsafe { libc::read(fd.as_raw_fd(), pointer, len) };
    Errno::result(value).map(|count| count as usize)
}

/// `write(2)` with an address of the caller's choice.
///
/// # Errors
///
/// The call's own.
pub fn write_at_address(fd: BorrowedFd<'_>, address: u64, len: usize) -> Result<usize> {
    let pointer = std::ptr::with_exposed_provenance::<libc::c_void>(address as usize);
    // SAFETY: the kernel only reads.
    let value = unsafe { libc::write(fd.as_raw_fd(), pointer, len) };
    Errno::result(value).map(|count| count as usize)
}

fn check(request: u32) -> Result<()> {
    if (request >> 8) & 0xff == u32::from(VFIO_TYPE) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}
