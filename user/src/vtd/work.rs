// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit has to do at its host, in pieces of bounded size: a guest's one write may ask for a
//! look at a million PASIDs.
//!
//! One thread at a time has the [`Engine`], and no lock while it works with it: the host's calls are
//! made here. What the guest asks for between two waits is gathered, so that each binding's
//! invalidations are one call.

use super::accesses::Shared;
use super::descriptor::{Iotlb, QueueError};
use super::device::{Device, Found};
use super::entries::pasid::LAST_IN_TABLE;
use super::events::{Outbox, VtdEvent};
use super::faults::Fault;
use super::listen::{Invalidated, Listeners};
use super::reasons::reason;
use super::source::SourceId;
use super::stats::VtdStats;
use super::tables::{Entry, Tables};
use crate::error::Error;
use crate::fault::{FaultGroup, FaultQueue, Response};
use crate::nesting::{Invalidation, InvalidationEntry};
use crate::sys::Errno;
use crate::types::{Iova, IovaRange};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How much a unit does before it lets its caller go: reads of a word of guest memory count 1, a
/// call of the host's 64.
pub const BUDGET: u32 = 4096;
pub(super) const CALL: u32 = 64;

/// Requests of a function with one PASID, or without.
pub(super) type Requester = (SourceId, Option<u32>);

/// Entries that the unit has to look at again. As many at a time as there are devices, bindings, and
/// PASIDs in the descriptors of one batch.
#[derive(Debug, Default)]
struct Looks {
    /// At those of requests without PASID, which are first.
    rids: BTreeSet<SourceId>,
    pasids: BTreeSet<(SourceId, u32)>,
    /// At those of all PASIDs from one on.
    directories: BTreeMap<SourceId, u32>,
}

/// What is written, and who is interrupted, when a wait descriptor is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Where the descriptor is in the queue.
    pub(super) at: u64,
    pub(super) status: Option<(u64, u32)>,
    pub(super) interrupt: bool,
}

/// Descriptors that are carried out together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// By requester: what is to be flushed, one call each.
    flushes: BTreeMap<Requester, Vec<InvalidationEntry>>,
    /// What those who keep translations are told.
    pub(super) told: Vec<Invalidated>,
    /// A device whose flush was not carried out.
    pub(super) failed: Option<SourceId>,
    /// What the guest has answered to page requests, after the flushes.
    pub(super) answers: Vec<(FaultGroup, Response)>,
    pub(super) waits: Vec<Wait>,
    /// Page requests that came before are to be in the guest's queue first (PD).
    pub(super) drains_requests: bool,
    /// Where the queue goes on.
    pub(super) head: u64,
    /// What is wrong with the descriptor there.
    pub(super) error: Option<QueueError>,
}

impl Batch {
    /// Nothing yet, with the queue at a descriptor.
    pub(super) fn at(head: u64) -> Self {
        Self {
            head,
            ..Self::default()
        }
    }

    fn has_work(&self) -> bool {
        !self.flushes.is_empty()
            || !self.told.is_empty()
            || !self.answers.is_empty()
            || self.drains_requests
    }

    /// Whoever keeps translations of a function is told to forget these.
    pub(super) fn tell(&mut self, source: SourceId, pasid: Option<u32>, range: IovaRange) {
        self.told.push(Invalidated {
            source: Some(source),
            pasid,
            range,
        });
    }
}

/// The devices, and what is to be done with them.
#[derive(Debug, Default)]
pub(super) struct Engine {
    pub(super) devices: BTreeMap<SourceId, Device>,
    looks: Looks,
    /// What the host has refused only for now: a device that is being reset, a call interrupted.
    later: BTreeSet<Requester>,
    /// What is bound of each domain of the guest's.
    domains: BTreeMap<u16, BTreeSet<Requester>>,
    pub(super) batch: Option<Batch>,
    /// Accesses of emulated devices that began before are to end first: asked for, and begun.
    drain: Drain,
    listeners: Listeners,
    /// What was done since it was last counted.
    pub(super) stats: VtdStats,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Drain {
    #[default]
    None,
    Wanted,
    Begun,
}

/// How far the work came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything asked for so far is in force.
    Done,
    /// The budget is spent.
    More,
    /// An access of an emulated device is to end first.
    Draining,
}

impl Engine {
    /// Without devices.
    pub(super) fn new(listeners: Listeners) -> Self {
        Self {
            listeners,
            ..Self::default()
        }
    }

    /// Whether everything asked for so far is in force, but for what the host refused for now; a
    /// batch that is done stays until it is told.
    pub(super) fn is_done(&self) -> bool {
        let left = self.batch.as_ref().is_some_and(Batch::has_work);
        self.looks.is_empty() && !left && self.drain == Drain::None
    }

    /// Whether there is something to try again.
    pub(super) fn is_retrying(&self) -> bool {
        !self.later.is_empty()
    }

    /// All entries of a device may have changed.
    pub(super) fn look_at_device(&mut self, source: SourceId) {
        let Some(device) = self.devices.get(&source) else {
            return;
        };
        self.looks.rids.insert(source);
        let bound = device.pasids().map(|pasid| (source, pasid));
        self.looks.pasids.extend(bound);
        self.looks.directories.insert(source, 0);
    }

    /// All entries of all devices may have changed.
    pub(super) fn look_at_all(&mut self) {
        for source in self.devices.keys().copied().collect::<Vec<_>>() {
            self.look_at_device(source);
        }
    }

    /// The entries of a PASID may have changed, of any device.
    pub(super) fn look_at_pasid(&mut self, pasid: u32) {
        for (&source, device) in &self.devices {
            if device.rid_pasid() == Some(pasid) {
                self.looks.rids.insert(source);
            } else {
                self.looks.pasids.insert((source, pasid));
            }
        }
    }

    /// What emulated devices have under way is to end before what was asked for is done.
    pub(super) fn drain_accesses(&mut self) {
        if self.drain == Drain::None {
            self.drain = Drain::Wanted;
        }
    }

    /// Translations may have changed. Gives how many bindings were looked at.
    pub(super) fn invalidate(&mut self, batch: &mut Batch, what: &Iotlb) -> usize {
        batch.told.push(Invalidated {
            source: None,
            pasid: what.pasid,
            range: what.range,
        });
        let entry = InvalidationEntry {
            range: what.range,
            leaf_only: what.leaf,
        };
        let all = self.domains.iter();
        let domains = all.filter(|(&domain, _)| what.domain.is_none_or(|wanted| wanted == domain));
        let mut looked = 0usize;
        for &(source, pasid) in domains.flat_map(|(_, requesters)| requesters) {
            looked = looked.saturating_add(1);
            // Requests without PASID have the translations of their RID_PASID.
            let of = match pasid {
                Some(pasid) => Some(pasid),
                None => self.devices.get(&source).and_then(Device::rid_pasid),
            };
            if what.pasid.is_none() || what.pasid == of {
                let flush = batch.flushes.entry((source, pasid)).or_default();
                append(flush, entry);
            }
        }
        looked
    }

    /// A device is there: what the guest's entries say of it is bound.
    pub(super) fn add(&mut self, source: SourceId, device: Device) {
        self.devices.insert(source, device);
        self.look_at_device(source);
    }

    /// A device is gone.
    pub(super) fn remove(&mut self, source: SourceId) -> Option<Device> {
        self.looks.forget(source);
        self.later.retain(|(asker, _)| *asker != source);
        if let Some(batch) = &mut self.batch {
            batch.flushes.retain(|(asker, _), _| *asker != source);
        }
        self.domains.values_mut().for_each(|requesters| {
            requesters.retain(|(asker, _)| *asker != source);
        });
        self.devices.remove(&source)
    }

    fn clear(&mut self) {
        self.looks = Looks::default();
        self.later.clear();
        self.domains.clear();
        self.batch = None;
        self.drain = Drain::None;
    }

    /// As after power-on; the devices stay, with nothing bound.
    pub(super) fn reset(&mut self, out: &mut Outbox) {
        self.clear();
        for (&source, device) in &mut self.devices {
            if let Err(error) = device.reset() {
                out.event(VtdEvent::BindingRefused {
                    source,
                    pasid: None,
                    error,
                });
            }
        }
    }

    /// Stops all requests of all devices until their entries are looked at.
    pub(super) fn block_all(&mut self, out: &mut Outbox) {
        self.clear();
        for (&source, device) in &mut self.devices {
            if let Err(error) = device.block_all() {
                out.event(VtdEvent::BindingRefused {
                    source,
                    pasid: None,
                    error,
                });
            }
        }
    }

    /// Does what the budget allows. No lock is held.
    pub(super) fn work(
        &mut self,
        tables: &Tables<'_>,
        shared: &Shared,
        deliver: &dyn Fn(&FaultQueue),
        budget: &mut u32,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) -> Progress {
        while *budget != 0 {
            if let Some(source) = self.looks.rids.pop_first() {
                *budget = budget.saturating_sub(CALL);
                self.look_at_rid(tables, source, faults, out);
            } else if let Some((source, pasid)) = self.looks.pasids.pop_first() {
                *budget = budget.saturating_sub(CALL);
                self.set_pasid(tables, source, pasid, faults, out);
            } else if let Some((source, from)) = self.looks.directories.pop_first() {
                if let Some(next) = self.directory(tables, source, from, budget, faults, out) {
                    self.looks.directories.insert(source, next);
                }
            } else if !self.step_of_batch(deliver, budget, faults, out) {
                match self.drain {
                    Drain::None => return Progress::Done,
                    Drain::Wanted => {
                        shared.drain();
                        self.drain = Drain::Begun;
                    }
                    Drain::Begun if shared.is_drained() => self.drain = Drain::None,
                    Drain::Begun => return Progress::Draining,
                }
            }
        }
        Progress::More
    }

    /// The host's part of descriptors that are carried out together, one step of it. False if
    /// nothing of it is left.
    fn step_of_batch(
        &mut self,
        deliver: &dyn Fn(&FaultQueue),
        budget: &mut u32,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) -> bool {
        let Some(batch) = &mut self.batch else {
            return false;
        };
        if let Some((requester, entries)) = batch.flushes.pop_first() {
            *budget = budget.saturating_sub(CALL);
            self.flush(requester, entries, faults, out);
        } else if let Some(told) = batch.told.pop() {
            *budget = budget.saturating_sub(1);
            self.listeners.tell(&told);
        } else if let Some((group, response)) = batch.answers.pop() {
            *budget = budget.saturating_sub(CALL);
            // The host has answered what it says is gone.
            let _ = group.respond(response);
        } else if std::mem::take(&mut batch.drains_requests) {
            *budget = budget.saturating_sub(CALL);
            let mut queues: Vec<Arc<FaultQueue>> = Vec::new();
            for queue in self
                .devices
                .values()
                .filter_map(|device| device.faults.as_ref())
            {
                if !queues.iter().any(|known| Arc::ptr_eq(known, queue)) {
                    queues.push(queue.clone());
                }
            }
            queues.iter().for_each(|queue| deliver(queue));
        } else {
            return false;
        }
        true
    }

    /// What the host refused for now is tried again.
    pub(super) fn try_again(&mut self) {
        for (source, pasid) in std::mem::take(&mut self.later) {
            match pasid {
                Some(pasid) => {
                    self.looks.pasids.insert((source, pasid));
                }
                None => {
                    self.looks.rids.insert(source);
                }
            }
        }
    }

    fn flush(
        &mut self,
        (source, pasid): Requester,
        entries: Vec<InvalidationEntry>,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) {
        let Some(device) = self.devices.get(&source) else {
            return;
        };
        self.stats.flush_calls = self.stats.flush_calls.saturating_add(1);
        let count = entries.len() as u64;
        self.stats.flush_entries = self.stats.flush_entries.saturating_add(count);
        let address = entries.first().map_or(0, |entry| entry.range.start().0);
        let what = Invalidation::from_iter(entries);
        let Err(error) = device.flush(pasid, &what) else {
            return;
        };
        self.stats.flushes_failed = self.stats.flushes_failed.saturating_add(1);
        match error.errno().map(Errno::from_raw) {
            // The device is gone, and what it had cached.
            Some(Errno::ENODEV | Errno::ENOENT) => {}
            // A shadow that cannot hold what the table maps has nothing in the range: what is asked
            // for there is stopped.
            Some(Errno::EDQUOT | Errno::EOPNOTSUPP) => faults.push(Fault {
                source,
                pasid,
                address,
                write: false,
                privileged: false,
                reason: reason::SECOND_STAGE_ACCESS,
            }),
            _ => {
                if let Some(batch) = &mut self.batch {
                    batch.failed.get_or_insert(source);
                }
            }
        }
        out.event(VtdEvent::FlushFailed {
            source,
            pasid,
            error,
        });
    }

    fn look_at_rid(
        &mut self,
        tables: &Tables<'_>,
        source: SourceId,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) {
        let Some(device) = self.devices.get_mut(&source) else {
            return;
        };
        let found = tables.without_pasid(source);
        if let Some(Err(stopped)) = found {
            out.event(VtdEvent::EntryStopped {
                source,
                pasid: None,
                reason: stopped.reason,
            });
        }
        let before = device.domain(None);
        device.set_rid_pasid(tables.rid_pasid(source));
        let result = device.set_rid(found);
        let after = device.domain(None);
        self.count(found.and_then(Result::ok).as_ref(), &result);
        self.moved((source, None), before, after);
        if let Err(error) = result {
            self.refused(
                (source, None),
                found.and_then(Result::ok),
                error,
                faults,
                out,
            );
        }
    }

    fn set_pasid(
        &mut self,
        tables: &Tables<'_>,
        source: SourceId,
        pasid: u32,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) {
        let Some(device) = self.devices.get_mut(&source) else {
            return;
        };
        let found: Found = tables.with_pasid(source, pasid);
        if let Err(stopped) = found {
            if !stopped.is_only_absent() && !tables.is_off() {
                out.event(VtdEvent::EntryStopped {
                    source,
                    pasid: Some(pasid),
                    reason: stopped.reason,
                });
            }
        }
        let before = device.domain(Some(pasid));
        let result = device.set_pasid(pasid, found);
        let after = device.domain(Some(pasid));
        self.count(found.ok().as_ref(), &result);
        self.moved((source, Some(pasid)), before, after);
        if let Err(error) = result {
            self.refused((source, Some(pasid)), found.ok(), error, faults, out);
        }
    }

    fn count(&mut self, entry: Option<&Entry>, result: &Result<(), Error>) {
        let counter = match (entry, result) {
            (Some(_), Ok(())) => &mut self.stats.bindings_made,
            (_, Err(_)) => &mut self.stats.bindings_refused,
            (None, Ok(())) => &mut self.stats.entries_stopped,
        };
        *counter = counter.saturating_add(1);
    }

    /// What is bound for a requester is of another domain than before.
    fn moved(&mut self, requester: Requester, before: Option<u16>, after: Option<u16>) {
        if let Some(domain) = before.filter(|_| before != after) {
            if let Some(requesters) = self.domains.get_mut(&domain) {
                requesters.remove(&requester);
                if requesters.is_empty() {
                    self.domains.remove(&domain);
                }
            }
        }
        if let Some(domain) = after {
            self.domains.entry(domain).or_default().insert(requester);
        }
    }

    /// What an entry asks for cannot be had: its requests are stopped, and the guest hears why; it is
    /// tried again if the host cannot just now.
    fn refused(
        &mut self,
        (source, pasid): Requester,
        entry: Option<Entry>,
        error: Error,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) {
        let errno = error.errno().map(Errno::from_raw);
        let again = matches!(errno, Some(Errno::EAGAIN | Errno::EINTR));
        out.event(VtdEvent::BindingRefused {
            source,
            pasid,
            error,
        });
        if again {
            self.later.insert((source, pasid));
            return;
        }
        let stopped = entry.map(|entry| entry.stopped(reason::PASID_INVALID));
        if let Some(stopped) = stopped.filter(|stopped| !stopped.silent) {
            faults.push(Fault {
                source,
                pasid,
                address: 0,
                write: false,
                privileged: false,
                reason: stopped.reason,
            });
        }
    }

    /// Binds what has become present from a PASID on; gives the PASID to go on with.
    fn directory(
        &mut self,
        tables: &Tables<'_>,
        source: SourceId,
        from: u32,
        budget: &mut u32,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) -> Option<u32> {
        let context = tables.scalable_context(source)?;
        if !context.takes_pasids {
            return None;
        }
        let end = context.pasids.min(1 << tables.offered.pasid_bits);
        let mut pasid = from;
        while pasid < end {
            if *budget == 0 {
                return Some(pasid);
            }
            *budget = budget.saturating_sub(1);
            let Ok(table) = context.table(tables.memory, tables.offered, pasid) else {
                pasid = (pasid | LAST_IN_TABLE).saturating_add(1);
                continue;
            };
            let present = tables.is_present(table, pasid);
            let bound = |device: &Device| device.is_bound(pasid);
            let bound = self.devices.get(&source).is_none_or(bound);
            if present && pasid != context.rid_pasid && !bound {
                *budget = budget.saturating_sub(CALL);
                self.set_pasid(tables, source, pasid, faults, out);
            }
            pasid = pasid.saturating_add(1);
        }
        None
    }
}

impl Looks {
    fn is_empty(&self) -> bool {
        self.rids.is_empty() && self.pasids.is_empty() && self.directories.is_empty()
    }

    fn forget(&mut self, source: SourceId) {
        self.rids.remove(&source);
        self.pasids.retain(|(asker, _)| *asker != source);
        self.directories.remove(&source);
    }
}

/// Adds an entry, as part of the last one if it follows that.
fn append(entries: &mut Vec<InvalidationEntry>, entry: InvalidationEntry) {
    if let Some(last) = entries.last_mut() {
        let follows = last.range.last().0.checked_add(1) == Some(entry.range.start().0);
        let same = last.range == entry.range;
        if last.leaf_only == entry.leaf_only && (follows || same) {
            let (start, end) = (last.range.start().0, entry.range.last().0);
            if let Some(range) = IovaRange::new(Iova(start), Iova(end)) {
                last.range = range;
                return;
            }
        }
    }
    entries.push(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64, last: u64, leaf_only: bool) -> InvalidationEntry {
        let range = IovaRange::new(Iova(start), Iova(last)).expect("a range");
        InvalidationEntry { range, leaf_only }
    }

    #[test]
    fn pages_that_follow_each_other_are_one_entry() {
        let mut entries = Vec::new();
        for page in 0..512u64 {
            append(&mut entries, entry(page << 12, page << 12 | 0xfff, true));
        }
        assert_eq!(
            entries,
            [entry(0, 512 << 12, true)].map(|mut all| {
                all.range = IovaRange::new(Iova(0), Iova((512 << 12) - 1)).expect("a range");
                all
            })
        );
        append(&mut entries, entry(512 << 12, (512 << 12) + 0xfff, false));
        append(&mut entries, entry(0x8000_0000, 0x8000_0fff, false));
        assert_eq!(entries.len(), 3);
        let mut all = vec![entry(0, u64::MAX, false)];
        append(&mut all, entry(0, u64::MAX, false));
        assert_eq!(all, [entry(0, u64::MAX, false)]);
    }
}
