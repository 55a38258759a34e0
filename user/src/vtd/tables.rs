// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's tables from the root to the PASID (VT-d 4.1, 9.1 to 9.6, scalable mode), read anew
//! each time.

use super::memory::{read_words, Memory};
use crate::nesting::{Stage1Table, TableFormat};
use crate::types::{AddressWidth, Gpa};

/// Why a request is not translated: the reasons of fault records (VT-d 4.1, 7.1.3).
pub(super) mod reason {
    pub(in crate::vtd) const ROOT_ACCESS: u8 = 0x38;
    pub(in crate::vtd) const ROOT_ABSENT: u8 = 0x39;
    pub(in crate::vtd) const ROOT_RESERVED: u8 = 0x3a;
    pub(in crate::vtd) const TABLE_MODE: u8 = 0x30;
    pub(in crate::vtd) const CONTEXT_ACCESS: u8 = 0x40;
    pub(in crate::vtd) const CONTEXT_ABSENT: u8 = 0x41;
    pub(in crate::vtd) const CONTEXT_RESERVED: u8 = 0x42;
    pub(in crate::vtd) const CONTEXT_INVALID: u8 = 0x43;
    pub(in crate::vtd) const NO_PASIDS: u8 = 0x45;
    pub(in crate::vtd) const PASID_TOO_LARGE: u8 = 0x46;
    pub(in crate::vtd) const NO_PAGE_REQUESTS: u8 = 0x47;
    pub(in crate::vtd) const DIRECTORY_ACCESS: u8 = 0x50;
    pub(in crate::vtd) const DIRECTORY_ABSENT: u8 = 0x51;
    pub(in crate::vtd) const DIRECTORY_RESERVED: u8 = 0x52;
    pub(in crate::vtd) const PASID_ACCESS: u8 = 0x58;
    pub(in crate::vtd) const PASID_ABSENT: u8 = 0x59;
    pub(in crate::vtd) const PASID_RESERVED: u8 = 0x5a;
    pub(in crate::vtd) const PASID_INVALID: u8 = 0x5b;
    pub(in crate::vtd) const STAGE1_ABSENT: u8 = 0x71;
}

/// What a request is stopped by, and whether the guest wants to hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) reason: u8,
    /// The entry says that faults are not to be recorded (FPD).
    pub(super) silent: bool,
}

impl Stopped {
    pub(super) const fn by(reason: u8) -> Self {
        Self {
            reason,
            silent: false,
        }
    }

    const fn unless_disabled(reason: u8, entry: u64) -> Self {
        Self {
            reason,
            silent: entry & 2 != 0,
        }
    }
}

/// What of the entries a unit offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    /// Bits of guest-physical addresses.
    pub(super) address_bits: u32,
    /// Tables of the second stage, and none of the first.
    pub(super) second_stage: bool,
    pub(super) five_levels: bool,
    pub(super) supervisor: bool,
    pub(super) extended_accessed: bool,
    /// Bits of a PASID, 6 to 20.
    pub(super) pasid_bits: u32,
}

impl Offered {
    fn reserved_address(&self) -> u64 {
        1u64.checked_shl(self.address_bits)
            .map_or(0, |beyond| !(beyond - 1))
    }
}

/// A function of the guest's PCI buses, by its requester id: bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SourceId(pub u16);

impl std::fmt::Display for SourceId {
    /// As `lspci` writes it: bus, device and function.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bus, devfn) = (self.0 >> 8, self.0 & 0xff);
        write!(f, "{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7)
    }
}

/// A context entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    directory: u64,
    /// PASIDs below this have a place in the directory.
    pub(super) pasids: u32,
    pub(super) rid_pasid: u32,
    /// Requests with a PASID are translated.
    pub(super) takes_pasids: bool,
    pub(super) page_requests: bool,
    pub(super) device_tlb: bool,
    silent: bool,
}

/// What a PASID entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) domain: u16,
    pub(super) translation: Kind,
    silent: bool,
}

impl Entry {
    /// What stops a request that this entry lets pass so far.
    pub(super) fn stopped(&self, reason: u8) -> Stopped {
        Stopped {
            reason,
            silent: self.silent,
        }
    }
}

/// How requests are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By the guest's table.
    Stage1(Stage1Table),
    /// Not at all: addresses are guest-physical.
    PassThrough,
}

const ADDRESS: u64 = !0xfff;
/// Scalable mode, in RTADDR's TTM.
const SCALABLE: u64 = 1 << 10;
const MODE: u64 = 3 << 10;

/// The context entry of a function.
///
/// # Errors
///
/// What stops its requests.
pub(super) fn context(
    memory: &dyn Memory,
    offered: &Offered,
    rtaddr: u64,
    source: SourceId,
) -> Result<Context, Stopped> {
    let beyond = offered.reserved_address();
    if rtaddr & MODE != SCALABLE {
        return Err(Stopped::by(reason::TABLE_MODE));
    }
    let (bus, devfn) = (u64::from(source.0 >> 8), u64::from(source.0 & 0xff));
    // Two halves of a root entry, for devices 0 to 15 and 16 to 31.
    let at = (rtaddr & ADDRESS) + bus * 16 + (devfn >> 7) * 8;
    let root = memory.read(at).ok_or(Stopped::by(reason::ROOT_ACCESS))?;
    if root & 1 == 0 {
        return Err(Stopped::by(reason::ROOT_ABSENT));
    }
    if root & (0xffe | beyond) != 0 {
        return Err(Stopped::by(reason::ROOT_RESERVED));
    }
    let at = (root & ADDRESS) + (devfn & 0x7f) * 32;
    let [low, high, more @ ..] =
        read_words::<4>(memory, at).ok_or(Stopped::by(reason::CONTEXT_ACCESS))?;
    if low & 1 == 0 {
        return Err(Stopped::unless_disabled(reason::CONTEXT_ABSENT, low));
    }
    if low & (0x1e0 | beyond) != 0 || high >> 21 != 0 || more != [0, 0] {
        return Err(Stopped::unless_disabled(reason::CONTEXT_RESERVED, low));
    }
    // CAST: masked to 3 and to 20 bits.
    let size = (low >> 9 & 7) as u32;
    let context = Context {
        directory: low & ADDRESS,
        // A directory of 2^(PDTS + 7) entries, each of a table of 64.
        pasids: 1 << (size + 13),
        rid_pasid: (high & 0xf_ffff) as u32,
        takes_pasids: low & 8 != 0,
        page_requests: low & 0x10 != 0,
        device_tlb: low & 4 != 0,
        silent: low & 2 != 0,
    };
    if context.page_requests && !context.device_tlb {
        return Err(context.stopped(reason::CONTEXT_INVALID));
    }
    Ok(context)
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
        let at = self.directory + u64::from(pasid >> 6) * 8;
        let entry = memory
            .read(at)
            .ok_or(self.stopped(reason::DIRECTORY_ACCESS))?;
        if entry & 1 == 0 {
            return Err(Stopped::unless_disabled(reason::DIRECTORY_ABSENT, entry));
        }
        if entry & (0xffc | offered.reserved_address()) != 0 {
            return Err(Stopped::unless_disabled(reason::DIRECTORY_RESERVED, entry));
        }
        Ok(entry & ADDRESS)
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
        let at = table + u64::from(pasid & 0x3f) * 64;
        let words = read_words(memory, at).ok_or(self.stopped(reason::PASID_ACCESS))?;
        entry(&words, offered)
    }
}

/// Types of translation of a PASID entry (PGTT).
const FIRST_STAGE: u64 = 1;
const SECOND_STAGE: u64 = 2;
const PASS_THROUGH: u64 = 4;

/// Reserved bits of the third quadword of a first-stage entry (VT-d 4.1, 9.6): ERE (bit 1), which
/// needs ECAP.ERS, bit 6, and bits 11:8. Bit 5 (NXE) is accepted: the units of VT-d 2.x had it, and
/// Linux 6.3 to 6.10 and stable kernels of that time set it whatever ECAP says.
const RESERVED_THIRD: u64 = 1 << 1 | 1 << 6 | 0xf << 8;

fn entry(words: &[u64; 8], offered: &Offered) -> Result<Entry, Stopped> {
    let [first, second, third, rest @ ..] = words;
    let stopped = |reason| Stopped::unless_disabled(reason, *first);
    if first & 1 == 0 {
        return Err(stopped(reason::PASID_ABSENT));
    }
    // Nested translation, which alone has the rest, is not offered.
    if rest.iter().any(|&word| word != 0) || second >> 25 != 0 {
        return Err(stopped(reason::PASID_RESERVED));
    }
    let translation = match first >> 6 & 7 {
        PASS_THROUGH => Kind::PassThrough,
        SECOND_STAGE if offered.second_stage => {
            let width = match first >> 2 & 7 {
                2 => AddressWidth::Bits48,
                3 if offered.five_levels => AddressWidth::Bits57,
                _ => return Err(stopped(reason::PASID_INVALID)),
            };
            // Accessed and dirty flags (SSADE) are not offered.
            if first & (0xe20 | offered.reserved_address()) != 0 {
                return Err(stopped(reason::PASID_RESERVED));
            }
            Kind::Stage1(Stage1Table {
                format: TableFormat::SecondStage,
                width,
                ..Stage1Table::four_level(Gpa(first & ADDRESS))
            })
        }
        FIRST_STAGE if !offered.second_stage => {
            let width = match third >> 2 & 3 {
                0 => AddressWidth::Bits48,
                1 if offered.five_levels => AddressWidth::Bits57,
                _ => return Err(stopped(reason::PASID_INVALID)),
            };
            let (supervisor, extended_accessed) = (third & 1 != 0, third & 0x80 != 0);
            let unoffered = (supervisor && !offered.supervisor)
                || (extended_accessed && !offered.extended_accessed);
            if unoffered || third & (RESERVED_THIRD | offered.reserved_address()) != 0 {
                return Err(stopped(reason::PASID_RESERVED));
            }
            Kind::Stage1(Stage1Table {
                format: TableFormat::FirstStage,
                root: Gpa(third & ADDRESS),
                width,
                supervisor,
                extended_accessed,
                write_protect: third & 0x10 != 0,
                guest_pasid: None,
                cookie: 0,
            })
        }
        _ => return Err(stopped(reason::PASID_INVALID)),
    };
    Ok(Entry {
        // CAST: the lowest 16 bits.
        domain: *second as u16,
        translation,
        silent: first & 2 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::Words;
    use super::*;

    const OFFERED: Offered = Offered {
        address_bits: 46,
        second_stage: false,
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

    fn found(words: &Words) -> Result<Entry, Stopped> {
        context(words, &OFFERED, ROOT | SCALABLE, SOURCE)?.entry(words, &OFFERED, 64 + 5)
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
        let table = Stage1Table {
            write_protect: true,
            ..Stage1Table::four_level(Gpa(0x5000))
        };
        assert_eq!(entry.translation, Kind::Stage1(table));
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
            (0x2500, 0x9001, reason::DIRECTORY_ACCESS),
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
        let legacy = context(&tables(), &OFFERED, ROOT, SOURCE);
        assert_eq!(legacy, Err(Stopped::by(reason::TABLE_MODE)));
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
            second_stage: true,
            ..OFFERED
        };
        let found =
            || context(&words, &offered, ROOT | SCALABLE, SOURCE)?.entry(&words, &offered, 69);
        let entry = found().expect("an entry");
        let table = Stage1Table {
            format: TableFormat::SecondStage,
            ..Stage1Table::four_level(Gpa(0x5000))
        };
        assert_eq!(entry.translation, Kind::Stage1(table));
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
}
