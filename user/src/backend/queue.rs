// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fault queues that the crate keeps itself, by the rules of the module's fault fd.

use crate::fault::{FaultQueueOptions, FaultRecord, ResponseRecord};
use crate::sys::Errno;
use crate::types::{Bdf, Pasid};
use host_iommu_bindings::uapi as abi;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A cookie is the queue's number above the group's: unique in the context, and one that was
/// never issued is told from a late one.
const NUMBER_BITS: u32 = 40;
/// Page requests of each device that the default depth has room for, as many as Linux grants one.
const DEPTH_PER_DEVICE: u32 = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits to be read.
    Unread,
    /// Was read, and is owed an answer.
    Read,
    /// Was read and answered by the host: a CANCELLED record waits.
    Cancelled { expired: bool },
}

/// Who waits for a group.
pub(super) trait Asks: Copy {
    /// The device, and the host's PASID or [`Pasid::RID`].
    fn at(&self) -> (Bdf, Pasid);
}

#[derive(Debug)]
struct Group<A> {
    phase: Phase,
    records: Vec<FaultRecord>,
    asker: A,
    since: Instant,
    /// Its turn to be read; `None` once that has come.
    turn: Option<u64>,
}

impl<A> Group<A> {
    fn weight(&self) -> usize {
        self.records.len()
    }
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered<A> {
    /// This one is to be told.
    Pending(A),
    /// It was settled before.
    Late,
}

/// What is to be read.
#[derive(Clone, Copy, Debug)]
enum Ready {
    /// A group, or that it was cancelled.
    Group(u64),
    /// What needs no answer.
    #[cfg_attr(
        not(feature = "soft"),
        expect(dead_code, reason = "no other backend has DMA faults of its own")
    )]
    Note(FaultRecord),
}

/// Most notes of DMA faults that wait to be read, and no more than half of the depth.
#[cfg(feature = "soft")]
const MAX_NOTES: usize = 64;

#[derive(Debug)]
pub(super) struct Queue<A> {
    id: u64,
    depth: usize,
    deadline: Option<Duration>,
    next: u64,
    /// By cookie, and so in the order of their deadlines.
    groups: BTreeMap<u64, Group<A>>,
    /// Those that wait for an answer, by who asked.
    askers: BTreeMap<(Bdf, Pasid), BTreeSet<u64>>,
    /// What is to be read, by turn.
    ready: BTreeMap<u64, Ready>,
    next_turn: u64,
    /// Notes of DMA faults among it.
    notes: usize,
    /// Records of all groups: at most `depth`.
    waiting: usize,
    lost: u64,
    ended: bool,
    event: Arc<EventFd>,
    signalled: bool,
}

/// An fd that says when a queue is readable.
pub(super) fn event() -> Result<Arc<EventFd>, Errno> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    Ok(Arc::new(EventFd::from_value_and_flags(0, flags)?))
}

/// Takes answers in order up to the first that is not taken; gives their number.
///
/// # Errors
///
/// If that is the first: EINVAL for an unknown code, and those of `answer`, which is given the
/// cookie and whether it is SUCCESS.
pub(super) fn answer_each(
    responses: &[ResponseRecord],
    mut answer: impl FnMut(u64, bool) -> Result<(), Errno>,
) -> io::Result<usize> {
    let mut taken = 0;
    for response in responses {
        let success = match response.code {
            abi::VFIO_IOASID_RESPONSE_SUCCESS => Ok(true),
            abi::VFIO_IOASID_RESPONSE_INVALID => Ok(false),
            _ => Err(Errno::EINVAL),
        };
        match success.and_then(|success| answer(response.cookie, success)) {
            Ok(()) => taken += 1,
            Err(errno) if taken == 0 => return Err(errno.into()),
            Err(_) => break,
        }
    }
    Ok(taken)
}

impl<A: Asks> Queue<A> {
    /// An empty queue; `devices` are those of the context, for the default depth.
    ///
    /// # Errors
    ///
    /// EINVAL for too large a depth.
    pub(super) fn new(
        id: u64,
        options: &FaultQueueOptions,
        devices: usize,
        event: Arc<EventFd>,
    ) -> Result<Self, Errno> {
        let depth = match options.depth {
            // Zero asks for the default too.
            None | Some(0) => {
                let devices = u32::try_from(devices).unwrap_or(u32::MAX);
                let depth = devices.max(1).saturating_mul(DEPTH_PER_DEVICE);
                depth.min(abi::VFIO_IOASID_FAULT_DEPTH_MAX)
            }
            Some(depth) if depth > abi::VFIO_IOASID_FAULT_DEPTH_MAX => return Err(Errno::EINVAL),
            Some(depth) => depth,
        };
        Ok(Self {
            id,
            depth: depth as usize,
            deadline: options.deadline,
            next: 1,
            groups: BTreeMap::new(),
            askers: BTreeMap::new(),
            ready: BTreeMap::new(),
            next_turn: 0,
            notes: 0,
            waiting: 0,
            lost: 0,
            ended: false,
            event,
            signalled: false,
        })
    }

    /// Takes a group in.
    ///
    /// # Errors
    ///
    /// ENOSPC over the depth; the loss is counted.
    pub(super) fn push(&mut self, asker: A, mut records: Vec<FaultRecord>) -> Result<(), Errno> {
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
        let group = Group {
            phase: Phase::Unread,
            records,
            asker,
            since: Instant::now(),
            turn: Some(self.enqueue(Ready::Group(cookie))),
        };
        self.groups.insert(cookie, group);
        self.askers.entry(asker.at()).or_default().insert(cookie);
        Ok(())
    }

    /// Puts something behind all that is to be read; gives its turn.
    fn enqueue(&mut self, what: Ready) -> u64 {
        let turn = self.next_turn;
        self.next_turn = turn.wrapping_add(1);
        self.ready.insert(turn, what);
        turn
    }

    /// A group waits for no answer any more.
    fn settle(&mut self, cookie: u64, at: (Bdf, Pasid)) {
        if let Some(cookies) = self.askers.get_mut(&at) {
            cookies.remove(&cookie);
            if cookies.is_empty() {
                self.askers.remove(&at);
            }
        }
    }

    /// Takes in what needs no answer; over half of the depth it is counted as lost, so that it does
    /// not keep page requests out.
    #[cfg(feature = "soft")]
    pub(super) fn note(&mut self, record: FaultRecord) {
        if self.notes >= MAX_NOTES.min(self.depth.div_ceil(2)) {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        self.notes += 1;
        self.enqueue(Ready::Note(record));
    }

    fn remove(&mut self, cookie: u64) {
        if let Some(group) = self.groups.remove(&cookie) {
            self.waiting = self.waiting.saturating_sub(group.weight());
            self.settle(cookie, group.asker.at());
            if let Some(turn) = group.turn {
                self.ready.remove(&turn);
            }
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
    pub(super) fn read(&mut self, room: &mut [FaultRecord]) -> Result<Option<usize>, Errno> {
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
        while let Some((&turn, &next)) = self.ready.first_key_value() {
            let cookie = match next {
                Ready::Group(cookie) => cookie,
                Ready::Note(record) => {
                    let Some(to) = room.get_mut(used) else {
                        break;
                    };
                    *to = record;
                    used += 1;
                    self.notes = self.notes.saturating_sub(1);
                    self.ready.remove(&turn);
                    continue;
                }
            };
            let Some(group) = self.groups.get_mut(&cookie) else {
                self.ready.remove(&turn);
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
            self.ready.remove(&turn);
            group.turn = None;
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
    pub(super) fn answer(&mut self, cookie: u64) -> Result<Answered<A>, Errno> {
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

    /// The host answers groups; gives who asked, of those that waited.
    fn cancel(&mut self, expired: bool, cookies: Vec<u64>) -> Vec<A> {
        let mut askers = Vec::new();
        for cookie in cookies {
            let Some(group) = self.groups.get(&cookie) else {
                continue;
            };
            let asker = group.asker;
            match group.phase {
                Phase::Unread => self.remove(cookie),
                Phase::Read => {
                    let turn = self.enqueue(Ready::Group(cookie));
                    if let Some(group) = self.groups.get_mut(&cookie) {
                        group.phase = Phase::Cancelled { expired };
                        group.turn = Some(turn);
                    }
                    self.settle(cookie, asker.at());
                }
                Phase::Cancelled { .. } => continue,
            }
            askers.push(asker);
        }
        askers
    }

    /// Cancels what a binding asked for.
    pub(super) fn cancel_binding(&mut self, device: Bdf, pasid: Pasid) -> Vec<A> {
        let asked = self.askers.get(&(device, pasid));
        let cookies = asked.map(|cookies| cookies.iter().copied().collect());
        self.cancel(false, cookies.unwrap_or_default())
    }

    /// Cancels everything: nobody reads any more.
    pub(super) fn cancel_all(&mut self) -> Vec<A> {
        self.cancel(false, self.groups.keys().copied().collect())
    }

    /// Drops what askers of a device wait for that are no more.
    #[cfg(feature = "soft")]
    pub(super) fn drop_askers(&mut self, device: Bdf, gone: impl Fn(&A) -> bool) {
        let of_device = (device, Pasid::RID)..=(device, Pasid::MAX);
        let asked = self.askers.range(of_device);
        let cookies = asked.flat_map(|(_, cookies)| cookies.iter().copied());
        let is_gone = |cookie: &u64| {
            let group = self.groups.get(cookie);
            group.is_some_and(|group| gone(&group.asker))
        };
        let cookies = cookies.filter(is_gone).collect();
        self.cancel(false, cookies);
    }

    /// Cancels what is due; gives who asked, and when the next is due.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<A>, Option<Instant>) {
        let Some(deadline) = self.deadline else {
            return (Vec::new(), None);
        };
        // Those that came first are due first.
        let mut due = Vec::new();
        let mut next = None;
        for (&cookie, group) in &self.groups {
            if matches!(group.phase, Phase::Cancelled { .. }) {
                continue;
            }
            match group.since.checked_add(deadline) {
                Some(end) if end <= now => due.push(cookie),
                end => {
                    next = end;
                    break;
                }
            }
        }
        (self.cancel(true, due), next)
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

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Bdf = Bdf::new(0, 0, 8);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Asker(u32);

    impl Asks for Asker {
        fn at(&self) -> (Bdf, Pasid) {
            let pasid = Pasid::try_from(self.0);
            (DEVICE, pasid.unwrap_or(Pasid::RID))
        }
    }

    fn queue(deadline: Option<Duration>) -> Queue<Asker> {
        let options = FaultQueueOptions {
            depth: Some(abi::VFIO_IOASID_FAULT_DEPTH_MAX),
            deadline,
            ..FaultQueueOptions::nonblocking()
        };
        let event = event().expect("an eventfd");
        Queue::new(1, &options, 1, event).expect("a queue")
    }

    fn ask(queue: &mut Queue<Asker>, pasid: u32) {
        let record = FaultRecord::default();
        queue.push(Asker(pasid), vec![record]).expect("room");
    }

    fn read(queue: &mut Queue<Asker>, count: usize) -> Vec<FaultRecord> {
        let mut room = vec![FaultRecord::default(); count];
        let read = queue.read(&mut room).expect("a read").unwrap_or(0);
        room.truncate(read);
        room
    }

    #[test]
    fn cancelled_groups_are_told_in_their_turn_and_leave_nothing() {
        let mut queue = queue(None);
        for pasid in [5, 6, 5, 7] {
            ask(&mut queue, pasid);
        }
        // The first is read, and the third waits to be.
        let first = read(&mut queue, 1);
        let at = |number: u32| Asker(number).at();
        let gone = queue.cancel_binding(at(5).0, at(5).1);
        assert_eq!(gone, [Asker(5), Asker(5)]);
        assert_eq!(queue.cancel_binding(at(5).0, at(5).1), []);
        let rest = read(&mut queue, 8);
        let kinds: Vec<u32> = rest.iter().map(|record| record.kind).collect();
        let cancelled = abi::VFIO_IOASID_FAULT_CANCELLED;
        assert_eq!(kinds, [0, 0, cancelled]);
        assert_eq!(rest[2].cookie, first[0].cookie);
        assert_eq!(queue.answer(first[0].cookie), Ok(Answered::Late));
        assert_eq!(
            queue.answer(rest[0].cookie),
            Ok(Answered::Pending(Asker(6)))
        );
        assert_eq!(queue.cancel_all(), [Asker(7)]);
        assert_eq!(read(&mut queue, 8).len(), 1, "that it was cancelled");
        assert!(!queue.readable());
        assert!(queue.groups.is_empty() && queue.askers.is_empty());
        assert_eq!(queue.waiting, 0);
    }

    #[test]
    fn expire_takes_what_is_due_and_tells_the_next() {
        let mut queue = queue(Some(Duration::from_secs(1)));
        ask(&mut queue, 5);
        let start = Instant::now();
        let (none, next) = queue.expire(start);
        assert!(none.is_empty());
        let next = next.expect("a deadline");
        ask(&mut queue, 6);
        let (due, later) = queue.expire(next);
        assert_eq!(due, [Asker(5)]);
        assert!(later.is_some_and(|later| later >= next));
        assert_eq!(queue.expire(start + Duration::from_secs(60)).0, [Asker(6)]);
        assert_eq!(
            queue.expire(start + Duration::from_secs(60)),
            (vec![], None)
        );
    }

    #[cfg(feature = "soft")]
    #[test]
    fn cancel_is_linear_in_the_groups() {
        let asked = |count| {
            let mut queue = queue(None);
            for _ in 0..count {
                ask(&mut queue, 5);
            }
            queue
        };
        crate::cost::expect_linear(asked, |queue| {
            assert!(!queue.cancel_all().is_empty());
        });
    }
}
