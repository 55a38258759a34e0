// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The clauses of the specification: the table in `user/src/vtd/clauses.md` names a test for each,
//! and what no other test shows is here.

use crate::guest::*;
use host_iommu::backend::soft::{Dma, DmaEnd};
use host_iommu::vtd::{SourceId, VtdTranslation};
use host_iommu::Iova;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, IommuMemory};

const FSTS: u64 = 0x34;
const IQERCD: u64 = 0xb0;
const GSTS: u64 = 0x1c;
const GCMD: u64 = 0x18;
const RTADDR: u64 = 0x20;
const ICS: u64 = 0x9c;

/// The root of the repository.
fn repository() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it")).join("..")
}

/// The names of tests in a file.
fn tests_in(path: &Path, names: &mut BTreeSet<String>) {
    let text = fs::read_to_string(path).unwrap();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if is_test {
                names.insert(name.to_owned());
            }
            is_test = false;
        }
    }
}

fn all_tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in [
        "user/src/vtd",
        "user/src/shadow",
        "user/src/backend/soft",
        "user/tests/vtd",
        "qemu-boot/src/hw",
    ] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "rs") {
                tests_in(&path, &mut names);
            }
        }
    }
    names
}

/// The rows of the table: the cells of each.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(repository().join("user/src/vtd/clauses.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .filter(|cells: &Vec<String>| cells[0] != "clause")
    .collect()
}

#[test]
fn each_clause_has_a_test_or_a_reason() {
    let known = all_tests();
    let rows = rows();
    assert!(rows.len() >= 100, "{} clauses", rows.len());
    let mut wrong = Vec::new();
    for cells in &rows {
        let [clause, does, shown] = cells.as_slice() else {
            wrong.push(format!("{cells:?} has not three cells"));
            continue;
        };
        if let Some(reason) = shown.strip_prefix("none:") {
            if reason.trim().len() < 10 || does.is_empty() {
                wrong.push(format!("{clause}: no reason"));
            }
            continue;
        }
        let names: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("{clause}: no test"));
        }
        for name in names.iter().filter(|name| !known.contains(**name)) {
            wrong.push(format!("{clause}: there is no test {name}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the sources have names for stands in the table.
#[test]
fn what_the_unit_has_is_in_the_table() {
    let clauses: Vec<String> = rows()
        .into_iter()
        .map(|mut cells| cells.remove(0))
        .collect();
    let has = |word: &str| {
        clauses
            .iter()
            .any(|clause| clause.split([' ', ',']).any(|part| part == word))
    };
    let mut missing = Vec::new();
    let source = |name: &str| fs::read_to_string(repository().join(name)).unwrap();
    // Registers.
    for line in source("user/src/vtd/registers.rs").lines() {
        let Some(rest) = line.strip_prefix("pub(super) const ") else {
            continue;
        };
        let (name, kind) = rest.split_once(": ").unwrap();
        if kind.starts_with("usize = 0x") && !has(name) {
            missing.push(format!("register {name}"));
        }
    }
    // Reasons of faults.
    for file in [
        "user/src/vtd/reasons.rs",
        "user/src/vtd/remap.rs",
        "user/src/walk.rs",
    ] {
        for line in source(file).lines().map(str::trim) {
            let is_reason = line.contains(": u8 = 0x") || line.contains(": u32 = 0x");
            if let Some((_, code)) = line.split_once("= 0x").filter(|_| is_reason) {
                let code = code.trim_end_matches(';').to_uppercase();
                let code = format!("{:0>2}h", code);
                if !has(&code) {
                    missing.push(format!("reason {code} of {file}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn new_root_is_in_force_when_rtps_says_so() {
    let mut guest = Guest::new();
    guest.boot();
    guest.put(0x20_0000, 7);
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));
    // Another root table, in which the device has nothing.
    let empty = guest.page();
    guest.write8(RTADDR, empty | 1 << 10);
    // Not before it is set.
    assert_eq!(guest.load(None, 0x20_0000, false), done(7));
    let status = guest.read4(GSTS) & 0x8680_0000;
    guest.write4(GCMD, status | 1 << 30);
    assert_eq!(guest.read4(GSTS) >> 30 & 1, 1, "RTPS");
    let end = guest.load(None, 0x20_0000, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(0x20_0000))));
}

#[test]
fn wait_interrupts_once_until_iwc_is_cleared() {
    let mut guest = Guest::new();
    guest.boot();
    let wait = [1 << 4 | 5, 0];
    guest.write_descriptors(&[wait, wait]);
    assert_eq!(guest.interrupts(), [0xa0]);
    assert_eq!(guest.read4(ICS) & 1, 1, "IWC");
    guest.write_descriptors(&[wait]);
    assert_eq!(guest.interrupts(), [0; 0]);
    guest.write4(ICS, 1);
    guest.write_descriptors(&[wait]);
    assert_eq!(guest.interrupts(), [0xa0]);
}

#[test]
fn wait_whose_status_lies_in_no_memory_stops_the_queue_there() {
    let mut guest = Guest::new();
    guest.boot();
    guest.submit(&[[1 << 32 | 1 << 5 | 5, 1 << 40]]);
    assert!(!guest.is_done());
    assert_eq!(guest.read4(FSTS), 0x10, "IQE");
    assert_eq!(guest.read8(IQERCD) & 0xf, 2);
    assert_eq!(guest.read8(0x80), 0, "at the wait");
}

#[test]
fn invalidation_by_register_is_done_at_once() {
    let guest = Guest::new();
    for register in [0x28, 0xf8] {
        guest.write8(register, 1 << 63 | 1 << 61);
        assert_eq!(guest.read8(register) >> 63, 0);
    }
}

#[test]
fn queue_of_128_bits_is_none() {
    let mut guest = Guest::new();
    guest.boot();
    guest.write8(0x90, QUEUE);
    guest.write8(0x88, 32);
    assert_eq!(guest.read4(FSTS), 0x10, "IQE");
    assert_eq!(guest.read8(IQERCD) & 0xf, 5);
}

#[test]
fn queue_that_is_turned_off_does_nothing() {
    let mut guest = Guest::new();
    guest.boot();
    guest.write4(GCMD, 1 << 31);
    assert_eq!(guest.read4(GSTS) >> 26 & 1, 0, "QIES");
    guest.submit(&[]);
    assert!(!guest.is_done());
    assert_eq!(guest.read8(0x80), 0);
    guest.command(1 << 26);
    while guest.unit.run() {}
    assert!(guest.is_done());
}

#[test]
fn commands_given_without_waiting_are_all_done() {
    let mut guest = Guest::new();
    guest.boot_but(|_| {});
    let unit = guest.unit.clone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..100u32 {
                    let translation = (round & 1) << 31;
                    unit.write(GCMD, &(1u32 << 26 | 1 << 30 | translation).to_le_bytes());
                }
            });
        }
    });
    while guest.unit.run() {}
    let status = guest.read4(GSTS);
    assert_eq!(status >> 30 & 1, 1, "RTPS");
    assert_eq!(status >> 26 & 1, 1, "QIES");
}

/// An emulated device's load without PASID, or with one.
fn fault_of(guest: &Guest, pasid: Option<u32>, address: u64) -> Vec<u64> {
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), pasid);
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    assert!(dma.read_obj::<u64>(GuestAddress(address)).is_err());
    guest.faults()
}

#[test]
fn pasids_beyond_the_directory_and_functions_without_any_are_faults() {
    let mut guest = Guest::new();
    guest.boot();
    // PDTS 0: 2^7 directory entries of 64 PASIDs.
    assert_eq!(fault_of(&guest, Some(1 << 13), GVA), [0x46]);
    let context = CONTEXTS + u64::from(SOURCE) * 32;
    guest.put(context, DIRECTORY | 1);
    assert_eq!(fault_of(&guest, Some(5), GVA), [0x45], "PASIDE is clear");
    // RID_PASID is nobody's else.
    guest.put(context, DIRECTORY | 0xd);
    guest.put(context + 8, 5);
    guest.set_entry(5, [1 | 4 << 6, 1, 0]);
    assert_eq!(fault_of(&guest, Some(5), GVA), [0x45]);
    guest.put(context, DIRECTORY | 0xd | 1 << 4 & !4);
}

#[test]
fn reserved_table_mode_stops_everything() {
    let mut guest = Guest::new();
    guest.boot();
    // Abort-DMA mode.
    guest.write8(RTADDR, ROOT | 3 << 10);
    guest.command(1 << 30);
    assert_eq!(fault_of(&guest, None, GVA), [0x30]);
    let end = guest.load(None, 0x20_0000, false);
    assert_eq!(end, Some(DmaEnd::NoAccess(Iova(0x20_0000))));
}

#[test]
fn fault_processing_disable_silences_each_level() {
    let context = CONTEXTS + u64::from(SOURCE) * 32;
    for (at, word) in [
        (context, DIRECTORY | 1 << 5 | 0x1d | 2),
        (DIRECTORY, 1 << 46 | 3),
        (PASIDS + 5 * 64, 1 | 5 << 6 | 2),
    ] {
        let mut guest = Guest::new();
        guest.boot();
        guest.put(at, word);
        assert_eq!(
            fault_of(&guest, Some(5), GVA),
            [0; 0],
            "{word:#x} at {at:#x}"
        );
        guest.put(at, word & !2);
        assert_eq!(
            fault_of(&guest, Some(5), GVA).len(),
            1,
            "{word:#x} at {at:#x}"
        );
    }
}

/// What a bit of an entry does.
#[test]
fn reserved_bits_are_refused_one_by_one() {
    let context = CONTEXTS + u64::from(SOURCE) * 32;
    let entry = PASIDS + 5 * 64;
    // Where, which bits are reserved, and the reason.
    let cases: [(u64, u64, u64); 12] = [
        (ROOT, 0xffe | !0 << 46, 0x3a),
        (context, 0x1e0 | !0 << 46, 0x42),
        (context + 8, !0 << 21, 0x42),
        (context + 16, !0, 0x42),
        (context + 24, !0, 0x42),
        (DIRECTORY, 0xffc | !0 << 46, 0x52),
        (entry + 8, 0x7f << 16 | !0 << 25, 0x5a),
        (
            entry + 16,
            1 << 0 | 1 << 1 | 1 << 6 | 0xf << 8 | !0 << 46,
            0x5a,
        ),
        (entry + 24, !0, 0x5a),
        (entry + 32, !0, 0x5a),
        (entry + 48, !0, 0x5a),
        (entry + 56, !0, 0x5a),
    ];
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.page();
    guest.set_entry(5, [1 | 1 << 6, 2, root]);
    assert_eq!(
        fault_of(&guest, Some(5), GVA),
        [0x71],
        "all is well but the page"
    );
    for (at, reserved, reason) in cases {
        let good = guest.get(at);
        for bit in (0..64).filter(|bit| reserved >> bit & 1 == 1) {
            guest.put(at, good | 1 << bit);
            let found = fault_of(&guest, Some(5), GVA);
            assert_eq!(found, [reason], "bit {bit} at {at:#x}");
        }
        guest.put(at, good);
    }
    // What is ignored: the second stage's fields of a first-stage entry, and NXE.
    for (at, ignored) in [(entry, 0x1c | 1 << 9 | 0xf << 12), (entry + 16, 1 << 5)] {
        let good = guest.get(at);
        guest.put(at, good | ignored);
        assert_eq!(fault_of(&guest, Some(5), GVA), [0x71], "{ignored:#x}");
        guest.put(at, good);
    }
}

#[test]
fn requests_reach_no_interrupts_and_nothing_beyond_memory() {
    let mut guest = Guest::new();
    guest.boot();
    // Passed through.
    assert_eq!(fault_of(&guest, None, 0xfee0_0000), [0x87]);
    assert_eq!(fault_of(&guest, None, 1 << 46), [0x83]);
    // And by a table.
    let root = guest.bind(5);
    guest.map(root, GVA);
    let table = |guest: &Guest, shifts: &[u32]| {
        let mut at = root;
        for shift in shifts {
            at = guest.get(at + 8 * (GVA >> shift & 0x1ff)) & !0xfff;
        }
        at
    };
    let leaf = table(&guest, &[39, 30, 21]) + 8 * (GVA >> 12 & 0x1ff);
    for (word, reason) in [
        (0xfee0_0007u64, 0x87),
        (1 << 46 | 7, 0x72),
        (0x10_0001, 0x81),
        (0, 0x71),
    ] {
        guest.put(leaf, word);
        assert_eq!(fault_of(&guest, Some(5), GVA), [reason], "{word:#x}");
    }
    assert_eq!(fault_of(&guest, Some(5), 1 << 47), [0x80], "not canonical");
    // Tables that lie in no memory.
    let upper = table(&guest, &[39, 30]) + 8 * (GVA >> 21 & 0x1ff);
    guest.put(upper, 0x30_0000_0007);
    assert_eq!(fault_of(&guest, Some(5), GVA), [0x70]);
    guest.set_entry(5, [1 | 1 << 6, 2, 0x30_0000_0000]);
    assert_eq!(fault_of(&guest, Some(5), GVA), [0x73]);
    let root = guest.page();
    guest.set_entry(5, [1 | 1 << 6, 2, root | 1 << 4]);
    guest.pasid_changed(5);
    guest.map(root, GVA);
    let mut at = root;
    for shift in [39, 30, 21] {
        at = guest.get(at + 8 * (GVA >> shift & 0x1ff)) & !0xfff;
    }
    let at = at + 8 * (GVA >> 12 & 0x1ff);
    let read_only = guest.get(at) & !2;
    guest.put(at, read_only);
    let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(SOURCE), Some(5));
    let dma = IommuMemory::new((*guest.memory).clone(), iommu, true, ());
    assert!(dma.write_obj(0u64, GuestAddress(GVA)).is_err());
    assert_eq!(guest.faults(), [0x85]);
    // A supervisor's request where the entry allows none.
    let dma = Dma::read(Iova(GVA), 8).at(5.try_into().unwrap());
    let dma = dma.privileged().no_ats();
    guest.device.run(dma, Duration::ZERO).unwrap();
    guest.deliver();
    assert_eq!(guest.faults(), [0x5d]);
}
