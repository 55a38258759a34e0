// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which PASIDs are allocated.

use super::bindings::{Bindings, Bound};
use crate::error::{Error, Operation, Result};
use crate::pasid::PasidRequest;
use crate::sys::Errno;
use crate::types::Pasid;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Most PASIDs of a context.
pub(super) const MAX_PASIDS: usize = 65_536;

/// Runs of PASIDs that are allocated, by the first of each, with the last. No two touch, so that what
/// is allocated one by one is found in few.
#[derive(Debug, Default)]
pub(super) struct Pool {
    runs: BTreeMap<u32, u32>,
    count: usize,
}

impl Pool {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn holds(&self, pasid: u32) -> bool {
        self.run_of(pasid).is_some()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The run that a PASID lies in.
    fn run_of(&self, pasid: u32) -> Option<(u32, u32)> {
        let (&first, &last) = self.runs.range(..=pasid).next_back()?;
        (pasid <= last).then_some((first, last))
    }

    /// As [`HostIommuContext::alloc_pasids`](crate::HostIommuContext::alloc_pasids).
    pub(super) fn alloc_for(&mut self, request: &PasidRequest) -> Result<Pasid> {
        let PasidRequest { min, max, count } = *request;
        self.alloc(min.get(), max.get(), count)
            .map_err(|errno| Error::failed(Operation::AllocPasids { min, max, count }, errno))
            .and_then(Pasid::try_from)
    }

    /// As [`HostIommuContext::free_pasids`](crate::HostIommuContext::free_pasids).
    pub(super) fn free_of<B: Bound>(
        &mut self,
        first: Pasid,
        count: u32,
        bindings: &Bindings<B>,
    ) -> Result<()> {
        self.free(first.get(), count, |pasids| bindings.any_at(pasids))
            .map_err(|errno| Error::failed(Operation::FreePasids { first, count }, errno))
    }

    /// The first of `count` consecutive ones in `min..=max`.
    fn alloc(&mut self, min: u32, max: u32, count: u32) -> std::result::Result<u32, Errno> {
        if min == 0 || count == 0 || min > max || max > Pasid::MAX.get() {
            return Err(Errno::EINVAL);
        }
        if self.count.saturating_add(count as usize) > MAX_PASIDS {
            return Err(Errno::EDQUOT);
        }
        let mut first = self.run_of(min).map_or(min, |(_, last)| last + 1);
        for (&taken, &last) in self.runs.range(min..=max) {
            // `first` is at most `taken`, but for the run that `min` lies in: it follows the one before.
            if taken.saturating_sub(first) >= count {
                break;
            }
            first = last + 1;
        }
        let last = first.checked_add(count - 1).filter(|&last| last <= max);
        let last = last.ok_or(Errno::ENOSPC)?;
        // What touches it becomes one run with it.
        let before = first.checked_sub(1).and_then(|pasid| self.run_of(pasid));
        let start = before.map_or(first, |(start, _)| start);
        let end = self.runs.remove(&(last + 1)).unwrap_or(last);
        self.runs.insert(start, end);
        self.count += count as usize;
        Ok(first)
    }

    /// All or none.
    fn free(
        &mut self,
        first: u32,
        count: u32,
        bound: impl Fn(RangeInclusive<Pasid>) -> bool,
    ) -> std::result::Result<(), Errno> {
        let last = count
            .checked_sub(1)
            .and_then(|more| first.checked_add(more));
        let last = last.ok_or(Errno::EINVAL)?;
        let run = self.run_of(first).filter(|&(_, end)| last <= end);
        let (start, end) = run.ok_or(Errno::ENOENT)?;
        // Those that are allocated are PASIDs.
        let pasid = |number| Pasid::try_from(number).map_err(|_| Errno::ENOENT);
        if bound(pasid(first)?..=pasid(last)?) {
            return Err(Errno::EBUSY);
        }
        self.runs.remove(&start);
        if start < first {
            self.runs.insert(start, first - 1);
        }
        if last < end {
            self.runs.insert(last + 1, end);
        }
        self.count -= count as usize;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alloc_takes_the_lowest_run_that_fits() {
        let mut pool = Pool::default();
        assert_eq!(pool.alloc(5, 5, 1), Ok(5));
        assert_eq!(pool.alloc(5, 5, 1), Err(Errno::ENOSPC));
        assert_eq!(pool.alloc(1, 10, 4), Ok(1));
        assert_eq!(pool.alloc(1, 10, 5), Ok(6));
        assert_eq!(pool.alloc(1, 10, 1), Err(Errno::ENOSPC));
        assert_eq!(pool.free(5, 2, |_| false), Ok(()));
        assert_eq!(pool.free(5, 2, |_| false), Err(Errno::ENOENT));
        assert_eq!(pool.free(1, 4, |_| true), Err(Errno::EBUSY));
        assert_eq!(pool.alloc(1, 10, 3), Err(Errno::ENOSPC));
        assert_eq!(pool.alloc(1, 10, 2), Ok(5));
    }

    proptest::proptest! {
        /// As a set of numbers does.
        #[test]
        fn pool_is_a_set_of_numbers(
            steps in proptest::collection::vec((proptest::bool::ANY, 1u32..40, 1u32..6), 1..200),
        ) {
            let (mut pool, mut set) = (Pool::default(), std::collections::BTreeSet::new());
            for (alloc, first, count) in steps {
                let all = first..=first + count - 1;
                if alloc {
                    let free = |start: &u32| (*start..start + count).all(|one| !set.contains(&one));
                    let wanted = (first..=41 - count).find(free).ok_or(Errno::ENOSPC);
                    let got = pool.alloc(first, 40, count);
                    proptest::prop_assert_eq!(got, wanted);
                    set.extend(got.into_iter().flat_map(|start| start..start + count));
                } else {
                    let there = all.clone().all(|one| set.contains(&one));
                    let wanted = if there { Ok(()) } else { Err(Errno::ENOENT) };
                    proptest::prop_assert_eq!(pool.free(first, count, |_| false), wanted);
                    set.retain(|one| !(there && all.contains(one)));
                }
                proptest::prop_assert_eq!(pool.count(), set.len());
                for one in 0..50 {
                    proptest::prop_assert_eq!(pool.holds(one), set.contains(&one));
                }
            }
        }
    }

    #[test]
    fn alloc_of_nonsense_is_einval_and_over_the_quota_edquot() {
        let mut pool = Pool::default();
        for (min, max, count) in [(0, 5, 1), (2, 1, 1), (1, 5, 0), (1, 1 << 20, 1)] {
            assert_eq!(pool.alloc(min, max, count), Err(Errno::EINVAL));
        }
        let many = MAX_PASIDS as u32;
        assert_eq!(
            pool.alloc(1, Pasid::MAX.get(), many + 1),
            Err(Errno::EDQUOT)
        );
        assert_eq!(pool.alloc(1, Pasid::MAX.get(), many), Ok(1));
        assert_eq!(pool.alloc(1, Pasid::MAX.get(), 1), Err(Errno::EDQUOT));
        assert_eq!(pool.free(u32::MAX, 2, |_| false), Err(Errno::EINVAL));
    }
}
