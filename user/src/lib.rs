// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nested translation, PASIDs and page requests for virtual machine monitors (VMMs).
//!
//! A VMM that gives its guest a virtual IOMMU and a passed-through device lets the guest's own
//! page tables (stage 1) translate the device's DMA on top of its own (stage 2), which map guest
//! memory. This crate is the VMM's side of that: [`HostIommu`] is what one VFIO container can do,
//! over a backend that implements [`HostIommuContext`]: [`backend::kmod`] drives the kernel module
//! `vfio_iommu_ioasid`, [`backend::iommufd`] the kernel's own interface where there is one, and with
//! the feature `soft` there is an IOMMU in the process, to try the crate and to test a VMM without
//! hardware or privilege. [`PciIommuOps`] is what a virtual IOMMU implements to be told of contexts
//! and of its guest's faults.
//!
//! | to | use |
//! |---|---|
//! | open | [`backend::kmod::Kmod`] or [`backend::iommufd::Iommufd`], then [`HostIommu::new`] |
//! | give devices guest memory | [`HostIommu::map`], with memory that is [`DmaMemory`] |
//! | get PASIDs | [`HostIommu::alloc_pasids`], an owned [`PasidAllocation`] |
//! | bind a guest's table | [`HostIommu::bind`], an owned [`Stage1Binding`] |
//! | forward its invalidations | [`Stage1Binding::flush`] |
//! | take page requests and answer | [`FaultQueue::deliver`], [`FaultGroup::respond`] |
//! | stop a device's DMA | [`HostIommu::block_rid`], [`Stage1Binding::block`] |
//! | read a fault queue in a task of tokio | `AsyncFaultQueue`, with the feature `tokio` |
//! | translate the guest's PASIDs | [`HostIommu::host_pasid`], [`HostIommu::guest_pasid`] |
//! | shadow, or isolate a queue | [`HostIommu::address_space`], an owned [`AddressSpace`] |
//! | reset or move a guest | [`HostIommu::unbind`], [`HostIommu::export`], [`HostIommu::import`] |
//! | use a device's regions, interrupts and reset | [`HostIommu::device`], a [`vfio::VfioDevice`] |
//! | show the guest PASID, ATS and PRI | [`pci::extended_capabilities`] |
//! | give a guest a VT-d unit | `vtd`, with the feature of that name |
//! | count and measure | [`HostIommu::metrics`], [`HostIommu::stats`] |
//! | run in a jail | `from_fds` of the backends, [`seccomp`] |
//! | use it beside vfio-ioctls | [`backend::kmod::Kmod::share`], and the example `rust_vmm` |
//! | bind tables on a host that cannot nest | `shadow`, with the feature `shadow` |
//! | follow guest memory of vm-memory | `RegionListener`, with the feature `vm-memory` |
//!
//! # What each backend can do
//!
//! All pass one suite of tests, `tests/src/conformance`, whose table of differences is checked
//! both ways.
//!
//! | | `kmod` | `iommufd` | `soft` |
//! |---|---|---|---|
//! | needs | the module, VFIO, an IOMMU that nests | `CONFIG_IOMMUFD`, `CONFIG_VFIO_DEVICE_CDEV`, such an IOMMU | nothing |
//! | on the kernels of distributions | those with Rust modules | few | all |
//! | memory that can be mapped | any, pinned and charged | any, pinned and charged | shared mappings of files |
//! | read-only mappings | refused where the host nests | refused where the host nests | yes |
//! | tables | as the hardware: four levels, five | as the hardware | four and five levels |
//! | PASIDs, quotas | the kernel's | the crate's own, of each context | the crate's own |
//! | page requests | as device and kernel | as device and kernel, by a thread for each queue | yes |
//! | DMA faults | kernels with our patch | no | yes |
//! | dirty pages | hardware, or every mapped page | hardware, or every mapped page | every mapped page |
//! | fault queue at its end | `POLLHUP` | readable | readable |
//! | attach by fd | groups | devices' own files | no: devices are plugged into a `SoftBus` |
//!
//! With the feature `soft` there is a guide, `guide`: eight steps, each compiled and run.
//!
//! # Events
//!
//! With the feature `tracing` there are events of the target `host_iommu`, at the level DEBUG for
//! what a VMM does rarely and at TRACE for what a guest does often:
//!
//! | event | level | fields |
//! |---|---|---|
//! | mapped, unmapped | DEBUG | `range`; `access`, `bytes` |
//! | bound | DEBUG | `device`, `pasid`, `guest_pasid`, `replaced` |
//! | unbound | DEBUG | `scope` |
//! | flushed | TRACE | `scope`, `entries` |
//! | page requests | TRACE | `device`, `pasid`, `group`, `cookie`, `pages` |
//! | answered | TRACE | `cookie`, `response`, `micros` since it was read |
//! | cancelled, expired | DEBUG | `cookie` |
//! | DMA fault | DEBUG | `device`, `address`, `reason` |
//! | queue overflow | DEBUG | `lost` |
//! | the text of an error | DEBUG | `errno`, if a call gave one |
//!
//! # Threads and forks
//!
//! Everything may be used from any thread, and everything but a
//! [`Stage1Binding`]'s `rebind`, `block` and `unbind` by several at a time. Calls may sleep: in the
//! kernel, and where their text says so until something comes. No callback is made but those of
//! [`PciIommuOps`] and of the traits of `vtd`, whose texts say what may be called from there.
//!
//! A child of `fork` shares the kernel's side of every value, and has none of this crate's threads:
//! what one of the two drops is unbound, unmapped and freed for both. Values are used and dropped in
//! one of the two processes only, as a rule the parent. The child ends by `_exit`, which drops
//! nothing, or by `execve`: every file descriptor of this crate is close-on-exec.
//!
//! What is owned undoes itself when it is dropped, and has a fallible way to do so first. Errors
//! say what failed, where, and keep the errno as their source.
//!
//! ```no_run
//! use host_iommu::{
//!     backend::kmod::Kmod, Bdf, FaultEvent, FaultQueueOptions, FaultRead, Gpa, HostIommu, Iova,
//!     IovaRange, Invalidation, MapAccess, PasidRequest, Response, SharedMemory, GuestTable,
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
//! let table = GuestTable::four_level(Gpa(0x1000));
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
#[cfg(feature = "soft")]
#[doc = include_str!("guide.md")]
pub mod guide {}
/// The README's program, compiled and run.
#[cfg(all(doctest, feature = "soft"))]
#[doc = include_str!("../README.md")]
mod readme {}
pub mod pci;
pub mod vfio;
#[cfg(feature = "vtd")]
pub mod vtd;

mod capabilities;
mod context;
#[cfg(all(test, feature = "soft"))]
mod cost;
mod delegate;
mod error;
mod fault;
#[cfg(feature = "vm-memory")]
mod listener;
mod metrics;
mod nesting;
mod ops;
#[cfg(any(feature = "shadow", feature = "soft", feature = "vtd"))]
mod paging;
mod pasid;
mod registry;
pub mod seccomp;
#[cfg(feature = "shadow")]
pub mod shadow;
mod space;
mod trace;
mod types;
#[cfg(any(feature = "soft", feature = "vtd"))]
mod walk;

#[allow(unsafe_code, reason = "what it says")]
mod sys;

#[doc(inline)]
pub use host_iommu_sys::duplicate;
#[doc(inline)]
pub use host_iommu_sys::memory::{DmaMemory, SharedMemory};

pub use capabilities::{
    Capabilities, DeviceInfo, MissingBecause, NestingCapability, Shadowing, Stats, Support,
};
pub use context::{Binding, HostIommu, HostIommuContext, Mapping, Scope, Translation};
pub use error::{Error, Operation, Result};
#[cfg(feature = "tokio")]
pub use fault::AsyncFaultQueue;
pub use fault::{
    DmaFault, FaultChannel, FaultEvent, FaultGroup, FaultQueue, FaultQueueId, FaultQueueOptions,
    FaultRead, FaultRecord, PageRequest, RequestedAccess, Response, ResponseRecord, WaitingGroup,
};
#[cfg(feature = "vm-memory")]
pub use listener::{RegionListener, Skipped, SkippedBecause};
pub use metrics::{Latencies, Metrics};
pub use nesting::{GuestTable, Invalidation, InvalidationEntry, Stage1Binding, TableFormat};
pub use ops::{Delivered, PciIommuOps, Plugged};
pub use pasid::{PasidAllocation, PasidRequest};
pub use registry::BoundTable;
pub use space::{AddressSpace, AddressSpaceEntry, AddressSpaceId};
#[cfg(feature = "kvm")]
pub use sys::kvm;
pub use types::{AddressWidth, Bdf, Gpa, Iova, IovaRange, MapAccess, ParseBdfError, Pasid};
