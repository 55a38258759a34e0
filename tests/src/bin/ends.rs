// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ends at moments that nobody chose, again and again: a VMM that is killed with faults in flight,
//! the device reset or taken away, the module unloaded, no memory left. Each time counters, pinned
//! and locked memory, PASIDs and domain ids are back to where they were, and in the end so is the
//! kernel's memory. `ENDS` says how many times as many rounds are made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use host_iommu_bindings::uapi::*;
use host_iommu_tests::dice::Dice;
use host_iommu_tests::ktap::{ends, patience};
use host_iommu_tests::rig::{
    as_entry, bind_stage2_at, child, endpoint, expect_errno, expect_status, fail, held_bytes,
    load_module, module_references, program, range, say_ready, skip, status, unload_module,
    wait_for_module_references, Errno, FaultBench, KernelLog, Memory, Order, Outcome, Rig, Space,
    DEADLINE, PAGE,
};
use nix::mount::{mount, umount, MsFlags};

const GVA: u64 = FaultBench::GVA;
const NONBLOCK: u32 = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
const DRIVER: &str = "/sys/bus/pci/drivers/vfio-pci";

/// What must be as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// What all containers hold, of /sys/kernel/debug/vfio_ioasid.
    module: Option<Vec<String>>,
    /// Pages pinned and not let go of (mm/gup.c, node_foll_pin).
    pinned: i64,
    /// This process's locked bytes.
    locked: u64,
    /// Domain ids in use, by IOMMU unit.
    domain_ids: Vec<String>,
}

impl State {
    fn now() -> Outcome<Self> {
        let module = fs::read_to_string("/sys/kernel/debug/vfio_ioasid/module").ok();
        let held = ["containers=", "pasids=", "domains="];
        let module = module.map(|text| {
            text.split_whitespace()
                .filter(|pair| held.iter().any(|key| pair.starts_with(key)))
                .map(str::to_owned)
                .collect()
        });
        // Each CPU counts for itself for a second.
        fs::write("/proc/sys/vm/stat_refresh", "1")?;
        let counters = fs::read_to_string("/proc/vmstat")?;
        let counter = |name: &str| -> Outcome<i64> {
            let line = counters.lines().find_map(|line| line.strip_prefix(name));
            match line.map(|rest| rest.trim().parse()) {
                Some(Ok(number)) => Ok(number),
                _ => fail(format!("/proc/vmstat has no {name}")),
            }
        };
        let pinned = counter("nr_foll_pin_acquired ")? - counter("nr_foll_pin_released ")?;
        let mut domain_ids = Vec::new();
        for unit in fs::read_dir("/sys/class/iommu")?.flatten() {
            let used = unit.path().join("intel-iommu/domains_used");
            domain_ids.extend(fs::read_to_string(used).ok());
        }
        if domain_ids.is_empty() {
            return fail("no unit says which domain ids are used");
        }
        Ok(Self {
            module,
            pinned,
            locked: held_bytes()?,
            domain_ids,
        })
    }

    /// Waits until it is so again: pages of a process that died go a moment after it.
    fn wait(&self, what: &str) -> Outcome {
        wait_for_module_references(0)?;
        let end = std::time::Instant::now() + DEADLINE * patience();
        loop {
            let now = Self::now()?;
            if now == *self {
                return Ok(());
            }
            if std::time::Instant::now() > end {
                return fail(format!("{what}: {now:?} instead of {self:?}"));
            }
            sleep(Duration::from_millis(2));
        }
    }
}

/// What the kernel holds, without what it keeps as long as there is room for it.
struct Objects {
    /// Bytes of all objects, and of areas of vmalloc that are in use.
    bytes: [i64; 2],
    /// Objects by cache, where the kernel says.
    caches: BTreeMap<String, i64>,
}

/// The kernel keeps areas that were freed; those in use are in [`Objects::bytes`].
const KEPT: &str = "vmap_area";

/// [`Objects`] once they have come to rest; nothing on a kernel that watches its memory, which frees
/// late, and looks for leaks by itself.
fn objects() -> Outcome<Option<Objects>> {
    if Path::new("/sys/kernel/debug/kmemleak").exists() {
        return Ok(None);
    }
    // Dentries and inodes (Linux Documentation/admin-guide/sysctl/vm.rst).
    fs::write("/proc/sys/vm/drop_caches", "2")?;
    let now = || -> Outcome<[i64; 2]> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let mut bytes = [0; 2];
        for (name, bytes) in ["SUnreclaim:", "VmallocUsed:"].iter().zip(&mut bytes) {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            match line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<i64>().ok()) {
                Some(kib) => *bytes = kib << 10,
                None => return fail(format!("no {name} in /proc/meminfo")),
            }
        }
        Ok(bytes)
    };
    let mut bytes = now()?;
    for _ in 0..40 {
        sleep(Duration::from_millis(250));
        let after = now()?;
        let rest = (after[0] - bytes[0]).abs() <= 16 << 10;
        bytes = after;
        if rest {
            break;
        }
    }
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let caches = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.next()?.parse().ok()?))
    });
    Ok(Some(Objects {
        bytes,
        caches: caches.collect(),
    }))
}

impl Objects {
    /// Expects that no cache has grown as if each of `rounds` had left an object, and that together
    /// they have not where there were few rounds.
    fn expect(&self, before: &Self, rounds: u32, what: &str) {
        /// Rounds from which on caches are told from leaks by their objects.
        const MANY: u32 = 400;
        /// What caches take after few: each keeps slabs that are nearly empty.
        const CACHED: i64 = 512 << 10;
        let [objects, areas] = [0, 1].map(|at| self.bytes[at] - before.bytes[at]);
        println!("# {what}: {objects} bytes of objects more, {areas} of vmalloc");
        let mut grown: Vec<_> = self
            .caches
            .iter()
            .filter(|(name, _)| *name != KEPT)
            .map(|(name, count)| (count - before.caches.get(name).unwrap_or(&0), name))
            .collect();
        grown.sort_unstable();
        grown.reverse();
        grown.truncate(5);
        println!("# {what}: objects more, by cache: {grown:?}");
        assert!(areas < CACHED, "{what}: {areas} bytes of vmalloc more");
        if rounds < MANY || grown.is_empty() {
            assert!(objects < CACHED, "{what}: {objects} bytes more");
        } else {
            let most = grown.first().map_or(0, |(count, _)| *count);
            assert!(most < i64::from(rounds) * 3 / 4, "{what}: {grown:?}");
        }
    }
}

/// Makes `round` so many times, and looks after each whether all is as before; the kernel's memory
/// may grow by what caches keep, and no more however many rounds there are.
fn rounds(what: &str, count: u32, mut round: impl FnMut(&mut Dice) -> Outcome) -> Outcome {
    let mut dice = Dice::new(0xe0d5);
    // What is made once and kept is no leak.
    for _ in 0..3 {
        round(&mut dice)?;
    }
    wait_for_module_references(0)?;
    let (before, held) = (State::now()?, objects()?);
    let count = count * ends();
    for number in 0..count {
        round(&mut dice)?;
        before.wait(&format!("{what}, round {number}"))?;
    }
    println!("# {what}: {count} rounds, and as before: {before:?}");
    if let (Some(held), Some(after)) = (held, objects()?) {
        after.expect(&held, count, what);
    }
    works()
}

/// The device and its page requests are there for the next.
fn works() -> Outcome {
    let bench = FaultBench::open()?;
    let (slot, record) = bench.pending()?;
    let page = bench.space.new_page(&bench.rig, GVA)?;
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
    expect_status(bench.rig.dma().wait(slot)?, status::OK, "the next VMM");
    assert_eq!(bench.rig.mem.read_u64(page), FaultBench::MARK);
    Ok(())
}

/// A VMM in which everything goes on at once, with page requests in flight all the time.
fn churn() -> Outcome {
    let rig = Rig::faulting()?;
    let queue = rig.container.fault_queue(NONBLOCK, 64)?;
    let spaces = [Space::new(&rig)?, Space::new(&rig)?, Space::new(&rig)?];
    let spare = Memory::new(64 * PAGE)?;
    spaces[0].bind_with(&rig, &queue, 1, 1)?;
    // What a call says does not matter here, and some fail because another was first.
    std::thread::scope(|scope| {
        scope.spawn(|| loop {
            for space in &spaces {
                let _ = space.bind_with(&rig, &queue, 2, 2);
                let _ = space.unbind(&rig);
            }
        });
        scope.spawn(|| loop {
            for (index, space) in (0..64).zip(spaces.iter().cycle()) {
                let order = Order::fill(GVA + index * PAGE, 8, 1).at(space.pasid);
                if rig.dma().submit(&order).is_err() {
                    rig.dma().abort();
                }
            }
        });
        scope.spawn(|| loop {
            for record in queue.read_all_or_nothing().unwrap_or_default() {
                if record.kind == VFIO_IOASID_FAULT_PAGE_REQUEST && record.addr & PAGE == 0 {
                    let _ = queue.respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID);
                }
            }
        });
        scope.spawn(|| loop {
            let _ = rig.container.map(&spare, 0x7_0000_0000);
            if let Ok(id) = rig.container.as_create() {
                let entry = as_entry(GVA, 0x7_0000_0000, PAGE, VFIO_IOASID_AS_READ);
                let _ = rig.container.as_map(id, &[entry]);
            }
            let entries = [range(0, u64::MAX)];
            let scope = VFIO_IOASID_SCOPE_CONTAINER;
            let _ = rig.container.invalidate(scope, rig.id(), 0, &entries);
            let _ = rig.container.unmap(0x7_0000_0000, spare.size());
        });
        let _ = say_ready();
    });
    fail("the threads ended")
}

fn start(case: &str) -> Outcome<Child> {
    Ok(child(&[case])?.stdout(Stdio::piped()).spawn()?)
}

/// Waits until the VMM is in the middle of it, then for a while.
fn go_on(vmm: &mut Child, dice: &mut Dice) -> Outcome {
    use std::io::Read;
    if let Some(stdout) = vmm.stdout.as_mut() {
        stdout.read_exact(&mut [0])?;
    }
    sleep(Duration::from_micros(dice.roll(20_000)));
    Ok(())
}

fn kill(mut vmm: Child) -> Outcome {
    vmm.kill()?;
    let status = vmm.wait()?;
    match status.code() {
        None => Ok(()),
        Some(_) => fail(format!("the VMM ended by itself: {status}")),
    }
}

fn killed_at_any_moment_leaves_nothing() -> Outcome {
    rounds("kill", 20, |dice| {
        let mut vmm = start("churn")?;
        // Before it is ready as well as after.
        match dice.roll(4) {
            0 => sleep(Duration::from_micros(dice.roll(60_000))),
            _ => go_on(&mut vmm, dice)?,
        }
        kill(vmm)
    })
}

fn module_that_is_loaded_again_leaves_nothing() -> Outcome {
    rounds("reload", 4, |_| {
        let bench = FaultBench::open()?;
        bench.pending()?;
        expect_errno(unload_module(), Errno::EWOULDBLOCK, "in use");
        drop(bench);
        wait_for_module_references(0)?;
        unload_module()?;
        Ok(load_module("")?)
    })
}

/// Resets of the device by the host, under a VMM in which everything goes on; rmmod is tried.
fn reset_at_any_moment_leaves_nothing() -> Outcome {
    let reset = format!("/sys/bus/pci/devices/{}/reset", endpoint(0)?);
    rounds("reset", 4, |dice| {
        let mut vmm = start("churn")?;
        go_on(&mut vmm, dice)?;
        for _ in 0..2 {
            // Refused while the VMM has the device's lock.
            let _ = fs::write(&reset, "1");
            expect_errno(unload_module(), Errno::EWOULDBLOCK, "rmmod under a VMM");
        }
        kill(vmm)
    })
}

/// The host takes its driver from the device under a VMM, which dies of it, and gives it back.
fn driver_taken_at_any_moment_leaves_nothing() -> Outcome {
    let name = endpoint(0)?.to_string();
    rounds("driver", 4, |dice| {
        let mut vmm = start("churn")?;
        go_on(&mut vmm, dice)?;
        let device = name.clone();
        let unbinding = std::thread::spawn(move || fs::write(format!("{DRIVER}/unbind"), device));
        sleep(Duration::from_micros(dice.roll(5_000)));
        assert!(module_references()? > 0, "the VMM has it still");
        expect_errno(unload_module(), Errno::EWOULDBLOCK, "rmmod under a VMM");
        kill(vmm)?;
        match unbinding.join() {
            Ok(result) => result?,
            Err(_) => return fail("the unbinding thread panicked"),
        }
        Ok(fs::write(format!("{DRIVER}/bind"), &name)?)
    })
}

const GROUPS: &str = "/tmp/cgroup";

/// A cgroup with a limit of memory, until it is dropped.
struct Limited(String);

impl Limited {
    fn new(bytes: u64) -> Outcome<Self> {
        fs::create_dir_all(GROUPS)?;
        let kind = Some("cgroup2");
        if let Err(error) = mount(kind, GROUPS, kind, MsFlags::empty(), None::<&str>) {
            return skip(format!("no cgroup2: {error}"));
        }
        fs::write(format!("{GROUPS}/cgroup.subtree_control"), "+memory")?;
        let group = format!("{GROUPS}/small");
        fs::create_dir(&group)?;
        fs::write(format!("{group}/memory.max"), bytes.to_string())?;
        Ok(Self(group))
    }

    /// How often a charge met the limit.
    fn met(&self) -> Outcome<u64> {
        let events = fs::read_to_string(format!("{}/memory.events", self.0))?;
        let max = events.lines().find_map(|line| line.strip_prefix("max "));
        Ok(max.unwrap_or("0").trim().parse()?)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let gone = fs::remove_dir(&self.0);
        let unmounted = umount(GROUPS);
        if gone.is_err() || unmounted.is_err() {
            println!("# the cgroup stays: {gone:?}, {unmounted:?}");
        }
    }
}

/// The console's level, lowered until it is dropped: that a process is killed for want of memory is
/// told with a trace, and is no complaint.
struct Quiet(String);

impl Quiet {
    const LEVEL: &'static str = "/proc/sys/kernel/printk";

    fn new() -> Outcome<Self> {
        let before = fs::read_to_string(Self::LEVEL)?;
        fs::write(Self::LEVEL, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let level = self.0.split_whitespace().next().unwrap_or("7");
        if fs::write(Self::LEVEL, level).is_err() {
            println!("# the console stays quiet");
        }
    }
}

/// In a cgroup: takes PASIDs, bindings, queues, entries and mappings until there is no memory, or
/// until it is killed for want of it.
fn hog() -> Outcome {
    fs::write(
        format!("{GROUPS}/small/cgroup.procs"),
        std::process::id().to_string(),
    )?;
    let rig = Rig::nesting()?;
    let container = &rig.container;
    let memory = Memory::new(PAGE)?;
    let mut queues = Vec::new();
    let mut refused = 0;
    for round in 0.. {
        let mut step = |result: Result<(), Errno>| match result {
            Ok(()) => 1,
            Err(errno) => {
                refused += u32::from(errno == Errno::ENOMEM);
                0
            }
        };
        let mut done = 0;
        let pasid = container.pasid_alloc(1 + round * 600, 1 << 20, 1);
        let pasid = pasid.map_err(|error| error.errno);
        done += step(pasid.map(drop));
        if let Ok(pasid) = pasid {
            let bound = container.bind(&bind_stage2_at(rig.id(), pasid));
            done += step(bound.map_err(|error| error.errno));
        }
        let queue = container.fault_queue(NONBLOCK, 16_384);
        done += step(queue.as_ref().map(drop).map_err(|error| error.errno));
        queues.extend(queue.ok());
        let at = 0x6_0000_0000 + u64::from(round) * (PAGE << 9);
        let mapped = container.map(&memory, at);
        done += step(mapped.map_err(|error| error.errno));
        let id = container.as_create().map_err(|error| error.errno);
        done += step(id.map(drop));
        if let Ok(id) = id {
            let entries = [as_entry(GVA, at, PAGE, VFIO_IOASID_AS_READ)];
            done += step(container.as_map(id, &entries).0);
        }
        if done == 0 || refused > 20 || round > 1500 {
            break;
        }
    }
    println!("# refused for want of memory {refused} times");
    // A clean end, with all of it held until then.
    Ok(())
}

fn no_memory_in_a_cgroup_leaves_nothing() -> Outcome {
    let limited = Limited::new(12 << 20)?;
    let mut log = KernelLog::from_now()?;
    let quiet = Quiet::new()?;
    let (mut killed, mut ended) = (0, 0);
    rounds("cgroup", 2, |_| {
        let mut command: Command = child(&["hog"])?;
        let status = command.stdout(Stdio::null()).status()?;
        match status.code() {
            None => killed += 1,
            Some(0) => ended += 1,
            Some(_) => return fail(format!("the process ended by itself: {status}")),
        }
        Ok(())
    })?;
    drop(quiet);
    let met = limited.met()?;
    println!("# the limit was met {met} times; {killed} were killed, {ended} came to their end");
    assert!(met > 0, "the limit was never met");
    let complaints = log.lines_with(&["WARNING:", "BUG:", "Oops", "UBSAN:"])?;
    assert!(complaints.is_empty(), "{complaints:?}");
    Ok(())
}

fn child_main(arguments: &[String]) -> Outcome {
    match arguments {
        [case] if case == "churn" => churn(),
        [case] if case == "hog" => hog(),
        _ => fail("usage: churn or hog"),
    }
}

program![
    child child_main;
    killed_at_any_moment_leaves_nothing,
    module_that_is_loaded_again_leaves_nothing,
    reset_at_any_moment_leaves_nothing,
    driver_taken_at_any_moment_leaves_nothing,
    no_memory_in_a_cgroup_leaves_nothing,
];
