// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For tests: a child that has its parent's memory, as fork leaves it.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child of `command` wait, between fork and exec, until a byte comes by `gate`. Until
/// then parent and child share memory, each page of it copied when either writes to it.
pub fn wait_before_exec(command: &mut Command, gate: UnixStream) {
    let wait = move || (&gate).read_exact(&mut [0]);
    // SAFETY: the closure makes the system call read alone, which is safe in a child of a process
    // with threads (signal-safety(7)); it allocates nothing.
    unsafe { command.pre_exec(wait) };
}
