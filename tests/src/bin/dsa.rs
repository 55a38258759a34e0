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
    enable(true)
}

/// Turns queue and device off, and on with page requests of the queue or without.
fn enable_again(page_requests: bool) -> Outcome {
    enabled()?;
    succeeds(ACCEL_CONFIG, &["disable-wq", "dsa0/wq0.0"])?;
    succeeds(ACCEL_CONFIG, &["disable-device", "dsa0"])?;
    enable(page_requests)
}

fn enable(page_requests: bool) -> Outcome {
    let file = "/tmp/dsa.conf";
    fs::write(file, CONFIGURATION)?;
    succeeds(ACCEL_CONFIG, &["load-config", "-c", file])?;
    // Without page requests there is no block on fault, either: idxd sees to that.
    let disable = if page_requests { "0" } else { "1" };
    fs::write(format!("{DEVICE}/wq0.0/prs_disable"), disable)?;
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

const NOOP: u32 = 0;
const BATCH: u32 = 1;
const DRAIN: u32 = 2;
const MEMMOVE: u32 = 3;
/// Record address valid, record wanted.
const FLAGS: u32 = 1 << 2 | 1 << 3;
const BLOCK_ON_FAULT: u32 = 1 << 1;
const SUCCESS: u8 = 1;
const PAGE_FAULT: u8 = 3;
const BATCH_FAILED: u8 = 5;
/// A status for a fault of a write has this bit beside.
const OF_WRITE: u8 = 0x80;

/// Addresses that the device writes to are taken from `as_mut_ptr`, so that the compiler knows
/// that somebody else may.
struct Copy {
    status: u8,
    bytes: usize,
}

/// The 64 bytes of a descriptor.
fn descriptor(operation: u32, record: u64, src: u64, dst: u64, size: u64) -> Vec<u8> {
    let mut descriptor = Vec::with_capacity(64);
    descriptor.extend(0u32.to_le_bytes());
    descriptor.extend((FLAGS | operation).to_le_bytes());
    for quad in [record, src, dst, size] {
        descriptor.extend(quad.to_le_bytes());
    }
    descriptor.resize(64, 0);
    descriptor
}

/// Waits for a record, whose first word this gives.
fn await_record(record: &[u64]) -> Outcome<u64> {
    let end = Instant::now() + LIMIT * patience();
    loop {
        let first = *std::hint::black_box(&record[0]);
        if first & 0xff != 0 {
            return Ok(first);
        }
        if Instant::now() > end {
            return fail("no record");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Has the device copy between addresses of this process. The kernel submits the descriptor.
fn copy(flags: u32, src: u64, dst: u64, size: usize) -> Outcome<Copy> {
    copy_by(&mut queue()?, flags, src, dst, size)
}

fn queue() -> Outcome<fs::File> {
    Ok(fs::OpenOptions::new().write(true).open(QUEUE)?)
}

fn copy_by(queue: &mut fs::File, flags: u32, src: u64, dst: u64, size: usize) -> Outcome<Copy> {
    // Four records, so that one is aligned to 32 bytes.
    let mut records = vec![0u64; 16];
    let base = records.as_mut_ptr() as u64;
    let record = base.next_multiple_of(32);
    let at = usize::try_from((record - base) / 8)?;
    queue.write_all(&descriptor(
        flags | MEMMOVE << 24,
        record,
        src,
        dst,
        u64::try_from(size)?,
    ))?;
    let first = await_record(&records[at..])?;
    Ok(Copy {
        status: (first & 0xff) as u8,
        bytes: usize::try_from(first >> 32)?,
    })
}

/// Pages of this process that are there, in bytes.
fn resident() -> Outcome<usize> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split_whitespace().nth(1).map_or(Ok(0), str::parse)?;
    Ok(pages * 4096)
}

/// Memory that nobody has touched. It is never freed: what is freed comes again, touched.
fn untouched() -> &'static mut [u64] {
    untouched_of(TRANSFER)
}

fn untouched_of(bytes: usize) -> &'static mut [u64] {
    Box::leak(vec![0; bytes / 8].into_boxed_slice())
}

/// What the kernel has counted of this.
fn counted(what: &str) -> Outcome<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    match line.map(|number| number.trim().parse()) {
        Some(Ok(number)) => Ok(number),
        _ => fail(format!("/proc/vmstat has no {what}")),
    }
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

const GIGABYTE: usize = 1 << 30;

/// A gigabyte that nobody touched, by pages of 2 MiB: the device asks for each.
fn gigabyte_that_nobody_touched_is_written() -> Outcome {
    enabled()?;
    let pages = "/sys/kernel/mm/transparent_hugepage/enabled";
    if !Path::new(pages).exists() {
        return skip("this kernel has no transparent huge pages");
    }
    fs::write(pages, "always")?;
    let source = numbers(11);
    let target = untouched_of(GIGABYTE);
    let mut queue = queue()?;
    let before = resident()?;
    let (faults, huge) = (counted("pgfault ")?, counted("thp_fault_alloc ")?);
    let begun = Instant::now();
    let src = source.as_mut_ptr() as u64;
    for part in target.chunks_exact_mut(TRANSFER / 8) {
        let dst = part.as_mut_ptr() as u64;
        let done = copy_by(&mut queue, BLOCK_ON_FAULT, src, dst, TRANSFER)?;
        assert_eq!(done.status, SUCCESS, "status after {} bytes", done.bytes);
    }
    let took = begun.elapsed();
    let faults = counted("pgfault ")?.saturating_sub(faults);
    let huge = counted("thp_fault_alloc ")?.saturating_sub(huge);
    println!("# 1 GiB in {took:?}: {faults} page faults, {huge} of them of 2 MiB");
    fs::write(pages, "madvise")?;
    let came = resident()?.saturating_sub(before);
    if came < GIGABYTE / 2 {
        return fail(format!("only {came} bytes have come"));
    }
    let most = u64::try_from(GIGABYTE / TRANSFER)?;
    if huge < most / 2 || huge > most + 8 {
        return fail(format!("{huge} pages of 2 MiB for {most} of them"));
    }
    for part in std::hint::black_box(&*target).chunks_exact(TRANSFER / 8) {
        assert!(*part == *source, "the copy differs");
    }
    Ok(())
}

/// What idxd has counted for the process that has the queue open.
fn faults_of_records(name: &str) -> Outcome<u64> {
    for entry in fs::read_dir("/sys/bus/dsa/devices")? {
        let file = entry?.path().join(name);
        if file.exists() {
            return Ok(fs::read_to_string(file)?.trim().parse()?);
        }
    }
    fail(format!("idxd shows no {name}"))
}

/// Waits until idxd has counted so many.
fn await_faults(name: &str, want: u64) -> Outcome {
    let end = Instant::now() + LIMIT * patience();
    loop {
        let seen = faults_of_records(name)?;
        if seen == want {
            return Ok(());
        }
        if seen > want || Instant::now() > end {
            return fail(format!("{name} is {seen}, not {want}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The page of a record, in memory that nobody has touched.
fn untouched_record() -> (&'static mut [u64], u64) {
    let memory = untouched();
    let base = memory.as_mut_ptr() as u64;
    let skip = (base.next_multiple_of(4096) - base) / 8;
    let record = &mut memory[skip as usize..];
    let at = record.as_mut_ptr() as u64;
    (record, at)
}

/// Without page requests the device writes such records to its event log: of one alone, of one in
/// a batch, then of the batch, and of a drain. idxd writes them where they belong.
fn records_on_untouched_pages_come_by_the_event_log() -> Outcome {
    enable_again(false)?;
    let mut queue = queue()?;
    let source = numbers(13);
    let target = numbers(17);
    let (src, dst) = (source.as_mut_ptr() as u64, target.as_mut_ptr() as u64);
    let size = u64::try_from(TRANSFER)?;

    let (record, at) = untouched_record();
    queue.write_all(&descriptor(MEMMOVE << 24, at, src, dst, size))?;
    await_faults("cr_faults", 1)?;
    assert_eq!(await_record(record)? & 0xff, 1, "one alone");
    assert!(
        *std::hint::black_box(&*target) == *source,
        "the copy differs"
    );

    let (child, child_at) = untouched_record();
    let (batch, batch_at) = untouched_record();
    let mut touched = vec![0u64; 16];
    let touched_at = (touched.as_mut_ptr() as u64).next_multiple_of(32);
    let mut list = vec![0u64; 24];
    let list_at = (list.as_mut_ptr() as u64).next_multiple_of(64);
    let skip = usize::try_from((list_at - list.as_ptr() as u64) / 8)?;
    let mut fill = |descriptors: [Vec<u8>; 2]| -> Outcome {
        for (to, from) in list[skip..].iter_mut().zip(descriptors.concat().chunks(8)) {
            *to = u64::from_le_bytes(from.try_into()?);
        }
        Ok(())
    };
    fill([
        descriptor(NOOP << 24, touched_at, 0, 0, 0),
        descriptor(NOOP << 24, child_at, 0, 0, 0),
    ])?;
    queue.write_all(&descriptor(BATCH << 24, batch_at, list_at, 0, 2))?;
    await_faults("cr_faults", 3)?;
    assert_eq!(await_record(child)? & 0xff, 1, "one in a batch");
    assert_eq!(await_record(batch)?, 1 | 2 << 32, "the batch");

    let (record, at) = untouched_record();
    queue.write_all(&descriptor(DRAIN << 24, at, 0, 0, 0))?;
    assert_eq!(await_record(record)? & 0xff, 1, "a drain");

    // A record that nobody can write: its batch says that one failed.
    let (batch, batch_at) = untouched_record();
    fill([
        descriptor(NOOP << 24, touched_at, 0, 0, 0),
        descriptor(NOOP << 24, 0x1000, 0, 0, 0),
    ])?;
    queue.write_all(&descriptor(BATCH << 24, batch_at, list_at, 0, 2))?;
    let first = await_record(batch)?;
    assert_eq!(
        first & 0xff,
        u64::from(BATCH_FAILED),
        "the batch of a lost one"
    );
    assert_eq!(first >> 8 & 0xff, 1, "its result");
    assert_eq!(faults_of_records("cr_faults")?, 5, "faults");
    assert_eq!(faults_of_records("cr_fault_failures")?, 1, "failures");
    drop(queue);
    enable_again(true)
}

/// With page requests the device asks for the page of a record.
fn record_on_an_untouched_page_is_asked_for() -> Outcome {
    enabled()?;
    let mut queue = queue()?;
    let (record, at) = untouched_record();
    queue.write_all(&descriptor(NOOP << 24, at, 0, 0, 0))?;
    assert_eq!(await_record(record)? & 0xff, 1, "status");
    assert_eq!(faults_of_records("cr_faults")?, 0, "the log was used");
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

/// Runs Debian's dsa_test: each of `opcodes` alone with `sizes`, and 16 in a batch, with block on
/// fault and without.
fn dsa_test(opcodes: &[&str], sizes: &[&str]) -> Outcome {
    dsa_test_by(&["0x1", "0x0"], opcodes, sizes)
}

fn dsa_test_by(flags: &[&str], opcodes: &[&str], sizes: &[&str]) -> Outcome {
    enabled()?;
    let milliseconds = (LIMIT * patience()).as_millis().to_string();
    let common = ["-w", "0", "-t", &milliseconds];
    for &block in flags {
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

fn accel_config_test_deltas_applied() -> Outcome {
    dsa_test_by(&["0x1"], &["0x8"], &["4096", "65536"])
}

/// What accel-config's dsa_test and its script can try and this program does not, and why.
const LEFT_OUT: [(&str, &str); 5] = [
    (
        "-w 1, half of the script's runs",
        "shared queues need ENQCMD, which the emulated CPU lacks",
    ),
    ("-o 0xa and -o 0x17", "OPCAP has no such operations"),
    ("-b 0x2", "a drain has no place in a batch"),
    (
        "-f 0x0 -o 0x8 -l 65536",
        "it goes on after a page fault with a target or size that is misaligned (status 0x1c)",
    ),
    (
        "-l 1048576",
        "between the sizes that are tried, for the time that it takes",
    ),
];

fn accel_config_test_is_left_with() -> Outcome {
    for (what, why) in LEFT_OUT {
        println!("# dsa_test {what}: {why}");
    }
    // What OPCAP lacks, the device refuses.
    enabled()?;
    let capabilities = attribute("op_cap")?;
    let low = capabilities.rsplit([',', ' ']).next().unwrap_or_default();
    let operations = u64::from_str_radix(low, 16)?;
    for operation in [0xa, 0x17] {
        assert_eq!(operations >> operation & 1, 0, "OPCAP is {capabilities}");
    }
    Ok(())
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
    gigabyte_that_nobody_touched_is_written,
    record_on_an_untouched_page_is_asked_for,
    records_on_untouched_pages_come_by_the_event_log,
    fault_that_may_not_block_is_reported,
    address_of_nothing_ends_the_copy_alone,
    accel_config_test_noop_and_drain,
    accel_config_test_moves_and_fills,
    accel_config_test_compares,
    accel_config_test_deltas,
    accel_config_test_deltas_applied,
    accel_config_test_crc_and_flush,
    accel_config_test_dif,
    accel_config_test_is_left_with,
    queue_and_device_are_disabled_and_enabled_again,
];
