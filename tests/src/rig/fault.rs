// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fault fd: read, write and poll as a test shapes them.

use super::container::{named, CallError, Called};
use super::thread::Asleep;
use super::{bytes_of, check, Rig, DEADLINE};
use crate::ktap::{fail, Outcome};
use host_iommu_bindings::uapi::{vfio_ioasid_fault, vfio_ioasid_fault_response};
use host_iommu_sys::plain::Plain;
use host_iommu_sys::Errno;
use host_iommu_tests_sys::guarded::Guarded;
use host_iommu_tests_sys::raw;
use nix::fcntl::{fcntl, FcntlArg, FdFlag, OFlag};
use nix::poll::{PollFd, PollTimeout};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

pub use nix::poll::PollFlags;

/// Bytes of a record.
pub const RECORD: usize = size_of::<vfio_ioasid_fault>();

/// Records that [`FaultQueue::read_all`] asks for at a time.
const ROOM: usize = 256;

/// System call numbers of x86-64.
const SYS_READ: u32 = 0;
const SYS_POLL: u32 = 7;

/// An answer.
pub fn response(cookie: u64, code: u32) -> vfio_ioasid_fault_response {
    vfio_ioasid_fault_response {
        cookie,
        code,
        __reserved: 0,
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO.raw()))
}

fn done<T>(call: &'static str, result: io::Result<T>) -> Called<T> {
    named(call, result.map_err(|error| errno(&error)))
}

/// What poll says of a fault fd within `limit`; nothing if nothing of `wanted` comes.
pub fn poll(queue: &FaultQueue, wanted: PollFlags, limit: Duration) -> Called<PollFlags> {
    named("poll", poll_fd(queue.file.as_fd(), wanted, limit))
}

fn poll_fd(fd: BorrowedFd<'_>, wanted: PollFlags, limit: Duration) -> Result<PollFlags, Errno> {
    let limit = PollTimeout::try_from(limit.as_millis()).map_err(|_| Errno::EINVAL)?;
    let mut fds = [PollFd::new(fd, wanted)];
    nix::poll::poll(&mut fds, limit)?;
    Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
}

/// A fault fd.
#[derive(Debug)]
pub struct FaultQueue {
    file: File,
}

impl AsFd for FaultQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FaultQueue {
    /// Takes a fault fd over.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }

    /// The fault fd that a child has as its stdin.
    pub fn from_stdin() -> io::Result<Self> {
        Ok(Self::from_fd(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// The fd.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    /// The fd's number.
    pub fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Another fd of the same queue.
    pub fn duplicate(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
        })
    }

    /// Whether exec closes the fd.
    pub fn is_cloexec(&self) -> Called<bool> {
        let flags = named("F_GETFD", fcntl(&self.file, FcntlArg::F_GETFD))?;
        Ok(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC))
    }

    /// Whether reads return at once.
    pub fn is_nonblock(&self) -> Called<bool> {
        let flags = named("F_GETFL", fcntl(&self.file, FcntlArg::F_GETFL))?;
        Ok(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
    }

    /// Reads into `len` bytes.
    pub fn read_bytes(&self, len: usize) -> Called<Vec<u8>> {
        let mut bytes = vec![0; len];
        let count = done("read", (&self.file).read(&mut bytes))?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// The records in `bytes`.
    pub fn decode(bytes: &[u8]) -> Vec<vfio_ioasid_fault> {
        bytes
            .chunks_exact(RECORD)
            .filter_map(vfio_ioasid_fault::from_bytes)
            .collect()
    }

    /// One read of all that is there; EAGAIN of an empty queue is an error.
    pub fn read_all_or_error(&self) -> Called<Vec<vfio_ioasid_fault>> {
        self.read_bytes(ROOM * RECORD)
            .map(|bytes| Self::decode(&bytes))
    }

    /// All that is there and at least one record.
    pub fn read_all(&self) -> Called<Vec<vfio_ioasid_fault>> {
        let mut records = self.read_all_or_error()?;
        records.extend(self.read_all_or_nothing()?);
        Ok(records)
    }

    /// All that is there, perhaps nothing.
    pub fn read_all_or_nothing(&self) -> Called<Vec<vfio_ioasid_fault>> {
        let mut records = Vec::new();
        loop {
            match self.read_all_or_error() {
                Ok(more) if more.is_empty() => return Ok(records),
                Ok(more) => records.extend(more),
                Err(CallError {
                    errno: Errno::EAGAIN,
                    ..
                }) => return Ok(records),
                Err(error) => return Err(error),
            }
        }
    }

    /// All that is there, up to the end of the file, which must come.
    pub fn read_all_to_end(&self) -> Called<Vec<vfio_ioasid_fault>> {
        let mut records = Vec::new();
        loop {
            let more = self.read_all_or_error()?;
            if more.is_empty() {
                return Ok(records);
            }
            records.extend(more);
        }
    }

    /// The next group's only record.
    pub fn read_one(&self) -> Outcome<vfio_ioasid_fault> {
        match Self::decode(&self.read_bytes(RECORD)?).first() {
            Some(record) => Ok(*record),
            None => fail("end of file instead of a record"),
        }
    }

    /// Reads with room for `len` bytes, of which `accessible` are accessible: what came.
    pub fn read_past_an_edge(&self, accessible: usize, len: usize) -> Called<usize> {
        let guarded = named("mmap", Guarded::new(&vec![0; accessible]))?;
        let result = raw::read_at_address(self.file.as_fd(), guarded.address(), len);
        named("read", result)
    }

    /// Writes bytes.
    pub fn write_bytes(&self, bytes: &[u8]) -> Called<usize> {
        done("write", (&self.file).write(bytes))
    }

    /// Writes `accessible` bytes of zeroes, and `beyond` more that are not accessible.
    pub fn write_past_an_edge(&self, accessible: usize, beyond: usize) -> Called<usize> {
        self.write_guarded(&vec![0; accessible], beyond)
    }

    /// Writes an answer and `beyond` more bytes that are not accessible.
    pub fn write_record_past_an_edge(
        &self,
        record: &vfio_ioasid_fault_response,
        beyond: usize,
    ) -> Called<usize> {
        self.write_guarded(&bytes_of(record), beyond)
    }

    fn write_guarded(&self, bytes: &[u8], beyond: usize) -> Called<usize> {
        let guarded = named("mmap", Guarded::new(bytes))?;
        let len = bytes.len() + beyond;
        let result = raw::write_at_address(self.file.as_fd(), guarded.address(), len);
        named("write", result)
    }

    /// Writes one answer.
    pub fn respond(&self, cookie: u64, code: u32) -> Called<()> {
        let record = bytes_of(&response(cookie, code));
        match self.write_bytes(&record)? {
            count if count == record.len() => Ok(()),
            _ => Err(CallError {
                call: "write of part of an answer",
                errno: Errno::EIO,
            }),
        }
    }

    /// Seeks.
    pub fn seek(&self) -> Called<u64> {
        done("lseek", (&self.file).seek(io::SeekFrom::Start(0)))
    }

    /// Makes a call on the fd.
    pub fn raw_ioctl(&self, request: u32, bytes: &mut [u8]) -> Called<i32> {
        named("ioctl", raw::ioctl(self.file.as_fd(), request, bytes))
    }

    /// Whether a read gives something within `limit`.
    pub fn readable_within(&self, limit: Duration) -> Called<bool> {
        Ok(poll(self, PollFlags::POLLIN, limit)?.contains(PollFlags::POLLIN))
    }

    /// Waits until a read gives something.
    ///
    /// # Errors
    ///
    /// If it does not within [`DEADLINE`].
    pub fn wait_readable(&self) -> Outcome {
        if self.readable_within(DEADLINE)? {
            return Ok(());
        }
        fail(format!("no record within {} s", DEADLINE.as_secs()))
    }

    /// Waits until that many groups came since the container began, to whatever queue.
    pub fn wait_for_page_requests(&self, rig: &Rig, count: u64) -> Outcome {
        rig.wait_for_page_requests(count)
    }

    /// Reads in a thread from a duplicate of the fd.
    pub fn read_in_a_thread(&self, len: usize) -> Outcome<Asleep<Result<Vec<u8>, Errno>>> {
        self.duplicate()?.read_in_a_thread_owned(len)
    }

    /// Reads in a thread, which closes the fd when the read returns.
    pub fn read_in_a_thread_owned(self, len: usize) -> Outcome<Asleep<Result<Vec<u8>, Errno>>> {
        Asleep::start(SYS_READ, move || {
            let mut bytes = vec![0; len];
            let result = (&self.file).read(&mut bytes);
            let count = result.map_err(|error| errno(&error))?;
            bytes.truncate(count);
            Ok(bytes)
        })
    }

    /// Polls in a thread; no event within [`DEADLINE`] gives none.
    pub fn poll_in_a_thread(&self, wanted: PollFlags) -> Outcome<Asleep<PollFlags>> {
        let queue = self.duplicate()?;
        Asleep::start(SYS_POLL, move || {
            poll_fd(queue.file.as_fd(), wanted, DEADLINE).unwrap_or(PollFlags::empty())
        })
    }
}

impl Rig {
    /// Waits until the module has answered that many groups by itself.
    pub fn wait_for_host_answers(&self, count: u64) -> Outcome {
        check::wait_until(&format!("{count} answers of the host"), || {
            Ok(self.container.stats()?.host_invalid >= count)
        })
    }
}
