// SPDX-License-Identifier: Apache-2.0 OR MIT
//! MAP_DMA of a BAR that vfio-pci mapped into the process: the device reaches it, and nothing is
//! pinned or charged; beside vfio_iommu_type1.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    drop_ipc_lock, endpoint, endpoint_count, expect_status, fail, held_bytes, program,
    set_memlock_limit, size_u32, skip, status, Container, Errno, Group, Order, Outcome, Rig, PAGE,
};
use host_iommu_tests::testdev::BAR;
use host_iommu_tests::vfio::Device;

/// IOVA of the BAR, clear of a rig's memory.
const AT: u64 = 0x9_0000_0000;

fn map(container: &Container, vaddr: u64, size: u64) -> Result<(), Errno> {
    container
        .map_raw(&vfio_iommu_type1_dma_map {
            argsz: size_u32::<vfio_iommu_type1_dma_map>(),
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr,
            iova: AT,
            size,
        })
        .map_err(|error| error.errno)
}

/// The second endpoint in a container of its own, whose registers are what is mapped.
struct Registers {
    device: Device,
    _files: (Container, Group),
}

fn registers() -> Outcome<Registers> {
    if endpoint_count() < 2 {
        return skip("one endpoint");
    }
    let endpoint = endpoint(1)?;
    let container = Container::open()?;
    let group = Group::open(&endpoint)?;
    group.set_container(&container)?;
    container.set_iommu(VFIO_IOASID_IOMMU)?;
    let device = group.device(&endpoint)?;
    device.set_bus_master(true)?;
    Ok(Registers {
        device,
        _files: (container, group),
    })
}

fn device_reads_the_registers_of_another() -> Outcome {
    let other = registers()?;
    let bar = other.device.map_bar(BAR)?;
    let rig = Rig::open_device()?;
    if let Err(errno) = map(&rig.container, bar.address(), bar.size() as u64) {
        return fail(format!("MAP_DMA of the BAR: {errno:?}"));
    }
    assert_eq!(rig.container.stats()?.mappings, 2);
    let page = rig.mem.alloc_page();
    rig.mem.fill(page, PAGE, 0xee);
    let order = Order::copy(AT, page, 8).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "a copy from the BAR");
    assert_eq!(rig.mem.read_u64(page), bar.read_u64(0), "the registers");
    assert_ne!(
        rig.mem.read_u64(page),
        0xeeee_eeee_eeee_eeee,
        "nothing came"
    );

    assert_eq!(
        rig.container.unmap(AT, bar.size() as u64)?,
        bar.size() as u64
    );
    let done = rig.dma().run(&order)?;
    expect_status(done, status::NO_ACCESS, "after UNMAP_DMA");
    Ok(())
}

fn registers_are_not_charged() -> Outcome {
    let other = registers()?;
    let bar = other.device.map_bar(BAR)?;
    drop_ipc_lock()?;
    for kind in [VFIO_TYPE1v2_IOMMU, VFIO_IOASID_IOMMU] {
        let container = Container::open()?;
        let group = Group::open(&endpoint(0)?)?;
        group.set_container(&container)?;
        container.set_iommu(kind)?;
        let before = held_bytes()?;
        set_memlock_limit(0)?;
        assert_eq!(map(&container, bar.address(), PAGE), Ok(()), "type {kind}");
        assert_eq!(held_bytes()?, before, "type {kind}");
        assert_eq!(container.unmap(AT, PAGE)?, PAGE);
        assert_eq!(held_bytes()?, before, "type {kind}");
    }
    Ok(())
}

fn memory_behind_the_registers_is_efault() -> Outcome {
    let other = registers()?;
    let bar = other.device.map_bar(BAR)?;
    let size = bar.size() as u64;
    for kind in [VFIO_TYPE1v2_IOMMU, VFIO_IOASID_IOMMU] {
        let container = Container::open()?;
        let group = Group::open(&endpoint(0)?)?;
        group.set_container(&container)?;
        container.set_iommu(kind)?;
        // Far beyond: other mappings of the process may follow the BAR's.
        let result = map(&container, bar.address(), size + (1 << 40));
        assert_eq!(result, Err(Errno::EFAULT), "type {kind}");
        assert_eq!(map(&container, bar.address(), size), Ok(()), "type {kind}");
    }
    Ok(())
}

program![
    device_reads_the_registers_of_another,
    memory_behind_the_registers_is_efault,
    // Takes the right to lock memory away from the process.
    registers_are_not_charged,
];
