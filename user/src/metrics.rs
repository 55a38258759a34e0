// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a VMM's hold on a context counts itself, beside the counters of the host.

use crate::error::{Error, Result};
use crate::fault::FaultEvent;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Steps of [`Latencies`]: the last but one ends after 2^30 microseconds, 18 minutes.
const STEPS: usize = 32;

/// How long calls took, as a histogram whose bounds are powers of two of microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Latencies {
    counts: [u64; STEPS],
    sum: Duration,
    longest: Duration,
}

/// The upper bound of a step, inclusive.
fn bound(step: usize) -> Duration {
    match step {
        0..=30 => Duration::from_micros(1 << step),
        _ => Duration::MAX,
    }
}

impl Latencies {
    fn note(&mut self, took: Duration) {
        let step = (0..STEPS).find(|&step| took <= bound(step));
        if let Some(count) = step.and_then(|step| self.counts.get_mut(step)) {
            *count = count.saturating_add(1);
        }
        self.sum = self.sum.saturating_add(took);
        self.longest = self.longest.max(took);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        let add = |sum: u64, &count| sum.saturating_add(count);
        self.counts.iter().fold(0, add)
    }

    /// How long all of them took together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// How long the longest took; zero if there was none.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// Each step in ascending order: its upper bound, inclusive, and how many took no longer than
    /// that and longer than the bound before. The first bound is one microsecond, each further one
    /// is twice the one before, and the last is [`Duration::MAX`].
    pub fn steps(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let steps = self.counts.iter().enumerate();
        steps.map(|(step, &count)| (bound(step), count))
    }
}

/// What a [`HostIommu`](crate::HostIommu) and its clones have done since it was made, and what came
/// to its fault queues. [`Stats`](crate::Stats) has the counters of the host, which sees what
/// others do with the context too.
///
/// All numbers but those of [`Latencies`] only grow. A VMM reads them as often as it likes and hands
/// them to whatever it measures with:
///
/// ```
/// use host_iommu::Metrics;
///
/// fn publish(metrics: &Metrics, mut gauge: impl FnMut(String, u64)) {
///     gauge("bindings_made".to_owned(), metrics.bound);
///     for (errno, count) in &metrics.refused {
///         gauge(format!("bindings_refused{{errno=\"{errno}\"}}"), *count);
///     }
///     let mut answered = 0;
///     for (bound, count) in metrics.answers.steps() {
///         answered += count;
///         gauge(format!("page_requests_answered{{le=\"{bound:?}\"}}"), answered);
///     }
/// }
/// # publish(&Metrics::default(), |_, _| ());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Metrics {
    /// Bindings made, at PASIDs and at RIDs.
    pub bound: u64,
    /// Bindings replaced by another in one step.
    pub replaced: u64,
    /// Bindings and replacements that were refused, by the error number of the host's call; 0 for
    /// those that this crate refused itself, such as [`Error::GuestPasidBound`].
    pub refused: BTreeMap<i32, u64>,
    /// Invalidation entries that were handed to the host.
    pub flushed_entries: u64,
    /// Calls that invalidate, those that failed among them.
    pub flushes: Latencies,
    /// Calls that invalidate and failed.
    pub failed_flushes: u64,
    /// Page request groups that were read.
    pub groups: u64,
    /// Page requests of these groups.
    pub page_requests: u64,
    /// Page request groups that were answered through this crate, dropped ones among them: from the
    /// read to the answer.
    pub answers: Latencies,
    /// Groups that were cancelled after they had been read.
    pub cancelled: u64,
    /// Groups whose deadline passed after they had been read.
    pub expired: u64,
    /// Page requests that a full queue has lost.
    pub lost: u64,
    /// DMA faults that were read.
    pub dma_faults: u64,
}

/// Where it is counted: shared by a context's holds and its fault queues.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(Arc<Mutex<Metrics>>);

fn more(counter: &mut u64, by: usize) {
    *counter = counter.saturating_add(by as u64);
}

impl Counted {
    fn with<T>(&self, act: impl FnOnce(&mut Metrics) -> T) -> T {
        // Counters are whole whatever a thread that panicked was doing.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn snapshot(&self) -> Metrics {
        self.with(|metrics| metrics.clone())
    }

    /// A binding was made or refused.
    pub(crate) fn bind<T>(&self, result: &Result<T>, replaced: bool) {
        self.with(|metrics| match result {
            Ok(_) if replaced => more(&mut metrics.replaced, 1),
            Ok(_) => more(&mut metrics.bound, 1),
            Err(error) => {
                let errno = error.errno().unwrap_or(0);
                more(metrics.refused.entry(errno).or_default(), 1);
            }
        });
    }

    pub(crate) fn flush(&self, result: &Result<()>, entries: usize, took: Duration) {
        self.with(|metrics| {
            metrics.flushes.note(took);
            match result {
                Ok(()) => more(&mut metrics.flushed_entries, entries),
                Err(error) => {
                    more(&mut metrics.failed_flushes, 1);
                    if let Error::Flush { index, .. } = error {
                        more(&mut metrics.flushed_entries, *index);
                    }
                }
            }
        });
    }

    pub(crate) fn events(&self, events: &[FaultEvent]) {
        self.with(|metrics| {
            for event in events {
                match event {
                    FaultEvent::PageRequests(group) => {
                        more(&mut metrics.groups, 1);
                        more(&mut metrics.page_requests, group.requests().len());
                    }
                    FaultEvent::Dma(_) => more(&mut metrics.dma_faults, 1),
                    FaultEvent::Overflow(lost) => {
                        metrics.lost = metrics.lost.saturating_add(*lost);
                    }
                    FaultEvent::Cancelled(_) => more(&mut metrics.cancelled, 1),
                    FaultEvent::Expired(_) => more(&mut metrics.expired, 1),
                }
            }
        });
    }

    pub(crate) fn answer(&self, took: Duration) {
        self.with(|metrics| metrics.answers.note(took));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_counted_by_the_bound_that_holds_them() {
        let mut latencies = Latencies::default();
        let micros = [0, 1, 2, 3, 4, 1 << 30, 1 << 31];
        for took in micros {
            latencies.note(Duration::from_micros(took));
        }
        let steps: Vec<(Duration, u64)> = latencies.steps().filter(|step| step.1 != 0).collect();
        let expected = [(1, 2), (2, 1), (4, 2), (1 << 30, 1)];
        let expected = expected.map(|(bound, count)| (Duration::from_micros(bound), count));
        assert_eq!(steps[..4], expected);
        assert_eq!(steps[4..], [(Duration::MAX, 1)]);
        assert_eq!(latencies.count(), 7);
        assert_eq!(latencies.longest(), Duration::from_micros(1 << 31));
        assert_eq!(latencies.sum(), Duration::from_micros(micros.iter().sum()));
    }
}
