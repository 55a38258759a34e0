// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel, the module, the IOMMU units and the VMMs of this machine.

use super::{Check, Files, State};
use std::env;

/// The module's name.
const MODULE: &str = "vfio_iommu_ioasid";

/// Options that a kernel must have been built with.
const OPTIONS: [&str; 5] = [
    "CONFIG_RUST",
    "CONFIG_INTEL_IOMMU",
    "CONFIG_INTEL_IOMMU_SVM",
    "CONFIG_VFIO_GROUP",
    "CONFIG_VFIO_CONTAINER",
];

/// Series of the kernel that the module is tested with.
const SERIES: [&str; 2] = ["7.2", "7.3"];

/// Programs that may use it.
const VMMS: [&str; 4] = ["qemu-system-x86_64", "cloud-hypervisor", "crosvm", "vmm"];

/// Bits of VT-d's extended capability register (VT-d 4.1, 11.4.3), and whether nesting needs them.
const ECAP_BITS: [(u32, &str, bool); 7] = [
    (43, "SMTS (scalable mode)", true),
    (26, "NEST (nested translation)", true),
    (40, "PASID", true),
    (47, "FLTS (first stage)", true),
    (46, "SLTS (second stage)", true),
    (29, "PRS (page requests)", false),
    (3, "IR (interrupt remapping)", false),
];

/// Everything but devices.
pub fn checks(files: &Files) -> Vec<Check> {
    let release = files
        .text("/proc/sys/kernel/osrelease")
        .unwrap_or_else(|| "of unknown release".to_owned());
    let mut checks = vec![kernel(&release)];
    checks.extend(options(files, &release));
    checks.push(module(files, &release));
    checks.extend(signatures(files));
    checks.extend(units(files));
    checks.push(vmms());
    checks
}

fn kernel(release: &str) -> Check {
    let series: Vec<_> = release.split('.').take(2).collect();
    let found = format!("Linux {release}");
    match SERIES.contains(&&*series.join(".")) {
        true => Check::new("kernel", State::Good, found),
        false => Check::new("kernel", State::Note, found).cure(format!(
            "the module is tested with Linux {}; Debian 13 backports has one: \
             apt-get install -t trixie-backports linux-image-amd64",
            SERIES.join(" and ")
        )),
    }
}

fn options(files: &Files, release: &str) -> Option<Check> {
    let places = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ];
    let Some(config) = places.iter().find_map(|place| files.text(place)) else {
        let check = Check::new(
            "kernel options",
            State::Unknown,
            "no configuration is installed",
        );
        return Some(check.cure(format!("{} would have it", places[0])));
    };
    let is_set = |option: &&str| {
        let yes = [format!("{option}=y"), format!("{option}=m")];
        config.lines().any(|line| yes.iter().any(|yes| yes == line))
    };
    let missing: Vec<_> = OPTIONS
        .into_iter()
        .filter(|option| !is_set(option))
        .collect();
    Some(match missing.is_empty() {
        true => Check::new("kernel options", State::Good, OPTIONS.join(", ")),
        false => Check::new(
            "kernel options",
            State::Bad,
            format!("{} missing", missing.join(", ")),
        )
        .cure("boot a kernel that has them: Debian 13 backports'"),
    })
}

fn module(files: &Files, release: &str) -> Check {
    let loaded = format!("/sys/module/{MODULE}");
    if files.exists(&loaded) {
        let taint = files.text(&format!("{loaded}/taint")).unwrap_or_default();
        let signed = match taint.contains('E') {
            true => "not signed",
            false => "signed",
        };
        let count = |name: &str| files.text(&format!("{loaded}/{name}")).unwrap_or_default();
        let compat = match &*count("parameters/type1_compat") {
            "Y" => "; type1_compat is on",
            _ => "",
        };
        let users = count("refcnt");
        let found = format!("loaded, {signed}, {users} containers and queues{compat}");
        return Check::new("module", State::Good, found);
    }
    let endings = ["ko", "ko.xz", "ko.zst"];
    let in_folder = |folder: &str| {
        let file = format!("/lib/modules/{release}/{folder}/{MODULE}");
        let mut files_of = endings.iter().map(|ending| format!("{file}.{ending}"));
        files_of.any(|file| files.exists(&file))
    };
    // `make install` and DKMS.
    if in_folder("updates") || in_folder("updates/dkms") {
        return Check::new("module", State::Bad, "installed, not loaded")
            .cure(format!("as root: modprobe {MODULE}"));
    }
    let cure = match files.exists("/var/lib/dkms/vfio-iommu-ioasid") {
        true => format!("as root: dkms autoinstall -k {release}; it says what is missing"),
        false => {
            "as root: apt-get install vfio-iommu-ioasid-dkms; or make install in a checkout of \
                  host-iommu"
                .to_owned()
        }
    };
    Check::new("module", State::Bad, "not installed for this kernel").cure(cure)
}

/// Why the kernel takes signed modules only. Nothing, if it takes others.
fn signatures(files: &Files) -> Option<Check> {
    let modes = files.text("/sys/kernel/security/lockdown");
    let mode = modes.as_deref().and_then(|modes| {
        let behind = modes.split('[').nth(1)?;
        behind.split(']').next()
    });
    let enforced = files.text("/sys/module/module/parameters/sig_enforce");
    let why = match (mode, enforced.as_deref()) {
        (Some(mode), _) if mode != "none" => format!("the kernel is locked down: {mode}"),
        (_, Some("Y")) => "module.sig_enforce is on".to_owned(),
        _ => return None,
    };
    let cure = match files.exists("/var/lib/dkms/mok.pub") {
        true => {
            "modules of DKMS load once the firmware knows this machine's key: \
             mokutil --import /var/lib/dkms/mok.pub, and boot"
        }
        false => "make install SIGN_KEY= SIGN_CERT=, with a key that mokutil --import took",
    };
    let found = format!("the kernel loads signed modules only: {why}");
    Some(Check::new("signatures", State::Note, found).cure(cure))
}

fn units(files: &Files) -> Vec<Check> {
    let all = files.names("/sys/class/iommu");
    let units: Vec<_> = all
        .iter()
        .filter(|unit| files.exists(&format!("/sys/class/iommu/{unit}/intel-iommu/ecap")))
        .collect();
    if units.is_empty() {
        let found = match all.is_empty() {
            true => "no IOMMU is in use".to_owned(),
            false => format!("no VT-d unit; there is {}", all.join(", ")),
        };
        return vec![Check::new("IOMMU", State::Bad, found).cure(
            "switch VT-d on in the firmware's setup, and boot with intel_iommu=on,sm_on; \
             the module nests on VT-d alone",
        )];
    }
    let cmdline = files.text("/proc/cmdline").unwrap_or_default();
    let scalable_off = cmdline.split_whitespace().any(|word| {
        word.strip_prefix("intel_iommu=")
            .is_some_and(|values| values.split(',').any(|value| value == "sm_off"))
    });
    let mut checks: Vec<_> = units.iter().map(|unit| one_unit(files, unit)).collect();
    if scalable_off {
        let found = "the kernel's command line switches it off";
        checks.push(
            Check::new("scalable mode", State::Bad, found)
                .cure("boot with intel_iommu=on,sm_on in the place of sm_off"),
        );
    }
    checks
}

fn one_unit(files: &Files, unit: &str) -> Check {
    let subject = format!("IOMMU unit {unit}");
    let register = |name: &str| {
        let text = files.text(&format!("/sys/class/iommu/{unit}/intel-iommu/{name}"))?;
        u64::from_str_radix(&text, 16).ok()
    };
    let Some(ecap) = register("ecap") else {
        return Check::new(&subject, State::Unknown, "its capabilities cannot be read");
    };
    let lacks = |needed: bool| {
        ECAP_BITS
            .into_iter()
            .filter(move |(bit, _, is_needed)| *is_needed == needed && ecap & (1 << bit) == 0)
            .map(|(_, name, _)| name)
            .collect::<Vec<_>>()
    };
    let (needed, others) = (lacks(true), lacks(false));
    // PSS (VT-d 4.1, 11.4.3) is the number of bits less one.
    let bits = (ecap >> 35 & 0x1f) + 1;
    if !needed.is_empty() {
        return Check::new(
            &subject,
            State::Bad,
            format!("cannot nest: ECAP {ecap:#x} lacks {}", needed.join(", ")),
        )
        .cure("another machine; without nesting the module maps memory, and BIND is EOPNOTSUPP");
    }
    let found = format!("nests, PASIDs of {bits} bits");
    match others.is_empty() {
        true => Check::new(&subject, State::Good, format!("{found}, page requests")),
        false => Check::new(
            &subject,
            State::Note,
            format!("{found}; ECAP {ecap:#x} lacks {}", others.join(", ")),
        ),
    }
}

fn vmms() -> Check {
    let path = env::var_os("PATH").unwrap_or_default();
    let found: Vec<_> = VMMS
        .into_iter()
        .filter(|name| env::split_paths(&path).any(|folder| folder.join(name).exists()))
        .collect();
    match found.is_empty() {
        true => Check::new(
            "VMM",
            State::Note,
            format!("none of {} in PATH", VMMS.join(", ")),
        ),
        false => Check::new("VMM", State::Good, found.join(", ")),
    }
}
