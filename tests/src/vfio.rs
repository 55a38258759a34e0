// SPDX-License-Identifier: Apache-2.0 OR MIT
//! VFIO container, group and device: each an owned fd that closes when it is dropped, in
//! whatever order, and each call as it is, with its errno.

use crate::testdev::{DEVICE_ID, VENDOR_ID};
use host_iommu_bindings::uapi::{
    iommu_hwpt_vtd_s1, vfio_ioasid_device, vfio_ioasid_device_info, vfio_ioasid_stats,
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE,
};
use host_iommu_sys::memory::{DmaMemory, Mmio, SharedMemory};
use host_iommu_sys::{self as sys, ioasid, vfio, Errno, Result};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A PCI function by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    /// PCI segment.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device in bits 7:3, function in 2:0.
    pub devfn: u8,
}

impl Bdf {
    /// Reads a name as in "0000:00:04.0".
    pub fn parse(name: &str) -> Option<Self> {
        let (segment, rest) = name.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let device = u8::from_str_radix(device, 16).ok().filter(|&n| n < 32)?;
        let function = u8::from_str_radix(function, 16).ok().filter(|&n| n < 8)?;
        Some(Self {
            segment: u16::from_str_radix(segment, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            devfn: device << 3 | function,
        })
    }

    /// The ABI's form.
    pub fn id(self) -> vfio_ioasid_device {
        vfio_ioasid_device {
            segment: self.segment,
            bus: self.bus,
            devfn: self.devfn,
        }
    }

    /// The function's directory in sysfs.
    pub fn sysfs(self) -> PathBuf {
        PathBuf::from(format!("/sys/bus/pci/devices/{self}"))
    }

    /// Whether no other device is in the function's IOMMU group.
    pub fn is_alone(self) -> bool {
        fs::read_dir(self.sysfs().join("iommu_group/devices"))
            .is_ok_and(|members| members.count() == 1)
    }

    /// The function's IOMMU group.
    ///
    /// # Errors
    ///
    /// ENODEV if there is none.
    pub fn group(self) -> Result<u32> {
        let link = fs::read_link(self.sysfs().join("iommu_group")).map_err(|_| Errno::ENODEV)?;
        let number = link.file_name().and_then(|name| name.to_str());
        number
            .and_then(|number| number.parse().ok())
            .ok_or(Errno::ENODEV)
    }
}

impl std::fmt::Display for Bdf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (device, function) = (self.devfn >> 3, self.devfn & 7);
        write!(
            f,
            "{:04x}:{:02x}:{device:02x}.{function}",
            self.segment, self.bus
        )
    }
}

/// The endpoints `pasid-dma-testdev` that are bound to vfio-pci and alone in their IOMMU group,
/// in the order of their addresses.
pub fn endpoints() -> Vec<Bdf> {
    let mut found = all_endpoints();
    found.retain(|bdf| bdf.is_alone());
    found
}

/// The endpoints `pasid-dma-testdev` that are bound to vfio-pci, in the order of their
/// addresses, whoever is in their IOMMU groups.
pub fn all_endpoints() -> Vec<Bdf> {
    devices_of(VENDOR_ID, DEVICE_ID)
}

/// The devices of a kind that are bound to vfio-pci, in the order of their addresses.
pub fn devices_of(vendor: u32, device: u32) -> Vec<Bdf> {
    let is_one = |bdf: &Bdf| {
        let attribute = |name: &str| {
            let text = fs::read_to_string(bdf.sysfs().join(name)).ok()?;
            u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        };
        let driver = fs::read_link(bdf.sysfs().join("driver"));
        attribute("vendor") == Some(vendor)
            && attribute("device") == Some(device)
            && driver.is_ok_and(|link| link.file_name().is_some_and(|name| name == "vfio-pci"))
    };
    let Ok(entries) = fs::read_dir("/sys/bus/pci/devices") else {
        return Vec::new();
    };
    let mut found: Vec<Bdf> = entries
        .flatten()
        .filter_map(|entry| Bdf::parse(entry.file_name().to_str()?))
        .filter(is_one)
        .collect();
    found.sort_unstable();
    found
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO.raw()))
}

fn open(path: &str) -> Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map(OwnedFd::from).map_err(|error| errno(&error))
}

/// A container.
#[derive(Debug)]
pub struct Container(OwnedFd);

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Container {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Container {
    /// Opens /dev/vfio/vfio: a new container without an IOMMU.
    ///
    /// # Errors
    ///
    /// Those of open.
    pub fn open() -> Result<Self> {
        open("/dev/vfio/vfio").map(Self)
    }

    /// The fd, for calls that are not here.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// `VFIO_CHECK_EXTENSION`.
    pub fn check_extension(&self, extension: u32) -> Result<i32> {
        vfio::check_extension(self.as_fd(), extension)
    }

    /// `VFIO_SET_IOMMU`: 1 and 3 are vfio_iommu_type1's, 6 is ours.
    pub fn set_iommu(&self, iommu_type: u32) -> Result<()> {
        vfio::set_iommu(self.as_fd(), iommu_type)
    }

    /// `VFIO_IOMMU_GET_INFO`, whole.
    pub fn info(&self) -> Result<Vec<u8>> {
        vfio::get_info(self.as_fd())
    }

    /// `VFIO_IOMMU_MAP_DMA` of all of `memory` at `iova`, for reading and writing.
    pub fn map_memory(&self, iova: u64, memory: &SharedMemory) -> Result<()> {
        self.map_part(iova, memory, 0, memory.len() as u64, RW)
    }

    /// `VFIO_IOMMU_MAP_DMA` of a part of `memory`, with any flags.
    pub fn map_part(
        &self,
        iova: u64,
        memory: &SharedMemory,
        offset: u64,
        size: u64,
        flags: u32,
    ) -> Result<()> {
        sys::memory::map_dma_part(self.as_fd(), flags, memory, offset, iova, size)
    }

    /// `VFIO_IOMMU_UNMAP_DMA`: bytes unmapped.
    pub fn unmap(&self, flags: u32, iova: u64, size: u64) -> Result<u64> {
        vfio::unmap_dma(self.as_fd(), flags, iova, size)
    }

    /// `VFIO_IOASID_PASID_ALLOC`.
    pub fn pasid_alloc(&self, min: u32, max: u32, count: u32) -> Result<u32> {
        ioasid::pasid_alloc(self.as_fd(), min, max, count)
    }

    /// `VFIO_IOASID_PASID_FREE`.
    pub fn pasid_free(&self, pasid: u32, count: u32) -> Result<()> {
        ioasid::pasid_free(self.as_fd(), pasid, count)
    }

    /// `VFIO_IOASID_BIND` of the 4-level table at `root`.
    pub fn bind(
        &self,
        device: Bdf,
        pasid: u32,
        root: u64,
        fault_queue: Option<BorrowedFd<'_>>,
        cookie: u64,
    ) -> Result<()> {
        let bind = ioasid::Bind {
            device: device.id(),
            pasid,
            replace: false,
            what: ioasid::BindWhat::Stage1(iommu_hwpt_vtd_s1 {
                pgtbl_addr: root,
                addr_width: 48,
                ..Default::default()
            }),
            guest_pasid: pasid,
            fault_queue,
            cookie,
        };
        ioasid::bind(self.as_fd(), &bind).map_err(|failure| failure.errno)
    }

    /// `VFIO_IOASID_FAULT_QUEUE`.
    pub fn fault_queue(&self, flags: u32, depth: u32) -> Result<OwnedFd> {
        ioasid::fault_queue(self.as_fd(), flags, depth, 0)
    }

    /// `VFIO_IOASID_DEVICES`, up to `room` of them.
    pub fn devices(&self, room: usize) -> Result<Vec<vfio_ioasid_device_info>> {
        let mut devices = vec![vfio_ioasid_device_info::default(); room];
        let count = ioasid::devices(self.as_fd(), &mut devices)?;
        devices.truncate(count as usize);
        Ok(devices)
    }

    /// `VFIO_IOASID_STATS`.
    pub fn stats(&self) -> Result<vfio_ioasid_stats> {
        ioasid::stats(self.as_fd())
    }
}

const RW: u32 = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

/// A group.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Group {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Group {
    /// Opens the group of a device. EBUSY if it is open.
    ///
    /// # Errors
    ///
    /// Those of open, and ENODEV for a device without a group.
    pub fn open(device: Bdf) -> Result<Self> {
        open(&format!("/dev/vfio/{}", device.group()?)).map(Self)
    }

    /// `VFIO_GROUP_GET_STATUS`: flags.
    pub fn status(&self) -> Result<u32> {
        vfio::group_get_status(self.as_fd()).map(|status| status.flags)
    }

    /// `VFIO_GROUP_SET_CONTAINER`.
    pub fn set_container(&self, container: &Container) -> Result<()> {
        vfio::group_set_container(self.as_fd(), container.as_fd())
    }

    /// `VFIO_GROUP_UNSET_CONTAINER`.
    pub fn unset_container(&self) -> Result<()> {
        vfio::group_unset_container(self.as_fd())
    }

    /// `VFIO_GROUP_GET_DEVICE_FD`.
    pub fn device(&self, device: Bdf) -> Result<Device> {
        let name = CString::new(device.to_string()).map_err(|_| Errno::EINVAL)?;
        let fd = vfio::group_get_device_fd(self.as_fd(), &name)?;
        Ok(Device(File::from(fd)))
    }
}

/// A device.
#[derive(Debug)]
pub struct Device(File);

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }
}

/// Command register of configuration space (PCIe 6.0, 7.5.1.1.3).
const PCI_COMMAND: u64 = 4;
const PCI_COMMAND_MEMORY: u16 = 1 << 1;
const PCI_COMMAND_MASTER: u16 = 1 << 2;

impl Device {
    /// `VFIO_DEVICE_RESET`: function-level reset. Bus mastering is off afterwards.
    pub fn reset(&self) -> Result<()> {
        vfio::device_reset(self.as_fd())
    }

    /// Maps a BAR; the mapping lives on its own.
    pub fn map_bar(&self, bar: u32) -> Result<Mmio> {
        let region = vfio::device_get_region_info(self.as_fd(), bar)?;
        if region.flags & vfio::REGION_MMAP == 0 {
            return Err(Errno::ENODEV);
        }
        let len = usize::try_from(region.size).map_err(|_| Errno::EOVERFLOW)?;
        Mmio::new(self.as_fd(), region.offset, len)
    }

    /// Lets the device answer at its BARs and, with `on`, make requests of its own.
    pub fn set_bus_master(&self, on: bool) -> Result<()> {
        let mut command = [0; 2];
        self.read_config(PCI_COMMAND, &mut command)?;
        let mut value = u16::from_le_bytes(command) | PCI_COMMAND_MEMORY;
        if on {
            value |= PCI_COMMAND_MASTER;
        } else {
            value &= !PCI_COMMAND_MASTER;
        }
        self.write_config(PCI_COMMAND, &value.to_le_bytes())
    }

    /// Reads configuration space.
    pub fn read_config(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let at = self.config(offset)?;
        self.0
            .read_exact_at(bytes, at)
            .map_err(|error| errno(&error))
    }

    /// Writes configuration space.
    pub fn write_config(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = self.config(offset)?;
        self.0
            .write_all_at(bytes, at)
            .map_err(|error| errno(&error))
    }

    /// Has `eventfd` signalled when the host wants the device back.
    pub fn set_request_event(&self, eventfd: BorrowedFd<'_>) -> Result<()> {
        vfio::device_set_irq(self.as_fd(), vfio::PCI_REQ_IRQ, 0, eventfd)
    }

    /// Has an MSI-X vector signal an eventfd.
    pub fn set_msix(&self, vector: u32, eventfd: BorrowedFd<'_>) -> Result<()> {
        vfio::device_set_irq(self.as_fd(), vfio::PCI_MSIX_IRQ, vector, eventfd)
    }

    fn config(&self, offset: u64) -> Result<u64> {
        let region = vfio::device_get_region_info(self.as_fd(), vfio::PCI_CONFIG_REGION)?;
        region.offset.checked_add(offset).ok_or(Errno::EOVERFLOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bdf_parse_reads_what_display_writes() {
        let bdf = Bdf::parse("0001:3a:1f.7").expect("a PCI address");
        assert_eq!((bdf.segment, bdf.bus, bdf.devfn), (1, 0x3a, 0xff));
        assert_eq!(bdf.to_string(), "0001:3a:1f.7");
        for wrong in ["", "00:04.0", "0000:00:20.0", "0000:00:04.8", "0000:00:04"] {
            assert_eq!(Bdf::parse(wrong), None, "{wrong}");
        }
    }
}
