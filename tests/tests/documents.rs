// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the documents say of the test programs is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .expect("cargo runs it")
        .into()
}

fn read(path: &str) -> String {
    let path = folder().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn programs() -> BTreeSet<String> {
    let folder = folder().join("src/bin");
    let entries = fs::read_dir(folder).expect("the programs");
    entries
        .map(|entry| entry.expect("a program").path())
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

#[test]
fn readme_lists_every_program_and_no_other() {
    let listed: BTreeSet<String> = read("README.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != "program")
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, programs());
}

#[test]
fn security_names_tests_that_are_there() {
    let text = read("../SECURITY.md");
    let mut named = 0;
    for word in text.split('`').skip(1).step_by(2) {
        let Some((program, case)) = word.split_once(": ") else {
            continue;
        };
        assert!(programs().contains(program), "no program {program}");
        let case = case.trim_end_matches('…');
        let source = read(&format!("src/bin/{program}.rs"));
        assert!(source.contains(case), "{program} has no {case}");
        named += 1;
    }
    assert!(named > 20, "{named}");
}

/// The files below a folder with that ending, without what cargo built.
fn files(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, ending, into);
        } else if path
            .extension()
            .is_some_and(|extension| extension == ending)
        {
            into.push(path);
        }
    }
}

#[test]
fn no_program_has_the_path_of_its_checkout_compiled_in() {
    // Built in one checkout, it would read another one's files after a move or a copy, and where
    // two share a target folder. At run time cargo says the path.
    let compiled_in = concat!("env!(", "\"CARGO_MANIFEST_DIR");
    let mut all = Vec::new();
    files(&folder().join(".."), "rs", &mut all);
    assert!(all.len() > 300, "{} sources", all.len());
    for path in all {
        let text = fs::read_to_string(&path).expect("readable");
        assert!(!text.contains(compiled_in), "{}", path.display());
    }
}

/// The name that a heading is linked by.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    heading
        .to_lowercase()
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut all = Vec::new();
    files(&folder().join(".."), "md", &mut all);
    let mut links = 0;
    for document in all {
        let text = fs::read_to_string(&document).expect("readable");
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            // rustdoc looks at its own.
            if link.contains("://") || link.contains("::") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().expect("a folder").join(file),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("readable");
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found =
                    headings.any(|line| anchor(line.trim_start_matches('#').trim()) == heading);
                assert!(found, "{}: {link}", document.display());
            }
            links += 1;
        }
    }
    assert!(links > 30, "{links} links");
}

/// Longest line of prose, in characters.
const LINE: usize = 100;

/// Lines of prose in a document: not of a table, a block of code or a picture, and not one long link.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        if line.trim_start().starts_with("```") {
            code = !code;
            return None;
        }
        let kept = !code
            && !line.starts_with("    ")
            && !line.starts_with(['|', '<', '!'])
            && line.trim().contains(' ');
        kept.then_some((number + 1, line))
    })
}

#[test]
fn no_line_of_prose_is_long() {
    let mut all = Vec::new();
    files(&folder().join(".."), "md", &mut all);
    let mut long = Vec::new();
    for document in all {
        let text = fs::read_to_string(&document).expect("readable");
        for (number, line) in prose(&text) {
            if line.chars().count() > LINE {
                long.push(format!("{}:{number}", document.display()));
            }
        }
    }
    assert!(long.is_empty(), "over {LINE} characters: {long:#?}");
}

#[test]
fn book_lists_every_page_and_no_other() {
    let book = folder().join("../docs");
    let summary = fs::read_to_string(book.join("SUMMARY.md")).expect("readable");
    let listed: BTreeSet<PathBuf> = summary
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|page| book.join(page))
        .collect();
    let mut pages = Vec::new();
    files(&book, "md", &mut pages);
    let pages: BTreeSet<PathBuf> = pages
        .into_iter()
        .filter(|page| !page.ends_with("SUMMARY.md"))
        .collect();
    assert_eq!(listed, pages);
}
