// SPDX-License-Identifier: GPL-2.0
//! The mutex of the module's table of containers: a static, ready before the module is.
//!
//! C header: [`include/linux/mutex.h`](srctree/include/linux/mutex.h)

use super::shim;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use kernel::types::NotThreadSafe;

/// A static that the table's mutex guards. All values of this type have the same mutex.
pub(crate) struct UnderTableLock<T>(UnsafeCell<T>);

// SAFETY: Only who holds the mutex reaches the value.
unsafe impl<T: Send> Sync for UnderTableLock<T> {}

impl<T> UnderTableLock<T> {
    /// Guards `value`.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Takes the mutex. Sleeps.
    pub(crate) fn lock(&'static self) -> TableGuard<T> {
        // SAFETY: No requirements. It is given back when the guard is dropped.
        unsafe { shim::ioasid_table_lock() };
        // INVARIANT: Taken just now.
        TableGuard(self, NotThreadSafe)
    }
}

/// The mutex, held, and what it guards.
///
/// # Invariants
///
/// The mutex is held for this value.
pub(crate) struct TableGuard<T: 'static>(&'static UnderTableLock<T>, NotThreadSafe);

impl<T> Deref for TableGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the invariant nobody changes it.
        unsafe { &*self.0 .0.get() }
    }
}

impl<T> DerefMut for TableGuard<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the invariant nobody else reaches it.
        unsafe { &mut *self.0 .0.get() }
    }
}

impl<T> Drop for TableGuard<T> {
    fn drop(&mut self) {
        // SAFETY: Held by the invariant.
        unsafe { shim::ioasid_table_unlock() };
    }
}
