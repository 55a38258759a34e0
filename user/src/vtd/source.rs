// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Functions of the guest's PCI buses.

use super::bits::Field;
use crate::types::Bdf;

/// Fields of a requester id (PCIe 6.0, 2.2.4.2).
const BUS: Field = Field::bits(15, 8);
const DEVICE: Field = Field::bits(7, 3);
const FUNCTION: Field = Field::bits(2, 0);
const DEVICE_AND_FUNCTION: Field = Field::bits(7, 0);

/// A function of the guest's PCI buses, by its requester id: bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SourceId(pub u16);

impl SourceId {
    /// Of the function that the host has at this address, on buses of the same numbers.
    pub(super) fn of_host(device: Bdf) -> Self {
        let device_and_function =
            DEVICE.with(device.device().into()) | FUNCTION.with(device.function().into());
        // CAST: 16 bits.
        Self((BUS.with(device.bus().into()) | device_and_function) as u16)
    }

    /// The bus's number, below 256.
    pub(super) fn bus(self) -> u64 {
        BUS.of(self.0.into())
    }

    /// The device and the function: 8 bits.
    pub(super) fn device_and_function(self) -> u64 {
        DEVICE_AND_FUNCTION.of(self.0.into())
    }
}

impl std::fmt::Display for SourceId {
    /// As `lspci` writes it: bus, device and function.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bus, id) = (self.bus(), self.0.into());
        write!(f, "{bus:02x}:{:02x}.{}", DEVICE.of(id), FUNCTION.of(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_is_written_as_lspci_does() {
        let source = SourceId::of_host(Bdf::new(0, 0x3a, 4 << 3 | 5));
        assert_eq!(source, SourceId(0x3a25));
        assert_eq!(source.to_string(), "3a:04.5");
        assert_eq!((source.bus(), source.device_and_function()), (0x3a, 0x25));
    }
}
