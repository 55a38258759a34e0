// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rooms of the module stand on each other in one order. That unsafe code is in one of them is
//! what the compiler sees to (`deny(unsafe_code)` of the module).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: a room may use those before it.
const ROOMS: [&str; 11] = [
    "base",
    "ffi",
    "budget",
    "call",
    "fault",
    "pasid",
    "ioas",
    "nesting",
    "container",
    "debugfs",
    "kunit",
];

fn module() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it")).join("../kmod")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

/// The lines of each source without their comments, by room.
fn code() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    sources(&module(), &mut found);
    let mut rooms: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
        let text: Vec<String> = text.lines().map(code).collect();
        let inside = path.strip_prefix(module()).unwrap();
        let room = inside.components().next().unwrap().as_os_str();
        let room = room.to_str().unwrap().trim_end_matches(".rs").to_owned();
        rooms
            .entry(room)
            .or_default()
            .push((inside.to_owned(), text.join("\n")));
    }
    rooms
}

#[test]
fn no_room_uses_one_above_it() {
    let code = code();
    let rooms: Vec<&str> = code.keys().map(String::as_str).collect();
    let mut known = [&ROOMS[..], &["vfio_iommu_ioasid_main"]].concat();
    known.sort_unstable();
    assert_eq!(rooms, known, "rooms that ROOMS does not know");
    for (level, room) in ROOMS.iter().enumerate() {
        for (path, text) in &code[*room] {
            // A list would hide what is used.
            assert!(!text.contains("crate::{"), "{}", path.display());
            for above in &ROOMS[level + 1..] {
                let used = format!("crate::{above}");
                assert!(
                    !text.contains(&used),
                    "{} uses {above}, which stands on {room}",
                    path.display()
                );
            }
        }
    }
}
