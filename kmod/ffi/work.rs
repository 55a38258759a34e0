// SPDX-License-Identifier: GPL-2.0
//! Work whose length a user chooses.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use super::shim;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// Steps between two looks at the task: some microseconds, for a step is a look-up or a copy.
const STEPS: u32 = 64;

/// The steps of one call, which every loop takes whose length a user chooses.
///
/// The task gives way to others every [`STEPS`] steps. A call ends there if its task was killed; a
/// teardown does not.
pub(crate) struct Work {
    steps: u32,
    killable: bool,
    /// The value looks at the current task, so it stays in the task that made it.
    _task: NotThreadSafe,
}

impl Work {
    /// That of a user's call, which ends when the task is killed. The context may sleep.
    pub(crate) fn of_call() -> Self {
        Self::new(true)
    }

    /// That of a teardown, which goes to its end: [`Work::step`] and [`Work::look`] do not fail.
    /// The context may sleep.
    pub(crate) fn to_the_end() -> Self {
        Self::new(false)
    }

    fn new(killable: bool) -> Self {
        Self {
            steps: 0,
            killable,
            _task: NotThreadSafe,
        }
    }

    /// Counts a step, which takes a microsecond or less.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came.
    pub(crate) fn step(&mut self) -> Result {
        self.steps += 1;
        if self.steps < STEPS {
            return Ok(());
        }
        self.look()
    }

    /// Gives way to others now: before a step that takes longer.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came.
    pub(crate) fn look(&mut self) -> Result {
        self.steps = 0;
        // SAFETY: No requirements: it looks at the current task, and may sleep, as `Mutex::lock`.
        let alive = unsafe { shim::ioasid_yield_unless_killed() };
        if alive || !self.killable {
            Ok(())
        } else {
            Err(EINTR)
        }
    }
}
