// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ACPI tables of a hardware-reduced machine: CPUs, interrupt controllers, the PCI bus and its
//! IOMMU, serial ports, power-off and reset.

use crate::memory::{Ram, ECAM, MMIO, MMIO_HIGH};
use crate::platform;
use crate::serial;
use acpi_tables::aml::{
    self, AddressSpace, AddressSpaceCacheable, Device, EISAName, Interrupt, Memory32Fixed, Name,
    Package, Path, ResourceTemplate, IO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, ProcessorLocalApic, MADT,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::Aml;
use anyhow::{ensure, Result};
use vm_memory::{Bytes, GuestAddress};

/// Where the guest looks for the first table.
pub const RSDP: u64 = 0xe_0000;
/// The other tables are here, below 1 MiB.
const TABLES: u64 = RSDP + 0x100;
const END: u64 = platform::RESET_VECTOR;
/// Who made the tables, and their names.
pub const OEM: [u8; 6] = *b"HIOMMU";
/// The name of the tables.
pub const OEM_TABLE: [u8; 8] = *b"HIOMMVMM";
const REVISION: u32 = 1;
/// Where a PC has its interrupt controllers.
const LAPIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
/// FADT: there is neither VGA, nor a clock in CMOS (ACPI 6.5, 5.2.9.3).
const NO_VGA_NO_CLOCK: u16 = 1 << 2 | 1 << 5;

/// Puts the tables into RAM one after the other.
struct Writer<'a> {
    ram: &'a Ram,
    next: u64,
}

impl Writer<'_> {
    fn bytes(&mut self, table: &[u8]) -> Result<u64> {
        let at = self.next;
        self.next = (at + table.len() as u64).next_multiple_of(16);
        ensure!(self.next <= END, "ACPI's tables are too long");
        self.ram.write_slice(table, GuestAddress(at))?;
        Ok(at)
    }

    fn table(&mut self, table: &dyn Aml) -> Result<u64> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.bytes(&bytes)
    }
}

/// Writes the tables for `cpus` CPUs and, if there is a unit, its own table; and what resets the machine
/// where its firmware would begin.
pub fn write(ram: &Ram, cpus: u8, dmar: Option<&[u8]>) -> Result<()> {
    let mut writer = Writer { ram, next: TABLES };
    let dsdt = writer.bytes(dsdt().as_slice())?;
    let fadt = writer.table(&fadt(dsdt))?;
    let madt = writer.table(&madt(cpus))?;
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, REVISION);
    mcfg.add_ecam(ECAM.start, 0, 0, 0);
    let mcfg = writer.table(&mcfg)?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    if let Some(dmar) = dmar {
        xsdt.add_entry(writer.bytes(dmar)?);
    }
    let xsdt = writer.table(&xsdt)?;
    let mut first = Writer { ram, next: RSDP };
    first.table(&Rsdp::new(OEM, xsdt))?;
    let reset = GuestAddress(platform::RESET_VECTOR);
    ram.write_slice(&platform::RESET_CODE, reset)?;
    Ok(())
}

fn port(address: u16) -> GAS {
    GAS::new(
        Space::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address.into(),
    )
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = NO_VGA_NO_CLOCK.into();
    fadt.sleep_control_reg = port(platform::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(platform::SLEEP_STATUS);
    fadt.reset_reg = port(platform::RESET);
    fadt.reset_value = platform::RESET_VALUE;
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let address = LocalInterruptController::Address(LAPIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, REVISION, address);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(cpus, IOAPIC, 0));
    madt
}

fn name(name: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(name), value)
}

fn serial_port(index: usize) -> Vec<u8> {
    let (port, interrupt) = serial::PORTS[index];
    // CAST: one or two, and eight.
    let ports = IO::new(port, port, 1, serial::SIZE as u8);
    let interrupt = Interrupt::new(true, true, false, false, interrupt);
    let mut bytes = Vec::new();
    let device = format!("_SB_.COM{}", index + 1);
    Device::new(
        Path::new(&device),
        vec![
            &name("_HID", &EISAName::new("PNP0501")),
            &name("_UID", &(index as u8)),
            &name("_CRS", &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

fn pci(sink: &mut Vec<u8>) {
    let cacheable = AddressSpaceCacheable::NotCacheable;
    // CAST: below 4 GiB.
    let (first, last) = (MMIO.start as u32, MMIO.last() as u32);
    let low = AddressSpace::new_memory(cacheable, true, first, last, None);
    let (first, last) = (MMIO_HIGH.start, MMIO_HIGH.last());
    let high = AddressSpace::new_memory(cacheable, true, first, last, None);
    let buses = AddressSpace::new_bus_number(0u16, 0);
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let resources = ResourceTemplate::new(vec![&buses, &ports, &low, &high]);
    Device::new(
        Path::new("_SB_.PCI0"),
        vec![
            &name("_HID", &EISAName::new("PNP0A08")),
            &name("_CID", &EISAName::new("PNP0A03")),
            &name("_SEG", &aml::ZERO),
            &name("_BBN", &aml::ZERO),
            &name("_UID", &aml::ZERO),
            &name("_CRS", &resources),
        ],
    )
    .to_aml_bytes(sink);
    // CAST: below 4 GiB.
    let ecam = Memory32Fixed::new(true, ECAM.start as u32, ECAM.size as u32);
    Device::new(
        Path::new("_SB_.ECAM"),
        vec![
            &name("_HID", &EISAName::new("PNP0C02")),
            &name("_UID", &aml::ONE),
            &name("_CRS", &ResourceTemplate::new(vec![&ecam])),
        ],
    )
    .to_aml_bytes(sink);
}

fn dsdt() -> Sdt {
    let mut bytes = Vec::new();
    pci(&mut bytes);
    for index in 0..serial::PORTS.len() {
        bytes.extend(serial_port(index));
    }
    let off = Package::new(vec![&platform::POWER_OFF, &aml::ZERO]);
    name("_S5_", &off).to_aml_bytes(&mut bytes);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, REVISION);
    table.append_slice(&bytes);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_from_the_first_one_on() {
        let ram = Ram::from_ranges(&[(GuestAddress(0), 2 << 20)]).expect("memory");
        write(
            &ram,
            2,
            Some(b"DMAR0123456789012345678901234567890123456789"),
        )
        .expect("tables");
        let at = |address: u64| -> u64 { ram.read_obj(GuestAddress(address)).expect("memory") };
        assert_eq!(at(RSDP).to_le_bytes(), *b"RSD PTR ");
        let xsdt = at(RSDP + 24);
        let mut names = Vec::new();
        for entry in 0..4 {
            let table = at(xsdt + 36 + entry * 8);
            let mut name = [0; 4];
            ram.read_slice(&mut name, GuestAddress(table))
                .expect("memory");
            names.push(String::from_utf8_lossy(&name).into_owned());
        }
        assert_eq!(names, ["FACP", "APIC", "MCFG", "DMAR"]);
    }
}
