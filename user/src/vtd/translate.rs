// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An emulated device behind a unit: its DMA by vm-memory's trait of IOMMUs.

use super::accesses::Counts;
use super::bits::PAGE;
use super::faults::Fault;
use super::look_up::Request;
use super::source::SourceId;
use super::Vtd;
use crate::walk::Access;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use vm_memory::iommu::{Error, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{GuestAddress, Iommu, Permissions};

/// Most bytes of one access, so that its walk ends soon.
pub const MAX_ACCESS: usize = 1 << 28;
/// Most pages that a device has cached; then it forgets them all.
const MAX_CACHED: u64 = 1 << 16;

/// What translates the DMA of an emulated device, by one PASID or without:
/// for [`IommuMemory`](vm_memory::IommuMemory).
///
/// The device keeps what it finds until the guest invalidates anything, as a device TLB does. What it
/// does not find is recorded in the unit's fault registers, as for a real device without ATS. An
/// access that finds its translation takes no lock of the unit.
///
/// A guest's wait descriptor is not done before the accesses are that began before it: a [`Guard`]
/// that is kept holds the guest up.
#[derive(Debug)]
pub struct VtdTranslation {
    unit: Arc<Vtd>,
    source: SourceId,
    pasid: Option<u32>,
    counts: Arc<Counts>,
    cache: RwLock<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    iotlb: Iotlb,
    pages: u64,
    /// The number of invalidations when it was last found empty.
    epoch: u64,
}

impl VtdTranslation {
    /// Of the function that the guest knows as `source`; `pasid` is the guest's number.
    pub fn new(unit: Arc<Vtd>, source: SourceId, pasid: Option<u32>) -> Self {
        Self {
            counts: unit.shared.join(),
            unit,
            source,
            pasid,
            cache: RwLock::default(),
        }
    }

    /// Caches what an access needs, or gives it if the cache is in use: whoever has a hold on it may be this very
    /// thread, so that none may wait for it.
    fn fill(&self, iova: u64, length: usize, access: Permissions) -> Result<Option<Iotlb>, u8> {
        let mut own = Cache::default();
        let mut shared = match self.cache.try_write() {
            Ok(cache) => Some(cache),
            Err(TryLockError::Poisoned(cache)) => Some(cache.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let cache = shared.as_deref_mut().unwrap_or(&mut own);
        // Read before the tables are: an invalidation meanwhile makes all of it void.
        let epoch = self.unit.shared.epoch();
        if cache.epoch != epoch || cache.pages > MAX_CACHED {
            *cache = Cache {
                epoch,
                ..Cache::default()
            };
        }
        let request = Request {
            source: self.source,
            pasid: self.pasid,
            access: Access {
                read: matches!(access, Permissions::Read | Permissions::ReadWrite),
                write: access.has_write(),
                privileged: false,
            },
        };
        let found = self.unit.tables().look_up(&request, iova, length);
        let pages = found.map_err(|(address, stopped)| {
            if !stopped.silent {
                self.unit.record(&Fault {
                    source: self.source,
                    pasid: self.pasid,
                    address,
                    write: access.has_write(),
                    privileged: false,
                    reason: stopped.reason,
                });
            }
            stopped.reason
        })?;
        for (from, to, permissions) in pages {
            cache.pages = cache.pages.saturating_add(1);
            // The last byte of all has no end after it, so that no access has it.
            let length = PAGE.min(u64::MAX - from);
            let (from, to) = (GuestAddress(from), GuestAddress(to));
            // It has no reason to fail.
            let _ = cache
                .iotlb
                .set_mapping(from, to, length as usize, permissions);
        }
        Ok(shared.is_none().then_some(own.iotlb))
    }
}

impl Iommu for VtdTranslation {
    type IotlbGuard<'a> = Guard<'a>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Guard<'_>>, Error> {
        let stopped = |reason: String| Error::CannotResolve {
            iova_range: IovaRange { base: iova, length },
            reason,
        };
        if length > MAX_ACCESS || iova.0.checked_add(length as u64).is_none() {
            return Err(stopped("too long".to_owned()));
        }
        // A guest that invalidates meanwhile has it looked for again, but not for ever.
        for _ in 0..64 {
            let underway = Underway::begin(self);
            {
                let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
                if cache.epoch == self.unit.shared.epoch() {
                    let guard = Guard(Held::Cache(cache), underway);
                    if let Ok(found) = Iotlb::lookup(guard, iova, length, access) {
                        return Ok(found);
                    }
                }
            }
            // The last one is gone with its guard.
            let underway = Underway::begin(self);
            let epoch = self.unit.shared.epoch();
            let own = self
                .fill(iova.0, length, access)
                .map_err(|reason| stopped(format!("reason {reason:#x} of VT-d")))?;
            match own {
                Some(own) if epoch == self.unit.shared.epoch() => {
                    return Iotlb::lookup(Guard(Held::Own(own), underway), iova, length, access)
                        .map_err(|_| stopped("not found".to_owned()));
                }
                _ => {}
            }
        }
        Err(stopped("it changes again and again".to_owned()))
    }
}

/// An access that is under way, which the guest's waits wait for.
#[derive(Debug)]
struct Underway<'a> {
    device: &'a VtdTranslation,
    phase: usize,
}

impl<'a> Underway<'a> {
    fn begin(device: &'a VtdTranslation) -> Self {
        Self {
            device,
            phase: device.unit.shared.begin(&device.counts),
        }
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let unit = &self.device.unit;
        if unit.shared.end(&self.device.counts, self.phase) {
            unit.events.work_left();
        }
    }
}

/// A hold on what is cached, or on what was found beside the cache, while an access is under way.
#[derive(Debug)]
pub struct Guard<'a>(
    Held<'a>,
    // Ends after the hold on the cache.
    #[expect(dead_code, reason = "held")] Underway<'a>,
);

#[derive(Debug)]
enum Held<'a> {
    Cache(RwLockReadGuard<'a, Cache>),
    Own(Iotlb),
}

impl std::ops::Deref for Guard<'_> {
    type Target = Iotlb;

    fn deref(&self) -> &Iotlb {
        match &self.0 {
            Held::Cache(cache) => &cache.iotlb,
            Held::Own(iotlb) => iotlb,
        }
    }
}
