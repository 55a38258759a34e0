// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The book of `docs`, made by mdbook, and a look at every link of its pages.
//!
//! On the pages, links lead to files of the repository too. Those are not in the book: there the
//! link's text alone stays.

use crate::command::output;
use crate::setup::Setup;
use crate::stages::{build_root, mdbook};
use anyhow::{bail, ensure, Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Makes the book in `target/book`.
///
/// # Errors
///
/// If mdbook does, or a link of a page leads nowhere: names all of them.
pub fn make(setup: &Setup) -> Result<()> {
    let root = build_root::make(setup)?;
    let tool = mdbook::make(setup, &root)?;
    let run = setup.cache.run_folder()?;
    let source = run.path().join("docs");
    copy(&setup.repo.join("docs"), &source, Path::new(""))?;
    let made = run.path().join("book");
    fs::create_dir(&made).context("cannot make a folder for the book")?;
    let binds: [(&Path, &str); 3] = [
        (&tool, mdbook::TOOL),
        (&source, "/book-source"),
        (&made, "/book"),
    ];
    let program = [mdbook::PROGRAM, "build", "-d", "/book", "/book-source"];
    output("mdbook build", &mut root.command(&binds, program))?;
    let pages = check(&made)?;
    let kept = setup.repo.join("target/book");
    if kept.exists() {
        fs::remove_dir_all(&kept).with_context(|| format!("cannot remove {}", kept.display()))?;
    }
    copy_all(&made, &kept)?;
    println!("{} pages: {}/index.html", pages, kept.display());
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<Result<_, _>>().with_context(failed)
}

/// Copies a folder.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for path in entries(from)? {
        let name = path.file_name().unwrap_or_default();
        let into = to.join(name);
        match path.is_dir() {
            true => copy_all(&path, &into)?,
            false => {
                fs::copy(&path, &into)
                    .with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Copies the book's sources; `inside` is where `from` is in them.
fn copy(from: &Path, to: &Path, inside: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for path in entries(from)? {
        let name = path.file_name().unwrap_or_default();
        let into = to.join(name);
        let is_page = path.extension().is_some_and(|ending| ending == "md");
        let copied = match (path.is_dir(), is_page) {
            (true, _) => {
                copy(&path, &into, &inside.join(name))?;
                continue;
            }
            (false, true) => {
                fs::read_to_string(&path).and_then(|text| fs::write(&into, within(&text, inside)))
            }
            (false, false) => fs::copy(&path, &into).map(|_| ()),
        };
        copied.with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

/// Whether a link from a page in the folder `inside` stays in the book.
fn stays(link: &str, inside: &Path) -> bool {
    let mut depth = 0_usize;
    for part in inside.join(link).components() {
        match part {
            Component::ParentDir if depth == 0 => return false,
            Component::ParentDir => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

/// A page without the links that leave the book: `[text](../file)` becomes its text.
fn within(text: &str, inside: &Path) -> String {
    let mut page = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (link, behind) = after.split_once(')').unwrap_or((after, ""));
        let file = link.split('#').next().unwrap_or_default();
        let leaves = !link.contains("://") && !stays(file, inside);
        match (leaves, before.rfind('[')) {
            (true, Some(bracket)) => {
                page += before.get(..bracket).unwrap_or_default();
                page += before.get(bracket + 1..).unwrap_or_default();
            }
            _ => {
                page += before;
                page += "](";
                page += link;
                page += ")";
            }
        }
        rest = behind;
    }
    page + rest
}

/// Values of an attribute of the elements that a page has of those kinds; of all if none is given.
fn values<'a>(page: &'a str, elements: &[&str], attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    let is_one = |text: &&str| {
        let name = text.split([' ', '>']).next().unwrap_or_default();
        elements.is_empty() || elements.contains(&name)
    };
    let found = page.split('<').filter(is_one);
    found
        .filter_map(|element| element.split('>').next()?.split(start.as_str()).nth(1))
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

/// What a page leads to and shows. Scripts and fonts are the theme's, and Debian leaves some out.
fn links_of(page: &str) -> impl Iterator<Item = &str> {
    let links = values(page, &["a"], "href");
    links.into_iter().chain(values(page, &["img"], "src"))
}

/// Looks at the links of every page; gives how many pages there are.
fn check(book: &Path) -> Result<usize> {
    let mut pages = Vec::new();
    let mut folders = vec![book.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "html") {
                pages.push(path);
            }
        }
    }
    let mut broken = BTreeSet::new();
    let mut links = 0_usize;
    for page in &pages {
        // These two are the whole book once more, and what a server shows in a page's place.
        if page.ends_with("print.html") || page.ends_with("404.html") {
            continue;
        }
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let text = read(page)?;
        for link in links_of(&text) {
            if link.contains(':') || link.is_empty() {
                continue;
            }
            links += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap_or(book).join(file),
            };
            let found = target.exists()
                && (heading.is_empty() || values(&read(&target)?, &[], "id").contains(&heading));
            if !found {
                let page = page.strip_prefix(book).unwrap_or(page);
                broken.insert(format!("{}: {link}", page.display()));
            }
        }
    }
    if !broken.is_empty() {
        let all: Vec<_> = broken.into_iter().collect();
        bail!(
            "links of the book that lead nowhere:\n  {}",
            all.join("\n  ")
        );
    }
    ensure!(links > pages.len(), "the pages have no links: {links}");
    Ok(pages.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_leave_the_book_are_their_text() {
        let text = "See [the header](../bindings/a.h), [memory](memory.md#x) and [`x`](../../x).";
        assert_eq!(
            within(text, Path::new("")),
            "See the header, [memory](memory.md#x) and `x`."
        );
        assert_eq!(
            within("[a](../vfio.md) [b](../../b)", Path::new("design")),
            "[a](../vfio.md) b"
        );
    }

    #[test]
    fn link_that_leads_nowhere_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("writable");
        };
        write(
            "a.html",
            "<a href=\"b.html#there\">b</a> <a href=\"b.html\">b</a> <a href=\"a.html\">",
        );
        write("b.html", "<h1 id=\"there\">x</h1>");
        assert_eq!(check(dir.path()).expect("no broken link"), 2);
        write(
            "b.html",
            "<h1 id=\"elsewhere\">x</h1><a href=\"gone.html\">",
        );
        let error = check(dir.path()).expect_err("two broken links").to_string();
        assert!(error.contains("a.html: b.html#there"), "{error}");
        assert!(error.contains("b.html: gone.html"), "{error}");
    }
}
