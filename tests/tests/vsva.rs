// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The example `vsva` of the crate, on the IOMMU in the process.

#[path = "../../user/examples/vsva/story.rs"]
mod story;

use host_iommu_tests::conformance::soft::SoftMachine;

#[test]
fn vsva_runs_on_soft() {
    let mut lines = Vec::new();
    let outcome = story::run(&SoftMachine, &mut |line| lines.push(line));
    assert!(outcome.is_ok(), "{outcome:?} after {lines:#?}");
    assert_eq!(lines.len(), 6);
}
