// SPDX-License-Identifier: Apache-2.0 OR MIT
//! BIND and UNBIND: what is refused, with which errno, and that nothing comes of it.

use std::fs::File;
use std::os::fd::AsRawFd;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, bytes_of, endpoint, endpoint_count, expect_errno, expect_ok, program, size_u32, skip,
    Errno, Outcome, Rig, Space, INACCESSIBLE,
};

const ECAP_SRS: u64 = 1 << 31;
const ECAP_EAFS: u64 = 1 << 34;

/// Tries a good bind with `change` made to it, expects `errno` and that nothing is bound,
/// and that the unchanged bind then works.
fn bind_fails(
    errno: Errno,
    what: &str,
    change: impl FnOnce(&Rig, &mut vfio_ioasid_bind),
) -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    let good = bind_at(rig.id(), space.pasid, &data);
    let mut bad = good;
    change(&rig, &mut bad);

    expect_errno(rig.container.bind(&bad), errno, what);

    assert_eq!(rig.container.stats()?.bindings, 0, "{what}: bindings");
    expect_errno(space.unbind(&rig), Errno::ENOENT, "unbind what failed");
    expect_ok(rig.container.bind(&good), "the bind without the mistake");
    Ok(())
}

/// The same for a mistake in the stage-1 data.
fn stage1_fails(errno: Errno, what: &str, change: impl FnOnce(&mut iommu_hwpt_vtd_s1)) -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let mut data = space.stage1();
    change(&mut data);
    let bytes = bytes_of(&data);

    expect_errno(
        rig.container.bind(&bind_at(rig.id(), space.pasid, &bytes)),
        errno,
        what,
    );

    assert_eq!(rig.container.stats()?.bindings, 0, "{what}: bindings");
    expect_ok(space.bind(&rig), "the bind without the mistake");
    Ok(())
}

fn bind_and_unbind_are_counted() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    assert_eq!(rig.container.stats()?.bindings, 1);
    space.unbind(&rig)?;
    assert_eq!(rig.container.stats()?.bindings, 0);
    Ok(())
}

fn bind_again_after_unbind_succeeds() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    for round in 0..100 {
        expect_ok(space.bind(&rig), &format!("bind, round {round}"));
        expect_ok(space.unbind(&rig), &format!("unbind, round {round}"));
    }
    assert_eq!(rig.container.stats()?.bindings, 0);
    Ok(())
}

fn bind_where_something_is_bound_returns_ebusy() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    expect_errno(space.bind(&rig), Errno::EBUSY, "bound already");
    assert_eq!(rig.container.stats()?.bindings, 1);
    Ok(())
}

fn bind_at_a_pasid_not_allocated_returns_enoent() -> Outcome {
    bind_fails(Errno::ENOENT, "PASID + 1", |_, bind| bind.pasid += 1)
}

fn bind_at_pasid_zero_returns_enoent() -> Outcome {
    bind_fails(Errno::ENOENT, "PASID 0", |_, bind| bind.pasid = 0)
}

fn bind_at_a_pasid_of_21_bits_returns_enoent() -> Outcome {
    bind_fails(Errno::ENOENT, "PASID 2^20", |_, bind| {
        bind.pasid = VFIO_IOASID_PASID_LIMIT;
    })
}

fn bind_at_a_freed_pasid_returns_enoent() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    rig.container.pasid_free(space.pasid, 1)?;
    expect_errno(space.bind(&rig), Errno::ENOENT, "freed");
    Ok(())
}

fn bind_to_an_unknown_device_returns_enoent() -> Outcome {
    bind_fails(Errno::ENOENT, "device 31.7", |_, bind| {
        bind.device.devfn = 0xff
    })
}

fn bind_to_another_segment_returns_enoent() -> Outcome {
    bind_fails(Errno::ENOENT, "segment 1", |_, bind| {
        bind.device.segment = 1
    })
}

fn bind_to_a_device_of_no_container_returns_enoent() -> Outcome {
    if endpoint_count() < 2 {
        return skip("needs two endpoints");
    }
    let other = endpoint(1)?.id();
    bind_fails(Errno::ENOENT, "the other endpoint", move |_, bind| {
        bind.device = other;
    })
}

fn bind_to_a_device_of_another_container_returns_enoent() -> Outcome {
    let Some(second) = Rig::open_second()? else {
        return skip("needs two endpoints");
    };
    let other = second.id();
    bind_fails(Errno::ENOENT, "the other container's", move |_, bind| {
        bind.device = other;
    })
}

fn bind_other_data_types_returns_eopnotsupp() -> Outcome {
    for data_type in [0, 2, 3, 4, 99, u32::MAX] {
        bind_fails(
            Errno::EOPNOTSUPP,
            &format!("data type {data_type}"),
            |_, bind| bind.data_type = data_type,
        )?;
    }
    Ok(())
}

fn bind_data_of_another_size_returns_einval() -> Outcome {
    for length in [0, 1, 16, 23, 25, 32, 4096, u32::MAX] {
        bind_fails(
            Errno::EINVAL,
            &format!("{length} bytes of stage-1 data"),
            |_, bind| bind.data_len = length,
        )?;
    }
    Ok(())
}

fn bind_data_inaccessible_returns_efault() -> Outcome {
    for address in [0, 8, INACCESSIBLE, 0xffff_8880_0000_0000, u64::MAX - 7] {
        bind_fails(
            Errno::EFAULT,
            &format!("data at {address:#x}"),
            |_, bind| bind.data_uptr = address,
        )?;
    }
    Ok(())
}

fn bind_address_width_unsupported_returns_einval() -> Outcome {
    for width in [0, 1, 12, 39, 47, 49, 52, 56, 58, 64, u32::MAX] {
        stage1_fails(Errno::EINVAL, &format!("width {width}"), |data| {
            data.addr_width = width;
        })?;
    }
    Ok(())
}

fn bind_address_width_57_follows_the_capability() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let mut data = space.stage1();
    data.addr_width = 57;
    let bytes = bytes_of(&data);
    let result = rig.container.bind(&bind_at(rig.id(), space.pasid, &bytes));
    if rig.caps.addr_width & 2 != 0 {
        expect_ok(result, "57 bits are offered");
    } else {
        expect_errno(result, Errno::EOPNOTSUPP, "57 bits are not offered");
    }
    Ok(())
}

fn bind_unknown_stage1_flags_return_einval() -> Outcome {
    for bit in [3, 4, 31, 32, 63] {
        stage1_fails(Errno::EINVAL, &format!("stage-1 flag {bit}"), |data| {
            data.flags |= 1 << bit;
        })?;
    }
    Ok(())
}

fn bind_stage1_padding_returns_einval() -> Outcome {
    stage1_fails(Errno::EINVAL, "padding", |data| data.__reserved = 1)
}

fn bind_stage1_flags_follow_the_registers() -> Outcome {
    let rig = Rig::nesting()?;
    let ecap = rig.caps.vtd_ecap;
    let flags = [
        (iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_SRE, ECAP_SRS, "SRE"),
        (iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_EAFE, ECAP_EAFS, "EAFE"),
    ];
    for (flag, needs, name) in flags {
        let space = Space::new(&rig)?;
        let mut data = space.stage1();
        data.flags = u64::from(flag);
        let bytes = bytes_of(&data);
        let result = rig.container.bind(&bind_at(rig.id(), space.pasid, &bytes));
        if ecap & needs != 0 {
            expect_ok(result, name);
        } else {
            expect_errno(result, Errno::EOPNOTSUPP, name);
        }
    }
    Ok(())
}

fn bind_table_not_page_aligned_returns_einval() -> Outcome {
    for offset in [1, 8, 0x800] {
        stage1_fails(Errno::EINVAL, &format!("table + {offset:#x}"), |data| {
            data.pgtbl_addr += offset;
        })?;
    }
    Ok(())
}

fn bind_table_beyond_52_bits_returns_einval() -> Outcome {
    stage1_fails(Errno::EINVAL, "a table at 2^60", |data| {
        data.pgtbl_addr = 1 << 60;
    })
}

fn bind_fault_fd_not_open_returns_ebadf() -> Outcome {
    bind_fails(Errno::EBADF, "fd 9999", |_, bind| bind.fault_fd = 9999)
}

fn bind_fault_fd_of_another_file_returns_einval() -> Outcome {
    let null = File::open("/dev/null")?;
    let number = null.as_raw_fd();
    bind_fails(Errno::EINVAL, "/dev/null", move |_, bind| {
        bind.fault_fd = number;
    })
}

fn bind_fault_fd_that_is_the_container_returns_einval() -> Outcome {
    bind_fails(Errno::EINVAL, "the container's fd", |rig, bind| {
        bind.fault_fd = rig.container.raw_fd();
    })
}

fn bind_fault_queue_of_another_container_returns_einval() -> Outcome {
    let Some(second) = Rig::open_second()? else {
        return skip("needs two endpoints");
    };
    let queue = second.container.fault_queue(0, 0)?;
    let number = queue.raw_fd();
    bind_fails(
        Errno::EINVAL,
        "the other container's queue",
        move |_, bind| {
            bind.fault_fd = number;
        },
    )
}

fn bind_with_two_mistakes_binds_nothing() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    let mut bad = bind_at(rig.id(), space.pasid, &data);
    bad.data_uptr = INACCESSIBLE;
    bad.fault_fd = 9999;
    let errno = rig.container.bind(&bad).err().map(|error| error.errno);
    assert!(
        matches!(errno, Some(Errno::EFAULT | Errno::EBADF)),
        "{errno:?}"
    );
    assert_eq!(rig.container.stats()?.bindings, 0);
    Ok(())
}

fn bind_over_the_quota_returns_edquot_until_one_is_unbound() -> Outcome {
    let rig = Rig::nesting()?;
    let quota = rig.caps.max_bindings;
    if quota > 8192 {
        return skip("the quota is too high to be reached in a test's time");
    }
    let first = rig
        .container
        .pasid_alloc(1, VFIO_IOASID_PASID_LIMIT - 1, quota + 1)?;
    let table = Space::at(&rig, first)?;
    let data = table.stage1_data();
    for pasid in first..first + quota {
        expect_ok(
            rig.container.bind(&bind_at(rig.id(), pasid, &data)),
            &format!("PASID {pasid}"),
        );
    }
    let one_more = bind_at(rig.id(), first + quota, &data);
    expect_errno(rig.container.bind(&one_more), Errno::EDQUOT, "one more");
    assert_eq!(rig.container.stats()?.bindings, u64::from(quota));

    rig.container
        .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), first)?;
    expect_ok(rig.container.bind(&one_more), "one unbound");

    rig.container
        .unbind(VFIO_IOASID_SCOPE_CONTAINER, rig.id(), 0)?;
    assert_eq!(rig.container.stats()?.bindings, 0);
    Ok(())
}

fn unbind_where_nothing_is_bound_returns_enoent() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    expect_errno(space.unbind(&rig), Errno::ENOENT, "never bound");
    space.bind(&rig)?;
    space.unbind(&rig)?;
    expect_errno(space.unbind(&rig), Errno::ENOENT, "unbound already");
    Ok(())
}

fn unbind_of_an_unknown_device_returns_enoent() -> Outcome {
    let rig = Rig::nesting()?;
    let mut device = rig.id();
    device.devfn = 0xff;
    for scope in [VFIO_IOASID_SCOPE_BINDING, VFIO_IOASID_SCOPE_DEVICE] {
        expect_errno(
            rig.container.unbind(scope, device, 1),
            Errno::ENOENT,
            "device 31.7",
        );
    }
    Ok(())
}

fn unbind_with_no_scope_or_two_returns_einval() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    for scope in [0, 3, 5, 6, 7] {
        expect_errno(
            rig.container.unbind(scope, rig.id(), space.pasid),
            Errno::EINVAL,
            &format!("scope {scope}"),
        );
    }
    assert_eq!(rig.container.stats()?.bindings, 1);
    Ok(())
}

fn unbind_of_a_device_or_container_with_nothing_bound_succeeds() -> Outcome {
    let rig = Rig::nesting()?;
    expect_ok(
        rig.container.unbind(VFIO_IOASID_SCOPE_DEVICE, rig.id(), 0),
        "device",
    );
    expect_ok(
        rig.container
            .unbind(VFIO_IOASID_SCOPE_CONTAINER, Default::default(), 0),
        "container",
    );
    Ok(())
}

fn unbind_of_the_device_unbinds_all_of_its_pasids() -> Outcome {
    let rig = Rig::nesting()?;
    let spaces: Vec<_> = (0..5).map(|_| Space::new(&rig)).collect::<Result<_, _>>()?;
    for space in &spaces {
        space.bind(&rig)?;
    }
    rig.container
        .unbind(VFIO_IOASID_SCOPE_DEVICE, rig.id(), 0)?;
    assert_eq!(rig.container.stats()?.bindings, 0);
    for space in &spaces {
        expect_errno(space.unbind(&rig), Errno::ENOENT, "unbound");
        expect_ok(rig.container.pasid_free(space.pasid, 1), "not in use");
    }
    Ok(())
}

fn unbind_of_a_device_leaves_the_other_device_bound() -> Outcome {
    let Some(rig) = Rig::nesting_with_both_endpoints()? else {
        return skip("needs two endpoints");
    };
    let space = Space::new(&rig)?;
    let data = space.stage1_data();
    let (first, second) = (rig.id(), endpoint(1)?.id());
    for device in [first, second] {
        expect_ok(
            rig.container.bind(&bind_at(device, space.pasid, &data)),
            "the same PASID on each device",
        );
    }
    assert_eq!(rig.container.stats()?.bindings, 2);

    rig.container.unbind(VFIO_IOASID_SCOPE_DEVICE, first, 0)?;

    assert_eq!(rig.container.stats()?.bindings, 1);
    expect_errno(
        rig.container.pasid_free(space.pasid, 1),
        Errno::EBUSY,
        "still bound on the other device",
    );
    expect_ok(
        rig.container
            .unbind(VFIO_IOASID_SCOPE_BINDING, second, space.pasid),
        "the other device",
    );
    Ok(())
}

fn unbind_argument_reserved_for_later_is_not_written() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let call = vfio_ioasid_unbind {
        argsz: size_u32::<vfio_ioasid_unbind>(),
        flags: VFIO_IOASID_SCOPE_BINDING,
        device: rig.id(),
        pasid: space.pasid,
    };
    let mut bytes = bytes_of(&call);
    let before = bytes.clone();
    rig.container
        .raw(host_iommu_bindings::ioctl::VFIO_IOASID_UNBIND, &mut bytes)?;
    assert_eq!(bytes, before, "UNBIND has no output");
    Ok(())
}

program![
    bind_and_unbind_are_counted,
    bind_again_after_unbind_succeeds,
    bind_where_something_is_bound_returns_ebusy,
    bind_at_a_pasid_not_allocated_returns_enoent,
    bind_at_pasid_zero_returns_enoent,
    bind_at_a_pasid_of_21_bits_returns_enoent,
    bind_at_a_freed_pasid_returns_enoent,
    bind_to_an_unknown_device_returns_enoent,
    bind_to_another_segment_returns_enoent,
    bind_to_a_device_of_no_container_returns_enoent,
    bind_to_a_device_of_another_container_returns_enoent,
    bind_other_data_types_returns_eopnotsupp,
    bind_data_of_another_size_returns_einval,
    bind_data_inaccessible_returns_efault,
    bind_address_width_unsupported_returns_einval,
    bind_address_width_57_follows_the_capability,
    bind_unknown_stage1_flags_return_einval,
    bind_stage1_padding_returns_einval,
    bind_stage1_flags_follow_the_registers,
    bind_table_not_page_aligned_returns_einval,
    bind_table_beyond_52_bits_returns_einval,
    bind_fault_fd_not_open_returns_ebadf,
    bind_fault_fd_of_another_file_returns_einval,
    bind_fault_fd_that_is_the_container_returns_einval,
    bind_fault_queue_of_another_container_returns_einval,
    bind_with_two_mistakes_binds_nothing,
    bind_over_the_quota_returns_edquot_until_one_is_unbound,
    unbind_where_nothing_is_bound_returns_enoent,
    unbind_of_an_unknown_device_returns_enoent,
    unbind_with_no_scope_or_two_returns_einval,
    unbind_of_a_device_or_container_with_nothing_bound_succeeds,
    unbind_of_the_device_unbinds_all_of_its_pasids,
    unbind_of_a_device_leaves_the_other_device_bound,
    unbind_argument_reserved_for_later_is_not_written,
];
