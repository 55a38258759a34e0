// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu trace`: the module's tracepoints in plain words.
//!
//! The events go to an instance of tracefs of this command's own, so that who traces beside it is
//! not disturbed. The instance is removed at the end.

mod event;

use crate::report::Error;
use clap::Args;
use event::Line;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long it waits between two looks at what ends it.
const PATIENCE: u16 = 1000;

/// Longest line of the trace that is kept: the kernel's own limit is a page.
const LINE_MAX: usize = 1 << 16;

/// What it traces.
#[derive(Args)]
pub struct Options {
    /// Only this container, by its number as `list` gives it.
    #[arg(long)]
    container: Option<u64>,
    /// End after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Where tracefs is mounted.
    #[arg(long, default_value = "/sys/kernel/tracing")]
    tracefs: PathBuf,
}

/// An instance of tracefs. It is removed when this is dropped.
struct Instance(PathBuf);

impl Instance {
    fn make(tracefs: &Path) -> Result<Self, Error> {
        if !tracefs.join("events").exists() {
            return Err(Error::NoTracefs(tracefs.to_owned()));
        }
        let folder = tracefs.join(format!("instances/hostiommu-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| Error::Read(folder.clone(), error))?;
        let instance = Self(folder);
        let events = instance.0.join("events/vfio_ioasid/enable");
        match fs::write(&events, "1") {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NoEvents),
            Err(error) => Err(Error::Read(events, error)),
            Ok(()) => {
                // Of a buffer that is half full, as is the default, a reader would hear late. A kernel
                // without the file wakes readers at once.
                let _ = fs::write(instance.0.join("buffer_percent"), "0");
                Ok(instance)
            }
        }
    }

    /// What gives each event once.
    fn pipe(&self) -> Result<File, Error> {
        let path = self.0.join("trace_pipe");
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        options
            .open(&path)
            .map_err(|error| Error::Read(path, error))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The events of an instance go with it; nothing else can be done about one that stays.
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("hostiommu: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP, which end the trace in order.
fn signals() -> io::Result<SignalFd> {
    let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Prints events until a signal comes, the time is over, or nobody reads.
///
/// # Errors
///
/// If there is no tracefs, or the module has no events; if either cannot be read or printed.
pub fn trace(options: &Options, as_json: bool) -> Result<(), Error> {
    let signals = signals().map_err(Error::Terminal)?;
    let instance = Instance::make(&options.tracefs)?;
    let mut pipe = instance.pipe()?;
    let until = options
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    eprintln!("hostiommu: tracing; Ctrl-C ends it");
    let mut kept = Vec::new();
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        let wait = left.map_or(PATIENCE, |left| {
            u16::try_from(left.as_millis()).map_or(PATIENCE, |left| left.clamp(1, PATIENCE))
        });
        let mut fds = [
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::from(wait)).map_err(|errno| Error::Terminal(errno.into()))?;
        if fds[1].any().unwrap_or(false) {
            return Ok(());
        }
        match read_lines(&mut pipe, &mut kept) {
            Err(error) => return Err(Error::Read(instance.0.join("trace_pipe"), error)),
            Ok(lines) => {
                if !print(&lines, options, as_json)? {
                    return Ok(());
                }
            }
        }
    }
}

/// The whole lines that are there now; `kept` has the beginning of the next one.
fn read_lines(pipe: &mut impl Read, kept: &mut Vec<u8>) -> io::Result<Vec<String>> {
    let mut bytes = [0; 1 << 14];
    match pipe.read(&mut bytes) {
        Ok(count) => kept.extend_from_slice(bytes.get(..count).unwrap_or_default()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(error) => return Err(error),
    }
    let Some(last) = kept.iter().rposition(|byte| *byte == b'\n') else {
        if kept.len() > LINE_MAX {
            kept.clear();
        }
        return Ok(Vec::new());
    };
    let whole: Vec<u8> = kept.drain(..=last).collect();
    let text = String::from_utf8_lossy(&whole);
    Ok(text.lines().map(str::to_owned).collect())
}

/// Prints lines; false if nobody reads any more.
fn print(lines: &[String], options: &Options, as_json: bool) -> Result<bool, Error> {
    let mut out = io::stdout().lock();
    let mut write = || -> io::Result<()> {
        for line in lines {
            match (Line::parse(line), as_json) {
                (Some(Line::Event(event)), _)
                    if options.container.is_some() && event.container() != options.container => {}
                (Some(Line::Event(event)), true) => writeln!(out, "{}", event.json())?,
                (Some(Line::Event(event)), false) => writeln!(out, "{}", event.text())?,
                (Some(Line::Lost(count)), true) => writeln!(out, "{}", json!({ "lost": count }))?,
                (Some(Line::Lost(count)), false) => {
                    writeln!(
                        out,
                        "{count} events were lost: the kernel's buffer was full"
                    )?;
                }
                (None, _) => {}
            }
        }
        out.flush()
    };
    match write() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::Print(error)),
        Ok(()) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together() {
        let mut kept = Vec::new();
        let mut read = |text: &str| read_lines(&mut text.as_bytes(), &mut kept).expect("bytes");
        assert_eq!(read("one\ntw"), ["one"]);
        assert!(read("o").is_empty());
        assert_eq!(read("\nthree\n"), ["two", "three"]);
        // What never ends is not kept for ever.
        for _ in 0..20 {
            assert!(read(&"x".repeat(1 << 14)).is_empty());
        }
        assert!(kept.len() <= LINE_MAX + (1 << 14));
    }

    #[test]
    fn missing_tracefs_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(matches!(
            Instance::make(dir.path()),
            Err(Error::NoTracefs(_))
        ));
    }
}
