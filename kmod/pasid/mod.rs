// SPDX-License-Identifier: GPL-2.0
//! The PASIDs that a container has allocated.

mod pool;

use crate::budget::{self, Owner, Share};
use crate::ffi::errno::edquot;
use crate::ffi::limits::Limit;
use kernel::prelude::*;
use pool::{PasidRun, Pool, PoolError, WORDS};

/// A container's PASIDs. The pool's 128 KiB are allocated, and charged to the user, with the
/// first PASID.
pub(crate) struct Pasids {
    pool: Option<Pool<KVVec<u64>>>,
    share: Share,
}

impl Pasids {
    /// No PASIDs, of `owner`.
    pub(crate) fn new(owner: &Owner) -> Self {
        Self {
            pool: None,
            share: owner.nothing(budget::Resource::Pasids),
        }
    }

    /// Whether [`Pasids::alloc`] needs storage first.
    pub(crate) fn needs_storage(&self) -> bool {
        self.pool.is_none()
    }

    /// Storage for [`Pasids::add_storage`]. Sleeps.
    pub(crate) fn new_storage() -> Result<KVVec<u64>> {
        Ok(KVVec::from_elem(0, WORDS, GFP_KERNEL_ACCOUNT)?)
    }

    /// Takes storage over, if there is none yet.
    pub(crate) fn add_storage(&mut self, storage: KVVec<u64>) {
        if self.pool.is_none() {
            self.pool = Pool::new(storage);
        }
    }

    /// PASIDs allocated.
    pub(crate) fn taken(&self) -> u32 {
        self.pool.as_ref().map_or(0, Pool::taken)
    }

    /// Whether `pasid` is allocated.
    pub(crate) fn contains(&self, pasid: u32) -> bool {
        self.pool
            .as_ref()
            .is_some_and(|pool| pasid < pool::LIMIT && pool.contains(pasid))
    }

    /// The first run of allocated PASIDs from `from` on.
    pub(crate) fn run_from(&self, from: u32) -> Option<PasidRun> {
        self.pool.as_ref()?.run_from(from)
    }

    /// Allocates `count` consecutive PASIDs inside `min..=max`; gives the first. There is storage.
    ///
    /// # Errors
    ///
    /// [`EINVAL`], [`ENOSPC`] and [`EDQUOT`] as `VFIO_IOASID_PASID_ALLOC` has them; [`ENOMEM`].
    pub(crate) fn alloc(&mut self, min: u32, max: u32, count: u32) -> Result<u32> {
        let pool = self.pool.as_mut().ok_or(ENOMEM)?;
        let first = pool
            .alloc(min, max, count, Limit::Pasids.get())
            .map_err(errno)?;
        match self.share.grow(count) {
            Ok(()) => Ok(first),
            Err(error) => pool.free(first, count).map_err(errno).and(Err(error)),
        }
    }

    /// Frees `count` PASIDs from `first` on, all or none.
    ///
    /// # Errors
    ///
    /// - [`EINVAL`] if `count` is zero or the run does not fit 20 bits.
    /// - [`ENOENT`] if one of them is not allocated.
    pub(crate) fn free(&mut self, first: u32, count: u32) -> Result {
        match &mut self.pool {
            Some(pool) => pool.free(first, count).map_err(errno)?,
            None if count == 0 => return Err(EINVAL),
            None => return Err(ENOENT),
        }
        self.share.give_back(count);
        Ok(())
    }
}

fn errno(error: PoolError) -> Error {
    match error {
        PoolError::Range => EINVAL,
        PoolError::Exhausted => ENOSPC,
        PoolError::Quota => edquot(),
        PoolError::NotAllocated => ENOENT,
    }
}
