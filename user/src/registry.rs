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
    /// The device's stay in the context: another one after it has left and come back.
    stay: u64,
    translation: Translation,
}

/// PASIDs in a row that were allocated, by the first of them.
#[derive(Debug)]
struct Allocated {
    last: Pasid,
    epoch: u64,
}

impl Entry {
    fn guest(&self, pasid: Pasid) -> u32 {
        self.translation.guest_pasid().unwrap_or(pasid.get())
    }
}

/// What a context has given out. Bounded by the quotas of the host, which has each of it.
///
/// Everything has a name that is never used again: a value that holds the name of something that
/// the host has forgotten, and perhaps given out anew, has no say.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next: u64,
    /// Pages of 4 KiB that were mapped and not unmapped.
    pub(crate) mapped_pages: u64,
    allocated: BTreeMap<Pasid, Allocated>,
    /// Address spaces with their names here; the host's numbers may begin anew.
    spaces: BTreeMap<u32, u64>,
    bound: BTreeMap<(Bdf, Pasid), Entry>,
    /// The stay of all that is bound at a device, where they have one in common: there it takes no look at
    /// each to see that nothing is of another.
    stays: BTreeMap<Bdf, u64>,
    /// The host's PASID of each guest PASID that is bound.
    guests: BTreeMap<(Bdf, u32), Pasid>,
}

impl Registry {
    /// Whether a guest PASID is bound already at another PASID of the device.
    pub(crate) fn is_taken(&self, device: Bdf, pasid: Pasid, guest: u32) -> bool {
        let found = self.guests.get(&(device, guest));
        pasid != Pasid::RID && found.is_some_and(|&bound| bound != pasid)
    }

    fn name(&mut self) -> u64 {
        let name = self.next;
        self.next = name.wrapping_add(1);
        name
    }

    /// Notes PASIDs that the host has just given; gives their name. Whoever had one of them before
    /// has it no more: the host had forgotten it.
    pub(crate) fn allocate(&mut self, first: Pasid, count: u32) -> u64 {
        let last = first.checked_add(count.saturating_sub(1));
        let last = last.unwrap_or(Pasid::MAX);
        let below = self.allocated.range(..=last).rev();
        let stale: Vec<Pasid> = below
            .take_while(|(_, found)| found.last >= first)
            .map(|(&start, _)| start)
            .collect();
        for start in stale {
            self.allocated.remove(&start);
        }
        let epoch = self.name();
        self.allocated.insert(first, Allocated { last, epoch });
        epoch
    }

    /// Whether PASIDs from `first` on are still those of that name.
    pub(crate) fn has_allocated(&self, first: Pasid, epoch: u64) -> bool {
        let found = self.allocated.get(&first);
        found.is_some_and(|found| found.epoch == epoch)
    }

    pub(crate) fn free(&mut self, first: Pasid) {
        self.allocated.remove(&first);
    }

    /// Notes an address space that the host has just made; gives its name here.
    pub(crate) fn create_space(&mut self, id: u32) -> u64 {
        let name = self.name();
        self.spaces.insert(id, name);
        name
    }

    /// Whether an address space is still that of the name.
    pub(crate) fn has_space(&self, id: u32, name: u64) -> bool {
        self.spaces.get(&id) == Some(&name)
    }

    pub(crate) fn destroy_space(&mut self, id: u32) {
        self.spaces.remove(&id);
    }

    /// The devices that something is bound at.
    pub(crate) fn devices(&self) -> Vec<Bdf> {
        let mut devices: Vec<Bdf> = self.bound.keys().map(|key| key.0).collect();
        devices.dedup();
        devices
    }

    fn at(&self, device: Bdf) -> impl Iterator<Item = (Pasid, &Entry)> {
        let all = (device, Pasid::RID)..=(device, Pasid::MAX);
        self.bound.range(all).map(|(key, entry)| (key.1, entry))
    }

    /// Forgets what went with a device: it is in the context for this stay, or not at all.
    pub(crate) fn settle(&mut self, device: Bdf, stay: Option<u64>) {
        if stay.is_some() && self.stays.get(&device) == stay.as_ref() {
            return;
        }
        let gone = self
            .at(device)
            .filter(|(_, entry)| Some(entry.stay) != stay);
        let gone: Vec<Pasid> = gone.map(|(pasid, _)| pasid).collect();
        for pasid in gone {
            self.remove(device, pasid);
        }
        if let Some(stay) = stay.filter(|_| self.at(device).next().is_some()) {
            self.stays.insert(device, stay);
        }
    }

    /// Notes a binding, in place of one that was there; gives its name.
    pub(crate) fn insert(
        &mut self,
        device: Bdf,
        pasid: Pasid,
        stay: u64,
        translation: Translation,
    ) -> u64 {
        self.remove(device, pasid);
        if self.at(device).next().is_none() {
            self.stays.insert(device, stay);
        } else if self.stays.get(&device) != Some(&stay) {
            self.stays.remove(&device);
        }
        let id = self.name();
        let entry = Entry {
            id,
            stay,
            translation,
        };
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
            if self.at(device).next().is_none() {
                self.stays.remove(&device);
            }
        }
    }

    pub(crate) fn remove_device(&mut self, device: Bdf) {
        self.settle(device, None);
    }

    pub(crate) fn clear(&mut self) {
        self.bound.clear();
        self.guests.clear();
        self.stays.clear();
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
    use crate::nesting::GuestTable;
    use crate::types::Gpa;

    const ONE: Bdf = Bdf::new(0, 0, 8);
    const TWO: Bdf = Bdf::new(0, 0, 16);

    fn pasid(number: u32) -> Pasid {
        number.try_into().expect("a PASID")
    }

    fn table(guest: u32) -> Translation {
        let table = GuestTable::four_level(Gpa(0));
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
        registry.insert(ONE, pasid(100), 0, table(5));
        registry.insert(TWO, pasid(200), 0, table(5));
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
        registry.insert(ONE, pasid(7), 0, table(5));
        assert_eq!(registry.host_pasid(ONE, pasid(7)), None);
        assert!(registry.is_taken(ONE, pasid(8), 5));
        assert!(!registry.is_taken(ONE, pasid(7), 5));
        assert!(!registry.is_taken(TWO, pasid(8), 5));
    }

    #[test]
    fn insert_again_is_another_binding() {
        let mut registry = Registry::default();
        let first = registry.insert(ONE, pasid(7), 0, table(5));
        let second = registry.insert(ONE, pasid(7), 0, table(6));
        assert!(!registry.holds(ONE, pasid(7), first));
        assert!(registry.holds(ONE, pasid(7), second));
        assert_eq!(registry.host_pasid(ONE, pasid(5)), Some(pasid(5)));
        registry.remove_device(ONE);
        assert!(registry.export().is_empty());
        assert_eq!(registry.host_pasid(ONE, pasid(6)), Some(pasid(6)));
    }

    #[test]
    fn settle_forgets_other_stays_and_no_other_device() {
        let mut registry = Registry::default();
        let old = registry.insert(ONE, pasid(7), 1, table(5));
        let new = registry.insert(ONE, pasid(8), 2, table(6));
        let other = registry.insert(TWO, pasid(7), 1, table(5));
        registry.settle(ONE, Some(2));
        assert!(!registry.holds(ONE, pasid(7), old));
        assert!(registry.holds(ONE, pasid(8), new));
        assert!(registry.holds(TWO, pasid(7), other));
        assert!(!registry.is_taken(ONE, pasid(9), 5));
        registry.settle(ONE, None);
        assert_eq!(registry.devices(), [TWO]);
    }

    #[test]
    fn allocate_takes_the_say_from_whoever_had_one_of_them() {
        let mut registry = Registry::default();
        let low = registry.allocate(pasid(1), 4);
        let middle = registry.allocate(pasid(10), 10);
        let high = registry.allocate(pasid(30), 1);
        let new = registry.allocate(pasid(4), 10);
        assert!(!registry.has_allocated(pasid(1), low));
        assert!(!registry.has_allocated(pasid(10), middle));
        assert!(registry.has_allocated(pasid(30), high));
        assert!(registry.has_allocated(pasid(4), new));
        registry.free(pasid(4));
        assert!(!registry.has_allocated(pasid(4), new));
    }
}
