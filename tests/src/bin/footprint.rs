// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of the kernel's for each PASID, binding and mapping: measured, printed, and held below
//! a bound; docs/design/costs.md has the numbers.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use host_iommu_tests::memory::GuestMemory;
use host_iommu_tests::rig::{bind_at, fail, program, skip, Outcome, Rig, Space, PAGE};

/// Fields of /proc/meminfo that hold what the module and the IOMMU driver allocate: objects, page
/// tables, large arrays.
const FIELDS: [&str; 3] = ["Slab:", "SecPageTables:", "VmallocUsed:"];

fn used_now() -> Outcome<i64> {
    if Path::new("/sys/kernel/debug/kmemleak").exists() {
        return skip("a kernel that watches its memory takes more of it");
    }
    let text = fs::read_to_string("/proc/meminfo")?;
    let mut sum = 0;
    for field in FIELDS {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        match line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<i64>().ok()) {
            Some(kib) => sum += kib * 1024,
            None => return fail(format!("no {field} in /proc/meminfo")),
        }
    }
    Ok(sum)
}

/// The sum of [`FIELDS`] in bytes, once it has come to rest: what a test before this one gave back
/// goes after grace periods of RCU.
fn used() -> Outcome<i64> {
    const REST: i64 = 8 << 10;
    const QUIET: u32 = 3;
    let mut before = used_now()?;
    let mut quiet = 0;
    for _ in 0..60 {
        sleep(Duration::from_millis(200));
        let now = used_now()?;
        quiet = if (now - before).abs() <= REST {
            quiet + 1
        } else {
            0
        };
        if quiet == QUIET {
            return Ok(now);
        }
        before = now;
    }
    fail("the kernel's memory does not come to rest")
}

/// What `make` takes a piece, if it makes `pieces`; printed, and at most `bound`.
fn measure<T>(
    what: &str,
    pieces: u32,
    bound: i64,
    make: impl FnOnce() -> Outcome<T>,
) -> Outcome<T> {
    let before = used()?;
    let made = make()?;
    let each = (used()? - before) / i64::from(pieces);
    println!("# {what}: {each} bytes each of {pieces}");
    if each <= 0 {
        return skip("what others gave back meanwhile is more");
    }
    assert!(each <= bound, "{what}: {each} bytes, {bound} at most");
    Ok(made)
}

fn pasids_take_a_bit_each() -> Outcome {
    const COUNT: u32 = 65_536;
    let rig = Rig::open_unmapped()?;
    measure("PASID", COUNT, 16, || {
        Ok(rig.container.pasid_alloc(1, 0xf_ffff, COUNT)?)
    })?;
    Ok(())
}

fn bindings_take_less_than_four_kibibytes_each() -> Outcome {
    const COUNT: u32 = 4000;
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    let first = rig.container.pasid_alloc(100, 0xf_ffff, COUNT)?;
    let device = rig.container.devices()?[0].device;
    let data = space.stage1_data();
    measure("binding of a stage-1 table", COUNT, 4096, || {
        for pasid in first..first + COUNT {
            rig.container.bind(&bind_at(device, pasid, &data))?;
        }
        Ok(())
    })?;
    Ok(())
}

fn bindings_with_page_requests_take_less_than_four_kibibytes_each() -> Outcome {
    const COUNT: u32 = 4000;
    let rig = Rig::faulting()?;
    let queue = rig.container.fault_queue(0, 0)?;
    let space = Space::new(&rig)?;
    let first = rig.container.pasid_alloc(100, 0xf_ffff, COUNT)?;
    let device = rig.container.devices()?[0].device;
    let data = space.stage1_data();
    measure("binding with page requests", COUNT, 4096, || {
        for pasid in first..first + COUNT {
            let mut bind = bind_at(device, pasid, &data);
            bind.fault_fd = queue.raw_fd();
            rig.container.bind(&bind)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Single pages, each a mapping of its own, all of the same memory; the tables of stage 2 are
/// counted with them.
fn mappings_of_a_page_take_less_than_a_kibibyte_each() -> Outcome {
    const COUNT: u64 = 32_768;
    let rig = Rig::open_unmapped()?;
    let memory = GuestMemory::new(0, PAGE)?;
    measure("mapping of one page", COUNT as u32, 1024, || {
        for index in 0..COUNT {
            rig.container
                .map(&memory, 0x2_0000_0000 + 2 * index * PAGE)?;
        }
        Ok(())
    })?;
    Ok(())
}

fn fault_queue_takes_less_than_a_mebibyte() -> Outcome {
    const COUNT: u32 = 32;
    let rig = Rig::faulting()?;
    let queues = measure("fault queue of 2048 records", COUNT, 1 << 20, || {
        (0..COUNT)
            .map(|_| Ok(rig.container.fault_queue(0, 2048)?))
            .collect::<Outcome<Vec<_>>>()
    })?;
    drop(queues);
    Ok(())
}

program![
    mappings_of_a_page_take_less_than_a_kibibyte_each,
    bindings_with_page_requests_take_less_than_four_kibibytes_each,
    bindings_take_less_than_four_kibibytes_each,
    pasids_take_a_bit_each,
    fault_queue_takes_less_than_a_mebibyte,
];
