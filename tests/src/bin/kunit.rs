// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The module's own KUnit suites (kmod/kunit), which the kernel runs when the module is loaded. What
//! it says of them stands in its log.

use host_iommu_tests::rig::{fail, load_module, program, skip, unload_module, KernelLog, Outcome};
use std::collections::BTreeMap;
use std::path::Path;

/// Results of a suite by the names of its tests.
type Results = BTreeMap<String, bool>;

/// Loads the module, and reads what its suite `wanted` said.
fn suite(wanted: &str) -> Outcome {
    if !Path::new("/sys/module/kunit").exists() {
        return skip("the kernel has no KUnit");
    }
    unload_module()?;
    let mut log = KernelLog::from_now()?;
    load_module("")?;
    let mut results = Results::new();
    let mut inside = false;
    for record in log.lines_with(&["ok ", "# Subtest: "])? {
        // Each record: priority, number, time; the text; and what belongs to the line.
        let text = record.split_once(';').map_or("", |(_, text)| text);
        let line = text.lines().next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix("# Subtest: ") {
            inside = name == wanted;
        } else if let Some((name, passed)) = result(line).filter(|_| inside) {
            if name == wanted {
                inside = false;
            } else {
                results.insert(name.to_owned(), passed);
            }
        }
    }
    println!("# {wanted}: {results:?}");
    match results.values().filter(|&&passed| !passed).count() {
        _ if results.is_empty() => fail(format!("{wanted} did not run")),
        0 => Ok(()),
        failed => fail(format!("{failed} of {} failed: {results:?}", results.len())),
    }
}

/// The name in a result line of KTAP, and whether it passed.
fn result(line: &str) -> Option<(&str, bool)> {
    let (rest, passed) = match line.strip_prefix("not ok ") {
        Some(rest) => (rest, false),
        None => (line.strip_prefix("ok ")?, true),
    };
    let (number, name) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    Some((name.split(" #").next()?.trim(), passed))
}

fn ranges_of_addresses() -> Outcome {
    suite("ioasid_ranges")
}

fn collections() -> Outcome {
    suite("ioasid_collections")
}

fn what_users_may_have() -> Outcome {
    suite("ioasid_budget")
}

fn list_of_bindings() -> Outcome {
    suite("ioasid_bindings")
}

fn state_of_a_fault_queue() -> Outcome {
    suite("ioasid_fault_queue")
}

program![
    ranges_of_addresses,
    collections,
    what_users_may_have,
    list_of_bindings,
    state_of_a_fault_queue,
];
