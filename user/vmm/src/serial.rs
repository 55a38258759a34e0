// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The serial ports COM1 and COM2, and where their bytes go and come from.

use crate::bus::Registers;
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// First port and interrupt of each.
pub const PORTS: [(u16, u32); 2] = [(0x3f8, 4), (0x2f8, 3)];
/// Ports of one.
pub const SIZE: u64 = 8;
/// Bytes that wait for a guest that does not read.
const MAX_WAITING: usize = 1 << 16;

/// What a serial port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nothing.
    None,
    /// Standard input and output.
    Stdio,
    /// A file that the guest's output is added to.
    File(PathBuf),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "none" => Ok(Self::None),
            _ => Err("a serial port is stdio, none, or file:PATH".into()),
        }
    }
}

/// An interrupt pin.
struct Pin(EventFd);

impl Trigger for Pin {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

type Output = Box<dyn Write + Send>;

struct State {
    serial: Serial<Pin, NoEvents, Output>,
    /// Input for which the port's own queue had no room.
    waiting: VecDeque<u8>,
}

/// A serial port.
pub struct Port(Mutex<State>);

impl Port {
    /// With its interrupt pin.
    pub fn new(pin: EventFd, peer: &Peer) -> Result<Self> {
        let output: Output = match peer {
            Peer::None => Box::new(io::sink()),
            Peer::Stdio => Box::new(io::stdout()),
            Peer::File(path) => Box::new(
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("cannot write {}", path.display()))?,
            ),
        };
        Ok(Self(Mutex::new(State {
            serial: Serial::new(Pin(pin), output),
            waiting: VecDeque::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest bytes to read; what it never reads is dropped in the end.
    pub fn input(&self, bytes: &[u8]) {
        let mut state = self.state();
        let room = MAX_WAITING - state.waiting.len();
        state.waiting.extend(bytes.iter().take(room));
        state.pass();
    }
}

impl State {
    /// Moves what waits to the port's queue.
    fn pass(&mut self) {
        let room = self.serial.fifo_capacity().min(self.waiting.len());
        if room == 0 {
            return;
        }
        let bytes: Vec<u8> = self.waiting.drain(..room).collect();
        if let Err(error) = self.serial.enqueue_raw_bytes(&bytes) {
            tracing::debug!(%error, "serial input is lost");
        }
    }
}

impl Registers for Port {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state();
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = state.serial.read(offset);
            state.pass();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            if let Err(error) = self.state().serial.write(offset, *byte) {
                tracing::debug!(%error, "serial output is lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_as_they_are_written() {
        assert_eq!("stdio".parse(), Ok(Peer::Stdio));
        assert_eq!("none".parse(), Ok(Peer::None));
        assert_eq!("file:/tmp/x:y".parse(), Ok(Peer::File("/tmp/x:y".into())));
        for wrong in ["", "file:", "file", "tcp:1", "stdio:"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn input_waits_for_a_guest_that_reads_slowly() {
        let pin = EventFd::new(0).expect("an eventfd");
        let port = Port::new(pin, &Peer::None).expect("a port");
        let sent: Vec<u8> = (0..200).collect();
        port.input(&sent);
        let mut byte = [0];
        for expected in sent {
            port.read(0, &mut byte);
            assert_eq!(byte, [expected]);
        }
    }
}
