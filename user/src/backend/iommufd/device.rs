// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A device on an iommufd, by its VFIO character device.

use crate::capabilities::{DeviceInfo, MissingBecause, Support};
use crate::nesting::GuestTable;
use crate::sys::iommufd::{self, HwInfo, ALLOC_DIRTY_TRACKING, ALLOC_NEST_PARENT, ALLOC_PASID};
use crate::sys::{vfio, Errno};
use crate::types::{AddressWidth, Bdf};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// VT-d 4.1, 11.4.2 and 11.4.3.
const CAP_FIVE_LEVELS: u64 = 1 << 60;
const ECAP_SNOOP: u64 = 1 << 7;
const ECAP_PAGE_REQUESTS: u64 = 1 << 29;
const ECAP_SUPERVISOR: u64 = 1 << 31;
const ECAP_EXTENDED_ACCESSED: u64 = 1 << 34;

/// Stage 2 as a page table; a device that does not fit one gets another, of the same mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) hwpt: u32,
    /// Stage-1 tables can be put on top.
    pub(super) nests: bool,
    /// The hardware notes what is written.
    pub(super) dirty: bool,
}

#[derive(Debug)]
pub(super) struct Device {
    /// What names it to [`detach`](crate::HostIommuContext::detach).
    pub(super) number: u64,
    pub(super) fd: OwnedFd,
    /// Its id on the iommufd.
    pub(super) id: u32,
    pub(super) parent: Parent,
    pub(super) info: HwInfo,
    page_requests: bool,
}

impl Device {
    /// Brings a device to the iommufd: at its RID it has stage 2 then, one of `parents` or a new
    /// one.
    pub(super) fn join(
        iommufd: BorrowedFd<'_>,
        ioas: u32,
        parents: &[Parent],
        number: u64,
        fd: OwnedFd,
    ) -> Result<Self, Errno> {
        let id = iommufd::device_bind(fd.as_fd(), iommufd)?;
        let info = iommufd::hw_info(iommufd, id)?;
        let parent = attach_parent(iommufd, ioas, parents, fd.as_fd(), id, info)?;
        let page_requests = may_ask_for_pages(fd.as_fd());
        Ok(Self {
            number,
            fd,
            id,
            parent,
            info,
            page_requests,
        })
    }

    /// CAP and ECAP, zero behind another IOMMU.
    fn vtd(&self) -> (u64, u64) {
        self.info.vtd.unwrap_or_default()
    }

    /// PASIDs below this number work.
    pub(super) fn max_pasids(&self) -> u32 {
        match self.info.max_pasid_log2 {
            0 => 0,
            bits => 1u32.checked_shl(bits.into()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn stage1(&self) -> Support {
        if self.info.vtd.is_none() {
            Support::Missing(MissingBecause::Format)
        } else if !self.parent.nests {
            Support::Missing(MissingBecause::Hardware)
        } else if self.max_pasids() == 0 {
            Support::Missing(MissingBecause::NoPasid)
        } else {
            Support::Present
        }
    }

    pub(super) fn page_requests(&self) -> Support {
        if self.page_requests && self.vtd().1 & ECAP_PAGE_REQUESTS != 0 {
            Support::Present
        } else {
            Support::Missing(MissingBecause::NoPri)
        }
    }

    pub(super) fn widths(&self) -> &'static [AddressWidth] {
        if self.vtd().0 & CAP_FIVE_LEVELS == 0 {
            &[AddressWidth::Bits48]
        } else {
            &[AddressWidth::Bits48, AddressWidth::Bits57]
        }
    }

    /// DMA is coherent whatever the device says: the kernel enforces it where it can.
    pub(super) fn coherent(&self) -> bool {
        self.vtd().1 & ECAP_SNOOP != 0
    }

    /// A stage-1 table can be bound at the RID.
    pub(super) fn rid(&self) -> bool {
        self.info.vtd.is_some() && self.parent.nests
    }

    pub(super) fn info(&self, device: Bdf) -> DeviceInfo {
        let (vtd_cap, vtd_ecap) = self.vtd();
        DeviceInfo {
            device,
            stage1: self.stage1(),
            page_requests: self.page_requests(),
            rid: self.rid(),
            max_pasids: self.max_pasids(),
            vtd_cap,
            vtd_ecap,
        }
    }

    /// What the driver would find at the attach: a failed attach takes what was there with it.
    pub(super) fn check(&self, table: &GuestTable) -> Result<(), Errno> {
        if !self.rid() {
            return Err(Errno::EOPNOTSUPP);
        }
        table.walked_by_host()?;
        let lacks = |wanted: bool, bit: u64| wanted && self.vtd().1 & bit == 0;
        if table.root.0 % 4096 != 0
            || table.root.0 >> 52 != 0
            || !self.widths().contains(&table.width)
            || lacks(table.supervisor, ECAP_SUPERVISOR)
            || lacks(table.extended_accessed, ECAP_EXTENDED_ACCESSED)
        {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// Attaches stage 2 at the RID.
fn attach_parent(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    parents: &[Parent],
    device: BorrowedFd<'_>,
    id: u32,
    info: HwInfo,
) -> Result<Parent, Errno> {
    for &parent in parents {
        match iommufd::device_attach(device, parent.hwpt, None) {
            Ok(()) => return Ok(parent),
            // The unit of this device is another one, with other abilities.
            Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    let parent = new_parent(iommufd, ioas, id, info)?;
    iommufd::device_attach(device, parent.hwpt, None).inspect_err(|_| {
        // What cannot be destroyed goes with the iommufd.
        let _ = iommufd::destroy(iommufd, parent.hwpt);
    })?;
    Ok(parent)
}

/// Stage 2 with what the hardware offers.
fn new_parent(iommufd: BorrowedFd<'_>, ioas: u32, id: u32, info: HwInfo) -> Result<Parent, Errno> {
    let dirty = info.capabilities & u64::from(iommufd::CAP_DIRTY_TRACKING) != 0;
    for (nests, flags) in [
        (true, ALLOC_NEST_PARENT | ALLOC_PASID),
        (false, ALLOC_PASID),
        (false, 0),
    ] {
        let flags = flags | if dirty { ALLOC_DIRTY_TRACKING } else { 0 };
        match iommufd::hwpt_alloc(iommufd, flags, id, ioas, None, None) {
            Ok(hwpt) => return Ok(Parent { hwpt, nests, dirty }),
            Err(Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EOPNOTSUPP)
}

/// Whether a device has page requests that Linux turns on: PRI, with PASIDs in the answers
/// (PCIe 6.0, 7.8.9). iommufd does not say.
fn may_ask_for_pages(device: BorrowedFd<'_>) -> bool {
    /// Extended capabilities of 4 KiB of configuration space, 8 bytes each at least.
    const MAX_CAPABILITIES: usize = (4096 - 0x100) / 8;
    const PRI: u32 = 0x13;
    const PRG_RESPONSE_PASID_REQUIRED: u32 = 1 << 31;

    let config = || -> Option<(File, u64)> {
        let region = vfio::device_get_region_info(device, vfio::PCI_CONFIG_REGION).ok()?;
        let file = File::from(device.try_clone_to_owned().ok()?);
        Some((file, region.offset))
    };
    let Some((file, base)) = config() else {
        return false;
    };
    let word = |offset: u32| {
        let mut bytes = [0; 4];
        let at = base.checked_add(offset.into())?;
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let mut offset = 0x100;
    for _ in 0..MAX_CAPABILITIES {
        let Some(header) = word(offset) else {
            return false;
        };
        if header & 0xffff == PRI {
            // Control and status.
            let status = word(offset + 4);
            return status.is_some_and(|status| status & PRG_RESPONSE_PASID_REQUIRED != 0);
        }
        offset = header >> 20 & !3;
        if offset < 0x100 {
            return false;
        }
    }
    false
}

/// The path of a device's own file, as in `/dev/vfio/devices/vfio0`.
pub(super) fn path(device: Bdf) -> std::io::Result<PathBuf> {
    let folder = format!("/sys/bus/pci/devices/{device}/vfio-dev");
    let entry = fs::read_dir(folder)?.next().transpose()?;
    let entry = entry.ok_or(Errno::ENODEV)?;
    Ok(Path::new("/dev/vfio/devices").join(entry.file_name()))
}

/// The device behind its own file, by sysfs.
pub(super) fn name(fd: &OwnedFd) -> std::io::Result<Bdf> {
    let number = File::from(fd.try_clone()?).metadata()?.rdev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    let link = fs::read_link(format!("/sys/dev/char/{major}:{minor}"))?;
    // …/0000:00:04.0/vfio-dev/vfio0
    let name = link
        .parent()
        .and_then(Path::parent)
        .and_then(Path::file_name);
    let name = name.and_then(|name| name.to_str()?.parse().ok());
    Ok(name.ok_or(Errno::ENODEV)?)
}
