// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stage 2: ranges of guest-physical addresses, each a mapping of a file.

use super::MAX_MAPPINGS;
use crate::context::Mapping;
use crate::sys::Errno;
use crate::types::{Iova, IovaRange, MapAccess};
use crate::walk::{reason, Access, TableMemory};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};

pub(super) const PAGE: u64 = 4096;
/// Any multiple of a page.
pub(super) const PAGE_SIZES: u64 = PAGE | 1 << 21 | 1 << 30;

/// Where interrupts are written to (VT-d 4.1, 3.15): nothing is mapped there.
const INTERRUPTS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);
/// The highest address of stage 2.
const LAST: u64 = (1 << 48) - 1;

/// What can be mapped.
pub(super) fn ranges() -> Vec<IovaRange> {
    let below = IovaRange::new(Iova(0), Iova(INTERRUPTS.0 - 1));
    let above = IovaRange::new(Iova(INTERRUPTS.1 + 1), Iova(LAST));
    below.into_iter().chain(above).collect()
}

/// A mapping of the file's, kept for devices.
#[derive(Debug)]
pub(super) struct Memory(MmapRegion<()>);

impl Memory {
    /// Reads a u64 at a multiple of 8, as one access.
    pub(super) fn load(&self, offset: usize) -> Option<u64> {
        let place = self.0.get_atomic_ref::<AtomicU64>(offset).ok()?;
        Some(u64::from_le(place.load(Ordering::Acquire)))
    }

    /// Replaces `old` by `new`; false if something else is there.
    pub(super) fn replace(&self, offset: usize, old: u64, new: u64) -> Option<bool> {
        let place = self.0.get_atomic_ref::<AtomicU64>(offset).ok()?;
        let (old, new) = (old.to_le(), new.to_le());
        let done = place.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
        Some(done.is_ok())
    }

    /// Adds to a u64 at a multiple of 8; gives what was there.
    pub(super) fn fetch_add(&self, offset: usize, addend: u64) -> Option<u64> {
        let place = self.0.get_atomic_ref::<AtomicU64>(offset).ok()?;
        let add = |value: u64| Some(u64::from_le(value).wrapping_add(addend).to_le());
        let old = place.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        old.ok().map(u64::from_le)
    }

    pub(super) fn read(&self, offset: usize, to: &mut [u8]) -> Option<()> {
        let slice = self.0.get_slice(offset, to.len()).ok()?;
        slice.read_slice(to, 0).ok()
    }

    pub(super) fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        let slice = self.0.get_slice(offset, from.len()).ok()?;
        slice.write_slice(from, 0).ok()
    }
}

/// A page of 4 KiB that a device may use.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) memory: Arc<Memory>,
    /// Of the page's first byte.
    pub(super) offset: usize,
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Page {
    /// Whether it may be used so.
    ///
    /// # Errors
    ///
    /// The IOMMU's reason why not.
    pub(super) fn allow(&self, access: Access) -> Result<(), u32> {
        if access.write && !self.write {
            return Err(reason::NOT_WRITABLE);
        }
        if access.read && !self.read {
            return Err(reason::NOT_READABLE);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Map {
    last: u64,
    memory: Arc<Memory>,
    access: MapAccess,
    /// Entries of address spaces that lead here.
    users: BTreeSet<User>,
}

/// An entry of an address space: the number of the space and the entry's first address.
pub(super) type User = (u32, u64);

#[derive(Debug, Default)]
pub(super) struct Stage2 {
    /// By first address; they do not overlap.
    maps: BTreeMap<u64, Map>,
    pages: u64,
    files: Files,
}

/// The files that are mapped, each open once by its device and inode: a descriptor for each mapping
/// would be more than a process may have.
#[derive(Debug, Default)]
struct Files(BTreeMap<(u64, u64), Weak<File>>);

impl Files {
    fn open(&mut self, fd: BorrowedFd<'_>, maps: usize) -> Result<Arc<File>, Errno> {
        let file = File::from(fd.try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
        let about = file.metadata().map_err(|_| Errno::EBADF)?;
        let inode = (about.dev(), about.ino());
        if let Some(known) = self.0.get(&inode).and_then(Weak::upgrade) {
            return Ok(known);
        }
        // Those that are not mapped any more are forgotten when there may be many of them.
        if self.0.len() > 2 * maps + 16 {
            self.0.retain(|_, file| file.strong_count() != 0);
        }
        let file = Arc::new(file);
        self.0.insert(inode, Arc::downgrade(&file));
        Ok(file)
    }
}

impl Stage2 {
    pub(super) fn count(&self) -> usize {
        self.maps.len()
    }

    /// Pages of 4 KiB mapped.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// The first mapping that ends at `address` or later.
    fn at_or_after(&self, address: u64) -> Option<(u64, &Map)> {
        let before = self.maps.range(..=address).next_back();
        before
            .filter(|(_, map)| map.last >= address)
            .or_else(|| self.maps.range(address..).next())
            .map(|(&start, map)| (start, map))
    }

    pub(super) fn map(&mut self, mapping: &Mapping<'_>) -> Result<(), Errno> {
        let (start, last) = (mapping.range.start().0, mapping.range.last().0);
        let size = mapping.range.size().ok_or(Errno::EINVAL)?;
        let end = mapping.offset.checked_add(size).ok_or(Errno::EINVAL)?;
        let inside = ranges()
            .iter()
            .any(|range| range.start().0 <= start && last <= range.last().0);
        let len = u64::try_from(mapping.memory.len()).map_err(|_| Errno::EINVAL)?;
        if (start | size | mapping.offset) % PAGE != 0 || !inside || end > len {
            return Err(Errno::EINVAL);
        }
        if self
            .at_or_after(start)
            .is_some_and(|(found, _)| found <= last)
        {
            return Err(Errno::EEXIST);
        }
        if self.maps.len() >= MAX_MAPPINGS {
            return Err(Errno::ENOSPC);
        }
        let (fd, first) = mapping.memory.file().ok_or(Errno::EOPNOTSUPP)?;
        let file = self.files.open(fd, self.maps.len())?;
        let at = first.checked_add(mapping.offset).ok_or(Errno::EINVAL)?;
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        let region = MmapRegion::from_file(FileOffset::from_arc(file, at), size);
        let memory = Arc::new(Memory(region.map_err(|_| Errno::ENOMEM)?));
        let map = Map {
            last,
            memory,
            access: mapping.access,
            users: BTreeSet::new(),
        };
        self.maps.insert(start, map);
        self.pages = self.pages.saturating_add(size as u64 / PAGE);
        Ok(())
    }

    /// Takes out the mappings in a range, none of which may reach beyond it; gives the bytes, and the
    /// entries that lead there.
    pub(super) fn unmap(&mut self, range: IovaRange) -> Result<(u64, BTreeSet<User>), Errno> {
        let (start, last) = (range.start().0, range.last().0);
        if start % PAGE != 0 || last % PAGE != PAGE - 1 {
            return Err(Errno::EINVAL);
        }
        let first = self.at_or_after(start).filter(|(found, _)| *found <= last);
        let final_one = self.maps.range(..=last).next_back();
        let cut = first.is_some_and(|(found, _)| found < start)
            || final_one.is_some_and(|(&found, map)| found >= start && map.last > last);
        if cut {
            return Err(Errno::EINVAL);
        }
        let gone: Vec<u64> = self.maps.range(start..=last).map(|(&at, _)| at).collect();
        let (mut bytes, mut users) = (0u64, BTreeSet::new());
        for at in gone {
            if let Some(mut map) = self.maps.remove(&at) {
                // Cannot overflow: mappings are disjoint and below 2^48.
                bytes += map.last - at + 1;
                users.append(&mut map.users);
            }
        }
        self.pages = self.pages.saturating_sub(bytes / PAGE);
        Ok((bytes, users))
    }

    /// The first address of each mapping that a range lies in; those that it does not are left out.
    fn mappings_of(&self, start: u64, last: u64) -> Vec<u64> {
        let first = self.at_or_after(start).map_or(start, |(found, _)| found);
        let inside = self.maps.range(first..=last.max(first));
        let inside = inside.filter(|(&found, _)| found <= last);
        inside.map(|(&found, _)| found).collect()
    }

    /// Notes an entry that leads to a range, or forgets it.
    pub(super) fn note(&mut self, start: u64, last: u64, user: User, leads_there: bool) {
        for at in self.mappings_of(start, last) {
            if let Some(map) = self.maps.get_mut(&at) {
                if leads_there {
                    map.users.insert(user);
                } else {
                    map.users.remove(&user);
                }
            }
        }
    }

    /// Whether all of a range is mapped with this access.
    pub(super) fn covers(&self, start: u64, last: u64, access: MapAccess) -> Result<(), Errno> {
        let mut next = start;
        loop {
            let found = self.at_or_after(next).filter(|(found, _)| *found <= next);
            let (_, map) = found.ok_or(Errno::EFAULT)?;
            if map.access != MapAccess::ReadWrite && map.access != access {
                return Err(Errno::EPERM);
            }
            if map.last >= last {
                return Ok(());
            }
            next = map.last.saturating_add(1);
        }
    }

    /// Every page that is mapped counts as dirty: nothing tells which are not. The range must be
    /// that of adjacent mappings.
    pub(super) fn dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> Result<(), Errno> {
        let (start, last) = (range.start().0, range.last().0);
        let first = self.maps.get(&start).ok_or(Errno::EINVAL)?;
        let (_, end) = self.at_or_after(last).ok_or(Errno::EINVAL)?;
        if first.last > last || end.last != last {
            return Err(Errno::EINVAL);
        }
        for (&found, map) in self.maps.range(start..=last) {
            for page in (found..=map.last).step_by(PAGE as usize) {
                let number = (page - start) / PAGE;
                let word = usize::try_from(number / 64).map_err(|_| Errno::EINVAL)?;
                let word = bitmap.get_mut(word).ok_or(Errno::EINVAL)?;
                *word |= 1 << (number % 64);
            }
        }
        Ok(())
    }

    /// The page of a guest-physical address.
    pub(super) fn page(&self, gpa: u64) -> Option<Page> {
        let (start, map) = self.at_or_after(gpa).filter(|(found, _)| *found <= gpa)?;
        let offset = usize::try_from((gpa - start) & !(PAGE - 1)).ok()?;
        Some(Page {
            memory: map.memory.clone(),
            offset,
            read: map.access != MapAccess::Write,
            write: map.access != MapAccess::Read,
        })
    }
}

impl TableMemory for Stage2 {
    fn read(&self, at: u64) -> Option<u64> {
        let page = self.page(at).filter(|page| page.read)?;
        page.memory
            .load(page.offset.checked_add((at % PAGE) as usize)?)
    }

    fn replace(&self, at: u64, old: u64, new: u64) -> Option<bool> {
        let page = self.page(at).filter(|page| page.write)?;
        let offset = page.offset.checked_add((at % PAGE) as usize)?;
        page.memory.replace(offset, old, new)
    }

    fn reach(&self, at: u64, access: Access) -> Result<(), u32> {
        let page = self.page(at).ok_or(reason::STAGE2)?;
        page.allow(access)
    }

    fn address_bits(&self) -> u32 {
        (LAST + 1).ilog2()
    }

    fn unreadable(&self, root: bool) -> u32 {
        if root {
            reason::ROOT_NOT_READABLE
        } else {
            reason::ENTRY_NOT_READABLE
        }
    }

    fn unwritable(&self) -> u32 {
        reason::ENTRY_NOT_WRITABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::SharedMemory;

    fn map(stage2: &mut Stage2, memory: &SharedMemory, at: u64, size: u64) -> Result<(), Errno> {
        stage2.map(&Mapping {
            memory,
            offset: 0,
            range: IovaRange::sized(Iova(at), size).ok_or(Errno::EINVAL)?,
            access: MapAccess::ReadWrite,
        })
    }

    fn unmap(stage2: &mut Stage2, start: u64, last: u64) -> Result<u64, Errno> {
        let range = IovaRange::new(Iova(start), Iova(last)).ok_or(Errno::EINVAL)?;
        Ok(stage2.unmap(range)?.0)
    }

    #[test]
    fn file_is_open_once_for_all_its_mappings() -> Result<(), Errno> {
        let memory = SharedMemory::new(c"stage 2", PAGE as usize)?;
        let mut stage2 = Stage2::default();
        for number in 0..100 {
            map(&mut stage2, &memory, number * PAGE, PAGE)?;
        }
        let open = |stage2: &Stage2| -> Vec<usize> {
            let files = stage2.files.0.values();
            files.map(Weak::strong_count).collect()
        };
        assert_eq!(open(&stage2), [100]);
        unmap(&mut stage2, 0, 100 * PAGE - 1)?;
        assert_eq!(open(&stage2), [0]);
        // Others come and go: not all of them are remembered.
        for _ in 0..100 {
            let memory = SharedMemory::new(c"stage 2", PAGE as usize)?;
            map(&mut stage2, &memory, 0, PAGE)?;
            unmap(&mut stage2, 0, PAGE - 1)?;
        }
        assert!(open(&stage2).len() < 20);
        Ok(())
    }

    #[test]
    fn unmap_tells_the_entries_that_lead_there() -> Result<(), Errno> {
        let memory = SharedMemory::new(c"stage 2", 4 * PAGE as usize)?;
        let mut stage2 = Stage2::default();
        for at in [0x4000, 0x5000, 0x8000] {
            map(&mut stage2, &memory, at, PAGE)?;
        }
        // One entry over two mappings, one in the third.
        stage2.note(0x4000, 0x5fff, (1, 0), true);
        stage2.note(0x8000, 0x8fff, (2, 0x1000), true);
        let range = |start, last| IovaRange::new(Iova(start), Iova(last)).ok_or(Errno::EINVAL);
        let (bytes, users) = stage2.unmap(range(0x5000, 0x5fff)?)?;
        assert_eq!((bytes, users), (PAGE, BTreeSet::from([(1, 0)])));
        stage2.note(0x4000, 0x5fff, (1, 0), false);
        let (bytes, users) = stage2.unmap(range(0, 0xffff)?)?;
        assert_eq!((bytes, users), (2 * PAGE, BTreeSet::from([(2, 0x1000)])));
        Ok(())
    }

    #[test]
    fn map_keeps_ranges_apart() -> Result<(), Errno> {
        let memory = SharedMemory::new(c"stage 2", 4 * PAGE as usize)?;
        let mut stage2 = Stage2::default();
        map(&mut stage2, &memory, 0x4000, 2 * PAGE)?;
        for (at, size) in [
            (0x3000, 2 * PAGE),
            (0x4000, PAGE),
            (0x5000, PAGE),
            (0, 4 * PAGE),
        ] {
            let expected = if at == 0 { Ok(()) } else { Err(Errno::EEXIST) };
            assert_eq!(map(&mut stage2, &memory, at, size), expected, "{at:#x}");
        }
        assert_eq!(map(&mut stage2, &memory, 0x6000, PAGE), Ok(()));
        assert_eq!(stage2.pages(), 7);
        for at in [INTERRUPTS.0, INTERRUPTS.1 - 0xfff, LAST + 1, 0x8001] {
            assert_eq!(map(&mut stage2, &memory, at, PAGE), Err(Errno::EINVAL));
        }
        assert_eq!(
            map(&mut stage2, &memory, 0x8000, 5 * PAGE),
            Err(Errno::EINVAL)
        );
        Ok(())
    }

    #[test]
    fn unmap_takes_whole_mappings_only() -> Result<(), Errno> {
        let memory = SharedMemory::new(c"stage 2", 4 * PAGE as usize)?;
        let mut stage2 = Stage2::default();
        map(&mut stage2, &memory, 0x4000, 2 * PAGE)?;
        map(&mut stage2, &memory, 0x8000, PAGE)?;
        assert_eq!(unmap(&mut stage2, 0x4000, 0x4fff), Err(Errno::EINVAL));
        assert_eq!(unmap(&mut stage2, 0x5000, 0x8fff), Err(Errno::EINVAL));
        assert_eq!(unmap(&mut stage2, 0x1000, 0x4fff), Err(Errno::EINVAL));
        assert_eq!(unmap(&mut stage2, 0x6000, 0x7fff), Ok(0));
        assert_eq!(unmap(&mut stage2, 0x3000, 0x8fff), Ok(3 * PAGE));
        assert_eq!((stage2.pages(), stage2.count()), (0, 0));
        Ok(())
    }

    #[test]
    fn page_ends_with_its_mapping() -> Result<(), Errno> {
        let memory = SharedMemory::new(c"stage 2", 4 * PAGE as usize)?;
        let mut stage2 = Stage2::default();
        map(&mut stage2, &memory, 0x4000, 2 * PAGE)?;
        memory.store(PAGE + 8, 77);
        let page = stage2.page(0x5123).ok_or(Errno::ENOENT)?;
        assert_eq!(page.memory.load(page.offset + 8), Some(77));
        assert!(stage2.page(0x3fff).is_none());
        assert!(stage2.page(0x6000).is_none());
        Ok(())
    }
}
