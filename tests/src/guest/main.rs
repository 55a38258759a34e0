// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `make guest`, on the booted machine: starts the VMM `vmm` with an unmodified kernel and an endpoint
//! passed through, has `guest-agent` do one thing after the other in the guest, and compares what
//! the guest, the VMM, the module and the device saw.
//!
//! `guest [STEP…]` runs all steps, or those of these numbers. With `VMM=qemu` in the environment the
//! VMM is QEMU, with `VMM=shadow` QEMU without the module, which has fewer steps. SECONDS says how long
//! a hostile guest goes on.

mod agent;
mod costs;
mod counts;
mod hostile;
mod qemu;
mod refused;
mod report;
mod steps;
mod takeover;
mod vmm;

use report::Report;
use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let is_there = |step: &u32| match (vmm::is_shadow(), vmm::is_qemu()) {
        (true, _) => steps::OF_SHADOW.contains(step),
        (false, true) => true,
        (false, false) => !steps::OF_QEMU.contains(step),
    };
    let is_wanted = |step: &u32| is_there(step) && (wanted.is_empty() || wanted.contains(step));
    let mut report = Report::default();
    let mut world = steps::World::default();
    for (number, title, step) in steps::STEPS {
        // What follows needs a guest that has booted.
        if number == 1 || is_wanted(&number) {
            report.step(number, title, || step(&mut world));
        }
        // What follows would fail for what is wrong now.
        if !report.is_good() {
            world.show_consoles();
            break;
        }
    }
    drop(world);
    report.end()
}
