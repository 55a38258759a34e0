// SPDX-License-Identifier: Apache-2.0 OR MIT
//! VFIO_IOASID_BIND_REPLACE at a PASID, and stage 2 itself as what is bound.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, bind_stage2_at, bytes_of, expect_errno, expect_ok, expect_status, invalidate_args,
    program, range, status, Errno, FaultBench, Order, Outcome, Rig, Space, PAGE,
};

const GVA: u64 = 0x3141_5926_5000;

fn replacing(mut bind: vfio_ioasid_bind) -> vfio_ioasid_bind {
    bind.flags |= VFIO_IOASID_BIND_REPLACE;
    bind
}

fn expect_fill(rig: &Rig, pasid: u32, iova: u64, page: u64, what: &str) -> Outcome {
    for (value, no_ats) in [(0x61, false), (0x62, true)] {
        let order = Order::fill(iova, 8, value).no_pri().at(pasid);
        let order = if no_ats { order.no_ats() } else { order };
        expect_status(rig.dma().run(&order)?, status::OK, what);
        assert_eq!(rig.mem.read_u64(page), value, "{what}");
    }
    Ok(())
}

fn new_table_takes_the_place_of_the_old() -> Outcome {
    let rig = Rig::nesting_device()?;
    let old = Space::new(&rig)?;
    let new = old.another_table(&rig)?;
    let pages = [old.new_page(&rig, GVA)?, new.new_page(&rig, GVA)?];
    old.bind(&rig)?;
    expect_fill(&rig, old.pasid, GVA, pages[0], "the old table")?;
    for round in 0..50 {
        let (space, page) = [(&new, pages[1]), (&old, pages[0])][round % 2];
        let data = space.stage1_data();
        let call = replacing(bind_at(rig.id(), space.pasid, &data));
        let (result, outcome) = rig.container.bind_with_outcome(&call);
        expect_ok(result, "REPLACE");
        assert_eq!(outcome, VFIO_IOASID_OUTCOME_BOUND);
        expect_fill(&rig, old.pasid, GVA, page, "the table in force")?;
    }
    let stats = rig.container.stats()?;
    assert_eq!((stats.bindings, stats.binds, stats.unbinds), (1, 51, 50));
    Ok(())
}

fn replacing_nothing_is_enoent() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    let call = replacing(bind_at(rig.id(), space.pasid, &data));
    let (result, outcome) = rig.container.bind_with_outcome(&call);
    expect_errno(result, Errno::ENOENT, "nothing is bound");
    assert_eq!(outcome, VFIO_IOASID_OUTCOME_UNCHANGED);
    assert_eq!(rig.container.stats()?.bindings, 0);
    Ok(())
}

fn bad_data_leaves_the_old_table_in_force() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    space.bind(&rig)?;
    for change in [
        (|data| data.addr_width = 47) as fn(&mut iommu_hwpt_vtd_s1),
        |data| data.pgtbl_addr |= 8,
        |data| data.flags = 1 << 40,
        |data| data.__reserved = 1,
    ] {
        let mut data = space.stage1();
        change(&mut data);
        let bytes = bytes_of(&data);
        let call = replacing(bind_at(rig.id(), space.pasid, &bytes));
        let (result, outcome) = rig.container.bind_with_outcome(&call);
        expect_errno(result, Errno::EINVAL, "bad stage-1 data");
        assert_eq!(outcome, VFIO_IOASID_OUTCOME_UNCHANGED);
        expect_fill(&rig, space.pasid, GVA, page, "the old table")?;
    }
    assert_eq!(rig.container.stats()?.bindings, 1);
    Ok(())
}

fn request_of_the_old_table_is_cancelled() -> Outcome {
    let bench = FaultBench::open()?;
    let rig = &bench.rig;
    for _ in 0..20 {
        let (slot, record) = bench.pending()?;
        let next = bench.space.another_table(rig)?;
        let data = next.stage1_data();
        let mut call = replacing(bind_at(rig.id(), next.pasid, &data));
        call.fault_fd = bench.queue.raw_fd();
        expect_ok(rig.container.bind(&call), "REPLACE");
        assert_ne!(rig.dma().wait(slot)?.status, status::OK, "the DMA");
        let cancelled = bench.queue.read_one()?;
        assert_eq!(cancelled.kind, VFIO_IOASID_FAULT_CANCELLED);
        assert_eq!(cancelled.cookie, record.cookie);
        // The answer comes too late, and is taken.
        expect_ok(
            bench
                .queue
                .respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS),
            "a late answer",
        );
    }
    Ok(())
}

fn stage_2_at_a_pasid_reaches_guest_memory_and_no_more() -> Outcome {
    let rig = Rig::nesting_device()?;
    let pasid = rig.container.pasid_alloc_any()?;
    let page = rig.mem.alloc_page();
    let call = bind_stage2_at(rig.id(), pasid);
    let (result, outcome) = rig.container.bind_with_outcome(&call);
    expect_ok(result, "BIND of stage 2");
    assert_eq!(outcome, VFIO_IOASID_OUTCOME_BOUND);
    expect_fill(&rig, pasid, page, page, "by GPA")?;
    let outside = rig.mem.base() + rig.mem.size();
    for order in [
        Order::fill(outside, 8, 1).no_pri().at(pasid),
        Order::fill(outside, 8, 1).no_pri().no_ats().at(pasid),
    ] {
        expect_status(rig.dma().run(&order)?, status::NO_ACCESS, "outside");
    }
    let entries = bytes_of(&range(page, 1));
    let mut call = invalidate_args(VFIO_IOASID_SCOPE_BINDING, rig.id(), pasid, &entries, 1);
    expect_errno(
        rig.container.invalidate_raw(&mut call),
        Errno::EINVAL,
        "there is no stage 1 to invalidate",
    );
    let mut call = invalidate_args(VFIO_IOASID_SCOPE_DEVICE, rig.id(), 0, &entries, 1);
    expect_ok(rig.container.invalidate_raw(&mut call), "the device's");
    Ok(())
}

fn stage_1_and_stage_2_take_each_others_place() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    space.bind(&rig)?;
    for _ in 0..10 {
        expect_fill(&rig, space.pasid, GVA, page, "by GVA")?;
        let call = replacing(bind_stage2_at(rig.id(), space.pasid));
        expect_ok(rig.container.bind(&call), "stage 2 for stage 1");
        expect_fill(&rig, space.pasid, page, page, "by GPA")?;
        let order = Order::fill(GVA, 8, 1).no_pri().at(space.pasid);
        expect_status(rig.dma().run(&order)?, status::NO_ACCESS, "by GVA");
        let data = space.stage1_data();
        let call = replacing(bind_at(rig.id(), space.pasid, &data));
        expect_ok(rig.container.bind(&call), "stage 1 for stage 2");
    }
    Ok(())
}

fn unmapped_page_is_gone_from_stage_2_at_a_pasid() -> Outcome {
    let rig = Rig::nesting_device()?;
    let pasid = rig.container.pasid_alloc_any()?;
    let page = rig.mem.alloc_page();
    rig.container.bind(&bind_stage2_at(rig.id(), pasid))?;
    expect_fill(&rig, pasid, page, page, "mapped")?;
    rig.unmap_memory()?;
    for order in [
        Order::fill(page, 8, 1).no_pri().at(pasid),
        Order::fill(page, 8, 1).no_pri().no_ats().at(pasid),
    ] {
        expect_status(rig.dma().run(&order)?, status::NO_ACCESS, "unmapped");
    }
    Ok(())
}

fn fields_that_the_target_rules_out_are_einval() -> Outcome {
    let bench = FaultBench::open()?;
    let rig = &bench.rig;
    let pasid = rig.container.pasid_alloc_any()?;
    let good = bind_stage2_at(rig.id(), pasid);
    let queue = bench.queue.raw_fd();
    for change in [
        &(|bind: &mut vfio_ioasid_bind| bind.data_type = 1) as &dyn Fn(&mut vfio_ioasid_bind),
        &|bind| bind.data_len = 24,
        &|bind| bind.data_uptr = PAGE,
        &|bind| bind.fault_fd = queue,
        &|bind| bind.as_id = 1,
        &|bind| bind.flags |= VFIO_IOASID_BIND_AS,
    ] {
        let mut bad = good;
        change(&mut bad);
        let (result, outcome) = rig.container.bind_with_outcome(&bad);
        expect_errno(result, Errno::EINVAL, "a field that does not belong");
        assert_eq!(outcome, 0, "the call's own fields");
    }
    expect_ok(rig.container.bind(&good), "without the mistake");
    Ok(())
}

fn highest_pasid_of_a_device_with_page_requests_is_the_hosts() -> Outcome {
    let rig = Rig::faulting()?;
    let highest = rig.container.devices()?[0].max_pasids - 1;
    let pasid = rig.container.pasid_alloc(highest, highest, 1)?;
    let space = Space::at(&rig, pasid)?;
    expect_errno(space.bind(&rig), Errno::EBUSY, "the host's PASID");
    Ok(())
}

program![
    new_table_takes_the_place_of_the_old,
    replacing_nothing_is_enoent,
    bad_data_leaves_the_old_table_in_force,
    request_of_the_old_table_is_cancelled,
    stage_2_at_a_pasid_reaches_guest_memory_and_no_more,
    stage_1_and_stage_2_take_each_others_place,
    unmapped_page_is_gone_from_stage_2_at_a_pasid,
    fields_that_the_target_rules_out_are_einval,
    highest_pasid_of_a_device_with_page_requests_is_the_hosts,
];
