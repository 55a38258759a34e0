// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shared virtual addressing for a guest (vSVA), in one page of code: a process of the guest gives
//! a device its own addresses, and the device's page faults come to the guest.
//!
//! `cargo run --example vsva` runs it on the IOMMU in the process, anywhere. With `--backend kmod`
//! it needs the module `vfio_iommu_ioasid` and an endpoint `pasid-dma-testdev` bound to vfio-pci,
//! as in the machine that `make shell` boots; with `--backend iommufd` a kernel that has iommufd.

mod story;

use host_iommu_tests::conformance::iommufd::IommufdMachine;
use host_iommu_tests::conformance::kmod::KmodMachine;
use host_iommu_tests::conformance::soft::SoftMachine;
use host_iommu_tests::conformance::Machine;
use std::process::ExitCode;

fn machine(arguments: &[String]) -> Option<Box<dyn Machine>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["--backend", "soft"] => Some(Box::new(SoftMachine)),
        ["--backend", "kmod"] => Some(Box::new(KmodMachine)),
        ["--backend", "iommufd"] => Some(Box::new(IommufdMachine)),
        _ => None,
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(machine) = machine(&arguments) else {
        eprintln!("usage: vsva [--backend soft|kmod|iommufd]");
        return ExitCode::from(2);
    };
    match story::run(&*machine, &mut |line| println!("{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            eprintln!("vsva: {stop:?}");
            ExitCode::FAILURE
        }
    }
}
