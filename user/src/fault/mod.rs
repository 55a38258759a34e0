// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fault queue: page requests to read and answer.

#[cfg(feature = "tokio")]
mod asynchronous;
mod channel;
pub(crate) mod delivery;
mod handover;
mod outstanding;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncFaultQueue;
pub use channel::{FaultChannel, FaultRecord, ResponseRecord};
pub use handover::WaitingGroup;

use crate::error::{Error, Operation, Result};
use crate::metrics::{Counted, Metrics};
use crate::trace::tell;
use crate::types::{Bdf, Iova, Pasid};
pub(crate) use channel::FdChannel;
use delivery::Delivery;
use host_iommu_bindings::uapi as abi;
use outstanding::{Outstanding, Token};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How a fault queue is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultQueueOptions {
    /// Page requests that may wait unanswered; `None` for as many as the attached devices can
    /// have under way.
    pub depth: Option<u32>,
    /// How long a page request may wait before the host answers it INVALID, in whole
    /// milliseconds, rounded up; `None` for as long as it takes.
    pub deadline: Option<Duration>,
    /// Reads do not wait: for a poll loop.
    pub nonblocking: bool,
    /// The queue also gets the DMA faults of every device that no binding with a queue of its own
    /// is found for; one queue of a context can.
    pub dma_faults: bool,
}

impl FaultQueueOptions {
    /// For a poll loop: reads do not wait.
    pub const fn nonblocking() -> Self {
        Self {
            depth: None,
            deadline: None,
            nonblocking: true,
            dma_faults: false,
        }
    }

    /// The same with the DMA faults of the context.
    #[must_use]
    pub const fn with_dma_faults(self) -> Self {
        Self {
            dma_faults: true,
            ..self
        }
    }

    /// The same with a depth of its own.
    #[must_use]
    pub const fn with_depth(self, depth: u32) -> Self {
        Self {
            depth: Some(depth),
            ..self
        }
    }

    /// The same with a deadline.
    #[must_use]
    pub const fn with_deadline(self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }
}

/// The accesses that a page request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RequestedAccess {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
    /// To fetch instructions.
    pub execute: bool,
    /// As a supervisor.
    pub privileged: bool,
}

/// One page that a device asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PageRequest {
    /// The page's address, in the address space of the PASID.
    pub address: Iova,
    /// What for.
    pub access: RequestedAccess,
}

/// An answer to a page request group (PCIe 6.0, 10.4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The pages are there, or the device finds out when it tries again.
    Success,
    /// They are not, and will not be.
    Invalid,
}

/// A fault queue of this process, by a number that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultQueueId(u64);

/// A page request group that waits for its answer. Answering consumes it; one that is dropped is
/// answered INVALID.
#[derive(Debug)]
pub struct FaultGroup {
    channel: Weak<dyn FaultChannel>,
    queue: FaultQueueId,
    said: WaitingGroup,
    answered: bool,
    // Counts the group as outstanding until it is dropped.
    token: Token,
}

impl FaultGroup {
    /// The queue that gave it.
    pub fn queue(&self) -> FaultQueueId {
        self.queue
    }

    /// The group's name: unique for the life of its queue, as in
    /// [`FaultEvent::Cancelled`]. Other queues may use the same one.
    pub fn cookie(&self) -> u64 {
        self.said.cookie
    }

    /// The device that asks.
    pub fn device(&self) -> Bdf {
        self.said.device
    }

    /// The host's PASID; `None` if the device asks without one.
    pub fn pasid(&self) -> Option<Pasid> {
        self.said.pasid
    }

    /// The guest's PASID, as the binding named it.
    pub fn guest_pasid(&self) -> u32 {
        self.said.guest_pasid
    }

    /// The page request group index of the device.
    pub fn index(&self) -> u32 {
        self.said.index
    }

    /// The cookie of the binding.
    pub fn user_cookie(&self) -> u64 {
        self.said.user_cookie
    }

    /// The pages, at least one.
    pub fn requests(&self) -> &[PageRequest] {
        &self.said.requests
    }

    /// Answers. An answer to a group that was cancelled meanwhile is taken and has no effect.
    ///
    /// # Errors
    ///
    /// [`Error::QueueClosed`] if the queue was dropped: the host has answered INVALID.
    /// [`Error::Failed`] if the host did not take the answer; INVALID is tried then.
    pub fn respond(mut self, response: Response) -> Result<()> {
        self.answer(response)
    }

    fn answer(&mut self, response: Response) -> Result<()> {
        let channel = self.channel.upgrade().ok_or(Error::QueueClosed)?;
        let record = abi::vfio_ioasid_fault_response {
            cookie: self.said.cookie,
            code: match response {
                Response::Success => abi::VFIO_IOASID_RESPONSE_SUCCESS,
                Response::Invalid => abi::VFIO_IOASID_RESPONSE_INVALID,
            },
            ..Default::default()
        };
        let failed = |error: io::Error| {
            let cookie = self.said.cookie;
            Error::failed(Operation::Respond { cookie }, error)
        };
        loop {
            match channel.write(&[record]) {
                Ok(0) => return Err(failed(ErrorKind::WriteZero.into())),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.answered = true;
        let took = self.token.answered();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tell!(
            trace,
            cookie = self.said.cookie,
            ?response,
            micros,
            "answered"
        );
        #[cfg(not(feature = "tracing"))]
        let _ = micros;
        Ok(())
    }
}

impl Drop for FaultGroup {
    fn drop(&mut self) {
        if !self.answered {
            // A queue that is gone has answered already.
            let _ = self.answer(Response::Invalid);
        }
    }
}

/// A request that failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DmaFault {
    /// The device.
    pub device: Bdf,
    /// The host's PASID; `None` for a request without one.
    pub pasid: Option<Pasid>,
    /// The guest's PASID, as the binding named it.
    pub guest_pasid: u32,
    /// The address.
    pub address: Iova,
    /// The access.
    pub access: RequestedAccess,
    /// Why, as the IOMMU has it (VT-d 4.1, 7.1.3).
    pub reason: u32,
    /// The cookie of the binding.
    pub user_cookie: u64,
}

/// What a fault queue gives.
#[derive(Debug)]
#[non_exhaustive]
pub enum FaultEvent {
    /// Pages are asked for, and an answer is due.
    PageRequests(FaultGroup),
    /// A request failed; there is nothing to answer.
    Dma(DmaFault),
    /// The queue was full: this many page requests were answered INVALID.
    Overflow(u64),
    /// The group with this cookie needs no answer any more: its binding is gone.
    Cancelled(u64),
    /// The group with this cookie needs no answer any more: its deadline passed, and the host
    /// answered INVALID.
    Expired(u64),
}

/// The outcome of a read.
#[derive(Debug)]
pub enum FaultRead {
    /// At least one event.
    Events(Vec<FaultEvent>),
    /// There is none now; for queues that do not wait.
    Empty,
    /// There will be none any more: the context is gone.
    Ended,
}

/// A fault queue. Its fd ([`AsFd`]) is readable when there is something to read.
///
/// When it is dropped, everything that waits is answered INVALID, and so is every later page
/// request of its bindings.
#[derive(Debug)]
pub struct FaultQueue {
    id: FaultQueueId,
    channel: Arc<dyn FaultChannel>,
    outstanding: Arc<Outstanding>,
    frozen: AtomicBool,
    pub(crate) delivery: Delivery,
    #[cfg(feature = "tokio")]
    thawed: tokio::sync::Notify,
}

impl AsFd for FaultQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl AsRawFd for FaultQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Records of one read: several times the largest group.
const RECORDS: usize = 4 * abi::VFIO_IOASID_FAULT_GROUP_MAX as usize;

impl FaultQueue {
    /// Takes over the fd of a fault queue of the kernel module, such as one that was handed to
    /// this process.
    pub fn new(fd: OwnedFd) -> Self {
        Self::from_channel(Arc::new(FdChannel::new(fd)))
    }

    /// A queue over what a backend made.
    pub fn from_channel(channel: Arc<dyn FaultChannel>) -> Self {
        Self::counted(channel, Counted::default())
    }

    pub(crate) fn counted(channel: Arc<dyn FaultChannel>, counted: Counted) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: FaultQueueId(NEXT.fetch_add(1, Ordering::Relaxed)),
            channel,
            outstanding: Arc::new(Outstanding::new(counted)),
            frozen: AtomicBool::new(false),
            delivery: Delivery::default(),
            #[cfg(feature = "tokio")]
            thawed: tokio::sync::Notify::new(),
        }
    }

    /// Its number, as [`FaultGroup::queue`] and [`PciIommuOps::cancelled`] name it.
    ///
    /// [`PciIommuOps::cancelled`]: crate::PciIommuOps::cancelled
    pub fn id(&self) -> FaultQueueId {
        self.id
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    pub(crate) fn channel(&self) -> &dyn FaultChannel {
        &*self.channel
    }

    /// Reads what there is, and waits for something unless the queue is nonblocking.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`], with EINTR if a signal came; [`Error::Malformed`] for records that make
    /// no sense. Whole groups that came before those are then answered INVALID.
    pub fn read(&self) -> Result<FaultRead> {
        if self.is_frozen() {
            return Ok(FaultRead::Empty);
        }
        let mut records = vec![FaultRecord::default(); RECORDS];
        match self.channel.read(&mut records) {
            Ok(0) => Ok(FaultRead::Ended),
            Ok(count) => {
                records.truncate(count);
                let events = self.decode(&records)?;
                self.outstanding.counted().events(&events);
                events.iter().for_each(tell_of);
                Ok(FaultRead::Events(events))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(FaultRead::Empty),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(malformed(error.to_string()))
            }
            Err(error) => Err(Error::failed(Operation::ReadFaults, error)),
        }
    }

    /// Nothing is read any more, before a snapshot or a reset: [`FaultQueue::read`] gives
    /// [`FaultRead::Empty`], and page requests wait in the host. A thread that waits in a read
    /// comes back with what it gets; [`FaultQueue::drain`] counts that too.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// Reading goes on.
    pub fn thaw(&self) {
        self.frozen.store(false, Ordering::Release);
        #[cfg(feature = "tokio")]
        self.thawed.notify_waiters();
    }

    /// What came and was answered, with that of the context's other queues if
    /// [`HostIommu::fault_queue`](crate::HostIommu::fault_queue) made this one.
    pub fn metrics(&self) -> Metrics {
        self.outstanding.counted().snapshot()
    }

    /// Groups that were read and are not answered yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding.count()
    }

    /// Waits until every group that was read is answered, for `limit` at most; gives the number
    /// that is not.
    pub fn drain(&self, limit: Duration) -> usize {
        self.outstanding.wait(limit)
    }

    fn decode(&self, records: &[abi::vfio_ioasid_fault]) -> Result<Vec<FaultEvent>> {
        let mut events = Vec::new();
        let mut open: Option<FaultGroup> = None;
        for record in records {
            if open.is_some() && record.kind != abi::VFIO_IOASID_FAULT_PAGE_REQUEST {
                return Err(malformed("a group has no last record".to_owned()));
            }
            match record.kind {
                abi::VFIO_IOASID_FAULT_PAGE_REQUEST => {
                    let mut group = match open.take() {
                        Some(group) => group,
                        None => self.group(record)?,
                    };
                    if group.said.cookie != record.cookie {
                        return Err(malformed("a group has no last record".to_owned()));
                    }
                    group.said.requests.push(PageRequest {
                        address: Iova(record.addr),
                        access: access(record.perm),
                    });
                    if record.flags & abi::VFIO_IOASID_FAULT_FLAG_LAST == 0 {
                        open = Some(group);
                    } else {
                        events.push(FaultEvent::PageRequests(group));
                    }
                }
                abi::VFIO_IOASID_FAULT_DMA => events.push(FaultEvent::Dma(DmaFault {
                    device: record.device.into(),
                    pasid: pasid(record)?,
                    guest_pasid: record.guest_pasid,
                    address: Iova(record.addr),
                    access: access(record.perm),
                    reason: record.reason,
                    user_cookie: record.user_cookie,
                })),
                abi::VFIO_IOASID_FAULT_OVERFLOW => events.push(FaultEvent::Overflow(record.addr)),
                abi::VFIO_IOASID_FAULT_CANCELLED => {
                    let expired = record.flags & abi::VFIO_IOASID_FAULT_FLAG_EXPIRED != 0;
                    events.push(if expired {
                        FaultEvent::Expired(record.cookie)
                    } else {
                        FaultEvent::Cancelled(record.cookie)
                    });
                }
                // A kind that a later kernel has, and that needs no answer.
                _ => {}
            }
        }
        match open {
            Some(_) => Err(malformed("the last group is cut off".to_owned())),
            None => Ok(events),
        }
    }

    fn group(&self, record: &abi::vfio_ioasid_fault) -> Result<FaultGroup> {
        Ok(self.adopt(WaitingGroup {
            cookie: record.cookie,
            device: record.device.into(),
            pasid: pasid(record)?,
            guest_pasid: record.guest_pasid,
            index: record.group,
            user_cookie: record.user_cookie,
            requests: Vec::new(),
        }))
    }
}

/// Tells of an event that came.
fn tell_of(event: &FaultEvent) {
    #[cfg(not(feature = "tracing"))]
    let _ = event;
    #[cfg(feature = "tracing")]
    match event {
        FaultEvent::PageRequests(group) => {
            let pasid = group.said.pasid.map(Pasid::get);
            let (device, pages) = (group.said.device, group.said.requests.len());
            let (index, cookie) = (group.said.index, group.said.cookie);
            tell!(trace, %device, pasid, group = index, cookie, pages, "page requests");
        }
        FaultEvent::Dma(fault) => {
            let (device, address) = (fault.device, fault.address);
            tell!(debug, %device, %address, reason = fault.reason, "DMA fault");
        }
        FaultEvent::Overflow(lost) => tell!(debug, lost, "queue overflow"),
        FaultEvent::Cancelled(cookie) => tell!(debug, cookie, "cancelled"),
        FaultEvent::Expired(cookie) => tell!(debug, cookie, "expired"),
    }
}

fn pasid(record: &abi::vfio_ioasid_fault) -> Result<Option<Pasid>> {
    if record.flags & abi::VFIO_IOASID_FAULT_FLAG_PASID == 0 {
        return Ok(None);
    }
    let number = record.pasid;
    Pasid::try_from(number)
        .map(Some)
        .map_err(|_| malformed(format!("{number:#x} is no PASID")))
}

fn access(perm: u32) -> RequestedAccess {
    RequestedAccess {
        read: perm & abi::VFIO_IOASID_FAULT_PERM_READ != 0,
        write: perm & abi::VFIO_IOASID_FAULT_PERM_WRITE != 0,
        execute: perm & abi::VFIO_IOASID_FAULT_PERM_EXEC != 0,
        privileged: perm & abi::VFIO_IOASID_FAULT_PERM_PRIV != 0,
    }
}

fn malformed(detail: String) -> Error {
    Error::Malformed {
        what: "fault record",
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::plain::Plain;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A queue whose other end is ours.
    fn queue() -> (FaultQueue, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.set_nonblocking(true).expect("a nonblocking socket");
        ours.set_nonblocking(true).expect("a nonblocking socket");
        (FaultQueue::new(theirs.into()), ours)
    }

    fn request(cookie: u64, addr: u64, last: bool) -> abi::vfio_ioasid_fault {
        abi::vfio_ioasid_fault {
            kind: abi::VFIO_IOASID_FAULT_PAGE_REQUEST,
            flags: abi::VFIO_IOASID_FAULT_FLAG_PASID
                | if last {
                    abi::VFIO_IOASID_FAULT_FLAG_LAST
                } else {
                    0
                },
            pasid: 5,
            guest_pasid: 9,
            perm: abi::VFIO_IOASID_FAULT_PERM_WRITE,
            addr,
            cookie,
            ..Default::default()
        }
    }

    fn send(kernel: &mut UnixStream, records: &[abi::vfio_ioasid_fault]) {
        for record in records {
            kernel.write_all(record.as_bytes()).expect("a sent record");
        }
    }

    fn answers(kernel: &mut UnixStream) -> Vec<(u64, u32)> {
        let mut bytes = Vec::new();
        let _ = kernel.read_to_end(&mut bytes);
        bytes
            .chunks(16)
            .filter_map(abi::vfio_ioasid_fault_response::from_bytes)
            .map(|answer| (answer.cookie, answer.code))
            .collect()
    }

    fn groups(queue: &FaultQueue) -> Vec<FaultGroup> {
        let Ok(FaultRead::Events(events)) = queue.read() else {
            panic!("no events");
        };
        let group = |event| match event {
            FaultEvent::PageRequests(group) => Some(group),
            _ => None,
        };
        events.into_iter().filter_map(group).collect()
    }

    #[test]
    fn read_gathers_the_records_of_a_group() {
        let (queue, mut kernel) = queue();
        let records = [
            request(7, 0x1000, false),
            request(7, 0x2000, true),
            request(8, 0x3000, true),
        ];
        send(&mut kernel, &records);
        let groups = groups(&queue);
        let addresses: Vec<Vec<u64>> = groups
            .iter()
            .map(|group| group.requests().iter().map(|page| page.address.0).collect())
            .collect();
        assert_eq!(addresses, [vec![0x1000, 0x2000], vec![0x3000]]);
        assert_eq!(groups[0].pasid().map(Pasid::get), Some(5));
        assert_eq!(groups[0].guest_pasid(), 9);
        assert!(groups[1].requests()[0].access.write);
    }

    #[test]
    fn respond_answers_once_and_drop_answers_invalid() {
        let (queue, mut kernel) = queue();
        send(
            &mut kernel,
            &[request(7, 0x1000, true), request(8, 0, true)],
        );
        let mut groups = groups(&queue);
        let (second, first) = (groups.pop(), groups.pop());
        first
            .expect("the first group")
            .respond(Response::Success)
            .expect("an answer");
        drop(second);
        assert_eq!(answers(&mut kernel), [(7, 0), (8, 1)]);
    }

    #[test]
    fn respond_after_the_queue_is_gone_says_so() {
        let (queue, mut kernel) = queue();
        send(&mut kernel, &[request(7, 0x1000, true)]);
        let group = groups(&queue).pop().expect("a group");
        drop(queue);
        assert!(matches!(
            group.respond(Response::Success),
            Err(Error::QueueClosed)
        ));
        assert_eq!(answers(&mut kernel), []);
    }

    #[test]
    fn read_of_nothing_is_empty_and_of_a_closed_end_ended() {
        let (queue, kernel) = queue();
        assert!(matches!(queue.read(), Ok(FaultRead::Empty)));
        drop(kernel);
        assert!(matches!(queue.read(), Ok(FaultRead::Ended)));
    }

    #[test]
    fn read_of_a_group_without_its_end_is_malformed() {
        for tail in [None, Some(request(8, 0, true))] {
            let (queue, mut kernel) = queue();
            send(&mut kernel, &[request(7, 0x1000, false)]);
            send(&mut kernel, tail.as_slice());
            assert!(matches!(queue.read(), Err(Error::Malformed { .. })));
        }
    }

    #[test]
    fn freeze_holds_back_and_drain_counts_what_is_unanswered() {
        let (queue, mut kernel) = queue();
        send(&mut kernel, &[request(7, 0x1000, true)]);
        let group = groups(&queue).pop().expect("a group");
        queue.freeze();
        send(&mut kernel, &[request(8, 0x1000, true)]);
        assert!(matches!(queue.read(), Ok(FaultRead::Empty)));
        assert_eq!(queue.drain(Duration::from_millis(1)), 1);
        group.respond(Response::Success).expect("an answer");
        assert_eq!(queue.drain(Duration::ZERO), 0);
        queue.thaw();
        assert_eq!(groups(&queue).len(), 1);
    }
}
