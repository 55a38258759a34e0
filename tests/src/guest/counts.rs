// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the module and the VMM say of themselves.

use host_iommu_tests::ktap::{fail, Outcome};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const DEBUGFS: &str = "/sys/kernel/debug/vfio_ioasid";

/// The lines of a file of the module's.
pub fn lines(file: &str) -> Outcome<Vec<String>> {
    let text = fs::read_to_string(format!("{DEBUGFS}/{file}"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A value in a line.
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
    pairs
        .into_iter()
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

/// What is bound on the host. A VMM that has let its last device go may have closed its container too.
pub fn bindings() -> Outcome<u64> {
    match lines("containers")?.is_empty() {
        true => Ok(0),
        false => container("bindings"),
    }
}

/// Page requests of the only container that nobody has answered yet.
pub fn waiting() -> Outcome<u64> {
    let asked = container("page_requests")?;
    Ok(asked.saturating_sub(container("responses")? + container("host_invalid")?))
}

/// Pages that are pinned on the host.
pub fn pinned() -> Outcome<i64> {
    // Counts of each CPU's own come first.
    fs::write("/proc/sys/vm/stat_refresh", "1")?;
    let text = fs::read_to_string("/proc/vmstat")?;
    let counter = |name: &str| -> Outcome<i64> {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        match lines.find(|(known, _)| *known == name) {
            Some((_, number)) => Ok(number.parse()?),
            None => fail(format!("the kernel does not tell of {name}")),
        }
    };
    Ok(counter("nr_foll_pin_acquired")? - counter("nr_foll_pin_released")?)
}

/// A number of the only container.
pub fn container(key: &str) -> Outcome<u64> {
    match &lines("containers")?[..] {
        [line] => match value(line, key) {
            Some(number) => Ok(number.parse()?),
            None => fail(format!("the module does not tell of {key}: {line}")),
        },
        others => fail(format!("{} containers", others.len())),
    }
}

/// The VMM's answer to a command, in JSON.
pub fn control(path: &str, command: &str) -> Outcome<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    writeln!(stream, "{command}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match line.contains("\"error\"") {
        true => fail(format!("{command}: {}", line.trim())),
        false => Ok(line),
    }
}

/// A number in it. The VMM's keys are all different.
pub fn number(json: &str, key: &str) -> Outcome<u64> {
    let name = format!("\"{key}\":");
    let rest = json.split_once(&name).map(|(_, rest)| rest);
    let digits = rest.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok(number),
        None => fail(format!("the VMM does not tell of {key}: {json}")),
    }
}
