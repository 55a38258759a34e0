// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pinned memory is charged against RLIMIT_MEMLOCK: that of a type1 container to the process, as
//! vfio_iommu_type1 does it; ours to the user, as iommufd does it.
//!
//! Each case runs in a child of its own, which sets the limit and drops CAP_IPC_LOCK.

use std::os::fd::AsFd;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    child, drop_ipc_lock, endpoint, expect_errno, expect_ok, fail, locked_bytes, pinned_bytes,
    program, run_child, set_memlock_limit, Called, Container, Errno, Group, Memory, Outcome, Stop,
};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const AT: u64 = 0x1_0000_0000;

/// What this process is charged for: locked memory by type1, pinned memory by ours.
fn charged(kind: u32) -> Outcome<u64> {
    match kind {
        VFIO_IOASID_IOMMU => pinned_bytes(),
        _ => locked_bytes(),
    }
}

/// A container with the endpoint's group.
struct Bench {
    kind: u32,
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
            kind,
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
    let before = charged(bench.kind)?;
    expect_errno(bench.map(0, AT, MIB + PAGE), Errno::ENOMEM, "a page more");
    assert_eq!(charged(bench.kind)?, before, "charged after the failure");
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

fn charge_is_seen_in_proc_and_given_back_by_unmap() -> Outcome {
    on_both("charge_unmap")
}

fn charge_unmap(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = charged(bench.kind)?;
    bench.map(0, AT, MIB)?;
    assert_eq!(charged(bench.kind)?, before + MIB, "mapped");
    bench.unmap(AT, MIB)?;
    assert_eq!(charged(bench.kind)?, before, "unmapped");
    Ok(())
}

fn charge_is_given_back_when_the_group_leaves() -> Outcome {
    on_both("charge_detach")
}

fn charge_detach(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = charged(bench.kind)?;
    bench.map(0, AT, MIB)?;
    bench.map(MIB, AT + MIB, MIB)?;
    bench.group.unset_container()?;
    assert_eq!(charged(bench.kind)?, before);
    Ok(())
}

fn map_that_fails_halfway_charges_nothing() -> Outcome {
    on_both("halfway")
}

/// The second half of the range is not backed by memory.
fn halfway(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = charged(bench.kind)?;
    bench.memory.truncate(MIB)?;
    expect_errno(bench.map(0, AT, 2 * MIB), Errno::EFAULT, "half is missing");
    assert_eq!(charged(bench.kind)?, before);
    assert_eq!(bench.unmap(AT, 2 * MIB)?, 0, "nothing is mapped");
    Ok(())
}

fn mapping_of_a_child_that_died_can_be_used_and_unmapped() -> Outcome {
    on_both("child_died")
}

/// A child gets the container as its stdin, maps memory of its own and ends.
fn child_died(kind: u32) -> Outcome {
    let bench = Bench::open(kind)?;
    let before = charged(bench.kind)?;
    let fd = bench.container.as_fd().try_clone_to_owned()?;
    let status = child(&[
        "map_for_the_parent",
        if kind == VFIO_IOASID_IOMMU { "6" } else { "3" },
    ])?
    .stdin(fd)
    .status()?;
    assert!(status.success(), "the child: {status}");
    assert_eq!(charged(bench.kind)?, before, "the parent is not charged");
    expect_errno(bench.map(0, AT, MIB), Errno::EEXIST, "the child's is there");
    assert_eq!(bench.unmap(AT, MIB)?, MIB);
    assert_eq!(
        charged(bench.kind)?,
        before,
        "nothing was given back to the parent"
    );
    Ok(())
}

fn map_for_the_parent(kind: u32) -> Outcome {
    let container = Container::from_stdin()?;
    let memory = Memory::new(MIB)?;
    container.map(&memory, AT)?;
    assert!(charged(kind)? >= MIB, "the child is charged");
    Ok(())
}

fn limit_of_a_user_holds_over_processes_that_end() -> Outcome {
    run_child(&["processes_that_end", "6"])
}

/// Four children of one user, one after the other, map 6 MiB each under a limit of 8 MiB. What the
/// first has mapped stays.
fn processes_that_end(kind: u32) -> Outcome {
    const LIMIT: u64 = 8 * MIB;

    set_memlock_limit(LIMIT)?;
    drop_ipc_lock()?;
    let bench = Bench::open(kind)?;
    for (number, at) in ["0", "1", "2", "3"].iter().enumerate() {
        let fd = bench.container.as_fd().try_clone_to_owned()?;
        let output = child(&["map_and_end", at])?.stdin(fd).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), number == 0, "child {at}: {text}");
    }
    assert_eq!(bench.container.stats()?.mapped_pages, 6 * MIB / PAGE);
    expect_errno(
        bench.map(0, 0, 4 * MIB),
        Errno::ENOMEM,
        "this process is of that user",
    );
    bench.unmap(AT, 6 * MIB)?;
    expect_ok(bench.map(0, 0, 4 * MIB), "after the unmap");
    Ok(())
}

fn map_and_end(at: u32) -> Outcome {
    // A new program of root's has its capabilities again.
    drop_ipc_lock()?;
    let container = Container::from_stdin()?;
    let memory = Memory::new(6 * MIB)?;
    container.map(&memory, AT + u64::from(at) * 6 * MIB)?;
    Ok(())
}

fn child_main(arguments: &[String]) -> Outcome {
    let [case, kind] = arguments else {
        return fail("usage: case type");
    };
    if case == "map_and_end" {
        return map_and_end(kind.parse()?);
    }
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
        "charge_unmap" => charge_unmap(kind),
        "charge_detach" => charge_detach(kind),
        "halfway" => halfway(kind),
        "child_died" => child_died(kind),
        "processes_that_end" => processes_that_end(kind),
        "map_for_the_parent" => map_for_the_parent(kind),
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
    charge_is_seen_in_proc_and_given_back_by_unmap,
    charge_is_given_back_when_the_group_leaves,
    map_that_fails_halfway_charges_nothing,
    mapping_of_a_child_that_died_can_be_used_and_unmapped,
    limit_of_a_user_holds_over_processes_that_end,
];
