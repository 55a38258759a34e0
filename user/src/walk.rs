// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walk of a stage-1 table in guest memory (VT-d 4.1, 3.6, 3.8, 9.7), and of one in the format of
//! the second stage (3.7, 9.9).

use crate::nesting::{GuestTable, TableFormat};
use crate::paging::{
    entry_at, has_reserved, is_leaf, levels, shift, translated, FirstStageEntry, SecondStageEntry,
    ADDRESS,
};

/// Memory that tables are in and lead to, by guest-physical addresses.
pub(crate) trait TableMemory {
    /// An entry; `None` where it cannot be read.
    fn read(&self, at: u64) -> Option<u64>;

    /// Replaces an entry if it is still `old`: false if it is not, `None` if it cannot be written.
    fn replace(&self, at: u64, old: u64, new: u64) -> Option<bool>;

    /// Whether an address that a table leads to can be reached.
    ///
    /// # Errors
    ///
    /// The [`reason`].
    fn reach(&self, at: u64, access: Access) -> Result<(), u32>;

    /// Bits of addresses in entries; those above are reserved.
    fn address_bits(&self) -> u32;

    /// The [`reason`] for an entry that cannot be read: one of the root table, or of another.
    fn unreadable(&self, root: bool) -> u32;

    /// The [`reason`] for an entry whose accessed or dirty bit cannot be set.
    fn unwritable(&self) -> u32;
}

/// Where a table leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The guest-physical address.
    pub(crate) address: u64,
    /// The table lets it be read.
    pub(crate) read: bool,
    /// The table lets it be written, and its dirty bit is set.
    pub(crate) write: bool,
    /// The page has two to the power of this many bytes.
    pub(crate) size_bits: u32,
}

/// An entry that others change so often in a row is given up, as by hardware.
const TRIES: usize = 64;

/// What a device wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) privileged: bool,
}

/// What the entries so far allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    user: bool,
    write: bool,
}

/// A table below the root, as the entries above it lead there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lower {
    /// Of its entries: 1 for those of 4 KiB.
    pub(crate) level: u32,
    at: u64,
    rights: Rights,
}

/// What hardware may remember of the tables on the way (VT-d 4.1, 6.2.5: paging-structure caches).
pub(crate) trait LowerTables {
    /// The lowest table that is remembered for an address.
    fn lowest(&self, address: u64) -> Option<Lower>;

    /// Notes a table that was read for an address.
    fn note(&mut self, address: u64, table: Lower);
}

/// Remembers nothing.
#[cfg(any(feature = "vtd", test))]
struct Forgetful;

#[cfg(any(feature = "vtd", test))]
impl LowerTables for Forgetful {
    fn lowest(&self, _: u64) -> Option<Lower> {
        None
    }

    fn note(&mut self, _: u64, _: Lower) {}
}

/// Why a request is stopped (VT-d 4.1, 7.1.3, in scalable mode).
pub(crate) mod reason {
    /// The PASID has no table.
    #[cfg(feature = "soft")]
    pub(crate) const NO_PASID_ENTRY: u32 = 0x59;
    /// A supervisor's request where the PASID allows none.
    pub(crate) const NO_SUPERVISOR: u32 = 0x5d;
    /// An entry of a table lower than the root cannot be read or written; there is no stage 2.
    #[cfg(feature = "vtd")]
    pub(crate) const ENTRY_ACCESS: u32 = 0x70;
    /// An entry of stage 1 is not present.
    pub(crate) const NOT_PRESENT: u32 = 0x71;
    /// It has reserved bits set.
    pub(crate) const RESERVED: u32 = 0x72;
    /// An entry of the root table cannot be read; there is no stage 2.
    #[cfg(feature = "vtd")]
    pub(crate) const ROOT_ACCESS: u32 = 0x73;
    /// The root table lies in memory that stage 2 does not let be read.
    #[cfg(feature = "soft")]
    pub(crate) const ROOT_NOT_READABLE: u32 = 0x75;
    /// A lower table does.
    #[cfg(feature = "soft")]
    pub(crate) const ENTRY_NOT_READABLE: u32 = 0x76;
    /// An accessed or dirty bit lies in memory that stage 2 does not let be written.
    #[cfg(feature = "soft")]
    pub(crate) const ENTRY_NOT_WRITABLE: u32 = 0x77;
    /// An entry of the second stage lies in no memory.
    pub(crate) const SECOND_NOT_READABLE: u32 = 0x78;
    /// Stage 2 leads nowhere, or a table of the second stage does not allow it.
    pub(crate) const STAGE2: u32 = 0x79;
    /// An entry of the second stage has reserved bits set.
    pub(crate) const SECOND_RESERVED: u32 = 0x7a;
    /// The address is not canonical.
    pub(crate) const NOT_CANONICAL: u32 = 0x80;
    /// A user's request for a supervisor's page.
    pub(crate) const NOT_USER: u32 = 0x81;
    /// An address is beyond the width of the second stage, or of none at all.
    pub(crate) const BEYOND_WIDTH: u32 = 0x83;
    /// A write to what is read-only.
    pub(crate) const NOT_WRITABLE: u32 = 0x85;
    /// A read of what is write-only.
    #[cfg(feature = "soft")]
    pub(crate) const NOT_READABLE: u32 = 0x86;
    /// It leads to where interrupts are written to.
    #[cfg(feature = "vtd")]
    pub(crate) const INTERRUPTS: u32 = 0x87;
}

/// [`walk_from`] the root.
#[cfg(any(feature = "vtd", test))]
pub(crate) fn walk(
    memory: &impl TableMemory,
    table: &GuestTable,
    address: u64,
    access: Access,
) -> Result<Leaf, u32> {
    walk_from(memory, table, address, access, &mut Forgetful)
}

/// Where `address` leads, if the table allows the access; whether it may be written too is told with
/// it. The walk of a first-stage table begins at the lowest table that `lower` has.
///
/// # Errors
///
/// The [`reason`].
pub(crate) fn walk_from(
    memory: &impl TableMemory,
    table: &GuestTable,
    address: u64,
    access: Access,
    lower: &mut impl LowerTables,
) -> Result<Leaf, u32> {
    if table.format == TableFormat::SecondStage {
        return second(memory, table, address, access);
    }
    let bits = table.width.bits();
    let unused = 64 - bits;
    // CAST: to spread the sign bit.
    let canonical = ((address << unused) as i64 >> unused) as u64 == address;
    if access.privileged && !table.supervisor {
        return Err(reason::NO_SUPERVISOR);
    }
    if !canonical {
        return Err(reason::NOT_CANONICAL);
    }
    let levels = levels(bits);
    let root = Lower {
        level: levels,
        at: table.root.0 & ADDRESS,
        rights: Rights {
            user: true,
            write: true,
        },
    };
    let Lower {
        level: from,
        mut at,
        mut rights,
    } = lower.lowest(address).unwrap_or(root);
    for level in (1..=from).rev() {
        let gpa = entry_at(at, level, address);
        let place = Place {
            gpa,
            level,
            root: level == levels,
        };
        match step(memory, table, place, address, rights, access)? {
            Step::Table(next, now) => {
                (at, rights) = (next, now);
                let level = level.saturating_sub(1);
                lower.note(address, Lower { level, at, rights });
            }
            Step::Leaf(leaf) => return Ok(leaf),
        }
    }
    // The last level has leaves only.
    Err(reason::NOT_PRESENT)
}

/// The same for the second stage, which has no users and supervisors; accessed and dirty flags are
/// not offered.
fn second(
    memory: &impl TableMemory,
    table: &GuestTable,
    address: u64,
    access: Access,
) -> Result<Leaf, u32> {
    let bits = table.width.bits();
    if address >> bits != 0 {
        return Err(reason::BEYOND_WIDTH);
    }
    let (mut read, mut write) = (true, true);
    let mut at = table.root.0 & ADDRESS;
    for level in (1..=levels(bits)).rev() {
        let gpa = entry_at(at, level, address);
        let entry = memory.read(gpa).ok_or(reason::SECOND_NOT_READABLE)?;
        let flags = SecondStageEntry::from_bits_retain(entry);
        read &= flags.contains(SecondStageEntry::R);
        write &= flags.contains(SecondStageEntry::W);
        if (access.read && !read) || (access.write && !write) || !(read || write) {
            return Err(reason::STAGE2);
        }
        if has_reserved(table.format, entry, level, memory.address_bits()) {
            return Err(reason::SECOND_RESERVED);
        }
        if is_leaf(entry, level) {
            let address = translated(entry, level, address);
            memory.reach(address, access)?;
            return Ok(Leaf {
                address,
                read,
                write,
                size_bits: shift(level),
            });
        }
        at = entry & ADDRESS;
    }
    // The last level has leaves only.
    Err(reason::STAGE2)
}

enum Step {
    Table(u64, Rights),
    Leaf(Leaf),
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    gpa: u64,
    level: u32,
    root: bool,
}

fn step(
    memory: &impl TableMemory,
    table: &GuestTable,
    Place { gpa, level, root }: Place,
    address: u64,
    rights: Rights,
    access: Access,
) -> Result<Step, u32> {
    let mut accessed = FirstStageEntry::A;
    accessed.set(FirstStageEntry::EA, table.extended_accessed);
    for _ in 0..TRIES {
        let entry = memory.read(gpa).ok_or(memory.unreadable(root))?;
        let flags = FirstStageEntry::from_bits_retain(entry);
        if !flags.contains(FirstStageEntry::P) {
            return Err(reason::NOT_PRESENT);
        }
        if has_reserved(table.format, entry, level, memory.address_bits()) {
            return Err(reason::RESERVED);
        }
        let set = |more: FirstStageEntry| match flags.contains(more) {
            true => Ok(true),
            false => memory
                .replace(gpa, entry, (flags | more).bits())
                .ok_or(memory.unwritable()),
        };
        let now = Rights {
            user: rights.user && flags.contains(FirstStageEntry::U_S),
            write: rights.write && flags.contains(FirstStageEntry::R_W),
        };
        if !is_leaf(entry, level) {
            if set(accessed)? {
                return Ok(Step::Table(entry & ADDRESS, now));
            }
            continue;
        }
        let writable = now.write || (access.privileged && !table.write_protect);
        if !access.privileged && !now.user {
            return Err(reason::NOT_USER);
        }
        if access.write && !writable {
            return Err(reason::NOT_WRITABLE);
        }
        let target = translated(entry, level, address);
        memory.reach(target, access)?;
        let mut marks = accessed;
        marks.set(FirstStageEntry::D, access.write);
        if set(marks)? {
            let dirty = (flags | marks).contains(FirstStageEntry::D);
            return Ok(Step::Leaf(Leaf {
                address: target,
                read: true,
                write: writable && dirty,
                size_bits: shift(level),
            }));
        }
    }
    // It changes again and again.
    Err(reason::NOT_PRESENT)
}
