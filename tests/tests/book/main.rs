// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the book in `docs` says is what the sources say: errors of calls, lines of the kernel's log,
//! excerpts of programs, figures.
//!
//! `HOST_IOMMU_WRITE_FIGURES=1 cargo test --test book pictures` draws the figures anew.

mod figure;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn repo() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it")).join("..")
}

fn read(path: &str) -> String {
    let path = repo().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder with that ending.
fn files(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, ending, into);
        } else if path.extension().is_some_and(|found| found == ending) {
            into.push(path);
        }
    }
}

/// Names of errors in a text: EINVAL and the like.
fn errors(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit())
        .filter(|word| word.len() >= 3 && word.starts_with('E'))
        .filter(|word| KNOWN.contains(word))
        .map(str::to_owned)
        .collect()
}

/// The errors that a call may return.
const KNOWN: [&str; 20] = [
    "EAGAIN",
    "EBADF",
    "EBUSY",
    "EDQUOT",
    "EEXIST",
    "EFAULT",
    "EINTR",
    "EINVAL",
    "EIO",
    "EMFILE",
    "ENODEV",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "ENOTTY",
    "EOPNOTSUPP",
    "EPERM",
    "ESRCH",
    "E2BIG",
    "ERANGE",
];

/// Pairs of call and error that the header names; `any` stands for what holds for all calls.
fn of_header() -> BTreeSet<(String, String)> {
    let header = read("bindings/uapi/linux/vfio_ioasid.h");
    let mut pairs = BTreeSet::new();
    for comment in header.split("/*").skip(1) {
        let comment = comment.split("*/").next().unwrap_or_default();
        let calls: Vec<String> = match comment.contains("errno of all calls") {
            true => vec!["any".to_owned()],
            false => {
                let first = comment.lines().take(2).collect::<String>();
                let Some(calls) = first.split("ioctl(").nth(1) else {
                    continue;
                };
                let calls = calls.split(')').next().unwrap_or_default();
                let names = calls.split(',').map(str::trim);
                names
                    .filter_map(|name| name.strip_prefix("VFIO_IOASID_"))
                    .map(str::to_owned)
                    .collect()
            }
        };
        for call in &calls {
            for error in errors(comment) {
                // Each of two calls that share a comment has some of its errors.
                pairs.insert((call.clone(), error));
            }
        }
    }
    pairs
}

#[test]
fn troubleshooting_has_each_error_of_each_call() {
    let page = read("docs/troubleshooting.md");
    let mut written = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [calls, error, cause, cure] = cells[..] else {
            continue;
        };
        if errors(error).len() != 1 {
            continue;
        }
        assert!(!cause.is_empty() && !cure.is_empty(), "{row}");
        for call in calls.split(", ") {
            let call = match call {
                "read of a fault fd" | "write to a fault fd" => "FAULT_QUEUE",
                call => call,
            };
            written.insert((call.to_owned(), error.to_owned()));
        }
    }
    let header = of_header();
    assert!(header.len() > 40, "{header:?}");
    // AS_UNMAP shares a comment with AS_MAP: its errors are those of AS_MAP without what maps.
    let only_as_map = ["EDQUOT", "EEXIST", "EFAULT", "EPERM"];
    let missing: Vec<_> = header
        .difference(&written)
        .filter(|(call, error)| call != "AS_UNMAP" || !only_as_map.contains(&&**error))
        .collect();
    assert!(missing.is_empty(), "not in the page: {missing:?}");
}

/// The texts of the module's lines in the kernel's log.
fn log_lines() -> Vec<String> {
    let mut sources = Vec::new();
    for ending in ["rs", "c", "h"] {
        files(&repo().join("kmod"), ending, &mut sources);
    }
    let mut lines = Vec::new();
    for source in sources {
        let text = fs::read_to_string(&source).expect("readable");
        for prints in ["pr_", "dev_", "pci_"] {
            for level in [
                "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
            ] {
                let called = [format!("{prints}{level}!("), format!("{prints}{level}(")];
                for call in called {
                    for rest in text.split(call.as_str()).skip(1) {
                        let line = rest.split('"').nth(1).unwrap_or_default();
                        lines.push(line.trim_end_matches("\\n").to_owned());
                    }
                }
            }
        }
    }
    lines
}

#[test]
fn troubleshooting_has_each_line_of_the_log() {
    let page = read("docs/troubleshooting.md");
    let lines = log_lines();
    assert!(lines.len() >= 3, "{lines:?}");
    for line in lines {
        assert!(page.contains(&format!("| `{line}` |")), "{line:?}");
    }
}

/// The lines of a program, without what indents them.
fn trimmed(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

#[test]
fn excerpts_are_from_programs_that_are_compiled() {
    let mut excerpts = 0;
    for page in ["docs/vmm.md", "docs/c.md"] {
        let text = read(page);
        let mut blocks = text.split("\n```");
        let mut before = blocks.next().unwrap_or_default();
        while let (Some(block), after) = (blocks.next(), blocks.next()) {
            let from = before.trim_end().lines().next_back().unwrap_or_default();
            let source = from
                .strip_prefix("<!-- from ")
                .and_then(|from| from.strip_suffix(" -->"))
                .unwrap_or_else(|| panic!("{page}: a block without its source: {block}"));
            let program = read(source);
            let program = trimmed(&program);
            // The rest of the fence's own line is the language.
            let wanted = trimmed(block.split_once('\n').map_or("", |(_, code)| code));
            let found = program.windows(wanted.len()).any(|lines| lines == wanted);
            assert!(found, "{page}: not in {source}:\n{block}");
            excerpts += 1;
            before = after.unwrap_or_default();
        }
    }
    assert!(excerpts >= 20, "{excerpts} excerpts");
}

#[test]
fn pictures_are_of_their_texts() {
    let mut texts = Vec::new();
    files(&repo().join("docs/figures"), "txt", &mut texts);
    assert!(texts.len() >= 4, "{texts:?}");
    for path in texts {
        let drawn = figure::picture(&fs::read_to_string(&path).expect("readable"));
        let kept = path.with_extension("svg");
        if std::env::var_os("HOST_IOMMU_WRITE_FIGURES").is_some() {
            fs::write(&kept, &drawn).expect("writable");
        }
        let there = fs::read_to_string(&kept).unwrap_or_default();
        assert!(there == drawn, "{} is not of its text", kept.display());
    }
}
