// SPDX-License-Identifier: GPL-2.0
//! The files of /sys/kernel/debug/vfio_ioasid, line by line.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use super::shim;
use core::fmt::{self, Write};

pub(crate) use shim::Cursor;

/// Which file. The discriminants are the indices of `names` of debugfs.c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum File {
    /// The module: what all containers hold together, and its limits.
    Module = 0,
    /// A line a container.
    Containers = 1,
    /// A line a device.
    Devices = 2,
    /// A line a run of allocated PASIDs.
    Pasids = 3,
    /// A line a binding.
    Bindings = 4,
    /// A line a fault queue.
    Queues = 5,
}

impl File {
    fn from_raw(file: u32) -> Option<Self> {
        Some(match file {
            0 => Self::Module,
            1 => Self::Containers,
            2 => Self::Devices,
            3 => Self::Pasids,
            4 => Self::Bindings,
            5 => Self::Queues,
            _ => return None,
        })
    }
}

/// What the files say.
pub(crate) trait Lines {
    /// Writes the next line of a file and moves the cursor behind it; `None` at the end. Sleeps.
    fn line(file: File, at: &mut Cursor, line: &mut Line<'_>) -> Option<fmt::Result>;
}

/// The folder and its files, until this is dropped.
///
/// # Invariants
///
/// The folder was made, and there is no other.
pub(crate) struct Folder(());

impl Folder {
    /// Makes the folder and its files, whose lines `L` writes. Without debugfs there are none, which
    /// is no error.
    ///
    /// # Safety
    ///
    /// There is no other value of this type.
    pub(super) unsafe fn create<L: Lines>() -> Self {
        // SAFETY: There is no folder yet by the requirement. The function is this module's, which
        // the files hold while they are open; the folder is removed before the module goes.
        unsafe { shim::ioasid_debugfs_create(line::<L>) };
        // INVARIANT: Made just now.
        Self(())
    }
}

impl Drop for Folder {
    /// Waits for the calls under way.
    fn drop(&mut self) {
        // SAFETY: By the invariant.
        unsafe { shim::ioasid_debugfs_remove() };
    }
}

/// A line under construction, in a buffer of fixed size.
pub(crate) struct Line<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        let room = self.buf.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Writes the line at the cursor and moves it on; gives its length, zero at the end.
///
/// # Safety
///
/// `at` and the `room` bytes at `text` are initialised, and the caller's alone during the call.
unsafe extern "C" fn line<L: Lines>(
    file: u32,
    at: *mut Cursor,
    text: *mut u8,
    room: usize,
) -> usize {
    let Some(file) = File::from_raw(file) else {
        return 0;
    };
    // SAFETY: By the requirement.
    let at = unsafe { &mut *at };
    // SAFETY: As above.
    let buf = unsafe { core::slice::from_raw_parts_mut(text, room) };
    let mut line = Line { buf, len: 0 };
    match L::line(file, at, &mut line) {
        Some(Ok(())) => line.len,
        // A line that does not fit ends the file; the test of the longest one would see it.
        Some(Err(fmt::Error)) | None => 0,
    }
}
