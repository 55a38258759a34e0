// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Starts of QEMU that the host does not carry: each ends with a line that says what is missing.

use crate::qemu;
use crate::steps::World;
use crate::vmm::{self, Guest};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::vfio::{self, Bdf};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::unistd::chown;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take to fail.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of locked memory that are far too few for a guest: fewer than the usual limit.
const FEW: u64 = 4 << 20;
/// VFIO's own line, which has no more than a number, may follow.
const LINES: usize = 2;

fn command(devices: &[Bdf]) -> Command {
    let devices: Vec<_> = devices.iter().map(ToString::to_string).collect();
    let guest = Guest {
        name: vmm::REFUSED,
        devices: &devices,
        cpus: 1,
        line: vmm::LINE,
        disks: &[],
    };
    let mut command = qemu::command(&guest, "/dev/null");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Waits until it has ended, with an error. Gives the line that has these words.
fn line_of(mut child: Child, words: &[&str]) -> Outcome<String> {
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > LIMIT {
            child.kill()?;
            return fail(format!("it runs, where {words:?} were due"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if ended.status.code().is_none_or(|code| code == 0) {
        return fail(format!("it ended with {}: {said}", ended.status));
    }
    let mut lines = said.lines();
    let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
    match found {
        Some(line) if said.lines().count() <= LINES => Ok(line.trim().to_owned()),
        _ => fail(format!("not a line with {words:?}: {said}")),
    }
}

fn refused(devices: &[Bdf], more: &[&str], words: &[&str]) -> Outcome {
    let line = line_of(command(devices).args(more).spawn()?, words)?;
    println!("# {line}");
    Ok(())
}

/// An ordinary user may lock too little.
fn poor(device: Bdf) -> Outcome {
    let user = Some(vmm::STRANGER.into());
    fs::set_permissions("/dev/kvm", Permissions::from_mode(0o666))?;
    chown(
        format!("/dev/vfio/{}", device.group()?).as_str(),
        user,
        None,
    )?;
    let mut command = command(&[device]);
    command.uid(vmm::STRANGER).gid(vmm::STRANGER);
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, FEW, hard)?;
    let child = command.spawn();
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
    let line = line_of(child?, &["limit of locked memory"])?;
    println!("# {line}");
    Ok(())
}

/// The step, while the first guest runs.
pub fn run(world: &mut World) -> Outcome<String> {
    let first = world.device.clone();
    let Some(free) = vfio::endpoints()
        .into_iter()
        .find(|bdf| bdf.to_string() != first)
    else {
        return skip("there is no second endpoint");
    };
    let shares = vfio::all_endpoints().into_iter();
    let Some(shares) = shares.into_iter().find(|bdf| !bdf.is_alone()) else {
        return skip("no two endpoints share a group");
    };
    let words = ["another device in its IOMMU group", &shares.to_string()];
    refused(&[shares], &[], &words)?;
    // A device that nests is in the same container before it.
    refused(&[free, shares], &[], &words)?;
    poor(free)?;
    // The host is not told which of the guest's tables ask for it.
    let snooping = ["-global", "intel-iommu.snoop-control=on"];
    refused(&[free], &snooping, &["snoop-control=off"])?;
    // Nothing of them is left: the device can be had.
    world.agent()?.ask("log")?;
    let what = "a group of two, alone and beside a device that nests; too little memory to lock; \
                snoop control";
    Ok(what.into())
}

/// The step, when the module is gone.
pub fn without_module(_world: &mut World) -> Outcome<String> {
    let devices = vfio::endpoints();
    let first = devices.get(..1).unwrap_or_default();
    refused(first, &[], &["load the module vfio_iommu_ioasid"])?;
    Ok("it says so".into())
}
