// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Huge pages stay huge from the process's memory to the IOMMU's page table: STATS counts the
//! large entries, and the endpoint's translation requests show them in force.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    expect_status, program, size_u32, skip, status, Memory, Order, Outcome, Rig, PAGE,
};
use std::fs;

const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
/// IOVA where the tests map, aligned to 1 GiB and clear of a rig's own memory.
const AT: u64 = 4 << 30;
/// Bytes of the 2 MiB tests: more than the module pins a time.
const SIZE: u64 = 32 << 20;

/// `size` bytes in huge pages, after setting them aside.
fn huge(size: u64, page: u64) -> Outcome<Memory> {
    let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page / 1024);
    let file = format!("{folder}/nr_hugepages");
    fs::write(&file, (size / page).to_string())?;
    match Memory::huge(size, page.trailing_zeros()) {
        Ok(memory) => Ok(memory),
        Err(error) => {
            fs::write(&file, "0")?;
            skip(format!(
                "no {size:#x} bytes in pages of {page:#x}: {error:?}"
            ))
        }
    }
}

fn has_pages_of(rig: &Rig, size: u64) -> Outcome {
    if rig.container.info()?.page_sizes & size == 0 {
        return skip(format!("stage 2 has no pages of {size:#x} bytes"));
    }
    Ok(())
}

/// Maps `size` bytes at `offset` of `memory`.
fn map(rig: &Rig, memory: &Memory, offset: u64, iova: u64, size: u64) -> Outcome {
    rig.container.map_raw(&vfio_iommu_type1_dma_map {
        argsz: size_u32::<vfio_iommu_type1_dma_map>(),
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: memory.address() + offset,
        iova,
        size,
    })?;
    Ok(())
}

/// Mappings, 4 KiB pages, entries of 2 MiB and of 1 GiB.
fn entries(rig: &Rig) -> Outcome<[u64; 4]> {
    let stats = rig.container.stats()?;
    Ok([
        stats.mappings,
        stats.mapped_pages,
        stats.pages_2m,
        stats.pages_1g,
    ])
}

fn stage_2_has_pages_of_2m_and_1g() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let sizes = rig.container.info()?.page_sizes;
    // SLLPS of VT-d's capability register (VT-d 4.1, 11.4.2), in force for stage 2.
    let (cap, _) = rig.registers();
    for (bit, size) in [(34, M2), (35, G1)] {
        if cap & 1 << bit != 0 {
            assert_ne!(sizes & size, 0, "pages of {size:#x} bytes");
        }
    }
    assert_ne!(sizes & PAGE, 0);
    Ok(())
}

fn each_2m_page_is_one_entry() -> Outcome {
    let rig = Rig::open_unmapped()?;
    has_pages_of(&rig, M2)?;
    let memory = huge(SIZE, M2)?;
    map(&rig, &memory, 0, AT, SIZE)?;
    assert_eq!(entries(&rig)?, [1, SIZE / PAGE, SIZE / M2, 0]);
    assert_eq!(rig.container.unmap(AT, SIZE)?, SIZE);
    assert_eq!(entries(&rig)?, [0; 4]);
    Ok(())
}

fn iova_off_by_a_page_has_no_large_entry() -> Outcome {
    let rig = Rig::open_unmapped()?;
    has_pages_of(&rig, M2)?;
    let memory = huge(SIZE, M2)?;
    map(&rig, &memory, 0, AT + PAGE, SIZE)?;
    assert_eq!(entries(&rig)?, [1, SIZE / PAGE, 0, 0]);
    Ok(())
}

fn runs_go_on_where_a_batch_of_pages_ends() -> Outcome {
    let rig = Rig::open_unmapped()?;
    has_pages_of(&rig, M2)?;
    let memory = huge(SIZE, M2)?;
    // One page less: batches of a power of two end inside huge pages.
    map(&rig, &memory, PAGE, AT + PAGE, SIZE - PAGE)?;
    assert_eq!(entries(&rig)?, [1, SIZE / PAGE - 1, SIZE / M2 - 1, 0]);
    Ok(())
}

fn translation_requests_of_a_fill(rig: &Rig, iova: u64) -> Outcome<u64> {
    let before = rig.dma().counters().translation_requests;
    let order = Order::fill(iova, M2 as u32, 0x5aa5).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "a fill of 2 MiB");
    Ok(rig.dma().counters().translation_requests - before)
}

fn device_reaches_2m_by_one_translation() -> Outcome {
    let rig = Rig::open_device()?;
    has_pages_of(&rig, M2)?;
    let memory = huge(4 * M2, M2)?;
    map(&rig, &memory, 0, 2 * AT, 4 * M2)?;
    assert_eq!(translation_requests_of_a_fill(&rig, 2 * AT + M2)?, 1);
    assert_eq!(memory.read_u64(2 * M2 - 8), 0x5aa5);
    assert_eq!(memory.read_u64(2 * M2), 0);
    // The same memory by small pages.
    map(&rig, &memory, 0, 3 * AT + PAGE, 4 * M2)?;
    let small = translation_requests_of_a_fill(&rig, 3 * AT + PAGE)?;
    assert!(small >= M2 / PAGE / 8, "{small} requests for small pages");
    Ok(())
}

fn unmapped_2m_page_is_reached_no_more() -> Outcome {
    let rig = Rig::open_device()?;
    has_pages_of(&rig, M2)?;
    let memory = huge(4 * M2, M2)?;
    map(&rig, &memory, 0, 2 * AT, 2 * M2)?;
    map(&rig, &memory, 2 * M2, 2 * AT + 2 * M2, 2 * M2)?;
    translation_requests_of_a_fill(&rig, 2 * AT)?;
    translation_requests_of_a_fill(&rig, 2 * AT + 2 * M2)?;
    assert_eq!(rig.container.unmap(2 * AT, 2 * M2)?, 2 * M2);
    for iova in [2 * AT, 2 * AT + 2 * M2 - 8] {
        let done = rig.dma().run(&Order::fill(iova, 8, 1).no_pri())?;
        expect_status(done, status::NO_ACCESS, "unmapped");
    }
    translation_requests_of_a_fill(&rig, 2 * AT + 2 * M2)?;
    Ok(())
}

fn a_1g_page_is_one_entry() -> Outcome {
    let rig = Rig::open_unmapped()?;
    has_pages_of(&rig, G1)?;
    let memory = huge(G1, G1)?;
    map(&rig, &memory, 0, AT, G1)?;
    assert_eq!(entries(&rig)?, [1, G1 / PAGE, 0, 1]);
    rig.container.unmap(AT, G1)?;
    // All but its last page.
    map(&rig, &memory, 0, AT, G1 - PAGE)?;
    assert_eq!(entries(&rig)?, [1, G1 / PAGE - 1, G1 / M2 - 1, 0]);
    Ok(())
}

program![
    stage_2_has_pages_of_2m_and_1g,
    each_2m_page_is_one_entry,
    iova_off_by_a_page_has_no_large_entry,
    runs_go_on_where_a_batch_of_pages_ends,
    device_reaches_2m_by_one_translation,
    unmapped_2m_page_is_reached_no_more,
    a_1g_page_is_one_entry,
];
