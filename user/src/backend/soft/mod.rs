// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An IOMMU in the process, for tests of a VMM and to try the crate: no hardware, no privilege.
//!
//! [`Soft`] is the context. Its devices are programmable DMA clients, [`SoftDevice`], which do what
//! a device with PASID, ATS and PRI does: they translate by the tables that are bound, keep the
//! translations in a device TLB until they are invalidated, and ask for pages that are missing.
//!
//! What is real: tables are walked in guest memory entry by entry through stage 2, with their
//! accessed and dirty bits set there (VT-d 4.1, 3.6, 3.8, 9.7: four and five levels, pages of
//! 4 KiB, 2 MiB and 1 GiB); the IOMMU's own caches of leaves and of tables go stale as the device
//! TLB does, so that an invalidation that a guest forgets shows, also for DMA without ATS and where
//! a table changed under [`Invalidation::leaf`](crate::Invalidation::leaf); page request groups obey the queue's depth,
//! deadline and cookies as the module's fault fd does. What is not: nothing runs beside the caller.
//! DMA happens in the thread that submits it, or in the one that answers its page request.
//!
//! Stage 2 holds mappings of files, which [`DmaMemory::file`](crate::DmaMemory::file) names: each
//! is mapped once more, so that it stays until it is unmapped, whatever becomes of the value that
//! it came from. A file that shrinks meanwhile kills the process, as for every mapping of it.
//!
//! # Limits
//!
//! As many devices, mappings, bindings, queues and DMAs under way as the constants here say; more
//! is refused with the errno of the module's quota.
//!
//! ```
//! use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDeviceOptions};
//! use host_iommu::{HostIommu, Iova, MapAccess, SharedMemory};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let soft = Soft::new();
//! let device = soft.bus().add("0000:00:04.0".parse()?, &SoftDeviceOptions::default())?;
//! let host = HostIommu::new(soft);
//! let memory = SharedMemory::new(c"guest", 1 << 20)?;
//! host.map(Iova(0), &memory, MapAccess::ReadWrite)?;
//!
//! let end = device.run(Dma::write(Iova(0x1000), b"hello"), Duration::ZERO)?;
//! assert_eq!(end, Some(DmaEnd::Done(Vec::new())));
//! let mut seen = [0; 5];
//! memory.read(0x1000, &mut seen);
//! assert_eq!(&seen, b"hello");
//! # Ok(())
//! # }
//! ```

mod client;
mod dma;
mod iotlb;
mod memory;
mod queue;
mod spaces;
mod state;
#[cfg(test)]
mod walk;

pub use client::{Dma, DmaEnd, DmaId, SoftBus, SoftDevice, SoftDeviceCounters, SoftDeviceOptions};

use crate::capabilities::Support;
use crate::capabilities::{Capabilities, DeviceInfo, MissingBecause, NestingCapability, Stats};
use crate::context::{Binding, HostIommuContext, Mapping, Scope};
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultChannel, FaultQueueOptions};
use crate::nesting::InvalidationEntry;
use crate::pasid::PasidRequest;
use crate::space::{AddressSpaceEntry, AddressSpaceId};
use crate::sys::Errno;
use crate::types::{AddressWidth, Bdf, IovaRange, Pasid};
use queue::SoftChannel;
use state::{Bound, Inner};
use std::sync::Arc;

/// Most address spaces of a context.
pub const MAX_ADDRESS_SPACES: usize = 1024;
/// Most entries of all address spaces of a context.
pub const MAX_ADDRESS_SPACE_ENTRIES: usize = 1 << 20;
/// Most devices of a context.
pub const MAX_DEVICES: usize = 256;
/// Most mappings of stage 2.
pub const MAX_MAPPINGS: usize = 65_535;
/// Most PASIDs of a context.
pub const MAX_PASIDS: usize = super::pasid::MAX_PASIDS;
/// Most bindings of a context.
pub const MAX_BINDINGS: usize = 8192;
/// Most fault queues of a context.
pub const MAX_FAULT_QUEUES: usize = 64;
/// Most DMAs of a device that are under way or not yet asked about.
pub const MAX_DMAS: usize = 256;
/// Most bytes of one DMA.
pub const MAX_DMA_BYTES: usize = 16 << 20;
/// Pages in a device TLB.
pub const DEVICE_TLB_PAGES: usize = 4096;

/// VT-d 4.1, 11.4.2: five levels, pages of 1 GiB.
const VTD_CAP: u64 = 1 << 60 | 1 << 56;
/// VT-d 4.1, 11.4.3: SMPWC, PDS, PASID of 20 bits, SMTS, SLTS, FLTS, EAFS, SRS, PRS, NEST, DT.
const VTD_ECAP: u64 = 1 << 48
    | 1 << 42
    | 1 << 40
    | 19 << 35
    | 1 << 43
    | 1 << 46
    | 1 << 47
    | 1 << 34
    | 1 << 31
    | 1 << 29
    | 1 << 26
    | 1 << 2;

/// A context of its own. Its devices are made with [`Soft::bus`], before or after it is given to
/// [`HostIommu::new`](crate::HostIommu::new). With it go all mappings, bindings and PASIDs; DMA
/// that waits is aborted, and fault queues are at their end.
#[derive(Debug, Default)]
pub struct Soft {
    inner: Arc<Inner>,
}

impl Soft {
    /// A context without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where devices are plugged in.
    pub fn bus(&self) -> SoftBus {
        SoftBus::new(self.inner.clone())
    }
}

impl Drop for Soft {
    fn drop(&mut self) {
        self.inner.with(|state| state.end());
    }
}

fn support(present: bool, reason: MissingBecause) -> Support {
    if present {
        Support::Present
    } else {
        Support::Missing(reason)
    }
}

impl HostIommuContext for Soft {
    fn capabilities(&self) -> Result<Capabilities> {
        self.inner.with(|state| {
            let any = |has: fn(&SoftDeviceOptions) -> bool| {
                state.devices.values().any(|device| has(&device.options))
            };
            let reason = |otherwise| {
                if state.devices.is_empty() {
                    MissingBecause::NoDevice
                } else {
                    otherwise
                }
            };
            let bits = state.devices.values().map(|device| &device.options);
            let bits = bits.filter(|options| options.max_pasids != 0);
            let stage1 = any(|options| options.max_pasids != 0);
            let page_requests = any(|options| options.page_requests);
            Ok(Capabilities {
                page_sizes: memory::PAGE_SIZES,
                iova_ranges: memory::ranges(),
                mappings_left: u32::try_from(MAX_MAPPINGS - state.stage2.count()).ok(),
                nesting: Some(NestingCapability {
                    stage1: support(stage1, reason(MissingBecause::NoPasid)),
                    page_requests: support(page_requests, reason(MissingBecause::NoPri)),
                    dma_faults: Support::Present,
                    dirty: Support::Missing(MissingBecause::Hardware),
                    rid: !state.devices.is_empty(),
                    shadowed: None,
                    widths: vec![AddressWidth::Bits48, AddressWidth::Bits57],
                    pasid_bits: bits
                        .map(|options| options.max_pasids.ilog2())
                        .min()
                        .unwrap_or(0),
                    no_read_only: false,
                    coherent: true,
                    max_pasids: MAX_PASIDS as u32,
                    max_bindings: MAX_BINDINGS as u32,
                    max_fault_queues: MAX_FAULT_QUEUES as u32,
                    max_address_spaces: MAX_ADDRESS_SPACES as u32,
                    max_address_space_entries: MAX_ADDRESS_SPACE_ENTRIES as u32,
                    vtd_cap: VTD_CAP,
                    vtd_ecap: VTD_ECAP,
                }),
            })
        })
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.inner.with(|state| {
            let info = |(&device, state): (_, &dma::Device)| DeviceInfo {
                device,
                stage1: support(state.options.max_pasids != 0, MissingBecause::NoPasid),
                page_requests: support(state.options.page_requests, MissingBecause::NoPri),
                rid: true,
                max_pasids: state.options.max_pasids,
                vtd_cap: VTD_CAP,
                vtd_ecap: VTD_ECAP,
            };
            Ok(state.devices.iter().map(info).collect())
        })
    }

    fn stay(&self, device: Bdf) -> Result<Option<u64>> {
        Ok(self.inner.with(|state| {
            let found = state.devices.get(&device);
            found.map(|device| device.stay)
        }))
    }

    fn map(&self, mapping: &Mapping<'_>) -> Result<()> {
        let failed = |errno| {
            let operation = match errno {
                Errno::EOPNOTSUPP => Operation::MapWithoutFile(mapping.range),
                _ => Operation::Map(mapping.range),
            };
            Error::failed(operation, errno)
        };
        self.inner
            .with(|state| state.stage2.map(mapping))
            .map_err(failed)
    }

    fn unmap(&self, range: IovaRange) -> Result<u64> {
        self.inner
            .with(|state| state.unmap(range))
            .map_err(|errno| Error::failed(Operation::Unmap(range), errno))
    }

    fn unmap_all(&self) -> Result<u64> {
        self.inner
            .with(|state| state.unmap(IovaRange::ALL))
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
        let Binding { device, pasid, .. } = *binding;
        let failed = |errno| Error::failed(Operation::BindStage1 { pasid, device }, errno);
        let queue = binding
            .fault_queue
            .map(|channel| SoftChannel::id_in(&self.inner, channel))
            .transpose()
            .map_err(failed)?;
        let bound = Bound {
            translation: binding.translation,
            queue,
        };
        self.inner
            .with(|state| state.bind(device, pasid, bound, binding.replace))
            .map_err(failed)
    }

    fn unbind(&self, scope: Scope) -> Result<()> {
        self.inner
            .with(|state| state.unbind(scope))
            .map_err(|errno| Error::failed(Operation::Unbind(scope), errno))
    }

    fn invalidate(&self, scope: Scope, entries: &[InvalidationEntry]) -> Result<()> {
        self.inner
            .with(|state| state.invalidate(scope, entries))
            .map_err(|errno| Error::Flush {
                scope,
                index: 0,
                count: entries.len(),
                source: errno.into(),
            })
    }

    fn fault_queue(&self, options: &FaultQueueOptions) -> Result<Arc<dyn FaultChannel>> {
        let failed = |errno| Error::failed(Operation::OpenFaultQueue, errno);
        let channel = queue::open(&self.inner, options).map_err(failed)?;
        Ok(Arc::new(channel))
    }

    fn stats(&self) -> Result<Stats> {
        Ok(self.inner.with(|state| state.stats()))
    }

    fn create_address_space(&self) -> Result<AddressSpaceId> {
        self.inner
            .with(|state| state.spaces.create())
            .map(AddressSpaceId::new)
            .map_err(|errno| Error::failed(Operation::AddressSpace("create"), errno))
    }

    fn destroy_address_space(&self, id: AddressSpaceId) -> Result<()> {
        self.inner
            .with(|state| state.destroy_space(id.get()))
            .map_err(|errno| Error::failed(Operation::AddressSpace("destroy"), errno))
    }

    fn map_address_space(&self, id: AddressSpaceId, entries: &[AddressSpaceEntry]) -> Result<()> {
        each("map into", entries, |entry| {
            self.inner
                .with(|state| state.spaces.map(id.get(), entry, &mut state.stage2))
        })
    }

    fn unmap_address_space(&self, id: AddressSpaceId, ranges: &[IovaRange]) -> Result<()> {
        each("unmap from", ranges, |range| {
            self.inner.with(|state| state.unmap_space(id.get(), *range))
        })
    }

    fn track_dirty(&self, on: bool) -> Result<()> {
        self.inner.with(|state| state.tracking = on);
        Ok(())
    }

    fn read_dirty(&self, range: IovaRange, bitmap: &mut [u64]) -> Result<()> {
        self.inner
            .with(|state| {
                if !state.tracking {
                    return Err(Errno::EINVAL);
                }
                state.stage2.dirty(range, bitmap)
            })
            .map_err(|errno| Error::failed(Operation::ReadDirty(range), errno))
    }
}

/// Does something with each entry, up to the first that fails.
fn each<T>(
    what: &'static str,
    entries: &[T],
    act: impl Fn(&T) -> std::result::Result<(), Errno>,
) -> Result<()> {
    for (index, entry) in entries.iter().enumerate() {
        act(entry).map_err(|errno| Error::Entries {
            operation: Operation::AddressSpace(what),
            index,
            count: entries.len(),
            source: errno.into(),
        })?;
    }
    Ok(())
}
