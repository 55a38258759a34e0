// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu doctor` on machines that nest and that do not, with and without the module.

use host_iommu_tests::rig::{
    fail, load_module, program, unload_module, wait_for_module_references, Outcome, Rig,
};
use host_iommu_tests::vfio::endpoints;
use std::process::{Command, Output};

const PROGRAM: &str = "/bin/hostiommu";

fn doctor(arguments: &[&str]) -> Outcome<Output> {
    let mut command = Command::new(PROGRAM);
    Ok(command.arg("doctor").args(arguments).output()?)
}

/// What it prints, if it ends with that status.
fn said(arguments: &[&str], status: i32) -> Outcome<String> {
    let output = doctor(arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() == Some(status) && output.stderr.is_empty() {
        true => Ok(text),
        false => fail(format!("{arguments:?}: {output:?}")),
    }
}

/// Whether this machine's hardware nests, as the module has it.
fn nests() -> Outcome<bool> {
    let rig = Rig::open_device()?;
    Ok(rig.caps.vtd_ecap & (1 << 26) != 0 && rig.caps.vtd_ecap & (1 << 43) != 0)
}

fn endpoint() -> String {
    endpoints()[0].to_string()
}

fn doctor_agrees_with_the_module_about_the_machine() -> Outcome {
    let nests = nests()?;
    wait_for_module_references(0)?;
    let text = said(&[&endpoint()], if nests { 0 } else { 2 })?;
    let unit = match nests {
        true => "     ok  IOMMU unit dmar0: nests, PASIDs of 20 bits, page requests\n",
        false => "    bad  IOMMU unit dmar0: cannot nest: ECAP ",
    };
    for wanted in [
        unit,
        "     ok  module: loaded, ",
        "     ok  PASID: 20 bits\n",
        "     ok  page requests: ATS and PRI\n",
        ": the device is alone in it\n",
        "     ok  driver: vfio-pci\n",
        "     ok  access: /dev/vfio/",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    for line in text.lines() {
        println!("# {line}");
    }
    Ok(())
}

fn device_that_is_not_there_is_told() -> Outcome {
    let text = said(&["0000:7f:1f.7"], 2)?;
    assert!(text.contains("there is no such device"), "{text}");
    Ok(())
}

fn doctor_works_without_the_module() -> Outcome {
    wait_for_module_references(0)?;
    unload_module()?;
    let said = said(&["--json"], 2);
    load_module("")?;
    let said = said?;
    for wanted in [
        "\"subject\": \"module\"",
        "\"state\": \"bad\"",
        "make install",
    ] {
        assert!(said.contains(wanted), "{wanted:?} in {said}");
    }
    Ok(())
}

program![
    doctor_agrees_with_the_module_about_the_machine,
    device_that_is_not_there_is_told,
    doctor_works_without_the_module,
];
