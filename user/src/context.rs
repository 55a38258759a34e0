// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The context: what a backend implements, and what a VMM holds.

use crate::capabilities::{Capabilities, DeviceInfo, Stats};
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultQueue, FaultQueueOptions};
use crate::nesting::{Invalidation, InvalidationEntry, Stage1Binding, Stage1Table};
use crate::pasid::{PasidAllocation, PasidRequest};
use crate::sys::memory::DmaMemory;
use crate::types::{Bdf, Iova, IovaRange, MapAccess, Pasid};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

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

/// Where and how a stage-1 table is to be bound.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The device.
    pub device: Bdf,
    /// The host's PASID.
    pub pasid: Pasid,
    /// The table.
    pub table: &'a Stage1Table,
    /// The fault queue's fd, if page requests are wanted.
    pub fault_queue: Option<BorrowedFd<'a>>,
}

/// What an unbind or a flush is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One binding.
    Binding(Bdf, Pasid),
    /// Every binding of a device.
    Device(Bdf),
    /// Every binding of the context.
    All,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
/// threads at a time.
///
/// # Errors
///
/// Each fails with [`Error::Failed`] that names the operation and keeps the host's errno; for the
/// meaning of errno see the header `vfio_ioasid.h`, whose numbers every backend uses.
pub trait HostIommuContext: fmt::Debug + Send + Sync {
    /// Attaches a device, or a group of devices, by a fd that the backend knows, and keeps the
    /// fd. The number names it for [`HostIommuContext::detach`].
    fn attach(&self, fd: OwnedFd) -> Result<u64>;

    /// Detaches what [`HostIommuContext::attach`] gave this number; its fd comes back.
    ///
    /// Fails with EBUSY while a device is open. With the last one go all mappings, PASIDs and
    /// bindings.
    fn detach(&self, attached: u64) -> Result<OwnedFd>;

    /// What the context can do with the devices attached now.
    fn capabilities(&self) -> Result<Capabilities>;

    /// The devices attached now.
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

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

    /// Binds a stage-1 table.
    fn bind(&self, binding: &Binding<'_>) -> Result<()>;

    /// Unbinds. Afterwards nothing of it is translated or answered any more.
    fn unbind(&self, scope: Scope) -> Result<()>;

    /// Drops what is cached of each binding in a scope, entry by entry; any number of them.
    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()>;

    /// Makes a fault queue: a fd that gives and takes the records of `vfio_ioasid.h`.
    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<OwnedFd>;

    /// The counters.
    fn stats(&self) -> Result<Stats>;
}

/// A VMM's hold on a context. Clones are the same context; it lives as long as one of them, or
/// anything owned that was made with it.
#[derive(Clone, Debug)]
pub struct HostIommu {
    context: Arc<dyn HostIommuContext>,
}

impl HostIommu {
    /// A hold on a backend's context.
    pub fn new(context: impl HostIommuContext + 'static) -> Self {
        Self {
            context: Arc::new(context),
        }
    }

    /// The backend's calls one by one.
    pub fn context(&self) -> &dyn HostIommuContext {
        &*self.context
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.context, &other.context)
    }

    /// What the context can do with the devices attached now.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`], and [`Error::Malformed`] for a report that makes no sense.
    pub fn capabilities(&self) -> Result<Capabilities> {
        self.context.capabilities()
    }

    /// The devices attached now.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.context.devices()
    }

    /// Attaches another group; see [`HostIommuContext::attach`].
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a group that does not fit what is mapped, EPERM without
    /// interrupt remapping, and what the host's driver says.
    pub fn attach(&self, fd: OwnedFd) -> Result<u64> {
        self.context.attach(fd)
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
        self.context.map(mapping)
    }

    /// Takes back the mappings that lie in `range`; gives the number of bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL if a mapping lies in it in part only.
    pub fn unmap(&self, range: IovaRange) -> Result<u64> {
        self.context.unmap(range)
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
        Stage1Binding::new(self.clone(), device, pasids, pasid, table, faults)
    }

    /// Drops what is cached of each binding in a scope; [`Invalidation::all`] is a guest's global
    /// invalidation. One binding has [`Stage1Binding::flush`].
    ///
    /// # Errors
    ///
    /// [`Error::Flush`] names the first entry that was not carried out; ENOENT if the scope names
    /// what is not there.
    pub fn flush(&self, scope: Scope, invalidation: &Invalidation) -> Result<()> {
        self.context.invalidate(scope, invalidation.entries())
    }

    /// Makes a fault queue, for any number of bindings of this context.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EDQUOT at the quota, EINVAL for too large a depth.
    pub fn fault_queue(&self, options: &FaultQueueOptions) -> Result<FaultQueue> {
        let fd = self.context.fault_queue(options)?;
        Ok(FaultQueue::new(fd))
    }

    /// The counters.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub fn stats(&self) -> Result<Stats> {
        self.context.stats()
    }
}
