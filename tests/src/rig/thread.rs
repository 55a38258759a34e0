// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A thread that sleeps in a system call, and the proof that it does.

use super::check::wait_until;
use crate::ktap::{fail, Outcome};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};

/// A thread that makes one system call.
#[derive(Debug)]
pub struct Asleep<T> {
    thread: JoinHandle<()>,
    result: Receiver<T>,
    id: i32,
    call: u32,
}

impl<T: Send + 'static> Asleep<T> {
    /// Starts a thread whose `body` sleeps in system call number `call`.
    ///
    /// # Errors
    ///
    /// If the thread dies at once.
    pub(super) fn start(call: u32, body: impl FnOnce() -> T + Send + 'static) -> Outcome<Self> {
        let (say_id, id) = mpsc::channel();
        let (say_result, result) = mpsc::channel();
        let thread = thread::spawn(move || {
            // A receiver that is gone is no concern of the thread.
            let _ = say_id.send(nix::unistd::gettid().as_raw());
            let _ = say_result.send(body());
        });
        let id = id.recv()?;
        Ok(Self {
            thread,
            result,
            id,
            call,
        })
    }

    /// Waits until the kernel has the thread asleep in the system call, so that a signal would
    /// wake it.
    ///
    /// # Errors
    ///
    /// If it is not within the deadline.
    pub fn wait_until_asleep(&self) -> Outcome {
        let path = format!("/proc/self/task/{}/syscall", self.id);
        let stat = format!("/proc/self/task/{}/stat", self.id);
        let wanted = self.call.to_string();
        wait_until("a thread asleep in its call", || {
            // "running", or the number of the call and its arguments.
            let text = std::fs::read_to_string(&path)?;
            let in_call = text.split_whitespace().next() == Some(wanted.as_str());
            // Behind the name, which is in parentheses: S can be woken, D cannot.
            let text = std::fs::read_to_string(&stat)?;
            Ok(in_call
                && text
                    .rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.starts_with(" S")))
        })
    }

    /// Waits for the thread's end.
    ///
    /// # Errors
    ///
    /// If it does not end within the deadline; the thread is left behind then.
    pub fn join(self) -> Outcome<T> {
        match self.result.recv_timeout(super::DEADLINE) {
            Ok(result) => match self.thread.join() {
                Ok(()) => Ok(result),
                Err(_) => fail("the thread panicked"),
            },
            Err(RecvTimeoutError::Timeout) => fail("the thread did not wake"),
            Err(RecvTimeoutError::Disconnected) => fail("the thread panicked"),
        }
    }
}
