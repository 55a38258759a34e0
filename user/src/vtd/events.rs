// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit tells its VMM.

use super::faults::QueueStop;
use super::registers::Msi;
use super::source::SourceId;
use crate::error::Error;
use crate::fault::FaultGroup;
use crate::trace::tell;
use std::fmt;

/// What a unit tells its VMM. No lock of the unit is held during these calls, but the unit's work may
/// wait for them: they may read and write its registers, and must not plug, reset, save or restore.
pub trait VtdEvents: fmt::Debug + Send + Sync {
    /// Required. The guest is to be interrupted.
    fn interrupt(&self, message: Msi);

    /// Required. There is work left: [`Vtd::run`](super::Vtd::run) is to be called soon, from any
    /// thread.
    fn work_left(&self);

    /// Optional: the unit did something that whoever looks into the VMM wants to know. Ignored by
    /// default; the feature `tracing` tells the same.
    fn event(&self, event: &VtdEvent) {
        let _ = event;
    }
}

/// Something that a unit did.
#[derive(Debug)]
#[non_exhaustive]
pub enum VtdEvent {
    /// The host did not carry out what the guest's entry asks for. The requests of the PASID, or
    /// those without PASID if that is `None`, are stopped.
    BindingRefused {
        /// The function.
        source: SourceId,
        /// The guest's PASID.
        pasid: Option<u32>,
        /// What the host said.
        error: Error,
    },
    /// The guest's entries stop the requests of a PASID, or those without PASID if that is `None`.
    /// An entry of a PASID that is only absent is not told.
    EntryStopped {
        /// The function.
        source: SourceId,
        /// The guest's PASID.
        pasid: Option<u32>,
        /// The reason that a fault record would have (VT-d 4.1, 7.1.3).
        reason: u8,
    },
    /// The host did not drop the translations that the guest has invalidated.
    FlushFailed {
        /// The function.
        source: SourceId,
        /// The guest's PASID.
        pasid: Option<u32>,
        /// What the host said.
        error: Error,
    },
    /// The invalidation queue stopped, until the guest clears FSTS (VT-d 4.1, 11.4.7.1).
    QueueStopped {
        /// Why.
        why: QueueStop,
    },
    /// A request that was stopped stands in the guest's fault registers (VT-d 4.1, 7.3 and 11.4.14).
    /// What the guest has no room for is only counted, in [`VtdStats::faults_lost`](super::VtdStats::faults_lost).
    FaultRecorded {
        /// The function.
        source: SourceId,
        /// The guest's PASID.
        pasid: Option<u32>,
        /// The address. Of an interrupt that was blocked, bits 63:48 have the index of its entry.
        address: u64,
        /// It was to write.
        write: bool,
        /// Why (VT-d 4.1, 7.1.3).
        reason: u8,
    },
    /// The guest has changed how interrupts are remapped: the VMM's routes are to be made again by
    /// [`Vtd::remap`](super::Vtd::remap).
    InterruptsChanged {
        /// The first and the last of the entries that have changed, or all if `None`.
        entries: Option<(u16, u16)>,
    },
    /// A page request group was answered INVALID, and the guest was not asked.
    PageRequestRefused {
        /// The function.
        source: SourceId,
        /// The guest's PASID.
        pasid: Option<u32>,
        /// Why.
        why: &'static str,
    },
    /// Translation was turned on (GSTS.TES) or off.
    Translation {
        /// It is on.
        on: bool,
    },
}

/// Requests of a function, as events name them.
struct Requests(SourceId, Option<u32>);

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(pasid) => write!(f, "requests of {} with PASID {pasid}", self.0),
            None => write!(f, "requests of {} without PASID", self.0),
        }
    }
}

/// The error with what caused it.
fn chain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl fmt::Display for VtdEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BindingRefused {
                source,
                pasid,
                error,
            } => write!(
                f,
                "{} are stopped: {}",
                Requests(*source, *pasid),
                chain(error)
            ),
            Self::EntryStopped {
                source,
                pasid,
                reason,
            } => write!(
                f,
                "{} are stopped by the guest's entry: reason {reason:#x}, {}",
                Requests(*source, *pasid),
                super::reasons::text(*reason)
            ),
            Self::FlushFailed {
                source,
                pasid,
                error,
            } => write!(
                f,
                "{} were not invalidated: {}",
                Requests(*source, *pasid),
                chain(error)
            ),
            Self::FaultRecorded {
                source,
                pasid,
                address,
                write,
                reason,
            } => write!(
                f,
                "a fault of {} was recorded: {} at {address:#x}, reason {reason:#x}, {}",
                Requests(*source, *pasid),
                if *write { "a write" } else { "a read" },
                super::reasons::text(*reason)
            ),
            Self::QueueStopped { why } => write!(f, "the invalidation queue stopped: {why}"),
            Self::InterruptsChanged {
                entries: Some((first, last)),
            } => write!(f, "entries {first} to {last} of interrupts have changed"),
            Self::InterruptsChanged { entries: None } => {
                f.write_str("all entries of interrupts have changed")
            }
            Self::PageRequestRefused { source, pasid, why } => write!(
                f,
                "a page request among {} was answered INVALID: {why}",
                Requests(*source, *pasid)
            ),
            Self::Translation { on: true } => f.write_str("translation is on"),
            Self::Translation { on: false } => f.write_str("translation is off"),
        }
    }
}

/// What is due to the VMM, and sent when no lock is held.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: Vec<Msi>,
    events: Vec<VtdEvent>,
    groups: Vec<FaultGroup>,
}

impl Outbox {
    pub(super) fn interrupt(&mut self, message: Option<Msi>) {
        self.messages.extend(message);
    }

    pub(super) fn event(&mut self, event: VtdEvent) {
        self.events.push(event);
    }

    /// A page request group is answered INVALID, by a call of the host.
    pub(super) fn give_up(&mut self, group: FaultGroup) {
        self.groups.push(group);
    }

    /// Sends what is due.
    pub(super) fn send(self, to: &dyn VtdEvents) {
        for event in &self.events {
            tell!(debug, "{event}");
            to.event(event);
        }
        for message in self.messages {
            to.interrupt(message);
        }
        drop(self.groups);
    }
}
