// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nested translation, PASIDs and page requests for virtual machine monitors (VMMs).
//!
//! A VMM that gives its guest a virtual IOMMU and a passed-through device lets the guest's own
//! page tables (stage 1) translate the device's DMA on top of its own (stage 2), which map guest
//! memory. This crate is the VMM's side of that: [`HostIommu`] is what one VFIO container can do,
//! over a backend that implements [`HostIommuContext`]; [`backend::kmod`] drives the kernel module
//! `vfio_iommu_ioasid`.
//!
//! | to | use |
//! |---|---|
//! | open | [`backend::kmod::Kmod`], then [`HostIommu::new`] |
//! | give devices guest memory | [`HostIommu::map`], with memory that is [`DmaMemory`] |
//! | get PASIDs | [`HostIommu::alloc_pasids`], an owned [`PasidAllocation`] |
//! | bind a guest's table | [`HostIommu::bind`], an owned [`Stage1Binding`] |
//! | forward its invalidations | [`Stage1Binding::flush`] |
//! | take page requests and answer | [`FaultQueue::read`], [`FaultGroup::respond`] |
//!
//! What is owned undoes itself when it is dropped, and has a fallible way to do so first. Errors
//! say what failed, where, and keep the errno as their source.
//!
//! ```no_run
//! use host_iommu::{
//!     backend::kmod::Kmod, Bdf, FaultEvent, FaultQueueOptions, FaultRead, Gpa, HostIommu, Iova,
//!     IovaRange, Invalidation, MapAccess, PasidRequest, Response, SharedMemory, Stage1Table,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device: Bdf = "0000:00:04.0".parse()?;
//! let host = HostIommu::new(Kmod::open_device(device)?);
//!
//! // Guest memory, from guest-physical address 0 on.
//! let memory = SharedMemory::new(c"guest", 256 << 20)?;
//! host.map(Iova(0), &memory, MapAccess::ReadWrite)?;
//!
//! // The guest's PASID 5 is the host's, with its page table at 0x1000 and page requests.
//! let faults = host.fault_queue(&FaultQueueOptions::default())?;
//! let pasids = host.alloc_pasids(&PasidRequest::exactly(5.try_into()?))?;
//! let table = Stage1Table::four_level(Gpa(0x1000));
//! let binding = host.bind(device, &pasids, pasids.first(), &table, Some(&faults))?;
//!
//! // The guest changed an entry.
//! let page = IovaRange::sized(Iova(0x7000), 4096).ok_or("an empty range")?;
//! binding.flush(&Invalidation::new().leaf(page))?;
//!
//! // The device asks for pages.
//! if let FaultRead::Events(events) = faults.read()? {
//!     for event in events {
//!         if let FaultEvent::PageRequests(group) = event {
//!             // … have the guest make them present …
//!             group.respond(Response::Success)?;
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

pub mod backend;
mod capabilities;
mod context;
mod error;
mod fault;
mod nesting;
mod ops;
mod pasid;
mod registry;
mod space;
mod types;

#[doc(hidden)]
#[allow(unsafe_code, reason = "the system calls")]
pub mod sys;

pub use capabilities::{
    Capabilities, DeviceInfo, MissingBecause, NestingCapability, Stats, Support,
};
pub use context::{Binding, HostIommu, HostIommuContext, Mapping, Scope, Translation};
pub use error::{Error, Operation, Result};
pub use fault::{
    DmaFault, FaultChannel, FaultEvent, FaultGroup, FaultQueue, FaultQueueOptions, FaultRead,
    FaultRecord, PageRequest, RequestedAccess, Response, ResponseRecord,
};
pub use nesting::{Invalidation, InvalidationEntry, Stage1Binding, Stage1Table};
pub use ops::{Delivered, PciIommuOps, Plugged};
pub use pasid::{PasidAllocation, PasidRequest};
pub use registry::BoundTable;
pub use space::{AddressSpace, AddressSpaceEntry, AddressSpaceId};
pub use sys::memory::{DmaMemory, SharedMemory};
pub use types::{AddressWidth, Bdf, Gpa, Iova, IovaRange, MapAccess, ParseBdfError, Pasid};
