// SPDX-License-Identifier: GPL-2.0
//! The fault queues of a container.

use crate::fault::{FaultQueue, Levels};
use crate::ffi::deadline::Expire;
use crate::ffi::debugfs::{Cursor, Line};
use crate::ffi::errno::edquot;
use crate::ffi::limits::Limit;
use core::fmt::{self, Write};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The list of the fault queues whose fd is open. Its lock is a leaf.
pub(crate) struct Queues {
    list: KVec<Arc<FaultQueue>>,
    released: bool,
}

impl Queues {
    /// No queues.
    pub(crate) fn new() -> Self {
        Self {
            list: KVec::new(),
            released: false,
        }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Takes a new fault queue in.
    ///
    /// # Errors
    ///
    /// - [`EDQUOT`] if there are too many.
    /// - [`EBUSY`] if it is for DMA faults, and another is.
    /// - [`EINVAL`] if the container was released meanwhile.
    pub(crate) fn add(&mut self, queue: Arc<FaultQueue>) -> Result {
        if self.released {
            return Err(EINVAL);
        }
        if queue.takes_dma_faults() && self.for_dma_faults().is_some() {
            return Err(EBUSY);
        }
        if self.list.len() >= Limit::FaultQueues.get() as usize {
            return Err(edquot());
        }
        Ok(self.list.push(queue, GFP_KERNEL_ACCOUNT)?)
    }

    /// Forgets a fault queue whose fd is closed.
    pub(crate) fn forget(&mut self, queue: &Arc<FaultQueue>) {
        self.list.retain(|other| !Arc::ptr_eq(other, queue));
    }

    /// The queue for DMA faults that no binding's queue gets.
    pub(crate) fn for_dma_faults(&self) -> Option<&Arc<FaultQueue>> {
        self.list.iter().find(|queue| queue.takes_dma_faults())
    }

    /// The container is gone: no fault comes any more.
    pub(crate) fn release(&mut self) {
        self.released = true;
        for queue in &self.list {
            queue.end();
        }
    }

    /// Of [`crate::ffi::debugfs::File::Queues`]: writes the first line from `at.item` on of
    /// container number `id`, and moves `at.item` behind it.
    pub(crate) fn line(
        &self,
        id: u64,
        at: &mut Cursor,
        line: &mut Line<'_>,
    ) -> Option<fmt::Result> {
        let queue = self.list.get(usize::try_from(at.item).ok()?)?;
        let place = at.item;
        at.item += 1;
        let Levels {
            depth,
            waiting,
            lost,
        } = queue.levels();
        let deadline = queue
            .deadline()
            .map_or(0, |deadline| deadline.delta().as_millis());
        let mut write = || {
            write!(line, "container={id} queue={place} depth={depth}")?;
            writeln!(
                line,
                " waiting={waiting} lost={lost} deadline_ms={deadline}"
            )
        };
        Some(write())
    }
}
