// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The suite that every backend of the crate passes, on the module.

use host_iommu_tests::conformance::kmod::KmodMachine;
use host_iommu_tests::conformance::{self, Machine};
use host_iommu_tests::each_conformance_test;
use host_iommu_tests::ktap::{self, Outcome, Test};
use std::process::ExitCode;

const MACHINE: &dyn Machine = &KmodMachine;

macro_rules! on_kmod {
    ($($module:ident: $test:ident),+ $(,)?) => {
        $(fn $test() -> Outcome {
            conformance::run(MACHINE, stringify!($test), conformance::$module::$test)
        })+

        const TESTS: &[Test] = &[$(Test { name: stringify!($test), run: $test }),+];
    };
}
each_conformance_test!(on_kmod);

fn main() -> ExitCode {
    ktap::main(TESTS)
}
