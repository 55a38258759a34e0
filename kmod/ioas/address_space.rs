// SPDX-License-Identifier: GPL-2.0
//! Separate address spaces: page tables of the host's own, whose entries point into memory that
//! stage 2 maps. Nothing is pinned again; what stage 2 unmaps is zapped here first.
//!
//! An address space has a lock of its own around its tables, which is held while they are written
//! and flushed, outside the lock of the [`Ioas`].

use super::{Ioas, MappedAt};
use crate::base::inline_first::InlineFirst;
use crate::base::iova::IovaRange;
use crate::base::range_map;
use crate::budget::{self, Share};
use crate::call::AsEntry;
use crate::ffi::alias::{Alias, Tables};
use crate::ffi::errno::edquot;
use crate::ffi::limits::Limit;
use crate::ffi::lock::{new_lock, Lock};
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;

/// An address space.
#[pin_data]
pub(crate) struct AddressSpace {
    id: u32,
    /// Bindings to it, and BINDs that are under way. Grows with the [`Ioas`] locked.
    bound: Atomic<u32>,
    /// Its page tables, and what is in them.
    #[pin]
    pub(crate) tables: Lock<Tables>,
    /// Its domain id; it counts as one however many IOMMU units there are.
    _share: Share,
}

impl AddressSpace {
    /// Its number in the container.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

/// An address space that a binding uses: it is not destroyed meanwhile.
///
/// # Invariants
///
/// Counted in `bound`.
pub(crate) struct BoundSpace(Arc<AddressSpace>);

impl BoundSpace {
    /// The address space.
    pub(crate) fn space(&self) -> &Arc<AddressSpace> {
        &self.0
    }
}

impl Drop for BoundSpace {
    fn drop(&mut self) {
        self.0.bound.fetch_sub(1u32, Relaxed);
    }
}

/// Says that an entry points into a mapping: start of the mapping, address space, start of the
/// entry.
type Link = (u64, u32, u64);

struct Listed {
    space: Arc<AddressSpace>,
    /// AS_DESTROY is at it: it is nobody's any more.
    dying: bool,
}

/// Where an entry is.
#[derive(Clone, Copy)]
pub(crate) struct EntryPlace {
    /// The number of its address space.
    pub(crate) space: u32,
    /// Its first address there.
    pub(crate) iova: u64,
}

/// What [`AddressSpaces::writable`] found.
pub(crate) struct Writable {
    /// How many parts.
    pub(crate) count: usize,
    /// The last entry looked at; `None` if there are no more.
    pub(crate) last: Option<EntryPlace>,
}

/// The address spaces of a container.
///
/// # Invariants
///
/// - `spaces` ascend by id; ids up to `last_id` were given.
/// - `links` has one for each entry and mapping that the entry points into, `link_count` in all,
///   with what DMA may write of the mapping by it.
pub(crate) struct AddressSpaces {
    last_id: u32,
    spaces: KVec<Listed>,
    links: RBTree<Link, Option<IovaRange>>,
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
            .binary_search_by_key(&id, |listed| listed.space.id)
            .map_err(|_| ENOENT)
    }

    /// The address space of that number.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is none.
    pub(crate) fn get(&self, id: u32) -> Result<Arc<AddressSpace>> {
        let listed = self.spaces.get(self.index(id)?).ok_or(ENOENT)?;
        if listed.dying {
            return Err(ENOENT);
        }
        Ok(listed.space.clone())
    }

    /// The same for a binding.
    pub(crate) fn get_bound(&self, id: u32) -> Result<BoundSpace> {
        let space = self.get(id)?;
        space.bound.fetch_add(1u32, Relaxed);
        // INVARIANT: Counted just now.
        Ok(BoundSpace(space))
    }

    /// The first address space from number `from` on.
    pub(crate) fn next(&self, from: u32) -> Option<Arc<AddressSpace>> {
        let at = self.spaces.partition_point(|listed| listed.space.id < from);
        Some(self.spaces.get(at)?.space.clone())
    }

    /// Begins, or goes on, to destroy an address space.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if there is none.
    /// - [`EBUSY`] if it is bound.
    pub(crate) fn begin_destroy(&mut self, id: u32) -> Result<Arc<AddressSpace>> {
        let index = self.index(id)?;
        let listed = self.spaces.get_mut(index).ok_or(ENOENT)?;
        if listed.space.bound.load(Relaxed) != 0 {
            return Err(EBUSY);
        }
        listed.dying = true;
        Ok(listed.space.clone())
    }

    /// Forgets an address space that has no entries any more.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if another call forgot it first: of two that destroy one, one succeeds.
    pub(crate) fn end_destroy(&mut self, id: u32) -> Result {
        let index = self.index(id)?;
        drop(self.spaces.remove(index).map_err(|_| ENOENT)?);
        Ok(())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.spaces.len() as u64
    }

    /// Entries in all of them.
    pub(crate) fn entry_count(&self) -> u64 {
        u64::from(self.entry_count)
    }

    /// The first entry that points into the mapping at `start`.
    pub(crate) fn pointing_at(&self, start: u64) -> Option<EntryPlace> {
        let cursor = self.links.cursor_lower_bound(&(start, 0, 0))?;
        let (mapping, space, iova) = *cursor.current().0;
        (mapping == start).then_some(EntryPlace { space, iova })
    }

    /// The same in one address space.
    pub(crate) fn pointing_from(&self, id: u32, start: u64) -> Option<u64> {
        let cursor = self.links.cursor_lower_bound(&(start, id, 0))?;
        let (mapping, space, iova) = *cursor.current().0;
        (mapping == start && space == id).then_some(iova)
    }

    /// Whether no entry points anywhere.
    pub(crate) fn are_without_entries(&self) -> bool {
        self.link_count == 0
    }

    /// Even one that is being destroyed.
    pub(crate) fn find(&self, id: u32) -> Option<Arc<AddressSpace>> {
        let listed = self.spaces.get(self.index(id).ok()?)?;
        Some(listed.space.clone())
    }

    /// Fills `ranges` with the parts of the mapping at `start` that entries let DMA write, from the
    /// entry behind `after` on.
    pub(crate) fn writable(
        &mut self,
        start: u64,
        after: Option<EntryPlace>,
        ranges: &mut [IovaRange],
    ) -> Writable {
        let from = match after {
            None => Some((start, 0, 0)),
            Some(EntryPlace { space, iova }) => {
                iova.checked_add(1).map(|iova| (start, space, iova))
            }
        };
        let mut cursor = from.and_then(|from| self.links.cursor_lower_bound_mut(&from));
        let mut count = 0;
        let mut last = None;
        while let Some(here) = cursor {
            let (&(mapping, space, iova), written) = here.current();
            if mapping != start {
                break;
            }
            if let Some(written) = written {
                let Some(place) = ranges.get_mut(count) else {
                    return Writable { count, last };
                };
                *place = *written;
                count += 1;
            }
            last = Some(EntryPlace { space, iova });
            cursor = here.move_next();
        }
        Writable { count, last: None }
    }
}

impl Ioas {
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
        let share = self.owner.take(budget::Resource::Domains, 1)?;
        let space = Arc::pin_init(
            pin_init!(AddressSpace {
                id,
                bound: Atomic::new(0),
                tables <- new_lock!(Tables::new(), "AddressSpace::tables"),
                _share: share,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        spaces.spaces.push(
            Listed {
                space,
                dying: false,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        spaces.last_id = id;
        Ok(id)
    }

    /// Looks up what an entry of address space `id` points at, and links it there: from now on
    /// UNMAP_DMA waits for the entry's table. The caller holds that, and has found the range free.
    ///
    /// # Errors
    ///
    /// Those of an entry of `VFIO_IOASID_AS_MAP`; nothing is linked then.
    pub(crate) fn point(&mut self, id: u32, entry: &AsEntry) -> Result<Alias> {
        // One that is being destroyed gets no link any more: whoever destroys it has looked.
        self.spaces.get(id)?;
        if !self.windows.contains(&entry.range) {
            return Err(EINVAL);
        }
        let mut parts = InlineFirst::new();
        let mut links = InlineFirst::new();
        let mut next = Some(entry.memory);
        while let Some(rest) = next {
            let MappedAt {
                range,
                access: allowed,
                memory,
            } = self.mapped_at(rest.start()).ok_or(EFAULT)?;
            if (entry.access.read && !allowed.read) || (entry.access.write && !allowed.write) {
                return Err(EPERM);
            }
            let part = rest.intersection(range).ok_or(EFAULT)?;
            let link = (range.start(), id, entry.range.start());
            let written = entry.access.write.then_some(part);
            parts.push(memory.part(&part).ok_or(EFAULT)?, GFP_KERNEL_ACCOUNT)?;
            links.push(
                RBTreeNode::new(link, written, GFP_KERNEL_ACCOUNT)?,
                GFP_KERNEL_ACCOUNT,
            )?;
            next = rest.without(&part).above;
        }
        let count = u32::try_from(links.len())?;
        let sum = self.spaces.link_count.checked_add(count).ok_or(edquot())?;
        if sum > Limit::AsEntries.get() {
            return Err(edquot());
        }
        for link in links.into_iter() {
            self.spaces.links.insert(link);
        }
        self.spaces.link_count = sum;
        self.spaces.entry_count += 1;
        Ok(Alias {
            range: entry.range,
            memory: entry.memory,
            access: entry.access,
            parts,
        })
    }

    /// Forgets that an entry of address space `id` points at `memory`. `going` is the first address of a mapping that goes with it.
    pub(crate) fn unpoint(&mut self, id: u32, iova: u64, memory: &IovaRange, going: Option<u64>) {
        self.spaces.entry_count = self.spaces.entry_count.saturating_sub(1);
        let mut next = Some(*memory);
        while let Some(rest) = next {
            let Some(mapping) = self.mapping_in(&rest).map(|mapping| mapping.range) else {
                break;
            };
            if let Some(written) = self.unlink((mapping.start(), id, iova)) {
                if going != Some(mapping.start()) {
                    self.keep_written(&mapping, &written);
                }
            }
            next = rest.without(&mapping).above;
        }
    }

    /// Takes a link out; gives what DMA may have written by it.
    fn unlink(&mut self, link: Link) -> Option<IovaRange> {
        let written = self.spaces.links.remove(&link)?;
        self.spaces.link_count = self.spaces.link_count.saturating_sub(1);
        written
    }

    /// Takes a link out that belongs to no entry: cannot be, and must not end in a loop.
    pub(crate) fn unlink_lost(&mut self, start: u64, id: u32, iova: u64) {
        self.unlink((start, id, iova));
    }

    /// Whether an entry of a table lies where nothing can be mapped.
    pub(crate) fn has_entry_outside(&self, tables: &Tables) -> bool {
        self.windows
            .gaps()
            .any(|gap| range_map::first_in(tables.entries(), &gap).is_some())
    }
}
