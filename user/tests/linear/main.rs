// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No operation of a backend is worse than linear in what it touches. `cargo bench -p host-iommu
//! --all-features --bench operations` measures the same.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod operations;

use nix::time::{clock_gettime, ClockId};
use operations::{Operation, OPERATIONS};
use std::time::Duration;

const FEW: usize = 500;
const MANY: usize = 8_000;
/// What is linear may cost so many times more for each thing: caches and trees grow.
const SLACK: f64 = 4.0;

/// How long this thread has been on a CPU, whatever else the machine does.
fn on_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// The least of some runs.
fn cost(operation: &Operation, count: usize) -> Duration {
    let once = |_| {
        let act = (operation.make)(count);
        let start = on_cpu();
        let kept = act();
        let took = on_cpu().saturating_sub(start);
        drop(kept);
        took
    };
    (0..3).map(once).min().unwrap()
}

#[test]
fn every_operation_is_linear_in_what_it_touches() {
    let mut worse = Vec::new();
    for operation in &OPERATIONS {
        let many = MANY.min(operation.most);
        let costs = (cost(operation, FEW), cost(operation, many));
        let ratio = costs.1.as_secs_f64() / costs.0.as_secs_f64();
        let each = ratio / (many as f64 / FEW as f64);
        println!("{}: {many} cost {ratio:.1} times {FEW}", operation.name);
        if each > SLACK {
            let (few, many_took) = costs;
            worse.push(format!(
                "{}: {few:?} for {FEW}, {many_took:?} for {many}",
                operation.name
            ));
        }
    }
    assert!(worse.is_empty(), "worse than linear: {worse:#?}");
}
