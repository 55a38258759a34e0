// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA of the endpoint through both stages: every operation, every page size, and what
//! each stage forbids.

use host_iommu_bindings::uapi::VFIO_IOASID_SCOPE_BINDING;
use host_iommu_tests::rig::{
    entry, expect_status, fnv1a, program, status, Order, OrderExt, Outcome, Rig, Space, PAGE,
    PAGE_LEN,
};

/// An address of the "guest process", with a different index at each level.
const GVA: u64 = 0x1234_5678_9000;
/// No page of guest memory.
const OUTSIDE: u64 = 0x7_0000_0000;

/// A rig with one bound space; page requests are not asked for in this file.
fn bench() -> Result<(Rig, Space), host_iommu_tests::rig::Stop> {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    Ok((rig, space))
}

/// Both ways of the endpoint to reach memory: by ATS and its device TLB, and with
/// untranslated requests.
fn both_ways(order: Order) -> [(&'static str, Order); 2] {
    [
        ("ATS", order.no_pri()),
        ("untranslated", order.no_pri().no_ats()),
    ]
}

fn fill_reaches_the_page_behind_both_stages() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    for (way, order) in both_ways(Order::fill(GVA, PAGE_LEN, 0x0123_4567_89ab_cdef)) {
        rig.mem.fill(page, PAGE, 0);
        expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, way);
        for offset in [0, 8, 2048, 4088] {
            assert_eq!(
                rig.mem.read_u64(page + offset),
                0x0123_4567_89ab_cdef,
                "{way}"
            );
        }
    }
    Ok(())
}

fn fill_of_part_of_a_page_leaves_the_rest() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    rig.mem.fill(page, PAGE, 0x11);
    let order = Order::fill(GVA + 64, 128, u64::MAX)
        .no_pri()
        .at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "fill");
    let bytes = rig.mem.read(page, PAGE);
    assert!(bytes[..64].iter().all(|&byte| byte == 0x11), "before");
    assert!(bytes[64..192].iter().all(|&byte| byte == 0xff), "filled");
    assert!(bytes[192..].iter().all(|&byte| byte == 0x11), "after");
    Ok(())
}

fn read_gives_the_bytes_of_guest_memory() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    let pattern: Vec<u8> = (0..512u32).map(|n| (n * 7 + 3) as u8).collect();
    rig.mem.write(page + 100, &pattern);
    for (way, order) in both_ways(Order::read(GVA + 100, 512, 0)) {
        rig.dma().write_buffer(0, &[0; 512]);
        expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, way);
        assert_eq!(rig.dma().read_buffer(0, 512), pattern, "{way}");
    }
    Ok(())
}

fn write_puts_the_buffer_into_guest_memory() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    let pattern: Vec<u8> = (0..256u32).map(|n| (n ^ 0x5a) as u8).collect();
    rig.dma().write_buffer(64, &pattern);
    for (way, order) in both_ways(Order::write(64, GVA + 3, 256)) {
        rig.mem.fill(page, PAGE, 0);
        expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, way);
        assert_eq!(rig.mem.read(page + 3, 256), pattern, "{way}");
        assert_eq!(rig.mem.read(page, 3), [0; 3], "{way}: before");
    }
    Ok(())
}

fn copy_moves_between_two_pages() -> Outcome {
    let (rig, space) = bench()?;
    let from = space.new_page(&rig, GVA)?;
    let to = space.new_page(&rig, GVA + (1 << 30))?;
    let pattern: Vec<u8> = (0..PAGE).map(|n| (n % 251) as u8).collect();
    rig.mem.write(from, &pattern);
    let order = Order::copy(GVA, GVA + (1 << 30), PAGE_LEN).no_pri();
    expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, "copy");
    assert_eq!(rig.mem.read(to, PAGE), pattern);
    Ok(())
}

fn copy_across_pages_that_are_scattered_keeps_the_order() -> Outcome {
    let (rig, space) = bench()?;
    // Consecutive GVAs over GPAs in descending order.
    let pages: Vec<u64> = (0..8).map(|_| rig.mem.alloc_page()).collect();
    for (index, page) in pages.iter().rev().enumerate() {
        space.map(&rig, GVA + index as u64 * PAGE, *page, entry::RW)?;
    }
    for (index, page) in pages.iter().rev().take(4).enumerate() {
        rig.mem.fill(*page, PAGE, index as u8 + 1);
    }
    let order = Order::copy(GVA + 128, GVA + 4 * PAGE + 128, 4 * PAGE_LEN - 256).no_pri();
    expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, "copy");
    for (index, page) in pages.iter().rev().skip(4).enumerate() {
        let bytes = rig.mem.read(*page, PAGE);
        assert!(
            bytes[128..PAGE as usize - 128]
                .iter()
                .all(|&byte| byte == index as u8 + 1),
            "page {index}"
        );
    }
    Ok(())
}

fn checksum_is_that_of_guest_memory() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    let next = space.new_page(&rig, GVA + PAGE)?;
    let bytes: Vec<u8> = (0..2 * PAGE).map(|n| (n * n % 253) as u8).collect();
    rig.mem.write(page, &bytes[..PAGE as usize]);
    rig.mem.write(next, &bytes[PAGE as usize..]);
    for (way, order) in both_ways(Order::checksum(GVA, 2 * PAGE_LEN)) {
        let done = rig.dma().run(&order.at(space.pasid))?;
        expect_status(done, status::OK, way);
        assert_eq!(done.result, fnv1a(&bytes), "{way}");
    }
    Ok(())
}

fn fetch_add_returns_the_old_value_and_stores_the_sum() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    rig.mem.write_u64(page + 16, 40);
    for (index, (way, order)) in both_ways(Order::fetch_add(GVA + 16, 2))
        .into_iter()
        .enumerate()
    {
        let done = rig.dma().run(&order.at(space.pasid))?;
        expect_status(done, status::OK, way);
        assert_eq!(done.result, 40 + 2 * index as u64, "{way}");
    }
    assert_eq!(rig.mem.read_u64(page + 16), 44);
    Ok(())
}

fn many_orders_in_flight_all_arrive() -> Outcome {
    let (rig, space) = bench()?;
    let pages: Vec<u64> = (0..64)
        .map(|index| space.new_page(&rig, GVA + index * PAGE))
        .collect::<Result<_, _>>()?;
    let slots: Vec<_> = (0..64u64)
        .map(|index| {
            rig.dma().submit(
                &Order::fill(GVA + index * PAGE, PAGE_LEN, 0x0101 * (index + 1))
                    .no_pri()
                    .at(space.pasid),
            )
        })
        .collect::<Result<_, _>>()?;
    for slot in slots {
        expect_status(rig.dma().wait(slot)?, status::OK, "one of 64");
    }
    for (index, page) in pages.iter().enumerate() {
        assert_eq!(rig.mem.read_u64(*page + 8), 0x0101 * (index as u64 + 1));
    }
    Ok(())
}

fn completion_record_by_pasid_goes_through_both_stages() -> Outcome {
    let (rig, space) = bench()?;
    space.new_page(&rig, GVA)?;
    let record = space.new_page(&rig, GVA + PAGE)?;
    let order = Order::fill(GVA, 64, 7)
        .no_pri()
        .at(space.pasid)
        .completion_at_pasid(GVA + PAGE + 32, 0xfeed);
    expect_status(rig.dma().run(&order)?, status::OK, "fill");
    assert_eq!(rig.mem.read_u32(record + 32), 0xfeed, "tag");
    assert_eq!(rig.mem.read_u32(record + 36), status::OK, "status");
    Ok(())
}

fn page_of_2_mebibytes_reaches_every_4_kibibytes_of_it() -> Outcome {
    let (rig, space) = bench()?;
    let start = rig.mem.alloc_aligned(2 << 20);
    let gva = 0x4000_0000;
    space.map_2m(&rig, gva, start, entry::RW)?;
    for offset in [0, PAGE, 1 << 20, (2 << 20) - PAGE] {
        for (way, order) in both_ways(Order::fill(gva + offset, 64, offset + 5)) {
            rig.mem.fill(start + offset, 64, 0);
            expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, way);
            assert_eq!(
                rig.mem.read_u64(start + offset),
                offset + 5,
                "{way} {offset:#x}"
            );
        }
    }
    Ok(())
}

fn page_of_1_gibibyte_is_cut_to_what_stage_2_maps() -> Outcome {
    let (rig, space) = bench()?;
    // VT-d 4.1, 11.4.2: CAP.FL1GP is bit 56.
    if rig.caps.vtd_cap & (1 << 56) == 0 {
        return host_iommu_tests::rig::skip("no 1 GiB pages in stage 1");
    }
    let gva = 0x40_0000_0000;
    let frame = rig.mem.base() & !((1 << 30) - 1);
    space.map_1g(&rig, gva, frame, entry::RW)?;
    let page = rig.mem.alloc_page();
    let inside = Order::fill(gva + (page - frame), 64, 99)
        .no_pri()
        .at(space.pasid);
    expect_status(rig.dma().run(&inside)?, status::OK, "mapped by stage 2");
    assert_eq!(rig.mem.read_u64(page), 99);
    // The page goes on behind the end of guest memory; stage 2 does not.
    let end = rig.mem.base() + rig.mem.size();
    let outside = Order::fill(gva + (end - frame), 64, 99)
        .no_pri()
        .at(space.pasid);
    expect_status(
        rig.dma().run(&outside)?,
        status::NO_ACCESS,
        "not mapped by stage 2",
    );
    Ok(())
}

fn accessed_and_dirty_are_set_by_what_the_device_does() -> Outcome {
    let (rig, space) = bench()?;
    let page = rig.mem.alloc_page();
    let leaf = space.map(
        &rig,
        GVA,
        page,
        entry::RW & !(entry::ACCESSED | entry::DIRTY),
    )?;

    let read = Order::checksum(GVA, 64).no_pri().no_ats().at(space.pasid);
    expect_status(rig.dma().run(&read)?, status::OK, "read");
    let after_read = rig.mem.read_u64(leaf);
    assert_ne!(after_read & entry::ACCESSED, 0, "A after a read");
    assert_eq!(after_read & entry::DIRTY, 0, "D after a read");

    let write = Order::fill(GVA, 64, 1).no_pri().no_ats().at(space.pasid);
    expect_status(rig.dma().run(&write)?, status::OK, "write");
    assert_ne!(rig.mem.read_u64(leaf) & entry::DIRTY, 0, "D after a write");
    Ok(())
}

fn hole_in_stage_1_is_no_access() -> Outcome {
    let (rig, space) = bench()?;
    space.new_page(&rig, GVA)?;
    for gva in [
        GVA + PAGE,
        GVA + (1 << 21),
        GVA + (1 << 30),
        0,
        0x7fff_ffff_f000,
    ] {
        for (way, order) in both_ways(Order::fill(gva, 8, 1)) {
            let done = rig.dma().run(&order.at(space.pasid))?;
            expect_status(done, status::NO_ACCESS, &format!("{way} at {gva:#x}"));
            assert_eq!(done.result, gva, "{way}: where");
        }
    }
    Ok(())
}

fn read_only_page_can_be_read_and_not_written() -> Outcome {
    let (rig, space) = bench()?;
    let page = rig.mem.alloc_page();
    rig.mem.fill(page, PAGE, 0x77);
    space.map(&rig, GVA, page, entry::R)?;
    for (way, order) in both_ways(Order::checksum(GVA, 64)) {
        expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, way);
    }
    for (way, order) in both_ways(Order::fill(GVA, 64, 0)) {
        expect_status(
            rig.dma().run(&order.at(space.pasid))?,
            status::NO_ACCESS,
            way,
        );
    }
    assert!(rig.mem.read(page, PAGE).iter().all(|&byte| byte == 0x77));
    Ok(())
}

fn read_only_at_an_upper_level_forbids_writes() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    let directory = space.entry_address(&rig, GVA, 2)?;
    let value = rig.mem.read_u64(directory);
    rig.mem.write_u64(directory, value & !entry::WRITE);
    let order = Order::fill(GVA, 64, 1).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::NO_ACCESS, "write");
    assert_eq!(rig.mem.read_u64(page), 0);
    Ok(())
}

fn supervisor_page_is_no_access_for_a_user_request() -> Outcome {
    let (rig, space) = bench()?;
    let page = rig.mem.alloc_page();
    space.map(&rig, GVA, page, entry::RW & !entry::USER)?;
    for (way, order) in both_ways(Order::fill(GVA, 64, 1)) {
        expect_status(
            rig.dma().run(&order.at(space.pasid))?,
            status::NO_ACCESS,
            way,
        );
    }
    assert_eq!(rig.mem.read_u64(page), 0);
    Ok(())
}

fn reserved_bit_in_an_entry_is_no_access() -> Outcome {
    let (rig, space) = bench()?;
    let page = rig.mem.alloc_page();
    let leaf = space.map(&rig, GVA, page, entry::RW)?;
    // Bit 51 of the address is above any host address width of this machine.
    rig.mem.write_u64(leaf, rig.mem.read_u64(leaf) | 1 << 51);
    for (way, order) in both_ways(Order::fill(GVA, 64, 1)) {
        // A translation request may be answered with an error instead (VT-d 4.1, 7.1.3).
        let done = rig.dma().run(&order.at(space.pasid))?;
        assert!(
            [status::NO_ACCESS, status::ATS_ERROR].contains(&done.status),
            "{way}: {done}"
        );
    }
    assert_eq!(rig.mem.read_u64(page), 0);
    Ok(())
}

fn address_not_canonical_is_no_access() -> Outcome {
    let (rig, space) = bench()?;
    space.new_page(&rig, GVA)?;
    for gva in [GVA | 1 << 48, GVA | 1 << 63, 0x8000_0000_0000 | GVA] {
        for (way, order) in both_ways(Order::fill(gva, 8, 1)) {
            expect_status(
                rig.dma().run(&order.at(space.pasid))?,
                status::NO_ACCESS,
                &format!("{way} at {gva:#x}"),
            );
        }
    }
    Ok(())
}

/// Runs `order`, expects it to be stopped, and that nothing of guest memory and of the
/// canaries beside it changed.
fn stopped_without_a_trace(rig: &Rig, space: &Space, order: Order, what: &str) -> Outcome {
    let guest = rig.mem.snapshot()?;
    let canary = host_iommu_tests::rig::Canary::new()?;
    for (way, order) in both_ways(order) {
        expect_status(
            rig.dma().run(&order.at(space.pasid))?,
            status::NO_ACCESS,
            &format!("{what}, {way}"),
        );
    }
    guest.expect_unchanged(&rig.mem, &rig.mem.table_pages(space.root()), what);
    canary.check(what);
    Ok(())
}

fn stage_1_leaf_outside_stage_2_is_stopped() -> Outcome {
    let (rig, space) = bench()?;
    let end = rig.mem.base() + rig.mem.size();
    let targets = [OUTSIDE, 0, PAGE, end, rig.mem.base() - PAGE, 0xfee0_0000];
    for (index, target) in targets.into_iter().enumerate() {
        let gva = GVA + index as u64 * PAGE;
        // The device sets A in the entry; that is no trace of the DMA.
        space.map(&rig, gva, target, entry::RW)?;
        stopped_without_a_trace(
            &rig,
            &space,
            Order::fill(gva, 8, u64::MAX),
            &format!("leaf to {target:#x}"),
        )?;
    }
    Ok(())
}

fn stage_1_table_outside_stage_2_is_stopped() -> Outcome {
    for level in [2, 3, 4] {
        let (rig, space) = bench()?;
        space.new_page(&rig, GVA)?;
        let upper = space.entry_address(&rig, GVA, level)?;
        rig.mem
            .write_u64(upper, OUTSIDE | entry::RW | entry::ACCESSED);
        stopped_without_a_trace(
            &rig,
            &space,
            Order::fill(GVA, 8, u64::MAX),
            &format!("table of level {level} at {OUTSIDE:#x}"),
        )?;
    }
    Ok(())
}

fn stage_1_root_outside_stage_2_is_stopped() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?.with_root(OUTSIDE);
    space.bind(&rig)?;
    stopped_without_a_trace(&rig, &space, Order::fill(GVA, 8, 1), "root")
}

fn large_page_over_the_end_of_stage_2_is_stopped_behind_it() -> Outcome {
    let (rig, space) = bench()?;
    // Two mebibytes that start in guest memory's last page's frame and go on behind it.
    let end = rig.mem.base() + rig.mem.size();
    let frame = (end - PAGE) & !((2 << 20) - 1);
    let hole = frame + (2 << 20);
    let gva = 0x8000_0000;
    space.map_2m(&rig, gva, frame, entry::RW)?;
    space.map_2m(&rig, gva + (2 << 20), hole, entry::RW)?;
    let inside = Order::checksum(gva, 64).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&inside)?, status::OK, "inside");
    stopped_without_a_trace(&rig, &space, Order::fill(gva + (2 << 20), 8, 1), "behind")
}

fn stage_2_unmapped_under_a_binding_stops_dma() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    for (way, order) in both_ways(Order::fill(GVA, 8, 1)) {
        expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, way);
    }
    rig.mem.write_u64(page, 5);

    rig.unmap_memory()?;
    for (way, order) in both_ways(Order::fill(GVA, 8, 1)) {
        expect_status(
            rig.dma().run(&order.at(space.pasid))?,
            status::NO_ACCESS,
            way,
        );
    }
    assert_eq!(rig.mem.read_u64(page), 5, "written after UNMAP_DMA");

    rig.map_memory()?;
    for (way, order) in both_ways(Order::fill(GVA, 8, 9)) {
        expect_status(rig.dma().run(&order.at(space.pasid))?, status::OK, way);
    }
    assert_eq!(rig.mem.read_u64(page), 9, "mapped again");
    Ok(())
}

fn unbind_stops_dma_at_the_pasid() -> Outcome {
    let (rig, space) = bench()?;
    let page = space.new_page(&rig, GVA)?;
    let order = Order::fill(GVA, 8, 1).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "bound");
    rig.mem.write_u64(page, 5);

    rig.container
        .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), space.pasid)?;

    for (way, order) in both_ways(Order::fill(GVA, 8, 1)) {
        let done = rig.dma().run(&order.at(space.pasid))?;
        assert_ne!(done.status, status::OK, "{way}: DMA after UNBIND");
    }
    assert_eq!(rig.mem.read_u64(page), 5, "written after UNBIND");
    Ok(())
}

program![
    fill_reaches_the_page_behind_both_stages,
    fill_of_part_of_a_page_leaves_the_rest,
    read_gives_the_bytes_of_guest_memory,
    write_puts_the_buffer_into_guest_memory,
    copy_moves_between_two_pages,
    copy_across_pages_that_are_scattered_keeps_the_order,
    checksum_is_that_of_guest_memory,
    fetch_add_returns_the_old_value_and_stores_the_sum,
    many_orders_in_flight_all_arrive,
    completion_record_by_pasid_goes_through_both_stages,
    page_of_2_mebibytes_reaches_every_4_kibibytes_of_it,
    page_of_1_gibibyte_is_cut_to_what_stage_2_maps,
    accessed_and_dirty_are_set_by_what_the_device_does,
    hole_in_stage_1_is_no_access,
    read_only_page_can_be_read_and_not_written,
    read_only_at_an_upper_level_forbids_writes,
    supervisor_page_is_no_access_for_a_user_request,
    reserved_bit_in_an_entry_is_no_access,
    address_not_canonical_is_no_access,
    stage_1_leaf_outside_stage_2_is_stopped,
    stage_1_table_outside_stage_2_is_stopped,
    stage_1_root_outside_stage_2_is_stopped,
    large_page_over_the_end_of_stage_2_is_stopped_behind_it,
    stage_2_unmapped_under_a_binding_stops_dma,
    unbind_stops_dma_at_the_pasid,
];
