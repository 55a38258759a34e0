// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fuzz targets of the crate, for a moment each: `make fuzz-crate` lets them go on, guided.

#[allow(missing_docs, reason = "documented where it is")]
#[path = "../../user/fuzz/src/lib.rs"]
mod targets;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Runs a target on inputs of many lengths; what it asserts must hold.
fn run(target: fn(&[u8])) {
    let config = Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let inputs = prop_oneof![vec(any::<u8>(), 0..64), vec(any::<u8>(), 0..2048)];
    let outcome = TestRunner::new(config).run(&inputs, |data| {
        target(&data);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn unit_survives_any_guest() {
    // One after the other: they have one guest memory.
    run(targets::unit::registers);
    run(targets::unit::descriptors);
    run(targets::unit::tables);
}

#[test]
fn records_of_any_kind_are_answered_once() {
    run(targets::records::records);
}
