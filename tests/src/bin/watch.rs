// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu watch` and `hostiommu trace` on the running module, while a device asks for pages.

use host_iommu_bindings::uapi::VFIO_IOASID_RESPONSE_INVALID;
use host_iommu_tests::ktap::patience;
use host_iommu_tests::rig::{
    expect_status, fail, load_module, program, skip, status, unload_module,
    wait_for_module_references, FaultBench, Outcome,
};
use nix::mount::{mount, MsFlags};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::pty::{openpty, Winsize};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "/bin/hostiommu";
const TRACEFS: &str = "/sys/kernel/tracing";

fn mount_at(path: &str, kind: &str) -> Outcome {
    fs::create_dir_all(path)?;
    if fs::read_dir(path)?.next().is_none() {
        mount(Some(kind), path, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    Ok(())
}

/// The command, which ends with the test.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Outcome<Self> {
        mount_at("/sys/kernel/debug", "debugfs")?;
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(command.spawn()?))
    }

    fn signal(&self, signal: Signal) -> Outcome {
        Ok(kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?)
    }

    /// Whether it ended with status zero.
    fn ended_well(&mut self) -> Outcome {
        let status = self.0.wait()?;
        match status.success() {
            true => Ok(()),
            false => fail(format!("it ended with {status}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A page request that is answered INVALID.
fn ask(bench: &FaultBench, page: u64) -> Outcome {
    let slot = bench.touch(FaultBench::GVA + page * 4096)?;
    let record = bench.requests(1)?[0];
    bench
        .queue
        .respond(record.cookie, VFIO_IOASID_RESPONSE_INVALID)?;
    expect_status(bench.rig.dma().wait(slot)?, status::INVALID, "answered");
    Ok(())
}

fn lines_count_page_requests() -> Outcome {
    let bench = FaultBench::open()?;
    let mut running = Running::start(&["watch", "--json", "--interval", "200", "--count", "3"])?;
    let out = running.0.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(out).lines();
    let mut next = || -> Outcome<String> {
        match lines.next() {
            Some(line) => Ok(line?),
            None => fail("it ended"),
        }
    };
    let first = next()?;
    assert!(
        first.contains("\"page_requests\":0.0"),
        "no time, no rate: {first}"
    );
    ask(&bench, 0)?;
    ask(&bench, 1)?;
    let (second, third) = (next()?, next()?);
    for wanted in [
        "\"type\":\"ioasid\"",
        "\"bindings\":1",
        "\"rid\":\"stage2\"",
    ] {
        assert!(third.contains(wanted), "{wanted} in {third}");
    }
    // In one of the two looks, or one request in each.
    let moved = |line: &str| !line.contains("\"page_requests\":0.0");
    assert!(moved(&second) || moved(&third), "{second} {third}");
    assert!(third.contains("\"page_requests\":2,"), "in all: {third}");
    running.ended_well()
}

/// Reads a terminal until a text is there.
fn read_until(terminal: &mut File, wanted: &str) -> Outcome<String> {
    let until = Instant::now() + Duration::from_secs(20) * patience();
    let mut seen = Vec::new();
    while Instant::now() < until {
        let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(200_u16))? == 0 {
            continue;
        }
        let mut bytes = [0; 4096];
        let count = terminal.read(&mut bytes)?;
        seen.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if text.contains(wanted) {
            return Ok(text);
        }
    }
    fail(format!(
        "no {wanted:?} in {:?}",
        String::from_utf8_lossy(&seen)
    ))
}

fn view_comes_and_goes_with_a_key() -> Outcome {
    mount_at("/sys/kernel/debug", "debugfs")?;
    mount_at("/dev/pts", "devpts")?;
    let _bench = FaultBench::open()?;
    let size = Winsize {
        ws_row: 24,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None)?;
    let mut command = Command::new(PROGRAM);
    command.args(["watch", "--interval", "200"]);
    let slave = |fd: &OwnedFd| fd.try_clone().map(Stdio::from);
    command.stdin(slave(&pty.slave)?).stdout(slave(&pty.slave)?);
    command.env("TERM", "linux");
    let mut running = Running(command.stderr(Stdio::piped()).spawn()?);
    let mut terminal = File::from(pty.master);
    let text = read_until(&mut terminal, "2048")?;
    for wanted in ["\x1b[?1049h", "ioasid", "faults/s"] {
        assert!(text.contains(wanted), "{wanted:?} in {text:?}");
    }
    terminal.write_all(b"q")?;
    // The terminal is given back as it was.
    read_until(&mut terminal, "\x1b[?1049l")?;
    running.ended_well()
}

fn without_a_terminal_or_the_module_it_says_so() -> Outcome {
    let said = |arguments: &[&str]| -> Outcome<String> {
        let mut running = Running::start(arguments)?;
        let mut text = String::new();
        let err = running.0.stderr.take().expect("it is piped");
        BufReader::new(err).read_to_string(&mut text)?;
        match running.0.wait()?.code() {
            Some(1) => Ok(text),
            other => fail(format!("{arguments:?} ended with {other:?}: {text}")),
        }
    };
    let text = said(&["watch"])?;
    assert!(text.contains("watch --json"), "{text}");
    let text = said(&["trace", "--tracefs", "/proc/self/nowhere"])?;
    assert!(text.contains("mount -t tracefs"), "{text}");
    wait_for_module_references(0)?;
    unload_module()?;
    let texts = (|| -> Outcome<_> {
        let watch = said(&["watch", "--json"])?;
        if !has_tracing()? {
            return Ok((watch, None));
        }
        Ok((watch, Some(said(&["trace"])?)))
    })();
    load_module("")?;
    let (watch, trace) = texts?;
    assert!(watch.contains("modprobe vfio_iommu_ioasid"), "{watch}");
    if let Some(trace) = trace {
        assert!(trace.contains("no events of vfio_ioasid"), "{trace}");
    }
    assert_eq!(instances()?, 0);
    Ok(())
}

fn has_tracing() -> Outcome<bool> {
    if !Path::new(TRACEFS).exists() {
        return Ok(false);
    }
    mount_at(TRACEFS, "tracefs")?;
    Ok(Path::new(TRACEFS).join("events").exists())
}

/// How many instances of the command are in tracefs.
fn instances() -> Outcome<usize> {
    match fs::read_dir(Path::new(TRACEFS).join("instances")) {
        Ok(entries) => Ok(entries.count()),
        Err(_) => Ok(0),
    }
}

fn trace_tells_what_happens_and_leaves_nothing() -> Outcome {
    if !has_tracing()? {
        return skip("the kernel has no event tracing");
    }
    for json in [false, true] {
        let bench = FaultBench::open()?;
        let arguments = if json {
            &["trace", "--json"][..]
        } else {
            &["trace"]
        };
        let mut running = Running::start(arguments)?;
        let err = running.0.stderr.take().expect("it is piped");
        let Some(ready) = BufReader::new(err).lines().next().transpose()? else {
            return fail("it ended");
        };
        assert!(ready.contains("tracing"), "{ready}");
        assert_eq!(instances()?, 1);
        ask(&bench, 0)?;
        bench.space.unbind(&bench.rig)?;
        let out = running.0.stdout.take().expect("it is piped");
        let last = if json {
            "\"event\":\"unbind\""
        } else {
            ": unbound"
        };
        let mut text = String::new();
        for line in BufReader::new(out).lines() {
            text += &line?;
            text.push('\n');
            if text.contains(last) {
                break;
            }
        }
        running.signal(Signal::SIGINT)?;
        running.ended_well()?;
        assert_eq!(instances()?, 0, "the instance stays");
        let pasid = bench.space.pasid;
        let wanted = match json {
            false => [
                format!(
                    "PASID {pasid} (guest's {}): asks for 1 page(s)",
                    FaultBench::GUEST_PASID
                ),
                "is answered INVALID by the VMM".to_owned(),
                format!("PASID {pasid}: unbound"),
            ],
            true => [
                format!("\"pasid\":{pasid}"),
                "\"by\":\"user\"".to_owned(),
                "\"event\":\"page_request\"".to_owned(),
            ],
        };
        for wanted in wanted {
            assert!(text.contains(&wanted), "{wanted:?} in {text}");
        }
        for line in text.lines() {
            println!("# {line}");
        }
    }
    Ok(())
}

program![
    lines_count_page_requests,
    view_comes_and_goes_with_a_key,
    without_a_terminal_or_the_module_it_says_so,
    trace_tells_what_happens_and_leaves_nothing,
];
