// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's tables from the root to the PASID (VT-d 4.1, 9.1 to 9.6), read anew each time.

use super::bits::PAGE_ADDRESS;
use super::entries::{
    self, legacy, ContextEntry, LegacyContextEntry, PasidDirectoryEntry, PasidEntry, RootEntry,
    RootTable,
};
use super::memory::{read_words, Memory};
use super::reasons::{in_legacy_mode, reason, Stopped};
use super::source::SourceId;
use crate::nesting::{GuestTable, TableFormat};
use crate::types::{AddressWidth, Gpa};

/// What of the entries a unit offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    /// Bits of guest-physical addresses.
    pub(super) address_bits: u32,
    pub(super) first_stage: bool,
    pub(super) second_stage: bool,
    pub(super) five_levels: bool,
    pub(super) supervisor: bool,
    pub(super) extended_accessed: bool,
    pub(super) snoop_control: bool,
    pub(super) coherent_walks: bool,
    pub(super) device_tlbs: bool,
    /// Bits of a PASID, 6 to 20.
    pub(super) pasid_bits: u32,
}

impl Offered {
    /// Bits of addresses that no memory has.
    fn beyond(&self) -> u64 {
        1u64.checked_shl(self.address_bits)
            .map_or(0, |beyond| !beyond.wrapping_sub(1))
    }
}

/// A scalable-mode context entry (VT-d 4.1, 9.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    directory: u64,
    /// PASIDs below this have a place in the directory.
    pub(super) pasids: u32,
    pub(super) rid_pasid: u32,
    /// Requests with a PASID are translated.
    pub(super) takes_pasids: bool,
    pub(super) page_requests: bool,
    silent: bool,
}

/// What an entry says: one of a PASID, or a context entry in legacy mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) domain: u16,
    pub(super) translation: TranslationType,
    silent: bool,
    /// Its faults have the reasons of legacy mode.
    legacy: bool,
}

impl Entry {
    /// What a unit in another process made of an entry, until the entry is looked at: its domain is
    /// not known before.
    pub(super) fn adopted(translation: TranslationType) -> Self {
        Self {
            domain: 0,
            translation,
            silent: false,
            legacy: false,
        }
    }

    /// What stops a request that this entry lets pass so far; `reason` is scalable mode's.
    pub(super) fn stopped(&self, reason: u8) -> Stopped {
        let reason = if self.legacy {
            in_legacy_mode(reason)
        } else {
            reason
        };
        Stopped {
            reason,
            silent: self.silent,
        }
    }

    /// The same for an access that the table does not allow.
    pub(super) fn not_allowed(&self, reason: u8, write: bool) -> Stopped {
        if self.legacy && u32::from(reason) == crate::walk::reason::STAGE2 {
            let reason = if write {
                reason::legacy::NOT_WRITABLE
            } else {
                reason::legacy::NOT_READABLE
            };
            return Stopped {
                reason,
                silent: self.silent,
            };
        }
        self.stopped(reason)
    }
}

/// How requests are translated: PGTT of a PASID entry, TT of a context entry in legacy mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TranslationType {
    /// By the guest's table.
    Table(GuestTable),
    /// Not at all: addresses are guest-physical.
    PassThrough,
}

impl TranslationType {
    /// Whether it is a table of the first stage, which asks devices' page requests.
    pub(super) fn is_first_stage(&self) -> bool {
        matches!(self, Self::Table(table) if table.format == TableFormat::FirstStage)
    }
}

/// The guest's tables at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) offered: &'a Offered,
    /// RTADDR; `None` while translation is off.
    pub(super) root: Option<u64>,
}

impl Tables<'_> {
    /// Whether translation is off.
    pub(super) fn is_off(&self) -> bool {
        self.root.is_none()
    }

    /// The scalable-mode context entry of a function, if there is one.
    pub(super) fn scalable_context(&self, source: SourceId) -> Option<Context> {
        self.context(self.root?, source).ok()
    }

    /// The entry of a PASID; none for the one that stands for requests without.
    ///
    /// # Errors
    ///
    /// What stops its requests.
    pub(super) fn with_pasid(&self, source: SourceId, pasid: u32) -> Result<Entry, Stopped> {
        let Some(root) = self.root else {
            return Err(Stopped::by(reason::LEGACY_PASID));
        };
        if RootTable::from_bits_retain(root).is_legacy() {
            return Err(Stopped::by(reason::LEGACY_PASID));
        }
        let context = self.context(root, source)?;
        if !context.takes_pasids || context.rid_pasid == pasid {
            return Err(context.stopped(reason::NO_PASIDS));
        }
        context.entry(self.memory, self.offered, pasid)
    }

    /// The entry of requests without PASID; `None` while translation is off.
    pub(super) fn without_pasid(&self, source: SourceId) -> Option<Result<Entry, Stopped>> {
        let root = self.root?;
        if RootTable::from_bits_retain(root).is_legacy() {
            return Some(self.legacy_context(root, source));
        }
        let context = self.context(root, source);
        Some(
            context.and_then(|context| context.entry(self.memory, self.offered, context.rid_pasid)),
        )
    }

    /// Whether the guest wants to be asked for pages by a function.
    ///
    /// # Errors
    ///
    /// What stops its page requests.
    pub(super) fn page_requests(&self, source: SourceId) -> Result<(), Stopped> {
        let root = self.root.ok_or(Stopped::by(reason::LEGACY_PAGE_REQUEST))?;
        if RootTable::from_bits_retain(root).is_legacy() {
            return Err(Stopped::by(reason::LEGACY_PAGE_REQUEST));
        }
        let context = self.context(root, source)?;
        if context.page_requests {
            Ok(())
        } else {
            Err(context.stopped(reason::NO_PAGE_REQUESTS))
        }
    }

    /// The PASID that stands for requests without.
    pub(super) fn rid_pasid(&self, source: SourceId) -> Option<u32> {
        Some(self.scalable_context(source)?.rid_pasid)
    }

    /// Whether the entry of a PASID is there, which one word of its table tells.
    pub(super) fn is_present(&self, table: u64, pasid: u32) -> bool {
        let at = table.checked_add(entries::pasid::offset_in_table(pasid));
        let word = at.and_then(|at| self.memory.read(at));
        word.is_some_and(|word| PasidEntry::from_bits_retain(word).contains(PasidEntry::P))
    }

    /// A context entry in legacy mode (VT-d 4.1, 9.1 and 9.3).
    fn legacy_context(&self, root: u64, source: SourceId) -> Result<Entry, Stopped> {
        use reason::legacy as why;

        let at = (root & PAGE_ADDRESS).checked_add(entries::offset_in_root_table(source));
        let [low, high] = at
            .and_then(|at| read_words::<2>(self.memory, at))
            .ok_or(Stopped::by(why::ROOT_ACCESS))?;
        if !RootEntry::from_bits_retain(low).contains(RootEntry::P) {
            return Err(Stopped::by(why::ROOT_ABSENT));
        }
        if low & (RootEntry::RESERVED.bits() | self.offered.beyond()) != 0 || high != 0 {
            return Err(Stopped::by(why::ROOT_RESERVED));
        }
        let at = (low & PAGE_ADDRESS).checked_add(legacy::offset_in_context_table(source));
        let [low, high] = at
            .and_then(|at| read_words::<2>(self.memory, at))
            .ok_or(Stopped::by(why::CONTEXT_ACCESS))?;
        let bits = LegacyContextEntry::from_bits_retain(low);
        let silent = bits.contains(LegacyContextEntry::FPD);
        let stopped = |reason| Stopped::unless_disabled(reason, silent);
        if !bits.contains(LegacyContextEntry::P) {
            return Err(stopped(why::CONTEXT_ABSENT));
        }
        if bits.intersects(LegacyContextEntry::RESERVED) || high & legacy::RESERVED_HIGH != 0 {
            return Err(stopped(why::CONTEXT_RESERVED));
        }
        let invalid = Err(stopped(why::CONTEXT_INVALID));
        let translation = match bits.translation_type() {
            legacy::PASS_THROUGH => TranslationType::PassThrough,
            legacy::DEVICE_TLB if !self.offered.device_tlbs => return invalid,
            legacy::UNTRANSLATED | legacy::DEVICE_TLB if self.offered.second_stage => {
                if low & self.offered.beyond() != 0 {
                    return Err(stopped(why::CONTEXT_RESERVED));
                }
                let Some(width) = width(legacy::address_width(high), self.offered) else {
                    return invalid;
                };
                second_stage(low, width)
            }
            _ => return invalid,
        };
        Ok(Entry {
            domain: legacy::domain(high),
            translation,
            silent,
            legacy: true,
        })
    }

    /// The scalable-mode context entry of a function (VT-d 4.1, 9.2 and 9.4).
    ///
    /// # Errors
    ///
    /// What stops its requests.
    fn context(&self, root: u64, source: SourceId) -> Result<Context, Stopped> {
        let beyond = self.offered.beyond();
        if !RootTable::from_bits_retain(root).is_scalable() {
            return Err(Stopped::by(reason::TABLE_MODE));
        }
        // Two halves of a root entry, for devices 0 to 15 and 16 to 31.
        let offset = entries::offset_in_root_table(source) + entries::offset_of_half(source);
        let at = (root & PAGE_ADDRESS).checked_add(offset);
        let entry = at
            .and_then(|at| self.memory.read(at))
            .ok_or(Stopped::by(reason::ROOT_ACCESS))?;
        if !RootEntry::from_bits_retain(entry).contains(RootEntry::P) {
            return Err(Stopped::by(reason::ROOT_ABSENT));
        }
        if entry & (RootEntry::RESERVED.bits() | beyond) != 0 {
            return Err(Stopped::by(reason::ROOT_RESERVED));
        }
        let at = (entry & PAGE_ADDRESS).checked_add(entries::offset_in_context_table(source));
        let [low, high, rest @ ..] = at
            .and_then(|at| read_words::<4>(self.memory, at))
            .ok_or(Stopped::by(reason::CONTEXT_ACCESS))?;
        let bits = ContextEntry::from_bits_retain(low);
        let silent = bits.contains(ContextEntry::FPD);
        let stopped = |reason| Stopped::unless_disabled(reason, silent);
        if !bits.contains(ContextEntry::P) {
            return Err(stopped(reason::CONTEXT_ABSENT));
        }
        let reserved = bits.intersects(ContextEntry::RESERVED) || low & beyond != 0;
        if reserved || high & entries::CONTEXT_RESERVED_HIGH != 0 || rest != [0, 0] {
            return Err(stopped(reason::CONTEXT_RESERVED));
        }
        let (dte, pre) = (ContextEntry::DTE, ContextEntry::PRE);
        let needs_device_tlb = bits.contains(pre) && !bits.contains(dte);
        if needs_device_tlb || (bits.contains(dte) && !self.offered.device_tlbs) {
            return Err(stopped(reason::CONTEXT_INVALID));
        }
        Ok(Context {
            directory: low & PAGE_ADDRESS,
            pasids: bits.pasids(),
            rid_pasid: entries::rid_pasid(high),
            takes_pasids: bits.contains(ContextEntry::PASIDE),
            page_requests: bits.contains(pre),
            silent,
        })
    }
}

impl Context {
    /// What stops a request that this entry lets pass so far.
    pub(super) fn stopped(&self, reason: u8) -> Stopped {
        Stopped {
            reason,
            silent: self.silent,
        }
    }

    /// The table of the 64 PASIDs around one, if it is there.
    ///
    /// # Errors
    ///
    /// What stops requests with these PASIDs.
    pub(super) fn table(
        &self,
        memory: &dyn Memory,
        offered: &Offered,
        pasid: u32,
    ) -> Result<u64, Stopped> {
        if pasid >= self.pasids {
            return Err(self.stopped(reason::PASID_TOO_LARGE));
        }
        let at = (self.directory).checked_add(entries::pasid::offset_in_directory(pasid));
        let entry = at
            .and_then(|at| memory.read(at))
            .ok_or(self.stopped(reason::DIRECTORY_ACCESS))?;
        let bits = PasidDirectoryEntry::from_bits_retain(entry);
        let silent = bits.contains(PasidDirectoryEntry::FPD);
        if !bits.contains(PasidDirectoryEntry::P) {
            return Err(Stopped::unless_disabled(reason::DIRECTORY_ABSENT, silent));
        }
        if bits.intersects(PasidDirectoryEntry::RESERVED) || entry & offered.beyond() != 0 {
            return Err(Stopped::unless_disabled(reason::DIRECTORY_RESERVED, silent));
        }
        Ok(entry & PAGE_ADDRESS)
    }

    /// The entry of a PASID.
    ///
    /// # Errors
    ///
    /// What stops requests with it.
    pub(super) fn entry(
        &self,
        memory: &dyn Memory,
        offered: &Offered,
        pasid: u32,
    ) -> Result<Entry, Stopped> {
        let table = self.table(memory, offered, pasid)?;
        let at = table.checked_add(entries::pasid::offset_in_table(pasid));
        let words = at
            .and_then(|at| read_words(memory, at))
            .ok_or(self.stopped(reason::PASID_ACCESS))?;
        entry(&words, offered)
    }
}

/// The width of a second stage by its AW field.
fn width(field: u64, offered: &Offered) -> Option<AddressWidth> {
    match field {
        entries::SECOND_STAGE_4_LEVELS => Some(AddressWidth::Bits48),
        entries::SECOND_STAGE_5_LEVELS if offered.five_levels => Some(AddressWidth::Bits57),
        _ => None,
    }
}

fn second_stage(pointer: u64, width: AddressWidth) -> TranslationType {
    TranslationType::Table(GuestTable {
        format: TableFormat::SecondStage,
        width,
        ..GuestTable::four_level(Gpa(pointer & PAGE_ADDRESS))
    })
}

/// What the entry of a PASID says (VT-d 4.1, 9.6).
fn entry(words: &[u64; 8], offered: &Offered) -> Result<Entry, Stopped> {
    use entries::{pasid, PasidEntryFirst, PasidEntrySecond};

    let [low, second, third, rest @ ..] = words;
    let bits = PasidEntry::from_bits_retain(*low);
    let silent = bits.contains(PasidEntry::FPD);
    let stopped = |reason| Stopped::unless_disabled(reason, silent);
    if !bits.contains(PasidEntry::P) {
        return Err(stopped(reason::PASID_ABSENT));
    }
    let flags = PasidEntrySecond::from_bits_retain(*second);
    let mut reserved = flags.intersects(PasidEntrySecond::RESERVED)
        || (!offered.snoop_control && flags.contains(PasidEntrySecond::PGSNP))
        || (!offered.coherent_walks && flags.contains(PasidEntrySecond::PWSNP));
    // Nested translation, which alone has the rest, is not offered.
    reserved |= rest.iter().any(|&word| word != 0);
    let translation = match bits.translation_type() {
        pasid::PASS_THROUGH => TranslationType::PassThrough,
        pasid::SECOND_STAGE if offered.second_stage => {
            let Some(width) = width(bits.address_width(), offered) else {
                return Err(stopped(reason::PASID_INVALID));
            };
            // Accessed and dirty flags (SSADE) are not offered.
            reserved |= bits.intersects(PasidEntry::RESERVED | PasidEntry::SSADE)
                || low & offered.beyond() != 0;
            second_stage(*low, width)
        }
        pasid::FIRST_STAGE if offered.first_stage => {
            let first = PasidEntryFirst::from_bits_retain(*third);
            let width = match first.paging_mode() {
                pasid::FIRST_STAGE_4_LEVELS => AddressWidth::Bits48,
                pasid::FIRST_STAGE_5_LEVELS if offered.five_levels => AddressWidth::Bits57,
                _ => return Err(stopped(reason::PASID_INVALID)),
            };
            let supervisor = first.contains(PasidEntryFirst::SRE);
            let extended_accessed = first.contains(PasidEntryFirst::EAFE);
            reserved |= (supervisor && !offered.supervisor)
                || (extended_accessed && !offered.extended_accessed)
                || first.intersects(PasidEntryFirst::RESERVED)
                || third & offered.beyond() != 0;
            TranslationType::Table(GuestTable {
                format: TableFormat::FirstStage,
                root: Gpa(third & PAGE_ADDRESS),
                width,
                supervisor,
                extended_accessed,
                write_protect: first.contains(PasidEntryFirst::WPE),
                guest_pasid: None,
                cookie: 0,
            })
        }
        _ => return Err(stopped(reason::PASID_INVALID)),
    };
    if reserved {
        return Err(stopped(reason::PASID_RESERVED));
    }
    Ok(Entry {
        domain: flags.domain(),
        translation,
        silent,
        legacy: false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::Words;
    use super::*;

    const OFFERED: Offered = Offered {
        address_bits: 46,
        first_stage: true,
        second_stage: false,
        snoop_control: false,
        coherent_walks: true,
        device_tlbs: true,
        five_levels: false,
        supervisor: false,
        extended_accessed: false,
        pasid_bits: 20,
    };
    const ROOT: u64 = 0x1000;
    const SOURCE: SourceId = SourceId(0x2a8);

    fn tables() -> Words {
        let words = Words::default();
        for (at, word) in [
            (ROOT + 0x2 * 16 + 8, 0x2001),
            (0x2000 + 0x28 * 32, 0x3000 | 1 << 9 | 0x1d),
            (0x2000 + 0x28 * 32 + 8, 0),
            (0x2000 + 0x28 * 32 + 16, 0),
            (0x2000 + 0x28 * 32 + 24, 0),
            (0x3000 + 8, 0x4001),
        ] {
            assert!(words.write(at, word));
        }
        for index in 0..8 {
            assert!(words.write(0x4000 + 5 * 64 + index * 8, 0));
        }
        words
    }

    fn tables_of<'a>(words: &'a Words, offered: &'a Offered, root: u64) -> Tables<'a> {
        Tables {
            memory: words,
            offered,
            root: Some(root),
        }
    }

    fn found_by(words: &Words, offered: &Offered) -> Result<Entry, Stopped> {
        let root = ROOT | RootTable::SCALABLE.bits();
        tables_of(words, offered, root).with_pasid(SOURCE, 64 + 5)
    }

    fn found(words: &Words) -> Result<Entry, Stopped> {
        found_by(words, &OFFERED)
    }

    fn set(words: &Words, index: u64, word: u64) {
        assert!(words.write(0x4000 + 5 * 64 + index * 8, word));
    }

    #[test]
    fn entry_of_a_first_stage_is_found() {
        let words = tables();
        set(&words, 0, 1 << 6 | 1);
        set(&words, 1, 0x1234);
        set(&words, 2, 0x5000 | 1 << 4);
        let entry = found(&words).expect("an entry");
        let table = GuestTable {
            write_protect: true,
            ..GuestTable::four_level(Gpa(0x5000))
        };
        assert_eq!(entry.translation, TranslationType::Table(table));
        assert_eq!(entry.domain, 0x1234);
    }

    #[test]
    fn each_level_stops_with_its_reason() {
        let cases: [(u64, u64, u8); 12] = [
            (ROOT + 0x28, 0x2000, reason::ROOT_ABSENT),
            (ROOT + 0x28, 0x2003, reason::ROOT_RESERVED),
            (ROOT + 0x28, 0x9001, reason::CONTEXT_ACCESS),
            (0x2500, 0, reason::CONTEXT_ABSENT),
            (0x2500, 0x3021, reason::CONTEXT_RESERVED),
            (0x2500, 0x3011, reason::CONTEXT_INVALID),
            (0x2500, 0x9009, reason::DIRECTORY_ACCESS),
            (0x3008, 0, reason::DIRECTORY_ABSENT),
            (0x3008, 1 << 46 | 1, reason::DIRECTORY_RESERVED),
            (0x3008, 0x9001, reason::PASID_ACCESS),
            (0x4140, 0, reason::PASID_ABSENT),
            (0x4140, 2 << 6 | 1, reason::PASID_INVALID),
        ];
        for (at, word, reason) in cases {
            let words = tables();
            set(&words, 0, 4 << 6 | 1);
            assert!(found(&words).is_ok());
            assert!(words.write(at, word));
            let stopped = found(&words).expect_err("a fault");
            assert_eq!(stopped.reason, reason, "{word:#x} at {at:#x}");
        }
        for (mode, reason) in [(3 << 10, reason::TABLE_MODE), (0, reason::LEGACY_PASID)] {
            let words = tables();
            let stopped = tables_of(&words, &OFFERED, ROOT | mode).with_pasid(SOURCE, 69);
            assert_eq!(stopped, Err(Stopped::by(reason)));
        }
    }

    #[test]
    fn fault_processing_disabled_is_told() {
        let words = tables();
        set(&words, 0, 2);
        assert!(found(&words).expect_err("a fault").silent);
    }

    #[test]
    fn entry_of_a_second_stage_is_found_where_that_is_offered() {
        let words = tables();
        set(&words, 0, 0x5000 | 2 << 6 | 2 << 2 | 1);
        set(&words, 1, 1 << 23 | 0x1234);
        let stopped = found(&words).expect_err("not offered");
        assert_eq!(stopped.reason, reason::PASID_INVALID);
        let offered = Offered {
            first_stage: false,
            second_stage: true,
            ..OFFERED
        };
        let found = || found_by(&words, &offered);
        let entry = found().expect("an entry");
        let table = GuestTable {
            format: TableFormat::SecondStage,
            ..GuestTable::four_level(Gpa(0x5000))
        };
        assert_eq!(entry.translation, TranslationType::Table(table));
        for (first, reason) in [
            (0x5000 | 2 << 6 | 3 << 2 | 1, reason::PASID_INVALID),
            (0x5000 | 2 << 6 | 1 << 2 | 1, reason::PASID_INVALID),
            (
                0x5000 | 1 << 9 | 2 << 6 | 2 << 2 | 1,
                reason::PASID_RESERVED,
            ),
            (1 << 46 | 2 << 6 | 2 << 2 | 1, reason::PASID_RESERVED),
            (1 << 6 | 1, reason::PASID_INVALID),
        ] {
            set(&words, 0, first);
            let stopped = found().expect_err("a fault");
            assert_eq!(stopped.reason, reason, "{first:#x}");
        }
    }

    #[test]
    fn what_is_not_offered_is_reserved() {
        let words = tables();
        set(&words, 0, 1 << 6 | 1);
        for (third, reason) in [
            (1, reason::PASID_RESERVED),
            (0x80, reason::PASID_RESERVED),
            (4, reason::PASID_INVALID),
            (1 << 46, reason::PASID_RESERVED),
        ] {
            set(&words, 2, third);
            let stopped = found(&words).expect_err("a fault");
            assert_eq!(stopped.reason, reason, "{third:#x}");
        }
        set(&words, 2, 0);
        set(&words, 7, 1);
        assert!(found(&words).is_err());
    }

    #[test]
    fn page_request_in_legacy_mode_is_a_fault() {
        let words = tables();
        let asked = tables_of(&words, &OFFERED, ROOT).page_requests(SOURCE);
        assert_eq!(asked, Err(Stopped::by(reason::LEGACY_PAGE_REQUEST)));
    }
}
