// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA without PASID: the container's own mappings are all that the device reaches.

use host_iommu_tests::rig::{
    expect_ok, expect_status, fnv1a, program, status, Canary, Memory, Order, Outcome, Rig, PAGE,
    PAGE_LEN,
};

const ELSEWHERE: u64 = 0x5_0000_0000;

fn both_ways(order: Order) -> [(&'static str, Order); 2] {
    [
        ("ATS", order.no_pri()),
        ("untranslated", order.no_pri().no_ats()),
    ]
}

fn write_and_read_by_gpa_succeed() -> Outcome {
    let rig = Rig::open_device()?;
    let page = rig.mem.alloc_page();
    for (way, order) in both_ways(Order::fill(page, PAGE_LEN, 0xabcd)) {
        rig.mem.fill(page, PAGE, 0);
        expect_status(rig.dma().run(&order)?, status::OK, way);
        assert_eq!(rig.mem.read_u64(page + 2048), 0xabcd, "{way}");
    }
    for (way, order) in both_ways(Order::checksum(page, PAGE_LEN)) {
        let done = rig.dma().run(&order)?;
        expect_status(done, status::OK, way);
        assert_eq!(done.result, fnv1a(&rig.mem.read(page, PAGE)), "{way}");
    }
    Ok(())
}

fn copy_over_a_mebibyte_keeps_every_byte() -> Outcome {
    let rig = Rig::open_device()?;
    let from = rig.mem.alloc_aligned(1 << 20);
    let to = rig.mem.alloc_aligned(1 << 20);
    let pattern: Vec<u8> = (0..1u32 << 20).map(|n| (n ^ (n >> 9)) as u8).collect();
    rig.mem.write(from, &pattern);
    let order = Order::copy(from, to, 1 << 20).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "copy");
    assert!(rig.mem.read(to, 1 << 20) == pattern, "a byte differs");
    Ok(())
}

fn address_not_mapped_is_stopped() -> Outcome {
    let rig = Rig::open_device()?;
    let canary = Canary::new()?;
    let end = rig.mem.base() + rig.mem.size();
    let outside = [
        0,
        PAGE,
        rig.mem.base() - PAGE,
        end,
        ELSEWHERE,
        1 << 46,
        // The process's own address of the canary is no IOVA.
        canary.address(),
    ];
    let guest = rig.mem.snapshot()?;
    for iova in outside {
        for (way, order) in both_ways(Order::fill(iova, 8, u64::MAX)) {
            expect_status(
                rig.dma().run(&order)?,
                status::NO_ACCESS,
                &format!("{way} at {iova:#x}"),
            );
        }
    }
    guest.expect_unchanged(&rig.mem, &Default::default(), "guest memory");
    canary.check("canary");
    Ok(())
}

fn copy_over_the_end_of_a_mapping_stops_there() -> Outcome {
    let rig = Rig::open_device()?;
    let end = rig.mem.base() + rig.mem.size();
    let order = Order::fill(end - PAGE, 2 * PAGE_LEN, 3).no_pri();
    let done = rig.dma().run(&order)?;
    expect_status(done, status::NO_ACCESS, "over the end");
    assert_eq!(done.result, end, "where");
    Ok(())
}

fn unmap_stops_dma_and_map_lets_it_go_on() -> Outcome {
    let rig = Rig::open_device()?;
    let memory = Memory::new(64 * PAGE)?;
    for _ in 0..3 {
        expect_ok(rig.container.map(&memory, ELSEWHERE), "map");
        for (way, order) in both_ways(Order::fill(ELSEWHERE + PAGE, 8, 1)) {
            expect_status(rig.dma().run(&order)?, status::OK, way);
        }
        assert_eq!(memory.read_u64(memory.base() + PAGE), 1);
        memory.write_u64(memory.base() + PAGE, 2);

        let unmapped = rig.container.unmap(ELSEWHERE, memory.size())?;
        assert_eq!(unmapped, memory.size());
        for (way, order) in both_ways(Order::fill(ELSEWHERE + PAGE, 8, 1)) {
            expect_status(rig.dma().run(&order)?, status::NO_ACCESS, way);
        }
        assert_eq!(memory.read_u64(memory.base() + PAGE), 2, "after UNMAP_DMA");
    }
    Ok(())
}

fn same_iova_mapped_to_other_memory_reaches_the_other() -> Outcome {
    let rig = Rig::open_device()?;
    let (first, second) = (Memory::new(PAGE)?, Memory::new(PAGE)?);
    rig.container.map(&first, ELSEWHERE)?;
    let order = Order::fill(ELSEWHERE, 8, 0x11).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "first");
    rig.container.unmap(ELSEWHERE, PAGE)?;
    rig.container.map(&second, ELSEWHERE)?;
    let order = Order::fill(ELSEWHERE, 8, 0x22).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "second");
    assert_eq!(first.read_u64(first.base()), 0x11);
    assert_eq!(second.read_u64(second.base()), 0x22);
    Ok(())
}

fn two_iovas_of_the_same_memory_reach_it_both() -> Outcome {
    let rig = Rig::open_device()?;
    let memory = Memory::new(PAGE)?;
    rig.container.map(&memory, ELSEWHERE)?;
    rig.container.map(&memory, ELSEWHERE + (1 << 30))?;
    expect_status(
        rig.dma().run(&Order::fill(ELSEWHERE, 8, 40).no_pri())?,
        status::OK,
        "one",
    );
    let done = rig
        .dma()
        .run(&Order::fetch_add(ELSEWHERE + (1 << 30), 2).no_pri())?;
    expect_status(done, status::OK, "the other");
    assert_eq!(done.result, 40);
    rig.container.unmap(ELSEWHERE, PAGE)?;
    let done = rig
        .dma()
        .run(&Order::fetch_add(ELSEWHERE + (1 << 30), 2).no_pri())?;
    expect_status(done, status::OK, "still mapped there");
    assert_eq!(memory.read_u64(memory.base()), 44);
    Ok(())
}

fn memory_stays_pinned_when_the_process_unmaps_it() -> Outcome {
    let rig = Rig::open_device()?;
    let memory = Memory::new(4 * PAGE)?;
    rig.container.map(&memory, ELSEWHERE)?;
    let file = memory.into_file()?;
    // The mapping is gone, the file is not: what the device writes is seen in it.
    let order = Order::fill(ELSEWHERE + PAGE, 8, 0x3333).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "pinned");
    let mut bytes = [0u8; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, PAGE)?;
    assert_eq!(u64::from_le_bytes(bytes), 0x3333);
    Ok(())
}

fn detached_device_reaches_nothing_of_the_old_container() -> Outcome {
    let memory = Memory::new(PAGE)?;
    {
        let rig = Rig::open_device()?;
        rig.container.map(&memory, ELSEWHERE)?;
        let order = Order::fill(ELSEWHERE, 8, 1).no_pri();
        expect_status(rig.dma().run(&order)?, status::OK, "attached");
    }
    let rig = Rig::open_device()?;
    for (way, order) in both_ways(Order::fill(ELSEWHERE, 8, 2)) {
        expect_status(rig.dma().run(&order)?, status::NO_ACCESS, way);
    }
    assert_eq!(memory.read_u64(memory.base()), 1);
    Ok(())
}

program![
    write_and_read_by_gpa_succeed,
    copy_over_a_mebibyte_keeps_every_byte,
    address_not_mapped_is_stopped,
    copy_over_the_end_of_a_mapping_stops_there,
    unmap_stops_dma_and_map_lets_it_go_on,
    same_iova_mapped_to_other_memory_reaches_the_other,
    two_iovas_of_the_same_memory_reach_it_both,
    memory_stays_pinned_when_the_process_unmaps_it,
    detached_device_reaches_nothing_of_the_old_container,
];
