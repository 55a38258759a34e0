// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entries of first-stage and second-stage tables, by the specification's names (VT-d 4.1, 3.6, 3.7
//! and 9.7 to 9.9).

use crate::nesting::TableFormat;
use bitflags::bitflags;

bitflags! {
    /// An entry of the first stage (9.7, 9.8).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct FirstStageEntry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Read/write.
        const R_W = 1 << 1;
        /// User/supervisor.
        const U_S = 1 << 2;
        /// Accessed.
        const A = 1 << 5;
        /// Dirty, of a leaf.
        const D = 1 << 6;
        /// Extended accessed.
        const EA = 1 << 10;
        const _ = !0;
    }

    /// An entry of the second stage (9.9).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct SecondStageEntry: u64 {
        /// Read.
        const R = 1 << 0;
        /// Write.
        const W = 1 << 1;
        const _ = !0;
    }
}

/// Page size, of both stages: the entry is a leaf.
const PS: u64 = 1 << 7;
/// PS is reserved in entries of higher levels.
const HIGHEST_LEAF: u32 = 3;
/// Bits of addresses within a page of 4 KiB.
const PAGE_BITS: u32 = 12;
/// Bits of addresses that choose an entry of a table.
const INDEX_BITS: u32 = 9;
/// Bits of the addresses in entries.
pub(crate) const ADDRESS_BITS: u32 = 52;
/// The address of a table or page: bits 51:12.
pub(crate) const ADDRESS: u64 = (1 << ADDRESS_BITS) - (1 << PAGE_BITS);
/// Bytes of an entry.
pub(crate) const ENTRY_SIZE: u64 = 8;

/// Levels of a table that translates addresses of so many bits.
pub(crate) const fn levels(width: u32) -> u32 {
    (width - PAGE_BITS) / INDEX_BITS
}

/// Bits of addresses within what one entry of a level translates; level 1 has pages of 4 KiB.
pub(crate) const fn shift(level: u32) -> u32 {
    PAGE_BITS + INDEX_BITS * (level - 1)
}

/// Bits of an address within what one entry of a level translates.
pub(crate) const fn offset_mask(level: u32) -> u64 {
    (1 << shift(level)) - 1
}

/// The address of a table's entry for an address.
#[cfg(any(feature = "soft", feature = "vtd"))]
pub(crate) const fn entry_at(table: u64, level: u32, address: u64) -> u64 {
    table + ENTRY_SIZE * ((address >> shift(level)) & ((1 << INDEX_BITS) - 1))
}

/// Whether an entry leads to a page, and not to a table.
pub(crate) const fn is_leaf(entry: u64, level: u32) -> bool {
    level == 1 || (level <= HIGHEST_LEAF && entry & PS != 0)
}

/// The address that a leaf translates an address to.
pub(crate) const fn translated(leaf: u64, level: u32, address: u64) -> u64 {
    (leaf & ADDRESS & !offset_mask(level)) | (address & offset_mask(level))
}

/// Whether an entry has reserved bits set, where addresses have so many bits.
pub(crate) fn has_reserved(format: TableFormat, entry: u64, level: u32, address_bits: u32) -> bool {
    let beyond = (entry & ADDRESS).checked_shr(address_bits).unwrap_or(0) != 0;
    let large_above = level > HIGHEST_LEAF && entry & PS != 0;
    // Low bits of a leaf that are no address.
    let flag_bits = match format {
        // Bit 12 of a large page is PAT.
        TableFormat::FirstStage if level > 1 => PAGE_BITS + 1,
        TableFormat::FirstStage | TableFormat::SecondStage => PAGE_BITS,
    };
    let unaligned = offset_mask(level) & !((1 << flag_bits) - 1);
    beyond || large_above || (is_leaf(entry, level) && entry & unaligned != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_specification() {
        assert_eq!((levels(48), levels(57), levels(39)), (4, 5, 3));
        assert_eq!([1, 2, 3, 4, 5].map(shift), [12, 21, 30, 39, 48]);
        assert_eq!(ADDRESS, 0x000f_ffff_ffff_f000);
        assert_eq!(offset_mask(2), 0x1f_ffff);
    }

    #[test]
    fn address_is_where_the_leaf_leads() {
        assert_eq!(translated(0x12_3456_7067, 1, 0xabc), 0x12_3456_7abc);
        // PAT, and what is above the addresses.
        let leaf = 1 << 63 | 0x4000_0000 | 1 << 12 | PS | 3;
        assert_eq!(translated(leaf, 2, 0x7fff_ffff), 0x401f_ffff);
        assert_eq!(translated(leaf, 3, 0x7fff_ffff), 0x7fff_ffff);
    }

    #[test]
    #[cfg(any(feature = "soft", feature = "vtd"))]
    fn entry_is_chosen_by_nine_bits_of_the_address() {
        let address = 0x7f12_3456_7000;
        let index = |level: u32| (entry_at(0x5000, level, address) - 0x5000) / ENTRY_SIZE;
        assert_eq!([4, 3, 2, 1].map(index), [0xfe, 0x48, 0x1a2, 0x167]);
    }

    #[test]
    fn pages_end_where_the_format_has_leaves() {
        assert!(is_leaf(0, 1));
        for (level, leaf) in [(2, true), (3, true), (4, false), (5, false)] {
            assert_eq!(is_leaf(PS, level), leaf, "level {level}");
            assert!(!is_leaf(!PS, level), "level {level}");
        }
    }

    #[test]
    fn reserved_bits_are_found_one_by_one() {
        use TableFormat::{FirstStage, SecondStage};
        let bits = |format, level, leaf: u64| -> u64 {
            let is_reserved = |bit: &u32| has_reserved(format, leaf | 1 << bit, level, 39);
            (0..64).filter(is_reserved).map(|bit| 1u64 << bit).sum()
        };
        let beyond: u64 = (1 << 52) - (1 << 39);
        for format in [FirstStage, SecondStage] {
            assert_eq!(bits(format, 1, 0), beyond);
            assert_eq!(bits(format, 2, 0), beyond);
            assert_eq!(bits(format, 4, 0), beyond | PS);
            assert_eq!(bits(format, 5, 0), beyond | PS);
        }
        let low = |from: u32, to: u32| (1u64 << to) - (1 << from);
        assert_eq!(bits(FirstStage, 2, PS), beyond | low(13, 21));
        assert_eq!(bits(SecondStage, 2, PS), beyond | low(12, 21));
        assert_eq!(bits(FirstStage, 3, PS), beyond | low(13, 30));
        assert_eq!(bits(SecondStage, 3, PS), beyond | low(12, 30));
    }
}
