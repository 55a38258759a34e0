// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of a context that the crate keeps itself, under one lock, and its fault queues as a
//! VMM reads them.

use super::queue::{answer_each, Answered, Asks, Queue};
use crate::capabilities::Stats;
use crate::fault::{FaultChannel, FaultRecord, ResponseRecord};
use crate::sys::Errno;
use nix::sys::eventfd::EventFd;
use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a backend keeps.
pub(super) trait Kept: fmt::Debug + Send + 'static {
    /// Who waits for a group.
    type Asker: Asks;

    /// The queue of that number.
    fn queue(&mut self, id: u64) -> Option<&mut Queue<Self::Asker>>;

    /// Makes the fd of each queue readable or not.
    fn signal(&mut self);

    /// Passes on the answer to a group that was read.
    fn resume(&mut self, queue: u64, asker: Self::Asker, success: bool);

    /// The last close of a queue.
    fn close(&mut self, queue: u64);

    /// What is counted. Numbers of the moment are not kept there.
    fn counters(&mut self) -> &mut Stats;
}

/// A state, and who waits for it to change.
#[derive(Debug, Default)]
pub(super) struct Shared<S> {
    state: Mutex<S>,
    changed: Condvar,
}

impl<S: Kept> Shared<S> {
    /// No method of a state panics half-way.
    fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the state, and tells those who wait.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut S) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state);
        state.signal();
        self.changed.notify_all();
        result
    }

    /// Has `act` say whether it changed something and how long to wait then, and waits for a change
    /// for that long. False, at once, if it says nothing.
    #[cfg(feature = "soft")]
    pub(super) fn pause(&self, act: impl FnOnce(&mut S) -> Option<(bool, Duration)>) -> bool {
        let mut state = self.lock();
        let Some((changed, limit)) = act(&mut state) else {
            return false;
        };
        // Nobody is woken up for nothing: two who pause would wake each other for ever.
        if changed {
            state.signal();
            self.changed.notify_all();
        }
        drop(self.changed.wait_timeout(state, limit));
        true
    }

    /// Waits until `act` gives something, for `limit` at most if there is one.
    pub(super) fn wait<T>(
        &self,
        limit: Option<Duration>,
        mut act: impl FnMut(&mut S) -> Option<T>,
    ) -> Option<T> {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = self.lock();
        loop {
            if let Some(result) = act(&mut state) {
                state.signal();
                self.changed.notify_all();
                return Some(result);
            }
            state = match end {
                None => {
                    let wait = self.changed.wait(state);
                    wait.unwrap_or_else(PoisonError::into_inner)
                }
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let wait = self.changed.wait_timeout(state, left);
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// A fault queue of a state.
#[derive(Debug)]
pub(super) struct Channel<S: Kept> {
    shared: Arc<Shared<S>>,
    id: u64,
    nonblocking: bool,
    event: Arc<EventFd>,
}

impl<S: Kept> Channel<S> {
    /// Queue `id`, which is closed when this goes; `event` says when it is readable.
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        id: u64,
        nonblocking: bool,
        event: Arc<EventFd>,
    ) -> Self {
        Self {
            shared,
            id,
            nonblocking,
            event,
        }
    }

    /// The number of a queue of this state.
    ///
    /// # Errors
    ///
    /// EINVAL for a queue of another.
    pub(super) fn id_in(shared: &Arc<Shared<S>>, channel: &dyn FaultChannel) -> Result<u64, Errno> {
        let ours = channel.as_any().downcast_ref::<Self>();
        ours.filter(|ours| Arc::ptr_eq(&ours.shared, shared))
            .map(|ours| ours.id)
            .ok_or(Errno::EINVAL)
    }
}

impl<S: Kept> AsFd for Channel<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl<S: Kept> FaultChannel for Channel<S> {
    fn read(&self, records: &mut [FaultRecord]) -> io::Result<usize> {
        let read = self.shared.wait(None, |state| {
            let Some(queue) = state.queue(self.id) else {
                return Some(Err(Errno::EBADF));
            };
            match queue.read(records) {
                Ok(None) if self.nonblocking => Some(Err(Errno::EAGAIN)),
                Ok(None) => None,
                Ok(Some(count)) => Some(Ok(count)),
                Err(errno) => Some(Err(errno)),
            }
        });
        Ok(read.unwrap_or(Err(Errno::EAGAIN))?)
    }

    fn write(&self, responses: &[ResponseRecord]) -> io::Result<usize> {
        answer_each(responses, |cookie, success| {
            self.shared
                .with(|state| answer(state, self.id, cookie, success))
        })
    }

    fn waits(&self) -> bool {
        !self.nonblocking
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<S: Kept> Drop for Channel<S> {
    fn drop(&mut self) {
        self.shared.with(|state| state.close(self.id));
    }
}

fn answer<S: Kept>(state: &mut S, id: u64, cookie: u64, success: bool) -> Result<(), Errno> {
    let queue = state.queue(id).ok_or(Errno::EBADF)?;
    match queue.answer(cookie)? {
        Answered::Pending(asker) => {
            count(&mut state.counters().responses, 1);
            state.resume(id, asker, success);
        }
        Answered::Late => count(&mut state.counters().late_responses, 1),
    }
    Ok(())
}

/// Counts; a counter that is full stays so.
pub(super) fn count(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more);
}
