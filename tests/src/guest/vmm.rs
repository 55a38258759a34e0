// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VMM that runs, and what it leaves.

use crate::agent::Agent;
use crate::{counts, qemu};
use host_iommu_tests::ktap::{fail, Outcome};
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

/// The name of the guest that all steps are about.
pub const FIRST: &str = "guest";
/// The name of the one that means harm.
pub const HOSTILE: &str = "hostile";
/// The control socket of the first guest's VMM.
pub const CONTROL: &str = "/tmp/vmm";
/// The file that is the guest's disk.
pub const DISK: &str = "/tmp/guest-disk";
/// The file that is its swap space.
pub const SWAP: &str = "/tmp/guest-swap";
/// Of the guest, in MiB.
pub const MEMORY: &str = "256";
/// What the guest's kernel is told.
pub const LINE: &str = "console=ttyS0 loglevel=5 panic=-1 intel_iommu=on,sm_on no_timer_check \
    cryptomgr.notests";

/// The line of a guest that means harm: its kernel leaves the unit alone, and `guest-agent` may map it.
pub const HOSTILE_LINE: &str =
    "console=ttyS0 loglevel=5 panic=-1 intel_iommu=off iomem=relaxed no_timer_check cryptomgr.notests";

/// A guest, and the files of its VMM.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The first part of the files' names.
    pub name: &'a str,
    /// Devices passed through.
    pub devices: &'a [String],
    /// CPUs.
    pub cpus: u32,
    /// What its kernel is told.
    pub line: &'a str,
    /// The files that are its disks.
    pub disks: &'a [&'a str],
}

/// A VMM.
pub struct Vmm {
    child: Child,
    is_qemu: bool,
    /// What it talks to in the guest.
    pub agent: Agent,
}

impl Vmm {
    /// Starts it.
    pub fn start(guest: &Guest<'_>) -> Outcome<Self> {
        // The VMM adds to it, one life of its guest after the other.
        drop(fs::remove_file(console_file(guest.name)));
        let is_qemu = is_qemu();
        let mut command = match is_qemu {
            true => qemu::command(guest.devices, guest.cpus, &console_file(guest.name)),
            false => own(guest),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(messages_file(guest.name))?)
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                child,
                is_qemu,
                agent: Agent::new(input, output),
            }),
            _ => fail("the VMM has no pipes"),
        }
    }

    fn status(key: &str) -> Outcome<u64> {
        counts::number(&counts::control(CONTROL, "status")?, key)
    }

    /// Page request groups that reached it.
    pub fn groups(&self) -> Outcome<u64> {
        match self.is_qemu {
            true => Ok(qemu::groups(&messages(FIRST))),
            false => Self::status("groups"),
        }
    }

    /// Unplugs a device.
    pub fn unplug(&self, device: &str) -> Outcome {
        match self.is_qemu {
            true => qemu::unplug(),
            false => counts::control(CONTROL, &format!("unplug {device}")).map(drop),
        }
    }

    /// Plugs it in again.
    pub fn plug(&self, device: &str) -> Outcome {
        match self.is_qemu {
            true => qemu::plug(device),
            false => counts::control(CONTROL, &format!("plug {device}")).map(drop),
        }
    }

    /// What its threads are at, as the kernel sees it.
    pub fn threads(&self) -> Vec<String> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        let of = |task: fs::DirEntry| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let stack = read("stack");
            let stack: Vec<_> = stack
                .lines()
                .take(8)
                .filter_map(|line| line.split(' ').nth(1))
                .collect();
            format!("thread {}: {}", read("comm").trim(), stack.join(" "))
        };
        tasks.map(of).collect()
    }

    /// Kills it.
    pub fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Whether the VMM is QEMU.
pub fn is_qemu() -> bool {
    std::env::var_os("VMM").is_some_and(|name| name == "qemu")
}

/// The VMM in user/vmm.
fn own(guest: &Guest<'_>) -> Command {
    let console = console_file(guest.name);
    let mut command = Command::new("vmm");
    command
        .args(["--kernel", "/guest/vmlinuz", "--initrd", "/guest/initrd"])
        .args(["--memory", MEMORY, "--cpus", &guest.cpus.to_string()])
        .args(["--cmdline", guest.line, "--log", "info"])
        .args(["--serial", &format!("file:{console}"), "--serial", "stdio"]);
    if guest.name == FIRST {
        command.args(["--control", CONTROL]);
    }
    for disk in guest.disks {
        command.args(["--disk", disk]);
    }
    for device in guest.devices {
        command.args(["--device", device]);
    }
    command
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

fn console_file(name: &str) -> String {
    format!("/tmp/{name}-console")
}

fn messages_file(name: &str) -> String {
    format!("/tmp/{name}-messages")
}

/// What a VMM said on standard error.
pub fn messages(name: &str) -> String {
    fs::read_to_string(messages_file(name)).unwrap_or_default()
}

/// What a guest's kernel said.
pub fn console(name: &str) -> String {
    let bytes = fs::read(console_file(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
