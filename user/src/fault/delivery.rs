// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose turn it is to hand on what a queue gives.
//!
//! What was read and not handed on is known to nobody else. Whoever delivers to be sure that the
//! events before a moment have arrived has to wait until another thread has handed on what it read.

use super::FaultEvent;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

#[derive(Debug, Default)]
struct State {
    /// The thread that reads and hands on.
    owner: Option<ThreadId>,
    /// What it has read, in order: one read's events at most.
    read: VecDeque<FaultEvent>,
}

/// The deliveries of a queue, one thread at a time.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    state: Mutex<State>,
    over: Condvar,
}

/// A thread's turn.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    delivery: &'a Delivery,
    /// It is inside a delivery of the same thread, from a call that hands an event on.
    nested: bool,
}

impl Delivery {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for other threads' turns.
    pub(crate) fn turn(&self) -> Turn<'_> {
        let this = thread::current().id();
        let mut state = self.state();
        while state.owner.is_some_and(|owner| owner != this) {
            let waited = self.over.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let nested = state.owner.replace(this).is_some();
        Turn {
            delivery: self,
            nested,
        }
    }
}

impl Turn<'_> {
    /// Events that were read.
    pub(crate) fn put(&self, events: Vec<FaultEvent>) {
        self.delivery.state().read.extend(events);
    }

    /// The next that is to be handed on.
    pub(crate) fn next(&self) -> Option<FaultEvent> {
        self.delivery.state().read.pop_front()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.nested {
            self.delivery.state().owner = None;
            self.delivery.over.notify_all();
        }
    }
}
