// SPDX-License-Identifier: GPL-2.0
//! Dirty pages by the rules of type1: the module does not see what DMA writes, so each page that
//! is mapped counts as dirty, each time that it is asked for.

use super::{iova::IovaRange, ranges::Ranged, Ioas, Rules};
use crate::ffi::user::Pointer;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;

/// Most pages of a bitmap: type1's, `INT_MAX`.
const MAX_PAGES: u64 = i32::MAX as u64;

/// Most bytes of a bitmap, whole words.
pub(crate) const MAX_BYTES: u64 = bytes_for(MAX_PAGES);

/// Words written a time.
const STEP: usize = 64;

const fn bytes_for(pages: u64) -> u64 {
    pages.div_ceil(u64::BITS as u64) * 8
}

/// A bitmap of the user's, one bit for each page of a range.
#[derive(Clone, Copy)]
pub(crate) struct Bitmap {
    data: Pointer,
    page_size: u64,
}

impl Bitmap {
    /// A bitmap of `bytes` bytes at `data` for `size` bytes in pages of `page_size`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if it is no user memory, too small for the range or absurdly large.
    pub(crate) fn new(data: u64, bytes: u64, page_size: u64, size: u64) -> Result<Self> {
        let data = Pointer::from_field(data)?;
        if !data.is_users(usize::try_from(bytes)?) {
            return Err(EINVAL);
        }
        let pages = size
            .checked_shr(page_size.trailing_zeros())
            .filter(|&pages| pages != 0 && pages <= MAX_PAGES)
            .ok_or(EINVAL)?;
        if bytes == 0 || bytes > MAX_BYTES || bytes < bytes_for(pages) {
            return Err(EINVAL);
        }
        Ok(Self { data, page_size })
    }

    /// Sets `count` bits from bit `first` on. In the last word, bits above them become zero. A
    /// first word that they do not begin keeps what is set in it, above them too: type1's
    /// `bitmap_or` takes whole words. Copies to the user.
    fn set(&self, first: u64, count: u64) -> Result {
        let word = usize::try_from(first / 64)?;
        let below = (1u64 << (first % 64)) - 1;
        let bits = first % 64 + count;
        let words = usize::try_from(bits.div_ceil(64))?;
        let at = |index: usize| -> Result<Pointer> {
            self.data
                .offset((word + index).checked_mul(8).ok_or(EFAULT)?)
        };
        let mut done = 0;
        while done < words {
            let step = STEP.min(words - done);
            let mut part = [u64::MAX; STEP];
            if done + step == words && bits % 64 != 0 {
                if let Some(last) = part.get_mut(step - 1) {
                    *last &= (1u64 << (bits % 64)) - 1;
                }
            }
            if done == 0 && below != 0 {
                let before: u64 = at(0)?.read()?;
                part[0] = part[0] & !below | before;
            }
            at(done)?.write_prefix(&part, step * 8)?;
            done += step;
        }
        Ok(())
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

    /// `VFIO_IOMMU_DIRTY_PAGES_FLAG_START` and `STOP`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if a mapping is too large for a bitmap.
    pub(crate) fn track_dirty(&mut self, on: bool) -> Result {
        let fits = |size: Option<u64>| size.is_some_and(|size| size >> PAGE_SHIFT <= MAX_PAGES);
        if on
            && !self
                .mappings
                .values()
                .all(|memory| fits(memory.range().size()))
        {
            return Err(EINVAL);
        }
        self.tracks_dirty = on;
        Ok(())
    }

    /// Whether a range can be mapped as far as dirty tracking goes.
    pub(super) fn can_track(&self, range: &IovaRange) -> bool {
        !self.tracks_dirty
            || range
                .size()
                .is_some_and(|size| size >> PAGE_SHIFT <= MAX_PAGES)
    }

    /// Expects dirty tracking to be on, and `bitmap` to have the smallest page size.
    pub(super) fn check_bitmap(&self, bitmap: &Bitmap) -> Result {
        if self.tracks_dirty && bitmap.page_size == PAGE_SIZE as u64 {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// `VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP`. Copies to the user.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if tracking is off, the page size is not the smallest, the range is not of pages
    /// or cuts a mapping in two.
    pub(crate) fn dirty_pages(&self, range: &IovaRange, bitmap: &Bitmap) -> Result {
        let unaligned = |address: u64| address & (PAGE_SIZE as u64 - 1) != 0;
        if unaligned(range.start()) || unaligned(range.last().wrapping_add(1)) {
            return Err(EINVAL);
        }
        self.check_bitmap(bitmap)?;
        if self.cuts(range) {
            return Err(EINVAL);
        }
        let mut next = self.first_in(range);
        while let Some(mapping) = next {
            self.report_dirty(range, &mapping, bitmap)?;
            next = mapping
                .last()
                .checked_add(1)
                .and_then(|start| IovaRange::new(start, range.last()))
                .and_then(|rest| self.first_in(&rest));
        }
        Ok(())
    }

    /// Sets the bits of a mapping in a bitmap that starts with `range`.
    pub(super) fn report_dirty(
        &self,
        range: &IovaRange,
        mapping: &IovaRange,
        bitmap: &Bitmap,
    ) -> Result {
        let first = mapping.start().checked_sub(range.start()).ok_or(EINVAL)?;
        let pages = mapping.size().ok_or(EINVAL)? >> PAGE_SHIFT;
        bitmap.set(first >> PAGE_SHIFT, pages)
    }
}
