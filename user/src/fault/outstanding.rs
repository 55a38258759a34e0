// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many groups are owed an answer.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Outstanding {
    count: Mutex<usize>,
    less: Condvar,
}

impl Outstanding {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        *self.lock()
    }

    pub(super) fn token(self: &Arc<Self>) -> Token {
        let mut count = self.lock();
        *count = count.saturating_add(1);
        Token(self.clone())
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
pub(super) struct Token(Arc<Outstanding>);

impl Drop for Token {
    fn drop(&mut self) {
        let mut count = self.0.lock();
        *count = count.saturating_sub(1);
        self.0.less.notify_all();
    }
}
