// SPDX-License-Identifier: Apache-2.0 OR MIT
//! BIND at the RID: a stage-1 table translates the requests without PASID, and stage 2 does
//! again when it is unbound.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at_rid, entry, expect_errno, expect_ok, expect_status, invalidate_args, program, range,
    status, Errno, FaultQueue, Order, Outcome, Rig, Space, PAGE,
};

const GVA: u64 = 0x2718_2818_2000;
const SCOPE: u32 = VFIO_IOASID_SCOPE_RID;

fn bind(rig: &Rig, space: &Space) -> Outcome {
    let data = space.stage1_data();
    let (result, outcome) = rig
        .container
        .bind_with_outcome(&bind_at_rid(rig.id(), &data));
    expect_ok(result, "BIND at the RID");
    assert_eq!(outcome, VFIO_IOASID_OUTCOME_BOUND);
    Ok(())
}

fn bind_with(rig: &Rig, space: &Space, queue: &FaultQueue) -> Outcome {
    let data = space.stage1_data();
    let mut bind = bind_at_rid(rig.id(), &data);
    bind.fault_fd = queue.raw_fd();
    bind.guest_pasid = 77;
    bind.cookie = 88;
    expect_ok(rig.container.bind(&bind), "BIND at the RID with a queue");
    Ok(())
}

fn unbind(rig: &Rig) -> Outcome {
    expect_ok(rig.container.unbind(SCOPE, rig.id(), 0), "UNBIND");
    Ok(())
}

/// Writes by requests without PASID in both ways.
fn expect_fill(rig: &Rig, iova: u64, page: u64, what: &str) -> Outcome {
    for (value, no_ats) in [(0x51, false), (0x52, true)] {
        let order = Order::fill(iova, 8, value).no_pri();
        let order = if no_ats { order.no_ats() } else { order };
        expect_status(rig.dma().run(&order)?, status::OK, what);
        assert_eq!(rig.mem.read_u64(page), value, "{what}");
    }
    Ok(())
}

fn expect_no_access(rig: &Rig, iova: u64, what: &str) -> Outcome {
    for order in [
        Order::fill(iova, 8, 9).no_pri(),
        Order::fill(iova, 8, 9).no_pri().no_ats(),
    ] {
        expect_status(rig.dma().run(&order)?, status::NO_ACCESS, what);
    }
    Ok(())
}

fn requests_without_pasid_pass_stage_1_until_unbind() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    expect_fill(&rig, page, page, "by GPA before")?;
    expect_no_access(&rig, GVA, "by GVA before")?;
    bind(&rig, &space)?;
    expect_fill(&rig, GVA, page, "by GVA while bound")?;
    expect_no_access(&rig, page, "by GPA while bound")?;
    unbind(&rig)?;
    expect_fill(&rig, page, page, "by GPA after")?;
    expect_no_access(&rig, GVA, "by GVA after")
}

fn rid_and_pasid_have_tables_of_their_own() -> Outcome {
    let rig = Rig::nesting_device()?;
    let (rid, pasid) = (Space::new(&rig)?, Space::new(&rig)?);
    let pages = [rid.new_page(&rig, GVA)?, pasid.new_page(&rig, GVA)?];
    bind(&rig, &rid)?;
    pasid.bind(&rig)?;
    expect_fill(&rig, GVA, pages[0], "without PASID")?;
    let order = Order::fill(GVA, 8, 7).no_pri().at(pasid.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "with PASID");
    assert_eq!(rig.mem.read_u64(pages[1]), 7);
    unbind(&rig)?;
    expect_status(rig.dma().run(&order)?, status::OK, "the PASID stays");
    pasid.unbind(&rig)?;
    expect_fill(&rig, pages[0], pages[0], "stage 2 after all")
}

fn page_request_without_pasid_is_answered() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    bind_with(&rig, &space, &queue)?;
    let slot = rig.dma().submit(&Order::fill(GVA, 8, 0xabc))?;
    queue.wait_readable()?;
    let record = queue.read_one()?;
    assert_eq!(record.kind, VFIO_IOASID_FAULT_PAGE_REQUEST);
    assert_eq!(record.flags & VFIO_IOASID_FAULT_FLAG_PASID, 0, "no PASID");
    assert_eq!((record.pasid, record.guest_pasid), (0, 77));
    assert_eq!((record.addr, record.user_cookie), (GVA, 88));
    let page = space.new_page(&rig, GVA)?;
    queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "after the answer");
    assert_eq!(rig.mem.read_u64(page), 0xabc);
    Ok(())
}

fn unbind_with_a_request_pending_cancels_it() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    for _ in 0..20 {
        bind_with(&rig, &space, &queue)?;
        let slot = rig.dma().submit(&Order::fill(GVA, 8, 1))?;
        queue.wait_readable()?;
        let record = queue.read_one()?;
        unbind(&rig)?;
        let done = rig.dma().wait(slot)?;
        assert_ne!(done.status, status::OK, "a DMA whose table went");
        let cancelled = queue.read_one()?;
        assert_eq!(cancelled.kind, VFIO_IOASID_FAULT_CANCELLED);
        assert_eq!(cancelled.cookie, record.cookie);
    }
    let page = rig.mem.alloc_page();
    expect_fill(&rig, page, page, "stage 2 after all")
}

fn replacing_a_table_with_requests_leaves_none_behind() -> Outcome {
    let rig = Rig::faulting()?;
    let spaces = [Space::new(&rig)?, Space::new(&rig)?];
    let pages = [
        spaces[0].new_page(&rig, GVA)?,
        spaces[1].new_page(&rig, GVA)?,
    ];
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    bind_with(&rig, &spaces[0], &queue)?;
    for round in 0..20 {
        let which = (round + 1) % 2;
        let data = spaces[which].stage1_data();
        let mut call = bind_at_rid(rig.id(), &data);
        call.flags |= VFIO_IOASID_BIND_REPLACE;
        call.fault_fd = queue.raw_fd();
        let (result, outcome) = rig.container.bind_with_outcome(&call);
        expect_ok(result, "REPLACE at the RID");
        assert_eq!(outcome, VFIO_IOASID_OUTCOME_BOUND);
        expect_fill(&rig, GVA, pages[which], "the new table")?;
        let hole = GVA + PAGE;
        let slot = rig.dma().submit(&Order::fill(hole, 8, 1))?;
        queue.wait_readable()?;
        let record = queue.read_one()?;
        queue.respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
        expect_status(rig.dma().wait(slot)?, status::INVALID, "the hole");
    }
    unbind(&rig)?;
    expect_fill(&rig, pages[0], pages[0], "stage 2 after all")
}

fn invalidate_by_rid_shows_the_new_page() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let old = space.new_page(&rig, GVA)?;
    bind(&rig, &space)?;
    expect_fill(&rig, GVA, old, "the old page")?;
    let new = rig.mem.alloc_page();
    space.map(&rig, GVA, new, entry::RW)?;
    expect_fill(&rig, GVA, old, "the old page, cached")?;
    let entries = host_iommu_tests::rig::bytes_of(&range(GVA, 1));
    let mut call = invalidate_args(SCOPE, rig.id(), 0, &entries, 1);
    expect_ok(rig.container.invalidate_raw(&mut call), "INVALIDATE");
    assert_eq!((call.entry_num, call.bad_index), (1, 1));
    expect_fill(&rig, GVA, new, "the new page")
}

fn rid_outlives_a_reset() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    bind(&rig, &space)?;
    rig.reset_device()?;
    expect_fill(&rig, GVA, page, "after a reset")?;
    expect_no_access(&rig, page, "by GPA after a reset")
}

fn bad_stage_1_data_leaves_stage_2() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    let mut data = space.stage1();
    data.addr_width = 47;
    let bytes = host_iommu_tests::rig::bytes_of(&data);
    let (result, outcome) = rig
        .container
        .bind_with_outcome(&bind_at_rid(rig.id(), &bytes));
    expect_errno(result, Errno::EINVAL, "another address width");
    assert_eq!(outcome, VFIO_IOASID_OUTCOME_UNCHANGED);
    expect_fill(&rig, page, page, "by GPA")?;
    bind(&rig, &space)
}

fn errors_of_bind_and_unbind_at_the_rid() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    expect_errno(
        rig.container.unbind(SCOPE, rig.id(), 0),
        Errno::ENOENT,
        "UNBIND of nothing",
    );
    let good = bind_at_rid(rig.id(), &data);
    let mut bad = good;
    bad.pasid = space.pasid;
    expect_errno(rig.container.bind(&bad), Errno::EINVAL, "RID and PASID");
    let mut bad = good;
    bad.device.devfn ^= 0xff;
    expect_errno(rig.container.bind(&bad), Errno::ENOENT, "no such device");
    let mut bad = good;
    bad.as_id = 1;
    expect_errno(rig.container.bind(&bad), Errno::EINVAL, "as_id without AS");
    bind(&rig, &space)?;
    let (result, outcome) = rig.container.bind_with_outcome(&good);
    expect_errno(result, Errno::EBUSY, "bound already");
    assert_eq!(outcome, VFIO_IOASID_OUTCOME_UNCHANGED);
    assert_eq!(rig.container.stats()?.bindings, 1);
    unbind(&rig)
}

fn close_while_bound_leaves_stage_2_to_the_next() -> Outcome {
    for scope in [VFIO_IOASID_SCOPE_DEVICE, VFIO_IOASID_SCOPE_CONTAINER, 0] {
        let rig = Rig::nesting_device()?;
        let space = Space::new(&rig)?;
        let page = space.new_page(&rig, GVA)?;
        bind(&rig, &space)?;
        expect_fill(&rig, GVA, page, "bound")?;
        if scope != 0 {
            expect_ok(rig.container.unbind(scope, rig.id(), 0), "UNBIND of all");
            expect_fill(&rig, page, page, "stage 2 after UNBIND of all")?;
        }
    }
    let rig = Rig::nesting_device()?;
    let page = rig.mem.alloc_page();
    expect_fill(&rig, page, page, "a new container")
}

fn capability_and_device_say_that_the_rid_can_be_bound() -> Outcome {
    let rig = Rig::nesting()?;
    let capability = rig.container.capabilities()?.expect("the module's report");
    assert_ne!(capability.flags & VFIO_IOASID_NESTING_RID, 0);
    assert_ne!(
        rig.container.devices()?[0].flags & VFIO_IOASID_DEVICE_RID,
        0
    );
    Ok(())
}

program![
    requests_without_pasid_pass_stage_1_until_unbind,
    rid_and_pasid_have_tables_of_their_own,
    page_request_without_pasid_is_answered,
    unbind_with_a_request_pending_cancels_it,
    replacing_a_table_with_requests_leaves_none_behind,
    invalidate_by_rid_shows_the_new_page,
    rid_outlives_a_reset,
    bad_stage_1_data_leaves_stage_2,
    errors_of_bind_and_unbind_at_the_rid,
    close_while_bound_leaves_stage_2_to_the_next,
    capability_and_device_say_that_the_rid_can_be_bound,
];
