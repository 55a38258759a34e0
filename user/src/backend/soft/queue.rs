// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fault queues of the IOMMU in the process.

use super::super::queue::{answer_each, event, Asks, Queue};
use super::state::Inner;
use super::MAX_FAULT_QUEUES;
use crate::fault::{FaultChannel, FaultQueueOptions, FaultRecord, ResponseRecord};
use crate::sys::Errno;
use crate::types::{Bdf, Pasid};
use nix::sys::eventfd::EventFd;
use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
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
#[derive(Debug)]
pub(super) struct SoftChannel {
    inner: Arc<Inner>,
    id: u64,
    nonblocking: bool,
    event: Arc<EventFd>,
}

impl SoftChannel {
    pub(super) fn new(inner: &Arc<Inner>, options: &FaultQueueOptions) -> Result<Self, Errno> {
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
        let channel = Self {
            inner: inner.clone(),
            id,
            nonblocking: options.nonblocking,
            event,
        };
        if options.deadline.is_some() {
            let weak = Arc::downgrade(inner);
            let watcher = thread::Builder::new().name("host-iommu deadline".to_owned());
            let spawned = watcher.spawn(move || watch(&weak, id));
            spawned.map_err(|_| Errno::EAGAIN)?;
        }
        Ok(channel)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn is_of(&self, inner: &Arc<Inner>) -> bool {
        Arc::ptr_eq(&self.inner, inner)
    }
}

/// Answers what is due, for as long as the queue is there.
fn watch(inner: &Weak<Inner>, queue: u64) {
    while let Some(inner) = inner.upgrade() {
        if !inner.watch(queue, WATCH) {
            return;
        }
    }
}

impl AsFd for SoftChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl FaultChannel for SoftChannel {
    fn read(&self, records: &mut [FaultRecord]) -> io::Result<usize> {
        let count = self.inner.wait_for(|state| {
            let Some(queue) = state.queues.get_mut(&self.id) else {
                return Some(Err(Errno::EBADF));
            };
            match queue.read(records) {
                Ok(None) if self.nonblocking => Some(Err(Errno::EAGAIN)),
                Ok(None) => None,
                Ok(Some(count)) => Some(Ok(count)),
                Err(errno) => Some(Err(errno)),
            }
        })?;
        Ok(count)
    }

    fn write(&self, responses: &[ResponseRecord]) -> io::Result<usize> {
        answer_each(responses, |cookie, success| {
            self.inner
                .with(|state| state.answer(self.id, cookie, success))
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SoftChannel {
    fn drop(&mut self) {
        self.inner.with(|state| state.close(self.id));
    }
}
