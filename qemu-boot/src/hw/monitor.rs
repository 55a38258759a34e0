// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client of QEMU's monitor protocol (QMP).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};

/// A connection to a running QEMU.
pub struct Monitor {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Monitor {
    /// Takes the greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// If QEMU does not answer.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let mut monitor = Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
        };
        monitor.line()?;
        monitor.run("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let got = self
            .reader
            .read_line(&mut line)
            .context("QEMU's monitor does not answer")?;
        ensure!(got > 0, "QEMU's monitor has gone away");
        serde_json::from_str(&line).with_context(|| format!("No JSON: {line:?}"))
    }

    /// Runs a command and gives what it returns; events in between are dropped.
    ///
    /// # Errors
    /// If QEMU refuses it.
    pub fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.writer, "{request}").context("QEMU's monitor has gone away")?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}
