// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit has to do, in pieces of bounded size: a guest's one write may ask for a look at a
//! million PASIDs.

use super::descriptor::Iotlb;
use super::device::Device;
use super::events::{Outbox, VtdEvent};
use super::faults::Fault;
use super::memory::Memory;
use super::tables::{context, Context, Entry, Offered, SourceId, Stopped};
use crate::error::Error;
use crate::types::IovaRange;
use std::collections::{BTreeMap, VecDeque};

/// How much a unit does before it lets its caller go: reads of a word of guest memory count 1, a
/// call of the host's 64.
pub const BUDGET: u32 = 4096;
const CALL: u32 = 64;

/// The guest's tables at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) offered: &'a Offered,
    /// Where the root table is; `None` while translation is off.
    pub(super) root: Option<u64>,
}

impl Tables<'_> {
    fn context(&self, source: SourceId) -> Option<Result<Context, Stopped>> {
        let root = self.root?;
        Some(context(self.memory, self.offered, root, source))
    }

    /// The entry of a PASID; nothing for the one that stands for requests without, or for none.
    pub(super) fn of_pasid(&self, source: SourceId, pasid: u32) -> Result<Entry, Stopped> {
        use super::tables::reason;

        let context = self
            .context(source)
            .unwrap_or(Err(Stopped::by(reason::TABLE_MODE)))?;
        if !context.takes_pasids || context.rid_pasid == pasid {
            return Err(context.stopped(reason::NO_PASIDS));
        }
        context.entry(self.memory, self.offered, pasid)
    }

    /// That of requests without PASID; `None` while translation is off.
    pub(super) fn of_rid(&self, source: SourceId) -> Option<Result<Entry, Stopped>> {
        let context = match self.context(source)? {
            Ok(context) => context,
            Err(stopped) => return Some(Err(stopped)),
        };
        Some(context.entry(self.memory, self.offered, context.rid_pasid))
    }

    /// Whether the guest wants to be asked for pages by a function.
    ///
    /// # Errors
    ///
    /// What stops its page requests.
    pub(super) fn page_requests(&self, source: SourceId) -> Result<(), Stopped> {
        use super::tables::reason;

        match self.context(source) {
            Some(Ok(context)) if context.page_requests => Ok(()),
            Some(Ok(context)) => Err(context.stopped(reason::NO_PAGE_REQUESTS)),
            Some(Err(stopped)) => Err(stopped),
            None => Err(Stopped::by(reason::TABLE_MODE)),
        }
    }

    fn rid_pasid(&self, source: SourceId) -> Option<u32> {
        self.context(source)?.ok().map(|context| context.rid_pasid)
    }
}

/// A piece of work on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Look at the entry of requests without PASID.
    Rid(SourceId),
    /// Look at the entry of a PASID.
    Pasid(SourceId, u32),
    /// Look at the entries of all PASIDs from this on.
    Directory(SourceId, u32),
    /// Forget translations of a PASID, or of requests without one.
    Flush(SourceId, Option<u32>, IovaRange, bool),
}

/// What is to be done before the next descriptor. There are no more jobs at a time than bindings and
/// three for each device.
#[derive(Debug, Default)]
pub(super) struct Work {
    jobs: VecDeque<Job>,
}

impl Work {
    pub(super) fn is_done(&self) -> bool {
        self.jobs.is_empty()
    }

    /// All entries of a device may have changed.
    pub(super) fn device(&mut self, source: SourceId, device: &Device) {
        self.jobs.retain(|job| job.source() != source);
        self.jobs.push_back(Job::Rid(source));
        let bound = device.pasids().map(|pasid| Job::Pasid(source, pasid));
        self.jobs.extend(bound);
        self.jobs.push_back(Job::Directory(source, 0));
    }

    /// The entry of a PASID may have changed.
    pub(super) fn pasid(&mut self, tables: &Tables<'_>, source: SourceId, pasid: u32) {
        self.jobs
            .push_back(if tables.rid_pasid(source) == Some(pasid) {
                Job::Rid(source)
            } else {
                Job::Pasid(source, pasid)
            });
    }

    /// Translations may have changed.
    pub(super) fn iotlb(
        &mut self,
        tables: &Tables<'_>,
        source: SourceId,
        device: &Device,
        what: &Iotlb,
    ) {
        let flush = |pasid| Job::Flush(source, pasid, what.range, what.leaf);
        let rid = tables.rid_pasid(source);
        let of_rid = what.pasid.is_none() || what.pasid == rid;
        if of_rid && device.is_of(None, what.domain) {
            self.jobs.push_back(flush(None));
        }
        match what.pasid {
            Some(pasid) if device.is_of(Some(pasid), what.domain) => {
                self.jobs.push_back(flush(Some(pasid)));
            }
            Some(_) => {}
            None => {
                let bound = device.pasids();
                let of = bound.filter(|&pasid| device.is_of(Some(pasid), what.domain));
                self.jobs.extend(of.map(|pasid| flush(Some(pasid))));
            }
        }
    }

    /// A device is gone.
    pub(super) fn forget(&mut self, source: SourceId) {
        self.jobs.retain(|job| job.source() != source);
    }

    pub(super) fn clear(&mut self) {
        self.jobs.clear();
    }

    /// Does what the budget allows. Faults are those of entries that cannot be bound.
    pub(super) fn go_on(
        &mut self,
        tables: &Tables<'_>,
        devices: &mut BTreeMap<SourceId, Device>,
        budget: &mut u32,
        faults: &mut Vec<Fault>,
        out: &mut Outbox,
    ) {
        while *budget != 0 {
            let Some(job) = self.jobs.pop_front() else {
                return;
            };
            let Some(device) = devices.get_mut(&job.source()) else {
                continue;
            };
            match job {
                Job::Rid(source) => {
                    *budget = budget.saturating_sub(CALL);
                    let entry = tables.of_rid(source);
                    if let Some(Err(stopped)) = entry {
                        out.event(VtdEvent::EntryStopped {
                            source,
                            pasid: None,
                            reason: stopped.reason,
                        });
                    }
                    if let Err(error) = device.set_rid(entry) {
                        report(source, None, entry, error, faults, out);
                    }
                }
                Job::Pasid(source, pasid) => {
                    *budget = budget.saturating_sub(CALL);
                    set_pasid(tables, device, source, pasid, faults, out);
                }
                Job::Directory(source, from) => {
                    if let Some(next) = directory(tables, device, source, from, budget, faults, out)
                    {
                        self.jobs.push_front(Job::Directory(source, next));
                    }
                }
                Job::Flush(_, pasid, range, leaf) => {
                    *budget = budget.saturating_sub(CALL);
                    // The host refuses no flush of what is bound but where the device is gone; a shadow that
                    // cannot hold what the guest maps has nothing in that range then.
                    if let Err(error) = device.flush(pasid, range, leaf) {
                        out.event(VtdEvent::FlushFailed {
                            source: job.source(),
                            pasid,
                            error,
                        });
                    }
                }
            }
        }
    }
}

impl Job {
    fn source(&self) -> SourceId {
        match *self {
            Self::Rid(source)
            | Self::Pasid(source, _)
            | Self::Directory(source, _)
            | Self::Flush(source, ..) => source,
        }
    }
}

fn set_pasid(
    tables: &Tables<'_>,
    device: &mut Device,
    source: SourceId,
    pasid: u32,
    faults: &mut Vec<Fault>,
    out: &mut Outbox,
) {
    use super::tables::reason;

    let entry = tables.of_pasid(source, pasid);
    if let Err(stopped) = entry {
        let absent = matches!(
            stopped.reason,
            reason::PASID_ABSENT | reason::DIRECTORY_ABSENT | reason::CONTEXT_ABSENT
        );
        if !absent {
            out.event(VtdEvent::EntryStopped {
                source,
                pasid: Some(pasid),
                reason: stopped.reason,
            });
        }
    }
    if let Err(error) = device.set_pasid(pasid, entry) {
        report(source, Some(pasid), Some(entry), error, faults, out);
    }
}

/// What an entry asks for cannot be had: its requests are stopped, and the guest hears why.
fn report(
    source: SourceId,
    pasid: Option<u32>,
    entry: Option<Result<Entry, Stopped>>,
    error: Error,
    faults: &mut Vec<Fault>,
    out: &mut Outbox,
) {
    out.event(VtdEvent::BindingRefused {
        source,
        pasid,
        error,
    });
    let Some(Ok(entry)) = entry else {
        return;
    };
    let stopped = entry.stopped(super::tables::reason::PASID_INVALID);
    if !stopped.silent {
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
    tables: &Tables<'_>,
    device: &mut Device,
    source: SourceId,
    from: u32,
    budget: &mut u32,
    faults: &mut Vec<Fault>,
    out: &mut Outbox,
) -> Option<u32> {
    let context = tables.context(source)?.ok()?;
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
            pasid = (pasid | 0x3f) + 1;
            continue;
        };
        // One word tells whether an entry is there.
        let at = table + u64::from(pasid & 0x3f) * 64;
        let present = tables.memory.read(at).is_some_and(|word| word & 1 != 0);
        if present && pasid != context.rid_pasid && !device.is_bound(pasid) {
            *budget = budget.saturating_sub(CALL);
            set_pasid(tables, device, source, pasid, faults, out);
        }
        pasid += 1;
    }
    None
}
