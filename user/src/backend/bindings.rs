// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a backend has bound, in the state that the crate keeps itself, with the indexes by which
//! each question costs no more than its answer is long.

use crate::context::{Scope, Translation};
use crate::sys::Errno;
use crate::types::{Bdf, Pasid};
use std::collections::{BTreeMap, BTreeSet};

/// The device, and the host's PASID or [`Pasid::RID`].
pub(super) type Key = (Bdf, Pasid);

/// A binding of a backend.
pub(super) trait Bound: Copy {
    /// What is bound.
    fn translation(&self) -> Translation;
}

/// The bindings of a context. A blocked one is one, but counts to no quota: blocking never fails
/// for want of room. There are at most as many as devices times allocated PASIDs.
#[derive(Debug)]
pub(super) struct Bindings<B> {
    bound: BTreeMap<Key, B>,
    /// Those that are blocked.
    blocked: usize,
    /// Bindings of each PASID.
    at_pasid: BTreeMap<Pasid, usize>,
    /// Where each address space is bound.
    of_space: BTreeMap<u32, BTreeSet<Key>>,
}

impl<B> Default for Bindings<B> {
    fn default() -> Self {
        Self {
            bound: BTreeMap::new(),
            blocked: 0,
            at_pasid: BTreeMap::new(),
            of_space: BTreeMap::new(),
        }
    }
}

impl<B: Bound> Bindings<B> {
    /// Bindings that translate something, which are those that a quota counts.
    pub(super) fn count(&self) -> usize {
        self.bound.len().saturating_sub(self.blocked)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&B> {
        self.bound.get(key)
    }

    pub(super) fn first(&self) -> Option<Key> {
        self.bound.keys().next().copied()
    }

    /// Whether a translation may be bound at a place.
    ///
    /// # Errors
    ///
    /// EBUSY where something is bound that is not to be replaced, ENOENT where nothing is at a PASID
    /// and something is to be, EDQUOT for more than `most`.
    pub(super) fn admit(
        &self,
        key: &Key,
        translation: Translation,
        replace: bool,
        most: usize,
    ) -> Result<(), Errno> {
        let blocks = |translation| matches!(translation, Translation::Blocked { .. });
        let there = self.bound.get(key).map(Bound::translation);
        match there {
            // Where requests without PASID are blocked, as after a bind that failed, nothing has to
            // make room.
            Some(there) if key.1 == Pasid::RID && blocks(there) => {}
            Some(_) if !replace => return Err(Errno::EBUSY),
            // At the RID stage 2 is there.
            None if replace && key.1 != Pasid::RID => return Err(Errno::ENOENT),
            _ => {}
        }
        let counts_already = there.is_some_and(|there| !blocks(there));
        if !counts_already && !blocks(translation) && self.count() >= most {
            return Err(Errno::EDQUOT);
        }
        Ok(())
    }

    /// Notes a binding, in the place of one that was there.
    pub(super) fn insert(&mut self, key: Key, bound: B) {
        self.remove(&key);
        match bound.translation() {
            Translation::Blocked { .. } => self.blocked = self.blocked.saturating_add(1),
            Translation::AddressSpace { id, .. } => {
                self.of_space.entry(id.get()).or_default().insert(key);
            }
            _ => {}
        }
        let users = self.at_pasid.entry(key.1).or_default();
        *users = users.saturating_add(1);
        self.bound.insert(key, bound);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<B> {
        let bound = self.bound.remove(key)?;
        match bound.translation() {
            Translation::Blocked { .. } => self.blocked = self.blocked.saturating_sub(1),
            Translation::AddressSpace { id, .. } => {
                if let Some(keys) = self.of_space.get_mut(&id.get()) {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.of_space.remove(&id.get());
                    }
                }
            }
            _ => {}
        }
        if let Some(users) = self.at_pasid.get_mut(&key.1) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.at_pasid.remove(&key.1);
            }
        }
        Some(bound)
    }

    /// Whether something is bound at one of these PASIDs.
    pub(super) fn any_at(&self, pasids: std::ops::RangeInclusive<Pasid>) -> bool {
        self.at_pasid.range(pasids).next().is_some()
    }

    /// Where an address space is bound.
    pub(super) fn of_space(&self, id: u32) -> impl Iterator<Item = Key> + '_ {
        self.of_space.get(&id).into_iter().flatten().copied()
    }

    /// The bindings in a scope; `attached` tells which devices there are.
    ///
    /// # Errors
    ///
    /// ENOENT for one that is not there, and for a device that is not attached.
    pub(super) fn in_scope(
        &self,
        attached: impl Fn(Bdf) -> bool,
        scope: Scope,
    ) -> Result<Vec<Key>, Errno> {
        match scope {
            Scope::Binding(device, pasid) => {
                let key = (device, pasid);
                let found = self.bound.contains_key(&key).then(|| vec![key]);
                found.ok_or(Errno::ENOENT)
            }
            Scope::Device(device) if !attached(device) => Err(Errno::ENOENT),
            Scope::Device(device) => {
                let all = (device, Pasid::RID)..=(device, Pasid::MAX);
                Ok(self.bound.range(all).map(|(&key, _)| key).collect())
            }
            Scope::All => Ok(self.bound.keys().copied().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::AddressSpaceId;

    #[derive(Clone, Copy, Debug)]
    struct Fake(Translation);

    impl Bound for Fake {
        fn translation(&self) -> Translation {
            self.0
        }
    }

    const DEVICE: Bdf = Bdf::new(0, 0, 8);
    const BLOCKED: Translation = Translation::Blocked { guest_pasid: None };
    const STAGE2: Translation = Translation::Stage2 { guest_pasid: None };

    fn at(pasid: u32) -> Key {
        (DEVICE, pasid.try_into().expect("a PASID"))
    }

    #[test]
    fn admit_knows_the_states_of_the_rid_and_of_a_pasid() {
        let mut bindings = Bindings::default();
        let admit = |bindings: &Bindings<Fake>, key: Key, what, replace| {
            bindings.admit(&key, what, replace, 1)
        };
        let (rid, pasid) = ((DEVICE, Pasid::RID), at(5));
        // Nothing is bound: stage 2 at the RID, nothing at the PASID.
        assert_eq!(admit(&bindings, rid, STAGE2, true), Ok(()));
        assert_eq!(admit(&bindings, pasid, STAGE2, true), Err(Errno::ENOENT));
        for key in [rid, pasid] {
            bindings.insert(key, Fake(BLOCKED));
        }
        assert_eq!(bindings.count(), 0);
        assert_eq!(admit(&bindings, rid, STAGE2, false), Ok(()));
        assert_eq!(admit(&bindings, pasid, STAGE2, false), Err(Errno::EBUSY));
        assert_eq!(admit(&bindings, pasid, STAGE2, true), Ok(()));
        bindings.insert(pasid, Fake(STAGE2));
        // The quota of one is used up; what blocks passes it, and so does what takes its place.
        assert_eq!(admit(&bindings, rid, STAGE2, true), Err(Errno::EDQUOT));
        assert_eq!(admit(&bindings, at(6), BLOCKED, false), Ok(()));
        assert_eq!(admit(&bindings, pasid, STAGE2, true), Ok(()));
        assert_eq!(admit(&bindings, pasid, BLOCKED, true), Ok(()));
    }

    #[test]
    fn indexes_follow_what_is_bound() {
        let mut bindings = Bindings::default();
        let space = Translation::AddressSpace {
            id: AddressSpaceId::new(7),
            guest_pasid: None,
        };
        bindings.insert(at(5), Fake(space));
        bindings.insert(at(6), Fake(space));
        assert_eq!(bindings.of_space(7).count(), 2);
        assert!(bindings.any_at(at(6).1..=at(9).1));
        bindings.insert(at(5), Fake(BLOCKED));
        assert_eq!(bindings.of_space(7).collect::<Vec<_>>(), [at(6)]);
        bindings.remove(&at(6));
        assert_eq!(bindings.of_space(7).count(), 0);
        assert!(!bindings.any_at(at(6).1..=at(9).1));
        assert!(bindings.any_at(at(1).1..=at(9).1));
        assert_eq!(bindings.count(), 0);
        let all = bindings.in_scope(|_| true, Scope::Device(DEVICE));
        assert_eq!(all, Ok(vec![at(5)]));
        let stranger = bindings.in_scope(|_| false, Scope::Device(DEVICE));
        assert_eq!(stranger, Err(Errno::ENOENT));
    }
}
