// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which stages a command goes through, and what must be right before the first of them.

use crate::cache::{Cache, GB};
use crate::mirror::Mirror;
use crate::places::Which;
use crate::root::contained;
use anyhow::{bail, Result};
use std::path::Path;
use std::process::Stdio;

/// Disk space that a stage takes while it is made, with what it fetches, in units of 100 MB: what
/// `du` showed at most, and some more.
const ROOM: [(&str, u64); 16] = [
    ("build-root", 26),
    ("kernel", 5),
    ("metadata", 24),
    ("qemu", 10),
    ("vmm-qemu", 10),
    ("debian-qemu", 3),
    ("guest-kernel", 5),
    ("build-root-clang", 26),
    ("build-root-packaging", 26),
    ("vendor", 4),
    ("fresh-debian", 15),
    ("patched-source", 2),
    ("kernel-patched", 10),
    ("kernel-unpatched", 10),
    ("kernel-debug", 12),
    ("selftests", 2),
];

/// What stages without a row above take at most.
const SMALL: u64 = 100_000_000;

/// What every kernel needs.
const BASE: [&str; 4] = ["build-root", "packages", "kernel", "metadata"];
/// What every booted machine needs besides.
const MACHINE: [&str; 4] = ["qemu", "module", "sva-module", "probe-modules"];

/// The stages that a command goes through, in order.
#[derive(Clone, Default)]
pub struct Plan(Vec<&'static str>);

impl Plan {
    /// Of what needs the build root alone.
    pub fn root() -> Self {
        Self(BASE[..1].into())
    }

    /// Of what needs the build root and the kernel's metadata alone.
    pub fn base() -> Self {
        Self(BASE.into())
    }

    /// Of a machine that boots that kernel.
    pub fn machine(which: Which) -> Self {
        let own: &[&str] = match which {
            Which::Stock => &[],
            Which::Patched => &["patched-source", "ccache", "kernel-patched"],
            Which::Unpatched => &["ccache", "kernel-unpatched"],
            Which::Debug => &[
                "patched-source",
                "build-root-clang",
                "ccache",
                "kernel-debug",
            ],
        };
        let last: &[&str] = match which {
            Which::Debug => &["planted-modules", "programs", "accel-config"],
            _ => &["programs", "accel-config"],
        };
        Self([&BASE, &MACHINE[..1], own, &MACHINE[1..], last].concat())
    }

    /// With these too.
    pub fn and(mut self, stages: &[&'static str]) -> Self {
        let new = stages.iter().filter(|stage| !self.0.contains(stage));
        let new: Vec<_> = new.copied().collect();
        self.0.extend(new);
        self
    }

    /// With those of another plan too.
    pub fn with(self, other: &Self) -> Self {
        self.and(&other.0)
    }

    /// Where a stage stands: `3 of 9`.
    pub fn position(&self, stage: &str) -> Option<String> {
        let at = self.0.iter().position(|known| *known == stage)?;
        Some(format!("{} of {}", at + 1, self.0.len()))
    }

    /// Looks at everything that would stop the set-up later on.
    ///
    /// # Errors
    ///
    /// Names all that is wrong, each with its cure.
    pub fn check(&self, cache: &Cache) -> Result<()> {
        let missing: Vec<_> = self
            .0
            .iter()
            .filter(|stage| !cache.has_any(stage))
            .copied()
            .collect();
        let mut wrong: Vec<String> = Vec::new();
        let needed = missing.iter().map(|stage| room(stage)).sum();
        wrong.extend(said(cache.check_space("what is to be set up", needed)));
        wrong.extend(said(namespaces()));
        if missing.contains(&"build-root") {
            wrong.extend(said(Mirror::find().map(|_| ())));
        }
        match wrong.as_slice() {
            [] => Ok(()),
            [one] => bail!("{one}"),
            many => bail!(
                "{} things are in the way:\n- {}",
                many.len(),
                many.join("\n- ")
            ),
        }
    }
}

/// Bytes that a stage takes while it is made.
pub fn room(stage: &str) -> u64 {
    let row = ROOM.iter().find(|(name, _)| *name == stage);
    row.map_or(SMALL, |(_, hundreds)| hundreds * (GB / 10))
}

fn said(result: Result<()>) -> Option<String> {
    result.err().map(|error| format!("{error:#}"))
}

/// Whether programs can have mounts and processes of their own, which the build root needs.
fn namespaces() -> Result<()> {
    let output = contained().arg("true").stdin(Stdio::null()).output();
    let why = match &output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let cure = if why.contains("propagation") && !is_mount_point() {
        "this is a chroot whose / is no mount point: outside of it `mount --bind DIR DIR`, then \
         chroot into it again"
    } else if output.is_err() {
        "install util-linux, which has setpriv and unshare"
    } else {
        "a container needs CAP_SYS_ADMIN and may not forbid unshare and mount (docker: --privileged)"
    };
    bail!("cannot give a program mounts of its own ({why}): {cure}")
}

/// Whether / is a mount point, as the fifth word of a line of mountinfo says.
fn is_mount_point() -> bool {
    let mounts = std::fs::read_to_string(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.split_whitespace().nth(4) == Some("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_has_its_place_among_those_of_the_command() {
        let plan = Plan::machine(Which::Stock).and(&["debian-qemu", "qemu"]);
        assert_eq!(plan.position("build-root").as_deref(), Some("1 of 11"));
        assert_eq!(plan.position("debian-qemu").as_deref(), Some("11 of 11"));
        assert_eq!(plan.position("kernel-debug"), None);
        let both = plan.with(&Plan::machine(Which::Debug));
        assert_eq!(both.position("kernel-debug").as_deref(), Some("15 of 16"));
    }

    #[test]
    fn room_of_every_big_stage_is_known() {
        let big = |stage: &&&str| room(stage) > SMALL;
        let plan = Plan::machine(Which::Debug);
        assert_eq!(plan.0.iter().filter(big).count(), 7);
        assert!(room("kernel-debug") > GB && room("module") == SMALL);
    }
}
