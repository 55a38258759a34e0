// SPDX-License-Identifier: Apache-2.0 OR MIT
//! MAP_DMA, UNMAP_DMA and GET_INFO against vfio_iommu_type1: the same inputs go to a
//! type1v2 container and to one of ours, and what comes back must be the same, but for
//! the differences that are written down here.

use host_iommu_bindings::ioctl::{VFIO_IOMMU_GET_INFO, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA};
use host_iommu_bindings::uapi::*;
use host_iommu_tests::cases;
use host_iommu_tests::rig::{
    endpoint, program, Container, Errno, Group, Memory, Outcome, Stop, INACCESSIBLE,
};

const PAGE: u64 = 4096;
const READ: u32 = VFIO_DMA_MAP_FLAG_READ;
const WRITE: u32 = VFIO_DMA_MAP_FLAG_WRITE;
const RW: u32 = READ | WRITE;
const ALL: u32 = VFIO_DMA_UNMAP_FLAG_ALL;
const VADDR: u32 = VFIO_DMA_MAP_FLAG_VADDR;
const UNMAP_VADDR: u32 = VFIO_DMA_UNMAP_FLAG_VADDR;
const DIRTY: u32 = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
const MAP_ARGSZ: u32 = 32;
const UNMAP_ARGSZ: u32 = 24;

/// IOVA where the cases map.
const AT: u64 = 0x1_0000_0000;

/// Where a mapping's memory lies.
#[derive(Clone, Copy)]
enum Source {
    /// That many bytes into the test's memory.
    Memory(u64),
    /// At that address, whatever is there.
    Address(u64),
}

use Source::{Address, Memory as Mem};

/// One call of a case.
#[derive(Clone, Copy)]
enum Step {
    Map {
        argsz: u32,
        flags: u32,
        source: Source,
        iova: u64,
        size: u64,
    },
    Unmap {
        argsz: u32,
        flags: u32,
        iova: u64,
        size: u64,
    },
    /// Reports how many mappings may still be made.
    Avail,
}

use Step::Avail;

/// What a step gave: the size that UNMAP_DMA reported, the mappings left, or an errno.
type Seen = Result<u64, Errno>;

const fn map(flags: u32, source: Source, iova: u64, size: u64) -> Step {
    Step::Map {
        argsz: MAP_ARGSZ,
        flags,
        source,
        iova,
        size,
    }
}

const fn unmap(iova: u64, size: u64) -> Step {
    unmap_with(0, iova, size)
}

const fn unmap_with(flags: u32, iova: u64, size: u64) -> Step {
    Step::Unmap {
        argsz: UNMAP_ARGSZ,
        flags,
        iova,
        size,
    }
}

/// On nesting hardware, ours answers `step` with `ours` where type1 has `type1`.
struct Difference {
    step: usize,
    type1: Seen,
    ours: Seen,
    /// The difference is there on nesting hardware alone.
    nesting_only: bool,
}

/// Another result everywhere.
const fn differs(step: usize, type1: Seen, ours: Seen) -> Difference {
    Difference {
        step,
        type1,
        ours,
        nesting_only: false,
    }
}

/// Another result where stage 2 is a nest parent.
const fn differs_nesting(step: usize, type1: Seen, ours: Seen) -> Difference {
    Difference {
        step,
        type1,
        ours,
        nesting_only: true,
    }
}

/// A container with the endpoint's group, of type1v2 or of ours.
struct Backend {
    container: Container,
    _group: Group,
    memory: Memory,
}

impl Backend {
    fn open(kind: u32) -> Result<Self, Stop> {
        let container = Container::open()?;
        let group = Group::open(&endpoint(0)?)?;
        group.set_container(&container)?;
        container.set_iommu(kind)?;
        Ok(Self {
            container,
            _group: group,
            memory: Memory::new(2 << 20)?,
        })
    }

    /// Whether stage 2 is a nest parent.
    fn nests(&self) -> Result<bool, Stop> {
        let cap = self.container.capabilities()?.unwrap_or_default();
        Ok(cap.flags & VFIO_IOASID_NESTING_NO_READONLY != 0)
    }

    fn run(&self, steps: &[Step]) -> Result<Vec<Seen>, Stop> {
        let mut seen = Vec::new();
        for step in steps {
            let result = match *step {
                Step::Map {
                    argsz,
                    flags,
                    source,
                    iova,
                    size,
                } => {
                    let vaddr = match source {
                        Source::Memory(offset) => self.memory.address() + offset,
                        Source::Address(address) => address,
                    };
                    self.container
                        .map_raw(&vfio_iommu_type1_dma_map {
                            argsz,
                            flags,
                            vaddr,
                            iova,
                            size,
                        })
                        .map(|()| 0)
                }
                Step::Unmap {
                    argsz,
                    flags,
                    iova,
                    size,
                } => self.container.unmap_raw(argsz, flags, iova, size),
                Step::Avail => Ok(u64::from(self.container.dma_avail()?)),
            };
            seen.push(result.map_err(|error| error.errno));
        }
        Ok(seen)
    }
}

/// Expects what type1 gives.
fn same(steps: &[Step]) -> Outcome {
    compare(steps, &[])
}

/// Expects what type1 gives, but for `differences`.
fn compare(steps: &[Step], differences: &[Difference]) -> Outcome {
    let type1 = Backend::open(VFIO_TYPE1v2_IOMMU)?.run(steps)?;
    let ours = Backend::open(VFIO_IOASID_IOMMU)?;
    let nests = ours.nests()?;
    let ours = ours.run(steps)?;

    let mut expected = type1.clone();
    let applies = |difference: &&Difference| nests || !difference.nesting_only;
    for difference in differences.iter().filter(applies) {
        assert_eq!(
            type1[difference.step], difference.type1,
            "type1, step {}",
            difference.step
        );
        expected[difference.step] = difference.ours;
    }
    assert_eq!(ours, expected, "ours against what type1 makes us expect");
    Ok(())
}

/// GET_INFO's page sizes and IOVA ranges.
fn get_info_agrees() -> Outcome {
    let type1 = Backend::open(VFIO_TYPE1v2_IOMMU)?.container.info()?;
    let ours = Backend::open(VFIO_IOASID_IOMMU)?;
    let nests = ours.nests()?;
    let ours = ours.container.info()?;
    assert_eq!(
        ours.page_sizes & 0xfff,
        type1.page_sizes & 0xfff,
        "no page size below 4 KiB"
    );
    assert_eq!(
        ours.page_sizes.trailing_zeros(),
        type1.page_sizes.trailing_zeros(),
        "smallest page size"
    );
    assert_eq!(ours.dma_avail, type1.dma_avail, "mappings left");
    let mut expected = type1.iova_ranges;
    if let Some(last) = expected.last_mut().filter(|_| nests) {
        // type1's domain is a first-stage one, whose addresses are those of the lower half.
        assert_eq!(last.1, (1 << 47) - 1, "type1's last address");
        last.1 = (1 << 48) - 1;
    }
    assert_eq!(ours.iova_ranges, expected, "IOVA ranges");
    Ok(())
}

/// GET_INFO with room for `room` bytes that says so: errno, or flags and whether more room is
/// asked for.
fn info_with(backend: &Backend, argsz: usize, room: usize) -> Result<(u32, bool), Errno> {
    let mut bytes = vec![0u8; room];
    bytes[..4].copy_from_slice(&(argsz as u32).to_ne_bytes());
    let result = backend.container.raw(VFIO_IOMMU_GET_INFO, &mut bytes);
    result.map_err(|error| error.errno)?;
    let word = |at: usize| {
        bytes.get(at..at + 4).map_or(0, |word| {
            word.iter()
                .rev()
                .fold(0, |all, &byte| all << 8 | u32::from(byte))
        })
    };
    Ok((word(4), word(0) as usize > argsz))
}

fn get_info_of_any_size_agrees() -> Outcome {
    let type1 = Backend::open(VFIO_TYPE1v2_IOMMU)?;
    let sizes = [0, 4, 15, 16, 17, 20, 23, 24, 25, 32, 64, 4096, 1 << 15];
    let seen: Vec<_> = sizes
        .iter()
        .map(|&argsz| info_with(&type1, argsz, 1 << 15))
        .collect();
    // A pointer to less than is needed.
    let edge = info_with(&type1, 24, 15);
    drop(type1);
    let ours = Backend::open(VFIO_IOASID_IOMMU)?;
    for (argsz, seen) in sizes.iter().zip(seen) {
        assert_eq!(info_with(&ours, *argsz, 1 << 15), seen, "argsz {argsz}");
    }
    assert_eq!(info_with(&ours, 24, 15), edge, "fifteen bytes");
    Ok(())
}

fn inherited_calls_without_an_argument_agree() -> Outcome {
    let calls = [
        VFIO_IOMMU_GET_INFO,
        VFIO_IOMMU_MAP_DMA,
        VFIO_IOMMU_UNMAP_DMA,
    ];
    let try_all = |kind| -> Result<Vec<Seen>, Stop> {
        let backend = Backend::open(kind)?;
        let mut seen = Vec::new();
        for call in calls {
            let inaccessible = backend.container.raw_inaccessible(call);
            seen.push(inaccessible.map(|_| 0).map_err(|error| error.errno));
            // All but the last byte is there.
            let mut short = vec![0u8; if call == VFIO_IOMMU_MAP_DMA { 31 } else { 15 }];
            short[0] = 64;
            let edge = backend.container.raw(call, &mut short);
            seen.push(edge.map(|_| 0).map_err(|error| error.errno));
        }
        Ok(seen)
    };
    let type1 = try_all(VFIO_TYPE1v2_IOMMU)?;
    assert_eq!(type1, vec![Err(Errno::EFAULT); 6], "type1");
    assert_eq!(try_all(VFIO_IOASID_IOMMU)?, type1, "ours");
    Ok(())
}

fn check_extension_of_coherence_agrees() -> Outcome {
    let type1 = Backend::open(VFIO_TYPE1v2_IOMMU)?
        .container
        .check_extension(VFIO_DMA_CC_IOMMU)?;
    let ours = Backend::open(VFIO_IOASID_IOMMU)?;
    let coherent = ours.container.check_extension(VFIO_DMA_CC_IOMMU)?;
    assert_eq!(coherent, type1);
    let cap = ours.container.capabilities()?.unwrap_or_default();
    assert_eq!(coherent == 1, cap.flags & VFIO_IOASID_NESTING_COHERENT != 0);
    Ok(())
}

cases! {
    map_one_page_and_unmap_it_reports_its_size =>
        same(&[map(RW, Mem(0), AT, PAGE), Avail, unmap(AT, PAGE), Avail]),
    map_one_mebibyte_and_unmap_it_reports_its_size =>
        same(&[map(RW, Mem(0), AT, 1 << 20), unmap(AT, 1 << 20)]),
    map_size_zero => same(&[map(RW, Mem(0), AT, 0)]),
    map_size_not_of_pages => same(&[map(RW, Mem(0), AT, PAGE + 1)]),
    map_size_below_a_page => same(&[map(RW, Mem(0), AT, 1)]),
    map_iova_not_aligned => same(&[map(RW, Mem(0), AT + 1, PAGE)]),
    map_iova_half_a_page_off => same(&[map(RW, Mem(0), AT + 2048, PAGE)]),
    map_vaddr_not_aligned => same(&[map(RW, Mem(1), AT, PAGE)]),
    map_without_permission => same(&[map(0, Mem(0), AT, PAGE)]),
    map_with_unknown_flag => same(&[map(RW | 8, Mem(0), AT, PAGE)]),
    map_with_highest_flag => same(&[map(RW | 1 << 31, Mem(0), AT, PAGE)]),
    map_write_only => same(&[map(WRITE, Mem(0), AT, PAGE), unmap(AT, PAGE)]),
    map_read_only_is_refused_where_stage_2_is_a_nest_parent => compare(
        &[map(READ, Mem(0), AT, PAGE), Avail, unmap(AT, PAGE)],
        &[
            differs_nesting(0, Ok(0), Err(Errno::EOPNOTSUPP)),
            differs_nesting(1, Ok(65_534), Ok(65_535)),
            differs_nesting(2, Ok(PAGE), Ok(0)),
        ],
    ),
    map_iova_wraps_around => same(&[map(RW, Mem(0), u64::MAX - PAGE + 1, 2 * PAGE)]),
    map_last_page_of_64_bits => same(&[map(RW, Mem(0), u64::MAX - PAGE + 1, PAGE)]),
    map_of_nearly_all_64_bits => same(&[map(RW, Mem(0), 0, u64::MAX - PAGE + 1)]),
    map_vaddr_wraps_around => same(&[map(RW, Address(u64::MAX - PAGE + 1), AT, 2 * PAGE)]),
    map_vaddr_of_the_kernel => same(&[map(RW, Address(0xffff_8880_0000_0000), AT, PAGE)]),
    map_vaddr_not_canonical => same(&[map(RW, Address(INACCESSIBLE), AT, PAGE)]),
    map_vaddr_null => same(&[map(RW, Address(0), AT, PAGE)]),
    map_vaddr_unmapped => same(&[map(RW, Address(0x1000_0000), AT, PAGE), Avail]),
    map_above_the_aperture => same(&[map(RW, Mem(0), 1 << 60, PAGE)]),
    map_into_the_interrupt_range => same(&[map(RW, Mem(0), 0xfee0_0000, PAGE)]),
    map_last_page_of_the_interrupt_range => same(&[map(RW, Mem(0), 0xfeef_f000, PAGE)]),
    map_around_the_interrupt_range =>
        same(&[map(RW, Mem(0), 0xfedf_f000, PAGE), map(RW, Mem(0), 0xfef0_0000, PAGE)]),
    map_across_the_start_of_the_interrupt_range => same(&[map(RW, Mem(0), 0xfedf_f000, 2 * PAGE)]),
    map_at_iova_zero => same(&[map(RW, Mem(0), 0, PAGE), unmap(0, PAGE)]),
    map_twice_at_the_same_iova =>
        same(&[map(RW, Mem(0), AT, PAGE), map(RW, Mem(PAGE), AT, PAGE), Avail]),
    map_over_the_end_of_another =>
        same(&[map(RW, Mem(0), AT, 4 * PAGE), map(RW, Mem(0), AT + 3 * PAGE, 2 * PAGE)]),
    map_over_the_start_of_another =>
        same(&[map(RW, Mem(0), AT + PAGE, 4 * PAGE), map(RW, Mem(0), AT, 2 * PAGE)]),
    map_around_another => same(&[map(RW, Mem(0), AT + PAGE, PAGE), map(RW, Mem(0), AT, 4 * PAGE)]),
    map_next_to_another => same(
        &[
            map(RW, Mem(0), AT, PAGE),
            map(RW, Mem(PAGE), AT + PAGE, PAGE),
            map(RW, Mem(2 * PAGE), AT - PAGE, PAGE),
            Avail,
        ],
    ),
    map_the_same_memory_twice =>
        same(&[map(RW, Mem(0), AT, PAGE), map(RW, Mem(0), AT + PAGE, PAGE), Avail]),
    map_overlap_is_told_before_a_bad_vaddr =>
        same(&[map(RW, Mem(0), AT, PAGE), map(RW, Address(INACCESSIBLE & !4095), AT, PAGE)]),
    map_argsz_one_short =>
        same(&[Step::Map { argsz: 31, flags: RW, source: Mem(0), iova: AT, size: PAGE }]),
    map_argsz_zero =>
        same(&[Step::Map { argsz: 0, flags: RW, source: Mem(0), iova: AT, size: PAGE }]),
    map_argsz_longer =>
        same(&[Step::Map { argsz: 64, flags: RW, source: Mem(0), iova: AT, size: PAGE }]),
    unmap_nothing_reports_zero => same(&[unmap(AT, PAGE)]),
    unmap_size_zero => same(&[unmap(AT, 0)]),
    unmap_size_not_of_pages => same(&[unmap(AT, PAGE + 1)]),
    unmap_iova_not_aligned => same(&[unmap(AT + 1, PAGE)]),
    unmap_wraps_around => same(&[unmap(u64::MAX - PAGE + 1, 2 * PAGE)]),
    unmap_last_page_of_64_bits => same(&[unmap(u64::MAX - PAGE + 1, PAGE)]),
    unmap_with_unknown_flag => same(&[unmap_with(8, AT, PAGE)]),
    unmap_argsz_one_short => same(&[Step::Unmap { argsz: 23, flags: 0, iova: AT, size: PAGE }]),
    unmap_argsz_longer => same(
        &[
            map(RW, Mem(0), AT, PAGE),
            Step::Unmap { argsz: 40, flags: 0, iova: AT, size: PAGE },
        ],
    ),
    unmap_twice_reports_zero_the_second_time =>
        same(&[map(RW, Mem(0), AT, PAGE), unmap(AT, PAGE), unmap(AT, PAGE)]),
    unmap_the_first_half_of_a_mapping =>
        same(&[map(RW, Mem(0), AT, 4 * PAGE), unmap(AT, 2 * PAGE), Avail]),
    unmap_the_second_half_of_a_mapping =>
        same(&[map(RW, Mem(0), AT, 4 * PAGE), unmap(AT + 2 * PAGE, 2 * PAGE), Avail]),
    unmap_the_middle_of_a_mapping =>
        same(&[map(RW, Mem(0), AT, 4 * PAGE), unmap(AT + PAGE, PAGE)]),
    unmap_across_the_end_of_a_mapping =>
        same(&[map(RW, Mem(0), AT, 4 * PAGE), unmap(AT + 2 * PAGE, 8 * PAGE)]),
    unmap_more_than_a_mapping =>
        same(&[map(RW, Mem(0), AT + PAGE, PAGE), unmap(AT, 16 * PAGE), Avail]),
    unmap_two_mappings_and_the_hole_between_reports_both => same(
        &[
            map(RW, Mem(0), AT, PAGE),
            map(RW, Mem(0), AT + 5 * PAGE, 2 * PAGE),
            unmap(AT, 7 * PAGE),
            Avail,
        ],
    ),
    unmap_one_of_two_neighbours_leaves_the_other => same(
        &[
            map(RW, Mem(0), AT, PAGE),
            map(RW, Mem(PAGE), AT + PAGE, PAGE),
            unmap(AT, PAGE),
            map(RW, Mem(0), AT + PAGE, PAGE),
            unmap(AT + PAGE, PAGE),
        ],
    ),
    unmap_all_reports_everything => same(
        &[
            map(RW, Mem(0), AT, PAGE),
            map(RW, Mem(0), AT + (1 << 30), 3 * PAGE),
            map(RW, Mem(0), 0, PAGE),
            unmap_with(ALL, 0, 0),
            Avail,
        ],
    ),
    unmap_all_of_nothing_reports_zero => same(&[unmap_with(ALL, 0, 0)]),
    unmap_all_with_iova => same(&[map(RW, Mem(0), AT, PAGE), unmap_with(ALL, AT, 0), Avail]),
    unmap_all_with_size => same(&[map(RW, Mem(0), AT, PAGE), unmap_with(ALL, 0, PAGE), Avail]),
    unmap_all_with_dirty_bitmap => same(&[unmap_with(ALL | DIRTY, 0, 0)]),
    unmap_vaddr_with_dirty_bitmap => same(&[unmap_with(UNMAP_VADDR | DIRTY, AT, PAGE)]),
    unmap_dirty_bitmap_without_room_for_it => same(&[unmap_with(DIRTY, AT, PAGE)]),
    map_vaddr_with_permission => same(&[map(VADDR | RW, Mem(0), AT, PAGE)]),
    map_and_unmap_again_and_again => same(
        &[
            map(RW, Mem(0), AT, 16 * PAGE),
            unmap(AT, 16 * PAGE),
            map(RW, Mem(0), AT, 16 * PAGE),
            unmap(AT, 16 * PAGE),
            Avail,
        ],
    ),
    map_above_47_bits => compare(
        &[map(RW, Mem(0), 1 << 47, PAGE)],
        &[
            differs_nesting(0, Err(Errno::EINVAL), Ok(0)),
        ],
    ),
    map_vaddr_of_nothing => same(&[map(VADDR, Mem(0), AT, PAGE)]),
    map_vaddr_that_was_not_invalidated => compare(
        &[map(RW, Mem(0), AT, PAGE), map(VADDR, Mem(0), AT, PAGE)],
        &[
            differs(1, Err(Errno::EINVAL), Err(Errno::ENOENT)),
        ],
    ),
    update_vaddr_is_not_offered => compare(
        &[
            map(RW, Mem(0), AT, PAGE),
            unmap_with(UNMAP_VADDR, AT, PAGE),
            map(VADDR, Mem(0), AT, PAGE),
            unmap(AT, PAGE),
        ],
        &[
            differs(1, Ok(PAGE), Err(Errno::EOPNOTSUPP)),
            differs(2, Ok(0), Err(Errno::ENOENT)),
        ],
    ),
}

program![
    get_info_agrees,
    get_info_of_any_size_agrees,
    inherited_calls_without_an_argument_agree,
    check_extension_of_coherence_agrees,
    map_one_page_and_unmap_it_reports_its_size,
    map_one_mebibyte_and_unmap_it_reports_its_size,
    map_size_zero,
    map_size_not_of_pages,
    map_size_below_a_page,
    map_iova_not_aligned,
    map_iova_half_a_page_off,
    map_vaddr_not_aligned,
    map_without_permission,
    map_with_unknown_flag,
    map_with_highest_flag,
    map_write_only,
    map_read_only_is_refused_where_stage_2_is_a_nest_parent,
    map_iova_wraps_around,
    map_last_page_of_64_bits,
    map_of_nearly_all_64_bits,
    map_vaddr_wraps_around,
    map_vaddr_of_the_kernel,
    map_vaddr_not_canonical,
    map_vaddr_null,
    map_vaddr_unmapped,
    map_above_the_aperture,
    map_into_the_interrupt_range,
    map_last_page_of_the_interrupt_range,
    map_around_the_interrupt_range,
    map_across_the_start_of_the_interrupt_range,
    map_at_iova_zero,
    map_twice_at_the_same_iova,
    map_over_the_end_of_another,
    map_over_the_start_of_another,
    map_around_another,
    map_next_to_another,
    map_the_same_memory_twice,
    map_overlap_is_told_before_a_bad_vaddr,
    map_argsz_one_short,
    map_argsz_zero,
    map_argsz_longer,
    unmap_nothing_reports_zero,
    unmap_size_zero,
    unmap_size_not_of_pages,
    unmap_iova_not_aligned,
    unmap_wraps_around,
    unmap_last_page_of_64_bits,
    unmap_with_unknown_flag,
    unmap_argsz_one_short,
    unmap_argsz_longer,
    unmap_twice_reports_zero_the_second_time,
    unmap_the_first_half_of_a_mapping,
    unmap_the_second_half_of_a_mapping,
    unmap_the_middle_of_a_mapping,
    unmap_across_the_end_of_a_mapping,
    unmap_more_than_a_mapping,
    unmap_two_mappings_and_the_hole_between_reports_both,
    unmap_one_of_two_neighbours_leaves_the_other,
    unmap_all_reports_everything,
    unmap_all_of_nothing_reports_zero,
    unmap_all_with_iova,
    unmap_all_with_size,
    unmap_all_with_dirty_bitmap,
    unmap_vaddr_with_dirty_bitmap,
    unmap_dirty_bitmap_without_room_for_it,
    map_vaddr_with_permission,
    map_and_unmap_again_and_again,
    map_above_47_bits,
    map_vaddr_of_nothing,
    map_vaddr_that_was_not_invalidated,
    update_vaddr_is_not_offered,
];
