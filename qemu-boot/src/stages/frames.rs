// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stack frames of the module's functions, by its object file: C has `-Wframe-larger-than`, Rust
//! has nothing of the kind.

use crate::command::output;
use crate::judge::ktap::Report;
use crate::root::Root;
use anyhow::{Context, Result};
use std::path::Path;

/// Bytes that no frame may have: `CONFIG_FRAME_WARN` of a 64-bit kernel.
const LIMIT: u64 = 2048;

/// What a push takes.
const WORD: u64 = 8;

/// Finds the functions of a module whose frame has [`LIMIT`] bytes or more.
///
/// # Errors
///
/// If the module cannot be disassembled.
pub fn check(root: &Root, module: &Path) -> Result<Report> {
    let folder = module.parent().context("the module has no folder")?;
    let name = module.file_name().context("the module has no name")?;
    let object = format!("/src/{}", name.to_string_lossy());
    let mut command = root.script(
        &[(folder, "/src")],
        r#"objdump --disassemble --no-show-raw-insn "$1" | grep -E '>:$|%rsp$|push '"#,
        &[&object],
    );
    let text = output("disassembling the module", &mut command)?;
    let frames = frames(&text);
    let mut report = Report::default();
    if frames.is_empty() {
        report.totals.failed = 1;
        report
            .failures
            .push("stack-frames: no function was found".into());
        return Ok(report);
    }
    let large = frames.iter().filter(|(_, bytes)| *bytes >= LIMIT);
    for (function, bytes) in large {
        report.totals.failed = report.totals.failed.saturating_add(1);
        report
            .failures
            .push(format!("stack-frames: {function} has {bytes} bytes"));
    }
    if report.totals.failed == 0 {
        report.totals.passed = 1;
    }
    Ok(report)
}

/// Each function of a disassembly, and the bytes that it takes on the stack.
fn frames(text: &str) -> Vec<(String, u64)> {
    let mut frames: Vec<(String, u64)> = Vec::new();
    for line in text.lines() {
        let name = line
            .strip_suffix(">:")
            .and_then(|line| line.split_once(" <"));
        if let Some((_, name)) = name {
            frames.push((name.to_owned(), 0));
        } else if let (Some(bytes), Some((_, frame))) = (taken(line), frames.last_mut()) {
            *frame = frame.saturating_add(bytes);
        }
    }
    frames
}

/// The bytes that an instruction takes on the stack: those of every way through a function are
/// added up, which is a little more than the longest.
fn taken(line: &str) -> Option<u64> {
    let (_, instruction) = line.split_once(":\t")?;
    if instruction.starts_with("push ") {
        return Some(WORD);
    }
    let operands = instruction.strip_prefix("sub ")?.trim_start();
    let hexadecimal = operands.strip_prefix("$0x")?.strip_suffix(",%rsp")?;
    u64::from_str_radix(hexadecimal, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_each_function() {
        let text = "\
0000000000000010 <small>:
  10:\tpush   %rbp
  11:\tsub    $0x18,%rsp
0000000000000030 <large>:
  30:\tpush   %rbx
  31:\tsub    $0x800,%rsp
  38:\tadd    $0x800,%rsp
  40:\tsub    $0x8,%rax
";
        let expected = [("small".to_owned(), 32), ("large".to_owned(), 2056)];
        assert_eq!(frames(text), expected);
    }
}
