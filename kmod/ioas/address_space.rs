// SPDX-License-Identifier: GPL-2.0
//! Separate address spaces: page tables of the host's own, whose entries point into memory that
//! stage 2 maps. Nothing is pinned again; what stage 2 unmaps is zapped here first.

use super::iova::IovaRange;
use super::ranges::{self, Ranged};
use super::Ioas;
use crate::budget::{self, Share};
use crate::few::Few;
use crate::ffi::alias::{Alias, Tables};
use crate::ffi::device::Device;
use crate::ffi::errno::edquot;
use crate::ffi::limits::Limit;
use crate::ffi::paging::PagingDomain;
use crate::uapi::AsEntry;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::Arc;

struct AddressSpace {
    id: u32,
    tables: Tables,
    /// Its domain id; it counts as one however many IOMMU units there are.
    _share: Share,
}

/// Says that an entry points into a mapping: start of the mapping, address space, start of the
/// entry.
type Link = (u64, u32, u64);

/// The address spaces of a container.
///
/// # Invariants
///
/// - `spaces` ascend by id; ids up to `last_id` were given.
/// - `links` has one for each entry and mapping that the entry points into, `link_count` in all.
pub(super) struct AddressSpaces {
    last_id: u32,
    spaces: KVec<AddressSpace>,
    links: RBTree<Link, ()>,
    /// What the quota of entries counts: an entry that spans several mappings counts for each.
    link_count: u32,
    entry_count: u32,
}

impl AddressSpaces {
    pub(super) fn new() -> Self {
        Self {
            last_id: 0,
            spaces: KVec::new(),
            links: RBTree::new(),
            link_count: 0,
            entry_count: 0,
        }
    }

    fn index(&self, id: u32) -> Result<usize> {
        self.spaces
            .binary_search_by_key(&id, |space| space.id)
            .map_err(|_| ENOENT)
    }

    fn get_mut(&mut self, id: u32) -> Result<&mut AddressSpace> {
        let index = self.index(id)?;
        self.spaces.get_mut(index).ok_or(ENOENT)
    }

    /// Forgets the tables for a stage-2 domain that goes.
    pub(super) fn drop_tables(&mut self, stage_2: &Arc<PagingDomain>) {
        for space in &mut self.spaces {
            space.tables.drop_tables(stage_2);
        }
    }
}

impl Ioas {
    /// Address spaces, and entries in all of them.
    pub(crate) fn address_space_counts(&self) -> (u64, u64) {
        (
            self.spaces.spaces.len() as u64,
            u64::from(self.spaces.entry_count),
        )
    }

    /// Makes an address space; gives its id.
    ///
    /// # Errors
    ///
    /// - [`EDQUOT`] if there are too many, here or in all containers.
    /// - [`ENOSPC`] if all 2^32 ids were given.
    pub(crate) fn create_address_space(&mut self) -> Result<u32> {
        let spaces = &mut self.spaces;
        if spaces.spaces.len() >= Limit::AddressSpaces.get() as usize {
            return Err(edquot());
        }
        let id = spaces.last_id.checked_add(1).ok_or(ENOSPC)?;
        let share = self.owner.take(budget::Kind::Domains, 1)?;
        spaces.spaces.push(
            AddressSpace {
                id,
                _share: share,
                tables: Tables::new(),
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        spaces.last_id = id;
        Ok(id)
    }

    /// Takes an address space away that is bound nowhere.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is none.
    pub(crate) fn destroy_address_space(&mut self, id: u32) -> Result {
        self.spaces.index(id)?;
        self.take_entries(id, &IovaRange::ALL);
        let index = self.spaces.index(id)?;
        drop(self.spaces.spaces.remove(index));
        Ok(())
    }

    /// The page table of an address space for a device of the container, to be bound with or
    /// without page requests. Sleeps.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if there is no such address space or device.
    /// - What the IOMMU driver says.
    pub(crate) fn address_space(
        &mut self,
        id: u32,
        device: &Device,
        page_requests: bool,
    ) -> Result<Arc<PagingDomain>> {
        self.prepare_address_space(id)?;
        let stage_2 = self.domain_of(device).ok_or(ENOENT)?;
        let tables = &mut self.spaces.get_mut(id)?.tables;
        if page_requests && tables.table(&stage_2, true).is_none() {
            let domain = PagingDomain::separate_with_page_requests(device)?;
            tables.add_table(stage_2.clone(), true, domain)?;
        }
        let found = tables.table(&stage_2, page_requests);
        found.cloned().ok_or(ENOENT)
    }

    /// Makes sure that an address space has a table without page requests for each stage-2 domain.
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is no such address space, and what the IOMMU driver says.
    pub(crate) fn prepare_address_space(&mut self, id: u32) -> Result {
        let space = self.spaces.get_mut(id)?;
        for attached in &self.groups {
            if space.tables.table(&attached.domain, false).is_none() {
                let device = attached.devices.first().ok_or(ENODEV)?;
                let domain = PagingDomain::separate(device)?;
                space
                    .tables
                    .add_table(attached.domain.clone(), false, domain)?;
            }
        }
        Ok(())
    }

    /// Adds an entry to an address space that is prepared. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of an entry of `VFIO_IOASID_AS_MAP`.
    pub(crate) fn map_entry(&mut self, id: u32, entry: &AsEntry) -> Result {
        let space = self.spaces.get_mut(id)?;
        if !self.windows.contains(&entry.range) || !space.tables.can_translate(&entry.range) {
            return Err(EINVAL);
        }
        if ranges::first_in(space.tables.entries(), &entry.range).is_some() {
            return Err(EEXIST);
        }
        let mut parts = Few::new();
        let mut links = Few::new();
        let mut next = Some(entry.memory);
        while let Some(rest) = next {
            let mapping = ranges::at(&self.mappings, rest.start()).ok_or(EFAULT)?;
            let allowed = mapping.access();
            if (entry.access.read && !allowed.read) || (entry.access.write && !allowed.write) {
                return Err(EPERM);
            }
            let part = rest.intersection(mapping.range()).ok_or(EFAULT)?;
            parts.push(mapping.part(&part).ok_or(EFAULT)?, GFP_KERNEL_ACCOUNT)?;
            let link = (mapping.range().start(), id, entry.range.start());
            links.push(
                RBTreeNode::new(link, (), GFP_KERNEL_ACCOUNT)?,
                GFP_KERNEL_ACCOUNT,
            )?;
            next = rest.without(&part).1;
        }
        let count = u32::try_from(links.len())?;
        let sum = self.spaces.link_count.checked_add(count).ok_or(edquot())?;
        if sum > Limit::AsEntries.get() {
            return Err(edquot());
        }
        self.spaces.get_mut(id)?.tables.insert(Alias {
            range: entry.range,
            memory: entry.memory,
            access: entry.access,
            parts,
        })?;
        for link in links.into_iter() {
            self.spaces.links.insert(link);
        }
        self.spaces.link_count = sum;
        self.spaces.entry_count += 1;
        Ok(())
    }

    /// Takes the entries out of an address space that lie in `range`; they are in force until
    /// [`Ioas::flush_address_space`].
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if there is no such address space.
    /// - [`EINVAL`] if an entry would be cut in two.
    pub(crate) fn unmap_entries(&mut self, id: u32, range: &IovaRange) -> Result {
        let space = self.spaces.get_mut(id)?;
        if ranges::cuts(space.tables.entries(), range) {
            return Err(EINVAL);
        }
        self.take_entries(id, range);
        Ok(())
    }

    /// Ends a change of an address space.
    pub(crate) fn flush_address_space(&mut self, id: u32) {
        if let Ok(space) = self.spaces.get_mut(id) {
            space.tables.flush();
        }
    }

    fn take_entries(&mut self, id: u32, range: &IovaRange) {
        while let Some(start) = self
            .spaces
            .get_mut(id)
            .ok()
            .and_then(|space| ranges::first_in(space.tables.entries(), range))
            .map(|entry| entry.range().start())
        {
            self.take_entry(id, start, None);
        }
    }

    /// Takes one entry out, and its links. `going` is the first address of a mapping that goes with
    /// it.
    fn take_entry(&mut self, id: u32, iova: u64, going: Option<u64>) {
        let taken = self
            .spaces
            .get_mut(id)
            .ok()
            .and_then(|space| space.tables.take(iova));
        let Some((memory, access)) = taken else {
            return;
        };
        self.spaces.entry_count = self.spaces.entry_count.saturating_sub(1);
        let mut next = Some(memory);
        while let Some(mapping) = next.and_then(|rest| self.first_in(&rest)) {
            let link = (mapping.start(), id, iova);
            if self.spaces.links.remove(&link).is_some() {
                self.spaces.link_count = self.spaces.link_count.saturating_sub(1);
            }
            let part = memory.intersection(&mapping).filter(|_| access.write);
            if let Some(written) = part.filter(|_| going != Some(mapping.start())) {
                self.keep_written(&mapping, &written);
            }
            next = next.and_then(|rest| rest.without(&mapping).1);
        }
    }

    /// Calls `with` on the part of a mapping that each entry points at and lets DMA write.
    pub(super) fn for_each_writable_entry(
        &self,
        mapping: &IovaRange,
        mut with: impl FnMut(&IovaRange) -> Result,
    ) -> Result {
        let links = &self.spaces.links;
        let mut next = Some((mapping.start(), 0, 0));
        while let Some(link) = next.and_then(|from| links.cursor_lower_bound(&from)) {
            let (start, id, iova) = *link.current().0;
            if start != mapping.start() {
                break;
            }
            next = link.peek_next().map(|(link, ())| *link);
            let space = self.spaces.spaces.get(self.spaces.index(id)?);
            let entry = space.and_then(|space| space.tables.entries().get(&iova));
            let written = entry
                .filter(|entry| entry.access.write)
                .and_then(|entry| entry.memory.intersection(mapping));
            if let Some(written) = written {
                with(&written)?;
            }
        }
        Ok(())
    }

    /// Takes out every entry that points into the mapping at `start`, which is about to go.
    pub(super) fn zap(&mut self, start: u64) {
        loop {
            let link = self
                .spaces
                .links
                .cursor_lower_bound(&(start, 0, 0))
                .map(|cursor| *cursor.current().0)
                .filter(|link| link.0 == start);
            let Some((_, id, iova)) = link else {
                break;
            };
            self.take_entry(id, iova, Some(start));
            // Cannot loop: the link is gone even if the entry was not found.
            self.spaces.links.remove(&(start, id, iova));
            let more = self
                .spaces
                .links
                .cursor_lower_bound(&(start, id, 0))
                .is_some_and(|cursor| {
                    cursor.current().0 .0 == start && cursor.current().0 .1 == id
                });
            if !more {
                self.flush_address_space(id);
            }
        }
    }
}
