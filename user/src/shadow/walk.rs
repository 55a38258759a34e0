// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk of a guest's table over a range, page by page of what it maps (VT-d 4.1, 3.6, 3.7,
//! 9.7 to 9.9).

use super::stage2::Stage2;
use crate::nesting::{GuestTable, TableFormat};
use crate::paging::{
    has_reserved, is_leaf, levels, offset_mask, shift, translated, FirstStageEntry,
    SecondStageEntry, ADDRESS, ADDRESS_BITS, ENTRY_SIZE,
};
use crate::sys::Errno;
use crate::types::MapAccess;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileMemory};

/// Most tables that one walk reads, of 512 entries each: far more than hold
/// [`MAX_ENTRIES`](super::MAX_ENTRIES), and read in less than a second. A guest's table may name
/// one table in each of its entries, level by level, and then has no end.
pub const MAX_TABLES: usize = 1 << 14;

/// An entry that others change so often in a row is given up, as by hardware.
const TRIES: usize = 64;

pub(super) const PAGE: u64 = 4096;

/// Addresses that a table maps to consecutive ones, with what stage 2 and both allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) last: u64,
    pub(super) gpa: u64,
    pub(super) access: MapAccess,
}

/// Why a walk has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// More tables than [`MAX_TABLES`], or more entries than were allowed.
    TooLarge,
    /// The table maps what the host cannot translate, which was left out.
    Unreachable,
}

impl From<Stop> for std::io::Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::TooLarge => Errno::EDQUOT.into(),
            Stop::Unreachable => Errno::EOPNOTSUPP.into(),
        }
    }
}

/// What the entries so far allow.
#[derive(Clone, Copy)]
struct Rights {
    read: bool,
    write: bool,
}

/// A walk of one table.
pub(super) struct Walk<'a, M> {
    pub(super) memory: &'a M,
    pub(super) stage2: &'a Stage2,
    pub(super) table: &'a GuestTable,
    /// Where the host translates, ascending.
    pub(super) reachable: &'a [(u64, u64)],
    /// Most entries.
    pub(super) limit: usize,
    pub(super) tables: usize,
    /// The table maps what the host cannot translate.
    pub(super) unreachable: bool,
    /// What was found, ascending.
    pub(super) found: Vec<(u64, Entry)>,
}

impl<M: GuestMemoryBackend> Walk<'_, M> {
    /// Walks `start..=last` of the addresses that the table's entries have.
    pub(super) fn run(&mut self, start: u64, last: u64) -> Result<(), Stop> {
        let levels = levels(self.table.width.bits());
        let rights = Rights {
            read: true,
            write: true,
        };
        let root = self.table.root.0 & ADDRESS;
        self.descend(root, levels, 0, rights, (start, last))
    }

    fn descend(
        &mut self,
        table: u64,
        level: u32,
        base: u64,
        rights: Rights,
        (start, last): (u64, u64),
    ) -> Result<(), Stop> {
        self.tables = self.tables.saturating_add(1);
        if self.tables > MAX_TABLES {
            return Err(Stop::TooLarge);
        }
        let (from, to) = (
            (start - base) >> shift(level),
            (last - base) >> shift(level),
        );
        for index in from..=to {
            let at = base + (index << shift(level));
            let range = (start.max(at), last.min(at | offset_mask(level)));
            let Some((value, leaf, now)) = self.entry(table + ENTRY_SIZE * index, level, rights)
            else {
                continue;
            };
            if leaf {
                self.leaf(range, translated(value, level, range.0), now)?;
            } else {
                self.descend(value & ADDRESS, level - 1, at, now, range)?;
            }
        }
        Ok(())
    }

    /// The entry at `gpa`, whether it is a leaf, and the rights with it; `None` where hardware
    /// would fault for each request of the device's.
    fn entry(&self, gpa: u64, level: u32, rights: Rights) -> Option<(u64, bool, Rights)> {
        let page = self.stage2.access(gpa)?;
        if page == MapAccess::Write {
            return None;
        }
        let slice = self.memory.get_slice(GuestAddress(gpa), 8).ok()?;
        let place = slice.get_atomic_ref::<AtomicU64>(0).ok()?;
        for _ in 0..TRIES {
            let value = u64::from_le(place.load(Ordering::Acquire));
            let leaf = is_leaf(value, level);
            let now = match self.table.format {
                TableFormat::FirstStage => {
                    let flags = FirstStageEntry::from_bits_retain(value);
                    let user = FirstStageEntry::P.union(FirstStageEntry::U_S);
                    Rights {
                        read: rights.read && flags.contains(user),
                        write: rights.write && flags.contains(FirstStageEntry::R_W),
                    }
                }
                TableFormat::SecondStage => {
                    let flags = SecondStageEntry::from_bits_retain(value);
                    Rights {
                        read: rights.read && flags.contains(SecondStageEntry::R),
                        write: rights.write && flags.contains(SecondStageEntry::W),
                    }
                }
            };
            // First-stage entries that a user may not read, nobody here may write.
            let nothing = match self.table.format {
                TableFormat::FirstStage => !now.read,
                TableFormat::SecondStage => !now.read && !now.write,
            };
            // Stage 2 says which addresses there are.
            let reserved = has_reserved(self.table.format, value, level, ADDRESS_BITS);
            if nothing || reserved {
                return None;
            }
            let bits = self.used(leaf && now.write);
            if value & bits == bits {
                return Some((value, leaf, now));
            }
            if page != MapAccess::ReadWrite {
                return None;
            }
            let (old, new) = (value.to_le(), (value | bits).to_le());
            let set = place.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
            if set.is_ok() {
                // A migration is to see it.
                slice.bitmap().mark_dirty(0, ENTRY_SIZE as usize);
                return Some((value, leaf, now));
            }
        }
        None
    }

    /// The bits that are set in an entry: its use is not seen, so all that may be written is dirty.
    fn used(&self, writable_leaf: bool) -> u64 {
        if self.table.format == TableFormat::SecondStage {
            return 0;
        }
        let mut flags = FirstStageEntry::A;
        flags.set(FirstStageEntry::EA, self.table.extended_accessed);
        flags.set(FirstStageEntry::D, writable_leaf);
        flags.bits()
    }

    /// Notes the parts of a leaf that stage 2 has and the host can translate.
    fn leaf(&mut self, (start, last): (u64, u64), gpa: u64, rights: Rights) -> Result<(), Stop> {
        if self.reachable.last().is_none_or(|end| last > end.1) {
            self.unreachable = true;
        }
        let reachable = self.reachable;
        for &(low, high) in reachable {
            let (start_in, last_in) = (start.max(low), last.min(high));
            if start_in > last_in {
                continue;
            }
            let gpa = gpa + (start_in - start);
            let gpa_last = gpa + (last_in - start_in);
            for (part, part_last, access) in self.stage2.parts(gpa, gpa_last) {
                let read = rights.read && access != MapAccess::Write;
                let write = rights.write && access != MapAccess::Read;
                let access = match (read, write) {
                    (true, true) => MapAccess::ReadWrite,
                    (true, false) => MapAccess::Read,
                    (false, true) => MapAccess::Write,
                    (false, false) => continue,
                };
                if self.found.len() >= self.limit {
                    return Err(Stop::TooLarge);
                }
                let at = start_in + (part - gpa);
                let last = at + (part_last - part);
                let gpa = part;
                self.found.push((at, Entry { last, gpa, access }));
            }
        }
        Ok(())
    }
}
