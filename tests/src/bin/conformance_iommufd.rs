// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The suite that every backend of the crate passes, on the kernel's iommufd.

use host_iommu_tests::conformance::iommufd::IommufdMachine;
use host_iommu_tests::conformance::{self, Machine};
use host_iommu_tests::each_conformance_test;
use host_iommu_tests::ktap::{self, Outcome, Test};
use std::process::ExitCode;

const MACHINE: &dyn Machine = &IommufdMachine;

macro_rules! on_iommufd {
    ($($module:ident: $test:ident),+ $(,)?) => {
        $(fn $test() -> Outcome {
            conformance::run(MACHINE, stringify!($test), conformance::$module::$test)
        })+

        const TESTS: &[Test] = &[$(Test { name: stringify!($test), run: $test }),+];
    };
}
each_conformance_test!(on_iommufd);

fn main() -> ExitCode {
    ktap::main(TESTS)
}
