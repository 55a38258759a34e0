// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The suite that every backend of the crate passes, on the one in the process.

use host_iommu_tests::conformance::soft::SoftMachine;
use host_iommu_tests::conformance::{self, DIFFERENCES};
use host_iommu_tests::each_conformance_test;
use host_iommu_tests::ktap::{fail, Stop};

macro_rules! on_soft {
    ($($module:ident: $test:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            let name = stringify!($test);
            match conformance::run(&SoftMachine, name, conformance::$module::$test) {
                Ok(()) => {}
                // It has everything: nothing is skipped.
                Err(Stop::Skip(reason) | Stop::Fail(reason)) => panic!("{reason}"),
            }
        })+

        const NAMES: &[&str] = &[$(stringify!($test)),+];
    };
}
each_conformance_test!(on_soft);

#[test]
fn differences_name_tests_of_the_suite() {
    for row in &DIFFERENCES {
        assert!(NAMES.contains(&row.test), "{}", row.test);
        let backends = ["soft", "kmod", "iommufd"];
        assert!(backends.contains(&row.backend), "{}", row.backend);
    }
}

#[test]
fn differences_are_checked_both_ways() {
    let row = |backend: &str| {
        let row = DIFFERENCES.iter().find(|row| row.backend == backend);
        row.expect("a difference")
    };

    let listed = row("soft");
    let run = |name, test| conformance::run(&SoftMachine, name, test);
    assert!(run(listed.test, |_| Ok(())).is_err(), "it passes");
    assert!(run(listed.test, |_| fail("otherwise")).is_err());
    assert!(run(listed.test, |_| fail("no POLLHUP")).is_ok());
    // The other backend's rows are not for this one.
    assert!(run(row("kmod").test, |_| Ok(())).is_ok());
    assert!(run(row("kmod").test, |_| fail("EOPNOTSUPP")).is_err());
}
