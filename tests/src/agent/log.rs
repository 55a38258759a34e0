// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest kernel's log and its trace.

use host_iommu_tests::ktap::{fail, Outcome};
use nix::libc::O_NONBLOCK;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

/// What no guest may say.
const BAD: [&str; 6] = [
    "WARNING:",
    "BUG:",
    "Oops:",
    "Call Trace:",
    "Invalidation Time-out",
    "Invalidation Queue Error",
];

/// The log since boot.
fn text() -> Outcome<String> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut log = String::new();
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(log),
            Ok(length) => log.push_str(&String::from_utf8_lossy(&record[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(log),
            // Records were overwritten while we read.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Fails if a line is bad, or has all of these words.
pub fn expect_none_of(words: &[&str]) -> Outcome {
    let text = text()?;
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
