// SPDX-License-Identifier: GPL-2.0
//! The fault fd: read, write, poll and the last close.

use super::queue::{Cookie, Next, Refused, Slot, State, MAX_SLOTS};
use super::{Counters, Source};
use crate::ffi::iopf::{PageGroup, Response};
use crate::ffi::uapi;
use crate::ffi::user::Pointer;
use core::mem::size_of;
use kernel::fs::File;
use kernel::new_poll_condvar;
use kernel::prelude::*;
use kernel::sync::poll::{PollCondVar, PollTable};
use kernel::sync::{new_mutex, new_spinlock, Arc, Mutex, SpinLock};

const _: () = assert!(uapi::VFIO_IOASID_FAULT_DEPTH_MAX as usize <= MAX_SLOTS);

/// The records of one group.
pub(super) type Records = KVec<uapi::vfio_ioasid_fault>;

type Slots = KVVec<Slot<Pending, Records>>;

const RECORD: usize = size_of::<uapi::vfio_ioasid_fault>();
const RESPONSE: usize = size_of::<uapi::vfio_ioasid_fault_response>();

/// A group that waits, and the source that asked.
pub(super) struct Pending {
    pub(super) group: PageGroup,
    pub(super) source: Arc<Source>,
}

/// What poll says.
pub(crate) struct Ready {
    /// A read would not block.
    pub(crate) readable: bool,
    /// The container lives.
    pub(crate) writable: bool,
    /// The container is gone.
    pub(crate) ended: bool,
}

/// The queue behind a fault fd.
#[pin_data]
pub(crate) struct FaultQueue {
    container: u64,
    counters: Arc<Counters>,
    /// Held by a reader from the moment it takes a group until its user has it.
    #[pin]
    reader: Mutex<()>,
    /// A leaf: taken in the page request thread.
    #[pin]
    state: SpinLock<State<Slots>>,
    #[pin]
    changed: PollCondVar,
}

impl FaultQueue {
    /// Depth of a queue whose user did not choose, for each attached device: Linux grants a
    /// device that many page requests in flight at most (`PRQ_DEPTH` of intel/iommu.h).
    pub(crate) const DEPTH_PER_DEVICE: u32 = 2048;

    /// A queue of container number `container` for `depth` records.
    pub(crate) fn new(container: u64, counters: Arc<Counters>, depth: u32) -> Result<Arc<Self>> {
        let mut slots = Slots::with_capacity(depth as usize, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..depth {
            slots.push(Slot::free(), GFP_KERNEL_ACCOUNT)?;
        }
        let state = State::new(slots).ok_or(EINVAL)?;
        Arc::pin_init(
            pin_init!(Self {
                container,
                counters,
                reader <- new_mutex!((), "FaultQueue::reader"),
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

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
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
    ) -> Result<(), (Refused, Pending)> {
        // CAST: a group has GROUP_MAX records at most.
        let weight = records.len() as u32;
        let result = self
            .state
            .lock()
            .push(pending, weight, records, |records, cookie| {
                for record in records.iter_mut() {
                    record.cookie = cookie;
                }
            });
        self.changed.notify_all();
        result.map_err(|(reason, pending, _records)| (reason, pending))
    }

    /// Counts records that could not be taken in.
    pub(super) fn lose(&self, records: u64) {
        self.state.lock().lose(records);
        self.changed.notify_all();
    }

    /// Takes one group out for the host's answer. The caller holds its source's responder.
    pub(super) fn take_next(
        &self,
        from: &mut usize,
        wanted: impl Fn(&Pending) -> bool,
    ) -> Option<Pending> {
        let taken = self.state.lock().take_where(from, wanted);
        self.changed.notify_all();
        taken
    }

    /// Copies whole groups to the user's `len` bytes at `buf`.
    pub(crate) fn read(&self, buf: Pointer, len: usize, nonblocking: bool) -> Result<usize> {
        let mut done = 0;
        loop {
            {
                let _reader = self.reader.lock();
                while let Some(bytes) = match self.read_one(buf, done, len) {
                    Ok(read) => read,
                    Err(_) if done != 0 => return Ok(done),
                    Err(error) => return Err(error),
                } {
                    done += bytes;
                }
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

    /// Copies the next group; `None` if there is none. The reader is held.
    fn read_one(&self, buf: Pointer, done: usize, len: usize) -> Result<Option<usize>> {
        let room = (len - done) / RECORD;
        let next = self
            .state
            .lock()
            .next(|records| records.map_or(1, |records| records.len().max(1)) <= room)
            .map_err(|()| EINVAL)?;
        let at = buf.offset(done)?;
        match next {
            None => Ok(None),
            Some(Next::Overflow(lost)) => {
                let record = uapi::vfio_ioasid_fault {
                    kind: uapi::VFIO_IOASID_FAULT_OVERFLOW,
                    addr: lost,
                    ..Default::default()
                };
                at.write(&record)
                    .inspect_err(|_| self.state.lock().unlost(lost))?;
                Ok(Some(RECORD))
            }
            Some(Next::Cancelled(cookie)) => {
                let record = uapi::vfio_ioasid_fault {
                    kind: uapi::VFIO_IOASID_FAULT_CANCELLED,
                    cookie,
                    ..Default::default()
                };
                at.write(&record)
                    .inspect_err(|_| self.state.lock().unannounced(cookie))?;
                self.state.lock().delivered(cookie);
                Ok(Some(RECORD))
            }
            Some(Next::Group { cookie, records }) => {
                let copied = records
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, record)| at.offset(index * RECORD)?.write(record));
                match copied {
                    Ok(()) => {
                        self.state.lock().delivered(cookie);
                        self.changed.notify_all();
                        Ok(Some(records.len() * RECORD))
                    }
                    Err(error) => {
                        self.state.lock().undelivered(cookie, records);
                        Err(error)
                    }
                }
            }
        }
    }

    /// Takes the answers in the user's `len` bytes at `buf`.
    pub(crate) fn write(&self, buf: Pointer, len: usize) -> Result<usize> {
        if len == 0 || len % RESPONSE != 0 {
            return Err(EINVAL);
        }
        let mut done = 0;
        while done < len {
            let answered = buf
                .offset(done)
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
    fn answer(&self, response: uapi::vfio_ioasid_fault_response) -> Result {
        let code = match response.code {
            uapi::VFIO_IOASID_RESPONSE_SUCCESS => Response::Success,
            uapi::VFIO_IOASID_RESPONSE_INVALID => Response::Invalid,
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
            let _responder = source.responder.lock();
            let taken = self.state.lock().take(response.cookie);
            if let Some(pending) = taken {
                pending.group.respond(code);
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
}

/// The last reference to the fd is gone: what waits is answered INVALID, and so is what
/// comes.
pub(crate) fn close(queue: Arc<FaultQueue>) {
    queue.state.lock().close();
    loop {
        let source = queue
            .state
            .lock()
            .any()
            .map(|pending| pending.source.clone());
        match source {
            Some(source) => source.cancel(),
            None => break,
        }
    }
    crate::container::forget_queue(&queue);
}
