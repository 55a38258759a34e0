// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a context has bound, and the translation between a guest's PASIDs and the host's.
//!
//! Both directions are kept per device: two guests' devices, or two devices of one guest, may use
//! the same number for different tables.

use crate::context::Translation;
use crate::types::{Bdf, Pasid};
use std::collections::BTreeMap;

/// A binding, as [`HostIommu::export`](crate::HostIommu::export) gives it and
/// [`HostIommu::import`](crate::HostIommu::import) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BoundTable {
    /// The device.
    pub device: Bdf,
    /// The host's PASID, or [`Pasid::RID`].
    pub pasid: Pasid,
    /// What is bound, with the guest's number for the PASID.
    pub translation: Translation,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    translation: Translation,
}

impl Entry {
    fn guest(&self, pasid: Pasid) -> u32 {
        self.translation.guest_pasid().unwrap_or(pasid.get())
    }
}

/// The bindings of a context. Bounded by the quotas of the host, which has each of them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next: u64,
    bound: BTreeMap<(Bdf, Pasid), Entry>,
    /// The host's PASID of each guest PASID that is bound.
    guests: BTreeMap<(Bdf, u32), Pasid>,
}

impl Registry {
    /// Whether a guest PASID is bound already at another PASID of the device.
    pub(crate) fn is_taken(&self, device: Bdf, pasid: Pasid, guest: u32) -> bool {
        let found = self.guests.get(&(device, guest));
        pasid != Pasid::RID && found.is_some_and(|&bound| bound != pasid)
    }

    /// Notes a binding, in place of one that was there; gives its name.
    pub(crate) fn insert(&mut self, device: Bdf, pasid: Pasid, translation: Translation) -> u64 {
        self.remove(device, pasid);
        let id = self.next;
        self.next = id.wrapping_add(1);
        let entry = Entry { id, translation };
        if pasid != Pasid::RID {
            self.guests.insert((device, entry.guest(pasid)), pasid);
        }
        self.bound.insert((device, pasid), entry);
        id
    }

    /// Whether the binding is still the one of that name.
    pub(crate) fn holds(&self, device: Bdf, pasid: Pasid, id: u64) -> bool {
        let entry = self.bound.get(&(device, pasid));
        entry.is_some_and(|entry| entry.id == id)
    }

    /// Whether DMA is stopped there by a binding.
    pub(crate) fn is_blocked(&self, device: Bdf, pasid: Pasid) -> bool {
        let entry = self.bound.get(&(device, pasid));
        entry.is_some_and(|entry| matches!(entry.translation, Translation::Blocked { .. }))
    }

    pub(crate) fn remove(&mut self, device: Bdf, pasid: Pasid) {
        if let Some(entry) = self.bound.remove(&(device, pasid)) {
            if pasid != Pasid::RID {
                self.guests.remove(&(device, entry.guest(pasid)));
            }
        }
    }

    pub(crate) fn remove_device(&mut self, device: Bdf) {
        self.bound.retain(|(bound, _), _| *bound != device);
        self.guests.retain(|(bound, _), _| *bound != device);
    }

    pub(crate) fn clear(&mut self) {
        self.bound.clear();
        self.guests.clear();
    }

    /// See [`HostIommu::host_pasid`](crate::HostIommu::host_pasid).
    pub(crate) fn host_pasid(&self, device: Bdf, guest: Pasid) -> Option<Pasid> {
        match self.guests.get(&(device, guest.get())) {
            Some(&pasid) => Some(pasid),
            // The number itself, unless the host uses it for another PASID of the guest.
            None if self.bound.contains_key(&(device, guest)) => None,
            None => Some(guest),
        }
    }

    /// See [`HostIommu::guest_pasid`](crate::HostIommu::guest_pasid).
    pub(crate) fn guest_pasid(&self, device: Bdf, pasid: Pasid) -> u32 {
        let entry = self.bound.get(&(device, pasid));
        entry.map_or(pasid.get(), |entry| entry.guest(pasid))
    }

    /// Every binding but those of address spaces, by device and PASID.
    pub(crate) fn export(&self) -> Vec<BoundTable> {
        let bound = |(&(device, pasid), entry): (&(Bdf, Pasid), &Entry)| BoundTable {
            device,
            pasid,
            translation: entry.translation,
        };
        let bound = self.bound.iter().map(bound);
        bound
            .filter(|bound| !matches!(bound.translation, Translation::AddressSpace { .. }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nesting::Stage1Table;
    use crate::types::Gpa;

    const ONE: Bdf = Bdf::new(0, 0, 8);
    const TWO: Bdf = Bdf::new(0, 0, 16);

    fn pasid(number: u32) -> Pasid {
        number.try_into().expect("a PASID")
    }

    fn table(guest: u32) -> Translation {
        let table = Stage1Table::four_level(Gpa(0));
        Translation::Stage1(table.with_guest_pasid(guest))
    }

    #[test]
    fn translation_is_the_identity_until_something_is_bound() {
        let registry = Registry::default();
        assert_eq!(registry.host_pasid(ONE, pasid(5)), Some(pasid(5)));
        assert_eq!(registry.guest_pasid(ONE, pasid(5)), 5);
    }

    #[test]
    fn translation_is_per_device_and_goes_both_ways() {
        let mut registry = Registry::default();
        registry.insert(ONE, pasid(100), table(5));
        registry.insert(TWO, pasid(200), table(5));
        assert_eq!(registry.host_pasid(ONE, pasid(5)), Some(pasid(100)));
        assert_eq!(registry.host_pasid(TWO, pasid(5)), Some(pasid(200)));
        assert_eq!(registry.guest_pasid(ONE, pasid(100)), 5);
        assert_eq!(registry.guest_pasid(TWO, pasid(100)), 100);
        registry.remove(ONE, pasid(100));
        assert_eq!(registry.host_pasid(ONE, pasid(5)), Some(pasid(5)));
        assert_eq!(registry.host_pasid(TWO, pasid(5)), Some(pasid(200)));
    }

    #[test]
    fn translation_of_a_number_that_is_another_ones_is_none() {
        let mut registry = Registry::default();
        registry.insert(ONE, pasid(7), table(5));
        assert_eq!(registry.host_pasid(ONE, pasid(7)), None);
        assert!(registry.is_taken(ONE, pasid(8), 5));
        assert!(!registry.is_taken(ONE, pasid(7), 5));
        assert!(!registry.is_taken(TWO, pasid(8), 5));
    }

    #[test]
    fn insert_again_is_another_binding() {
        let mut registry = Registry::default();
        let first = registry.insert(ONE, pasid(7), table(5));
        let second = registry.insert(ONE, pasid(7), table(6));
        assert!(!registry.holds(ONE, pasid(7), first));
        assert!(registry.holds(ONE, pasid(7), second));
        assert_eq!(registry.host_pasid(ONE, pasid(5)), Some(pasid(5)));
        registry.remove_device(ONE);
        assert!(registry.export().is_empty());
        assert_eq!(registry.host_pasid(ONE, pasid(6)), Some(pasid(6)));
    }
}
