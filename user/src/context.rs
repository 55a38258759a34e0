// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The context: what a backend implements, and what a VMM holds.

use crate::capabilities::{Capabilities, DeviceInfo, Stats};
use crate::error::{is_gone, Error, Operation, Result};
use crate::fault::{FaultChannel, FaultQueue, FaultQueueOptions};
use crate::nesting::{Invalidation, InvalidationEntry, Stage1Binding, Stage1Table};
use crate::ops::{PciIommuOps, Plugged};
use crate::pasid::{PasidAllocation, PasidRequest};
use crate::registry::{BoundTable, Registry};
use crate::space::{unsupported, AddressSpace, AddressSpaceEntry, AddressSpaceId};
use crate::sys::memory::DmaMemory;
use crate::sys::Errno;
use crate::trace::{noted, tell};
use crate::types::{Bdf, Iova, IovaRange, MapAccess, Pasid};
use crate::vfio::VfioDevice;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Part of a memory, and where devices find it.
#[derive(Clone, Copy)]
pub struct Mapping<'a> {
    /// The memory.
    pub memory: &'a dyn DmaMemory,
    /// The first byte in `memory`.
    pub offset: u64,
    /// The container's IOVAs, for a VMM the guest-physical addresses; their number is the number
    /// of bytes.
    pub range: IovaRange,
    /// What devices may do.
    pub access: MapAccess,
}

impl fmt::Debug for Mapping<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("offset", &self.offset)
            .field("range", &self.range)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// What translates a device's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Translation {
    /// A guest's table, on top of stage 2.
    Stage1(Stage1Table),
    /// Stage 2 itself: addresses are guest-physical, as by a passthrough entry of a guest.
    Stage2 {
        /// The guest's number for the PASID; `None` if it is the host's.
        guest_pasid: Option<u32>,
    },
    /// An address space.
    AddressSpace {
        /// Which.
        id: AddressSpaceId,
        /// The guest's number for the PASID; `None` if it is the host's.
        guest_pasid: Option<u32>,
    },
    /// Nothing: DMA is stopped. It counts to no quota, and every device's can be stopped at the RID.
    Blocked {
        /// The guest's number for the PASID; `None` if it is the host's.
        guest_pasid: Option<u32>,
    },
}

impl Translation {
    /// The guest's number for the PASID, if it is not the host's.
    pub const fn guest_pasid(&self) -> Option<u32> {
        match self {
            Self::Stage1(table) => table.guest_pasid,
            Self::Stage2 { guest_pasid }
            | Self::AddressSpace { guest_pasid, .. }
            | Self::Blocked { guest_pasid } => *guest_pasid,
        }
    }

    /// The cookie for fault records.
    pub const fn cookie(&self) -> u64 {
        match self {
            Self::Stage1(table) => table.cookie,
            Self::Stage2 { .. } | Self::AddressSpace { .. } | Self::Blocked { .. } => 0,
        }
    }
}

impl From<Stage1Table> for Translation {
    fn from(table: Stage1Table) -> Self {
        Self::Stage1(table)
    }
}

/// Where and how a translation is to be bound.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The device.
    pub device: Bdf,
    /// The host's PASID, or [`Pasid::RID`].
    pub pasid: Pasid,
    /// What is bound.
    pub translation: Translation,
    /// The fault queue, if page requests are wanted: one that the same context made.
    pub fault_queue: Option<&'a dyn FaultChannel>,
    /// It takes the place of what is there in one step, with DMA stopped in between at most. At a
    /// PASID something must be bound, and blocked counts; at the RID it may be stage 2 alone.
    pub replace: bool,
}

/// What an unbind or a flush is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One binding, at a PASID or at [`Pasid::RID`].
    Binding(Bdf, Pasid),
    /// Every binding of a device.
    Device(Bdf),
    /// Every binding of the context.
    All,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binding(device, Pasid::RID) => write!(f, "stage 1 at the RID of {device}"),
            Self::Binding(device, pasid) => write!(f, "stage 1 at PASID {pasid} of {device}"),
            Self::Device(device) => write!(f, "every PASID of {device}"),
            Self::All => f.write_str("every PASID of every device"),
        }
    }
}

/// What a backend does: one context is one VFIO container, or what stands for one.
///
/// The methods are the host's calls one by one, and keep no account of what is owned by whom:
/// VMMs use them through [`HostIommu`]. All of them may sleep, and may be called from several
/// threads at a time. Methods without a body are required; the others are optional, and fail with
/// EOPNOTSUPP where a backend has nothing of the kind.
///
/// # Errors
///
/// Each fails with [`Error::Failed`] that names the operation and keeps the host's errno; for the
/// meaning of errno see the header `vfio_ioasid.h`, whose numbers every backend uses.
pub trait HostIommuContext: fmt::Debug + Send + Sync {
    /// Attaches a device, or a group of devices, by a fd that the backend knows, and keeps the
    /// fd. The number names it for [`HostIommuContext::detach`]. Optional: a backend may have
    /// devices that no fd names.
    fn attach(&self, fd: OwnedFd) -> Result<u64> {
        drop(fd);
        Err(Error::failed(Operation::AttachGroup, Errno::EOPNOTSUPP))
    }

    /// Detaches what [`HostIommuContext::attach`] gave this number; its fd comes back. Optional.
    ///
    /// Fails with EBUSY while a device is open. With the last one go all mappings, PASIDs and
    /// bindings.
    fn detach(&self, attached: u64) -> Result<OwnedFd> {
        let _ = attached;
        Err(Error::failed(Operation::DetachGroup, Errno::EOPNOTSUPP))
    }

    /// A fd of a device, for its regions, interrupts and reset by VFIO. Optional: a backend may have
    /// devices that are no files.
    fn device_fd(&self, device: Bdf) -> Result<OwnedFd> {
        Err(Error::failed(
            Operation::OpenDevice(device),
            Errno::EOPNOTSUPP,
        ))
    }

    /// What the context can do with the devices attached now.
    fn capabilities(&self) -> Result<Capabilities>;

    /// The devices attached now.
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

    /// Which stay of a device in the context this is: another number after it has left and come
    /// back, `None` while it is not there. Optional: by the list of devices, without telling stays
    /// apart, as is right where a device that left cannot come back unnoticed.
    fn stay(&self, device: Bdf) -> Result<Option<u64>> {
        let devices = self.devices()?;
        let there = devices.iter().any(|info| info.device == device);
        Ok(there.then_some(0))
    }

    /// Gives devices memory. Pins it.
    fn map(&self, mapping: &Mapping<'_>) -> Result<()>;

    /// Takes back whole mappings that lie in a range; gives the number of bytes.
    fn unmap(&self, range: IovaRange) -> Result<u64>;

    /// Takes back every mapping; gives the number of bytes.
    fn unmap_all(&self) -> Result<u64>;

    /// Allocates consecutive PASIDs; gives the first.
    fn alloc_pasids(&self, request: &PasidRequest) -> Result<Pasid>;

    /// Frees PASIDs, all or none.
    fn free_pasids(&self, first: Pasid, count: u32) -> Result<()>;

    /// Binds a translation. Without [`Binding::replace`] it fails with EBUSY where something is
    /// bound, but for [`Translation::Blocked`] at the RID.
    ///
    /// A failure is [`Error::Blocked`] if what was there is gone and DMA is stopped, and any other if
    /// it is still in force. Requests without PASID that a failure has stopped stay so until the next
    /// bind, or until the unbind that brings stage 2 back.
    fn bind(&self, binding: &Binding<'_>) -> Result<()>;

    /// Unbinds. Afterwards nothing of it is translated or answered any more.
    fn unbind(&self, scope: Scope) -> Result<()>;

    /// Drops what is cached of each binding in a scope, entry by entry; any number of them.
    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()>;

    /// Makes a fault queue.
    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<Arc<dyn FaultChannel>>;

    /// The counters.
    fn stats(&self) -> Result<Stats>;

    /// Makes an empty address space. Optional, with the three that follow.
    fn create_address_space(&self) -> Result<AddressSpaceId> {
        unsupported("create")
    }

    /// Destroys an address space. EBUSY while it is bound.
    fn destroy_address_space(&self, id: AddressSpaceId) -> Result<()> {
        let _ = id;
        unsupported("destroy")
    }

    /// Maps entries in order, up to the first bad one, which [`Error::Entries`] names.
    fn map_address_space(&self, id: AddressSpaceId, entries: &[AddressSpaceEntry]) -> Result<()> {
        let _ = (id, entries);
        unsupported("map into")
    }

    /// Takes out the entries that lie in ranges, up to the first bad one.
    fn unmap_address_space(&self, id: AddressSpaceId, ranges: &[IovaRange]) -> Result<()> {
        let _ = (id, ranges);
        unsupported("unmap from")
    }

    /// Starts or ends the tracking of what devices write. Optional.
    fn track_dirty(&self, on: bool) -> Result<()> {
        let _ = on;
        Err(Error::failed(Operation::TrackDirty, Errno::EOPNOTSUPP))
    }

    /// Sets the bit of each page of 4 KiB that may have been written since the last time: bit n of
    /// the words is page n of the range, which is that of one mapping or of adjacent ones. Without
    /// hardware that tells, that is every page mapped. Optional, with the former.
    fn read_dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> Result<()> {
        let _ = bitmap;
        let operation = Operation::ReadDirty(range);
        Err(Error::failed(operation, Errno::EOPNOTSUPP))
    }
}

/// The bitmap of 4 TiB: more is asked for in parts.
const MAX_DIRTY_WORDS: usize = 1 << 24;

#[derive(Debug)]
struct Inner {
    context: Arc<dyn HostIommuContext>,
    /// Held over each bind and unbind: what is noted is what is in force.
    registry: Mutex<Registry>,
    /// Who is told of each device's faults: a context gives those of its DMA to one queue, whichever
    /// vIOMMU the device is behind.
    plugged: Mutex<BTreeMap<Bdf, std::sync::Weak<dyn PciIommuOps>>>,
    /// PASIDs of guests' numbers, which all units over the context share.
    #[cfg(feature = "vtd")]
    shared_pasids: Mutex<BTreeMap<Pasid, std::sync::Weak<crate::pasid::Run>>>,
}

/// Tells whether a context is the one it was, and does not keep it.
#[cfg(feature = "vtd")]
#[derive(Clone, Debug)]
pub(crate) struct WeakHost(std::sync::Weak<Inner>);

#[cfg(feature = "vtd")]
impl WeakHost {
    pub(crate) fn is(&self, host: &HostIommu) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&host.inner))
    }
}

/// A VMM's hold on a context. Clones are the same context; it lives as long as one of them, or
/// anything owned that was made with it.
#[derive(Clone, Debug)]
pub struct HostIommu {
    inner: Arc<Inner>,
}

impl HostIommu {
    /// A hold on a backend's context.
    pub fn new(context: impl HostIommuContext + 'static) -> Self {
        Self::from_boxed(Box::new(context))
    }

    /// A hold on the context of a backend that was chosen at run time.
    pub fn from_boxed(context: Box<dyn HostIommuContext>) -> Self {
        Self {
            inner: Arc::new(Inner {
                context: context.into(),
                registry: Mutex::default(),
                plugged: Mutex::default(),
                #[cfg(feature = "vtd")]
                shared_pasids: Mutex::default(),
            }),
        }
    }

    /// The backend's calls one by one, for tests of backends. What is allocated, bound, unbound and
    /// freed by them is not known to the owned values and to the translation of PASIDs: a VMM uses
    /// the calls of this type alone.
    pub fn context(&self) -> &dyn HostIommuContext {
        &*self.inner.context
    }

    /// The backend's context, for another context over it. What [`HostIommu::context`] says holds
    /// of its calls.
    pub fn shared_context(&self) -> Arc<dyn HostIommuContext> {
        self.inner.context.clone()
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    #[cfg(feature = "vtd")]
    pub(crate) fn weak(&self) -> WeakHost {
        WeakHost(Arc::downgrade(&self.inner))
    }

    /// A vIOMMU has a device from now on, unless another one has it.
    pub(crate) fn set_plugged(&self, device: Bdf, ops: &Arc<dyn PciIommuOps>) -> Result<()> {
        let plugged = self.inner.plugged.lock();
        let mut plugged = plugged.unwrap_or_else(PoisonError::into_inner);
        if plugged.contains_key(&device) {
            return Err(Error::failed(Operation::PlugIn(device), Errno::EBUSY));
        }
        plugged.insert(device, Arc::downgrade(ops));
        Ok(())
    }

    /// No vIOMMU has a device any more, and another one may have it.
    pub(crate) fn set_unplugged(&self, device: Bdf) {
        let plugged = self.inner.plugged.lock();
        let mut plugged = plugged.unwrap_or_else(PoisonError::into_inner);
        plugged.remove(&device);
    }

    /// The vIOMMU that a device is behind.
    #[cfg(feature = "vtd")]
    pub(crate) fn plugged(&self, device: Bdf) -> Option<Arc<dyn PciIommuOps>> {
        let plugged = self.inner.plugged.lock();
        let plugged = plugged.unwrap_or_else(PoisonError::into_inner);
        plugged.get(&device)?.upgrade()
    }

    /// The PASID of a guest's number, which a passed-through device has in its own registers. Numbers
    /// are a device's: several may use the same one, behind one unit or several.
    #[cfg(feature = "vtd")]
    pub(crate) fn shared_pasid(&self, pasid: Pasid) -> Result<PasidAllocation> {
        let shared = self.inner.shared_pasids.lock();
        let mut shared = shared.unwrap_or_else(PoisonError::into_inner);
        let known = shared.get(&pasid).and_then(std::sync::Weak::upgrade);
        if let Some(run) = known {
            return Ok(PasidAllocation::of_run(run));
        }
        let made = self.alloc_pasids(&PasidRequest::exactly(pasid))?;
        // As many as there are PASIDs, and those that are gone leave when another is made.
        shared.retain(|_, run| run.strong_count() != 0);
        shared.insert(pasid, Arc::downgrade(made.run()));
        Ok(made)
    }

    /// The registry is whole whatever a thread that panicked was doing.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        let registry = self.inner.registry.lock();
        registry.unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is noted of a device that has left, and of its former stays; gives its stay.
    pub(crate) fn settle(&self, registry: &mut Registry, device: Bdf) -> Option<u64> {
        // What cannot be asked about stays as it is noted.
        let stay = self.context().stay(device).ok()?;
        registry.settle(device, stay);
        stay
    }

    /// The same for all devices.
    fn settle_all(&self, registry: &mut Registry) {
        for device in registry.devices() {
            self.settle(registry, device);
        }
    }

    /// What the context can do with the devices attached now.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`], and [`Error::Malformed`] for a report that makes no sense.
    pub fn capabilities(&self) -> Result<Capabilities> {
        self.context().capabilities()
    }

    /// The devices attached now.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.context().devices()
    }

    /// Attaches another group; see [`HostIommuContext::attach`].
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a group that does not fit what is mapped, EPERM without
    /// interrupt remapping, and what the host's driver says.
    pub fn attach(&self, fd: OwnedFd) -> Result<u64> {
        noted(self.context().attach(fd))
    }

    /// Detaches what [`HostIommu::attach`] gave this number; its fd comes back. What is bound at its
    /// devices is unbound; with the last one go all mappings and PASIDs too, and the values that own
    /// them have no say any more.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EBUSY while a device is open, ENOENT for a number that names nothing.
    pub fn detach(&self, attached: u64) -> Result<OwnedFd> {
        let mut registry = self.registry();
        let fd = noted(self.context().detach(attached))?;
        self.settle_all(&mut registry);
        Ok(fd)
    }

    /// Opens a device of the context: its regions, interrupts and reset.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENODEV for a device that is not attached, EOPNOTSUPP where devices are
    /// no files.
    pub fn device(&self, device: Bdf) -> Result<VfioDevice> {
        VfioDevice::from_fd(noted(self.context().device_fd(device))?, device)
    }

    /// Gives devices all of `memory` at `iova`, which a VMM makes the guest-physical address.
    ///
    /// The host pins the memory and charges it to RLIMIT_MEMLOCK. Devices keep it until it is
    /// unmapped or the context is gone, whatever becomes of `memory`.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EEXIST where something is mapped, ENOMEM over RLIMIT_MEMLOCK, EINVAL
    /// for addresses that are not pages' or cannot be mapped, ENOSPC for too many mappings, and
    /// EOPNOTSUPP for a read-only mapping where the host nests.
    pub fn map(&self, iova: Iova, memory: &dyn DmaMemory, access: MapAccess) -> Result<()> {
        let range = u64::try_from(memory.len())
            .ok()
            .and_then(|size| IovaRange::sized(iova, size))
            .ok_or_else(|| {
                let invalid = std::io::Error::from(crate::sys::Errno::EINVAL);
                Error::failed(Operation::MapNothing(iova), invalid)
            })?;
        self.map_part(&Mapping {
            memory,
            offset: 0,
            range,
            access,
        })
    }

    /// Gives devices a part of a memory.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::map`], and EINVAL for a part that is not in the memory.
    pub fn map_part(&self, mapping: &Mapping<'_>) -> Result<()> {
        let mut registry = self.registry();
        noted(self.context().map(mapping))?;
        let pages = mapping.range.size().unwrap_or(0) / 4096;
        registry.mapped_pages = registry.mapped_pages.saturating_add(pages);
        drop(registry);
        tell!(debug, range = %mapping.range, access = ?mapping.access, "mapped");
        Ok(())
    }

    /// Takes back the mappings that lie in `range`; gives the number of bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL if a mapping lies in it in part only.
    pub fn unmap(&self, range: IovaRange) -> Result<u64> {
        let bytes = noted(self.context().unmap(range))?;
        let mut registry = self.registry();
        registry.mapped_pages = registry.mapped_pages.saturating_sub(bytes / 4096);
        drop(registry);
        tell!(debug, %range, bytes, "unmapped");
        Ok(bytes)
    }

    /// Whether the host has dropped mappings that were made here, as it does with the last device of
    /// a context; told once.
    #[cfg(feature = "vm-memory")]
    pub(crate) fn lost_mappings(&self) -> Result<bool> {
        let mapped = self.stats()?.mapped_pages;
        let mut registry = self.registry();
        let lost = mapped < registry.mapped_pages;
        registry.mapped_pages = registry.mapped_pages.min(mapped);
        Ok(lost)
    }

    /// Allocates PASIDs, freed when the allocation is dropped and nothing is bound at them.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOSPC if the range has no such run free, EDQUOT at the quota, and
    /// EINVAL for PASID 0 or an empty range.
    pub fn alloc_pasids(&self, request: &PasidRequest) -> Result<PasidAllocation> {
        PasidAllocation::new(self.clone(), request)
    }

    /// Binds a guest's stage-1 table at `pasid`, one of `pasids`, of a device.
    ///
    /// From now on the device's requests by this PASID are translated by the table and then by
    /// what is mapped. With a fault queue, pages that are not present are asked for there;
    /// without one such a request fails.
    ///
    /// # Errors
    ///
    /// - [`Error::PasidNotAllocated`] and [`Error::OtherContext`] for values that do not belong
    ///   together.
    /// - [`Error::Failed`] with EOPNOTSUPP where the host cannot nest (the capabilities say why),
    ///   EINVAL for a bad table, ENOENT for a device that is not attached, EBUSY where something
    ///   is bound, EDQUOT at the quota, and EAGAIN while the device is being reset.
    pub fn bind(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        table: &Stage1Table,
        faults: Option<&FaultQueue>,
    ) -> Result<Stage1Binding> {
        let translation = Translation::Stage1(*table);
        Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, faults)
    }

    /// Binds stage 2 itself at `pasid`: a guest's passthrough entry. `guest_pasid` is the guest's
    /// number, if it is another one.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`].
    pub fn bind_stage2(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        guest_pasid: Option<u32>,
    ) -> Result<Stage1Binding> {
        let translation = Translation::Stage2 { guest_pasid };
        Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, None)
    }

    /// Binds an address space at `pasid`. `guest_pasid` is the guest's number, if it is another
    /// one.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`], and ENOENT for an address space that was destroyed.
    pub fn bind_address_space(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        space: &AddressSpace,
        guest_pasid: Option<u32>,
    ) -> Result<Stage1Binding> {
        if !space.is_of(self) {
            return Err(Error::OtherContext("address space"));
        }
        if !space.is_held(&self.registry()) {
            let operation = Operation::BindStage1 { pasid, device };
            return Err(Error::failed(operation, Errno::ENOENT));
        }
        let translation = Translation::AddressSpace {
            id: space.id(),
            guest_pasid,
        };
        let bound =
            Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, None)?;
        Ok(bound.keeping(space.held().clone()))
    }

    /// Makes an empty address space.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EDQUOT at the quota, EOPNOTSUPP where the backend has none.
    pub fn address_space(&self) -> Result<AddressSpace> {
        AddressSpace::new(self.clone())
    }

    /// Binds a guest's stage-1 table at the requests of a device without PASID, in place of stage 2
    /// alone; that comes back when the binding goes.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`].
    pub fn bind_rid(
        &self,
        device: Bdf,
        table: &Stage1Table,
        faults: Option<&FaultQueue>,
    ) -> Result<Stage1Binding> {
        Stage1Binding::at_rid(self.clone(), device, Translation::Stage1(*table), faults)
    }

    /// Stops the requests of a device by `pasid`, as a guest's entry does that is not present.
    /// `guest_pasid` is the guest's number, if it is another one.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::bind`], but for EDQUOT: it counts to no quota.
    pub fn block(
        &self,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        guest_pasid: Option<u32>,
    ) -> Result<Stage1Binding> {
        let translation = Translation::Blocked { guest_pasid };
        Stage1Binding::at_pasid(self.clone(), device, pasids, pasid, translation, None)
    }

    /// Stops the requests of a device without PASID, in place of stage 2, which comes back when the
    /// binding goes. [`Stage1Binding::rebind`] puts a table there in one step.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOENT for a device that is not attached, EBUSY where something else
    /// than this is bound.
    pub fn block_rid(&self, device: Bdf) -> Result<Stage1Binding> {
        let translation = Translation::Blocked { guest_pasid: None };
        Stage1Binding::at_rid(self.clone(), device, translation, None)
    }

    /// Unbinds what is in a scope, as a guest's reset does. What was owned there does nothing any
    /// more, but keeps its PASIDs.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOENT if nothing is bound there, or the device is not attached.
    pub fn unbind(&self, scope: Scope) -> Result<()> {
        let mut registry = self.registry();
        let unbound = noted(self.context().unbind(scope));
        if is_gone(&unbound) {
            // It went with its device.
            self.settle_all(&mut registry);
        }
        unbound?;
        tell!(debug, %scope, "unbound");
        match scope {
            Scope::Binding(device, pasid) => registry.remove(device, pasid),
            Scope::Device(device) => registry.remove_device(device),
            Scope::All => registry.clear(),
        }
        Ok(())
    }

    /// The host's PASID for a guest's: that of the binding that named it, or else the same number.
    /// `None` if that number stands for another PASID of the guest on this device.
    pub fn host_pasid(&self, device: Bdf, guest: Pasid) -> Option<Pasid> {
        self.registry().host_pasid(device, guest)
    }

    /// The guest's number for a PASID of the host: that of the binding, or else the same.
    pub fn guest_pasid(&self, device: Bdf, pasid: Pasid) -> u32 {
        self.registry().guest_pasid(device, pasid)
    }

    /// The tables, passthrough and blocked bindings in force, by device and PASID: with the tables in
    /// guest memory all that another host needs. Address spaces are the VMM's own, and made anew by it.
    pub fn export(&self) -> Vec<BoundTable> {
        let mut registry = self.registry();
        self.settle_all(&mut registry);
        registry.export()
    }

    /// Binds what [`HostIommu::export`] gave, at the same PASIDs: all of it, or nothing.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::alloc_pasids`] for PASIDs that are taken, and [`HostIommu::bind`]. EINVAL for
    /// an address space, which a bare number does not own: [`HostIommu::bind_address_space`] does.
    pub fn import(
        &self,
        tables: &[BoundTable],
        faults: Option<&FaultQueue>,
    ) -> Result<Vec<Stage1Binding>> {
        let mut pasids = BTreeMap::new();
        let mut bindings = Vec::new();
        for bound in tables {
            let BoundTable {
                device,
                pasid,
                translation,
            } = *bound;
            if matches!(translation, Translation::AddressSpace { .. }) {
                let operation = Operation::BindStage1 { pasid, device };
                return Err(Error::failed(operation, Errno::EINVAL));
            }
            // Only tables have page requests.
            let faults = faults.filter(|_| matches!(translation, Translation::Stage1(_)));
            let host = self.clone();
            if pasid == Pasid::RID {
                bindings.push(Stage1Binding::at_rid(host, device, translation, faults)?);
                continue;
            }
            let allocation = match pasids.remove(&pasid) {
                Some(allocation) => allocation,
                None => self.alloc_pasids(&PasidRequest::exactly(pasid))?,
            };
            let run = &allocation;
            let bound = Stage1Binding::at_pasid(host, device, run, pasid, translation, faults)?;
            bindings.push(bound);
            pasids.insert(pasid, allocation);
        }
        Ok(bindings)
    }

    /// Tells a vIOMMU that this context is that of `device`, until the value is dropped.
    ///
    /// # Errors
    ///
    /// What [`PciIommuOps::set_context`] says. [`Error::Failed`] with EBUSY for a device that is
    /// behind a vIOMMU already.
    pub fn plug(&self, device: Bdf, ops: Arc<dyn PciIommuOps>) -> Result<Plugged> {
        Plugged::new(self.clone(), device, ops)
    }

    /// Starts or ends the tracking of what devices write.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EOPNOTSUPP where the backend does not track.
    pub fn track_dirty(&self, on: bool) -> Result<()> {
        self.context().track_dirty(on)
    }

    /// The pages of 4 KiB in `range` that may have been written since the last time: bit n of the
    /// words is page n.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a range that is not that of whole mappings, or if nothing
    /// is tracked.
    pub fn read_dirty(&self, range: IovaRange) -> Result<Vec<u64>> {
        let invalid = || Error::failed(Operation::ReadDirty(range), Errno::EINVAL);
        let pages = range.size().ok_or_else(invalid)?.div_ceil(4096);
        let words = usize::try_from(pages.div_ceil(64)).map_err(|_| invalid())?;
        if words > MAX_DIRTY_WORDS {
            return Err(invalid());
        }
        let mut bitmap = vec![0; words];
        self.context().read_dirty(range, &mut bitmap)?;
        Ok(bitmap)
    }

    /// Drops what is cached of each binding in a scope; [`Invalidation::all`] is a guest's global
    /// invalidation. One binding has [`Stage1Binding::flush`].
    ///
    /// # Errors
    ///
    /// [`Error::Flush`] names the first entry that was not carried out; ENOENT if the scope names
    /// what is not there.
    pub fn flush(&self, scope: Scope, invalidation: &Invalidation) -> Result<()> {
        let entries = invalidation.entries();
        noted(self.context().invalidate(scope, entries))?;
        tell!(trace, %scope, entries = entries.len(), "flushed");
        Ok(())
    }

    /// Makes a fault queue, for any number of bindings of this context.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EDQUOT at the quota, EINVAL for too large a depth.
    pub fn fault_queue(&self, options: &FaultQueueOptions) -> Result<FaultQueue> {
        let channel = noted(self.context().fault_queue(options))?;
        Ok(FaultQueue::from_channel(channel))
    }

    /// The counters.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub fn stats(&self) -> Result<Stats> {
        self.context().stats()
    }
}
