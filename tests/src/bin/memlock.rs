// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pinned memory is charged against RLIMIT_MEMLOCK as vfio_iommu_type1 does it.
//!
//! Each case runs in a child of its own, which sets the limit and drops CAP_IPC_LOCK.

use std::os::fd::AsFd;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    child, drop_ipc_lock, endpoint, expect_errno, expect_ok, fail, locked_bytes, program,
    run_child, set_memlock_limit, Called, Container, Errno, Group, Memory, Outcome, Stop,
};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const AT: u64 = 0x1_0000_0000;

/// A container with the endpoint's group.
struct Bench {
    container: Container,
    group: Group,
    memory: Memory,
}

impl Bench {
    fn open(kind: u32) -> Result<Self, Stop> {
        let container = Container::open()?;
        let group = Group::open(&endpoint(0)?)?;
        group.set_container(&container)?;
        container.set_iommu(kind)?;
        Ok(Self {
            container,
            group,
            memory: Memory::new(4 * MIB)?,
        })
    }

    fn map(&self, offset: u64, iova: u64, size: u64) -> Called<()> {
        self.container.map_raw(&vfio_iommu_type1_dma_map {
            argsz: 32,
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: self.memory.address() + offset,
            iova,
            size,
        })
    }

    fn unmap(&self, iova: u64, size: u64) -> Called<u64> {
        self.container.unmap_raw(24, 0, iova, size)
    }
}

/// The same body for both backends, each in a child.
fn on_both(case: &str) -> Outcome {
    run_child(&[case, "3"])?;
    run_child(&[case, "6"])
}

fn map_up_to_the_limit_succeeds() -> Outcome {
    on_both("up_to_the_limit")
}

fn up_to_the_limit(kind: u32) -> Outcome {
    set_memlock_limit(MIB)?;
    drop_ipc_lock()?;
    let bench = Bench::open(kind)?;
    expect_ok(bench.map(0, AT, MIB), "exactly the limit");
    Ok(())
}

fn map_over_the_limit_returns_enomem_and_charges_nothing() -> Outcome {
    on_both("over_the_limit")
}

fn over_the_limit(kind: u32) -> Outcome {
    set_memlock_limit(MIB)?;
    drop_ipc_lock()?;
    let bench = Bench::open(kind)?;
    let before = locked_bytes()?;
    expect_errno(bench.map(0, AT, MIB + PAGE), Errno::ENOMEM, "a page more");
    assert_eq!(locked_bytes()?, before, "charged after the failure");
    assert_eq!(bench.unmap(AT, MIB + PAGE)?, 0, "nothing is mapped");
    expect_ok(bench.map(0, AT, MIB), "the limit is free");
    Ok(())
}

fn map_in_pieces_over_the_limit_returns_enomem() -> Outcome {
    on_both("in_pieces")
}

fn in_pieces(kind: u32) -> Outcome {
    set_memlock_limit(MIB)?;
    drop_ipc_lock()?;
    let bench = Bench::open(kind)?;
    for piece in 0..4 {
        bench.map(piece * MIB / 4, AT + piece * MIB / 4, MIB / 4)?;
    }
    expect_errno(
        bench.map(MIB, AT + MIB, PAGE),
        Errno::ENOMEM,
        "a fifth piece",
    );
    bench.unmap(AT, MIB / 4)?;
    expect_ok(bench.map(MIB, AT + MIB, MIB / 4), "after an unmap");
    Ok(())
}

fn map_with_limit_zero_returns_enomem() -> Outcome {
    on_both("limit_zero")
}

fn limit_zero(kind: u32) -> Outcome {
    set_memlock_limit(0)?;
    drop_ipc_lock()?;
    let bench = Bench::open(kind)?;
    expect_errno(bench.map(0, AT, PAGE), Errno::ENOMEM, "one page");
    Ok(())
}

fn map_with_cap_ipc_lock_ignores_the_limit() -> Outcome {
    on_both("with_capability")
}

fn with_capability(kind: u32) -> Outcome {
    set_memlock_limit(PAGE)?;
    let bench = Bench::open(kind)?;
    expect_ok(bench.map(0, AT, MIB), "CAP_IPC_LOCK is held");
    Ok(())
}

fn map_of_the_same_memory_twice_is_charged_twice() -> Outcome {
    on_both("same_memory_twice")
}

fn same_memory_twice(kind: u32) -> Outcome {
    set_memlock_limit(MIB + MIB / 2)?;
    drop_ipc_lock()?;
    let bench = Bench::open(kind)?;
    bench.map(0, AT, MIB)?;
    expect_errno(
        bench.map(0, AT + MIB, MIB),
        Errno::ENOMEM,
        "the same memory",
    );
    Ok(())
}

fn charge_is_seen_in_vmlck_and_given_back_by_unmap() -> Outcome {
    on_both("vmlck_unmap")
}

fn vmlck_unmap(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = locked_bytes()?;
    bench.map(0, AT, MIB)?;
    assert_eq!(locked_bytes()?, before + MIB, "mapped");
    bench.unmap(AT, MIB)?;
    assert_eq!(locked_bytes()?, before, "unmapped");
    Ok(())
}

fn charge_is_given_back_when_the_group_leaves() -> Outcome {
    on_both("vmlck_detach")
}

fn vmlck_detach(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = locked_bytes()?;
    bench.map(0, AT, MIB)?;
    bench.map(MIB, AT + MIB, MIB)?;
    bench.group.unset_container()?;
    assert_eq!(locked_bytes()?, before);
    Ok(())
}

fn map_that_fails_halfway_charges_nothing() -> Outcome {
    on_both("halfway")
}

/// The second half of the range is not backed by memory.
fn halfway(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = locked_bytes()?;
    bench.memory.truncate(MIB)?;
    expect_errno(bench.map(0, AT, 2 * MIB), Errno::EFAULT, "half is missing");
    assert_eq!(locked_bytes()?, before);
    assert_eq!(bench.unmap(AT, 2 * MIB)?, 0, "nothing is mapped");
    Ok(())
}

fn mapping_of_a_child_that_died_can_be_used_and_unmapped() -> Outcome {
    on_both("child_died")
}

/// A child gets the container as its stdin, maps memory of its own and ends.
fn child_died(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = locked_bytes()?;
    let fd = bench.container.as_fd().try_clone_to_owned()?;
    let status = child(&["map_for_the_parent", "0"])?.stdin(fd).status()?;
    assert!(status.success(), "the child: {status}");
    assert_eq!(locked_bytes()?, before, "the parent is not charged");
    expect_errno(bench.map(0, AT, MIB), Errno::EEXIST, "the child's is there");
    assert_eq!(bench.unmap(AT, MIB)?, MIB);
    assert_eq!(
        locked_bytes()?,
        before,
        "nothing was given back to the parent"
    );
    Ok(())
}

fn map_for_the_parent() -> Outcome {
    let container = Container::from_stdin()?;
    let memory = Memory::new(MIB)?;
    container.map(&memory, AT)?;
    assert!(locked_bytes()? >= MIB, "the child is charged");
    Ok(())
}

fn child_main(arguments: &[String]) -> Outcome {
    let [case, kind] = arguments else {
        return fail("usage: case type");
    };
    let kind = match kind.as_str() {
        "3" => VFIO_TYPE1v2_IOMMU,
        _ => VFIO_IOASID_IOMMU,
    };
    match case.as_str() {
        "up_to_the_limit" => up_to_the_limit(kind),
        "over_the_limit" => over_the_limit(kind),
        "in_pieces" => in_pieces(kind),
        "limit_zero" => limit_zero(kind),
        "with_capability" => with_capability(kind),
        "same_memory_twice" => same_memory_twice(kind),
        "vmlck_unmap" => vmlck_unmap(kind),
        "vmlck_detach" => vmlck_detach(kind),
        "halfway" => halfway(kind),
        "child_died" => child_died(kind),
        "map_for_the_parent" => map_for_the_parent(),
        other => fail(format!("no case {other}")),
    }
}

program![
    child child_main;
    map_up_to_the_limit_succeeds,
    map_over_the_limit_returns_enomem_and_charges_nothing,
    map_in_pieces_over_the_limit_returns_enomem,
    map_with_limit_zero_returns_enomem,
    map_with_cap_ipc_lock_ignores_the_limit,
    map_of_the_same_memory_twice_is_charged_twice,
    charge_is_seen_in_vmlck_and_given_back_by_unmap,
    charge_is_given_back_when_the_group_leaves,
    map_that_fails_halfway_charges_nothing,
    mapping_of_a_child_that_died_can_be_used_and_unmapped,
];
