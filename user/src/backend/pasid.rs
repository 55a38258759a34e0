// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which PASIDs are allocated.

use super::bindings::{Bindings, Bound};
use crate::error::{Error, Operation, Result};
use crate::pasid::PasidRequest;
use crate::sys::Errno;
use crate::types::Pasid;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Most PASIDs of a context.
pub(super) const MAX_PASIDS: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Pool(BTreeSet<u32>);

impl Pool {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn holds(&self, pasid: u32) -> bool {
        self.0.contains(&pasid)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
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
        if self.0.len().saturating_add(count as usize) > MAX_PASIDS {
            return Err(Errno::EDQUOT);
        }
        let mut first = min;
        for &taken in self.0.range(min..=max) {
            // `first` is at most `taken`: it follows the one before.
            if taken - first >= count {
                break;
            }
            first = taken + 1;
        }
        let last = first.checked_add(count - 1).filter(|&last| last <= max);
        let last = last.ok_or(Errno::ENOSPC)?;
        self.0.extend(first..=last);
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
        if self.0.range(first..=last).count() != count as usize {
            return Err(Errno::ENOENT);
        }
        // Those that are allocated are PASIDs.
        let pasid = |number| Pasid::try_from(number).map_err(|_| Errno::ENOENT);
        if bound(pasid(first)?..=pasid(last)?) {
            return Err(Errno::EBUSY);
        }
        for pasid in first..=last {
            self.0.remove(&pasid);
        }
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
