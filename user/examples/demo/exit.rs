// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The VMM dies while a device waits for it.
//!
//! The demo starts itself again as a VMM that dies. Both have the device open, so that the demo
//! can see how the device fares; the container and the fault queue are the child's alone, and go
//! with it.

use crate::faults::next_group;
use crate::report::{check, Seen};
use crate::setup::{open_endpoint, World, COOKIE, GUEST_PASIDS, HOLES, MEMORY_SIZE};
use host_iommu::backend::kmod::Kmod;
use host_iommu::{
    Bdf, FaultQueueOptions, Gpa, GuestTable, HostIommu, Iova, MapAccess, PasidRequest,
};
use host_iommu_tests::ktap::Stop;
use host_iommu_tests::memory::GuestMemory;
use host_iommu_tests::rig::{
    load_module, module_is_loaded, unload_module, wait_for_module_references,
};
use host_iommu_tests::stage1::Table;
use host_iommu_tests::testdev::{status, Counter, Order, Slot, Testdev, BAR, DEADLINE};
use host_iommu_tests::vfio::Device;

use std::fs;
use std::io::{stdin, stdout};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// The argument that makes the demo the VMM that dies.
pub const CHILD: &str = "--die-with-faults-unanswered";

/// How the child dies if all went well so far.
const DIED: u8 = 42;

/// Pages pinned and not unpinned, in the whole machine.
fn pinned_pages() -> Seen<i64> {
    // Reading this has each CPU add what it counted.
    fs::read_to_string("/proc/sys/vm/stat_refresh")?;
    let text = fs::read_to_string("/proc/vmstat")?;
    let value = |name: &str| -> Seen<i64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line
            .ok_or(format!("no {name} in /proc/vmstat"))?
            .trim()
            .parse()?)
    };
    Ok(value("nr_foll_pin_acquired ")? - value("nr_foll_pin_released ")?)
}

fn reason(stop: Stop) -> String {
    match stop {
        Stop::Skip(reason) | Stop::Fail(reason) => reason,
    }
}

/// A VMM dies with one page request read and one unread.
pub fn with_faults_unanswered(world: &mut World) -> Seen {
    let device = world.device()?;
    world.clear();
    let pinned = pinned_pages()?;

    let kmod = Kmod::open_device(device)?;
    let (device_file, endpoint) = open_endpoint(&kmod, device)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .arg(device.to_string())
        .stdin(Stdio::from(kmod.as_fd().try_clone_to_owned()?))
        .stdout(Stdio::from(device_file.as_fd().try_clone_to_owned()?))
        .spawn()?;
    drop(kmod);
    let code = child.wait()?.code();
    check(
        code == Some(DIED.into()),
        format!("the child ended with {code:?}"),
    )?;

    for slot in [Slot(0), Slot(1)] {
        let done = endpoint.wait(slot, DEADLINE)?;
        check(
            done.status == status::INVALID,
            format!("after the exit the DMA ended: {done}"),
        )?;
    }
    let answers = endpoint.counter(Counter::RspInvalid);
    check(
        answers == 2 && endpoint.outstanding() == 0,
        format!("{answers} answers reached the device"),
    )?;
    drop((endpoint, device_file));

    let left = pinned_pages()? - pinned;
    check(left == 0, format!("{left} pages are still pinned"))?;
    wait_for_module_references(0).map_err(reason)?;
    unload_module()?;
    check(!module_is_loaded(), "the module is still there")?;
    load_module("")?;
    look_again(device)?;
    Ok(format!(
        "the device had {answers} answers, all {} MiB were unpinned, the module unloaded \
         and loaded again",
        MEMORY_SIZE >> 20
    ))
}

/// Finds a context that nothing is left in.
fn look_again(device: Bdf) -> Seen<()> {
    let stats = HostIommu::new(Kmod::open_device(device)?).stats()?;
    check(
        stats.pasids == 0 && stats.bindings == 0 && stats.mapped_pages == 0,
        format!("a new context is not empty: {stats:?}"),
    )
}

/// The VMM that dies.
pub fn child() -> ExitCode {
    match wait_for_death() {
        Ok(()) => {
            // No destructor runs: nothing is answered, unbound or closed by us.
            std::process::exit(DIED.into())
        }
        Err(error) => {
            eprintln!("demo's child: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wait_for_death() -> Seen<()> {
    let name = std::env::args().nth(2).ok_or("no device is named")?;
    let device: Bdf = name.parse()?;
    let host = HostIommu::new(Kmod::from_container(stdin().as_fd().try_clone_to_owned()?)?);
    let device_file = Device::from(stdout().as_fd().try_clone_to_owned()?);
    let endpoint = Testdev::new(device_file.map_bar(BAR)?)?;
    let memory = GuestMemory::new(0, MEMORY_SIZE)?;
    let table = Table::new(&memory);
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    let faults = host.fault_queue(&FaultQueueOptions::nonblocking())?;
    let pasids = host.alloc_pasids(&PasidRequest::exactly(GUEST_PASIDS[0].try_into()?))?;
    let stage1 = GuestTable::four_level(Gpa(table.root())).with_cookie(COOKIE);
    let binding = host.bind(device, &pasids, pasids.first(), &stage1, Some(&faults))?;

    let mut order = Order::fill(HOLES[0], 64, 1).at(pasids.first().get());
    endpoint.submit(&order)?;
    let group = next_group(&faults)?;
    order.dst = HOLES[1];
    endpoint.submit(&order)?;
    let end = Instant::now() + DEADLINE;
    while host.stats()?.page_requests < 2 {
        check(Instant::now() < end, "the second page request did not come")?;
        std::thread::yield_now();
    }
    // What this VMM owns is not given back by it.
    std::mem::forget((group, binding, pasids, faults, memory, host, endpoint));
    Ok(())
}
