// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Address spaces: entries that lead into stage 2.

use super::memory::{Page, Stage2, User, PAGE};
use super::{MAX_ADDRESS_SPACES, MAX_ADDRESS_SPACE_ENTRIES};
use crate::space::AddressSpaceEntry;
use crate::sys::Errno;
use crate::types::{Gpa, IovaRange, MapAccess};
use std::collections::BTreeMap;

/// The highest address.
const LAST: u64 = (1 << 48) - 1;

/// An entry by its first address.
#[derive(Clone, Copy, Debug)]
struct Entry {
    last: u64,
    gpa: u64,
    access: MapAccess,
}

impl Entry {
    /// The last guest-physical address. Cannot overflow: stage 2 has it.
    fn gpa_last(&self, start: u64) -> u64 {
        self.gpa.saturating_add(self.last.saturating_sub(start))
    }
}

type Space = BTreeMap<u64, Entry>;

#[derive(Debug, Default)]
pub(super) struct Spaces {
    spaces: BTreeMap<u32, Space>,
    next: u32,
    entries: usize,
}

fn whole_pages(range: IovaRange) -> Result<(u64, u64), Errno> {
    let (start, last) = (range.start().0, range.last().0);
    if start % PAGE != 0 || last % PAGE != PAGE - 1 || last > LAST {
        return Err(Errno::EINVAL);
    }
    Ok((start, last))
}

impl Spaces {
    pub(super) fn count(&self) -> usize {
        self.spaces.len()
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn find(&self, id: u32) -> Result<(), Errno> {
        self.spaces.get(&id).map(|_| ()).ok_or(Errno::ENOENT)
    }

    pub(super) fn create(&mut self) -> Result<u32, Errno> {
        if self.spaces.len() >= MAX_ADDRESS_SPACES {
            return Err(Errno::EDQUOT);
        }
        self.next = self.next.checked_add(1).ok_or(Errno::EDQUOT)?;
        self.spaces.insert(self.next, Space::new());
        Ok(self.next)
    }

    pub(super) fn remove(&mut self, id: u32, stage2: &mut Stage2) {
        if let Some(space) = self.spaces.remove(&id) {
            self.entries = self.entries.saturating_sub(space.len());
            for (start, entry) in space {
                stage2.note(entry.gpa, entry.gpa_last(start), (id, start), false);
            }
        }
    }

    /// Takes one entry out.
    pub(super) fn take_out(&mut self, (id, start): User, stage2: &mut Stage2) {
        let space = self.spaces.get_mut(&id);
        if let Some(entry) = space.and_then(|space| space.remove(&start)) {
            self.entries = self.entries.saturating_sub(1);
            stage2.note(entry.gpa, entry.gpa_last(start), (id, start), false);
        }
    }

    pub(super) fn map(
        &mut self,
        id: u32,
        entry: &AddressSpaceEntry,
        stage2: &mut Stage2,
    ) -> Result<(), Errno> {
        let space = self.spaces.get_mut(&id).ok_or(Errno::ENOENT)?;
        let (start, last) = whole_pages(entry.range)?;
        let Gpa(gpa) = entry.gpa;
        let gpa_last = gpa.checked_add(last - start).ok_or(Errno::EINVAL)?;
        if gpa % PAGE != 0 {
            return Err(Errno::EINVAL);
        }
        let below = space.range(..=last).next_back();
        if below.is_some_and(|(_, found)| found.last >= start) {
            return Err(Errno::EEXIST);
        }
        stage2.covers(gpa, gpa_last, entry.access)?;
        if self.entries >= MAX_ADDRESS_SPACE_ENTRIES {
            return Err(Errno::EDQUOT);
        }
        let access = entry.access;
        space.insert(start, Entry { last, gpa, access });
        self.entries = self.entries.saturating_add(1);
        stage2.note(gpa, gpa_last, (id, start), true);
        Ok(())
    }

    pub(super) fn unmap(
        &mut self,
        id: u32,
        range: IovaRange,
        stage2: &mut Stage2,
    ) -> Result<(), Errno> {
        let space = self.spaces.get_mut(&id).ok_or(Errno::ENOENT)?;
        let (start, last) = whole_pages(range)?;
        // Those at the ends are the only ones that the range can cut.
        let before = space.range(..start).next_back();
        let end = space.range(start..=last).next_back();
        let cut = before.is_some_and(|(_, entry)| entry.last >= start)
            || end.is_some_and(|(_, entry)| entry.last > last);
        if cut {
            return Err(Errno::EINVAL);
        }
        let inside: Vec<u64> = space.range(start..=last).map(|(&at, _)| at).collect();
        for at in inside {
            self.take_out((id, at), stage2);
        }
        Ok(())
    }

    /// The page of an address.
    pub(super) fn page(&self, id: u32, address: u64, stage2: &Stage2) -> Option<Page> {
        let space = self.spaces.get(&id)?;
        let (&start, entry) = space.range(..=address).next_back()?;
        let offset = address
            .checked_sub(start)
            .filter(|_| entry.last >= address)?;
        let page = stage2.page(entry.gpa.checked_add(offset)?)?;
        Some(Page {
            read: page.read && entry.access != MapAccess::Write,
            write: page.write && entry.access != MapAccess::Read,
            ..page
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Mapping;
    use crate::cost::expect_linear;
    use crate::sys::memory::SharedMemory;
    use crate::types::Iova;

    fn page(number: u64) -> IovaRange {
        IovaRange::sized(Iova(number * PAGE), PAGE).expect("a range")
    }

    #[test]
    fn map_and_unmap_are_linear_in_the_entries() {
        let memory = SharedMemory::new(c"spaces", 1 << 20).expect("memory");
        let made = |count| {
            let mut stage2 = Stage2::default();
            let mapped = stage2.map(&Mapping {
                memory: &memory,
                offset: 0,
                range: IovaRange::sized(Iova(0), 1 << 20).expect("a range"),
                access: MapAccess::ReadWrite,
            });
            mapped.expect("mapped");
            let mut spaces = Spaces::default();
            let id = spaces.create().expect("a space");
            (stage2, spaces, id, count as u64)
        };
        expect_linear(made, |(stage2, spaces, id, count)| {
            for number in 0..*count {
                let entry = AddressSpaceEntry {
                    range: page(number),
                    gpa: Gpa(number % 256 * PAGE),
                    access: MapAccess::ReadWrite,
                };
                spaces.map(*id, &entry, stage2).expect("mapped");
            }
            for number in 0..*count {
                spaces.unmap(*id, page(number), stage2).expect("unmapped");
            }
            assert_eq!(spaces.entries(), 0);
        });
    }

    #[test]
    fn unmap_of_memory_is_linear_in_the_mappings() {
        let memory = SharedMemory::new(c"spaces", PAGE as usize).expect("memory");
        let made = |count| {
            let (mut stage2, mut spaces) = (Stage2::default(), Spaces::default());
            let id = spaces.create().expect("a space");
            for number in 0..count as u64 {
                let mapped = stage2.map(&Mapping {
                    memory: &memory,
                    offset: 0,
                    range: page(number),
                    access: MapAccess::ReadWrite,
                });
                mapped.expect("mapped");
                let entry = AddressSpaceEntry {
                    range: page(number),
                    gpa: Gpa(number * PAGE),
                    access: MapAccess::ReadWrite,
                };
                spaces.map(id, &entry, &mut stage2).expect("mapped");
            }
            (stage2, spaces, count as u64)
        };
        expect_linear(made, |(stage2, spaces, count)| {
            for number in 0..*count {
                let (_, users) = stage2.unmap(page(number)).expect("unmapped");
                for user in users {
                    spaces.take_out(user, stage2);
                }
            }
            assert_eq!(spaces.entries(), 0);
        });
    }
}
