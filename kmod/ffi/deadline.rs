// SPDX-License-Identifier: GPL-2.0
//! The deadline of a fault queue: a delayed work item.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::shim;
use crate::fault::FaultQueue;
use core::ptr::NonNull;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::time::{Delta, NSEC_PER_MSEC};

/// How long a queue's groups may wait, and the timer that comes for them.
///
/// # Invariants
///
/// `timer` is live and owned by this value, and armed with no queue but the one that owns this
/// value.
pub(crate) struct Deadline {
    timer: NonNull<shim::Timer>,
    ms: u32,
}

// SAFETY: A work item may be used from any thread.
unsafe impl Send for Deadline {}
// SAFETY: The workqueue locks it.
unsafe impl Sync for Deadline {}

impl Deadline {
    /// After `ms` milliseconds.
    pub(crate) fn new(ms: u32) -> Result<Self> {
        // SAFETY: No requirements.
        let timer = unsafe { shim::ioasid_timer_new() };
        // INVARIANT: Made just now, and not armed.
        Ok(Self {
            timer: NonNull::new(timer).ok_or(ENOMEM)?,
            ms,
        })
    }

    /// How long.
    pub(crate) fn delta(&self) -> Delta {
        Delta::from_millis(i64::from(self.ms))
    }

    /// Lets the timer of `queue`, if it has one, call [`FaultQueue::expire`] after `delta`, unless
    /// it is armed already. Does not sleep.
    pub(crate) fn arm(queue: &FaultQueue, delta: Delta) {
        // Rounded up: what expires early would not be late yet.
        let ms = delta.as_millis() + i64::from(delta.as_nanos() % NSEC_PER_MSEC > 0);
        let ms = u32::try_from(ms).unwrap_or(0);
        if let Some(deadline) = queue.deadline() {
            let data = core::ptr::from_ref(queue).cast();
            // SAFETY: The timer is live. `queue` owns it, and cancels it before it goes.
            // INVARIANT: It is the owner.
            unsafe { shim::ioasid_timer_arm(deadline.timer.as_ptr(), data, ms) };
        }
    }

    /// Disarms the timer and waits until it does not run. Sleeps.
    pub(crate) fn cancel(&self) {
        // SAFETY: The timer is live by the invariant.
        unsafe { shim::ioasid_timer_cancel(self.timer.as_ptr()) };
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.cancel();
        // SAFETY: The timer is ours by the invariant, and does not run any more.
        unsafe { shim::ioasid_timer_free(self.timer.as_ptr()) };
    }
}

/// Runs in a work queue.
#[no_mangle]
extern "C" fn ioasid_fault_deadline(queue: *const c_void) {
    // SAFETY: The timer is armed with the queue that owns it, which waits for us before it goes:
    // the last close cancels the timer while the file's reference is still there.
    let queue = unsafe { &*queue.cast::<FaultQueue>() };
    queue.expire();
}
