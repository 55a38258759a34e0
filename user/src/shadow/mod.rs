// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests' tables on hosts that cannot nest: walked here, and composed with stage 2 into an address
//! space of the backend's, which is bound in their place.
//!
//! [`Shadow`] is a context over another one's. It holds what a guest's table maps only as long as
//! it is told of each change, also of an entry that becomes present, for which Linux sends nothing
//! when the table is one of the first stage. [`Shadowing`] says which promise the VMM makes, and the
//! capabilities repeat it; a table that it does not cover is refused.
//!
//! With [`Shadowing::SecondStage`] only tables of the second stage are shadowed, and the context below
//! nests those of the first: a guest may have both side by side, and those of legacy mode.
//!
//! With [`Shadowing::PageRequests`] what a device asks for is looked for in its table first: what is
//! there by now is filled and answered at once. The rest goes to the guest, and is filled when it
//! answers SUCCESS. With the other promises fault queues are refused at a table.
//!
//! | of the table | here |
//! |---|---|
//! | an entry changes | seen at the next invalidation of its addresses, none before |
//! | accessed flag, extended too | set at the walk in all entries on the way to what is mapped |
//! | dirty flag | set at the walk in each leaf that may be written: a write is not seen |
//! | flags of the second stage | not touched: offer a guest no SSADS |
//! | supervisor's pages | not mapped; tables with [`GuestTable::supervisor`](crate::GuestTable::supervisor) are refused |
//! | a request that asks for privilege | served as a user's |
//! | addresses the host does not translate, as the upper half | a bind is refused if the table maps them; an invalidation skips them, and fails with EOPNOTSUPP |
//! | memory that is mapped or unmapped | followed at once |
//!
//! An entry that changes is taken out before the new one is put in: DMA that hits it meanwhile
//! fails. Entries that stay as they were stay in force.
//!
//! # Cost
//!
//! A bind reads all of the table, an invalidation the tables that cover its range; one entry of an
//! address space stands for each leaf and each mapping of stage 2 under it. [`Shadow::cost`]
//! counts. [`MAX_ENTRIES`] and [`MAX_TABLES`] bound what one guest can ask for: over them a bind is
//! refused, and an invalidation fails with EDQUOT: what of its range was in force and is in the table
//! still stays in force, and DMA to the rest is stopped.
//!
//! All calls of a shadow wait for each other.

mod copies;
mod requests;
mod stage2;
mod walk;

pub use walk::MAX_TABLES;

use crate::capabilities::{Capabilities, DeviceInfo, MissingBecause, Shadowing, Stats, Support};
use crate::context::{Binding, HostIommuContext, Mapping, Scope, Translation};
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultChannel, FaultQueueOptions};
use crate::nesting::InvalidationEntry;
use crate::pasid::PasidRequest;
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::sys::Errno;
use crate::types::{AddressWidth, Bdf, IovaRange, Pasid};
use copies::{add, is_in, Inner, State};
use requests::Requests;
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend};

/// Most entries of all tables of a shadow: a GiB in pages of 4 KiB, some 20 MiB of memory here and
/// as much in the host. A guest chooses how many leaves its tables have.
pub const MAX_ENTRIES: usize = 1 << 18;

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// Entries held now.
    pub entries: u64,
    /// Tables read, each with up to 512 entries.
    pub tables: u64,
    /// Entries put into address spaces.
    pub mapped: u64,
    /// Entries taken out.
    pub unmapped: u64,
    /// Tables that were bound.
    pub bound: u64,
    /// Tables that were refused; the error has the reason.
    pub refused: u64,
    /// Ranges of tables that guests invalidated.
    pub invalidated: u64,
    /// Times that a copy could not be made as its table is, so that requests are stopped which the
    /// table allows: by [`MAX_ENTRIES`] or [`MAX_TABLES`], by addresses that the host does not
    /// translate, or by an error of the host.
    pub incomplete: u64,
    /// Page request groups that were answered here, as the table had all that was asked for.
    pub filled: u64,
}

/// A context that shadows, over one that has address spaces.
pub struct Shadow<C, A>(Arc<Inner<C, A>>);

impl<C: fmt::Debug, A> fmt::Debug for Shadow<C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow")
            .field("context", &self.0.context)
            .field("shadowing", &self.0.shadowing)
            .finish_non_exhaustive()
    }
}

impl<C, A> Shadow<C, A>
where
    C: HostIommuContext,
    A: GuestAddressSpace,
    A::M: GuestMemoryBackend,
{
    /// Over a context in which nothing is mapped yet. `memory` is the guest's, by the addresses at
    /// which [`HostIommuContext::map`] will give it to devices.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EBUSY if something is mapped, EOPNOTSUPP for a context without address
    /// spaces.
    pub fn over(context: C, memory: A, shadowing: Shadowing) -> Result<Self> {
        let failed = |errno| Error::failed(Operation::AddressSpace("shadow by"), errno);
        if context.stats()?.mapped_pages != 0 {
            return Err(failed(Errno::EBUSY));
        }
        let nesting = context.capabilities()?.nesting;
        if nesting.is_none_or(|nesting| nesting.max_address_spaces == 0) {
            return Err(failed(Errno::EOPNOTSUPP));
        }
        Ok(Self(Arc::new(Inner {
            context,
            memory,
            shadowing,
            state: Mutex::default(),
        })))
    }

    /// The context below. What is mapped and bound by it is not known here.
    pub fn inner(&self) -> &C {
        &self.0.context
    }

    /// What was done so far.
    pub fn cost(&self) -> Cost {
        self.0.lock().cost
    }
}

impl<C, A> HostIommuContext for Shadow<C, A>
where
    C: HostIommuContext + 'static,
    A: GuestAddressSpace + Send + Sync + 'static,
    A::M: GuestMemoryBackend,
{
    fn attach(&self, fd: OwnedFd) -> Result<u64> {
        self.0.context.attach(fd)
    }

    fn detach(&self, attached: u64) -> Result<OwnedFd> {
        let mut state = self.0.lock();
        let fd = self.0.context.detach(attached)?;
        let left: BTreeSet<Bdf> = self
            .0
            .context
            .devices()
            .map(|devices| devices.iter().map(|info| info.device).collect())
            .unwrap_or_default();
        if left.is_empty() {
            *state = State::default();
            return Ok(fd);
        }
        let keys = state.copies.keys().chain(&state.others);
        let gone: BTreeSet<Bdf> = keys
            .map(|key| key.0)
            .filter(|device| !left.contains(device))
            .collect();
        for device in gone {
            self.0.unbound(&mut state, Scope::Device(device));
        }
        Ok(fd)
    }

    fn device_fd(&self, device: Bdf) -> Result<OwnedFd> {
        self.0.context.device_fd(device)
    }

    fn capabilities(&self) -> Result<Capabilities> {
        let mut capabilities = self.0.context.capabilities()?;
        let devices = self.devices()?;
        if let Some(nesting) = &mut capabilities.nesting {
            nesting.shadowed = Some(self.0.shadowing);
            if self.0.shadowing == Shadowing::SecondStage {
                return Ok(capabilities);
            }
            let missing = match devices.first() {
                None => Support::Missing(MissingBecause::NoDevice),
                Some(info) => info.stage1,
            };
            let has = |info: &&DeviceInfo| info.stage1.is_present();
            nesting.stage1 = devices.iter().find(has).map_or(missing, |info| info.stage1);
            if self.0.shadowing != Shadowing::PageRequests {
                nesting.page_requests = Support::Missing(MissingBecause::Shadowed);
            }
            nesting.rid = devices.iter().any(|info| info.rid);
            nesting.widths = vec![AddressWidth::Bits48, AddressWidth::Bits57];
        }
        Ok(capabilities)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut devices = self.0.context.devices()?;
        if self.0.shadowing == Shadowing::SecondStage {
            return Ok(devices);
        }
        for info in &mut devices {
            let pasids = match info.max_pasids {
                0 => Support::Missing(MissingBecause::NoPasid),
                _ => Support::Present,
            };
            if self.0.shadowing == Shadowing::PageRequests {
                info.rid = info.page_requests.is_present();
                info.stage1 = match pasids {
                    Support::Present => info.page_requests,
                    missing => missing,
                };
            } else {
                info.page_requests = Support::Missing(MissingBecause::Shadowed);
                info.rid = true;
                info.stage1 = pasids;
            }
        }
        Ok(devices)
    }

    fn stay(&self, device: Bdf) -> Result<Option<u64>> {
        self.0.context.stay(device)
    }

    fn map(&self, mapping: &Mapping<'_>) -> Result<()> {
        let mut state = self.0.lock();
        self.0.context.map(mapping)?;
        state.stage2.insert(mapping.range, mapping.access);
        let synced = self.0.sync_all(&mut state);
        synced.or_else(|source| {
            // A table's copy would not hold it: all of it, or nothing.
            self.0.context.unmap(mapping.range)?;
            self.0.forget(&mut state, mapping.range);
            Err(Error::failed(Operation::Map(mapping.range), source))
        })
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        let mut state = self.0.lock();
        let bytes = self.0.context.unmap(range)?;
        self.0.forget(&mut state, range);
        Ok(bytes)
    }

    fn unmap_all(&self) -> Result<u64> {
        let mut state = self.0.lock();
        let bytes = self.0.context.unmap_all()?;
        self.0.forget(&mut state, IovaRange::ALL);
        Ok(bytes)
    }

    fn alloc_pasids(&self, request: &PasidRequest) -> Result<Pasid> {
        self.0.context.alloc_pasids(request)
    }

    fn free_pasids(&self, first: Pasid, count: u32) -> Result<()> {
        self.0.context.free_pasids(first, count)
    }

    fn bind(&self, binding: &Binding<'_>) -> Result<()> {
        let mut state = self.0.lock();
        let key = (binding.device, binding.pasid);
        let scope = Scope::Binding(key.0, key.1);
        let binding = &Binding {
            // The context knows its own.
            fault_queue: binding.fault_queue.map(|channel| {
                let ours = channel.as_any().downcast_ref::<Requests<C, A>>();
                ours.map_or(channel, |requests| &*requests.channel)
            }),
            ..*binding
        };
        let bound = match binding.translation {
            Translation::Stage1(table) if self.0.copies(&table) => {
                self.0.bind_table(&mut state, binding, &table)
            }
            Translation::Stage1(_)
            | Translation::Stage2 { .. }
            | Translation::AddressSpace { .. }
            | Translation::Blocked { .. } => self.0.context.bind(binding).map(|()| {
                self.0.unbound(&mut state, scope);
                state.others.insert(key);
            }),
        };
        if matches!(bound, Err(Error::Blocked { .. })) {
            self.0.unbound(&mut state, scope);
        }
        bound
    }

    fn unbind(&self, scope: Scope) -> Result<()> {
        let mut state = self.0.lock();
        let done = self.0.context.unbind(scope);
        // ENOENT: it went with its device.
        let gone = |error: &Error| error.errno() == Some(Errno::ENOENT.raw());
        if done.as_ref().err().is_none_or(gone) {
            self.0.unbound(&mut state, scope);
        }
        done
    }

    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()> {
        let mut state = self.0.lock();
        let State {
            stage2,
            copies,
            others,
            cost,
        } = &mut *state;
        let mut ours = false;
        for (_, copied) in copies.iter_mut().filter(|(&key, _)| is_in(scope, key)) {
            ours = true;
            for (index, entry) in entries.iter().enumerate() {
                self.0
                    .sync(stage2, cost, copied, entry.range)
                    .map_err(|source| Error::Flush {
                        scope,
                        index,
                        count: entries.len(),
                        source,
                    })?;
                add(&mut cost.invalidated, 1);
            }
        }
        if ours && !others.iter().any(|&key| is_in(scope, key)) {
            return Ok(());
        }
        self.0.context.invalidate(scope, entries)
    }

    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<Arc<dyn FaultChannel>> {
        let channel = self.0.context.fault_queue(options)?;
        if self.0.shadowing != Shadowing::PageRequests {
            return Ok(channel);
        }
        let shadow = Arc::downgrade(&self.0);
        let waits = !options.nonblocking;
        Ok(Arc::new(Requests::new(channel, waits, shadow)))
    }

    fn stats(&self) -> Result<Stats> {
        let mut stats = self.0.context.stats()?;
        stats.invalidations = stats
            .invalidations
            .saturating_add(self.0.lock().cost.invalidated);
        Ok(stats)
    }

    fn create_address_space(&self) -> Result<AddressSpaceId> {
        self.0.context.create_address_space()
    }

    fn destroy_address_space(&self, id: AddressSpaceId) -> Result<()> {
        self.0.context.destroy_address_space(id)
    }

    fn map_address_space(&self, id: AddressSpaceId, entries: &[AddressSpaceEntry]) -> Result<()> {
        self.0.context.map_address_space(id, entries)
    }

    fn unmap_address_space(&self, id: AddressSpaceId, ranges: &[IovaRange]) -> Result<()> {
        self.0.context.unmap_address_space(id, ranges)
    }

    fn track_dirty(&self, on: bool) -> Result<()> {
        self.0.context.track_dirty(on)
    }

    fn read_dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> Result<()> {
        self.0.context.read_dirty(range, bitmap)
    }
}
