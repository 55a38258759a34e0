// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a test expects.

use super::{Called, Done};
use crate::ktap::{fail, Outcome};
use host_iommu_sys::Errno;
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// What takes longer hangs: thousands of times what it takes on the slowest machine.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// An address that no process of x86-64 has: it is not canonical.
pub const INACCESSIBLE: u64 = 0x0100_0000_0000_0000;

/// Expects a call to fail with `errno`.
#[track_caller]
pub fn expect_errno<T: Debug>(result: Called<T>, errno: Errno, what: &str) {
    match result {
        Ok(value) => panic!("{what}: expected {errno:?}, but it succeeded: {value:?}"),
        Err(error) => assert_eq!(error.errno, errno, "{what}: errno of {}", error.call),
    }
}

/// Expects success.
#[track_caller]
pub fn expect_ok<T, E: Debug>(result: Result<T, E>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

/// Expects an order of the endpoint to end so.
#[track_caller]
pub fn expect_status(done: Done, status: u32, what: &str) {
    assert!(
        done.status == status,
        "{what}: status {:#x} instead of {status:#x}, result {:#x}",
        done.status,
        done.result
    );
}

/// Waits until `reached` says so.
///
/// # Errors
///
/// If it does not within [`DEADLINE`].
pub(super) fn wait_until(what: &str, mut reached: impl FnMut() -> Outcome<bool>) -> Outcome {
    let end = Instant::now() + DEADLINE;
    while !reached()? {
        if Instant::now() > end {
            return fail(format!("{what}: not within {} s", DEADLINE.as_secs()));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
