// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A device: what it can do, whom it shares its group with, who has it, and whether this user may
//! use it.

use super::{Check, Files, State};
use host_iommu::Bdf;
use std::fs::OpenOptions;

/// Where a device's extended capabilities begin (PCIe 6.0, 7.6).
const EXTENDED: usize = 0x100;
/// Extended capabilities (PCIe 6.0, 7.9).
const ATS: u16 = 0x0f;
const PRI: u16 = 0x13;
const PASID: u16 = 0x1b;
/// More than a configuration space holds.
const MOST_CAPABILITIES: usize = 960;

/// Everything about a device.
pub fn checks(files: &Files, name: &str) -> Vec<Check> {
    let subject = format!("device {name}");
    let folder = format!("/sys/bus/pci/devices/{name}");
    let is_there = name.parse::<Bdf>().is_ok() && files.exists(&folder);
    if !is_there {
        return vec![Check::new(&subject, State::Bad, "there is no such device")
            .cure("lspci -D lists those that are there, as 0000:00:04.0")];
    }
    let mut checks = vec![unit(files, &subject, &folder)];
    checks.extend(capabilities(files, &folder));
    match files.link(&format!("{folder}/iommu_group")) {
        None => checks.push(
            Check::new("IOMMU group", State::Bad, "the device has none")
                .cure("no IOMMU is in use: switch VT-d on in the firmware's setup"),
        ),
        Some(group) => {
            checks.push(members(files, name, &group));
            checks.push(driver(files, name, &folder));
            checks.push(access(files, &group));
        }
    }
    checks.push(memlock(files));
    checks
}

fn unit(files: &Files, subject: &str, folder: &str) -> Check {
    let ids = ["vendor", "device"].map(|id| {
        let id = files.text(&format!("{folder}/{id}")).unwrap_or_default();
        id.trim_start_matches("0x").to_owned()
    });
    let ids = ids.join(":");
    match files.link(&format!("{folder}/iommu")) {
        Some(unit) => Check::new(subject, State::Good, format!("{ids}, behind {unit}")),
        None => Check::new(
            subject,
            State::Note,
            format!("{ids}, behind no unit that sysfs names"),
        ),
    }
}

/// The extended capabilities of a configuration space: number and offset.
fn extended(config: &[u8]) -> Vec<(u16, usize)> {
    let mut found = Vec::new();
    let mut offset = EXTENDED;
    while found.len() < MOST_CAPABILITIES {
        let bytes = config
            .get(offset..)
            .and_then(|rest| rest.first_chunk::<4>());
        let Some(header) = bytes.map(|bytes| u32::from_le_bytes(*bytes)) else {
            break;
        };
        let id = (header & 0xffff) as u16;
        if id == 0 || id == u16::MAX {
            break;
        }
        found.push((id, offset));
        offset = (header >> 20) as usize;
        if offset < EXTENDED {
            break;
        }
    }
    found
}

fn capabilities(files: &Files, folder: &str) -> Vec<Check> {
    let config = files.bytes(&format!("{folder}/config")).unwrap_or_default();
    // Others than root see the first 64 bytes.
    if config.len() < EXTENDED {
        return vec![
            Check::new("PASID, ATS, PRI", State::Unknown, "only root may read them")
                .cure("sudo hostiommu doctor"),
        ];
    }
    let found = extended(&config);
    let at = |wanted: u16| {
        found
            .iter()
            .find(|(id, _)| *id == wanted)
            .map(|(_, at)| *at)
    };
    let pasid = match at(PASID) {
        Some(at) => {
            // Max PASID Width: bits 12:8 of the register behind the header (PCIe 6.0, 7.8.9.2).
            let bits = config
                .get(at.saturating_add(5))
                .map_or(0, |byte| byte & 0x1f);
            Check::new("PASID", State::Good, format!("{bits} bits"))
        }
        None => Check::new("PASID", State::Bad, "the device has no PASID capability")
            .cure("another device; this one has its requests without PASID alone"),
    };
    let requests = match (at(ATS), at(PRI)) {
        (Some(_), Some(_)) => Check::new("page requests", State::Good, "ATS and PRI"),
        (ats, _) => {
            let missing = match ats {
                None => "the device has no ATS, which page requests need",
                Some(_) => "the device has ATS and no PRI",
            };
            Check::new("page requests", State::Note, missing)
                .cure("bind without a fault queue: what the device touches must be in memory")
        }
    };
    vec![pasid, requests]
}

fn members(files: &Files, name: &str, group: &str) -> Check {
    let subject = format!("IOMMU group {group}");
    let all = files.names(&format!("/sys/kernel/iommu_groups/{group}/devices"));
    let others: Vec<_> = all.iter().filter(|other| *other != name).cloned().collect();
    match others.is_empty() {
        true => Check::new(&subject, State::Good, "the device is alone in it"),
        false => Check::new(
            &subject,
            State::Bad,
            format!("also has {}", others.join(", ")),
        )
        .cure("BIND takes groups of one device: another slot, below a root port with ACS"),
    }
}

fn driver(files: &Files, name: &str, folder: &str) -> Check {
    let bind = format!(
        "as root: echo vfio-pci > {folder}/driver_override; echo {name} > \
         /sys/bus/pci/drivers_probe"
    );
    match files.link(&format!("{folder}/driver")).as_deref() {
        Some("vfio-pci") => Check::new("driver", State::Good, "vfio-pci").cure(format!(
            "to undo: echo > {folder}/driver_override; echo {name} > {folder}/driver/unbind; \
             echo {name} > /sys/bus/pci/drivers_probe"
        )),
        Some(driver) => Check::new("driver", State::Bad, format!("{driver} has the device"))
            .cure(format!("echo {name} > {folder}/driver/unbind; then {bind}")),
        None => Check::new("driver", State::Bad, "none").cure(bind),
    }
}

fn access(files: &Files, group: &str) -> Check {
    let files = [format!("/dev/vfio/{group}"), "/dev/vfio/vfio".to_owned()]
        .map(|name| (files.path(&name), name));
    for (path, name) in &files {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        match opened.map_err(|error| (error.kind(), error)) {
            // A group's file is one program's at a time.
            Err((std::io::ErrorKind::ResourceBusy, _)) => {
                let found = format!("{name} is open in another program");
                return Check::new("access", State::Note, found).cure(format!("fuser -v {name}"));
            }
            Err((std::io::ErrorKind::NotFound, _)) => {
                let found = format!("there is no {name}");
                return Check::new("access", State::Bad, found)
                    .cure("modprobe vfio-pci, and bind the device to it");
            }
            Err((_, error)) => {
                let found = format!("cannot open {name}: {error}");
                return Check::new("access", State::Bad, found)
                    .cure(format!("as root: chown USER {name}"));
            }
            Ok(_) => {}
        }
    }
    Check::new("access", State::Good, format!("{} opens", files[0].1))
}

fn memlock(files: &Files) -> Check {
    let limits = files.text("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| {
        let rest = line.strip_prefix("Max locked memory")?;
        rest.split_whitespace().next().map(str::to_owned)
    });
    match limit.as_deref().map(|limit| (limit, limit.parse::<u64>())) {
        None => Check::new("locked memory", State::Unknown, "the limit cannot be read"),
        Some(("unlimited", _)) => Check::new("locked memory", State::Good, "no limit"),
        Some((_, Ok(bytes))) => Check::new(
            "locked memory",
            State::Note,
            format!(
                "this user may pin {} MiB, root without a limit",
                bytes >> 20
            ),
        )
        .cure("a line in /etc/security/limits.conf, as large as the guest: USER - memlock KIB"),
        Some((limit, Err(_))) => Check::new("locked memory", State::Unknown, limit),
    }
}
