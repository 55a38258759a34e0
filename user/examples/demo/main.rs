// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's page table bound through the host's IOMMU, end to end.
//!
//! Runs as root in a machine with the module `vfio_iommu_ioasid` and an endpoint
//! `pasid-dma-testdev` that is bound to vfio-pci, and plays VMM and guest at once: each step does
//! one thing, checks what came of it, and says so in a line.
//!
//! The last step unloads the module and loads it again, from the file that the variable
//! `HOST_IOMMU_MODULE` names or from below /lib/modules.

mod dma;
mod exit;
mod faults;
mod report;
mod setup;

use report::{Report, Seen};
use setup::World;
use std::process::ExitCode;

type Step = fn(&mut World) -> Seen;

const STEPS: [(&str, Step); 13] = [
    ("probe capabilities", setup::probe),
    ("map 256 MiB of guest memory", setup::map),
    ("allocate PASIDs", setup::allocate),
    ("build 4-level stage-1 tables in guest memory", setup::build),
    ("bind", setup::bind),
    (
        "DMA by guest virtual address",
        dma::by_guest_virtual_address,
    ),
    ("the same address under a second PASID", dma::second_pasid),
    ("change an entry", dma::change_an_entry),
    ("touch a hole, fill it, answer SUCCESS", faults::fill_a_hole),
    ("touch a hole, answer INVALID", faults::refuse_a_hole),
    (
        "a stage-1 entry that points outside stage 2",
        dma::outside_stage2,
    ),
    ("unbind", dma::unbind),
    ("exit with faults unanswered", exit::with_faults_unanswered),
];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(exit::CHILD) {
        return exit::child();
    }
    let mut report = Report::default();
    let mut world = World::default();
    for (title, step) in STEPS {
        report.step(title, step(&mut world));
    }
    report.end()
}
