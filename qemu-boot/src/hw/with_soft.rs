// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The layouts on the crate's IOMMU in the process, `host_iommu::backend::soft`.
//!
//! Its stage 2 is no table but mappings: what a layout's second-stage table says is mapped there, and
//! layouts that are about the form of that table, or of the entries before it, are none of its.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::{
    AddressWidth, Bdf, FaultEvent, FaultQueue, FaultQueueOptions, FaultRead, Gpa, GuestTable,
    HostIommu, Iova, IovaRange, MapAccess, Mapping, Pasid, PasidAllocation, PasidRequest,
    SharedMemory, Stage1Binding,
};

use super::bench::{Bench, RAM};
use super::layout::{Layout, Mode, Probe, Want, PASID};
use super::machine::Machine;
use super::{endpoint as ep, layouts, vtd};

/// A machine of memory alone.
struct Memory(Rc<SharedMemory>);

impl Machine for Memory {
    fn read(&mut self, addr: u64, size: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.read_bytes(addr, size)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(&mut self, addr: u64, size: usize, value: u64) -> Result<()> {
        self.write_bytes(addr, &value.to_le_bytes()[..size])
    }

    fn read_bytes(&mut self, addr: u64, len: usize) -> Result<Vec<u8>> {
        ensure!(addr + len as u64 <= RAM, "no memory at {addr:#x}");
        let mut bytes = vec![0; len];
        self.0.read(addr, &mut bytes);
        Ok(bytes)
    }

    fn write_bytes(&mut self, addr: u64, data: &[u8]) -> Result<()> {
        ensure!(addr + data.len() as u64 <= RAM, "no memory at {addr:#x}");
        self.0.write(addr, data);
        Ok(())
    }
}

/// The host of a layout: its stage 2 mapped, its PASID bound.
struct Host {
    device: SoftDevice,
    faults: FaultQueue,
    // The binding goes before its PASIDs.
    _binding: Stage1Binding,
    _pasids: PasidAllocation,
}

impl Host {
    fn new(layout: &Layout, bench: &mut Bench, ram: &SharedMemory) -> Result<Self> {
        let soft = Soft::new();
        let bdf: Bdf = "0000:00:04.0".parse()?;
        let device = soft.bus().add(bdf, &SoftDeviceOptions::default())?;
        let host = HostIommu::new(soft);
        let faults = host.fault_queue(&FaultQueueOptions::nonblocking().with_dma_faults())?;
        let at = bench.pasid_entry(layout.pasid())?;
        let entry = [bench.q.read64(at)?, bench.q.read64(at + 16)?];
        match layout.mode() {
            Mode::First | Mode::Pass => host.map(Iova(0), ram, MapAccess::ReadWrite)?,
            Mode::Second | Mode::Nested => {
                let levels = u32::try_from(entry[0] >> vtd::PE_AW_SHIFT & 7)? + 2;
                let mut walk = Walk {
                    bench,
                    found: Vec::new(),
                };
                walk.table(entry[0] & ADDRESS, levels, 0, RIGHTS)?;
                for (addr, to, size, rights) in walk.found {
                    map(&host, ram, (addr, to, size), rights)?;
                }
            }
        }
        let pasids = host.alloc_pasids(&PasidRequest::exactly(Pasid::try_from(PASID)?))?;
        let binding = match (layout.mode(), layout.is_at_rid()) {
            (Mode::First | Mode::Nested, true) => host.bind_rid(bdf, &table(entry[1]), None)?,
            (Mode::First | Mode::Nested, false) => {
                host.bind(bdf, &pasids, pasids.first(), &table(entry[1]), None)?
            }
            // Without PASID stage 2 is in force by itself.
            (Mode::Second | Mode::Pass, _) => {
                host.bind_stage2(bdf, &pasids, pasids.first(), None)?
            }
        };
        Ok(Self {
            device,
            faults,
            _binding: binding,
            _pasids: pasids,
        })
    }

    /// What a probe finds, or the reasons why it was stopped.
    fn probe(&self, layout: &Layout, probe: &Probe, stamp: u64, ats: bool) -> Result<Found> {
        let address = Iova(probe.iova);
        let mut dma = if probe.write {
            Dma::write(address, &stamp.to_le_bytes())
        } else {
            Dma::read(address, 8)
        };
        if !layout.is_at_rid() {
            dma = dma.at(Pasid::try_from(PASID)?);
        }
        if probe.flags & ep::FLAG_PRIV != 0 {
            dma = dma.privileged();
        }
        if !ats {
            dma = dma.no_ats();
        }
        self.device.reset();
        let end = self.device.run(dma.no_page_requests(), Duration::ZERO)?;
        let mut reasons = Vec::new();
        while let FaultRead::Events(events) = self.faults.read()? {
            for event in events {
                let FaultEvent::Dma(fault) = event else {
                    bail!("{event:?}");
                };
                ensure!(fault.address.0 == probe.iova & !0xfff, "{fault:?}");
                reasons.push(fault.reason);
            }
        }
        match end.context("it has not ended")? {
            DmaEnd::Done(data) if reasons.is_empty() => Ok(Found::Done(data)),
            DmaEnd::NoAccess(at) if at == address => Ok(Found::Stopped(reasons)),
            other => bail!("{other:?}, faults {reasons:x?}"),
        }
    }
}

#[derive(Debug)]
enum Found {
    Done(Vec<u8>),
    Stopped(Vec<u32>),
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const RIGHTS: u64 = vtd::S2_R | vtd::S2_W;

/// The stage-1 table of the third quadword of a PASID entry.
fn table(quad: u64) -> GuestTable {
    let mut table = GuestTable::four_level(Gpa(quad & ADDRESS));
    if quad & vtd::PE_FSPM_5 != 0 {
        table.width = AddressWidth::Bits57;
    }
    table.supervisor = quad & vtd::PE_SRE != 0;
    table.write_protect = quad & vtd::PE_WPE != 0;
    table.extended_accessed = quad & vtd::PE_EAFE != 0;
    table
}

/// Finds what a second-stage table maps: address, target, size, rights.
struct Walk<'a> {
    bench: &'a mut Bench,
    found: Vec<(u64, u64, u64, u64)>,
}

impl Walk<'_> {
    fn table(&mut self, table: u64, level: u32, base: u64, rights: u64) -> Result<()> {
        let size = 1u64 << (12 + 9 * (level - 1));
        for index in 0..512 {
            let entry = self.bench.q.read64(table + 8 * index)?;
            let (addr, rights) = (base + index * size, rights & entry);
            if rights == 0 {
                continue;
            }
            if level == 1 || entry & vtd::S2_PS != 0 {
                self.found.push((addr, entry & ADDRESS, size, rights));
            } else {
                self.table(entry & ADDRESS, level - 1, addr, rights)?;
            }
        }
        Ok(())
    }
}

fn map(
    host: &HostIommu,
    memory: &SharedMemory,
    (addr, to, size): (u64, u64, u64),
    rights: u64,
) -> Result<()> {
    // A page of 1 GiB goes beyond the memory.
    let size = size.min(RAM - to);
    host.map_part(&Mapping {
        memory,
        offset: to,
        range: IovaRange::sized(Iova(addr), size).context("no range")?,
        access: match rights {
            vtd::S2_R => MapAccess::Read,
            vtd::S2_W => MapAccess::Write,
            _ => MapAccess::ReadWrite,
        },
    })?;
    Ok(())
}

/// Whether `found` is the reason `wanted`, or what it becomes in an IOMMU that always nests and whose
/// stage 2 has mappings of one width.
fn is_reason(found: u32, wanted: u8) -> bool {
    let nesting: &[u32] = match wanted {
        // The tables cannot be read, or lie beyond stage 2.
        0x70 => &[0x76],
        0x73 => &[0x75],
        0x74 => &[0x75, 0x76],
        // Beyond stage 2, or where its own output may not lead: not mapped.
        0x83 | 0x84 | 0x87 => &[0x79],
        _ => &[],
    };
    found == u32::from(wanted) || nesting.contains(&found)
}

fn check(layout: &Layout) -> Result<()> {
    let ram = Rc::new(SharedMemory::new(c"ram", usize::try_from(RAM)?)?);
    let mut bench = Bench::of(Box::new(Memory(ram.clone())));
    bench.make_directory()?;
    layout.build(&mut bench)?;
    let host = Host::new(layout, &mut bench, &ram)?;
    for probe in layout.probes() {
        // No device of `soft` asks to execute.
        if probe.flags & ep::FLAG_EXEC != 0 {
            continue;
        }
        for ats in [false, true] {
            let (stamp, other) = (bench.stamp(), bench.stamp());
            if let Want::At(at) = probe.want {
                ram.write(at, &if probe.write { other } else { stamp }.to_le_bytes());
            }
            let found = host.probe(layout, probe, stamp, ats);
            let found = found.with_context(|| format!("{probe:x?}, ATS {ats}"))?;
            let as_wanted = match (&found, &probe.want) {
                (Found::Done(_), Want::At(at)) if probe.write => ram.load(*at) == stamp,
                (Found::Done(data), Want::At(_)) => *data == stamp.to_le_bytes(),
                (
                    Found::Stopped(reasons),
                    Want::Hole(wanted) | Want::Error(wanted) | Want::Denied(wanted),
                ) => match reasons[..] {
                    [] => ats,
                    [reason] => !ats && wanted.iter().any(|&wanted| is_reason(reason, wanted)),
                    _ => false,
                },
                _ => false,
            };
            ensure!(as_wanted, "{probe:x?}, ATS {ats}: {found:x?}");
        }
    }
    Ok(())
}

#[test]
fn layouts_hold_for_the_iommu_in_the_process() {
    let mut checked = 0;
    let mut failed = Vec::new();
    for layout in layouts::all().iter().filter(|layout| layout.is_of_stages()) {
        checked += 1;
        if let Err(e) = check(layout) {
            failed.push(format!("{}: {e:#}", layout.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(checked >= 100, "{checked} layouts only");
}
