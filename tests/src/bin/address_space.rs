// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AS_CREATE, AS_MAP, AS_UNMAP and AS_DESTROY: every errno, done-counts, quotas, and that entries
//! go with the stage-2 mapping below them; BIND_AS, and DMA through an address space.

use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry as entry, expect_errno, expect_status, held_bytes, program, size_u32, status,
    CallError, Changed, Errno, FaultQueue, Order, Outcome, Rig, Stop, PAGE,
};

const READ: u32 = VFIO_IOASID_AS_READ;
const WRITE: u32 = VFIO_IOASID_AS_WRITE;
const RW: u32 = READ | WRITE;
/// Address in the address space.
const AT: u64 = 0x10_0000;
const MAX: u32 = VFIO_IOASID_AS_CHANGE_MAX;

fn create(rig: &Rig) -> Result<u32, CallError> {
    rig.container.as_create()
}

fn destroy(rig: &Rig, id: u32) -> Result<(), CallError> {
    rig.container.as_destroy(id)
}

fn map(rig: &Rig, id: u32, entries: &[vfio_ioasid_as_entry]) -> Changed {
    rig.container.as_map(id, entries)
}

fn unmap(rig: &Rig, id: u32, iova: u64, length: u64) -> Changed {
    rig.container.as_unmap(id, iova, length)
}

/// Address spaces, and entries.
fn counts(rig: &Rig) -> Outcome<(u64, u64)> {
    let stats = rig.container.stats()?;
    Ok((stats.address_spaces, stats.as_entries))
}

const ONE: Changed = (Ok(()), 1, 1);

fn ids_are_never_zero_and_never_given_again() -> Outcome {
    let rig = Rig::nesting()?;
    let (first, second) = (create(&rig)?, create(&rig)?);
    assert!(first != 0 && second != 0 && first != second);
    destroy(&rig, second)?;
    let third = create(&rig)?;
    assert!(third != first && third != second);
    assert_eq!(counts(&rig)?, (2, 0));
    destroy(&rig, first)?;
    destroy(&rig, third)?;
    assert_eq!(counts(&rig)?, (0, 0));
    Ok(())
}

fn unknown_id_returns_enoent() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    for bad in [0, id + 1, u32::MAX] {
        expect_errno(destroy(&rig, bad), Errno::ENOENT, "AS_DESTROY");
        let e = entry(AT, rig.mem.base(), PAGE, RW);
        assert_eq!(map(&rig, bad, &[e]).0, Err(Errno::ENOENT), "AS_MAP");
        assert_eq!(unmap(&rig, bad, AT, PAGE).0, Err(Errno::ENOENT));
    }
    destroy(&rig, id)?;
    expect_errno(destroy(&rig, id), Errno::ENOENT, "twice");
    Ok(())
}

fn flags_and_padding_must_be_zero() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    for (request, words) in [
        (VFIO_IOASID_AS_CREATE, [16, 1, 0, 0]),
        (VFIO_IOASID_AS_CREATE, [16, 0, 0, 1]),
        (VFIO_IOASID_AS_CREATE, [15, 0, 0, 0]),
        (VFIO_IOASID_AS_DESTROY, [16, 1, id, 0]),
        (VFIO_IOASID_AS_DESTROY, [16, 0, id, 1]),
        (VFIO_IOASID_AS_DESTROY, [15, 0, id, 0]),
    ] {
        let mut bytes = words.map(u32::to_ne_bytes).concat();
        let result = rig.container.raw(request, &mut bytes);
        expect_errno(result, Errno::EINVAL, &format!("{request:#x} {words:?}"));
    }
    assert_eq!(counts(&rig)?, (1, 0));
    Ok(())
}

fn map_and_unmap_count_the_entries() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    let locked = held_bytes()?;
    let base = rig.mem.base();
    let entries = [
        entry(AT, base, PAGE, RW),
        // The same memory again, and with less access.
        entry(AT + PAGE, base, PAGE, READ),
        entry(AT + 5 * PAGE, base + 3 * PAGE, 16 * PAGE, WRITE),
    ];
    assert_eq!(map(&rig, id, &entries), (Ok(()), 3, 3));
    assert_eq!(counts(&rig)?, (1, 3));
    assert_eq!(held_bytes()?, locked, "nothing is pinned again");
    assert_eq!(unmap(&rig, id, AT + PAGE, PAGE), ONE);
    assert_eq!(counts(&rig)?, (1, 2));
    // The rest in one, holes and all; then nothing.
    assert_eq!(unmap(&rig, id, 0, 1 << 30), ONE);
    assert_eq!(counts(&rig)?, (1, 0));
    assert_eq!(unmap(&rig, id, 0, 1 << 30), ONE);
    Ok(())
}

fn bad_entries_say_why_and_where() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    let (base, end) = (rig.mem.base(), rig.mem.base() + rig.mem.size());
    let good = |n: u64| entry(AT + n * PAGE, base, PAGE, RW);
    let mut reserved = good(1);
    reserved.__reserved = 1;
    let cases = [
        (
            "iova off a page",
            entry(AT + PAGE + 1, base, PAGE, RW),
            Errno::EINVAL,
        ),
        (
            "gpa off a page",
            entry(AT + PAGE, base + 8, PAGE, RW),
            Errno::EINVAL,
        ),
        ("no length", entry(AT + PAGE, base, 0, RW), Errno::EINVAL),
        (
            "half a page",
            entry(AT + PAGE, base, 2048, RW),
            Errno::EINVAL,
        ),
        (
            "no permission",
            entry(AT + PAGE, base, PAGE, 0),
            Errno::EINVAL,
        ),
        (
            "unknown permission",
            entry(AT + PAGE, base, PAGE, 4),
            Errno::EINVAL,
        ),
        ("padding", reserved, Errno::EINVAL),
        (
            "iova wraps",
            entry(u64::MAX - PAGE + 1, base, 2 * PAGE, RW),
            Errno::EINVAL,
        ),
        (
            "gpa wraps",
            entry(AT + PAGE, u64::MAX - PAGE + 1, 2 * PAGE, RW),
            Errno::EINVAL,
        ),
        (
            "beyond hardware",
            entry(1 << 60, base, PAGE, RW),
            Errno::EINVAL,
        ),
        (
            "interrupts",
            entry(0xfee0_0000, base, PAGE, RW),
            Errno::EINVAL,
        ),
        ("mapped", good(0), Errno::EEXIST),
        (
            "half mapped",
            entry(AT - PAGE, base, 2 * PAGE, RW),
            Errno::EEXIST,
        ),
        (
            "below memory",
            entry(AT + PAGE, base - PAGE, PAGE, RW),
            Errno::EFAULT,
        ),
        (
            "above memory",
            entry(AT + PAGE, end, PAGE, RW),
            Errno::EFAULT,
        ),
        (
            "over the end",
            entry(AT + PAGE, end - PAGE, 2 * PAGE, RW),
            Errno::EFAULT,
        ),
    ];
    for (what, bad, errno) in cases {
        let entries = [good(0), good(9), bad, good(20)];
        assert_eq!(map(&rig, id, &entries), (Err(errno), 2, 2), "{what}");
        assert_eq!(counts(&rig)?, (1, 2), "{what}");
        assert_eq!(unmap(&rig, id, 0, 1 << 30), ONE, "{what}");
    }
    Ok(())
}

fn change_itself_is_checked() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    let e = [entry(AT, rig.mem.base(), PAGE, RW)];
    let len = size_u32::<vfio_ioasid_as_entry>();
    for (what, entry_len, count) in [
        ("a short entry", len - 1, 1),
        ("an entry of no bytes", 0, 1),
        ("too many", len, MAX + 1),
    ] {
        let (result, ..) = rig
            .container
            .as_change(VFIO_IOASID_AS_MAP, id, entry_len, count, &e);
        assert_eq!(result, Err(Errno::EINVAL), "{what}");
    }
    assert_eq!(map(&rig, id, &[]), (Ok(()), 0, 0), "none");
    assert_eq!(counts(&rig)?, (1, 0));
    Ok(())
}

fn unmap_that_would_cut_an_entry_returns_einval() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    let base = rig.mem.base();
    assert_eq!(map(&rig, id, &[entry(AT, base, 4 * PAGE, RW)]), ONE);
    for (iova, pages) in [(AT, 2), (AT + 2 * PAGE, 2), (AT + PAGE, 1), (AT - PAGE, 3)] {
        let cut = unmap(&rig, id, iova, pages * PAGE);
        assert_eq!(cut, (Err(Errno::EINVAL), 0, 0), "{iova:#x}");
    }
    let with_gpa = [entry(AT, base, 4 * PAGE, 0)];
    let with_perm = [entry(AT, 0, 4 * PAGE, RW)];
    for bad in [with_gpa, with_perm] {
        let len = size_u32::<vfio_ioasid_as_entry>();
        let request = VFIO_IOASID_AS_UNMAP;
        let result = rig.container.as_change(request, id, len, 1, &bad);
        assert_eq!(result, (Err(Errno::EINVAL), 0, 0));
    }
    assert_eq!(counts(&rig)?, (1, 1));
    Ok(())
}

fn entries_go_with_the_mapping_below_them() -> Outcome {
    let rig = Rig::nesting()?;
    let (id, other) = (create(&rig)?, create(&rig)?);
    let base = rig.mem.base();
    let entries = [
        entry(AT, base, PAGE, RW),
        entry(AT + PAGE, base + PAGE, PAGE, RW),
    ];
    assert_eq!(map(&rig, id, &entries), (Ok(()), 2, 2));
    assert_eq!(map(&rig, other, &entries), (Ok(()), 2, 2));
    // Memory mapped elsewhere as well stays.
    let elsewhere = base + (1 << 40);
    rig.container.map(&rig.mem, elsewhere)?;
    let e = [entry(AT + 9 * PAGE, elsewhere, 3 * PAGE, RW)];
    assert_eq!(map(&rig, id, &e), ONE);
    assert_eq!(counts(&rig)?, (2, 5));

    rig.unmap_memory()?;
    assert_eq!(counts(&rig)?, (2, 1), "those of the other mapping");
    assert_eq!(map(&rig, id, &entries).0, Err(Errno::EFAULT), "not mapped");
    rig.map_memory()?;
    assert_eq!(
        map(&rig, id, &entries),
        (Ok(()), 2, 2),
        "their places are free"
    );
    Ok(())
}

fn an_entry_may_span_mappings_and_goes_with_each() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    let (base, size) = (rig.mem.base(), rig.mem.size());
    // Neighbours in stage 2, of the same memory.
    rig.container.map(&rig.mem, base + size)?;
    let span = [entry(AT, base + size - 2 * PAGE, 4 * PAGE, RW)];
    assert_eq!(map(&rig, id, &span), ONE);
    assert_eq!(counts(&rig)?, (1, 1));
    rig.container.unmap(base + size, size)?;
    assert_eq!(counts(&rig)?, (1, 0), "the upper mapping");
    rig.container.map(&rig.mem, base + size)?;
    assert_eq!(map(&rig, id, &span), ONE);
    rig.container.unmap(base, size)?;
    assert_eq!(counts(&rig)?, (1, 0), "the lower mapping");
    assert_eq!(unmap(&rig, id, AT, 4 * PAGE), ONE, "nothing is left there");
    Ok(())
}

fn a_large_array_is_carried_out_whole() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    let base = rig.mem.base();
    let pages = rig.mem.size() / PAGE;
    let entries: Vec<_> = (0..u64::from(MAX))
        .map(|n| entry(2 * n * PAGE + (8 << 30), base + n % pages * PAGE, PAGE, RW))
        .collect();
    assert_eq!(map(&rig, id, &entries), (Ok(()), MAX, MAX));
    assert_eq!(counts(&rig)?, (1, u64::from(MAX)));
    assert_eq!(unmap(&rig, id, 8 << 30, 4 << 30), ONE);
    assert_eq!(counts(&rig)?, (1, 0));
    Ok(())
}

fn too_many_address_spaces_return_edquot() -> Outcome {
    let rig = Rig::nesting()?;
    let most = rig.caps.max_address_spaces;
    assert_ne!(most, 0, "the report names the quota");
    let mut last = 0;
    for _ in 0..most {
        last = create(&rig)?;
    }
    expect_errno(create(&rig), Errno::EDQUOT, "one more");
    destroy(&rig, last)?;
    create(&rig)?;
    Ok(())
}

fn bind(rig: &Rig, id: u32, flags: u32, pasid: u32) -> Result<(), CallError> {
    rig.container.bind(&vfio_ioasid_bind {
        argsz: size_u32::<vfio_ioasid_bind>(),
        flags: VFIO_IOASID_BIND_AS | flags,
        device: rig.id(),
        pasid,
        fault_fd: -1,
        as_id: id,
        ..Default::default()
    })
}

/// A fill of eight bytes, by ATS and without.
fn fills(iova: u64, pasid: Option<u32>) -> [Order; 2] {
    let order = Order::fill(iova, 8, 0x77).no_pri();
    let order = pasid.map_or(order, |pasid| order.at(pasid));
    [order, order.no_ats()]
}

fn reaches(rig: &Rig, iova: u64, pasid: Option<u32>, gpa: u64) -> Outcome {
    for order in fills(iova, pasid) {
        rig.mem.write_u64(gpa, 0);
        expect_status(rig.dma().run(&order)?, status::OK, &format!("{iova:#x}"));
        assert_eq!(rig.mem.read_u64(gpa), 0x77, "{iova:#x} reaches {gpa:#x}");
    }
    Ok(())
}

fn is_stopped(rig: &Rig, iova: u64, pasid: Option<u32>) -> Outcome {
    let before = rig.mem.snapshot()?;
    for order in fills(iova, pasid) {
        let done = rig.dma().run(&order)?;
        assert_ne!(done.status, status::OK, "{iova:#x}");
    }
    before.expect_unchanged(&rig.mem, &Default::default(), "guest memory");
    Ok(())
}

fn dma_at_a_pasid_goes_by_the_entries() -> Outcome {
    let rig = Rig::nesting_device()?;
    let id = create(&rig)?;
    let base = rig.mem.base();
    let pasid = rig.container.pasid_alloc_any()?;
    // Entries from before the bind and from after it.
    let first = [
        entry(AT, base + 5 * PAGE, 2 * PAGE, RW),
        entry(AT + 9 * PAGE, base, PAGE, READ),
    ];
    assert_eq!(map(&rig, id, &first), (Ok(()), 2, 2));
    bind(&rig, id, 0, pasid)?;
    assert_eq!(
        map(&rig, id, &[entry(8 * AT, base + 40 * PAGE, PAGE, RW)]),
        ONE
    );
    let pasid = Some(pasid);
    reaches(&rig, AT, pasid, base + 5 * PAGE)?;
    reaches(&rig, AT + PAGE + 0x10, pasid, base + 6 * PAGE + 0x10)?;
    reaches(&rig, 8 * AT, pasid, base + 40 * PAGE)?;
    is_stopped(&rig, AT + 9 * PAGE, pasid)?;
    is_stopped(&rig, AT + 2 * PAGE, pasid)?;
    is_stopped(&rig, base, pasid)?;
    // The RID is by stage 2 as before.
    reaches(&rig, base, None, base)
}

fn dma_is_stopped_after_as_unmap_and_unmap_dma() -> Outcome {
    let rig = Rig::nesting_device()?;
    let id = create(&rig)?;
    let base = rig.mem.base();
    let number = rig.container.pasid_alloc_any()?;
    let pasid = Some(number);
    bind(&rig, id, 0, number)?;
    let entries = [
        entry(AT, base, PAGE, RW),
        entry(AT + PAGE, base + PAGE, PAGE, RW),
    ];
    assert_eq!(map(&rig, id, &entries), (Ok(()), 2, 2));
    reaches(&rig, AT, pasid, base)?;
    reaches(&rig, AT + PAGE, pasid, base + PAGE)?;
    assert_eq!(unmap(&rig, id, AT, PAGE), ONE);
    is_stopped(&rig, AT, pasid)?;
    reaches(&rig, AT + PAGE, pasid, base + PAGE)?;
    rig.unmap_memory()?;
    is_stopped(&rig, AT + PAGE, pasid)?;
    rig.map_memory()?;
    is_stopped(&rig, AT + PAGE, pasid)?;
    assert_eq!(map(&rig, id, &entries), (Ok(()), 2, 2));
    reaches(&rig, AT + PAGE, pasid, base + PAGE)
}

fn dma_at_the_rid_goes_by_the_entries_until_unbind() -> Outcome {
    let rig = Rig::nesting_device()?;
    let id = create(&rig)?;
    let base = rig.mem.base();
    assert_eq!(map(&rig, id, &[entry(AT, base + PAGE, PAGE, RW)]), ONE);
    reaches(&rig, base, None, base)?;
    bind(&rig, id, VFIO_IOASID_BIND_RID, 0)?;
    reaches(&rig, AT, None, base + PAGE)?;
    is_stopped(&rig, base, None)?;
    rig.container.unbind(VFIO_IOASID_SCOPE_RID, rig.id(), 0)?;
    reaches(&rig, base, None, base)?;
    is_stopped(&rig, AT, None)
}

fn bound_address_space_cannot_be_destroyed() -> Outcome {
    let rig = Rig::nesting()?;
    let id = create(&rig)?;
    let pasid = rig.container.pasid_alloc_any()?;
    expect_errno(
        bind(&rig, id + 1, 0, pasid),
        Errno::ENOENT,
        "no such address space",
    );
    bind(&rig, id, 0, pasid)?;
    expect_errno(destroy(&rig, id), Errno::EBUSY, "bound");
    rig.container
        .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), pasid)?;
    destroy(&rig, id)?;
    expect_errno(bind(&rig, id, 0, pasid), Errno::ENOENT, "destroyed");
    Ok(())
}

/// A queue of the rig's, with `id` bound to it.
fn bind_with_queue(rig: &Rig, id: u32, flags: u32, pasid: u32) -> Result<FaultQueue, Stop> {
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    rig.container.bind(&vfio_ioasid_bind {
        argsz: size_u32::<vfio_ioasid_bind>(),
        flags: VFIO_IOASID_BIND_AS | flags,
        device: rig.id(),
        pasid,
        guest_pasid: 77,
        fault_fd: queue.raw_fd(),
        cookie: 88,
        as_id: id,
        ..Default::default()
    })?;
    Ok(queue)
}

/// A hole is asked for, filled and reached.
fn hole_is_filled(rig: &Rig, id: u32, pasid: Option<u32>, queue: &FaultQueue) -> Outcome {
    let page = rig.mem.alloc_page();
    let order = Order::fill(AT, 8, 0xabc);
    let order = pasid.map_or(order, |pasid| order.at(pasid));
    let slot = rig.dma().submit(&order)?;
    queue.wait_readable()?;
    let record = queue.read_one()?;
    assert_eq!(record.kind, VFIO_IOASID_FAULT_PAGE_REQUEST);
    assert_eq!(record.pasid, pasid.unwrap_or(0));
    assert_eq!(
        (record.addr, record.guest_pasid, record.user_cookie),
        (AT, 77, 88)
    );
    assert_eq!(map(rig, id, &[entry(AT, page, PAGE, RW)]), ONE);
    queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "after the answer");
    assert_eq!(rig.mem.read_u64(page), 0xabc);
    assert_eq!(unmap(rig, id, AT, PAGE), ONE);
    is_stopped(rig, AT, pasid)
}

fn hole_is_asked_for_where_there_is_a_fault_queue() -> Outcome {
    let rig = Rig::faulting()?;
    let id = create(&rig)?;
    // Bound without a queue and with one at a time: two tables with the same entries.
    let [plain, asking] = [
        rig.container.pasid_alloc_any()?,
        rig.container.pasid_alloc_any()?,
    ];
    bind(&rig, id, 0, plain)?;
    let queue = bind_with_queue(&rig, id, 0, asking)?;
    hole_is_filled(&rig, id, Some(asking), &queue)?;
    let order = Order::fill(AT, 8, 1).at(plain);
    expect_status(rig.dma().run(&order)?, status::INVALID, "nobody is asked");
    let page = rig.mem.alloc_page();
    assert_eq!(map(&rig, id, &[entry(AT, page, PAGE, RW)]), ONE);
    reaches(&rig, AT, Some(plain), page)?;
    reaches(&rig, AT, Some(asking), page)?;
    assert_eq!(unmap(&rig, id, AT, PAGE), ONE);
    is_stopped(&rig, AT, Some(plain))?;
    is_stopped(&rig, AT, Some(asking))?;
    rig.container
        .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), plain)?;
    rig.container
        .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), asking)?;
    let queue = bind_with_queue(&rig, id, 0, asking)?;
    hole_is_filled(&rig, id, Some(asking), &queue)
}

fn hole_is_asked_for_at_the_rid() -> Outcome {
    let rig = Rig::faulting()?;
    let id = create(&rig)?;
    let queue = bind_with_queue(&rig, id, VFIO_IOASID_BIND_RID, 0)?;
    hole_is_filled(&rig, id, None, &queue)?;
    rig.container.unbind(VFIO_IOASID_SCOPE_RID, rig.id(), 0)?;
    reaches(&rig, rig.mem.base(), None, rig.mem.base())
}

fn request_that_waits_is_cancelled_by_unbind() -> Outcome {
    let rig = Rig::faulting()?;
    let id = create(&rig)?;
    let pasid = rig.container.pasid_alloc_any()?;
    for _ in 0..20 {
        let queue = bind_with_queue(&rig, id, 0, pasid)?;
        let slot = rig.dma().submit(&Order::fill(AT, 8, 1).at(pasid))?;
        queue.wait_readable()?;
        let record = queue.read_one()?;
        rig.container
            .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), pasid)?;
        assert_ne!(rig.dma().wait(slot)?.status, status::OK);
        let cancelled = queue.read_one()?;
        assert_eq!(cancelled.kind, VFIO_IOASID_FAULT_CANCELLED);
        assert_eq!(cancelled.cookie, record.cookie);
    }
    destroy(&rig, id)?;
    Ok(())
}

program![
    ids_are_never_zero_and_never_given_again,
    unknown_id_returns_enoent,
    flags_and_padding_must_be_zero,
    map_and_unmap_count_the_entries,
    bad_entries_say_why_and_where,
    change_itself_is_checked,
    unmap_that_would_cut_an_entry_returns_einval,
    entries_go_with_the_mapping_below_them,
    an_entry_may_span_mappings_and_goes_with_each,
    a_large_array_is_carried_out_whole,
    too_many_address_spaces_return_edquot,
    dma_at_a_pasid_goes_by_the_entries,
    dma_is_stopped_after_as_unmap_and_unmap_dma,
    dma_at_the_rid_goes_by_the_entries_until_unbind,
    bound_address_space_cannot_be_destroyed,
    hole_is_asked_for_where_there_is_a_fault_queue,
    hole_is_asked_for_at_the_rid,
    request_that_waits_is_cancelled_by_unbind,
];
