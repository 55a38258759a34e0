// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Regions of a device: what they are, and how they are read, written and mapped.

use super::{malformed, word, Mmio, VfioDevice};
use crate::error::{Error, Operation, Result};
use crate::sys::{device as sys, Errno};
use host_iommu_bindings::uapi::vfio_info_cap_header;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// Base address register 0 to 5 of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bar(pub u32);

impl Bar {
    /// Its region: the number is the same (`VFIO_PCI_BAR0_REGION_INDEX`).
    pub const fn region(self) -> u32 {
        self.0
    }
}

/// The region of the expansion ROM (`VFIO_PCI_ROM_REGION_INDEX`).
pub const ROM_REGION: u32 = 6;
/// The region of configuration space (`VFIO_PCI_CONFIG_REGION_INDEX`).
pub const CONFIG_REGION: u32 = 7;

/// `VFIO_REGION_INFO_FLAG_*`.
const REGION_READ: u32 = 1 << 0;
const REGION_WRITE: u32 = 1 << 1;
const REGION_MMAP: u32 = 1 << 2;
const REGION_CAPS: u32 = 1 << 3;
/// `VFIO_REGION_INFO_CAP_*`.
const CAP_SPARSE_MMAP: u16 = 1;
const CAP_TYPE: u16 = 2;
const CAP_MSIX_MAPPABLE: u16 = 3;
/// Bytes of a region, from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Of the first byte in the region.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// A region of a device: a BAR, the ROM, configuration space, or one of the driver's own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region {
    /// Its index.
    pub index: u32,
    /// Bytes; zero for a BAR that the device does not have.
    pub size: u64,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// It, or some of it, can be mapped: see [`Region::mappable`].
    pub can_map: bool,
    /// The parts alone that can be mapped, if the driver says so
    /// (`VFIO_REGION_INFO_CAP_SPARSE_MMAP`).
    pub sparse: Option<Vec<Area>>,
    /// The MSI-X table inside may be mapped with the rest (`VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`).
    /// A VMM keeps the guest from it all the same: the vectors are the host's.
    pub msix_mappable: bool,
    /// Type and subtype of a region of the driver's own (`VFIO_REGION_INFO_CAP_TYPE`).
    pub kind: Option<(u32, u32)>,
    /// Where it starts in the device's file.
    offset: u64,
}

/// More links than a sane chain has: a loop ends here.
const MAX_CHAIN: usize = 64;

impl Region {
    /// The areas that [`VfioDevice::map`] takes: the sparse ones, or all of it, or none.
    pub fn mappable(&self) -> Vec<Area> {
        match &self.sparse {
            _ if !self.can_map || self.size == 0 => Vec::new(),
            Some(areas) => areas.clone(),
            None => vec![Area {
                offset: 0,
                size: self.size,
            }],
        }
    }

    /// Where an access is in the device's file.
    fn place(&self, offset: u64, len: u64) -> std::result::Result<u64, Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        if len == 0 || end > self.size {
            return Err(Errno::EINVAL);
        }
        let at = self.offset.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
        at.checked_add(len).map(|_| at).ok_or(Errno::EOVERFLOW)
    }

    /// Reads the reply of `VFIO_DEVICE_GET_REGION_INFO`, with its chain.
    pub(super) fn parse(reply: &[u8]) -> Result<Self> {
        let flags: u32 = word(reply, 4)?;
        let mut region = Self {
            index: word(reply, 8)?,
            size: word(reply, 16)?,
            readable: flags & REGION_READ != 0,
            writable: flags & REGION_WRITE != 0,
            can_map: flags & REGION_MMAP != 0,
            sparse: None,
            msix_mappable: false,
            kind: None,
            offset: word(reply, 24)?,
        };
        let mut next: u32 = if flags & REGION_CAPS == 0 {
            0
        } else {
            word(reply, 12)?
        };
        let mut links = 0;
        while next != 0 {
            if links == MAX_CHAIN {
                return Err(malformed("its chain has no end"));
            }
            links += 1;
            let entry = reply.get(next as usize..).unwrap_or_default();
            let header: vfio_info_cap_header = word(entry, 0)?;
            region.take(header.id, entry)?;
            next = header.next;
        }
        Ok(region)
    }

    fn take(&mut self, id: u16, entry: &[u8]) -> Result<()> {
        match id {
            CAP_SPARSE_MMAP => {
                // The header, the count, a reserved word, then offset and size of each.
                let count: u32 = word(entry, 8)?;
                let mut areas = Vec::new();
                for index in 0..count as usize {
                    let at = index.checked_mul(16).and_then(|at| at.checked_add(16));
                    let at = at.ok_or_else(|| malformed("an area lies outside"))?;
                    let area = Area {
                        offset: word(entry, at)?,
                        size: word(entry, at.saturating_add(8))?,
                    };
                    let end = area.offset.checked_add(area.size);
                    if end.is_none_or(|end| end > self.size) {
                        return Err(malformed("an area is not in the region"));
                    }
                    if area.size != 0 {
                        areas.push(area);
                    }
                }
                self.sparse = Some(areas);
            }
            CAP_TYPE => self.kind = Some((word(entry, 8)?, word(entry, 12)?)),
            CAP_MSIX_MAPPABLE => self.msix_mappable = true,
            _ => {}
        }
        Ok(())
    }
}

impl VfioDevice {
    /// Regions have indexes below this number.
    pub fn regions(&self) -> u32 {
        self.regions
    }

    /// A region by its index; see [`Bar::region`], [`CONFIG_REGION`].
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for one that there is not; [`Error::Malformed`].
    pub fn region(&self, index: u32) -> Result<Region> {
        let operation = Operation::RegionInfo {
            device: self.name,
            region: index,
        };
        let reply = sys::region_info(self.as_fd(), index);
        Region::parse(&reply.map_err(|errno| Error::failed(operation, errno))?)
    }

    fn access<T>(
        &self,
        region: &Region,
        offset: u64,
        len: usize,
        act: impl FnOnce(u64) -> io::Result<T>,
    ) -> Result<T> {
        let failed = |error| {
            let operation = Operation::AccessRegion {
                device: self.name,
                region: region.index,
                offset,
                len,
            };
            Error::failed(operation, error)
        };
        let place = region.place(offset, len as u64);
        act(place.map_err(|errno| failed(errno.into()))?).map_err(failed)
    }

    /// Reads bytes of a region, in pieces as wide as they are aligned.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for none or for bytes that are not all in the region, EIO where
    /// the device does not answer: its memory is off, or it is being reset.
    pub fn read(&self, region: &Region, offset: u64, to: &mut [u8]) -> Result<()> {
        self.access(region, offset, to.len(), |at| {
            self.file.read_exact_at(to, at)
        })
    }

    /// Writes bytes of a region, in pieces as wide as they are aligned.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::read`].
    pub fn write(&self, region: &Region, offset: u64, from: &[u8]) -> Result<()> {
        self.access(region, offset, from.len(), |at| {
            self.file.write_all_at(from, at)
        })
    }

    /// Maps an area of a region, one of [`Region::mappable`] or whole pages of one. The mapping
    /// stays, whatever becomes of this value.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for what is not in the region, EOPNOTSUPP for what cannot be
    /// mapped, and those of mmap.
    pub fn map(&self, region: &Region, area: Area) -> Result<Mmio> {
        let failed = |errno| {
            let operation = Operation::MapRegion {
                device: self.name,
                region: region.index,
                offset: area.offset,
            };
            Error::failed(operation, errno)
        };
        let at = region.place(area.offset, area.size).map_err(failed)?;
        let inside = |whole: &Area| {
            let end = |area: &Area| area.offset.saturating_add(area.size);
            whole.offset <= area.offset && end(&area) <= end(whole)
        };
        if !region.mappable().iter().any(inside) {
            return Err(failed(Errno::EOPNOTSUPP));
        }
        let len = usize::try_from(area.size).map_err(|_| failed(Errno::EOVERFLOW))?;
        Mmio::new(self.as_fd(), at, len).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A region of 16 KiB whose first and last page can be mapped, and which is of a kind.
    fn reply() -> Vec<u8> {
        let words = [
            96,
            REGION_READ | REGION_WRITE | REGION_MMAP | REGION_CAPS,
            2,
            32,
            0x4000,
            0,
            0,
            0x200,
            // The sparse areas, at 32.
            u32::from(CAP_SPARSE_MMAP) | 1 << 16,
            80,
            2,
            0,
            0,
            0,
            0x1000,
            0,
            0x3000,
            0,
            0x1000,
            0,
            // The kind, at 80.
            u32::from(CAP_TYPE) | 1 << 16,
            0,
            7,
            9,
        ];
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn area(offset: u64, size: u64) -> Area {
        Area { offset, size }
    }

    #[test]
    fn region_says_what_can_be_mapped() {
        let region = Region::parse(&reply()).expect("a region");
        let areas = vec![area(0, 0x1000), area(0x3000, 0x1000)];
        assert_eq!(region.mappable(), areas);
        assert_eq!((region.index, region.kind), (2, Some((7, 9))));
        let mut whole = reply();
        whole[4] &= !(REGION_CAPS as u8);
        let whole = Region::parse(&whole).expect("a region");
        assert_eq!(whole.mappable(), [area(0, 0x4000)]);
        let mut none = reply();
        none[4] &= !(REGION_MMAP as u8);
        assert_eq!(Region::parse(&none).expect("a region").mappable(), []);
    }

    #[test]
    fn region_that_is_malformed_is_refused() {
        let good = reply();
        for (at, value, what) in [
            (12, 200, "a chain that leads outside"),
            (36, 32, "a chain in a circle"),
            (40, 200, "more areas than it has bytes"),
            (57, 0x50, "an area beyond the region"),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let parsed = Region::parse(&bytes);
            assert!(matches!(parsed, Err(Error::Malformed { .. })), "{what}");
        }
        for len in 0..good.len() {
            let _ = Region::parse(&good[..len]);
        }
    }

    #[test]
    fn place_is_inside_the_region_and_the_file() {
        let region = Region::parse(&reply()).expect("a region");
        assert_eq!(region.place(0x10, 4), Ok((0x200u64 << 32) + 0x10));
        for (offset, len) in [(0, 0), (0x4000, 1), (0x3fff, 2), (u64::MAX, 2)] {
            assert_eq!(region.place(offset, len), Err(Errno::EINVAL), "{offset:#x}");
        }
        let far = Region {
            offset: u64::MAX - 1,
            ..region
        };
        assert_eq!(far.place(0, 4), Err(Errno::EOVERFLOW));
    }
}
