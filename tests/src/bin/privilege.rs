// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A user without privileges who was given the file of a device's group: what works and what does
//! not, limits that hold under many processes, and replies that have nothing in them but what is
//! documented.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, bind_stage2_at, bytes_of, child, endpoint, expect_errno, expect_status, fail,
    invalidate_args, load_module, program, range, set_memlock_limit, size_u32, status,
    unload_module, Called, Container, Errno, FaultBench, FaultQueue, Group, Memory, Outcome, Rig,
    Space, GUEST_SIZE, PAGE, RECORD,
};

const GVA: u64 = FaultBench::GVA;
const USER: u32 = 1000;
const STRANGER: u32 = 1001;
const PARAMETERS: &str = "/sys/module/vfio_iommu_ioasid/parameters";

/// Makes the first endpoint's group file the user's, until it is dropped.
struct Given(String);

impl Given {
    fn group() -> Outcome<Self> {
        let file = format!("/dev/vfio/{}", endpoint(0)?.group()?);
        chown(&file, Some(USER), Some(USER))?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        // As udev has it: who may open it gets nothing by it.
        fs::set_permissions("/dev/vfio/vfio", Permissions::from_mode(0o666))?;
        Ok(Self(file))
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Err(error) = chown(&self.0, Some(0), Some(0)) {
            println!("# {} stays the user's: {error}", self.0);
        }
    }
}

/// The program itself as a user, who may lock a little more than a guest's memory.
fn as_user(user: u32, case: &str) -> Outcome<Command> {
    let mut command = child(&[case])?;
    command.uid(user).gid(user);
    set_memlock_limit(GUEST_SIZE + (1 << 20))?;
    Ok(command)
}

fn expect_success(mut command: Command) -> Outcome {
    let output = command.output()?;
    match output.status.code() {
        Some(0) => Ok(()),
        Some(4) => host_iommu_tests::rig::skip(String::from_utf8_lossy(&output.stdout).trim()),
        _ => fail(format!("{output:?}")),
    }
}

fn user_with_the_group_file_has_it_all() -> Outcome {
    let _given = Given::group()?;
    expect_success(as_user(USER, "has_it_all")?)
}

/// A VMM's work from beginning to end.
fn has_it_all() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    let page = bench.space.new_page(&bench.rig, GVA)?;
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(bench.rig.dma().wait(slot)?, status::OK, "answered");
    assert_eq!(bench.rig.mem.read_u64(page), FaultBench::MARK);
    let entries = [range(GVA, 1)];
    let (rig, pasid) = (&bench.rig, bench.space.pasid);
    let scope = VFIO_IOASID_SCOPE_BINDING;
    rig.container
        .invalidate(scope, rig.id(), pasid, &entries)
        .result?;
    bench.space.unbind(rig)?;
    Ok(rig.container.pasid_free(pasid, 1)?)
}

fn user_without_the_group_file_has_nothing() -> Outcome {
    let _given = Given::group()?;
    expect_success(as_user(STRANGER, "has_nothing")?)
}

fn has_nothing() -> Outcome {
    for index in [0, 1] {
        let opened = Group::open(&endpoint(index)?);
        expect_errno(opened, Errno::EACCES, "a group that is not ours");
    }
    // A container alone is no way to the module.
    let container = Container::open()?;
    expect_errno(
        container.set_iommu(VFIO_IOASID_IOMMU),
        Errno::EINVAL,
        "no group",
    );
    expect_errno(container.stats(), Errno::EINVAL, "no group");
    Ok(())
}

fn user_cannot_go_beyond_the_device() -> Outcome {
    let _given = Given::group()?;
    // Somebody else's container, with a device of its own.
    let _other = Rig::open_second()?;
    expect_success(as_user(USER, "cannot_go_beyond")?)
}

fn cannot_go_beyond() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let container = &rig.container;

    let memory = Memory::new(4 << 20)?;
    let mapped = container.map(&memory, 0x6_0000_0000);
    expect_errno(mapped, Errno::ENOMEM, "over RLIMIT_MEMLOCK");

    let busy = Group::open(&endpoint(0)?);
    expect_errno(busy, Errno::EBUSY, "a group that is open");
    let other = endpoint(1)?;
    expect_errno(Group::open(&other), Errno::EACCES, "another's group");
    let data = space.stage1_data();
    let bound = container.bind(&bind_at(other.id(), space.pasid, &data));
    expect_errno(bound, Errno::ENOENT, "BIND at another's device");
    let unbound = container.unbind(VFIO_IOASID_SCOPE_DEVICE, other.id(), 0);
    expect_errno(unbound, Errno::ENOENT, "UNBIND of another's device");
    let scope = VFIO_IOASID_SCOPE_DEVICE;
    let done = container.invalidate(scope, other.id(), 0, &[range(0, u64::MAX)]);
    expect_errno(done.result, Errno::ENOENT, "INVALIDATE of another's device");
    assert_eq!(container.devices()?.len(), 1, "another's device is listed");

    for parameter in ["max_pasids", "total_domains"] {
        let file = format!("{PARAMETERS}/{parameter}");
        assert!(fs::write(&file, "1000000").is_err(), "{file} was written");
    }
    let numbers = fs::read_dir("/sys/kernel/debug/vfio_ioasid");
    assert!(numbers.is_err(), "debugfs was read");
    expect_errno(unload_module(), Errno::EPERM, "rmmod");
    expect_errno(load_module(""), Errno::EPERM, "insmod");
    Ok(())
}

/// A parameter of the module, until it is dropped.
struct Limit(String, String);

impl Limit {
    fn set(name: &str, value: u64) -> Outcome<Self> {
        let file = format!("{PARAMETERS}/{name}");
        let before = fs::read_to_string(&file)?;
        fs::write(&file, value.to_string())?;
        Ok(Self(file, before))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, self.1.trim()) {
            println!("# {} is not as it was: {error}", self.0);
        }
    }
}

/// Limits of a container: PASIDs, bindings, fault queues, address spaces.
const LIMITS: [(&str, u64); 4] = [
    ("max_pasids", 300),
    ("max_bindings", 40),
    ("max_fault_queues", 20),
    ("max_address_spaces", 30),
];
const PROCESSES: usize = 32;

fn quotas_hold_under_many_processes() -> Outcome {
    let _limits = LIMITS
        .iter()
        .map(|(name, value)| Limit::set(name, *value))
        .collect::<Outcome<Vec<_>>>()?;
    let rig = Rig::nesting()?;
    let mut takers: Vec<Child> = (0..PROCESSES)
        .map(|_| {
            let container = rig.container.as_fd().try_clone_to_owned()?;
            let mut command = as_user(USER, "takes_what_it_gets")?;
            command.stdin(container).stdout(Stdio::piped());
            Ok(command.spawn()?)
        })
        .collect::<Outcome<_>>()?;
    let mut sums = [0; LIMITS.len()];
    let mut greatest = 0;
    let read = takers.iter_mut().try_for_each(|taker| -> Outcome {
        let mut line = String::new();
        if let Some(stdout) = taker.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let taken: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        if taken.len() != sums.len() {
            return fail(format!("a process says {line:?}"));
        }
        greatest = taken[0].max(greatest);
        for (sum, taken) in sums.iter_mut().zip(taken) {
            *sum += taken;
        }
        Ok(())
    });
    let stats = rig.container.stats();
    for taker in &mut takers {
        taker.kill()?;
        taker.wait()?;
    }
    read?;
    let stats = stats?;
    let held = [
        stats.pasids,
        stats.bindings,
        stats.fault_queues,
        stats.address_spaces,
    ];
    println!("# taken: {sums:?}, by one process at most {greatest} PASIDs");
    assert_eq!(sums, LIMITS.map(|(_, limit)| limit), "taken");
    assert_eq!(held, sums, "counted");
    assert!(greatest < LIMITS[0].1, "one process took all");
    Ok(())
}

/// A process that has the container as its stdin: takes all it can and says how much that was.
fn takes_what_it_gets() -> Outcome {
    fn refused<T>(result: Called<T>) -> Outcome<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.errno == Errno::EDQUOT => Ok(None),
            Err(error) => Err(error)?,
        }
    }
    let container = Container::from_stdin()?;
    let device = container.devices()?[0].device;
    let (mut pasids, mut bindings, mut spaces) = (0, 0, 0);
    let mut queues: Vec<FaultQueue> = Vec::new();
    loop {
        let pasid = refused(container.pasid_alloc_any())?;
        pasids += u32::from(pasid.is_some());
        let bound = match pasid {
            Some(pasid) => refused(container.bind(&bind_stage2_at(device, pasid)))?,
            None => None,
        };
        bindings += u32::from(bound.is_some());
        let queue = refused(container.fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 1))?;
        let space = refused(container.as_create())?;
        spaces += u32::from(space.is_some());
        let nothing = pasid.is_none() && queue.is_none() && space.is_none();
        queues.extend(queue);
        if nothing {
            break;
        }
        std::thread::yield_now();
    }
    println!("{pasids} {bindings} {} {spaces}", queues.len());
    // What a process holds by its fds it gives back with its end.
    loop {
        std::thread::park();
    }
}

/// What a buffer has where nothing may be written.
const POISON: u8 = 0xc3;

/// Fails for what looks like an address of the kernel's, and for what its allocator fills memory
/// with (`POISON_FREE`, `POISON_INUSE` of linux/poison.h).
fn expect_no_leak(bytes: &[u8], what: &str) {
    const KERNEL: Range<u64> = 0xffff_8000_0000_0000..0xffff_ffff_ffff_0000;
    for (at, window) in bytes.windows(8).enumerate() {
        let mut word = [0; 8];
        word.copy_from_slice(window);
        let value = u64::from_ne_bytes(word);
        let leak = KERNEL.contains(&value) && at % 8 == 0;
        let poison = [0x6b6b_6b6b_6b6b_6b6b, 0x5a5a_5a5a_5a5a_5a5a].contains(&value);
        assert!(!leak && !poison, "{what}: {value:#x} at {at}: {bytes:02x?}");
    }
}

/// Makes a call with a tail behind its structure, and expects that it writes `out` at most.
fn expect_writes(container: &Container, request: u32, call: &[u8], out: Range<usize>, what: &str) {
    const TAIL: usize = 64;
    let mut bytes = call.to_vec();
    bytes.resize(call.len() + TAIL, 0);
    let argsz = (bytes.len() as u32).to_ne_bytes();
    bytes[..4].copy_from_slice(&argsz);
    let before = bytes.clone();
    let result = container.raw(request, &mut bytes);
    println!("# {what}: {result:?}");
    for (at, (old, new)) in before.iter().zip(&bytes).enumerate() {
        let may = out.contains(&at);
        assert!(
            may || old == new,
            "{what}: byte {at} was written: {bytes:02x?}"
        );
    }
    // What the caller gave is none of the kernel's.
    for (old, new) in before.iter().zip(&mut bytes) {
        if new == old {
            *new = 0;
        }
    }
    expect_no_leak(&bytes, what);
}

fn calls_write_what_is_documented_and_nothing_else() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let container = &rig.container;
    let alloc = vfio_ioasid_pasid_alloc {
        min: 500,
        max: 600,
        count: 2,
        ..Default::default()
    };
    let check = |request, call: &[u8], out: Range<usize>, what| {
        expect_writes(container, request, call, out, what);
    };
    check(
        VFIO_IOASID_PASID_ALLOC,
        &bytes_of(&alloc),
        20..24,
        "PASID_ALLOC",
    );
    let alloc = vfio_ioasid_pasid_alloc { count: 9, ..alloc };
    let none = vfio_ioasid_pasid_alloc { max: 501, ..alloc };
    check(
        VFIO_IOASID_PASID_ALLOC,
        &bytes_of(&none),
        0..0,
        "PASID_ALLOC, none free",
    );
    let free = vfio_ioasid_pasid_free {
        pasid: 500,
        count: 2,
        ..Default::default()
    };
    check(VFIO_IOASID_PASID_FREE, &bytes_of(&free), 0..0, "PASID_FREE");

    let data = space.stage1_data();
    let bind = bind_at(rig.id(), space.pasid, &data);
    check(VFIO_IOASID_BIND, &bytes_of(&bind), 52..56, "BIND");
    check(VFIO_IOASID_BIND, &bytes_of(&bind), 52..56, "BIND, busy");
    let entries = [range(GVA, 1), range(GVA, 0)];
    let entries = host_iommu_sys::plain::bytes_of_slice(&entries);
    let scope = VFIO_IOASID_SCOPE_BINDING;
    let call = invalidate_args(scope, rig.id(), space.pasid, entries, 2);
    check(
        VFIO_IOASID_INVALIDATE,
        &bytes_of(&call),
        24..32,
        "INVALIDATE",
    );
    let unbind = vfio_ioasid_unbind {
        flags: scope,
        device: rig.id(),
        pasid: space.pasid,
        ..Default::default()
    };
    check(VFIO_IOASID_UNBIND, &bytes_of(&unbind), 0..0, "UNBIND");

    let stats = vfio_ioasid_stats::default();
    check(VFIO_IOASID_STATS, &bytes_of(&stats), 8..176, "STATS");
    let create = [16u32, 0, 0, 0].map(u32::to_ne_bytes).concat();
    check(VFIO_IOASID_AS_CREATE, &create, 8..12, "AS_CREATE");
    let change = [32u32, 0, 1, 32, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
    check(VFIO_IOASID_AS_MAP, &change, 16..24, "AS_MAP");
    check(VFIO_IOASID_AS_UNMAP, &change, 16..24, "AS_UNMAP");
    let destroy = [16u32, 0, 1, 0].map(u32::to_ne_bytes).concat();
    check(VFIO_IOASID_AS_DESTROY, &destroy, 0..0, "AS_DESTROY");
    let queue = vfio_ioasid_fault_queue {
        flags: VFIO_IOASID_FAULT_QUEUE_CLOEXEC,
        depth: 4,
        ..Default::default()
    };
    check(
        VFIO_IOASID_FAULT_QUEUE,
        &bytes_of(&queue),
        12..16,
        "FAULT_QUEUE",
    );
    Ok(())
}

fn reports_have_no_byte_that_nobody_wrote() -> Outcome {
    let rig = Rig::nesting()?;
    let container = &rig.container;
    // GET_INFO: the fixed part, the chain, and nothing behind it.
    let mut whole = vec![POISON; 4096];
    whole[..4].copy_from_slice(&4096u32.to_ne_bytes());
    container.raw(VFIO_IOMMU_GET_INFO, &mut whole)?;
    let end = whole
        .iter()
        .rposition(|&byte| byte != POISON)
        .map_or(0, |last| last + 1);
    expect_no_leak(&whole[..end], "GET_INFO");
    let mut again = vec![!POISON; 4096];
    again[..4].copy_from_slice(&4096u32.to_ne_bytes());
    container.raw(VFIO_IOMMU_GET_INFO, &mut again)?;
    assert!(end > 150 && end < 1024, "{end}");
    assert_eq!(
        whole[..end],
        again[..end],
        "a byte of the reply is not written"
    );
    assert!(
        again[end..].iter().all(|&byte| byte == !POISON),
        "behind it"
    );
    for argsz in [16u32, 20, 24, 40] {
        let mut part = vec![POISON; 64];
        part[..4].copy_from_slice(&argsz.to_ne_bytes());
        container.raw(VFIO_IOMMU_GET_INFO, &mut part)?;
        let behind = &part[24.min(argsz as usize)..];
        assert!(behind.iter().all(|&byte| byte == POISON), "argsz {argsz}");
    }

    // DEVICES: entries as long as the caller knows them, and nothing behind the last.
    let size = size_u32::<vfio_ioasid_device_info>();
    for entry_len in [size, size + 8, 2 * size] {
        let mut entries = vec![vfio_ioasid_device_info::default(); 8];
        let memory = host_iommu_sys::plain::bytes_of_slice_mut(&mut entries);
        memory.fill(POISON);
        let mut call = vfio_ioasid_devices {
            argsz: size_u32::<vfio_ioasid_devices>(),
            entry_len,
            count: 4,
            entries_uptr: memory.as_mut_ptr().expose_provenance() as u64,
            ..Default::default()
        };
        container.devices_raw(&mut call)?;
        assert_eq!(call.count, 1);
        let bytes = host_iommu_sys::plain::bytes_of_slice(&entries);
        let (known, rest) = bytes.split_at(size as usize);
        expect_no_leak(known, "DEVICES");
        let (tail, behind) = rest.split_at((entry_len - size) as usize);
        assert!(
            tail.iter().all(|&byte| byte == 0 || byte == POISON),
            "{entry_len}: {tail:02x?}"
        );
        assert!(behind.iter().all(|&byte| byte == POISON), "{behind:02x?}");
    }
    Ok(())
}

fn records_have_no_byte_that_nobody_wrote() -> Outcome {
    let bench = FaultBench::with_depth(1)?;
    // Two requests for room of one: a request and an overflow; UNBIND cancels the first.
    let slot = bench.touch(GVA)?;
    bench.queue.wait_for_page_requests(&bench.rig, 1)?;
    let lost = bench.touch(GVA + PAGE)?;
    expect_status(bench.rig.dma().wait(lost)?, status::INVALID, "no room");
    let mut bytes = bench.queue.read_bytes(8 * RECORD)?;
    bench.space.unbind(&bench.rig)?;
    bench.rig.dma().wait(slot)?;
    bytes.extend(bench.queue.read_bytes(8 * RECORD)?);
    expect_no_leak(&bytes, "records");
    let mut kinds = Vec::new();
    for record in FaultQueue::decode(&bytes) {
        kinds.push(record.kind);
        let mut rest = record;
        (rest.kind, rest.private_data) = (0, 0);
        match record.kind {
            VFIO_IOASID_FAULT_PAGE_REQUEST => {
                assert_eq!(record.reason, 0);
                rest = vfio_ioasid_fault::default();
            }
            VFIO_IOASID_FAULT_OVERFLOW => rest.addr = 0,
            VFIO_IOASID_FAULT_CANCELLED => {
                rest.cookie = 0;
                rest.flags &= !VFIO_IOASID_FAULT_FLAG_EXPIRED;
            }
            kind => return fail(format!("kind {kind}")),
        }
        assert_eq!(record.private_data, 0);
        let rest = bytes_of(&rest);
        assert!(rest.iter().all(|&byte| byte == 0), "{record:?}");
    }
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            VFIO_IOASID_FAULT_PAGE_REQUEST,
            VFIO_IOASID_FAULT_OVERFLOW,
            VFIO_IOASID_FAULT_CANCELLED
        ]
    );
    Ok(())
}

fn child_main(arguments: &[String]) -> Outcome {
    match arguments {
        [case] => match case.as_str() {
            "has_it_all" => has_it_all(),
            "has_nothing" => has_nothing(),
            "cannot_go_beyond" => cannot_go_beyond(),
            "takes_what_it_gets" => takes_what_it_gets(),
            other => fail(format!("no case {other}")),
        },
        _ => fail("usage: case"),
    }
}

program![
    child child_main;
    user_with_the_group_file_has_it_all,
    user_without_the_group_file_has_nothing,
    user_cannot_go_beyond_the_device,
    quotas_hold_under_many_processes,
    calls_write_what_is_documented_and_nothing_else,
    reports_have_no_byte_that_nobody_wrote,
    records_have_no_byte_that_nobody_wrote,
];
