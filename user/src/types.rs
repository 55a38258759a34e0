// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Numbers with a meaning.

use crate::error::Error;
use host_iommu_bindings::uapi::{vfio_ioasid_device, VFIO_IOASID_PASID_LIMIT};
use std::fmt;
use std::str::FromStr;

/// A Process Address Space ID: 20 bits (PCIe 6.0, 6.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct Pasid(u32);

impl Pasid {
    /// The highest PASID.
    pub const MAX: Self = Self(VFIO_IOASID_PASID_LIMIT - 1);
    /// Stands for requests without PASID, which the requester id (RID) alone names.
    pub const RID: Self = Self(0);
    /// The lowest PASID that can be allocated: 0 stands for requests without PASID.
    pub const MIN: Self = Self(1);

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The PASID `count` further on, if there is one.
    pub fn checked_add(self, count: u32) -> Option<Self> {
        let number = self.0.checked_add(count)?;
        (number <= Self::MAX.0).then_some(Self(number))
    }
}

impl TryFrom<u32> for Pasid {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self, Error> {
        if number <= Self::MAX.0 {
            Ok(Self(number))
        } else {
            Err(Error::PasidOutOfRange(number))
        }
    }
}

impl From<Pasid> for u32 {
    fn from(pasid: Pasid) -> Self {
        pasid.0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An I/O virtual address: what a device puts into its requests, in bytes.
///
/// Requests without PASID use the container's own IOVAs, which the VMM makes equal to
/// guest-physical addresses. Requests with a PASID that is bound use those of its stage-1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Iova(pub u64);

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A guest-physical address in bytes: what stage 1 leads to and stage 2 translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Gpa(pub u64);

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Addresses from the first to the last, both inclusive: never empty, and able to end at the
/// top of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(try_from = "(Iova, Iova)", into = "(Iova, Iova)")
)]
pub struct IovaRange {
    start: Iova,
    last: Iova,
}

impl IovaRange {
    /// Every address.
    pub const ALL: Self = Self {
        start: Iova(0),
        last: Iova(u64::MAX),
    };

    /// `start..=last`; `None` if that is empty.
    pub fn new(start: Iova, last: Iova) -> Option<Self> {
        (start <= last).then_some(Self { start, last })
    }

    /// `size` bytes from `start` on; `None` if there are none, or not so many.
    pub fn sized(start: Iova, size: u64) -> Option<Self> {
        let last = start.0.checked_add(size.checked_sub(1)?)?;
        Some(Self {
            start,
            last: Iova(last),
        })
    }

    /// The first address.
    pub const fn start(&self) -> Iova {
        self.start
    }

    /// The last address.
    pub const fn last(&self) -> Iova {
        self.last
    }

    /// Bytes; `None` for 2^64 of them.
    pub fn size(&self) -> Option<u64> {
        self.last.0.wrapping_sub(self.start.0).checked_add(1)
    }
}

#[cfg(feature = "serde")]
impl From<IovaRange> for (Iova, Iova) {
    fn from(range: IovaRange) -> Self {
        (range.start, range.last)
    }
}

#[cfg(feature = "serde")]
impl TryFrom<(Iova, Iova)> for IovaRange {
    type Error = &'static str;

    fn try_from((start, last): (Iova, Iova)) -> Result<Self, Self::Error> {
        Self::new(start, last).ok_or("the range is empty")
    }
}

impl fmt::Display for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.start, self.last)
    }
}

/// A PCI function by segment, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Bdf {
    segment: u16,
    bus: u8,
    devfn: u8,
}

impl Bdf {
    /// The function `devfn` of `bus`: the device in bits 7:3, the function in 2:0.
    pub const fn new(segment: u16, bus: u8, devfn: u8) -> Self {
        Self {
            segment,
            bus,
            devfn,
        }
    }

    /// The PCI segment.
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device, 0 to 31.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, function) = (self.device(), self.function());
        write!(
            f,
            "{:04x}:{:02x}:{device:02x}.{function}",
            self.segment, self.bus
        )
    }
}

/// A text that names no PCI function: one does as in `0000:00:04.0`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no PCI function")]
pub struct ParseBdfError(String);

impl FromStr for Bdf {
    type Err = ParseBdfError;

    fn from_str(text: &str) -> Result<Self, ParseBdfError> {
        parse_bdf(text).ok_or_else(|| ParseBdfError(text.to_owned()))
    }
}

fn parse_bdf(text: &str) -> Option<Bdf> {
    let (segment, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |text: &str, digits: usize| {
        let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u16::from_str_radix(text, 16).ok()).flatten()
    };
    let device = hex(device, 2).filter(|&device| device < 32)?;
    let function = hex(function, 1).filter(|&function| function < 8)?;
    Some(Bdf {
        segment: hex(segment, 4)?,
        bus: u8::try_from(hex(bus, 2)?).ok()?,
        devfn: u8::try_from(device << 3 | function).ok()?,
    })
}

impl From<Bdf> for vfio_ioasid_device {
    fn from(bdf: Bdf) -> Self {
        Self {
            segment: bdf.segment,
            bus: bdf.bus,
            devfn: bdf.devfn,
        }
    }
}

impl From<vfio_ioasid_device> for Bdf {
    fn from(device: vfio_ioasid_device) -> Self {
        Self::new(device.segment, device.bus, device.devfn)
    }
}

/// What devices may do to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MapAccess {
    /// Read. A container that can nest has no such mappings on VT-d.
    Read,
    /// Write.
    Write,
    /// Both.
    ReadWrite,
}

/// Bits of the addresses that a stage-1 table translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AddressWidth {
    /// 48: a table of four levels.
    Bits48,
    /// 57: a table of five levels.
    Bits57,
}

impl AddressWidth {
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Bits48 => 48,
            Self::Bits57 => 57,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasid_of_21_bits_is_refused() {
        assert_eq!(Pasid::try_from(0xf_ffff).ok(), Some(Pasid::MAX));
        assert!(Pasid::try_from(0x10_0000).is_err());
        assert_eq!(Pasid::MAX.checked_add(1), None);
        assert_eq!(Pasid::MIN.checked_add(u32::MAX), None);
    }

    #[test]
    fn iova_range_ends_are_inclusive() {
        let page = IovaRange::sized(Iova(0x1000), 0x1000);
        assert_eq!(page, IovaRange::new(Iova(0x1000), Iova(0x1fff)));
        assert_eq!(page.and_then(|page| page.size()), Some(0x1000));
        assert_eq!(IovaRange::sized(Iova(0x1000), 0), None);
        assert_eq!(IovaRange::sized(Iova(u64::MAX), 2), None);
        assert_eq!(
            IovaRange::sized(Iova(u64::MAX), 1).map(|range| range.last()),
            Some(Iova(u64::MAX))
        );
        assert_eq!(IovaRange::ALL.size(), None);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_refuses_what_is_no_value() {
        let bound = crate::BoundTable {
            device: Bdf::new(1, 2, 3),
            pasid: Pasid(70),
            translation: crate::GuestTable::four_level(Gpa(0x5000))
                .with_guest_pasid(5)
                .into(),
        };
        let text = serde_json::to_string(&bound).expect("a text");
        let read = serde_json::from_str::<crate::BoundTable>(&text);
        assert_eq!(read.expect("the same again"), bound);
        let more = text.replace("\"pasid\":70", "\"pasid\":1048576");
        assert!(more != text && serde_json::from_str::<crate::BoundTable>(&more).is_err());
        assert!(serde_json::from_str::<IovaRange>("[2,1]").is_err());
        assert!(serde_json::from_str::<IovaRange>("[1,2]").is_ok());
    }

    #[test]
    fn bdf_text_round_trips_and_wrong_ones_are_refused() {
        for name in ["0000:00:04.0", "ffff:ff:1f.7"] {
            assert_eq!(
                name.parse::<Bdf>().map(|bdf| bdf.to_string()).as_deref(),
                Ok(name)
            );
        }
        for name in [
            "",
            "00:04.0",
            "0000:00:20.0",
            "0000:00:04.8",
            "0000:0:04.0",
            "0000:00:+4.0",
            "0:0:0.0",
        ] {
            assert!(name.parse::<Bdf>().is_err(), "{name}");
        }
    }
}
