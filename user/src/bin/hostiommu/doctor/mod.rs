// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu doctor`: what this machine can do, what stands in the way, and how to cure it. It reads
//! files of sysfs and procfs alone, and works without the module.

mod device;
mod machine;

use super::report::printable;
use serde_json::{json, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// Something works that would work better, or a feature is missing.
    Note,
    /// It stands in the way.
    Bad,
    /// It cannot be known here.
    Unknown,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Check {
    subject: String,
    state: State,
    found: String,
    cure: Option<String>,
}

impl Check {
    fn new(subject: &str, state: State, found: impl AsRef<str>) -> Self {
        Self {
            subject: printable(subject),
            state,
            found: printable(found.as_ref()),
            cure: None,
        }
    }

    fn cure(mut self, cure: impl AsRef<str>) -> Self {
        self.cure = Some(printable(cure.as_ref()));
        self
    }

    fn json(&self) -> Value {
        json!({
            "subject": self.subject,
            "state": self.state.name(),
            "found": self.found,
            "cure": self.cure,
        })
    }
}

/// Everything that was looked at.
pub struct Diagnosis(Vec<Check>);

impl Diagnosis {
    /// Looks at the machine, and at a device of it.
    pub fn make(device: Option<&str>) -> Self {
        Self::of(&Files::of_machine(), device)
    }

    fn of(files: &Files, device: Option<&str>) -> Self {
        let mut checks = machine::checks(files);
        if let Some(device) = device {
            checks.extend(device::checks(files, device));
        }
        Self(checks)
    }

    /// Whether something stands in the way.
    pub fn is_bad(&self) -> bool {
        self.0.iter().any(|check| check.state == State::Bad)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        self.0.iter().map(Check::json).collect()
    }

    /// For people: a line for each thing, its cure below it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.0 {
            let state = check.state.name();
            text += &format!("{state:>7}  {}: {}\n", check.subject, check.found);
            if let Some(cure) = &check.cure {
                text += &format!("         -> {cure}\n");
            }
        }
        let bad = self.0.iter().filter(|check| check.state == State::Bad);
        text += &match bad.count() {
            0 => "nothing stands in the way\n".to_owned(),
            1 => "1 thing stands in the way\n".to_owned(),
            many => format!("{many} things stand in the way\n"),
        };
        text
    }
}

/// The machine's files.
struct Files {
    root: PathBuf,
}

impl Files {
    fn of_machine() -> Self {
        Self { root: "/".into() }
    }

    /// Where a file of the machine is.
    fn path(&self, file: &str) -> PathBuf {
        self.root.join(file.trim_start_matches('/'))
    }

    fn exists(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// The text of a file, without white space around it.
    fn text(&self, file: &str) -> Option<String> {
        let text = fs::read(self.path(file)).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// The bytes of a file.
    fn bytes(&self, file: &str) -> Option<Vec<u8>> {
        fs::read(self.path(file)).ok()
    }

    /// The names in a folder, in order.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into()).collect();
        names.sort();
        names
    }

    /// The last part of what a link leads to.
    fn link(&self, file: &str) -> Option<String> {
        let target = fs::read_link(self.path(file)).ok()?;
        let name = Path::new(&target).file_name()?;
        Some(name.to_string_lossy().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A machine made of these files.
    fn machine(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().to_path_buf();
        for (file, bytes) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("writable");
            fs::write(path, bytes).expect("writable");
        }
        (dir, Files { root })
    }

    fn state<'a>(diagnosis: &'a Diagnosis, subject: &str) -> &'a Check {
        let found = diagnosis.0.iter().find(|check| check.subject == subject);
        found.unwrap_or_else(|| panic!("no {subject} in\n{}", diagnosis.text()))
    }

    #[test]
    fn machine_without_anything_has_a_cure_for_each() {
        let (_dir, files) = machine(&[("proc/sys/kernel/osrelease", b"6.1.0\n")]);
        let diagnosis = Diagnosis::of(&files, Some("0000:00:04.0"));
        for subject in ["module", "IOMMU", "device 0000:00:04.0"] {
            let check = state(&diagnosis, subject);
            assert!(
                check.state == State::Bad && check.cure.is_some(),
                "{check:?}"
            );
        }
        assert!(diagnosis.is_bad());
        assert!(diagnosis.text().ends_with("things stand in the way\n"));
    }

    #[test]
    fn register_bits_tell_what_a_unit_can_do() {
        // IR, NEST, PRS, PASID, SMTS, SLTS, FLTS; and all but NEST.
        let all = b"2e04a6000000\n".to_owned();
        let ecap: u64 =
            1 << 3 | 1 << 26 | 1 << 29 | 1 << 40 | 1 << 43 | 1 << 46 | 1 << 47 | 19 << 35;
        let text = |value: u64| format!("{value:x}\n").into_bytes();
        for (ecap, expected) in [(ecap, State::Good), (ecap & !(1 << 26), State::Bad)] {
            let (_dir, files) = machine(&[
                ("sys/class/iommu/dmar0/intel-iommu/cap", &all),
                ("sys/class/iommu/dmar0/intel-iommu/ecap", &text(ecap)),
            ]);
            let diagnosis = Diagnosis::of(&files, None);
            assert_eq!(state(&diagnosis, "IOMMU unit dmar0").state, expected);
        }
    }

    #[test]
    fn group_with_a_second_device_is_told() {
        let device = "sys/bus/pci/devices/0000:00:04.0";
        let mut config = vec![0; 4096];
        // PASID, version 1, the last one: 20 bits.
        config[0x100..0x108].copy_from_slice(&[0x1b, 0, 1, 0, 0, 20, 0, 0]);
        let (dir, files) = machine(&[
            (&format!("{device}/config"), &config),
            ("sys/kernel/iommu_groups/3/devices/0000:00:04.0", b""),
            ("sys/kernel/iommu_groups/3/devices/0000:00:04.1", b""),
        ]);
        let link = dir.path().join(device).join("iommu_group");
        symlink("../../../../kernel/iommu_groups/3", link).expect("writable");
        let diagnosis = Diagnosis::of(&files, Some("0000:00:04.0"));
        let group = state(&diagnosis, "IOMMU group 3");
        assert_eq!(group.state, State::Bad);
        assert!(group.found.contains("0000:00:04.1"), "{group:?}");
        let pasid = state(&diagnosis, "PASID");
        assert_eq!((pasid.state, &*pasid.found), (State::Good, "20 bits"));
        assert_eq!(state(&diagnosis, "page requests").state, State::Note);
    }

    #[test]
    fn module_that_is_installed_is_found_and_a_kernel_that_wants_signatures_told() {
        let kernel: (&str, &[u8]) = ("proc/sys/kernel/osrelease", b"7.3.4+deb13-amd64\n");
        let enforced: (&str, &[u8]) = ("sys/module/module/parameters/sig_enforce", b"Y\n");
        for folder in ["updates", "updates/dkms"] {
            let file = format!("lib/modules/7.3.4+deb13-amd64/{folder}/vfio_iommu_ioasid.ko.xz");
            let (_dir, files) = machine(&[
                kernel,
                enforced,
                (&file, b""),
                ("var/lib/dkms/mok.pub", b""),
            ]);
            let diagnosis = Diagnosis::of(&files, None);
            assert_eq!(state(&diagnosis, "module").found, "installed, not loaded");
            let signatures = state(&diagnosis, "signatures");
            let cure = signatures.cure.as_deref().expect("a cure");
            assert!(cure.contains("mok.pub"), "{cure}");
        }
        let dkms: (&str, &[u8]) = ("var/lib/dkms/vfio-iommu-ioasid/x", b"");
        let (_dir, files) = machine(&[kernel, dkms]);
        let diagnosis = Diagnosis::of(&files, None);
        let cure = state(&diagnosis, "module").cure.as_deref();
        assert!(cure
            .expect("a cure")
            .contains("dkms autoinstall -k 7.3.4+deb13-amd64"));
        assert!(diagnosis
            .0
            .iter()
            .all(|check| check.subject != "signatures"));
    }

    #[test]
    fn names_cannot_control_the_terminal() {
        let (_dir, files) = machine(&[]);
        let diagnosis = Diagnosis::of(&files, Some("\u{1b}[2J"));
        assert!(!diagnosis.text().contains('\u{1b}'));
    }
}
