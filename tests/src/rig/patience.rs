// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must happen soon, whoever else waits for something.

use crate::ktap::{fail, patience, skip, Outcome, Stop};
use host_iommu_sys::Errno;
use host_iommu_tests_sys::userfault::Waiting;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Something that runs in a thread of its own, which is left behind if it does not end.
#[derive(Debug)]
pub struct Attempt<T> {
    what: String,
    result: Receiver<T>,
}

impl<T: Send + 'static> Attempt<T> {
    /// Starts `body`.
    pub fn start(what: impl Into<String>, body: impl FnOnce() -> T + Send + 'static) -> Self {
        let (say, result) = mpsc::channel();
        thread::spawn(move || {
            // A receiver that is gone does not wait any more.
            let _ = say.send(body());
        });
        Self {
            what: what.into(),
            result,
        }
    }

    /// Waits for its end, `limit` at most, and as much longer as this kernel takes for everything.
    ///
    /// # Errors
    ///
    /// If it does not end by then, or panics.
    pub fn ends_within(&self, limit: Duration) -> Outcome<T> {
        match self.result.recv_timeout(limit * patience()) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => fail(format!("{} did not end", self.what)),
            Err(RecvTimeoutError::Disconnected) => fail(format!("{} panicked", self.what)),
        }
    }
}

/// Joins what several attempts gave: the failures of all of them, if there are any.
///
/// # Errors
///
/// The failures, one after the other.
pub fn all(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(|outcome| match outcome {
            Err(Stop::Fail(reason)) => Some(reason),
            _ => None,
        })
        .collect();
    if failures.is_empty() {
        return Ok(());
    }
    fail(failures.join("; "))
}

/// Skips where the kernel cannot let memory wait (CONFIG_USERFAULTFD).
///
/// # Errors
///
/// The skip; what else userfaultfd says.
pub fn needs_userfaultfd() -> Outcome {
    match Waiting::missing(4096) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS) => skip("the kernel has no userfaultfd"),
        Err(errno) => fail(format!("userfaultfd: {errno:?}")),
    }
}
