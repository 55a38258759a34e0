// SPDX-License-Identifier: GPL-2.0
//! Page tables of address spaces: their entries point at memory that stage 2 has pinned.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::device::{Device, VtdRegisters};
use super::memory::PinnedPart;
use super::paging::{Access, PagingDomain};
use super::work::Work;
use crate::base::inline_first::InlineFirst;
use crate::base::iova::IovaRange;
use crate::base::range_map::Ranged;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::Arc;

/// An entry: a range of an address space, and what it points at.
pub(crate) struct Alias {
    /// Addresses in the address space.
    pub(crate) range: IovaRange,
    /// The memory's addresses in stage 2, as many.
    pub(crate) memory: IovaRange,
    /// What DMA may do.
    pub(crate) access: Access,
    /// The memory, part by part, as long as `range` together.
    pub(crate) parts: InlineFirst<PinnedPart>,
}

impl Ranged for Alias {
    fn range(&self) -> &IovaRange {
        &self.range
    }
}

impl Alias {
    /// Maps it into a table, all or nothing.
    fn map_into(&self, domain: &PagingDomain, work: &mut Work) -> Result {
        let start = self.range.start();
        let mut before = 0;
        for part in self.parts.iter() {
            for run in part.runs() {
                let done = before + run.offset;
                let mapped = work.step().and_then(|()| {
                    // SAFETY: The part keeps the memory pinned, and by the invariant of `Tables`
                    // it is kept until the range is unmapped, or the domain retired.
                    unsafe { domain.map(start + done, run.phys, run.size, self.access) }
                });
                if let Err(error) = mapped {
                    if let Some(mapped) = IovaRange::sized(start, done) {
                        domain.unmap_ranges(&[mapped]);
                    }
                    return Err(error);
                }
            }
            before += part.size();
        }
        Ok(())
    }
}

/// The page table of an address space for the devices of one stage-2 domain whose units can do the
/// same: where it is bound with a fault queue, or where without. Units that can do different things
/// may share a stage-2 domain, but the driver may refuse for one a table that was made for another.
struct Table {
    stage_2: Arc<PagingDomain>,
    unit: Option<VtdRegisters>,
    page_requests: bool,
    domain: Arc<PagingDomain>,
}

/// The page tables of an address space, and their entries.
///
/// # Invariants
///
/// What is mapped in a table's domain, until that is retired, is in `entries` or in `leaving`, whose
/// ranges are those of `leaving_ranges`.
pub(crate) struct Tables {
    tables: KVec<Table>,
    entries: RBTree<u64, Alias>,
    leaving: KVVec<Alias>,
    leaving_ranges: KVVec<IovaRange>,
}

impl Tables {
    /// No tables and no entries.
    pub(crate) fn new() -> Self {
        Self {
            tables: KVec::new(),
            entries: RBTree::new(),
            leaving: KVVec::new(),
            leaving_ranges: KVVec::new(),
        }
    }

    /// The entries, each under its first address.
    pub(crate) fn entries(&self) -> &RBTree<u64, Alias> {
        &self.entries
    }

    /// Whether every table can translate all of `range`.
    pub(crate) fn can_translate(&self, range: &IovaRange) -> bool {
        self.tables.iter().all(|table| {
            let aperture = table.domain.aperture();
            aperture.is_some_and(|aperture| aperture.contains(range))
        })
    }

    /// The table for a device on a stage-2 domain, with or without page requests.
    pub(crate) fn table(
        &self,
        stage_2: &Arc<PagingDomain>,
        device: &Device,
        page_requests: bool,
    ) -> Option<&Arc<PagingDomain>> {
        let unit = device.vtd_registers();
        self.tables
            .iter()
            .filter(|table| table.page_requests == page_requests && table.unit == unit)
            .find(|table| Arc::ptr_eq(&table.stage_2, stage_2))
            .map(|table| &table.domain)
    }

    /// Adds the table for `device`, which gets all entries. Sleeps.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says, [`EINTR`] if a fatal signal came; the table is dropped then.
    pub(crate) fn add_table(
        &mut self,
        stage_2: Arc<PagingDomain>,
        device: &Device,
        page_requests: bool,
        domain: PagingDomain,
        work: &mut Work,
    ) -> Result {
        self.tables.reserve(1, GFP_KERNEL_ACCOUNT)?;
        for alias in self.entries.values() {
            // On failure the domain, which nobody uses, goes with what is in it.
            work.step()
                .and_then(|()| alias.map_into(&domain, work))
                .inspect_err(|_| {
                    domain.retire();
                })?;
        }
        let table = Table {
            stage_2,
            unit: device.vtd_registers(),
            page_requests,
            domain: Arc::new(domain, GFP_KERNEL_ACCOUNT)?,
        };
        // INVARIANT: The entries are mapped. There is room.
        self.tables.push_within_capacity(table).map_err(|_| ENOMEM)
    }

    /// Drops the tables of stage-2 domains that are retired, but for one that is in use.
    pub(crate) fn drop_retired(&mut self) {
        // INVARIANT: What goes is retired.
        self.tables
            .retain(|table| !(table.stage_2.is_retired() && table.domain.retire()));
    }

    /// Drops all tables that are not in use, with what is in them: when the address space goes, it
    /// is bound nowhere.
    pub(crate) fn drop_unused(&mut self) {
        // INVARIANT: What goes is retired.
        self.tables.retain(|table| !table.domain.retire());
    }

    /// Maps an entry into every table, all or nothing. Its range must be free. Sleeps.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says; [`EINTR`] if a fatal signal came.
    pub(crate) fn insert(&mut self, alias: Alias, work: &mut Work) -> Result {
        self.flush();
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        for (index, table) in self.tables.iter().enumerate() {
            if let Err(error) = alias.map_into(&table.domain, work) {
                for table in self.tables.iter().take(index) {
                    table.domain.unmap_ranges(&[alias.range]);
                }
                return Err(error);
            }
        }
        self.entries
            .insert(node.into_node(alias.range.start(), alias));
        Ok(())
    }

    /// Takes out the entry that starts at `iova`; gives its memory's addresses in stage 2. It is in
    /// force until [`Tables::flush`].
    pub(crate) fn take(&mut self, iova: u64) -> Option<IovaRange> {
        let room = self.leaving.reserve(1, GFP_KERNEL_ACCOUNT).is_ok()
            && self.leaving_ranges.reserve(1, GFP_KERNEL_ACCOUNT).is_ok();
        let alias = self.entries.remove(&iova)?;
        let gone = alias.memory;
        if room {
            let range = alias.range;
            // Cannot fail: there is room for both.
            let _ = self.leaving_ranges.push_within_capacity(range);
            let _ = self.leaving.push_within_capacity(alias);
        } else {
            // No memory to collect flushes in: flush this one by itself.
            for table in &self.tables {
                table.domain.unmap_ranges(&[alias.range]);
            }
        }
        Some(gone)
    }

    /// Unmaps what was taken out, with one flush for each table.
    pub(crate) fn flush(&mut self) {
        if self.leaving_ranges.is_empty() {
            return;
        }
        for table in &self.tables {
            table.domain.unmap_ranges(&self.leaving_ranges);
        }
        self.leaving_ranges = KVVec::new();
        self.leaving = KVVec::new();
    }
}
