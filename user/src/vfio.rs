// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices by VFIO: regions with their capabilities, interrupts, reset, configuration space.
//!
//! A [`VfioDevice`] is a device's file, whichever backend it belongs to: [`HostIommu::device`]
//! opens one of either kernel backend, and [`VfioDevice::from_fd`] takes one that was handed to the
//! process. Values here hold nothing of the backend: the device stays in its container, or with its
//! iommufd, for as long as its file or a mapping of it is open.
//!
//! ```no_run
//! use host_iommu::backend::kmod::Kmod;
//! use host_iommu::vfio::{Bar, Interrupt};
//! use host_iommu::{Bdf, HostIommu};
//! use std::os::fd::AsFd;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let name: Bdf = "0000:00:04.0".parse()?;
//! let host = HostIommu::new(Kmod::open_device(name)?);
//! let device = host.device(name)?;
//!
//! // BAR 0, as far as it may be mapped: what lies between is read and written.
//! let bar = device.region(Bar(0).region())?;
//! for area in bar.mappable() {
//!     let mapped = device.map(&bar, area)?;
//!     println!("{:#x} bytes at {:#x}", mapped.size(), mapped.address());
//! }
//!
//! // Vector 0 of MSI-X signals an eventfd, which is KVM's irqfd or is in a poll loop.
//! let event = std::fs::File::open("/dev/null")?;
//! # let event: std::os::fd::OwnedFd = event.into();
//! device.set_events(Interrupt::MsiX, 0, &[Some(event.as_fd())])?;
//!
//! // How many page requests the device may have under way: for the guest's PRI capability.
//! let pri = device.page_requests()?;
//! # let _ = pri;
//! device.reset()?;
//! # Ok(())
//! # }
//! ```
//!
//! [`HostIommu::device`]: crate::HostIommu::device

use crate::error::{Error, Operation, Result};
use crate::sys::plain::Plain;
use crate::sys::{device as sys, Errno};
use crate::types::Bdf;
use host_iommu_bindings::uapi::vfio_info_cap_header;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

pub use crate::sys::memory::Mmio;

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
/// `VFIO_DEVICE_FLAGS_*`.
const DEVICE_RESET: u32 = 1 << 0;
const DEVICE_PCI: u32 = 1 << 1;
/// `VFIO_IRQ_INFO_*`.
const IRQ_EVENTFD: u32 = 1 << 0;
const IRQ_MASKABLE: u32 = 1 << 1;
const IRQ_AUTOMASKED: u32 = 1 << 2;
const IRQ_NORESIZE: u32 = 1 << 3;
/// `VFIO_IRQ_SET_*`.
const SET_DATA_NONE: u32 = 1 << 0;
const SET_DATA_EVENTFD: u32 = 1 << 2;
const SET_MASK: u32 = 1 << 3;
const SET_UNMASK: u32 = 1 << 4;
const SET_TRIGGER: u32 = 1 << 5;

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
    fn parse(reply: &[u8]) -> Result<Self> {
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

fn malformed(detail: &str) -> Error {
    Error::Malformed {
        what: "region report",
        detail: detail.to_owned(),
    }
}

fn word<T: Plain>(bytes: &[u8], at: usize) -> Result<T> {
    let bytes = bytes.get(at..).unwrap_or_default();
    T::from_bytes(bytes).ok_or_else(|| malformed("it ends within a field"))
}

/// A kind of interrupt of a PCI function (`VFIO_PCI_*_IRQ_INDEX`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interrupt {
    /// The interrupt pin; the host masks it each time, until [`VfioDevice::unmask`].
    IntX,
    /// MSI.
    Msi,
    /// MSI-X.
    MsiX,
    /// An error that the device has reported and cannot recover from (AER).
    Error,
    /// The host wants the device back: the VMM is to close it.
    Request,
}

impl Interrupt {
    const fn index(self) -> u32 {
        match self {
            Self::IntX => 0,
            Self::Msi => 1,
            Self::MsiX => 2,
            Self::Error => 3,
            Self::Request => 4,
        }
    }
}

/// What a kind of interrupt of a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterruptInfo {
    /// Vectors; zero for a kind that the device does not have.
    pub count: u32,
    /// It can signal eventfds.
    pub eventfd: bool,
    /// It can be masked and unmasked.
    pub maskable: bool,
    /// The host masks it each time that it comes.
    pub automasked: bool,
    /// The number of vectors in use cannot change: all are set at once, or turned off first.
    pub fixed: bool,
}

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

/// A device's file.
#[derive(Debug)]
pub struct VfioDevice {
    file: File,
    name: Bdf,
    flags: u32,
    regions: u32,
    config: Region,
}

impl AsFd for VfioDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for VfioDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl From<VfioDevice> for OwnedFd {
    fn from(device: VfioDevice) -> Self {
        device.file.into()
    }
}

impl VfioDevice {
    /// Takes a device's file that is in its container, or bound to its iommufd; `name` is for
    /// errors and [`VfioDevice::name`] alone.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOTTY for what is no device of VFIO, EINVAL for one that is not in a
    /// container yet, EOPNOTSUPP for one that is no PCI function.
    pub fn from_fd(fd: OwnedFd, name: Bdf) -> Result<Self> {
        let failed = |errno| Error::failed(Operation::DeviceInfo(name), errno);
        let info = sys::info(fd.as_fd()).map_err(failed)?;
        let flags: u32 = word(&info, 4)?;
        if flags & DEVICE_PCI == 0 {
            return Err(failed(Errno::EOPNOTSUPP));
        }
        let config = sys::region_info(fd.as_fd(), CONFIG_REGION).map_err(failed)?;
        Ok(Self {
            file: File::from(fd),
            name,
            flags,
            regions: word(&info, 8)?,
            config: Region::parse(&config)?,
        })
    }

    /// The device.
    pub fn name(&self) -> Bdf {
        self.name
    }

    /// Another file of the same device.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EMFILE.
    pub fn try_clone(&self) -> Result<Self> {
        let failed = |error| Error::failed(Operation::OpenDevice(self.name), error);
        Ok(Self {
            file: self.file.try_clone().map_err(failed)?,
            config: self.config.clone(),
            ..*self
        })
    }

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

    /// What a kind of interrupt has.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a kind that the driver does not know.
    pub fn interrupt(&self, kind: Interrupt) -> Result<InterruptInfo> {
        let operation = Operation::InterruptInfo {
            device: self.name,
            kind,
        };
        let (flags, count) = sys::irq_info(self.as_fd(), kind.index())
            .map_err(|errno| Error::failed(operation, errno))?;
        Ok(InterruptInfo {
            count,
            eventfd: flags & IRQ_EVENTFD != 0,
            maskable: flags & IRQ_MASKABLE != 0,
            automasked: flags & IRQ_AUTOMASKED != 0,
            fixed: flags & IRQ_NORESIZE != 0,
        })
    }

    fn set(
        &self,
        kind: Interrupt,
        flags: u32,
        start: u32,
        count: usize,
        data: &[Option<BorrowedFd<'_>>],
    ) -> Result<()> {
        let failed = |errno| {
            let device = self.name;
            Error::failed(Operation::SetInterrupts { device, kind }, errno)
        };
        let count = u32::try_from(count).map_err(|_| failed(Errno::EINVAL))?;
        sys::set_irqs(self.as_fd(), flags, kind.index(), start, count, data).map_err(failed)
    }

    /// Has the vectors from `start` on signal eventfds; `None` turns one off. The kind of interrupt
    /// is turned on with the first. The host keeps the eventfds, whatever becomes of these.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for more vectors than there are, for another kind of MSI or
    /// MSI-X than is on, and for no vector at all ([`VfioDevice::disable`]).
    pub fn set_events(
        &self,
        kind: Interrupt,
        start: u32,
        events: &[Option<BorrowedFd<'_>>],
    ) -> Result<()> {
        if events.is_empty() {
            let device = self.name;
            let operation = Operation::SetInterrupts { device, kind };
            return Err(Error::failed(operation, Errno::EINVAL));
        }
        let flags = SET_DATA_EVENTFD | SET_TRIGGER;
        self.set(kind, flags, start, events.len(), events)
    }

    /// Turns a kind of interrupt off.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub fn disable(&self, kind: Interrupt) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_TRIGGER, 0, 0, &[])
    }

    /// Has the host signal the eventfd of a vector, as if the device had.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a kind that is off.
    pub fn trigger(&self, kind: Interrupt, vector: u32) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_TRIGGER, vector, 1, &[])
    }

    /// Masks a vector.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOTTY for a kind that cannot be masked.
    pub fn mask(&self, kind: Interrupt, vector: u32) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_MASK, vector, 1, &[])
    }

    /// Unmasks a vector: of [`Interrupt::IntX`], after each.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::mask`].
    pub fn unmask(&self, kind: Interrupt, vector: u32) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_UNMASK, vector, 1, &[])
    }

    /// Has an eventfd unmask [`Interrupt::IntX`], for KVM's resampling irqfd.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::mask`].
    pub fn unmask_by(&self, event: BorrowedFd<'_>) -> Result<()> {
        let flags = SET_DATA_EVENTFD | SET_UNMASK;
        self.set(Interrupt::IntX, flags, 0, 1, &[Some(event)])
    }

    /// Whether [`VfioDevice::reset`] can be.
    pub fn is_resettable(&self) -> bool {
        self.flags & DEVICE_RESET != 0
    }

    /// Resets the function. Its DMA ends, and what it has cached of translations is gone; what is
    /// bound stays bound. The kernel restores configuration space afterwards, bus mastering with it
    /// (`pci_try_reset_function`). A VMM unbinds what its guest had
    /// ([`Scope::Device`](crate::Scope::Device)).
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL or ENOTTY for a function that cannot be reset.
    pub fn reset(&self) -> Result<()> {
        sys::reset(self.as_fd())
            .map_err(|errno| Error::failed(Operation::ResetDevice(self.name), errno))
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
