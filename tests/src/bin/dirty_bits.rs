// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DIRTY_PAGES where the kernel reads the IOMMU's dirty bits: what the device wrote is dirty, by
//! every way to memory, and nothing else is.

use host_iommu_bindings::ioctl::{VFIO_IOMMU_DIRTY_PAGES, VFIO_IOMMU_UNMAP_DMA};
use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry, bind_as_at, bind_at_rid, bind_stage2_at, endpoint, endpoint_count, expect_errno,
    expect_status, fail, program, size_u32, skip, status, Called, Container, Dma, Errno, Memory,
    Order, Outcome, Rig, Space, PAGE,
};
use std::collections::BTreeSet;

const START: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
const STOP: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
const GET: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
const UNMAP: u32 = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
const RW: u32 = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

/// Guest-virtual address of the tests' data.
const GVA: u64 = 0x7f12_3456_7000;
/// Memory is mapped by so much: never by a large entry, whose pages are dirty together.
const PIECE: u64 = 1 << 20;

type Pages = BTreeSet<u64>;

/// A rig whose memory is mapped by pieces, with dirty bits.
fn bits(rig: Rig) -> Outcome<Rig> {
    rig.unmap_memory()?;
    for offset in (0..rig.mem.size()).step_by(PIECE as usize) {
        map(&rig, &rig.mem, offset, rig.mem.base() + offset, PIECE)?;
    }
    assert_ne!(rig.caps.flags & VFIO_IOASID_NESTING_DIRTY, 0, "no bits");
    assert_eq!(rig.caps.dirty_reason, 0);
    Ok(rig)
}

fn one() -> Outcome<Rig> {
    bits(Rig::nesting_device()?)
}

fn map(rig: &Rig, memory: &Memory, offset: u64, iova: u64, size: u64) -> Called<()> {
    rig.container.map_raw(&vfio_iommu_type1_dma_map {
        argsz: size_u32::<vfio_iommu_type1_dma_map>(),
        flags: RW,
        vaddr: memory.address() + offset,
        iova,
        size,
    })
}

fn call(container: &Container, flags: u32) -> Called<()> {
    let mut bytes = [8, flags].map(u32::to_ne_bytes).concat();
    container.raw(VFIO_IOMMU_DIRTY_PAGES, &mut bytes).map(drop)
}

/// DIRTY_PAGES or UNMAP_DMA of a range with a bitmap at `data`.
fn call_into(container: &Container, get: bool, iova: u64, size: u64, data: u64) -> Called<()> {
    let (request, flags) = if get {
        (VFIO_IOMMU_DIRTY_PAGES, GET)
    } else {
        (VFIO_IOMMU_UNMAP_DMA, UNMAP)
    };
    let mut bytes = [48, flags].map(u32::to_ne_bytes).concat();
    let bitmap = (size / PAGE).div_ceil(64) * 8;
    bytes.extend(
        [iova, size, PAGE, bitmap, data]
            .map(u64::to_ne_bytes)
            .concat(),
    );
    container.raw(request, &mut bytes).map(drop)
}

/// The same with a bitmap of the test's, `at` bytes into memory of its own: the dirty pages.
fn pages_at(rig: &Rig, get: bool, iova: u64, size: u64, at: usize) -> Outcome<Pages> {
    let room = Memory::new(4 * PAGE)?;
    call_into(&rig.container, get, iova, size, room.address() + at as u64)?;
    let bytes = room.read(0, 4 * PAGE);
    let bits = |(index, byte): (usize, &u8)| {
        let byte = *byte;
        (0..8u64)
            .filter(move |bit| byte >> bit & 1 != 0)
            .map(move |bit| index as u64 * 8 + bit)
    };
    let inside = bytes.get(at..).unwrap_or_default().iter().enumerate();
    Ok(inside
        .flat_map(bits)
        .map(|page| iova + page * PAGE)
        .collect())
}

/// All dirty pages of the rig's memory, clean from then on.
fn dirty(rig: &Rig) -> Outcome<Pages> {
    pages_at(rig, true, rig.mem.base(), rig.mem.size(), 0)
}

#[track_caller]
fn expect_pages(seen: &Pages, want: impl IntoIterator<Item = u64>, what: &str) {
    let want: Pages = want.into_iter().collect();
    assert!(*seen == want, "{what}: {seen:x?} instead of {want:x?}");
}

fn run(dma: &Dma, order: &Order) -> Outcome {
    expect_status(dma.run(order)?, status::OK, "the DMA");
    Ok(())
}

fn shaped(order: Order, pasid: Option<u32>, ats: bool) -> Order {
    let order = match pasid {
        Some(pasid) => order.at(pasid),
        None => order,
    };
    if ats {
        order
    } else {
        order.no_ats()
    }
}

/// By translated and by untranslated requests: what was read is clean, what was written is dirty
/// once, and dirty again when it is written again.
fn written_pages_alone(rig: &Rig, pasid: Option<u32>) -> Outcome {
    for ats in [true, false] {
        let pages: [u64; 4] = std::array::from_fn(|_| rig.mem.alloc_page());
        let [read, filled, added, both] = pages;
        let run = |order| run(rig.dma(), &shaped(order, pasid, ats));
        call(&rig.container, START)?;
        run(Order::checksum(read, 64))?;
        run(Order::fill(filled + 0x100, 8, 1))?;
        run(Order::fetch_add(added, 1))?;
        // What the read leaves in the caches must not hide the write.
        run(Order::checksum(both, 8))?;
        run(Order::fill(both, 8, 1))?;
        expect_pages(&dirty(rig)?, [filled, added, both], "written");
        expect_pages(&dirty(rig)?, [], "nothing since");
        run(Order::fill(filled + 0x200, 8, 2))?;
        run(Order::checksum(both, 8))?;
        expect_pages(&dirty(rig)?, [filled], "written again");
        call(&rig.container, STOP)?;
    }
    Ok(())
}

fn stage_2_at_the_rid() -> Outcome {
    written_pages_alone(&one()?, None)
}

fn stage_2_at_a_pasid() -> Outcome {
    let rig = one()?;
    let pasid = rig.container.pasid_alloc_any()?;
    rig.container.bind(&bind_stage2_at(rig.id(), pasid))?;
    written_pages_alone(&rig, Some(pasid))
}

/// What a table's first use leaves in it is written too: accessed and dirty bits.
fn nested_write(rig: &Rig, space: &Space, pasid: Option<u32>, started: bool) -> Outcome {
    let data = space.new_page(rig, GVA)?;
    let other = space.new_page(rig, GVA + PAGE)?;
    if !started {
        call(&rig.container, START)?;
    }
    let write = |address| run(rig.dma(), &shaped(Order::fill(address, 8, 7), pasid, true));
    write(GVA)?;
    let tables = rig.mem.table_pages(space.root());
    assert_eq!(tables.len(), 4);
    let used = tables.iter().copied().chain([data]);
    expect_pages(&dirty(rig)?, used, "the page and its tables");
    write(GVA + 64)?;
    expect_pages(&dirty(rig)?, [data], "the page alone");
    let read = shaped(Order::checksum(GVA + PAGE, 8), pasid, true);
    run(rig.dma(), &read)?;
    let leaf = space.entry_address(rig, GVA, 1)? & !(PAGE - 1);
    expect_pages(&dirty(rig)?, [leaf], "accessed is set in the leaf's table");
    write(GVA + PAGE)?;
    expect_pages(&dirty(rig)?, [leaf, other], "dirty is set there");
    Ok(())
}

fn nested_bound_before_the_start() -> Outcome {
    let rig = one()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    nested_write(&rig, &space, Some(space.pasid), false)
}

fn nested_bound_after_the_start() -> Outcome {
    let rig = one()?;
    let space = Space::new(&rig)?;
    call(&rig.container, START)?;
    space.bind(&rig)?;
    nested_write(&rig, &space, Some(space.pasid), true)
}

fn nested_at_the_rid() -> Outcome {
    let rig = one()?;
    let space = Space::at(&rig, 0)?;
    let data = space.stage1_data();
    rig.container.bind(&bind_at_rid(rig.id(), &data))?;
    nested_write(&rig, &space, None, false)
}

/// Stage 2 comes back at the RID with dirty bits, and what the binding wrote stays dirty.
fn unbinding_at_the_rid_loses_nothing() -> Outcome {
    let rig = one()?;
    let space = Space::at(&rig, 0)?;
    let page = space.new_page(&rig, GVA)?;
    call(&rig.container, START)?;
    let data = space.stage1_data();
    rig.container.bind(&bind_at_rid(rig.id(), &data))?;
    run(rig.dma(), &Order::fill(GVA, 8, 1))?;
    rig.container.unbind(VFIO_IOASID_SCOPE_RID, rig.id(), 0)?;
    let other = rig.mem.alloc_page();
    run(rig.dma(), &Order::fill(other, 8, 1))?;
    let seen = dirty(&rig)?;
    assert!(seen.contains(&page) && seen.contains(&other), "{seen:x?}");
    Ok(())
}

fn start_cleans_and_a_second_start_does_not() -> Outcome {
    let rig = one()?;
    let page = rig.mem.alloc_page();
    let write = || run(rig.dma(), &Order::fill(page, 8, 1));
    write()?;
    call(&rig.container, START)?;
    expect_pages(&dirty(&rig)?, [], "written before");
    write()?;
    call(&rig.container, START)?;
    expect_pages(&dirty(&rig)?, [page], "written between");
    write()?;
    call(&rig.container, STOP)?;
    write()?;
    expect_errno(
        call_into(&rig.container, true, rig.mem.base(), PIECE, page),
        Errno::EINVAL,
        "stopped",
    );
    call(&rig.container, START)?;
    expect_pages(&dirty(&rig)?, [], "written before the next start");
    Ok(())
}

fn pages_of_one_mapping_are_cleaned_alone() -> Outcome {
    let rig = one()?;
    let base = rig.mem.base();
    let pages = [base + 5 * PIECE + 0x3000, base + 6 * PIECE + 0x41000];
    call(&rig.container, START)?;
    for page in pages {
        run(rig.dma(), &Order::fill(page, 8, 1))?;
    }
    let of = |piece| pages_at(&rig, true, base + piece * PIECE, PIECE, 0);
    expect_pages(&of(6)?, [pages[1]], "the one");
    expect_pages(&of(6)?, [], "the one again");
    expect_pages(&dirty(&rig)?, [pages[0]], "the other");
    Ok(())
}

/// Bitmaps where no word and no page begins, and mappings where no word of the bitmap does.
fn bitmap_at_any_address() -> Outcome {
    let rig = one()?;
    let base = rig.mem.base();
    rig.container.unmap(base + 2 * PIECE, PIECE)?;
    let size = 37 * PAGE;
    for (index, offset) in [3 * PAGE, 67 * PAGE, 131 * PAGE].into_iter().enumerate() {
        let from = index as u64 * PIECE;
        map(&rig, &rig.mem, from, base + 2 * PIECE + offset, size)?;
    }
    call(&rig.container, START)?;
    let first = base + 2 * PIECE;
    let pages = [3, 39, 67, 103, 131, 167].map(|page| first + page * PAGE);
    for at in [0, 1, 7, 4091, 4095] {
        for page in pages {
            run(rig.dma(), &Order::fill(page, 16, 1))?;
        }
        let seen = pages_at(&rig, true, first, PIECE, at)?;
        expect_pages(&seen, pages, &format!("{at} bytes in"));
    }
    Ok(())
}

fn bitmap_that_is_not_there_keeps_the_bits() -> Outcome {
    let rig = one()?;
    let page = rig.mem.alloc_page();
    call(&rig.container, START)?;
    run(rig.dma(), &Order::fill(page, 8, 1))?;
    let (base, size) = (rig.mem.base(), rig.mem.size());
    for get in [true, false] {
        let result = call_into(&rig.container, get, base, size, 4096);
        expect_errno(result, Errno::EFAULT, "no bitmap");
    }
    expect_pages(&dirty(&rig)?, [page], "still dirty");
    Ok(())
}

fn unmap_reports_what_was_written() -> Outcome {
    let rig = one()?;
    let from = rig.mem.base() + 3 * PIECE;
    let pages = [
        from,
        from + 63 * PAGE,
        from + 64 * PAGE,
        from + PIECE - PAGE,
    ];
    call(&rig.container, START)?;
    for page in pages {
        run(rig.dma(), &Order::fill(page, 8, 1))?;
    }
    let seen = pages_at(&rig, false, from, PIECE, 0)?;
    expect_pages(&seen, pages, "unmapped");
    map(&rig, &rig.mem, 3 * PIECE, from, PIECE)?;
    expect_pages(&dirty(&rig)?, [], "mapped again");
    run(rig.dma(), &Order::fill(pages[1], 8, 1))?;
    expect_pages(&dirty(&rig)?, [pages[1]], "written again");
    Ok(())
}

/// A large entry has one dirty bit.
fn large_entry_is_dirty_whole() -> Outcome {
    const M2: u64 = 2 << 20;
    const AT: u64 = 8 << 30;
    let rig = one()?;
    let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    std::fs::write(file, "2")?;
    let memory = Memory::huge(2 * M2, 21);
    std::fs::write(file, "0")?;
    let Ok(memory) = memory else {
        return skip("no two huge pages of 2 MiB");
    };
    map(&rig, &memory, 0, AT, 2 * M2)?;
    assert_eq!(rig.container.stats()?.pages_2m, 2);
    call(&rig.container, START)?;
    run(rig.dma(), &Order::fill(AT + M2 + 0x5000, 8, 1))?;
    let seen = pages_at(&rig, true, AT, 2 * M2, 0)?;
    expect_pages(&seen, (0..512).map(|page| AT + M2 + page * PAGE), "2 MiB");
    expect_pages(&pages_at(&rig, true, AT, 2 * M2, 0)?, [], "clean again");
    Ok(())
}

/// Tables of address spaces have no dirty bits: what an entry lets DMA write counts as dirty for
/// as long as it is there, and once more.
fn writable_entries_of_address_spaces_are_dirty() -> Outcome {
    const AT: u64 = 0x40_0000;
    let rig = one()?;
    let base = rig.mem.base();
    // Two pages on each side of where one mapping ends and the next begins; none is a word's first.
    let edge = base + 4 * PIECE;
    let writable: Pages = (0..4).map(|page| edge - 2 * PAGE + page * PAGE).collect();
    let read_only = base + 5 * PIECE;
    let id = rig.container.as_create()?;
    let pasid = rig.container.pasid_alloc_any()?;
    let (read, write) = (VFIO_IOASID_AS_READ, VFIO_IOASID_AS_WRITE);
    let entries = [
        as_entry(AT, edge - 2 * PAGE, 4 * PAGE, read | write),
        as_entry(AT + 4 * PAGE, read_only, PAGE, read),
    ];
    assert_eq!(rig.container.as_map(id, &entries).0, Ok(()));
    rig.container.bind(&bind_as_at(rig.id(), pasid, id))?;
    call(&rig.container, START)?;
    let order = Order::fill(AT + PAGE, 2 * PAGE as u32, 3)
        .at(pasid)
        .no_pri();
    run(rig.dma(), &order)?;
    expect_pages(&dirty(&rig)?, writable.clone(), "entries");
    let other = rig.mem.alloc_page();
    run(rig.dma(), &Order::fill(other, 8, 1))?;
    let all = writable.iter().copied().chain([other]);
    expect_pages(&dirty(&rig)?, all, "entries again, and a page of stage 2");
    run(rig.dma(), &order)?;
    assert_eq!(rig.container.as_unmap(id, AT, 5 * PAGE).0, Ok(()));
    expect_pages(&dirty(&rig)?, writable.clone(), "entries that went");
    expect_pages(&dirty(&rig)?, [], "nothing since");

    // What goes with its mapping is in that bitmap, and the rest of the entry is kept.
    assert_eq!(rig.container.as_map(id, &entries[..1]).0, Ok(()));
    let seen = pages_at(&rig, false, edge, PIECE, 0)?;
    expect_pages(&seen, [edge, edge + PAGE], "unmapped under an entry");
    map(&rig, &rig.mem, 4 * PIECE, edge, PIECE)?;
    expect_pages(&dirty(&rig)?, [edge - 2 * PAGE, edge - PAGE], "the rest");
    expect_pages(&dirty(&rig)?, [], "the rest again");

    // An address space that is destroyed is no other.
    assert_eq!(rig.container.as_map(id, &entries).0, Ok(()));
    rig.container
        .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), pasid)?;
    rig.container.as_destroy(id)?;
    expect_pages(&dirty(&rig)?, writable, "destroyed");
    expect_pages(&dirty(&rig)?, [], "destroyed before");
    Ok(())
}

fn group_that_comes_late_and_goes_early() -> Outcome {
    if endpoint_count() < 2 {
        return skip("one endpoint");
    }
    let mut rig = one()?;
    let pages = [rig.mem.alloc_page(), rig.mem.alloc_page()];
    call(&rig.container, START)?;
    rig.add_second(&endpoint(1)?)?;
    run(rig.second_dma(), &Order::fill(pages[0], 8, 1))?;
    expect_pages(&dirty(&rig)?, [pages[0]], "the second's");
    run(rig.second_dma(), &Order::fill(pages[1], 8, 1))?;
    rig.close_second();
    expect_pages(&dirty(&rig)?, [pages[1]], "the second's, which is gone");
    run(rig.dma(), &Order::fill(pages[0], 8, 1))?;
    expect_pages(&dirty(&rig)?, [pages[0]], "the first's");
    Ok(())
}

/// What a migration does: while two devices write, by stage 1 and by stage 2, pages that are
/// reported are copied. In the end the copy is the memory, the tables' own bits too.
fn copy_of_what_is_reported_is_whole() -> Outcome {
    const ROUNDS: u64 = 400;
    const DATA: u64 = 24;
    let Some(rig) = Rig::nesting_with_both_endpoints()? else {
        return skip("one endpoint");
    };
    let rig = bits(rig)?;
    let space = Space::new(&rig)?;
    for page in 0..DATA {
        space.new_page(&rig, GVA + page * PAGE)?;
    }
    space.bind(&rig)?;
    let flat: Vec<u64> = (0..DATA).map(|_| rig.mem.alloc_page()).collect();
    call(&rig.container, START)?;
    let (base, size) = (rig.mem.base(), rig.mem.size());
    let mut copy = rig.mem.read(base, size);
    let take = |copy: &mut Vec<u8>| -> Outcome<usize> {
        let pages = dirty(&rig)?;
        for &page in &pages {
            let at = (page - base) as usize;
            let Some(to) = copy.get_mut(at..at + PAGE as usize) else {
                return fail(format!("{page:#x} is no page of the memory"));
            };
            to.copy_from_slice(&rig.mem.read(page, PAGE));
        }
        Ok(pages.len())
    };
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut reported = 0;
    for round in 1..=ROUNDS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(round);
        let (one, two) = (random >> 33 & 0xfff, random >> 45 & 0xfff);
        let nested = GVA + (one % DATA) * PAGE + (one & 0x1f0) * 8;
        let linear = flat[(two % DATA) as usize] + (two & 0x1f0) * 8;
        let first = Order::fill(nested, 128, round << 32).at(space.pasid);
        let second = shaped(Order::fill(linear, 64, round), None, round % 2 == 0);
        let slots = (rig.dma().submit(&first)?, rig.second_dma().submit(&second)?);
        reported += take(&mut copy)?;
        expect_status(rig.dma().wait(slots.0)?, status::OK, "stage 1");
        expect_status(rig.second_dma().wait(slots.1)?, status::OK, "stage 2");
    }
    reported += take(&mut copy)?;
    assert!(
        (DATA as usize..=5 * ROUNDS as usize).contains(&reported),
        "{reported} pages were reported"
    );
    let now = rig.mem.read(base, size);
    let differs = copy
        .chunks(PAGE as usize)
        .zip(now.chunks(PAGE as usize))
        .position(|(copy, now)| copy != now);
    assert_eq!(differs, None, "number of a page that was not copied");
    Ok(())
}

program![
    stage_2_at_the_rid,
    stage_2_at_a_pasid,
    nested_bound_before_the_start,
    nested_bound_after_the_start,
    nested_at_the_rid,
    unbinding_at_the_rid_loses_nothing,
    start_cleans_and_a_second_start_does_not,
    pages_of_one_mapping_are_cleaned_alone,
    bitmap_at_any_address,
    bitmap_that_is_not_there_keeps_the_bits,
    unmap_reports_what_was_written,
    large_entry_is_dirty_whole,
    writable_entries_of_address_spaces_are_dirty,
    group_that_comes_late_and_goes_early,
    copy_of_what_is_reported_is_whole,
];
