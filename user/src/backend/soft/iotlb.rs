// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the IOMMU itself remembers of stage-1 tables: leaves in the IOTLB (VT-d 4.1, 6.2.4), and the
//! tables that lead there in the paging-structure caches (6.2.5). A guest that forgets to invalidate
//! one of them reaches what was there before, as it may on hardware.
//!
//! Only what is present is remembered, and stage 2 is looked up each time: what the host changes
//! there needs no invalidation here.

use crate::paging::shift;
use crate::types::{Bdf, IovaRange, Pasid};
use crate::walk::{Access, Leaf, Lower, LowerTables};
use std::collections::BTreeMap;

/// Most leaves, and most tables, that are remembered.
const MAX_ENTRIES: usize = 4096;
/// Levels of tables.
const LEVELS: u32 = 5;
/// Levels that have leaves: of 4 KiB, 2 MiB and 1 GiB.
const LEAF_LEVELS: u32 = 3;

/// Whose: the IOMMU's domain of a binding.
type Key = (Bdf, Pasid);

/// The binding, a size as a power of two, whether for supervisors, and the first address.
type LeafTag = (Key, u32, bool, u64);

/// The binding, the level of the table, and the first address that it translates.
type TableTag = (Key, u32, u64);

#[derive(Debug, Default)]
pub(super) struct Iotlb {
    leaves: BTreeMap<LeafTag, Leaf>,
    tables: BTreeMap<TableTag, Lower>,
}

fn base(address: u64, bits: u32) -> u64 {
    address >> bits << bits
}

/// Addresses that a table of a level translates, as a power of two.
fn span(level: u32) -> u32 {
    shift(level.saturating_add(1))
}

fn remember<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) {
    if map.len() >= MAX_ENTRIES {
        map.pop_first();
    }
    map.insert(key, value);
}

fn forget<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, from: K, to: K) {
    let gone: Vec<K> = map.range(from..=to).map(|(&key, _)| key).collect();
    for key in gone {
        map.remove(&key);
    }
}

impl Iotlb {
    /// Where an address leads, if that is remembered and allows the access.
    pub(super) fn leaf(&self, key: Key, address: u64, access: Access) -> Option<Leaf> {
        let mut levels = 1..=LEAF_LEVELS;
        let (bits, leaf) = levels.find_map(|level| {
            let bits = shift(level);
            let tag = (key, bits, access.privileged, base(address, bits));
            self.leaves.get(&tag).map(|leaf| (bits, *leaf))
        })?;
        let allowed = (!access.read || leaf.read) && (!access.write || leaf.write);
        let address = leaf.address | (address & ((1 << bits) - 1));
        allowed.then_some(Leaf { address, ..leaf })
    }

    /// Notes where an address was found to lead.
    pub(super) fn note(&mut self, key: Key, address: u64, privileged: bool, leaf: Leaf) {
        let bits = leaf.size_bits;
        let tag = (key, bits, privileged, base(address, bits));
        let whole = Leaf {
            address: base(leaf.address, bits),
            ..leaf
        };
        remember(&mut self.leaves, tag, whole);
    }

    /// The tables of a binding, for a walk.
    pub(super) fn tables(&mut self, key: Key) -> Tables<'_> {
        Tables { iotlb: self, key }
    }

    /// Forgets the leaves that a range touches, and the tables unless only leaves changed.
    pub(super) fn invalidate(&mut self, key: Key, range: IovaRange, leaf_only: bool) {
        let (start, last) = (range.start().0, range.last().0);
        for bits in (1..=LEAF_LEVELS).map(shift) {
            for privileged in [false, true] {
                let tag = |address| (key, bits, privileged, address);
                forget(&mut self.leaves, tag(base(start, bits)), tag(last));
            }
        }
        if !leaf_only {
            for level in 1..=LEVELS {
                let tag = |address| (key, level, address);
                let first = base(start, span(level));
                forget(&mut self.tables, tag(first), tag(last));
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.leaves.clear();
        self.tables.clear();
    }
}

/// What is remembered of the tables of one binding.
pub(super) struct Tables<'a> {
    iotlb: &'a mut Iotlb,
    key: Key,
}

impl LowerTables for Tables<'_> {
    fn lowest(&self, address: u64) -> Option<Lower> {
        (1..LEVELS).find_map(|level| {
            let tag = (self.key, level, base(address, span(level)));
            self.iotlb.tables.get(&tag).copied()
        })
    }

    fn note(&mut self, address: u64, table: Lower) {
        let tag = (self.key, table.level, base(address, span(table.level)));
        remember(&mut self.iotlb.tables, tag, table);
    }
}
