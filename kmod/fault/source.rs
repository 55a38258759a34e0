// SPDX-License-Identifier: GPL-2.0
//! The fault side of a binding: where its page requests go, and who may answer.

use super::fd::QueueState;
use super::fd::{FaultQueue, Pending, Records};
use super::queue::{Ends, Refusal, Refused};
use crate::call::device_of;
use crate::ffi::abi;
use crate::ffi::device::Bdf;
use crate::ffi::iopf::{PageGroup, PageRequest, PageRequestThread, PageRequests, Response};
use crate::ffi::trace::{self, AnsweredBy};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::lock::mutex::MutexBackend;
use kernel::sync::lock::Guard;
use kernel::sync::{new_mutex, Arc, LockedBy, Mutex};

/// Most records of a group: VT-d's queue holds 2,048 in all, and no device in the field
/// groups more than a few.
pub(crate) const GROUP_MAX: usize = abi::VFIO_IOASID_FAULT_GROUP_MAX as usize;

/// The fault side of one binding; see the module for its life.
#[pin_data]
pub(crate) struct Source {
    device: Bdf,
    guest_pasid: u32,
    user_cookie: u64,
    queue: Arc<FaultQueue>,
    stopping: Atomic<bool>,
    /// Its groups in the queue: [`Ends`].
    waiting: LockedBy<Atomic<u64>, QueueState>,
    /// Held while one of this source's groups is answered by somebody else than the page
    /// request thread.
    #[pin]
    responder: Mutex<()>,
}

/// The right to answer groups of a source outside the page request thread. Who unbinds takes it
/// once nothing comes any more: so the device of a group that is answered is there.
pub(super) struct Responder<'a> {
    source: &'a Source,
    _held: Guard<'a, (), MutexBackend>,
}

impl Responder<'_> {
    /// Whose groups.
    pub(super) fn source(&self) -> &Source {
        self.source
    }

    /// Answers a group of its source. Sleeps.
    pub(super) fn respond(&self, group: PageGroup, response: Response, by: AnsweredBy) {
        self.source.send(group, response, by);
    }
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
                waiting: LockedBy::new(queue.state(), Atomic::new(Ends::EMPTY.to_bits())),
                responder <- new_mutex!((), "Source::responder"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The queue.
    pub(crate) fn queue(&self) -> &Arc<FaultQueue> {
        &self.queue
    }

    /// Its groups in the queue whose state is `held`.
    pub(super) fn waiting(&self, held: &QueueState) -> Ends {
        Ends::from_bits(self.waiting.access(held).load(Relaxed))
    }

    /// Replaces them.
    pub(super) fn set_waiting(&self, held: &QueueState, chain: Ends) {
        self.waiting.access(held).store(chain.to_bits(), Relaxed);
    }

    /// Takes the right to answer its groups. Sleeps.
    pub(super) fn responder(&self) -> Responder<'_> {
        Responder {
            source: self,
            _held: self.responder.lock(),
        }
    }

    /// Step 2: takes a group in, or answers it INVALID.
    fn take_in(self: Arc<Self>, group: PageGroup, thread: PageRequestThread<'_>) {
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
            return self.refuse(group, &thread);
        };
        let pending = Pending {
            group,
            source: self.clone(),
            since: self.queue.now(),
        };
        match self.queue.push(pending, records) {
            Ok(()) => counters.page_requests.add(1),
            Err(Refusal {
                why,
                group,
                records,
            }) => {
                drop(records);
                if why == Refused::Full {
                    counters.overflows.add(count as u64);
                }
                counters.host_invalid.add(1);
                self.refuse(group.group, &thread);
            }
        }
    }

    /// Step 4, first half: groups that come from now on are answered INVALID at once.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Step 4, last half: answers all that is left INVALID, after the answer under way.
    pub(crate) fn cancel(&self) {
        let responder = self.responder();
        while let Some(pending) = self.queue.take_next(&responder, false) {
            self.queue.counters().host_invalid.add(1);
            responder.respond(pending.group, Response::Invalid, AnsweredBy::Cancelled);
        }
    }

    /// Answers a group that was not taken in.
    fn refuse(&self, group: PageGroup, _thread: &PageRequestThread<'_>) {
        self.send(group, Response::Invalid, AnsweredBy::Refused);
    }

    fn send(&self, group: PageGroup, response: Response, by: AnsweredBy) {
        trace::page_response(self.queue.container(), self.device, &group, response, by);
        group.respond(response);
    }

    /// Step 3, for the deadline: answers what is late INVALID.
    pub(super) fn expire(&self) {
        let responder = self.responder();
        while let Some(pending) = self.queue.take_next(&responder, true) {
            self.queue.counters().expired.add(1);
            self.queue.counters().host_invalid.add(1);
            responder.respond(pending.group, Response::Invalid, AnsweredBy::Expired);
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

    fn record(&self, request: PageRequest, last: bool) -> abi::vfio_ioasid_fault {
        let mut flags = 0;
        if request.pasid.is_some() {
            flags |= abi::VFIO_IOASID_FAULT_FLAG_PASID;
        }
        if last {
            flags |= abi::VFIO_IOASID_FAULT_FLAG_LAST;
        }
        abi::vfio_ioasid_fault {
            kind: abi::VFIO_IOASID_FAULT_PAGE_REQUEST,
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

impl PageRequests for Source {
    fn page_request(self: Arc<Self>, group: PageGroup, thread: PageRequestThread<'_>) {
        self.take_in(group, thread);
    }
}

/// The documented permissions; the core's word for them has the same bits.
const PERMISSIONS: u32 = abi::VFIO_IOASID_FAULT_PERM_READ
    | abi::VFIO_IOASID_FAULT_PERM_WRITE
    | abi::VFIO_IOASID_FAULT_PERM_EXEC
    | abi::VFIO_IOASID_FAULT_PERM_PRIV;
