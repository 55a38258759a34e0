// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container goes on in another process of the same user: a VMM that is replaced while its guest
//! runs. The first one gives its files away, with DMA and a page request under way, and is killed.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, bind_stage2_at, child, expect_errno, expect_ok, expect_status, fail, program, range,
    receive_fd, send_fd, skip, status, wait_for_module_references, Container, Dma, Errno,
    FaultQueue, Memory, Order, Outcome, Rig, Space, PAGE,
};
use host_iommu_tests::vfio::Device;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

const GVA: u64 = 0x0bad_cafe_7000;
const HOLE: u64 = GVA + PAGE;
const LIMIT: Duration = Duration::from_secs(20);
/// Where the second process maps memory of its own.
const SECOND: u64 = 1 << 36;

/// What the second process must know of the first.
#[derive(Debug)]
struct Plan {
    device: vfio_ioasid_device,
    pasid: u32,
    base: u64,
    size: u64,
    root: u64,
    present: u64,
    hole: u64,
    entry: u64,
    value: u64,
}

/// The first VMM: gets everything going, gives it away, and waits for its end.
fn first(_arguments: &[String]) -> Outcome {
    let parent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(0, 0)?;
    let present = space.new_page(&rig, GVA)?;
    let hole = space.new_page(&rig, HOLE)?;
    let entry = space.entry_address(&rig, HOLE, 1)?;
    let value = rig.mem.read_u64(entry);
    rig.mem.write_u64(entry, 0);
    space.bind_with(&rig, &queue, 1, 2)?;
    rig.dma()
        .submit(&Order::fill(HOLE, 8, 0x4242).at(space.pasid))?;
    queue.wait_readable()?;
    for fd in [
        rig.container.as_fd(),
        rig.device_fd(),
        queue.as_fd(),
        rig.mem.shared().file().as_fd(),
        rig.group.as_fd(),
    ] {
        send_fd(&parent, fd)?;
    }
    let device = rig.id();
    let (base, size) = (rig.mem.base(), rig.mem.size());
    writeln!(
        &parent,
        "{} {} {} {} {base} {size} {} {present} {hole} {entry} {value}",
        device.segment,
        device.bus,
        device.devfn,
        space.pasid,
        space.root()
    )?;
    let _ = (&parent).read(&mut [0]);
    fail("it was to be killed")
}

fn plan(socket: &UnixStream) -> Outcome<Plan> {
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line)?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [segment, bus, devfn, pasid, base, size, root, present, hole, entry, value] = numbers[..]
    else {
        return fail(format!("the first process said {line:?}"));
    };
    Ok(Plan {
        device: vfio_ioasid_device {
            segment: segment as u16,
            bus: bus as u8,
            devfn: devfn as u8,
        },
        pasid: pasid as u32,
        base,
        size,
        root,
        present,
        hole,
        entry,
        value,
    })
}

fn goes_on_in_another_process() -> Outcome {
    let (socket, childs) = UnixStream::pair()?;
    let mut command = child(&[])?;
    command.stdin(OwnedFd::from(childs)).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    drop(command);
    let mut files = Vec::new();
    for _ in 0..5 {
        match receive_fd(socket.as_fd()) {
            Ok(fd) => files.push(fd),
            Err(_) => {
                let mut text = String::new();
                if let Some(stdout) = &mut child.stdout {
                    stdout.read_to_string(&mut text)?;
                }
                return match child.wait()?.code() {
                    Some(4) => skip(text.trim()),
                    _ => fail(format!("the first process: {text}")),
                };
            }
        }
    }
    let plan = plan(&socket)?;
    let Ok([container, device, queue, memory, _group]) = <[OwnedFd; 5]>::try_from(files) else {
        return fail("the files are five");
    };
    child.kill()?;
    child.wait()?;

    let (container, queue) = (Container::from_fd(container), FaultQueue::from_fd(queue));
    let (device, memory) = (Device::from(device), File::from(memory));
    let dma = Dma::of(&device)?;
    let word = |gpa: u64| -> Outcome<u64> {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, gpa - plan.base)?;
        Ok(u64::from_le_bytes(bytes))
    };

    // The page request that waits is answered here, and its DMA ends.
    let record = queue.read_one()?;
    assert_eq!(record.kind, VFIO_IOASID_FAULT_PAGE_REQUEST);
    assert_eq!((record.addr, record.guest_pasid), (HOLE, 1));
    memory.write_all_at(&plan.value.to_le_bytes(), plan.entry - plan.base)?;
    queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    let end = Instant::now() + LIMIT;
    while word(plan.hole)? != 0x4242 {
        if Instant::now() > end {
            return fail("the DMA that waited does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let fill =
        |address: u64, value: u8, pasid: u32| Order::fill(address, 8, value.into()).at(pasid);
    let order = fill(GVA, 0x51, plan.pasid).no_pri();
    expect_status(dma.run(&order)?, status::OK, "DMA by the old table");
    assert_ne!(word(plan.present)?, 0);

    // Every call works.
    let done = container.invalidate(
        VFIO_IOASID_SCOPE_BINDING,
        plan.device,
        plan.pasid,
        &[range(GVA, 2)],
    );
    expect_ok(done.result, "INVALIDATE");
    let own = Memory::at(SECOND, 4 * PAGE)?;
    expect_ok(container.map(&own, SECOND), "MAP_DMA of its own memory");
    let pasid = container.pasid_alloc_any()?;
    expect_ok(
        container.bind(&bind_stage2_at(plan.device, pasid)),
        "BIND of stage 2",
    );
    for address in [SECOND, plan.present] {
        let order = fill(address, 0x52, pasid).no_pri();
        expect_status(dma.run(&order)?, status::OK, "DMA by stage 2");
    }
    assert_ne!(own.read_u64(SECOND), 0);
    let data = host_iommu_tests::rig::bytes_of(&iommu_hwpt_vtd_s1 {
        pgtbl_addr: plan.root,
        addr_width: 48,
        ..Default::default()
    });
    let mut bind = bind_at(plan.device, plan.pasid, &data);
    bind.flags |= VFIO_IOASID_BIND_REPLACE;
    expect_ok(container.bind(&bind), "REPLACE of what the first had bound");

    // What the first process had pinned goes as ever, and once.
    let unmapped = container.unmap(plan.base, plan.size)?;
    assert_eq!(unmapped, plan.size, "the first process's memory");
    expect_errno(
        container.bind(&bind_at(plan.device, plan.pasid, &data)),
        Errno::EBUSY,
        "bound still",
    );
    let order = fill(plan.present, 0x53, pasid).no_pri();
    assert_ne!(dma.run(&order)?.status, status::OK, "unmapped");
    assert_eq!(container.unmap(SECOND, 4 * PAGE)?, 4 * PAGE);
    let stats = container.stats()?;
    assert_eq!((stats.mappings, stats.mapped_pages), (0, 0));
    drop((dma, device, queue, container, _group));
    wait_for_module_references(0)
}

program![
    child first;
    goes_on_in_another_process,
];
