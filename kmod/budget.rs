// SPDX-License-Identifier: GPL-2.0
//! What users may have: limits for each user, and for all of them together.
//!
//! Limits of one container are where that is counted. Locked memory is counted by the kernel
//! ([`crate::ffi::memory`]).

use crate::ffi::account::{User, COUNTERS};
use crate::ffi::errno::edquot;
use crate::ffi::limits::Limit;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};

pub(crate) use crate::ffi::work::Work;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// PASIDs.
    Pasids = 0,
    /// Bindings and address spaces, each of which may take a domain id of an IOMMU unit.
    Domains = 1,
    /// Fault queues, until their fd is closed.
    Queues = 2,
    /// Records that the fault queues have room for.
    Records = 3,
}

const _: () = assert!(Resource::Records as usize + 1 == COUNTERS);

/// What all users have.
static MODULE: [Atomic<u32>; COUNTERS] = [const { Atomic::new(0) }; COUNTERS];

impl Resource {
    fn of_all(self) -> Limit {
        match self {
            Self::Pasids => Limit::TotalPasids,
            Self::Domains => Limit::TotalDomains,
            Self::Queues => Limit::TotalQueues,
            Self::Records => Limit::TotalRecords,
        }
    }

    fn of_user(self) -> Limit {
        match self {
            Self::Pasids => Limit::UserPasids,
            Self::Domains => Limit::UserDomains,
            Self::Queues => Limit::UserQueues,
            Self::Records => Limit::UserRecords,
        }
    }

    /// The most that all users together may have.
    pub(crate) fn limit(self) -> u32 {
        self.of_all().get()
    }

    /// The most that a user may have.
    pub(crate) fn user_limit(self) -> u32 {
        self.of_user().get()
    }

    /// How many all users have.
    pub(crate) fn taken(self) -> u32 {
        self.counter().load(Relaxed)
    }

    fn counter(self) -> &'static Atomic<u32> {
        let [pasids, domains, queues, records] = &MODULE;
        match self {
            Self::Pasids => pasids,
            Self::Domains => domains,
            Self::Queues => queues,
            Self::Records => records,
        }
    }
}

/// Adds `count`, if the sum is at most `limit`.
fn add(counter: &Atomic<u32>, count: u32, limit: u32) -> Result {
    let mut taken = counter.load(Relaxed);
    loop {
        let sum = taken
            .checked_add(count)
            .filter(|&sum| sum <= limit)
            .ok_or(edquot())?;
        match counter.cmpxchg(taken, sum, Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => taken = now,
        }
    }
}

/// The user whose a container is, and everything that is taken for it.
#[derive(Clone)]
pub(crate) struct Owner(User);

impl Owner {
    /// The user of the current task. Sleeps.
    pub(crate) fn current() -> Result<Self> {
        User::current().map(Self)
    }

    /// Takes `count` more.
    ///
    /// # Errors
    ///
    /// [`EDQUOT`] if that would pass the limit of the user or of all users.
    pub(crate) fn take(&self, kind: Resource, count: u32) -> Result<Share> {
        let mine = self.0.counter(kind as usize).ok_or(EINVAL)?;
        add(mine, count, kind.user_limit())?;
        if let Err(error) = add(kind.counter(), count, kind.limit()) {
            mine.fetch_sub(count, Relaxed);
            return Err(error);
        }
        // INVARIANT: Counted just now.
        Ok(Share {
            owner: self.clone(),
            kind,
            count,
        })
    }

    /// Nothing yet.
    pub(crate) fn nothing(&self, kind: Resource) -> Share {
        // INVARIANT: Nothing is counted.
        Share {
            owner: self.clone(),
            kind,
            count: 0,
        }
    }
}

/// What an owner took; dropped, it is given back.
///
/// # Invariants
///
/// `count` of `kind` are counted for this value, for its owner and for all users.
pub(crate) struct Share {
    owner: Owner,
    kind: Resource,
    count: u32,
}

impl Share {
    /// Takes `count` more.
    ///
    /// # Errors
    ///
    /// Those of [`Owner::take`].
    pub(crate) fn grow(&mut self, count: u32) -> Result {
        let mut more = self.owner.take(self.kind, count)?;
        // INVARIANT: What the other does not count any more is counted for this one.
        self.count += core::mem::take(&mut more.count);
        Ok(())
    }

    /// Gives `count` back, or all if that is less.
    pub(crate) fn give_back(&mut self, count: u32) {
        let count = count.min(self.count);
        // INVARIANT: Nobody counts them from here on.
        self.count -= count;
        self.kind.counter().fetch_sub(count, Relaxed);
        if let Some(mine) = self.owner.0.counter(self.kind as usize) {
            mine.fetch_sub(count, Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}
