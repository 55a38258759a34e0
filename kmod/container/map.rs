// SPDX-License-Identifier: GPL-2.0
//! MAP_DMA and UNMAP_DMA.

use super::Container;
use crate::base::inline_first::InlineFirst;
use crate::base::iova::IovaRange;
use crate::budget::Work;
use crate::call::{Map, Unmap};
use crate::ffi::memory::MappedMemory;
use crate::ioas::dirty_log::Report;
use crate::ioas::{Claim, Publish, Rules, Ticket};
use kernel::prelude::*;
use kernel::rbtree::RBTreeNodeReservation;

/// Mappings that an UNMAP_DMA has claimed.
struct Claimed {
    /// From the first address of the first to the last of the last.
    range: IovaRange,
    /// Room for their memory.
    room: InlineFirst<MappedMemory>,
}

/// Mappings that go with one flush.
const UNMAP_STEP: usize = 64;

impl Container {
    /// Pins user memory and maps it for every device: the range is reserved, the memory pinned and
    /// mapped with no lock held, and published. Sleeps.
    ///
    /// # Errors
    ///
    /// - [`EEXIST`] if some of the range is mapped, or is about to be, or about not to be.
    /// - [`ENOSPC`] if there are too many mappings.
    /// - [`EINVAL`] if some of the range cannot be mapped.
    /// - [`EOPNOTSUPP`] for a read-only mapping in a nest parent: VT-d refuses it, for stage 1's
    ///   accessed and dirty bits are written through stage 2.
    /// - Those of [`MappedMemory::new`].
    pub(super) fn map(&self, map: &Map) -> Result {
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        self.ioas.lock().reserve(map, node)?;
        let work = &mut Work::of_call();
        let payer = self.rules.payer();
        let result = MappedMemory::new(map.range, map.vaddr, map.access, payer, work)
            .and_then(|memory| self.map_into_all(memory, work));
        if result.is_err() {
            self.ioas.lock().remove(map.range.start());
        }
        // Who wants the range, or wants it gone, looks again.
        self.ioas.notify();
        result
    }

    /// Maps memory into every domain, those too that come meanwhile, and publishes it.
    fn map_into_all(&self, mut memory: MappedMemory, work: &mut Work) -> Result {
        loop {
            let published = self.ioas.lock().publish(memory);
            match published {
                Publish::Done => return Ok(()),
                Publish::Released(memory) => {
                    drop(memory);
                    return Err(EINVAL);
                }
                Publish::Missing(same, domain) => {
                    memory = same;
                    memory.map_into(domain, work)?;
                }
            }
        }
    }

    /// Unmaps what lies in a range, and sets the bits of what it unmaps in the bitmap that comes
    /// with the call. Gives the number of bytes. By type1's first rules, nothing goes from a
    /// mapping that begins below the range, and all of one that begins in it. With dirty bits, what
    /// DMA writes while the call runs may be missing in the bitmap. Sleeps.
    ///
    /// What another call is about to map or unmap there is waited for.
    ///
    /// # Errors
    ///
    /// - [`EINVAL`] if a mapping would be cut in two, or for a bitmap where dirty pages are not
    ///   tracked.
    /// - [`EFAULT`] for a bitmap that is not accessible; mappings below stay unmapped.
    /// - [`EINTR`] if a fatal signal came; what is left stays mapped.
    pub(super) fn unmap(&self, unmap: &Unmap) -> Result<u64> {
        let work = &mut Work::of_call();
        let whole = self.rules == Rules::Type1;
        let (ticket, mut report) = {
            let mut ioas = self.ioas.lock();
            let report = match &unmap.bitmap {
                Some(bitmap) => Some(ioas.report(&unmap.range, bitmap, false)?),
                None => None,
            };
            if !whole && !unmap.all && ioas.cuts(&unmap.range) {
                return Err(EINVAL);
            }
            (ioas.ticket(), report)
        };
        let mut bytes = 0u64;
        loop {
            let Some(Claimed { range, room }) = self.claim(ticket, &unmap.range, whole)? else {
                return Ok(bytes);
            };
            let gone = self.unmap_claimed(ticket, &range, room, report.as_mut(), work);
            if gone.is_err() {
                self.ioas.lock().unclaim(ticket, &range);
            }
            self.ioas.notify();
            bytes = bytes.saturating_add(gone?);
            if unmap.range.last() == range.last() {
                return Ok(bytes);
            }
            work.look()?;
        }
    }

    /// Claims the next mappings of an UNMAP_DMA, with room for their memory: many, or one at a time
    /// where there is no memory for that, for a teardown fails for no want of it. `None` if there
    /// are no more. Waits for what comes or goes.
    fn claim(&self, ticket: Ticket, range: &IovaRange, whole: bool) -> Result<Option<Claimed>> {
        let mut most = UNMAP_STEP;
        loop {
            let (claimed, count) = {
                let mut ioas = self.ioas.lock();
                loop {
                    match ioas.claim(ticket, range, whole, most) {
                        Claim::Busy => ioas.wait()?,
                        Claim::Nothing => return Ok(None),
                        Claim::Claimed { range, count } => break (range, count),
                    }
                }
            };
            match InlineFirst::with_capacity(count, GFP_KERNEL_ACCOUNT) {
                Ok(room) => {
                    return Ok(Some(Claimed {
                        range: claimed,
                        room,
                    }))
                }
                Err(_) => {
                    most = 1;
                    self.ioas.lock().unclaim(ticket, &claimed);
                    self.ioas.notify();
                }
            }
        }
    }

    /// Unmaps the mappings that were claimed in `range`; `batch` has room for all. Gives their
    /// bytes. On failure they stay mapped.
    fn unmap_claimed(
        &self,
        ticket: Ticket,
        range: &IovaRange,
        mut batch: InlineFirst<MappedMemory>,
        report: Option<&mut Report>,
        work: &mut Work,
    ) -> Result<u64> {
        if let Some(report) = report {
            self.report_range(report, range, work)?;
        }
        self.zap_claimed(ticket, range, work)?;
        let bytes = {
            let mut ioas = self.ioas.lock();
            loop {
                // A device that comes is about to get them, or their dirty pages are read.
                match ioas.take(ticket, range, &mut batch) {
                    Some(bytes) => break bytes,
                    None => ioas.wait()?,
                }
            }
        };
        // From here on there is no way back.
        MappedMemory::unmap_all(batch, work);
        self.ioas.lock().remove_claimed(ticket, range);
        Ok(bytes)
    }

    /// Takes every entry of address spaces out that points into mappings that were claimed.
    fn zap_claimed(&self, ticket: Ticket, range: &IovaRange, work: &mut Work) -> Result {
        let mut from = range.start();
        loop {
            let mapping = {
                let mut ioas = self.ioas.lock();
                if ioas.spaces.are_without_entries() {
                    return Ok(());
                }
                ioas.next_claimed(ticket, range, from)
            };
            let Some(mapping) = mapping else {
                return Ok(());
            };
            self.zap(mapping.start(), work)?;
            from = match mapping.last().checked_add(1) {
                Some(from) => from,
                None => return Ok(()),
            };
        }
    }
}
