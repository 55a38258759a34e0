// SPDX-License-Identifier: Apache-2.0 OR MIT
//! type1_compat=1: the module is type1 and type1v2 too. The same calls go to vfio_iommu_type1 and
//! to the module in its place, and errno, sizes and reports must be the same; the module's count
//! of such calls proves which of the two ran.

use host_iommu_bindings::ioctl::VFIO_IOMMU_DIRTY_PAGES;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_type1, endpoint, expect_errno, expect_status, program, status, type1_calls as calls,
    Container, Dma, Errno, Group, Info, Memory, Order, Outcome, PAGE,
};
use host_iommu_tests::vfio::Device;

const AT: u64 = 0x1_0000_0000;
const READ: u32 = VFIO_DMA_MAP_FLAG_READ;
const RW: u32 = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const TYPES: [u32; 2] = [VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU];

struct Open {
    container: Container,
    group: Group,
    memory: Memory,
}

fn open(kind: u32) -> Outcome<Open> {
    let container = Container::open()?;
    let group = Group::open(&endpoint(0)?)?;
    group.set_container(&container)?;
    container.set_iommu(kind)?;
    Ok(Open {
        container,
        group,
        memory: Memory::new(1 << 20)?,
    })
}

#[derive(Clone, Copy)]
enum Step {
    /// Flags, IOVA and pages.
    Map(u32, u64, u64),
    Unmap(u64, u64),
    UnmapAll,
    Left,
}

use Step::{Left, Map, Unmap, UnmapAll};

fn run(open: &Open, steps: &[Step]) -> Outcome<Vec<Result<u64, Errno>>> {
    let container = &open.container;
    let mut seen = Vec::new();
    for step in steps {
        let result = match *step {
            Map(flags, iova, pages) => container
                .map_raw(&vfio_iommu_type1_dma_map {
                    argsz: 32,
                    flags,
                    vaddr: open.memory.address(),
                    iova,
                    size: pages * PAGE,
                })
                .map(|()| 0),
            Unmap(iova, pages) => container.unmap(iova, pages * PAGE),
            UnmapAll => container.unmap_raw(24, VFIO_DMA_UNMAP_FLAG_ALL, 0, 0),
            Left => Ok(u64::from(container.dma_avail()?)),
        };
        seen.push(result.map_err(|error| error.errno));
    }
    Ok(seen)
}

/// Each type's answers, from vfio_iommu_type1 and then from the module.
fn compare(steps: &[Step]) -> Outcome {
    for kind in TYPES {
        let before = calls()?;
        let type1 = run(&open(kind)?, steps)?;
        assert_eq!(calls()?, before, "these were type1's own");
        let ours = as_type1(|| {
            let seen = run(&open(kind)?, steps)?;
            assert!(calls()? >= steps.len() as u64, "these were the module's");
            Ok(seen)
        })?;
        assert_eq!(ours, type1, "type {kind}");
    }
    Ok(())
}

fn extensions_are_offered_as_loaded() -> Outcome {
    let asked = [
        VFIO_TYPE1_IOMMU,
        VFIO_TYPE1v2_IOMMU,
        VFIO_IOASID_IOMMU,
        9,
        VFIO_DMA_CC_IOMMU,
    ];
    let ask = || -> Outcome<Vec<i32>> {
        let open = open(VFIO_TYPE1v2_IOMMU)?;
        let each = asked.map(|extension| open.container.check_extension(extension));
        Ok(each.into_iter().collect::<Result<_, _>>()?)
    };
    let mut type1 = ask()?;
    let ours = as_type1(ask)?;
    // vfio_iommu_type1 takes 6 for its former nesting type only in SET_IOMMU.
    type1[2] = 1;
    assert_eq!(ours, type1);
    Ok(())
}

fn get_info_agrees() -> Outcome {
    for kind in TYPES {
        let ask = || -> Outcome<(Info, bool, bool)> {
            let open = open(kind)?;
            let container = &open.container;
            Ok((
                container.info()?,
                container.migration()?.is_some(),
                container.capabilities()?.is_some(),
            ))
        };
        let type1 = ask()?;
        assert!(!type1.2, "type1 has no capability of ours");
        assert_eq!(as_type1(ask)?, type1, "type {kind}");
    }
    Ok(())
}

fn map_and_unmap_agree() -> Outcome {
    compare(&[
        Left,
        Map(RW, AT, 4),
        Map(READ, AT + 8 * PAGE, 1),
        Map(VFIO_DMA_MAP_FLAG_WRITE, AT + 9 * PAGE, 1),
        Map(RW, AT, 1),
        Map(RW, 0xfee0_0000, 1),
        Map(RW, 1 << 47, 1),
        Left,
        Unmap(AT + 8 * PAGE, 2),
        Unmap(AT + 8 * PAGE, 2),
        UnmapAll,
        Left,
    ])
}

fn unmap_of_parts_agrees() -> Outcome {
    compare(&[
        Map(RW, AT, 4),
        // The upper half, the middle, the lower half, then what is left.
        Unmap(AT + 2 * PAGE, 2),
        Unmap(AT + PAGE, 1),
        Left,
        Unmap(AT, 2),
        Left,
        Map(RW, AT, 4),
        Map(RW, AT + 4 * PAGE, 4),
        // From within the first over all of the second.
        Unmap(AT + PAGE, 16),
        Left,
        // From below, into the second.
        Unmap(AT - PAGE, 6),
        Left,
        UnmapAll,
    ])
}

fn dirty_pages_is_type1v2s_alone() -> Outcome {
    let ask = |kind| -> Outcome<Result<i32, Errno>> {
        let open = open(kind)?;
        let mut start = [8u32, VFIO_IOMMU_DIRTY_PAGES_FLAG_START]
            .map(u32::to_ne_bytes)
            .concat();
        let result = open.container.raw(VFIO_IOMMU_DIRTY_PAGES, &mut start);
        Ok(result.map_err(|error| error.errno))
    };
    for (kind, expected) in [
        (VFIO_TYPE1_IOMMU, Err(Errno::EACCES)),
        (VFIO_TYPE1v2_IOMMU, Ok(0)),
    ] {
        assert_eq!(ask(kind)?, expected, "type1, type {kind}");
        assert_eq!(as_type1(|| ask(kind))?, expected, "ours, type {kind}");
    }
    Ok(())
}

fn dma_goes_by_the_mappings() -> Outcome {
    as_type1(|| {
        for kind in TYPES {
            let open = open(kind)?;
            let device: Device = open.group.device(&endpoint(0)?)?;
            device.set_bus_master(true)?;
            let dma = Dma::of(&device)?;
            open.container.map(&open.memory, AT)?;
            let order = Order::fill(AT + PAGE, 8, 0x99).no_pri();
            expect_status(dma.run(&order)?, status::OK, "mapped");
            assert_eq!(open.memory.read_u64(PAGE), 0x99);
            open.container.unmap(AT, open.memory.size())?;
            expect_status(dma.run(&order)?, status::NO_ACCESS, "unmapped");
        }
        Ok(())
    })
}

fn binding_is_refused_on_a_type1_container() -> Outcome {
    as_type1(|| {
        let open = open(VFIO_TYPE1v2_IOMMU)?;
        let pasid = open.container.pasid_alloc_any()?;
        let data = [0u8; 24];
        let bind = host_iommu_tests::rig::bind_at(endpoint(0)?.id(), pasid, &data);
        let result = open.container.bind(&bind);
        expect_errno(result, Errno::EOPNOTSUPP, "stage 2 is no nest parent");
        Ok(())
    })
}

program![
    extensions_are_offered_as_loaded,
    get_info_agrees,
    map_and_unmap_agree,
    unmap_of_parts_agrees,
    dirty_pages_is_type1v2s_alone,
    dma_goes_by_the_mappings,
    binding_is_refused_on_a_type1_container,
];
