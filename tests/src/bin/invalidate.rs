// SPDX-License-Identifier: Apache-2.0 OR MIT
//! INVALIDATE: the device sees the old page before and the new one after, and every
//! entry that is refused.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bytes_of, entry, expect_errno, expect_ok, expect_status, invalidate_args, program, range,
    status, Errno, FewInvalidations, Memory, Order, Outcome, Rig, Space, Stop, INACCESSIBLE, PAGE,
};

const GVA: u64 = 0x2345_6789_a000;
const LEAF: u32 = iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF;

/// How the device reads memory.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By its device TLB.
    Ats,
    /// With untranslated requests, so that the IOTLB alone caches.
    Untranslated,
}

/// A rig whose pages hold a mark each, so that a read tells which page it hit.
struct Bench {
    rig: Rig,
    space: Space,
}

impl Bench {
    fn open() -> Result<Self, Stop> {
        let rig = Rig::nesting_device()?;
        let space = Space::new(&rig)?;
        space.bind(&rig)?;
        Ok(Self { rig, space })
    }

    /// A new page that holds `mark`.
    fn marked(&self, mark: u64) -> u64 {
        let page = self.rig.mem.alloc_page();
        self.rig.mem.write_u64(page, mark);
        page
    }

    /// What the device finds at `gva`.
    fn seen(&self, gva: u64, way: Way) -> Result<u64, Stop> {
        self.seen_by(&self.space, gva, way)
    }

    fn seen_by(&self, space: &Space, gva: u64, way: Way) -> Result<u64, Stop> {
        let order = Order::read(gva, 8, 0).no_pri().at(space.pasid);
        let order = match way {
            Way::Ats => order,
            Way::Untranslated => order.no_ats(),
        };
        self.rig.dma().write_buffer(0, &[0; 8]);
        expect_status(
            self.rig.dma().run(&order)?,
            status::OK,
            &format!("{gva:#x}"),
        );
        let bytes = self.rig.dma().read_buffer(0, 8);
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Maps `gva` to a page marked 1, has the device see it, and points the entry at a
    /// page marked 2 without an invalidation. The device must still see 1.
    fn make_stale(&self, gva: u64, way: Way) -> Outcome {
        let old = self.marked(1);
        let new = self.marked(2);
        let leaf = self.space.map(&self.rig, gva, old, entry::RW)?;
        assert_eq!(self.seen(gva, way)?, 1, "{way:?}: first sight");
        self.rig.mem.write_u64(leaf, new | entry::RW);
        assert_eq!(self.seen(gva, way)?, 1, "{way:?}: cached");
        Ok(())
    }

    fn invalidate(&self, entries: &[iommu_hwpt_vtd_s1_invalidate]) -> Outcome {
        let done = self.rig.container.invalidate(
            VFIO_IOASID_SCOPE_BINDING,
            self.rig.id(),
            self.space.pasid,
            entries,
        );
        expect_ok(done.result, "INVALIDATE");
        assert_eq!(done.done as usize, entries.len(), "entries done");
        assert_eq!(done.bad_index as usize, entries.len(), "no bad entry");
        Ok(())
    }
}

fn changed_entry_is_stale_before_and_new_after(way: Way) -> Outcome {
    let bench = Bench::open()?;
    bench.make_stale(GVA, way)?;
    bench.invalidate(&[range(GVA, 1)])?;
    assert_eq!(bench.seen(GVA, way)?, 2, "{way:?}: after INVALIDATE");
    Ok(())
}

fn page_in_the_device_tlb_is_stale_before_and_new_after() -> Outcome {
    changed_entry_is_stale_before_and_new_after(Way::Ats)
}

fn page_in_the_iotlb_is_stale_before_and_new_after() -> Outcome {
    changed_entry_is_stale_before_and_new_after(Way::Untranslated)
}

fn driver_that_does_few_entries_a_call_does_all_in_the_end() -> Outcome {
    let bench = Bench::open()?;
    let pages: Vec<u64> = (0..10).map(|page| GVA + page * PAGE).collect();
    for page in &pages {
        bench.make_stale(*page, Way::Ats)?;
    }
    let few = FewInvalidations::of(3)?;
    let entries: Vec<_> = pages.iter().map(|page| range(*page, 1)).collect();
    bench.invalidate(&entries)?;
    assert_eq!(few.calls()?, 4, "calls of the driver");
    for page in &pages {
        assert_eq!(bench.seen(*page, Way::Ats)?, 2, "{page:#x}");
    }
    Ok(())
}

fn driver_that_does_nothing_is_an_error() -> Outcome {
    let bench = Bench::open()?;
    bench.make_stale(GVA, Way::Ats)?;
    let _few = FewInvalidations::of(0)?;
    let done = bench.rig.container.invalidate(
        VFIO_IOASID_SCOPE_BINDING,
        bench.rig.id(),
        bench.space.pasid,
        &[range(GVA, 1)],
    );
    expect_errno(done.result, Errno::EIO, "INVALIDATE");
    assert_eq!((done.done, done.bad_index), (0, 0));
    Ok(())
}

fn leaf_flag_is_enough_for_a_changed_leaf() -> Outcome {
    let bench = Bench::open()?;
    bench.make_stale(GVA, Way::Ats)?;
    bench.invalidate(&[iommu_hwpt_vtd_s1_invalidate {
        flags: LEAF,
        ..range(GVA, 1)
    }])?;
    assert_eq!(bench.seen(GVA, Way::Ats)?, 2);
    Ok(())
}

fn whole_address_space_in_one_entry_drops_every_page() -> Outcome {
    let bench = Bench::open()?;
    let far = [GVA, 0x1000, 0x7fff_ffff_e000];
    for gva in far {
        bench.make_stale(gva, Way::Ats)?;
    }
    bench.invalidate(&[range(0, u64::MAX)])?;
    for gva in far {
        assert_eq!(bench.seen(gva, Way::Ats)?, 2, "{gva:#x}");
    }
    Ok(())
}

fn range_of_many_pages_drops_all_of_them() -> Outcome {
    for (start, pages) in [(0u64, 3u64), (1, 5), (7, 9), (0, 16)] {
        let bench = Bench::open()?;
        for index in 0..pages {
            bench.make_stale(GVA + (start + index) * PAGE, Way::Ats)?;
        }
        bench.invalidate(&[range(GVA + start * PAGE, pages)])?;
        for index in 0..pages {
            let gva = GVA + (start + index) * PAGE;
            assert_eq!(bench.seen(gva, Way::Ats)?, 2, "page {index} of {pages}");
        }
    }
    Ok(())
}

fn large_ranges_drop_what_is_inside() -> Outcome {
    // The driver grows a range to a power of two; 2^19 pages and more have tripped
    // emulated hardware before.
    for pages in [1 << 9, 1 << 18, 1 << 19, 1 << 20, 1 << 27] {
        let bench = Bench::open()?;
        bench.make_stale(0x10_0000_0000, Way::Untranslated)?;
        bench.make_stale(0x10_0000_0000 + (pages - 1) * PAGE, Way::Untranslated)?;
        bench.invalidate(&[range(0x10_0000_0000, pages)])?;
        for offset in [0, pages - 1] {
            let gva = 0x10_0000_0000 + offset * PAGE;
            assert_eq!(bench.seen(gva, Way::Untranslated)?, 2, "{pages} pages");
        }
    }
    Ok(())
}

fn changed_upper_entry_is_new_after() -> Outcome {
    let bench = Bench::open()?;
    bench.make_stale(GVA, Way::Ats)?;
    // Another table in place of the one that holds GVA's leaf.
    let third = bench.marked(3);
    let table = bench.rig.mem.alloc_page();
    bench
        .rig
        .mem
        .write_u64(table + ((GVA >> 12) & 0x1ff) * 8, third | entry::RW);
    let directory = bench.space.entry_address(&bench.rig, GVA, 2)?;
    bench.rig.mem.write_u64(directory, table | entry::RW);

    bench.invalidate(&[range(GVA, 1)])?;

    assert_eq!(bench.seen(GVA, Way::Ats)?, 3);
    Ok(())
}

fn removed_entry_is_no_access_after() -> Outcome {
    let bench = Bench::open()?;
    let page = bench.marked(1);
    let leaf = bench.space.map(&bench.rig, GVA, page, entry::RW)?;
    assert_eq!(bench.seen(GVA, Way::Ats)?, 1);
    bench.rig.mem.write_u64(leaf, 0);
    bench.invalidate(&[range(GVA, 1)])?;
    let order = Order::fill(GVA, 8, 9).no_pri().at(bench.space.pasid);
    expect_status(bench.rig.dma().run(&order)?, status::NO_ACCESS, "removed");
    assert_eq!(bench.rig.mem.read_u64(page), 1);
    Ok(())
}

fn permission_taken_away_is_obeyed_after() -> Outcome {
    let bench = Bench::open()?;
    let page = bench.marked(1);
    let leaf = bench.space.map(&bench.rig, GVA, page, entry::RW)?;
    let write = Order::fill(GVA, 8, 4).no_pri().at(bench.space.pasid);
    expect_status(bench.rig.dma().run(&write)?, status::OK, "writable");
    bench.rig.mem.write_u64(leaf, page | entry::R);
    bench.invalidate(&[range(GVA, 1)])?;
    bench.rig.mem.write_u64(page, 1);
    expect_status(bench.rig.dma().run(&write)?, status::NO_ACCESS, "read-only");
    assert_eq!(bench.rig.mem.read_u64(page), 1);
    Ok(())
}

fn large_page_cut_into_small_ones_is_new_after() -> Outcome {
    let bench = Bench::open()?;
    let gva = 0x6000_0000;
    let start = bench.rig.mem.alloc_aligned(2 << 20);
    bench.rig.mem.write_u64(start, 1);
    bench.rig.mem.write_u64(start + 5 * PAGE, 1);
    let directory = bench.space.map_2m(&bench.rig, gva, start, entry::RW)?;
    for way in [Way::Ats, Way::Untranslated] {
        assert_eq!(bench.seen(gva, way)?, 1);
        assert_eq!(bench.seen(gva + 5 * PAGE, way)?, 1);
    }
    let second = bench.marked(2);
    let table = bench.rig.mem.alloc_page();
    for index in [0, 5] {
        bench
            .rig
            .mem
            .write_u64(table + index * 8, second | entry::RW);
    }
    bench.rig.mem.write_u64(directory, table | entry::RW);

    bench.invalidate(&[range(gva, 512)])?;

    for way in [Way::Ats, Way::Untranslated] {
        assert_eq!(bench.seen(gva, way)?, 2);
        assert_eq!(bench.seen(gva + 5 * PAGE, way)?, 2);
    }
    Ok(())
}

fn several_entries_are_all_carried_out() -> Outcome {
    let bench = Bench::open()?;
    let gvas: Vec<u64> = (0..20).map(|index| GVA + index * 3 * PAGE).collect();
    for gva in &gvas {
        bench.make_stale(*gva, Way::Ats)?;
    }
    let entries: Vec<_> = gvas.iter().map(|gva| range(*gva, 1)).collect();
    bench.invalidate(&entries)?;
    for gva in &gvas {
        assert_eq!(bench.seen(*gva, Way::Ats)?, 2, "{gva:#x}");
    }
    Ok(())
}

fn entries_are_counted() -> Outcome {
    let bench = Bench::open()?;
    let before = bench.rig.container.stats()?.invalidations;
    bench.invalidate(&[range(GVA, 1), range(0, 1), range(0, u64::MAX)])?;
    assert_eq!(bench.rig.container.stats()?.invalidations, before + 3);
    Ok(())
}

fn the_most_entries_are_all_done() -> Outcome {
    let bench = Bench::open()?;
    bench.make_stale(GVA, Way::Ats)?;
    let mut entries = vec![range(0x1000, 1); VFIO_IOASID_INVALIDATE_MAX as usize];
    if let Some(last) = entries.last_mut() {
        *last = range(GVA, 1);
    }
    bench.invalidate(&entries)?;
    assert_eq!(bench.seen(GVA, Way::Ats)?, 2, "the last entry's page");
    Ok(())
}

fn one_entry_too_many_returns_einval_and_does_none() -> Outcome {
    let bench = Bench::open()?;
    bench.make_stale(GVA, Way::Ats)?;
    let entries = vec![range(GVA, 1); VFIO_IOASID_INVALIDATE_MAX as usize + 1];
    let done = bench.rig.container.invalidate(
        VFIO_IOASID_SCOPE_BINDING,
        bench.rig.id(),
        bench.space.pasid,
        &entries,
    );
    expect_errno(done.result, Errno::EINVAL, "65,537 entries");
    assert_eq!(done.done, 0);
    assert_eq!(bench.seen(GVA, Way::Ats)?, 1, "nothing was dropped");
    Ok(())
}

fn bad_entry_ends_the_call_at_its_index() -> Outcome {
    let bad = [
        ("npages 0", range(GVA, 0)),
        ("unaligned", range(GVA + 1, 1)),
        ("half a page off", range(GVA + 2048, 1)),
        ("all pages of a start", range(GVA, u64::MAX)),
        ("wraps around", range(u64::MAX - PAGE + 1, 2)),
        ("more bytes than 2^64", range(GVA, 1 << 53)),
        ("2^52 pages and one", range(0, (1 << 52) + 1)),
        (
            "unknown flag",
            iommu_hwpt_vtd_s1_invalidate {
                flags: 2,
                ..range(GVA, 1)
            },
        ),
        (
            "padding",
            iommu_hwpt_vtd_s1_invalidate {
                __reserved: 1,
                ..range(GVA, 1)
            },
        ),
    ];
    let bench = Bench::open()?;
    for (what, bad) in bad {
        let (first, third) = (GVA + 16 * PAGE, GVA + 32 * PAGE);
        bench.make_stale(first, Way::Ats)?;
        bench.make_stale(third, Way::Ats)?;
        let done = bench.rig.container.invalidate(
            VFIO_IOASID_SCOPE_BINDING,
            bench.rig.id(),
            bench.space.pasid,
            &[range(first, 1), bad, range(third, 1)],
        );
        expect_errno(done.result, Errno::EINVAL, what);
        assert_eq!(
            (done.done, done.bad_index),
            (1, 1),
            "{what}: done, bad index"
        );
        assert_eq!(
            bench.seen(first, Way::Ats)?,
            2,
            "{what}: before the bad one"
        );
        assert_eq!(
            bench.seen(third, Way::Ats)?,
            1,
            "{what}: behind the bad one"
        );
        bench.invalidate(&[range(0, u64::MAX)])?;
    }
    Ok(())
}

fn bad_first_entry_does_nothing() -> Outcome {
    let bench = Bench::open()?;
    let done = bench.rig.container.invalidate(
        VFIO_IOASID_SCOPE_BINDING,
        bench.rig.id(),
        bench.space.pasid,
        &[range(GVA, 0)],
    );
    expect_errno(done.result, Errno::EINVAL, "npages 0");
    assert_eq!((done.done, done.bad_index), (0, 0));
    Ok(())
}

/// Makes the call with `change` made to good arguments for one entry.
fn call_fails(
    bench: &Bench,
    errno: Errno,
    what: &str,
    change: impl FnOnce(&mut vfio_ioasid_invalidate),
) -> Outcome {
    let entries = bytes_of(&range(GVA, 1));
    let mut call = invalidate_args(
        VFIO_IOASID_SCOPE_BINDING,
        bench.rig.id(),
        bench.space.pasid,
        &entries,
        1,
    );
    change(&mut call);
    expect_errno(bench.rig.container.invalidate_raw(&mut call), errno, what);
    Ok(())
}

fn bad_arguments_return_their_errno() -> Outcome {
    let bench = Bench::open()?;
    for data_type in [1, 2, 99, u32::MAX] {
        call_fails(
            &bench,
            Errno::EOPNOTSUPP,
            &format!("data type {data_type}"),
            |call| call.data_type = data_type,
        )?;
    }
    for length in [0, 1, 16, 23, 25, 32, u32::MAX] {
        call_fails(
            &bench,
            Errno::EINVAL,
            &format!("entry of {length} bytes"),
            |call| call.entry_len = length,
        )?;
    }
    call_fails(&bench, Errno::ENOENT, "another PASID", |call| {
        call.pasid += 1
    })?;
    call_fails(&bench, Errno::ENOENT, "PASID 0", |call| call.pasid = 0)?;
    call_fails(&bench, Errno::ENOENT, "PASID of 32 bits", |call| {
        call.pasid = u32::MAX;
    })?;
    call_fails(&bench, Errno::ENOENT, "device 31.7", |call| {
        call.device.devfn = 0xff;
    })?;
    call_fails(&bench, Errno::EFAULT, "entries inaccessible", |call| {
        call.entries_uptr = INACCESSIBLE;
    })?;
    for scope in [0, 3, 5, 6, 7] {
        call_fails(&bench, Errno::EINVAL, &format!("scope {scope}"), |call| {
            call.flags = scope;
        })?;
    }
    Ok(())
}

fn after_unbind_returns_enoent() -> Outcome {
    let bench = Bench::open()?;
    bench.space.unbind(&bench.rig)?;
    call_fails(&bench, Errno::ENOENT, "unbound", |_| ())
}

fn array_that_ends_in_an_unmapped_page_does_what_is_there() -> Outcome {
    let bench = Bench::open()?;
    bench.make_stale(GVA, Way::Ats)?;
    // Memory that ends after two pages: the last whole entry lies before the edge.
    let memory = Memory::new(2 * PAGE)?;
    memory.truncate(PAGE)?;
    let whole = PAGE / 24;
    for index in 0..whole {
        memory.write(memory.base() + index * 24, &bytes_of(&range(GVA, 1)));
    }
    let mut call = invalidate_args(
        VFIO_IOASID_SCOPE_BINDING,
        bench.rig.id(),
        bench.space.pasid,
        &bytes_of(&range(GVA, 1)),
        whole as u32 + 1,
    );
    call.entries_uptr = memory.address();
    expect_errno(
        bench.rig.container.invalidate_raw(&mut call),
        Errno::EFAULT,
        "one entry over the edge",
    );
    assert!(call.entry_num <= whole as u32, "{} done", call.entry_num);
    assert_eq!(
        call.bad_index, call.entry_num,
        "the first that was not done"
    );
    Ok(())
}

fn no_entries_are_done_at_once() -> Outcome {
    let bench = Bench::open()?;
    for scope in [
        VFIO_IOASID_SCOPE_BINDING,
        VFIO_IOASID_SCOPE_DEVICE,
        VFIO_IOASID_SCOPE_CONTAINER,
    ] {
        bench.make_stale(GVA, Way::Ats)?;
        let done = bench
            .rig
            .container
            .invalidate(scope, bench.rig.id(), bench.space.pasid, &[]);
        expect_ok(done.result, "INVALIDATE");
        assert_eq!((done.done, done.bad_index), (0, 0), "scope {scope}");
        assert_eq!(bench.seen(GVA, Way::Ats)?, 1, "scope {scope}: not dropped");
        bench.invalidate(&[range(0, u64::MAX)])?;
    }
    Ok(())
}

fn bad_entry_ends_a_wide_call_at_its_index() -> Outcome {
    let bench = Bench::open()?;
    for scope in [VFIO_IOASID_SCOPE_DEVICE, VFIO_IOASID_SCOPE_CONTAINER] {
        let next = GVA + PAGE;
        bench.make_stale(GVA, Way::Ats)?;
        bench.make_stale(next + 64 * PAGE, Way::Ats)?;
        let done = bench.rig.container.invalidate(
            scope,
            bench.rig.id(),
            0,
            &[range(GVA, 1), range(GVA, 0), range(next + 64 * PAGE, 1)],
        );
        expect_errno(done.result, Errno::EINVAL, "npages 0");
        assert_eq!((done.done, done.bad_index), (1, 1), "scope {scope}");
        assert_eq!(bench.seen(GVA, Way::Ats)?, 2, "scope {scope}: before");
        assert_eq!(
            bench.seen(next + 64 * PAGE, Way::Ats)?,
            1,
            "scope {scope}: behind"
        );
        bench.invalidate(&[range(0, u64::MAX)])?;
    }
    Ok(())
}

fn wide_scope_drops_every_binding(scope: u32) -> Outcome {
    let bench = Bench::open()?;
    let other = Space::new(&bench.rig)?;
    other.bind(&bench.rig)?;
    let (old, new) = (bench.marked(1), bench.marked(2));
    let mut leaves = Vec::new();
    for space in [&bench.space, &other] {
        leaves.push(space.map(&bench.rig, GVA, old, entry::RW)?);
        assert_eq!(bench.seen_by(space, GVA, Way::Ats)?, 1);
    }
    for leaf in leaves {
        bench.rig.mem.write_u64(leaf, new | entry::RW);
    }
    for space in [&bench.space, &other] {
        assert_eq!(bench.seen_by(space, GVA, Way::Ats)?, 1, "stale");
    }

    let done = bench
        .rig
        .container
        .invalidate(scope, bench.rig.id(), 0, &[range(GVA, 1)]);
    expect_ok(done.result, "INVALIDATE");

    for space in [&bench.space, &other] {
        assert_eq!(bench.seen_by(space, GVA, Way::Ats)?, 2, "new");
    }
    Ok(())
}

fn scope_of_the_device_drops_every_binding_of_it() -> Outcome {
    wide_scope_drops_every_binding(VFIO_IOASID_SCOPE_DEVICE)
}

fn scope_of_the_container_drops_every_binding() -> Outcome {
    wide_scope_drops_every_binding(VFIO_IOASID_SCOPE_CONTAINER)
}

fn scope_of_an_unknown_device_returns_enoent() -> Outcome {
    let bench = Bench::open()?;
    let mut device = bench.rig.id();
    device.devfn = 0xff;
    let done =
        bench
            .rig
            .container
            .invalidate(VFIO_IOASID_SCOPE_DEVICE, device, 0, &[range(GVA, 1)]);
    expect_errno(done.result, Errno::ENOENT, "device 31.7");
    Ok(())
}

fn one_binding_invalidated_leaves_the_other_correct() -> Outcome {
    let bench = Bench::open()?;
    let other = Space::new(&bench.rig)?;
    other.bind(&bench.rig)?;
    let theirs = bench.marked(7);
    other.map(&bench.rig, GVA, theirs, entry::RW)?;
    assert_eq!(bench.seen_by(&other, GVA, Way::Ats)?, 7);
    bench.make_stale(GVA, Way::Ats)?;
    bench.invalidate(&[range(GVA, 1)])?;
    assert_eq!(bench.seen(GVA, Way::Ats)?, 2);
    assert_eq!(bench.seen_by(&other, GVA, Way::Ats)?, 7);
    Ok(())
}

fn rebinding_a_pasid_never_shows_the_old_table() -> Outcome {
    let bench = Bench::open()?;
    let old = bench.marked(1);
    bench.space.map(&bench.rig, GVA, old, entry::RW)?;
    for way in [Way::Ats, Way::Untranslated] {
        assert_eq!(bench.seen(GVA, way)?, 1);
    }
    bench.space.unbind(&bench.rig)?;
    let second = Space::at(&bench.rig, bench.space.pasid)?;
    let new = bench.marked(2);
    second.map(&bench.rig, GVA, new, entry::RW)?;
    second.bind(&bench.rig)?;
    for way in [Way::Ats, Way::Untranslated] {
        assert_eq!(bench.seen(GVA, way)?, 2, "{way:?}");
    }
    Ok(())
}

program![
    page_in_the_device_tlb_is_stale_before_and_new_after,
    page_in_the_iotlb_is_stale_before_and_new_after,
    driver_that_does_few_entries_a_call_does_all_in_the_end,
    driver_that_does_nothing_is_an_error,
    leaf_flag_is_enough_for_a_changed_leaf,
    whole_address_space_in_one_entry_drops_every_page,
    range_of_many_pages_drops_all_of_them,
    large_ranges_drop_what_is_inside,
    changed_upper_entry_is_new_after,
    removed_entry_is_no_access_after,
    permission_taken_away_is_obeyed_after,
    large_page_cut_into_small_ones_is_new_after,
    several_entries_are_all_carried_out,
    entries_are_counted,
    the_most_entries_are_all_done,
    one_entry_too_many_returns_einval_and_does_none,
    bad_entry_ends_the_call_at_its_index,
    bad_first_entry_does_nothing,
    bad_arguments_return_their_errno,
    after_unbind_returns_enoent,
    array_that_ends_in_an_unmapped_page_does_what_is_there,
    no_entries_are_done_at_once,
    bad_entry_ends_a_wide_call_at_its_index,
    scope_of_the_device_drops_every_binding_of_it,
    scope_of_the_container_drops_every_binding,
    scope_of_an_unknown_device_returns_enoent,
    one_binding_invalidated_leaves_the_other_correct,
    rebinding_a_pasid_never_shows_the_old_table,
];
