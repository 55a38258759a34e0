// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The story: guest, virtual IOMMU and VMM in one process, the device behind a backend.

use host_iommu::{
    Bdf, Delivered, FaultGroup, FaultQueue, FaultQueueOptions, Gpa, GuestTable, HostIommu,
    Invalidation, Iova, IovaRange, MapAccess, Pasid, PasidRequest, PciIommuOps, Response, Scope,
};
use host_iommu_tests::conformance::{run_on, End, Job, Machine};
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::{entry, Table};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Guest memory, from guest-physical address 0 on.
const MEMORY: u64 = 16 << 20;
/// Where the guest's process has its buffer: nothing is there until it is touched.
const BUFFER: u64 = 0x7f12_3456_7000;
const BUFFER_PAGES: u64 = 4;
/// The guest's number for the process.
const GUEST_PASID: u32 = 5;

/// The guest and its virtual IOMMU: it answers page requests as an operating system would, with a
/// page of memory for each address of the buffer.
#[derive(Debug)]
struct Guest<'a> {
    memory: &'a GuestMemory,
    root: u64,
    faults: AtomicU64,
    refused: AtomicU64,
}

impl Guest<'_> {
    fn handle(&self, group: &FaultGroup) -> Response {
        let table = Table::at(self.memory, self.root);
        let buffer = BUFFER..BUFFER + BUFFER_PAGES * PAGE;
        for request in group.requests() {
            let Iova(address) = request.address;
            if group.guest_pasid() != GUEST_PASID || !buffer.contains(&address) {
                return Response::Invalid;
            }
            if table.walk(address).is_none() {
                table.map(address, self.memory.alloc_page(), entry::RW);
            }
        }
        Response::Success
    }
}

impl PciIommuOps for Guest<'_> {
    fn set_context(&self, _device: Bdf, _context: &HostIommu) -> host_iommu::Result<()> {
        Ok(())
    }

    fn unset_context(&self, _device: Bdf) {}

    fn page_request(&self, group: FaultGroup) {
        let response = self.handle(&group);
        let counter = match response {
            Response::Success => &self.faults,
            Response::Invalid => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // One whose binding went meanwhile needs no answer.
        drop(group.respond(response));
    }
}

/// The VMM's thread for faults.
fn deliver(faults: &FaultQueue, guest: &Guest<'_>, stop: &AtomicBool) -> Outcome {
    while !stop.load(Ordering::Acquire) {
        let mut fds = [PollFd::new(faults.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(10u8))?;
        if faults.deliver(guest)? == Delivered::Ended {
            break;
        }
    }
    Ok(())
}

fn expect_end(seen: End, wanted: End, what: &str) -> Outcome {
    if seen == wanted {
        return Ok(());
    }
    fail(format!("{what} ended with {seen:?}, instead of {wanted:?}"))
}

/// Runs it, and says what happens.
///
/// # Errors
///
/// If something is not as it should be.
pub fn run(machine: &dyn Machine, say: &mut dyn FnMut(String)) -> Outcome {
    // 1. The context, and what it can do.
    let opened = machine.open(&[0])?;
    let host = opened.host;
    let Some((device, client)) = opened.devices.first() else {
        return fail("no device");
    };
    let (device, client) = (*device, &**client);
    let Some(nesting) = host.capabilities()?.nesting else {
        return fail("the host reports nothing about nesting");
    };
    say(format!(
        "1. {device} behind {}: stage 1 {}, page requests {}",
        machine.backend(),
        nesting.stage1,
        nesting.page_requests
    ));

    // 2. Guest memory: stage 2.
    let memory = GuestMemory::new(0, MEMORY)?;
    memory.alloc_page();
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    say(format!("2. {} MiB of guest memory mapped", MEMORY >> 20));

    // 3. The guest's process gets a PASID and binds its page table.
    let faults = host.fault_queue(&FaultQueueOptions::nonblocking())?;
    let pasids = host.alloc_pasids(&PasidRequest::any())?;
    let root = Table::new(&memory).root();
    let table = GuestTable::four_level(Gpa(root)).with_guest_pasid(GUEST_PASID);
    let pasid = pasids.first();
    let binding = host.bind(device, &pasids, pasid, &table, Some(&faults))?;
    let guest_pasid: Pasid = GUEST_PASID.try_into()?;
    if host.host_pasid(device, guest_pasid) != Some(pasid) {
        return fail("the guest's PASID is not translated");
    }
    say(format!(
        "3. guest PASID {GUEST_PASID} is PASID {pasid} of the host; its table, empty, is bound"
    ));

    // 4. The device writes to the process's buffer, which is not there yet.
    let guest = Guest {
        memory: &memory,
        root,
        faults: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Outcome {
        let pump = scope.spawn(|| deliver(&faults, &guest, &stop));
        let touched = touch(client, pasid);
        stop.store(true, Ordering::Release);
        match pump.join() {
            Ok(delivered) => touched.and(delivered),
            Err(_) => fail("the thread for faults panicked"),
        }
    })?;
    let (faults_seen, refused) = (guest.faults.into_inner(), guest.refused.into_inner());
    for page in 0..BUFFER_PAGES {
        let walked = Table::at(&memory, root).walk(BUFFER + page * PAGE);
        match walked.map(|(gpa, _)| memory.read_u64(gpa)) {
            Some(0x5eed) => {}
            other => return fail(format!("page {page} of the buffer holds {other:x?}")),
        }
    }
    if (faults_seen, refused) != (BUFFER_PAGES, 1) {
        return fail(format!("{faults_seen} faults, {refused} refused"));
    }
    say(format!(
        "4. the device wrote {BUFFER_PAGES} pages that were not there: {faults_seen} page requests \
         went to the guest and back; one astray was refused"
    ));

    // 5. The process moves a page, and the guest invalidates.
    let fresh = memory.alloc_page();
    memory.write_u64(fresh, 0xf4e5);
    Table::at(&memory, root).map(BUFFER, fresh, entry::RW);
    let load = Job::load(BUFFER).at(pasid);
    expect_end(run_on(client, load)?, End::Done(0x5eed), "the DMA before")?;
    match IovaRange::sized(Iova(BUFFER), PAGE) {
        Some(page) => binding.flush(&Invalidation::new().leaf(page))?,
        None => return fail("an empty range"),
    }
    expect_end(run_on(client, load)?, End::Done(0xf4e5), "the DMA after")?;
    say("5. a page moved: the device saw the old one until the guest's invalidation".to_owned());

    // 6. The guest is reset.
    host.unbind(Scope::Device(device))?;
    expect_end(run_on(client, load)?, End::NoAccess, "the DMA after reset")?;
    let stats = host.stats()?;
    if stats.bindings != 0 || stats.responses != BUFFER_PAGES + 1 {
        return fail(format!("{stats:?}"));
    }
    say("6. reset: nothing is bound, and the device's DMA is stopped".to_owned());
    Ok(())
}

/// The device writes to each page of the buffer, then astray.
fn touch(client: &dyn host_iommu_tests::conformance::Client, pasid: Pasid) -> Outcome {
    for page in 0..BUFFER_PAGES {
        let store = Job::store(BUFFER + page * PAGE, 0x5eed).at(pasid).asking();
        expect_end(run_on(client, store)?, End::Done(0), "the DMA")?;
    }
    let astray = Job::store(BUFFER + (1 << 30), 1).at(pasid).asking();
    expect_end(run_on(client, astray)?, End::Invalid, "the DMA astray")
}
