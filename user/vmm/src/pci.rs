// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The PCI bus: one bus of 32 devices, each with one function, reached by ECAM and by the ports
//! 0xcf8 and 0xcfc.

use crate::bus::{give, number, Registers};
use crate::memory::{Range, MMIO, MMIO_HIGH};
use anyhow::{bail, Context, Result};
use host_iommu::vtd::SourceId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Devices of a bus.
const DEVICES: u8 = 32;
/// Bytes of a function's configuration space.
pub const CONFIG_SIZE: usize = 4096;
/// The first port of configuration mechanism 1, and how many there are.
pub const PORTS: (u64, u64) = (0xcf8, 8);

/// Offsets in the header of configuration space (PCIe 6.0, 7.5.1).
pub const COMMAND: u16 = 0x04;
/// The first of the six base address registers.
pub const BAR: u16 = 0x10;
/// The register of the expansion ROM.
pub const ROM: u16 = 0x30;
/// The offset of the first capability.
pub const CAPABILITIES: u16 = 0x34;
/// The interrupt line and pin.
pub const INTERRUPT: u16 = 0x3c;
/// Bits of the command register: the device decodes memory addresses.
pub const COMMAND_MEMORY: u16 = 1 << 1;

/// A function on the bus. Called from the threads of all CPUs.
pub trait Function: Send + Sync {
    /// Reads configuration space, within its 4096 bytes.
    fn read(&self, offset: u16, data: &mut [u8]);

    /// Writes it.
    fn write(&self, offset: u16, data: &[u8]);
}

/// The bus.
pub struct PciBus {
    functions: RwLock<BTreeMap<u8, Arc<dyn Function>>>,
    /// What was written to port 0xcf8.
    pub address: AtomicU32,
    windows: Mutex<[Window; 2]>,
}

/// Guest-physical addresses for BARs.
struct Window {
    range: Range,
    /// Those that are given out, and their sizes.
    taken: BTreeMap<u64, u64>,
}

impl Window {
    fn of(range: Range) -> Self {
        Self {
            range,
            taken: BTreeMap::new(),
        }
    }

    /// The first gap for a power of two.
    fn take(&mut self, size: u64) -> Option<u64> {
        let mut start = self.range.start;
        for (&taken, &length) in &self.taken {
            if start.checked_add(size)? <= taken {
                break;
            }
            start = taken.checked_add(length)?.checked_next_multiple_of(size)?;
        }
        if start.checked_add(size - 1)? > self.range.last() {
            return None;
        }
        self.taken.insert(start, size);
        Some(start)
    }
}

/// Whether a BAR may be there.
pub fn in_window(start: u64, size: u64) -> bool {
    [MMIO, MMIO_HIGH].iter().any(|window| {
        let last = start.checked_add(size.saturating_sub(1));
        start >= window.start && last.is_some_and(|last| last <= window.last())
    })
}

impl PciBus {
    /// With a host bridge alone.
    pub fn new() -> Arc<Self> {
        let bridge: Arc<dyn Function> = Arc::new(HostBridge::new());
        Arc::new(Self {
            functions: RwLock::new(BTreeMap::from([(0, bridge)])),
            address: AtomicU32::new(0),
            windows: Mutex::new([Window::of(MMIO), Window::of(MMIO_HIGH)]),
        })
    }

    /// Where the guest sees a device of this number.
    pub fn source(device: u8) -> SourceId {
        SourceId(u16::from(device) << 3)
    }

    /// A device number that is free.
    pub fn free(&self) -> Result<u8> {
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        (1..DEVICES)
            .find(|device| !functions.contains_key(device))
            .context("the PCI bus has 31 devices at most")
    }

    /// Plugs a function in.
    pub fn insert(&self, device: u8, function: Arc<dyn Function>) {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        functions.insert(device, function);
    }

    /// Unplugs one.
    pub fn remove(&self, device: u8) {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        functions.remove(&device);
    }

    /// Unplugs all.
    pub fn clear(&self) {
        let mut functions = self
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let gone = std::mem::take(&mut *functions);
        drop(functions);
        drop(gone);
    }

    /// An address for a BAR of `size` bytes, a power of two.
    pub fn take_address(&self, size: u64, wide: bool) -> Result<u64> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let [low, high] = &mut *windows;
        let small = size <= 256 << 20;
        let found = small.then(|| low.take(size)).flatten();
        match found.or_else(|| wide.then(|| high.take(size)).flatten()) {
            Some(address) => Ok(address),
            None => bail!("there is no room for a BAR of {size:#x} bytes"),
        }
    }

    /// Gives addresses back.
    pub fn free_address(&self, address: u64) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        for window in &mut *windows {
            window.taken.remove(&address);
        }
    }

    fn function(&self, devfn: u8) -> Option<Arc<dyn Function>> {
        let functions = self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let only_one = devfn & 7 == 0;
        only_one.then(|| functions.get(&(devfn >> 3)).cloned())?
    }

    fn read(&self, devfn: u8, offset: u16, data: &mut [u8]) {
        match self.function(devfn) {
            Some(function) => function.read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, devfn: u8, offset: u16, data: &[u8]) {
        if let Some(function) = self.function(devfn) {
            function.write(offset, data);
        }
    }
}

/// Configuration space as memory.
pub struct Ecam(pub Arc<PciBus>);

/// Function and offset of an access, which must not cross a function's end.
fn place(offset: u64, length: usize) -> Option<(u8, u16)> {
    // CAST: 12 bits.
    let register = (offset & 0xfff) as u16;
    let inside = usize::from(register).checked_add(length)? <= CONFIG_SIZE;
    let devfn = u8::try_from(offset >> 12).ok()?;
    inside.then_some((devfn, register))
}

impl Registers for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match place(offset, data.len()) {
            Some((devfn, register)) => self.0.read(devfn, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((devfn, register)) = place(offset, data.len()) {
            self.0.write(devfn, register, data);
        }
    }
}

/// Configuration space by ports: an address register and a data register.
pub struct Ports(pub Arc<PciBus>);

impl Ports {
    const ENABLE: u32 = 1 << 31;

    /// Function and offset of an access to the data register; `None` for bus numbers without a bus.
    fn selected(&self, offset: u64, length: usize) -> Option<(u8, u16)> {
        let address = self.0.address.load(Ordering::Relaxed);
        let bus = address >> 16 & 0xff;
        let byte = offset.checked_sub(4)?;
        let inside = byte + length as u64 <= 4;
        // CAST: bits of the address.
        let (devfn, register) = ((address >> 8) as u8, (address & 0xfc) as u16);
        let selects = address & Self::ENABLE != 0 && bus == 0 && inside;
        selects.then_some((devfn, register + byte as u16))
    }
}

impl Registers for Ports {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == 0 && data.len() == 4 {
            return give(data, self.0.address.load(Ordering::Relaxed).into());
        }
        match self.selected(offset, data.len()) {
            Some((devfn, register)) => self.0.read(devfn, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 && data.len() == 4 {
            // CAST: four bytes.
            self.0.address.store(number(data) as u32, Ordering::Relaxed);
        } else if let Some((devfn, register)) = self.selected(offset, data.len()) {
            self.0.write(devfn, register, data);
        }
    }
}

/// Configuration space that is kept here: bytes, and which of their bits the guest may write.
#[derive(Clone)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
}

impl ConfigSpace {
    /// All zeros, none of them writable.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; CONFIG_SIZE],
            writable: vec![0; CONFIG_SIZE],
        }
    }

    /// Sets bytes, and leaves those that are out of it.
    pub fn put(&mut self, offset: u16, bytes: &[u8]) {
        let places = self.bytes.iter_mut().skip(offset.into());
        places.zip(bytes).for_each(|(to, from)| *to = *from);
    }

    /// Sets which bits the guest may write.
    pub fn allow(&mut self, offset: u16, mask: &[u8]) {
        let places = self.writable.iter_mut().skip(offset.into());
        places.zip(mask).for_each(|(to, from)| *to = *from);
    }

    /// Reads bytes.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let places = self.bytes.iter().skip(offset.into());
        data.iter_mut()
            .zip(places)
            .for_each(|(to, from)| *to = *from);
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads two bytes.
    pub fn word(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// A guest's write: what is not writable stays.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let masks = self.writable.iter().skip(offset.into());
        let places = self.bytes.iter_mut().skip(offset.into());
        for ((place, mask), byte) in places.zip(masks).zip(data) {
            *place = *place & !mask | byte & mask;
        }
    }

    /// Clears what the guest may write.
    pub fn lower(&mut self, offset: u16, count: u16) {
        let masks = self.writable.iter().skip(offset.into());
        let places = self.bytes.iter_mut().skip(offset.into());
        let both = places.zip(masks).take(count.into());
        both.for_each(|(place, mask)| *place &= !mask);
    }

    /// Puts a BAR there, a power of two of at least 16 bytes; a wide one takes two registers.
    pub fn put_bar(&mut self, index: u16, bar: Bar) {
        let offset = BAR + index * 4;
        let kind = u64::from(bar.wide) << 2 | u64::from(bar.prefetchable) << 3;
        let bytes = if bar.wide { 8 } else { 4 };
        let mask = !(bar.size - 1) & !0xf;
        let value = (bar.address | kind).to_le_bytes();
        self.put(offset, value.get(..bytes).unwrap_or_default());
        self.allow(offset, mask.to_le_bytes().get(..bytes).unwrap_or_default());
    }

    /// Where the guest has put a BAR.
    pub fn bar(&self, index: u16, wide: bool) -> u64 {
        let mut data = [0; 8];
        let bytes = if wide { 8 } else { 4 };
        if let Some(data) = data.get_mut(..bytes) {
            self.read(BAR + index * 4, data);
        }
        u64::from_le_bytes(data) & !0xf
    }
}

/// A memory BAR.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Where it is first.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
    /// 64 bits.
    pub wide: bool,
    /// Reads have no effects.
    pub prefetchable: bool,
}

/// A host bridge, which has nothing but its names: a vendor and a device number that are
/// "PCIe host bridge" for QEMU's generic machines.
struct HostBridge(ConfigSpace);

impl HostBridge {
    const NAMES: [u8; 4] = [0x36, 0x1b, 0x08, 0x00];
    /// Class 06 (bridge), 00 (host).
    const CLASS: [u8; 4] = [0, 0, 0, 6];

    fn new() -> Self {
        let mut config = ConfigSpace::new();
        config.put(0, &Self::NAMES);
        config.put(8, &Self::CLASS);
        Self(config)
    }
}

impl Function for HostBridge {
    fn read(&self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, _: u16, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bus: &Arc<PciBus>, offset: u64) -> u32 {
        let mut data = [0; 4];
        Ecam(bus.clone()).read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn both_ways_lead_to_the_same_function() {
        let bus = PciBus::new();
        assert_eq!(config(&bus, 0), 0x0008_1b36);
        assert_eq!(config(&bus, 1 << 12), !0, "function 1");
        assert_eq!(config(&bus, 8 << 12), !0, "device 1");
        let ports = Ports(bus.clone());
        let read = |address: u32, offset| {
            ports.write(0, &address.to_le_bytes());
            let mut data = [0; 2];
            ports.read(offset, &mut data);
            u16::from_le_bytes(data)
        };
        assert_eq!(read(0x8000_0000, 4), 0x1b36);
        assert_eq!(read(0x8000_0008, 6), 0x0600);
        assert_eq!(read(0x8001_0000, 4), !0, "bus 1");
        assert_eq!(read(0, 4), !0, "not enabled");
    }

    #[test]
    fn bar_tells_its_size_and_takes_an_address() {
        let mut config = ConfigSpace::new();
        let bar = Bar {
            address: 0xc000_0000,
            size: 0x10000,
            wide: false,
            prefetchable: false,
        };
        config.put_bar(0, bar);
        config.put_bar(2, Bar { wide: true, ..bar });
        config.write(BAR, &[0xff; 4]);
        config.write(BAR + 8, &[0xff; 8]);
        assert_eq!(config.bar(0, false), 0xffff_0000);
        assert_eq!(config.bar(2, true), 0xffff_ffff_ffff_0000);
        config.write(BAR + 8, &0x10_c123_4567u64.to_le_bytes());
        assert_eq!(config.bar(2, true), 0x10_c123_0000);
    }

    #[test]
    fn addresses_are_aligned_and_come_back() {
        let bus = PciBus::new();
        let take = |size| bus.take_address(size, true).expect("room");
        assert_eq!(take(0x1000), MMIO.start);
        assert_eq!(take(0x10000), MMIO.start + 0x10000);
        assert_eq!(take(0x1000), MMIO.start + 0x1000);
        bus.free_address(MMIO.start);
        assert_eq!(take(0x800), MMIO.start);
        assert_eq!(take(1 << 30), MMIO_HIGH.start);
        assert!(bus.take_address(1 << 40, true).is_err());
        assert!(bus.take_address(1 << 30, false).is_err());
    }
}
