// SPDX-License-Identifier: GPL-2.0
//! Bitmaps of the user's, one bit for each page of a range: what DIRTY_PAGES and UNMAP_DMA report
//! into. Nothing here may be called with a lock held.

use crate::ffi::user::Pointer;
use crate::ffi::work::Work;
use kernel::prelude::*;

/// Most pages of a bitmap: type1's, `INT_MAX`.
pub(crate) const MAX_PAGES: u64 = i32::MAX as u64;

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

    /// Bytes that a bit stands for.
    pub(crate) fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Where it is.
    pub(crate) fn data(&self) -> Pointer {
        self.data
    }

    /// Overwrites `count` bits from bit `first` on. In the last word, bits above them become zero.
    /// A first word that they do not begin keeps what is set in it, above them too: type1's
    /// `bitmap_or` takes whole words. Copies to the user.
    pub(crate) fn overwrite(&self, first: u64, count: u64, dirty: bool, work: &mut Work) -> Result {
        let word = usize::try_from(first / 64)?;
        let below = (1u64 << (first % 64)) - 1;
        let bits = first % 64 + count;
        let words = usize::try_from(bits.div_ceil(64))?;
        let mut done = 0;
        while done < words {
            work.step()?;
            let step = STEP.min(words - done);
            let mut part = [if dirty { u64::MAX } else { 0 }; STEP];
            if done + step == words && bits % 64 != 0 {
                if let Some(last) = part.get_mut(step - 1) {
                    *last &= (1u64 << (bits % 64)) - 1;
                }
            }
            if done == 0 && below != 0 {
                let before: u64 = self.word(word)?.read()?;
                part[0] = part[0] & !below | before;
            }
            self.word(word + done)?.write_prefix(&part, step * 8)?;
            done += step;
        }
        Ok(())
    }

    /// Sets `count` bits from bit `first` on and leaves the others. Copies to the user.
    pub(crate) fn set(&self, first: u64, count: u64, work: &mut Work) -> Result {
        let end = first.checked_add(count).ok_or(EINVAL)?;
        let mut at = first;
        while at < end {
            work.step()?;
            let word = self.word(usize::try_from(at / 64)?)?;
            let whole = usize::try_from((end - at) / 64)?.min(STEP);
            if at % 64 == 0 && whole != 0 {
                word.write_prefix(&[u64::MAX; STEP], whole * 8)?;
                at += 64 * whole as u64;
            } else {
                let bits = (64 - at % 64).min(end - at);
                let mask = (u64::MAX >> (64 - bits)) << (at % 64);
                word.write(&(word.read::<u64>()? | mask))?;
                at += bits;
            }
        }
        Ok(())
    }

    fn word(&self, index: usize) -> Result<Pointer> {
        self.data.offset(index.checked_mul(8).ok_or(EFAULT)?)
    }

    /// Whether the words of `count` bits from bit `first` on can be pinned.
    pub(crate) fn can_pin(&self, first: u64, count: u64) -> Result<bool> {
        let bytes = (first % 64 + count).div_ceil(64) * 8;
        let start = self.word(usize::try_from(first / 64)?)?;
        Ok(start.can_pin(usize::try_from(bytes)?))
    }
}
