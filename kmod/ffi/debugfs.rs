// SPDX-License-Identifier: GPL-2.0
//! The files of /sys/kernel/debug/vfio_ioasid, line by line.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use super::shim;
use crate::inspect;
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

/// Makes the folder and its files.
pub(super) fn create() {
    // SAFETY: The one `Registration` calls it, before `remove`.
    unsafe { shim::ioasid_debugfs_create() };
}

/// Removes them; waits for the calls under way.
pub(super) fn remove() {
    // SAFETY: The one `Registration` calls it, after `create`.
    unsafe { shim::ioasid_debugfs_remove() };
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
#[no_mangle]
extern "C" fn ioasid_debugfs_line(file: u32, at: *mut Cursor, line: *mut u8, room: usize) -> usize {
    let Some(file) = File::from_raw(file) else {
        return 0;
    };
    // SAFETY: debugfs.c passes its reader's cursor and holds the reader's mutex.
    let at = unsafe { &mut *at };
    // SAFETY: As above: `room` initialised bytes, which are the reader's alone.
    let buf = unsafe { core::slice::from_raw_parts_mut(line, room) };
    let mut line = Line { buf, len: 0 };
    match inspect::line(file, at, &mut line) {
        Some(Ok(())) => line.len,
        // A line that does not fit ends the file; the test of the longest one would see it.
        Some(Err(fmt::Error)) | None => 0,
    }
}
