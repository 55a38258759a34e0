// SPDX-License-Identifier: Apache-2.0 OR MIT
//! On hardware that cannot nest: the capability says why, BIND is EOPNOTSUPP, and the
//! rest works. Skipped where the hardware nests.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry, bind_as_at, bind_at, bytes_of, expect_errno, expect_ok, expect_status, program,
    status, Errno, Memory, Order, Outcome, Rig, Stop, PAGE,
};

/// A rig, unless the hardware nests.
fn plain() -> Result<Rig, Stop> {
    let rig = Rig::open_device()?;
    if rig.caps.flags & VFIO_IOASID_NESTING_PASID != 0 {
        return Err(Stop::Skip("the hardware nests".into()));
    }
    Ok(rig)
}

fn capability_names_the_reason() -> Outcome {
    let rig = plain()?;
    let reason = u32::from(rig.caps.reason);
    assert!(
        [VFIO_IOASID_REASON_HARDWARE, VFIO_IOASID_REASON_NO_PASID].contains(&reason),
        "reason {reason}"
    );
    assert_ne!(u32::from(rig.caps.prq_reason), VFIO_IOASID_REASON_NONE);
    assert_eq!(rig.caps.flags & VFIO_IOASID_NESTING_PRQ, 0);
    assert_eq!(rig.caps.data_types & 2, 0, "no VT-d stage 1");
    let info = rig.container.devices()?[0];
    assert_eq!(u32::from(info.reason), reason);
    assert_eq!(info.flags & VFIO_IOASID_DEVICE_NESTING, 0);
    Ok(())
}

fn capability_agrees_with_the_registers() -> Outcome {
    let rig = plain()?;
    // ECAP (VT-d 4.1, 11.4.3): NEST is bit 26, SMTS bit 43.
    let nests = rig.caps.vtd_ecap & (1 << 26) != 0 && rig.caps.vtd_ecap & (1 << 43) != 0;
    if u32::from(rig.caps.reason) == VFIO_IOASID_REASON_HARDWARE {
        assert!(!nests, "ECAP {:#x} nests", rig.caps.vtd_ecap);
    }
    Ok(())
}

fn bind_returns_eopnotsupp_and_binds_nothing() -> Outcome {
    let rig = plain()?;
    let pasid = rig.container.pasid_alloc_any()?;
    let data = bytes_of(&iommu_hwpt_vtd_s1 {
        pgtbl_addr: rig.mem.base(),
        addr_width: 48,
        ..Default::default()
    });
    expect_errno(
        rig.container.bind(&bind_at(rig.id(), pasid, &data)),
        Errno::EOPNOTSUPP,
        "BIND",
    );
    assert_eq!(rig.container.stats()?.bindings, 0);
    expect_ok(rig.container.pasid_free(pasid, 1), "the PASID is free");
    Ok(())
}

fn read_only_map_is_what_it_says() -> Outcome {
    let rig = plain()?;
    assert_eq!(rig.caps.flags & VFIO_IOASID_NESTING_NO_READONLY, 0);
    let memory = Memory::new(PAGE)?;
    rig.container.map_raw(&vfio_iommu_type1_dma_map {
        argsz: 32,
        flags: VFIO_DMA_MAP_FLAG_READ,
        vaddr: memory.address(),
        iova: 0x5_0000_0000,
        size: PAGE,
    })?;
    let read = Order::checksum(0x5_0000_0000, 64).no_pri().no_ats();
    expect_status(rig.dma().run(&read)?, status::OK, "read");
    let write = Order::fill(0x5_0000_0000, 8, 1).no_pri().no_ats();
    expect_status(rig.dma().run(&write)?, status::NO_ACCESS, "write");
    assert_eq!(memory.read_u64(memory.base()), 0);
    Ok(())
}

fn dma_without_pasid_works() -> Outcome {
    let rig = plain()?;
    let page = rig.mem.alloc_page();
    let order = Order::fill(page, 8, 9).no_pri().no_ats();
    expect_status(rig.dma().run(&order)?, status::OK, "by GPA");
    assert_eq!(rig.mem.read_u64(page), 9);
    Ok(())
}

fn fault_queue_can_be_made_and_stays_empty() -> Outcome {
    let rig = plain()?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    expect_errno(queue.read_bytes(4096), Errno::EAGAIN, "empty");
    Ok(())
}

fn address_space_at_the_rid_takes_the_place_of_stage_2() -> Outcome {
    let rig = plain()?;
    let id = rig.container.as_create()?;
    let (iova, gpa) = (0x7000_0000, rig.mem.alloc_page());
    let entries = [as_entry(
        iova,
        gpa,
        PAGE,
        VFIO_IOASID_AS_READ | VFIO_IOASID_AS_WRITE,
    )];
    assert_eq!(rig.container.as_map(id, &entries), (Ok(()), 1, 1));

    let order = Order::fill(iova, 8, 0x66).no_pri().no_ats();
    let by_gpa = Order::fill(gpa, 8, 0x55).no_pri().no_ats();
    expect_status(rig.dma().run(&order)?, status::NO_ACCESS, "before BIND");
    let mut bind = bind_as_at(rig.id(), 0, id);
    bind.flags |= VFIO_IOASID_BIND_RID;
    rig.container.bind(&bind)?;
    expect_status(rig.dma().run(&order)?, status::OK, "by the entry");
    assert_eq!(rig.mem.read_u64(gpa), 0x66);
    expect_status(rig.dma().run(&by_gpa)?, status::NO_ACCESS, "by GPA");
    rig.container.unbind(VFIO_IOASID_SCOPE_RID, rig.id(), 0)?;
    expect_status(rig.dma().run(&by_gpa)?, status::OK, "stage 2 again");
    Ok(())
}

program![
    capability_names_the_reason,
    capability_agrees_with_the_registers,
    bind_returns_eopnotsupp_and_binds_nothing,
    read_only_map_is_what_it_says,
    dma_without_pasid_works,
    fault_queue_can_be_made_and_stays_empty,
    address_space_at_the_rid_takes_the_place_of_stage_2,
];
