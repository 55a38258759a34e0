// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A second guest does what it can against the first one.

use crate::counts;
use crate::steps::{self, World, BOOT};
use crate::vmm::{self, Guest, Vmm};
use host_iommu_tests::ktap::{fail, skip, Outcome, Stop};
use host_iommu_tests::{kmsg, vfio};
use std::time::Duration;

/// Seconds of harm, if nobody says.
const HARM: u64 = 20;
/// The neighbour's pace is measured by turns, so that what else the machine does counts on both sides.
const TURN: u64 = 2;
/// A guest that says nothing for so long after a turn has harmed itself.
const PATIENCE: Duration = Duration::from_secs(45);
/// Most lives of the hostile guest in a minute, which may end itself.
const LIVES: u64 = 4;
/// Most lines a second of the host's log: the kernel limits reports of DMA faults.
const LOG_LINES: u64 = 5;
/// What the VMM says when its guest has ended itself.
const BROKEN: &str = "the guest has broken its machine";
/// What was done, as the guest tells.
const KINDS: [&str; 5] = ["registers", "tables", "configuration", "orders", "requests"];

/// Lines of the host's log, and those in it by which Linux's VT-d driver reports each page request at an
/// address that is not canonical: 7.3 does not limit these.
fn log_lines() -> Outcome<(usize, usize)> {
    let text = kmsg::text()?;
    let is_unlimited = |line: &&str| {
        line.contains("Address is not canonical") || line.contains("Invalid page request")
    };
    let unlimited = text.lines().filter(is_unlimited).count();
    Ok((text.lines().count().saturating_sub(unlimited), unlimited))
}

fn boot(device: &str) -> Outcome<Vmm> {
    let vmm = Vmm::start(&Guest {
        name: vmm::HOSTILE,
        devices: &[device.to_owned()],
        cpus: 1,
        line: vmm::HOSTILE_LINE,
        disks: &[],
    })?;
    vmm.agent.wait(BOOT)?;
    Ok(vmm)
}

/// Orders that the first guest's device does while the other guest does something, and what that says
/// of it; nothing if it has ended itself, in an orderly way.
fn turn(world: &mut World, other: &mut Vmm, what: &str) -> Outcome<(u64, Option<String>)> {
    other.agent.tell(what)?;
    let done = world.agent()?.ask(&format!("work {TURN}"))?.parse()?;
    match other.agent.answer_within(PATIENCE) {
        Ok(answer) => Ok((done, Some(answer))),
        Err(Stop::Skip(text)) => skip(text),
        Err(Stop::Fail(text)) => match other.ended()? {
            // It stands still, or went down by a reset.
            None => Ok((done, None)),
            Some(status) if status.success() => Ok((done, None)),
            Some(_) if vmm::messages(vmm::HOSTILE).contains(BROKEN) => Ok((done, None)),
            Some(status) => fail(format!(
                "the hostile guest's VMM ended with {status}: {text}"
            )),
        },
    }
}

/// The step: the first guest's device goes on at the pace that it has beside a guest that only computes.
/// SECONDS says how long.
pub fn run(world: &mut World) -> Outcome<String> {
    let device = vfio::endpoints().into_iter().map(|bdf| bdf.to_string());
    let first = world.device.clone();
    let Some(device) = device.into_iter().find(|device| *device != first) else {
        return skip("there is no second endpoint");
    };
    let seconds = std::env::var("SECONDS")
        .ok()
        .filter(|text| !text.is_empty());
    let seconds = seconds.map_or(Ok(HARM), |text| text.parse())?;
    let mut other = boot(&device)?;
    let mut lives = 1;
    let (mut usual, mut attacked) = (0, 0);
    let mut harm = [0; KINDS.len()];
    let (mut logged, mut unlimited) = (0, 0);
    for number in 0..seconds.div_ceil(TURN) {
        usual += turn(world, &mut other, &format!("compute {TURN}"))?.0;
        let before = log_lines()?;
        let (done, told) = turn(world, &mut other, &format!("attack {TURN} {number}"))?;
        let now = log_lines()?;
        attacked += done;
        logged += now.0.saturating_sub(before.0);
        unlimited += now.1.saturating_sub(before.1);
        let Some(told) = told else {
            if lives >= LIVES.max(seconds * LIVES / 60) {
                return fail(format!("the hostile guest has ended itself {lives} times"));
            }
            drop(other);
            other = boot(&device)?;
            lives += 1;
            continue;
        };
        for (sum, kind) in harm.iter_mut().zip(KINDS) {
            let count = counts::value(&told, kind).and_then(|count| count.parse::<u64>().ok());
            *sum += count.unwrap_or(0);
        }
    }
    drop(other);
    let said = vmm::messages(vmm::HOSTILE).lines().count();
    let [registers, tables, config, orders, requests] = harm;
    let counts = format!(
        "{registers} writes to registers, {tables} to tables, {config} to configuration space, \
         {orders} orders, {requests} page requests in {seconds} seconds and {lives} lives; the \
         neighbour did {attacked} orders, and {usual} beside a guest that computes; {logged} lines in \
         the host's log, and {unlimited} of a kind that Linux does not limit"
    );
    if harm.contains(&0) {
        return fail(format!("there was no harm of some kind: {counts}"));
    }
    if attacked < usual / 2 {
        return fail(format!("the neighbour is slowed down: {counts}"));
    }
    if logged as u64 > LOG_LINES * seconds {
        return fail(format!("the host's log is flooded: {counts}"));
    }
    if said as u64 > LOG_LINES * seconds {
        return fail(format!("its VMM's log has {said} lines: {counts}"));
    }
    world.agent()?.ask("log")?;
    steps::at_work(world)?;
    Ok(counts)
}
