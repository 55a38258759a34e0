// SPDX-License-Identifier: GPL-2.0
//! The file behind a fault fd.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use super::shim;
use super::user::Pointer;
use crate::fault::FaultQueue;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_char, c_int};
use kernel::fs::file::{flags, File, FileDescriptorReservation, LocalFile};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::poll::PollTable;
use kernel::sync::{Arc, ArcBorrow};

/// A fault fd that is not yet installed: dropped, it leaves nothing.
pub(crate) struct NewFaultFd {
    reservation: FileDescriptorReservation,
    file: ARef<File>,
}

impl NewFaultFd {
    /// Reserves a fd and makes the file that owns `queue`.
    ///
    /// # Errors
    ///
    /// [`EMFILE`], [`ENFILE`] or [`ENOMEM`].
    pub(crate) fn new(queue: Arc<FaultQueue>, cloexec: bool, nonblock: bool) -> Result<Self> {
        let reservation = FileDescriptorReservation::get_unused_fd_flags(if cloexec {
            flags::O_CLOEXEC
        } else {
            0
        })?;
        let mode = flags::O_RDWR | if nonblock { flags::O_NONBLOCK } else { 0 };
        let data = Arc::into_raw(queue);
        // SAFETY: `data` is a reference that the file takes over; its release gives it back.
        let file = from_err_ptr(unsafe { shim::ioasid_fault_file(data.cast(), mode as c_int) });
        let file = match file.and_then(|file| NonNull::new(file).ok_or(ENOMEM)) {
            Ok(file) => file,
            Err(error) => {
                // SAFETY: The file was not made, so the reference is still ours.
                drop(unsafe { Arc::from_raw(data) });
                return Err(error);
            }
        };
        // SAFETY: The new file's only reference is ours, and no fdget_pos is under way.
        let file = unsafe { ARef::from_raw(file.cast::<File>()) };
        Ok(Self { reservation, file })
    }

    /// The number that it will have.
    pub(crate) fn number(&self) -> u32 {
        self.reservation.reserved_fd()
    }

    /// Makes it visible to user space.
    pub(crate) fn install(self) {
        self.reservation.fd_install(self.file);
    }
}

/// The queue of the open fault fd `fd`.
///
/// # Errors
///
/// [`EBADF`] if it is not open, [`EINVAL`] if it is no fault fd.
pub(crate) fn queue_of(fd: u32) -> Result<Arc<FaultQueue>> {
    let file = LocalFile::fget(fd)?;
    // SAFETY: The file is live by its reference.
    let data = unsafe { shim::ioasid_fault_file_data(file.as_ptr()) };
    if data.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: A file of ours owns a reference to its queue for as long as it lives.
    let queue = unsafe { ArcBorrow::<FaultQueue>::from_raw(data.cast()) };
    Ok(queue.into())
}

/// # Safety
///
/// `file` must be a live file of ours.
unsafe fn queue<'a>(file: *mut bindings::file) -> ArcBorrow<'a, FaultQueue> {
    // SAFETY: The file is live by the requirement.
    let data = unsafe { (*file).private_data };
    // SAFETY: It owns a reference to its queue.
    unsafe { ArcBorrow::from_raw(data.cast()) }
}

fn to_ssize(result: Result<usize>) -> isize {
    match result {
        Ok(bytes) => bytes as isize,
        Err(error) => error.to_errno() as isize,
    }
}

#[no_mangle]
extern "C" fn ioasid_fault_read(
    file: *mut bindings::file,
    buf: *mut c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: The VFS passes a live file of ours.
    let queue = unsafe { queue(file) };
    // SAFETY: As above; the reference is not kept.
    let file = unsafe { File::from_raw_file(file) };
    let nonblocking = file.flags() & flags::O_NONBLOCK != 0;
    to_ssize(queue.read(Pointer::from_arg(buf.addr()), len, nonblocking))
}

#[no_mangle]
extern "C" fn ioasid_fault_write(
    file: *mut bindings::file,
    buf: *const c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: The VFS passes a live file of ours.
    let queue = unsafe { queue(file) };
    to_ssize(queue.write(Pointer::from_arg(buf.addr()), len))
}

#[no_mangle]
extern "C" fn ioasid_fault_poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table,
) -> bindings::__poll_t {
    // SAFETY: The VFS passes a live file of ours.
    let queue = unsafe { queue(file) };
    // SAFETY: As above; the reference is not kept.
    let file = unsafe { File::from_raw_file(file) };
    // SAFETY: The VFS passes a poll table that is valid for the call, or null.
    let table = unsafe { PollTable::from_raw(table) };
    let ready = queue.poll(&table, file);
    let mut mask = 0;
    if ready.readable {
        mask |= bindings::POLLIN | bindings::POLLRDNORM;
    }
    if ready.writable {
        mask |= bindings::POLLOUT | bindings::POLLWRNORM;
    }
    if ready.ended {
        mask |= bindings::POLLHUP;
    }
    mask
}

#[no_mangle]
extern "C" fn ioasid_fault_release(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The VFS passes a live file of ours.
    let data = unsafe { (*file).private_data };
    // SAFETY: The file owns this reference and gives it up: release is called once.
    let queue = unsafe { Arc::<FaultQueue>::from_raw(data.cast()) };
    crate::fault::close(queue);
    0
}
