// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A fault queue as tokio reads it.

use super::{FaultEvent, FaultQueue, FaultRead};
use crate::error::{Error, Operation, Result};
use crate::sys::{self, Errno};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// A fault queue that a task of tokio reads, behind the feature `tokio`.
///
/// ```no_run
/// use host_iommu::backend::kmod::Kmod;
/// use host_iommu::{
///     AsyncFaultQueue, Bdf, FaultEvent, FaultQueueOptions, HostIommu, Response,
/// };
///
/// # async fn serve() -> host_iommu::Result<()> {
/// let host = HostIommu::new(Kmod::open_device(Bdf::new(0, 0, 4 << 3))?);
/// let faults = host.fault_queue(&FaultQueueOptions::nonblocking())?;
/// let mut faults = AsyncFaultQueue::new(faults)?;
/// while let Some(events) = faults.read().await? {
///     for event in events {
///         if let FaultEvent::PageRequests(group) = event {
///             // … have the guest make the pages present …
///             group.respond(Response::Success)?;
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// What a [`FaultQueue`] can do, its bindings among it, this can do by dereference. Reading it by
/// [`FaultQueue::read`] as well takes events from [`AsyncFaultQueue::read`], and does no other harm.
#[derive(Debug)]
pub struct AsyncFaultQueue {
    /// Another descriptor of the queue's file.
    watched: AsyncFd<OwnedFd>,
    queue: FaultQueue,
}

impl Deref for AsyncFaultQueue {
    type Target = FaultQueue;

    fn deref(&self) -> &FaultQueue {
        &self.queue
    }
}

impl AsyncFaultQueue {
    /// Takes a queue that was made by [`FaultQueueOptions::nonblocking`], inside of a runtime.
    ///
    /// [`FaultQueueOptions::nonblocking`]: crate::FaultQueueOptions::nonblocking
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a queue whose reads wait, which would stop the runtime's
    /// thread, and with what epoll says.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime that has I/O enabled, as [`AsyncFd`] does.
    pub fn new(queue: FaultQueue) -> Result<Self> {
        if queue.channel.waits() {
            return Err(Error::failed(Operation::WatchFaults, Errno::EINVAL));
        }
        let file = queue.as_fd().try_clone_to_owned();
        let watched = file.and_then(sys::watch);
        Ok(Self {
            watched: watched.map_err(|error| Error::failed(Operation::WatchFaults, error))?,
            queue,
        })
    }

    /// The next events, at least one; `None` at the end, when the context is gone. While the queue
    /// is frozen nothing comes. Cancel safe: an event that was read is given, or waits for the next
    /// call.
    ///
    /// # Errors
    ///
    /// As [`FaultQueue::read`].
    pub async fn read(&mut self) -> Result<Option<Vec<FaultEvent>>> {
        loop {
            let queue = &self.queue;
            // Made before the look at the queue: a thaw in between is not missed.
            let thawed = queue.thawed.notified();
            if queue.is_frozen() {
                thawed.await;
                continue;
            }
            let ready = self.watched.readable().await;
            let mut ready = ready.map_err(|error| Error::failed(Operation::WatchFaults, error))?;
            match queue.read() {
                Ok(FaultRead::Events(events)) => return Ok(Some(events)),
                Ok(FaultRead::Ended) => return Ok(None),
                // Frozen meanwhile: what is there waits for the thaw, and is no news to epoll then.
                Ok(FaultRead::Empty) if queue.is_frozen() => {}
                Ok(FaultRead::Empty) => ready.clear_ready(),
                // A signal came.
                Err(error) if error.errno() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The queue, which tokio watches no more.
    pub fn into_inner(self) -> FaultQueue {
        self.queue
    }
}
