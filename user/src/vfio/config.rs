// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configuration space of a device, and capabilities in it.

use super::{Bar, VfioDevice};
use crate::error::Result;

/// The page request capability of a device (PCIe 6.0, 10.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageRequestCapability {
    /// Most page requests that the device can have under way.
    pub capacity: u32,
    /// Answers need the PASID of the request ("PRG Response PASID Required").
    pub response_pasid: bool,
}

/// The MSI-X capability of a device (PCIe 6.0, 7.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MsixCapability {
    /// Where the capability is in configuration space.
    pub offset: u16,
    /// Vectors, 1 to 2048.
    pub vectors: u32,
    /// The BAR that has the table, and where in it.
    pub table: (Bar, u64),
    /// The BAR that has the pending bits, and where in it.
    pub pending: (Bar, u64),
}

/// Ids of capabilities (PCI-SIG's code and id assignment).
const MSIX: u8 = 0x11;
const PRI: u16 = 0x13;
/// The first extended capability, and how many of 8 bytes fit from there.
const EXTENDED: u64 = 0x100;
const MAX_EXTENDED: usize = (4096 - 0x100) / 8;
/// Capabilities of 4 bytes in the first 256 bytes.
const MAX_CAPABILITIES: usize = 48;

impl VfioDevice {
    /// Reads configuration space: the host's view, in which a VMM overlays the guest's.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::read`].
    pub fn read_config(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        self.read(&self.config, offset, to)
    }

    /// Writes configuration space. The host keeps from it what is its own: BARs are kept for the
    /// guest to read and not given to the device.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::read`].
    pub fn write_config(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.write(&self.config, offset, from)
    }

    fn config<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_config(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Where in configuration space a capability is; `None` without it.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::read`].
    pub fn capability(&self, id: u8) -> Result<Option<u16>> {
        /// Status register: there is a list (PCIe 6.0, 7.5.1.1.4), and the first of it.
        const STATUS: u64 = 0x06;
        const LIST: u16 = 1 << 4;
        const POINTER: u64 = 0x34;
        if u16::from_le_bytes(self.config(STATUS)?) & LIST == 0 {
            return Ok(None);
        }
        let [mut at] = self.config(POINTER)?;
        for _ in 0..MAX_CAPABILITIES {
            at &= !3;
            if at < 0x40 {
                break;
            }
            let [found, next] = self.config(at.into())?;
            if found == id {
                return Ok(Some(at.into()));
            }
            at = next;
        }
        Ok(None)
    }

    /// Where in configuration space an extended capability is; `None` without it.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::read`].
    pub fn extended_capability(&self, id: u16) -> Result<Option<u16>> {
        if self.config.size <= EXTENDED {
            return Ok(None);
        }
        let mut at = EXTENDED;
        for _ in 0..MAX_EXTENDED {
            let header = u32::from_le_bytes(self.config(at)?);
            // CAST: the id is the lower half.
            if header as u16 == id {
                return Ok(u16::try_from(at).ok());
            }
            at = u64::from(header >> 20 & !3);
            if at < EXTENDED {
                break;
            }
        }
        Ok(None)
    }

    /// How many page requests the device may have under way; `None` without PRI.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::read`].
    pub fn page_requests(&self) -> Result<Option<PageRequestCapability>> {
        const RESPONSE_PASID: u16 = 1 << 15;
        let Some(offset) = self.extended_capability(PRI)? else {
            return Ok(None);
        };
        let offset = u64::from(offset);
        let status = u16::from_le_bytes(self.config(offset + 6)?);
        Ok(Some(PageRequestCapability {
            capacity: u32::from_le_bytes(self.config(offset + 8)?),
            response_pasid: status & RESPONSE_PASID != 0,
        }))
    }

    /// The MSI-X capability, whose table a VMM keeps from the guest; `None` without it.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::read`].
    pub fn msix(&self) -> Result<Option<MsixCapability>> {
        let Some(offset) = self.capability(MSIX)? else {
            return Ok(None);
        };
        let at = u64::from(offset);
        let control = u16::from_le_bytes(self.config(at + 2)?);
        let place = |word: u32| (Bar(word & 7), u64::from(word & !7));
        Ok(Some(MsixCapability {
            offset,
            vectors: u32::from(control & 0x7ff) + 1,
            table: place(u32::from_le_bytes(self.config(at + 4)?)),
            pending: place(u32::from_le_bytes(self.config(at + 8)?)),
        }))
    }
}
