// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ACPI table that tells a guest of its units (VT-d 4.1, chapter 8).

use super::bits::PAGE;
use super::offer::VtdConfig;
use crate::error::{Error, Result};
use crate::types::IovaRange;

const REVISION: u8 = 1;
/// Where the header of every table has the length and the sum.
const LENGTH: usize = 4;
const SUM: usize = 9;
/// INTR_REMAP of the table's flags (8.1): the platform has interrupt remapping.
const INTERRUPT_REMAPPING: u8 = 1;
/// In a DRHD INCLUDE_PCI_ALL (8.3), in an ATSR ALL_PORTS (8.5): no scopes are needed.
const ALL: u8 = 1;
/// ATC_REQUIRED of a SATC (8.8): the device does not work without its translation cache.
const ATC_REQUIRED: u8 = 1;

/// Devices of a bus and functions of a device (PCIe 6.0, 2.2.4.2).
const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;

/// Types of remapping structures (8.2), in the order in which a table has them.
mod kind {
    pub(super) const DRHD: u16 = 0;
    pub(super) const RMRR: u16 = 1;
    pub(super) const ATSR: u16 = 2;
    pub(super) const SATC: u16 = 5;
}

/// A device that a structure of the table is about (VT-d 4.1, 8.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmarScope {
    kind: u8,
    enumeration: u8,
    bus: u8,
    path: Vec<(u8, u8)>,
}

impl DmarScope {
    fn new(kind: u8, enumeration: u8, bus: u8, path: &[(u8, u8)]) -> Self {
        Self {
            kind,
            enumeration,
            bus,
            path: path.to_vec(),
        }
    }

    /// A PCI function: device and function on `bus`, the bus of a host bridge, and behind each
    /// bridge on the way device and function there.
    pub fn endpoint(bus: u8, path: &[(u8, u8)]) -> Self {
        Self::new(1, 0, bus, path)
    }

    /// A PCI bridge and everything behind it.
    pub fn bridge(bus: u8, path: &[(u8, u8)]) -> Self {
        Self::new(2, 0, bus, path)
    }

    /// An IOAPIC by its id in the MADT, and the function that its interrupts come from.
    pub fn io_apic(id: u8, bus: u8, function: (u8, u8)) -> Self {
        Self::new(3, id, bus, &[function])
    }

    /// An HPET that sends messages, by its number in the HPET table.
    pub fn hpet(number: u8, bus: u8, function: (u8, u8)) -> Self {
        Self::new(4, number, bus, &[function])
    }

    /// The scope's bytes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for a path that is empty, too long, or no devices and functions.
    fn bytes(&self) -> Result<Vec<u8>> {
        let wrong = |why| wrong("DmarScope", "path", why);
        if self.path.is_empty() {
            return Err(wrong("is empty"));
        }
        let valid = |&(device, function): &(u8, u8)| device < DEVICES && function < FUNCTIONS;
        if !self.path.iter().all(valid) {
            return Err(wrong("has a device above 31 or a function above 7"));
        }
        let length = self.path.len().saturating_mul(2).saturating_add(6);
        let length = u8::try_from(length).map_err(|_| wrong("is longer than 124"))?;
        let mut bytes = vec![self.kind, length, 0, 0, self.enumeration, self.bus];
        for &(device, function) in &self.path {
            bytes.extend([device, function]);
        }
        Ok(bytes)
    }
}

/// A table DMAR that a VMM composes of its units and of structures of its own.
///
/// ```
/// use host_iommu::vtd::{DmarScope, DmarTable, VtdConfig};
///
/// let graphics = VtdConfig::default();
/// let mut rest = VtdConfig::default();
/// rest.base = 0xfed9_1000;
/// let table = DmarTable::new(*b"OEMIDX", *b"TABLEIDX", 1)
///     .unit(&rest, &[])?
///     .unit(&graphics, &[DmarScope::endpoint(0, &[(2, 0)])])?
///     .into_bytes();
/// assert_eq!(&table[..4], b"DMAR");
/// # Ok::<(), host_iommu::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DmarTable {
    oem: [u8; 6],
    oem_table: [u8; 8],
    oem_revision: u32,
    /// Of the widest unit.
    address_bits: u32,
    /// All units have it; `None` while there are none.
    interrupt_remapping: Option<bool>,
    /// By type, and a unit for all devices of a segment after the other units.
    structures: Vec<(u16, bool, Vec<u8>)>,
}

fn wrong(of: &'static str, field: &'static str, why: &'static str) -> Error {
    Error::InvalidField { of, field, why }
}

impl DmarTable {
    /// A table without structures.
    pub fn new(oem: [u8; 6], oem_table: [u8; 8], oem_revision: u32) -> Self {
        Self {
            oem,
            oem_table,
            oem_revision,
            address_bits: 0,
            interrupt_remapping: None,
            structures: Vec::new(),
        }
    }

    /// A structure of a type: its body, then its scopes.
    fn put(mut self, kind: u16, all: bool, body: &[u8], scopes: &[DmarScope]) -> Result<Self> {
        let mut rest = body.to_vec();
        for scope in scopes {
            rest.extend(scope.bytes()?);
        }
        let length = rest.len().saturating_add(4);
        let length = u16::try_from(length)
            .map_err(|_| wrong("DmarTable", "structure", "is longer than 65,535 bytes"))?;
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(rest);
        self.structures.push((kind, all, bytes));
        Ok(self)
    }

    /// A unit (DRHD) for these devices, or without scopes for all devices of its segment that no
    /// other unit is for. IOAPICs and HPETs have to be named in any case.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for a scope that is none, or too many of them.
    pub fn unit(mut self, config: &VtdConfig, scopes: &[DmarScope]) -> Result<Self> {
        self.address_bits = self.address_bits.max(config.address_bits);
        let before = self.interrupt_remapping.unwrap_or(true);
        self.interrupt_remapping = Some(before && config.interrupt_remapping);
        let pci = |scope: &DmarScope| scope.kind <= 2;
        let all = !scopes.iter().any(pci);
        // The size is of one page: 2^0.
        let mut body = vec![if all { ALL } else { 0 }, 0];
        body.extend(config.segment.to_le_bytes());
        body.extend(config.base.to_le_bytes());
        self.put(kind::DRHD, all, &body, scopes)
    }

    /// Memory that devices use without their driver's doing (RMRR), such as a framebuffer of the
    /// firmware's: guest-physical, whole pages. The guest maps it for these devices one to one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for a range that is not of whole pages, no scopes, a scope that is
    /// none, or too many of them.
    pub fn reserved_memory(
        self,
        segment: u16,
        range: IovaRange,
        scopes: &[DmarScope],
    ) -> Result<Self> {
        let (first, last) = (range.start().0, range.last().0);
        let of = "DmarTable::reserved_memory";
        if first % PAGE != 0 || last % PAGE != PAGE - 1 {
            return Err(wrong(of, "range", "is not of whole pages"));
        }
        if scopes.is_empty() {
            return Err(wrong(of, "scopes", "are none"));
        }
        let mut body = vec![0, 0];
        body.extend(segment.to_le_bytes());
        body.extend(first.to_le_bytes());
        body.extend(last.to_le_bytes());
        self.put(kind::RMRR, false, &body, scopes)
    }

    /// Root ports below which devices may have device TLBs (ATSR); without scopes all of the segment.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for a scope that is none, or too many of them.
    pub fn device_tlbs(self, segment: u16, ports: &[DmarScope]) -> Result<Self> {
        let mut body = vec![if ports.is_empty() { ALL } else { 0 }, 0];
        body.extend(segment.to_le_bytes());
        self.put(kind::ATSR, false, &body, ports)
    }

    /// Root-complex integrated devices with a device TLB (SATC); `required`: that they need.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] for no scopes, a scope that is none, or too many of them.
    pub fn integrated_device_tlbs(
        self,
        segment: u16,
        required: bool,
        scopes: &[DmarScope],
    ) -> Result<Self> {
        if scopes.is_empty() {
            let of = "DmarTable::integrated_device_tlbs";
            return Err(wrong(of, "scopes", "are none"));
        }
        let mut body = vec![if required { ATC_REQUIRED } else { 0 }, 0];
        body.extend(segment.to_le_bytes());
        self.put(kind::SATC, false, &body, scopes)
    }

    /// A structure of any other type, such as ANDD: what follows its type and length.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] if it is too long.
    pub fn structure(self, kind: u16, body: &[u8]) -> Result<Self> {
        self.put(kind, false, body, &[])
    }

    /// The table. Structures are in the order of their types, as 8.2 asks for, and of one type in
    /// that in which they were given, but that a unit for all devices comes after the others (8.3).
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.structures.sort_by_key(|&(kind, all, _)| (kind, all));
        let mut table = Vec::new();
        table.extend(b"DMAR");
        table.extend([0; 4]);
        table.extend([REVISION, 0]);
        table.extend(self.oem);
        table.extend(self.oem_table);
        table.extend(self.oem_revision.to_le_bytes());
        // Who made it, which nobody reads.
        table.extend(b"HIOM");
        table.extend(1u32.to_le_bytes());
        // CAST: at most 52. Then flags, and what is reserved.
        table.push(self.address_bits.saturating_sub(1) as u8);
        table.push(match self.interrupt_remapping {
            Some(true) => INTERRUPT_REMAPPING,
            _ => 0,
        });
        table.extend([0; 10]);
        for (_, _, bytes) in self.structures {
            table.extend(bytes);
        }
        // CAST: a VMM's own structures, not a guest's.
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

impl VtdConfig {
    /// The table DMAR of one unit for all devices of the segment, which may have device TLBs if these
    /// are offered. [`DmarTable`] is for anything else.
    pub fn dmar(&self, oem: [u8; 6], oem_table: [u8; 8], oem_revision: u32) -> Vec<u8> {
        let table = DmarTable::new(oem, oem_table, oem_revision);
        let made = table.unit(self, &[]).and_then(|table| {
            if self.device_tlbs {
                table.device_tlbs(self.segment, &[])
            } else {
                Ok(table)
            }
        });
        // Without scopes nothing is wrong with it.
        made.map(DmarTable::into_bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Iova;

    fn sum(table: &[u8]) -> u8 {
        table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    fn empty() -> DmarTable {
        DmarTable::new(*b"OEMIDX", *b"TABLEIDX", 1)
    }

    /// The types and bytes of the structures.
    fn structures(table: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut rest = table.get(48..).expect("a header");
        let mut found = Vec::new();
        while let [kind, kind_high, length, length_high, ..] = *rest {
            let length = usize::from(u16::from_le_bytes([length, length_high]));
            let (one, others) = rest.split_at(length);
            found.push((u16::from_le_bytes([kind, kind_high]), one.to_vec()));
            rest = others;
        }
        found
    }

    #[test]
    fn table_names_the_unit_and_sums_to_zero() {
        let config = VtdConfig::default();
        let table = config.dmar(*b"OEMIDX", *b"TABLEIDX", 1);
        assert_eq!(table.get(..4), Some(&b"DMAR"[..]));
        assert_eq!(table.len(), 48 + 16 + 8);
        let length = table.get(4..8).map(|bytes| bytes.to_vec());
        assert_eq!(length, Some(72u32.to_le_bytes().to_vec()));
        assert_eq!(sum(&table), 0);
        assert_eq!(table.get(36), Some(&45));
        assert_eq!(table.get(37), Some(&0), "no interrupt remapping");
        let base = table.get(56..64).map(|bytes| bytes.to_vec());
        assert_eq!(base, Some(config.base.to_le_bytes().to_vec()));
    }

    #[test]
    fn table_is_composed_in_the_order_of_types() {
        let one = VtdConfig {
            interrupt_remapping: true,
            ..VtdConfig::default()
        };
        let two = VtdConfig {
            address_bits: 48,
            base: 0xfed9_1000,
            ..VtdConfig::default()
        };
        let disk = DmarScope::endpoint(0, &[(0x1c, 4), (0, 0)]);
        let range = IovaRange::new(Iova(0x1000_0000), Iova(0x100f_ffff)).expect("a range");
        let composed = || -> Result<Vec<u8>> {
            Ok(empty()
                .integrated_device_tlbs(0, true, &[DmarScope::endpoint(0, &[(2, 0)])])?
                .structure(4, &[0, 0, 0, 1, b'\\', b'A', 0])?
                .device_tlbs(0, &[DmarScope::bridge(0, &[(0x1c, 4)])])?
                .reserved_memory(0, range, std::slice::from_ref(&disk))?
                .unit(&one, &[DmarScope::io_apic(7, 0xf0, (0x1f, 0))])?
                .unit(&two, std::slice::from_ref(&disk))?
                .into_bytes())
        };
        let table = composed().expect("a table");
        assert_eq!(sum(&table), 0);
        assert_eq!(table.get(36..38), Some(&[47, 0][..]), "of all units");
        let found = structures(&table);
        let kinds: Vec<u16> = found.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0, 0, 1, 2, 4, 5]);
        let bytes: Vec<&[u8]> = found.iter().map(|(_, bytes)| &bytes[..]).collect();
        // The unit for one device comes before that for all.
        let unit: [u8; 26] = [
            0, 0, 26, 0, 0, 0, 0, 0, 0, 0x10, 0xd9, 0xfe, 0, 0, 0, 0, // DRHD
            1, 10, 0, 0, 0, 0, 0x1c, 4, 0, 0, // endpoint, by 1c.4
        ];
        assert_eq!(bytes.first(), Some(&&unit[..]));
        let all = bytes.get(1).and_then(|bytes| bytes.get(4..));
        let io_apic = [3, 8, 0, 0, 7, 0xf0, 0x1f, 0];
        assert_eq!(all.and_then(|all| all.first()), Some(&1), "INCLUDE_PCI_ALL");
        assert_eq!(all.and_then(|all| all.get(12..)), Some(&io_apic[..]));
        let reserved = bytes.get(2).and_then(|bytes| bytes.get(8..24));
        let range = [0x1000_0000u64.to_le_bytes(), 0x100f_ffffu64.to_le_bytes()].concat();
        assert_eq!(reserved, Some(&range[..]));
        assert_eq!(bytes.get(3).and_then(|bytes| bytes.get(4)), Some(&0));
        assert_eq!(bytes.get(5).and_then(|bytes| bytes.get(4)), Some(&1));
    }

    #[test]
    fn interrupt_remapping_is_told_if_all_units_have_it() {
        let with = VtdConfig {
            interrupt_remapping: true,
            ..VtdConfig::default()
        };
        let without = VtdConfig::default();
        let flags = |units: &[&VtdConfig]| {
            let table = units
                .iter()
                .try_fold(empty(), |table, unit| table.unit(unit, &[]));
            table.expect("a table").into_bytes().get(37).copied()
        };
        assert_eq!(flags(&[&with]), Some(1));
        assert_eq!(flags(&[&with, &with]), Some(1));
        assert_eq!(flags(&[&with, &without]), Some(0));
        assert_eq!(flags(&[]), Some(0));
    }

    #[test]
    fn what_no_table_can_have_is_refused() {
        let config = VtdConfig::default();
        let page = IovaRange::new(Iova(0x1000), Iova(0x1ffe)).expect("a range");
        let scope = DmarScope::endpoint(0, &[(0, 0)]);
        let text = |made: Result<DmarTable>| made.expect_err("refused").to_string();
        for (path, why) in [
            (&[][..], "is empty"),
            (&[(32, 0)], "has a device above 31 or a function above 7"),
            (&[(0, 8)], "has a device above 31 or a function above 7"),
            (&[(0, 0); 125], "is longer than 124"),
        ] {
            let scope = DmarScope::endpoint(0, path);
            let made = empty().unit(&config, &[scope]);
            assert_eq!(text(made), format!("DmarScope: path {why}"));
        }
        let longest = DmarScope::endpoint(0, &[(0, 0); 124]);
        assert!(empty().unit(&config, &[longest]).is_ok());
        let scopes = std::slice::from_ref(&scope);
        let of = "DmarTable::reserved_memory";
        for range in [page, IovaRange::new(Iova(1), Iova(0xfff)).expect("a range")] {
            let made = empty().reserved_memory(0, range, scopes);
            assert_eq!(text(made), format!("{of}: range is not of whole pages"));
        }
        let range = IovaRange::new(Iova(0), Iova(0xfff)).expect("a range");
        assert!(empty().reserved_memory(0, range, scopes).is_ok());
        let made = empty().reserved_memory(0, range, &[]);
        assert_eq!(text(made), format!("{of}: scopes are none"));
        let made = empty().integrated_device_tlbs(0, false, &[]);
        assert!(text(made).ends_with("scopes are none"));
        let too_long = "DmarTable: structure is longer than 65,535 bytes";
        assert_eq!(text(empty().unit(&config, &vec![scope; 9000])), too_long);
        assert_eq!(text(empty().structure(4, &[0; 0x1_0000])), too_long);
    }
}
