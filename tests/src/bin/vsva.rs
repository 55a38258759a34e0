// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The example `vsva` of the crate, on the module and without it.

use host_iommu_tests::ktap::Outcome;
use host_iommu_tests::{suite, vsva};

fn vsva_runs_on_kmod() -> Outcome {
    vsva::run("kmod")
}

fn vsva_runs_on_soft() -> Outcome {
    vsva::run("soft")
}

suite![vsva_runs_on_kmod, vsva_runs_on_soft];
