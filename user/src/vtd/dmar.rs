// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ACPI table that tells a guest of the unit (VT-d 4.1, chapter 8).

use super::offer::VtdConfig;
use acpi_tables::sdt::Sdt;

/// DMAR's own fields, behind the header of every table.
const HEADER: u32 = 48;
const REVISION: u8 = 1;
/// Types of remapping structures.
const DRHD: u16 = 0;
const ATSR: u16 = 2;
/// The unit is for every device of its segment, and so is ATS.
const ALL: u8 = 1;

impl VtdConfig {
    /// The table DMAR: one unit for all devices of the segment, which may have device TLBs if these
    /// are offered, and no interrupt remapping.
    pub fn dmar(&self, oem: [u8; 6], oem_table: [u8; 8], oem_revision: u32) -> Vec<u8> {
        let mut table = Sdt::new(*b"DMAR", HEADER, REVISION, oem, oem_table, oem_revision);
        // CAST: at most 52.
        table.write_u8(36, (self.address_bits - 1) as u8);
        let mut unit = Vec::new();
        unit.extend(DRHD.to_le_bytes());
        unit.extend(16u16.to_le_bytes());
        // The size is of one page.
        unit.extend([ALL, 0]);
        unit.extend(self.segment.to_le_bytes());
        unit.extend(self.base.to_le_bytes());
        table.append_slice(&unit);
        if self.device_tlbs {
            let mut ports = Vec::new();
            ports.extend(ATSR.to_le_bytes());
            ports.extend(8u16.to_le_bytes());
            ports.extend([ALL, 0]);
            ports.extend(self.segment.to_le_bytes());
            table.append_slice(&ports);
        }
        table.as_slice().to_vec()
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
