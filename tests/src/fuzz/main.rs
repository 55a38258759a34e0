// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fuzzes the module: calls that are made of choices, several threads at once, guided by which
//! points of the module's code they reach. Runs in the booted machine; `make fuzz` shows what it
//! means.
//!
//! A world is two containers and what threads share; each thread runs programs in it until one has
//! made its number of calls, when the world ends under the others. What it leaves behind is
//! looked for. Lines: `seed` and a program that reached something new, `status`, `kind`,
//! `finding` and what is wrong, and at the end `complete`.

mod act;
#[allow(
    dead_code,
    reason = "the program that boots the machine reads what this one writes"
)]
mod call;
mod corpus;
mod ring;
mod world;

use act::{act, Scene};
use call::{Call, Kind, Program};
use corpus::Corpus;
use host_iommu_sys::Errno;
use host_iommu_tests::dice::Dice;
use host_iommu_tests::ktap::{fail, patience, Outcome, Stop};
use host_iommu_tests::rig::KernelLog;
use host_iommu_tests_sys::guarded::Guarded;
use host_iommu_tests_sys::kcov::Kcov;
use ring::Ring;
use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use world::{lock, Before, World};

/// Calls that a thread makes in a world, and not so many that their place in the ring is too small.
const CALLS: u64 = 4000;
const _: () = assert!(CALLS as usize + 32 < call::ring::ENTRIES);
/// Points that a program reaches, as often as it does.
const TRACE: usize = 1 << 16;
/// A call that takes longer hangs.
const HANGS: Duration = Duration::from_secs(40);
/// A replay's world ends when all threads are through, or then.
const REPLAY: Duration = Duration::from_secs(10);

/// What a call may say.
const EXPECTED: [Errno; 17] = [
    Errno::EINVAL,
    Errno::ENOENT,
    Errno::EBUSY,
    Errno::EEXIST,
    Errno::EDQUOT,
    Errno::ENOSPC,
    Errno::EFAULT,
    Errno::EAGAIN,
    Errno::EBADF,
    Errno::EPERM,
    Errno::ENOTTY,
    Errno::E2BIG,
    Errno::EOPNOTSUPP,
    Errno::ENOMEM,
    Errno::EOVERFLOW,
    Errno::ESPIPE,
    Errno::ENODEV,
];

/// What the kernel says when something is wrong with it.
const COMPLAINTS: [&str; 8] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "UBSAN:",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
];

/// What to do.
struct Options {
    time: Duration,
    threads: usize,
    seed: u64,
    planted: bool,
    seeds: Vec<Program>,
    replay: Option<Vec<Program>>,
}

impl Options {
    fn read() -> Outcome<Self> {
        let mut options = Self {
            time: Duration::from_secs(60),
            threads: 4,
            seed: 1,
            planted: false,
            seeds: Vec::new(),
            replay: None,
        };
        for argument in std::env::args().skip(1) {
            let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
            match name {
                "--seconds" => options.time = Duration::from_secs(value.parse()?),
                "--threads" => options.threads = value.parse::<usize>()?.clamp(1, 8),
                "--seed" => options.seed = value.parse::<u64>()?.max(1),
                "--planted" => options.planted = true,
                "--seeds" => {
                    let text = fs::read_to_string(value)?;
                    options.seeds = text.lines().filter_map(call::parse_program).collect();
                }
                "--replay" => {
                    let text = fs::read_to_string(value)?;
                    match call::parse_threads(&text) {
                        Ok(threads) => options.replay = Some(threads),
                        Err(line) => return fail(format!("no call: {line}")),
                    }
                }
                _ => return fail(format!("what is {argument}?")),
            }
        }
        Ok(options)
    }
}

/// How often calls of a kind ended so, and what they took.
type Ends = BTreeMap<(u8, i32), (u64, Duration)>;

/// What threads and worlds share.
struct Fuzz {
    options: Options,
    corpus: Corpus,
    ring: Option<Ring>,
    before: Before,
    ends: Mutex<Ends>,
    calls: [AtomicU64; call::ring::THREADS],
    started: Instant,
}

/// A world's threads.
struct Run<'a> {
    fuzz: &'a Fuzz,
    world: &'a World,
    order: Call,
    /// Threads that are through.
    through: AtomicUsize,
    stop: AtomicBool,
    finding: Mutex<Option<String>>,
}

impl Run<'_> {
    /// Makes calls one by one, written down before they are made.
    fn make(&self, thread: usize, scene: &Scene<'_>, program: &[Call], ends: &mut Ends) {
        for call in program {
            if let Some(ring) = &self.fuzz.ring {
                ring.write(thread, call);
            }
            let start = Instant::now();
            let result = act(scene, call);
            let errno = result.err().map_or(0, Errno::raw);
            let end = ends.entry((call.0[0], errno)).or_default();
            *end = (end.0 + 1, end.1 + start.elapsed());
            self.fuzz.calls[thread].fetch_add(1, Ordering::Relaxed);
            match result {
                Err(errno) if !EXPECTED.contains(&errno) => {
                    let text = format!("{call} says {errno:?}");
                    lock(&self.finding).get_or_insert(text);
                }
                _ => {}
            }
        }
    }

    /// A thread's life.
    fn thread(&self, thread: usize, mut dice: Dice) -> Outcome {
        let edge = Guarded::new(&vec![0; 4096])?;
        let scene = Scene {
            world: self.world,
            edge: &edge,
            canary: self.fuzz.before.canary(),
        };
        let mut ends = Ends::new();
        match &self.fuzz.options.replay {
            Some(threads) => {
                if let Some(calls) = threads.get(thread) {
                    self.make(thread, &scene, calls, &mut ends);
                }
            }
            None => {
                let trace = match Kcov::start(TRACE) {
                    Ok(trace) => Some(trace),
                    // A kernel without it is fuzzed blindly.
                    Err(Errno::ENOENT) => None,
                    Err(errno) => return fail(format!("KCOV: {errno:?}")),
                };
                let first = self.fuzz.calls[thread].load(Ordering::Relaxed);
                let made = || self.fuzz.calls[thread].load(Ordering::Relaxed) - first;
                self.make(thread, &scene, &[self.order], &mut ends);
                while made() < CALLS && !self.stop.load(Ordering::Relaxed) {
                    self.step(thread, &scene, trace.as_ref(), &mut dice, &mut ends);
                }
            }
        }
        self.through.fetch_add(1, Ordering::Relaxed);
        let mut all = lock(&self.fuzz.ends);
        for (end, (count, time)) in ends {
            let sum = all.entry(end).or_default();
            *sum = (sum.0 + count, sum.1 + time);
        }
        Ok(())
    }

    /// Runs the next program.
    fn step(
        &self,
        thread: usize,
        scene: &Scene<'_>,
        trace: Option<&Kcov>,
        dice: &mut Dice,
        ends: &mut Ends,
    ) {
        let corpus = &self.fuzz.corpus;
        let mut program = corpus.next(dice);
        if self.fuzz.options.planted && dice.roll(8) == 0 {
            let mut planted = Call::plain(Kind::Planted);
            planted.0[4] = dice.roll(256) as u8;
            program.push(planted);
        }
        if let Some(trace) = trace {
            trace.clear();
        }
        self.make(thread, scene, &program, ends);
        let mut new = 0;
        if let Some(trace) = trace {
            trace.each(|point| new += u32::from(corpus.coverage.add(point)));
        }
        if new != 0 {
            corpus.keep(&program);
            println!("seed {}", call::program_text(&program));
        }
    }

    /// Waits for the world's end, and looks for threads that hang and for a kernel that complains.
    fn watch(&self, threads: usize, end: Instant, wait_for_all: bool, log: &mut KernelLog) {
        let calls = || -> Vec<u64> {
            let calls = self.fuzz.calls.iter();
            calls.map(|calls| calls.load(Ordering::Relaxed)).collect()
        };
        let (mut before, mut since) = (calls(), Instant::now());
        let enough = if wait_for_all { threads } else { 1 };
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = calls();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            let complaint = log.lines_with(&COMPLAINTS).unwrap_or_default().pop();
            if let Some(complaint) = complaint {
                lock(&self.finding).get_or_insert(complaint);
            }
            if since.elapsed() > HANGS * patience() {
                report_hang();
                lock(&self.finding).get_or_insert("no call ends".to_owned());
            }
            let through = self.through.load(Ordering::Relaxed) >= enough;
            if through || Instant::now() > end || lock(&self.finding).is_some() {
                break;
            }
        }
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Where each thread is in the kernel.
fn report_hang() {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return;
    };
    for task in tasks.flatten() {
        let stack = fs::read_to_string(task.path().join("stack")).unwrap_or_default();
        println!("# thread {}", task.file_name().to_string_lossy());
        for line in stack.lines() {
            println!("#   {line}");
        }
    }
}

impl Fuzz {
    fn total(&self) -> u64 {
        let calls = self.calls.iter();
        calls.map(|calls| calls.load(Ordering::Relaxed)).sum()
    }

    /// One world, from its beginning to what it left behind.
    fn world(&self, number: u64, log: &mut KernelLog) -> Outcome {
        let options = &self.options;
        let mut order = Call::plain(Kind::World);
        order.0[3] = number as u8;
        let threads = options.replay.as_ref().map_or(options.threads, Vec::len);
        let limit = match options.replay {
            Some(_) => REPLAY * patience(),
            None => options.time.saturating_sub(self.started.elapsed()),
        };
        let world = World::open()?;
        let run = Run {
            fuzz: self,
            world: &world,
            order,
            through: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            finding: Mutex::new(None),
        };
        let outcomes = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads)
                .map(|thread| {
                    let run = &run;
                    let seed = options.seed ^ number << 8 ^ (thread as u64 + 1);
                    scope.spawn(move || run.thread(thread, Dice::new(seed.max(1))))
                })
                .collect();
            let wait_for_all = options.replay.is_some() && number % 2 == 0;
            run.watch(threads, Instant::now() + limit, wait_for_all, log);
            world.end(number as u8);
            if let Some(finding) = &*lock(&run.finding) {
                println!("finding {}", finding.trim().replace('\n', " "));
            }
            handles
                .into_iter()
                .map(|handle| match handle.join() {
                    Ok(outcome) => outcome,
                    Err(_) => fail("a thread panicked"),
                })
                .collect::<Vec<_>>()
        });
        let finding = lock(&run.finding).take();
        drop(world);
        if finding.is_some() {
            // It was told, and the rest may follow from it.
            return Err(Stop::Fail(String::new()));
        }
        outcomes.into_iter().collect::<Outcome<Vec<()>>>()?;
        self.before.check()
    }

    fn status(&self, worlds: u64) {
        println!(
            "status seconds={} calls={} worlds={worlds} points={} programs={}",
            self.started.elapsed().as_secs(),
            self.total(),
            self.corpus.coverage.count(),
            self.corpus.len(),
        );
    }

    fn run(&self) -> Outcome {
        const EVERY: Duration = Duration::from_secs(5);
        let mut log = KernelLog::from_now()?;
        let (mut worlds, mut told) = (0, Instant::now());
        while self.started.elapsed() < self.options.time {
            self.world(worlds, &mut log)?;
            worlds += 1;
            if told.elapsed() > EVERY {
                self.status(worlds);
                told = Instant::now();
            }
        }
        self.status(worlds);
        if self.options.replay.is_some() {
            return Ok(());
        }
        for kind in Kind::ALL {
            let ends = lock(&self.ends);
            let of_kind = ends
                .iter()
                .filter(|((number, _), _)| *number == *kind as u8);
            let (mut calls, mut took, mut text) = (0, Duration::ZERO, String::new());
            for ((_, errno), (count, time)) in of_kind {
                calls += count;
                took += *time;
                let errno = match errno {
                    0 => "ok".to_owned(),
                    errno => format!("{:?}", Errno::from_raw(*errno)),
                };
                text.push_str(&format!(" {errno}={count}"));
            }
            let each = took.as_micros() / u128::from(calls.max(1));
            println!("kind {} calls={calls} us={each}{text}", kind.name());
        }
        watchers()
    }
}

/// Asks what watches locks and memory, where the kernel has it.
fn watchers() -> Outcome {
    if let Ok(text) = fs::read_to_string("/proc/lockdep_stats") {
        let on = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("debug_locks:"))
            .is_some_and(|value| value.trim() == "1");
        if !on {
            return fail("lockdep reported something and is off");
        }
        println!("# lockdep is on");
    }
    let leaks = "/sys/kernel/debug/kmemleak";
    if fs::metadata(leaks).is_ok() {
        // What is freed late must be gone, and a leak is sure when two scans see it.
        for _ in 0..2 {
            std::thread::sleep(Duration::from_secs(5));
            fs::write(leaks, "scan")?;
        }
        let found = fs::read_to_string(leaks)?;
        for line in found.lines() {
            println!("# {line}");
        }
        if !found.is_empty() {
            return fail("memory has leaked");
        }
        println!("# kmemleak saw no leak");
    }
    Ok(())
}

fn fuzz() -> Outcome {
    let mut options = Options::read()?;
    let leaks = "/sys/kernel/debug/kmemleak";
    if fs::metadata(leaks).is_ok() {
        fs::write(leaks, "clear")?;
    }
    let seeds = std::mem::take(&mut options.seeds);
    let fuzz = Fuzz {
        corpus: Corpus::new(seeds),
        ring: Ring::open()?,
        before: Before::new()?,
        ends: Mutex::default(),
        calls: [const { AtomicU64::new(0) }; call::ring::THREADS],
        started: Instant::now(),
        options,
    };
    fuzz.run()
}

fn main() -> ExitCode {
    match fuzz() {
        Ok(()) => {
            println!("complete");
            ExitCode::SUCCESS
        }
        Err(Stop::Skip(why) | Stop::Fail(why)) => {
            if !why.is_empty() {
                println!("finding {}", why.replace('\n', " "));
            }
            ExitCode::FAILURE
        }
    }
}
