// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PASID_ALLOC and PASID_FREE: ranges, runs, quotas, and PASIDs in use.

use std::collections::BTreeSet;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{expect_errno, expect_ok, program, skip, Errno, Outcome, Rig, Space};

const HIGHEST: u32 = VFIO_IOASID_PASID_LIMIT - 1;

fn alloc_of_one_gives_a_pasid_in_the_range() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let pasid = rig.container.pasid_alloc(100, 200, 1)?;
    assert!((100..=200).contains(&pasid), "{pasid}");
    assert_eq!(rig.container.stats()?.pasids, 1);
    Ok(())
}

fn alloc_with_equal_bounds_gives_that_pasid() -> Outcome {
    let rig = Rig::open_unmapped()?;
    for wanted in [1, 2, 4095, 65_536, HIGHEST] {
        assert_eq!(rig.container.pasid_alloc(wanted, wanted, 1)?, wanted);
    }
    Ok(())
}

fn alloc_never_gives_one_twice() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let pasid = rig.container.pasid_alloc(1, 300, 1)?;
        assert!(seen.insert(pasid), "PASID {pasid} twice");
    }
    Ok(())
}

fn alloc_of_a_run_gives_consecutive_pasids() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let first = rig.container.pasid_alloc(1, HIGHEST, 100)?;
    // All of them are taken, the neighbours are not.
    for pasid in first..first + 100 {
        expect_errno(
            rig.container.pasid_alloc(pasid, pasid, 1),
            Errno::ENOSPC,
            "inside the run",
        );
    }
    expect_ok(
        rig.container.pasid_alloc(first + 100, first + 100, 1),
        "behind the run",
    );
    assert_eq!(rig.container.stats()?.pasids, 101);
    Ok(())
}

fn alloc_taken_pasid_returns_enospc() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(7, 7, 1)?;
    expect_errno(rig.container.pasid_alloc(7, 7, 1), Errno::ENOSPC, "taken");
    Ok(())
}

fn alloc_full_range_returns_enospc() -> Outcome {
    let rig = Rig::open_unmapped()?;
    for _ in 10..=13 {
        rig.container.pasid_alloc(10, 13, 1)?;
    }
    expect_errno(rig.container.pasid_alloc(10, 13, 1), Errno::ENOSPC, "full");
    assert_eq!(rig.container.stats()?.pasids, 4);
    Ok(())
}

fn alloc_run_longer_than_the_range_returns_enospc() -> Outcome {
    let rig = Rig::open_unmapped()?;
    expect_errno(
        rig.container.pasid_alloc(10, 13, 5),
        Errno::ENOSPC,
        "5 in 4",
    );
    Ok(())
}

fn alloc_run_over_a_taken_pasid_returns_enospc() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(12, 12, 1)?;
    expect_errno(
        rig.container.pasid_alloc(10, 14, 3),
        Errno::ENOSPC,
        "only runs of two are left",
    );
    assert_eq!(rig.container.pasid_alloc(10, 14, 2)?, 10);
    assert_eq!(rig.container.pasid_alloc(10, 14, 2)?, 13);
    Ok(())
}

fn alloc_bad_arguments_return_einval() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let bad = [
        (0, 10, 1, "min zero"),
        (0, 0, 1, "PASID 0"),
        (1, 10, 0, "count zero"),
        (11, 10, 1, "min above max"),
        (1, HIGHEST + 1, 1, "max of 21 bits"),
        (1, u32::MAX, 1, "max of 32 bits"),
        (HIGHEST + 1, HIGHEST + 1, 1, "21 bits"),
        (u32::MAX, u32::MAX, 1, "32 bits"),
        (u32::MAX, 1, u32::MAX, "all wrong"),
    ];
    for (min, max, count, what) in bad {
        expect_errno(
            rig.container.pasid_alloc(min, max, count),
            Errno::EINVAL,
            what,
        );
    }
    assert_eq!(rig.container.stats()?.pasids, 0);
    Ok(())
}

fn alloc_count_of_32_bits_fails_and_takes_nothing() -> Outcome {
    let rig = Rig::open_unmapped()?;
    for count in [VFIO_IOASID_PASID_LIMIT, u32::MAX, u32::MAX - 1] {
        let error = rig.container.pasid_alloc(1, HIGHEST, count).err();
        let errno = error.map(|error| error.errno);
        assert!(
            matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT)),
            "count {count}: {errno:?}"
        );
    }
    assert_eq!(rig.container.stats()?.pasids, 0);
    Ok(())
}

fn alloc_over_the_quota_returns_edquot_until_one_is_freed() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let quota = rig.caps.max_pasids;
    if quota > HIGHEST {
        return skip("the quota is not below the number of PASIDs");
    }
    let first = rig.container.pasid_alloc(1, HIGHEST, quota)?;
    expect_errno(
        rig.container.pasid_alloc(1, HIGHEST, 1),
        Errno::EDQUOT,
        "one more than the quota",
    );
    assert_eq!(rig.container.stats()?.pasids, u64::from(quota));

    rig.container.pasid_free(first, 1)?;
    expect_ok(rig.container.pasid_alloc(1, HIGHEST, 1), "one freed");
    Ok(())
}

fn alloc_run_over_the_quota_takes_nothing() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let quota = rig.caps.max_pasids;
    if quota > HIGHEST - 1 {
        return skip("the quota is not below the number of PASIDs");
    }
    expect_errno(
        rig.container.pasid_alloc(1, HIGHEST, quota + 1),
        Errno::EDQUOT,
        "a run over the quota",
    );
    assert_eq!(rig.container.stats()?.pasids, 0);
    Ok(())
}

fn free_makes_the_pasid_available_again() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(42, 42, 1)?;
    rig.container.pasid_free(42, 1)?;
    assert_eq!(rig.container.stats()?.pasids, 0);
    assert_eq!(rig.container.pasid_alloc(42, 42, 1)?, 42);
    Ok(())
}

fn free_twice_returns_enoent() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(42, 42, 1)?;
    rig.container.pasid_free(42, 1)?;
    expect_errno(rig.container.pasid_free(42, 1), Errno::ENOENT, "again");
    Ok(())
}

fn free_of_a_run_with_a_hole_frees_nothing() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(20, 20, 1)?;
    rig.container.pasid_alloc(22, 22, 1)?;
    expect_errno(rig.container.pasid_free(20, 3), Errno::ENOENT, "a hole");
    assert_eq!(rig.container.stats()?.pasids, 2);
    expect_errno(rig.container.pasid_alloc(20, 20, 1), Errno::ENOSPC, "20");
    Ok(())
}

fn free_of_parts_of_a_run_succeeds() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(20, 29, 10)?;
    rig.container.pasid_free(23, 4)?;
    assert_eq!(rig.container.stats()?.pasids, 6);
    assert_eq!(rig.container.pasid_alloc(20, 29, 4)?, 23);
    Ok(())
}

fn free_never_allocated_returns_enoent() -> Outcome {
    let rig = Rig::open_unmapped()?;
    expect_errno(rig.container.pasid_free(1, 1), Errno::ENOENT, "1");
    expect_errno(rig.container.pasid_free(HIGHEST, 1), Errno::ENOENT, "last");
    Ok(())
}

fn free_bad_arguments_return_einval_or_enoent() -> Outcome {
    let rig = Rig::open_unmapped()?;
    rig.container.pasid_alloc(1, HIGHEST, 1)?;
    expect_errno(rig.container.pasid_free(1, 0), Errno::EINVAL, "count zero");
    for (pasid, count) in [
        (0, 1),
        (HIGHEST, 2),
        (HIGHEST + 1, 1),
        (u32::MAX, 1),
        (u32::MAX, u32::MAX),
        (2, u32::MAX),
        (1, VFIO_IOASID_PASID_LIMIT),
    ] {
        let error = rig.container.pasid_free(pasid, count).err();
        let errno = error.map(|error| error.errno);
        assert!(
            matches!(errno, Some(Errno::EINVAL | Errno::ENOENT)),
            "free {pasid} + {count}: {errno:?}"
        );
    }
    assert_eq!(rig.container.stats()?.pasids, 1);
    Ok(())
}

fn free_while_bound_returns_ebusy() -> Outcome {
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    expect_errno(
        rig.container.pasid_free(space.pasid, 1),
        Errno::EBUSY,
        "bound",
    );
    space.unbind(&rig)?;
    expect_ok(rig.container.pasid_free(space.pasid, 1), "unbound");
    Ok(())
}

fn free_of_a_run_with_one_bound_frees_nothing() -> Outcome {
    let rig = Rig::nesting()?;
    let first = rig.container.pasid_alloc(64, 127, 8)?;
    let space = Space::at(&rig, first + 5)?;
    space.bind(&rig)?;
    expect_errno(
        rig.container.pasid_free(first, 8),
        Errno::EBUSY,
        "one bound",
    );
    assert_eq!(rig.container.stats()?.pasids, 8);
    Ok(())
}

fn pasids_of_two_containers_are_independent() -> Outcome {
    let first = Rig::open_unmapped()?;
    let Some(second) = Rig::open_second()? else {
        return skip("needs two endpoints");
    };
    assert_eq!(first.container.pasid_alloc(9, 9, 1)?, 9);
    assert_eq!(second.container.pasid_alloc(9, 9, 1)?, 9);
    first.container.pasid_free(9, 1)?;
    expect_errno(
        second.container.pasid_alloc(9, 9, 1),
        Errno::ENOSPC,
        "the second container still has it",
    );
    Ok(())
}

fn alloc_and_free_from_four_threads_never_collide() -> Outcome {
    let rig = Rig::open_unmapped()?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let pasid = rig
                        .container
                        .pasid_alloc(1, 64, 4)
                        .expect("four threads of four fit into 64");
                    // Free is ENOENT if another thread was given one of them too.
                    rig.container
                        .pasid_free(pasid, 4)
                        .expect("they are this thread's");
                }
            });
        }
    });
    assert_eq!(rig.container.stats()?.pasids, 0);
    Ok(())
}

program![
    alloc_of_one_gives_a_pasid_in_the_range,
    alloc_with_equal_bounds_gives_that_pasid,
    alloc_never_gives_one_twice,
    alloc_of_a_run_gives_consecutive_pasids,
    alloc_taken_pasid_returns_enospc,
    alloc_full_range_returns_enospc,
    alloc_run_longer_than_the_range_returns_enospc,
    alloc_run_over_a_taken_pasid_returns_enospc,
    alloc_bad_arguments_return_einval,
    alloc_count_of_32_bits_fails_and_takes_nothing,
    alloc_over_the_quota_returns_edquot_until_one_is_freed,
    alloc_run_over_the_quota_takes_nothing,
    free_makes_the_pasid_available_again,
    free_twice_returns_enoent,
    free_of_a_run_with_a_hole_frees_nothing,
    free_of_parts_of_a_run_succeeds,
    free_never_allocated_returns_enoent,
    free_bad_arguments_return_einval_or_enoent,
    free_while_bound_returns_ebusy,
    free_of_a_run_with_one_bound_frees_nothing,
    pasids_of_two_containers_are_independent,
    alloc_and_free_from_four_threads_never_collide,
];
