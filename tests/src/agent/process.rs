// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processes that share their memory with the device side by side.

use crate::log;
use crate::share::{self, Shared, PAGE};
use host_iommu_tests::ktap::{fail, skip, Outcome, Stop};
use host_iommu_tests::testdev::{status, Order};
use host_iommu_tests_sys::forked::wait_before_exec;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Limit of a fork.
const FORK: Duration = Duration::from_secs(60);
/// The argument that makes this program one of the processes.
pub const CHILD: &str = "child";

/// A page that is at one address in all processes of this program, where addresses are not random.
#[repr(align(4096))]
struct Page([AtomicU64; PAGE / 8]);
static AREA: Page = Page([const { AtomicU64::new(0) }; PAGE / 8]);

fn area() -> u64 {
    (&raw const AREA).expose_provenance() as u64
}

/// A process that waits for a word before each step.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(number: u32) -> Outcome<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([CHILD, &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                child,
                input,
                output: BufReader::new(output),
            }),
            _ => fail("a process has no pipes"),
        }
    }

    /// Has it do something, and gives its answer.
    fn ask(&mut self, what: &str) -> Outcome<String> {
        writeln!(self.input, "{what}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim().split_once(' ') {
            Some(("ok", text)) => Ok(text.to_owned()),
            Some(("skip", text)) => skip(text),
            _ => fail(format!("{what}: {}", line.trim())),
        }
    }

    /// Has it do something, and does not wait.
    fn tell(&mut self, what: &str) -> Outcome {
        Ok(writeln!(self.input, "{what}")?)
    }

    fn kill(mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Two processes, two PASIDs, one address: what the device does in one, the other does not see.
pub fn two_processes() -> Outcome<String> {
    fs::write("/proc/sys/kernel/randomize_va_space", "0")?;
    let mut processes = [Process::start(1)?, Process::start(2)?];
    let mut opened = Vec::new();
    for process in &mut processes {
        opened.push(process.ask("open")?);
    }
    for step in ["fill", "check", "fill", "check"] {
        for process in &mut processes {
            process.ask(step)?;
        }
    }
    for process in processes {
        process.kill()?;
    }
    // "PASID at ADDRESS", twice.
    let parts: Vec<_> = opened
        .iter()
        .filter_map(|text| text.split_once(" at "))
        .collect();
    match parts[..] {
        [(one, here), (other, there)] if one != other && here == there => {
            Ok(format!("PASIDs {one} and {other}, both at {here}"))
        }
        _ => fail(format!("not two PASIDs at one address: {opened:?}")),
    }
}

/// Processes that are killed alone, in [`killed_with_faults_in_flight`].
const ALONE: u32 = 3;

/// A process is killed while its faults wait.
fn kill_with_faults_in_flight() -> Outcome {
    let mut victim = Process::start(3)?;
    victim.ask("open")?;
    victim.ask("flood")?;
    victim.kill()
}

/// The device works for this process.
fn expect_at_work(shared: &Shared) -> Outcome {
    let memory = share::fresh(8);
    let start = share::first_page(&memory);
    shared.expect(Order::fill(start, 8 * PAGE as u32, 5), status::OK)?;
    match share::is_filled(&memory, start, 8 * PAGE, 5) {
        true => Ok(()),
        false => fail("the device's writes did not arrive"),
    }
}

/// Processes are killed while their faults wait: one beside another, for which the device goes on, and
/// others that are the only ones that have it.
pub fn killed_with_faults_in_flight() -> Outcome<String> {
    let shared = Shared::open()?;
    kill_with_faults_in_flight()?;
    expect_at_work(&shared)?;
    drop(shared);
    for _ in 0..ALONE {
        kill_with_faults_in_flight()?;
        expect_at_work(&Shared::open()?)?;
    }
    // What the driver says when the device did not come to rest by itself.
    log::expect_none_of(&["orders are aborted"])?;
    Ok(format!(
        "the device went on for another process; {ALONE} times it was the only one"
    ))
}

/// Leaves a process behind whose faults do not end.
pub fn start_dma() -> Outcome<String> {
    let mut process = Process::start(4)?;
    process.ask("open")?;
    process.ask("flood")?;
    process.tell("stay")?;
    // It goes with the guest.
    std::mem::forget(process);
    Ok("DMA goes on".into())
}

/// Runs `work` while a child of this process has its memory, as fork leaves it. `forked` tells when it
/// has.
pub fn with_a_forked_child(forked: impl Fn() -> bool, work: impl FnOnce() -> Outcome) -> Outcome {
    // The child inherits both ends: it waits for a byte, not for the end of the file.
    let (reader, mut writer) = UnixStream::pair()?;
    let mut command = Command::new("/bin/true");
    wait_before_exec(&mut command, reader);
    std::thread::scope(|scope| -> Outcome {
        let child = scope.spawn(move || command.status());
        let begun = Instant::now();
        while !forked() && begun.elapsed() < FORK {
            std::thread::sleep(Duration::from_millis(5));
        }
        let outcome = match forked() {
            true => work(),
            false => fail(format!("no fork reached the device within {FORK:?}")),
        };
        writer.write_all(&[0])?;
        match child.join() {
            Ok(status) => status.map(drop)?,
            Err(_) => return fail("the child could not be waited for"),
        }
        outcome
    })
}

/// What a process does.
struct Sharer {
    number: u64,
    shared: Option<Shared>,
    memory: Vec<u8>,
}

impl Sharer {
    fn shared(&self) -> Outcome<&Shared> {
        match &self.shared {
            Some(shared) => Ok(shared),
            None => fail("not opened"),
        }
    }

    fn pattern(&self) -> u64 {
        0x0101_0101_0101_0101 * self.number
    }

    fn command(&mut self, command: &str) -> Outcome<String> {
        match command {
            "open" => {
                let shared = self.shared.insert(Shared::open()?);
                Ok(format!("{} at {:#x}", shared.pasid, area()))
            }
            "fill" => {
                let order = Order::fill(area(), PAGE as u32, self.pattern());
                self.shared()?.expect(order, status::OK)?;
                Ok("filled".into())
            }
            "check" => {
                let own = |word: &AtomicU64| word.load(Ordering::Relaxed) == self.pattern();
                match AREA.0.iter().all(own) {
                    true => Ok("equal".into()),
                    false => fail("another process's page"),
                }
            }
            "flood" => {
                self.memory = share::fresh(4096);
                let start = share::first_page(&self.memory);
                let shared = self.shared()?;
                let part = 16 * PAGE as u64;
                for slot in 0..200 {
                    let order = Order::fill(start + slot * part, part as u32, 6);
                    shared.device.submit(&order.at(shared.pasid))?;
                }
                Ok("flooded".into())
            }
            "stay" => loop {
                std::thread::park();
            },
            other => fail(format!("there is no command {other}")),
        }
    }
}

/// Serves the parent.
pub fn child() -> ExitCode {
    let number = std::env::args().nth(2).and_then(|text| text.parse().ok());
    let mut sharer = Sharer {
        number: number.unwrap_or(0),
        shared: None,
        memory: Vec::new(),
    };
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match sharer.command(line.trim()) {
            Ok(text) => println!("ok {text}"),
            Err(Stop::Skip(text)) => println!("skip {text}"),
            Err(Stop::Fail(text)) => println!("fail {text}"),
        }
    }
    ExitCode::SUCCESS
}
