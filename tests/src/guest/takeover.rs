// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Another process takes the guest over while its device works, asks for pages and interrupts.

use crate::counts::{container, value};
use crate::steps::World;
use crate::vmm::{self, Vmm};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use std::time::Duration;

/// How long the device works, and how much of that before the guest is taken over.
const SECONDS: u64 = 12;
const BEFORE: Duration = Duration::from_secs(2);

/// What the module counts, and what of it may not grow: bindings that were made and undone, and page
/// requests that the host answered itself or that were answered twice.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    requests: u64,
    responses: u64,
    constant: [u64; 4],
}

fn counts() -> Outcome<Counts> {
    let mut constant = [0; 4];
    let names = ["binds", "unbinds", "host_invalid", "late_responses"];
    for (number, name) in constant.iter_mut().zip(names) {
        *number = container(name)?;
    }
    Ok(Counts {
        requests: container("page_requests")?,
        responses: container("responses")?,
        constant,
    })
}

/// Takeovers that fail at one place after the other: the guest goes on where it was. Gives how many.
fn failing(vmm: &mut Vmm) -> Outcome<usize> {
    let files = vmm.open_files()?;
    // Of what a new process needs, the guest's files come first, and KVM's and the device's last.
    let limits = [files / 2, files - 16, files - 8, files - 4, files - 2];
    for limit in limits {
        vmm.keeps_guest_from_poor_taker(limit)?;
    }
    let parts = [0, 1000, usize::MAX];
    for bytes in parts {
        vmm.keeps_guest_from_fickle_taker(bytes)?;
    }
    Ok(limits.len() + parts.len())
}

/// The step.
pub fn run(world: &mut World) -> Outcome<String> {
    if vmm::is_qemu() {
        return skip("QEMU is not taken over");
    }
    let groups = world.vmm()?.groups()?;
    let before = counts()?;
    world.agent()?.tell(&format!("go-on {SECONDS}"))?;
    std::thread::sleep(BEFORE);
    let begun = counts()?;
    let refused = failing(world.vmm()?)?;
    let paused = world.vmm()?.take_over()?;
    let taken = counts()?;
    let seen = world.agent()?.answer()?;
    let after = counts()?;
    let groups = world.vmm()?.groups()? - groups;
    let text = format!(
        "{refused} takeovers failed; then the guest stood still for {}.{:03} ms; {seen}; the module \
         gave {} page requests and took {} answers, the VMMs had {groups}",
        paused / 1000,
        paused % 1000,
        after.requests - before.requests,
        after.responses - before.responses,
    );
    if begun.constant != taken.constant {
        return fail(format!(
            "bindings changed when the guest was taken over: {begun:?}, {taken:?}; {text}"
        ));
    }
    // Two of the four tell of the process in the guest, which begins and ends.
    let [_, _, before_constant @ ..] = before.constant;
    let [_, _, after_constant @ ..] = after.constant;
    let number = |key| value(&seen, key).and_then(|number| number.parse::<u64>().ok());
    let requests = after.requests - before.requests;
    let agree = number("requests") == Some(requests)
        && number("answers") == Some(requests)
        && after.responses - before.responses == requests
        && groups == requests
        && number("stray") == Some(0)
        && before_constant == after_constant;
    match agree {
        true => Ok(text),
        false => fail(format!("{text}; {before:?}, {after:?}")),
    }
}
