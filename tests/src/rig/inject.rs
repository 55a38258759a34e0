// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Allocations that fail (Linux Documentation/fault-injection/fault-injection.rst, fail-nth).

use crate::ktap::{skip, Outcome};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const NTH: &str = "/proc/thread-self/fail-nth";
const DEBUGFS: &str = "/sys/kernel/debug";

/// Lets every kernel allocation of this thread be one that fails, silently.
///
/// # Errors
///
/// A skip on a kernel without fault injection.
pub fn prepare_injection() -> Outcome {
    if !Path::new(NTH).exists() || !Path::new(DEBUGFS).join("failslab").exists() {
        return skip("the kernel injects no failures (CONFIG_FAULT_INJECTION)");
    }
    for kind in ["failslab", "fail_page_alloc"] {
        let folder = Path::new(DEBUGFS).join(kind);
        fs::write(folder.join("verbose"), "0")?;
        fs::write(folder.join("ignore-gfp-wait"), "N")?;
    }
    fs::write(Path::new(DEBUGFS).join("fail_page_alloc/min-order"), "0")?;
    Ok(())
}

/// Runs `call` with the `nth` allocation (from 1) of this thread failing. True beside its value
/// says that one did fail; else there were fewer.
///
/// # Errors
///
/// If the kernel cannot be told.
pub fn with_nth_failing<T>(nth: u32, call: impl FnOnce() -> T) -> io::Result<(T, bool)> {
    // Open from before to after: nothing but the call may allocate.
    let file = File::options().read(true).write(true).open(NTH)?;
    let text = nth.to_string();
    let mut left = [0; 16];
    file.write_at(text.as_bytes(), 0)?;
    let value = call();
    let count = file.read_at(&mut left, 0)?;
    file.write_at(b"0", 0)?;
    let failed = left.get(..count) == Some(b"0\n");
    Ok((value, failed))
}
