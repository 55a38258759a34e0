// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DIRTY_PAGES, and UNMAP_DMA with a bitmap, against vfio_iommu_type1: the same calls go to both,
//! and errno and every byte of the bitmaps must be the same. For type1 each mapped page is dirty,
//! each time; where the module knows better, the device writes every page before it is asked.

use host_iommu_bindings::ioctl::{VFIO_IOMMU_DIRTY_PAGES, VFIO_IOMMU_UNMAP_DMA};
use host_iommu_bindings::uapi::*;
use host_iommu_tests::cases;
use host_iommu_tests::rig::{
    endpoint, expect_status, program, status, Container, Dma, Errno, Group, Memory, Order, Outcome,
    PAGE,
};
use host_iommu_tests::vfio::Device;
use std::cell::RefCell;

const START: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
const STOP: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
const GET: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
/// IOVA where the cases map.
const AT: u64 = 0x1_0000_0000;
/// What is in the bitmap before.
const MARK: u8 = 0x5a;
/// Room for the largest bitmap of a case.
const ROOM: usize = 128;

/// A range and the bitmap for it.
#[derive(Clone, Copy)]
struct Ask {
    iova: u64,
    size: u64,
    page_size: u64,
    /// Bytes of the bitmap, as the call has it.
    bytes: u64,
    /// The bitmap's address, if it is not [`ROOM`] bytes of memory.
    data: Option<u64>,
}

#[derive(Clone, Copy)]
enum Step {
    /// Maps so many pages.
    Map(u64, u64),
    /// A call with those flags and no range.
    Flags(u32),
    /// The same with an `argsz` of one's choice.
    Sized(u32, u32),
    Get(Ask),
    Unmap(Ask),
}

use Step::{Flags, Get, Map, Sized, Unmap};

/// What a step gave: what UNMAP_DMA unmapped, and the bitmap.
type Seen = Result<(u64, Vec<u8>), Errno>;

const fn ask(iova: u64, pages: u64) -> Ask {
    Ask {
        iova,
        size: pages * PAGE,
        page_size: PAGE,
        bytes: pages.div_ceil(64) * 8,
        data: None,
    }
}

struct Backend {
    container: Container,
    _group: Group,
    memory: Memory,
    device: Option<(Dma, Device)>,
    /// First address and size of what is mapped.
    mapped: RefCell<Vec<(u64, u64)>>,
}

impl Backend {
    fn open(kind: u32) -> Outcome<Self> {
        let container = Container::open()?;
        let endpoint = endpoint(0)?;
        let group = Group::open(&endpoint)?;
        group.set_container(&container)?;
        container.set_iommu(kind)?;
        let device = if knows_what_is_written(&container)? {
            let device = group.device(&endpoint)?;
            device.set_bus_master(true)?;
            Some((Dma::of(&device)?, device))
        } else {
            None
        };
        Ok(Self {
            container,
            _group: group,
            memory: Memory::new(1 << 20)?,
            device,
            mapped: RefCell::default(),
        })
    }

    /// Has the device write to every page, if that makes a difference.
    fn write_all(&self) {
        let Some((dma, _)) = &self.device else {
            return;
        };
        for &(iova, size) in self.mapped.borrow().iter() {
            for offset in (0..size).step_by(PAGE as usize) {
                let done = dma.run(&Order::fill(iova + offset, 8, 1));
                match done {
                    Ok(done) => expect_status(done, status::OK, "a write to each page"),
                    Err(error) => panic!("a write to each page: {error:?}"),
                }
            }
        }
    }

    fn step(&self, step: &Step) -> Seen {
        let mut bitmap = vec![MARK; ROOM];
        let data = bitmap.as_mut_ptr().expose_provenance() as u64;
        let mut bytes = Vec::new();
        let request = match *step {
            Map(iova, pages) => {
                let map = vfio_iommu_type1_dma_map {
                    argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
                    flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                    vaddr: self.memory.address(),
                    iova,
                    size: pages * PAGE,
                };
                let mapped = self.container.map_raw(&map);
                if mapped.is_ok() {
                    self.mapped.borrow_mut().push((iova, map.size));
                }
                return mapped.map(|()| (0, bitmap)).map_err(|error| error.errno);
            }
            Flags(flags) => {
                bytes.extend([8, flags].map(u32::to_ne_bytes).concat());
                VFIO_IOMMU_DIRTY_PAGES
            }
            Sized(argsz, flags) => {
                bytes.extend([argsz, flags].map(u32::to_ne_bytes).concat());
                VFIO_IOMMU_DIRTY_PAGES
            }
            Get(ask) | Unmap(ask) => {
                self.write_all();
                let (request, flags, argsz) = match step {
                    Get(_) => (VFIO_IOMMU_DIRTY_PAGES, GET, 48u32),
                    _ => (
                        VFIO_IOMMU_UNMAP_DMA,
                        VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
                        48,
                    ),
                };
                bytes.extend([argsz, flags].map(u32::to_ne_bytes).concat());
                let data = ask.data.unwrap_or(data);
                let words = [ask.iova, ask.size, ask.page_size, ask.bytes, data];
                bytes.extend(words.map(u64::to_ne_bytes).concat());
                request
            }
        };
        let called = self.container.raw(request, &mut bytes);
        called.map_err(|error| error.errno)?;
        let size = match step {
            Unmap(ask) => {
                self.mapped
                    .borrow_mut()
                    .retain(|&(iova, _)| iova < ask.iova || iova - ask.iova >= ask.size);
                bytes.get(16..24).map_or(0, |size| {
                    size.iter()
                        .rev()
                        .fold(0, |all, &byte| all << 8 | u64::from(byte))
                })
            }
            _ => 0,
        };
        Ok((size, bitmap))
    }

    fn run(&self, steps: &[Step]) -> Vec<Seen> {
        steps.iter().map(|step| self.step(step)).collect()
    }
}

/// Whether the container is on the module and reports what DMA wrote, no more.
fn knows_what_is_written(container: &Container) -> Outcome<bool> {
    let caps = container.capabilities()?;
    Ok(caps.is_some_and(|caps| caps.flags & VFIO_IOASID_NESTING_DIRTY != 0))
}

/// Expects what type1 gives; the last step must end as `last`, so that a case shows what it says.
fn same(steps: &[Step], last: Result<(), Errno>) -> Outcome {
    let type1 = Backend::open(VFIO_TYPE1v2_IOMMU)?.run(steps);
    let ours = Backend::open(VFIO_IOASID_IOMMU)?.run(steps);
    assert_eq!(ours, type1, "ours against type1");
    let end = ours.last().cloned().map(|seen| seen.map(|_| ()));
    assert_eq!(end, Some(last), "the last step");
    Ok(())
}

const OK: Result<(), Errno> = Ok(());
const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

fn migration_capability_agrees() -> Outcome {
    let type1 = Backend::open(VFIO_TYPE1v2_IOMMU)?.container.migration()?;
    let ours = Backend::open(VFIO_IOASID_IOMMU)?.container.migration()?;
    let values = |cap: vfio_iommu_type1_info_cap_migration| {
        (
            cap.header.version,
            cap.flags,
            cap.pgsize_bitmap,
            cap.max_dirty_bitmap_size,
        )
    };
    assert!(type1.is_some(), "type1 has the capability");
    assert_eq!(ours.map(values), type1.map(values));
    Ok(())
}

fn every_mapped_page_is_dirty_each_time() -> Outcome {
    let ours = Backend::open(VFIO_IOASID_IOMMU)?;
    let steps = [Flags(START), Map(AT, 3), Get(ask(AT, 3)), Get(ask(AT, 3))];
    for seen in ours.run(&steps).into_iter().skip(2) {
        let (_, bitmap) = seen
            .map_err(|errno| format!("GET_BITMAP: {errno:?}"))
            .unwrap_or_default();
        assert_eq!(bitmap.first(), Some(&0b111));
    }
    Ok(())
}

cases! {
    start_and_stop => same(&[Flags(START), Flags(STOP)], OK),
    start_twice_and_stop_twice =>
        same(&[Flags(START), Flags(START), Flags(STOP), Flags(STOP)], OK),
    two_flags_at_once => same(&[Flags(START | STOP)], EINVAL),
    unknown_flag => same(&[Flags(8)], EINVAL),
    argsz_too_small => same(&[Sized(7, START)], EINVAL),
    argsz_larger => same(&[Sized(64, START)], OK),
    get_without_room_for_a_range => same(&[Flags(START), Flags(GET)], EINVAL),
    get_with_half_a_range => same(&[Flags(START), Sized(47, GET)], EINVAL),
    get_without_start => same(&[Map(AT, 1), Get(ask(AT, 1))], EINVAL),
    get_after_stop =>
        same(&[Flags(START), Map(AT, 1), Flags(STOP), Get(ask(AT, 1))], EINVAL),
    get_of_what_was_mapped_before_start =>
        same(&[Map(AT, 5), Flags(START), Get(ask(AT, 5))], OK),
    get_of_what_was_mapped_after_start =>
        same(&[Flags(START), Map(AT, 5), Get(ask(AT, 5))], OK),
    get_of_nothing => same(&[Flags(START), Get(ask(AT, 5))], OK),
    get_of_64_pages => same(&[Map(AT, 64), Flags(START), Get(ask(AT, 64))], OK),
    get_of_65_pages => same(&[Map(AT, 65), Flags(START), Get(ask(AT, 65))], OK),
    get_of_200_pages => same(&[Map(AT, 200), Flags(START), Get(ask(AT, 200))], OK),
    get_of_more_than_is_mapped =>
        same(&[Map(AT + 3 * PAGE, 2), Flags(START), Get(ask(AT, 200))], OK),
    get_of_several_mappings => same(
        &[
            Map(AT, 3),
            Map(AT + 7 * PAGE, 90),
            Map(AT + 100 * PAGE, 1),
            Map(AT + 101 * PAGE, 64),
            Flags(START),
            Get(ask(AT, 192)),
        ],
        OK,
    ),
    get_of_half_a_mapping => same(&[Map(AT, 4), Flags(START), Get(ask(AT, 2))], EINVAL),
    get_from_within_a_mapping =>
        same(&[Map(AT, 4), Flags(START), Get(ask(AT + PAGE, 8))], EINVAL),
    get_of_no_bytes => same(&[Flags(START), Get(Ask { size: 0, ..ask(AT, 1) })], EINVAL),
    get_of_an_unaligned_range =>
        same(&[Flags(START), Get(Ask { iova: AT + 1, ..ask(AT, 1) })], EINVAL),
    get_of_a_page_and_a_half =>
        same(&[Flags(START), Get(Ask { size: 6144, ..ask(AT, 1) })], EINVAL),
    get_of_a_range_that_wraps => same(
        &[Flags(START), Get(Ask { iova: u64::MAX - PAGE + 1, ..ask(AT, 2) })],
        Err(Errno::EOVERFLOW),
    ),
    get_with_another_page_size => same(
        &[Flags(START), Get(Ask { page_size: 2 << 20, size: 2 << 20, ..ask(AT, 1) })],
        EINVAL,
    ),
    get_with_a_page_size_of_several_bits =>
        same(&[Flags(START), Get(Ask { page_size: 0x3000, ..ask(AT, 1) })], EINVAL),
    get_with_a_bitmap_of_no_bytes =>
        same(&[Flags(START), Get(Ask { bytes: 0, ..ask(AT, 1) })], EINVAL),
    get_with_a_bitmap_one_byte_short =>
        same(&[Flags(START), Get(Ask { bytes: 7, ..ask(AT, 1) })], EINVAL),
    get_with_a_bitmap_larger_than_needed =>
        same(&[Map(AT, 1), Flags(START), Get(Ask { bytes: 64, ..ask(AT, 1) })], OK),
    get_with_an_absurd_bitmap =>
        same(&[Flags(START), Get(Ask { bytes: 1 << 40, ..ask(AT, 1) })], EINVAL),
    get_into_memory_that_is_not_there => same(
        &[Map(AT, 1), Flags(START), Get(Ask { data: Some(4096), ..ask(AT, 1) })],
        Err(Errno::EFAULT),
    ),
    get_into_the_kernel => same(
        &[
            Map(AT, 1),
            Flags(START),
            Get(Ask { data: Some(0xffff_8880_0000_0000), ..ask(AT, 1) }),
        ],
        EINVAL,
    ),
    unmap_with_bitmap =>
        same(&[Map(AT, 70), Flags(START), Unmap(ask(AT, 70)), Get(ask(AT, 70))], OK),
    unmap_with_bitmap_of_two_mappings => same(
        &[Map(AT, 3), Map(AT + 9 * PAGE, 2), Flags(START), Unmap(ask(AT, 64))],
        OK,
    ),
    unmap_with_bitmap_of_nothing => same(&[Flags(START), Unmap(ask(AT, 64))], OK),
    unmap_with_bitmap_without_start => same(&[Map(AT, 1), Unmap(ask(AT, 1))], EINVAL),
    unmap_with_bitmap_of_half_a_mapping =>
        same(&[Map(AT, 4), Flags(START), Unmap(ask(AT, 2))], EINVAL),
    unmap_with_bitmap_of_another_page_size => same(
        &[Flags(START), Unmap(Ask { page_size: 2 << 20, size: 2 << 20, ..ask(AT, 1) })],
        EINVAL,
    ),
    unmap_with_bitmap_too_small =>
        same(&[Map(AT, 65), Flags(START), Unmap(Ask { bytes: 8, ..ask(AT, 65) })], EINVAL),
    unmap_with_bitmap_that_is_not_there_keeps_the_mapping => same(
        &[
            Map(AT, 2),
            Flags(START),
            Unmap(Ask { data: Some(4096), ..ask(AT, 2) }),
            Map(AT, 1),
        ],
        Err(Errno::EEXIST),
    ),
}

program![
    migration_capability_agrees,
    every_mapped_page_is_dirty_each_time,
    start_and_stop,
    start_twice_and_stop_twice,
    two_flags_at_once,
    unknown_flag,
    argsz_too_small,
    argsz_larger,
    get_without_room_for_a_range,
    get_with_half_a_range,
    get_without_start,
    get_after_stop,
    get_of_what_was_mapped_before_start,
    get_of_what_was_mapped_after_start,
    get_of_nothing,
    get_of_64_pages,
    get_of_65_pages,
    get_of_200_pages,
    get_of_more_than_is_mapped,
    get_of_several_mappings,
    get_of_half_a_mapping,
    get_from_within_a_mapping,
    get_of_no_bytes,
    get_of_an_unaligned_range,
    get_of_a_page_and_a_half,
    get_of_a_range_that_wraps,
    get_with_another_page_size,
    get_with_a_page_size_of_several_bits,
    get_with_a_bitmap_of_no_bytes,
    get_with_a_bitmap_one_byte_short,
    get_with_a_bitmap_larger_than_needed,
    get_with_an_absurd_bitmap,
    get_into_memory_that_is_not_there,
    get_into_the_kernel,
    unmap_with_bitmap,
    unmap_with_bitmap_of_two_mappings,
    unmap_with_bitmap_of_nothing,
    unmap_with_bitmap_without_start,
    unmap_with_bitmap_of_half_a_mapping,
    unmap_with_bitmap_of_another_page_size,
    unmap_with_bitmap_too_small,
    unmap_with_bitmap_that_is_not_there_keeps_the_mapping,
];
