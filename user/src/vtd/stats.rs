// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counters of a unit.

/// What a unit has done since it was made. Each counter stops at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VtdStats {
    /// PASIDs, and devices' requests without PASID, that were bound or bound anew.
    pub bindings_made: u64,
    /// What the host refused to bind: the requests were stopped.
    pub bindings_refused: u64,
    /// Entries of the guest's that stop requests, each time the unit looked at one.
    pub entries_stopped: u64,
    /// Descriptors of the invalidation queue that were taken.
    pub descriptors: u64,
    /// Wait descriptors that were done.
    pub waits: u64,
    /// Invalidations that the host was asked for: calls, and the entries in them.
    pub flush_calls: u64,
    /// Entries of these.
    pub flush_entries: u64,
    /// Calls of these that failed.
    pub flushes_failed: u64,
    /// Times that the invalidation queue stopped at an error.
    pub queue_stops: u64,
    /// Faults of requests that were recorded.
    pub faults: u64,
    /// Faults that there was no record free for.
    pub faults_lost: u64,
    /// Page request groups that were put into the guest's queue.
    pub page_requests: u64,
    /// Page request groups that were answered INVALID without the guest.
    pub page_requests_refused: u64,
    /// Interrupts that were remapped.
    pub interrupts_remapped: u64,
    /// Interrupts that were blocked.
    pub interrupts_blocked: u64,
}

impl VtdStats {
    /// Adds what was counted elsewhere, which then counts from zero.
    pub(super) fn take(&mut self, from: &mut Self) {
        let from = std::mem::take(from);
        let Self {
            bindings_made,
            bindings_refused,
            entries_stopped,
            descriptors,
            waits,
            flush_calls,
            flush_entries,
            flushes_failed,
            queue_stops,
            faults,
            faults_lost,
            page_requests,
            page_requests_refused,
            interrupts_remapped,
            interrupts_blocked,
        } = self;
        for (counter, more) in [
            (bindings_made, from.bindings_made),
            (bindings_refused, from.bindings_refused),
            (entries_stopped, from.entries_stopped),
            (descriptors, from.descriptors),
            (waits, from.waits),
            (flush_calls, from.flush_calls),
            (flush_entries, from.flush_entries),
            (flushes_failed, from.flushes_failed),
            (queue_stops, from.queue_stops),
            (faults, from.faults),
            (faults_lost, from.faults_lost),
            (page_requests, from.page_requests),
            (page_requests_refused, from.page_requests_refused),
            (interrupts_remapped, from.interrupts_remapped),
            (interrupts_blocked, from.interrupts_blocked),
        ] {
            *counter = counter.saturating_add(more);
        }
    }
}
