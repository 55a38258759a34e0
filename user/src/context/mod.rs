// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The context: what a backend implements.

mod bind;
mod host;
mod units;

pub use host::HostIommu;
#[cfg(feature = "vtd")]
pub(crate) use units::WeakHost;

use crate::capabilities::{Capabilities, DeviceInfo, Stats};
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultChannel, FaultQueueOptions};
use crate::nesting::{GuestTable, InvalidationEntry};
use crate::pasid::PasidRequest;
use crate::space::{unsupported, AddressSpaceEntry, AddressSpaceId};
use crate::sys::memory::DmaMemory;
use crate::sys::Errno;
use crate::types::{Bdf, IovaRange, MapAccess, Pasid};
use std::fmt;
use std::os::fd::OwnedFd;
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

/// What translates a device's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Translation {
    /// A guest's table, on top of stage 2.
    Stage1(GuestTable),
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

impl From<GuestTable> for Translation {
    fn from(table: GuestTable) -> Self {
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
