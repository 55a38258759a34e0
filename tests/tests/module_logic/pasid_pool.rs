// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The PASID pool against a set of numbers.

use crate::pool::{PasidRun, Pool, PoolError, LIMIT, WORDS};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn pool() -> Pool<Vec<u64>> {
    Pool::new(vec![0; WORDS]).expect("storage of the right size")
}

#[test]
fn pasid_alloc_full_range_returns_exhausted() {
    let mut pool = pool();
    assert_eq!(pool.alloc(1, LIMIT - 1, LIMIT - 1, LIMIT), Ok(1));
    assert_eq!(pool.taken(), LIMIT - 1);
    assert_eq!(
        pool.alloc(1, LIMIT - 1, 1, LIMIT),
        Err(PoolError::Exhausted)
    );
    assert_eq!(pool.free(700, 1), Ok(()));
    assert_eq!(pool.alloc(1, LIMIT - 1, 1, LIMIT), Ok(700));
}

#[test]
fn pasid_alloc_bad_range_returns_range() {
    let mut pool = pool();
    for (min, max, count) in [(0, 5, 1), (5, 4, 1), (1, 5, 0), (1, LIMIT, 1)] {
        assert_eq!(pool.alloc(min, max, count, LIMIT), Err(PoolError::Range));
    }
    assert_eq!(pool.alloc(1, 5, u32::MAX, LIMIT), Err(PoolError::Quota));
}

#[test]
fn pasid_alloc_past_quota_returns_quota_and_takes_none() {
    let mut pool = pool();
    assert_eq!(pool.alloc(1, 100, 11, 10), Err(PoolError::Quota));
    assert_eq!(pool.alloc(1, 100, 10, 10), Ok(1));
    assert_eq!(pool.alloc(1, 100, 1, 10), Err(PoolError::Quota));
    assert_eq!(pool.free(1, 1), Ok(()));
    assert_eq!(pool.alloc(50, 50, 1, 10), Ok(50));
}

#[test]
fn pasid_free_partly_allocated_frees_none() {
    let mut pool = pool();
    assert_eq!(pool.alloc(10, 20, 5, LIMIT), Ok(10));
    assert_eq!(pool.free(10, 6), Err(PoolError::NotAllocated));
    assert_eq!(pool.free(LIMIT - 1, 2), Err(PoolError::Range));
    assert_eq!(pool.free(10, 0), Err(PoolError::Range));
    assert_eq!(pool.taken(), 5);
    assert!(pool.contains(14) && !pool.contains(15));
}

#[test]
fn pool_of_dirty_or_short_storage_is_refused() {
    assert!(Pool::new(vec![0; WORDS - 1]).is_none());
    let mut dirty = vec![0; WORDS];
    dirty[WORDS - 1] = 1;
    assert!(Pool::new(dirty).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(u32, u32, u32),
    Free(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    // Most of the time in a crowded corner, where runs meet word and summary borders.
    let number = prop_oneof![4 => 0u32..300, 2 => 4000u32..4300, 1 => 0u32..LIMIT + 2];
    let count = prop_oneof![4 => 0u32..5, 2 => 60u32..70, 1 => 100u32..5000];
    prop_oneof![
        (number.clone(), number.clone(), count.clone()).prop_map(|(a, b, n)| Step::Alloc(a, b, n)),
        (number, count).prop_map(|(a, n)| Step::Free(a, n)),
    ]
}

/// What the pool should do, the slow way.
fn expect(taken: &BTreeSet<u32>, quota: u32, step: &Step) -> Result<u32, PoolError> {
    match *step {
        Step::Alloc(min, max, count) => {
            if min == 0 || count == 0 || min > max || max >= LIMIT {
                return Err(PoolError::Range);
            }
            if taken.len() as u32 + count > quota {
                return Err(PoolError::Quota);
            }
            let mut first = min;
            while first + count - 1 <= max {
                match taken.range(first..first + count).next_back() {
                    Some(last) => first = last + 1,
                    None => return Ok(first),
                }
            }
            Err(PoolError::Exhausted)
        }
        Step::Free(first, count) => {
            if count == 0 || first + (count - 1) >= LIMIT {
                return Err(PoolError::Range);
            }
            if taken.range(first..first + count).count() != count as usize {
                return Err(PoolError::NotAllocated);
            }
            Ok(0)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pool_equals_a_set(steps in proptest::collection::vec(step(), 1..120)) {
        let quota = 6000;
        let mut pool = pool();
        let mut taken = BTreeSet::new();
        for step in &steps {
            let want = expect(&taken, quota, step);
            match *step {
                Step::Alloc(min, max, count) => {
                    prop_assert_eq!(pool.alloc(min, max, count, quota), want, "{:?}", step);
                    if let Ok(first) = want {
                        taken.extend(first..first + count);
                    }
                }
                Step::Free(first, count) => {
                    prop_assert_eq!(pool.free(first, count), want.map(|_| ()), "{:?}", step);
                    if want.is_ok() {
                        (first..first + count).for_each(|pasid| { taken.remove(&pasid); });
                    }
                }
            }
            prop_assert_eq!(pool.taken() as usize, taken.len());
        }
        for pasid in (0..5000).chain(LIMIT - 10..LIMIT) {
            prop_assert_eq!(pool.contains(pasid), taken.contains(&pasid));
        }
    }
}

#[test]
fn pasid_runs_are_all_that_is_allocated() {
    let mut pool = pool();
    assert_eq!(pool.run_from(0), None);
    for (first, count) in [(1, 1), (60, 10), (128, 64), (LIMIT - 2, 2)] {
        assert_eq!(pool.alloc(first, LIMIT - 1, count, LIMIT), Ok(first));
    }
    let mut runs = Vec::new();
    let mut from = 0;
    while let Some(PasidRun { first, last }) = pool.run_from(from) {
        runs.push((first, last));
        from = last + 1;
    }
    assert_eq!(runs, [(1, 1), (60, 69), (128, 191), (LIMIT - 2, LIMIT - 1)]);
    let inside = PasidRun {
        first: 130,
        last: 191,
    };
    assert_eq!(pool.run_from(130), Some(inside), "from inside a run");
}
