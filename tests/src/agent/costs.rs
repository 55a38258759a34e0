// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is done many times, so that what it costs the VMM can be counted. The answers are all alike.

use crate::share::{Shared, PAGE};
use crate::{endpoint, give_to_driver, remove};
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::testdev::{status, Order};
use host_iommu_tests_sys::private::PrivateMemory;
use std::fs;

const DONE: &str = "done";

/// Has the guest's kernel drop what the unit cached of the endpoint's DMA mappings at each unmap
/// (`DMA`), or of many at a time (`DMA-FQ`).
pub fn set_domain(kind: &str) -> Outcome<String> {
    remove()?;
    fs::write("/sys/bus/pci/rescan", "1")?;
    fs::write(endpoint()?.join("iommu_group/type"), kind)?;
    give_to_driver()?;
    Ok(DONE.into())
}

/// Has the driver hold so many DMA mappings of a page.
pub fn hold(count: u32) -> Outcome<String> {
    fs::write(endpoint()?.join("held_pages"), count.to_string())?;
    Ok(DONE.into())
}

/// Maps memory and unmaps it, so many times, in a process whose memory the device shares.
pub fn forget(pages: usize, times: u32) -> Outcome<String> {
    let _shared = Shared::open()?;
    for _ in 0..times {
        let memory = PrivateMemory::new(pages * PAGE)?;
        for page in 0..pages {
            memory.store((page * PAGE) as u64, 1);
        }
    }
    Ok(DONE.into())
}

/// Has the device write so many pages that were never touched, an order each.
pub fn ask(pages: usize) -> Outcome<String> {
    let shared = Shared::open()?;
    let memory = PrivateMemory::new((pages + 1) * PAGE)?;
    for page in 0..pages {
        let start = memory.address() + (page * PAGE) as u64;
        let done = shared.run(Order::fill(start, PAGE as u32, 7))?;
        if done.status != status::OK {
            return fail(format!("{done}"));
        }
    }
    Ok(DONE.into())
}
