// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The main thread: what it waits for while a machine runs.

use crate::control::{Command, Control};
use crate::host::Host;
use crate::machine::{Machine, Options};
use crate::platform::{End, Ender};
use crate::serial::Peer;
use anyhow::{Context, Result};
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use host_iommu::{Delivered, FaultQueue};
use std::io::{IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
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

struct Main<'a> {
    host: &'a Host,
    ender: Arc<Ender>,
    machine: Machine,
    control: &'a mut Option<Control>,
    life: u64,
    /// The serial port that standard input goes to.
    input: Option<usize>,
    escaped: bool,
    faults: Option<Arc<FaultQueue>>,
}

/// Runs a machine until it ends.
pub fn live(
    host: &Host,
    options: &Options,
    control: &mut Option<Control>,
    life: u64,
) -> Result<End> {
    let ender = Ender::new().context("cannot make an eventfd")?;
    let machine = Machine::start(host, options, &ender)?;
    let input = options.serial.iter().position(|peer| *peer == Peer::Stdio);
    let _raw = input.and_then(|_| Raw::new());
    let mut manager = EventManager::new().context("cannot wait for events")?;
    manager.add_subscriber(Main {
        host,
        ender: ender.clone(),
        machine,
        control,
        life,
        input,
        escaped: false,
        faults: None,
    });
    loop {
        manager.run().context("cannot wait for events")?;
        if let Some(end) = ender.why() {
            return Ok(end);
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
        let mut bytes = [0; 256];
        let input = std::io::stdin();
        let count = match input.lock().read(&mut bytes) {
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
        if let Some(port) = self.input.and_then(|index| self.machine.serial.get(index)) {
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
            "life": self.life,
            "exits": self.machine.exits(),
            "devices": devices,
            "iommu": iommu,
        })
    }

    fn command(&mut self, ops: &mut EventOps<'_>, command: Command) -> Result<serde_json::Value> {
        match command {
            Command::Status => return Ok(self.status()),
            Command::Plug(bdf) => self.machine.plug(self.host, bdf)?,
            Command::Unplug(bdf) => self.machine.unplug(bdf)?,
            Command::Reset => self.ender.end(End::Reset),
            Command::PowerOff => self.ender.end(End::PowerOff),
        }
        self.follow_faults(ops);
        Ok(serde_json::json!({}))
    }

    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) {
        let Some(mut control) = self.control.take() else {
            return;
        };
        let alive = control.serve(fd, |command| {
            let done = match command {
                Ok(command) => self
                    .command(ops, command)
                    .map_err(|error| format!("{error:#}")),
                Err(error) => Err(error),
            };
            let answer = done.unwrap_or_else(|error| serde_json::json!({ "error": error }));
            answer.to_string()
        });
        if !alive {
            forget(ops, fd);
            control.forget(fd);
        }
        *self.control = Some(control);
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
        if self.input.is_some() {
            wait(ops, std::io::stdin().as_raw_fd(), about::INPUT);
        }
        if let Some(control) = &*self.control {
            wait(ops, control.listener().as_raw_fd(), about::CONTROL);
        }
        self.follow_faults(ops);
    }
}
