// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IOVA ranges and windows against sets of single addresses.

use crate::iova::{IovaRange, Windows, MAX_WINDOWS};
use proptest::prelude::*;

fn range(start: u64, last: u64) -> IovaRange {
    IovaRange::new(start, last).expect("not empty")
}

#[test]
fn range_of_no_bytes_is_none() {
    assert_eq!(IovaRange::sized(5, 0), None);
    assert_eq!(IovaRange::new(5, 4), None);
}

#[test]
fn range_at_the_top_does_not_wrap() {
    assert_eq!(
        IovaRange::sized(u64::MAX, 1),
        IovaRange::new(u64::MAX, u64::MAX)
    );
    assert_eq!(IovaRange::sized(u64::MAX, 2), None);
    assert_eq!(IovaRange::sized(1, u64::MAX), IovaRange::new(1, u64::MAX));
    assert_eq!(IovaRange::ALL.size(), None);
    assert_eq!(range(1, u64::MAX).size(), Some(u64::MAX));
}

#[test]
fn windows_without_everything_are_empty() {
    let mut windows = Windows::all();
    assert!(windows.exclude(&IovaRange::ALL).is_some());
    assert_eq!(windows.iter().count(), 0);
    assert!(!windows.contains(&range(0, 0)));
}

#[test]
fn windows_past_their_room_refuse_and_stay() {
    let mut windows = Windows::all();
    for hole in 1..MAX_WINDOWS as u64 {
        assert!(windows.exclude(&range(hole * 10, hole * 10)).is_some());
    }
    assert_eq!(windows.iter().count(), MAX_WINDOWS);
    assert!(windows.exclude(&range(5, 5)).is_none());
    assert!(windows.contains(&range(0, 9)));
}

proptest! {
    #[test]
    fn range_intersection_and_difference_equal_sets(a in 0u64..40, b in 0u64..40, c in 0u64..40, d in 0u64..40) {
        let one = range(a.min(b), a.max(b));
        let two = range(c.min(d), c.max(d));
        let common = one.intersection(&two);
        let (below, above) = one.without(&two);
        for at in 0..40 {
            prop_assert_eq!(common.is_some_and(|r| r.holds(at)), one.holds(at) && two.holds(at));
            let left = below.is_some_and(|r| r.holds(at)) || above.is_some_and(|r| r.holds(at));
            prop_assert_eq!(left, one.holds(at) && !two.holds(at));
        }
        let all_in = (0..40).all(|at| !two.holds(at) || one.holds(at));
        prop_assert_eq!(one.contains(&two), all_in);
    }

    #[test]
    fn windows_equal_a_set(
        aperture in (0u64..64, 0u64..64),
        holes in proptest::collection::vec((0u64..64, 0u64..8), 0..12),
    ) {
        let aperture = range(aperture.0.min(aperture.1), aperture.0.max(aperture.1));
        let mut windows = Windows::all();
        windows.restrict(&aperture);
        for &(start, more) in &holes {
            prop_assert!(windows.exclude(&range(start, start + more)).is_some());
        }
        let free = |at: u64| {
            aperture.holds(at) && !holes.iter().any(|&(s, m)| range(s, s + m).holds(at))
        };
        for start in 0..72 {
            for last in start..72 {
                let want = (start..=last).all(free);
                prop_assert_eq!(windows.contains(&range(start, last)), want);
            }
        }
    }
}
