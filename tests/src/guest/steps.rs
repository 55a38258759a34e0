// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The steps.

use crate::agent::Agent;
use crate::counts;
use crate::vmm::{self, Vmm};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::{disk, kvm, vfio};
use std::fs;
use std::time::{Duration, Instant};

type Step = fn(&mut World) -> Outcome<String>;

/// Number, title and what is done.
pub const STEPS: [(u32, &str, Step); 9] = [
    (
        1,
        "boot an unmodified kernel behind the crate's VT-d unit",
        boot,
    ),
    (
        2,
        "DMA API without PASID, by the guest's first-stage table",
        rid,
    ),
    (3, "a virtio disk behind the same unit", disk),
    (
        4,
        "the device on memory that a process never touched",
        untouched,
    ),
    (5, "memory changes under the device", changes),
    (6, "two processes, two PASIDs, one address", two),
    (7, "a process is killed with faults in flight", killed),
    (
        8,
        "the device is reset, unplugged and plugged",
        reset_and_plug,
    ),
    (11, "the VMM is killed", kill),
];

/// Pages of step 4.
const PAGES: u64 = 64;
/// Emulated twice, on a machine that does other things too.
const BOOT: Duration = Duration::from_secs(240);

/// What is there so far.
#[derive(Default)]
pub struct World {
    vmm: Option<Vmm>,
    device: String,
}

impl World {
    fn vmm(&mut self) -> Outcome<&mut Vmm> {
        match &mut self.vmm {
            Some(vmm) => Ok(vmm),
            None => fail("there is no guest"),
        }
    }

    fn agent(&mut self) -> Outcome<&mut Agent> {
        self.vmm().map(|vmm| &mut vmm.agent)
    }

    /// Prints the ends of what the guest and the VMM said.
    pub fn show_consoles(&self) {
        for (name, text) in [("guest", vmm::console()), ("vmm", vmm::messages())] {
            let lines: Vec<_> = text.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(60)) {
                println!("{name}| {line}");
            }
        }
    }
}

fn boot(world: &mut World) -> Outcome<String> {
    if !kvm::load()? {
        return skip("the kernel has no KVM");
    }
    let Some(device) = vfio::endpoints().first().map(ToString::to_string) else {
        return fail("no endpoint is bound to vfio-pci");
    };
    let cpus = std::thread::available_parallelism()?.get() as u32;
    let empty = vec![0; disk::PART];
    fs::write(vmm::DISK, [disk::pattern(disk::READ), empty].concat())?;
    let begun = Instant::now();
    let vmm = Vmm::start(std::slice::from_ref(&device), cpus)?;
    (world.device, world.vmm) = (device, Some(vmm));
    world.agent()?.wait(BOOT)?;
    let seconds = begun.elapsed().as_secs();
    let unit = world.agent()?.ask("unit")?;
    let device = &world.device;
    Ok(format!(
        "{unit}; {device} passed through, {cpus} CPUs, {seconds} seconds"
    ))
}

/// What the module says of the device's RID.
fn rid_state(device: &str) -> Outcome<String> {
    let lines = counts::lines("devices")?;
    let line = lines
        .iter()
        .find(|line| counts::value(line, "device") == Some(device));
    match line.and_then(|line| counts::value(line, "rid")) {
        Some(state) => Ok(state.to_owned()),
        None => fail(format!("the module does not know {device}")),
    }
}

fn rid(world: &mut World) -> Outcome<String> {
    let seen = world.agent()?.ask("rid")?;
    match rid_state(&world.device)?.as_str() {
        "bound" => Ok(format!("{seen}; the table is bound on the host")),
        other => fail(format!("{seen}, but the host has {other} at the RID")),
    }
}

fn disk(world: &mut World) -> Outcome<String> {
    let seen = world.agent()?.ask("disk")?;
    let bytes = fs::read(vmm::DISK)?;
    let written = bytes.get(disk::PART..).unwrap_or_default();
    match written == disk::pattern(disk::WRITTEN) {
        true => Ok(format!("{seen}, and the host has what it wrote")),
        false => fail("the disk's file does not have what the guest wrote"),
    }
}

fn untouched(world: &mut World) -> Outcome<String> {
    let module = counts::container("page_requests")?;
    let groups = world.vmm()?.groups()?;
    let seen = world.agent()?.ask(&format!("share {PAGES}"))?;
    let number = |key: &str| -> Outcome<u64> {
        match counts::value(&seen, key).and_then(|number| number.parse().ok()) {
            Some(number) => Ok(number),
            None => fail(format!("the guest does not tell of {key}: {seen}")),
        }
    };
    let module = counts::container("page_requests")? - module;
    let groups = world.vmm()?.groups()? - groups;
    // The device asks for a page at a time, so that requests and groups are as many.
    let (device, kernel) = (number("requests")?, number("kernel")?);
    let counts = format!(
        "{PAGES} pages: page requests of the device {device}, the module {module}, the VMM \
         {groups}, the guest's kernel {kernel}"
    );
    let agree = [module, groups, kernel]
        .iter()
        .all(|count| *count == device);
    match agree && device >= PAGES {
        true => Ok(counts),
        false => fail(counts),
    }
}

fn two(world: &mut World) -> Outcome<String> {
    world.agent()?.ask("two")
}

fn changes(world: &mut World) -> Outcome<String> {
    world.agent()?.ask("change")
}

fn killed(world: &mut World) -> Outcome<String> {
    world.agent()?.ask("killed")
}

fn reset_and_plug(world: &mut World) -> Outcome<String> {
    world.agent()?.ask("reset")?;
    world.agent()?.ask("rid")?;
    world.agent()?.ask("share 4")?;
    let device = world.device.clone();
    world.agent()?.ask("remove")?;
    world.vmm()?.unplug(&device)?;
    let left = counts::container("bindings")?;
    if left != 0 {
        return fail(format!("{left} bindings are left of the unplugged device"));
    }
    world.vmm()?.plug(&device)?;
    world.agent()?.ask("rescan")?;
    world.agent()?.ask("rid")?;
    world.agent()?.ask("share 4")?;
    Ok("it works after each".into())
}

fn kill(world: &mut World) -> Outcome<String> {
    world.agent()?.ask("log")?;
    world.agent()?.ask("start")?;
    world.vmm()?.kill()?;
    world.vmm = None;
    let left = counts::lines("containers")?;
    if !left.is_empty() {
        return fail(format!("the module has containers left: {left:?}"));
    }
    let module = counts::lines("module")?;
    let module = module.first().map(String::as_str).unwrap_or_default();
    for key in ["pasids", "domains"] {
        if counts::value(module, key) != Some("0") {
            return fail(format!("{key} are left: {module}"));
        }
    }
    let name = c"vfio_iommu_ioasid";
    nix::kmod::delete_module(name, nix::kmod::DeleteModuleFlags::O_NONBLOCK)?;
    Ok("nothing is bound or pinned, and the module unloads".into())
}
