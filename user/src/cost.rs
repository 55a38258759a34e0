// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What something costs by the number of things it touches, for tests.

use nix::time::{clock_gettime, ClockId};
use std::time::Duration;

/// How long this thread has been on a CPU, whatever else the machine does.
fn on_cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    Duration::from(time.expect("the thread's clock"))
}

/// Expects the cost of 16,000 to be about 16 times that of 1,000, and not 256 times. `make` sets up
/// so many, `act` is what is measured.
pub(crate) fn expect_linear<T>(make: impl Fn(usize) -> T, act: impl Fn(&mut T)) {
    let cost = |count| {
        let once = || {
            let mut made = make(count);
            let start = on_cpu();
            act(&mut made);
            on_cpu().saturating_sub(start)
        };
        (0..5).map(|_| once()).min().unwrap_or_default()
    };
    let (few, many) = (cost(1_000), cost(16_000));
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    assert!(ratio < 90.0, "{few:?} for 1,000 and {many:?} for 16,000");
}
