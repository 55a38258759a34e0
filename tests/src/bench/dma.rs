// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA through both stages and through stage 2 only: what the emulation makes of it.

use crate::bindings::bind;
use crate::report::Report;
use host_iommu_tests::hosts::{Contained, Way};
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::PAGE;
use host_iommu_tests::rig::{status, Order};
use host_iommu_tests::stage1::{entry, Table};

const PASID: u32 = 100;
const PAGES: u64 = 256;
const ROUNDS: u32 = 16;
const GVA: u64 = 0x7f12_3456_0000;

/// Rows dma_stage2, dma_nested: a page written by untranslated requests, which are translated each
/// time that the IOTLB has forgotten them.
pub fn measure(report: &Report) -> Outcome {
    let host = Contained::ours()?;
    let gpa = host.mem.alloc(PAGES * PAGE, PAGE);
    let table = Table::new(&host.mem);
    for page in 0..PAGES {
        table.map(GVA + page * PAGE, gpa + page * PAGE, entry::RW);
    }
    host.container.pasid_alloc(PASID, PASID, 1)?;
    bind(&host, PASID, table.root(), None, false)?;
    let length = (PAGES * PAGE) as u32;
    let stage2 = Order::fill(gpa, length, 1).no_ats().no_pri();
    let nested = Order::fill(GVA, length, 2).at(PASID).no_ats().no_pri();
    let run = |order: &Order| {
        let slot = host.dma.submit(order)?;
        match host.dma.wait(slot)? {
            done if done.status == status::OK => Ok(()),
            done => fail(done.to_string()),
        }
    };
    report.in_turns(&[Way::Ours], |way| {
        for (row, order) in [("dma_stage2", &stage2), ("dma_nested", &nested)] {
            run(order)?;
            report.time(row, way, ROUNDS * PAGES as u32, || {
                (0..ROUNDS).try_for_each(|_| run(order))
            })?;
        }
        Ok(())
    })
}
