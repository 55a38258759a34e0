// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Binding a guest's table at a PASID, and what many bindings cost.

use crate::invalidations::invalidate;
use crate::report::Report;
use host_iommu_bindings::uapi::{
    iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_invalidate, VFIO_IOASID_SCOPE_BINDING,
};
use host_iommu_sys::ioasid::{self, Bind, BindWhat};
use host_iommu_tests::hosts::{Contained, Way};
use host_iommu_tests::iommufd::Iommufd;
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::stage1::Table;
use std::os::fd::{AsFd, BorrowedFd};

const ROUNDS: u32 = 64;
const PASID: u32 = 100;

/// A table, bound at a PASID of ours.
pub fn bind(
    host: &Contained,
    pasid: u32,
    root: u64,
    queue: Option<BorrowedFd<'_>>,
    replace: bool,
) -> Outcome {
    let bind = Bind {
        device: host.id(),
        pasid,
        replace,
        what: BindWhat::Stage1(iommu_hwpt_vtd_s1 {
            pgtbl_addr: root,
            addr_width: 48,
            ..Default::default()
        }),
        guest_pasid: pasid,
        fault_queue: queue,
        cookie: 0,
    };
    match ioasid::bind(host.container.as_fd(), &bind) {
        Ok(()) => Ok(()),
        Err(failure) => fail(format!("BIND: {:?}", failure.errno)),
    }
}

/// Takes it away.
pub fn unbind(host: &Contained, pasid: u32) -> Outcome {
    let (fd, scope) = (host.container.as_fd(), VFIO_IOASID_SCOPE_BINDING);
    Ok(ioasid::unbind(fd, scope, host.id(), pasid)?)
}

/// Binds and unbinds, and changes the table of a PASID that is bound. A table of the guest's is
/// one nested page table of iommufd's, so a new one is made and an old one destroyed each time.
fn one(report: &Report, way: Way) -> Outcome {
    match way {
        Way::Ours => {
            let host = Contained::ours()?;
            host.container.pasid_alloc(PASID, PASID, 1)?;
            let roots = [Table::new(&host.mem).root(), Table::new(&host.mem).root()];
            let once = || {
                bind(&host, PASID, roots[0], None, false)?;
                unbind(&host, PASID)
            };
            once()?;
            report.time("bind", way, ROUNDS, || (0..ROUNDS).try_for_each(|_| once()))?;
            bind(&host, PASID, roots[0], None, false)?;
            bind(&host, PASID, roots[1], None, true)?;
            report.time("rebind", way, 2 * ROUNDS, || {
                for _ in 0..ROUNDS {
                    bind(&host, PASID, roots[0], None, true)?;
                    bind(&host, PASID, roots[1], None, true)?;
                }
                Ok(())
            })
        }
        _ => {
            let host = Iommufd::open()?;
            host.attach(host.parent(), None)?;
            let roots = [Table::new(&host.mem).root(), Table::new(&host.mem).root()];
            let once = || -> Outcome {
                let table = host.nested(roots[0], None)?;
                host.attach(table, Some(PASID))?;
                host.detach(Some(PASID))?;
                Ok(host.destroy(table)?)
            };
            once()?;
            report.time("bind", way, ROUNDS, || (0..ROUNDS).try_for_each(|_| once()))?;
            let mut bound = host.nested(roots[0], None)?;
            host.attach(bound, Some(PASID))?;
            let mut replace = |root| -> Outcome {
                let table = host.nested(root, None)?;
                host.attach(table, Some(PASID))?;
                host.destroy(std::mem::replace(&mut bound, table))?;
                Ok(())
            };
            replace(roots[1])?;
            report.time("rebind", way, 2 * ROUNDS, || {
                for _ in 0..ROUNDS {
                    replace(roots[0])?;
                    replace(roots[1])?;
                }
                Ok(())
            })
        }
    }
}

/// The end of a container whose device is closed before: that is reset, which takes its time.
fn close(report: &Report, row: &str, host: Contained) -> Outcome {
    let mut rest = Some(host.close_device());
    report.time(row, Way::Ours, 1, || {
        rest = None;
        Ok(())
    })
}

/// What one of `count` bindings costs. The close is that of a container with them less that of
/// one without.
fn many(report: &Report, count: u32) -> Outcome {
    let host = Contained::ours()?;
    let root = Table::new(&host.mem).root();
    let first = host.container.pasid_alloc(PASID, 0xf_ffff, count)?;
    let all = first..first + count;
    let row = |what: &str| format!("{what}_of_{count}");
    report.time(&row("bind"), Way::Ours, count, || {
        all.clone()
            .try_for_each(|pasid| bind(&host, pasid, root, None, false))
    })?;
    let entry = [iommu_hwpt_vtd_s1_invalidate {
        addr: 0x1000,
        npages: 1,
        ..Default::default()
    }];
    report.time(&row("invalidate"), Way::Ours, count, || {
        all.clone()
            .try_for_each(|pasid| invalidate(&host, pasid, &entry))
    })?;
    report.time(&row("unbind"), Way::Ours, count, || {
        all.clone().try_for_each(|pasid| unbind(&host, pasid))
    })?;
    all.clone()
        .try_for_each(|pasid| bind(&host, pasid, root, None, false))?;
    close(report, &row("close"), host)
}

/// Rows bind, rebind, and of 0, 1, 16, 256, 4,096 bindings bind, invalidate, unbind, close.
pub fn measure(report: &Report) -> Outcome {
    report.in_turns(&Way::NESTING, |way| one(report, way))?;
    report.in_turns(&[Way::Ours], |_| {
        let empty = Contained::ours()?;
        close(report, "close_of_0", empty)?;
        [1, 16, 256, 4096]
            .into_iter()
            .try_for_each(|count| many(report, count))
    })
}
