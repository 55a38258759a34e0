// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An emulated device behind a unit: its DMA by vm-memory's trait of IOMMUs.

use super::faults::Fault;
use super::look_up::{Request, PAGE};
use super::tables::SourceId;
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
/// What it finds it has cached until the guest invalidates anything, as a device TLB has. What it does not find
/// is recorded in the unit's fault registers, as for a real device without ATS.
#[derive(Debug)]
pub struct VtdTranslation {
    unit: Arc<Vtd>,
    source: SourceId,
    pasid: Option<u32>,
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
        let (result, message) = {
            let mut state = self.unit.state();
            let unit = &mut state.unit;
            if cache.epoch != unit.epoch || cache.pages > MAX_CACHED {
                *cache = Cache {
                    epoch: unit.epoch,
                    ..Cache::default()
                };
            }
            let memory = &*self.unit.memory;
            let request = Request {
                source: self.source,
                pasid: self.pasid,
                access: Access {
                    read: matches!(access, Permissions::Read | Permissions::ReadWrite),
                    write: access.has_write(),
                    privileged: false,
                },
            };
            let found = unit.look_up(memory, &request, iova, length);
            match found {
                Ok(pages) => (Ok(pages), None),
                Err((address, stopped)) => {
                    let fault = Fault {
                        source: self.source,
                        pasid: self.pasid,
                        address,
                        write: access.has_write(),
                        privileged: false,
                        reason: stopped.reason,
                    };
                    let told = !stopped.silent;
                    let message = told.then(|| unit.fault(&fault)).flatten();
                    (Err(stopped.reason), message)
                }
            }
        };
        self.unit.send(message);
        for (from, to, permissions) in result? {
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
            {
                let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
                if cache.epoch == self.unit.state().unit.epoch {
                    let guard = Guard(Held::Cache(cache));
                    if let Ok(found) = Iotlb::lookup(guard, iova, length, access) {
                        return Ok(found);
                    }
                }
            }
            let own = self
                .fill(iova.0, length, access)
                .map_err(|reason| stopped(format!("reason {reason:#x} of VT-d")))?;
            if let Some(own) = own {
                return Iotlb::lookup(Guard(Held::Own(own)), iova, length, access)
                    .map_err(|_| stopped("not found".to_owned()));
            }
        }
        Err(stopped("it changes again and again".to_owned()))
    }
}

/// A hold on what is cached, or what was found beside the cache.
#[derive(Debug)]
pub struct Guard<'a>(Held<'a>);

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
