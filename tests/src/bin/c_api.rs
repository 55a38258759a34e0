// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The example of the C API, the program itself, on the module and on the IOMMU in the process.

use host_iommu_tests::rig::{endpoint, fail, program, Outcome};
use std::process::Command;

/// Steps that it tells of.
const STEPS: usize = 13;

fn run(arguments: &[&str]) -> Outcome {
    let output = Command::new("/demo/demo_c").args(arguments).output()?;
    let steps = String::from_utf8_lossy(&output.stdout).lines().count();
    if output.status.success() && steps == STEPS {
        return Ok(());
    }
    fail(format!("{output:?}"))
}

fn c_demo_does_dma_through_the_module() -> Outcome {
    run(&["kmod", &endpoint(0)?.to_string()])
}

fn c_demo_runs_on_soft() -> Outcome {
    run(&["soft"])
}

fn c_demo_without_the_device_says_what_failed() -> Outcome {
    let output = Command::new("/demo/demo_c")
        .args(["kmod", "0000:00:1f.7"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(1) && text.contains("IOMMU group of 0000:00:1f.7: No such") {
        return Ok(());
    }
    fail(format!("{output:?}"))
}

program![
    c_demo_does_dma_through_the_module,
    c_demo_runs_on_soft,
    c_demo_without_the_device_says_what_failed,
];
