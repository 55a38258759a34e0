// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One PASID does not reach what belongs to another, nor to another container, nor to
//! the device itself.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, endpoint, entry, expect_ok, expect_status, program, skip, status, Order, Outcome, Rig,
    Space, PAGE,
};

const GVA: u64 = 0x3456_789a_b000;

fn same_address_in_two_pasids_reaches_two_pages() -> Outcome {
    let rig = Rig::nesting_device()?;
    let spaces = [Space::new(&rig)?, Space::new(&rig)?];
    let mut pages = Vec::new();
    for space in &spaces {
        space.bind(&rig)?;
        pages.push(space.new_page(&rig, GVA)?);
    }
    for no_ats in [false, true] {
        for (space, value) in spaces.iter().zip([0xaaaa, 0xbbbb]) {
            let order = Order::fill(GVA, 64, value).no_pri().at(space.pasid);
            let order = if no_ats { order.no_ats() } else { order };
            expect_status(rig.dma().run(&order)?, status::OK, "fill");
        }
        assert_eq!(rig.mem.read_u64(pages[0]), 0xaaaa);
        assert_eq!(rig.mem.read_u64(pages[1]), 0xbbbb);
    }
    Ok(())
}

fn same_address_in_many_pasids_reaches_as_many_pages() -> Outcome {
    let rig = Rig::nesting_device()?;
    let spaces: Vec<_> = (0..48)
        .map(|_| Space::new(&rig))
        .collect::<Result<_, _>>()?;
    let mut pages = Vec::new();
    for space in &spaces {
        space.bind(&rig)?;
        pages.push(space.new_page(&rig, GVA)?);
    }
    let slots: Vec<_> = spaces
        .iter()
        .enumerate()
        .map(|(index, space)| {
            let order = Order::fill(GVA, 64, 1000 + index as u64);
            rig.dma().submit(&order.no_pri().at(space.pasid))
        })
        .collect::<Result<_, _>>()?;
    for slot in slots {
        expect_status(rig.dma().wait(slot)?, status::OK, "one of 48");
    }
    for (index, page) in pages.iter().enumerate() {
        assert_eq!(
            rig.mem.read_u64(*page),
            1000 + index as u64,
            "PASID {index}"
        );
    }
    Ok(())
}

fn page_of_one_pasid_is_no_access_by_another() -> Outcome {
    let rig = Rig::nesting_device()?;
    let (ours, theirs) = (Space::new(&rig)?, Space::new(&rig)?);
    ours.bind(&rig)?;
    theirs.bind(&rig)?;
    let page = theirs.new_page(&rig, GVA)?;
    rig.mem.write_u64(page, 5);
    // The translation is cached for the right PASID.
    let right = Order::checksum(GVA, 8).no_pri().at(theirs.pasid);
    expect_status(rig.dma().run(&right)?, status::OK, "its own PASID");
    for order in [
        Order::fill(GVA, 8, 6).no_pri(),
        Order::fill(GVA, 8, 6).no_pri().no_ats(),
    ] {
        expect_status(
            rig.dma().run(&order.at(ours.pasid))?,
            status::NO_ACCESS,
            "the other PASID",
        );
    }
    assert_eq!(rig.mem.read_u64(page), 5);
    Ok(())
}

fn pasid_allocated_but_not_bound_reaches_nothing() -> Outcome {
    let rig = Rig::nesting_device()?;
    let bound = Space::new(&rig)?;
    bound.bind(&rig)?;
    let page = bound.new_page(&rig, GVA)?;
    let unbound = rig.container.pasid_alloc_any()?;
    for pasid in [unbound, 1 << 19, VFIO_IOASID_PASID_LIMIT - 1] {
        for order in [
            Order::fill(GVA, 8, 6).no_pri(),
            Order::fill(GVA, 8, 6).no_pri().no_ats(),
            // Nor does the PASID reach stage 2 by its own addresses.
            Order::fill(page, 8, 6).no_pri(),
            Order::fill(page, 8, 6).no_pri().no_ats(),
        ] {
            let done = rig.dma().run(&order.at(pasid))?;
            assert_ne!(done.status, status::OK, "PASID {pasid}");
        }
    }
    assert_eq!(rig.mem.read_u64(page), 0);
    Ok(())
}

fn request_without_pasid_is_of_stage_2_and_not_of_stage_1() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    for order in [
        Order::fill(GVA, 8, 6).no_pri(),
        Order::fill(GVA, 8, 6).no_pri().no_ats(),
    ] {
        let done = rig.dma().run(&order)?;
        assert_ne!(done.status, status::OK, "a GVA without PASID");
    }
    assert_eq!(rig.mem.read_u64(page), 0);
    let by_gpa = Order::fill(page, 8, 7).no_pri();
    expect_status(rig.dma().run(&by_gpa)?, status::OK, "a GPA without PASID");
    assert_eq!(rig.mem.read_u64(page), 7);
    Ok(())
}

fn unbind_of_one_pasid_leaves_the_other_working() -> Outcome {
    let rig = Rig::nesting_device()?;
    let (first, second) = (Space::new(&rig)?, Space::new(&rig)?);
    first.bind(&rig)?;
    second.bind(&rig)?;
    let page = first.new_page(&rig, GVA)?;
    let other = second.new_page(&rig, GVA)?;
    for space in [&first, &second] {
        let order = Order::fill(GVA, 8, 1).no_pri().at(space.pasid);
        expect_status(rig.dma().run(&order)?, status::OK, "bound");
    }
    first.unbind(&rig)?;
    let gone = Order::fill(GVA, 8, 2).no_pri().at(first.pasid);
    assert_ne!(rig.dma().run(&gone)?.status, status::OK, "unbound");
    let stays = Order::fill(GVA, 8, 3).no_pri().at(second.pasid);
    expect_status(rig.dma().run(&stays)?, status::OK, "still bound");
    assert_eq!(rig.mem.read_u64(page), 1);
    assert_eq!(rig.mem.read_u64(other), 3);
    Ok(())
}

fn same_pasid_on_two_devices_has_a_table_on_each() -> Outcome {
    let Some(rig) = Rig::nesting_with_both_endpoints()? else {
        return skip("needs two endpoints");
    };
    let first = Space::new(&rig)?;
    let second = first.another_table(&rig)?;
    let other = endpoint(1)?.id();
    first.bind(&rig)?;
    let data = second.stage1_data();
    expect_ok(
        rig.container.bind(&bind_at(other, second.pasid, &data)),
        "the other device",
    );
    let pages = [first.new_page(&rig, GVA)?, second.new_page(&rig, GVA)?];
    let order = Order::fill(GVA, 8, 11).no_pri().at(first.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "first device");
    let order = Order::fill(GVA, 8, 22).no_pri().at(first.pasid);
    expect_status(rig.second_dma().run(&order)?, status::OK, "second device");
    assert_eq!(rig.mem.read_u64(pages[0]), 11);
    assert_eq!(rig.mem.read_u64(pages[1]), 22);
    Ok(())
}

fn same_pasid_in_two_containers_reaches_each_ones_memory() -> Outcome {
    let first = Rig::nesting_device()?;
    let Some(second) = Rig::open_second_device()? else {
        return skip("needs two endpoints");
    };
    let mut pages = Vec::new();
    let mut spaces = Vec::new();
    for rig in [&first, &second] {
        rig.container.pasid_alloc(77, 77, 1)?;
        let space = Space::at(rig, 77)?;
        space.bind(rig)?;
        pages.push(space.new_page(rig, GVA)?);
        spaces.push(space);
    }
    // Both containers use the same GPAs: only the container tells the pages apart.
    assert_eq!(pages[0], pages[1]);
    for (rig, value) in [(&first, 1), (&second, 2)] {
        let order = Order::fill(GVA, 8, value).no_pri().at(77);
        expect_status(rig.dma().run(&order)?, status::OK, "fill");
    }
    assert_eq!(first.mem.read_u64(pages[0]), 1);
    assert_eq!(second.mem.read_u64(pages[1]), 2);
    Ok(())
}

fn read_only_in_one_pasid_is_writable_in_another() -> Outcome {
    let rig = Rig::nesting_device()?;
    let (reader, writer) = (Space::new(&rig)?, Space::new(&rig)?);
    reader.bind(&rig)?;
    writer.bind(&rig)?;
    let page = rig.mem.alloc_page();
    reader.map(&rig, GVA, page, entry::R)?;
    writer.map(&rig, GVA + PAGE, page, entry::RW)?;
    let write = Order::fill(GVA + PAGE, 8, 4).no_pri().at(writer.pasid);
    expect_status(rig.dma().run(&write)?, status::OK, "the writer");
    let refused = Order::fill(GVA, 8, 5).no_pri().at(reader.pasid);
    expect_status(rig.dma().run(&refused)?, status::NO_ACCESS, "the reader");
    assert_eq!(rig.mem.read_u64(page), 4);
    Ok(())
}

program![
    same_address_in_two_pasids_reaches_two_pages,
    same_address_in_many_pasids_reaches_as_many_pages,
    page_of_one_pasid_is_no_access_by_another,
    pasid_allocated_but_not_bound_reaches_nothing,
    request_without_pasid_is_of_stage_2_and_not_of_stage_1,
    unbind_of_one_pasid_leaves_the_other_working,
    same_pasid_on_two_devices_has_a_table_on_each,
    same_pasid_in_two_containers_reaches_each_ones_memory,
    read_only_in_one_pasid_is_writable_in_another,
];
