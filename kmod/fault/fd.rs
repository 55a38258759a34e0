// SPDX-License-Identifier: GPL-2.0
//! The fault fd: read, write, poll and the last close.

use super::queue::{Chained, Cookie, Ends, Levels, Next, Refusal, Slot, State, CHUNK, MAX_SLOTS};
use super::source::Responder;
use super::{Counters, Source};
use crate::base::inline_first::InlineFirst;
use crate::budget::{Owner, Resource, Share, Work};
use crate::ffi::abi;
use crate::ffi::deadline::{Deadline, Expire};
use crate::ffi::fault_file::Ready;
use crate::ffi::iopf::{PageGroup, Response};
use crate::ffi::trace::AnsweredBy;
use crate::ffi::user::Pointer;
use core::mem::size_of;
use kernel::fs::File;
use kernel::new_poll_condvar;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::poll::{PollCondVar, PollTable};
use kernel::sync::{new_mutex, new_spinlock, Arc, Mutex, SpinLock};
use kernel::time::{Delta, Instant, Monotonic};

const _: () = assert!(abi::VFIO_IOASID_FAULT_DEPTH_MAX as usize <= MAX_SLOTS);

/// The records of one group.
pub(super) type Records = InlineFirst<abi::vfio_ioasid_fault>;

/// Slots by the chunk: no piece of memory is larger than 8 pages, which the page allocator has
/// (`PAGE_ALLOC_COSTLY_ORDER`).
type Chunk = KVec<Slot<Pending, Records>>;
type Slots = KVec<Chunk>;

/// What [`FaultQueue`] does under its lock.
pub(super) type QueueState = State<Slots>;

const _: () = assert!(CHUNK * size_of::<Slot<Pending, Records>>() <= 8 * PAGE_SIZE);
const _: () = assert!(MAX_SLOTS.div_ceil(CHUNK) * size_of::<Chunk>() <= 8 * PAGE_SIZE);

const RECORD: usize = size_of::<abi::vfio_ioasid_fault>();
const RESPONSE: usize = size_of::<abi::vfio_ioasid_fault_response>();

/// A group that waits, and the source that asked.
pub(super) struct Pending {
    pub(super) group: PageGroup,
    pub(super) source: Arc<Source>,
    /// When it came, if the queue has a deadline.
    pub(super) since: Option<Instant<Monotonic>>,
}

/// The groups of a source are a chain.
impl Chained<Slots> for Pending {
    fn chain(&self, state: &QueueState) -> Ends {
        self.source.waiting(state)
    }

    fn set_chain(&self, state: &QueueState, chain: Ends) {
        self.source.set_waiting(state, chain);
    }
}

/// `count` free slots, in chunks.
fn free_slots(count: usize, work: &mut Work) -> Result<Slots> {
    let mut slots = Slots::with_capacity(count.div_ceil(CHUNK), GFP_KERNEL_ACCOUNT)?;
    let mut left = count;
    while left != 0 {
        work.look()?;
        let len = left.min(CHUNK);
        let mut chunk = Chunk::with_capacity(len, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..len {
            chunk.push(Slot::free(), GFP_KERNEL_ACCOUNT)?;
        }
        slots.push(chunk, GFP_KERNEL_ACCOUNT)?;
        left -= len;
    }
    Ok(slots)
}

/// What a queue counts towards.
struct Shares {
    _queue: Share,
    _records: Share,
}

/// The queue behind a fault fd.
#[pin_data]
pub(crate) struct FaultQueue {
    /// Armed with the state held, while a group waits and the queue is not closed.
    deadline: Option<Deadline<Self>>,
    container: u64,
    dma: bool,
    counters: Arc<Counters>,
    /// Until the last close.
    #[pin]
    shares: Mutex<Option<Shares>>,
    /// A leaf: taken in the page request thread.
    #[pin]
    state: SpinLock<QueueState>,
    #[pin]
    changed: PollCondVar,
}

impl FaultQueue {
    /// Depth of a queue whose user did not choose, for each attached device: Linux grants a
    /// device that many page requests in flight at most (`PRQ_DEPTH` of intel/iommu.h).
    pub(crate) const DEPTH_PER_DEVICE: u32 = 2048;

    /// A queue of container number `container` of `owner` for `depth` records, whose groups are
    /// answered INVALID after `deadline_ms` milliseconds, if there is a deadline; with `dma` for the
    /// DMA faults of the container too.
    ///
    /// # Errors
    ///
    /// - [`EDQUOT`] if the owner, or all users together, have too many queues or records.
    /// - [`ENOMEM`]; [`EINTR`] if a fatal signal came.
    pub(crate) fn new(
        container: u64,
        owner: &Owner,
        counters: Arc<Counters>,
        depth: u32,
        deadline_ms: Option<u32>,
        dma: bool,
    ) -> Result<Arc<Self>> {
        let deadline = deadline_ms.map(Deadline::new).transpose()?;
        let shares = Shares {
            _queue: owner.take(Resource::Queues, 1)?,
            _records: owner.take(Resource::Records, depth)?,
        };
        let slots = free_slots(depth as usize, &mut Work::of_call())?;
        let state = State::new(slots).ok_or(EINVAL)?;
        Arc::pin_init(
            pin_init!(Self {
                deadline,
                container,
                dma,
                counters,
                shares <- new_mutex!(Some(shares), "FaultQueue::shares"),
                state <- new_spinlock!(state, "FaultQueue::state"),
                changed <- new_poll_condvar!("FaultQueue::changed"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The number of its container.
    pub(crate) fn container(&self) -> u64 {
        self.container
    }

    /// Whether it gets the DMA faults of its container that belong to no other queue.
    pub(crate) fn takes_dma_faults(&self) -> bool {
        self.dma
    }

    /// Takes in a DMA fault.
    pub(crate) fn push_dma_fault(&self, record: abi::vfio_ioasid_fault) {
        let mut records = Records::new();
        // The first takes no memory.
        let _ = records.push(record, GFP_KERNEL);
        self.state.lock().push_note(records);
        self.changed.notify_all();
    }

    /// The lock that the chains of its sources are under.
    pub(super) fn state(&self) -> &SpinLock<QueueState> {
        &self.state
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How full it is.
    pub(crate) fn levels(&self) -> Levels {
        self.state.lock().levels()
    }

    /// The container is gone.
    pub(crate) fn end(&self) {
        self.state.lock().end();
        self.changed.notify_all();
    }

    /// Takes a group in; an error gives it back.
    pub(super) fn push(
        &self,
        pending: Pending,
        records: Records,
    ) -> Result<(), Refusal<Pending, Records>> {
        // CAST: a group has GROUP_MAX records at most.
        let weight = records.len() as u32;
        let result = {
            let mut state = self.state.lock();
            let first = state.oldest().is_none();
            let result = state.push(pending, weight, records, |records, cookie| {
                for record in records.iter_mut() {
                    record.cookie = cookie;
                }
            });
            // Where an older one waits, the timer is armed for that, or about to be.
            if first && result.is_ok() {
                self.arm(&state, Delta::ZERO);
            }
            result
        };
        self.changed.notify_all();
        result
    }

    /// Counts records that could not be taken in.
    pub(crate) fn lose(&self, records: u64) {
        self.state.lock().lose(records);
        self.changed.notify_all();
    }

    /// Takes the oldest group of the responder's source out for the host's answer, because its
    /// deadline has passed if `expired`.
    pub(super) fn take_next(&self, responder: &Responder<'_>, expired: bool) -> Option<Pending> {
        let taken = {
            let mut state = self.state.lock();
            let chain = responder.source().waiting(&state);
            state.take_first(chain, expired, |pending| !expired || self.is_late(pending))
        };
        self.changed.notify_all();
        taken
    }

    /// Whether the deadline of a group has passed.
    fn is_late(&self, pending: &Pending) -> bool {
        let (Some(deadline), Some(since)) = (&self.deadline, pending.since) else {
            return false;
        };
        since.elapsed().as_nanos() >= deadline.delta().as_nanos()
    }

    /// The time, if the queue has a deadline.
    pub(super) fn now(&self) -> Option<Instant<Monotonic>> {
        self.deadline.as_ref().map(|_| Instant::now())
    }

    /// Arms the timer for a group of that age.
    fn arm(&self, _state: &QueueState, age: Delta) {
        if let Some(deadline) = &self.deadline {
            Deadline::arm(self, deadline.delta() - age);
        }
    }

    /// Copies whole groups to the user's `len` bytes at `buf`.
    pub(crate) fn read(&self, buf: Pointer, len: usize, nonblocking: bool) -> Result<usize> {
        let mut work = Work::of_call();
        let mut done = 0;
        loop {
            while let Some(bytes) = match work.step().and_then(|()| self.read_one(buf, done, len)) {
                Ok(read) => read,
                Err(_) if done != 0 => return Ok(done),
                Err(error) => return Err(error),
            } {
                done += bytes;
            }
            if done != 0 {
                return Ok(done);
            }
            let mut state = self.state.lock();
            while !state.readable() {
                if nonblocking {
                    return Err(EAGAIN);
                }
                if self.changed.wait_interruptible(&mut state) {
                    return Err(ERESTARTSYS);
                }
            }
            if state.ended() && !state.has_records() {
                return Ok(0);
            }
        }
    }

    /// Copies the next group; `None` if there is none.
    fn read_one(&self, buf: Pointer, done: usize, len: usize) -> Result<Option<usize>> {
        let at = buf.offset(done)?;
        let room = (len - done) / RECORD;
        let next = self
            .state
            .lock()
            .next(|records| records.map_or(1, |records| records.len().max(1)) <= room)
            .map_err(|()| EINVAL)?;
        next.map(|next| self.deliver(at, next)).transpose()
    }

    /// Ends a delivery.
    fn settle(&self, end: impl FnOnce(&mut QueueState)) {
        let became_readable = {
            let mut state = self.state.lock();
            let before = state.readable();
            end(&mut state);
            !before && state.readable()
        };
        // Another reader may wait for what came back, or for the end of this delivery.
        if became_readable {
            self.changed.notify_all();
        }
    }

    /// Copies what a reader gets to `at`, and puts it back if that fails: the bytes copied.
    fn deliver(&self, at: Pointer, next: Next<Records>) -> Result<usize> {
        match next {
            Next::Overflow(lost) => {
                let copied = at.write(&abi::vfio_ioasid_fault {
                    kind: abi::VFIO_IOASID_FAULT_OVERFLOW,
                    addr: lost,
                    ..Default::default()
                });
                self.settle(|state| match copied {
                    Ok(()) => state.told(),
                    Err(_) => state.unlost(lost),
                });
                copied.map(|()| RECORD)
            }
            Next::Cancelled(cookie) => self.announce(at, cookie, 0),
            Next::Expired(cookie) => self.announce(at, cookie, abi::VFIO_IOASID_FAULT_FLAG_EXPIRED),
            Next::Group { cookie, records } | Next::Note { cookie, records } => {
                let bytes = records.len() * RECORD;
                let copied = records
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, record)| at.offset(index * RECORD)?.write(record));
                self.settle(|state| match copied {
                    Ok(()) => state.delivered(cookie),
                    Err(_) => state.undelivered(cookie, records),
                });
                copied.map(|()| bytes)
            }
        }
    }

    /// Copies the record that a group needs no answer any more.
    fn announce(&self, at: Pointer, cookie: u64, flags: u32) -> Result<usize> {
        let copied = at.write(&abi::vfio_ioasid_fault {
            kind: abi::VFIO_IOASID_FAULT_CANCELLED,
            flags,
            cookie,
            ..Default::default()
        });
        self.settle(|state| match copied {
            Ok(()) => state.delivered(cookie),
            Err(_) => state.unannounced(cookie),
        });
        copied.map(|()| RECORD)
    }

    /// Takes the answers in the user's `len` bytes at `buf`.
    pub(crate) fn write(&self, buf: Pointer, len: usize) -> Result<usize> {
        if len == 0 || len % RESPONSE != 0 {
            return Err(EINVAL);
        }
        let mut work = Work::of_call();
        let mut done = 0;
        while done < len {
            let answered = work
                .step()
                .and_then(|()| buf.offset(done))
                .and_then(|at| at.read())
                .and_then(|response| self.answer(response));
            match answered {
                Ok(()) => done += RESPONSE,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Step 3 of a binding's life.
    fn answer(&self, response: abi::vfio_ioasid_fault_response) -> Result {
        let code = match response.code {
            abi::VFIO_IOASID_RESPONSE_SUCCESS => Response::Success,
            abi::VFIO_IOASID_RESPONSE_INVALID => Response::Invalid,
            _ => return Err(EINVAL),
        };
        if response.__reserved != 0 {
            return Err(EINVAL);
        }
        let source = {
            let state = self.state.lock();
            match state.look_up(response.cookie) {
                Cookie::Unknown => return Err(ENOENT),
                Cookie::Late => None,
                Cookie::Pending => state
                    .pending(response.cookie)
                    .map(|pending| pending.source.clone()),
            }
        };
        if let Some(source) = source {
            let responder = source.responder();
            let taken = self.state.lock().take(response.cookie);
            if let Some(pending) = taken {
                responder.respond(pending.group, code, AnsweredBy::User);
                self.counters.responses.add(1);
                return Ok(());
            }
        }
        self.counters.late_responses.add(1);
        Ok(())
    }

    /// What a poll gives, and where it waits.
    pub(crate) fn poll(&self, table: &PollTable<'_>, file: &File) -> Ready {
        table.register_wait(file, &self.changed);
        let state = self.state.lock();
        Ready {
            readable: state.readable(),
            writable: !state.ended(),
            ended: state.ended(),
        }
    }

    /// The last reference to the fd is gone: what waits is answered INVALID, and so is what comes.
    pub(crate) fn close(&self) {
        self.state.lock().close();
        if let Some(deadline) = self.deadline() {
            deadline.cancel();
        }
        let mut work = Work::to_the_end();
        while work.step().is_ok() {
            match self.oldest_source() {
                Some(source) => source.cancel(),
                None => break,
            }
        }
    }

    /// Gives back what a closed queue has taken. Bindings may keep the queue for as long as they
    /// last.
    pub(crate) fn free(&self) {
        let slots = self.state.lock().take_slots();
        drop(slots);
        let shares = self.shares.lock().take();
        drop(shares);
    }

    /// The source of the group that waits longest.
    fn oldest_source(&self) -> Option<Arc<Source>> {
        let state = self.state.lock();
        state.oldest().map(|pending| pending.source.clone())
    }
}

impl Expire for FaultQueue {
    fn deadline(&self) -> Option<&Deadline<Self>> {
        self.deadline.as_ref()
    }

    /// The deadline's timer: answers what is late, and comes again for what is left.
    fn expire(&self) {
        let mut work = Work::to_the_end();
        while work.step().is_ok() {
            let source = self
                .state
                .lock()
                .oldest()
                .filter(|pending| self.is_late(pending))
                .map(|pending| pending.source.clone());
            match source {
                Some(source) => source.expire(),
                None => break,
            }
        }
        let state = self.state.lock();
        let oldest = state.oldest().filter(|_| !state.closed());
        if let Some(since) = oldest.and_then(|oldest| oldest.since) {
            self.arm(&state, since.elapsed());
        }
    }
}
