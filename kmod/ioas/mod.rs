// SPDX-License-Identifier: GPL-2.0
//! The container's address space: guest memory in stage 2, by the rules of type1v2.

pub(crate) mod iova;

use crate::ffi::device::Device;
use crate::ffi::group::Group;
use crate::ffi::limits::Limit;
use crate::ffi::memory::MappedMemory;
use crate::ffi::paging::PagingDomain;
use crate::uapi::{Map, Unmap};
use iova::{IovaRange, Windows};
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::Arc;

/// The stage-2 address space of a container.
///
/// # Invariants
///
/// - `mappings` are disjoint, each under its first address, and lie in `windows`.
/// - `mapped_pages` is their size in pages.
pub(crate) struct Ioas {
    domain: Option<Arc<PagingDomain>>,
    groups: KVec<Group>,
    windows: Windows,
    mappings: RBTree<u64, MappedMemory>,
    count: u32,
    mapped_pages: u64,
}

impl Ioas {
    /// An address space with no group and no mapping.
    pub(crate) fn new() -> Self {
        Self {
            domain: None,
            groups: KVec::new(),
            windows: Windows::all(),
            mappings: RBTree::new(),
            count: 0,
            mapped_pages: 0,
        }
    }

    /// The stage-2 domain, once a group is attached.
    pub(crate) fn domain(&self) -> Option<&Arc<PagingDomain>> {
        self.domain.as_ref()
    }

    /// The addresses that can be mapped.
    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// How many more mappings can be made.
    pub(crate) fn mappings_left(&self) -> u32 {
        Limit::Mappings.get().saturating_sub(self.count)
    }

    /// 4 KiB pages mapped.
    pub(crate) fn mapped_pages(&self) -> u64 {
        self.mapped_pages
    }

    /// Attaches a group whose first device is `device`, with all that is mapped. Sleeps.
    ///
    /// The first group decides the domain: a nest parent where the hardware nests, a plain
    /// one elsewhere. A group that it does not fit is refused.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if a mapping lies where the group has a reserved region, and what the IOMMU
    /// driver says.
    pub(crate) fn attach(&mut self, group: Group, device: &Device) -> Result {
        self.groups.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let domain = match &self.domain {
            Some(domain) => domain.clone(),
            None => {
                let domain = PagingDomain::new(device, true)
                    .or_else(|_| PagingDomain::new(device, false))?;
                Arc::new(domain, GFP_KERNEL_ACCOUNT)?
            }
        };
        let mut windows = self.windows.clone();
        windows.restrict(&domain.aperture().ok_or(EINVAL)?);
        exclude_reserved(&mut windows, group)?;
        let fits = |memory: &MappedMemory| windows.contains(memory.range());
        if !self.mappings.values().all(fits) {
            return Err(EINVAL);
        }
        domain.attach_group(group)?;
        self.windows = windows;
        self.domain = Some(domain);
        self.groups.push(group, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// Detaches a group.
    pub(crate) fn detach(&mut self, group: Group) {
        if !self.groups.contains(&group) {
            return;
        }
        if let Some(domain) = &self.domain {
            domain.detach_group(group);
        }
        self.groups.retain(|&mut other| other != group);
        // What only this group reserved can be mapped again; without memory for the list, the
        // windows stay as they are, which is safe.
        if let Ok(windows) = self.windows_left() {
            self.windows = windows;
        }
    }

    fn windows_left(&self) -> Result<Windows> {
        let mut windows = Windows::all();
        if let Some(domain) = &self.domain {
            windows.restrict(&domain.aperture().ok_or(EINVAL)?);
        }
        for &group in &self.groups {
            exclude_reserved(&mut windows, group)?;
        }
        Ok(windows)
    }

    /// Unmaps everything and forgets the domain; no group is attached any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Pins and maps user memory. Sleeps.
    ///
    /// # Errors
    ///
    /// - [`EEXIST`] if some of the range is mapped.
    /// - [`ENOSPC`] if there are too many mappings.
    /// - [`EINVAL`] if some of the range cannot be mapped.
    /// - [`EOPNOTSUPP`] for a read-only mapping in a nest parent: VT-d refuses it, for stage 1's
    ///   accessed and dirty bits are written through stage 2.
    /// - Those of [`MappedMemory::new`].
    pub(crate) fn map(&mut self, map: &Map) -> Result {
        let domain = self.domain.clone().ok_or(EINVAL)?;
        if self.first_in(&map.range).is_some() {
            return Err(EEXIST);
        }
        if self.mappings_left() == 0 {
            return Err(ENOSPC);
        }
        if !self.windows.contains(&map.range) {
            return Err(EINVAL);
        }
        if domain.is_nest_parent() && !map.access.write {
            return Err(EOPNOTSUPP);
        }
        let pages = pages(&map.range);
        let memory = MappedMemory::new(domain, map.range, map.vaddr, map.access)?;
        let node = RBTreeNode::new(map.range.start(), memory, GFP_KERNEL_ACCOUNT)?;
        self.mappings.insert(node);
        self.count += 1;
        self.mapped_pages += pages;
        Ok(())
    }

    /// Unmaps what lies in a range; gives the number of bytes.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if a mapping would be cut in two.
    pub(crate) fn unmap(&mut self, unmap: &Unmap) -> Result<u64> {
        if !unmap.all {
            let cut = |address| {
                self.at(address)
                    .is_some_and(|mapping| !unmap.range.contains(&mapping))
            };
            if cut(unmap.range.start()) || cut(unmap.range.last()) {
                return Err(EINVAL);
            }
        }
        let mut bytes = 0u64;
        while let Some(start) = self.first_in(&unmap.range).map(|range| range.start()) {
            let Some(memory) = self.mappings.remove(&start) else {
                break;
            };
            bytes = bytes.saturating_add(memory.range().size().unwrap_or(u64::MAX));
            self.count -= 1;
            self.mapped_pages -= pages(memory.range());
        }
        Ok(bytes)
    }

    /// The mapping that holds `address`.
    fn at(&self, address: u64) -> Option<IovaRange> {
        let range = match self.mappings.cursor_lower_bound(&address) {
            Some(here) if *here.current().0 == address => *here.current().1.range(),
            Some(above) => *above.peek_prev()?.1.range(),
            None => *self.mappings.cursor_back()?.current().1.range(),
        };
        range.holds(address).then_some(range)
    }

    /// The lowest mapping that shares an address with `range`.
    fn first_in(&self, range: &IovaRange) -> Option<IovaRange> {
        if let Some(mapping) = self.at(range.start()) {
            return Some(mapping);
        }
        let cursor = self.mappings.cursor_lower_bound(&range.start())?;
        let mapping = *cursor.current().1.range();
        (mapping.start() <= range.last()).then_some(mapping)
    }
}

fn exclude_reserved(windows: &mut Windows, group: Group) -> Result {
    group.for_each_reserved(|start, last| {
        let hole = IovaRange::new(start, last).ok_or(EINVAL)?;
        windows.exclude(&hole).ok_or(ENOSPC)
    })
}

fn pages(range: &IovaRange) -> u64 {
    range.size().unwrap_or(0) >> PAGE_SHIFT
}
