// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A passed-through device behind a unit: what the guest's entries say of it is bound at the host.

use super::tables::{Entry, Kind, Stopped};
use crate::context::{HostIommu, Translation};
use crate::error::{Error, Operation, Result};
use crate::fault::FaultQueue;
use crate::nesting::{Invalidation, Stage1Binding};
use crate::pasid::PasidRequest;
use crate::sys::Errno;
use crate::types::{Bdf, IovaRange, Pasid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most PASIDs of a device that are bound: each takes a domain id of the host's, of which all
/// guests together have 65,536.
pub const MAX_BINDINGS: usize = 4096;

/// A device, its context, and what is bound there.
#[derive(Debug)]
pub(super) struct Device {
    bdf: Bdf,
    host: HostIommu,
    pub(super) faults: Option<Arc<FaultQueue>>,
    /// They are offered to the guest.
    page_requests: bool,
    /// By the guest's PASID.
    bound: BTreeMap<u32, Bound>,
    rid: Rid,
}

#[derive(Debug)]
struct Bound {
    binding: Stage1Binding,
    entry: Entry,
}

/// What requests without PASID are translated by.
#[derive(Debug)]
enum Rid {
    /// Stage 2 alone, as before a guest has turned translation on.
    Stage2,
    /// An entry of the guest's, and what was made of it: stage 2 alone if nothing.
    Entry(Entry, Option<Stage1Binding>),
    /// Nothing: all are stopped.
    Blocked(#[expect(dead_code, reason = "held")] Option<Stage1Binding>),
}

impl Device {
    /// With nothing bound.
    pub(super) fn new(
        bdf: Bdf,
        host: HostIommu,
        faults: Option<Arc<FaultQueue>>,
        page_requests: bool,
    ) -> Self {
        Self {
            bdf,
            host,
            faults,
            page_requests,
            bound: BTreeMap::new(),
            rid: Rid::Stage2,
        }
    }

    /// The guest's number for a PASID of the host's.
    pub(super) fn guest_pasid(&self, pasid: Pasid) -> u32 {
        self.host.guest_pasid(self.bdf, pasid)
    }

    pub(super) fn bdf(&self) -> Bdf {
        self.bdf
    }

    pub(super) fn is_of_host(&self, host: &HostIommu) -> bool {
        self.host.is(host)
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

    /// Unbinds everything: requests reach stage 2 as before a guest has turned translation on.
    pub(super) fn reset(&mut self) {
        self.bound.clear();
        self.rid = Rid::Stage2;
    }

    /// Whether page requests of a guest's PASID, or without one, are the guest's to answer.
    pub(super) fn takes_page_requests(&self, pasid: Option<u32>) -> bool {
        let entry = match pasid {
            Some(pasid) => self.bound.get(&pasid).map(|bound| &bound.entry),
            None => match &self.rid {
                Rid::Entry(entry, Some(_)) => Some(entry),
                _ => None,
            },
        };
        entry.is_some_and(|entry| matches!(entry.translation, Kind::Stage1(_)))
    }

    /// The domain of what is bound at a PASID, or without one.
    fn domain(&self, pasid: Option<u32>) -> Option<u16> {
        match (pasid, &self.rid) {
            (Some(pasid), _) => self.bound.get(&pasid).map(|bound| bound.entry.domain),
            (None, Rid::Entry(entry, _)) => Some(entry.domain),
            (None, _) => None,
        }
    }

    /// Makes true what the guest's entry of a PASID says; `Err` is what stops its requests.
    ///
    /// # Errors
    ///
    /// What the host says; nothing is bound then.
    pub(super) fn set_pasid(
        &mut self,
        pasid: u32,
        entry: std::result::Result<Entry, Stopped>,
    ) -> Result<()> {
        let Ok(entry) = entry else {
            return match self.bound.remove(&pasid) {
                Some(mut bound) => bound.binding.unbind(),
                None => Ok(()),
            };
        };
        let faults = self.faults.clone().filter(|_| self.page_requests);
        if let Some(bound) = self.bound.get_mut(&pasid) {
            let same = bound.entry.translation == entry.translation;
            let changed = match entry.translation {
                // Nothing of its own is cached.
                Kind::PassThrough if same => Ok(()),
                Kind::Stage1(_) if same => bound.binding.flush(&Invalidation::all()),
                Kind::Stage1(table) if bound.was_stage1() => bound
                    .binding
                    .rebind(&table.with_guest_pasid(pasid), faults.as_deref()),
                _ => {
                    self.bound.remove(&pasid);
                    return self.bind(pasid, entry);
                }
            };
            if changed.is_err() {
                self.bound.remove(&pasid);
            } else {
                bound.entry = entry;
            }
            return changed;
        }
        self.bind(pasid, entry)
    }

    fn bind(&mut self, pasid: u32, entry: Entry) -> Result<()> {
        if self.bound.len() >= MAX_BINDINGS {
            let operation = Operation::BindStage1 {
                pasid: Pasid::try_from(pasid)?,
                device: self.bdf,
            };
            return Err(Error::failed(operation, Errno::EDQUOT));
        }
        let guest = Pasid::try_from(pasid)?;
        // The guest's number if it is free, any other else.
        let pasids = self
            .host
            .alloc_pasids(&PasidRequest::exactly(guest))
            .or_else(|_| self.host.alloc_pasids(&PasidRequest::any()))?;
        let at = pasids.first();
        let binding = match entry.translation {
            Kind::Stage1(table) => {
                let table = table.with_guest_pasid(pasid);
                self.host.bind(self.bdf, &pasids, at, &table, self.asks())?
            }
            Kind::PassThrough => self.host.bind_stage2(self.bdf, &pasids, at, Some(pasid))?,
        };
        self.bound.insert(pasid, Bound { binding, entry });
        Ok(())
    }

    /// The same for requests without PASID. `None`: translation is off.
    ///
    /// # Errors
    ///
    /// What the host says: requests are stopped then where it can stop them.
    pub(super) fn set_rid(
        &mut self,
        entry: Option<std::result::Result<Entry, Stopped>>,
    ) -> Result<()> {
        match (entry, &self.rid) {
            (None, _) => {
                self.rid = Rid::Stage2;
                Ok(())
            }
            (Some(Ok(entry)), Rid::Entry(old, binding)) if *old == entry => match binding {
                Some(binding) => binding.flush(&Invalidation::all()),
                None => Ok(()),
            },
            (Some(Ok(entry)), _) => {
                // What was there goes first, and stage 2 is in force until the next is.
                self.rid = Rid::Stage2;
                let bound = match entry.translation {
                    Kind::PassThrough => Ok(None),
                    Kind::Stage1(table) => {
                        self.host.bind_rid(self.bdf, &table, self.asks()).map(Some)
                    }
                };
                match bound {
                    Ok(binding) => {
                        self.rid = Rid::Entry(entry, binding);
                        Ok(())
                    }
                    Err(error) => {
                        self.block();
                        Err(error)
                    }
                }
            }
            (Some(Err(_)), Rid::Blocked(_)) => Ok(()),
            (Some(Err(_)), _) => {
                self.block();
                Ok(())
            }
        }
    }

    /// Stops requests without PASID by an empty address space, where the host has them; elsewhere
    /// they reach the guest's own memory, as they do without an IOMMU.
    fn block(&mut self) {
        self.rid = Rid::Stage2;
        let empty = || -> Result<Stage1Binding> {
            let space = self.host.address_space()?;
            let translation = Translation::AddressSpace {
                id: space.id(),
                guest_pasid: None,
            };
            let bound = Stage1Binding::at_rid(self.host.clone(), self.bdf, translation, None)?;
            Ok(bound.keeping(space.held().clone()))
        };
        self.rid = Rid::Blocked(empty().ok());
    }

    /// Whether something of a domain is cached at a PASID, or without one; of any domain if `None`.
    pub(super) fn is_of(&self, pasid: Option<u32>, domain: Option<u16>) -> bool {
        let here = self.domain(pasid);
        here.is_some() && (domain.is_none() || here == domain)
    }

    /// Forgets translations of a PASID, or of requests without one.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub(super) fn flush(&self, pasid: Option<u32>, range: IovaRange, leaf: bool) -> Result<()> {
        let binding = match (pasid, &self.rid) {
            (Some(pasid), _) => self
                .bound
                .get(&pasid)
                .filter(|bound| bound.was_stage1())
                .map(|bound| &bound.binding),
            (None, Rid::Entry(_, binding)) => binding.as_ref(),
            (None, _) => None,
        };
        let Some(binding) = binding else {
            return Ok(());
        };
        let what = Invalidation::new();
        binding.flush(&if leaf {
            what.leaf(range)
        } else {
            what.range(range)
        })
    }
}

impl Bound {
    fn was_stage1(&self) -> bool {
        matches!(self.entry.translation, Kind::Stage1(_))
    }
}
