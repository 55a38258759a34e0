// SPDX-License-Identifier: GPL-2.0
//! A mutex whose waiters can be killed, and that can be waited on for a change of its data.
//!
//! C headers: [`include/linux/mutex.h`](srctree/include/linux/mutex.h),
//! [`include/linux/wait.h`](srctree/include/linux/wait.h)

use super::shim;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::LockClassKey;
use kernel::types::{NotThreadSafe, Opaque};

/// A mutex around data, with a queue of those who wait for a change of it.
#[pin_data]
pub(crate) struct Lock<T> {
    #[pin]
    raw: Opaque<bindings::mutex>,
    #[pin]
    changed: Opaque<bindings::wait_queue_head>,
    data: UnsafeCell<T>,
}

// SAFETY: The data goes with the lock.
unsafe impl<T: Send> Send for Lock<T> {}
// SAFETY: The data is reached by a guard alone, of which there is one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// [`Lock::new`] with a class of its own for lockdep, which calls it by `$name`.
macro_rules! new_lock {
    ($data:expr, $name:literal) => {
        $crate::ffi::lock::Lock::new(
            $data,
            kernel::c_str!($name),
            kernel::static_lock_class!(),
            kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_lock;

impl<T> Lock<T> {
    /// A lock that nobody holds. See [`new_lock`].
    pub(crate) fn new(
        data: T,
        name: &'static CStr,
        class: Pin<&'static LockClassKey>,
        queue: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The memory is the mutex's, and pinned; name and class are static.
            raw <- Opaque::ffi_init(|raw| unsafe {
                bindings::__mutex_init(raw, name.as_char_ptr(), class.as_ptr())
            }),
            // SAFETY: As above, of the wait queue.
            changed <- Opaque::ffi_init(|raw| unsafe {
                bindings::__init_waitqueue_head(raw, name.as_char_ptr(), queue.as_ptr())
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock. Sleeps, whatever signals come: for what is held shortly, and for teardown.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // SAFETY: The mutex is initialised, and pinned.
        unsafe { bindings::mutex_lock(self.raw.get()) };
        Guard::new(self)
    }

    /// Takes the lock. Sleeps.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came.
    pub(crate) fn lock_killable(&self) -> Result<Guard<'_, T>> {
        // SAFETY: The mutex is initialised, and pinned.
        to_result(unsafe { shim::ioasid_lock_killable(self.raw.get()) })?;
        Ok(Guard::new(self))
    }

    /// Lets those look again who wait for a change.
    pub(crate) fn notify(&self) {
        // SAFETY: The wait queue is initialised, and pinned.
        unsafe { shim::ioasid_wake_all(self.changed.get()) };
    }
}

/// A lock that is held; dropped, it is given back.
///
/// # Invariants
///
/// The lock is held for this value.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    _task: NotThreadSafe,
}

impl<'a, T> Guard<'a, T> {
    /// The lock was taken just now.
    fn new(lock: &'a Lock<T>) -> Self {
        // INVARIANT: By the callers, which are above.
        Self {
            lock,
            _task: NotThreadSafe,
        }
    }

    /// Gives the lock back until [`Lock::notify`], and takes it again. May return without one.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came; the lock is held again then too.
    pub(crate) fn wait(&mut self) -> Result {
        let (queue, raw) = (self.lock.changed.get(), self.lock.raw.get());
        // SAFETY: Both are initialised and pinned, and the lock is held by the invariant.
        // INVARIANT: It is held again at the end.
        to_result(unsafe { shim::ioasid_wait_killable(queue, raw) })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The lock is held, so nobody else reaches the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As above.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: Held by the invariant.
        unsafe { bindings::mutex_unlock(self.lock.raw.get()) };
    }
}
