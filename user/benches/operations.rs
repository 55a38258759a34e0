// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each operation costs at 1,000 and at 100,000 things that it touches, or at the quota where
//! that is lower: `cargo bench -p host-iommu --all-features --bench operations`. The thing's time is
//! the throughput's inverse; it stays about the same where an operation is linear. The test `linear`
//! fails where it is not.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

#[path = "../tests/linear/operations.rs"]
mod operations;

use criterion::{criterion_group, criterion_main, BatchSize, Criterion, Throughput};
use operations::OPERATIONS;
use std::time::Duration;

fn all(criterion: &mut Criterion) {
    for operation in &OPERATIONS {
        let mut group = criterion.benchmark_group(operation.name);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1));
        for count in [1_000, 100_000.min(operation.most)] {
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(count.to_string(), |bencher| {
                bencher.iter_batched(
                    || (operation.make)(count),
                    |act| act(),
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
