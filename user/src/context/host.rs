// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a VMM holds of a context.

use super::units::Units;
use super::{HostIommuContext, Mapping, Scope};
use crate::capabilities::{Capabilities, DeviceInfo, Stats};
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultQueue, FaultQueueOptions};
use crate::metrics::{Counted, Metrics};
use crate::nesting::Invalidation;
use crate::ops::{PciIommuOps, Plugged};
use crate::pasid::{PasidAllocation, PasidRequest};
use crate::registry::Registry;
use crate::space::AddressSpace;
use crate::sys::memory::DmaMemory;
use crate::sys::Errno;
use crate::trace::{tell, trace_failure};
use crate::types::{Bdf, Iova, IovaRange, MapAccess};
use crate::vfio::VfioDevice;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The bitmap of 4 TiB: more is asked for in parts.
const MAX_DIRTY_WORDS: usize = 1 << 24;

#[derive(Debug)]
pub(super) struct Inner {
    context: Arc<dyn HostIommuContext>,
    /// Held over each bind and unbind: what is noted is what is in force.
    registry: Mutex<Registry>,
    pub(super) counted: Counted,
    pub(super) units: Units,
}

/// A VMM's hold on a context. Clones are the same context; it lives as long as one of them, or
/// anything owned that was made with it.
#[derive(Clone, Debug)]
pub struct HostIommu {
    pub(super) inner: Arc<Inner>,
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
                counted: Counted::default(),
                units: Units::default(),
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
    pub(super) fn settle_all(&self, registry: &mut Registry) {
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
        trace_failure(self.context().attach(fd))
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
        let fd = trace_failure(self.context().detach(attached))?;
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
        VfioDevice::from_fd(trace_failure(self.context().device_fd(device))?, device)
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
        trace_failure(self.context().map(mapping))?;
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
        let bytes = trace_failure(self.context().unmap(range))?;
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

    /// Makes an empty address space.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EDQUOT at the quota, EOPNOTSUPP where the backend has none.
    pub fn address_space(&self) -> Result<AddressSpace> {
        AddressSpace::new(self.clone())
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
    /// invalidation. One binding has [`Stage1Binding::flush`](crate::Stage1Binding::flush).
    ///
    /// # Errors
    ///
    /// [`Error::Flush`] names the first entry that was not carried out; ENOENT if the scope names
    /// what is not there.
    pub fn flush(&self, scope: Scope, invalidation: &Invalidation) -> Result<()> {
        let entries = invalidation.entries();
        let start = Instant::now();
        let flushed = trace_failure(self.context().invalidate(scope, entries));
        self.counted()
            .flush(&flushed, entries.len(), start.elapsed());
        flushed?;
        tell!(trace, %scope, entries = entries.len(), "flushed");
        Ok(())
    }

    /// Makes a fault queue, for any number of bindings of this context.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EDQUOT at the quota, EINVAL for too large a depth.
    pub fn fault_queue(&self, options: &FaultQueueOptions) -> Result<FaultQueue> {
        let channel = trace_failure(self.context().fault_queue(options))?;
        Ok(FaultQueue::counted(channel, self.counted().clone()))
    }

    /// What was done through this value and its clones, and how long it took.
    pub fn metrics(&self) -> Metrics {
        self.counted().snapshot()
    }

    pub(crate) fn counted(&self) -> &Counted {
        &self.inner.counted
    }

    /// The counters of the host.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub fn stats(&self) -> Result<Stats> {
        self.context().stats()
    }
}
