// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client of QEMU's qtest protocol: memory and I/O ports of a machine without
//! CPUs, driven from outside.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::machine::Machine;
use super::Program;

/// How long QEMU may take to connect or to answer one command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

const SOCKET: &str = "qtest.sock";

/// A running QEMU with `accel=qtest`. It is killed when this is dropped.
pub struct Qtest {
    child: Child,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    line: String,
}

impl Qtest {
    /// Starts `program` with `args`; the socket and QEMU's messages go to its
    /// folder.
    ///
    /// # Errors
    /// If QEMU does not start, or ends before it has connected.
    pub fn start(program: &Program, args: &[&str]) -> Result<Self> {
        let socket = program.dir.join(SOCKET);
        let log = program.log();
        // The socket of the case before.
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).context("Failed to remove the old qtest socket");
            }
            _ => {}
        }
        let listener = UnixListener::bind(&socket).context("Failed to make the qtest socket")?;
        listener.set_nonblocking(true)?;
        let stderr = std::fs::File::create(&log).context("Failed to make QEMU's log")?;
        let (first, rest) = program
            .command
            .split_first()
            .context("No command for QEMU")?;
        let mut child = Command::new(first)
            .args(rest)
            .args(args)
            .arg("-qtest")
            .arg(format!("unix:{}", program.dir_seen.join(SOCKET).display()))
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("Failed to start {first:?}"))?;

        let begun = Instant::now();
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    stop(&mut child);
                    return Err(e).context("Failed to accept QEMU's connection");
                }
            }
            if let Some(status) = child.try_wait()? {
                bail!("QEMU ended at its start ({status}): {}", tail(&log));
            }
            if begun.elapsed() > ANSWER_TIMEOUT {
                stop(&mut child);
                bail!("QEMU did not connect: {}", tail(&log));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            child,
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            line: String::new(),
        })
    }

    /// Sends one command and returns what follows `OK`.
    fn command(&mut self, command: &str) -> Result<&str> {
        let wrote = self.writer.write_all(format!("{command}\n").as_bytes());
        if wrote.is_err() {
            bail!("QEMU has gone away before {command:?}");
        }
        self.line.clear();
        let got = self
            .reader
            .read_line(&mut self.line)
            .with_context(|| format!("QEMU does not answer {command:?}"))?;
        ensure!(got > 0, "QEMU ended at {command:?}");
        let answer = self.line.trim_end();
        match answer.strip_prefix("OK") {
            Some(rest) => Ok(rest.trim_start()),
            None => bail!("QEMU answers {answer:?} to {command:?}"),
        }
    }

    fn value(&mut self, command: &str) -> Result<u64> {
        let answer = self.command(command)?;
        let digits = answer.strip_prefix("0x").unwrap_or(answer);
        u64::from_str_radix(digits, 16).with_context(|| format!("Not a number: {answer:?}"))
    }
}

/// The letter of qtest's commands for an access of `size` bytes.
fn letter(size: usize) -> Result<char> {
    match size {
        1 => Ok('b'),
        2 => Ok('w'),
        4 => Ok('l'),
        8 => Ok('q'),
        _ => bail!("No access of {size} bytes"),
    }
}

impl Machine for Qtest {
    fn read(&mut self, addr: u64, size: usize) -> Result<u64> {
        let letter = letter(size)?;
        self.value(&format!("read{letter} {addr:#x}"))
    }

    fn write(&mut self, addr: u64, size: usize, value: u64) -> Result<()> {
        let letter = letter(size)?;
        self.command(&format!("write{letter} {addr:#x} {value:#x}"))
            .map(drop)
    }

    fn read_bytes(&mut self, addr: u64, len: usize) -> Result<Vec<u8>> {
        let answer = self.command(&format!("read {addr:#x} {len:#x}"))?;
        let digits = answer.strip_prefix("0x").unwrap_or(answer);
        ensure!(
            digits.len() == 2 * len,
            "{} digits for {len} bytes",
            digits.len()
        );
        digits
            .as_bytes()
            .chunks(2)
            .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
            .collect()
    }

    fn write_bytes(&mut self, addr: u64, data: &[u8]) -> Result<()> {
        let digits: String = data.iter().map(|b| format!("{b:02x}")).collect();
        self.command(&format!("write {addr:#x} {:#x} 0x{digits}", data.len()))
            .map(drop)
    }

    fn out32(&mut self, port: u16, value: u32) -> Result<()> {
        self.command(&format!("outl {port:#x} {value:#x}"))
            .map(drop)
    }

    fn clock_step(&mut self, ns: u64) -> Result<()> {
        self.command(&format!("clock_step {ns}")).map(drop)
    }
}

impl Drop for Qtest {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Ends a process; one that has ended by itself is as good.
fn stop(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The last lines of QEMU's messages.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
