// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests, from the endpoint's doorbell to the end of its DMA: the guest's table gets the
//! missing page, and the request its answer.

use crate::bindings::bind;
use crate::invalidations::invalidate;
use crate::report::Report;
use host_iommu_bindings::uapi::{
    iommu_hwpt_page_response, iommu_hwpt_pgfault, iommu_hwpt_vtd_s1_invalidate, vfio_ioasid_fault,
    vfio_ioasid_fault_response, VFIO_IOASID_RESPONSE_SUCCESS,
};
use host_iommu_sys::plain::{bytes_of_slice, bytes_of_slice_mut};
use host_iommu_tests::hosts::{Contained, Way};
use host_iommu_tests::iommufd::Iommufd;
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::PAGE;
use host_iommu_tests::rig::{response, status, Dma, Order, Slot};
use host_iommu_tests::stage1::{entry, Table};
use host_iommu_tests::testdev::reg;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

const PASID: u32 = 100;
const ALL: iommu_hwpt_vtd_s1_invalidate = iommu_hwpt_vtd_s1_invalidate {
    addr: 0,
    npages: u64::MAX,
    flags: 0,
    __reserved: 0,
};
const GVA: u64 = 0x7f12_0000_0000;
/// How page requests come.
struct Shape {
    row: &'static str,
    /// Orders at a time.
    orders: u64,
    /// Pages of an order.
    pages: u64,
    /// Pages of a group.
    group: u32,
    /// How often that many orders are given, one after the other, in a measurement.
    turns: u64,
}

const SHAPES: [Shape; 3] = [
    Shape {
        row: "request_1",
        orders: 1,
        pages: 1,
        group: 1,
        turns: 64,
    },
    Shape {
        row: "request_64",
        orders: 64,
        pages: 1,
        group: 1,
        turns: 1,
    },
    Shape {
        row: "request_group_8",
        orders: 1,
        pages: 8,
        group: 8,
        turns: 16,
    },
];

/// Measurements of each shape.
const ROUNDS: u32 = 4;

/// Most records of a read.
const RECORDS: usize = 64;

/// A fault fd as a VMM's loop uses it.
struct Queue {
    file: File,
    way: Way,
}

impl Queue {
    /// Reads what is there, at least one record, and answers it all; the number of pages that were
    /// asked for. `fill` maps a page first.
    fn serve(&self, fill: impl FnMut(u64)) -> Outcome<usize> {
        match self.way {
            Way::Ours => self.serve_ours(fill),
            _ => self.serve_theirs(fill),
        }
    }

    /// A read blocks.
    fn serve_ours(&self, mut fill: impl FnMut(u64)) -> Outcome<usize> {
        let mut records = [vfio_ioasid_fault::default(); RECORDS];
        let mut answers = [vfio_ioasid_fault_response::default(); RECORDS];
        let bytes = (&self.file).read(bytes_of_slice_mut(&mut records))?;
        let count = bytes / size_of::<vfio_ioasid_fault>();
        for (record, answer) in records.iter().zip(&mut answers).take(count) {
            fill(record.addr);
            *answer = response(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS);
        }
        let groups = one_each(&mut answers[..count], |answer| answer.cookie);
        (&self.file).write_all(bytes_of_slice(groups))?;
        Ok(count)
    }

    /// A read does not wait: poll does.
    fn serve_theirs(&self, mut fill: impl FnMut(u64)) -> Outcome<usize> {
        let mut faults = [iommu_hwpt_pgfault::default(); RECORDS];
        let mut answers = [iommu_hwpt_page_response::default(); RECORDS];
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        let bytes = (&self.file).read(bytes_of_slice_mut(&mut faults))?;
        let count = bytes / size_of::<iommu_hwpt_pgfault>();
        for (fault, answer) in faults.iter().zip(&mut answers).take(count) {
            fill(fault.addr);
            *answer = iommu_hwpt_page_response {
                cookie: fault.cookie,
                code: VFIO_IOASID_RESPONSE_SUCCESS,
            };
        }
        let groups = one_each(&mut answers[..count], |answer| answer.cookie);
        (&self.file).write_all(bytes_of_slice(groups))?;
        Ok(count)
    }
}

/// One answer of each group: the records of a group follow each other and have one cookie.
fn one_each<T: Copy, K: PartialEq>(answers: &mut [T], cookie: impl Fn(&T) -> K) -> &[T] {
    let mut groups = 0;
    for index in 0..answers.len() {
        if groups == 0 || cookie(&answers[groups - 1]) != cookie(&answers[index]) {
            answers[groups] = answers[index];
            groups += 1;
        }
    }
    &answers[..groups]
}

struct Bench<'a> {
    report: &'a Report,
    way: Way,
    dma: &'a Dma,
    table: Table<'a>,
    page: u64,
}

impl Bench<'_> {
    /// Touches holes from page number `first` on, has them filled, and sees the end of all DMA.
    fn once(&self, queue: &Queue, shape: &Shape, first: u64) -> Outcome {
        let slots = (0..shape.orders)
            .map(|index| {
                let gva = GVA + (first + index * shape.pages) * PAGE;
                let length = ((shape.pages - 1) * PAGE + 8) as u32;
                Ok(self.dma.submit(&Order::fill(gva, length, 1).at(PASID))?)
            })
            .collect::<Outcome<Vec<Slot>>>()?;
        let mut left = (shape.orders * shape.pages) as usize;
        while left > 0 {
            let served = queue.serve(|gva| {
                self.table.map(gva & !(PAGE - 1), self.page, entry::RW);
            })?;
            left = match left.checked_sub(served) {
                Some(left) => left,
                None => return fail("a page was asked for twice"),
            };
        }
        for slot in slots {
            let done = self.dma.wait(slot)?;
            if done.status != status::OK {
                return fail(done.to_string());
            }
        }
        Ok(())
    }

    fn run(&self, queue: &Queue, flush: impl Fn() -> Outcome) -> Outcome {
        for shape in &SHAPES {
            self.dma.set_register(reg::PRI_GROUP, shape.group);
            let step = shape.orders * shape.pages;
            let empty = || {
                for page in 0..shape.turns * step {
                    self.table.unmap(GVA + page * PAGE);
                }
                flush()
            };
            let all = || (0..shape.turns).try_for_each(|turn| self.once(queue, shape, turn * step));
            all()?;
            let counts = (ROUNDS, (shape.turns * step) as u32);
            self.report
                .time_each(shape.row, self.way, counts, empty, all)?;
            empty()?;
        }
        self.dma.set_register(reg::PRI_GROUP, 1);
        Ok(())
    }
}

/// Rows request_1, request_64, request_group_8: a page.
pub fn measure(report: &Report) -> Outcome {
    report.in_turns(&Way::NESTING, |way| match way {
        Way::Ours => {
            let host = Contained::ours()?;
            host.container.pasid_alloc(PASID, PASID, 1)?;
            let table = Table::new(&host.mem);
            let queue = host.container.fault_queue(0, 0)?;
            bind(&host, PASID, table.root(), Some(queue.as_fd()), false)?;
            let bench = Bench {
                report,
                way,
                dma: &host.dma,
                table,
                page: host.mem.alloc_page(),
            };
            let file = queue.into();
            bench.run(&Queue { file, way }, || invalidate(&host, PASID, &[ALL]))
        }
        _ => {
            let host = Iommufd::open()?;
            host.attach(host.parent(), None)?;
            let table = Table::new(&host.mem);
            let queue = host.fault_queue()?;
            let nested = host.nested(table.root(), Some(&queue))?;
            host.attach(nested, Some(PASID))?;
            let bench = Bench {
                report,
                way,
                dma: host.dma(),
                table,
                page: host.mem.alloc_page(),
            };
            let file = queue.into();
            bench.run(&Queue { file, way }, || host.flush(nested))
        }
    })
}
