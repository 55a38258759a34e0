// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The line to `guest-agent` in the guest: the VMM's standard input and output are its second serial
//! port.

use host_iommu_tests::ktap::{fail, skip, Outcome};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// The line.
pub struct Agent {
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Agent {
    /// Over a VMM's pipes.
    pub fn new(input: ChildStdin, output: ChildStdout) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { input, lines }
    }

    fn line(&self, limit: Duration) -> Outcome<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => fail(format!("the guest says nothing for {limit:?}")),
            Err(RecvTimeoutError::Disconnected) => fail("the VMM has ended"),
        }
    }

    /// Waits until the agent has started.
    pub fn wait(&self, limit: Duration) -> Outcome {
        while self.line(limit)? != "ready" {}
        Ok(())
    }

    /// Tells it something, and waits for no answer.
    pub fn tell(&mut self, command: &str) -> Outcome {
        Ok(writeln!(self.input, "{command}")?)
    }

    /// Has it do something.
    pub fn ask(&mut self, command: &str) -> Outcome<String> {
        self.tell(command)?;
        self.answer()
    }

    /// Waits for the answer to what it was told.
    pub fn answer(&self) -> Outcome<String> {
        self.answer_within(Duration::from_secs(240))
    }

    /// The same, where no line may be later than this.
    pub fn answer_within(&self, limit: Duration) -> Outcome<String> {
        loop {
            let line = self.line(limit)?;
            let (verdict, text) = line.split_once(' ').unwrap_or((&line, ""));
            match verdict {
                "ok" => return Ok(text.to_owned()),
                "fail" => return fail(format!("in the guest: {text}")),
                "skip" => return skip(text),
                // The port is the agent's alone, but for what it is not.
                _ => {}
            }
        }
    }
}
