// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's own interface, iommufd: for kernels that have it, without a module of ours.
//!
//! A context is an iommufd with an I/O address space, stage 2, and the page tables on top of it;
//! devices come by their VFIO character devices (`CONFIG_VFIO_DEVICE_CDEV`), as in
//! `/dev/vfio/devices/vfio0`. Stage-1 tables need Linux 6.11 or newer for page requests and 6.15 for
//! PASIDs.
//!
//! What iommufd has not is kept here: PASIDs, quotas, cookies that are never used again, the depth,
//! deadline and end of fault queues, and address spaces that go with the memory that they lead into.
//! For each fault queue a thread takes in what the kernel has ([`HostIommuContext::fault_queue`]).
//! What stays different is in the crate's table of backends.

mod device;
mod maps;
mod queue;
mod state;

use crate::capabilities::{Capabilities, DeviceInfo, MissingBecause, NestingCapability};
use crate::capabilities::{Stats, Support};
use crate::context::{Binding, HostIommuContext, Mapping, Scope, Translation};
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultChannel, FaultQueueOptions};
use crate::nesting::InvalidationEntry;
use crate::pasid::PasidRequest;
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::sys::{iommufd, Errno};
use crate::types::{Bdf, Iova, IovaRange, MapAccess, Pasid};
use device::Device;
use maps::Maps;
use queue::IommufdChannel;
use state::{Inner, State, Wanted};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const IOMMUFD_PATH: &str = "/dev/iommu";

/// Most mappings of stage 2.
pub const MAX_MAPPINGS: usize = 65_535;
/// Most PASIDs of a context.
pub const MAX_PASIDS: usize = super::pasid::MAX_PASIDS;
/// Most bindings of a context: each takes a domain id of the IOMMU unit, of which there are 65,536.
pub const MAX_BINDINGS: usize = 8192;
/// Most fault queues of a context: each has a thread.
pub const MAX_FAULT_QUEUES: usize = 64;
/// Most address spaces of a context.
pub const MAX_ADDRESS_SPACES: usize = 1024;
/// Most entries of all address spaces of a context.
pub const MAX_ADDRESS_SPACE_ENTRIES: usize = 1 << 20;
/// Ranges that the kernel can say can be mapped: there is a hole for each reserved region.
const MAX_RANGES: usize = 4096;

/// An iommufd and the devices on it.
///
/// With it go all mappings, PASIDs and bindings, whoever keeps a fd of a device or of the iommufd;
/// fault queues are at their end.
#[derive(Debug)]
pub struct Iommufd {
    fd: Arc<OwnedFd>,
    /// Stage 2.
    ioas: u32,
    /// Taken before the lock of `inner`, and held over each call that maps, unmaps, or changes which
    /// devices there are to map for.
    maps: Mutex<Maps>,
    inner: Arc<Inner>,
}

impl AsFd for Iommufd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Iommufd {
    /// Opens a new iommufd with a device, which must be bound to vfio-pci.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`]: the path that cannot be opened, ENOENT on a kernel without iommufd, EBUSY
    /// for a device that is in use, EPERM without interrupt remapping.
    pub fn open_device(device: Bdf) -> Result<Self> {
        let iommufd = open(Path::new(IOMMUFD_PATH))?;
        Self::from_fds(iommufd, open_device_file(device)?, device)
    }

    /// Takes an iommufd and the file of a device, both handed to this process; `device` names it
    /// from now on.
    ///
    /// # Errors
    ///
    /// As [`Iommufd::open_device`].
    pub fn from_fds(iommufd: OwnedFd, file: OwnedFd, device: Bdf) -> Result<Self> {
        let ioas = iommufd::ioas_alloc(iommufd.as_fd())
            .map_err(|errno| Error::failed(Operation::OpenIommufd, errno))?;
        let fd = Arc::new(iommufd);
        let context = Self {
            fd: fd.clone(),
            ioas,
            maps: Mutex::default(),
            inner: Arc::default(),
        };
        context.inner.with(|state| state.iommufd = Some(fd));
        context.attach_device(file, device)?;
        Ok(context)
    }

    /// Opens the file of another device and attaches it.
    ///
    /// # Errors
    ///
    /// As [`Iommufd::open_device`], and EINVAL for a device that does not fit what is mapped.
    pub fn add_device(&self, device: Bdf) -> Result<u64> {
        self.attach_device(open_device_file(device)?, device)
    }

    /// Attaches a device by its file; `device` names it from now on. The number names it for
    /// [`HostIommuContext::detach`].
    ///
    /// # Errors
    ///
    /// As [`Iommufd::add_device`], ENOTTY for what is no VFIO device, and EBUSY for a name that is
    /// taken.
    pub fn attach_device(&self, file: OwnedFd, device: Bdf) -> Result<u64> {
        // No map is half-way.
        let _maps = self.maps();
        self.inner
            .with(|state| state.attach(self.ioas, device, file))
            .map_err(|errno| Error::failed(Operation::AttachDevice(device), errno))
    }

    /// Another fd of a device, for its registers, interrupts and reset by VFIO. While it or a
    /// mapping of it is there, the device stays with this iommufd.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENODEV for a device that is not attached.
    pub fn open_device_fd(&self, device: Bdf) -> Result<OwnedFd> {
        let failed = |error| Error::failed(Operation::OpenDevice(device), error);
        self.inner.with(|state| {
            let found = state.devices.get(&device);
            let found = found.ok_or_else(|| failed(Errno::ENODEV.into()))?;
            found.fd.try_clone().map_err(failed)
        })
    }

    /// The maps are whole whatever a thread that panicked was doing.
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ranges(&self) -> std::result::Result<(Vec<IovaRange>, u64), Errno> {
        let mut room = vec![Default::default(); 16];
        loop {
            let (count, alignment) = iommufd::ioas_iova_ranges(self.as_fd(), self.ioas, &mut room)?;
            if count > room.len() && count <= MAX_RANGES {
                room.resize_with(count, Default::default);
                continue;
            }
            let ranges = room
                .iter()
                .take(count)
                .filter_map(|range| IovaRange::new(Iova(range.start), Iova(range.last)));
            return Ok((ranges.collect(), alignment));
        }
    }

    fn nesting(&self, state: &State) -> NestingCapability {
        let devices = || state.devices.values();
        let any = |support: fn(&Device) -> Support| {
            if devices().any(|device| support(device).is_present()) {
                return Support::Present;
            }
            let first = devices().next();
            first.map_or(Support::Missing(MissingBecause::NoDevice), support)
        };
        let widths = devices()
            .map(Device::widths)
            .min_by_key(|widths| widths.len());
        let with_pasids = devices().filter(|device| device.max_pasids() != 0);
        let parents = state.parents();
        let info = devices().find_map(|device| device.info.vtd);
        let (vtd_cap, vtd_ecap) = info.unwrap_or_default();
        NestingCapability {
            stage1: any(Device::stage1),
            page_requests: any(Device::page_requests),
            dma_faults: Support::Missing(MissingBecause::Kernel),
            dirty: if tracks(&parents) {
                Support::Present
            } else {
                Support::Missing(MissingBecause::Hardware)
            },
            rid: devices().any(Device::rid),
            shadowed: None,
            widths: widths.unwrap_or_default().to_vec(),
            pasid_bits: with_pasids
                .map(|device| device.max_pasids().ilog2())
                .min()
                .unwrap_or(0),
            no_read_only: parents.iter().any(|parent| parent.nests),
            coherent: !parents.is_empty() && devices().all(Device::coherent),
            max_pasids: MAX_PASIDS as u32,
            max_bindings: MAX_BINDINGS as u32,
            max_fault_queues: MAX_FAULT_QUEUES as u32,
            max_address_spaces: MAX_ADDRESS_SPACES as u32,
            max_address_space_entries: MAX_ADDRESS_SPACE_ENTRIES as u32,
            vtd_cap,
            vtd_ecap,
        }
    }

    /// Does something with each entry, up to the first that fails.
    fn each<T>(
        &self,
        what: &'static str,
        entries: &[T],
        act: impl Fn(&mut Maps, &T) -> std::result::Result<(), Errno>,
    ) -> Result<()> {
        let mut maps = self.maps();
        for (index, entry) in entries.iter().enumerate() {
            act(&mut maps, entry).map_err(|errno| Error::Entries {
                operation: Operation::AddressSpace(what),
                index,
                count: entries.len(),
                source: errno.into(),
            })?;
        }
        Ok(())
    }

    fn dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> std::result::Result<(), Errno> {
        let maps = self.maps();
        if !maps.tracking {
            return Err(Errno::EINVAL);
        }
        maps.check_adjacent(range)?;
        let size = range.size().ok_or(Errno::EINVAL)?;
        let parents = self.inner.with(|state| state.parents());
        if tracks(&parents) {
            for parent in parents {
                let start = range.start().0;
                iommufd::hwpt_dirty(self.as_fd(), parent.hwpt, start, size, bitmap)?;
            }
            return Ok(());
        }
        // Nothing tells which are not.
        let pages = usize::try_from(size / 4096).map_err(|_| Errno::EINVAL)?;
        if pages.div_ceil(64) > bitmap.len() {
            return Err(Errno::EINVAL);
        }
        let whole = pages / 64;
        for (index, word) in bitmap.iter_mut().enumerate() {
            if index < whole {
                *word = u64::MAX;
            } else if index == whole {
                *word |= (1 << (pages % 64)) - 1;
            }
        }
        Ok(())
    }
}

/// Whether the hardware notes what is written, of all devices.
fn tracks(parents: &[device::Parent]) -> bool {
    !parents.is_empty() && parents.iter().all(|parent| parent.dirty)
}

impl Drop for Iommufd {
    fn drop(&mut self) {
        let threads = self.inner.with(|state| state.end());
        for thread in threads {
            // One that panicked has nothing left to do.
            let _ = thread.join();
        }
        let fd = self.fd.clone();
        self.maps().end(fd.as_fd(), self.ioas);
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map(OwnedFd::from)
        .map_err(|error| Error::failed(Operation::Open(path.to_owned()), error))
}

fn open_device_file(device: Bdf) -> Result<OwnedFd> {
    let path = device::path(device);
    open(&path.map_err(|error| Error::failed(Operation::FindDeviceFile(device), error))?)
}

impl HostIommuContext for Iommufd {
    /// Attaches a device by its file, as from `/dev/vfio/devices/vfio0`, whose name it reads from
    /// sysfs; [`Iommufd::attach_device`] does not.
    fn attach(&self, fd: OwnedFd) -> Result<u64> {
        // Told before sysfs is asked: a name says nothing of what else is wrong with a fd.
        if let Err(errno) = crate::sys::vfio::device_get_region_info(fd.as_fd(), 0) {
            if errno == Errno::ENOTTY {
                return Err(Error::failed(Operation::AttachFile, errno));
            }
        }
        let device =
            device::name(&fd).map_err(|error| Error::failed(Operation::AttachFile, error))?;
        self.attach_device(fd, device)
    }

    /// Lets a device go, with what is bound at it. With the last one go all mappings and PASIDs. The
    /// fd still belongs to the iommufd until it is closed.
    fn detach(&self, attached: u64) -> Result<OwnedFd> {
        // Held until what goes with the last device is gone: no map comes in between, which would be
        // of memory that nobody pins.
        let mut maps = self.maps();
        let (fd, last) = self
            .inner
            .with(|state| Ok((state.detach(attached)?, state.devices.is_empty())))
            .map_err(|errno: Errno| Error::failed(Operation::DetachDevice, errno))?;
        if last {
            self.inner.with(|state| state.pasids.clear());
            maps.unmap(self.as_fd(), self.ioas, IovaRange::ALL)
                .map_err(|errno| Error::failed(Operation::UnmapAll, errno))?;
        }
        Ok(fd)
    }

    fn device_fd(&self, device: Bdf) -> Result<OwnedFd> {
        self.open_device_fd(device)
    }

    fn capabilities(&self) -> Result<Capabilities> {
        let (iova_ranges, alignment) = self
            .ranges()
            .map_err(|errno| Error::failed(Operation::ReadCapabilities, errno))?;
        let left = self.maps().left();
        Ok(Capabilities {
            // iommufd says no more than what must be a multiple.
            page_sizes: alignment.max(4096),
            iova_ranges,
            mappings_left: u32::try_from(left).ok(),
            nesting: Some(self.inner.with(|state| self.nesting(state))),
        })
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(self.inner.with(|state| {
            let devices = state.devices.iter();
            devices.map(|(&name, device)| device.info(name)).collect()
        }))
    }

    fn stay(&self, device: Bdf) -> Result<Option<u64>> {
        Ok(self.inner.with(|state| {
            let found = state.devices.get(&device);
            found.map(|device| device.number)
        }))
    }

    fn map(&self, mapping: &Mapping<'_>) -> Result<()> {
        let failed = |errno| Error::failed(Operation::Map(mapping.range), errno);
        // Held until it is mapped: the page tables that it is for stay.
        let mut maps = self.maps();
        let parents = self.inner.with(|state| state.parents());
        // Memory is pinned for a page table: without one it would be looked up later.
        if parents.is_empty() {
            return Err(failed(Errno::EINVAL));
        }
        if mapping.access != MapAccess::ReadWrite && parents.iter().any(|parent| parent.nests) {
            return Err(failed(Errno::EOPNOTSUPP));
        }
        maps.map(self.as_fd(), self.ioas, mapping).map_err(failed)
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        self.maps()
            .unmap(self.as_fd(), self.ioas, range)
            .map_err(|errno| Error::failed(Operation::Unmap(range), errno))
    }

    fn unmap_all(&self) -> Result<u64> {
        self.maps()
            .unmap(self.as_fd(), self.ioas, IovaRange::ALL)
            .map_err(|errno| Error::failed(Operation::UnmapAll, errno))
    }

    fn alloc_pasids(&self, request: &PasidRequest) -> Result<Pasid> {
        self.inner.with(|state| state.pasids.alloc_for(request))
    }

    fn free_pasids(&self, first: Pasid, count: u32) -> Result<()> {
        self.inner
            .with(|state| state.pasids.free_of(first, count, &state.bindings))
    }

    fn bind(&self, binding: &Binding<'_>) -> Result<()> {
        let Binding {
            device,
            pasid,
            translation,
            fault_queue,
            replace,
        } = *binding;
        let operation = Operation::BindStage1 { pasid, device };
        let failed = |errno| Error::failed(operation.clone(), errno);
        let queue = fault_queue
            .map(|channel| IommufdChannel::id_in(&self.inner, channel))
            .transpose()
            .map_err(failed)?;
        // Held until it is bound: the address space stays.
        let maps;
        let ioas = match translation {
            Translation::AddressSpace { id, .. } => {
                maps = self.maps();
                Some(maps.ioas(id.get()).map_err(failed)?)
            }
            _ => None,
        };
        let wanted = Wanted {
            device,
            pasid,
            translation,
            ioas,
            queue,
            replace,
        };
        self.inner
            .with(|state| state.bind(&wanted))
            .map_err(|failure| {
                if failure.blocked {
                    Error::Blocked {
                        operation: operation.clone(),
                        source: failure.errno.into(),
                    }
                } else {
                    failed(failure.errno)
                }
            })
    }

    fn unbind(&self, scope: Scope) -> Result<()> {
        self.inner
            .with(|state| state.unbind(scope))
            .map_err(|errno| Error::failed(Operation::Unbind(scope), errno))
    }

    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()> {
        self.inner
            .with(|state| state.invalidate(scope, entries))
            .map_err(|(index, errno)| Error::Flush {
                scope,
                index,
                count: entries.len(),
                source: errno.into(),
            })
    }

    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<Arc<dyn FaultChannel>> {
        let failed = |errno| Error::failed(Operation::OpenFaultQueue, errno);
        let channel = queue::open(&self.inner, &self.fd, options).map_err(failed)?;
        Ok(Arc::new(channel))
    }

    fn stats(&self) -> Result<Stats> {
        let maps = self.maps();
        let (spaces, entries) = maps.spaces();
        Ok(self.inner.with(|state| Stats {
            pasids: state.pasids.count() as u64,
            bindings: state.bindings.count() as u64,
            fault_queues: state.queues.values().filter(|found| !found.closed).count() as u64,
            address_spaces: spaces as u64,
            address_space_entries: entries as u64,
            mapped_pages: maps.pages(),
            ..state.counters
        }))
    }

    fn create_address_space(&self) -> Result<AddressSpaceId> {
        self.maps()
            .create(self.as_fd())
            .map(AddressSpaceId::new)
            .map_err(|errno| Error::failed(Operation::AddressSpace("create"), errno))
    }

    fn destroy_address_space(&self, id: AddressSpaceId) -> Result<()> {
        let failed = |errno| Error::failed(Operation::AddressSpace("destroy"), errno);
        let mut maps = self.maps();
        if self.inner.with(|state| state.is_bound_to(id.get())) {
            return Err(failed(Errno::EBUSY));
        }
        maps.destroy(self.as_fd(), id.get()).map_err(failed)
    }

    fn map_address_space(&self, id: AddressSpaceId, entries: &[AddressSpaceEntry]) -> Result<()> {
        self.each("map into", entries, |maps, entry| {
            maps.map_space(self.as_fd(), self.ioas, id.get(), entry)
        })
    }

    fn unmap_address_space(&self, id: AddressSpaceId, ranges: &[IovaRange]) -> Result<()> {
        self.each("unmap from", ranges, |maps, range| {
            maps.unmap_space(self.as_fd(), id.get(), *range)
        })
    }

    fn track_dirty(&self, on: bool) -> Result<()> {
        let failed = |errno| Error::failed(Operation::TrackDirty, errno);
        let mut maps = self.maps();
        let parents = self.inner.with(|state| state.parents());
        if tracks(&parents) {
            for parent in parents {
                iommufd::hwpt_track_dirty(self.as_fd(), parent.hwpt, on).map_err(failed)?;
            }
        }
        maps.tracking = on;
        Ok(())
    }

    fn read_dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> Result<()> {
        self.dirty(range, bitmap)
            .map_err(|errno| Error::failed(Operation::ReadDirty(range), errno))
    }
}
