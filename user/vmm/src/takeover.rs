// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest goes on in another process of the same user (`--takeover`): a VMM is updated under it.
//!
//! The old process stops the guest's CPUs and gives its files and its state away over the control
//! socket. The devices do not stop: what is bound at the host stays bound, since the container is
//! open in one of the two all the time; interrupts wait in their eventfds, and page requests in the
//! fault queue's file. When the new process is ready it says so, and the old one ends at once. If
//! the new one fails before, the old one goes on.

use crate::host::HostState;
use crate::machine::Saved;
use crate::options::Shape;
use anyhow::{ensure, Context, Result};
use nix::time::{clock_gettime, ClockId};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// What one process may keep the other waiting.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of a state, and most files.
const MAX_STATE: u64 = 64 << 20;
const MAX_FILES: u64 = 1 << 14;
/// The new process can go on; the old one has ended.
const READY: u8 = b'r';
const ENDED: u8 = b'e';

/// What a VMM is beside its files.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// What the machine is made of.
    pub options: Shape,
    /// Guest memory and devices.
    pub host: HostState,
    /// Where the control socket is.
    pub control: PathBuf,
    /// Which life of the guest it is.
    pub life: u64,
    /// The machine.
    pub machine: Saved,
    /// When the CPUs stopped, in nanoseconds of the host's monotonic clock.
    pub stopped: u64,
}

/// Files in the order in which they were added.
#[derive(Default)]
pub struct Files(VecDeque<OwnedFd>);

impl Files {
    /// Adds a copy.
    pub fn add(&mut self, file: impl AsFd) -> Result<()> {
        let copy = file.as_fd().try_clone_to_owned();
        self.0.push_back(copy.context("cannot copy a file")?);
        Ok(())
    }

    /// Takes the next one.
    pub fn take(&mut self) -> Result<OwnedFd> {
        self.0
            .pop_front()
            .context("the other VMM has sent too few files")
    }
}

/// The monotonic clock of the host, which both processes have.
pub fn now() -> Result<u64> {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(time.as_nanos())?)
}

/// Gives everything to whoever is at the other end, and returns when that one goes on: this process
/// must then end at once.
pub fn give(mut stream: &UnixStream, state: &State, files: &Files) -> Result<()> {
    let text = serde_json::to_vec(state)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for number in [text.len(), files.0.len()] {
        stream.write_all(&(number as u64).to_le_bytes())?;
    }
    stream.write_all(&text)?;
    for file in &files.0 {
        stream.send_with_fd(&[0u8][..], file.as_raw_fd())?;
    }
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [READY], "the other VMM does not take the guest");
    stream.write_all(&[ENDED])?;
    Ok(())
}

/// Asks a VMM by its control socket for its guest.
pub fn ask(socket: &Path) -> Result<(State, Files, UnixStream)> {
    let what = || format!("cannot take over from {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"takeover\n").with_context(what)?;
    let mut number = || -> Result<u64> {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).with_context(what)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let (bytes, count) = (number()?, number()?);
    // An error is a line of JSON.
    ensure!(
        bytes <= MAX_STATE && count <= MAX_FILES,
        "{}: the VMM does not give its guest away",
        what()
    );
    let mut text = vec![0; usize::try_from(bytes)?];
    stream.read_exact(&mut text).with_context(what)?;
    let mut files = Files::default();
    for _ in 0..count {
        let (_, file) = stream
            .recv_with_fd(&mut [0])
            .map_err(std::io::Error::from)?;
        files.0.push_back(file.context("a file is missing")?.into());
    }
    let state = serde_json::from_slice(&text).context("the VMM is of another version")?;
    Ok((state, files, stream))
}

/// Has the old process end. An error means that it goes on.
pub fn confirm(mut stream: UnixStream) -> Result<()> {
    stream.write_all(&[READY])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == [ENDED], "the other VMM goes on");
    Ok(())
}
