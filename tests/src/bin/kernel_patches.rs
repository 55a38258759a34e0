// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The reproducers of the kernel patches in qemu-boot/kernel/patches: each fails on a kernel
//! without them. Races are met by delays of the functions between which they happen.

use host_iommu_bindings::uapi::{
    iommu_hwpt_pgfault, VFIO_IOASID_NESTING_DMA_FAULT, VFIO_IOASID_RESPONSE_INVALID,
};
use host_iommu_tests::iommufd::{FaultQueue, Iommufd};
use host_iommu_tests::rig::{
    all_endpoints, fail, pin_page_request_threads, pin_to_cpu, program, Container, Delay, Delays,
    Group, KernelLog, Outcome, Rig, DEADLINE, PAGE,
};
use host_iommu_tests::stage1::Table;
use host_iommu_tests::testdev::{raw, Counter};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const GVA: u64 = 0x4567_89ab_c000;
const PASID: u32 = 77;
const OTHER_PASID: u32 = 78;

/// Two CPUs that take turns of a tenth of a second reach each other's delays.
const LONG: Duration = Duration::from_millis(400);
const LONGER: Duration = Duration::from_millis(900);

/// The lookup that the page request thread makes, delayed when it returns.
const LOOKUP: Delay = Delay {
    function: "iommu_attach_handle_get",
    at_return: true,
    time: LONGER,
};
/// The end of the driver's own part of a detach: translation is blocked, page requests are
/// drained.
const DRAINED: Delay = Delay {
    function: "intel_pasid_tear_down_entry",
    at_return: true,
    time: LONG,
};

/// An endpoint on an iommufd with an empty stage-1 table that reports its page requests.
struct Bench {
    iommufd: Iommufd,
    queue: FaultQueue,
    nested: u32,
}

impl Bench {
    fn open() -> Outcome<Self> {
        let iommufd = Iommufd::open()?;
        let queue = iommufd.fault_queue()?;
        let root = Table::new(&iommufd.mem).root();
        let nested = iommufd.nested(root, Some(&queue))?;
        Ok(Self {
            iommufd,
            queue,
            nested,
        })
    }

    /// Sends one page request past the endpoint's own accounts.
    fn send(&self, address: u64, pasid: Option<u32>, group: u32, last: bool) -> Outcome {
        let flags = raw::READ
            | raw::ROGUE
            | pasid.map_or(0, |_| raw::PASID)
            | if last { raw::LAST } else { 0 };
        let dma = self.iommufd.dma();
        match dma.raw_page_request(address, flags, pasid.unwrap_or(0), group) {
            raw::SENT => Ok(()),
            why => fail(format!("the request was not sent: {why}")),
        }
    }

    /// Waits until everything sent so far was looked at: by the answer to a request of a PASID
    /// that nobody has.
    fn settle(&self) -> Outcome {
        let before = self.iommufd.dma().counter(Counter::RspStray);
        self.send(GVA, Some(99_999), 0, true)?;
        let end = Instant::now() + DEADLINE;
        while self.iommufd.dma().counter(Counter::RspStray) == before {
            if Instant::now() > end {
                return fail("a request was not answered");
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Waits for faults.
    fn faults(&self) -> Outcome<Vec<iommu_hwpt_pgfault>> {
        let end = Instant::now() + DEADLINE;
        loop {
            let faults = self.queue.read()?;
            if !faults.is_empty() {
                return Ok(faults);
            }
            if Instant::now() > end {
                return fail("no fault");
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Detaches while a page request comes at the moment that `delays` make: the first delays the
    /// detach, the second the request. No fault may be left afterwards, and nobody complain.
    fn detach_with_a_request_inside(&self, pasid: Option<u32>, delays: [Delay; 2]) -> Outcome {
        pin_page_request_threads(1)?;
        let mut log = KernelLog::from_now()?;
        let delays = Delays::start(&delays)?;
        let sent = thread::scope(|scope| -> Outcome {
            let detach = scope.spawn(|| -> Outcome {
                pin_to_cpu(0)?;
                Ok(self.iommufd.detach(pasid)?)
            });
            pin_to_cpu(1)?;
            delays.wait_for_call(0)?;
            self.send(GVA, pasid, 1, true)?;
            match detach.join() {
                Ok(detached) => detached,
                Err(_) => fail("the thread that detaches panicked"),
            }
        });
        sent?;
        let left = self.left_after_detach()?;
        if delays.calls(1)? == 0 {
            return fail("no handle was looked up");
        }
        assert_eq!(left, 0, "faults of what is detached");
        assert_eq!(log.complaints()?, [""; 0]);
        Ok(())
    }

    /// Faults that come although nothing is attached that could have them.
    fn left_after_detach(&self) -> Outcome<usize> {
        thread::sleep(LONGER + LONG);
        Ok(self.queue.read()?.len())
    }
}

fn replace_at_the_rid_gives_the_old_reference_back() -> Outcome {
    let bench = Bench::open()?;
    let counted = Delay {
        function: "iopf_queue_remove_device",
        at_return: false,
        time: Duration::ZERO,
    };
    let another = Table::new(&bench.iommufd.mem).root();
    let another = bench.iommufd.nested(another, Some(&bench.queue))?;
    let removed = Delays::start(&[counted])?;
    bench.iommufd.attach(bench.nested, None)?;
    bench.iommufd.attach(another, None)?;
    assert_eq!(removed.calls(0)?, 0, "page requests stay on");
    bench.iommufd.detach(None)?;
    assert_eq!(removed.calls(0)?, 1, "nobody takes page requests any more");
    Ok(())
}

fn detach_of_the_rid_waits_for_a_request_under_way() -> Outcome {
    let bench = Bench::open()?;
    pin_page_request_threads(1)?;
    let mut log = KernelLog::from_now()?;
    bench.iommufd.attach(bench.nested, None)?;
    let delays = Delays::start(&[LOOKUP])?;
    pin_to_cpu(0)?;
    bench.send(GVA, None, 1, true)?;
    delays.wait_for_call(0)?;
    bench.iommufd.detach(None)?;
    assert_eq!(bench.left_after_detach()?, 0, "faults of what is detached");
    assert_eq!(log.complaints()?, [""; 0]);
    Ok(())
}

fn request_between_drain_and_detach_leaves_no_fault() -> Outcome {
    let bench = Bench::open()?;
    // Page requests stay on for the other PASID.
    bench.iommufd.attach(bench.nested, Some(OTHER_PASID))?;
    bench.iommufd.attach(bench.nested, Some(PASID))?;
    bench.detach_with_a_request_inside(Some(PASID), [DRAINED, LOOKUP])
}

fn request_between_drain_and_detach_of_the_rid_leaves_no_fault() -> Outcome {
    let bench = Bench::open()?;
    bench.iommufd.attach(bench.nested, Some(OTHER_PASID))?;
    bench.iommufd.attach(bench.nested, None)?;
    bench.detach_with_a_request_inside(None, [DRAINED, LOOKUP])
}

fn request_after_the_last_reference_is_no_bug() -> Outcome {
    let bench = Bench::open()?;
    bench.iommufd.attach(bench.nested, Some(PASID))?;
    let removed = Delay {
        function: "iopf_queue_remove_device",
        at_return: true,
        time: LONG,
    };
    let lookup = Delay {
        time: Duration::ZERO,
        ..LOOKUP
    };
    bench.detach_with_a_request_inside(Some(PASID), [removed, lookup])
}

/// Bytes of kernel memory that cannot be reclaimed.
fn slab() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kibibytes = line.and_then(|rest| {
        rest.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.map_or_else(|| fail("/proc/meminfo"), |kibibytes| Ok(kibibytes << 10))
}

fn requests_without_end_take_bounded_memory() -> Outcome {
    const REQUESTS: u64 = 60_000;

    let bench = Bench::open()?;
    bench.iommufd.attach(bench.nested, Some(PASID))?;
    bench.settle()?;
    let before = slab()?;
    for index in 0..REQUESTS {
        bench.send(GVA + index * PAGE, Some(PASID), 1, false)?;
        if index % 512 == 0 {
            bench.settle()?;
        }
    }
    bench.settle()?;
    let grown = slab()?.saturating_sub(before);
    // A request takes 96 bytes; on a kernel that watches its memory several times as many.
    assert!(grown < 2 << 20, "{REQUESTS} requests took {grown} bytes");
    // The device goes on: it asks again, and gets a group of what was kept.
    bench.send(GVA, Some(PASID), 2, true)?;
    let faults = bench.faults()?;
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].grpid, faults[0].addr), (2, GVA));
    bench
        .queue
        .respond(faults[0].cookie, VFIO_IOASID_RESPONSE_INVALID)
}

fn request_of_another_pasid_is_not_in_the_group() -> Outcome {
    let bench = Bench::open()?;
    let queue = bench.iommufd.fault_queue()?;
    let root = Table::new(&bench.iommufd.mem).root();
    let other = bench.iommufd.nested(root, Some(&queue))?;
    bench.iommufd.attach(bench.nested, Some(PASID))?;
    bench.iommufd.attach(other, Some(OTHER_PASID))?;
    let secret = GVA + 7 * PAGE;
    bench.send(secret, Some(OTHER_PASID), 5, false)?;
    bench.send(GVA, Some(PASID), 5, true)?;
    let faults = bench.faults()?;
    let addresses: Vec<_> = faults.iter().map(|fault| fault.addr).collect();
    assert_eq!(addresses, [GVA], "a page that the other PASID asked for");
    bench.send(secret + PAGE, Some(OTHER_PASID), 5, true)?;
    bench.settle()?;
    let faults = queue.read()?;
    let addresses: Vec<_> = faults.iter().map(|fault| fault.addr).collect();
    assert_eq!(addresses, [secret, secret + PAGE], "the group is whole");
    Ok(())
}

fn data_of_a_driver_stay_for_a_call_under_way() -> Outcome {
    let Some(endpoint) = all_endpoints().into_iter().next() else {
        return fail("no endpoint");
    };
    let container = Container::open()?;
    let group = Group::open(&endpoint)?;
    group.set_container(&container)?;
    container.set_iommu(3)?;
    let call = Delay {
        function: "vfio_iommu_type1_ioctl",
        at_return: false,
        time: LONGER,
    };
    let release = Delay {
        function: "vfio_iommu_type1_release",
        time: Duration::ZERO,
        ..call
    };
    let delays = Delays::start(&[call, release])?;
    thread::scope(|scope| -> Outcome {
        let info = scope.spawn(|| -> Outcome {
            pin_to_cpu(0)?;
            container.info()?;
            Ok(())
        });
        pin_to_cpu(1)?;
        delays.wait_for_call(0)?;
        let start = Instant::now();
        group.unset_container()?;
        let waited = start.elapsed();
        let released = delays.calls(1)?;
        let under_way = !info.is_finished();
        drop(info.join());
        assert!(under_way, "the call was over");
        assert_eq!(released, 0, "the driver's data went under a call");
        assert!(waited < LONGER, "the group waited for the call: {waited:?}");
        assert_eq!(delays.calls(1)?, 1, "released in the end");
        Ok(())
    })
}

fn dma_faults_reach_the_module() -> Outcome {
    let rig = Rig::nesting()?;
    assert_ne!(rig.caps.flags & VFIO_IOASID_NESTING_DMA_FAULT, 0);
    Ok(())
}

// A reference that is lost stays lost, and hides what others look for: that one comes last.
program![
    detach_of_the_rid_waits_for_a_request_under_way,
    request_between_drain_and_detach_leaves_no_fault,
    request_between_drain_and_detach_of_the_rid_leaves_no_fault,
    request_after_the_last_reference_is_no_bug,
    requests_without_end_take_bounded_memory,
    request_of_another_pasid_is_not_in_the_group,
    data_of_a_driver_stay_for_a_call_under_way,
    dma_faults_reach_the_module,
    replace_at_the_rid_gives_the_old_reference_back,
];
