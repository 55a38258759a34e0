// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Running programs: their output goes to a log, and an error shows the end of it.

use crate::progress::Progress;
use anyhow::{bail, Context, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lines of a log that an error shows.
const TAIL: usize = 15;

/// What stands before a command in a log.
const COMMAND: &str = "$ ";

/// The log of a stage.
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// Starts an empty log at `path`.
    pub fn create(path: PathBuf) -> Result<Self> {
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path })
    }

    /// Runs a command to its end with its output in the log.
    ///
    /// # Errors
    ///
    /// Names `what` failed, with the last lines of the log and where it is.
    pub fn run(&self, what: &str, command: &mut Command, progress: &Progress) -> Result<()> {
        let mut log = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        writeln!(log, "{COMMAND}{command:?}").with_context(|| self.full())?;
        let (reader, writer) = nix::unistd::pipe().context("cannot make a pipe")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("cannot make a pipe")?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("cannot run {:?}", command.get_program()))?;
        // The command holds the pipe's write ends until it is dropped or given others.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut lines = BufReader::new(File::from(reader));
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .context("cannot read a pipe")?
            != 0
        {
            log.write_all(&line).with_context(|| self.full())?;
            progress.peek(&String::from_utf8_lossy(&line));
            line.clear();
        }
        let status = child.wait().context("cannot wait for a command")?;
        if !status.success() {
            let end = tail(&self.path);
            let why = if disk_is_full(&end) {
                "the disk is full; set HOST_IOMMU_CACHE to a folder with more room"
            } else {
                "failed"
            };
            bail!(
                "{what}: {why} ({status}); the end of {}:\n{end}",
                self.path.display()
            );
        }
        Ok(())
    }

    fn full(&self) -> String {
        format!("cannot write {} (is the disk full?)", self.path.display())
    }
}

/// Whether a program's last words say that there was no room (ENOSPC's text).
fn disk_is_full(text: &str) -> bool {
    text.contains("No space left on device")
}

/// The last lines of a file, indented.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // The command itself is long, and said in words.
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with(COMMAND))
        .collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(TAIL))
        .map(|line| format!("  {line}\n"))
        .collect()
}

/// Runs a command and gives its standard output.
pub fn output(what: &str, command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{what} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::create(dir.path().join("log")).expect("writable");
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        match log.run("the step", &mut command, &Progress::start("x", "y")) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn run_of_a_failing_command_shows_the_end_of_its_log() {
        let text = run("seq 100; echo last >&2; exit 3");
        assert!(text.starts_with("the step: failed (exit status: 3)"));
        assert!(text.ends_with("  100\n  last\n") && !text.contains("  50\n"));
        assert!(!run("exit 3").contains("$ "));
        assert_eq!(run("true"), "ok");
    }

    #[test]
    fn run_without_room_says_that_the_disk_is_full() {
        let text = run("echo 'x: write error: No space left on device'; exit 1");
        assert!(text.contains("the disk is full") && text.contains("HOST_IOMMU_CACHE"));
    }
}
