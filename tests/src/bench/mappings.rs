// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mapping memory in stage 2: 1 GiB in pages of each size, and 64 GiB of addresses in steps.

use crate::report::Report;
use host_iommu_tests::hosts::{Mapper, Way};
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use std::fs;

const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
/// Where memory is mapped: clear of guest memory, and aligned to every page size.
const AT: u64 = 64 << 30;
/// Steps of 2 MiB in 64 GiB.
const STEPS: u32 = 32_768;

/// Sets huge pages of that size aside for as long as the value lives.
struct HugePages(String);

impl HugePages {
    fn reserve(size: u64, count: u64) -> Outcome<Self> {
        let file = format!(
            "/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
            size / 1024
        );
        fs::write(&file, count.to_string())?;
        let pages = Self(file);
        if fs::read_to_string(&pages.0)?.trim() != count.to_string() {
            return fail(format!("no {count} pages of {size:#x} bytes"));
        }
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        drop(fs::write(&self.0, "0"));
    }
}

/// Has the system give every page, in an order that does not give runs of them: neighbours that
/// are neighbours in memory too are mapped as one, and would make one boot unlike the other.
pub fn touch(memory: &GuestMemory, page: u64) {
    const STRIDE: u64 = 61;
    for first in 0..STRIDE {
        for at in (first * page..memory.size()).step_by((STRIDE * page) as usize) {
            memory.write_u64(at, at);
        }
    }
}

fn once(mapper: &Mapper, memory: &GuestMemory) -> Outcome {
    mapper.map(AT, memory.shared())?;
    match mapper.unmap(AT, memory.size())? {
        size if size == memory.size() => Ok(()),
        size => fail(format!("{size:#x} bytes were unmapped")),
    }
}

fn whole(report: &Report, row: &str, page: u64) -> Outcome {
    let _pages = match page {
        PAGE => None,
        _ => Some(HugePages::reserve(page, G1 / page)?),
    };
    let memory = match page {
        PAGE => GuestMemory::new(0, G1)?,
        _ => GuestMemory::huge(0, G1, page.trailing_zeros())?,
    };
    touch(&memory, page);
    report.in_turns(&Way::ALL, |way| {
        let mapper = Mapper::open(way)?;
        once(&mapper, &memory)?;
        report.time(row, way, 1, || once(&mapper, &memory))
    })
}

/// The same 2 MiB at every address.
fn steps(report: &Report) -> Outcome {
    let _pages = HugePages::reserve(M2, 1)?;
    let memory = GuestMemory::huge(0, M2, M2.trailing_zeros())?;
    touch(&memory, M2);
    report.in_turns(&Way::ALL, |way| {
        let mapper = Mapper::open(way)?;
        once(&mapper, &memory)?;
        report.time("map_64g", way, STEPS, || {
            for step in 0..STEPS {
                mapper.map(AT + u64::from(step) * M2, memory.shared())?;
            }
            for step in 0..STEPS {
                mapper.unmap(AT + u64::from(step) * M2, M2)?;
            }
            Ok(())
        })
    })
}

/// Rows map_1g, map_2m, map_4k: 1 GiB mapped and unmapped; map_64g: 2 MiB.
pub fn measure(report: &Report) -> Outcome {
    // The largest first, while memory is not in pieces.
    whole(report, "map_1g", G1)?;
    whole(report, "map_2m", M2)?;
    steps(report)?;
    whole(report, "map_4k", PAGE)
}
