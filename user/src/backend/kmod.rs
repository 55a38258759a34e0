// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel module `vfio_iommu_ioasid`, on a VFIO container.

use crate::capabilities::{Capabilities, DeviceInfo, Stats};
use crate::context::{Binding, HostIommuContext, Mapping, Scope, Translation};
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultChannel, FaultQueueOptions, FdChannel};
use crate::nesting::InvalidationEntry;
use crate::pasid::PasidRequest;
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::sys::{ioasid, memory, vfio, Errno};
use crate::types::{Bdf, IovaRange, MapAccess, Pasid};
use host_iommu_bindings::uapi as abi;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const CONTAINER_PATH: &str = "/dev/vfio/vfio";

/// A VFIO container on the module, with its groups.
///
/// Devices of the groups are opened with [`Kmod::open_device_fd`]: registers, interrupts and reset
/// are VFIO's as ever. The container's contents live until this is dropped and every device fd
/// that was opened is closed.
#[derive(Debug)]
pub struct Kmod {
    container: OwnedFd,
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    next: u64,
    open: Vec<(u64, OwnedFd)>,
    /// The stay of each device that was seen: one that has left and come back has another.
    stays: BTreeMap<Bdf, u64>,
    next_stay: u64,
}

impl Groups {
    /// Takes note of the devices that are attached now.
    fn see(&mut self, devices: &[DeviceInfo]) {
        let there: BTreeSet<Bdf> = devices.iter().map(|info| info.device).collect();
        self.stays.retain(|device, _| there.contains(device));
        for device in there {
            if let Entry::Vacant(new) = self.stays.entry(device) {
                new.insert(self.next_stay);
                self.next_stay = self.next_stay.wrapping_add(1);
            }
        }
    }
}

impl AsFd for Kmod {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.container.as_fd()
    }
}

impl Kmod {
    /// Opens a new container and attaches the group of a device, which must be bound to vfio-pci.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`]: the path that cannot be opened, EBUSY for a group that is in use, ENODEV
    /// where the module is not loaded, EPERM without interrupt remapping.
    pub fn open_device(device: Bdf) -> Result<Self> {
        Self::open_group(&group_path(device)?)
    }

    /// Opens a new container and attaches a group by its path, as in `/dev/vfio/12`.
    ///
    /// # Errors
    ///
    /// As [`Kmod::open_device`].
    pub fn open_group(group: &Path) -> Result<Self> {
        let container = open(Path::new(CONTAINER_PATH))?;
        Self::from_fds(container, open(group)?)
    }

    /// Attaches a group to a container that has none, both handed to this process.
    ///
    /// # Errors
    ///
    /// As [`Kmod::open_device`].
    pub fn from_fds(container: OwnedFd, group: OwnedFd) -> Result<Self> {
        let kmod = Self {
            container,
            groups: Mutex::default(),
        };
        kmod.attach(group)?;
        Ok(kmod)
    }

    /// Takes over a container that somebody else has set up for the module, groups and all.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if the container is not on the module.
    pub fn from_container(container: OwnedFd) -> Result<Self> {
        let kmod = Self {
            container,
            groups: Mutex::default(),
        };
        kmod.stats()?;
        Ok(kmod)
    }

    /// Takes the files over that [`Kmod::files`] gave in another process, with all that the container
    /// has. Groups keep their order: [`HostIommuContext::detach`] knows them by 0, 1 and so on.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if the container is not on the module.
    pub fn from_files(container: OwnedFd, groups: Vec<OwnedFd>) -> Result<Self> {
        let kmod = Self::from_container(container)?;
        let mut known = kmod.groups();
        known.open = (0..).zip(groups).collect();
        known.next = known.open.len() as u64;
        drop(known);
        Ok(kmod)
    }

    /// Copies of the container's file and of its groups', for a process that takes the place of this
    /// one.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EMFILE.
    pub fn files(&self) -> Result<(OwnedFd, Vec<OwnedFd>)> {
        let copy = |file: &OwnedFd| {
            file.try_clone()
                .map_err(|error| Error::failed(Operation::HandOver, error))
        };
        let groups = self.groups();
        let groups = groups.open.iter().map(|(_, group)| copy(group));
        Ok((copy(&self.container)?, groups.collect::<Result<_>>()?))
    }

    /// Takes a share in a container that a value of another crate holds, such as a
    /// `vfio_ioctls::VfioContainer` with its groups: the module must be loaded with
    /// `type1_compat=1` for that one. What is bound goes with its last group.
    ///
    /// [`duplicate`](crate::duplicate) gives the file of a value that has no [`AsFd`], as those of
    /// vfio-ioctls have none.
    ///
    /// ```no_run
    /// # use host_iommu::backend::kmod::Kmod;
    /// # fn shared(container: std::os::fd::BorrowedFd<'_>) -> host_iommu::Result<Kmod> {
    /// Kmod::share(container)
    /// # }
    /// ```
    ///
    /// A bare number may be any file's, and is not taken:
    ///
    /// ```compile_fail,E0277
    /// # use host_iommu::backend::kmod::Kmod;
    /// # fn shared(container: std::os::fd::RawFd) -> host_iommu::Result<Kmod> {
    /// Kmod::share(container)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Kmod::from_container`].
    pub fn share(container: impl AsFd) -> Result<Self> {
        let container = container.as_fd().try_clone_to_owned();
        let container = container.map_err(|error| Error::failed(Operation::ReadStats, error))?;
        Self::from_container(container)
    }

    /// Opens a device of an attached group: its registers, interrupts and reset by VFIO.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENODEV if no attached group has it.
    pub fn open_device_fd(&self, device: Bdf) -> Result<OwnedFd> {
        let failed = |errno| Error::failed(Operation::OpenDevice(device), errno);
        let name = CString::new(device.to_string()).map_err(|_| failed(Errno::EINVAL))?;
        for (_, group) in &self.groups().open {
            match vfio::group_get_device_fd(group.as_fd(), &name) {
                Err(Errno::ENODEV) => {}
                result => return result.map_err(failed),
            }
        }
        Err(failed(Errno::ENODEV))
    }

    /// The devices that are attached now, of whose stays note is taken.
    fn look(&self, groups: &mut Groups) -> Result<()> {
        let devices = match self.devices() {
            // A container has a driver from the first group to the last: there is none.
            Err(error) if error.errno() == Some(libc::EINVAL) => Vec::new(),
            devices => devices?,
        };
        groups.see(&devices);
        Ok(())
    }

    /// The list is whole whatever a thread that panicked was doing.
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of a device's group.
fn group_path(device: Bdf) -> Result<PathBuf> {
    let failed = |error| Error::failed(Operation::FindGroup(device), error);
    let link = format!("/sys/bus/pci/devices/{device}/iommu_group");
    let target = fs::read_link(link).map_err(failed)?;
    let number = target
        .file_name()
        .ok_or_else(|| failed(Errno::ENODEV.into()))?;
    Ok(Path::new("/dev/vfio").join(number))
}

fn open(path: &Path) -> Result<OwnedFd> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map(OwnedFd::from)
        .map_err(|error| Error::failed(Operation::Open(path.to_owned()), error))
}

/// The ABI's form of a scope: flag, device and PASID.
fn scope_parts(scope: Scope) -> (u32, abi::vfio_ioasid_device, u32) {
    match scope {
        Scope::Binding(device, Pasid::RID) => (abi::VFIO_IOASID_SCOPE_RID, device.into(), 0),
        Scope::Binding(device, pasid) => {
            (abi::VFIO_IOASID_SCOPE_BINDING, device.into(), pasid.get())
        }
        Scope::Device(device) => (abi::VFIO_IOASID_SCOPE_DEVICE, device.into(), 0),
        Scope::All => (abi::VFIO_IOASID_SCOPE_CONTAINER, Default::default(), 0),
    }
}

impl HostIommuContext for Kmod {
    /// Attaches a group by its fd, as from `/dev/vfio/12`.
    fn attach(&self, fd: OwnedFd) -> Result<u64> {
        let mut groups = self.groups();
        // Those that have left are seen to be gone before they can come back. What cannot be asked
        // about stays as it was noted.
        let _ = self.look(&mut groups);
        vfio::group_set_container(fd.as_fd(), self.as_fd())
            .map_err(|errno| Error::failed(Operation::AttachGroup, errno))?;
        // A container has a driver from the first group to the last: this may be the first.
        if ioasid::stats(self.as_fd()).is_err() {
            if let Err(errno) = vfio::set_iommu(self.as_fd(), abi::VFIO_IOASID_IOMMU) {
                // As before the call, whoever else has the group open. It cannot fail: no device of
                // a group without a driver is open.
                let _ = vfio::group_unset_container(fd.as_fd());
                return Err(Error::failed(Operation::SelectBackend, errno));
            }
        }
        let number = groups.next;
        groups.next = number.wrapping_add(1);
        groups.open.push((number, fd));
        Ok(number)
    }

    fn detach(&self, attached: u64) -> Result<OwnedFd> {
        let failed = |errno| Error::failed(Operation::DetachGroup, errno);
        let mut groups = self.groups();
        let position = groups
            .open
            .iter()
            .position(|(number, _)| *number == attached);
        let position = position.ok_or_else(|| failed(Errno::ENOENT))?;
        if let Some((_, group)) = groups.open.get(position) {
            vfio::group_unset_container(group.as_fd()).map_err(failed)?;
        }
        let fd = groups.open.swap_remove(position).1;
        let _ = self.look(&mut groups);
        Ok(fd)
    }

    fn device_fd(&self, device: Bdf) -> Result<OwnedFd> {
        self.open_device_fd(device)
    }

    fn capabilities(&self) -> Result<Capabilities> {
        let reply = vfio::get_info(self.as_fd())
            .map_err(|errno| Error::failed(Operation::ReadCapabilities, errno))?;
        Capabilities::parse(&reply)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        /// Devices of a container are few; a list that grows between two calls is read again.
        const TRIES: usize = 8;
        let failed = |errno| Error::failed(Operation::ListDevices, errno);

        let mut room = Vec::new();
        for _ in 0..TRIES {
            let count = ioasid::devices(self.as_fd(), &mut room).map_err(failed)? as usize;
            if count <= room.len() {
                room.truncate(count);
                return Ok(room.iter().map(DeviceInfo::from).collect());
            }
            room.resize_with(count, Default::default);
        }
        Err(failed(Errno::EAGAIN))
    }

    fn stay(&self, device: Bdf) -> Result<Option<u64>> {
        let mut groups = self.groups();
        self.look(&mut groups)?;
        Ok(groups.stays.get(&device).copied())
    }

    fn map(&self, mapping: &Mapping<'_>) -> Result<()> {
        let range = mapping.range;
        let failed = |errno| Error::failed(Operation::Map(range), errno);
        let size = range.size().ok_or_else(|| failed(Errno::EINVAL))?;
        let flags = match mapping.access {
            MapAccess::Read => abi::VFIO_DMA_MAP_FLAG_READ,
            MapAccess::Write => abi::VFIO_DMA_MAP_FLAG_WRITE,
            MapAccess::ReadWrite => abi::VFIO_DMA_MAP_FLAG_READ | abi::VFIO_DMA_MAP_FLAG_WRITE,
        };
        memory::map_dma_part(
            self.as_fd(),
            flags,
            mapping.memory,
            mapping.offset,
            range.start().0,
            size,
        )
        .map_err(failed)
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        let failed = |errno| Error::failed(Operation::Unmap(range), errno);
        match range.size() {
            Some(size) => vfio::unmap_dma(self.as_fd(), 0, range.start().0, size).map_err(failed),
            None => self.unmap_all(),
        }
    }

    fn unmap_all(&self) -> Result<u64> {
        vfio::unmap_dma(self.as_fd(), abi::VFIO_DMA_UNMAP_FLAG_ALL, 0, 0)
            .map_err(|errno| Error::failed(Operation::UnmapAll, errno))
    }

    fn alloc_pasids(&self, request: &PasidRequest) -> Result<Pasid> {
        let PasidRequest { min, max, count } = *request;
        let first = ioasid::pasid_alloc(self.as_fd(), min.get(), max.get(), count)
            .map_err(|errno| Error::failed(Operation::AllocPasids { min, max, count }, errno))?;
        Pasid::try_from(first)
    }

    fn free_pasids(&self, first: Pasid, count: u32) -> Result<()> {
        ioasid::pasid_free(self.as_fd(), first.get(), count)
            .map_err(|errno| Error::failed(Operation::FreePasids { first, count }, errno))
    }

    fn bind(&self, binding: &Binding<'_>) -> Result<()> {
        let Binding {
            device,
            pasid,
            translation,
            fault_queue,
            replace,
        } = *binding;
        if let Translation::Stage1(table) = &translation {
            let operation = Operation::BindStage1 { pasid, device };
            let checked = table.walked_by_host();
            checked.map_err(|errno| Error::failed(operation, errno))?;
        }
        let what = match translation {
            Translation::Stage1(table) => ioasid::BindWhat::Stage1(table.data()),
            Translation::Stage2 { .. } => ioasid::BindWhat::Stage2,
            Translation::AddressSpace { id, .. } => ioasid::BindWhat::AddressSpace(id.get()),
            Translation::Blocked { .. } => ioasid::BindWhat::Blocked,
        };
        let bind = ioasid::Bind {
            device: device.into(),
            pasid: pasid.get(),
            replace,
            what,
            guest_pasid: translation.guest_pasid().unwrap_or(pasid.get()),
            fault_queue: fault_queue.map(|channel| channel.as_fd()),
            cookie: translation.cookie(),
        };
        ioasid::bind(self.as_fd(), &bind).map_err(|failure| {
            let operation = Operation::BindStage1 { pasid, device };
            if failure.blocked {
                Error::Blocked {
                    operation,
                    source: failure.errno.into(),
                }
            } else {
                Error::failed(operation, failure.errno)
            }
        })
    }

    fn unbind(&self, scope: Scope) -> Result<()> {
        let (flags, device, pasid) = scope_parts(scope);
        ioasid::unbind(self.as_fd(), flags, device, pasid)
            .map_err(|errno| Error::failed(Operation::Unbind(scope), errno))
    }

    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()> {
        const MAX: usize = abi::VFIO_IOASID_INVALIDATE_MAX as usize;

        let (flags, device, pasid) = scope_parts(scope);
        let mut before = 0usize;
        for chunk in entries.chunks(MAX) {
            let data: Vec<_> = chunk.iter().map(InvalidationEntry::data).collect();
            ioasid::invalidate(self.as_fd(), flags, device, pasid, &data).map_err(|failure| {
                Error::Flush {
                    scope,
                    index: before.saturating_add(failure.bad_index as usize),
                    count: entries.len(),
                    source: failure.errno.into(),
                }
            })?;
            before = before.saturating_add(chunk.len());
        }
        Ok(())
    }

    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<Arc<dyn FaultChannel>> {
        let mut flags = abi::VFIO_IOASID_FAULT_QUEUE_CLOEXEC;
        if options.dma_faults {
            flags |= abi::VFIO_IOASID_FAULT_QUEUE_DMA;
        }
        if options.nonblocking {
            flags |= abi::VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
        }
        // Zero milliseconds would mean no deadline.
        let deadline_ms = options.deadline.map_or(0, |deadline| {
            let ms = deadline.as_nanos().div_ceil(1_000_000).max(1);
            u32::try_from(ms).unwrap_or(u32::MAX)
        });
        let depth = options.depth.unwrap_or(0);
        let fd = ioasid::fault_queue(self.as_fd(), flags, depth, deadline_ms)
            .map_err(|errno| Error::failed(Operation::OpenFaultQueue, errno))?;
        Ok(Arc::new(FdChannel::new(fd)))
    }

    fn stats(&self) -> Result<Stats> {
        ioasid::stats(self.as_fd())
            .map(|stats| Stats::from(&stats))
            .map_err(|errno| Error::failed(Operation::ReadStats, errno))
    }

    fn create_address_space(&self) -> Result<AddressSpaceId> {
        ioasid::as_create(self.as_fd())
            .map(AddressSpaceId::new)
            .map_err(|errno| Error::failed(Operation::AddressSpace("create"), errno))
    }

    fn destroy_address_space(&self, id: AddressSpaceId) -> Result<()> {
        ioasid::as_destroy(self.as_fd(), id.get())
            .map_err(|errno| Error::failed(Operation::AddressSpace("destroy"), errno))
    }

    fn map_address_space(&self, id: AddressSpaceId, entries: &[AddressSpaceEntry]) -> Result<()> {
        let data = entries.iter().map(|entry| {
            let perm = match entry.access {
                MapAccess::Read => abi::VFIO_IOASID_AS_READ,
                MapAccess::Write => abi::VFIO_IOASID_AS_WRITE,
                MapAccess::ReadWrite => abi::VFIO_IOASID_AS_READ | abi::VFIO_IOASID_AS_WRITE,
            };
            as_entry(entry.range, entry.gpa.0, perm)
        });
        let data: Vec<_> = data.collect();
        self.change("map into", &data, |part| {
            ioasid::as_map(self.as_fd(), id.get(), part)
        })
    }

    fn unmap_address_space(&self, id: AddressSpaceId, ranges: &[IovaRange]) -> Result<()> {
        let data: Vec<_> = ranges.iter().map(|range| as_entry(*range, 0, 0)).collect();
        self.change("unmap from", &data, |part| {
            ioasid::as_unmap(self.as_fd(), id.get(), part)
        })
    }

    fn track_dirty(&self, on: bool) -> Result<()> {
        vfio::track_dirty(self.as_fd(), on)
            .map_err(|errno| Error::failed(Operation::TrackDirty, errno))
    }

    fn read_dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> Result<()> {
        let failed = |errno| Error::failed(Operation::ReadDirty(range), errno);
        let size = range.size().ok_or_else(|| failed(Errno::EINVAL))?;
        vfio::read_dirty(self.as_fd(), range.start().0, size, bitmap).map_err(failed)
    }
}

/// An entry; the size of everything does not fit, and is refused as zero is.
fn as_entry(range: IovaRange, gpa: u64, perm: u32) -> abi::vfio_ioasid_as_entry {
    abi::vfio_ioasid_as_entry {
        iova: range.start().0,
        gpa,
        length: range.size().unwrap_or(0),
        perm,
        ..Default::default()
    }
}

impl Kmod {
    /// Changes an address space, in as many calls as it takes.
    fn change(
        &self,
        what: &'static str,
        entries: &[abi::vfio_ioasid_as_entry],
        call: impl Fn(&[abi::vfio_ioasid_as_entry]) -> std::result::Result<(), ioasid::ChangeFailure>,
    ) -> Result<()> {
        const MAX: usize = abi::VFIO_IOASID_AS_CHANGE_MAX as usize;

        let mut before = 0usize;
        for chunk in entries.chunks(MAX) {
            call(chunk).map_err(|failure| Error::Entries {
                operation: Operation::AddressSpace(what),
                index: before.saturating_add(failure.bad_index as usize),
                count: entries.len(),
                source: failure.errno.into(),
            })?;
            before = before.saturating_add(chunk.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Support;

    fn seen(groups: &mut Groups, numbers: &[u8]) -> Vec<u64> {
        let info = |&number: &u8| DeviceInfo {
            device: Bdf::new(0, 0, number),
            stage1: Support::Present,
            page_requests: Support::Present,
            rid: true,
            max_pasids: 1 << 20,
            vtd_cap: 0,
            vtd_ecap: 0,
        };
        groups.see(&numbers.iter().map(info).collect::<Vec<_>>());
        groups.stays.values().copied().collect()
    }

    #[test]
    fn device_that_came_back_has_another_stay() {
        let mut groups = Groups::default();
        assert_eq!(seen(&mut groups, &[1, 2]), [0, 1]);
        assert_eq!(seen(&mut groups, &[1, 2, 3]), [0, 1, 2]);
        assert_eq!(seen(&mut groups, &[2]), [1]);
        assert_eq!(seen(&mut groups, &[1, 2]), [3, 1]);
    }
}
