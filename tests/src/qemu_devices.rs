// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Drivers of two devices that QEMU has itself and whose DMA a program can drive: `edu`, which reads
//! and writes (QEMU's docs/specs/edu.rst), and `iommu-testdev`, which writes and says whether that
//! was possible. Neither has PASIDs.

use crate::ktap::{fail, Outcome};
use crate::vfio::Device;
use host_iommu_sys::memory::Mmio;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Vendor and device id of edu.
pub const EDU: (u32, u32) = (0x1234, 0x11e8);
/// Vendor and device id of iommu-testdev.
pub const TESTDEV: (u32, u32) = (0x1b36, 0x0005);

/// A transfer of edu's takes 100 ms, its own count.
const DEADLINE: Duration = Duration::from_secs(10);

mod edu {
    pub const ID: u64 = 0x00;
    pub const ID_VALUE: u32 = 0x0100_00ed;
    pub const SOURCE: u64 = 0x80;
    pub const DESTINATION: u64 = 0x88;
    pub const COUNT: u64 = 0x90;
    pub const COMMAND: u64 = 0x98;
    pub const RUN: u64 = 1 << 0;
    pub const TO_MEMORY: u64 = 1 << 1;
    /// Where its buffer of a page is, as source or destination.
    pub const BUFFER: u64 = 0x4_0000;
}

mod testdev {
    pub const TRIGGER: u64 = 0x00;
    pub const ADDRESS_LOW: u64 = 0x04;
    pub const ADDRESS_HIGH: u64 = 0x08;
    pub const LENGTH: u64 = 0x0c;
    pub const RESULT: u64 = 0x10;
    pub const DOORBELL: u64 = 0x14;
    /// The write was answered with an error.
    pub const WRITE_FAILED: u32 = 0xdead_0002;
    /// The write was done, and the device then compared it with memory at an address that the
    /// program does not tell it.
    pub const WRITTEN: [u32; 3] = [0, 0xdead_0003, 0xdead_0004];
    /// What it writes, again and again.
    pub const PATTERN: u32 = 0x1234_5678;
}

fn bar(fd: OwnedFd) -> Outcome<Mmio> {
    let device = Device::from(fd);
    device.set_bus_master(true)?;
    Ok(device.map_bar(0)?)
}

/// edu.
#[derive(Debug)]
pub struct Edu(Mmio);

impl Edu {
    /// The device behind a VFIO fd.
    ///
    /// # Errors
    ///
    /// Those of VFIO, and for another device.
    pub fn new(fd: OwnedFd) -> Outcome<Self> {
        let bar = bar(fd)?;
        match bar.read_u32(edu::ID) {
            edu::ID_VALUE => Ok(Self(bar)),
            id => fail(format!("edu's id reads {id:#x}")),
        }
    }

    fn transfer(&self, source: u64, destination: u64, command: u64) -> Outcome {
        self.0.write_u64(edu::SOURCE, source);
        self.0.write_u64(edu::DESTINATION, destination);
        self.0.write_u64(edu::COUNT, 8);
        self.0.write_u64(edu::COMMAND, command | edu::RUN);
        let end = Instant::now() + DEADLINE;
        while self.0.read_u64(edu::COMMAND) & edu::RUN != 0 {
            if Instant::now() > end {
                return fail("edu does not end its transfer");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Copies eight bytes. It does not say whether they could be read, or written.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn copy(&self, from: u64, to: u64) -> Outcome {
        self.transfer(from, edu::BUFFER, 0)?;
        self.transfer(edu::BUFFER, to, edu::TO_MEMORY)
    }
}

/// iommu-testdev.
#[derive(Debug)]
pub struct IommuTestdev(Mmio);

impl IommuTestdev {
    /// What it writes, as eight bytes.
    pub const VALUE: u64 = (testdev::PATTERN as u64) << 32 | testdev::PATTERN as u64;

    /// The device behind a VFIO fd.
    ///
    /// # Errors
    ///
    /// Those of VFIO.
    pub fn new(fd: OwnedFd) -> Outcome<Self> {
        bar(fd).map(Self)
    }

    /// Writes [`IommuTestdev::VALUE`]; gives whether the write was done.
    ///
    /// # Errors
    ///
    /// If the device says something else.
    pub fn store(&self, address: u64) -> Outcome<bool> {
        self.0.write_u32(testdev::ADDRESS_LOW, address as u32);
        self.0
            .write_u32(testdev::ADDRESS_HIGH, (address >> 32) as u32);
        self.0.write_u32(testdev::LENGTH, 8);
        self.0.write_u32(testdev::DOORBELL, 1);
        // The read is what starts it, and is answered when it is done.
        self.0.read_u32(testdev::TRIGGER);
        match self.0.read_u32(testdev::RESULT) {
            testdev::WRITE_FAILED => Ok(false),
            result if testdev::WRITTEN.contains(&result) => Ok(true),
            result => fail(format!("iommu-testdev's result is {result:#x}")),
        }
    }
}
