// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest's operations cost on the host: exits of its CPUs to the VMM, and what the module
//! is asked for. An operation is done many times, and what the same command costs without it is taken off.

use crate::counts::container;
use crate::steps::World;
use crate::vmm;
use host_iommu_tests::ktap::{fail, Outcome, Stop};

/// An operation.
struct Row {
    name: &'static str,
    /// What the agent is told without it, and with it.
    without: &'static str,
    with: &'static str,
    /// How often it is done.
    times: u64,
    /// Most exits each, if that is a goal.
    most: Option<f64>,
}

const fn row(
    name: &'static str,
    without: &'static str,
    with: &'static str,
    times: u64,
    most: Option<f64>,
) -> Row {
    Row {
        name,
        without,
        with,
        times,
        most,
    }
}

/// None, and one. The command's bytes on the serial port exit too, now more often and now less: up to 16
/// times, which is a quarter of an exit each in the shortest row.
const NONE: Option<f64> = Some(0.5);
const ONE: Option<f64> = Some(1.5);

const ROWS: [Row; 7] = [
    row(
        "DMA map of a page, lazy",
        "hold 0000",
        "hold 0512",
        512,
        NONE,
    ),
    row("its unmap", "hold 0512", "hold 0000", 512, NONE),
    row(
        "DMA map of a page, strict",
        "hold 0000",
        "hold 0512",
        512,
        NONE,
    ),
    row("its unmap", "hold 0512", "hold 0000", 512, ONE),
    row(
        "munmap of a page, shared",
        "forget 001 000",
        "forget 001 064",
        64,
        ONE,
    ),
    row(
        "munmap of 512 pages, shared",
        "forget 512 000",
        "forget 512 064",
        64,
        ONE,
    ),
    row(
        "page request of the device",
        "ask 000",
        "ask 128",
        128,
        None,
    ),
];
/// The first row in which every unmap reaches the unit, and the first that shares a process's memory.
const STRICT: usize = 2;
const SHARED: usize = 4;

/// What was counted.
struct Counted {
    exits: u64,
    invalidations: u64,
    responses: u64,
}

fn count(world: &mut World, command: &str) -> Outcome<Counted> {
    let now = |world: &mut World| -> Outcome<[u64; 3]> {
        let exits = world.vmm()?.exits()?;
        match vmm::is_shadow() {
            // vfio_iommu_type1 counts nothing.
            true => Ok([exits, 0, 0]),
            false => Ok([exits, container("invalidations")?, container("responses")?]),
        }
    };
    let before = now(world)?;
    world.agent()?.ask(command)?;
    let after = now(world)?;
    Ok(Counted {
        exits: after[0] - before[0],
        invalidations: after[1] - before[1],
        responses: after[2] - before[2],
    })
}

/// The step.
pub fn run(world: &mut World) -> Outcome<String> {
    let shadow = vmm::is_shadow();
    // Until cache tags came (6.11), Linux submitted the device TLB's descriptor by itself.
    let apart = !shadow && world.agent()?.ask("unit")?.starts_with("Linux 6.1.");
    let mut missed = Vec::new();
    let mut text = String::from("exits, entries flushed and answers on the host, each:");
    let rows = match shadow {
        // There is no first stage, and Linux is strict where it has to tell of each mapping.
        true => STRICT..SHARED,
        false => 0..ROWS.len(),
    };
    for (index, row) in ROWS.iter().enumerate() {
        if !rows.contains(&index) {
            continue;
        }
        match index {
            0 => drop(world.agent()?.ask("domain DMA-FQ")?),
            STRICT if !shadow => drop(world.agent()?.ask("domain DMA")?),
            _ => {}
        }
        let without = match count(world, row.without) {
            Err(Stop::Skip(_)) if index >= SHARED => break,
            counted => counted?,
        };
        let with = count(world, row.with)?;
        let each = |with: u64, without: u64| with.saturating_sub(without) as f64 / row.times as f64;
        let exits = each(with.exits, without.exits);
        text.push_str(&format!(
            " {} {exits:.2} {:.2} {:.2};",
            row.name,
            each(with.invalidations, without.invalidations),
            each(with.responses, without.responses),
        ));
        let submissions = if apart { 2.0 } else { 1.0 };
        if !vmm::is_qemu() && row.most.is_some_and(|most| exits > most * submissions) {
            missed.push(row.name);
        }
    }
    match missed[..] {
        [] => Ok(text),
        _ => fail(format!("too many exits: {}; {text}", missed.join(", "))),
    }
}
