// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The log of the kernel that this runs on.

use crate::ktap::Outcome;
use nix::libc::{EPIPE, O_NONBLOCK};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

/// What the kernel remembers of it, a record a line.
pub fn text() -> Outcome<String> {
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
            Err(error) if error.raw_os_error() == Some(EPIPE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
