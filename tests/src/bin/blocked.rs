// SPDX-License-Identifier: Apache-2.0 OR MIT
//! BIND of blocked, and REPLACE from every state to every state.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    as_entry, bind_as_at, bind_at, bind_at_rid, bind_blocked_at, bind_stage2_at, endpoint,
    expect_errno, expect_ok, expect_status, fail, invalidate_args, pin_to_cpu, program, range,
    skip, status, Attempt, Delay, Delays, Errno, FaultBench, Order, Outcome, Rig, Space, PAGE,
};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const GVA: u64 = 0x1618_0339_8000;
/// Where the address space has the page.
const IOVA: u64 = 0x4000_0000;

/// A device with a page that each state reaches by an address of its own.
struct Bench {
    rig: Rig,
    space: Space,
    data: Vec<u8>,
    address_space: u32,
    page: u64,
}

/// What is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stage1,
    Stage2,
    AddressSpace,
    Blocked,
}

const STATES: [State; 4] = [
    State::Stage1,
    State::Stage2,
    State::AddressSpace,
    State::Blocked,
];

impl Bench {
    fn open() -> Outcome<Self> {
        let rig = Rig::nesting_device()?;
        let space = Space::new(&rig)?;
        let page = space.new_page(&rig, GVA)?;
        let address_space = rig.container.as_create()?;
        let perm = VFIO_IOASID_AS_READ | VFIO_IOASID_AS_WRITE;
        let (mapped, ..) = rig
            .container
            .as_map(address_space, &[as_entry(IOVA, page, PAGE, perm)]);
        expect_ok(mapped, "AS_MAP");
        Ok(Self {
            data: space.stage1_data(),
            rig,
            space,
            address_space,
            page,
        })
    }

    /// The call that makes `state` the one at `pasid`, or at the RID if that is zero.
    fn bind(&self, pasid: u32, state: State) -> vfio_ioasid_bind {
        let device = self.rig.id();
        let mut bind = match state {
            State::Stage1 if pasid == 0 => bind_at_rid(device, &self.data),
            State::Stage1 => bind_at(device, pasid, &self.data),
            State::Stage2 => bind_stage2_at(device, pasid),
            State::AddressSpace => bind_as_at(device, pasid, self.address_space),
            State::Blocked => bind_blocked_at(device, pasid),
        };
        if pasid == 0 {
            bind.flags |= VFIO_IOASID_BIND_RID;
        }
        bind
    }

    fn replace(&self, pasid: u32, state: State) -> vfio_ioasid_bind {
        let mut bind = self.bind(pasid, state);
        bind.flags |= VFIO_IOASID_BIND_REPLACE;
        bind
    }

    /// Each address reaches the page in its state alone.
    fn expect(&self, pasid: u32, state: State, what: &str) -> Outcome {
        let ways = [
            (State::Stage1, GVA),
            (State::Stage2, self.page),
            (State::AddressSpace, IOVA),
        ];
        for (way, address) in ways {
            let order = Order::fill(address, 8, 0x77).no_pri();
            let order = if pasid == 0 { order } else { order.at(pasid) };
            for order in [order.no_ats(), order] {
                let done = self.rig.dma().run(&order)?;
                let what = format!("{what}: {state:?}, by the address of {way:?}");
                if way == state {
                    expect_status(done, status::OK, &what);
                } else {
                    // How a device is refused depends on what refuses it.
                    assert_ne!(done.status, status::OK, "{what}");
                }
            }
        }
        Ok(())
    }
}

fn outcome_of(state: State) -> u32 {
    match state {
        State::Blocked => VFIO_IOASID_OUTCOME_BLOCKED,
        _ => VFIO_IOASID_OUTCOME_BOUND,
    }
}

fn every_state_follows_every_state(bench: &Bench, pasid: u32) -> Outcome {
    for from in STATES {
        for to in STATES {
            for (state, what) in [(from, "from"), (to, "to")] {
                let (result, outcome) = bench
                    .rig
                    .container
                    .bind_with_outcome(&bench.replace(pasid, state));
                expect_ok(result, &format!("{from:?} to {to:?}: REPLACE {what}"));
                assert_eq!(outcome, outcome_of(state), "{from:?} to {to:?}: {what}");
            }
            bench.expect(pasid, to, &format!("after {from:?}"))?;
            let bindings = bench.rig.container.stats()?.bindings;
            assert_eq!(bindings, u64::from(to != State::Blocked), "{to:?}");
        }
    }
    Ok(())
}

fn every_state_follows_every_state_at_the_rid() -> Outcome {
    let bench = Bench::open()?;
    every_state_follows_every_state(&bench, 0)?;
    expect_ok(
        bench
            .rig
            .container
            .unbind(VFIO_IOASID_SCOPE_RID, bench.rig.id(), 0),
        "UNBIND",
    );
    bench.expect(0, State::Stage2, "after UNBIND")
}

fn every_state_follows_every_state_at_a_pasid() -> Outcome {
    let bench = Bench::open()?;
    let pasid = bench.space.pasid;
    expect_ok(
        bench.rig.container.bind(&bench.bind(pasid, State::Blocked)),
        "BIND of blocked where nothing is bound",
    );
    every_state_follows_every_state(&bench, pasid)?;
    bench.space.unbind(&bench.rig)?;
    bench.expect(pasid, State::Blocked, "nothing is bound")
}

fn replace_at_the_rid_needs_no_bind_before() -> Outcome {
    for state in STATES {
        let bench = Bench::open()?;
        let (result, outcome) = bench
            .rig
            .container
            .bind_with_outcome(&bench.replace(0, state));
        expect_ok(result, "REPLACE of stage 2");
        assert_eq!(outcome, outcome_of(state));
        bench.expect(0, state, "first")?;
    }
    Ok(())
}

fn plain_bind_follows_blocked_at_the_rid_alone() -> Outcome {
    let bench = Bench::open()?;
    let (container, pasid) = (&bench.rig.container, bench.space.pasid);
    for state in STATES {
        expect_ok(container.bind(&bench.replace(0, State::Blocked)), "blocked");
        expect_ok(container.bind(&bench.bind(0, state)), "plain BIND");
        bench.expect(0, state, "plain")?;
    }
    expect_ok(container.bind(&bench.bind(pasid, State::Blocked)), "PASID");
    for state in STATES {
        let bind = bench.bind(pasid, state);
        expect_errno(container.bind(&bind), Errno::EBUSY, "blocked is bound");
    }
    expect_errno(container.pasid_free(pasid, 1), Errno::EBUSY, "PASID_FREE");
    bench.space.unbind(&bench.rig)?;
    expect_ok(container.pasid_free(pasid, 1), "PASID_FREE");
    Ok(())
}

fn unbind_of_something_else_leaves_the_rid_blocked() -> Outcome {
    let bench = Bench::open()?;
    let (container, pasid) = (&bench.rig.container, bench.space.pasid);
    container.bind(&bench.replace(0, State::Blocked))?;
    container.bind(&bench.bind(pasid, State::Stage1))?;
    bench.space.unbind(&bench.rig)?;
    bench.expect(0, State::Blocked, "after UNBIND of the PASID")?;
    let device = VFIO_IOASID_SCOPE_DEVICE;
    expect_ok(container.unbind(device, bench.rig.id(), 0), "UNBIND");
    bench.expect(0, State::Stage2, "after UNBIND of the device")
}

fn blocked_fails_for_no_quota() -> Outcome {
    let bench = Bench::open()?;
    let (container, pasid) = (&bench.rig.container, bench.space.pasid);
    let limit = "/sys/module/vfio_iommu_ioasid/parameters/max_bindings";
    let total = "/sys/module/vfio_iommu_ioasid/parameters/total_domains";
    let before = [
        std::fs::read_to_string(limit)?,
        std::fs::read_to_string(total)?,
    ];
    std::fs::write(limit, "0")?;
    std::fs::write(total, "0")?;
    let results = [
        container.bind(&bench.bind(pasid, State::Blocked)),
        container.bind(&bench.replace(0, State::Blocked)),
    ];
    let refused = container.bind(&bench.replace(pasid, State::Stage2));
    std::fs::write(limit, before[0].trim())?;
    std::fs::write(total, before[1].trim())?;
    for result in results {
        expect_ok(result, "blocked without a quota");
    }
    expect_errno(refused, Errno::EDQUOT, "a translation counts");
    bench.expect(0, State::Blocked, "RID")?;
    bench.expect(pasid, State::Blocked, "PASID")?;
    expect_ok(
        container.bind(&bench.replace(pasid, State::Stage2)),
        "with a quota",
    );
    bench.expect(pasid, State::Stage2, "PASID")
}

fn request_of_what_is_blocked_is_cancelled() -> Outcome {
    let bench = FaultBench::open()?;
    let (rig, pasid) = (&bench.rig, bench.space.pasid);
    let (slot, record) = bench.pending()?;
    let mut bind = bind_blocked_at(rig.id(), pasid);
    bind.flags |= VFIO_IOASID_BIND_REPLACE;
    expect_ok(rig.container.bind(&bind), "blocked");
    assert_ne!(rig.dma().wait(slot)?.status, status::OK, "the DMA");
    let cancelled = bench.queue.read_one()?;
    assert_eq!(cancelled.kind, VFIO_IOASID_FAULT_CANCELLED);
    assert_eq!(cancelled.cookie, record.cookie);
    Ok(())
}

fn blocked_has_nothing_to_invalidate() -> Outcome {
    let bench = Bench::open()?;
    let (container, pasid) = (&bench.rig.container, bench.space.pasid);
    container.bind(&bench.bind(pasid, State::Blocked))?;
    container.bind(&bench.replace(0, State::Blocked))?;
    let entries = host_iommu_tests::rig::bytes_of(&range(GVA, 1));
    for (scope, errno) in [
        (VFIO_IOASID_SCOPE_BINDING, Some(Errno::EINVAL)),
        (VFIO_IOASID_SCOPE_RID, Some(Errno::EINVAL)),
        (VFIO_IOASID_SCOPE_DEVICE, None),
        (VFIO_IOASID_SCOPE_CONTAINER, None),
    ] {
        let pasid = if scope == VFIO_IOASID_SCOPE_BINDING {
            pasid
        } else {
            0
        };
        let mut call = invalidate_args(scope, bench.rig.id(), pasid, &entries, 1);
        let result = container.invalidate_raw(&mut call);
        match errno {
            Some(errno) => expect_errno(result, errno, "no stage 1"),
            None => {
                expect_ok(result, "nothing to do");
            }
        }
    }
    Ok(())
}

fn fields_that_blocked_rules_out_are_einval() -> Outcome {
    let bench = FaultBench::open()?;
    let rig = &bench.rig;
    let pasid = rig.container.pasid_alloc_any()?;
    let good = bind_blocked_at(rig.id(), pasid);
    let queue = bench.queue.raw_fd();
    for change in [
        &(|bind: &mut vfio_ioasid_bind| bind.data_type = 1) as &dyn Fn(&mut vfio_ioasid_bind),
        &|bind| bind.data_len = 24,
        &|bind| bind.data_uptr = PAGE,
        &|bind| bind.fault_fd = queue,
        &|bind| bind.as_id = 1,
        &|bind| bind.flags |= VFIO_IOASID_BIND_AS,
        &|bind| bind.flags |= VFIO_IOASID_BIND_STAGE2,
    ] {
        let mut bad = good;
        change(&mut bad);
        let (result, outcome) = rig.container.bind_with_outcome(&bad);
        expect_errno(result, Errno::EINVAL, "a field that does not belong");
        assert_eq!(outcome, 0, "the call's own fields");
    }
    expect_ok(rig.container.bind(&good), "without the mistake");
    Ok(())
}

/// The address of stage 2 never reaches the page while table, address space and blocked take turns.
fn stage_2_is_never_between() -> Outcome {
    const PROBES: u32 = 40;
    let bench = Bench::open()?;
    bench.rig.container.bind(&bench.replace(0, State::Stage1))?;
    let (probes, over) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| -> Outcome {
            while !over.load(Ordering::Relaxed) {
                let order = Order::fill(bench.page, 8, 0x99).no_pri();
                for order in [order, order.no_ats()] {
                    let done = bench.rig.dma().run(&order)?;
                    assert_ne!(done.status, status::OK, "stage 2 let a DMA through");
                }
                probes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let states = [State::Blocked, State::Stage1, State::AddressSpace];
        let mut result = Ok(());
        for state in states.iter().cycle() {
            result = bench.rig.container.bind(&bench.replace(0, *state));
            let enough = probes.load(Ordering::Relaxed) >= PROBES;
            if result.is_err() || enough || prober.is_finished() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        let Ok(probed) = prober.join() else {
            return fail("the prober panicked");
        };
        expect_ok(result, "REPLACE");
        probed
    })
}

/// Of two who wait for the page requests of one unit at a time, one may wait for ever.
fn stage_2_is_blocked_after_a_drain_of_its_unit() -> Outcome {
    const DRAIN: Duration = Duration::from_secs(1);
    const LIMIT: Duration = Duration::from_secs(10);

    let Some(rig) = Rig::nesting_with_both_endpoints()? else {
        return skip("needs two endpoints");
    };
    let rig = Arc::new(rig);
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    let space = Space::new(&rig)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    let delays = Delays::start(&[Delay {
        function: "intel_iommu_drain_pasid_prq",
        at_return: false,
        time: DRAIN,
    }])?;
    let second = endpoint(1)?.id();
    let mut blocked = bind_blocked_at(second, 0);
    blocked.flags |= VFIO_IOASID_BIND_RID;
    let unbind = {
        let rig = rig.clone();
        Attempt::start("UNBIND", move || pin_to_cpu(0).map(|()| space.unbind(&rig)))
    };
    pin_to_cpu(1)?;
    delays.wait_for_call(0)?;
    let begun = Instant::now();
    rig.container.bind(&blocked)?;
    let took = begun.elapsed();
    unbind.ends_within(LIMIT)???;
    println!("# blocked in {took:?}");
    // Its own drain takes as long.
    let one_unit = endpoint(0)?.unit()?.file_name() == endpoint(1)?.unit()?.file_name();
    assert!(
        took > DRAIN + DRAIN / 2 || !one_unit,
        "both drained at a time"
    );
    Ok(())
}

program![
    stage_2_is_blocked_after_a_drain_of_its_unit,
    every_state_follows_every_state_at_the_rid,
    every_state_follows_every_state_at_a_pasid,
    replace_at_the_rid_needs_no_bind_before,
    plain_bind_follows_blocked_at_the_rid_alone,
    unbind_of_something_else_leaves_the_rid_blocked,
    blocked_fails_for_no_quota,
    request_of_what_is_blocked_is_cancelled,
    blocked_has_nothing_to_invalidate,
    fields_that_blocked_rules_out_are_einval,
    stage_2_is_never_between,
];
