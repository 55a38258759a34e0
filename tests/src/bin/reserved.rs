// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that one group alone reserves (a kprobe plants the region): they join what is mapped
//! already, in stage 2 and in address spaces.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry, endpoint, expect_errno, program, Container, Endpoint, Errno, Group, Memory, Outcome,
    ReservedRegion, PAGE,
};

/// In the middle of the region of `LENGTH` bytes from `START` on.
const INSIDE: u64 = START + PAGE;
const START: u64 = 0x7000_0000;
const LENGTH: u64 = 3 * PAGE;

/// A container with the first endpoint, and the second one, whose group has the region.
struct Scene {
    container: Container,
    _group: Group,
    _memory: Memory,
    second: Endpoint,
    region: ReservedRegion,
}

impl Scene {
    fn new() -> Outcome<Self> {
        let second = endpoint(1)?;
        let region = ReservedRegion::of(&second, START, LENGTH)?;
        let container = Container::open()?;
        let group = Group::open(&endpoint(0)?)?;
        group.set_container(&container)?;
        container.set_iommu(VFIO_IOASID_IOMMU)?;
        let memory = Memory::new(64 * PAGE)?;
        container.map(&memory, 0)?;
        Ok(Self {
            container,
            _group: group,
            _memory: memory,
            second,
            region,
        })
    }

    /// An address space with a page at each of `addresses`.
    fn space(&self, addresses: &[u64]) -> Outcome<u32> {
        let id = self.container.as_create()?;
        let entries: Vec<_> = addresses.iter().map(|at| self.entry(*at)).collect();
        self.container.as_map(id, &entries).0?;
        Ok(id)
    }

    fn entry(&self, at: u64) -> vfio_ioasid_as_entry {
        as_entry(at, 0, PAGE, VFIO_IOASID_AS_READ)
    }

    /// Another group joins.
    fn join(&self) -> Outcome<Result<Group, Errno>> {
        let group = Group::open(&self.second)?;
        match group.set_container(&self.container) {
            Ok(()) => Ok(Ok(group)),
            Err(error) => Ok(Err(error.errno)),
        }
    }
}

fn group_is_refused_over_an_entry_of_an_address_space() -> Outcome {
    let scene = Scene::new()?;
    let space = scene.space(&[0x1000, INSIDE])?;
    assert_eq!(scene.join()?.err(), Some(Errno::EINVAL));
    // What it would have reserved is as free as before.
    scene.container.as_map(space, &[scene.entry(START)]).0?;
    let there = Memory::new(PAGE)?;
    scene.container.map(&there, INSIDE)?;
    Ok(())
}

fn group_is_refused_over_a_mapping() -> Outcome {
    let scene = Scene::new()?;
    let there = Memory::new(PAGE)?;
    scene.container.map(&there, INSIDE)?;
    assert_eq!(scene.join()?.err(), Some(Errno::EINVAL));
    scene.container.unmap(INSIDE, PAGE)?;
    assert!(scene.join()?.is_ok());
    Ok(())
}

fn group_joins_beside_entries_and_its_region_is_kept_free() -> Outcome {
    let scene = Scene::new()?;
    let space = scene.space(&[START - PAGE, START + LENGTH])?;
    let group = scene.join()?;
    assert!(group.is_ok(), "{:?}", group.err());
    let mapped = scene.container.as_map(space, &[scene.entry(INSIDE)]);
    assert_eq!(mapped.0, Err(Errno::EINVAL), "AS_MAP in the region");
    let there = Memory::new(PAGE)?;
    expect_errno(scene.container.map(&there, INSIDE), Errno::EINVAL, "MAP");
    drop(group);
    // Its addresses go with it.
    scene.container.as_map(space, &[scene.entry(INSIDE)]).0?;
    scene.container.map(&there, INSIDE)?;
    Ok(())
}

fn group_joins_once_its_region_is_gone() -> Outcome {
    let scene = Scene::new()?;
    scene.space(&[INSIDE])?;
    assert_eq!(scene.join()?.err(), Some(Errno::EINVAL));
    drop(scene.region);
    let group = Group::open(&scene.second)?;
    group.set_container(&scene.container)?;
    Ok(())
}

program![
    group_is_refused_over_an_entry_of_an_address_space,
    group_is_refused_over_a_mapping,
    group_joins_beside_entries_and_its_region_is_kept_free,
    group_joins_once_its_region_is_gone,
];
