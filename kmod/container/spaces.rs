// SPDX-License-Identifier: GPL-2.0
//! AS_CREATE, AS_DESTROY, AS_MAP and AS_UNMAP, and the tables that a BIND needs.

use super::Container;
use crate::base::inline_first::InlineFirst;
use crate::base::iova::IovaRange;
use crate::base::range_map::{self, Ranged};
use crate::budget::Work;
use crate::call;
use crate::ffi::alias::Tables;
use crate::ffi::lock::Guard;
use crate::ffi::paging::PagingDomain;
use crate::ffi::trace::{self, AsOperation};
use crate::ffi::user::Pointer;
use crate::ioas::address_space::{AddressSpace, BoundSpace};
use crate::nesting::AttachedDevice;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Entries that are read, or go with one flush, between two moments without the lock.
const STEP: u32 = 256;

/// How an AS_MAP or AS_UNMAP ended.
struct Changed {
    done: u32,
    result: Result,
}

/// The page table of an address space for a device.
pub(super) struct BoundTable {
    /// The address space, which is not destroyed while this lives.
    pub(super) space: BoundSpace,
    /// Its table.
    pub(super) table: Arc<PagingDomain>,
}

impl Container {
    #[inline(never)]
    pub(super) fn call_as_create(&self, arg: Pointer) -> Result {
        let call = call::AsCreate::decode(arg)?;
        let result = self.ioas.lock().create_address_space();
        let id = *result.as_ref().unwrap_or(&0);
        trace::address_space(self.id, id, AsOperation::Create, 0, &result);
        let id = result?;
        // A user that cannot be told must not be left holding it.
        call.reply(arg, id)
            .or_else(|error| self.destroy_address_space(id).and(Err(error)))
    }

    #[inline(never)]
    pub(super) fn call_as_destroy(&self, arg: Pointer) -> Result {
        let id = call::decode_as_destroy(arg)?;
        let result = self.destroy_address_space(id);
        trace::address_space(self.id, id, AsOperation::Destroy, 0, &result);
        result
    }

    #[inline(never)]
    pub(super) fn call_as_change(&self, arg: Pointer, operation: AsOperation) -> Result {
        let call = call::AsChange::decode(arg)?;
        let changed = self.change_address_space(&call, operation)?;
        trace::address_space(self.id, call.id, operation, changed.done, &changed.result);
        call.reply(arg, changed.done)?;
        changed.result
    }

    /// Takes an address space away that is bound nowhere. Sleeps.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if there is none, or another call destroyed it meanwhile; [`EBUSY`] if it is
    ///   bound.
    /// - [`EINTR`] if a fatal signal came; nobody but AS_DESTROY finds it any more.
    fn destroy_address_space(&self, id: u32) -> Result {
        let work = &mut Work::of_call();
        let space = self.ioas.lock().spaces.begin_destroy(id)?;
        space.tables.lock_killable()?.drop_unused();
        self.take_entries(&space, &IovaRange::ALL, work)?;
        self.ioas.lock().spaces.end_destroy(id)
    }

    /// Carries out the entries of a change one by one, up to the first bad one. Copies from the
    /// user.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is no such address space; what the IOMMU driver says if it has no tables
    /// for a device.
    fn change_address_space(
        &self,
        call: &call::AsChange,
        operation: AsOperation,
    ) -> Result<Changed> {
        let work = &mut Work::of_call();
        let space = self.ioas.lock().spaces.get(call.id)?;
        if operation == AsOperation::Map {
            self.prepare_tables(&space, work)?;
        }
        let mut done = 0;
        let mut result = Ok(());
        while result.is_ok() && done < call.count {
            let step = STEP.min(call.count - done);
            let changed = match operation {
                AsOperation::Map => self.map_step(&space, call, done, step, work),
                _ => self.unmap_step(&space, call, done, step, work),
            };
            // What was done before is told all the same.
            let changed = changed.unwrap_or_else(|error| Changed {
                done: 0,
                result: Err(error),
            });
            done += changed.done;
            result = changed.result.and_then(|()| match done < call.count {
                true => work.look(),
                false => Ok(()),
            });
        }
        Ok(Changed { done, result })
    }

    fn map_step(
        &self,
        space: &Arc<AddressSpace>,
        call: &call::AsChange,
        first: u32,
        step: u32,
        work: &mut Work,
    ) -> Result<Changed> {
        let mut entries = KVec::with_capacity(step as usize, GFP_KERNEL_ACCOUNT)?;
        let read = (first..first + step)
            .try_for_each(|index| Ok(entries.push(call.entry(index)?, GFP_KERNEL_ACCOUNT)?));
        let mut tables = space.tables.lock_killable()?;
        let mut done = 0;
        for entry in &entries {
            let mapped = work
                .step()
                .and_then(|()| self.map_entry(space, &mut tables, entry, work));
            if let Err(error) = mapped {
                tables.flush();
                return Ok(Changed {
                    done,
                    result: Err(error),
                });
            }
            done += 1;
        }
        Ok(Changed { done, result: read })
    }

    /// Adds an entry to an address space.
    ///
    /// # Errors
    ///
    /// Those of an entry of `VFIO_IOASID_AS_MAP`.
    fn map_entry(
        &self,
        space: &AddressSpace,
        tables: &mut Guard<'_, Tables>,
        entry: &call::AsEntry,
        work: &mut Work,
    ) -> Result {
        if !tables.can_translate(&entry.range) {
            return Err(EINVAL);
        }
        if range_map::first_in(tables.entries(), &entry.range).is_some() {
            // What is wrong with the range itself is said first.
            let fits = self.ioas.lock().windows().contains(&entry.range);
            return Err(if fits { EEXIST } else { EINVAL });
        }
        let alias = self.ioas.lock().point(space.id(), entry)?;
        let (iova, memory) = (entry.range.start(), entry.memory);
        tables
            .insert(alias, work)
            .inspect_err(|_| self.ioas.lock().unpoint(space.id(), iova, &memory, None))
    }

    fn unmap_step(
        &self,
        space: &Arc<AddressSpace>,
        call: &call::AsChange,
        first: u32,
        step: u32,
        work: &mut Work,
    ) -> Result<Changed> {
        // Without memory for many, one by one: a teardown fails for no want of it.
        let (mut ranges, step) = InlineFirst::with_capacity(step as usize, GFP_KERNEL_ACCOUNT)
            .map_or_else(|_| (InlineFirst::new(), 1), |ranges| (ranges, step));
        let read = (first..first + step).try_for_each(|index| {
            let range = call.range(index)?;
            ranges.push_within_capacity(range).map_err(|_| ENOMEM)
        });
        let mut tables = space.tables.lock_killable()?;
        let mut done = 0;
        let mut taken = 0;
        for range in ranges.iter() {
            if range_map::cuts(tables.entries(), range) {
                tables.flush();
                return Ok(Changed {
                    done,
                    result: Err(EINVAL),
                });
            }
            while let Some(iova) = range_map::first_in(tables.entries(), range)
                .filter(|entry| range.contains(entry.range()))
                .map(|entry| entry.range().start())
            {
                self.take_entry(space, &mut tables, iova, None);
                taken += 1;
                if taken == STEP {
                    // Others come between, and what is left is not flushed if the caller is killed.
                    taken = 0;
                    tables.flush();
                    drop(tables);
                    work.look()?;
                    tables = space.tables.lock_killable()?;
                }
            }
            done += 1;
        }
        tables.flush();
        Ok(Changed { done, result: read })
    }

    /// Takes the entries out of an address space that lie in `range`.
    fn take_entries(&self, space: &AddressSpace, range: &IovaRange, work: &mut Work) -> Result {
        loop {
            let mut tables = space.tables.lock_killable()?;
            for _ in 0..STEP {
                let first = range_map::first_in(tables.entries(), range);
                let Some(iova) = first.map(|entry| entry.range().start()) else {
                    tables.flush();
                    return Ok(());
                };
                self.take_entry(space, &mut tables, iova, None);
            }
            tables.flush();
            drop(tables);
            work.look()?;
        }
    }

    /// Takes one entry out, and its links; it is in force until the tables are flushed. `going` is
    /// the first address of a mapping that goes with it.
    fn take_entry(
        &self,
        space: &AddressSpace,
        tables: &mut Guard<'_, Tables>,
        iova: u64,
        going: Option<u64>,
    ) {
        if let Some(memory) = tables.take(iova) {
            self.ioas.lock().unpoint(space.id(), iova, &memory, going);
        }
    }

    /// Takes out every entry that points into the mapping at `start`, which is claimed: no other
    /// comes. Sleeps.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came; some are left then.
    pub(super) fn zap(&self, start: u64, work: &mut Work) -> Result {
        loop {
            let space = {
                let mut ioas = self.ioas.lock();
                let Some(place) = ioas.spaces.pointing_at(start) else {
                    return Ok(());
                };
                let Some(space) = ioas.spaces.find(place.space) else {
                    ioas.unlink_lost(start, place.space, place.iova);
                    continue;
                };
                space
            };
            let mut tables = space.tables.lock_killable()?;
            for _ in 0..STEP {
                let iova = self.ioas.lock().spaces.pointing_from(space.id(), start);
                let Some(iova) = iova else {
                    break;
                };
                self.take_entry(&space, &mut tables, iova, Some(start));
                // Cannot loop: the link is gone even if the entry was not found.
                self.ioas.lock().unlink_lost(start, space.id(), iova);
            }
            tables.flush();
            drop(tables);
            work.look()?;
        }
    }

    /// The page table of an address space for a device, to be bound with or without page requests.
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if there is no such address space; [`ENODEV`] if the device has left.
    /// - What the IOMMU driver says; [`EINTR`] if a fatal signal came.
    pub(super) fn table_of_space(
        &self,
        id: u32,
        device: &AttachedDevice,
        page_requests: bool,
        work: &mut Work,
    ) -> Result<BoundTable> {
        let bound = self.ioas.lock().spaces.get_bound(id)?;
        self.prepare_tables(bound.space(), work)?;
        loop {
            let tables = bound.space().tables.lock_killable()?;
            let table = tables.table(device.stage2.domain(), &device.device, page_requests);
            if let Some(table) = table.cloned() {
                drop(tables);
                return Ok(BoundTable {
                    space: bound,
                    table,
                });
            }
            drop(tables);
            self.add_table(bound.space(), device, page_requests, work)?;
        }
    }

    /// Adds a table to an address space for a device, if it has none.
    fn add_table(
        &self,
        space: &AddressSpace,
        device: &AttachedDevice,
        page_requests: bool,
        work: &mut Work,
    ) -> Result {
        // The device does not leave while the driver is asked for a domain for it.
        let domain = {
            let _attached = device.change()?;
            if page_requests {
                PagingDomain::separate_with_page_requests(&device.device)?
            } else {
                PagingDomain::separate(&device.device)?
            }
        };
        let mut tables = space.tables.lock_killable()?;
        if tables
            .table(device.stage2.domain(), &device.device, page_requests)
            .is_some()
        {
            return Ok(());
        }
        let stage_2 = device.stage2.domain().clone();
        tables.add_table(stage_2, &device.device, page_requests, domain, work)
    }

    /// Makes sure that an address space has a table without page requests for each device, and none
    /// for a stage-2 domain that is gone. Sleeps.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says; [`EINTR`] if a fatal signal came.
    fn prepare_tables(&self, space: &AddressSpace, work: &mut Work) -> Result {
        loop {
            let device = {
                let mut tables = space.tables.lock_killable()?;
                tables.drop_retired();
                self.nesting.lock().device_where(|device| {
                    let table = tables.table(device.stage2.domain(), &device.device, false);
                    !device.is_gone() && table.is_none()
                })
            };
            let Some(device) = device else {
                return Ok(());
            };
            match self.add_table(space, &device, false, work) {
                // It left meanwhile: another may have the same domain.
                Err(ENODEV) if device.is_gone() => {}
                added => added?,
            }
        }
    }
}
