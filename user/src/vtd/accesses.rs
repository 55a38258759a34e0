// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What emulated devices share with the unit without its lock: where the tables are, how often
//! translations were invalidated, and which accesses are under way (VT-d 4.1, 6.5.4: draining).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// All orders are the strictest: the proofs below need one order of all accesses.
const ORDER: Ordering = Ordering::SeqCst;

/// In [`Shared::root`]: translation is on. The root table's address leaves the bit free.
const ON: u64 = 1;

/// What the unit and emulated devices both see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    epoch: AtomicU64,
    root: AtomicU64,
    /// Which of the two counts of a device new accesses are in.
    phase: AtomicUsize,
    /// Whoever ends the last access of the other phase is to say so.
    draining: AtomicBool,
    devices: Mutex<Vec<Weak<Counts>>>,
}

/// How many accesses of a device are under way, by the phase in which they began.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicUsize; 2]);

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

    /// The counts of a new device.
    pub(super) fn join(&self) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|counts| counts.strong_count() != 0);
        devices.push(Arc::downgrade(&counts));
        counts
    }

    /// An access begins, before it looks at the epoch. Gives the count that it is in.
    pub(super) fn begin(&self, counts: &Counts) -> usize {
        loop {
            let phase = self.phase.load(ORDER) & 1;
            counts.add(phase);
            // A drain that began in between may have found the count empty.
            if self.phase.load(ORDER) & 1 == phase {
                return phase;
            }
            // Who waits is told at the end of the one that is begun again.
            counts.remove(phase);
        }
    }

    /// An access ends. True if a drain waits, and may be done.
    pub(super) fn end(&self, counts: &Counts, phase: usize) -> bool {
        counts.remove(phase) && self.draining.load(ORDER)
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
        let old = (self.phase.load(ORDER) & 1) ^ 1;
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = devices.iter().filter_map(Weak::upgrade);
        let drained = counts.all(|counts| counts.is_empty(old));
        if drained {
            self.draining.store(false, ORDER);
        }
        drained
    }
}

impl Counts {
    fn of(&self, phase: usize) -> &AtomicUsize {
        let [even, odd] = &self.0;
        if phase & 1 == 0 {
            even
        } else {
            odd
        }
    }

    fn add(&self, phase: usize) {
        self.of(phase).fetch_add(1, ORDER);
    }

    /// True if it was the last.
    fn remove(&self, phase: usize) -> bool {
        self.of(phase).fetch_sub(1, ORDER) == 1
    }

    fn is_empty(&self, phase: usize) -> bool {
        self.of(phase).load(ORDER) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_waits_for_what_began_before_and_for_nothing_later() {
        let shared = Shared::default();
        let (one, two) = (shared.join(), shared.join());
        let first = shared.begin(&one);
        shared.drain();
        assert!(!shared.is_drained());
        let later = shared.begin(&two);
        assert!(shared.end(&one, first), "who waits is to be told");
        assert!(shared.is_drained());
        assert!(!shared.end(&two, later), "nobody waits");
        // The next one waits for that of the other phase again.
        let second = shared.begin(&two);
        shared.drain();
        assert!(!shared.is_drained());
        assert!(shared.end(&two, second));
        assert!(shared.is_drained());
    }

    #[test]
    fn device_that_is_gone_is_not_waited_for() {
        let shared = Shared::default();
        let counts = shared.join();
        shared.begin(&counts);
        drop(counts);
        shared.drain();
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
