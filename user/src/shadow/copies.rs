// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The copies of guests' tables in address spaces, kept as the tables are.

use super::stage2::Stage2;
use super::walk::{Entry, Stop, Walk, PAGE};
use super::{Cost, MAX_ENTRIES};
use crate::capabilities::Shadowing;
use crate::context::{Binding, HostIommuContext, Scope, Translation};
use crate::error::{Error, Operation, Result};
use crate::nesting::{GuestTable, TableFormat};
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::sys::Errno;
use crate::trace::tell;
use crate::types::{Bdf, Iova, IovaRange, Pasid};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend};

/// A table, and what of it is in force.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) id: AddressSpaceId,
    pub(super) table: GuestTable,
    /// By first address; they do not overlap.
    pub(super) entries: BTreeMap<u64, Entry>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) stage2: Stage2,
    pub(super) copies: BTreeMap<(Bdf, Pasid), Copied>,
    /// Bindings that are the backend's alone.
    pub(super) others: BTreeSet<(Bdf, Pasid)>,
    pub(super) cost: Cost,
}

/// What a shadow is.
pub(super) struct Inner<C, A> {
    pub(super) context: C,
    pub(super) memory: A,
    pub(super) shadowing: Shadowing,
    pub(super) state: Mutex<State>,
}

/// Whether a binding is in a scope.
pub(super) fn is_in(scope: Scope, key: (Bdf, Pasid)) -> bool {
    match scope {
        Scope::Binding(device, pasid) => key == (device, pasid),
        Scope::Device(device) => key.0 == device,
        Scope::All => true,
    }
}

/// Whether no entry is in a range.
fn is_free(entries: &BTreeMap<u64, Entry>, first: u64, last: u64) -> bool {
    let before = entries.range(..=last).next_back();
    before.is_none_or(|(_, entry)| entry.last < first)
}

pub(super) fn add(counter: &mut u64, more: usize) {
    *counter = counter.saturating_add(more as u64);
}

fn source(error: &Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno().unwrap_or(Errno::EIO.raw()))
}

impl<C, A> Inner<C, A>
where
    C: HostIommuContext,
    A: GuestAddressSpace,
    A::M: GuestMemoryBackend,
{
    /// Each change of the state is whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a table is copied, and not the context's to walk.
    pub(super) fn copies(&self, table: &GuestTable) -> bool {
        self.shadowing != Shadowing::SecondStage || table.format == TableFormat::SecondStage
    }

    /// Why a table cannot be shadowed, if so.
    fn refuses(&self, binding: &Binding<'_>, table: &GuestTable) -> Option<&'static str> {
        if self.shadowing == Shadowing::CachingMode && table.format == TableFormat::FirstStage {
            return Some("guests do not tell when an entry of the first stage becomes present");
        }
        match (self.shadowing, binding.fault_queue) {
            (Shadowing::PageRequests, None) => return Some("nobody is asked for its holes"),
            (Shadowing::PageRequests, Some(_)) | (_, None) => {}
            (_, Some(_)) => return Some("page requests do not fill its holes"),
        }
        if table.supervisor {
            return Some("requests of a supervisor cannot be told from a user's");
        }
        if table.root.0 % PAGE != 0 || table.root.0 >> 52 != 0 {
            return Some("its root is no page");
        }
        None
    }

    /// Where both the host and a table translate, ascending.
    fn reachable(&self, table: &GuestTable) -> std::result::Result<Vec<(u64, u64)>, io::Error> {
        let bits = match table.format {
            TableFormat::FirstStage => table.width.bits() - 1,
            TableFormat::SecondStage => table.width.bits(),
        };
        let last = (1u64 << bits) - 1;
        let mut ranges: Vec<(u64, u64)> = self
            .context
            .capabilities()
            .map_err(|error| source(&error))?
            .iova_ranges
            .iter()
            .map(|range| (range.start().0, range.last().0.min(last)))
            .filter(|(start, last)| start < last)
            .collect();
        ranges.sort_unstable();
        Ok(ranges)
    }

    /// Makes the copy of a table as the table is in a range.
    pub(super) fn sync(
        &self,
        stage2: &Stage2,
        cost: &mut Cost,
        copied: &mut Copied,
        range: IovaRange,
    ) -> std::result::Result<(), io::Error> {
        let synced = self.try_sync(stage2, cost, copied, range);
        if let Err(_error) = &synced {
            add(&mut cost.incomplete, 1);
            let _root = copied.table.root;
            tell!(
                debug,
                "shadow of the table at {_root}: {range} is not as the table: {_error}"
            );
        }
        synced
    }

    fn try_sync(
        &self,
        stage2: &Stage2,
        cost: &mut Cost,
        copied: &mut Copied,
        range: IovaRange,
    ) -> std::result::Result<(), io::Error> {
        let Copied { id, table, entries } = copied;
        let (mut start, mut last) = (range.start().0 & !(PAGE - 1), range.last().0 | (PAGE - 1));
        // Entries are changed as a whole.
        if let Some((&first, entry)) = entries.range(..=start).next_back() {
            if entry.last >= start {
                start = first;
            }
        }
        if let Some((_, entry)) = entries.range(..=last).next_back() {
            last = last.max(entry.last);
        }
        let reachable = self.reachable(table)?;
        let walk =
            |cost: &mut Cost, range, held| self.walk(stage2, cost, table, &reachable, range, held);
        let (found, stopped) = walk(cost, (start, last), entries.len());
        let mut wanted: BTreeMap<u64, Entry> = found.into_iter().collect();
        // Those that are put in before others.
        let mut first_ones: BTreeMap<u64, Entry> = BTreeMap::new();
        if stopped == Some(Stop::TooLarge) {
            // What was not looked at may have changed, and what is as it was stays.
            for (&first, entry) in entries.range(start..=last) {
                if wanted.get(&first) == Some(entry) {
                    wanted.remove(&first);
                }
                let (now, _) = walk(cost, (first, entry.last), 1);
                first_ones.extend(now);
            }
            wanted.retain(|first, _| !first_ones.contains_key(first));
        }
        let is_wanted = |first: &u64, entry: &Entry| {
            let found = first_ones.get(first).or_else(|| wanted.get(first));
            found == Some(entry)
        };
        let gone: Vec<(u64, IovaRange)> = entries
            .range(start..=last)
            .filter(|(first, entry)| !is_wanted(first, entry))
            .filter_map(|(&first, entry)| {
                IovaRange::new(Iova(first), Iova(entry.last)).map(|range| (first, range))
            })
            .collect();
        let ranges: Vec<IovaRange> = gone.iter().map(|(_, range)| *range).collect();
        if !ranges.is_empty() {
            let done = self.context.unmap_address_space(*id, &ranges);
            let count = match &done {
                Ok(()) => gone.len(),
                Err(Error::Entries { index, .. }) => *index,
                Err(_) => 0,
            };
            for (first, _) in gone.iter().take(count) {
                entries.remove(first);
                cost.entries = cost.entries.saturating_sub(1);
            }
            add(&mut cost.unmapped, count);
            // Stale translations are in force: no errno that says less.
            done.map_err(|error| match source(&error).raw_os_error() {
                Some(libc::EDQUOT | libc::ENOMEM | libc::EOPNOTSUPP) => Errno::EIO.into(),
                _ => source(&error),
            })?;
        }
        let room = MAX_ENTRIES.saturating_sub(usize::try_from(cost.entries).unwrap_or(usize::MAX));
        let new: Vec<(u64, Entry)> = first_ones
            .into_iter()
            .chain(wanted)
            .filter(|(first, entry)| is_free(entries, *first, entry.last))
            .take(room)
            .collect();
        let more: Vec<AddressSpaceEntry> = new
            .iter()
            .filter_map(|(first, entry)| {
                Some(AddressSpaceEntry {
                    range: IovaRange::new(Iova(*first), Iova(entry.last))?,
                    gpa: crate::types::Gpa(entry.gpa),
                    access: entry.access,
                })
            })
            .collect();
        let stopped = stopped.map_or(Ok(()), |stop| Err(stop.into()));
        if more.is_empty() {
            return stopped;
        }
        let done = self.context.map_address_space(*id, &more);
        let count = match &done {
            Ok(()) => more.len(),
            Err(Error::Entries { index, .. }) => *index,
            Err(_) => 0,
        };
        for &(first, entry) in new.iter().take(count) {
            entries.insert(first, entry);
        }
        add(&mut cost.entries, count);
        add(&mut cost.mapped, count);
        done.map_err(|error| source(&error))?;
        stopped
    }

    /// What a table maps of a range, with `held` entries in its copy already, and why that is not
    /// all.
    fn walk(
        &self,
        stage2: &Stage2,
        cost: &mut Cost,
        table: &GuestTable,
        reachable: &[(u64, u64)],
        (start, last): (u64, u64),
        held: usize,
    ) -> (Vec<(u64, Entry)>, Option<Stop>) {
        // Those of this copy may all be found again.
        let used = usize::try_from(cost.entries).unwrap_or(usize::MAX);
        let limit = MAX_ENTRIES.saturating_sub(used.saturating_sub(held));
        let memory = self.memory.memory();
        let mut walk = Walk {
            memory: &*memory,
            stage2,
            table,
            reachable,
            limit,
            unreachable: false,
            tables: 0,
            found: Vec::new(),
        };
        let half = 1u64 << (table.width.bits() - 1);
        let top = (half - 1) | half;
        let mut walked = Ok(());
        // The upper half of the first stage's addresses is at the end of all addresses.
        let parts = match table.format {
            TableFormat::FirstStage => [
                (start, last.min(half - 1)),
                (start.max(!(half - 1)) & top, last & top),
            ],
            TableFormat::SecondStage => [(start, last.min(top)), (1, 0)],
        };
        let upper = table.format == TableFormat::FirstStage && last >= !(half - 1);
        for (index, (start, last)) in parts.into_iter().enumerate() {
            if start <= last && walked.is_ok() && (index == 0 || upper) {
                walked = walk.run(start, last);
            }
        }
        add(&mut cost.tables, walk.tables);
        let found = std::mem::take(&mut walk.found);
        let unreachable = walk.unreachable.then_some(Stop::Unreachable);
        (found, walked.err().or(unreachable))
    }

    /// Makes every copy as its table is.
    pub(super) fn sync_all(&self, state: &mut State) -> std::result::Result<(), io::Error> {
        let State {
            stage2,
            copies,
            cost,
            ..
        } = state;
        for copied in copies.values_mut() {
            self.sync(stage2, cost, copied, IovaRange::ALL)?;
        }
        Ok(())
    }

    /// Forgets the entries whose memory the context has taken back.
    pub(super) fn forget(&self, state: &mut State, range: IovaRange) {
        state.stage2.remove(range);
        for copied in state.copies.values_mut() {
            let before = copied.entries.len();
            let stage2 = &state.stage2;
            copied.entries.retain(|&first, entry| {
                let gpa_last = entry.gpa.saturating_add(entry.last.saturating_sub(first));
                stage2.maps_all_of(entry.gpa, gpa_last)
            });
            let gone = before.saturating_sub(copied.entries.len());
            state.cost.entries = state.cost.entries.saturating_sub(gone as u64);
        }
    }

    /// Destroys the copy of a table that is not bound any more.
    fn destroy(&self, cost: &mut Cost, copied: &Copied) {
        cost.entries = cost.entries.saturating_sub(copied.entries.len() as u64);
        // It goes with the context at the latest.
        let _ = self.context.destroy_address_space(copied.id);
    }

    /// Forgets what was bound in a scope.
    pub(super) fn unbound(&self, state: &mut State, scope: Scope) {
        let State {
            copies,
            others,
            cost,
            ..
        } = state;
        copies.retain(|&key, copied| {
            let gone = is_in(scope, key);
            if gone {
                self.destroy(cost, copied);
            }
            !gone
        });
        others.retain(|&key| !is_in(scope, key));
    }

    /// Binds a copy of a table.
    pub(super) fn bind_table(
        &self,
        state: &mut State,
        binding: &Binding<'_>,
        table: &GuestTable,
    ) -> Result<()> {
        let bound = self.try_bind_table(state, binding, table);
        let counter = match &bound {
            Ok(()) => &mut state.cost.bound,
            Err(_error) => {
                tell!(debug, "shadow of the table at {}: {_error}", table.root);
                &mut state.cost.refused
            }
        };
        add(counter, 1);
        bound
    }

    fn try_bind_table(
        &self,
        state: &mut State,
        binding: &Binding<'_>,
        table: &GuestTable,
    ) -> Result<()> {
        let Binding { device, pasid, .. } = *binding;
        if let Some(reason) = self.refuses(binding, table) {
            return Err(Error::NotShadowed {
                device,
                pasid,
                reason,
            });
        }
        let mut copied = Copied {
            id: self.context.create_address_space()?,
            table: *table,
            entries: BTreeMap::new(),
        };
        let State { stage2, cost, .. } = state;
        let bound = self
            .sync(stage2, cost, &mut copied, IovaRange::ALL)
            .map_err(|source| Error::failed(Operation::BindStage1 { pasid, device }, source))
            .and_then(|()| {
                self.context.bind(&Binding {
                    translation: Translation::AddressSpace {
                        id: copied.id,
                        guest_pasid: table.guest_pasid,
                    },
                    ..*binding
                })
            });
        if let Err(error) = bound {
            self.destroy(&mut state.cost, &copied);
            return Err(error);
        }
        self.unbound(state, Scope::Binding(device, pasid));
        state.copies.insert((device, pasid), copied);
        Ok(())
    }
}
