// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The main thread: what it waits for while a machine runs.

use crate::control::{Command, Control};
use crate::host::Host;
use crate::machine::Machine;
use crate::options::Options;
use crate::platform::{End, Ender};
use crate::serial::Line;
use crate::takeover::{self, Files, State};
use anyhow::{Context, Result};
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use host_iommu::{Delivered, FaultQueue};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use vmm_sys_util::terminal::Terminal;

/// What an event is about: the number that it was registered with.
mod about {
    pub const END: u32 = 0;
    pub const FAULTS: u32 = 1;
    pub const WORK: u32 = 2;
    pub const INPUT: u32 = 3;
    pub const CONTROL: u32 = 4;
    pub const CLIENT: u32 = 5;
}

/// The key that comes before one that is for the VMM: Ctrl-A.
const ESCAPE: u8 = 1;

/// A life of the guest.
#[derive(Clone, Copy)]
pub struct Life {
    /// Which one, from 1 on.
    pub number: u64,
    /// How long it stood still when it was taken over last, in microseconds.
    pub paused: Option<u64>,
}

struct Main<'a> {
    host: &'a Host,
    options: &'a Options,
    ender: Arc<Ender>,
    machine: Machine,
    control: Option<Control>,
    life: Life,
    /// Standard input, and the serial port that it goes to.
    input: Option<(File, usize)>,
    escaped: bool,
    faults: Option<Arc<FaultQueue>>,
}

/// What a machine's events are waited for with.
pub struct Waiting<'a> {
    manager: EventManager<Main<'a>>,
    input: Option<(File, usize)>,
}

impl<'a> Waiting<'a> {
    /// Of a machine of these options.
    pub fn new(options: &Options) -> Result<Self> {
        let is_stdio = |line: &Line| matches!(line, Line::Stdio);
        let input = options.serial.iter().position(is_stdio);
        let input = input.map(|port| -> Result<_> {
            let file = std::io::stdin().as_fd().try_clone_to_owned()?;
            Ok((file.into(), port))
        });
        Ok(Self {
            manager: EventManager::new().context("cannot wait for events")?,
            input: input.transpose()?,
        })
    }

    /// Runs a machine until it ends: one that was powered on or taken over. Gives the control socket
    /// back.
    pub fn live(
        mut self,
        host: &'a Host,
        options: &'a Options,
        control: Option<Control>,
        life: Life,
        (machine, ender): (Machine, Arc<Ender>),
    ) -> Result<(End, Option<Control>)> {
        let _raw = self.input.as_ref().and_then(|_| Raw::new());
        let main = self.manager.add_subscriber(Main {
            host,
            options,
            ender: ender.clone(),
            machine,
            control,
            life,
            input: self.input,
            escaped: false,
            faults: None,
        });
        loop {
            self.manager.run().context("cannot wait for events")?;
            if let Some(end) = ender.why() {
                let main = self.manager.remove_subscriber(main);
                return Ok((end, main.context("cannot wait for events")?.control));
            }
        }
    }
}

/// A terminal that gives each key at once.
struct Raw;

impl Raw {
    fn new() -> Option<Self> {
        let input = std::io::stdin();
        let raw = input.is_terminal() && input.lock().set_raw_mode().is_ok();
        raw.then_some(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = std::io::stdin().lock().set_canon_mode();
    }
}

/// What cannot be waited for is told, and the machine goes on without it.
fn wait(ops: &mut EventOps<'_>, fd: RawFd, about: u32) {
    let events = Events::with_data_raw(fd, about, EventSet::IN);
    if let Err(error) = ops.add(events) {
        tracing::warn!(about, ?error, "an event cannot be waited for");
    }
}

fn forget(ops: &mut EventOps<'_>, fd: RawFd) {
    drop(ops.remove(Events::empty_raw(fd)));
}

impl Main<'_> {
    /// Waits for the page requests of the devices that are plugged in now.
    fn follow_faults(&mut self, ops: &mut EventOps<'_>) {
        let now = self.machine.fault_queue().cloned();
        let same = match (&self.faults, &now) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        if let Some(old) = &self.faults {
            forget(ops, old.as_fd().as_raw_fd());
        }
        if let Some(new) = &now {
            wait(ops, new.as_fd().as_raw_fd(), about::FAULTS);
        }
        self.faults = now;
    }

    fn deliver_faults(&mut self, ops: &mut EventOps<'_>) {
        let Some(faults) = &self.faults else {
            return;
        };
        match faults.deliver(&*self.machine.iommu) {
            Ok(Delivered::Ended) => forget(ops, faults.as_fd().as_raw_fd()),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "page requests cannot be read"),
        }
    }

    fn take_input(&mut self, ops: &mut EventOps<'_>) {
        let Some((input, port)) = &mut self.input else {
            return;
        };
        let mut bytes = [0; 256];
        let count = match input.read(&mut bytes) {
            Ok(0) => return forget(ops, input.as_raw_fd()),
            Ok(count) => count,
            Err(_) => return,
        };
        let mut passed = Vec::new();
        let terminal = input.is_terminal();
        for &byte in bytes.iter().take(count) {
            match (terminal, std::mem::take(&mut self.escaped), byte) {
                (true, false, ESCAPE) => self.escaped = true,
                (true, true, b'x') => self.ender.end(End::PowerOff),
                _ => passed.push(byte),
            }
        }
        if let Some(port) = self.machine.serial.get(*port) {
            port.input(&passed);
        }
    }

    fn status(&self) -> serde_json::Value {
        let devices: Vec<String> = self.machine.plugged().map(|bdf| bdf.to_string()).collect();
        let iommu = serde_json::json!({
            "counters": self.machine.iommu.counters,
            "waiting": self.machine.iommu.unit.waiting(),
        });
        serde_json::json!({
            "life": self.life.number,
            "paused": self.life.paused,
            "process": std::process::id(),
            "exits": self.machine.exits(),
            "devices": devices,
            "iommu": iommu,
        })
    }

    /// Gives the guest to another process, and ends this one, if that one takes it.
    fn give_away(&mut self, client: &UnixStream, control: &(OwnedFd, PathBuf)) -> Result<()> {
        let mut files = Files::default();
        files.add(std::io::stdin())?;
        files.add(std::io::stdout())?;
        files.add(&control.0)?;
        let options = self.options.give(&mut files)?;
        let host = self.host.give(&mut files)?;
        let stopped = takeover::now()?;
        let (cpus, saved) = self.machine.pause(self.host, &mut files);
        let given = saved.and_then(|machine| {
            let state = State {
                options,
                host,
                control: control.1.clone(),
                life: self.life.number,
                machine,
                stopped,
            };
            takeover::give(client, &state, &files)
        });
        if given.is_ok() {
            // Dropping anything would undo what the other process has now.
            std::process::exit(0);
        }
        if let Err(error) = self.machine.resume(cpus) {
            // Nobody has the guest: this process ends, and its user hears why.
            self.ender.end(End::Failed(format!("{error:#}")));
            return Err(error.context("the guest is lost"));
        }
        given.context("the guest goes on here")
    }

    fn command(
        &mut self,
        ops: &mut EventOps<'_>,
        command: Command,
        client: &UnixStream,
        control: &(OwnedFd, PathBuf),
    ) -> Result<serde_json::Value> {
        match command {
            Command::Status => return Ok(self.status()),
            Command::Plug(bdf) => self.machine.plug(self.host, bdf)?,
            Command::Unplug(bdf) => self.machine.unplug(bdf)?,
            Command::Reset => self.ender.end(End::Reset),
            Command::PowerOff => self.ender.end(End::PowerOff),
            Command::TakeOver => self.give_away(client, control)?,
        }
        self.follow_faults(ops);
        Ok(serde_json::json!({}))
    }

    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) {
        let Some(mut control) = self.control.take() else {
            return;
        };
        let Ok(listener) = control.listener().as_fd().try_clone_to_owned() else {
            return;
        };
        let place = (listener, control.path().to_owned());
        let alive = control.serve(fd, |client, command| {
            let done = command.map_err(anyhow::Error::msg);
            let done = done.and_then(|command| self.command(ops, command, client, &place));
            let answer = done.unwrap_or_else(|error| {
                let error = format!("{error:#}");
                serde_json::json!({ "error": error })
            });
            answer.to_string()
        });
        if !alive {
            forget(ops, fd);
            control.forget(fd);
        }
        self.control = Some(control);
    }
}

impl MutEventSubscriber for Main<'_> {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            about::FAULTS => self.deliver_faults(ops),
            about::WORK => self.machine.iommu.go_on(),
            about::INPUT => self.take_input(ops),
            about::CONTROL => {
                let client = self.control.as_mut().and_then(Control::accept);
                if let Some(client) = client {
                    wait(ops, client, about::CLIENT);
                }
            }
            about::CLIENT => self.serve(events.fd(), ops),
            _ => {}
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        wait(ops, self.ender.event().as_raw_fd(), about::END);
        wait(ops, self.machine.iommu.more().as_raw_fd(), about::WORK);
        if let Some((input, _)) = &self.input {
            wait(ops, input.as_raw_fd(), about::INPUT);
        }
        if let Some(control) = &self.control {
            wait(ops, control.listener().as_raw_fd(), about::CONTROL);
        }
        self.follow_faults(ops);
    }
}
