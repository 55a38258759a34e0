// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The serial ports COM1 and COM2, and where their bytes go and come from.

use crate::bus::Registers;
use anyhow::{anyhow, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vm_superio::serial::{NoEvents, SerialState};
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

/// The same, open.
pub enum Line {
    /// Nothing.
    None,
    /// Standard input and output.
    Stdio,
    /// A file that the guest's output is added to.
    File(File),
}

impl Line {
    /// Opens what a port is to be connected to.
    pub fn open(peer: &Peer) -> Result<Self> {
        Ok(match peer {
            Peer::None => Self::None,
            Peer::Stdio => Self::Stdio,
            Peer::File(path) => {
                let file = File::options().create(true).append(true).open(path);
                Self::File(file.with_context(|| format!("cannot write {}", path.display()))?)
            }
        })
    }

    /// Whether it is a file, if it is anything.
    pub fn kind(&self) -> Option<bool> {
        match self {
            Self::None => None,
            Self::Stdio => Some(false),
            Self::File(_) => Some(true),
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

/// A port as another process left it: its registers, and what its guest has not read.
#[derive(Default, Serialize, Deserialize)]
pub struct PortState {
    #[serde(with = "Registers16550")]
    registers: SerialState,
    waiting: VecDeque<u8>,
}

/// [`SerialState`], written down.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SerialState")]
struct Registers16550 {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

struct State {
    serial: Serial<Pin, NoEvents, Output>,
    /// Input for which the port's own queue had no room.
    waiting: VecDeque<u8>,
}

/// A serial port.
pub struct Port(Mutex<State>);

impl Port {
    /// With its interrupt pin, in a state.
    pub fn new(pin: EventFd, line: &Line, state: PortState) -> Result<Self> {
        let output: Output = match line {
            Line::None => Box::new(io::sink()),
            Line::Stdio => Box::new(io::stdout()),
            Line::File(file) => Box::new(file.try_clone()?),
        };
        let serial = Serial::from_state(&state.registers, Pin(pin), NoEvents, output);
        Ok(Self(Mutex::new(State {
            serial: serial.map_err(|error| anyhow!("no serial port is so: {error}"))?,
            waiting: state.waiting,
        })))
    }

    /// What it is now.
    pub fn save(&self) -> PortState {
        let state = self.state();
        PortState {
            registers: state.serial.state(),
            waiting: state.waiting.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest bytes to read; what it never reads is dropped in the end.
    pub fn input(&self, bytes: &[u8]) {
        let mut state = self.state();
        let room = MAX_WAITING.saturating_sub(state.waiting.len());
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
        let port = Port::new(pin, &Line::None, PortState::default()).expect("a port");
        let sent: Vec<u8> = (0..200).collect();
        port.input(&sent);
        let mut byte = [0];
        for expected in sent {
            port.read(0, &mut byte);
            assert_eq!(byte, [expected]);
        }
    }
}
