// SPDX-License-Identifier: Apache-2.0 OR MIT
//! /sys/kernel/debug/vfio_ioasid: what it says of containers, devices, PASIDs, bindings and
//! queues, and that reading it disturbs nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    expect_errno, expect_ok, expect_status, fail, load_module, program, skip, status,
    unload_module, wait_for_module_references, Errno, FaultBench, Order, Outcome, Rig, Space,
};
use nix::mount::{mount, MsFlags};

const FOLDER: &str = "/sys/kernel/debug/vfio_ioasid";
const FILES: [&str; 6] = [
    "module",
    "containers",
    "devices",
    "pasids",
    "bindings",
    "queues",
];

type Line = BTreeMap<String, String>;

/// Mounts debugfs where it is not.
fn mount_debugfs() -> Outcome {
    let root = "/sys/kernel/debug";
    if fs::read_dir(root)?.next().is_none() {
        mount(
            Some("debugfs"),
            root,
            Some("debugfs"),
            MsFlags::empty(),
            None::<&str>,
        )?;
    }
    Ok(())
}

/// The lines of a file; one that is not made of pairs fails.
fn lines(file: &str) -> Outcome<Vec<Line>> {
    mount_debugfs()?;
    let text = fs::read_to_string(Path::new(FOLDER).join(file))?;
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut pairs = Line::new();
        for pair in line.split(' ') {
            let Some((key, value)) = pair.split_once('=') else {
                return fail(format!("{file}: {pair:?} of {line:?} is no pair"));
            };
            if value.is_empty() || pairs.insert(key.into(), value.into()).is_some() {
                return fail(format!("{file}: {key} of {line:?}"));
            }
        }
        lines.push(pairs);
    }
    Ok(lines)
}

fn only(file: &str) -> Outcome<Line> {
    let mut lines = lines(file)?;
    match (lines.pop(), lines.is_empty()) {
        (Some(line), true) => Ok(line),
        (last, _) => fail(format!("{file}: {} and {last:?}", lines.len())),
    }
}

fn number(line: &Line, key: &str) -> Outcome<u64> {
    match line.get(key).map(|value| value.parse()) {
        Some(Ok(number)) => Ok(number),
        other => fail(format!("{key} is {other:?} in {line:?}")),
    }
}

fn without_containers_only_the_module_has_a_line() -> Outcome {
    wait_for_module_references(0)?;
    for file in FILES.iter().skip(1) {
        assert_eq!(lines(file)?, Vec::<Line>::new(), "{file}");
    }
    let module = only("module")?;
    for key in ["containers", "pasids", "domains"] {
        assert_eq!(number(&module, key)?, 0, "{key}");
    }
    for (key, parameter) in [
        ("pasids_limit", "total_pasids"),
        ("domains_limit", "total_domains"),
        ("max_pasids", "max_pasids"),
        ("max_bindings", "max_bindings"),
        ("max_fault_queues", "max_fault_queues"),
        ("max_address_spaces", "max_address_spaces"),
        ("max_as_entries", "max_as_entries"),
        ("max_mappings", "dma_entry_limit"),
    ] {
        let path = format!("/sys/module/vfio_iommu_ioasid/parameters/{parameter}");
        assert_eq!(module[key], fs::read_to_string(path)?.trim(), "{key}");
    }
    Ok(())
}

fn files_are_for_root_alone() -> Outcome {
    mount_debugfs()?;
    for file in FILES {
        let metadata = fs::metadata(Path::new(FOLDER).join(file))?;
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o400, "{file}");
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{file}");
    }
    Ok(())
}

fn containers_have_the_numbers_of_stats() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let _queue = rig.container.fault_queue(0, 0)?;
    let stats = rig.container.stats()?;
    let line = only("containers")?;
    assert_eq!(line["type"], "ioasid");
    for (key, value) in [
        ("pasids", stats.pasids),
        ("bindings", stats.bindings),
        ("fault_queues", stats.fault_queues),
        ("address_spaces", stats.address_spaces),
        ("as_entries", stats.as_entries),
        ("mappings", stats.mappings),
        ("mapped_pages", stats.mapped_pages),
        ("pages_2m", stats.pages_2m),
        ("pages_1g", stats.pages_1g),
        ("calls", stats.calls),
        ("binds", stats.binds),
        ("unbinds", stats.unbinds),
        ("page_requests", stats.page_requests),
        ("responses", stats.responses),
        ("host_invalid", stats.host_invalid),
        ("overflows", stats.overflows),
        ("late_responses", stats.late_responses),
        ("expired", stats.expired),
        ("dma_faults", stats.dma_faults),
        ("invalidations", stats.invalidations),
    ] {
        assert_eq!(number(&line, key)?, value, "{key}");
    }
    assert_eq!((stats.bindings, stats.binds), (1, 1));
    assert!(stats.mapped_pages != 0);
    Ok(())
}

fn devices_say_what_is_at_the_rid() -> Outcome {
    let rig = Rig::nesting()?;
    let info = rig.container.devices()?;
    let line = only("devices")?;
    let device = info[0].device;
    let name = format!(
        "{:04x}:{:02x}:{:02x}.{}",
        device.segment,
        device.bus,
        device.devfn >> 3,
        device.devfn & 7
    );
    assert_eq!(line["device"], name);
    assert_eq!(
        (line["shared"].as_str(), line["rid"].as_str()),
        ("0", "stage2")
    );
    assert!(number(&line, "max_pasids")? > 0);
    Ok(())
}

fn pasids_are_shown_as_runs() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(5, 5, 1)?;
    rig.container.pasid_alloc(100, 1123, 1024)?;
    rig.container.pasid_free(200, 1)?;
    let last = VFIO_IOASID_PASID_LIMIT - 1;
    rig.container.pasid_alloc(last, last, 1)?;
    let runs: Vec<_> = lines("pasids")?
        .iter()
        .map(|line| Ok((number(line, "first")?, number(line, "last")?)))
        .collect::<Outcome<_>>()?;
    let last = u64::from(last);
    assert_eq!(runs, [(5, 5), (100, 199), (201, 1123), (last, last)]);
    let module = only("module")?;
    assert_eq!(number(&module, "pasids")?, 1 + 1024 - 1 + 1);
    assert_eq!(number(&module, "containers")?, 1);
    Ok(())
}

fn bindings_are_shown_with_what_is_bound() -> Outcome {
    let rig = Rig::faulting()?;
    let queue = rig.container.fault_queue(0, 0)?;
    let plain = Space::new(&rig)?;
    let faulting = Space::new(&rig)?;
    plain.bind(&rig)?;
    faulting.bind_with(&rig, &queue, 77, 0)?;
    let found = lines("bindings")?;
    assert_eq!(found.len(), 2, "{found:?}");
    for (line, space, faults) in [(&found[0], plain, "0"), (&found[1], faulting, "1")] {
        assert_eq!(number(line, "pasid")?, u64::from(space.pasid));
        assert_eq!(
            (line["kind"].as_str(), line["as"].as_str()),
            ("stage1", "0")
        );
        assert_eq!(line["faults"], faults);
    }
    assert_eq!(number(&found[1], "guest_pasid")?, 77);
    let device = only("devices")?;
    assert!(number(&device, "host_pasid")? < number(&device, "max_pasids")?);
    assert_eq!(number(&only("module")?, "domains")?, 2);
    plain.unbind(&rig)?;
    faulting.unbind(&rig)?;
    assert_eq!(lines("bindings")?, Vec::<Line>::new());
    assert_eq!(number(&only("module")?, "domains")?, 0);
    Ok(())
}

fn queues_show_what_waits() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue_with_deadline(600_000)?;
    let bench = FaultBench { rig, space, queue };
    bench.bind()?;
    let line = only("queues")?;
    assert_eq!(number(&line, "depth")?, 2048);
    assert_eq!(number(&line, "deadline_ms")?, 600_000);
    assert_eq!((number(&line, "waiting")?, number(&line, "lost")?), (0, 0));
    let (slot, record) = bench.pending()?;
    assert_eq!(
        number(&only("queues")?, "waiting")?,
        1,
        "read, not answered"
    );
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    assert_eq!(number(&only("queues")?, "waiting")?, 0, "answered");
    Ok(())
}

fn two_containers_have_lines_of_their_own() -> Outcome {
    let rig = Rig::open()?;
    let Some(second) = Rig::open_second()? else {
        return skip("there is one endpoint only");
    };
    rig.container.pasid_alloc(5, 5, 1)?;
    second.container.pasid_alloc(5, 6, 2)?;
    let found = lines("pasids")?;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(number(&found[0], "container")? < number(&found[1], "container")?);
    assert_eq!((&*found[0]["last"], &*found[1]["last"]), ("5", "6"));
    assert_eq!(lines("containers")?.len(), 2);
    assert_eq!(lines("devices")?.len(), 2);
    assert_eq!(number(&only("module")?, "pasids")?, 3);
    Ok(())
}

/// A line cut by a small buffer goes on with the next read.
fn reading_byte_by_byte_gives_the_same() -> Outcome {
    let rig = Rig::open()?;
    mount_debugfs()?;
    let path = Path::new(FOLDER).join("containers");
    let whole = fs::read(&path)?;
    let mut file = File::open(&path)?;
    let mut bytes = Vec::new();
    let mut byte = [0];
    while file.read(&mut byte)? != 0 {
        bytes.push(byte[0]);
    }
    assert_eq!(bytes, whole);
    drop(rig);
    Ok(())
}

fn file_open_across_the_container_s_end_ends_and_holds_the_module() -> Outcome {
    mount_debugfs()?;
    let rig = Rig::open()?;
    for pasid in 0..64 {
        rig.container.pasid_alloc(1 + 2 * pasid, 1 + 2 * pasid, 1)?;
    }
    let mut file = File::open(Path::new(FOLDER).join("pasids"))?;
    let mut some = [0; 40];
    file.read_exact(&mut some)?;
    drop(rig);
    let mut rest = String::new();
    file.read_to_string(&mut rest)?;
    assert!(rest.lines().count() <= 1, "the rest of a line: {rest:?}");
    expect_errno(unload_module(), Errno::EWOULDBLOCK, "a file is open");
    drop(file);
    wait_for_module_references(0)?;
    expect_ok(unload_module(), "no file is open");
    let folder = Path::new(FOLDER).exists();
    load_module("")?;
    assert!(!folder, "the folder goes with the module");
    assert!(Path::new(FOLDER).exists(), "and comes with it");
    Ok(())
}

/// Readers of every file while containers, bindings and requests come and go: every line is
/// whole, and the kernel's console stays clean.
fn reading_while_everything_changes_gives_whole_lines() -> Outcome {
    mount_debugfs()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Outcome<u32> {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                for file in FILES {
                    lines(file)?;
                }
                rounds += 1;
            }
            Ok(rounds)
        });
        let change = || -> Outcome {
            for _ in 0..10 {
                let rig = Rig::faulting()?;
                let queue = rig.container.fault_queue(0, 0)?;
                for _ in 0..5 {
                    let space = Space::new(&rig)?;
                    space.bind_with(&rig, &queue, 0, 0)?;
                    let order = Order::fill(0x1000, 8, 1).at(space.pasid);
                    rig.dma().submit(&order)?;
                    space.unbind(&rig)?;
                }
            }
            Ok(())
        };
        let changed = change();
        done.store(true, Ordering::Relaxed);
        let rounds = match reader.join() {
            Ok(rounds) => rounds?,
            Err(_) => return fail("the reader panicked"),
        };
        assert!(rounds > 0);
        changed
    })
}

program![
    without_containers_only_the_module_has_a_line,
    files_are_for_root_alone,
    containers_have_the_numbers_of_stats,
    devices_say_what_is_at_the_rid,
    pasids_are_shown_as_runs,
    bindings_are_shown_with_what_is_bound,
    queues_show_what_waits,
    two_containers_have_lines_of_their_own,
    reading_byte_by_byte_gives_the_same,
    file_open_across_the_container_s_end_ends_and_holds_the_module,
    reading_while_everything_changes_gives_whole_lines,
];
