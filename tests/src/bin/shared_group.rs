// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two endpoints in one IOMMU group: a PASID attach would reach both, so that nothing can be
//! bound. Skipped where each endpoint has a group of its own.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    all_endpoints, bdf, bind_at, bytes_of, expect_errno, program, skip, Container, Endpoint, Errno,
    Group, Memory, Outcome, PAGE,
};
use host_iommu_tests::stage1::Table;

/// Two endpoints of one group.
fn pair() -> Outcome<[Endpoint; 2]> {
    let all = all_endpoints();
    for (index, first) in all.iter().enumerate() {
        for second in &all[index + 1..] {
            if first.group()? == second.group()? {
                return Ok([*first, *second]);
            }
        }
    }
    skip("no two endpoints share a group")
}

fn attached(pair: &[Endpoint; 2]) -> Outcome<(Container, Group, Memory)> {
    let container = Container::open()?;
    let group = Group::open(&pair[0])?;
    group.set_container(&container)?;
    container.set_iommu(VFIO_IOASID_IOMMU)?;
    let memory = Memory::new(64 * PAGE)?;
    container.map(&memory, 0)?;
    Ok((container, group, memory))
}

/// Linux leaves PASID off where a request could be routed to the other function, which is what
/// makes functions share a group.
fn says_why(reason: u32) -> bool {
    [VFIO_IOASID_REASON_GROUP_SHARED, VFIO_IOASID_REASON_NO_PASID].contains(&reason)
}

fn devices_lists_both_with_the_reason() -> Outcome {
    let pair = pair()?;
    let (container, _group, _memory) = attached(&pair)?;
    let devices = container.devices()?;
    assert_eq!(devices.len(), 2);
    for endpoint in &pair {
        let info = devices
            .iter()
            .find(|info| bdf(info.device) == bdf(endpoint.id()));
        let reason = info.map(|info| u32::from(info.reason));
        assert!(reason.is_some_and(says_why), "{endpoint}: {reason:?}");
    }
    Ok(())
}

fn capability_names_the_shared_group() -> Outcome {
    let (container, _group, _memory) = attached(&pair()?)?;
    let cap = container.capabilities()?.unwrap_or_default();
    assert_eq!(cap.flags & VFIO_IOASID_NESTING_PASID, 0);
    assert!(says_why(u32::from(cap.reason)), "reason {}", cap.reason);
    Ok(())
}

fn bind_returns_eopnotsupp_for_each() -> Outcome {
    let pair = pair()?;
    let (container, _group, memory) = attached(&pair)?;
    let pasid = container.pasid_alloc_any()?;
    let data = bytes_of(&iommu_hwpt_vtd_s1 {
        pgtbl_addr: Table::new(&memory).root(),
        addr_width: 48,
        ..Default::default()
    });
    for endpoint in &pair {
        expect_errno(
            container.bind(&bind_at(endpoint.id(), pasid, &data)),
            Errno::EOPNOTSUPP,
            &endpoint.to_string(),
        );
    }
    assert_eq!(container.stats()?.bindings, 0);
    Ok(())
}

program![
    devices_lists_both_with_the_reason,
    capability_names_the_shared_group,
    bind_returns_eopnotsupp_for_each,
];
