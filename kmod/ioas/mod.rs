// SPDX-License-Identifier: GPL-2.0
//! The container's address space: guest memory in stage 2, by the rules of type1v2.

mod address_space;
pub(crate) mod dirty;
pub(crate) mod iova;
pub(crate) mod ranges;

use crate::budget::Owner;
use crate::ffi::device::{Bdf, Device};
use crate::ffi::errno::eopnotsupp;
use crate::ffi::group::Group;
use crate::ffi::limits::Limit;
use crate::ffi::memory::{MappedMemory, Payer};
use crate::ffi::paging::PagingDomain;
use crate::uapi::{Map, Unmap};
use address_space::AddressSpaces;
use dirty::Tracking;
use iova::{IovaRange, LargePages, Windows};
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::Arc;
use ranges::Ranged;

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
    fn payer(self) -> Payer {
        match self {
            Self::Ioasid => Payer::User,
            Self::Type1 | Self::Type1v2 => Payer::Process,
        }
    }
}

/// A group, its devices, and the domain that they are attached to.
struct AttachedGroup {
    group: Group,
    devices: KVec<Device>,
    domain: Arc<PagingDomain>,
}

/// The stage-2 address space of a container.
///
/// # Invariants
///
/// - `mappings` are disjoint, each under its first address, and lie in `windows`; each is in
///   all of `domains`.
/// - Each group's domain is in `domains`; the last one stays until the container goes.
/// - `count`, `mapped_pages` and `large` are the number and the sums of `mappings`.
pub(crate) struct Ioas {
    rules: Rules,
    owner: Owner,
    groups: KVec<AttachedGroup>,
    domains: KVec<Arc<PagingDomain>>,
    windows: Windows,
    spaces: AddressSpaces,
    mappings: RBTree<u64, MappedMemory>,
    count: u32,
    mapped_pages: u64,
    large: LargePages,
    tracking: Tracking,
}

impl Ioas {
    /// An address space of `owner` with no group and no mapping.
    pub(crate) fn new(rules: Rules, owner: Owner) -> Self {
        Self {
            rules,
            owner,
            groups: KVec::new(),
            domains: KVec::new(),
            windows: Windows::all(),
            spaces: AddressSpaces::new(),
            mappings: RBTree::new(),
            count: 0,
            mapped_pages: 0,
            large: LargePages::default(),
            tracking: Tracking::Off,
        }
    }

    /// The first stage-2 domain, once a group is attached.
    pub(crate) fn domain(&self) -> Option<&Arc<PagingDomain>> {
        self.domains.first()
    }

    /// The device of that address, if it is attached.
    pub(crate) fn device(&self, bdf: Bdf) -> Option<&Device> {
        self.groups
            .iter()
            .flat_map(|attached| attached.devices.iter())
            .find(|device| device.bdf() == Some(bdf))
    }

    /// The stage-2 domain that a device is attached to.
    pub(crate) fn domain_of(&self, device: &Device) -> Option<Arc<PagingDomain>> {
        self.groups
            .iter()
            .find(|attached| attached.devices.contains(device))
            .map(|attached| attached.domain.clone())
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

    /// Attaches a group, with all that is mapped. Sleeps.
    ///
    /// It joins the first domain that has what a domain of its own would have and that the IOMMU
    /// driver lets it into; otherwise it gets that domain of its own. A domain is a nest parent
    /// where the hardware nests, unless something is mapped read-only, which none can hold.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if a mapping lies where the group has a reserved region, and what the IOMMU
    /// driver says.
    pub(crate) fn attach(&mut self, group: Group, devices: &[Device]) -> Result {
        let first = devices.first().ok_or(ENODEV)?;
        self.groups.reserve(1, GFP_KERNEL_ACCOUNT)?;
        self.domains.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let mut kept = KVec::with_capacity(devices.len(), GFP_KERNEL_ACCOUNT)?;
        kept.extend_from_slice(devices, GFP_KERNEL_ACCOUNT)?;

        let candidate = Arc::new(self.new_domain(first)?, GFP_KERNEL_ACCOUNT)?;
        let mut windows = self.windows.clone();
        exclude_reserved(&mut windows, group)?;
        windows.restrict(&candidate.aperture().ok_or(EINVAL)?);
        let fits = |memory: &MappedMemory| windows.contains(memory.range());
        if !self.mappings.values().all(fits) {
            return Err(EINVAL);
        }

        let joined = self
            .domains
            .iter()
            .find(|domain| domain.is_like(&candidate) && domain.attach_group(group).is_ok())
            .cloned();
        let domain = match joined {
            Some(domain) => domain,
            None => {
                self.join_dirty(&candidate);
                candidate.attach_group(group)?;
                if let Err(error) = self.replay(&candidate) {
                    candidate.detach_group(group);
                    return Err(error);
                }
                self.domains.push(candidate.clone(), GFP_KERNEL_ACCOUNT)?;
                candidate
            }
        };
        self.windows = windows;
        self.groups.push(
            AttachedGroup {
                group,
                devices: kept,
                domain,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(())
    }

    fn new_domain(&self, device: &Device) -> Result<PagingDomain> {
        if self.rules != Rules::Ioasid {
            // What type1 would have: dirty bits would narrow the addresses on VT-d.
            return PagingDomain::new(device, false, false);
        }
        let read_only = |memory: &MappedMemory| !memory.access().write;
        if self.mappings.values().any(read_only) {
            return PagingDomain::new(device, false, true);
        }
        PagingDomain::new(device, true, true).or_else(|_| PagingDomain::new(device, false, true))
    }

    /// Maps all that is mapped into a new domain, or nothing.
    fn replay(&mut self, domain: &Arc<PagingDomain>) -> Result {
        let failed = self
            .mappings
            .values_mut()
            .find_map(|memory| memory.map_into(domain.clone()).err());
        match failed {
            None => Ok(()),
            Some(error) => {
                self.drop_domain(domain);
                Err(error)
            }
        }
    }

    fn drop_domain(&mut self, domain: &Arc<PagingDomain>) {
        // Its dirty bits go with it, if it was there to set any.
        if self.domains.iter().any(|other| Arc::ptr_eq(other, domain)) {
            self.lose_dirty_bits();
        }
        self.mappings
            .values_mut()
            .for_each(|memory| memory.unmap_from(domain));
        self.spaces.drop_tables(domain);
        self.domains.retain(|other| !Arc::ptr_eq(other, domain));
    }

    /// Detaches a group, and forgets its domain if that was the last and others are left.
    pub(crate) fn detach(&mut self, group: Group) {
        let Some(gone) = self
            .groups
            .iter()
            .position(|attached| attached.group == group)
            .and_then(|at| self.groups.remove(at).ok())
        else {
            return;
        };
        gone.domain.detach_group(group);
        let used = self
            .groups
            .iter()
            .any(|attached| Arc::ptr_eq(&attached.domain, &gone.domain));
        if !used && self.domains.len() > 1 {
            self.drop_domain(&gone.domain);
        }
        // What only this group reserved can be mapped again; without memory for the list, the
        // windows stay as they are, which is safe.
        if let Ok(windows) = self.windows_left() {
            self.windows = windows;
        }
    }

    fn windows_left(&self) -> Result<Windows> {
        let mut windows = Windows::all();
        for domain in &self.domains {
            windows.restrict(&domain.aperture().ok_or(EINVAL)?);
        }
        for attached in &self.groups {
            exclude_reserved(&mut windows, attached.group)?;
        }
        Ok(windows)
    }

    /// Unmaps everything and forgets the domains; no group is attached any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.rules, self.owner.clone());
    }

    /// Pins user memory and maps it for every device. Sleeps.
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
        if self.domains.is_empty() {
            return Err(EINVAL);
        }
        if self.first_in(&map.range).is_some() {
            return Err(EEXIST);
        }
        if self.mappings_left() == 0 {
            return Err(ENOSPC);
        }
        if !self.windows.contains(&map.range) {
            return Err(EINVAL);
        }
        if !map.access.write && self.domains.iter().any(|domain| domain.is_nest_parent()) {
            return Err(eopnotsupp());
        }
        if !self.can_track(&map.range) {
            return Err(EINVAL);
        }
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let payer = self.rules.payer();
        let memory = MappedMemory::new(&self.domains, map.range, map.vaddr, map.access, payer)?;
        self.count += 1;
        self.mapped_pages += pages(&map.range);
        self.large.add(*memory.large());
        self.mappings
            .insert(node.into_node(map.range.start(), memory));
        Ok(())
    }

    /// Unmaps what lies in a range, and sets the bits of what it unmaps in the bitmap that comes
    /// with the call. Gives the number of bytes. By type1's first rules, nothing goes from a
    /// mapping that begins below the range, and all of one that begins in it. With dirty bits, what
    /// DMA writes while the call runs may be missing in the bitmap.
    ///
    /// # Errors
    ///
    /// - [`EINVAL`] if a mapping would be cut in two, or for a bitmap where dirty pages are not
    ///   tracked.
    /// - [`EFAULT`] for a bitmap that is not accessible; mappings below stay unmapped.
    pub(crate) fn unmap(&mut self, unmap: &Unmap) -> Result<u64> {
        let mut report = match &unmap.bitmap {
            Some(bitmap) => Some(self.report(&unmap.range, bitmap, false)?),
            None => None,
        };
        let whole = self.rules == Rules::Type1;
        if !whole && !unmap.all && self.cuts(&unmap.range) {
            return Err(EINVAL);
        }
        let mut bytes = 0u64;
        while let Some(mapping) = self.first_in(&unmap.range) {
            if whole && mapping.start() < unmap.range.start() {
                break;
            }
            if let Some(report) = &mut report {
                self.report_dirty(report, &mapping)?;
            }
            bytes = bytes.saturating_add(mapping.size().unwrap_or(u64::MAX));
            self.remove(mapping.start());
        }
        Ok(bytes)
    }

    fn remove(&mut self, start: u64) {
        self.zap(start);
        self.forget_written(start);
        if let Some(memory) = self.mappings.remove(&start) {
            self.count -= 1;
            self.mapped_pages -= pages(memory.range());
            self.large.sub(memory.large());
        }
    }

    /// Whether a mapping lies in `range` with a part only.
    fn cuts(&self, range: &IovaRange) -> bool {
        ranges::cuts(&self.mappings, range)
    }

    /// The lowest mapping that shares an address with `range`.
    fn first_in(&self, range: &IovaRange) -> Option<IovaRange> {
        ranges::first_in(&self.mappings, range).map(|memory| *memory.range())
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
