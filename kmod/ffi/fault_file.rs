// SPDX-License-Identifier: GPL-2.0
//! The file behind a fault fd.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use super::shim;
use super::user::Pointer;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_char, c_int};
use kernel::fs::file::{flags, File, FileDescriptorReservation, LocalFile};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::poll::PollTable;
use kernel::sync::{Arc, ArcBorrow};

/// What is behind a fault fd. Each of these may sleep.
pub(crate) trait FaultFile: Send + Sync + Sized + 'static {
    /// How a file of a `Self` is known: a static.
    fn operations() -> &'static FileOperations<Self>;

    /// Writes records to the user's `len` bytes at `buf`; gives the bytes written.
    fn read(&self, buf: Pointer, len: usize, nonblocking: bool) -> Result<usize>;

    /// Takes the answers in the user's `len` bytes at `buf`; gives the bytes taken.
    fn write(&self, buf: Pointer, len: usize) -> Result<usize>;

    /// What a poll gives, and where it waits.
    fn poll(&self, table: &PollTable<'_>, file: &File) -> Ready;

    /// The last reference to the file is gone.
    fn close(queue: Arc<Self>);
}

/// What poll says.
pub(crate) struct Ready {
    /// A read would not block.
    pub(crate) readable: bool,
    /// The container lives.
    pub(crate) writable: bool,
    /// The container is gone.
    pub(crate) ended: bool,
}

/// What the VFS calls for the files of a `T`, each of which owns a reference to one.
///
/// # Invariants
///
/// The functions are those of `T`.
pub(crate) struct FileOperations<T>(bindings::file_operations, PhantomData<fn() -> T>);

// SAFETY: Nothing in it changes.
unsafe impl<T> Sync for FileOperations<T> {}

impl<T: FaultFile> FileOperations<T> {
    /// Those of `T`.
    pub(crate) const fn new() -> Self {
        // INVARIANT: All are of `T`.
        Self(
            bindings::file_operations {
                // As `this_module` of Linux 7.3 has it, which 7.2 lacks.
                owner: &raw mut bindings::__this_module,
                llseek: Some(bindings::noop_llseek),
                read: Some(read::<T>),
                write: Some(write::<T>),
                poll: Some(poll::<T>),
                release: Some(release::<T>),
                ..pin_init::zeroed()
            },
            PhantomData,
        )
    }

    fn as_ptr(&'static self) -> *const bindings::file_operations {
        &self.0
    }
}

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
    pub(crate) fn new<T: FaultFile>(queue: Arc<T>, cloexec: bool, nonblock: bool) -> Result<Self> {
        let reservation = FileDescriptorReservation::get_unused_fd_flags(if cloexec {
            flags::O_CLOEXEC
        } else {
            0
        })?;
        let mode = flags::O_RDWR | if nonblock { flags::O_NONBLOCK } else { 0 };
        let operations = T::operations().as_ptr();
        let data = Arc::into_raw(queue);
        // SAFETY: The operations are static, and those of a `T` by their invariant. `data` is a
        // reference that the file takes over; its release gives it back.
        let file = unsafe { shim::ioasid_fault_file(operations, data.cast(), mode as c_int) };
        let file = match from_err_ptr(file).and_then(|file| NonNull::new(file).ok_or(ENOMEM)) {
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

/// What is behind the open fault fd `fd`.
///
/// # Errors
///
/// [`EBADF`] if it is not open, [`EINVAL`] if it is no fault fd of a `T`.
pub(crate) fn queue_of<T: FaultFile>(fd: u32) -> Result<Arc<T>> {
    let file = LocalFile::fget(fd)?;
    // SAFETY: The file is live by its reference, and this field does not change.
    let operations = unsafe { (*file.as_ptr()).f_op };
    if !core::ptr::eq(operations, T::operations().as_ptr()) {
        return Err(EINVAL);
    }
    // SAFETY: The file is live by its reference, and a `T`'s, as its operations are.
    let queue = unsafe { queue::<T>(file.as_ptr()) };
    Ok(queue.into())
}

/// # Safety
///
/// `file` is live for `'a`, and one that [`NewFaultFd::new`] made of a `T`.
unsafe fn queue<'a, T: FaultFile>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
    // SAFETY: The file is live by the requirement.
    let data = unsafe { (*file).private_data };
    // SAFETY: It owns a reference to a `T` by the requirement.
    unsafe { ArcBorrow::from_raw(data.cast()) }
}

fn to_ssize(result: Result<usize>) -> isize {
    match result {
        Ok(bytes) => bytes as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// # Safety
///
/// `file` is a live file of a `T`.
unsafe extern "C" fn read<T: FaultFile>(
    file: *mut bindings::file,
    buf: *mut c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement.
    let queue = unsafe { queue::<T>(file) };
    // SAFETY: By the requirement; the reference is not kept.
    let file = unsafe { File::from_raw_file(file) };
    let nonblocking = file.flags() & flags::O_NONBLOCK != 0;
    to_ssize(queue.read(Pointer::from_arg(buf.addr()), len, nonblocking))
}

/// # Safety
///
/// `file` is a live file of a `T`.
unsafe extern "C" fn write<T: FaultFile>(
    file: *mut bindings::file,
    buf: *const c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: By the requirement.
    let queue = unsafe { queue::<T>(file) };
    to_ssize(queue.write(Pointer::from_arg(buf.addr()), len))
}

/// # Safety
///
/// `file` is a live file of a `T`, and `table` is null or valid for the call.
unsafe extern "C" fn poll<T: FaultFile>(
    file: *mut bindings::file,
    table: *mut bindings::poll_table,
) -> bindings::__poll_t {
    // SAFETY: By the requirement.
    let queue = unsafe { queue::<T>(file) };
    // SAFETY: By the requirement; the reference is not kept.
    let file = unsafe { File::from_raw_file(file) };
    // SAFETY: By the requirement.
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

/// # Safety
///
/// `file` is a file of a `T`, and this is its only call.
unsafe extern "C" fn release<T: FaultFile>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the requirement.
    let data = unsafe { (*file).private_data };
    // SAFETY: The file owns this reference to a `T`, and gives it up here.
    T::close(unsafe { Arc::<T>::from_raw(data.cast()) });
    0
}
