// SPDX-License-Identifier: GPL-2.0
//! Dirty pages: those that the IOMMU says DMA wrote, where it does for every device. Elsewhere by
//! the rules of type1: each page that is mapped counts as dirty, each time that it is asked for.
//!
//! Tables of address spaces have no dirty bits: each page that an entry lets DMA write counts as
//! dirty, and once more when the entry has gone.

use super::{Ioas, Rules};
use crate::base::iova::IovaRange;
use crate::base::range_map::Ranged;
use crate::budget::Work;
use crate::call::bitmap::{Bitmap, MAX_PAGES};
use crate::ffi::abi;
use crate::ffi::dirty_bits::{self, DirtyBitmap};
use crate::ffi::paging::PagingDomain;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::Arc;

/// What knows the dirty pages.
pub(crate) enum Tracking {
    /// Nobody asked for them.
    Off,
    /// Every mapped page is dirty, each time.
    EveryPage,
    /// The dirty bits of all domains, and what entries of address spaces let DMA write that have
    /// gone since: a bitmap for each mapping, under its first address.
    DirtyBits(RBTree<u64, KVVec<u64>>),
}

/// Where the dirty pages of a range go.
pub(crate) struct Report {
    range: IovaRange,
    bitmap: Bitmap,
    /// There with [`Tracking::DirtyBits`].
    bits: Option<DirtyBitmap>,
    /// What is reported is clean afterwards.
    pub(crate) clear: bool,
}

impl Report {
    /// Whether the IOMMU's dirty bits are wanted.
    pub(crate) fn wants_bits(&self) -> bool {
        self.bits.is_some()
    }

    /// Reports a mapping, which is held, from the dirty bits of `domains`; without bits, all of it.
    /// Copies to the user, with no lock held.
    pub(crate) fn mapping(
        &mut self,
        mapping: &IovaRange,
        domains: &[Arc<PagingDomain>],
        work: &mut Work,
    ) -> Result {
        let BitRun { first, count } = self.bits_of(mapping)?;
        let Some(bits) = &mut self.bits else {
            return self.bitmap.overwrite(first, count, true, work);
        };
        self.bitmap.overwrite(first, count, false, work)?;
        if !self.bitmap.can_pin(first, count)? {
            return Err(EFAULT);
        }
        domains.iter().try_for_each(|domain| {
            work.look()?;
            domain.read_dirty(bits, mapping, self.clear)
        })
    }

    /// Adds `written`, which lies in a mapping.
    pub(crate) fn written(&self, written: &IovaRange, work: &mut Work) -> Result {
        let BitRun { first, count } = self.bits_of(written)?;
        self.bitmap.set(first, count, work)
    }

    /// Adds the bits of a bitmap of a mapping.
    pub(crate) fn words(&self, mapping: &IovaRange, words: &[u64], work: &mut Work) -> Result {
        let BitRun { first, .. } = self.bits_of(mapping)?;
        for_each_run(words, |from, count| {
            self.bitmap.set(first + from, count, work)
        })
    }

    /// The bits of a part of the range.
    fn bits_of(&self, part: &IovaRange) -> Result<BitRun> {
        let offset = part.start().checked_sub(self.range.start());
        Ok(BitRun {
            first: offset.ok_or(EINVAL)? >> PAGE_SHIFT,
            count: pages(part)?,
        })
    }
}

impl Ioas {
    /// Whether DIRTY_PAGES is offered at all.
    ///
    /// # Errors
    ///
    /// [`EACCES`] by type1's first rules.
    pub(crate) fn check_dirty_pages(&self) -> Result {
        match self.rules {
            Rules::Type1 => Err(EACCES),
            Rules::Type1v2 | Rules::Ioasid => Ok(()),
        }
    }

    /// Whether DIRTY_PAGES reports what DMA wrote: otherwise a `VFIO_IOASID_REASON_*`.
    pub(crate) fn dirty_support(&self) -> Result<(), u32> {
        if !dirty_bits::is_offered() {
            Err(abi::VFIO_IOASID_REASON_KERNEL)
        } else if self.domains.is_empty() {
            Err(abi::VFIO_IOASID_REASON_NO_DEVICE)
        } else if !self.domains.iter().all(|domain| domain.has_dirty_bits()) {
            Err(abi::VFIO_IOASID_REASON_HARDWARE)
        } else {
            Ok(())
        }
    }

    /// Checks that dirty pages can be tracked: `false` if they are already.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if a mapping is too large for a bitmap.
    pub(crate) fn can_start_dirty(&self) -> Result<bool> {
        let fits = |range: &IovaRange| {
            range
                .size()
                .is_some_and(|size| size >> PAGE_SHIFT <= MAX_PAGES)
        };
        if !self.mappings.values().all(|mapping| fits(mapping.range())) {
            return Err(EINVAL);
        }
        Ok(matches!(self.tracking, Tracking::Off))
    }

    /// What DMA writes is not wholly known any more: every page is dirty from now on. Bits that go
    /// on being set do no harm: the next start clears them.
    pub(crate) fn lose_dirty_bits(&mut self) {
        if matches!(self.tracking, Tracking::DirtyBits(_)) {
            self.tracking = Tracking::EveryPage;
        }
    }

    /// Whether a domain that joins is to set dirty bits.
    pub(crate) fn uses_dirty_bits(&self) -> bool {
        matches!(self.tracking, Tracking::DirtyBits(_))
    }

    /// Whether a range can be mapped as far as dirty tracking goes.
    pub(super) fn can_track(&self, range: &IovaRange) -> bool {
        matches!(self.tracking, Tracking::Off)
            || range
                .size()
                .is_some_and(|size| size >> PAGE_SHIFT <= MAX_PAGES)
    }

    /// A report of `range` into a bitmap that starts with it.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if dirty tracking is off, or the bitmap has not the smallest page size.
    pub(crate) fn report(&self, range: &IovaRange, bitmap: &Bitmap, clear: bool) -> Result<Report> {
        let bits = match self.tracking {
            _ if bitmap.page_size() != PAGE_SIZE as u64 => return Err(EINVAL),
            Tracking::Off => return Err(EINVAL),
            Tracking::EveryPage => None,
            Tracking::DirtyBits(_) => {
                Some(DirtyBitmap::new(range, bitmap.page_size(), bitmap.data())?)
            }
        };
        Ok(Report {
            range: *range,
            bitmap: *bitmap,
            bits,
            clear,
        })
    }

    /// Checks the range of `VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if tracking is off, the page size is not the smallest, the range is not of pages
    /// or cuts a mapping in two.
    pub(crate) fn dirty_report(&self, range: &IovaRange, bitmap: &Bitmap) -> Result<Report> {
        let unaligned = |address: u64| address & (PAGE_SIZE as u64 - 1) != 0;
        if unaligned(range.start()) || unaligned(range.last().wrapping_add(1)) {
            return Err(EINVAL);
        }
        let report = self.report(range, bitmap, true)?;
        if self.cuts(range) {
            return Err(EINVAL);
        }
        Ok(report)
    }

    /// An entry of an address space that let DMA write to `written` of a mapping goes.
    pub(super) fn keep_written(&mut self, mapping: &IovaRange, written: &IovaRange) {
        let Tracking::DirtyBits(gone) = &mut self.tracking else {
            return;
        };
        if add_written(gone, mapping, written).is_err() {
            self.lose_dirty_bits();
        }
    }

    /// A mapping goes, and what was written to it.
    pub(super) fn forget_written(&mut self, mapping: u64) {
        if let Tracking::DirtyBits(gone) = &mut self.tracking {
            gone.remove(&mapping);
        }
    }

    /// Takes out what was written to a mapping by entries that have gone.
    pub(crate) fn take_written(&mut self, mapping: u64) -> Option<KVVec<u64>> {
        match &mut self.tracking {
            Tracking::DirtyBits(gone) => gone.remove(&mapping),
            _ => None,
        }
    }

    /// Puts it back, to what has come meanwhile.
    pub(crate) fn put_written(&mut self, mapping: u64, words: KVVec<u64>) {
        let Tracking::DirtyBits(gone) = &mut self.tracking else {
            return;
        };
        if let Some(now) = gone.get_mut(&mapping) {
            for (now, word) in now.iter_mut().zip(words.iter()) {
                *now |= word;
            }
        } else if gone
            .try_create_and_insert(mapping, words, GFP_KERNEL_ACCOUNT)
            .is_err()
        {
            self.lose_dirty_bits();
        }
    }
}

/// Sets the bits of `written` in the bitmap of a mapping.
fn add_written(
    gone: &mut RBTree<u64, KVVec<u64>>,
    mapping: &IovaRange,
    written: &IovaRange,
) -> Result {
    if gone.get(&mapping.start()).is_none() {
        let words = usize::try_from(pages(mapping)?.div_ceil(64))?;
        let words = KVVec::from_elem(0, words, GFP_KERNEL_ACCOUNT)?;
        gone.try_create_and_insert(mapping.start(), words, GFP_KERNEL_ACCOUNT)?;
    }
    let words = gone.get_mut(&mapping.start()).ok_or(EINVAL)?;
    let offset = written.start().checked_sub(mapping.start());
    let first = offset.ok_or(EINVAL)? >> PAGE_SHIFT;
    let end = first + pages(written)?;
    let mut at = first;
    while at < end {
        let bits = (64 - at % 64).min(end - at);
        let word = words.get_mut(usize::try_from(at / 64)?).ok_or(EINVAL)?;
        *word |= (u64::MAX >> (64 - bits)) << (at % 64);
        at += bits;
    }
    Ok(())
}

/// Bits that follow each other.
#[derive(Clone, Copy)]
struct BitRun {
    first: u64,
    count: u64,
}

/// Calls `with` on the first bit and the number of each run of bits that are set.
fn for_each_run(words: &[u64], mut with: impl FnMut(u64, u64) -> Result) -> Result {
    let mut run: Option<BitRun> = None;
    let bits = |(index, &word): (usize, &u64)| {
        let base = index as u64 * 64;
        (0..64u64)
            .filter(move |bit| word >> bit & 1 != 0)
            .map(move |bit| base + bit)
    };
    for bit in words
        .iter()
        .enumerate()
        .filter(|(_, &word)| word != 0)
        .flat_map(bits)
    {
        run = match run {
            Some(BitRun { first, count }) if first + count == bit => Some(BitRun {
                first,
                count: count + 1,
            }),
            before => {
                if let Some(BitRun { first, count }) = before {
                    with(first, count)?;
                }
                Some(BitRun {
                    first: bit,
                    count: 1,
                })
            }
        };
    }
    run.map_or(Ok(()), |run| with(run.first, run.count))
}

fn pages(range: &IovaRange) -> Result<u64> {
    Ok(range.size().ok_or(EINVAL)? >> PAGE_SHIFT)
}
