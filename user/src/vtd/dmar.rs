// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ACPI table that tells a guest of the unit (VT-d 4.1, chapter 8).

use super::offer::VtdConfig;

const REVISION: u8 = 1;
/// Where the header of every table has the length and the sum.
const LENGTH: usize = 4;
const SUM: usize = 9;
/// Types of remapping structures.
const DRHD: u16 = 0;
const ATSR: u16 = 2;
/// The unit is for every device of its segment, and so is ATS.
const ALL: u8 = 1;
/// INTR_REMAP of the table's flags: the platform has interrupt remapping.
const INTERRUPT_REMAPPING: u8 = 1;

impl VtdConfig {
    /// The table DMAR: one unit for all devices of the segment, which may have device TLBs if these
    /// are offered.
    pub fn dmar(&self, oem: [u8; 6], oem_table: [u8; 8], oem_revision: u32) -> Vec<u8> {
        let mut table = Vec::new();
        table.extend(b"DMAR");
        table.extend([0; 4]);
        table.extend([REVISION, 0]);
        table.extend(oem);
        table.extend(oem_table);
        table.extend(oem_revision.to_le_bytes());
        // Who made it, which nobody reads.
        table.extend(b"HIOM");
        table.extend(1u32.to_le_bytes());
        // CAST: at most 52. Then flags, and what is reserved.
        table.push(self.address_bits.saturating_sub(1) as u8);
        table.push(if self.interrupt_remapping {
            INTERRUPT_REMAPPING
        } else {
            0
        });
        table.extend([0; 10]);
        table.extend(DRHD.to_le_bytes());
        table.extend(16u16.to_le_bytes());
        // The size is of one page.
        table.extend([ALL, 0]);
        table.extend(self.segment.to_le_bytes());
        table.extend(self.base.to_le_bytes());
        if self.device_tlbs {
            table.extend(ATSR.to_le_bytes());
            table.extend(8u16.to_le_bytes());
            table.extend([ALL, 0]);
            table.extend(self.segment.to_le_bytes());
        }
        // CAST: less than a hundred.
        let length = (table.len() as u32).to_le_bytes();
        let places = table.iter_mut().skip(LENGTH);
        places.zip(length).for_each(|(to, from)| *to = from);
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if let Some(place) = table.get_mut(SUM) {
            *place = sum.wrapping_neg();
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_the_unit_and_sums_to_zero() {
        let config = VtdConfig::default();
        let table = config.dmar(*b"OEMIDX", *b"TABLEIDX", 1);
        assert_eq!(table.get(..4), Some(&b"DMAR"[..]));
        assert_eq!(table.len(), 48 + 16 + 8);
        let length = table.get(4..8).map(|bytes| bytes.to_vec());
        assert_eq!(length, Some(72u32.to_le_bytes().to_vec()));
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0);
        assert_eq!(table.get(36), Some(&45));
        assert_eq!(table.get(37), Some(&0), "no interrupt remapping");
        let base = table.get(56..64).map(|bytes| bytes.to_vec());
        assert_eq!(base, Some(config.base.to_le_bytes().to_vec()));
    }
}
