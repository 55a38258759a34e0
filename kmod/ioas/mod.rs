// SPDX-License-Identifier: GPL-2.0
//! The container's address space: guest memory in stage 2, by the rules of type1v2.
//!
//! What is here is done under one lock, shortly: no user memory is read or pinned, no page table
//! is written and no hardware waited for. A mapping that somebody works on without the lock says
//! so in its [`Mapping`]: `crate::container` has the calls, step by step.

pub(crate) mod address_space;
pub(crate) mod dirty_log;

use crate::base::inline_first::InlineFirst;
use crate::base::iova::{IovaRange, LargePages, Windows};
use crate::base::range_map::{self, Ranged};
use crate::budget::{Owner, Work};
use crate::call::Map;
use crate::ffi::errno::eopnotsupp;
use crate::ffi::group::Group;
use crate::ffi::limits::Limit;
use crate::ffi::memory::{MappedMemory, Payer};
use crate::ffi::paging::{Access, PagingDomain};
use address_space::AddressSpaces;
use dirty_log::Tracking;
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::Arc;

/// By whose rules an address space works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// `VFIO_IOASID_IOMMU`: type1v2's, and stage 2 is a nest parent where the hardware nests.
    Ioasid,
    /// `VFIO_TYPE1_IOMMU`: UNMAP_DMA takes what begins in the range, whole, and dirty pages are
    /// not tracked.
    Type1,
    /// `VFIO_TYPE1v2_IOMMU`.
    Type1v2,
}

impl Rules {
    /// Whose locked memory is charged.
    pub(crate) fn payer(self) -> Payer {
        match self {
            Self::Ioasid => Payer::User,
            Self::Type1 | Self::Type1v2 => Payer::Process,
        }
    }
}

/// What stage 2 can do, for every device of the container.
pub(crate) struct Stage2Report {
    /// Nothing can be mapped read-only.
    pub(crate) nests: bool,
    /// DMA is coherent whatever a device asks for.
    pub(crate) coherent: bool,
    /// There are dirty bits; or why not, a `VFIO_IOASID_REASON_*`.
    pub(crate) dirty: Result<(), u32>,
}

/// A group, and the domain that it is attached to.
pub(crate) struct AttachedGroup {
    pub(crate) group: Group,
    pub(crate) domain: Arc<PagingDomain>,
    /// What of the address space is the group's own.
    pub(crate) reserved: KVec<IovaRange>,
}

/// How far a mapping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A MAP_DMA pins and maps it.
    Coming,
    /// It is mapped.
    Mapped,
    /// An UNMAP_DMA unmaps and unpins it.
    Going,
}

/// Names an UNMAP_DMA among those of its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// A range of the address space that is mapped, or about to be, or was.
pub(crate) struct Mapping {
    range: IovaRange,
    access: Access,
    phase: Phase,
    /// The UNMAP_DMA that is at it: no entry of an address space may come to point here.
    claimed: Option<Ticket>,
    /// How many look at it without the lock: it is not unmapped meanwhile.
    holds: u32,
    /// There in [`Phase::Mapped`].
    memory: Option<MappedMemory>,
}

impl Mapping {
    /// Whether somebody has to wait for it who wants it mapped or gone.
    fn is_settled(&self) -> bool {
        self.phase == Phase::Mapped && self.claimed.is_none()
    }
}

impl Ranged for Mapping {
    fn range(&self) -> &IovaRange {
        &self.range
    }
}

/// What is mapped at an address.
pub(crate) struct MappedAt<'a> {
    /// All of the mapping.
    pub(crate) range: &'a IovaRange,
    /// What DMA may do.
    pub(crate) access: Access,
    /// The memory.
    pub(crate) memory: &'a MappedMemory,
}

/// The stage-2 address space of a container.
///
/// # Invariants
///
/// - `mappings` are disjoint, each under its first address, and lie in `windows`; what is
///   [`Phase::Mapped`] is in all of `domains`, but for a domain that is being joined.
/// - Each group's domain is in `domains`; the last one stays until the container goes.
/// - `count` is the number of `mappings`; `mapped_pages` and `large` are the sums of those that have
///   memory.
pub(crate) struct Ioas {
    rules: Rules,
    pub(crate) owner: Owner,
    released: bool,
    last_ticket: u64,
    pub(crate) groups: KVec<AttachedGroup>,
    pub(crate) domains: KVec<Arc<PagingDomain>>,
    windows: KBox<Windows>,
    pub(crate) spaces: AddressSpaces,
    mappings: RBTree<u64, Mapping>,
    count: u32,
    mapped_pages: u64,
    large: LargePages,
    pub(crate) tracking: Tracking,
}

impl Ioas {
    /// An address space of `owner` with no group and no mapping.
    pub(crate) fn new(rules: Rules, owner: Owner) -> Result<Self> {
        Ok(Self {
            rules,
            owner,
            released: false,
            last_ticket: 0,
            groups: KVec::new(),
            domains: KVec::new(),
            windows: KBox::new(Windows::all(), GFP_KERNEL_ACCOUNT)?,
            spaces: AddressSpaces::new(),
            mappings: RBTree::new(),
            count: 0,
            mapped_pages: 0,
            large: LargePages::default(),
            tracking: Tracking::Off,
        })
    }

    /// The addresses that can be mapped.
    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Page sizes in bytes that every domain has, as a bitmap.
    pub(crate) fn page_sizes(&self) -> u64 {
        if self.domains.is_empty() {
            return 0;
        }
        self.domains
            .iter()
            .fold(u64::MAX, |sizes, domain| sizes & domain.page_sizes())
    }

    /// Whether DMA of every device is coherent whatever it asks for.
    pub(crate) fn is_coherent(&self) -> bool {
        !self.domains.is_empty() && self.domains.iter().all(|domain| domain.is_coherent())
    }

    /// Whether one of the domains is a nest parent, which holds nothing that is read-only.
    fn nests(&self) -> bool {
        self.domains.iter().any(|domain| domain.is_nest_parent())
    }

    /// What all the domains together can do.
    pub(crate) fn stage2_report(&self) -> Stage2Report {
        Stage2Report {
            nests: self.nests(),
            coherent: self.is_coherent(),
            dirty: self.dirty_support(),
        }
    }

    /// How many more mappings can be made.
    pub(crate) fn mappings_left(&self) -> u32 {
        Limit::Mappings.get().saturating_sub(self.count)
    }

    /// Mappings.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// 4 KiB pages mapped.
    pub(crate) fn mapped_pages(&self) -> u64 {
        self.mapped_pages
    }

    /// Large entries of the page table of a domain.
    pub(crate) fn large_pages(&self) -> &LargePages {
        &self.large
    }

    /// Whether stage 2 has something that only a domain that is no nest parent can hold.
    pub(crate) fn has_read_only(&self) -> bool {
        self.mappings.values().any(|mapping| !mapping.access.write)
    }

    /// Takes the addresses out that a group reserves, and those that `domain` cannot translate.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if something is mapped there, [`ENOSPC`] if there are too many windows; nothing
    /// is changed then.
    pub(crate) fn narrow(&mut self, reserved: &[IovaRange], domain: &PagingDomain) -> Result {
        let aperture = domain.aperture().ok_or(EINVAL)?;
        self.windows.restrict(&aperture);
        let narrowed = reserved
            .iter()
            .try_for_each(|hole| self.windows.exclude(hole))
            .ok_or(ENOSPC)
            .and_then(|()| {
                let windows = &self.windows;
                let mut ranges = self.mappings.values().map(|mapping| &mapping.range);
                let fits = ranges.all(|range| windows.contains(range));
                fits.then_some(()).ok_or(EINVAL)
            });
        narrowed.inspect_err(|_| self.widen())
    }

    /// What no group reserves any more can be mapped again.
    pub(crate) fn widen(&mut self) {
        *self.windows = Windows::all();
        for domain in &self.domains {
            if let Some(aperture) = domain.aperture() {
                self.windows.restrict(&aperture);
            }
        }
        for hole in self.groups.iter().flat_map(|group| group.reserved.iter()) {
            // It fitted when its group came, with the others that are here.
            let _ = self.windows.exclude(hole);
        }
    }

    /// Whether a domain is the container's.
    pub(crate) fn is_domain(&self, domain: &Arc<PagingDomain>) -> bool {
        self.domains.iter().any(|other| Arc::ptr_eq(other, domain))
    }

    /// Adds a group, and its domain if that is new: what is published from now on is mapped there.
    pub(crate) fn add_group(&mut self, group: AttachedGroup) -> Result {
        self.groups.reserve(1, GFP_KERNEL_ACCOUNT)?;
        if !self.is_domain(&group.domain) {
            self.domains
                .push(group.domain.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        // Cannot fail: there is room.
        self.groups.push_within_capacity(group).map_err(|_| ENOMEM)
    }

    /// Takes a group out, and its domain if that was the last in it and others are left; gives
    /// whether the domain went too: it is to be retired then.
    pub(crate) fn remove_group(&mut self, group: &Group) -> bool {
        let at = self.groups.iter().position(|other| other.group == *group);
        let Some(gone) = at.and_then(|at| self.groups.remove(at).ok()) else {
            return false;
        };
        let used = self
            .groups
            .iter()
            .any(|other| Arc::ptr_eq(&other.domain, &gone.domain));
        let goes = !used && self.domains.len() > 1;
        if goes {
            self.domains
                .retain(|other| !Arc::ptr_eq(other, &gone.domain));
        }
        self.widen();
        goes
    }

    /// Forgets everything, for no group is attached any more; gives what was there, whose domains
    /// are retired. Mappings that somebody works on are forgotten: they are his.
    pub(crate) fn release(&mut self) -> Released {
        self.released = true;
        self.tracking = Tracking::Off;
        self.count = 0;
        self.mapped_pages = 0;
        self.large = LargePages::default();
        for domain in &self.domains {
            domain.retire();
        }
        let released = Released {
            _groups: core::mem::replace(&mut self.groups, KVec::new()),
            _domains: core::mem::replace(&mut self.domains, KVec::new()),
            _spaces: core::mem::replace(&mut self.spaces, AddressSpaces::new()),
            mappings: core::mem::take(&mut self.mappings),
        };
        self.widen();
        released
    }

    /// Reserves the range of a MAP_DMA.
    ///
    /// # Errors
    ///
    /// Those of [`crate::container::Container`]'s MAP_DMA that need no memory.
    pub(crate) fn reserve(
        &mut self,
        map: &Map,
        node: RBTreeNodeReservation<u64, Mapping>,
    ) -> Result {
        if self.domains.is_empty() || self.released {
            return Err(EINVAL);
        }
        if range_map::first_in(&self.mappings, &map.range).is_some() {
            return Err(EEXIST);
        }
        if self.mappings_left() == 0 {
            return Err(ENOSPC);
        }
        if !self.windows.contains(&map.range) {
            return Err(EINVAL);
        }
        if !map.access.write && self.nests() {
            return Err(eopnotsupp());
        }
        if !self.can_track(&map.range) {
            return Err(EINVAL);
        }
        let mapping = Mapping {
            range: map.range,
            access: map.access,
            phase: Phase::Coming,
            claimed: None,
            holds: 0,
            memory: None,
        };
        self.count += 1;
        self.mappings
            .insert(node.into_node(map.range.start(), mapping));
        Ok(())
    }

    /// Publishes what was reserved, pinned and mapped; or gives the memory back with a domain that
    /// it is not mapped into yet.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the container was released meanwhile.
    pub(crate) fn publish(&mut self, mut memory: MappedMemory) -> Publish {
        memory.forget_retired();
        let missing = self.domains.iter().find(|domain| !memory.is_in(domain));
        if let Some(domain) = missing {
            return Publish::Missing(memory, domain.clone());
        }
        let start = memory.range().start();
        let Some(mapping) = self.mappings.get_mut(&start) else {
            return Publish::Released(memory);
        };
        self.mapped_pages += pages(&mapping.range);
        self.large.add(*memory.large());
        mapping.phase = Phase::Mapped;
        mapping.memory = Some(memory);
        Publish::Done
    }

    /// Gives a range back that was reserved, or whose memory is gone.
    pub(crate) fn remove(&mut self, start: u64) {
        if self.mappings.remove(&start).is_some() {
            self.count -= 1;
        }
        self.forget_written(start);
    }

    /// Whether a mapping lies in `range` with a part only.
    pub(crate) fn cuts(&self, range: &IovaRange) -> bool {
        range_map::cuts(&self.mappings, range)
    }

    /// Whether something is mapped, or about to be, where `range` is.
    pub(crate) fn mapping_in(&self, range: &IovaRange) -> Option<&Mapping> {
        range_map::first_in(&self.mappings, range)
    }

    /// What is mapped at `address`, for an entry of an address space to point into.
    pub(crate) fn mapped_at(&self, address: u64) -> Option<MappedAt<'_>> {
        let mapping =
            range_map::at(&self.mappings, address).filter(|mapping| mapping.is_settled())?;
        Some(MappedAt {
            range: &mapping.range,
            access: mapping.access,
            memory: mapping.memory.as_ref()?,
        })
    }

    /// A ticket for an UNMAP_DMA.
    pub(crate) fn ticket(&mut self) -> Ticket {
        // A u64 does not come round.
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// Claims mappings in `range`, from the lowest on, for an UNMAP_DMA: `count` at most. With
    /// `whole`, nothing if a mapping begins below (type1's first rules).
    pub(crate) fn claim(
        &mut self,
        ticket: Ticket,
        range: &IovaRange,
        whole: bool,
        count: usize,
    ) -> Claim {
        let first = range_map::first_in(&self.mappings, range)
            .map(|mapping| mapping.range.start())
            .filter(|&start| !whole || start >= range.start());
        let mut cursor = first.and_then(|first| self.mappings.cursor_lower_bound_mut(&first));
        let mut claimed: Option<IovaRange> = None;
        let mut left = count;
        while let Some(mut here) = cursor {
            let (&start, mapping) = here.current_mut();
            if start > range.last() || left == 0 {
                break;
            }
            if !mapping.is_settled() {
                if claimed.is_none() {
                    return Claim::Busy;
                }
                break;
            }
            mapping.claimed = Some(ticket);
            left -= 1;
            let first = claimed.map_or(start, |claimed| claimed.start());
            claimed = IovaRange::new(first, mapping.range.last());
            cursor = here.move_next();
        }
        match claimed {
            Some(range) => Claim::Claimed {
                range,
                count: count - left,
            },
            None => Claim::Nothing,
        }
    }

    /// Calls `each` with the mappings in `range` that an UNMAP_DMA has claimed, until it says no.
    fn for_each_claimed(
        &mut self,
        ticket: Ticket,
        range: &IovaRange,
        mut each: impl FnMut(&mut Mapping) -> bool,
    ) {
        let mut cursor = self.mappings.cursor_lower_bound_mut(&range.start());
        while let Some(mut here) = cursor {
            let (&start, mapping) = here.current_mut();
            let claimed = mapping.claimed == Some(ticket);
            if start > range.last() || claimed && !each(mapping) {
                break;
            }
            cursor = here.move_next();
        }
    }

    /// The first mapping from `from` on that an UNMAP_DMA has claimed in `range`.
    pub(crate) fn next_claimed(
        &mut self,
        ticket: Ticket,
        range: &IovaRange,
        from: u64,
    ) -> Option<IovaRange> {
        let rest = IovaRange::new(range.start().max(from), range.last())?;
        let mut found = None;
        self.for_each_claimed(ticket, &rest, |mapping| {
            found = Some(mapping.range);
            false
        });
        found
    }

    /// Lets go of the mappings that an UNMAP_DMA has claimed in `range`.
    pub(crate) fn unclaim(&mut self, ticket: Ticket, range: &IovaRange) {
        self.for_each_claimed(ticket, range, |mapping| {
            mapping.claimed = None;
            true
        });
    }

    /// Takes the memory out of the mappings that an UNMAP_DMA has claimed in `range`; `batch` has
    /// room for all. Gives their bytes; `None`, and nothing is changed, if somebody looks at one.
    pub(crate) fn take(
        &mut self,
        ticket: Ticket,
        range: &IovaRange,
        batch: &mut InlineFirst<MappedMemory>,
    ) -> Option<u64> {
        let mut held = false;
        self.for_each_claimed(ticket, range, |mapping| {
            held |= mapping.holds != 0;
            !held
        });
        if held {
            return None;
        }
        let (mut bytes, mut taken, mut large) = (0u64, 0u64, LargePages::default());
        self.for_each_claimed(ticket, range, |mapping| {
            if let Some(mut memory) = mapping.memory.take() {
                mapping.phase = Phase::Going;
                bytes = bytes.saturating_add(mapping.range.size().unwrap_or(u64::MAX));
                taken += pages(&mapping.range);
                large.add(*memory.large());
                memory.forget_retired();
                // Cannot fail: there is room.
                let _ = batch.push_within_capacity(memory);
            }
            true
        });
        self.mapped_pages = self.mapped_pages.saturating_sub(taken);
        self.large.sub(&large);
        Some(bytes)
    }

    /// Removes the mappings that an UNMAP_DMA has claimed in `range`, whose memory is gone.
    pub(crate) fn remove_claimed(&mut self, ticket: Ticket, range: &IovaRange) {
        let mut from = range.start();
        while let Some(mapping) = self.next_claimed(ticket, range, from) {
            self.remove(mapping.start());
            from = mapping.last();
        }
    }

    /// The first mapping that is mapped from `from` on; those that come or go are left out.
    pub(crate) fn next_mapped(&mut self, from: u64) -> Option<IovaRange> {
        let mut cursor = self.mappings.cursor_lower_bound_mut(&from);
        while let Some(here) = cursor {
            let mapping = here.current().1;
            if mapping.memory.is_some() {
                return Some(mapping.range);
            }
            cursor = here.move_next();
        }
        None
    }

    /// The memory of the mapping at `start`, which is held.
    pub(crate) fn held_memory(&mut self, start: u64) -> Option<&mut MappedMemory> {
        self.mappings.get_mut(&start)?.memory.as_mut()
    }

    /// Sees to it that the mapping at `start` is not unmapped until [`Ioas::let_go`].
    pub(crate) fn hold(&mut self, start: u64) {
        if let Some(mapping) = self.mappings.get_mut(&start) {
            mapping.holds += 1;
        }
    }

    /// Ends [`Ioas::hold`].
    pub(crate) fn let_go(&mut self, start: u64) {
        if let Some(mapping) = self.mappings.get_mut(&start) {
            mapping.holds = mapping.holds.saturating_sub(1);
        }
    }

    /// Lets the mappings from `from` on forget the domains that are retired, `count` at most; gives
    /// where to go on.
    pub(crate) fn forget_retired(&mut self, from: u64, count: u32) -> Option<u64> {
        let mut cursor = self.mappings.cursor_lower_bound_mut(&from);
        let mut left = count;
        while let Some(mut here) = cursor {
            let (&start, mapping) = here.current_mut();
            if left == 0 {
                return Some(start);
            }
            left -= 1;
            if let Some(memory) = &mut mapping.memory {
                memory.forget_retired();
            }
            cursor = here.move_next();
        }
        None
    }
}

/// What a container had that is released.
pub(crate) struct Released {
    _groups: KVec<AttachedGroup>,
    _domains: KVec<Arc<PagingDomain>>,
    _spaces: AddressSpaces,
    mappings: RBTree<u64, Mapping>,
}

impl Released {
    /// Unpins everything. Sleeps.
    pub(crate) fn end(mut self, work: &mut Work) {
        while let Some(cursor) = self.mappings.cursor_front_mut() {
            drop(cursor.remove_current());
            let _ = work.step();
        }
    }
}

/// What came of publishing a mapping.
pub(crate) enum Publish {
    /// It is published.
    Done,
    /// The domain came meanwhile: the memory is to be mapped into that too.
    Missing(MappedMemory, Arc<PagingDomain>),
    /// The container was released meanwhile.
    Released(MappedMemory),
}

/// What came of claiming mappings.
pub(crate) enum Claim {
    /// `count` mappings were claimed: all those in `range`.
    Claimed {
        /// From the first address of the first to the last of the last.
        range: IovaRange,
        /// How many.
        count: usize,
    },
    /// The first one comes or goes.
    Busy,
    /// There is none.
    Nothing,
}

fn pages(range: &IovaRange) -> u64 {
    range.size().unwrap_or(0) >> PAGE_SHIFT
}
