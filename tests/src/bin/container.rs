// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Choosing the module on a container, attaching and detaching groups, and what is
//! reported of them.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bdf, endpoint, endpoint_count, expect_errno, expect_ok, program, size_u32, skip, Container,
    Errno, Group, Outcome, Rig,
};

const TYPE6: u32 = VFIO_IOASID_IOMMU;

fn check_extension_without_group_offers_type_6() -> Outcome {
    let container = Container::open()?;
    assert_eq!(container.check_extension(TYPE6)?, 1);
    Ok(())
}

fn check_extension_of_a_chosen_container_answers_for_the_module() -> Outcome {
    let rig = Rig::open()?;
    assert_eq!(rig.container.check_extension(TYPE6)?, 1);
    assert_eq!(rig.container.check_extension(VFIO_UNMAP_ALL)?, 1);
    for unknown in [0, 5, 7, 8, 11, 200, u32::MAX] {
        assert_eq!(
            rig.container.check_extension(unknown)?,
            0,
            "extension {unknown}"
        );
    }
    Ok(())
}

/// linux/vfio.h: type1 can unmap everything in one call.
const VFIO_UNMAP_ALL: u32 = 9;

fn set_iommu_without_group_returns_einval() -> Outcome {
    let container = Container::open()?;
    expect_errno(container.set_iommu(TYPE6), Errno::EINVAL, "no group");
    Ok(())
}

fn set_iommu_twice_returns_einval() -> Outcome {
    let rig = Rig::open()?;
    expect_errno(rig.container.set_iommu(TYPE6), Errno::EINVAL, "second time");
    expect_errno(
        rig.container.set_iommu(VFIO_TYPE1v2_IOMMU),
        Errno::EINVAL,
        "another type",
    );
    Ok(())
}

fn set_iommu_unknown_type_returns_enodev() -> Outcome {
    let container = Container::open()?;
    let group = Group::open(&endpoint(0)?)?;
    group.set_container(&container)?;
    expect_errno(container.set_iommu(200), Errno::ENODEV, "type 200");
    // The container is none the worse for it.
    expect_ok(container.set_iommu(TYPE6), "type 6");
    Ok(())
}

fn type1v2_by_default_stays_with_type1() -> Outcome {
    let container = Container::open()?;
    let group = Group::open(&endpoint(0)?)?;
    group.set_container(&container)?;
    container.set_iommu(VFIO_TYPE1v2_IOMMU)?;
    assert!(container.capabilities()?.is_none(), "no capability of ours");
    expect_errno(container.stats(), Errno::ENOTTY, "STATS on type1");
    Ok(())
}

fn call_before_set_iommu_returns_einval() -> Outcome {
    let container = Container::open()?;
    let group = Group::open(&endpoint(0)?)?;
    group.set_container(&container)?;
    expect_errno(container.stats(), Errno::EINVAL, "STATS");
    expect_errno(container.pasid_alloc(1, 9, 1), Errno::EINVAL, "PASID_ALLOC");
    Ok(())
}

fn devices_lists_the_attached_endpoint() -> Outcome {
    let rig = Rig::open()?;
    let devices = rig.container.devices()?;
    assert_eq!(devices.len(), 1);
    assert_eq!(bdf(devices[0].device), bdf(rig.id()));
    Ok(())
}

fn devices_with_count_zero_reports_the_number() -> Outcome {
    let rig = Rig::open()?;
    let (count, entries) = rig.container.devices_with_room(0)?;
    assert_eq!(count, 1);
    assert!(entries.is_empty());
    Ok(())
}

fn devices_with_more_room_writes_only_what_there_is() -> Outcome {
    let rig = Rig::open()?;
    let (count, entries) = rig.container.devices_with_room(3)?;
    assert_eq!(count, 1);
    assert_eq!(bdf(entries[0].device), bdf(rig.id()));
    for entry in &entries[1..] {
        assert_eq!(entry.flags, 0);
        assert_eq!(entry.vtd_cap, 0);
    }
    Ok(())
}

fn devices_bad_pointer_returns_efault() -> Outcome {
    let rig = Rig::open()?;
    let mut call = vfio_ioasid_devices {
        argsz: size_u32::<vfio_ioasid_devices>(),
        entry_len: size_u32::<vfio_ioasid_device_info>(),
        count: 1,
        entries_uptr: host_iommu_tests::rig::INACCESSIBLE,
        ..Default::default()
    };
    expect_errno(
        rig.container.devices_raw(&mut call),
        Errno::EFAULT,
        "entries_uptr",
    );
    Ok(())
}

fn devices_entry_too_short_returns_einval() -> Outcome {
    let rig = Rig::open()?;
    let mut call = vfio_ioasid_devices {
        argsz: size_u32::<vfio_ioasid_devices>(),
        entry_len: size_u32::<vfio_ioasid_device_info>() - 1,
        count: 1,
        entries_uptr: host_iommu_tests::rig::INACCESSIBLE,
        ..Default::default()
    };
    expect_errno(
        rig.container.devices_raw(&mut call),
        Errno::EINVAL,
        "entry_len",
    );
    Ok(())
}

fn two_groups_attached_are_both_listed_and_leave_one_by_one() -> Outcome {
    if endpoint_count() < 2 {
        return skip("needs two endpoints");
    }
    let container = Container::open()?;
    let names = [endpoint(0)?, endpoint(1)?];
    let first = Group::open(&names[0])?;
    first.set_container(&container)?;
    container.set_iommu(TYPE6)?;
    let second = Group::open(&names[1])?;

    second.set_container(&container)?;
    let both = container.devices()?;
    assert_eq!(both.len(), 2);
    for name in &names {
        assert!(
            both.iter().any(|info| bdf(info.device) == bdf(name.id())),
            "{name} is listed"
        );
    }

    first.unset_container()?;
    let left = container.devices()?;
    assert_eq!(left.len(), 1);
    assert_eq!(bdf(left[0].device), bdf(names[1].id()));
    Ok(())
}

fn both_groups_before_set_iommu_are_attached() -> Outcome {
    if endpoint_count() < 2 {
        return skip("needs two endpoints");
    }
    let container = Container::open()?;
    let first = Group::open(&endpoint(0)?)?;
    let second = Group::open(&endpoint(1)?)?;
    first.set_container(&container)?;
    second.set_container(&container)?;
    container.set_iommu(TYPE6)?;
    assert_eq!(container.devices()?.len(), 2);
    Ok(())
}

fn last_group_gone_resets_the_container() -> Outcome {
    let container = Container::open()?;
    let group = Group::open(&endpoint(0)?)?;
    group.set_container(&container)?;
    container.set_iommu(TYPE6)?;
    container.pasid_alloc(5, 5, 1)?;

    group.unset_container()?;
    expect_errno(container.stats(), Errno::EINVAL, "no driver is left");

    group.set_container(&container)?;
    container.set_iommu(TYPE6)?;
    assert_eq!(container.stats()?.pasids, 0, "PASIDs went with the group");
    expect_ok(container.pasid_alloc(5, 5, 1), "PASID 5 is free again");
    Ok(())
}

fn detach_and_attach_again_many_times_succeeds() -> Outcome {
    let container = Container::open()?;
    let group = Group::open(&endpoint(0)?)?;
    for round in 0..32 {
        group.set_container(&container)?;
        expect_ok(container.set_iommu(TYPE6), &format!("round {round}"));
        assert_eq!(container.devices()?.len(), 1);
        group.unset_container()?;
    }
    Ok(())
}

fn group_taken_by_one_container_returns_einval_for_another() -> Outcome {
    let rig = Rig::open()?;
    let other = Container::open()?;
    expect_errno(rig.group.set_container(&other), Errno::EINVAL, "taken");
    Ok(())
}

fn capability_is_version_one_and_agrees_with_devices() -> Outcome {
    let rig = Rig::open()?;
    let Some(cap) = rig.container.capabilities()? else {
        panic!("GET_INFO has no VFIO_IOASID_CAP_NESTING");
    };
    let info = rig.container.devices()?[0];
    assert_eq!(cap.header.version, 1);
    assert_eq!(
        cap.flags & VFIO_IOASID_NESTING_PASID != 0,
        info.flags & VFIO_IOASID_DEVICE_NESTING != 0,
        "nesting of container and device"
    );
    assert_eq!(
        cap.flags & VFIO_IOASID_NESTING_PRQ != 0,
        info.flags & VFIO_IOASID_DEVICE_PRQ != 0,
        "page requests of container and device"
    );
    assert_eq!(u32::from(cap.reason), u32::from(info.reason));
    assert_eq!(u32::from(cap.prq_reason), u32::from(info.prq_reason));
    assert_eq!(cap.vtd_cap, info.vtd_cap);
    assert_eq!(cap.vtd_ecap, info.vtd_ecap);
    assert!(cap.max_pasids > 0 && cap.max_bindings > 0 && cap.max_fault_queues > 0);
    Ok(())
}

fn capability_of_nesting_hardware_has_no_reason_and_a_format() -> Outcome {
    let rig = Rig::nesting()?;
    let cap = rig.caps;
    assert_eq!(u32::from(cap.reason), VFIO_IOASID_REASON_NONE);
    // Bit IOMMU_HWPT_DATA_VTD_S1 of linux/iommufd.h.
    assert_ne!(cap.data_types & (1 << 1), 0, "VT-d stage 1");
    assert_ne!(cap.addr_width & 1, 0, "48 bits");
    assert!((1..=20).contains(&cap.pasid_bits), "{}", cap.pasid_bits);
    let info = rig.container.devices()?[0];
    assert!(info.max_pasids > 1 && info.max_pasids <= 1 << 20);
    // ECAP (VT-d 4.1, 11.4.3): NEST is bit 26, SMTS bit 43.
    assert_ne!(cap.vtd_ecap & (1 << 26), 0, "ECAP.NEST");
    assert_ne!(cap.vtd_ecap & (1 << 43), 0, "ECAP.SMTS");
    Ok(())
}

fn capability_registers_are_those_of_sysfs() -> Outcome {
    let rig = Rig::open()?;
    let cap = rig.caps;
    let Some((vtd_cap, vtd_ecap)) = endpoint(0)?.vtd_registers() else {
        return skip("the endpoint's IOMMU has no intel-iommu folder in sysfs");
    };
    assert_eq!(cap.vtd_cap, vtd_cap);
    assert_eq!(cap.vtd_ecap, vtd_ecap);
    Ok(())
}

fn dma_faults_are_offered_where_the_kernel_tells_of_them() -> Outcome {
    let tells = std::env::var("KERNEL").is_ok_and(|kernel| kernel != "stock");
    let rig = Rig::nesting()?;
    let offered = rig.caps.flags & VFIO_IOASID_NESTING_DMA_FAULT != 0;
    assert_eq!(offered, tells);
    let reason = if offered {
        0
    } else {
        VFIO_IOASID_REASON_KERNEL
    };
    assert_eq!(u32::from(rig.caps.dma_fault_reason), reason);
    let queue = rig.container.fault_queue(VFIO_IOASID_FAULT_QUEUE_DMA, 0);
    if offered {
        expect_ok(queue, "a queue for DMA faults");
    } else {
        expect_errno(queue, Errno::EOPNOTSUPP, "a queue for DMA faults");
    }
    Ok(())
}

fn every_call_is_counted_whatever_comes_of_it() -> Outcome {
    let rig = Rig::open()?;
    let before = rig.container.stats()?.calls;
    expect_errno(
        rig.container.pasid_free(1, 1),
        Errno::ENOENT,
        "a call that fails",
    );
    rig.container.pasid_alloc_any()?;
    // The two, and STATS itself.
    assert_eq!(rig.container.stats()?.calls, before + 3);
    Ok(())
}

program![
    every_call_is_counted_whatever_comes_of_it,
    dma_faults_are_offered_where_the_kernel_tells_of_them,
    check_extension_without_group_offers_type_6,
    check_extension_of_a_chosen_container_answers_for_the_module,
    set_iommu_without_group_returns_einval,
    set_iommu_twice_returns_einval,
    set_iommu_unknown_type_returns_enodev,
    type1v2_by_default_stays_with_type1,
    call_before_set_iommu_returns_einval,
    devices_lists_the_attached_endpoint,
    devices_with_count_zero_reports_the_number,
    devices_with_more_room_writes_only_what_there_is,
    devices_bad_pointer_returns_efault,
    devices_entry_too_short_returns_einval,
    two_groups_attached_are_both_listed_and_leave_one_by_one,
    both_groups_before_set_iommu_are_attached,
    last_group_gone_resets_the_container,
    detach_and_attach_again_many_times_succeeds,
    group_taken_by_one_container_returns_einval_for_another,
    capability_is_version_one_and_agrees_with_devices,
    capability_of_nesting_hardware_has_no_reason_and_a_format,
    capability_registers_are_those_of_sysfs,
];
