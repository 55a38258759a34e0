// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is mapped: stage 2, and the address spaces that lead into it.
//!
//! iommufd unmaps what it can before it refuses a range that cuts a mapping, tells nothing of what
//! is mapped, and knows no address spaces that lead into another: that is kept here.

use super::{MAX_ADDRESS_SPACES, MAX_ADDRESS_SPACE_ENTRIES, MAX_MAPPINGS};
use crate::context::Mapping;
use crate::space::AddressSpaceEntry;
use crate::sys::{iommufd, Errno};
use crate::types::{IovaRange, MapAccess};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

const PAGE: u64 = 4096;

fn access_flags(access: MapAccess) -> u32 {
    match access {
        MapAccess::Read => iommufd::READABLE,
        MapAccess::Write => iommufd::WRITEABLE,
        MapAccess::ReadWrite => iommufd::READABLE | iommufd::WRITEABLE,
    }
}

/// An address beyond the kernel's last is one that cannot be mapped.
fn beyond_is_invalid(errno: Errno) -> Errno {
    match errno {
        Errno::EOVERFLOW => Errno::EINVAL,
        other => other,
    }
}

/// The first and last byte of whole pages.
fn whole_pages(range: IovaRange) -> Result<(u64, u64), Errno> {
    let (start, last) = (range.start().0, range.last().0);
    if start % PAGE != 0 || last % PAGE != PAGE - 1 {
        return Err(Errno::EINVAL);
    }
    Ok((start, last))
}

/// Ranges that do not overlap, each with something.
#[derive(Debug)]
struct Ranges<T>(BTreeMap<u64, (u64, T)>);

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Ranges<T> {
    /// Those that lie in `start..=last`.
    ///
    /// # Errors
    ///
    /// EINVAL if one lies in it in part.
    fn within(&self, start: u64, last: u64) -> Result<Vec<(u64, u64)>, Errno> {
        let before = self.0.range(..start).next_back();
        if before.is_some_and(|(_, &(end, _))| end >= start) {
            return Err(Errno::EINVAL);
        }
        let mut found = Vec::new();
        for (&first, &(end, _)) in self.0.range(start..=last) {
            if end > last {
                return Err(Errno::EINVAL);
            }
            found.push((first, end));
        }
        Ok(found)
    }
}

/// An address space: an IOAS whose mappings are those of stage 2.
#[derive(Debug)]
struct Space {
    ioas: u32,
    /// Each entry with where in stage 2 it leads to.
    entries: Ranges<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Maps {
    stage2: Ranges<()>,
    pages: u64,
    spaces: BTreeMap<u32, Space>,
    next_space: u32,
    entries: usize,
    /// Whether dirty pages may be asked for.
    pub(super) tracking: bool,
}

impl Maps {
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn left(&self) -> usize {
        MAX_MAPPINGS.saturating_sub(self.stage2.0.len())
    }

    /// Address spaces and entries.
    pub(super) fn spaces(&self) -> (usize, usize) {
        (self.spaces.len(), self.entries)
    }

    pub(super) fn map(
        &mut self,
        fd: BorrowedFd<'_>,
        ioas: u32,
        mapping: &Mapping<'_>,
    ) -> Result<(), Errno> {
        let size = mapping.range.size().ok_or(Errno::EINVAL)?;
        let (start, last) = whole_pages(mapping.range)?;
        if self.left() == 0 {
            return Err(Errno::ENOSPC);
        }
        let to = (ioas, access_flags(mapping.access));
        iommufd::ioas_map_part(fd, to, mapping.memory, mapping.offset, start, size)
            .map_err(beyond_is_invalid)?;
        self.stage2.0.insert(start, (last, ()));
        self.pages = self.pages.saturating_add(size / PAGE);
        Ok(())
    }

    /// Unmaps whole mappings, after what leads into them; gives the bytes.
    pub(super) fn unmap(
        &mut self,
        fd: BorrowedFd<'_>,
        ioas: u32,
        range: IovaRange,
    ) -> Result<u64, Errno> {
        let (start, last) = whole_pages(range)?;
        let found = self.stage2.within(start, last)?;
        let (Some(&(start, _)), Some(&(_, last))) = (found.first(), found.last()) else {
            return Ok(0);
        };
        self.zap(fd, start, last)?;
        // Cannot overflow: mappings end below 2^64, and iommufd has none of the last byte.
        let bytes = iommufd::ioas_unmap(fd, ioas, start, last - start + 1)?;
        for (first, _) in found {
            self.stage2.0.remove(&first);
        }
        self.pages = self.pages.saturating_sub(bytes / PAGE);
        Ok(bytes)
    }

    /// Takes out the entries of address spaces that lead into a part of stage 2.
    fn zap(&mut self, fd: BorrowedFd<'_>, start: u64, last: u64) -> Result<(), Errno> {
        for space in self.spaces.values_mut() {
            let entries = space.entries.0.iter();
            let leads_there = |first: u64, end: u64, gpa: u64| {
                gpa <= last && gpa.saturating_add(end - first) >= start
            };
            let gone: Vec<(u64, u64)> = entries
                .filter(|(&first, &(end, gpa))| leads_there(first, end, gpa))
                .map(|(&first, &(end, _))| (first, end))
                .collect();
            for (first, end) in gone {
                iommufd::ioas_unmap(fd, space.ioas, first, end - first + 1)?;
                space.entries.0.remove(&first);
                self.entries = self.entries.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Checks that a range is that of one mapping or of adjacent ones.
    pub(super) fn check_adjacent(&self, range: IovaRange) -> Result<(), Errno> {
        let (start, last) = whole_pages(range)?;
        let mut next = Some(start);
        for (first, end) in self.stage2.within(start, last)? {
            if next != Some(first) {
                return Err(Errno::EINVAL);
            }
            next = end.checked_add(1);
        }
        if next == last.checked_add(1) {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    pub(super) fn create(&mut self, fd: BorrowedFd<'_>) -> Result<u32, Errno> {
        if self.spaces.len() >= MAX_ADDRESS_SPACES {
            return Err(Errno::EDQUOT);
        }
        let id = self.next_space;
        self.next_space = id.checked_add(1).ok_or(Errno::EDQUOT)?;
        let space = Space {
            ioas: iommufd::ioas_alloc(fd)?,
            entries: Ranges::default(),
        };
        self.spaces.insert(id, space);
        Ok(id)
    }

    /// The IOAS of an address space.
    pub(super) fn ioas(&self, id: u32) -> Result<u32, Errno> {
        Ok(self.spaces.get(&id).ok_or(Errno::ENOENT)?.ioas)
    }

    /// Destroys an address space that is not bound.
    pub(super) fn destroy(&mut self, fd: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
        iommufd::destroy(fd, self.ioas(id)?)?;
        if let Some(space) = self.spaces.remove(&id) {
            self.entries = self.entries.saturating_sub(space.entries.0.len());
        }
        Ok(())
    }

    pub(super) fn map_space(
        &mut self,
        fd: BorrowedFd<'_>,
        stage2: u32,
        id: u32,
        entry: &AddressSpaceEntry,
    ) -> Result<(), Errno> {
        let space = self.spaces.get_mut(&id).ok_or(Errno::ENOENT)?;
        let (start, last) = whole_pages(entry.range)?;
        let size = entry.range.size().ok_or(Errno::EINVAL)?;
        if entry.gpa.0 % PAGE != 0 {
            return Err(Errno::EINVAL);
        }
        if self.entries >= MAX_ADDRESS_SPACE_ENTRIES {
            return Err(Errno::EDQUOT);
        }
        let (from, to) = ((stage2, entry.gpa.0), (space.ioas, start));
        iommufd::ioas_copy(fd, from, to, size, access_flags(entry.access)).map_err(|errno| {
            match beyond_is_invalid(errno) {
                // Not all of it is mapped.
                Errno::ENOENT => Errno::EFAULT,
                other => other,
            }
        })?;
        space.entries.0.insert(start, (last, entry.gpa.0));
        self.entries = self.entries.saturating_add(1);
        Ok(())
    }

    /// Takes out the entries that lie in a range.
    pub(super) fn unmap_space(
        &mut self,
        fd: BorrowedFd<'_>,
        id: u32,
        range: IovaRange,
    ) -> Result<(), Errno> {
        let space = self.spaces.get_mut(&id).ok_or(Errno::ENOENT)?;
        let (start, last) = whole_pages(range)?;
        for (first, end) in space.entries.within(start, last)? {
            iommufd::ioas_unmap(fd, space.ioas, first, end - first + 1)?;
            space.entries.0.remove(&first);
            self.entries = self.entries.saturating_sub(1);
        }
        Ok(())
    }

    /// Gives back everything, whoever keeps the iommufd open.
    pub(super) fn end(&mut self, fd: BorrowedFd<'_>, ioas: u32) {
        // What cannot be given back goes with the iommufd.
        for id in self.spaces.keys().copied().collect::<Vec<_>>() {
            let _ = self.destroy(fd, id);
        }
        let _ = iommufd::destroy(fd, ioas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_gives_whole_ranges_and_refuses_a_cut() {
        let mut ranges = Ranges::default();
        for (start, last) in [(0x4000, 0x5fff), (0x8000, 0x8fff)] {
            ranges.0.insert(start, (last, ()));
        }
        assert_eq!(ranges.within(0x1000, 0x3fff), Ok(vec![]));
        assert_eq!(ranges.within(0x4000, 0x5fff), Ok(vec![(0x4000, 0x5fff)]));
        assert_eq!(
            ranges.within(0, u64::MAX),
            Ok(vec![(0x4000, 0x5fff), (0x8000, 0x8fff)])
        );
        for (start, last) in [(0x4000, 0x4fff), (0x5000, 0x5fff), (0x5fff, 0x8fff)] {
            assert_eq!(ranges.within(start, last), Err(Errno::EINVAL), "{start:#x}");
        }
    }

    #[test]
    fn check_adjacent_takes_no_gap() {
        let mut maps = Maps::default();
        for (start, last) in [(0x4000, 0x5fff), (0x6000, 0x6fff), (0x8000, 0x8fff)] {
            maps.stage2.0.insert(start, (last, ()));
        }
        let check = |start, last| {
            let range = IovaRange::new(crate::types::Iova(start), crate::types::Iova(last));
            maps.check_adjacent(range.ok_or(Errno::ERANGE)?)
        };
        for (start, last) in [(0x4000, 0x5fff), (0x4000, 0x6fff), (0x8000, 0x8fff)] {
            assert_eq!(check(start, last), Ok(()), "{start:#x}..={last:#x}");
        }
        for (start, last) in [
            (0x4000, 0x8fff),
            (0x5000, 0x5fff),
            (0x7000, 0x8fff),
            (0x4000, 0x7fff),
            (0x1000, 0x1fff),
            (0x4000, 0x5ffe),
        ] {
            assert_eq!(
                check(start, last),
                Err(Errno::EINVAL),
                "{start:#x}..={last:#x}"
            );
        }
    }
}
