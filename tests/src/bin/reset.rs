// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A function-level reset of the device while tables are bound and requests are pending.

use std::sync::atomic::{AtomicBool, Ordering};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    expect_errno, expect_ok, expect_status, program, status, Errno, Order, Outcome, Rig, Space,
    RECORD,
};

const GVA: u64 = 0x1122_3344_5000;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;

fn binding_works_after_a_reset() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    let page = space.new_page(&rig, GVA)?;
    for value in [1, 2] {
        let order = Order::fill(GVA, 8, value).no_pri().at(space.pasid);
        expect_status(rig.dma().run(&order)?, status::OK, "before");
        rig.reset_device()?;
        let order = Order::fill(GVA, 8, value + 100).no_pri().at(space.pasid);
        expect_status(rig.dma().run(&order)?, status::OK, "after");
        assert_eq!(rig.mem.read_u64(page), value + 100);
    }
    assert_eq!(rig.container.stats()?.bindings, 1);
    Ok(())
}

fn stage_2_works_after_a_reset() -> Outcome {
    let rig = Rig::nesting_device()?;
    rig.reset_device()?;
    let page = rig.mem.alloc_page();
    expect_status(
        rig.dma().run(&Order::fill(page, 8, 3).no_pri())?,
        status::OK,
        "by GPA",
    );
    assert_eq!(rig.mem.read_u64(page), 3);
    Ok(())
}

fn device_tlb_is_empty_after_a_reset() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    space.new_page(&rig, GVA)?;
    let order = Order::fill(GVA, 8, 1).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "cached");
    rig.reset_device()?;
    assert_eq!(rig.dma().counters().translation_requests, 0, "counters");
    expect_status(rig.dma().run(&order)?, status::OK, "again");
    assert!(
        rig.dma().counters().translation_requests >= 1,
        "asked again"
    );
    Ok(())
}

fn page_requests_work_after_a_reset() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    rig.reset_device()?;
    let slot = rig.dma().submit(&Order::fill(GVA, 8, 5).at(space.pasid))?;
    queue.wait_readable()?;
    let record = queue.read_one()?;
    let page = space.new_page(&rig, GVA)?;
    queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "answered");
    assert_eq!(rig.mem.read_u64(page), 5);
    Ok(())
}

fn answer_to_a_request_from_before_a_reset_does_no_harm() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    rig.dma().submit(&Order::fill(GVA, 8, 5).at(space.pasid))?;
    queue.wait_readable()?;
    let old = queue.read_one()?;
    rig.reset_device()?;

    // A new request, perhaps with the same group index, must not be taken for the old one
    // by the module; the answer to the old one is taken in any case.
    expect_ok(
        queue.respond(old.cookie, VFIO_IOASID_RESPONSE_INVALID),
        "the old answer",
    );
    let slot = rig.dma().submit(&Order::fill(GVA, 8, 6).at(space.pasid))?;
    queue.wait_readable()?;
    let new = queue.read_one()?;
    assert_ne!(new.cookie, old.cookie);
    let page = space.new_page(&rig, GVA)?;
    queue.respond(new.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(rig.dma().wait(slot)?, status::OK, "the new answer");
    assert_eq!(rig.mem.read_u64(page), 6);
    Ok(())
}

fn unbind_with_a_request_from_before_a_reset_succeeds() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(NONBLOCK, 0)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    rig.dma().submit(&Order::fill(GVA, 8, 5).at(space.pasid))?;
    queue.wait_readable()?;
    rig.reset_device()?;
    expect_ok(space.unbind(&rig), "unbind");
    assert_eq!(rig.container.stats()?.bindings, 0);
    queue.read_all_or_nothing()?;
    expect_errno(queue.read_bytes(16 * RECORD), Errno::EAGAIN, "nothing left");
    Ok(())
}

fn bind_and_unbind_race_resets_with_eagain_alone() -> Outcome {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    let stop = AtomicBool::new(false);
    let mut bound = 0u32;
    std::thread::scope(|scope| {
        let resetter = scope.spawn(|| {
            let mut resets = 0u32;
            while !stop.load(Ordering::Relaxed) {
                rig.reset_device().expect("the device can be reset");
                resets += 1;
            }
            resets
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while std::time::Instant::now() < deadline {
                match space.bind(&rig) {
                    Ok(()) => {
                        bound += 1;
                        space.unbind(&rig).expect("what is bound can be unbound");
                    }
                    Err(error) => assert_eq!(error.errno, Errno::EAGAIN, "BIND"),
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let resets = resetter.join().expect("the resetter does not panic");
        assert!(resets > 0, "no reset happened");
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(bound > 0, "no bind succeeded");
    assert_eq!(rig.container.stats()?.bindings, 0);
    expect_ok(space.bind(&rig), "after the resets");
    space.new_page(&rig, GVA)?;
    let order = Order::fill(GVA, 8, 1).no_pri().at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "after the resets");
    Ok(())
}

program![
    binding_works_after_a_reset,
    stage_2_works_after_a_reset,
    device_tlb_is_empty_after_a_reset,
    page_requests_work_after_a_reset,
    answer_to_a_request_from_before_a_reset_does_no_harm,
    unbind_with_a_request_from_before_a_reset_succeeds,
    bind_and_unbind_race_resets_with_eagain_alone,
];
