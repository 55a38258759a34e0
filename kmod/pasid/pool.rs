// SPDX-License-Identifier: GPL-2.0
//! The PASIDs of one container: which of the 2^20 numbers are taken.
//!
//! Needs nothing but `core`, so that the same source is tested under cargo.

use core::ops::DerefMut;

/// Highest PASID plus one: a PASID has 20 bits (PCIe 6.0, 6.20).
pub(crate) const LIMIT: u32 = 1 << 20;

/// Number of words of storage that a [`Pool`] takes.
pub(crate) const WORDS: usize = BITMAP + SUMMARY + TOP;

const BITS: u32 = u64::BITS;
const BITMAP: usize = (LIMIT / BITS) as usize;
const SUMMARY: usize = BITMAP / BITS as usize;
const TOP: usize = SUMMARY / BITS as usize;

/// PASIDs that follow each other, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PasidRun {
    /// The lowest.
    pub(crate) first: u32,
    /// The highest.
    pub(crate) last: u32,
}

/// Why PASIDs could not be taken or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolError {
    /// The range is empty, holds PASID 0, or does not fit 20 bits.
    Range,
    /// No run of that length is free in the range.
    Exhausted,
    /// The quota does not allow that many more.
    Quota,
    /// One of the PASIDs is not allocated.
    NotAllocated,
}

/// A set of allocated PASIDs.
///
/// One bit a PASID; above each 64 words one summary word whose bits mark the words
/// that are full; and above each 64 of these one more: finding a free number reads
/// a handful of words however many are taken.
///
/// # Invariants
///
/// - `storage` has [`WORDS`] words: the bitmap, the summary and the top.
/// - Bit `p % 64` of word `p / 64` of the bitmap is set exactly if PASID `p` is allocated.
/// - Bit `w % 64` of word `w / 64` of the summary is set exactly if word `w` of the bitmap is all
///   ones, and bit `s % 64` of word `s / 64` of the top exactly if word `s` of the summary is.
/// - `taken` is the number of set bits of the bitmap.
pub(crate) struct Pool<S> {
    storage: S,
    taken: u32,
}

impl<S: DerefMut<Target = [u64]>> Pool<S> {
    /// Makes an empty pool; `None` unless `storage` is [`WORDS`] words, all zero.
    pub(crate) fn new(storage: S) -> Option<Self> {
        if storage.len() != WORDS || storage.iter().any(|&word| word != 0) {
            return None;
        }
        // INVARIANT: no bit is set, no word is full, nothing is taken.
        Some(Self { storage, taken: 0 })
    }

    /// Number of PASIDs allocated.
    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    /// Whether `pasid` is allocated.
    pub(crate) fn contains(&self, pasid: u32) -> bool {
        self.word((pasid / BITS) as usize) >> (pasid % BITS) & 1 == 1
    }

    /// Allocates the lowest run of `count` PASIDs inside `min..=max`, `quota` in all at most.
    ///
    /// PASID 0 is the RID's and cannot be asked for.
    ///
    /// # Errors
    ///
    /// - [`PoolError::Range`] if `min` or `count` is zero, `min > max`, or `max` does not
    ///   fit 20 bits.
    /// - [`PoolError::Quota`] if more than the quota would be allocated.
    /// - [`PoolError::Exhausted`] if no run of `count` is free in the range.
    pub(crate) fn alloc(
        &mut self,
        min: u32,
        max: u32,
        count: u32,
        quota: u32,
    ) -> Result<u32, PoolError> {
        if min == 0 || count == 0 || min > max || max >= LIMIT {
            return Err(PoolError::Range);
        }
        match self.taken.checked_add(count) {
            Some(sum) if sum <= quota => {}
            _ => return Err(PoolError::Quota),
        }
        let mut from = min;
        loop {
            let first = self.next_free(from, max).ok_or(PoolError::Exhausted)?;
            let last = match first.checked_add(count - 1) {
                Some(last) if last <= max => last,
                _ => return Err(PoolError::Exhausted),
            };
            match self.next_taken(first, last) {
                Some(taken) => from = taken + 1,
                None => {
                    self.set(first, last, true);
                    self.taken += count;
                    return Ok(first);
                }
            }
            if from > max {
                return Err(PoolError::Exhausted);
            }
        }
    }

    /// Frees `count` PASIDs from `first` on, all of them or none.
    ///
    /// # Errors
    ///
    /// - [`PoolError::Range`] if `count` is zero or the run does not fit 20 bits.
    /// - [`PoolError::NotAllocated`] if one of them is not allocated.
    pub(crate) fn free(&mut self, first: u32, count: u32) -> Result<(), PoolError> {
        let last = count
            .checked_sub(1)
            .and_then(|more| first.checked_add(more))
            .filter(|&last| last < LIMIT)
            .ok_or(PoolError::Range)?;
        if self.next_free(first, last).is_some() {
            return Err(PoolError::NotAllocated);
        }
        self.set(first, last, false);
        self.taken -= count;
        Ok(())
    }

    /// The first run of allocated PASIDs from `from` on.
    pub(crate) fn run_from(&self, from: u32) -> Option<PasidRun> {
        let first = self.next_taken(from, LIMIT - 1)?;
        let end = self.next_free(first, LIMIT - 1).unwrap_or(LIMIT);
        Some(PasidRun {
            first,
            last: end - 1,
        })
    }

    fn word(&self, index: usize) -> u64 {
        let bitmap = self.storage.get(..BITMAP).unwrap_or_default();
        bitmap.get(index).copied().unwrap_or(u64::MAX)
    }

    fn summary(&self, index: u32) -> Option<u64> {
        let summary = self.storage.get(BITMAP..BITMAP + SUMMARY)?;
        summary.get(index as usize).copied()
    }

    /// First free PASID in `from..=last`.
    fn next_free(&self, from: u32, last: u32) -> Option<u32> {
        let mut at = from;
        while at <= last {
            let index = at / BITS;
            let free = !self.word(index as usize) & (u64::MAX << (at % BITS));
            if free != 0 {
                let found = index * BITS + free.trailing_zeros();
                return (found <= last).then_some(found);
            }
            at = self.next_word_with_room(index + 1)? * BITS;
        }
        None
    }

    /// First word from `from` on that is not full.
    fn next_word_with_room(&self, from: u32) -> Option<u32> {
        let summary = from / BITS;
        let room = !self.summary(summary)? & (u64::MAX << (from % BITS));
        if room != 0 {
            return Some(summary * BITS + room.trailing_zeros());
        }
        let top = self.storage.get(BITMAP + SUMMARY..)?;
        let summary = first_clear(top, summary + 1)?;
        let room = !self.summary(summary)?;
        Some(summary * BITS + room.trailing_zeros())
    }

    /// First allocated PASID in `from..=last`.
    fn next_taken(&self, from: u32, last: u32) -> Option<u32> {
        let mut mask = u64::MAX << (from % BITS);
        for index in from / BITS..=last / BITS {
            let taken = self.word(index as usize) & mask;
            if taken != 0 {
                let found = index * BITS + taken.trailing_zeros();
                return (found <= last).then_some(found);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Marks `first..=last`, which is below [`LIMIT`] and wholly in the other state.
    fn set(&mut self, first: u32, last: u32, taken: bool) {
        for index in first / BITS..=last / BITS {
            let low = if index == first / BITS {
                first % BITS
            } else {
                0
            };
            let high = if index == last / BITS {
                last % BITS
            } else {
                BITS - 1
            };
            let mask = (u64::MAX << low) & (u64::MAX >> (BITS - 1 - high));
            let Some((bitmap, above)) = self.storage.split_at_mut_checked(BITMAP) else {
                continue;
            };
            let Some((summary, top)) = above.split_at_mut_checked(SUMMARY) else {
                continue;
            };
            let Some(word) = bitmap.get_mut(index as usize) else {
                continue;
            };
            if taken {
                *word |= mask;
            } else {
                *word &= !mask;
            }
            let full = *word == u64::MAX;
            let full = mark(summary, index, full);
            mark(top, index / BITS, full);
        }
    }
}

/// Makes bit `index` of `words` what `set` says. Whether its word is all ones then.
fn mark(words: &mut [u64], index: u32, set: bool) -> bool {
    let Some(word) = words.get_mut((index / BITS) as usize) else {
        return false;
    };
    let bit = 1 << (index % BITS);
    if set {
        *word |= bit;
    } else {
        *word &= !bit;
    }
    *word == u64::MAX
}

/// First bit of `words` from `from` on that is clear.
fn first_clear(words: &[u64], from: u32) -> Option<u32> {
    let mut mask = u64::MAX << (from % BITS);
    for (index, &word) in words.iter().enumerate().skip((from / BITS) as usize) {
        let clear = !word & mask;
        if clear != 0 {
            return Some(index as u32 * BITS + clear.trailing_zeros());
        }
        mask = u64::MAX;
    }
    None
}
