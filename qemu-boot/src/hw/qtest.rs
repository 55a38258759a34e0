// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client of QEMU's qtest protocol: memory and I/O ports of a machine without
//! CPUs, driven from outside.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;

use super::machine::Machine;
use super::monitor::Monitor;
use super::Program;

/// How long QEMU may take to connect or to answer one command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

const SOCKET: &str = "qtest.sock";
const MONITOR: &str = "monitor.sock";

/// A running QEMU with `accel=qtest`. It is killed when this is dropped.
pub struct Qtest {
    child: Child,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    line: String,
    monitor: Monitor,
}

/// Makes the socket `name` in the program's folder, for QEMU to connect to.
fn listen(program: &Program, name: &str) -> Result<UnixListener> {
    let socket = program.dir.join(name);
    // The socket of the case before.
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).context("Failed to remove an old socket");
        }
        _ => {}
    }
    let listener = UnixListener::bind(&socket).context("Failed to make a socket for QEMU")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits until `child` connects.
fn accept(listener: &UnixListener, child: &mut Child, log: &Path) -> Result<UnixStream> {
    let begun = Instant::now();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("Failed to accept QEMU's connection"),
        }
        if let Some(status) = child.try_wait()? {
            bail!("QEMU ended at its start ({status}): {}", tail(log));
        }
        if begun.elapsed() > ANSWER_TIMEOUT {
            bail!("QEMU did not connect: {}", tail(log));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

impl Qtest {
    /// Starts `program` with `args`; the socket and QEMU's messages go to its
    /// folder.
    ///
    /// # Errors
    /// If QEMU does not start, or ends before it has connected.
    pub fn start(program: &Program, args: &[String]) -> Result<Self> {
        let log = program.log();
        let qtest = listen(program, SOCKET)?;
        let monitor = listen(program, MONITOR)?;
        let seen = |name| program.dir_seen.join(name).display().to_string();
        let stderr = std::fs::File::create(&log).context("Failed to make QEMU's log")?;
        let (first, rest) = program
            .command
            .split_first()
            .context("No command for QEMU")?;
        let mut child = Command::new(first)
            .args(rest)
            .args(args)
            .arg("-qtest")
            .arg(format!("unix:{}", seen(SOCKET)))
            .arg("-qmp")
            .arg(format!("unix:{}", seen(MONITOR)))
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("Failed to start {first:?}"))?;

        let connected = accept(&qtest, &mut child, &log)
            .and_then(|stream| Ok((stream, Monitor::new(accept(&monitor, &mut child, &log)?)?)));
        let (stream, monitor) = connected.inspect_err(|_| stop(&mut child))?;
        Ok(Self {
            child,
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            line: String::new(),
            monitor,
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

    fn monitor(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.monitor.run(command, arguments)
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
