// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The module's debugfs, read and parsed. `kmod/debugfs.rs` describes its format.

use serde_json::{json, Map, Value};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What can fail, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no debugfs.
    #[error("debugfs is not mounted at {0}; as root: mount -t debugfs debugfs {0}")]
    NotMounted(PathBuf),
    /// There is no module.
    #[error("the module vfio_iommu_ioasid is not loaded; as root: modprobe vfio_iommu_ioasid; hostiommu doctor says more")]
    NotLoaded,
    /// Root, and the kernel does not let it.
    #[error("the kernel's lockdown keeps root from {0}; cat /sys/kernel/security/lockdown shows it, and only a boot without it ends it")]
    LockedDown(PathBuf),
    /// Root of a user namespace, or one whose capabilities were taken.
    #[error("root may not read {0} here: it lacks CAP_DAC_OVERRIDE; run hostiommu outside of the container or user namespace")]
    NoCapability(PathBuf),
    /// Not root.
    #[error("only root may read {0}; try sudo hostiommu")]
    NotRoot(PathBuf),
    /// Something else with a file.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// A line that is not made of pairs, or lacks one.
    #[error("{file}: cannot understand {line:?}; do hostiommu and the module belong together?")]
    Format {
        /// The file.
        file: &'static str,
        /// Its line.
        line: String,
    },
    /// No such container.
    #[error("there is no container {0}; hostiommu list shows those that are there")]
    NoContainer(u64),
    /// The output cannot be written.
    #[error("cannot print: {0}")]
    Print(io::Error),
    /// A live view, and nothing to show it on.
    #[error("watch shows a table in a terminal, and this output is none; hostiommu watch --json prints lines")]
    NoTerminal,
    /// The terminal, or signals, cannot be had.
    #[error("cannot use this terminal: {0}")]
    Terminal(io::Error),
    /// There is no tracefs, or this user may not look.
    #[error(
        "cannot see tracefs at {0}; as root: mount -t tracefs tracefs {0}; other users need sudo"
    )]
    NoTracefs(PathBuf),
    /// There are no tracepoints.
    #[error("the kernel has no events of vfio_ioasid: load the module vfio_iommu_ioasid first; if it is loaded, the kernel was built without CONFIG_EVENT_TRACING")]
    NoEvents,
}

/// One line: an object's pairs, in the module's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(Vec<(String, String)>);

impl Line {
    /// Parses a line of a file.
    ///
    /// # Errors
    ///
    /// If it is not made of pairs, or names no container.
    pub fn parse(file: &'static str, line: &str) -> Result<Self, Error> {
        let format = || Error::Format {
            file,
            line: line.to_owned(),
        };
        let pairs = line
            .split(' ')
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                    Ok((printable(key), printable(value)))
                }
                _ => Err(format()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let line = Self(pairs);
        if file != "module" && line.container().is_none() {
            return Err(format());
        }
        Ok(line)
    }

    /// The value of that key; empty if the module does not have it.
    pub fn get(&self, key: &str) -> &str {
        self.0
            .iter()
            .find(|pair| pair.0 == key)
            .map_or("", |pair| pair.1.as_str())
    }

    /// The pairs.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Number of the container it belongs to.
    pub fn container(&self) -> Option<u64> {
        number(self.get("container"))
    }

    /// Numbers become JSON's, everything else a string.
    fn json(&self) -> Map<String, Value> {
        self.pairs()
            .map(|(key, value)| {
                let number = number(value).map(Value::from);
                (key.to_owned(), number.unwrap_or_else(|| value.into()))
            })
            .collect()
    }
}

/// A number as the module writes one: without signs and leading zeroes, which others may have.
pub fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Text for a terminal: what steers one is written as an escape sequence of Rust's.
pub fn printable(text: &str) -> String {
    let steers = |character: char| character.is_control() || !character.is_ascii();
    if text.contains(steers) {
        return text.escape_default().to_string();
    }
    text.to_owned()
}

/// Everything that the module shows.
#[derive(Clone, Debug)]
pub struct Report {
    /// The module's one line.
    pub module: Line,
    /// Containers.
    pub containers: Vec<Line>,
    /// Devices of all containers, and so on.
    pub devices: Vec<Line>,
    /// Runs of PASIDs.
    pub pasids: Vec<Line>,
    /// Bindings.
    pub bindings: Vec<Line>,
    /// Fault queues.
    pub queues: Vec<Line>,
}

impl Report {
    /// Reads all files below `debugfs`.
    ///
    /// # Errors
    ///
    /// Says how to cure it, where there is a cure.
    pub fn read(debugfs: &Path) -> Result<Self, Error> {
        let lines = |file: &'static str| -> Result<Vec<Line>, Error> {
            read(debugfs, file)?
                .lines()
                .map(|line| Line::parse(file, line))
                .collect()
        };
        let module = lines("module")?.pop().ok_or_else(|| Error::Format {
            file: "module",
            line: String::new(),
        })?;
        Ok(Self {
            module,
            containers: lines("containers")?,
            devices: lines("devices")?,
            pasids: lines("pasids")?,
            bindings: lines("bindings")?,
            queues: lines("queues")?,
        })
    }

    /// What belongs to one container.
    pub fn only(mut self, id: u64) -> Result<Self, Error> {
        let lists = [
            &mut self.containers,
            &mut self.devices,
            &mut self.pasids,
            &mut self.bindings,
            &mut self.queues,
        ];
        for list in lists {
            list.retain(|line| line.container() == Some(id));
        }
        match self.containers.is_empty() {
            true => Err(Error::NoContainer(id)),
            false => Ok(self),
        }
    }

    /// The lines of `list` that belong to `container`.
    pub fn of<'a>(list: &'a [Line], container: &Line) -> impl Iterator<Item = &'a Line> {
        let id = container.container();
        list.iter().filter(move |line| line.container() == id)
    }

    /// An array of containers with their devices.
    pub fn list_json(&self) -> Value {
        self.containers_json(&[("devices_attached", &self.devices)])
    }

    /// An array of containers with all that they hold.
    pub fn show_json(&self) -> Value {
        self.containers_json(&[
            ("devices_attached", &self.devices),
            ("pasids_allocated", &self.pasids),
            ("bindings_in_force", &self.bindings),
            ("queues_open", &self.queues),
        ])
    }

    /// The module, and an array of containers.
    pub fn stats_json(&self) -> Value {
        json!({ "module": self.module.json(), "containers": self.containers_json(&[]) })
    }

    fn containers_json(&self, parts: &[(&str, &Vec<Line>)]) -> Value {
        let container = |container: &Line| {
            let mut object = container.json();
            for (name, list) in parts {
                let lines = Self::of(list, container).map(|line| Value::from(line.json()));
                object.insert((*name).to_owned(), lines.collect());
            }
            Value::from(object)
        };
        self.containers.iter().map(container).collect()
    }
}

/// Whether this process is root's: its own folder belongs to its effective user.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn read(debugfs: &Path, file: &str) -> Result<String, Error> {
    let path = debugfs.join("vfio_ioasid").join(file);
    fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let anything = fs::read_dir(debugfs).is_ok_and(|mut entries| entries.next().is_some());
            if anything {
                Error::NotLoaded
            } else {
                Error::NotMounted(debugfs.to_owned())
            }
        }
        _ => refused(path, error, is_root()),
    })
}

/// Why a file that is there cannot be read. Its mode is looked at first, which says EACCES; lockdown
/// says EPERM afterwards (debugfs_locked_down).
fn refused(path: PathBuf, error: io::Error, root: bool) -> Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => Error::LockedDown(path),
        Some(libc::EACCES) if root => Error::NoCapability(path),
        Some(libc::EACCES) => Error::NotRoot(path),
        _ => Error::Read(path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder like debugfs, removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("hostiommu-{}-{name}", std::process::id());
            let folder = Self(std::env::temp_dir().join(name));
            fs::create_dir_all(folder.0.join("other")).expect("a folder");
            for (file, text) in files {
                let path = folder.0.join("vfio_ioasid");
                fs::create_dir_all(&path).expect("a folder");
                fs::write(path.join(file), text).expect("a file");
            }
            folder
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const FILES: [(&str, &str); 6] = [
        ("module", "containers=2 pasids=3\n"),
        (
            "containers",
            "container=1 type=ioasid pasids=2\ncontainer=7 type=type1 pasids=1\n",
        ),
        ("devices", "container=7 device=0000:00:04.0 rid=stage2\n"),
        ("pasids", "container=1 first=5 last=6\n"),
        ("bindings", ""),
        ("queues", "container=1 queue=0 depth=2048\n"),
    ];

    #[test]
    fn report_keeps_what_belongs_together() {
        let folder = Folder::new("whole", &FILES);
        let report = Report::read(&folder.0).expect("a report");
        assert_eq!(report.containers.len(), 2);
        let seven = report.clone().only(7).expect("container 7");
        assert_eq!((seven.devices.len(), seven.pasids.len()), (1, 0));
        let json = seven.show_json();
        assert_eq!(json[0]["container"], 7);
        assert_eq!(json[0]["type"], "type1");
        assert_eq!(
            json[0]["devices_attached"][0]["device"], "0000:00:04.0",
            "{json}"
        );
        assert_eq!(report.stats_json()["module"]["pasids"], 3);
        assert!(matches!(report.only(2), Err(Error::NoContainer(2))));
    }

    #[test]
    fn missing_module_and_missing_debugfs_are_told_apart() {
        let folder = Folder::new("empty", &[]);
        assert!(matches!(Report::read(&folder.0), Err(Error::NotLoaded)));
        fs::remove_dir(folder.0.join("other")).expect("a folder");
        assert!(matches!(Report::read(&folder.0), Err(Error::NotMounted(_))));
        let gone = folder.0.join("gone");
        assert!(matches!(Report::read(&gone), Err(Error::NotMounted(_))));
    }

    #[test]
    fn refusal_names_its_reason() {
        let of = |errno, root| {
            let error = io::Error::from_raw_os_error(errno);
            refused(PathBuf::from("module"), error, root).to_string()
        };
        for root in [false, true] {
            let text = of(libc::EPERM, root);
            assert!(
                text.contains("lockdown") && !text.contains("sudo"),
                "{text}"
            );
            assert!(of(libc::EIO, root).contains("os error 5"));
        }
        assert!(of(libc::EACCES, false).contains("sudo"));
        let text = of(libc::EACCES, true);
        let wrong = text.contains("sudo") || text.contains("lockdown");
        assert!(text.contains("CAP_DAC_OVERRIDE") && !wrong, "{text}");
    }

    #[test]
    fn line_that_is_no_line_is_refused() {
        for bad in [
            "container=1 device",
            "container=1  device=x",
            "container=x",
            "device=x",
            "container=1 device=",
            "",
        ] {
            let line = Line::parse("devices", bad);
            assert!(matches!(line, Err(Error::Format { .. })), "{bad:?}");
        }
        let new = Line::parse("devices", "container=1 added=later").expect("a new key");
        assert_eq!((new.get("added"), new.get("absent")), ("later", ""));
    }

    #[test]
    fn line_that_would_steer_a_terminal_is_escaped() {
        let line = Line::parse("devices", "container=1 device=\x1b[31mred name=\u{9b}2J");
        let line = line.expect("a line");
        assert_eq!(line.get("device"), "\\u{1b}[31mred");
        assert_eq!(line.get("name"), "\\u{9b}2J");
    }

    #[test]
    fn number_is_exact() {
        let line = Line::parse("module", "a=7 b=007 c=+7 d=18446744073709551616");
        let json = line.expect("a line").json();
        assert_eq!(json["a"], 7);
        for (key, text) in [("b", "007"), ("c", "+7"), ("d", "18446744073709551616")] {
            assert_eq!(json[key], text);
        }
        assert!(Line::parse("devices", "container=01").is_err());
    }
}
