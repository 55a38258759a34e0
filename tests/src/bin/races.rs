// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests and calls that meet an unbind or the end of a container at the worst moment,
//! on a kernel that does not keep them apart: functions of the kernel are delayed, so that it
//! happens every time. The same on iommufd leaves a fault with a freed handle, see
//! kernel_patches.rs.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at_rid, expect_errno, fail, pin_page_request_threads, pin_to_cpu, program, Delay, Delays,
    Errno, FaultBench, KernelLog, Outcome, Rig,
};
use host_iommu_tests::testdev::raw;
use std::thread;
use std::time::Duration;

/// Two CPUs that take turns of a tenth of a second reach each other's delays.
const LONG: Duration = Duration::from_millis(400);
const LONGER: Duration = Duration::from_millis(900);

/// The driver's own part of a detach is over: translation is blocked, page requests are drained.
const DRAINED: Delay = Delay {
    function: "intel_pasid_tear_down_entry",
    at_return: true,
    time: LONG,
};
/// The page request thread has found the handle.
const LOOKUP: Delay = Delay {
    function: "iommu_attach_handle_get",
    at_return: true,
    time: LONGER,
};

fn send(rig: &Rig, pasid: Option<u32>) -> Outcome {
    let flags = raw::READ | raw::LAST | raw::ROGUE | pasid.map_or(0, |_| raw::PASID);
    match rig
        .dma()
        .raw_page_request(FaultBench::GVA, flags, pasid.unwrap_or(0), 1)
    {
        raw::SENT => Ok(()),
        why => fail(format!("the request was not sent: {why}")),
    }
}

/// Makes `call` on what `prepare` has bound, while a page request of that site comes between the
/// driver's drain and the moment that the core forgets the handle. No record may be left of it,
/// and nobody complain.
fn with_a_request_inside(
    prepare: fn() -> Outcome<(FaultBench, Option<u32>)>,
    call: fn(&FaultBench) -> Outcome,
) -> Outcome {
    pin_page_request_threads(1)?;
    let mut log = KernelLog::from_now()?;
    // A machine under load may miss the moment.
    for _ in 0..8 {
        let (bench, pasid) = prepare()?;
        let met = meet(&bench, pasid, call)?;
        thread::sleep(LONGER);
        for record in bench.queue.read_all_or_nothing()? {
            assert_ne!(record.kind, VFIO_IOASID_FAULT_PAGE_REQUEST, "{record:?}");
        }
        assert_eq!(log.complaints()?, [""; 0]);
        if met {
            return Ok(());
        }
    }
    fail("no request was looked at before the call came back")
}

/// Whether the request had met the binding when the call came back: then the call has waited for
/// the page request thread to be done with the handle.
fn meet(bench: &FaultBench, pasid: Option<u32>, call: fn(&FaultBench) -> Outcome) -> Outcome<bool> {
    let delays = Delays::start(&[DRAINED, LOOKUP])?;
    thread::scope(|scope| {
        let caller = scope.spawn(|| -> Outcome<u64> {
            pin_to_cpu(0)?;
            call(bench)?;
            let stats = bench.rig.container.stats()?;
            Ok(stats.page_requests + stats.host_invalid)
        });
        pin_to_cpu(1)?;
        delays.wait_for_call(0)?;
        send(&bench.rig, pasid)?;
        match caller.join() {
            Ok(requests) => Ok(requests? != 0),
            Err(_) => fail("the calling thread panicked"),
        }
    })
}

fn bound_at_a_pasid() -> Outcome<(FaultBench, Option<u32>)> {
    let bench = FaultBench::open()?;
    let pasid = bench.space.pasid;
    Ok((bench, Some(pasid)))
}

fn bound_at_the_rid() -> Outcome<(FaultBench, Option<u32>)> {
    let bench = FaultBench::open()?;
    let data = bench.space.stage1_data();
    let mut bind = bind_at_rid(bench.rig.id(), &data);
    bind.fault_fd = bench.queue.raw_fd();
    bench.rig.container.bind(&bind)?;
    Ok((bench, None))
}

fn unbind_waits_for_a_request_that_found_its_handle() -> Outcome {
    with_a_request_inside(bound_at_a_pasid, |bench| {
        Ok(bench.space.unbind(&bench.rig)?)
    })
}

fn unbind_of_the_rid_waits_for_a_request_that_found_its_handle() -> Outcome {
    with_a_request_inside(bound_at_the_rid, |bench| {
        let (scope, device) = (VFIO_IOASID_SCOPE_RID, bench.rig.id());
        Ok(bench.rig.container.unbind(scope, device, 0)?)
    })
}

fn unbind_of_all_waits_for_a_request_that_found_its_handle() -> Outcome {
    with_a_request_inside(bound_at_a_pasid, |bench| {
        let (scope, device) = (VFIO_IOASID_SCOPE_CONTAINER, bench.rig.id());
        Ok(bench.rig.container.unbind(scope, device, 0)?)
    })
}

fn call_that_meets_the_end_of_its_container_is_refused() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let entry = Delay {
        function: "ioasid_vfio_ioctl",
        at_return: false,
        time: LONGER,
    };
    let delays = Delays::start(&[entry])?;
    let Rig {
        container, group, ..
    } = rig;
    thread::scope(|scope| -> Outcome {
        let stats = scope.spawn(|| -> Outcome<_> {
            pin_to_cpu(0)?;
            Ok(container.stats())
        });
        pin_to_cpu(1)?;
        delays.wait_for_call(0)?;
        // On a kernel with our patches this waits, and the call is good.
        group.unset_container()?;
        match stats.join() {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(stats) => {
                expect_errno(stats?, Errno::EINVAL, "the container is gone");
                Ok(())
            }
            Err(_) => fail("the calling thread panicked"),
        }
    })?;
    drop(delays);
    expect_errno(container.stats(), Errno::EINVAL, "no IOMMU any more");
    Ok(())
}

program![
    unbind_waits_for_a_request_that_found_its_handle,
    unbind_of_the_rid_waits_for_a_request_that_found_its_handle,
    unbind_of_all_waits_for_a_request_that_found_its_handle,
    call_that_meets_the_end_of_its_container_is_refused,
];
