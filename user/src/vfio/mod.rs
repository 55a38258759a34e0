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

mod config;
mod interrupt;
mod region;

pub use config::{MsixCapability, PageRequestCapability};
#[doc(inline)]
pub use host_iommu_sys::memory::Mmio;
pub use interrupt::{Interrupt, InterruptInfo};
pub use region::{Area, Bar, Region, CONFIG_REGION, ROM_REGION};

use crate::error::{Error, Operation, Result};
use crate::sys::plain::Plain;
use crate::sys::{device as sys, Errno};
use crate::types::Bdf;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// `VFIO_DEVICE_FLAGS_*`.
const DEVICE_RESET: u32 = 1 << 0;
const DEVICE_PCI: u32 = 1 << 1;
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
