// SPDX-License-Identifier: GPL-2.0
//! What a fault queue tells those who use it.
//!
//! Needs nothing at all, so that the same source is tested under cargo.

#[allow(unused_imports, reason = "the documentation names it")]
use super::State;

/// What a reader gets next.
pub(crate) enum Next<R> {
    /// That many records were answered INVALID for want of room. [`State::told`] or
    /// [`State::unlost`] must follow.
    Overflow(u64),
    /// A group's records. [`State::delivered`] or [`State::undelivered`] must follow.
    Group {
        /// The group's cookie.
        cookie: u64,
        /// What to copy.
        records: R,
    },
    /// The group of this cookie needs no answer any more. [`State::delivered`] or
    /// [`State::unannounced`] must follow.
    Cancelled(u64),
    /// The group of that cookie was answered by the host after its deadline.
    /// [`State::delivered`] or [`State::unannounced`] must follow.
    Expired(u64),
    /// What needs no answer. [`State::delivered`] or [`State::undelivered`] must follow.
    Note {
        /// Names it until it is delivered, and is nobody's to answer.
        cookie: u64,
        /// What to copy.
        records: R,
    },
}

/// How full a queue is, in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Most that may wait.
    pub(crate) depth: u32,
    /// Those that wait.
    pub(crate) waiting: u32,
    /// Those lost that no reader knows of yet.
    pub(crate) lost: u64,
}

/// A group that was not taken in, and its records.
pub(crate) struct Refusal<G, R> {
    /// Why.
    pub(crate) why: Refused,
    /// The group.
    pub(crate) group: G,
    /// Its records.
    pub(crate) records: R,
}

/// Why a group was not taken into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The depth is reached; the loss is counted.
    Full,
    /// Nobody can read any more.
    Closed,
}

/// What an answer's cookie names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// A group that waits for its answer.
    Pending,
    /// A group that was answered, cancelled or expired.
    Late,
    /// No group that a reader was given.
    Unknown,
}
