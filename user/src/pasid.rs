// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PASIDs that free themselves.

use crate::context::HostIommu;
use crate::error::Result;
use crate::trace::noted;
use crate::types::Pasid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Which PASIDs to allocate: `count` consecutive ones in `min..=max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasidRequest {
    /// Lowest PASID to give.
    pub min: Pasid,
    /// Highest PASID to give, inclusive.
    pub max: Pasid,
    /// How many.
    pub count: u32,
}

impl PasidRequest {
    /// One PASID, whichever is free.
    pub const fn any() -> Self {
        Self {
            min: Pasid::MIN,
            max: Pasid::MAX,
            count: 1,
        }
    }

    /// This PASID: for a virtual IOMMU whose guest has chosen it.
    pub const fn exactly(pasid: Pasid) -> Self {
        Self {
            min: pasid,
            max: pasid,
            count: 1,
        }
    }
}

/// The PASIDs of one request, shared with the bindings that use them.
#[derive(Debug)]
pub(crate) struct Run {
    host: HostIommu,
    first: Pasid,
    count: u32,
    freed: AtomicBool,
}

impl Run {
    fn free(&self) -> Result<()> {
        if self.freed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.host
            .context()
            .free_pasids(self.first, self.count)
            .inspect_err(|_| self.freed.store(false, Ordering::Release))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // The container frees what is left when it goes; nothing else can be done here.
        let _ = self.free();
    }
}

/// PASIDs of a context. They are freed when this and every binding at them is gone.
#[derive(Debug)]
pub struct PasidAllocation {
    run: Arc<Run>,
}

impl PasidAllocation {
    pub(crate) fn new(host: HostIommu, request: &PasidRequest) -> Result<Self> {
        let first = noted(host.context().alloc_pasids(request))?;
        let run = Run {
            host,
            first,
            count: request.count,
            freed: AtomicBool::new(false),
        };
        Ok(Self { run: Arc::new(run) })
    }

    #[cfg(feature = "vtd")]
    pub(crate) fn of_run(run: Arc<Run>) -> Self {
        Self { run }
    }

    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    pub(crate) fn is_of(&self, host: &HostIommu) -> bool {
        self.run.host.is(host)
    }

    /// The lowest of them.
    pub fn first(&self) -> Pasid {
        self.run.first
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.run.count
    }

    /// Whether `pasid` is one of them.
    pub fn contains(&self, pasid: Pasid) -> bool {
        let offset = pasid.get().checked_sub(self.first().get());
        offset.is_some_and(|offset| offset < self.count())
    }

    /// Frees them now, and says whether it worked. Done once, it does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`](crate::Error::Failed) with EBUSY while one of them is bound; dropping
    /// tries again.
    pub fn free(&self) -> Result<()> {
        self.run.free()
    }
}
