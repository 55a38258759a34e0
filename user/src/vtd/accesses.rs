// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What emulated devices share with the unit without its lock: where the tables are, how often
//! translations were invalidated, and which accesses are under way (VT-d 4.1, 6.5.4: draining).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError, Weak};
use vm_memory::iommu::Iotlb;

/// All orders are the strictest: a load of this order costs no more than any other on x86.
const ORDER: Ordering = Ordering::SeqCst;

/// In [`Shared::root`]: translation is on. The root table's address leaves the bit free.
const ON: u64 = 1;

/// Of an access that has had locks of both phases.
const NO_PHASE: usize = usize::MAX;

/// What the unit and emulated devices both see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    epoch: AtomicU64,
    root: AtomicU64,
    /// Which of the two caches of a device new accesses use.
    phase: AtomicUsize,
    /// Whoever ends an access that began in the other phase is to say so.
    draining: AtomicBool,
    devices: Mutex<Vec<Weak<Caches>>>,
}

/// What a device has cached.
#[derive(Debug, Default)]
pub(super) struct Cache {
    pub(super) iotlb: Iotlb,
    pub(super) pages: u64,
    /// The number of invalidations when it was last empty: with another number it is void.
    pub(super) epoch: u64,
}

/// The caches of a device, one for each phase. An access keeps a read lock of its phase's cache, so
/// that a drain which can lock that cache for writing knows that no access is under way.
///
/// Nothing waits for a lock of these but for the few instructions in which a writer has it: a writer
/// that finds it taken goes away.
#[derive(Debug, Default)]
pub(super) struct Caches([RwLock<Cache>; 2]);

/// An access that is under way, and what is cached in its phase.
pub(super) type Access<'a> = RwLockReadGuard<'a, Cache>;

impl Shared {
    /// Changes with each invalidation: what was found before it is to be looked for again.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(ORDER)
    }

    pub(super) fn invalidate(&self) {
        self.epoch.fetch_add(1, ORDER);
    }

    /// RTADDR as the guest has set it, if translation is on.
    pub(super) fn root(&self) -> Option<u64> {
        let root = self.root.load(ORDER);
        (root & ON != 0).then_some(root & !ON)
    }

    pub(super) fn set_root(&self, root: Option<u64>) {
        self.root
            .store(root.map_or(0, |root| root & !ON | ON), ORDER);
    }

    /// The caches of a new device.
    pub(super) fn join(&self) -> Arc<Caches> {
        let caches = Arc::new(Caches::default());
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|caches| caches.strong_count() != 0);
        devices.push(Arc::downgrade(&caches));
        caches
    }

    /// Which of a device's caches is in use.
    pub(super) fn phase(&self) -> usize {
        self.phase.load(ORDER) & 1
    }

    /// An access begins, before it looks at the epoch. The number is for [`Shared::end`].
    pub(super) fn begin<'a>(&self, caches: &'a Caches) -> (Access<'a>, usize) {
        let mut phase = self.phase();
        let mut began = phase;
        loop {
            let cache = caches.of(phase);
            let access = cache.read().unwrap_or_else(PoisonError::into_inner);
            // A drain either finds the lock taken, or has changed the phase before it was taken.
            let now = self.phase();
            if now == phase {
                return (access, began);
            }
            // The drain may have found this lock taken: its end is that of the access.
            began = NO_PHASE;
            phase = now;
        }
    }

    /// To be called after an access has ended, or a lock of a cache was given back. True if a drain
    /// waits, and may be done.
    pub(super) fn end(&self, began: usize) -> bool {
        self.draining.load(ORDER) && began != self.phase()
    }

    /// From now on [`Shared::is_drained`] waits for the accesses that are under way. To be called
    /// after [`Shared::invalidate`], and again only when the last drain was done: an access that
    /// this one does not wait for sees the new epoch.
    pub(super) fn drain(&self) {
        self.draining.store(true, ORDER);
        self.phase.fetch_add(1, ORDER);
    }

    /// Whether every access that began before the drain has ended.
    pub(super) fn is_drained(&self) -> bool {
        let old = self.phase() ^ 1;
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut caches = devices.iter().filter_map(Weak::upgrade);
        let drained = caches.all(|caches| caches.write(old, |_| ()).is_some());
        if drained {
            self.draining.store(false, ORDER);
        }
        drained
    }
}

impl Caches {
    fn of(&self, phase: usize) -> &RwLock<Cache> {
        let [even, odd] = &self.0;
        if phase & 1 == 0 {
            even
        } else {
            odd
        }
    }

    /// Changes a cache, if no access is under way in its phase.
    pub(super) fn write<T>(&self, phase: usize, change: impl FnOnce(&mut Cache) -> T) -> Option<T> {
        match self.of(phase).try_write() {
            Ok(mut cache) => Some(change(&mut cache)),
            Err(TryLockError::Poisoned(cache)) => Some(change(&mut cache.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_waits_for_what_began_before_and_for_nothing_later() {
        let shared = Shared::default();
        let (one, two) = (shared.join(), shared.join());
        let (access, first) = shared.begin(&one);
        shared.drain();
        assert!(!shared.is_drained());
        let (later, began) = shared.begin(&two);
        drop(access);
        assert!(shared.end(first), "who waits is to be told");
        drop(later);
        assert!(!shared.end(began), "it is of the new phase");
        let (_later, _) = shared.begin(&one);
        assert!(shared.is_drained());
        assert!(!shared.end(first), "nobody waits");
        // The next one waits for that of the other phase again.
        let (access, second) = shared.begin(&two);
        shared.drain();
        assert!(!shared.is_drained());
        drop(access);
        assert!(shared.end(second));
        assert!(!shared.is_drained(), "that of the first device");
    }

    #[test]
    fn access_that_began_while_a_drain_did_tells_of_its_end() {
        // The thread may come too late to see the first phase.
        let told = (0..100).any(|_| {
            let shared = Arc::new(Shared::default());
            let caches = shared.join();
            let held = caches.of(0).write().expect("no panic");
            let begins = {
                let (shared, caches) = (shared.clone(), caches.clone());
                std::thread::spawn(move || shared.begin(&caches).1)
            };
            std::thread::sleep(std::time::Duration::from_millis(20));
            shared.drain();
            assert!(!shared.is_drained());
            drop(held);
            let began = begins.join().expect("no panic");
            let told = shared.end(began);
            assert!(shared.is_drained());
            told
        });
        assert!(told);
    }

    #[test]
    fn cache_in_use_is_not_changed() {
        let shared = Shared::default();
        let caches = shared.join();
        let (access, began) = shared.begin(&caches);
        assert!(caches.write(began, |_| ()).is_none());
        drop(access);
        assert!(caches.write(began, |cache| cache.pages = 1).is_some());
        assert_eq!(shared.begin(&caches).0.pages, 1);
        shared.drain();
        assert_eq!(shared.begin(&caches).0.pages, 0, "each phase has its own");
    }

    #[test]
    fn device_that_is_gone_is_not_waited_for() {
        let shared = Shared::default();
        let caches = shared.join();
        let (access, _) = shared.begin(&caches);
        std::mem::forget(access);
        shared.drain();
        assert!(!shared.is_drained());
        drop(caches);
        assert!(shared.is_drained());
    }

    #[test]
    fn root_is_there_while_translation_is_on() {
        let shared = Shared::default();
        assert_eq!(shared.root(), None);
        shared.set_root(Some(0x1400));
        assert_eq!(shared.root(), Some(0x1400));
        shared.set_root(None);
        assert_eq!(shared.root(), None);
    }
}
