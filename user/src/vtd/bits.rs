// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fields of registers, entries and descriptors, as the specification writes them: by their highest
//! and their lowest bit.

/// Some bits of a quadword that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    lowest: u32,
    /// The bits, moved down to bit 0.
    mask: u64,
}

impl Field {
    /// Bits `highest` to `lowest`, both inclusive, of 63 to 0.
    pub(super) const fn bits(highest: u32, lowest: u32) -> Self {
        assert!(highest < 64 && lowest <= highest, "no field of a quadword");
        Self {
            lowest,
            mask: u64::MAX >> (63 - (highest - lowest)),
        }
    }

    /// The value of the field.
    pub(super) const fn of(self, word: u64) -> u64 {
        word >> self.lowest & self.mask
    }

    /// A quadword with this value in the field, as far as it fits there, and zeros beside.
    pub(super) const fn with(self, value: u64) -> u64 {
        (value & self.mask) << self.lowest
    }

    /// The field's bits, where they are.
    pub(super) const fn mask(self) -> u64 {
        self.mask << self.lowest
    }
}

/// Bits of an address within a page, of which tables and queues consist.
pub(super) const PAGE_BITS: u32 = 12;
/// Bytes of a page.
pub(super) const PAGE: u64 = 1 << PAGE_BITS;
/// The address of a page: bits 63:12 of an entry or of a register.
pub(super) const PAGE_ADDRESS: u64 = Field::bits(63, 12).mask();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_is_where_the_specification_has_it() {
        let field = Field::bits(47, 32);
        assert_eq!(field.of(0x1234_5678_9abc_def0), 0x5678);
        assert_eq!(field.with(0xf_5678), 0x5678_0000_0000);
        assert_eq!(field.mask(), 0xffff_0000_0000);
        assert_eq!(Field::bits(63, 0).of(u64::MAX), u64::MAX);
        assert_eq!(Field::bits(63, 63).of(1 << 63), 1);
        assert_eq!(PAGE_ADDRESS, !0xfff);
    }
}
