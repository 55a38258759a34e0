// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which device has a port or an address that the guest touches.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A device with registers. Called from the threads of all CPUs.
pub trait Registers: Send + Sync {
    /// A read at `offset` from where the device starts. What is not written to `data` reads zeros.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// A write.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Devices by their first address, each with its size.
type Devices = BTreeMap<u64, (u64, Arc<dyn Registers>)>;

/// What has which address.
#[derive(Default)]
pub struct Bus {
    devices: RwLock<Devices>,
}

impl Bus {
    /// Puts a device at `start` for `size` bytes, in the place of one that starts there.
    pub fn insert(&self, start: u64, size: u64, device: Arc<dyn Registers>) {
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        devices.insert(start, (size, device));
    }

    /// Removes what starts at `start`.
    pub fn remove(&self, start: u64) {
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        devices.remove(&start);
    }

    /// Removes everything.
    pub fn clear(&self) {
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        let gone = std::mem::take(&mut *devices);
        drop(devices);
        // A device that goes may remove others.
        drop(gone);
    }

    /// The device that has the address, and the offset there. No lock is held by what is returned:
    /// a device may move others.
    fn find(&self, address: u64, length: usize) -> Option<(Arc<dyn Registers>, u64)> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        let (start, (size, device)) = devices.range(..=address).next_back()?;
        let offset = address - start;
        let inside = offset.checked_add(length as u64)? <= *size;
        inside.then(|| (device.clone(), offset))
    }

    /// A guest's read: ones where there is nothing.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => {
                data.fill(0);
                device.read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// A guest's write, which is lost where there is nothing.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }
}

/// The number that `data` is, at most its first eight bytes.
pub fn number(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes
        .iter_mut()
        .zip(data)
        .for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(bytes)
}

/// Writes a number into `data`, as much as fits.
pub fn give(data: &mut [u8], value: u64) {
    data.iter_mut()
        .zip(value.to_le_bytes())
        .for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Offsets;

    impl Registers for Offsets {
        fn read(&self, offset: u64, data: &mut [u8]) {
            give(data, offset);
        }

        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn access_finds_its_device_and_nothing_across_an_end() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x100, Arc::new(Offsets));
        let read = |address| {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!((read(0x1000), read(0x10fc)), (0, 0xfc));
        assert_eq!((read(0xffc), read(0x10fd), read(0x1100)), (!0, !0, !0));
        bus.remove(0x1000);
        assert_eq!(read(0x1000), !0);
    }
}
