// SPDX-License-Identifier: GPL-2.0
//! Users of the system, and what each has.
//!
//! C header: [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h)

use super::shim;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::{global_lock, Arc};

/// How many numbers are kept of each user.
pub(crate) const COUNTERS: usize = 4;

/// A reference to a `struct user_struct`: all processes of a user have the same.
///
/// # Invariants
///
/// The pointer is live by a reference that is this value's.
struct UserStruct(NonNull<bindings::user_struct>);

// SAFETY: A user may be looked at, and let go, by any thread.
unsafe impl Send for UserStruct {}
// SAFETY: As above; what changes in it is atomic.
unsafe impl Sync for UserStruct {}

impl UserStruct {
    /// The user of the current task.
    fn current() -> Result<Self> {
        // SAFETY: No requirements; it takes a reference.
        let user = unsafe { shim::ioasid_current_user() };
        // INVARIANT: The reference was taken just now.
        Ok(Self(NonNull::new(user).ok_or(ESRCH)?))
    }
}

impl Drop for UserStruct {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the invariant.
        unsafe { bindings::free_uid(self.0.as_ptr()) };
    }
}

struct Account {
    user: UserStruct,
    counters: [Atomic<u32>; COUNTERS],
}

/// An account, and how many hold it.
struct Held {
    account: Arc<Account>,
    holders: usize,
}

global_lock! {
    // SAFETY: `init` is called before anybody can have a user.
    unsafe(uninit) static ACCOUNTS: Mutex<KVec<Held>> = KVec::new();
}

/// Makes the table of accounts.
///
/// # Safety
///
/// Called once, by the module's init, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: By the requirement.
    unsafe { ACCOUNTS.init() };
}

/// Frees the memory of the table, which is empty: whoever holds a user holds the module.
pub(super) fn exit() {
    *ACCOUNTS.lock() = KVec::new();
}

/// A user, and the numbers kept of that user, which all values of the same user share.
pub(crate) struct User(Arc<Account>);

impl User {
    /// The user of the current task. Sleeps.
    pub(crate) fn current() -> Result<Self> {
        let user = UserStruct::current()?;
        let mut accounts = ACCOUNTS.lock();
        if let Some(held) = accounts
            .iter_mut()
            .find(|held| held.account.user.0 == user.0)
        {
            held.holders += 1;
            return Ok(Self(held.account.clone()));
        }
        let account = Arc::new(
            Account {
                user,
                counters: [const { Atomic::new(0) }; COUNTERS],
            },
            GFP_KERNEL,
        )?;
        let held = Held {
            account: account.clone(),
            holders: 1,
        };
        accounts.push(held, GFP_KERNEL)?;
        Ok(Self(account))
    }

    /// Number `index` of those that are kept.
    pub(crate) fn counter(&self, index: usize) -> Option<&Atomic<u32>> {
        self.0.counters.get(index)
    }

    /// Charges pages to the user's locked memory, as iommufd does; the limit is that of the current
    /// process.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if it would pass RLIMIT_MEMLOCK.
    pub(super) fn lock_pages(&self, pages: u64) -> Result {
        // SAFETY: The user is live by its reference.
        to_result(unsafe { shim::ioasid_lock_pages(self.0.user.0.as_ptr(), pages as c_ulong) })
    }

    /// Takes pages that were charged from the user's locked memory.
    pub(super) fn unlock_pages(&self, pages: u64) {
        // SAFETY: As above.
        unsafe { shim::ioasid_unlock_pages(self.0.user.0.as_ptr(), pages as c_ulong) };
    }
}

impl Clone for User {
    fn clone(&self) -> Self {
        let mut accounts = ACCOUNTS.lock();
        // It is there, for `self` holds it.
        if let Some(held) = accounts
            .iter_mut()
            .find(|held| Arc::ptr_eq(&held.account, &self.0))
        {
            held.holders += 1;
        }
        Self(self.0.clone())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut accounts = ACCOUNTS.lock();
        let Some(at) = accounts
            .iter()
            .position(|held| Arc::ptr_eq(&held.account, &self.0))
        else {
            return;
        };
        if let Some(held) = accounts.get_mut(at) {
            held.holders -= 1;
            if held.holders == 0 {
                // The user itself goes with `self`.
                drop(accounts.remove(at));
            }
        }
    }
}
