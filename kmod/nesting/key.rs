// SPDX-License-Identifier: GPL-2.0
//! Where something is bound, as one number: bindings are looked up by one comparison a level of
//! their tree.

use crate::ffi::attach::Site;
use crate::ffi::device::Bdf;

/// A site of a device. Places stand by site, the RID first, then by device: those of a PASID are
/// neighbours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BindingKey(u64);

impl BindingKey {
    /// That of `site` of `device`. PASID 0 is nobody's: the pool does not give it.
    pub(crate) fn new(site: Site, device: Bdf) -> Self {
        let pasid = match site {
            Site::Rid => 0,
            Site::Pasid(pasid) => pasid,
        };
        let [high, low] = device.segment.to_be_bytes();
        let device = u32::from_be_bytes([high, low, device.bus, device.devfn]);
        Self(u64::from(pasid) << 32 | u64::from(device))
    }

    /// The lowest of a PASID.
    pub(crate) fn first_of(pasid: u32) -> Self {
        Self(u64::from(pasid) << 32)
    }

    /// That of a number.
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number behind it; `None` behind the last.
    pub(crate) fn next_number(self) -> Option<u64> {
        self.0.checked_add(1)
    }

    /// Which requests of the device.
    pub(crate) fn site(self) -> Site {
        match (self.0 >> 32) as u32 {
            0 => Site::Rid,
            pasid => Site::Pasid(pasid),
        }
    }

    /// The device.
    pub(crate) fn device(self) -> Bdf {
        let [_, _, _, _, high, low, bus, devfn] = self.0.to_be_bytes();
        Bdf {
            segment: u16::from_be_bytes([high, low]),
            bus,
            devfn,
        }
    }
}
