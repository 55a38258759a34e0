// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is mapped in the context, as far as a shadow has to know it.

use crate::types::{IovaRange, MapAccess};
use std::collections::BTreeMap;

/// Mappings by first address; as many as the context allows.
#[derive(Debug, Default)]
pub(super) struct Stage2(BTreeMap<u64, (u64, MapAccess)>);

impl Stage2 {
    pub(super) fn insert(&mut self, range: IovaRange, access: MapAccess) {
        self.0.insert(range.start().0, (range.last().0, access));
    }

    /// Takes out the mappings that lie in a range.
    pub(super) fn remove(&mut self, range: IovaRange) {
        let (start, end) = (range.start().0, range.last().0);
        self.0
            .retain(|&first, &mut (last, _)| first < start || last > end);
    }

    /// What is allowed at an address.
    pub(super) fn access(&self, gpa: u64) -> Option<MapAccess> {
        let (_, &(last, access)) = self.0.range(..=gpa).next_back()?;
        (last >= gpa).then_some(access)
    }

    /// Whether all of it lies in one mapping.
    pub(super) fn maps_all_of(&self, gpa: u64, gpa_last: u64) -> bool {
        let found = self.0.range(..=gpa).next_back();
        found.is_some_and(|(_, &(last, _))| last >= gpa_last)
    }

    /// The parts of addresses that are mapped, each by one mapping.
    pub(super) fn parts(
        &self,
        gpa: u64,
        gpa_last: u64,
    ) -> impl Iterator<Item = (u64, u64, MapAccess)> + '_ {
        let before = self.0.range(..gpa).next_back();
        before
            .into_iter()
            .chain(self.0.range(gpa..=gpa_last))
            .map(move |(&first, &(last, access))| (first.max(gpa), last.min(gpa_last), access))
            .filter(|(first, last, _)| first <= last)
    }
}
