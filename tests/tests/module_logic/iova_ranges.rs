// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IOVA ranges and windows against sets of single addresses.

use crate::iova::{large_pages, IovaRange, LargePages, Remainder, Windows, MAX_WINDOWS};
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
fn gaps_are_what_the_windows_are_not() {
    let mut windows = Windows::all();
    assert_eq!(windows.gaps().count(), 0);
    for hole in [
        range(0, 9),
        range(100, 199),
        range(150, 250),
        range(u64::MAX, u64::MAX),
    ] {
        assert!(windows.exclude(&hole).is_some());
    }
    let gaps: Vec<_> = windows.gaps().collect();
    let expected = [range(0, 9), range(100, 250), range(u64::MAX, u64::MAX)];
    assert_eq!(gaps, expected);
    assert!(windows.exclude(&IovaRange::ALL).is_some());
    assert_eq!(windows.gaps().collect::<Vec<_>>(), [IovaRange::ALL]);
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
        let Remainder { below, above } = one.without(&two);
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

const ALL_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;

/// Entries of a page table that takes the largest page at each step.
fn greedy(mut iova: u64, mut phys: u64, mut size: u64, sizes: u64) -> LargePages {
    let mut large = LargePages::default();
    while size != 0 {
        let fits = |page: u64| sizes & page != 0 && (iova | phys) % page == 0 && size >= page;
        let page = if fits(1 << 30) {
            large.of_1g += 1;
            1 << 30
        } else if fits(1 << 21) {
            large.of_2m += 1;
            1 << 21
        } else {
            1 << 12
        };
        iova += page;
        phys += page;
        size -= page;
    }
    large
}

proptest! {
    #[test]
    fn large_pages_are_those_of_a_greedy_walk(
        iova in 0u64..1 << 19,
        delta in 0u64..4,
        align in prop::sample::select(vec![1u64, 1 << 9, 1 << 18]),
        pages in 1u64..3 << 18,
        sizes in prop::sample::select(vec![ALL_SIZES, 1 << 12, 1 << 12 | 1 << 21]),
    ) {
        let (iova, phys, size) = (iova << 12, (iova + delta * align) << 12, pages << 12);
        prop_assert_eq!(
            large_pages(iova, phys, size, sizes),
            greedy(iova, phys, size, sizes)
        );
    }
}

#[test]
fn large_pages_at_the_top_of_the_addresses() {
    let at = (1u64 << 30).wrapping_neg();
    assert_eq!(large_pages(at, 0, 1 << 30, ALL_SIZES).of_1g, 1);
    assert_eq!(
        large_pages(at + 4096, 4096, (1 << 30) - 4096, ALL_SIZES).of_2m,
        511
    );
}
