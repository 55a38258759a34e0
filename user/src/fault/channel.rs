// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The records of a fault queue, as they come and go.

use crate::sys::plain::{bytes_of_slice, bytes_of_slice_mut};
use host_iommu_bindings::uapi as abi;
use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A record that is read, as `vfio_ioasid.h` has it.
pub type FaultRecord = abi::vfio_ioasid_fault;
/// An answer that is written, as `vfio_ioasid.h` has it.
pub type ResponseRecord = abi::vfio_ioasid_fault_response;

/// What a backend gives for a fault queue, and [`FaultQueue`](crate::FaultQueue) reads and writes:
/// the fault fd of `vfio_ioasid.h` by its rules, whatever stands behind it.
///
/// Its fd ([`AsFd`]) is readable when [`FaultChannel::read`] would not wait. Dropping it is the
/// last close: what waits is answered INVALID.
pub trait FaultChannel: AsFd + fmt::Debug + Send + Sync {
    /// Reads whole groups into `records`, at least one record; gives the number of records, zero
    /// at the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` for a queue that does not wait; EINVAL if the first group does not fit; EINTR.
    fn read(&self, records: &mut [FaultRecord]) -> io::Result<usize>;

    /// Answers groups; gives the number of answers taken.
    ///
    /// # Errors
    ///
    /// Only if the first was not taken: ENOENT for a cookie that was never read, EINVAL for an
    /// unknown code.
    fn write(&self, responses: &[ResponseRecord]) -> io::Result<usize>;

    /// Whether [`FaultChannel::read`] waits if there is nothing. A backend that does not say is
    /// taken to.
    fn waits(&self) -> bool {
        true
    }

    /// Itself, for the backend that made it.
    fn as_any(&self) -> &dyn Any;
}

/// The fault fd of the kernel module.
#[derive(Debug)]
pub(crate) struct FdChannel(File);

impl FdChannel {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }
}

impl AsFd for FdChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl FaultChannel for FdChannel {
    fn read(&self, records: &mut [FaultRecord]) -> io::Result<usize> {
        let len = (&self.0).read(bytes_of_slice_mut(records))?;
        if len % size_of::<FaultRecord>() != 0 {
            let text = format!("{len} bytes are no whole records");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        Ok(len / size_of::<FaultRecord>())
    }

    fn write(&self, responses: &[ResponseRecord]) -> io::Result<usize> {
        // The fd takes whole records.
        let len = (&self.0).write(bytes_of_slice(responses))?;
        Ok(len / size_of::<ResponseRecord>())
    }

    fn waits(&self) -> bool {
        !crate::sys::is_nonblocking(self.as_fd())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
