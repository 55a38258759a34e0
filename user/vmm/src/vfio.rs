// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A passed-through device: its configuration space as the guest sees it, its BARs in the guest's
//! memory, and its interrupts as eventfds.
//!
//! The guest's accesses to configuration space go to VFIO, but for what is kept here:
//! - the BARs, which the guest places where it likes;
//! - MSI-X, whose table is here and whose vectors are eventfds;
//! - extended capabilities: PASID, ATS and PRI by what the context carries, and no others. What the
//!   guest enables is kept; the host has enabled what the device needs.
//!
//! INTx, MSI and I/O ports are not passed through: devices that nest have MSI-X and memory BARs.

use crate::bus::{Bus, Registers};
use crate::cpu::Buses;
use crate::machine::Parts;
use crate::msix::{self, Msix, MsixState};
use crate::pci::{self, Bar, ConfigSpace, Function, PciBus};
use crate::takeover::Files;
use anyhow::{bail, Context, Result};
use host_iommu::kvm::{Slot, Slots};
use host_iommu::pci::{extended_capabilities, Layout};
use host_iommu::vfio::{Interrupt, Mmio, Region, VfioDevice};
use host_iommu::{Bdf, HostIommu};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// BARs of a function.
const BARS: u16 = 6;
/// Bits of a BAR (PCIe 6.0, 7.5.1.2.1).
const BAR_PORTS: u32 = 1;
const BAR_WIDE: u32 = 1 << 2;
const BAR_PREFETCHABLE: u32 = 1 << 3;
/// Ids of capabilities, and what is looked at in them.
const MSI: u8 = 0x05;
const EXPRESS: u8 = 0x10;
/// The control word of PCI Express, and its bit that resets the function.
const DEVICE_CONTROL: u16 = 8;
const RESET: u16 = 1 << 15;
/// Where extended capabilities are.
const EXTENDED: u16 = 0x100;
/// The page requests that a guest may allow a device, if nobody says.
const PAGE_REQUESTS: u32 = 64;

/// A device of the host that is open, for as long as the VMM runs.
#[derive(Debug)]
pub struct HostDevice(VfioDevice);

impl HostDevice {
    /// One of a context.
    pub fn new(context: &HostIommu, bdf: Bdf) -> Result<Self> {
        Ok(Self(context.device(bdf)?))
    }

    /// One whose file another process has left.
    pub fn from_file(file: OwnedFd, bdf: Bdf) -> Result<Self> {
        Ok(Self(VfioDevice::from_fd(file, bdf)?))
    }

    /// Where the host has it.
    pub fn bdf(&self) -> Bdf {
        self.0.name()
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        if let Err(error) = self.0.read_config(offset.into(), data) {
            tracing::warn!(%error, "configuration space cannot be read");
            data.fill(0xff);
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        if let Err(error) = self.0.write_config(offset.into(), data) {
            tracing::warn!(%error, "configuration space cannot be written");
        }
    }

    fn word(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Resets the device, if it can be.
    pub fn reset(&self) {
        if let Err(error) = self.0.reset() {
            tracing::info!(%error, "the device is as it is");
        }
    }

    /// Has VFIO signal the vectors, or none.
    fn set_interrupts(&self, vectors: Option<&Msix>) -> host_iommu::Result<()> {
        let Some(vectors) = vectors else {
            return self.0.disable(Interrupt::MsiX);
        };
        let events = vectors.events().iter();
        let events: Vec<_> = events.map(|event| Some(event.as_fd())).collect();
        self.0.set_events(Interrupt::MsiX, 0, &events)
    }
}

impl AsFd for HostDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A memory BAR of the device.
struct HostBar {
    index: u16,
    bar: Bar,
    region: Arc<Region>,
    /// The device's registers as far as they can be mapped, and their offsets: accesses beside them
    /// are trapped.
    memory: Vec<(u64, Arc<Mmio>)>,
    /// Where the guest has it now.
    mapped: Option<Mapped>,
}

struct Mapped {
    address: u64,
    _slots: Vec<Slot>,
}

/// Where a device's MSI-X is.
struct HostMsix {
    /// Of the capability.
    offset: u16,
    bar: u16,
    table: u64,
    vectors: Arc<Msix>,
}

/// What is the guest's of a device.
struct State {
    config: ConfigSpace,
    /// What of configuration space is kept here, byte by byte.
    kept: Vec<bool>,
    bars: Vec<HostBar>,
    /// VFIO signals the vectors.
    interrupts: bool,
}

/// What another process needs to go on with a device: what the guest sees of configuration space,
/// and its vectors.
#[derive(Serialize, Deserialize)]
pub struct VfioState {
    config: Vec<u8>,
    interrupts: bool,
    msix: Option<MsixState>,
}

/// A passed-through device on the guest's bus.
pub struct VfioFunction {
    host: Arc<HostDevice>,
    msix: Option<HostMsix>,
    express: Option<u16>,
    slots: Arc<Slots>,
    buses: Arc<Buses>,
    pci: Arc<PciBus>,
    state: Mutex<State>,
}

impl VfioFunction {
    /// A device of a context, with as many PASID bits as the guest's unit has, or without PASIDs.
    /// Another process may have left the eventfds of its vectors.
    pub fn new(
        host: &Arc<HostDevice>,
        context: &HostIommu,
        pasid_bits: Option<u32>,
        machine: &Parts<'_>,
        files: Option<&mut Files>,
    ) -> Result<Arc<Self>> {
        let mut config = ConfigSpace::new();
        let mut kept = vec![false; pci::CONFIG_SIZE];
        let mut keep = |from: u16, count: u16| {
            let places = kept.iter_mut().skip(from.into()).take(count.into());
            places.for_each(|place| *place = true);
        };
        keep(pci::BAR, BARS * 4);
        keep(pci::ROM, 4);
        keep(pci::INTERRUPT, 2);
        keep(EXTENDED, pci::CONFIG_SIZE as u16 - EXTENDED);
        let mut files = files;
        let mut msix = None;
        let mut express = None;
        // The list of capabilities without MSI, whose entry is skipped.
        let mut link = pci::CAPABILITIES;
        let mut next = host.word(link) as u8 & !3;
        for _ in 0..48 {
            if next == 0 {
                break;
            }
            let at = u16::from(next);
            let header = host.word(at);
            // CAST: bytes of the header.
            let (id, after) = (header as u8, (header >> 8) as u8 & !3);
            if id == MSI {
                next = after;
                continue;
            }
            keep(link, 1);
            config.put(link, &[next]);
            link = at + 1;
            next = after;
            match id {
                msix::CAPABILITY => {
                    keep(at + msix::CONTROL, 2);
                    msix = Some(HostMsix::new(host, at, header, machine, files.take())?);
                    let size = (header >> 16) as u16 & 0x7ff;
                    let count = size.min(msix::MAX_VECTORS - 1);
                    config.put(at + msix::CONTROL, &count.to_le_bytes());
                    let writable = msix::ENABLE | msix::MASK_ALL;
                    config.allow(at + msix::CONTROL, &writable.to_le_bytes());
                }
                EXPRESS => express = Some(at),
                _ => {}
            }
        }
        keep(link, 1);
        config.put(link, &[0]);
        if let Some(pasid_bits) = pasid_bits {
            show_extended(&mut config, host, context, pasid_bits)?;
        }
        let bars = bars(host, msix.as_ref(), machine.pci)?;
        for bar in &bars {
            config.put_bar(bar.index, bar.bar);
        }
        Ok(Arc::new(Self {
            host: host.clone(),
            msix,
            express,
            slots: machine.slots.clone(),
            buses: machine.buses.clone(),
            pci: machine.pci.clone(),
            state: Mutex::new(State {
                config,
                kept,
                bars,
                interrupts: false,
            }),
        }))
    }

    /// Holds interrupts back, until [`VfioFunction::go_on`]; gives what another process needs.
    pub fn pause(&self, files: &mut Files) -> Result<VfioState> {
        let state = self.state();
        let msix = self.msix.as_ref();
        Ok(VfioState {
            config: state.config.bytes().to_vec(),
            interrupts: state.interrupts,
            msix: msix.map(|msix| msix.vectors.pause(files)).transpose()?,
        })
    }

    /// Interrupts come again.
    pub fn go_on(&self) {
        if let Some(msix) = &self.msix {
            msix.vectors.go_on();
        }
    }

    /// Makes it what it was in another process. The device itself has not changed.
    pub fn restore(&self, saved: &VfioState) {
        let mut state = self.state();
        state.config.put(0, &saved.config);
        state.interrupts = saved.interrupts;
        if let (Some(msix), Some(saved)) = (&self.msix, &saved.msix) {
            msix.vectors.restore(saved);
        }
        self.map_bars(&mut state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps BARs where the guest has them now, if the device decodes memory at all.
    fn map_bars(&self, state: &mut State) {
        let mut command = [0; 2];
        self.host.read_config(pci::COMMAND, &mut command);
        let decodes = u16::from_le_bytes(command) & pci::COMMAND_MEMORY != 0;
        let State { config, bars, .. } = state;
        for bar in bars {
            let address = config.bar(bar.index, bar.bar.wide);
            let wanted = decodes && pci::in_window(address, bar.bar.size);
            let wanted = wanted.then_some(address);
            if bar.mapped.as_ref().map(|mapped| mapped.address) == wanted {
                continue;
            }
            bar.unmap(&self.buses.memory);
            bar.mapped = wanted.map(|address| self.map_bar(bar, address));
        }
    }

    fn map_bar(&self, bar: &HostBar, address: u64) -> Mapped {
        let msix = self.msix.as_ref().filter(|msix| msix.bar == bar.index);
        let trapped = Trapped {
            host: self.host.clone(),
            region: bar.region.clone(),
            table: msix.map(|msix| (msix.table, msix.vectors.clone())),
        };
        let size = bar.bar.size;
        self.buses.memory.insert(address, size, Arc::new(trapped));
        let mut slots = Vec::new();
        for (offset, memory) in &bar.memory {
            match self.slots.map(address + offset, memory.clone()) {
                Ok(slot) => slots.push(slot),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "a BAR is reached by exits alone");
                }
            }
        }
        Mapped {
            address,
            _slots: slots,
        }
    }

    /// Has VFIO signal the vectors, or not, as the guest has enabled them.
    fn set_interrupts(&self, state: &mut State) {
        let Some(msix) = &self.msix else {
            return;
        };
        let enabled = msix.vectors.is_enabled();
        if enabled == state.interrupts {
            return;
        }
        match self.host.set_interrupts(enabled.then_some(&*msix.vectors)) {
            Ok(()) => state.interrupts = enabled,
            Err(error) => tracing::error!(%error, "the device's interrupts are lost"),
        }
    }

    /// What follows from a write of the guest's.
    fn wrote(&self, state: &mut State, offset: u16, length: u16) {
        let touches = |from: u16, count: u16| offset < from + count && from < offset + length;
        if touches(pci::COMMAND, 2) || touches(pci::BAR, BARS * 4) {
            self.map_bars(state);
        }
        if let Some(msix) = &self.msix {
            if touches(msix.offset + msix::CONTROL, 2) {
                let control = state.config.word(msix.offset + msix::CONTROL);
                msix.vectors.set_control(control);
                self.set_interrupts(state);
            }
        }
    }

    /// The guest resets the function: what is kept here is as after a reset. VFIO resets the device.
    fn reset(&self, state: &mut State) {
        tracing::info!(device = %self.host.bdf(), "the guest resets the device");
        state
            .config
            .lower(EXTENDED, pci::CONFIG_SIZE as u16 - EXTENDED);
        if let Some(msix) = &self.msix {
            state.config.lower(msix.offset + msix::CONTROL, 2);
            msix.vectors.reset();
            self.set_interrupts(state);
        }
    }
}

impl HostMsix {
    fn new(
        host: &HostDevice,
        offset: u16,
        header: u32,
        machine: &Parts<'_>,
        files: Option<&mut Files>,
    ) -> Result<Self> {
        let table = host.word(offset + 4);
        let count = ((header >> 16) & 0x7ff) as u16 + 1;
        if count > msix::MAX_VECTORS {
            tracing::warn!(device = %host.bdf(), count, "the guest sees {} vectors", msix::MAX_VECTORS);
        }
        Ok(Self {
            offset,
            // CAST: three bits.
            bar: (table & 7) as u16,
            table: u64::from(table & !7),
            vectors: Arc::new(Msix::new(machine.interrupts, count, files)?),
        })
    }
}

/// PASID, ATS and PRI by what the context carries.
fn show_extended(
    config: &mut ConfigSpace,
    host: &HostDevice,
    context: &HostIommu,
    pasid_bits: u32,
) -> Result<()> {
    let devices = context.devices()?;
    let info = devices.iter().find(|info| info.device == host.bdf());
    let info = info.with_context(|| format!("the host does not list {}", host.bdf()))?;
    let layout = Layout {
        offset: EXTENDED,
        next: 0,
        pasid_bits,
        page_requests: PAGE_REQUESTS,
    };
    let found = extended_capabilities(info, &layout).context("extended capabilities do not fit")?;
    for capability in found {
        config.put(capability.offset, &capability.bytes);
        config.allow(capability.offset, &capability.writable);
    }
    Ok(())
}

/// The memory BARs of a device, with addresses for the guest.
fn bars(host: &HostDevice, msix: Option<&HostMsix>, pci: &PciBus) -> Result<Vec<HostBar>> {
    let mut bars = Vec::new();
    for index in 0..BARS {
        let register = host.word(pci::BAR + index * 4);
        let Ok(region) = host.0.region(index.into()) else {
            continue;
        };
        if region.size == 0 || register & BAR_PORTS != 0 {
            continue;
        }
        if !region.size.is_power_of_two() {
            bail!("BAR {index} of {} has an odd size", host.bdf());
        }
        let wide = register & BAR_WIDE != 0;
        // A page at least, so that nothing else is in it.
        let size = region.size.max(4096);
        let bar = Bar {
            address: pci.take_address(size, wide)?,
            size,
            wide,
            prefetchable: register & BAR_PREFETCHABLE != 0,
        };
        let mut memory = Vec::new();
        // The guest's accesses to the table come here: the host's is not for it.
        if msix.is_none_or(|msix| msix.bar != index) {
            for area in region.mappable() {
                memory.push((area.offset, Arc::new(host.0.map(&region, area)?)));
            }
        }
        bars.push(HostBar {
            index,
            bar,
            region: Arc::new(region),
            memory,
            mapped: None,
        });
    }
    Ok(bars)
}

impl HostBar {
    fn unmap(&mut self, bus: &Bus) {
        if let Some(mapped) = self.mapped.take() {
            bus.remove(mapped.address);
        }
    }
}

impl Drop for VfioFunction {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.interrupts {
            drop(self.host.set_interrupts(None));
        }
        for bar in &mut state.bars {
            bar.unmap(&self.buses.memory);
            self.pci.free_address(bar.bar.address);
        }
    }
}

impl Function for VfioFunction {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let state = self.state();
        let kept = state.kept.iter().skip(offset.into()).take(data.len());
        let kept: Vec<bool> = kept.copied().collect();
        if kept.iter().any(|kept| !kept) {
            self.host.read_config(offset, data);
        }
        let mut own = vec![0; data.len()];
        state.config.read(offset, &mut own);
        for ((to, from), _) in data.iter_mut().zip(own).zip(kept).filter(|(_, kept)| *kept) {
            *to = from;
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut state = self.state();
        state.config.write(offset, data);
        let kept = state.kept.iter().skip(offset.into()).take(data.len());
        let kept: Vec<bool> = kept.copied().collect();
        // CAST: configuration space has 4096 bytes.
        let length = data.len() as u16;
        if let Some(control) = self.express.map(|express| express + DEVICE_CONTROL) {
            let at = usize::from(control + 1).checked_sub(offset.into());
            let byte = at.and_then(|at| data.get(at));
            if byte.is_some_and(|byte| byte & (RESET >> 8) as u8 != 0) {
                self.reset(&mut state);
            }
        }
        match kept.iter().filter(|kept| !**kept).count() {
            0 => {}
            count if count == data.len() => self.host.write_config(offset, data),
            _ => {
                let bytes = data.iter().zip(kept).zip(offset..);
                for ((byte, _), at) in bytes.filter(|((_, kept), _)| !kept) {
                    self.host.write_config(at, &[*byte]);
                }
            }
        }
        self.wrote(&mut state, offset, length);
    }
}

/// A BAR whose accesses come here: it has the MSI-X table, or cannot be mapped.
struct Trapped {
    host: Arc<HostDevice>,
    region: Arc<Region>,
    table: Option<(u64, Arc<Msix>)>,
}

impl Trapped {
    /// The vectors and the offset in their table, for an access to it.
    fn table(&self, offset: u64) -> Option<(u64, &Msix)> {
        let (start, vectors) = self.table.as_ref()?;
        let inside = offset.checked_sub(*start)?;
        let size = vectors.events().len() as u64 * msix::ENTRY;
        (inside < size).then_some((inside, &**vectors))
    }
}

impl Registers for Trapped {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((inside, vectors)) = self.table(offset) {
            return vectors.read(inside, data);
        }
        if self.host.0.read(&self.region, offset, data).is_err() {
            data.fill(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((inside, vectors)) = self.table(offset) {
            return vectors.write(inside, data);
        }
        if let Err(error) = self.host.0.write(&self.region, offset, data) {
            tracing::debug!(%error, "a register is not written");
        }
    }
}
