// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IOMMU units that differ, with an endpoint each: a container has a stage-2 domain for each unit
//! that needs one of its own, and what one unit lacks does not stop the other.

use host_iommu_bindings::ioctl::VFIO_IOMMU_DIRTY_PAGES;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry, bind_as_at, bind_at, endpoint, entry, expect_errno, expect_status, held_bytes,
    program, range, size_u32, status, wait_until, Called, Container, Dma, Errno, FaultQueue,
    Memory, Monitor, Order, Outcome, Plugged, Rig, Space, GUEST_SIZE, PAGE,
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::BTreeSet;
use std::os::fd::AsFd;

/// The units, as their endpoints are numbered.
const NEAR: usize = 0;
/// Its second stage translates 39 bits, and it takes no page requests.
const NARROW: usize = 1;
/// It walks tables without a look into the CPU's caches.
const INCOHERENT: usize = 2;
/// It does not nest, has no dirty bits, and cannot make DMA coherent.
const FLAT: usize = 3;
const ALL: [usize; 4] = [NEAR, NARROW, INCOHERENT, FLAT];

/// Bits of CAP and ECAP (VT-d 11.4.2, 11.4.3): those of MGAW that make 48 bits of 39; snoop control,
/// nesting, page requests, second-stage accessed and dirty bits, coherent walks of tables.
const CAP_MGAW_48: u64 = 0x09 << 16;
const ECAP_SC: u64 = 1 << 7;
const ECAP_NEST: u64 = 1 << 26;
const ECAP_PRS: u64 = 1 << 29;
const ECAP_SSADS: u64 = 1 << 45;
const ECAP_SMPWC: u64 = 1 << 48;

/// What CAP and ECAP of each unit lack of what NEAR shows.
const LACKS: [(u64, u64); 4] = [
    (0, 0),
    (CAP_MGAW_48, ECAP_PRS),
    (0, ECAP_SMPWC),
    (0, ECAP_SC | ECAP_NEST | ECAP_SSADS),
];

const GVA: u64 = 0x2468_ace0_0000;
/// Above what the narrow one translates, and below it.
const HIGH: u64 = 1 << 40;
const LOW: u64 = 8 << 30;
const RW: u32 = VFIO_IOASID_AS_READ | VFIO_IOASID_AS_WRITE;

/// All orders of two units.
fn pairs() -> impl Iterator<Item = [usize; 2]> {
    ALL.into_iter()
        .flat_map(|first| ALL.map(|second| [first, second]))
        .filter(|[first, second]| first != second)
}

fn each_pair(test: impl Fn(&mut Rig, [usize; 2]) -> Outcome) -> Outcome {
    for pair in pairs() {
        println!("# units {pair:?}");
        test(&mut Rig::of_two(pair[0], pair[1])?, pair)?;
    }
    Ok(())
}

fn dmas(rig: &Rig) -> [&Dma; 2] {
    [rig.dma(), rig.second_dma()]
}

/// Whether both endpoints write at `iova` by stage 2.
fn reached(rig: &Rig, iova: u64) -> Outcome<[bool; 2]> {
    let write = |dma: &Dma| -> Outcome<bool> {
        let done = dma.run(&Order::fill(iova, 8, 1).no_pri())?;
        Ok(done.status == status::OK)
    };
    Ok([write(rig.dma())?, write(rig.second_dma())?])
}

/// MAP_DMA of all of `memory`, read-only.
fn map_read_only(container: &Container, memory: &Memory, iova: u64) -> Called<()> {
    container.map_raw(&vfio_iommu_type1_dma_map {
        argsz: size_u32::<vfio_iommu_type1_dma_map>(),
        flags: VFIO_DMA_MAP_FLAG_READ,
        vaddr: memory.address(),
        iova,
        size: memory.size(),
    })
}

/// Binds a table at a PASID of the endpoint of a number.
fn bind(rig: &Rig, index: usize, space: &Space, fault_fd: i32) -> Outcome<Called<()>> {
    let data = space.stage1_data();
    Ok(rig.container.bind(&vfio_ioasid_bind {
        fault_fd,
        ..bind_at(endpoint(index)?.id(), space.pasid, &data)
    }))
}

/// Binds a table at a PASID of two endpoints, with one fault queue.
fn bind_with_queue(rig: &Rig, pair: [usize; 2], space: &Space) -> Outcome<FaultQueue> {
    let flags = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
    let queue = rig.container.fault_queue(flags, 0)?;
    for index in pair {
        bind(rig, index, space, queue.raw_fd())??;
    }
    Ok(queue)
}

fn units_lack_what_they_should() -> Outcome {
    let registers = |index: usize| -> Outcome<(u64, u64)> {
        let found = endpoint(index)?.vtd_registers().unwrap_or_default();
        println!("# unit {index}: CAP {:#x}, ECAP {:#x}", found.0, found.1);
        Ok(found)
    };
    let near = registers(NEAR)?;
    for index in ALL {
        let (cap, ecap) = LACKS[index];
        assert_eq!((near.0 & cap, near.1 & ecap), (cap, ecap), "the first");
        let wanted = (near.0 & !cap, near.1 & !ecap);
        assert_eq!(registers(index)?, wanted, "unit {index}");
    }
    Ok(())
}

fn what_is_mapped_is_mapped_for_both() -> Outcome {
    each_pair(|rig, _| {
        // Mapped before the second came, and after.
        let late = Memory::new(16 * PAGE)?;
        rig.container.map(&late, LOW)?;
        let early = rig.mem.base() + GUEST_SIZE - PAGE;
        assert_eq!(reached(rig, early)?, [true; 2], "mapped before");
        assert_eq!(reached(rig, LOW + 15 * PAGE)?, [true; 2], "mapped after");
        rig.container.unmap(LOW, 16 * PAGE)?;
        assert_eq!(reached(rig, LOW)?, [false; 2], "unmapped");
        assert_eq!(reached(rig, early)?, [true; 2], "the rest");
        Ok(())
    })
}

fn gigabyte_is_there_for_a_unit_that_joins_and_leaves() -> Outcome {
    const GIB: u64 = 1 << 30;
    let mut rig = Rig::of_two(NEAR, INCOHERENT)?;
    rig.close_second();
    let memory = Memory::new(GIB)?;
    rig.container.map(&memory, LOW)?;
    let held = held_bytes()?;
    for index in [NARROW, INCOHERENT, FLAT, INCOHERENT] {
        rig.add_second(&endpoint(index)?)?;
        assert_eq!(held_bytes()?, held, "nothing is pinned again");
        for at in [0, PAGE, GIB / 2 - 8, (GIB / 3) & !7, GIB - 8] {
            assert_eq!(reached(&rig, LOW + at)?, [true; 2], "{at:#x}");
        }
        rig.close_second();
        assert_eq!(held_bytes()?, held, "a unit that leaves");
        let done = rig.dma().run(&Order::fill(LOW + GIB - 8, 8, 2).no_pri())?;
        expect_status(done, status::OK, "the unit that stays");
    }
    rig.container.unmap(LOW, GIB)?;
    assert_eq!(held_bytes()?, held - GIB);
    Ok(())
}

fn last_address(container: &Container) -> Outcome<u64> {
    let ranges = container.info()?.iova_ranges;
    Ok(ranges.last().map_or(0, |range| range.1))
}

fn addresses_are_those_that_both_translate() -> Outcome {
    let mut rig = Rig::of_two(NEAR, NARROW)?;
    let memory = Memory::new(4 * PAGE)?;
    let held = held_bytes()?;
    assert_eq!(last_address(&rig.container)?, (1 << 39) - 1);
    let refused = rig.container.map(&memory, HIGH);
    expect_errno(refused, Errno::EINVAL, "MAP_DMA beyond the narrow one");
    assert_eq!(held_bytes()?, held);
    let done = rig.dma().run(&Order::fill(HIGH, 8, 1).no_pri())?;
    assert_ne!(done.status, status::OK, "nothing is left in the wide one");
    rig.close_second();
    assert!(last_address(&rig.container)? >= (1 << 48) - 1);
    rig.container.map(&memory, HIGH)?;
    let joined = rig.add_second(&endpoint(NARROW)?);
    assert!(joined.is_err(), "over a mapping that it cannot have");
    let done = rig.dma().run(&Order::fill(HIGH, 8, 1).no_pri())?;
    expect_status(done, status::OK, "as before");
    rig.container.unmap(HIGH, 4 * PAGE)?;
    rig.add_second(&endpoint(NARROW)?)?;
    assert_eq!(reached(&rig, rig.mem.base())?, [true; 2]);
    Ok(())
}

/// A nest parent holds nothing that is read-only.
fn mapping_that_one_cannot_take_is_in_neither() -> Outcome {
    for pair in [[FLAT, NEAR], [NEAR, FLAT]] {
        let rig = Rig::of_two(pair[0], pair[1])?;
        let memory = Memory::new(4 * PAGE)?;
        let held = held_bytes()?;
        let refused = map_read_only(&rig.container, &memory, LOW);
        expect_errno(refused, Errno::EOPNOTSUPP, "read-only");
        assert_eq!(held_bytes()?, held);
        for dma in dmas(&rig) {
            let done = dma.run(&Order::checksum(LOW, 8).no_pri())?;
            assert_ne!(done.status, status::OK, "{pair:?}: something is left");
        }
        // The range is free.
        rig.container.map(&memory, LOW)?;
        assert_eq!(reached(&rig, LOW)?, [true; 2]);
    }
    Ok(())
}

fn unit_that_comes_over_a_read_only_mapping_does_not_nest() -> Outcome {
    let mut rig = Rig::of_two(FLAT, NARROW)?;
    rig.close_second();
    let memory = Memory::new(4 * PAGE)?;
    map_read_only(&rig.container, &memory, LOW)?;
    rig.add_second(&endpoint(NEAR)?)?;
    for dma in dmas(&rig) {
        let read = dma.run(&Order::checksum(LOW, 8).no_pri())?;
        expect_status(read, status::OK, "a read");
    }
    assert_eq!(reached(&rig, LOW)?, [false; 2], "writes");
    let space = Space::new(&rig)?;
    expect_errno(bind(&rig, NEAR, &space, -1)?, Errno::EOPNOTSUPP, "BIND");
    Ok(())
}

/// GET_INFO speaks for the container: what it promises holds for every unit.
fn report_is_true_of_all_units() -> Outcome {
    for pair in [[FLAT, NEAR], [NEAR, FLAT], [NEAR, INCOHERENT]] {
        let rig = Rig::of_two(pair[0], pair[1])?;
        let Some(caps) = rig.container.capabilities()? else {
            panic!("GET_INFO has no VFIO_IOASID_CAP_NESTING");
        };
        let memory = Memory::new(PAGE)?;
        let refused = map_read_only(&rig.container, &memory, LOW).is_err();
        let says = caps.flags & VFIO_IOASID_NESTING_NO_READONLY != 0;
        assert_eq!(says, refused, "{pair:?}: read-only mappings");
        let coherent = rig.container.check_extension(VFIO_DMA_CC_IOMMU)? != 0;
        let says = caps.flags & VFIO_IOASID_NESTING_COHERENT != 0;
        assert_eq!(says, coherent, "{pair:?}: coherence");
        assert_eq!(coherent, !pair.contains(&FLAT), "{pair:?}");
        assert_ne!(caps.flags & VFIO_IOASID_NESTING_PASID, 0, "one nests");
    }
    Ok(())
}

fn unit_that_nests_does_so_beside_one_that_does_not() -> Outcome {
    for pair in [[FLAT, NEAR], [NEAR, FLAT], [FLAT, INCOHERENT]] {
        let rig = Rig::of_two(pair[0], pair[1])?;
        let at = usize::from(pair[0] == FLAT);
        let space = Space::new(&rig)?;
        expect_errno(bind(&rig, FLAT, &space, -1)?, Errno::EOPNOTSUPP, "FLAT");
        bind(&rig, pair[at], &space, -1)??;
        let page = space.new_page(&rig, GVA)?;
        let order = Order::fill(GVA, 8, 7).no_pri().at(space.pasid);
        expect_status(dmas(&rig)[at].run(&order)?, status::OK, "nested");
        assert_eq!(rig.mem.read_u64(page), 7);
        assert_eq!(reached(&rig, page)?, [true; 2], "stage 2");
    }
    Ok(())
}

fn invalidate_of_the_container_reaches_all_that_nest() -> Outcome {
    for pair in [[NEAR, INCOHERENT], [NARROW, NEAR], [INCOHERENT, NARROW]] {
        let rig = Rig::of_two(pair[0], pair[1])?;
        let space = Space::new(&rig)?;
        for index in pair {
            bind(&rig, index, &space, -1)??;
        }
        let (old, new) = (rig.mem.alloc_page(), rig.mem.alloc_page());
        let leaf = space.map(&rig, GVA, old, entry::RW)?;
        let order = |value| Order::fill(GVA, 8, value).no_pri().at(space.pasid);
        for dma in dmas(&rig) {
            expect_status(dma.run(&order(1))?, status::OK, "the old page");
        }
        rig.mem.write_u64(leaf, new | entry::RW);
        let scope = VFIO_IOASID_SCOPE_CONTAINER;
        rig.container
            .invalidate(scope, rig.id(), 0, &[range(GVA, 1)])
            .result?;
        for (dma, value) in dmas(&rig).into_iter().zip([2, 3]) {
            expect_status(dma.run(&order(value))?, status::OK, "the new page");
            assert_eq!(rig.mem.read_u64(new), value);
            assert_eq!(rig.mem.read_u64(old), 1);
        }
    }
    Ok(())
}

/// An address space has a table for each kind of unit that it is bound at.
fn address_space_is_bound_at_both() -> Outcome {
    let nesting = |pair: &[usize; 2]| !pair.contains(&FLAT);
    for pair in pairs().filter(nesting) {
        // Which of the two is bound first is not to matter either.
        for order in [pair, [pair[1], pair[0]]] {
            println!("# units {pair:?}, bound {order:?}");
            let rig = Rig::of_two(pair[0], pair[1])?;
            let id = rig.container.as_create()?;
            let page = rig.mem.alloc_page();
            let entry = as_entry(0x10_0000, page, PAGE, RW);
            assert_eq!(rig.container.as_map(id, &[entry]).0, Ok(()));
            let pasid = rig.container.pasid_alloc_any()?;
            let queue = rig
                .container
                .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
            for index in order {
                let fault_fd = if index == NARROW { -1 } else { queue.raw_fd() };
                rig.container.bind(&vfio_ioasid_bind {
                    fault_fd,
                    ..bind_as_at(endpoint(index)?.id(), pasid, id)
                })?;
            }
            for (dma, value) in dmas(&rig).into_iter().zip([5, 6]) {
                let order = Order::fill(0x10_0000, 8, value).no_pri().at(pasid);
                expect_status(dma.run(&order)?, status::OK, "by the entry");
                assert_eq!(rig.mem.read_u64(page), value);
            }
            assert_eq!(rig.container.as_unmap(id, 0x10_0000, PAGE).0, Ok(()));
            for dma in dmas(&rig) {
                let order = Order::fill(0x10_0000, 8, 9).no_pri().at(pasid);
                assert_ne!(dma.run(&order)?.status, status::OK, "unmapped");
            }
            assert_eq!(rig.mem.read_u64(page), 6);
        }
    }
    Ok(())
}

fn page_requests_come_of_the_unit_that_takes_them() -> Outcome {
    for pair in [[NEAR, NARROW], [NARROW, NEAR]] {
        let rig = Rig::of_two(pair[0], pair[1])?;
        let near = dmas(&rig)[usize::from(pair[0] != NEAR)];
        let narrow = dmas(&rig)[usize::from(pair[0] == NEAR)];
        let space = Space::new(&rig)?;
        let queue = rig
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
        let refused = bind(&rig, NARROW, &space, queue.raw_fd())?;
        expect_errno(refused, Errno::EOPNOTSUPP, "a queue");
        bind(&rig, NARROW, &space, -1)??;
        bind(&rig, NEAR, &space, queue.raw_fd())??;
        let order = Order::fill(GVA, 8, 7).at(space.pasid);
        let slot = near.submit(&order)?;
        rig.wait_for_page_requests(1)?;
        let done = narrow.run(&order)?;
        assert_ne!(done.status, status::OK, "a hole, and nobody to ask");
        let records = queue.read_all()?;
        assert_eq!(records.len(), 1, "{records:?}");
        let page = space.new_page(&rig, GVA)?;
        queue.respond(records[0].cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
        expect_status(near.wait(slot)?, status::OK, "after the answer");
        assert_eq!(rig.mem.read_u64(page), 7);
    }
    Ok(())
}

fn floods_of_two_units_are_all_answered() -> Outcome {
    const EACH: u64 = 100;
    let rig = Rig::of_two(NEAR, INCOHERENT)?;
    let space = Space::new(&rig)?;
    let queue = bind_with_queue(&rig, [NEAR, INCOHERENT], &space)?;
    let mut slots = Vec::new();
    for page in 0..EACH {
        for dma in dmas(&rig) {
            let order = Order::fill(GVA + page * PAGE, 8, 7).at(space.pasid);
            slots.push((dma, dma.submit(&order)?));
        }
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 2 * EACH as usize {
        queue.wait_readable()?;
        for record in queue.read_all()? {
            let device = (record.device.bus, record.device.devfn);
            assert!(
                seen.insert((device, record.addr)),
                "asked twice: {record:?}"
            );
            queue.respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
        }
    }
    for (dma, slot) in slots {
        expect_status(dma.wait(slot)?, status::INVALID, "answered");
    }
    let stats = rig.container.stats()?;
    assert_eq!(stats.page_requests, 2 * EACH);
    assert_eq!(stats.responses, 2 * EACH);
    assert_eq!((stats.overflows, stats.host_invalid), (0, 0));
    Ok(())
}

/// What DIRTY_PAGES says of a page of the rig's memory.
fn is_dirty(rig: &Rig, page: u64) -> Outcome<bool> {
    const WORDS: usize = (GUEST_SIZE / PAGE / 64) as usize;
    let mut bitmap = [0u64; WORDS];
    let mut bytes = [48, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP]
        .map(u32::to_ne_bytes)
        .concat();
    let data = bitmap.as_mut_ptr().expose_provenance() as u64;
    let words = [rig.mem.base(), GUEST_SIZE, PAGE, 8 * WORDS as u64, data];
    bytes.extend(words.map(u64::to_ne_bytes).concat());
    rig.container.raw(VFIO_IOMMU_DIRTY_PAGES, &mut bytes)?;
    let number = ((page - rig.mem.base()) / PAGE) as usize;
    Ok(bitmap[number / 64] >> (number % 64) & 1 != 0)
}

/// One unit has dirty bits where the kernel reads them, the other has none.
fn no_page_that_either_wrote_is_taken_for_clean() -> Outcome {
    for (pair, late) in [
        ([NEAR, FLAT], true),
        ([NEAR, FLAT], false),
        ([FLAT, NEAR], true),
    ] {
        let mut rig = Rig::of_two(pair[0], pair[1])?;
        if late {
            rig.close_second();
        }
        let (early, page, other) = (
            rig.mem.alloc_page(),
            rig.mem.alloc_page(),
            rig.mem.alloc_page(),
        );
        let mut start = [8, VFIO_IOMMU_DIRTY_PAGES_FLAG_START]
            .map(u32::to_ne_bytes)
            .concat();
        rig.container.raw(VFIO_IOMMU_DIRTY_PAGES, &mut start)?;
        let done = rig.dma().run(&Order::fill(early, 8, 1).no_pri())?;
        expect_status(done, status::OK, "alone, or not");
        if late {
            rig.add_second(&endpoint(pair[1])?)?;
        }
        for (dma, at) in dmas(&rig).into_iter().zip([page, other]) {
            let done = dma.run(&Order::fill(at, 8, 1).no_pri())?;
            expect_status(done, status::OK, "with the other");
        }
        assert!(is_dirty(&rig, early)?, "{pair:?}: before");
        for (dma, at) in dmas(&rig).into_iter().zip([page, other]) {
            let done = dma.run(&Order::fill(at, 8, 2).no_pri())?;
            expect_status(done, status::OK, "once more");
            assert!(is_dirty(&rig, at)?, "{pair:?}: {at:#x}");
        }
        let done = rig.second_dma().run(&Order::fill(page, 8, 3).no_pri())?;
        expect_status(done, status::OK, "by who leaves");
        rig.close_second();
        assert!(is_dirty(&rig, page)?, "{pair:?}: written by who left");
    }
    Ok(())
}

fn device_of_another_unit_is_pulled_out_and_comes_back() -> Outcome {
    let other = endpoint(INCOHERENT)?;
    let Some(plugged) = Plugged::new(&other, "endpoint2", "port1") else {
        panic!("{other} is no PCI address");
    };
    let mut monitor = Monitor::open()?;
    let mut rig = Rig::of_two(NEAR, INCOHERENT)?;
    let space = Space::new(&rig)?;
    let _queue = bind_with_queue(&rig, [NEAR, INCOHERENT], &space)?;
    rig.second_dma()
        .submit(&Order::fill(GVA, 8, 7).at(space.pasid))?;
    rig.wait_for_page_requests(1)?;
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    rig.set_second_request_event(event.as_fd())?;
    plugged.unplug(&mut monitor)?;
    wait_until("the device is asked for", || event.read().is_ok())?;
    rig.close_second();
    plugged.wait_until_gone()?;
    assert_eq!(rig.container.stats()?.bindings, 1, "the other's");
    let page = space.new_page(&rig, GVA)?;
    let order = Order::fill(GVA, 8, 8).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "the other device");
    assert_eq!(rig.mem.read_u64(page), 8);
    plugged.wait_until_deleted(&mut monitor)?;
    plugged.plug(&mut monitor)?;
    rig.add_second(&other)?;
    bind(&rig, INCOHERENT, &space, -1)??;
    let order = Order::fill(GVA, 8, 9).no_pri().at(space.pasid);
    expect_status(rig.second_dma().run(&order)?, status::OK, "back again");
    assert_eq!(rig.mem.read_u64(page), 9);
    Ok(())
}

program![
    units_lack_what_they_should,
    what_is_mapped_is_mapped_for_both,
    gigabyte_is_there_for_a_unit_that_joins_and_leaves,
    addresses_are_those_that_both_translate,
    mapping_that_one_cannot_take_is_in_neither,
    unit_that_comes_over_a_read_only_mapping_does_not_nest,
    report_is_true_of_all_units,
    unit_that_nests_does_so_beside_one_that_does_not,
    invalidate_of_the_container_reaches_all_that_nest,
    address_space_is_bound_at_both,
    page_requests_come_of_the_unit_that_takes_them,
    floods_of_two_units_are_all_answered,
    no_page_that_either_wrote_is_taken_for_clean,
    device_of_another_unit_is_pulled_out_and_comes_back,
];
