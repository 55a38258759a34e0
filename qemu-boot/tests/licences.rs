// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every crate that Cargo.lock names has a licence that .ci/deny.toml allows, and comes from crates.io.

use serde_json::Value;
use spdx::{Expression, ParseMode};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn top() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it")).join("..")
}

/// What `deny.toml` allows.
struct Allowed {
    all: Vec<String>,
    /// A crate, and what it may have besides.
    exceptions: Vec<(String, Vec<String>)>,
}

impl Allowed {
    fn read(text: &str) -> Self {
        let deny: toml::Value = toml::from_str(text).expect("deny.toml is TOML");
        let names = |table: &toml::Value| -> Vec<String> {
            let allow = table["allow"].as_array().expect("a list");
            let names = allow.iter().filter_map(|name| name.as_str());
            names.map(str::to_owned).collect()
        };
        let licenses = &deny["licenses"];
        let exceptions = licenses["exceptions"].as_array().expect("a list").iter();
        let exception = |table: &toml::Value| {
            let name = table["crate"].as_str().expect("a name");
            (name.to_owned(), names(table))
        };
        Self {
            all: names(licenses),
            exceptions: exceptions.map(exception).collect(),
        }
    }

    /// What is wrong with a crate of that licence, if something is.
    fn objection(&self, name: &str, license: Option<&str>) -> Option<String> {
        let Some(license) = license else {
            return Some(format!("{name} names no licence"));
        };
        let Ok(expression) = Expression::parse_mode(license, ParseMode::LAX) else {
            return Some(format!("{name}: no licence that is known: {license}"));
        };
        let mut others = self.exceptions.iter().filter(|(of, _)| of == name);
        let besides = others.next().map_or(&[][..], |(_, names)| names);
        let is_allowed = expression.evaluate(|wanted| {
            let id = wanted.license.id().map(|id| id.name);
            id.is_some_and(|id| self.all.iter().chain(besides).any(|allowed| allowed == id))
        });
        (!is_allowed).then(|| format!("{name}: {license} is not allowed"))
    }
}

/// The packages of the workspace and all that they need, as cargo has them on this machine.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").expect("cargo runs it");
    let output = Command::new(cargo)
        .current_dir(top())
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .expect("cargo can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    packages.clone()
}

#[test]
fn crates_have_licences_that_are_allowed() {
    let deny = fs::read_to_string(top().join(".ci/deny.toml")).expect("deny.toml");
    let allowed = Allowed::read(&deny);
    let packages = packages();
    assert!(packages.len() > 50, "{} crates", packages.len());
    let objections: Vec<_> = packages
        .iter()
        .filter_map(|package| {
            let name = package["name"].as_str().expect("a name");
            allowed.objection(name, package["license"].as_str())
        })
        .collect();
    assert!(objections.is_empty(), "{objections:#?}");
}

#[test]
fn crates_come_from_one_registry() {
    for package in packages() {
        let source = package["source"].as_str();
        let is_registry = |source: &str| source.starts_with("registry+");
        assert!(source.is_none_or(is_registry), "{source:?}");
    }
}

#[test]
fn licence_that_is_not_allowed_is_named() {
    let text =
        "[licenses]\nallow = [\"MIT\"]\nexceptions = [{ crate = \"x\", allow = [\"Zlib\"] }]";
    let allowed = Allowed::read(text);
    assert_eq!(allowed.objection("a", Some("MIT/Apache-2.0")), None);
    assert_eq!(allowed.objection("x", Some("MIT AND Zlib")), None);
    for license in ["MIT AND Zlib", "GPL-3.0-only", "my own"] {
        let objection = allowed.objection("a", Some(license));
        assert!(objection.is_some_and(|text| text.contains(license)));
    }
    assert!(allowed.objection("a", None).is_some());
}
