// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tracepoints of vfio_ioasid: each call and each page request leaves the event that
//! ioasid_trace.h describes, and none when they are off.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::ktap::patience;
use host_iommu_tests::rig::{
    bind_as_at, bind_at, bind_stage2_at, expect_errno, expect_ok, expect_status, fail, pin_to_cpu,
    program, range, size_u32, skip, status, Delay, Delays, Errno, FaultBench, Order, Outcome, Rig,
    Space, GUEST_BASE, GUEST_SIZE, PAGE, PAGE_LEN,
};
use nix::fcntl::OFlag;
use nix::mount::{mount, MsFlags};

const TRACEFS: &str = "/sys/kernel/tracing";
const DEBUGFS: &str = "/sys/kernel/debug";

/// The events, on until this is dropped.
struct Tracing {
    enable: PathBuf,
    /// Reading takes events out. To read `trace` and then clear it would lose those that come
    /// between: while it is cleared, nothing is recorded.
    pipe: File,
}

/// An event's name and fields, as its line has them.
#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    fields: BTreeMap<String, String>,
}

impl Event {
    /// Whether each of `wanted` is there.
    fn has(&self, wanted: &[(&str, &str)]) -> bool {
        wanted
            .iter()
            .all(|(key, value)| self.fields.get(*key).is_some_and(|found| found == value))
    }
}

impl Tracing {
    fn start() -> Outcome<Self> {
        if !Path::new(TRACEFS).exists() {
            return skip("the kernel has no tracefs");
        }
        mount_at(TRACEFS, "tracefs")?;
        let enable = Path::new(TRACEFS).join("events/vfio_ioasid/enable");
        if !Path::new(TRACEFS).join("events").exists() {
            return skip("the kernel has no event tracing");
        }
        fs::write(Path::new(TRACEFS).join("trace"), "")?;
        let pipe = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(Path::new(TRACEFS).join("trace_pipe"))?;
        fs::write(&enable, "1")?;
        Ok(Self { enable, pipe })
    }

    fn clear(&self) -> Outcome {
        self.events().map(drop)
    }

    /// Our events since the last call, in order.
    fn events(&self) -> Outcome<Vec<Event>> {
        let mut bytes = Vec::new();
        // Whole lines, until there are none.
        match (&self.pipe).read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            _ => {}
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut events = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((_, rest)) = line.split_once(": ioasid_") else {
                continue;
            };
            let Some((name, fields)) = rest.split_once(": ") else {
                return fail(format!("{line:?}"));
            };
            let fields = fields
                .split(' ')
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (key.into(), value.into()))
                .collect();
            events.push(Event {
                name: name.into(),
                fields,
            });
        }
        Ok(events)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.enable, "0") {
            println!("# tracing stays on: {error}");
        }
    }
}

/// Mounts a file system of the kernel's where it is not.
fn mount_at(folder: &str, kind: &str) -> Outcome {
    if fs::read_dir(folder)?.next().is_none() {
        let flags = MsFlags::empty();
        mount(Some(kind), folder, Some(kind), flags, None::<&str>)?;
    }
    Ok(())
}

/// The number of the only container.
fn container_number() -> Outcome<String> {
    mount_at(DEBUGFS, "debugfs")?;
    let text = fs::read_to_string(Path::new(DEBUGFS).join("vfio_ioasid/containers"))?;
    let number = text
        .strip_prefix("container=")
        .and_then(|rest| rest.split(' ').next());
    match (number, text.lines().count()) {
        (Some(number), 1) => Ok(number.to_owned()),
        _ => fail(format!("no single container in {text:?}")),
    }
}

/// The one event of that name with those fields.
fn one<'a>(events: &'a [Event], name: &str, wanted: &[(&str, &str)]) -> Outcome<&'a Event> {
    let mut named = events.iter().filter(|event| event.name == name);
    match (named.next(), named.next()) {
        (Some(event), None) if event.has(wanted) => Ok(event),
        _ => fail(format!("no single {name} with {wanted:?} in {events:?}")),
    }
}

fn device_name(rig: &Rig) -> Outcome<String> {
    let device = rig.container.devices()?[0].device;
    Ok(format!(
        "{:04x}:{:02x}:{:02x}.{}",
        device.segment,
        device.bus,
        device.devfn >> 3,
        device.devfn & 7
    ))
}

fn map_and_unmap_leave_their_ranges() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let container = container_number()?;
    let tracing = Tracing::start()?;
    rig.map_memory()?;
    let (iova, last) = (
        format!("{GUEST_BASE:#x}"),
        format!("{:#x}", GUEST_BASE + GUEST_SIZE - 1),
    );
    let wanted = [
        ("container", &*container),
        ("iova", &iova),
        ("last", &last),
        ("error", "0"),
    ];
    let map = tracing.events()?;
    let map = one(&map, "map", &wanted)?;
    let vaddr = format!("{:#x}", rig.mem.host_address());
    assert_eq!(map.fields["vaddr"], vaddr);
    let part = rig.container.unmap(GUEST_BASE, PAGE);
    expect_errno(part, Errno::EINVAL, "part of a mapping");
    let end = format!("{:#x}", GUEST_BASE + PAGE - 1);
    let refused = [
        ("container", &*container),
        ("iova", &iova),
        ("last", &end),
        ("bytes", "0"),
        ("error", "-22"),
    ];
    one(&tracing.events()?, "unmap", &refused)?;
    rig.container.unmap(GUEST_BASE, GUEST_SIZE)?;
    let unmap = tracing.events()?;
    let unmap = one(&unmap, "unmap", &wanted)?;
    assert_eq!(unmap.fields["bytes"], GUEST_SIZE.to_string());
    rig.map_memory()?;
    tracing.clear()?;
    expect_errno(rig.map_memory(), Errno::EEXIST, "mapped already");
    one(&tracing.events()?, "map", &[("error", "-17")])?;
    Ok(())
}

fn bind_rebind_and_unbind_leave_where_and_how() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let device = device_name(&rig)?;
    let container = container_number()?;
    let pasid = space.pasid.to_string();
    let tracing = Tracing::start()?;
    let data = space.stage1_data();
    let mut bind = bind_at(rig.container.devices()?[0].device, space.pasid, &data);
    bind.guest_pasid = 9;
    expect_ok(rig.container.bind(&bind), "first");
    let bound = VFIO_IOASID_OUTCOME_BOUND.to_string();
    let unchanged = VFIO_IOASID_OUTCOME_UNCHANGED.to_string();
    let at = [
        ("container", &*container),
        ("device", &device),
        ("pasid", &pasid),
    ];
    let events = tracing.events()?;
    let first = one(&events, "bind", &at)?;
    assert!(
        first.has(&[
            ("kind", "stage1"),
            ("guest_pasid", "9"),
            ("replace", "0"),
            ("outcome", &bound),
            ("error", "0"),
        ]),
        "{first:?}"
    );
    expect_errno(rig.container.bind(&bind), Errno::EBUSY, "again");
    let again = [("replace", "0"), ("outcome", &*unchanged), ("error", "-16")];
    one(&tracing.events()?, "bind", &again)?;
    bind.flags |= VFIO_IOASID_BIND_REPLACE;
    expect_ok(rig.container.bind(&bind), "replaced");
    let events = tracing.events()?;
    let replaced = [("replace", "1"), ("outcome", &*bound), ("error", "0")];
    one(&events, "bind", &replaced)?;
    assert!(events.iter().all(|event| event.name != "unbind"));
    let entries = [range(0, u64::MAX), range(0x1000, 1)];
    rig.container
        .invalidate(
            VFIO_IOASID_SCOPE_BINDING,
            bind.device,
            space.pasid,
            &entries,
        )
        .result?;
    let here = ("container", &*container);
    let done = [
        here,
        ("count", "2"),
        ("done", "2"),
        ("bad", "2"),
        ("error", "0"),
    ];
    one(&tracing.events()?, "invalidate", &done)?;
    let entries = [range(0, 1), range(0x1000, 0), range(0x2000, 1)];
    let scope = VFIO_IOASID_SCOPE_BINDING;
    let bad = rig
        .container
        .invalidate(scope, bind.device, space.pasid, &entries);
    expect_errno(bad.result, Errno::EINVAL, "no pages");
    let stopped = [
        here,
        ("count", "3"),
        ("done", "1"),
        ("bad", "1"),
        ("error", "-22"),
    ];
    one(&tracing.events()?, "invalidate", &stopped)?;
    space.unbind(&rig)?;
    one(&tracing.events()?, "unbind", &at)?;
    Ok(())
}

fn page_requests_and_answers_leave_who_answered() -> Outcome {
    let bench = FaultBench::open()?;
    let device = device_name(&bench.rig)?;
    let container = container_number()?;
    let pasid = bench.space.pasid.to_string();
    let guest_pasid = FaultBench::GUEST_PASID.to_string();
    // Of a group of three the last.
    let addr = format!("{:#x}", FaultBench::GVA + 2 * PAGE);
    let tracing = Tracing::start()?;
    bench.rig.dma().set_group_size(3);
    let order = Order::fill(FaultBench::GVA, 3 * PAGE_LEN, 3).at(bench.space.pasid);
    let slot = bench.rig.dma().submit(&order)?;
    let records = bench.requests(3)?;
    let events = tracing.events()?;
    let at = [
        ("container", &*container),
        ("device", &device),
        ("pasid", &pasid),
    ];
    let request = one(&events, "page_request", &at)?;
    let group = records[0].group.to_string();
    let asked = [
        ("guest_pasid", &*guest_pasid),
        ("group", &group),
        ("records", "3"),
        ("addr", &addr),
    ];
    assert!(request.has(&asked), "{request:?}");
    for record in &records {
        bench.space.new_page(&bench.rig, record.addr)?;
    }
    bench
        .queue
        .respond(records[0].cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(bench.rig.dma().wait(slot)?, status::OK, "filled");
    let events = tracing.events()?;
    let answer = [("group", &*group), ("code", "success"), ("by", "user")];
    assert!(one(&events, "page_response", &at)?.has(&answer));
    let slot = bench.touch(FaultBench::GVA + 8 * PAGE)?;
    let record = bench.requests(1)?[0];
    let group = record.group.to_string();
    tracing.clear()?;
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    let answer = [("group", &*group), ("code", "invalid"), ("by", "user")];
    one(&tracing.events()?, "page_response", &answer)?;
    let slot = bench.touch(FaultBench::GVA + 9 * PAGE)?;
    bench.requests(1)?;
    tracing.clear()?;
    bench.space.unbind(&bench.rig)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "cancelled");
    let events = tracing.events()?;
    one(&events, "page_response", &[("by", "cancelled")])?;
    assert_eq!(events[0].name, "unbind", "before the answer");
    Ok(())
}

fn request_over_the_depth_leaves_refused() -> Outcome {
    let bench = FaultBench::with_depth(1)?;
    let pasid = bench.space.pasid.to_string();
    bench.pending()?;
    let tracing = Tracing::start()?;
    let slot = bench.touch(FaultBench::GVA + PAGE)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "no room");
    let events = tracing.events()?;
    one(&events, "page_request", &[("pasid", &pasid)])?;
    let refused = [("pasid", &*pasid), ("code", "invalid"), ("by", "refused")];
    one(&events, "page_response", &refused)?;
    Ok(())
}

fn binds_of_stage_2_and_address_spaces_leave_their_kind() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let device = rig.container.devices()?[0].device;
    let id = rig.container.as_create()?;
    let tracing = Tracing::start()?;
    let binds = [
        (bind_stage2_at(device, space.pasid), "stage2"),
        (bind_as_at(device, space.pasid, id), "as"),
    ];
    for (bind, kind) in binds {
        rig.container.bind(&bind)?;
        one(&tracing.events()?, "bind", &[("kind", kind)])?;
        space.unbind(&rig)?;
        tracing.clear()?;
    }
    Ok(())
}

/// The driver is about to read the table's data, after the module.
const SECOND_READ: Delay = Delay {
    function: "intel_iommu_domain_alloc_nested",
    at_return: false,
    time: Duration::from_millis(900),
};
/// Of the address width, in struct iommu_hwpt_vtd_s1.
const WIDTH: usize = 16;
const NO_WIDTH: u8 = 47;

/// The driver reads the table's data for itself, after the module's checks. What it finds there
/// by then it refuses only when the old translation is gone, which then takes its place again.
fn replacement_that_the_driver_refuses_leaves_unchanged() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let page = space.new_page(&rig, FaultBench::GVA)?;
    let device = rig.id();
    for _ in 0..8 {
        let tracing = Tracing::start()?;
        let mut data = space.stage1_data();
        let mut bind = bind_at(device, space.pasid, &data);
        bind.flags |= VFIO_IOASID_BIND_REPLACE;
        let delays = Delays::start(&[SECOND_READ])?;
        let called = std::thread::scope(|scope| {
            let caller = scope.spawn(|| -> Outcome<_> {
                pin_to_cpu(1)?;
                Ok(rig.container.bind_with_outcome(&bind))
            });
            delays.wait_for_call(0)?;
            data[WIDTH] = NO_WIDTH;
            match caller.join() {
                Ok(called) => called,
                Err(_) => fail("the calling thread panicked"),
            }
        })?;
        drop(delays);
        let (result, outcome) = called;
        let events = tracing.events()?;
        if result.is_ok() {
            // A machine under load: the driver had read it before.
            continue;
        }
        expect_errno(result, Errno::EINVAL, "a width that there is not");
        assert_eq!(outcome, VFIO_IOASID_OUTCOME_UNCHANGED);
        let unchanged = outcome.to_string();
        let wanted = [("replace", "1"), ("outcome", &*unchanged), ("error", "-22")];
        one(&events, "bind", &wanted)?;
        assert_eq!(rig.container.stats()?.bindings, 1);
        let order = Order::fill(FaultBench::GVA, 8, 6).no_pri().at(space.pasid);
        expect_status(rig.dma().run(&order)?, status::OK, "the old table");
        assert_eq!(rig.mem.read_u64(page), 6);
        return Ok(());
    }
    fail("the data was never changed in time")
}

/// The same, and a reset keeps the old translation from its place.
fn replacement_that_cannot_be_undone_leaves_blocked() -> Outcome {
    const DETACH: Delay = Delay {
        function: "iommu_detach_device_pasid",
        at_return: false,
        time: Duration::from_millis(400),
    };
    const RESET: Delay = Delay {
        function: "pci_dev_reset_iommu_done",
        ..SECOND_READ
    };
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let pasid = space.pasid.to_string();
    for _ in 0..8 {
        let tracing = Tracing::start()?;
        let mut data = space.stage1_data();
        let mut bind = bind_at(rig.id(), space.pasid, &data);
        bind.flags |= VFIO_IOASID_BIND_REPLACE;
        let delays = Delays::start(&[SECOND_READ, DETACH, RESET])?;
        let (result, outcome) = std::thread::scope(|scope| {
            let caller = scope.spawn(|| -> Outcome<_> {
                pin_to_cpu(1)?;
                Ok(rig.container.bind_with_outcome(&bind))
            });
            delays.wait_for_call(0)?;
            data[WIDTH] = NO_WIDTH;
            while delays.calls(1)? == 0 && !caller.is_finished() {
                std::thread::yield_now();
            }
            rig.reset_device()?;
            match caller.join() {
                Ok(called) => called,
                Err(_) => fail("the calling thread panicked"),
            }
        })?;
        drop(delays);
        if outcome != VFIO_IOASID_OUTCOME_BLOCKED {
            // A machine under load: too late for the driver's second read, or for the reset.
            continue;
        }
        expect_errno(result, Errno::EINVAL, "a width that there is not");
        let blocked = outcome.to_string();
        let wanted = [
            ("pasid", &*pasid),
            ("replace", "1"),
            ("outcome", &blocked),
            ("error", "-22"),
        ];
        one(&tracing.events()?, "bind", &wanted)?;
        assert_eq!(rig.container.stats()?.bindings, 0);
        space.bind(&rig)?;
        return Ok(());
    }
    fail("the old translation always came back")
}

fn dma_fault_leaves_where_and_why() -> Outcome {
    let rig = Rig::nesting_device()?;
    if rig.caps.flags & VFIO_IOASID_NESTING_DMA_FAULT == 0 {
        return skip("the kernel does not tell of DMA faults");
    }
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let (container, device) = (container_number()?, device_name(&rig)?);
    let pasid = space.pasid.to_string();
    let addr = format!("{:#x}", FaultBench::GVA);
    let tracing = Tracing::start()?;
    let order = Order::fill(FaultBench::GVA, 8, 1).no_ats().no_pri();
    let done = rig.dma().run(&order.at(space.pasid))?;
    assert_ne!(done.status, status::OK, "DMA went through");
    let mut events = Vec::new();
    let end = Instant::now() + host_iommu_tests::rig::DEADLINE * patience();
    while events.is_empty() && Instant::now() < end {
        events.extend(tracing.events()?);
    }
    let perm = format!("{VFIO_IOASID_FAULT_PERM_WRITE:#x}");
    let wanted = [
        ("container", &*container),
        ("device", &device),
        ("pasid", &pasid),
        ("addr", &addr),
        ("perm", &perm),
        // VT-d 4.1, 7.1.3: a first-stage entry is not present.
        ("reason", "0x71"),
    ];
    let fault = events.iter().find(|event| event.name == "dma_fault");
    assert!(fault.is_some_and(|fault| fault.has(&wanted)), "{events:?}");
    Ok(())
}

/// Whoever waits for an event reads again and again.
fn event_that_comes_while_others_are_read_is_not_lost() -> Outcome {
    const EVENTS: usize = 500;

    let rig = Rig::open_unmapped()?;
    let tracing = Tracing::start()?;
    let calls = thread::scope(|scope| -> Outcome<_> {
        let calls = scope.spawn(|| -> Outcome {
            for _ in 0..EVENTS {
                rig.container.unmap(GUEST_BASE, PAGE)?;
            }
            Ok(())
        });
        let mut seen = 0;
        while !calls.is_finished() {
            seen += tracing.events()?.len();
        }
        seen += tracing.events()?.len();
        match calls.join() {
            Ok(called) => called?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(seen)
    })?;
    assert_eq!(calls, EVENTS, "events seen");
    Ok(())
}

fn request_past_the_deadline_leaves_expired() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue_with_deadline(100)?;
    let bench = FaultBench { rig, space, queue };
    bench.bind()?;
    let tracing = Tracing::start()?;
    let slot = bench.touch(FaultBench::GVA)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "expired");
    let expired = [("code", "invalid"), ("by", "expired")];
    one(&tracing.events()?, "page_response", &expired)?;
    Ok(())
}

/// A structure of 32-bit fields.
fn words(fields: &[u32]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

fn address_space_leaves_its_changes() -> Outcome {
    let rig = Rig::open()?;
    let container = container_number()?;
    let tracing = Tracing::start()?;
    let mut create = words(&[16, 0, 0, 0]);
    rig.container.raw(VFIO_IOASID_AS_CREATE, &mut create)?;
    let events = tracing.events()?;
    let here = ("container", &*container);
    let made = [here, ("op", "create"), ("done", "0"), ("error", "0")];
    let created = one(&events, "as", &made)?;
    let id: u32 = match created.fields["as"].parse() {
        Ok(id) if id != 0 => id,
        other => return fail(format!("{other:?}")),
    };
    // The second entry points outside stage 2.
    let entries = [GUEST_BASE, 0].map(|gpa| vfio_ioasid_as_entry {
        iova: gpa,
        gpa,
        length: 4096,
        perm: VFIO_IOASID_AS_READ,
        ..Default::default()
    });
    let at = entries.as_ptr().expose_provenance() as u64;
    let mut map = words(&[32, 0, id, size_u32::<vfio_ioasid_as_entry>(), 2, 0]);
    map.extend(at.to_ne_bytes());
    let called = rig.container.raw(VFIO_IOASID_AS_MAP, &mut map);
    expect_errno(called, Errno::EFAULT, "the second entry");
    let events = tracing.events()?;
    let named = ("as", &*created.fields["as"]);
    let mapped = [here, named, ("op", "map"), ("done", "1"), ("error", "-14")];
    one(&events, "as", &mapped)?;
    let (unmapped, done, _) = rig.container.as_unmap(id, GUEST_BASE, 4096);
    assert_eq!((unmapped, done), (Ok(()), 1));
    let wanted = [here, named, ("op", "unmap"), ("done", "1"), ("error", "0")];
    one(&tracing.events()?, "as", &wanted)?;
    let (unmapped, done, _) = rig.container.as_unmap(id, GUEST_BASE + 1, 4096);
    assert_eq!((unmapped, done), (Err(Errno::EINVAL), 0));
    let wanted = [
        here,
        named,
        ("op", "unmap"),
        ("done", "0"),
        ("error", "-22"),
    ];
    one(&tracing.events()?, "as", &wanted)?;
    let mut destroy = words(&[16, 0, id, 0]);
    let id = id.to_string();
    let wanted = [("as", &*id), ("op", "destroy")];
    rig.container.raw(VFIO_IOASID_AS_DESTROY, &mut destroy)?;
    assert!(one(&tracing.events()?, "as", &wanted)?.has(&[("error", "0")]));
    expect_errno(
        rig.container.raw(VFIO_IOASID_AS_DESTROY, &mut destroy),
        Errno::ENOENT,
        "gone",
    );
    assert!(one(&tracing.events()?, "as", &wanted)?.has(&[("error", "-2")]));
    Ok(())
}

fn quota_refusal_leaves_the_call() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let tracing = Tracing::start()?;
    let container = container_number()?;
    let limit = rig.caps.max_pasids;
    expect_errno(
        rig.container.pasid_alloc(1, 0xf_ffff, limit + 1),
        Errno::EDQUOT,
        "over the limit",
    );
    let call = format!("{VFIO_IOASID_PASID_ALLOC:#x}");
    let wanted = [("container", &*container), ("call", &call)];
    one(&tracing.events()?, "quota", &wanted)?;
    expect_ok(rig.container.pasid_alloc_any(), "in it");
    assert_eq!(tracing.events()?, [], "nothing of a success");
    Ok(())
}

fn events_that_are_off_leave_nothing() -> Outcome {
    let tracing = Tracing::start()?;
    fs::write(&tracing.enable, "0")?;
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    drop(rig);
    assert_eq!(tracing.events()?, []);
    Ok(())
}

program![
    map_and_unmap_leave_their_ranges,
    bind_rebind_and_unbind_leave_where_and_how,
    page_requests_and_answers_leave_who_answered,
    request_over_the_depth_leaves_refused,
    binds_of_stage_2_and_address_spaces_leave_their_kind,
    replacement_that_the_driver_refuses_leaves_unchanged,
    replacement_that_cannot_be_undone_leaves_blocked,
    dma_fault_leaves_where_and_why,
    event_that_comes_while_others_are_read_is_not_lost,
    request_past_the_deadline_leaves_expired,
    address_space_leaves_its_changes,
    quota_refusal_leaves_the_call,
    events_that_are_off_leave_nothing,
];
