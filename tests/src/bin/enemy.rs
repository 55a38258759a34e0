// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest and its endpoint as enemies: stage-1 tables that point at themselves, in circles, at
//! nothing, at the host's memory, and that change while they are walked; requests with wrong
//! groups, and during and after UNBIND. Memory outside is untouched, and another container sees
//! nothing of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::dice::Dice;
use host_iommu_tests::rig::{
    entry, expect_errno, expect_status, fail, program, skip, status, Canary, Errno, FaultBench,
    FaultQueue, Order, Outcome, Rig, Snapshot, Space, DEADLINE, PAGE, RECORD,
};
use host_iommu_tests::testdev::{raw, Counter};

const GVA: u64 = FaultBench::GVA;
const INVALID: u32 = VFIO_IOASID_RESPONSE_INVALID;
const REQUEST: u64 = raw::READ | raw::PASID | raw::ROGUE;

/// Where the machine has a page of this process's (Linux
/// Documentation/admin-guide/mm/pagemap.rst).
fn host_address(address: u64) -> Outcome<u64> {
    const PFN: u64 = (1 << 55) - 1;
    let Ok(file) = File::open("/proc/self/pagemap") else {
        return skip("the kernel does not say where memory is (CONFIG_PROC_PAGE_MONITOR)");
    };
    let mut word = [0; 8];
    file.read_exact_at(&mut word, address / PAGE * 8)?;
    match u64::from_ne_bytes(word) & PFN {
        0 => fail(format!("no page at {address:#x}")),
        page => Ok(page * PAGE),
    }
}

/// What the enemy must not reach: memory of the process, and another container.
struct Outside {
    canary: Canary,
    other: Rig,
    queue: FaultQueue,
    space: Space,
    before: Snapshot,
}

impl Outside {
    fn open() -> Outcome<Self> {
        let Some(other) = Rig::open_second_device()? else {
            return skip("there is one endpoint only");
        };
        let space = Space::new(&other)?;
        let queue = other
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 64)?;
        space.bind_with(&other, &queue, 1, 1)?;
        other
            .mem
            .fill(other.mem.base() + other.mem.size() / 2, PAGE, 0xd7);
        Ok(Self {
            canary: Canary::new()?,
            before: other.mem.snapshot()?,
            other,
            queue,
            space,
        })
    }

    /// Where the host has memory that the enemy would like to reach.
    fn addresses(&self) -> Outcome<Vec<u64>> {
        let mem = &self.other.mem;
        let page = mem.address() + mem.size() / 2;
        Ok(vec![
            host_address(self.canary.address())?,
            host_address(self.canary.address() + PAGE)?,
            host_address(page)?,
        ])
    }

    /// It was not reached, and the other container's device goes on.
    fn check(&self, what: &str) -> Outcome {
        self.canary.check(what);
        self.before
            .expect_unchanged(&self.other.mem, &Default::default(), what);
        expect_errno(self.queue.read_bytes(RECORD), Errno::EAGAIN, what);
        let stats = self.other.container.stats()?;
        assert_eq!((stats.page_requests, stats.overflows), (0, 0), "{what}");
        Ok(())
    }

    /// A page request of the other container is answered as if nothing were.
    fn works(&self) -> Outcome {
        let order = Order::fill(GVA, 8, 0xa11).at(self.space.pasid);
        let slot = self.other.dma().submit(&order)?;
        self.queue.wait_readable()?;
        let record = self.queue.read_one()?;
        let page = self.space.new_page(&self.other, GVA)?;
        self.queue
            .respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
        expect_status(self.other.dma().wait(slot)?, status::OK, "the other device");
        assert_eq!(self.other.mem.read_u64(page), 0xa11);
        Ok(())
    }
}

/// Orders that write and read at `gva`, by translation requests and without.
fn orders(space: &Space, gva: u64) -> [Order; 4] {
    let write = Order::fill(gva, 64, 0x0bad_0bad).no_pri().at(space.pasid);
    let read = Order::checksum(gva, 64).no_pri().at(space.pasid);
    [write, write.no_ats(), read, read.no_ats()]
}

/// A rig whose device has a table for [`GVA`], bound: the GPAs of its entries from level 1 to 4.
fn enemy() -> Outcome<(Rig, Space, [u64; 4])> {
    let rig = Rig::nesting_device()?;
    let space = Space::new(&rig)?;
    space.new_page(&rig, GVA)?;
    let mut entries = [0; 4];
    for (level, place) in (1..).zip(&mut entries) {
        *place = space.entry_address(&rig, GVA, level)?;
    }
    space.bind(&rig)?;
    Ok((rig, space, entries))
}

/// All that is cached of the device's translations goes.
fn forget(rig: &Rig, space: &Space) -> Outcome {
    let everything = [host_iommu_tests::rig::range(0, u64::MAX)];
    let scope = VFIO_IOASID_SCOPE_BINDING;
    Ok(rig
        .container
        .invalidate(scope, rig.id(), space.pasid, &everything)
        .result?)
}

fn tables_in_circles_reach_the_guest_alone() -> Outcome {
    let outside = Outside::open()?;
    let (rig, space, entries) = enemy()?;
    let second = space.another_table(&rig)?;
    let pages = [space.root(), second.root(), entries[2] & !(PAGE - 1)];
    for level in [3, 2, 1] {
        for page in pages {
            let first = rig.mem.read_u64(entries[level]);
            rig.mem.write_u64(entries[level], page | entry::RW);
            forget(&rig, &space)?;
            for order in orders(&space, GVA) {
                // Whether the circle ends in a page of the guest's is the guest's affair.
                rig.dma().run(&order)?;
            }
            rig.mem.write_u64(entries[level], first);
        }
    }
    // The table that is its own page, at every level.
    rig.mem.write_u64(entries[3], space.root() | entry::RW);
    forget(&rig, &space)?;
    let index = (GVA >> 39) & 0x1ff;
    let itself = index << 39 | index << 30 | index << 21 | index << 12;
    let order = Order::fill(itself + 8 * index, 8, 0)
        .no_pri()
        .at(space.pasid);
    expect_status(rig.dma().run(&order)?, status::OK, "the table by itself");
    assert_eq!(rig.mem.read_u64(entries[3]), 0, "it is the guest's own");
    outside.check("tables in circles")?;
    outside.works()
}

fn table_at_memory_that_is_not_there_is_no_access() -> Outcome {
    let outside = Outside::open()?;
    let (rig, space, entries) = enemy()?;
    let nowhere = [
        0,
        rig.mem.base() + rig.mem.size(),
        1 << 47,
        entry::ADDRESS & !0xfff_0000_0000_0000,
    ];
    for address in nowhere {
        for at in entries {
            let first = rig.mem.read_u64(at);
            rig.mem.write_u64(at, address | entry::RW);
            forget(&rig, &space)?;
            for order in orders(&space, GVA) {
                let done = rig.dma().run(&order)?;
                assert_ne!(done.status, status::OK, "{address:#x}");
            }
            rig.mem.write_u64(at, first);
        }
    }
    let elsewhere = space.with_root(rig.mem.base() + rig.mem.size());
    space.unbind(&rig)?;
    elsewhere.bind(&rig)?;
    for order in orders(&space, GVA) {
        let done = rig.dma().run(&order)?;
        assert_ne!(done.status, status::OK, "a root that is not there");
    }
    outside.check("tables that are not there")?;
    outside.works()
}

fn memory_of_the_host_is_no_access_at_any_level() -> Outcome {
    let outside = Outside::open()?;
    let addresses = outside.addresses()?;
    let (rig, space, entries) = enemy()?;
    for address in addresses {
        for (level, at) in (1..).zip(entries) {
            let first = rig.mem.read_u64(at);
            rig.mem.write_u64(at, address | entry::RW);
            forget(&rig, &space)?;
            for order in orders(&space, GVA) {
                let done = rig.dma().run(&order)?;
                assert_ne!(done.status, status::OK, "{address:#x} at level {level}");
            }
            rig.mem.write_u64(at, first);
        }
        // Nor as an address of stage 2's.
        for order in [
            Order::fill(address, 64, 1).no_pri(),
            Order::fill(address, 64, 1).no_pri().no_ats(),
        ] {
            let done = rig.dma().run(&order)?;
            assert_ne!(done.status, status::OK, "{address:#x} without PASID");
        }
    }
    outside.check("addresses of the host")?;
    outside.works()
}

/// One of what an enemy writes into its tables.
fn wild(dice: &mut Dice, tables: &[u64], host: &[u64]) -> u64 {
    let flags = *dice.pick(&[
        entry::RW,
        entry::RW,
        entry::R,
        entry::RW | entry::LARGE,
        !entry::ADDRESS,
    ]);
    match dice.roll(8) {
        0 => 0,
        1 => dice.roll(1 << 32) << 20 | flags,
        2 | 3 => *dice.pick(host) | flags,
        _ => *dice.pick(tables) | flags,
    }
}

fn tables_of_chance_reach_the_guest_alone() -> Outcome {
    let outside = Outside::open()?;
    let host = outside.addresses()?;
    let (rig, space, _) = enemy()?;
    let mut dice = Dice::new(0x5eed);
    let tables: Vec<u64> = (0..6)
        .map(|_| rig.mem.alloc_page())
        .chain([space.root()])
        .collect();
    let mut reached = 0;
    for _ in 0..40 {
        for table in &tables {
            for index in 0..8 {
                rig.mem
                    .write_u64(table + 8 * index, wild(&mut dice, &tables, &host));
            }
        }
        forget(&rig, &space)?;
        for _ in 0..8 {
            let gva = (0..4).fold(dice.roll(PAGE / 64) * 64, |gva, level| {
                gva | dice.roll(8) << (12 + 9 * level)
            });
            for order in orders(&space, gva) {
                let done = rig.dma().run(&order)?;
                reached += u32::from(done.status == status::OK);
            }
        }
    }
    assert!(reached > 0, "no table led anywhere: nothing was tried");
    println!("# {reached} of 1280 orders reached memory");
    outside.check("tables of chance")?;
    outside.works()
}

fn table_that_changes_while_it_is_walked_reaches_the_guest_alone() -> Outcome {
    let outside = Outside::open()?;
    let host = outside.addresses()?;
    let (rig, space, entries) = enemy()?;
    let first = entries.map(|at| rig.mem.read_u64(at));
    let tables = [space.root(), rig.mem.alloc_page()];
    let stop = AtomicBool::new(false);
    let (mut reached, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new(0xf11b);
            while !stop.load(Ordering::Relaxed) {
                let level = dice.roll(4) as usize;
                let value = match dice.roll(2) {
                    0 => first[level],
                    _ => wild(&mut dice, &tables, &host),
                };
                rig.mem.write_u64(entries[level], value);
            }
        });
        let end = Instant::now() + Duration::from_secs(1);
        let outcome = (|| -> Outcome {
            while Instant::now() < end || reached == 0 || refused == 0 {
                for order in orders(&space, GVA) {
                    match rig.dma().run(&order)?.status {
                        status::OK => reached += 1,
                        _ => refused += 1,
                    }
                }
                forget(&rig, &space)?;
                if end.elapsed() > DEADLINE {
                    return fail(format!("{reached} reached memory, {refused} did not"));
                }
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    println!("# {reached} orders reached memory, {refused} did not");
    outside.check("a table that changes")?;
    outside.works()
}

/// Sends a request; one that the endpoint has no room for is as good as none.
fn send(rig: &Rig, address: u64, flags: u64, pasid: u32, group: u32) -> Outcome<u64> {
    match rig.dma().raw_page_request(address, flags, pasid, group) {
        raw::SENT => Ok(1),
        raw::NO_CREDIT => Ok(0),
        why => fail(format!("the request was not sent: {why}")),
    }
}

fn wait_for_answers(rig: &Rig, count: u64) -> Outcome {
    let end = Instant::now() + DEADLINE;
    while rig.dma().counter(Counter::RspStray) < count {
        if Instant::now() > end {
            let seen = rig.dma().counter(Counter::RspStray);
            return fail(format!("{seen} answers instead of {count}"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

fn group_of_every_index_is_answered() -> Outcome {
    // PCIe 6.0, 10.4.1: an index of 9 bits.
    const INDICES: u32 = 512;
    let outside = Outside::open()?;
    let bench = FaultBench::open()?;
    let mut sent = 0;
    for group in 0..INDICES {
        sent += send(
            &bench.rig,
            GVA,
            REQUEST | raw::LAST,
            bench.space.pasid,
            group,
        )?;
    }
    let records = bench.requests(sent as usize)?;
    let mut groups: Vec<_> = records.iter().map(|record| record.group).collect();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups.len() as u64, sent, "each index once");
    for record in records {
        bench.queue.respond(record.cookie, INVALID)?;
    }
    wait_for_answers(&bench.rig, sent)?;
    outside.check("groups of every index")
}

fn groups_that_never_end_hold_nobody_up() -> Outcome {
    let outside = Outside::open()?;
    let bench = FaultBench::open()?;
    let second = Space::new(&bench.rig)?;
    second.bind_with(&bench.rig, &bench.queue, 2, 2)?;
    for index in 0..600 {
        let pasid = [bench.space.pasid, second.pasid][index as usize % 2];
        send(
            &bench.rig,
            GVA + u64::from(index) * PAGE,
            REQUEST,
            pasid,
            index % 512,
        )?;
    }
    outside.works()?;
    second.unbind(&bench.rig)?;
    bench.space.unbind(&bench.rig)?;
    assert_eq!(bench.rig.container.stats()?.bindings, 0);
    bench.bind()?;
    let page = bench.space.new_page(&bench.rig, GVA)?;
    let order = Order::fill(GVA, 8, 9).no_pri().at(bench.space.pasid);
    expect_status(bench.rig.dma().run(&order)?, status::OK, "goes on");
    assert_eq!(bench.rig.mem.read_u64(page), 9);
    Ok(())
}

fn requests_during_and_after_unbind_are_answered_and_reach_nobody() -> Outcome {
    const AFTER: u64 = 100;
    let outside = Outside::open()?;
    let bench = FaultBench::with_depth(16)?;
    let (rig, pasid) = (&bench.rig, bench.space.pasid);
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| -> Outcome<u64> {
            let mut sent = 0;
            for index in 0..200 {
                let group = (index % 512) as u32;
                sent += send(rig, GVA + index * PAGE, REQUEST | raw::LAST, pasid, group)?;
            }
            Ok(sent)
        });
        std::thread::sleep(Duration::from_millis(1));
        bench.space.unbind(rig)?;
        match flood.join() {
            Ok(sent) => sent,
            Err(_) => fail("the flood panicked"),
        }
    })?;
    // Whatever came before has been answered, and whatever came after.
    wait_for_answers(rig, sent)?;
    bench.queue.read_all_or_nothing()?;
    let before = rig.container.stats()?.page_requests;
    let mut more = 0;
    for index in 0..AFTER {
        let group = (index % 512) as u32;
        more += send(rig, GVA + index * PAGE, REQUEST | raw::LAST, pasid, group)?;
    }
    wait_for_answers(rig, sent + more)?;
    assert_eq!(more, AFTER);
    assert_eq!(rig.container.stats()?.page_requests, before, "after UNBIND");
    expect_errno(bench.queue.read_bytes(RECORD), Errno::EAGAIN, "no record");
    outside.check("requests around UNBIND")?;
    outside.works()
}

program![
    tables_in_circles_reach_the_guest_alone,
    table_at_memory_that_is_not_there_is_no_access,
    memory_of_the_host_is_no_access_at_any_level,
    tables_of_chance_reach_the_guest_alone,
    table_that_changes_while_it_is_walked_reaches_the_guest_alone,
    group_of_every_index_is_answered,
    groups_that_never_end_hold_nobody_up,
    requests_during_and_after_unbind_are_answered_and_reach_nobody,
];
