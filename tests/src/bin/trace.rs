// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tracepoints of vfio_ioasid: each call and each page request leaves the event that
//! ioasid_trace.h describes, and none when they are off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, expect_errno, expect_ok, expect_status, fail, program, range, size_u32, skip, status,
    Errno, FaultBench, Outcome, Rig, Space, GUEST_BASE, GUEST_SIZE,
};
use nix::mount::{mount, MsFlags};

const TRACEFS: &str = "/sys/kernel/tracing";

/// The events, on until this is dropped.
struct Tracing {
    enable: PathBuf,
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
        if fs::read_dir(TRACEFS)?.next().is_none() {
            mount(
                Some("tracefs"),
                TRACEFS,
                Some("tracefs"),
                MsFlags::empty(),
                None::<&str>,
            )?;
        }
        let enable = Path::new(TRACEFS).join("events/vfio_ioasid/enable");
        if !Path::new(TRACEFS).join("events").exists() {
            return skip("the kernel has no event tracing");
        }
        fs::write(&enable, "1")?;
        let tracing = Self { enable };
        tracing.clear()?;
        Ok(tracing)
    }

    fn clear(&self) -> Outcome {
        Ok(fs::write(Path::new(TRACEFS).join("trace"), "")?)
    }

    /// Our events since the last call, in order.
    fn events(&self) -> Outcome<Vec<Event>> {
        let text = fs::read_to_string(Path::new(TRACEFS).join("trace"))?;
        self.clear()?;
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
    let tracing = Tracing::start()?;
    rig.map_memory()?;
    let (iova, last) = (
        format!("{GUEST_BASE:#x}"),
        format!("{:#x}", GUEST_BASE + GUEST_SIZE - 1),
    );
    let wanted = [("iova", &*iova), ("last", &*last), ("error", "0")];
    let map = tracing.events()?;
    let map = one(&map, "map", &wanted)?;
    assert!(map.fields["vaddr"].starts_with("0x"), "{map:?}");
    rig.container.unmap(GUEST_BASE, GUEST_SIZE)?;
    let unmap = tracing.events()?;
    let unmap = one(&unmap, "unmap", &wanted)?;
    assert_eq!(unmap.fields["bytes"], GUEST_SIZE.to_string());
    assert_eq!(unmap.fields["container"], map.fields["container"]);
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
    let pasid = space.pasid.to_string();
    let tracing = Tracing::start()?;
    let data = space.stage1_data();
    let mut bind = bind_at(rig.container.devices()?[0].device, space.pasid, &data);
    bind.guest_pasid = 9;
    expect_ok(rig.container.bind(&bind), "first");
    let bound = VFIO_IOASID_OUTCOME_BOUND.to_string();
    let unchanged = VFIO_IOASID_OUTCOME_UNCHANGED.to_string();
    let at = [("device", &*device), ("pasid", &*pasid)];
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
    let done = [("count", "2"), ("done", "2"), ("bad", "2"), ("error", "0")];
    one(&tracing.events()?, "invalidate", &done)?;
    space.unbind(&rig)?;
    one(&tracing.events()?, "unbind", &at)?;
    Ok(())
}

fn page_requests_and_answers_leave_who_answered() -> Outcome {
    let bench = FaultBench::open()?;
    let device = device_name(&bench.rig)?;
    let pasid = bench.space.pasid.to_string();
    let addr = format!("{:#x}", FaultBench::GVA);
    let tracing = Tracing::start()?;
    let (slot, record) = bench.pending()?;
    let events = tracing.events()?;
    let at = [("device", &*device), ("pasid", &*pasid)];
    let request = one(&events, "page_request", &at)?;
    let group = record.group.to_string();
    let asked = [("group", &*group), ("records", "1"), ("addr", &*addr)];
    assert!(request.has(&asked), "{request:?}");
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    let answer = [("group", &*group), ("code", "invalid"), ("by", "user")];
    one(&tracing.events()?, "page_response", &answer)?;
    let (slot, _) = bench.pending()?;
    tracing.clear()?;
    bench.space.unbind(&bench.rig)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "cancelled");
    let events = tracing.events()?;
    one(&events, "page_response", &[("by", "cancelled")])?;
    assert_eq!(events[0].name, "unbind", "before the answer");
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
    let tracing = Tracing::start()?;
    let mut create = words(&[16, 0, 0, 0]);
    rig.container.raw(VFIO_IOASID_AS_CREATE, &mut create)?;
    let events = tracing.events()?;
    let created = one(&events, "as", &[("op", "create"), ("error", "0")])?;
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
    one(
        &events,
        "as",
        &[("op", "map"), ("done", "1"), ("error", "-14")],
    )?;
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
    let limit = rig.caps.max_pasids;
    expect_errno(
        rig.container.pasid_alloc(1, 0xf_ffff, limit + 1),
        Errno::EDQUOT,
        "over the limit",
    );
    let call = format!("{VFIO_IOASID_PASID_ALLOC:#x}");
    one(&tracing.events()?, "quota", &[("call", &call)])?;
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
    request_past_the_deadline_leaves_expired,
    address_space_leaves_its_changes,
    quota_refusal_leaves_the_call,
    events_that_are_off_leave_nothing,
];
