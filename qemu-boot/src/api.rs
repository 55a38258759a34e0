// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The interface of the crate `host-iommu`, listed: a change of it is seen in review, and nothing
//! changes unseen.
//!
//! The list is read from rustdoc's pages, which any stable toolchain makes. rustdoc's JSON would want
//! a reader for each version of the toolchain.

use anyhow::{bail, ensure, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The list, below the repository.
const LIST: &str = "user/api.txt";

/// What stands at its top.
const HEAD: &str = "\
# The interface of the crate host-iommu with all features: an item with its declaration, then its
# methods and the traits that it implements. `make api` compares it with rustdoc's pages, and
# `make api WRITE=1` writes it anew.
";

/// Compares the list with the pages in `target/doc`, or writes it.
///
/// # Errors
///
/// If they differ, with the lines that do.
pub fn check(repo: &Path, write: bool) -> Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| repo.join("target"));
    let pages = target.join("doc/host_iommu");
    let mut lines = Vec::new();
    items(&pages, "host_iommu", &mut lines)?;
    ensure!(
        lines.len() > 100,
        "{} has {} items: run it by make api",
        pages.display(),
        lines.len()
    );
    let text = format!("{HEAD}{}\n", lines.join("\n"));
    let path = repo.join(LIST);
    if write {
        fs::write(&path, &text).with_context(|| format!("cannot write {LIST}"))?;
    }
    let kept = fs::read_to_string(&path).with_context(|| format!("cannot read {LIST}"))?;
    let only = |of: &str, other: &str, mark: char| -> Vec<String> {
        let other: std::collections::BTreeSet<&str> = other.lines().collect();
        let lines = of.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("{mark} {line}")).collect()
    };
    let differs = [only(&kept, &text, '-'), only(&text, &kept, '+')].concat();
    if kept != text {
        bail!(
            "the interface of host-iommu is not what {LIST} says:\n{}\nIf that is meant, run make api \
             WRITE=1, and say it in user/CHANGELOG.md. A line that goes or changes breaks programs: \
             it needs a new version.",
            differs.join("\n")
        );
    }
    println!("api: {} lines, as {LIST} has them", lines.len());
    Ok(())
}

/// The items on the pages of a module's folder, in the order of their names.
fn items(folder: &Path, module: &str, lines: &mut Vec<String>) -> Result<()> {
    let failed = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().with_context(failed)?;
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            items(&path, &format!("{module}::{name}"), lines)?;
            continue;
        }
        // As `struct.HostIommu.html`.
        let mut parts = name.split('.');
        let (Some(kind), Some(item), Some("html"), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let page = fs::read_to_string(&path);
        let page = page.with_context(|| format!("cannot read {}", path.display()))?;
        lines.extend(page_lines(&page, &format!("{module}::{item}"), kind));
    }
    Ok(())
}

/// What a page says of its item.
fn page_lines(page: &str, item: &str, kind: &str) -> Vec<String> {
    let Some(declaration) = between(page, "<pre class=\"rust item-decl\">", "</pre>") else {
        // It leads to where the item is public.
        return Vec::new();
    };
    // Whether what is private has names is nobody's business.
    let declaration =
        text(declaration).replace("(/* private fields */);", " { /* private fields */ }");
    let mut lines = vec![format!("{item}: {declaration}")];
    let (own, rest) = split(page, "<h2 id=\"trait-implementations\"");
    // What every type has is no part of the interface.
    let (traits, _) = split(rest, "<h2 id=\"synthetic-implementations\"");
    let (traits, _) = split(traits, "<h2 id=\"blanket-implementations\"");
    // What a trait has is in its declaration.
    if kind != "trait" {
        for id in ["method.", "associatedconstant."] {
            lines.extend(headings(own, id, "h4").map(|found| format!("{item}: {found}")));
        }
    }
    let mut implemented: Vec<_> = headings(traits, "impl-", "h3").collect();
    // The compiler's own, which comes with PartialEq.
    implemented.retain(|found| !found.contains(" StructuralPartialEq for "));
    implemented.sort();
    lines.extend(
        implemented
            .into_iter()
            .map(|found| format!("{item}: {found}")),
    );
    lines
}

/// The headings of the sections whose name begins so.
fn headings<'a>(page: &'a str, id: &str, heading: &'a str) -> impl Iterator<Item = String> + 'a {
    let start = format!("<section id=\"{id}");
    let sections: Vec<&str> = page.split(start.as_str()).skip(1).collect();
    sections.into_iter().filter_map(move |section| {
        let open = format!("<{heading} class=\"code-header\">");
        between(section, &open, &format!("</{heading}>")).map(text)
    })
}

fn split<'a>(text: &'a str, mark: &str) -> (&'a str, &'a str) {
    text.find(mark).map_or((text, ""), |at| text.split_at(at))
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?
        .1
        .split_once(close)
        .map(|found| found.0)
}

/// The words of a piece of HTML, in one line.
fn text(html: &str) -> String {
    let mut plain = String::with_capacity(html.len());
    let mut rest = html;
    while let Some((before, after)) = rest.split_once('<') {
        plain.push_str(before);
        // `Show 14 fields`, which hides what follows.
        let after = match after.starts_with("summary") {
            true => after.split_once("</summary").map_or("", |found| found.1),
            false => after,
        };
        let Some((tag, behind)) = after.split_once('>') else {
            break;
        };
        if tag.starts_with("div") || tag.starts_with("/div") {
            plain.push(' ');
        }
        rest = behind;
    }
    plain.push_str(rest);
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ] {
        plain = plain.replace(entity, character);
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r##"<pre class="rust item-decl"><code><div class="code-attribute">#[non_exhaustive]</div>pub struct S&lt;'a&gt; {
    pub f: <a href="u32.html">u32</a>,
<details><summary class="hideme"><span>Show 2 fields</span></summary>    pub g: u8,
</details>}</code></pre>
<section id="method.m" class="method"><a href="x">Source</a><h4 class="code-header">pub fn <a href="#method.m">m</a>(&amp;self) -&gt; u32<div class="where">where S: Send</div></h4></section>
<h2 id="trait-implementations" class="section-header">Trait Implementations</h2>
<section id="impl-Debug-for-S" class="impl"><h3 class="code-header">impl Debug for S</h3></section>
<section id="method.fmt" class="method trait-impl"><h4 class="code-header">fn fmt(&amp;self)</h4></section>
<section id="impl-Clone-for-S" class="impl"><h3 class="code-header">impl Clone for S</h3></section>
<h2 id="synthetic-implementations">Auto Trait Implementations</h2>
<section id="impl-Send-for-S" class="impl"><h3 class="code-header">impl Send for S</h3></section>"##;

    #[test]
    fn page_becomes_lines() {
        assert_eq!(
            page_lines(PAGE, "x::S", "struct"),
            [
                "x::S: #[non_exhaustive] pub struct S<'a> { pub f: u32, pub g: u8, }",
                "x::S: pub fn m(&self) -> u32 where S: Send",
                "x::S: impl Clone for S",
                "x::S: impl Debug for S",
            ]
        );
    }
}
