// SPDX-License-Identifier: GPL-2.0
//! `VFIO_IOASID_AS_CREATE`, `AS_DESTROY`, `AS_MAP` and `AS_UNMAP`, decoded.

use super::no_flags;
use crate::base::iova::IovaRange;
use crate::ffi::abi;
use crate::ffi::paging::Access;
use crate::ffi::user::Pointer;
use core::mem::size_of;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// `VFIO_IOASID_AS_CREATE`.
pub(crate) struct AsCreate(abi::vfio_ioasid_as_create);

impl AsCreate {
    /// # Errors
    ///
    /// [`EINVAL`] for an unknown flag or padding that is not zero.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let call: abi::vfio_ioasid_as_create = arg.read_call()?;
        no_flags(call.flags, 0)?;
        if call.__reserved != 0 {
            return Err(EINVAL);
        }
        Ok(Self(call))
    }

    pub(crate) fn reply(mut self, arg: Pointer, id: u32) -> Result {
        self.0.as_id = id;
        arg.write(&self.0)
    }
}

/// `VFIO_IOASID_AS_DESTROY`: the address space.
pub(crate) fn decode_as_destroy(arg: Pointer) -> Result<u32> {
    let call: abi::vfio_ioasid_as_destroy = arg.read_call()?;
    no_flags(call.flags, 0)?;
    if call.__reserved != 0 {
        return Err(EINVAL);
    }
    Ok(call.as_id)
}

/// An entry of an address space.
pub(crate) struct AsEntry {
    /// Addresses in the address space.
    pub(crate) range: IovaRange,
    /// The memory's addresses in stage 2.
    pub(crate) memory: IovaRange,
    /// What DMA may do.
    pub(crate) access: Access,
}

/// `VFIO_IOASID_AS_MAP` and `VFIO_IOASID_AS_UNMAP`.
pub(crate) struct AsChange {
    /// The address space.
    pub(crate) id: u32,
    /// Number of entries.
    pub(crate) count: u32,
    entries: Pointer,
    reply: abi::vfio_ioasid_as_change,
}

impl AsChange {
    /// # Errors
    ///
    /// [`EINVAL`] for an unknown flag, too many entries, or entries of another size.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let call: abi::vfio_ioasid_as_change = arg.read_call()?;
        no_flags(call.flags, 0)?;
        if call.entry_len as usize != size_of::<abi::vfio_ioasid_as_entry>()
            || call.entry_num > abi::VFIO_IOASID_AS_CHANGE_MAX
        {
            return Err(EINVAL);
        }
        Ok(Self {
            id: call.as_id,
            count: call.entry_num,
            entries: Pointer::from_field(call.entries_uptr)?,
            reply: call,
        })
    }

    fn read(&self, index: u32) -> Result<abi::vfio_ioasid_as_entry> {
        let at = (index as usize)
            .checked_mul(size_of::<abi::vfio_ioasid_as_entry>())
            .ok_or(EFAULT)?;
        let entry: abi::vfio_ioasid_as_entry = self.entries.offset(at)?.read()?;
        let address = entry.iova | entry.gpa | entry.length;
        if address & (PAGE_SIZE as u64 - 1) != 0 || entry.__reserved != 0 {
            return Err(EINVAL);
        }
        Ok(entry)
    }

    /// Entry number `index` of AS_MAP.
    ///
    /// # Errors
    ///
    /// - [`EINVAL`] for a bad alignment, length or permission, or a range that wraps.
    /// - [`EFAULT`] if it cannot be read.
    pub(crate) fn entry(&self, index: u32) -> Result<AsEntry> {
        let entry = self.read(index)?;
        let (read, write) = (abi::VFIO_IOASID_AS_READ, abi::VFIO_IOASID_AS_WRITE);
        no_flags(entry.perm, read | write)?;
        if entry.perm == 0 {
            return Err(EINVAL);
        }
        Ok(AsEntry {
            range: IovaRange::sized(entry.iova, entry.length).ok_or(EINVAL)?,
            memory: IovaRange::sized(entry.gpa, entry.length).ok_or(EINVAL)?,
            access: Access {
                read: entry.perm & read != 0,
                write: entry.perm & write != 0,
            },
        })
    }

    /// The range of entry number `index` of AS_UNMAP.
    ///
    /// # Errors
    ///
    /// As [`AsChange::entry`], and [`EINVAL`] for what AS_UNMAP does not look at.
    pub(crate) fn range(&self, index: u32) -> Result<IovaRange> {
        let entry = self.read(index)?;
        if entry.gpa != 0 || entry.perm != 0 {
            return Err(EINVAL);
        }
        IovaRange::sized(entry.iova, entry.length).ok_or(EINVAL)
    }

    /// Tells the user how many entries were done: all, or those before the first bad one.
    pub(crate) fn reply(mut self, arg: Pointer, done: u32) -> Result {
        self.reply.entry_num = done;
        self.reply.bad_index = done;
        arg.write(&self.reply)
    }
}
