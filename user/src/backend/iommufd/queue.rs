// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fault queues over iommufd's.
//!
//! A fault queue of iommufd neither blocks nor ends, has no depth and no deadline, says nothing of
//! what was cancelled, and names the next group as it named one that was answered. So a thread
//! reads each as soon as it has something, and keeps what it read by the module's rules.
//!
//! # The life of a group
//!
//! 1. The kernel queues it, and its fd becomes readable.
//! 2. The thread reads it under the context's lock and gives it a cookie of ours; over the depth it
//!    answers INVALID at once.
//! 3. The VMM reads it, and answers by our cookie: the answer goes to the kernel under its number
//!    there.
//! 4. Where a binding goes, the kernel has answered INVALID when the detach returns. What was read
//!    is cancelled under the same lock, so that no number of the kernel's is used again before it is
//!    forgotten here.

use super::super::queue::{event, Asks, Queue};
use super::super::shared::{count, Channel, Kept};
use super::state::{Inner, State};
use super::MAX_FAULT_QUEUES;
use crate::capabilities::Stats;
use crate::fault::{FaultQueueOptions, FaultRecord};
use crate::sys::plain::{bytes_of_slice_mut, Plain};
use crate::sys::{iommufd, Errno};
use crate::types::{Bdf, Pasid};
use host_iommu_bindings::uapi as abi;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Most requests of a group that is read; on a kernel with our patches they are fewer.
const MAX_READ: usize = 1 << 16;
/// Reads of the kernel's queue with the lock held, of 256 records each.
const READS_OF_A_TURN: usize = 8;
/// How long the thread waits after an error before it tries again.
const RETRY: Duration = Duration::from_millis(100);

/// What waits for a group: the kernel's, under this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) device: Bdf,
    pub(super) pasid: Pasid,
    pub(super) number: u32,
}

impl Asks for Asker {
    fn at(&self) -> (Bdf, Pasid) {
        (self.device, self.pasid)
    }
}

/// The kernel's side of a queue.
#[derive(Debug)]
pub(super) struct KernelQueue {
    pub(super) id: u32,
    file: File,
}

impl KernelQueue {
    /// Answers a group. One that the kernel has answered itself is none of its any more.
    pub(super) fn respond(&self, number: u32, success: bool) {
        let answer = abi::iommu_hwpt_page_response {
            cookie: number,
            code: if success {
                abi::iommufd_page_response_code_IOMMUFD_PAGE_RESP_SUCCESS
            } else {
                abi::iommufd_page_response_code_IOMMUFD_PAGE_RESP_INVALID
            },
        };
        let _ = (&self.file).write(answer.as_bytes());
    }

    /// Reads whole groups, none if there are none.
    fn read(&self) -> Result<Vec<abi::iommu_hwpt_pgfault>, Errno> {
        const FAULT: usize = size_of::<abi::iommu_hwpt_pgfault>();

        let mut room = vec![abi::iommu_hwpt_pgfault::default(); 256];
        loop {
            match (&self.file).read(bytes_of_slice_mut(&mut room)) {
                Ok(bytes) => {
                    room.truncate(bytes / FAULT);
                    return Ok(room);
                }
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    // The first group is larger.
                    Errno::EINVAL if room.len() < MAX_READ => {
                        room.resize_with(room.len() * 4, Default::default);
                    }
                    Errno::EINTR => {}
                    errno => return Err(errno),
                },
            }
        }
    }
}

/// A fault queue of a context.
#[derive(Debug)]
pub(super) struct FaultState {
    pub(super) queue: Queue<Asker>,
    /// Until its thread ends.
    kernel: Option<Arc<KernelQueue>>,
    /// Has the thread look again.
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    /// Bindings that name it.
    pub(super) users: usize,
    /// Nobody reads it any more.
    pub(super) closed: bool,
}

impl FaultState {
    pub(super) fn kernel_id(&self) -> Option<u32> {
        self.kernel.as_ref().map(|kernel| kernel.id)
    }

    pub(super) fn wake(&self) {
        // Fails only where the thread has been woken 2^64 times already.
        let _ = self.wake.write(1);
    }

    pub(super) fn take_thread(&mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }

    /// Tells the kernel; nobody, if its side is gone, for then everything is answered.
    fn respond(&self, number: u32, success: bool) {
        if let Some(kernel) = &self.kernel {
            kernel.respond(number, success);
        }
    }
}

/// What the thread of a queue does next.
enum Next {
    /// Waits for the kernel, or for this long.
    Wait(Option<Duration>),
    /// Looks again at once: there may be more.
    Again,
    /// Does not look at the kernel's fd, which has something that cannot be read.
    Retry,
    /// Ends.
    End,
}

impl Kept for State {
    type Asker = Asker;

    fn queue(&mut self, id: u64) -> Option<&mut Queue<Asker>> {
        self.queues.get_mut(&id).map(|found| &mut found.queue)
    }

    fn signal(&mut self) {
        for found in self.queues.values_mut() {
            found.queue.signal();
        }
    }

    fn resume(&mut self, queue: u64, asker: Asker, success: bool) {
        if let Some(found) = self.queues.get(&queue) {
            found.respond(asker.number, success);
        }
    }

    /// The last close: what waits is answered INVALID, and what comes later.
    fn close(&mut self, id: u64) {
        let Some(found) = self.queues.get_mut(&id) else {
            return;
        };
        let askers = found.queue.cancel_all();
        for asker in &askers {
            found.respond(asker.number, false);
        }
        found.closed = true;
        found.wake();
        if found.kernel.is_none() {
            self.queues.remove(&id);
        }
        self.note_invalid(askers.len());
    }

    fn counters(&mut self) -> &mut Stats {
        &mut self.counters
    }
}

impl State {
    /// Takes in what the kernel has, for a bounded time: a device can ask faster than this reads,
    /// and others wait for the lock. Gives whether there may be more.
    ///
    /// # Errors
    ///
    /// What reading it says.
    pub(super) fn pump(&mut self, id: u64) -> Result<bool, Errno> {
        for _ in 0..READS_OF_A_TURN {
            let Some(kernel) = self.queues.get(&id).and_then(|found| found.kernel.clone()) else {
                return Ok(false);
            };
            let faults = kernel.read()?;
            if faults.is_empty() {
                return Ok(false);
            }
            for group in faults.chunk_by(|one, next| one.cookie == next.cookie) {
                self.take_group(id, &kernel, group);
            }
        }
        Ok(true)
    }

    fn take_group(&mut self, id: u64, kernel: &KernelQueue, group: &[abi::iommu_hwpt_pgfault]) {
        let Some(first) = group.first() else {
            return;
        };
        let asker = self.asker(first);
        let bound = asker.and_then(|asker| self.bindings.get(&asker.at()));
        let records = match (asker, bound) {
            (Some(asker), Some(bound)) => {
                let cookie = bound.translation.cookie();
                let guest = bound.translation.guest_pasid();
                let guest = guest.unwrap_or(asker.pasid.get());
                Some((asker, records(asker, guest, cookie, group)))
            }
            _ => None,
        };
        let found = self.queues.get_mut(&id).filter(|found| !found.closed);
        let counters = &mut self.counters;
        if let (Some((asker, records)), Some(found)) = (records, found) {
            let weight = records.len();
            if weight <= abi::VFIO_IOASID_FAULT_GROUP_MAX as usize {
                if found.queue.push(asker, records).is_ok() {
                    count(&mut counters.page_requests, 1);
                    return;
                }
                count(&mut counters.overflows, weight as u64);
            }
        }
        count(&mut counters.host_invalid, 1);
        kernel.respond(first.cookie, false);
    }

    fn asker(&self, fault: &abi::iommu_hwpt_pgfault) -> Option<Asker> {
        let has_pasid =
            fault.flags & abi::iommu_hwpt_pgfault_flags_IOMMU_PGFAULT_FLAGS_PASID_VALID != 0;
        let pasid = if has_pasid { fault.pasid } else { 0 };
        let mut devices = self.devices.iter();
        let (&device, _) = devices.find(|(_, device)| device.id == fault.dev_id)?;
        Some(Asker {
            device,
            pasid: pasid.try_into().ok()?,
            number: fault.cookie,
        })
    }

    /// Notes that the host has answered so many groups INVALID.
    fn note_invalid(&mut self, groups: usize) {
        count(&mut self.counters.host_invalid, groups as u64);
    }

    /// Cancels what a binding asked for: the kernel has answered it.
    pub(super) fn cancel_binding(&mut self, device: Bdf, pasid: Pasid) {
        let queues = self.queues.values_mut();
        let groups = queues.map(|found| found.queue.cancel_binding(device, pasid).len());
        let groups = groups.sum();
        self.note_invalid(groups);
    }

    /// One turn of the thread of a queue.
    fn turn(&mut self, id: u64) -> Next {
        let pumped = self.pump(id);
        let Some(found) = self.queues.get_mut(&id) else {
            return Next::End;
        };
        // The count says nothing beyond that there was something.
        let _ = found.wake.read();
        let now = Instant::now();
        let (askers, due) = found.queue.expire(now);
        for asker in &askers {
            found.respond(asker.number, false);
        }
        let unused = found.users == 0 && (found.closed || self.iommufd.is_none());
        if unused {
            found.kernel = None;
            if found.closed {
                self.queues.remove(&id);
            }
        }
        count(&mut self.counters.expired, askers.len() as u64);
        self.note_invalid(askers.len());
        match (unused, pumped) {
            (true, _) => Next::End,
            (false, Err(_)) => Next::Retry,
            // The lock is let go in between.
            (false, Ok(true)) => Next::Again,
            (false, Ok(false)) => Next::Wait(due.map(|due| due.saturating_duration_since(now))),
        }
    }
}

/// The records of a group, but for the cookie.
fn records(
    asker: Asker,
    guest_pasid: u32,
    user_cookie: u64,
    group: &[abi::iommu_hwpt_pgfault],
) -> Vec<FaultRecord> {
    const PERMISSIONS: u32 = abi::VFIO_IOASID_FAULT_PERM_READ
        | abi::VFIO_IOASID_FAULT_PERM_WRITE
        | abi::VFIO_IOASID_FAULT_PERM_EXEC
        | abi::VFIO_IOASID_FAULT_PERM_PRIV;

    let pasid = match asker.pasid {
        Pasid::RID => 0,
        _ => abi::VFIO_IOASID_FAULT_FLAG_PASID,
    };
    let mut records: Vec<FaultRecord> = group
        .iter()
        .map(|fault| FaultRecord {
            kind: abi::VFIO_IOASID_FAULT_PAGE_REQUEST,
            flags: pasid,
            device: asker.device.into(),
            pasid: asker.pasid.get(),
            guest_pasid,
            group: fault.grpid,
            // The bits are the same.
            perm: fault.perm & PERMISSIONS,
            addr: fault.addr,
            user_cookie,
            ..Default::default()
        })
        .collect();
    if let Some(last) = records.last_mut() {
        last.flags |= abi::VFIO_IOASID_FAULT_FLAG_LAST;
    }
    records
}

/// What the thread of a queue works with.
struct Pump {
    inner: Arc<Inner>,
    iommufd: Arc<OwnedFd>,
    id: u64,
    kernel: Arc<KernelQueue>,
    wake: Arc<EventFd>,
}

impl Pump {
    fn run(self) {
        loop {
            let (fds, limit) = match self.inner.with(|state| state.turn(self.id)) {
                Next::End => break,
                Next::Again => {
                    thread::yield_now();
                    continue;
                }
                Next::Wait(limit) => (
                    [Some(self.kernel.file.as_fd()), Some(self.wake.as_fd())],
                    limit,
                ),
                Next::Retry => ([None, Some(self.wake.as_fd())], Some(RETRY)),
            };
            wait(&fds, limit);
        }
        let Self {
            kernel, iommufd, ..
        } = self;
        let id = kernel.id;
        // The state has let go of its share: this closes the fd, without which nothing is
        // destroyed. What cannot be is destroyed with the iommufd.
        drop(kernel);
        let _ = iommufd::destroy(iommufd.as_fd(), id);
    }
}

/// Waits until a fd is readable, for `limit` at most.
fn wait(fds: &[Option<BorrowedFd<'_>>], limit: Option<Duration>) {
    let mut fds: Vec<PollFd<'_>> = fds
        .iter()
        .flatten()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let limit = match limit {
        None => PollTimeout::NONE,
        // Rounded up: it is due when the thread looks again.
        Some(limit) => {
            let limit = limit.saturating_add(Duration::from_millis(1));
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
        }
    };
    // After a signal the thread looks again.
    let _ = poll(&mut fds, limit);
}

/// A fault queue as the crate reads it.
pub(super) type IommufdChannel = Channel<State>;

/// Opens a fault queue.
pub(super) fn open(
    inner: &Arc<Inner>,
    iommufd: &Arc<OwnedFd>,
    options: &FaultQueueOptions,
) -> Result<IommufdChannel, Errno> {
    if options.dma_faults {
        return Err(Errno::EOPNOTSUPP);
    }
    let (event, wake) = (event()?, event()?);
    let id = inner.with(|state| -> Result<u64, Errno> {
        if state.queues.len() >= MAX_FAULT_QUEUES {
            return Err(Errno::EDQUOT);
        }
        let id = state.next_queue;
        state.next_queue = id.checked_add(1).ok_or(Errno::EDQUOT)?;
        let queue = Queue::new(id, options, state.devices.len(), event.clone())?;
        let (kernel_id, fd) = iommufd::fault_alloc(iommufd.as_fd())?;
        let kernel = Arc::new(KernelQueue {
            id: kernel_id,
            file: File::from(fd),
        });
        let pump = Pump {
            inner: inner.clone(),
            iommufd: iommufd.clone(),
            id,
            kernel: kernel.clone(),
            wake: wake.clone(),
        };
        let thread = thread::Builder::new().name("host-iommu faults".to_owned());
        let thread = thread
            .spawn(move || pump.run())
            .map_err(|_| Errno::EAGAIN)?;
        let found = FaultState {
            queue,
            kernel: Some(kernel),
            wake,
            thread: Some(thread),
            users: 0,
            closed: false,
        };
        state.queues.insert(id, found);
        Ok(id)
    })?;
    Ok(Channel::new(inner.clone(), id, options.nonblocking, event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::plain::bytes_of_slice;
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc;

    /// A device that goes on asking must not keep the lock from everybody else.
    #[test]
    fn pump_ends_while_the_device_goes_on_asking() {
        let (theirs, ours) = UnixDatagram::pair().expect("a pair of sockets");
        let mut state = State::default();
        let kernel = KernelQueue {
            id: 1,
            file: File::from(OwnedFd::from(theirs)),
        };
        let options = FaultQueueOptions::nonblocking();
        let queue = Queue::new(1, &options, 1, event().expect("an eventfd"));
        let found = FaultState {
            queue: queue.expect("a queue"),
            kernel: Some(Arc::new(kernel)),
            wake: event().expect("an eventfd"),
            thread: None,
            users: 0,
            closed: false,
        };
        state.queues.insert(1, found);

        let asks = vec![abi::iommu_hwpt_pgfault::default(); 64];
        let answers = ours.try_clone().expect("a socket");
        // They end with the test.
        thread::spawn(move || while ours.send(bytes_of_slice(&asks)).is_ok() {});
        thread::spawn(move || while answers.recv(&mut [0; 64]).is_ok_and(|len| len != 0) {});
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let pumped = state.pump(1);
            let _ = done.send((pumped, state.counters.host_invalid));
        });
        let (pumped, invalid) = ended
            .recv_timeout(Duration::from_secs(20))
            .expect("it ends although there is more");
        assert_eq!(pumped, Ok(true), "there is more");
        assert_eq!(invalid, READS_OF_A_TURN as u64, "a group each: one cookie");
    }
}
