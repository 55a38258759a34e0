// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VMM that runs, and what it leaves.

use crate::agent::Agent;
use crate::{counts, qemu};
use host_iommu_tests::ktap::{fail, Outcome};
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

/// The control socket.
pub const CONTROL: &str = "/tmp/vmm";
/// The file that is the guest's disk.
pub const DISK: &str = "/tmp/guest-disk";
const CONSOLE: &str = "/tmp/guest-console";
const MESSAGES: &str = "/tmp/vmm-messages";
/// Of the guest, in MiB.
pub const MEMORY: &str = "256";
/// What the guest's kernel is told.
pub const LINE: &str = "console=ttyS0 loglevel=5 panic=-1 intel_iommu=on,sm_on no_timer_check \
    cryptomgr.notests";

/// A VMM.
pub struct Vmm {
    child: Child,
    is_qemu: bool,
    /// What it talks to in the guest.
    pub agent: Agent,
}

impl Vmm {
    /// Starts it, with these devices passed through.
    pub fn start(devices: &[String], cpus: u32) -> Outcome<Self> {
        let is_qemu = std::env::var_os("VMM").is_some_and(|name| name == "qemu");
        let mut command = match is_qemu {
            true => qemu::command(devices, cpus, CONSOLE),
            false => own(devices, cpus),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(MESSAGES)?)
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
            true => Ok(qemu::groups(&messages())),
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

    /// Kills it.
    pub fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// The VMM in user/vmm.
fn own(devices: &[String], cpus: u32) -> Command {
    let mut command = Command::new("vmm");
    command
        .args(["--kernel", "/guest/vmlinuz", "--initrd", "/guest/initrd"])
        .args(["--memory", MEMORY, "--cpus", &cpus.to_string()])
        .args(["--cmdline", LINE])
        .args(["--serial", &format!("file:{CONSOLE}"), "--serial", "stdio"])
        .args(["--control", CONTROL, "--disk", DISK, "--log", "info"]);
    for device in devices {
        command.args(["--device", device]);
    }
    command
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

/// What it said on standard error.
pub fn messages() -> String {
    fs::read_to_string(MESSAGES).unwrap_or_default()
}

/// What the guest's kernel said.
pub fn console() -> String {
    let bytes = fs::read(CONSOLE).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
