// SPDX-License-Identifier: Apache-2.0 OR MIT
//! On hardware whose stage 1 has four levels only: the capability says so, five are refused before
//! the driver is asked, and what is bound stays.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, bind_at_rid, bytes_of, expect_errno, expect_status, program, skip, status, Errno,
    KernelLog, Order, Outcome, Rig, Space,
};

const GVA: u64 = 0x4567_89ab_c000;

/// A rig whose unit has no tables of five levels, and a space with a page at GVA.
fn narrow() -> Outcome<(Rig, Space, u64)> {
    let rig = Rig::nesting_device()?;
    // CAP (VT-d 4.1, 11.4.2): FS5LP is bit 60.
    if rig.registers().0 & 1 << 60 != 0 {
        return skip("the hardware has tables of five levels");
    }
    let space = Space::new(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    Ok((rig, space, page))
}

fn wide_data(space: &Space) -> Vec<u8> {
    bytes_of(&iommu_hwpt_vtd_s1 {
        addr_width: 57,
        ..space.stage1()
    })
}

fn capability_has_48_bits_alone() -> Outcome {
    let (rig, ..) = narrow()?;
    assert_eq!(rig.caps.addr_width, 1);
    Ok(())
}

fn five_levels_are_refused_and_bind_nothing() -> Outcome {
    let (rig, space, page) = narrow()?;
    let mut log = KernelLog::from_now()?;
    let data = wide_data(&space);
    let binds = [
        bind_at(rig.id(), space.pasid, &data),
        bind_at_rid(rig.id(), &data),
    ];
    for bind in binds {
        let (result, outcome) = rig.container.bind_with_outcome(&bind);
        expect_errno(result, Errno::EOPNOTSUPP, "57 bits");
        assert_eq!(outcome, VFIO_IOASID_OUTCOME_UNCHANGED);
    }
    assert_eq!(rig.container.stats()?.bindings, 0);
    let said = log.lines_with(&["5-level paging"])?;
    assert!(said.is_empty(), "the driver was asked: {said:?}");
    space.bind(&rig)?;
    let order = Order::fill(GVA, 8, 48).at(space.pasid).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "four levels");
    assert_eq!(rig.mem.read_u64(page), 48);
    Ok(())
}

fn five_levels_do_not_take_the_place_of_four() -> Outcome {
    let (rig, space, page) = narrow()?;
    space.bind(&rig)?;
    let data = wide_data(&space);
    let mut bind = bind_at(rig.id(), space.pasid, &data);
    bind.flags |= VFIO_IOASID_BIND_REPLACE;
    let (result, outcome) = rig.container.bind_with_outcome(&bind);
    expect_errno(result, Errno::EOPNOTSUPP, "57 bits");
    assert_eq!(outcome, VFIO_IOASID_OUTCOME_UNCHANGED);
    let order = Order::fill(GVA, 8, 49).at(space.pasid).no_pri();
    expect_status(rig.dma().run(&order)?, status::OK, "the old table");
    assert_eq!(rig.mem.read_u64(page), 49);
    Ok(())
}

program![
    capability_has_48_bits_alone,
    five_levels_are_refused_and_bind_nothing,
    five_levels_do_not_take_the_place_of_four,
];
