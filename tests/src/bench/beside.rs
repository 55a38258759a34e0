// SPDX-License-Identifier: Apache-2.0 OR MIT
//! INVALIDATE of one entry beside what another thread does in the same container.
//!
//! The emulator runs one CPU at a time: whoever waits for nobody has half of the time, so a call
//! takes twice its time alone.

use crate::bindings::{bind, unbind};
use crate::invalidations::invalidate;
use crate::report::Report;
use host_iommu_bindings::uapi::{iommu_hwpt_vtd_s1_invalidate, VFIO_IOASID_FAULT_QUEUE_NONBLOCK};
use host_iommu_tests::hosts::{Contained, Way};
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::Table;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The binding that is measured, one beside it, and one that comes and goes.
const PASIDS: [u32; 3] = [100, 101, 102];
/// So many that both threads run many times.
const CALLS: u32 = 16_384;
/// What is mapped again and again, clear of guest memory.
const MAPPED: u64 = 4 << 20;
const AT: u64 = 64 << 30;
const ENTRY: [iommu_hwpt_vtd_s1_invalidate; 1] = [iommu_hwpt_vtd_s1_invalidate {
    addr: 0x1000,
    npages: 1,
    flags: 0,
    __reserved: 0,
}];

/// Measures while another thread repeats `other`.
fn beside(
    report: &Report,
    row: &str,
    host: &Contained,
    other: impl Fn() -> Outcome + Sync,
) -> Outcome {
    let (over, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> Outcome {
            while !over.load(Ordering::Relaxed) {
                other()?;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        while rounds.load(Ordering::Relaxed) == 0 && !thread.is_finished() {
            std::thread::yield_now();
        }
        let before = rounds.load(Ordering::Relaxed);
        let measured = report.time(row, Way::Ours, CALLS, || {
            (0..CALLS).try_for_each(|_| invalidate(host, PASIDS[0], &ENTRY))
        });
        let during = rounds.load(Ordering::Relaxed) - before;
        over.store(true, Ordering::Relaxed);
        match thread.join() {
            Ok(ended) => ended?,
            Err(_) => return fail("the other thread panicked"),
        }
        measured?;
        match during {
            0 => fail(format!("{row}: nothing went on beside it")),
            _ => Ok(()),
        }
    })
}

/// Rows beside_nothing, beside_invalidate, beside_map, beside_bind, beside_close: a call.
pub fn measure(report: &Report) -> Outcome {
    report.in_turns(&[Way::Ours], |way| {
        let host = Contained::ours()?;
        let memory = GuestMemory::new(0, MAPPED)?;
        (0..MAPPED / PAGE).for_each(|page| memory.write_u64(page * PAGE, page));
        let roots = PASIDS.map(|_| Table::new(&host.mem).root());
        host.container.pasid_alloc(PASIDS[0], PASIDS[2], 3)?;
        bind(&host, PASIDS[0], roots[0], None, false)?;
        bind(&host, PASIDS[1], roots[1], None, false)?;
        invalidate(&host, PASIDS[0], &ENTRY)?;
        report.time("beside_nothing", way, CALLS, || {
            (0..CALLS).try_for_each(|_| invalidate(&host, PASIDS[0], &ENTRY))
        })?;
        beside(report, "beside_invalidate", &host, || {
            invalidate(&host, PASIDS[1], &ENTRY)
        })?;
        beside(report, "beside_map", &host, || {
            host.container.map_memory(AT, memory.shared())?;
            host.container.unmap(0, AT, MAPPED)?;
            Ok(())
        })?;
        beside(report, "beside_bind", &host, || {
            bind(&host, PASIDS[2], roots[2], None, false)?;
            unbind(&host, PASIDS[2])
        })?;
        beside(report, "beside_close", &host, || {
            let flags = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
            drop(host.container.fault_queue(flags, 0)?);
            Ok(())
        })
    })
}
