// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's monitor, which the machine has on a virtio port.

use crate::ktap::{fail, skip, Outcome};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// QEMU's monitor, by its machine protocol (QMP).
#[derive(Debug)]
pub struct Monitor {
    reader: BufReader<File>,
    writer: File,
}

impl Monitor {
    /// Opens it; a skip where the machine has none.
    pub fn open() -> Outcome<Self> {
        for entry in fs::read_dir("/sys/class/virtio-ports")?.flatten() {
            if fs::read_to_string(entry.path().join("name"))
                .is_ok_and(|name| name.trim() == "monitor")
            {
                let path = Path::new("/dev").join(entry.file_name());
                let writer = OpenOptions::new().read(true).write(true).open(path)?;
                let reader = BufReader::new(writer.try_clone()?);
                let mut monitor = Self { reader, writer };
                // An error says that somebody did so before.
                monitor.ask(r#"{"execute":"qmp_capabilities"}"#)?;
                return Ok(monitor);
            }
        }
        skip("the machine has no monitor port")
    }

    /// Sends a command and waits for its reply; events and the greeting are passed over.
    pub fn execute(&mut self, command: &str) -> Outcome {
        match self.ask(command)? {
            reply if reply.starts_with(r#"{"return""#) => Ok(()),
            reply => fail(format!("{command}: {}", reply.trim())),
        }
    }

    fn ask(&mut self, command: &str) -> Outcome<String> {
        self.writer.write_all(format!("{command}\n").as_bytes())?;
        loop {
            let line = self.line()?;
            if line.starts_with(r#"{"return""#) || line.starts_with(r#"{"error""#) {
                return Ok(line);
            }
        }
    }

    /// A command of the human monitor's.
    pub fn human(&mut self, line: &str) -> Outcome {
        self.execute(&format!(
            r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"{line}"}}}}"#
        ))
    }

    /// The next line that QEMU says: a reply or an event. Waits for it.
    pub fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => fail("the monitor is closed"),
            _ => Ok(line),
        }
    }
}
