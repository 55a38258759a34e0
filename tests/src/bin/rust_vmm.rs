// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate's example `rust_vmm`, the program itself: a device of vfio-ioctls on a container of
//! the module.

use host_iommu_tests::rig::{as_type1, endpoint, fail, program, type1_calls, Outcome};
use std::process::{Command, Output};

fn run() -> Outcome<Output> {
    let device = endpoint(0)?.to_string();
    Ok(Command::new("/demo/rust_vmm").arg(device).output()?)
}

fn vfio_ioctls_device_does_dma_through_the_module() -> Outcome {
    let (output, calls) = as_type1(|| Ok((run()?, type1_calls()?)))?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().count();
    if !output.status.success() || lines != 5 {
        return fail(format!("{output:?}"));
    }
    if calls == 0 {
        return fail("the container was not the module's");
    }
    Ok(())
}

fn vfio_iommu_type1_is_told_from_the_module() -> Outcome {
    let output = run()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(1) && text.contains("type1_compat=1") {
        return Ok(());
    }
    fail(format!("{output:?}"))
}

program![
    vfio_ioctls_device_does_dma_through_the_module,
    vfio_iommu_type1_is_told_from_the_module,
];
