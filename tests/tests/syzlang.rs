// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The description of the calls for syzkaller (docs/vfio_ioasid.txt) is that of the header: each call,
//! each structure's fields in their order and size, each flag.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Fields in their order: the name, and bytes of the type if it is a number.
type Fields = Vec<(String, Option<u32>)>;

fn read(path: &str) -> String {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it");
    let path = PathBuf::from(folder).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn header() -> String {
    read("../bindings/uapi/linux/vfio_ioasid.h")
}

/// The names that the header defines with `value` in what stands behind them.
fn defined<'a>(header: &'a str, value: &'a str) -> impl Iterator<Item = &'a str> {
    header
        .lines()
        .filter(move |line| line.contains(value))
        .filter_map(|line| line.split_whitespace().nth(1))
}

/// The structures of the header.
fn of_header(text: &str) -> BTreeMap<String, Fields> {
    let mut found = BTreeMap::new();
    let mut open: Option<(String, Fields)> = None;
    for line in text.lines() {
        if let Some(name) = line
            .strip_prefix("struct ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            open = Some((name.to_owned(), Fields::new()));
        } else if line == "};" {
            found.extend(open.take());
        } else if let (Some((_, fields)), Some(field)) = (&mut open, line.trim().strip_suffix(';'))
        {
            let (kind, name) = field.rsplit_once(' ').expect("a type and a name");
            let size = match kind {
                "__u8" => Some(1),
                "__u16" => Some(2),
                "__u32" | "__s32" => Some(4),
                "__u64" | "__aligned_u64" => Some(8),
                _ => None,
            };
            fields.push((name.to_owned(), size));
        }
    }
    found
}

/// Bytes of a type of the description, if it is a number or stands for one.
fn size(kind: &str) -> Option<u32> {
    match kind {
        "fd_ioasid_queue" | "ioasid_pasid" | "ioasid_as" => return Some(4),
        "ioasid_cookie" => return Some(8),
        _ if kind.starts_with("ptr64[") => return Some(8),
        _ => {}
    }
    let base = match kind.split_once('[') {
        Some(("int8" | "int16" | "int32" | "int64", _)) | None => kind,
        Some((_, inside)) => inside.trim_end_matches(']').rsplit(", ").next()?,
    };
    ["int8", "int16", "int32", "int64"]
        .iter()
        .position(|name| base.split('[').next() == Some(name))
        .map(|log2| 1 << log2)
}

/// Those of the description.
fn of_description(text: &str) -> BTreeMap<String, Fields> {
    let mut found = BTreeMap::new();
    let mut open: Option<(String, Fields)> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(" {") {
            open = Some((name.to_owned(), Fields::new()));
        } else if line == "}" {
            found.extend(open.take());
        } else if let Some((_, fields)) = &mut open {
            let mut words = line.split('\t').filter(|word| !word.is_empty());
            let name = words.next().expect("a name");
            let kind = words.next().expect("a type");
            fields.push((name.to_owned(), size(kind)));
        }
    }
    found
}

#[test]
fn structures_are_those_of_the_header() {
    let wanted = of_header(&header());
    let found = of_description(&read("../docs/vfio_ioasid.txt"));
    assert!(wanted.len() > 12, "{}", wanted.len());
    // GET_INFO's reply is no argument.
    let arguments = wanted
        .iter()
        .filter(|(name, _)| *name != "vfio_ioasid_cap_nesting");
    for (name, fields) in arguments {
        assert_eq!(found.get(name), Some(fields), "{name}");
    }
}

#[test]
fn every_call_is_described_once() {
    let text = read("../docs/vfio_ioasid.txt");
    let header = header();
    let calls: Vec<_> = defined(&header, "_IO(VFIO_TYPE").collect();
    assert_eq!(calls.len(), 12);
    for call in calls {
        let start = format!("ioctl${call}(fd fd_ioasid, cmd const[{call}], ");
        let lines = text.lines().filter(|line| line.starts_with(&start));
        assert_eq!(lines.count(), 1, "{call}");
    }
}

#[test]
fn every_flag_is_described() {
    let text = read("../docs/vfio_ioasid.txt");
    let header = header();
    let flags: Vec<_> = defined(&header, "(1U << ")
        .filter(|name| {
            // What the kernel says, not what it is told.
            let replies = [
                "_NESTING_",
                "_FAULT_FLAG_",
                "_FAULT_PERM_",
                "_DEVICE_",
                "_LIMIT",
            ];
            !replies.iter().any(|part| name.contains(part)) || name.contains("_SCOPE_")
        })
        .collect();
    assert!(flags.len() > 12, "{flags:?}");
    for flag in flags {
        let is_there = text.split([' ', ',', '\n']).any(|word| word == flag);
        assert!(is_there, "{flag}");
    }
}
