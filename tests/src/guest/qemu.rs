// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU as the VMM, built on the crate's C library: its command line, and its machine protocol (QMP).

use crate::vmm::{self, Guest, CONTROL, MEMORY};
use host_iommu_tests::ktap::{fail, Outcome};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// What its unit shows a guest; it names what is missing when started without one of these.
const UNIT: &str = "intel-iommu,host-iommu=on,x-scalable-mode=on,x-flts=on,x-pasid-mode=on,\
    device-iotlb=on,caching-mode=on";
/// The unit that everybody's guests have.
const SHADOW_UNIT: &str = "intel-iommu,caching-mode=on,device-iotlb=on,intremap=off,aw-bits=39";
/// A disk is behind the unit, which a transitional device cannot be.
const DISK_DEVICE: &str = "virtio-blk-pci,iommu_platform=on,disable-legacy=on";
/// What it says on standard error, a line each time.
const TRACED: [&str; 3] = [
    "host_iommu_page_request",
    "host_iommu_add_device",
    "vtd_prq_overflow",
];
/// The trace event of a page request group that came from the host.
const GROUP: &str = "host_iommu_page_request ";

/// The command.
pub fn command(guest: &Guest<'_>, console: &str) -> Command {
    let unit = match vmm::is_shadow() {
        true => SHADOW_UNIT,
        false => UNIT,
    };
    let mut command = Command::new("/usr/bin/qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-M", "q35,smm=off", "-accel", "kvm", "-cpu", "host"])
        .args(["-smp", &guest.cpus.to_string(), "-m", MEMORY])
        .args(["-kernel", "/guest/vmlinuz", "-initrd", "/guest/initrd"])
        .args(["-append", guest.line, "-device", unit])
        .args(["-serial", &format!("file:{console}"), "-serial", "stdio"]);
    if guest.name == vmm::FIRST {
        command.args(["-qmp", &format!("unix:{CONTROL},server=on,wait=off")]);
        for event in TRACED {
            command.args(["-trace", event]);
        }
    } else {
        command.arg("-no-reboot");
    }
    for (number, file) in guest.disks.iter().enumerate() {
        let drive = format!("if=none,id=disk{number},format=raw,file={file}");
        let device = format!("{DISK_DEVICE},drive=disk{number}");
        command.args(["-drive", &drive, "-device", &device]);
    }
    // Integrated endpoints cannot be unplugged: each has a port.
    for (number, device) in guest.devices.iter().enumerate() {
        let port = format!("pcie-root-port,id=port{number},chassis={number},slot={number}");
        let device = format!("vfio-pci,{}", properties(device, number));
        command.args(["-device", &port, "-device", &device]);
    }
    command
}

fn properties(device: &str, number: usize) -> String {
    let host_iommu = if vmm::is_shadow() { "off" } else { "on" };
    format!("id=device{number},bus=port{number},host={device},host-iommu={host_iommu}")
}

/// Page request groups that reached it.
pub fn groups(messages: &str) -> u64 {
    messages.lines().filter(|line| line.contains(GROUP)).count() as u64
}

/// A connection to its monitor.
struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn open() -> Outcome<Self> {
        let stream = UnixStream::connect(CONTROL)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut monitor = Self { stream, lines };
        monitor.line()?;
        monitor.execute(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(monitor)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line)? {
            0 => fail("QEMU has closed its monitor"),
            _ => Ok(line),
        }
    }

    fn execute(&mut self, command: &str) -> Outcome<String> {
        writeln!(self.stream, "{command}")?;
        loop {
            let line = self.line()?;
            if line.starts_with(r#"{"return""#) {
                return Ok(line);
            }
            if line.starts_with(r#"{"error""#) {
                return fail(format!("{command}: {}", line.trim()));
            }
        }
    }
}

/// Unplugs the first device, and waits until the guest has let it go.
pub fn unplug() -> Outcome {
    let mut monitor = Monitor::open()?;
    monitor.execute(r#"{"execute":"device_del","arguments":{"id":"device0"}}"#)?;
    while !monitor.line()?.contains("DEVICE_DELETED") {}
    Ok(())
}

/// Plugs it in again.
pub fn plug(device: &str) -> Outcome {
    let added = Monitor::open()?.execute(&format!(
        r#"{{"execute":"device_add","arguments":{{"driver":"vfio-pci","id":"device0","bus":"port0","host":"{device}","host-iommu":"on"}}}}"#
    ));
    added.map(drop)
}

/// What its monitor shows of the host's IOMMU.
pub fn shown() -> Outcome<String> {
    Monitor::open()?
        .execute(r#"{"execute":"human-monitor-command","arguments":{"command-line":"info iommu"}}"#)
}
