// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many groups are owed an answer, and how long each has been.

use crate::metrics::Counted;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Outstanding {
    count: Mutex<usize>,
    less: Condvar,
    counted: Counted,
    /// Times are counted from here.
    start: Instant,
}

impl Outstanding {
    pub(super) fn new(counted: Counted) -> Self {
        Self {
            count: Mutex::default(),
            less: Condvar::new(),
            counted,
            start: Instant::now(),
        }
    }

    pub(super) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Nanoseconds since the start; they last for 584 years.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        *self.lock()
    }

    pub(super) fn token(self: &Arc<Self>) -> Token {
        let mut count = self.lock();
        *count = count.saturating_add(1);
        Token {
            since: self.now(),
            of: self.clone(),
        }
    }

    /// Waits until nothing is outstanding, for `limit` at most; gives what still is.
    pub(super) fn wait(&self, limit: Duration) -> usize {
        let wait = self
            .less
            .wait_timeout_while(self.lock(), limit, |count| *count != 0);
        *wait.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// One group that is owed an answer.
#[derive(Debug)]
pub(super) struct Token {
    of: Arc<Outstanding>,
    since: u64,
}

impl Token {
    /// The answer is given: counts it, and tells how long it took.
    pub(super) fn answered(&self) -> Duration {
        let took = Duration::from_nanos(self.of.now().saturating_sub(self.since));
        self.of.counted.answer(took);
        took
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut count = self.of.lock();
        *count = count.saturating_sub(1);
        self.of.less.notify_all();
    }
}
