// SPDX-License-Identifier: GPL-2.0
//! The fault side of a binding: where its page requests go, and who may answer.

use super::fd::{FaultQueue, Pending, Records};
use super::queue::{Ends, Refused};
use crate::ffi::device::Bdf;
use crate::ffi::iopf::{PageGroup, PageRequest, Response};
use crate::ffi::trace::{self, AnsweredBy};
use crate::ffi::uapi;
use crate::uapi::device_of;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_mutex, Arc, ArcBorrow, Mutex};
use kernel::time::Instant;

/// Most records of a group: VT-d's queue holds 2,048 in all, and no device in the field
/// groups more than a few.
pub(crate) const GROUP_MAX: usize = uapi::VFIO_IOASID_FAULT_GROUP_MAX as usize;

/// The fault side of one binding; see the module for its life.
#[pin_data]
pub(crate) struct Source {
    device: Bdf,
    guest_pasid: u32,
    user_cookie: u64,
    queue: Arc<FaultQueue>,
    stopping: Atomic<bool>,
    /// Its groups in the queue: [`Ends`], changed with the queue's state held.
    waiting: Atomic<u64>,
    /// Held while one of this source's groups is answered by somebody else than the page
    /// request thread.
    #[pin]
    pub(super) responder: Mutex<()>,
}

impl Source {
    /// A source for the binding of `device`, which writes `guest_pasid` and `user_cookie` into
    /// its records.
    pub(crate) fn new(
        queue: Arc<FaultQueue>,
        device: Bdf,
        guest_pasid: u32,
        user_cookie: u64,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                device,
                guest_pasid,
                user_cookie,
                queue,
                stopping: Atomic::new(false),
                waiting: Atomic::new(Ends::EMPTY.to_bits()),
                responder <- new_mutex!((), "Source::responder"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The queue.
    pub(crate) fn queue(&self) -> &Arc<FaultQueue> {
        &self.queue
    }

    /// Its groups in the queue. The queue's state is held.
    pub(super) fn waiting(&self) -> Ends {
        Ends::from_bits(self.waiting.load(Relaxed))
    }

    /// Replaces them. The queue's state is held.
    pub(super) fn set_waiting(&self, chain: Ends) {
        self.waiting.store(chain.to_bits(), Relaxed);
    }

    /// Step 2: takes a group in, or answers it INVALID. Runs in the page request thread.
    pub(crate) fn page_request(self: ArcBorrow<'_, Self>, group: PageGroup) {
        let counters = self.queue.counters();
        trace::page_request(
            self.queue.container(),
            self.device,
            self.guest_pasid,
            &group,
        );
        let count = group.len();
        let records = if self.stopping.load(Relaxed) {
            None
        } else {
            self.records(&group).ok()
        };
        let Some(records) = records else {
            if !self.stopping.load(Relaxed) {
                counters.overflows.add(count as u64);
                self.queue.lose(count as u64);
            }
            counters.host_invalid.add(1);
            return self.respond(group, Response::Invalid, AnsweredBy::Refused);
        };
        let pending = Pending {
            group,
            source: self.into(),
            since: Instant::now(),
        };
        match self.queue.push(pending, records) {
            Ok(()) => counters.page_requests.add(1),
            Err((reason, pending)) => {
                if reason == Refused::Full {
                    counters.overflows.add(count as u64);
                }
                counters.host_invalid.add(1);
                pending
                    .source
                    .respond(pending.group, Response::Invalid, AnsweredBy::Refused);
            }
        }
    }

    /// Step 4, first half: groups that come from now on are answered INVALID at once.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Step 4, last half: answers all that is left INVALID, after the answer under way.
    pub(crate) fn cancel(&self) {
        let _responder = self.responder.lock();
        while let Some(pending) = self.queue.take_next(self, false) {
            self.queue.counters().host_invalid.add(1);
            self.respond(pending.group, Response::Invalid, AnsweredBy::Cancelled);
        }
    }

    /// Answers a group of this source. In the page request thread, or with the responder held.
    pub(super) fn respond(&self, group: PageGroup, response: Response, by: AnsweredBy) {
        trace::page_response(self.queue.container(), self.device, &group, response, by);
        group.respond(response);
    }

    /// Step 3, for the deadline: answers what is late INVALID.
    pub(super) fn expire(&self) {
        let _responder = self.responder.lock();
        while let Some(pending) = self.queue.take_next(self, true) {
            self.queue.counters().expired.add(1);
            self.queue.counters().host_invalid.add(1);
            self.respond(pending.group, Response::Invalid, AnsweredBy::Expired);
        }
    }

    fn records(&self, group: &PageGroup) -> Result<Records> {
        let count = group.len();
        if count > GROUP_MAX {
            return Err(E2BIG);
        }
        let mut records = Records::with_capacity(count, GFP_KERNEL)?;
        group.for_each::<GROUP_MAX>(|request| {
            let last = records.len() + 1 == count;
            records.push(self.record(request, last), GFP_KERNEL)?;
            Ok(())
        })?;
        Ok(records)
    }

    fn record(&self, request: PageRequest, last: bool) -> uapi::vfio_ioasid_fault {
        let mut flags = 0;
        if request.pasid.is_some() {
            flags |= uapi::VFIO_IOASID_FAULT_FLAG_PASID;
        }
        if last {
            flags |= uapi::VFIO_IOASID_FAULT_FLAG_LAST;
        }
        uapi::vfio_ioasid_fault {
            kind: uapi::VFIO_IOASID_FAULT_PAGE_REQUEST,
            flags,
            device: device_of(self.device),
            pasid: request.pasid.unwrap_or(0),
            guest_pasid: self.guest_pasid,
            group: request.group,
            perm: request.perm & PERMISSIONS,
            addr: request.addr,
            user_cookie: self.user_cookie,
            ..Default::default()
        }
    }
}

/// The documented permissions; the core's word for them has the same bits.
const PERMISSIONS: u32 = uapi::VFIO_IOASID_FAULT_PERM_READ
    | uapi::VFIO_IOASID_FAULT_PERM_WRITE
    | uapi::VFIO_IOASID_FAULT_PERM_EXEC
    | uapi::VFIO_IOASID_FAULT_PERM_PRIV;
