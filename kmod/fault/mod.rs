// SPDX-License-Identifier: GPL-2.0
//! Page requests on their way to the user, and answers on their way back.
//!
//! # The life of a binding under fire
//!
//! A [`Source`] is the fault side of one binding. A device can ask for pages at any moment
//! of its life, and the user can answer, close or die at any moment too:
//!
//! 1. Bind attaches a domain that takes page requests, with a handle that owns a reference to
//!    the source.
//! 2. A page request: the page request thread finds the handle, without a reference, inside
//!    `intel_iommu::iopf_lock`. It moves the group into the queue, or answers INVALID there
//!    and then. It takes [`FaultQueue`]'s state, a leaf, and nothing else.
//! 3. An answer (write, the deadline, or the last close): find the group's source under the state, drop the
//!    state, take the source's responder, take the group out under the state, answer it,
//!    release the responder. A group is answered by who took it out, so once.
//! 4. Unbind: [`Source::stop`], so that new groups are refused; detach, where the driver drains
//!    the requests that were sent; pass through `iopf_lock`, after which no handler holds the
//!    handle; then [`Source::cancel`] takes the responder, so that an answer under way is over,
//!    and answers all that is left. No group of the source exists after that, so nobody uses
//!    the device for it any more.
//! 5. Only then the handle, the domain and the device reference go.
//!
//! No lock that is held across attach or detach is taken in step 2, for the drain of step 4
//! waits for that thread without a timeout.

mod fd;
pub(crate) mod queue;
mod source;

pub(crate) use fd::FaultQueue;
pub(crate) use queue::Levels;
pub(crate) use source::Source;

use kernel::sync::atomic::{Atomic, Relaxed};

/// Counters of a container that only grow, read by `VFIO_IOASID_STATS`.
#[derive(Default)]
pub(crate) struct Counters {
    /// Calls that reached the container.
    pub(crate) calls: Counter,
    /// Successful BIND calls, replacements included.
    pub(crate) binds: Counter,
    /// Bindings undone.
    pub(crate) unbinds: Counter,
    /// Groups handed to a fault queue.
    pub(crate) page_requests: Counter,
    /// Groups answered by a user.
    pub(crate) responses: Counter,
    /// Groups answered INVALID by the host.
    pub(crate) host_invalid: Counter,
    /// Records answered INVALID because a queue was full.
    pub(crate) overflows: Counter,
    /// Answers to a cookie that was no longer pending.
    pub(crate) late_responses: Counter,
    /// Groups whose deadline passed.
    pub(crate) expired: Counter,
    /// DMA faults that the IOMMU's driver told of.
    pub(crate) dma_faults: Counter,
    /// Invalidation entries carried out.
    pub(crate) invalidations: Counter,
}

/// A count of events.
pub(crate) struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    /// Counts `events` more.
    pub(crate) fn add(&self, events: u64) {
        self.0.add(events, Relaxed);
    }

    /// Events so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
