// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An emulated Intel DSA under software that nobody here wrote: Debian's own idxd drives it, its
//! accel-config sets it up, its accel-config-test judges it, and a process copies memory that it
//! just allocated.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use host_iommu_tests::ktap::{fail, patience, skip, Outcome};
use host_iommu_tests::suite;

const DEVICE: &str = "/sys/bus/dsa/devices/dsa0";
/// The queue's character device.
const QUEUE: &str = "/dev/dsa/wq0.0";
const MODULES: [&str; 2] = ["idxd_bus", "idxd"];
const ACCEL_CONFIG: &str = "/usr/bin/accel-config";
const DSA_TEST: &str = "/usr/libexec/accel-config/test/dsa_test";
/// The most that one descriptor moves: idxd's default.
const TRANSFER: usize = 2 << 20;
const LIMIT: Duration = Duration::from_secs(30);

/// A dedicated queue for processes with two engines.
const CONFIGURATION: &str = r#"[ { "dev": "dsa0", "read_buffer_limit": 0, "groups": [ {
    "dev": "group0.0", "read_buffers_reserved": 0, "use_read_buffer_limit": 0,
    "read_buffers_allowed": 8,
    "grouped_workqueues": [ {
        "dev": "wq0.0", "mode": "dedicated", "size": 16, "group_id": 0, "priority": 10,
        "block_on_fault": 1, "type": "user", "driver_name": "user", "name": "app",
        "threshold": 0
    } ],
    "grouped_engines": [
        { "dev": "engine0.0", "group_id": 0 }, { "dev": "engine0.1", "group_id": 0 }
    ]
} ] } ]"#;

fn command(program: &str, arguments: &[&str]) -> Outcome<Output> {
    Ok(Command::new(program)
        .args(arguments)
        .env("LD_LIBRARY_PATH", "/lib/x86_64-linux-gnu")
        .output()?)
}

/// Runs a program that has to succeed.
fn succeeds(program: &str, arguments: &[&str]) -> Outcome<String> {
    let output = command(program, arguments)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = errors.lines().chain(said.lines()).rev().take(6).collect();
    fail(format!(
        "{program} {arguments:?}: {}: {tail:?}",
        output.status
    ))
}

/// Loads idxd where there is a DSA and a module for it.
fn loaded() -> Outcome {
    if Path::new(DEVICE).exists() {
        return Ok(());
    }
    for module in MODULES {
        let file = format!("/modules/{module}.ko");
        if !Path::new(&file).exists() {
            return skip(format!("this kernel has no {module}"));
        }
        succeeds("/bin/insmod", &[&file])?;
    }
    if !Path::new(DEVICE).exists() {
        return fail("idxd has taken no DSA");
    }
    Ok(())
}

fn attribute(name: &str) -> Outcome<String> {
    Ok(fs::read_to_string(format!("{DEVICE}/{name}"))?
        .trim()
        .to_owned())
}

/// A device and a queue that are on, once.
fn enabled() -> Outcome {
    loaded()?;
    if attribute("state")? == "enabled" {
        return Ok(());
    }
    let file = "/tmp/dsa.conf";
    fs::write(file, CONFIGURATION)?;
    succeeds(ACCEL_CONFIG, &["load-config", "-c", file])?;
    succeeds(ACCEL_CONFIG, &["enable-device", "dsa0"])?;
    succeeds(ACCEL_CONFIG, &["enable-wq", "dsa0/wq0.0"])?;
    Ok(())
}

fn idxd_takes_both_devices_with_pasids() -> Outcome {
    loaded()?;
    assert_eq!(attribute("pasid_enabled")?, "1", "pasid_enabled");
    assert_eq!(attribute("configurable")?, "1", "configurable");
    assert!(Path::new("/sys/bus/dsa/devices/dsa1").exists(), "dsa1");
    Ok(())
}

fn accel_config_configures_and_enables() -> Outcome {
    enabled()?;
    assert_eq!(attribute("state")?, "enabled", "the device");
    assert_eq!(attribute("wq0.0/state")?, "enabled", "the queue");
    let listed = succeeds(ACCEL_CONFIG, &["list"])?;
    if !listed.contains("\"wq0.0\"") {
        return fail(format!("accel-config lists {listed}"));
    }
    assert!(Path::new(QUEUE).exists(), "{QUEUE}");
    Ok(())
}

const MEMMOVE: u32 = 3;
/// Record address valid, record wanted.
const FLAGS: u32 = 1 << 2 | 1 << 3;
const BLOCK_ON_FAULT: u32 = 1 << 1;
const SUCCESS: u8 = 1;
const PAGE_FAULT: u8 = 3;
/// A status for a fault of a write has this bit beside.
const OF_WRITE: u8 = 0x80;

/// Addresses that the device writes to are taken from `as_mut_ptr`, so that the compiler knows
/// that somebody else may.
struct Copy {
    status: u8,
    bytes: usize,
}

/// Has the device copy between addresses of this process. The kernel submits the descriptor.
fn copy(flags: u32, src: u64, dst: u64, size: usize) -> Outcome<Copy> {
    // Four records, so that one is aligned to 32 bytes.
    let mut records = vec![0u64; 16];
    let base = records.as_mut_ptr() as u64;
    let record = base.next_multiple_of(32);
    let at = usize::try_from((record - base) / 8)?;
    let mut descriptor = Vec::with_capacity(64);
    descriptor.extend(0u32.to_le_bytes());
    descriptor.extend((FLAGS | flags | MEMMOVE << 24).to_le_bytes());
    for quad in [record, src, dst, u64::try_from(size)?] {
        descriptor.extend(quad.to_le_bytes());
    }
    descriptor.resize(64, 0);

    let mut queue = fs::OpenOptions::new().write(true).open(QUEUE)?;
    queue.write_all(&descriptor)?;
    let end = Instant::now() + LIMIT * patience();
    loop {
        let first = *std::hint::black_box(&records[at]);
        if first & 0xff != 0 {
            return Ok(Copy {
                status: (first & 0xff) as u8,
                bytes: usize::try_from(first >> 32)?,
            });
        }
        if Instant::now() > end {
            return fail("no record");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Pages of this process that are there, in bytes.
fn resident() -> Outcome<usize> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split_whitespace().nth(1).map_or(Ok(0), str::parse)?;
    Ok(pages * 4096)
}

/// Memory that nobody has touched. It is never freed: what is freed comes again, touched.
fn untouched() -> &'static mut [u64] {
    Box::leak(vec![0; TRANSFER / 8].into_boxed_slice())
}

/// Memory with numbers in it, likewise.
fn numbers(step: u64) -> &'static mut [u64] {
    let memory = untouched();
    for (n, word) in (0..).zip(memory.iter_mut()) {
        *word = step.wrapping_mul(n) ^ step;
    }
    memory
}

/// Memory that was allocated and never touched: the device asks for each of its pages.
fn malloced_memory_is_copied_to_untouched_memory() -> Outcome {
    enabled()?;
    for round in 0..4u64 {
        let source = numbers(3 + round);
        let target = untouched();
        let before = resident()?;
        let (src, dst) = (source.as_mut_ptr() as u64, target.as_mut_ptr() as u64);
        let done = copy(BLOCK_ON_FAULT, src, dst, TRANSFER)?;
        if done.status != SUCCESS {
            return fail(format!(
                "status {:#x} after {} bytes",
                done.status, done.bytes
            ));
        }
        let came = resident()?.saturating_sub(before);
        if came < TRANSFER / 2 {
            return fail(format!(
                "only {came} bytes have come: the target was touched before"
            ));
        }
        assert!(
            *std::hint::black_box(&*target) == *source,
            "the copy differs"
        );
    }
    Ok(())
}

/// Neither side was touched: the zeros that come are read, too.
fn untouched_memory_is_copied() -> Outcome {
    enabled()?;
    let source = untouched();
    let target = numbers(7);
    let (src, dst) = (source.as_mut_ptr() as u64, target.as_mut_ptr() as u64);
    let done = copy(BLOCK_ON_FAULT, src, dst, TRANSFER)?;
    assert_eq!(done.status, SUCCESS, "status");
    assert!(
        std::hint::black_box(&*target).iter().all(|word| *word == 0),
        "the copy differs"
    );
    Ok(())
}

/// Without Block On Fault the record says how far it came, and the rest can be done later.
fn fault_that_may_not_block_is_reported() -> Outcome {
    enabled()?;
    let source = numbers(5);
    let target = untouched();
    let (src, dst) = (source.as_mut_ptr() as u64, target.as_mut_ptr() as u64);
    let done = copy(0, src, dst, TRANSFER)?;
    if done.status != PAGE_FAULT | OF_WRITE || done.bytes >= TRANSFER {
        return fail(format!(
            "status {:#x} after {} bytes",
            done.status, done.bytes
        ));
    }
    let far = u64::try_from(done.bytes)?;
    let rest = TRANSFER - done.bytes;
    let done = copy(BLOCK_ON_FAULT, src + far, dst + far, rest)?;
    assert_eq!(done.status, SUCCESS, "the rest");
    assert!(
        *std::hint::black_box(&*target) == *source,
        "the copy differs"
    );
    Ok(())
}

/// A process without rights of its own memory: the page request is answered "invalid".
fn address_of_nothing_ends_the_copy_alone() -> Outcome {
    enabled()?;
    let mut source = vec![7u64; 512];
    let src = source.as_mut_ptr() as u64;
    let done = copy(BLOCK_ON_FAULT, src, 0x1000, 4096)?;
    assert_eq!(done.status, 4 | OF_WRITE, "a page that nobody has");
    let mut target = vec![0u64; 512];
    let done = copy(BLOCK_ON_FAULT, src, target.as_mut_ptr() as u64, 4096)?;
    assert_eq!(done.status, SUCCESS, "the next one");
    Ok(())
}

/// Runs Debian's dsa_test: each of `opcodes` alone with `sizes`, and 16 in a batch.
fn dsa_test(opcodes: &[&str], sizes: &[&str]) -> Outcome {
    enabled()?;
    let milliseconds = (LIMIT * patience()).as_millis().to_string();
    let common = ["-w", "0", "-t", &milliseconds];
    for block in ["0x1", "0x0"] {
        for opcode in opcodes {
            for size in sizes {
                let mut arguments = common.to_vec();
                arguments.extend(["-f", block, "-o", opcode, "-l", size]);
                succeeds(DSA_TEST, &arguments)?;
            }
            // A drain has no place in a batch of this program's.
            if *opcode != "0x2" {
                let mut arguments = common.to_vec();
                arguments.extend(["-f", block, "-o", "0x1", "-b", opcode]);
                arguments.extend(["-c", "16", "-l", sizes[0]]);
                succeeds(DSA_TEST, &arguments)?;
            }
        }
    }
    Ok(())
}

fn accel_config_test_noop_and_drain() -> Outcome {
    dsa_test(&["0x0", "0x2"], &["4096"])
}

fn accel_config_test_moves_and_fills() -> Outcome {
    dsa_test(&["0x3", "0x4", "0x9"], &["4096", "1", "65536", "2097152"])
}

fn accel_config_test_compares() -> Outcome {
    dsa_test(&["0x5", "0x6"], &["4096", "1", "65536", "2097152"])
}

fn accel_config_test_deltas() -> Outcome {
    dsa_test(&["0x7"], &["4096", "65536"])
}

fn accel_config_test_crc_and_flush() -> Outcome {
    dsa_test(&["0x10", "0x11", "0x20"], &["4096", "1", "65536"])
}

fn accel_config_test_dif() -> Outcome {
    dsa_test(&["0x12", "0x13", "0x14", "0x15"], &["512", "1024", "4096"])
}

fn queue_and_device_are_disabled_and_enabled_again() -> Outcome {
    enabled()?;
    succeeds(ACCEL_CONFIG, &["disable-wq", "dsa0/wq0.0"])?;
    succeeds(ACCEL_CONFIG, &["disable-device", "dsa0"])?;
    assert_eq!(attribute("state")?, "disabled", "the device");
    malloced_memory_is_copied_to_untouched_memory()
}

suite![
    idxd_takes_both_devices_with_pasids,
    accel_config_configures_and_enables,
    malloced_memory_is_copied_to_untouched_memory,
    untouched_memory_is_copied,
    fault_that_may_not_block_is_reported,
    address_of_nothing_ends_the_copy_alone,
    accel_config_test_noop_and_drain,
    accel_config_test_moves_and_fills,
    accel_config_test_compares,
    accel_config_test_deltas,
    accel_config_test_crc_and_flush,
    accel_config_test_dif,
    queue_and_device_are_disabled_and_enabled_again,
];
