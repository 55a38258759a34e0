// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest kernel's log and its trace.

use host_iommu_tests::kmsg;
use host_iommu_tests::ktap::{fail, Outcome};
use std::fs;

/// What no guest may say.
const BAD: [&str; 6] = [
    "WARNING:",
    "BUG:",
    "Oops:",
    "Call Trace:",
    "Invalidation Time-out",
    "Invalidation Queue Error",
];

/// Fails if a line is bad, or has all of these words.
pub fn expect_none_of(words: &[&str]) -> Outcome {
    let text = kmsg::text()?;
    let has_words = |line: &str| !words.is_empty() && words.iter().all(|word| line.contains(word));
    let bad = |line: &&str| BAD.iter().any(|bad| line.contains(bad)) || has_words(line);
    text.lines().find(bad).map_or(Ok(()), fail)
}

const EVENTS: &str = "/sys/kernel/tracing";

/// Has the kernel count the page requests that its VT-d driver takes from the queue. False where
/// it has no tracing.
pub fn watch_page_requests(on: bool) -> bool {
    let event = format!("{EVENTS}/events/intel_iommu/prq_report/enable");
    fs::write(format!("{EVENTS}/trace"), "").is_ok()
        && fs::write(event, if on { "1" } else { "0" }).is_ok()
}

/// The page requests since [`watch_page_requests`].
pub fn page_requests() -> Outcome<usize> {
    let trace = fs::read_to_string(format!("{EVENTS}/trace"))?;
    Ok(trace
        .lines()
        .filter(|line| line.contains("prq_report:"))
        .count())
}
