// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the unit costs, with the IOMMU in the process as the host: `cargo bench -p host-iommu
//! --all-features --bench vtd`. Ratios within a run mean something, times alone do not.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

#[allow(dead_code, reason = "the tests' guest does more")]
#[path = "../tests/vtd/guest.rs"]
mod guest;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use guest::{Guest, GVA, QUEUE};
use host_iommu::vtd::{SourceId, Vtd, VtdTranslation};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use vm_memory::iommu::{Error, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, Iommu, IommuMemory, Permissions};

/// What vm-memory's trait costs by itself: a page that is looked up in its IOTLB, and no more.
#[derive(Debug)]
struct Bare(Iotlb);

impl Iommu for Bare {
    type IotlbGuard<'a> = &'a Iotlb;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<&Iotlb>, Error> {
        Iotlb::lookup(&self.0, iova, length, access).map_err(|_| Error::CannotResolve {
            iova_range: IovaRange { base: iova, length },
            reason: "not there".to_owned(),
        })
    }
}

/// DMA of an emulated device, 64 bytes.
fn emulated(criterion: &mut Criterion) {
    let mut guest = Guest::new();
    guest.boot();
    let root = guest.bind(5);
    let page = guest.map(root, GVA);
    let memory = (*guest.memory).clone();
    let behind = |on| {
        let iommu = VtdTranslation::new(guest.unit.clone(), SourceId(guest::SOURCE), Some(5));
        IommuMemory::new(memory.clone(), iommu, on, ())
    };
    let (translated, untranslated) = (behind(true), behind(false));
    let mut data = [0; 64];
    let mut group = criterion.benchmark_group("emulated DMA of 64 bytes");
    group.bench_function("guest memory", |bencher| {
        bencher.iter(|| memory.read_slice(black_box(&mut data), GuestAddress(black_box(page))));
    });
    group.bench_function("untranslated", |bencher| {
        bencher
            .iter(|| untranslated.read_slice(black_box(&mut data), GuestAddress(black_box(page))));
    });
    let mut iotlb = Iotlb::new();
    iotlb
        .set_mapping(
            GuestAddress(GVA),
            GuestAddress(page),
            0x1000,
            Permissions::ReadWrite,
        )
        .unwrap();
    let bare = IommuMemory::new(memory.clone(), Bare(iotlb), true, ());
    group.bench_function("by vm-memory's IOTLB alone", |bencher| {
        bencher.iter(|| bare.read_slice(black_box(&mut data), GuestAddress(black_box(GVA))));
    });
    group.bench_function("translated", |bencher| {
        bencher.iter(|| translated.read_slice(black_box(&mut data), GuestAddress(black_box(GVA))));
    });
    group.finish();
}

/// A guest's invalidation queue as Linux uses it: a lock over the writing of descriptors, and none
/// over the waiting.
struct Queue {
    unit: Arc<Vtd>,
    memory: Arc<GuestMemoryMmap>,
    /// The tail, in descriptors.
    tail: Mutex<u64>,
}

/// In guest memory: a status of 4 bytes for each thread, 64 bytes apart.
const STATUSES: u64 = 0x8000;

impl Queue {
    fn put(&self, at: u64, word: u64) {
        self.memory
            .store(word, GuestAddress(at), Ordering::Release)
            .unwrap();
    }

    fn flush(&self, thread: u64, pasid: u64, number: u32) {
        let status = STATUSES + thread * 64;
        let wait = u64::from(number) << 32 | 1 << 5 | 5;
        {
            let mut tail = self.tail.lock().unwrap();
            for [first, second] in [
                [6 | 3 << 4 | 2 << 16 | pasid << 32, GVA | 1 << 6],
                [wait, status],
            ] {
                let at = QUEUE + *tail * 32;
                self.put(at, first);
                self.put(at + 8, second);
                *tail = (*tail + 1) % 128;
            }
            self.unit.write(0x88, &(*tail * 32).to_le_bytes());
        }
        loop {
            let done: u32 = self
                .memory
                .load(GuestAddress(status), Ordering::Acquire)
                .unwrap();
            if done == number {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Invalidations of guest threads, each with a binding of its own.
fn threads(criterion: &mut Criterion) {
    const EACH: u32 = 64;
    let mut guest = Guest::new();
    guest.boot();
    for pasid in 1..=16 {
        guest.bind(pasid);
    }
    let queue = Queue {
        unit: guest.unit.clone(),
        memory: guest.memory.clone(),
        tail: Mutex::new(guest.tail / 32),
    };
    let number = AtomicU64::new(1);
    let mut group = criterion.benchmark_group("invalidations");
    for threads in [1u64, 4, 16] {
        group.throughput(Throughput::Elements(threads * u64::from(EACH)));
        group.bench_function(format!("{threads} threads"), |bencher| {
            bencher.iter(|| {
                let first = number.fetch_add(u64::from(EACH), Ordering::Relaxed);
                std::thread::scope(|scope| {
                    for thread in 0..threads {
                        let queue = &queue;
                        scope.spawn(move || {
                            for index in 0..EACH {
                                queue.flush(thread, thread + 1, first as u32 + index);
                            }
                        });
                    }
                });
            });
        });
    }
    group.finish();
}

/// Page-selective invalidation of 2^`order` pages of PASID 5, domain 2 (VT-d 4.1, 6.5.2.4).
fn pages(address: u64, order: u64) -> [u64; 2] {
    [6 | 3 << 4 | 2 << 16 | 5 << 32, address | 1 << 6 | order]
}

/// Descriptors between two waits, and the descriptor that Linux gives for a whole `munmap`.
fn descriptors(criterion: &mut Criterion) {
    const COUNT: u64 = 64;
    let mut guest = Guest::new();
    guest.boot();
    guest.bind(5);
    let range = GVA & !0xfff_ffff;
    let mut group = criterion.benchmark_group("invalidation and a wait");
    let each: Vec<[u64; 2]> = (0..COUNT)
        .map(|index| pages(range + index * 0x1000, 0))
        .collect();
    group.bench_function("64 descriptors of a page", |bencher| {
        bencher.iter(|| guest.submit(&each));
    });
    for (count, order) in [(1, 0), (64, 6), (100, 7), (100_000, 17)] {
        group.bench_function(format!("1 descriptor of {count} pages"), |bencher| {
            bencher.iter(|| guest.submit(&[pages(range & !(0xfff << order), order)]));
        });
    }
    group.finish();
}

criterion_group!(benches, emulated, threads, descriptors);
criterion_main!(benches);
