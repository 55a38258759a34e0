// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fault queues, by the rules of the module's fault fd.

use super::state::Inner;
use super::MAX_FAULT_QUEUES;
use crate::fault::{FaultChannel, FaultQueueOptions, FaultRecord, ResponseRecord};
use crate::sys::Errno;
use crate::types::{Bdf, Pasid};
use host_iommu_bindings::uapi as abi;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// A cookie is the queue's number above the group's: unique in the context, and one that was
/// never issued is told from a late one.
const NUMBER_BITS: u32 = 40;
/// Page requests of each device that the default depth has room for, as many as Linux grants one.
pub(super) const DEPTH_PER_DEVICE: u32 = 2048;
/// How long a watcher of deadlines sleeps at most.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits to be read.
    Unread,
    /// Was read, and is owed an answer.
    Read,
    /// Was read and answered by the host: a CANCELLED record waits.
    Cancelled { expired: bool },
}

/// Whose DMA waits for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) device: Bdf,
    pub(super) pasid: Pasid,
    pub(super) dma: u64,
}

#[derive(Debug)]
struct Group {
    phase: Phase,
    records: Vec<FaultRecord>,
    asker: Asker,
    since: Instant,
}

impl Group {
    fn weight(&self) -> usize {
        self.records.len()
    }
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// The DMA goes on.
    Pending(Asker),
    /// It was settled before.
    Late,
}

#[derive(Debug)]
pub(super) struct Queue {
    id: u64,
    depth: usize,
    deadline: Option<Duration>,
    next: u64,
    groups: BTreeMap<u64, Group>,
    /// Cookies of groups and of CANCELLED records to read.
    ready: VecDeque<u64>,
    /// Records of all groups: at most `depth`.
    waiting: usize,
    lost: u64,
    ended: bool,
    event: Arc<EventFd>,
    signalled: bool,
}

impl Queue {
    /// Takes a group in.
    ///
    /// # Errors
    ///
    /// ENOSPC over the depth; the loss is counted.
    pub(super) fn push(
        &mut self,
        asker: Asker,
        mut records: Vec<FaultRecord>,
    ) -> Result<(), Errno> {
        let weight = records.len();
        if weight > self.depth.saturating_sub(self.waiting) {
            self.lost = self.lost.saturating_add(weight as u64);
            return Err(Errno::ENOSPC);
        }
        let cookie = self.id << NUMBER_BITS | self.next;
        self.next = self.next.saturating_add(1);
        for record in &mut records {
            record.cookie = cookie;
        }
        self.waiting = self.waiting.saturating_add(weight);
        self.ready.push_back(cookie);
        let group = Group {
            phase: Phase::Unread,
            records,
            asker,
            since: Instant::now(),
        };
        self.groups.insert(cookie, group);
        Ok(())
    }

    fn remove(&mut self, cookie: u64) {
        if let Some(group) = self.groups.remove(&cookie) {
            self.waiting = self.waiting.saturating_sub(group.weight());
        }
    }

    fn readable(&self) -> bool {
        self.ended || self.lost != 0 || !self.ready.is_empty()
    }

    /// Fills `room` with whole groups; `None` if there is nothing, zero at the end.
    ///
    /// # Errors
    ///
    /// EINVAL if what comes first does not fit.
    fn read(&mut self, room: &mut [FaultRecord]) -> Result<Option<usize>, Errno> {
        let mut used = 0;
        if self.lost != 0 {
            let first = room.first_mut().ok_or(Errno::EINVAL)?;
            *first = FaultRecord {
                kind: abi::VFIO_IOASID_FAULT_OVERFLOW,
                addr: std::mem::take(&mut self.lost),
                ..Default::default()
            };
            used = 1;
        }
        while let Some(&cookie) = self.ready.front() {
            let Some(group) = self.groups.get_mut(&cookie) else {
                self.ready.pop_front();
                continue;
            };
            let note;
            let records = match group.phase {
                Phase::Cancelled { expired } => {
                    note = [FaultRecord {
                        kind: abi::VFIO_IOASID_FAULT_CANCELLED,
                        flags: if expired {
                            abi::VFIO_IOASID_FAULT_FLAG_EXPIRED
                        } else {
                            0
                        },
                        cookie,
                        ..Default::default()
                    }];
                    &note[..]
                }
                _ => &group.records[..],
            };
            let end = used + records.len();
            let Some(to) = room.get_mut(used..end) else {
                break;
            };
            to.copy_from_slice(records);
            used = end;
            self.ready.pop_front();
            match group.phase {
                Phase::Unread => group.phase = Phase::Read,
                _ => self.remove(cookie),
            }
        }
        match used {
            0 if !self.ready.is_empty() => Err(Errno::EINVAL),
            0 if self.ended => Ok(Some(0)),
            0 => Ok(None),
            used => Ok(Some(used)),
        }
    }

    /// Takes an answer.
    ///
    /// # Errors
    ///
    /// ENOENT for a cookie that no reader was given.
    pub(super) fn answer(&mut self, cookie: u64) -> Result<Answered, Errno> {
        let number = cookie & ((1 << NUMBER_BITS) - 1);
        if cookie >> NUMBER_BITS != self.id || number == 0 || number >= self.next {
            return Err(Errno::ENOENT);
        }
        match self
            .groups
            .get(&cookie)
            .map(|group| (group.phase, group.asker))
        {
            Some((Phase::Unread, _)) => Err(Errno::ENOENT),
            Some((Phase::Read, asker)) => {
                self.remove(cookie);
                Ok(Answered::Pending(asker))
            }
            Some((Phase::Cancelled { .. }, _)) | None => Ok(Answered::Late),
        }
    }

    /// The host answers the groups that `which` names; gives who asked.
    fn cancel(&mut self, expired: bool, which: impl Fn(&Group) -> bool) -> Vec<Asker> {
        let chosen: Vec<(u64, Phase, Asker)> = self
            .groups
            .iter()
            .filter(|(_, group)| matches!(group.phase, Phase::Unread | Phase::Read))
            .filter(|(_, group)| which(group))
            .map(|(&cookie, group)| (cookie, group.phase, group.asker))
            .collect();
        for &(cookie, phase, _) in &chosen {
            if phase == Phase::Unread {
                self.remove(cookie);
                self.ready.retain(|ready| *ready != cookie);
            } else if let Some(group) = self.groups.get_mut(&cookie) {
                group.phase = Phase::Cancelled { expired };
                self.ready.push_back(cookie);
            }
        }
        chosen.into_iter().map(|(_, _, asker)| asker).collect()
    }

    /// Cancels what a binding asked for.
    pub(super) fn cancel_binding(&mut self, device: Bdf, pasid: Pasid) -> Vec<Asker> {
        self.cancel(false, |group| {
            (group.asker.device, group.asker.pasid) == (device, pasid)
        })
    }

    /// Cancels everything: nobody reads any more.
    pub(super) fn cancel_all(&mut self) -> Vec<Asker> {
        self.cancel(false, |_| true)
    }

    /// Drops what a DMA asked for that is no more, as a device does that was reset.
    pub(super) fn cancel_dma(&mut self, device: Bdf, dma: u64) {
        self.cancel(false, |group| {
            (group.asker.device, group.asker.dma) == (device, dma)
        });
    }

    /// Cancels what is due; gives who asked, and when the next is due.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<Asker>, Option<Instant>) {
        let Some(deadline) = self.deadline else {
            return (Vec::new(), None);
        };
        let due = |group: &Group| group.since.checked_add(deadline);
        let askers = self.cancel(true, |group| due(group).is_some_and(|due| due <= now));
        let alive = self
            .groups
            .values()
            .filter(|group| matches!(group.phase, Phase::Unread | Phase::Read));
        (askers, alive.filter_map(due).min())
    }

    /// The context is gone: what is there can be read, then comes the end.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Makes the fd readable or not.
    pub(super) fn signal(&mut self) {
        if self.readable() == self.signalled {
            return;
        }
        // Neither can fail: the count is zero or one, and the fd does not wait.
        let _ = if self.signalled {
            self.event.read()
        } else {
            self.event.write(1).map(|_| 0)
        };
        self.signalled = !self.signalled;
    }
}

/// A fault queue of a [`Soft`](super::Soft).
#[derive(Debug)]
pub(super) struct SoftChannel {
    inner: Arc<Inner>,
    id: u64,
    nonblocking: bool,
    event: Arc<EventFd>,
}

impl SoftChannel {
    pub(super) fn new(inner: &Arc<Inner>, options: &FaultQueueOptions) -> Result<Self, Errno> {
        if options.dma_faults {
            return Err(Errno::EOPNOTSUPP);
        }
        if options.depth.unwrap_or(0) > abi::VFIO_IOASID_FAULT_DEPTH_MAX {
            return Err(Errno::EINVAL);
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let id = inner.with(|state| {
            if state.queues.len() >= MAX_FAULT_QUEUES {
                return Err(Errno::EDQUOT);
            }
            // Zero asks for the default too.
            let depth = options
                .depth
                .filter(|&depth| depth != 0)
                .unwrap_or_else(|| {
                    let devices = u32::try_from(state.devices.len()).unwrap_or(u32::MAX);
                    let depth = devices.max(1).saturating_mul(DEPTH_PER_DEVICE);
                    depth.min(abi::VFIO_IOASID_FAULT_DEPTH_MAX)
                });
            let id = state.next_queue;
            state.next_queue = id.checked_add(1).ok_or(Errno::EDQUOT)?;
            let queue = Queue {
                id,
                depth: depth as usize,
                deadline: options.deadline,
                next: 1,
                groups: BTreeMap::new(),
                ready: VecDeque::new(),
                waiting: 0,
                lost: 0,
                ended: state.ended,
                event: event.clone(),
                signalled: false,
            };
            state.queues.insert(id, queue);
            Ok(id)
        })?;
        // From here on dropping it takes the queue away.
        let channel = Self {
            inner: inner.clone(),
            id,
            nonblocking: options.nonblocking,
            event,
        };
        if options.deadline.is_some() {
            let weak = Arc::downgrade(inner);
            let watcher = thread::Builder::new().name("host-iommu deadline".to_owned());
            let spawned = watcher.spawn(move || watch(&weak, id));
            spawned.map_err(|_| Errno::EAGAIN)?;
        }
        Ok(channel)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn is_of(&self, inner: &Arc<Inner>) -> bool {
        Arc::ptr_eq(&self.inner, inner)
    }
}

/// Answers what is due, for as long as the queue is there.
fn watch(inner: &Weak<Inner>, queue: u64) {
    while let Some(inner) = inner.upgrade() {
        if !inner.watch(queue, WATCH) {
            return;
        }
    }
}

impl AsFd for SoftChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl FaultChannel for SoftChannel {
    fn read(&self, records: &mut [FaultRecord]) -> io::Result<usize> {
        let count = self.inner.wait_for(|state| {
            let Some(queue) = state.queues.get_mut(&self.id) else {
                return Some(Err(Errno::EBADF));
            };
            match queue.read(records) {
                Ok(None) if self.nonblocking => Some(Err(Errno::EAGAIN)),
                Ok(None) => None,
                Ok(Some(count)) => Some(Ok(count)),
                Err(errno) => Some(Err(errno)),
            }
        })?;
        Ok(count)
    }

    fn write(&self, responses: &[ResponseRecord]) -> io::Result<usize> {
        let mut taken = 0;
        for response in responses {
            let success = match response.code {
                abi::VFIO_IOASID_RESPONSE_SUCCESS => Ok(true),
                abi::VFIO_IOASID_RESPONSE_INVALID => Ok(false),
                _ => Err(Errno::EINVAL),
            };
            let done = success.and_then(|success| {
                self.inner
                    .with(|state| state.answer(self.id, response.cookie, success))
            });
            match done {
                Ok(()) => taken += 1,
                Err(errno) if taken == 0 => return Err(errno.into()),
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SoftChannel {
    fn drop(&mut self) {
        self.inner.with(|state| state.close(self.id));
    }
}
