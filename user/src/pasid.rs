// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PASIDs that free themselves.

use crate::context::HostIommu;
use crate::error::{is_gone, Result};
use crate::registry::Registry;
use crate::trace::trace_failure;
use crate::types::Pasid;
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
    /// The name in the registry: another one there is another's.
    epoch: u64,
}

impl Run {
    fn free(&self) -> Result<()> {
        // Held over the call: the outcome is known before anybody else is told of it.
        let mut registry = self.host.registry();
        if !registry.has_allocated(self.first, self.epoch) {
            return Ok(());
        }
        let freed = self.host.context().free_pasids(self.first, self.count);
        // Those that the host has forgotten are free.
        if freed.is_ok() || is_gone(&freed) {
            registry.free(self.first);
            return Ok(());
        }
        freed
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
        let mut registry = host.registry();
        let first = trace_failure(host.context().alloc_pasids(request))?;
        let epoch = registry.allocate(first, request.count);
        drop(registry);
        let run = Run {
            host,
            first,
            count: request.count,
            epoch,
        };
        Ok(Self { run: Arc::new(run) })
    }

    /// One that the host has given to another process, from which this one takes the context over.
    pub(crate) fn adopt(host: HostIommu, pasid: Pasid) -> Self {
        let epoch = host.registry().allocate(pasid, 1);
        let run = Run {
            host,
            first: pasid,
            count: 1,
            epoch,
        };
        Self { run: Arc::new(run) }
    }

    pub(crate) fn of_run(run: Arc<Run>) -> Self {
        Self { run }
    }

    /// Whether they are still those that were allocated: not freed, nor forgotten by the host and
    /// given to somebody else.
    pub(crate) fn is_allocated(&self, registry: &Registry) -> bool {
        registry.has_allocated(self.run.first, self.run.epoch)
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

    /// Frees them now, and says whether it worked. Where they are free already, also because the
    /// host has forgotten them with its last device, it does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`](crate::Error::Failed) with EBUSY while one of them is bound; dropping
    /// tries again.
    pub fn free(&self) -> Result<()> {
        self.run.free()
    }
}
