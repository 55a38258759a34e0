// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An emulated device behind a unit: its DMA by vm-memory's trait of IOMMUs.

use super::accesses::{Access as Underway, Cache, Caches};
use super::bits::PAGE;
use super::faults::Fault;
use super::look_up::{Request, Translated};
use super::source::SourceId;
use super::Vtd;
use crate::walk::Access;
use std::sync::Arc;
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
    caches: Arc<Caches>,
}

impl VtdTranslation {
    /// Of the function that the guest knows as `source`; `pasid` is the guest's number.
    pub fn new(unit: Arc<Vtd>, source: SourceId, pasid: Option<u32>) -> Self {
        Self {
            caches: unit.shared.join(),
            unit,
            source,
            pasid,
        }
    }

    fn begin(&self) -> Guard<'_> {
        let (cache, began) = self.unit.shared.begin(&self.caches);
        let unit = &*self.unit;
        Guard {
            own: None,
            cache,
            _end: End { unit, began },
        }
    }

    /// The pages of an access, by the guest's tables; what stops it is recorded.
    fn look_up(
        &self,
        iova: u64,
        length: usize,
        access: Permissions,
    ) -> Result<Vec<Translated>, u8> {
        // The marks that it sets in the tables are drained too.
        let _underway = self.begin();
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
        found.map_err(|(address, stopped)| {
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
        })
    }

    /// Caches what was found, or gives it back if the cache is in use: whoever has a hold on it may
    /// be this very thread, so that none may wait for it.
    fn keep(&self, pages: Vec<Translated>, epoch: u64) -> Option<Vec<Translated>> {
        let shared = &self.unit.shared;
        let phase = shared.phase();
        let mut pages = Some(pages);
        self.caches.write(phase, |cache| {
            if cache.epoch < epoch || cache.pages > MAX_CACHED {
                *cache = Cache {
                    epoch,
                    ..Cache::default()
                };
            }
            let pages = pages.take().unwrap_or_default();
            // What was found before the last invalidation is void.
            if cache.epoch == epoch {
                cache.pages = cache.pages.saturating_add(pages.len() as u64);
                set(&mut cache.iotlb, pages);
            }
        });
        if shared.end(phase) {
            self.unit.events.work_left();
        }
        pages
    }
}

fn set(iotlb: &mut Iotlb, pages: Vec<Translated>) {
    for (from, to, permissions) in pages {
        // The last byte of all has no end after it, so that no access has it.
        let length = PAGE.min(u64::MAX - from);
        let (from, to) = (GuestAddress(from), GuestAddress(to));
        // It has no reason to fail.
        let _ = iotlb.set_mapping(from, to, length as usize, permissions);
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
            let guard = self.begin();
            if guard.cache.epoch == self.unit.shared.epoch() {
                if let Ok(found) = Iotlb::lookup(guard, iova, length, access) {
                    return Ok(found);
                }
            } else {
                drop(guard);
            }
            // Read before the tables are: an invalidation meanwhile makes all of it void.
            let epoch = self.unit.shared.epoch();
            let pages = self
                .look_up(iova.0, length, access)
                .map_err(|reason| stopped(format!("reason {reason:#x} of VT-d")))?;
            let Some(pages) = self.keep(pages, epoch) else {
                continue;
            };
            let mut guard = self.begin();
            if epoch == self.unit.shared.epoch() {
                set(guard.own.insert(Box::default()), pages);
                return Iotlb::lookup(guard, iova, length, access)
                    .map_err(|_| stopped("not found".to_owned()));
            }
        }
        Err(stopped("it changes again and again".to_owned()))
    }
}

/// The end of an access, which the guest's waits wait for.
#[derive(Debug)]
struct End<'a> {
    unit: &'a Vtd,
    began: usize,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if self.unit.shared.end(self.began) {
            self.unit.events.work_left();
        }
    }
}

/// A hold on what is cached, or on what was found beside the cache, while an access is under way.
#[derive(Debug)]
pub struct Guard<'a> {
    own: Option<Box<Iotlb>>,
    cache: Underway<'a>,
    // Dropped after the hold on the cache.
    _end: End<'a>,
}

impl std::ops::Deref for Guard<'_> {
    type Target = Iotlb;

    fn deref(&self) -> &Iotlb {
        self.own.as_deref().unwrap_or(&self.cache.iotlb)
    }
}
