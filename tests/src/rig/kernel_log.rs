// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the kernel says while a test runs.

use crate::ktap::Outcome;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// The kernel's log from now on.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn from_now() -> Outcome<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// The lines so far that complain.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn complaints(&mut self) -> Outcome<Vec<String>> {
        self.lines_with(&["WARNING:", "BUG:", "Oops"])
    }

    /// The lines so far that have one of the words.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn lines_with(&mut self, words: &[&str]) -> Outcome<Vec<String>> {
        let mut found = Vec::new();
        let mut record = vec![0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(&record[..count]).into_owned();
                    if words.iter().any(|word| text.contains(word)) {
                        found.push(text);
                    }
                }
                // Records that were overwritten before they were read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(found),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
