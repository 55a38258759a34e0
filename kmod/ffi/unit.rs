// SPDX-License-Identifier: GPL-2.0
//! IOMMU units, and the lock of each (unit.c).

use super::shim;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;

/// An IOMMU unit; all values of the same unit share its lock.
///
/// # Invariants
///
/// The pointer is live by a reference that is this value's.
pub(super) struct Unit(NonNull<shim::Unit>);

// SAFETY: The unit's C side locks what it changes.
unsafe impl Send for Unit {}
// SAFETY: As above.
unsafe impl Sync for Unit {}

impl Unit {
    /// The unit of a device. Sleeps.
    ///
    /// # Safety
    ///
    /// The device is live, and its `iommu_dev` is set.
    pub(super) unsafe fn of(dev: *mut bindings::device) -> Result<Self> {
        // SAFETY: By the requirement; it takes a reference.
        let unit = unsafe { shim::ioasid_unit_get(dev) };
        // INVARIANT: The reference was taken just now.
        Ok(Self(NonNull::new(unit).ok_or(ENOMEM)?))
    }

    /// Takes its lock. Sleeps.
    pub(super) fn drain(&self) -> Draining<'_> {
        // SAFETY: The unit is live by the invariant. It is given back when the value is dropped.
        unsafe { shim::ioasid_unit_lock(self.0.as_ptr()) };
        // INVARIANT: Taken just now.
        Draining(self)
    }

    /// Takes its lock for a call. Sleeps.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came.
    pub(super) fn drain_unless_killed(&self) -> Result<Draining<'_>> {
        // SAFETY: As above.
        to_result(unsafe { shim::ioasid_unit_lock_killable(self.0.as_ptr()) })?;
        // INVARIANT: Taken just now.
        Ok(Draining(self))
    }

    /// Waits until its page request thread has left the handler that it was in. Sleeps.
    ///
    /// # Safety
    ///
    /// It is a VT-d unit.
    pub(super) unsafe fn quiesce_page_requests(&self) {
        // SAFETY: The unit is live by the invariant, and VT-d's by the requirement.
        unsafe { shim::ioasid_unit_quiesce_page_requests(self.0.as_ptr()) };
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the invariant, and nobody holds the lock: a
        // `Draining` borrows this value.
        unsafe { shim::ioasid_unit_put(self.0.as_ptr()) };
    }
}

/// Held while the driver may wait for the page request thread: of two who wait for one IOMMU unit
/// at a time, one may wait for ever.
///
/// # Invariants
///
/// The unit's lock is held for this value.
pub(super) struct Draining<'a>(&'a Unit);

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        // SAFETY: Held by the invariant.
        unsafe { shim::ioasid_unit_unlock(self.0 .0.as_ptr()) };
    }
}
