// SPDX-License-Identifier: GPL-2.0
//! The deadline of a fault queue: a delayed work item.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::shim;
use core::marker::PhantomData;
use core::mem::size_of;
use core::ptr::NonNull;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::time::{Delta, NSEC_PER_MSEC};

/// Something whose groups may wait for so long.
pub(crate) trait Expire: Sync + Sized + 'static {
    /// Its deadline, if it has one: the same one always.
    fn deadline(&self) -> Option<&Deadline<Self>>;

    /// The timer has come. Sleeps.
    fn expire(&self);
}

/// How long the groups of a `T` may wait, and the timer that comes for them.
///
/// # Invariants
///
/// `timer` is live and owned by this value, and armed with nothing but the `T` that this value is a
/// part of.
pub(crate) struct Deadline<T: Expire> {
    timer: NonNull<shim::Timer>,
    ms: u32,
    _owner: PhantomData<fn(&T)>,
}

// SAFETY: A work item may be used from any thread.
unsafe impl<T: Expire> Send for Deadline<T> {}
// SAFETY: The workqueue locks it.
unsafe impl<T: Expire> Sync for Deadline<T> {}

impl<T: Expire> Deadline<T> {
    /// After `ms` milliseconds.
    pub(crate) fn new(ms: u32) -> Result<Self> {
        // SAFETY: No requirements.
        let timer = unsafe { shim::ioasid_timer_new(passed::<T>) };
        // INVARIANT: Made just now, and not armed.
        Ok(Self {
            timer: NonNull::new(timer).ok_or(ENOMEM)?,
            ms,
            _owner: PhantomData,
        })
    }

    /// How long.
    pub(crate) fn delta(&self) -> Delta {
        Delta::from_millis(i64::from(self.ms))
    }

    /// Lets the timer of `owner`, if it has one, call [`Expire::expire`] after `delta`, unless it is
    /// armed already. Does not sleep.
    pub(crate) fn arm(owner: &T, delta: Delta) {
        // Rounded up: what expires early would not be late yet.
        let ms = delta.as_millis() + i64::from(delta.as_nanos() % NSEC_PER_MSEC > 0);
        let ms = u32::try_from(ms).unwrap_or(0);
        if let Some(deadline) = owner.deadline().filter(|part| is_part(*part, owner)) {
            let data = core::ptr::from_ref(owner).cast();
            // INVARIANT: The deadline is a part of `owner`. Who has a shared reference to that cannot
            // take it out.
            // SAFETY: The timer is live by the invariant, and `owner` for as long as it is armed: its
            // drop drops the deadline, which cancels the timer.
            unsafe { shim::ioasid_timer_arm(deadline.timer.as_ptr(), data, ms) };
        }
    }

    /// Disarms the timer and waits until it does not run. Sleeps.
    pub(crate) fn cancel(&self) {
        // SAFETY: The timer is live by the invariant.
        unsafe { shim::ioasid_timer_cancel(self.timer.as_ptr()) };
    }
}

/// Whether `part` lies in the memory of `whole`.
fn is_part<P, W>(part: &P, whole: &W) -> bool {
    let (part, whole) = (
        core::ptr::from_ref(part).addr(),
        core::ptr::from_ref(whole).addr(),
    );
    (whole..whole.saturating_add(size_of::<W>())).contains(&part)
}

impl<T: Expire> Drop for Deadline<T> {
    fn drop(&mut self) {
        self.cancel();
        // SAFETY: The timer is ours by the invariant, and does not run any more.
        unsafe { shim::ioasid_timer_free(self.timer.as_ptr()) };
    }
}

/// Runs in a work queue.
///
/// # Safety
///
/// `owner` is the `T` that owns the timer. It waits for this call before it goes: its deadline, which
/// it owns, cancels the timer when it is dropped.
unsafe extern "C" fn passed<T: Expire>(owner: *const c_void) {
    // SAFETY: By the requirement.
    let owner = unsafe { &*owner.cast::<T>() };
    owner.expire();
}
