// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A passed-through device behind a unit: what the guest's entries say of it is bound at the host.
//!
//! Requests of each PASID, and those without PASID, are in one of three states: as the guest's entry
//! was when the unit last looked at it, as it is now, or stopped. The host goes from one state to the
//! other in one step, or by way of the stop; never by way of stage 2 alone, which no entry asked for.

use super::reasons::Stopped;
use super::tables::{Entry, TranslationType};
use crate::context::{HostIommu, Translation};
use crate::error::{Error, Operation, Result};
use crate::fault::FaultQueue;
use crate::nesting::{GuestTable, Invalidation, Stage1Binding};
use crate::pasid::PasidAllocation;
use crate::registry::BoundTable;
use crate::sys::Errno;
use crate::types::{Bdf, Pasid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most PASIDs of a device that are bound: each takes a domain id of the host's, of which all
/// guests together have 65,536.
pub const MAX_BINDINGS: usize = 4096;

/// What an entry of the guest's says, or what stops its requests.
pub(super) type Found = std::result::Result<Entry, Stopped>;

/// A device, its context, and what is bound there.
#[derive(Debug)]
pub(super) struct Device {
    bdf: Bdf,
    host: HostIommu,
    pub(super) faults: Option<Arc<FaultQueue>>,
    /// They are offered to the guest, and the device has them.
    page_requests: bool,
    /// By the guest's PASID.
    bound: BTreeMap<u32, Bound>,
    rid: AtRid,
    /// The PASID whose entry requests without PASID go by (VT-d 4.1, 9.4: RID_PASID).
    rid_pasid: Option<u32>,
}

#[derive(Debug)]
struct Bound {
    binding: Stage1Binding,
    /// What was bound; `None` if that could not be taken out again, and is stopped in its place.
    entry: Option<Entry>,
    // The number is the guest's own as long as something is bound there.
    _pasid: PasidAllocation,
}

/// What requests without PASID are translated by.
#[derive(Debug)]
enum AtRid {
    /// Stage 2 alone, while translation is off.
    Stage2,
    /// Stage 2 alone, by an entry that passes requests through.
    PassThrough(Entry),
    /// A table.
    Table(Entry, Stage1Binding),
    /// Nothing: they are stopped.
    Blocked(Stage1Binding),
}

impl Device {
    /// A device whose requests without PASID are stopped, so that it is known that they can be.
    ///
    /// # Errors
    ///
    /// What the host says that cannot stop them.
    pub(super) fn new(
        bdf: Bdf,
        host: HostIommu,
        faults: Option<Arc<FaultQueue>>,
        page_requests: bool,
    ) -> Result<Self> {
        let blocked = host.block_rid(bdf)?;
        Ok(Self {
            bdf,
            host,
            faults,
            page_requests,
            bound: BTreeMap::new(),
            rid: AtRid::Blocked(blocked),
            rid_pasid: None,
        })
    }

    /// A device that a unit in another process has left to this one, with what is bound: its requests
    /// go by that until the guest's entries are looked at.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::adopt`].
    pub(super) fn adopt(
        bdf: Bdf,
        host: HostIommu,
        faults: Option<Arc<FaultQueue>>,
        page_requests: bool,
        tables: &[BoundTable],
    ) -> Result<Self> {
        let bindings = host.adopt(tables)?;
        let mut device = Self {
            bdf,
            host,
            faults,
            page_requests,
            bound: BTreeMap::new(),
            rid: AtRid::Stage2,
            rid_pasid: None,
        };
        for (table, binding) in tables.iter().zip(bindings) {
            let entry = match table.translation {
                Translation::Stage1(table) => Some(TranslationType::Table(GuestTable {
                    guest_pasid: None,
                    ..table
                })),
                Translation::Stage2 { .. } => Some(TranslationType::PassThrough),
                // Address spaces are no unit's.
                Translation::Blocked { .. } | Translation::AddressSpace { .. } => None,
            };
            let entry = entry.map(Entry::adopted);
            if table.pasid == Pasid::RID {
                device.rid = match entry {
                    Some(entry) => AtRid::Table(entry, binding),
                    None => AtRid::Blocked(binding),
                };
                continue;
            }
            let bound = Bound {
                _pasid: device.host.shared_pasid(table.pasid)?,
                binding,
                entry,
            };
            device.bound.insert(table.pasid.get(), bound);
        }
        Ok(device)
    }

    /// Where page requests of what is bound go.
    fn asks(&self) -> Option<&FaultQueue> {
        self.faults.as_deref().filter(|_| self.page_requests)
    }

    /// The guest's PASIDs that are bound.
    pub(super) fn pasids(&self) -> impl Iterator<Item = u32> + '_ {
        self.bound.keys().copied()
    }

    /// Whether something is bound at a guest's PASID.
    pub(super) fn is_bound(&self, pasid: u32) -> bool {
        self.bound.contains_key(&pasid)
    }

    pub(super) fn rid_pasid(&self) -> Option<u32> {
        self.rid_pasid
    }

    pub(super) fn set_rid_pasid(&mut self, pasid: Option<u32>) {
        self.rid_pasid = pasid;
    }

    /// The domain of what is bound at a PASID, or without one.
    pub(super) fn domain(&self, pasid: Option<u32>) -> Option<u16> {
        match (pasid, &self.rid) {
            (Some(pasid), _) => self
                .bound
                .get(&pasid)?
                .entry
                .as_ref()
                .map(|entry| entry.domain),
            (None, AtRid::Table(entry, _) | AtRid::PassThrough(entry)) => Some(entry.domain),
            (None, _) => None,
        }
    }

    /// Makes true what the guest's entry of a PASID says; `Err` is what stops its requests.
    ///
    /// # Errors
    ///
    /// What the host says; the requests are stopped then.
    pub(super) fn set_pasid(&mut self, pasid: u32, found: Found) -> Result<()> {
        let Ok(entry) = found else {
            self.forget_pasid(pasid);
            return Ok(());
        };
        // The host may have lost what was bound, as by a wider unbind of the VMM's.
        let held = self.bound.remove(&pasid);
        let Some(mut bound) = held.filter(|bound| bound.binding.is_bound()) else {
            return self.bind(pasid, entry);
        };
        if bound.entry.map(|old| old.translation) == Some(entry.translation) {
            bound.entry = Some(entry);
            let flushed = match entry.translation {
                TranslationType::Table(_) => bound.binding.flush(&Invalidation::all()),
                // Nothing of its own is cached.
                TranslationType::PassThrough => Ok(()),
            };
            return match flushed {
                Ok(()) => {
                    self.bound.insert(pasid, bound);
                    Ok(())
                }
                Err(error) => {
                    self.stop(pasid, bound);
                    Err(error)
                }
            };
        }
        let (translation, faults) = self.translation(&entry, Some(pasid));
        let replaced = bound.binding.replace(translation, faults);
        match replaced {
            Ok(()) => {
                bound.entry = Some(entry);
                self.bound.insert(pasid, bound);
                Ok(())
            }
            Err(error) => {
                self.stop(pasid, bound);
                Err(error)
            }
        }
    }

    /// What an entry asks the host for, and where its page requests go.
    fn translation(
        &self,
        entry: &Entry,
        guest_pasid: Option<u32>,
    ) -> (Translation, Option<&FaultQueue>) {
        match entry.translation {
            TranslationType::Table(table) => {
                let table = GuestTable {
                    guest_pasid,
                    ..table
                };
                (
                    Translation::Stage1(table),
                    self.asks_for(&entry.translation),
                )
            }
            TranslationType::PassThrough => (Translation::Stage2 { guest_pasid }, None),
        }
    }

    /// A shadow fills second-stage tables as the guest tells, not by page requests.
    fn asks_for(&self, translation: &TranslationType) -> Option<&FaultQueue> {
        self.asks().filter(|_| translation.is_first_stage())
    }

    fn bind(&mut self, pasid: u32, entry: Entry) -> Result<()> {
        let guest = Pasid::try_from(pasid)?;
        if self.bound.len() >= MAX_BINDINGS {
            let operation = Operation::BindStage1 {
                pasid: guest,
                device: self.bdf,
            };
            return Err(Error::failed(operation, Errno::EDQUOT));
        }
        // The guest's number, which the device has in its own registers: no other will do.
        let pasids = self.host.shared_pasid(guest)?;
        let (translation, faults) = self.translation(&entry, Some(pasid));
        let (host, bdf) = (self.host.clone(), self.bdf);
        let binding = Stage1Binding::at_pasid(host, bdf, &pasids, guest, translation, faults)?;
        let bound = Bound {
            binding,
            entry: Some(entry),
            _pasid: pasids,
        };
        self.bound.insert(pasid, bound);
        Ok(())
    }

    /// Stops requests of a PASID: what is bound goes. What cannot be unbound is stopped in its place.
    fn stop(&mut self, pasid: u32, mut bound: Bound) {
        if bound.binding.unbind().is_err() {
            // Blocking cannot fail; while the binding is kept the next look tries again.
            let _ = bound.binding.block();
            bound.entry = None;
            self.bound.insert(pasid, bound);
        }
    }

    /// The guest's entry of a PASID stops its requests.
    pub(super) fn forget_pasid(&mut self, pasid: u32) {
        if let Some(bound) = self.bound.remove(&pasid) {
            self.stop(pasid, bound);
        }
    }

    /// The same for requests without PASID. `None`: translation is off.
    ///
    /// # Errors
    ///
    /// What the host says: the requests are stopped then.
    pub(super) fn set_rid(&mut self, found: Option<Found>) -> Result<()> {
        let entry = match found {
            None => return self.open(AtRid::Stage2),
            Some(Err(_)) => return self.block(),
            Some(Ok(entry)) => entry,
        };
        let TranslationType::Table(table) = entry.translation else {
            return self.open(AtRid::PassThrough(entry));
        };
        if let AtRid::Table(old, binding) = &mut self.rid {
            if binding.is_bound() && old.translation == entry.translation {
                *old = entry;
                return binding.flush(&Invalidation::all()).or_else(|error| {
                    self.block()?;
                    Err(error)
                });
            }
        }
        let mut binding = self.take_rid()?;
        let faults = self.asks_for(&entry.translation);
        let replaced = binding.replace(Translation::Stage1(table), faults);
        if let Err(error) = replaced {
            self.rid = AtRid::Blocked(binding);
            self.block()?;
            return Err(error);
        }
        self.rid = AtRid::Table(entry, binding);
        Ok(())
    }

    /// The hold on what translates requests without PASID; they are stopped if nothing of ours does.
    fn take_rid(&mut self) -> Result<Stage1Binding> {
        if let AtRid::Table(_, binding) | AtRid::Blocked(binding) =
            std::mem::replace(&mut self.rid, AtRid::Stage2)
        {
            if binding.is_bound() {
                return Ok(binding);
            }
        }
        self.host.block_rid(self.bdf)
    }

    /// Stage 2 alone.
    fn open(&mut self, to: AtRid) -> Result<()> {
        match &mut self.rid {
            AtRid::Table(_, binding) | AtRid::Blocked(binding) => binding.unbind()?,
            AtRid::Stage2 | AtRid::PassThrough(_) => {}
        }
        self.rid = to;
        Ok(())
    }

    /// Stops requests without PASID.
    fn block(&mut self) -> Result<()> {
        let mut binding = self.take_rid()?;
        let blocked = binding.block();
        if blocked.is_err() && !binding.is_bound() {
            // They are stopped already, by a step that failed half-way.
            binding = self.host.block_rid(self.bdf)?;
            self.rid = AtRid::Blocked(binding);
            return Ok(());
        }
        // Kept whatever happens: without it they would reach stage 2.
        self.rid = AtRid::Blocked(binding);
        blocked
    }

    /// Stops all requests until the guest's entries are looked at.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub(super) fn block_all(&mut self) -> Result<()> {
        for pasid in self.pasids().collect::<Vec<_>>() {
            self.forget_pasid(pasid);
        }
        self.block()
    }

    /// Unbinds everything: requests reach stage 2 as before a guest has turned translation on.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub(super) fn reset(&mut self) -> Result<()> {
        for pasid in self.pasids().collect::<Vec<_>>() {
            self.forget_pasid(pasid);
        }
        self.rid_pasid = None;
        self.open(AtRid::Stage2)
    }

    /// Forgets translations of a PASID, or of requests without one, in one call of the host.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub(super) fn flush(&self, pasid: Option<u32>, what: &Invalidation) -> Result<()> {
        let binding = match (pasid, &self.rid) {
            (Some(pasid), _) => self
                .bound
                .get(&pasid)
                .filter(|bound| bound.has_table())
                .map(|bound| &bound.binding),
            (None, AtRid::Table(_, binding)) => Some(binding),
            (None, _) => None,
        };
        binding
            // What the VMM has unbound has nothing cached.
            .filter(|binding| binding.is_bound())
            .map_or(Ok(()), |binding| binding.flush(what))
    }
}

impl Bound {
    fn has_table(&self) -> bool {
        let translation = self.entry.map(|entry| entry.translation);
        matches!(translation, Some(TranslationType::Table(_)))
    }
}
