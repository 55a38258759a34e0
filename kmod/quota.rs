// SPDX-License-Identifier: GPL-2.0
//! What all containers together may hold.

use crate::ffi::errno::edquot;
use crate::ffi::limits::Limit;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};

/// A number that all containers share.
pub(crate) struct Total {
    taken: Atomic<u32>,
    limit: Limit,
}

/// PASIDs.
pub(crate) static PASIDS: Total = Total::new(Limit::TotalPasids);

/// Bindings and address spaces.
pub(crate) static DOMAINS: Total = Total::new(Limit::TotalDomains);

impl Total {
    const fn new(limit: Limit) -> Self {
        Self {
            taken: Atomic::new(0),
            limit,
        }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    /// Most that may be taken.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Takes `count` more.
    ///
    /// # Errors
    ///
    /// [`EDQUOT`] if that would pass the limit.
    pub(crate) fn take(&'static self, count: u32) -> Result<Share> {
        let mut taken = self.taken();
        loop {
            let sum = taken
                .checked_add(count)
                .filter(|&sum| sum <= self.limit())
                .ok_or(edquot())?;
            match self.taken.cmpxchg(taken, sum, Relaxed) {
                // INVARIANT: Counted just now.
                Ok(_) => return Ok(Share { total: self, count }),
                Err(now) => taken = now,
            }
        }
    }
}

/// What one owner took of a [`Total`]; dropped, it is given back.
///
/// # Invariants
///
/// `count` are counted in `total` for this value.
pub(crate) struct Share {
    total: &'static Total,
    count: u32,
}

impl Share {
    /// Nothing, of `total`.
    pub(crate) fn none(total: &'static Total) -> Self {
        // INVARIANT: Nothing is counted.
        Self { total, count: 0 }
    }

    /// Joins another share of the same total.
    pub(crate) fn add(&mut self, other: Share) {
        self.count += other.count;
        core::mem::forget(other);
    }

    /// Gives `count` back, or all if that is less.
    pub(crate) fn give_back(&mut self, count: u32) {
        let count = count.min(self.count);
        self.count -= count;
        self.total.taken.fetch_sub(count, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}
