// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fault queues of the IOMMU in the process.

use super::super::queue::{event, Asks, Queue};
use super::super::shared::Channel;
use super::state::{Inner, State};
use super::MAX_FAULT_QUEUES;
use crate::fault::FaultQueueOptions;
use crate::sys::Errno;
use crate::types::{Bdf, Pasid};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

/// How long a watcher of deadlines sleeps at most.
const WATCH: Duration = Duration::from_secs(1);

/// Whose DMA waits for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) device: Bdf,
    pub(super) pasid: Pasid,
    pub(super) dma: u64,
}

impl Asks for Asker {
    fn at(&self) -> (Bdf, Pasid) {
        (self.device, self.pasid)
    }
}

/// A fault queue of a [`Soft`](super::Soft).
pub(super) type SoftChannel = Channel<State>;

/// Opens a fault queue.
pub(super) fn open(inner: &Arc<Inner>, options: &FaultQueueOptions) -> Result<SoftChannel, Errno> {
    let event = event()?;
    let id = inner.with(|state| {
        if state.queues.len() >= MAX_FAULT_QUEUES {
            return Err(Errno::EDQUOT);
        }
        if options.dma_faults && state.dma_queue.is_some() {
            return Err(Errno::EBUSY);
        }
        let id = state.next_queue;
        let mut queue = Queue::new(id, options, state.devices.len(), event.clone())?;
        if state.ended {
            queue.end();
        }
        state.next_queue = id.checked_add(1).ok_or(Errno::EDQUOT)?;
        state.queues.insert(id, queue);
        if options.dma_faults {
            state.dma_queue = Some(id);
        }
        Ok(id)
    })?;
    // From here on dropping it takes the queue away.
    let channel = Channel::new(inner.clone(), id, options.nonblocking, event);
    if options.deadline.is_some() {
        let weak = Arc::downgrade(inner);
        let watcher = thread::Builder::new().name("host-iommu deadline".to_owned());
        let spawned = watcher.spawn(move || watch(&weak, id));
        spawned.map_err(|_| Errno::EAGAIN)?;
    }
    Ok(channel)
}

/// Answers what is due, for as long as the queue is there.
fn watch(inner: &Weak<Inner>, queue: u64) {
    while let Some(inner) = inner.upgrade() {
        if !inner.pause(|state| state.expire(queue, WATCH)) {
            return;
        }
    }
}
