// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The example `vsva` of the crate, on the module.

#[path = "../../../user/examples/vsva/story.rs"]
mod story;

use host_iommu_tests::conformance::kmod::KmodMachine;
use host_iommu_tests::ktap::Outcome;
use host_iommu_tests::suite;

fn vsva_runs_on_kmod() -> Outcome {
    story::run(&KmodMachine, &mut |line| println!("# {line}"))
}

suite![vsva_runs_on_kmod];
