// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control socket: a command a line, an answer in JSON a line.
//!
//! | command | what it does |
//! |---|---|
//! | `status` | tells what runs and what went through the guest's IOMMU |
//! | `plug BDF` | plugs a device in that the VMM was started with |
//! | `unplug BDF` | unplugs it |
//! | `reset` | resets the machine |
//! | `power-off` | ends it |
//! | `takeover` | gives the guest to a new process, which `--takeover` starts |

use anyhow::{Context, Result};
use host_iommu::Bdf;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Clients at a time.
const MAX_CLIENTS: usize = 16;
/// Bytes of a line.
const MAX_LINE: usize = 256;

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// What runs.
    Status,
    /// Plug in.
    Plug(Bdf),
    /// Unplug.
    Unplug(Bdf),
    /// Reset.
    Reset,
    /// Power off.
    PowerOff,
    /// Give the guest away.
    TakeOver,
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let device = words.next();
        let bdf = || -> Result<Bdf, String> {
            let name = device.ok_or("which device? as in 0000:00:04.0")?;
            name.parse()
                .map_err(|_| format!("{name} is no PCI device's address"))
        };
        match command {
            "status" => Ok(Self::Status),
            "plug" => Ok(Self::Plug(bdf()?)),
            "unplug" => Ok(Self::Unplug(bdf()?)),
            "reset" => Ok(Self::Reset),
            "power-off" => Ok(Self::PowerOff),
            "takeover" => Ok(Self::TakeOver),
            _ => Err("commands are status, plug BDF, unplug BDF, reset, power-off".into()),
        }
    }
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
}

/// The socket, and who is connected.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Client>,
}

impl Control {
    /// Makes the socket, for this user alone. One that an ended process left is replaced.
    pub fn new(path: &Path) -> Result<Self> {
        let what = || format!("cannot make the control socket {}", path.display());
        if UnixStream::connect(path).is_err() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(what)
                }
                _ => {}
            }
        }
        let listener = UnixListener::bind(path).with_context(what)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(what)?;
        listener.set_nonblocking(true).with_context(what)?;
        Ok(Self::of(listener, path.to_owned()))
    }

    /// A socket that another process has left.
    pub fn of(listener: UnixListener, path: PathBuf) -> Self {
        Self {
            listener,
            path,
            clients: Vec::new(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is readable when somebody connects.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Somebody connects. Gives what is readable when that one says something.
    pub fn accept(&mut self) -> Option<RawFd> {
        let (stream, _) = self.listener.accept().ok()?;
        if self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
            return None;
        }
        let fd = stream.as_raw_fd();
        self.clients.push(Client {
            stream,
            line: Vec::new(),
        });
        Some(fd)
    }

    /// Reads what a client says, and answers each whole line. False when the client is gone.
    pub fn serve(
        &mut self,
        fd: RawFd,
        mut answer: impl FnMut(&UnixStream, Result<Command, String>) -> String,
    ) -> bool {
        let client = self
            .clients
            .iter_mut()
            .find(|client| client.stream.as_raw_fd() == fd);
        let Some(client) = client else {
            return false;
        };
        let mut bytes = [0; MAX_LINE];
        let alive = match client.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                client.line.extend(bytes.iter().take(count));
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        let mut alive = alive && client.line.len() <= 2 * MAX_LINE;
        while let Some(end) = client.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = client.line.drain(..=end).collect();
            let mut text = answer(
                &client.stream,
                String::from_utf8_lossy(&line).trim().parse(),
            );
            text.push('\n');
            // An answer fits into the socket of whoever reads it.
            alive &= client.stream.write_all(text.as_bytes()).is_ok();
        }
        alive
    }

    /// Lets a client go.
    pub fn forget(&mut self, fd: RawFd) {
        self.clients
            .retain(|client| client.stream.as_raw_fd() != fd);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let bdf: Bdf = "0000:00:04.0".parse().expect("an address");
        assert_eq!("plug 0000:00:04.0".parse(), Ok(Command::Plug(bdf)));
        assert_eq!(" unplug  0000:00:04.0".parse(), Ok(Command::Unplug(bdf)));
        assert_eq!("power-off".parse(), Ok(Command::PowerOff));
        for wrong in ["", "plug", "plug 4", "halt"] {
            assert!(wrong.parse::<Command>().is_err(), "{wrong}");
        }
    }
}
