// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Filling an address space at a PASID from what stage 2 has.

use crate::mappings::touch;
use crate::report::Report;
use host_iommu_bindings::uapi::{vfio_ioasid_as_entry, VFIO_IOASID_AS_READ, VFIO_IOASID_AS_WRITE};
use host_iommu_sys::ioasid::{self, Bind, BindWhat};
use host_iommu_sys::iommufd;
use host_iommu_tests::hosts::{Contained, Way, RW};
use host_iommu_tests::iommufd::Iommufd;
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use std::os::fd::AsFd;

const PASID: u32 = 100;
/// Pages, and how often they are mapped and unmapped.
const SIZES: [(u64, u32); 3] = [(1, 64), (512, 8), (65_536, 1)];
/// Where stage 2 has the memory, and where the address space gets it.
const STAGE2: u64 = 64 << 30;
const SPACE: u64 = 1 << 30;

fn entry(page: u64, to: u64, pages: u64) -> vfio_ioasid_as_entry {
    vfio_ioasid_as_entry {
        iova: SPACE + to * PAGE,
        gpa: STAGE2 + page * PAGE,
        length: pages * PAGE,
        perm: VFIO_IOASID_AS_READ | VFIO_IOASID_AS_WRITE,
        ..Default::default()
    }
}

/// What AS_MAP takes, and what AS_UNMAP takes for the same.
struct Shape {
    row: String,
    map: Vec<vfio_ioasid_as_entry>,
    unmap: Vec<vfio_ioasid_as_entry>,
}

impl Shape {
    fn new(row: String, map: Vec<vfio_ioasid_as_entry>) -> Self {
        let range = |entry: &vfio_ioasid_as_entry| vfio_ioasid_as_entry {
            iova: entry.iova,
            length: entry.length,
            ..Default::default()
        };
        let unmap = map.iter().map(range).collect();
        Self { row, map, unmap }
    }
}

/// Pages in one run, and each by itself with a gap before the next.
fn shapes(pages: u64) -> [Shape; 2] {
    let scattered = (0..pages).map(|page| entry(page, 2 * page, 1)).collect();
    [
        Shape::new(format!("as_{pages}"), vec![entry(0, 0, pages)]),
        Shape::new(format!("as_scattered_{pages}"), scattered),
    ]
}

/// Times what maps; what unmaps is not counted.
fn each_shape(
    report: &Report,
    way: Way,
    map: impl Fn(&Shape) -> Outcome,
    unmap: impl Fn(&Shape) -> Outcome,
) -> Outcome {
    for (pages, calls) in SIZES {
        for shape in shapes(pages) {
            map(&shape)?;
            let prepare = || unmap(&shape);
            report.time_each(&shape.row, way, (calls, 1), prepare, || map(&shape))?;
            unmap(&shape)?;
        }
    }
    Ok(())
}

fn ours(report: &Report, memory: &GuestMemory) -> Outcome {
    let host = Contained::ours()?;
    host.container.map_memory(STAGE2, memory.shared())?;
    host.container.pasid_alloc(PASID, PASID, 1)?;
    let fd = host.container.as_fd();
    let space = ioasid::as_create(fd)?;
    let bind = Bind {
        device: host.id(),
        pasid: PASID,
        replace: false,
        what: BindWhat::AddressSpace(space),
        guest_pasid: PASID,
        fault_queue: None,
        cookie: 0,
    };
    if let Err(failure) = ioasid::bind(fd, &bind) {
        return fail(format!("BIND: {failure:?}"));
    }
    let done = |result| match result {
        Ok(()) => Ok(()),
        Err(failure) => fail(format!("AS_MAP or AS_UNMAP: {failure:?}")),
    };
    each_shape(
        report,
        Way::Ours,
        |shape| done(ioasid::as_map(fd, space, &shape.map)),
        |shape| done(ioasid::as_unmap(fd, space, &shape.unmap)),
    )
}

fn theirs(report: &Report, memory: &GuestMemory) -> Outcome {
    let host = Iommufd::open()?;
    host.attach(host.parent(), None)?;
    iommufd::ioas_map_part(
        host.fd(),
        (host.ioas(), RW),
        memory.shared(),
        0,
        STAGE2,
        memory.size(),
    )?;
    let space = iommufd::ioas_alloc(host.fd())?;
    let table = host.paging(space)?;
    host.attach(table, Some(PASID))?;
    each_shape(
        report,
        Way::Iommufd,
        |shape| {
            for entry in &shape.map {
                let (from, to) = ((host.ioas(), entry.gpa), (space, entry.iova));
                iommufd::ioas_copy(host.fd(), from, to, entry.length, RW)?;
            }
            Ok(())
        },
        |shape| {
            for entry in &shape.unmap {
                iommufd::ioas_unmap(host.fd(), space, entry.iova, entry.length)?;
            }
            Ok(())
        },
    )
}

/// Rows as_1, _512, _65536: that many pages mapped at once; as_scattered: each by
/// itself.
pub fn measure(report: &Report) -> Outcome {
    let memory = GuestMemory::new(0, 65_536 * PAGE)?;
    touch(&memory, PAGE);
    report.in_turns(&Way::NESTING, |way| match way {
        Way::Ours => ours(report, &memory),
        _ => theirs(report, &memory),
    })
}
