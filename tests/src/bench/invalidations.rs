// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Invalidating stage-1 translations of a bound PASID.

use crate::bindings::bind;
use crate::report::Report;
use host_iommu_bindings::uapi::{iommu_hwpt_vtd_s1_invalidate, VFIO_IOASID_SCOPE_BINDING};
use host_iommu_sys::ioasid;
use host_iommu_tests::hosts::{Contained, Way};
use host_iommu_tests::iommufd::Iommufd;
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::PAGE;
use host_iommu_tests::stage1::Table;
use std::os::fd::AsFd;

const PASID: u32 = 100;

/// Entries of a call, and how many calls are made.
const SIZES: [(usize, u32); 4] = [(1, 64), (64, 16), (512, 8), (65_536, 1)];

/// Single pages that do not touch.
fn entries(count: usize) -> Vec<iommu_hwpt_vtd_s1_invalidate> {
    (0..count as u64)
        .map(|index| iommu_hwpt_vtd_s1_invalidate {
            addr: 2 * index * PAGE,
            npages: 1,
            ..Default::default()
        })
        .collect()
}

/// INVALIDATE of a PASID of ours.
pub fn invalidate(
    host: &Contained,
    pasid: u32,
    entries: &[iommu_hwpt_vtd_s1_invalidate],
) -> Outcome {
    let (fd, scope) = (host.container.as_fd(), VFIO_IOASID_SCOPE_BINDING);
    match ioasid::invalidate(fd, scope, host.id(), pasid, entries) {
        Ok(done) if done as usize == entries.len() => Ok(()),
        Ok(done) => fail(format!("{done} entries were carried out")),
        Err(failure) => fail(format!("INVALIDATE: {failure:?}")),
    }
}

fn each_size(
    report: &Report,
    way: Way,
    call: impl Fn(&[iommu_hwpt_vtd_s1_invalidate]) -> Outcome,
) -> Outcome {
    for (count, calls) in SIZES {
        let entries = entries(count);
        let once = || call(&entries);
        once()?;
        let row = format!("invalidate_{count}");
        report.time(&row, way, calls, || (0..calls).try_for_each(|_| once()))?;
    }
    Ok(())
}

/// Rows invalidate_1, _64, _512, _65536: a call.
pub fn measure(report: &Report) -> Outcome {
    report.in_turns(&Way::NESTING, |way| match way {
        Way::Ours => {
            let host = Contained::ours()?;
            host.container.pasid_alloc(PASID, PASID, 1)?;
            bind(&host, PASID, Table::new(&host.mem).root(), None, false)?;
            each_size(report, way, |entries| invalidate(&host, PASID, entries))
        }
        _ => {
            let host = Iommufd::open()?;
            host.attach(host.parent(), None)?;
            let table = host.nested(Table::new(&host.mem).root(), None)?;
            host.attach(table, Some(PASID))?;
            each_size(report, way, |entries| host.invalidate(table, entries))
        }
    })
}
