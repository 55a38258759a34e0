// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The backend `iommufd` beyond the suite of all backends: devices that come and go, fds that stay
//! open, a jail, and the crate's example.

use host_iommu::backend::iommufd::Iommufd;
use host_iommu::seccomp::{
    DEVICE_IOCTLS, DEVICE_SYSCALLS, IOMMUFD_ATTACH_IOCTLS, IOMMUFD_ATTACH_SYSCALLS, IOMMUFD_IOCTLS,
    IOMMUFD_SYSCALLS,
};
use host_iommu::{
    Bdf, FaultEvent, FaultQueueOptions, FaultRead, Gpa, GuestTable, HostIommu, HostIommuContext,
    Iova, IovaRange, MapAccess, Mapping, PasidRequest, SharedMemory,
};
use host_iommu_sys as sys;
use host_iommu_tests::conformance::iommufd::IommufdMachine;
use host_iommu_tests::conformance::kmod::client;
use host_iommu_tests::conformance::{
    expect, expect_errno, next_event, next_group, run_on, Client, End, Job, Machine, Vm, GVA, HOLE,
};
use host_iommu_tests::jail::{alone, jailed, live, Fds};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::{entry, Table};
use host_iommu_tests::vfio::endpoints;
use host_iommu_tests::{named, suite, vsva};
use nix::errno::Errno;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MEMORY: u64 = 4 << 20;
const DONE: End = End::Done(0);

fn name(index: usize) -> Outcome<Bdf> {
    if fs::metadata("/dev/iommu").is_err() {
        return skip("the kernel has no iommufd");
    }
    match endpoints().get(index) {
        Some(name) => Ok(Bdf::new(name.segment, name.bus, name.devfn)),
        None => skip(format!("no endpoint number {index} is bound to vfio-pci")),
    }
}

/// A device's own file.
fn file(device: Bdf) -> Outcome<OwnedFd> {
    let folder = format!("/sys/bus/pci/devices/{device}/vfio-dev");
    let Some(entry) = fs::read_dir(&folder)?.next() else {
        return fail(format!("{folder} is empty"));
    };
    let path = Path::new("/dev/vfio/devices").join(entry?.file_name());
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}

/// A context with the first endpoint and memory, that shows what it is for.
struct Opened {
    host: HostIommu,
    device: Bdf,
    client: Box<dyn Client>,
    memory: GuestMemory,
    root: u64,
    page: u64,
}

fn open() -> Outcome<Opened> {
    let device = name(0)?;
    let iommufd = Iommufd::open_device(device)?;
    let client = client(iommufd.open_device_fd(device)?)?;
    let host = HostIommu::new(iommufd);
    let memory = GuestMemory::new(0, MEMORY)?;
    memory.alloc_page();
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    let table = Table::new(&memory);
    let (root, page) = (table.root(), memory.alloc_page());
    table.map(GVA, page, entry::RW);
    Ok(Opened {
        host,
        device,
        client,
        memory,
        root,
        page,
    })
}

fn device_comes_by_its_file_and_goes() -> Outcome {
    let (first, second) = (name(0)?, name(1)?);
    let iommufd = Iommufd::open_device(first)?;
    // Named by sysfs.
    let number = iommufd.attach(file(second)?)?;
    let client = client(iommufd.open_device_fd(second)?)?;
    expect_errno(iommufd.attach_device(file(second)?, second), Errno::EBUSY)?;
    let host = HostIommu::new(iommufd);
    let names: Vec<Bdf> = host.devices()?.iter().map(|found| found.device).collect();
    expect(names, vec![first, second], "devices")?;

    let memory = GuestMemory::new(0, MEMORY)?;
    memory.alloc_page();
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    let table = Table::new(&memory);
    let page = memory.alloc_page();
    table.map(GVA, page, entry::RW);
    let pasids = host.alloc_pasids(&PasidRequest::any())?;
    let stage1 = GuestTable::four_level(Gpa(table.root()));
    let bound = host.bind(second, &pasids, pasids.first(), &stage1, None)?;
    let by_pasid = Job::store(GVA, 1).at(bound.pasid());
    expect(run_on(&*client, by_pasid)?, DONE, "by PASID")?;
    expect(run_on(&*client, Job::store(page, 2))?, DONE, "without")?;

    let fd = host.context().detach(number)?;
    for job in [by_pasid, Job::store(page, 3)] {
        expect(run_on(&*client, job)?, End::NoAccess, "after it left")?;
    }
    expect(memory.read_u64(page), 2, "memory")?;
    expect(host.devices()?.len(), 1, "devices")?;
    expect_errno(host.context().detach(number), Errno::ENOENT)?;
    drop((bound, client, fd));

    // The other one stays, and it comes back.
    expect(host.stats()?.mapped_pages, MEMORY / PAGE, "pages mapped")?;
    host.context().attach(file(second)?)?;
    expect(host.devices()?.len(), 2, "devices")
}

fn last_device_takes_the_mappings_with_it() -> Outcome {
    let device = name(0)?;
    let iommufd = Iommufd::open_device(device)?;
    let memory = SharedMemory::new(c"guest", MEMORY as usize)?;
    let host = HostIommu::new(iommufd);
    host.map(Iova(0), &memory, MapAccess::ReadWrite)?;
    // The first that came has number 0.
    drop(host.context().detach(0)?);
    expect(host.stats()?.mapped_pages, 0, "pages mapped")?;
    // Without a page table nothing would pin the memory.
    let result = host.map(Iova(0), &memory, MapAccess::ReadWrite);
    expect_errno(result, Errno::EINVAL)?;
    host.context().attach(file(device)?)?;
    host.map(Iova(0), &memory, MapAccess::ReadWrite)?;
    Ok(())
}

/// What the kernel has pinned for the process.
fn pinned() -> Outcome<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    match status.lines().find(|line| line.starts_with("VmPin:")) {
        Some(line) => Ok(line.to_owned()),
        None => fail("no VmPin in /proc/self/status"),
    }
}

fn dropped_context_gives_everything_back_with_the_device_open() -> Outcome {
    let before = pinned()?;
    let Opened {
        host,
        device,
        client,
        memory,
        root,
        page,
    } = open()?;
    let faults = host.fault_queue(&FaultQueueOptions::nonblocking())?;
    let pasids = host.alloc_pasids(&PasidRequest::any())?;
    let table = GuestTable::four_level(Gpa(root));
    let pasid = pasids.first();
    let bound = host.bind(device, &pasids, pasid, &table, Some(&faults))?;
    let waits = client.start(&Job::store(HOLE, 7).at(pasid).asking())?;
    let group = next_group(&faults)?;
    if pinned()? == before {
        return fail("nothing is pinned");
    }
    drop((bound, pasids, host));

    // The client has the device's registers mapped: its file is open.
    expect(
        client.end(waits, host_iommu_tests::conformance::DEADLINE)?,
        Some(End::Invalid),
        "what waited",
    )?;
    for job in [Job::store(GVA, 1).at(pasid), Job::store(page, 1)] {
        expect(run_on(&*client, job)?, End::NoAccess, "afterwards")?;
    }
    expect(memory.read_u64(page), 0, "memory")?;
    expect(pinned()?, before, "pinned")?;
    match next_event(&faults)? {
        FaultEvent::Cancelled(cookie) => expect(cookie, group.cookie(), "cookie")?,
        other => return fail(format!("{other:?}")),
    }
    match faults.read()? {
        FaultRead::Ended => Ok(()),
        other => fail(format!("{other:?}")),
    }
}

fn queues_leave_nothing_behind() -> Outcome {
    let Opened {
        host, device, root, ..
    } = open()?;
    let count = || -> Outcome<(usize, usize)> {
        let tasks = fs::read_dir("/proc/self/task")?.count();
        Ok((tasks, fs::read_dir("/proc/self/fd")?.count()))
    };
    let before = count()?;
    let table = GuestTable::four_level(Gpa(root));
    for _ in 0..100 {
        let faults = host.fault_queue(&FaultQueueOptions::nonblocking())?;
        let pasids = host.alloc_pasids(&PasidRequest::any())?;
        let bound = host.bind(device, &pasids, pasids.first(), &table, Some(&faults))?;
        // Closed while it is bound, or after.
        drop(faults);
        drop(bound);
    }
    let mut seen = count()?;
    // The threads end on their own.
    for _ in 0..1000 {
        if seen == before {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        seen = count()?;
    }
    fail(format!("{before:?} threads and fds before, {seen:?} after"))
}

fn suite_runs_in_a_jail() -> Outcome {
    name(0)?;
    jailed(
        &IommufdMachine,
        &IOMMUFD_SYSCALLS,
        &IOMMUFD_IOCTLS,
        named![
            mappings::map_gives_devices_memory,
            mappings::unmap_stops_what_the_device_has_cached,
            tables::capabilities_and_devices_agree,
            tables::bind_at_the_rid_and_back,
            tables::rebind_takes_the_place,
            tables::flush_shows_a_new_page_and_not_before,
            spaces::space_unmapped_stops_dma,
            spaces::space_lives_as_long_as_it_is_bound,
            spaces::dirty_pages_are_those_written_at_least,
            faults::group_of_an_unbound_table_is_cancelled,
            faults::group_after_its_deadline_is_answered_invalid,
            faults::queue_over_its_depth_loses_and_counts,
            faults::queue_at_its_end_says_so,
        ],
    )
}

fn life_from_attach_to_detach_needs_the_lists_alone() -> Outcome {
    let device = name(0)?;
    let iommufd: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/iommu")?
        .into();
    let file = file(device)?;
    let with = Fds::new(device)?;
    let syscalls = [
        &IOMMUFD_SYSCALLS[..],
        &IOMMUFD_ATTACH_SYSCALLS,
        &DEVICE_SYSCALLS,
    ];
    let ioctls = [&IOMMUFD_IOCTLS[..], &IOMMUFD_ATTACH_IOCTLS, &DEVICE_IOCTLS];
    alone(&syscalls.concat(), &ioctls.concat(), || {
        let host = HostIommu::new(Iommufd::from_fds(iommufd, file, device)?);
        live(&host, &with)?;
        // By its file once more, whose name sysfs knows; another opening may bind it.
        let file = host.detach(0)?;
        match host.context().attach(file) {
            Err(error) if error.errno() == Some(libc::EINVAL) => Ok(()),
            other => fail(format!("{other:?}")),
        }
    })
}

/// How long the last device goes and comes back while others map.
const HAMMERED: Duration = Duration::from_secs(10);
/// The first object of an iommufd: the context's stage 2.
const IOAS: u32 = 1;
const PLACES: u64 = 4096;

fn last_device_leaves_no_mapping_that_comes_meanwhile() -> Outcome {
    let device = name(0)?;
    let context = Iommufd::open_device(device)?;
    // Of the same iommufd, to see what the kernel has mapped whatever the crate says.
    let fd = context.as_fd().try_clone_to_owned()?;
    let memory = SharedMemory::new(c"guest", PAGE as usize)?;
    let host = HostIommu::new(context);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Outcome {
        for thread in 0..2 {
            let (host, memory, stop) = (&host, &memory, &stop);
            scope.spawn(move || {
                for page in (thread..)
                    .step_by(2)
                    .take_while(|_| !stop.load(Ordering::Relaxed))
                {
                    let mapping = Mapping {
                        memory,
                        offset: 0,
                        range: IovaRange::sized(Iova((page % PLACES) * PAGE), PAGE)
                            .expect("a page"),
                        access: MapAccess::ReadWrite,
                    };
                    // The backend alone, as it holds no lock of `HostIommu`'s. Without a device,
                    // and where something is mapped, it fails.
                    if host.context().map(&mapping).is_err() {
                        thread::yield_now();
                    }
                }
            });
        }
        let rounds = || -> Outcome {
            let start = Instant::now();
            let (mut number, mut round) = (0, 0);
            while start.elapsed() < HAMMERED {
                while host.stats()?.mapped_pages < 3 {
                    thread::yield_now();
                }
                drop(host.context().detach(number)?);
                // Without a device nothing may be mapped: nobody pins what it leads to.
                thread::sleep(Duration::from_millis(1));
                let left = sys::iommufd::ioas_unmap(fd.as_fd(), IOAS, 0, PLACES * PAGE);
                match left {
                    Ok(0) | Err(sys::Errno::ENOENT) => {}
                    other => {
                        return fail(format!("round {round}: the kernel has mapped {other:?}"))
                    }
                }
                expect(host.stats()?.mapped_pages, 0, "pages mapped")?;
                number = host.context().attach(file(device)?)?;
                round += 1;
            }
            println!("# {round} rounds");
            Ok(())
        };
        let outcome = rounds();
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

fn dma_faults_are_not_had() -> Outcome {
    let vm = Vm::new(&IommufdMachine as &dyn Machine)?;
    let options = FaultQueueOptions::nonblocking().with_dma_faults();
    expect_errno(vm.host.fault_queue(&options), Errno::EOPNOTSUPP)
}

fn vsva_runs_on_iommufd() -> Outcome {
    name(0)?;
    vsva::run("iommufd")
}

suite![
    device_comes_by_its_file_and_goes,
    last_device_takes_the_mappings_with_it,
    dropped_context_gives_everything_back_with_the_device_open,
    queues_leave_nothing_behind,
    suite_runs_in_a_jail,
    life_from_attach_to_detach_needs_the_lists_alone,
    last_device_leaves_no_mapping_that_comes_meanwhile,
    dma_faults_are_not_had,
    vsva_runs_on_iommufd,
];
