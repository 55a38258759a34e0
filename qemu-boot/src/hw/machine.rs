// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a case drives: a machine without CPUs, by its physical addresses.

use anyhow::{bail, Result};
use serde_json::Value;

/// The memory, registers and I/O ports of a machine. An access is one of that size.
pub trait Machine {
    /// Reads 1, 2, 4 or 8 bytes.
    fn read(&mut self, addr: u64, size: usize) -> Result<u64>;

    /// Writes 1, 2, 4 or 8 bytes.
    fn write(&mut self, addr: u64, size: usize, value: u64) -> Result<()>;

    /// Reads bytes of memory.
    fn read_bytes(&mut self, addr: u64, len: usize) -> Result<Vec<u8>>;

    /// Writes bytes of memory.
    fn write_bytes(&mut self, addr: u64, data: &[u8]) -> Result<()>;

    /// Writes 4 bytes to an I/O port.
    fn out32(&mut self, _port: u16, _value: u32) -> Result<()> {
        Ok(())
    }

    /// Lets nanoseconds pass on the machine's clock.
    fn clock_step(&mut self, _ns: u64) -> Result<()> {
        bail!("This machine has no clock")
    }

    /// Runs a command of QEMU's monitor.
    fn monitor(&mut self, _command: &str, _arguments: &Value) -> Result<Value> {
        bail!("This machine has no monitor")
    }

    /// Whether its endpoint makes requests with these flags, translated by ATS or not.
    fn has_requests(&self, _flags: u32, _ats: bool) -> bool {
        true
    }

    /// Whether its endpoint tells a translation request that found nothing from one that failed.
    fn tells_failures(&self) -> bool {
        true
    }

    /// Reads 2 bytes.
    fn read16(&mut self, addr: u64) -> Result<u16> {
        Ok(u16::try_from(self.read(addr, 2)?)?)
    }

    /// Reads 4 bytes.
    fn read32(&mut self, addr: u64) -> Result<u32> {
        Ok(u32::try_from(self.read(addr, 4)?)?)
    }

    /// Reads 8 bytes.
    fn read64(&mut self, addr: u64) -> Result<u64> {
        self.read(addr, 8)
    }

    /// Writes 2 bytes.
    fn write16(&mut self, addr: u64, value: u16) -> Result<()> {
        self.write(addr, 2, value.into())
    }

    /// Writes 4 bytes.
    fn write32(&mut self, addr: u64, value: u32) -> Result<()> {
        self.write(addr, 4, value.into())
    }

    /// Writes 8 bytes.
    fn write64(&mut self, addr: u64, value: u64) -> Result<()> {
        self.write(addr, 8, value)
    }
}
