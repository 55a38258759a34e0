// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The steps.

use crate::agent::Agent;
use crate::vmm::{self, Guest, Vmm};
use crate::{costs, counts, hostile, qemu, refused, takeover};
use host_iommu_tests::ktap::{fail, skip, Outcome, Stop};
use host_iommu_tests::{disk, kvm, vfio};
use std::fs;
use std::time::{Duration, Instant};

type Step = fn(&mut World) -> Outcome<String>;

/// Number, title and what is done.
pub const STEPS: [(u32, &str, Step); 15] = [
    (
        1,
        "boot an unmodified kernel behind the crate's VT-d unit",
        boot,
    ),
    (2, "DMA API without PASID", rid),
    (3, "a virtio disk behind the same unit", disk),
    (
        4,
        "the device on memory that a process never touched",
        untouched,
    ),
    (5, "memory changes under the device", changes),
    (6, "two processes, two PASIDs, one address", two),
    (13, "what that costs on the host", costs::run),
    (7, "a process is killed with faults in flight", killed),
    (
        8,
        "the device is reset, unplugged and plugged",
        reset_and_plug,
    ),
    (9, "the guest reboots with everything bound", reboot),
    (
        10,
        "another process takes the guest over under running DMA",
        takeover::run,
    ),
    (12, "a hostile guest beside it", hostile::run),
    (14, "what the host does not carry", refused::run),
    // The module goes.
    (11, "the VMM is killed", kill),
    (15, "the host without the module", refused::without_module),
];

/// Those without PASIDs and page requests, and the module.
pub const OF_SHADOW: [u32; 3] = [2, 3, 13];

/// Those that only QEMU has.
pub const OF_QEMU: [u32; 2] = [14, 15];

/// Pages of step 4.
const PAGES: u64 = 64;
/// How long a device at work may take to ask for a page.
const REQUESTS: Duration = Duration::from_secs(20);
/// Emulated twice, on a machine that does other things too.
pub const BOOT: Duration = Duration::from_secs(600);

/// What is there so far.
#[derive(Default)]
pub struct World {
    vmm: Option<Vmm>,
    /// The device that is passed through.
    pub device: String,
    /// Pages that were pinned before.
    pinned: i64,
}

impl World {
    /// The first guest's VMM.
    pub fn vmm(&mut self) -> Outcome<&mut Vmm> {
        match &mut self.vmm {
            Some(vmm) => Ok(vmm),
            None => fail("there is no guest"),
        }
    }

    /// The agent in the first guest.
    pub fn agent(&mut self) -> Outcome<&mut Agent> {
        self.vmm().map(|vmm| &mut vmm.agent)
    }

    /// Prints the ends of what the guest and the VMM said.
    pub fn show_consoles(&self) {
        for file in ["containers", "devices"] {
            println!("vmm| {file}: {:?}", counts::lines(file).unwrap_or_default());
        }
        println!(
            "vmm| {}",
            counts::control(vmm::CONTROL, "status")
                .unwrap_or_default()
                .trim()
        );
        for thread in self.vmm.iter().flat_map(Vmm::threads) {
            println!("vmm| {thread}");
        }
        let said = [
            ("guest", vmm::console(vmm::FIRST)),
            ("vmm", vmm::messages(vmm::FIRST)),
            ("guest", vmm::console(vmm::HOSTILE)),
            ("vmm", vmm::messages(vmm::HOSTILE)),
        ];
        for (name, text) in said {
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
    fs::write(vmm::SWAP, vec![0; disk::SWAP])?;
    fs::create_dir_all(vmm::FOLDER)?;
    world.pinned = counts::pinned()?;
    let begun = Instant::now();
    let vmm = Vmm::start(&Guest {
        name: vmm::FIRST,
        devices: std::slice::from_ref(&device),
        cpus,
        line: vmm::LINE,
        disks: &[vmm::DISK, vmm::SWAP],
    })?;
    (world.device, world.vmm) = (device, Some(vmm));
    world.agent()?.wait(BOOT)?;
    let seconds = begun.elapsed().as_secs();
    let unit = match vmm::is_shadow() {
        true => "QEMU's unit in caching mode, over vfio_iommu_type1".to_owned(),
        false => world.agent()?.ask("unit")?,
    };
    let whose = match (vmm::is_qemu(), world.vmm()?.is_confined()?) {
        (true, _) => "QEMU is root's",
        (false, true) => "the VMM is an ordinary user's, under its filter of system calls",
        (false, false) => return fail("the VMM has privileges, or a thread without a filter"),
    };
    let device = &world.device;
    Ok(format!(
        "{unit}; {device} passed through, {cpus} CPUs, {seconds} seconds; {whose}"
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
    if vmm::is_shadow() {
        return Ok(seen);
    }
    if vmm::is_qemu() {
        let shown = qemu::shown()?;
        if !shown.contains(&world.device) || !shown.contains("without PASID: stage 1 at 0x") {
            return fail(format!("QEMU does not show what is bound: {shown}"));
        }
    }
    match rid_state(&world.device)?.as_str() {
        "bound" => Ok(format!(
            "{seen}; the guest's first-stage table is bound on the host"
        )),
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

/// The device at work without a PASID and, unless the guest's kernel has that switched off, on the
/// memory of a process.
pub fn at_work(world: &mut World) -> Outcome<&'static str> {
    world.agent()?.ask("rid")?;
    match world.agent()?.ask("share 4") {
        Err(Stop::Skip(_)) => Ok("without PASID"),
        shared => shared.map(|_| "with and without PASID"),
    }
}

/// Has the device work for a process to the end, unless the guest's kernel has that switched off: it asks
/// for pages all the time. Gives how many bindings the host then has, and whether the device works.
fn start_dma(world: &mut World) -> Outcome<(u64, bool)> {
    let works = match world.agent()?.ask("start") {
        Err(Stop::Skip(_)) => false,
        started => started.map(|_| true)?,
    };
    let least = if works { 2 } else { 1 };
    match counts::container("bindings")? {
        bound if bound >= least => Ok((bound, works)),
        bound => fail(format!("{bound} bindings, where {least} are wanted")),
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
    at_work(world)?;
    let device = world.device.clone();
    world.agent()?.ask("remove")?;
    world.vmm()?.unplug(&device)?;
    let left = counts::bindings()?;
    if left != 0 {
        return fail(format!("{left} bindings are left of the unplugged device"));
    }
    world.vmm()?.plug(&device)?;
    world.agent()?.ask("rescan")?;
    let how = at_work(world)?;
    Ok(format!("it works after each, {how}"))
}

/// The guest boots again in the same VMM. Its device works for a process to the end.
fn reboot(world: &mut World) -> Outcome<String> {
    world.agent()?.ask("log")?;
    let boot = world.agent()?.ask("boot")?;
    let (bound, _) = start_dma(world)?;
    let begun = Instant::now();
    world.agent()?.tell("reboot")?;
    world.agent()?.wait(BOOT)?;
    let seconds = begun.elapsed().as_secs();
    if world.agent()?.ask("boot")? == boot {
        return fail("the guest did not reboot");
    }
    world.agent()?.ask("unit")?;
    let how = at_work(world)?;
    Ok(format!(
        "{bound} bindings when it went down; up again and at work {how} after {seconds} seconds"
    ))
}

fn kill(world: &mut World) -> Outcome<String> {
    world.agent()?.ask("log")?;
    let (_, works) = start_dma(world)?;
    world.vmm()?.freeze()?;
    let waiting = match works {
        true => wait_for_requests()?,
        false => 0,
    };
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
    let pinned = counts::pinned()? - world.pinned;
    if pinned != 0 {
        return fail(format!("{pinned} pages are still pinned"));
    }
    let name = c"vfio_iommu_ioasid";
    nix::kmod::delete_module(name, nix::kmod::DeleteModuleFlags::O_NONBLOCK)?;
    Ok(format!(
        "{waiting} page requests waited; nothing is bound or pinned, and the module unloads"
    ))
}

/// Waits until the device has asked for what nobody answers. Gives how many such requests there are.
fn wait_for_requests() -> Outcome<u64> {
    let begun = Instant::now();
    loop {
        match counts::waiting()? {
            0 if begun.elapsed() > REQUESTS => {
                return fail(format!("no page request waits after {REQUESTS:?}"));
            }
            0 => std::thread::sleep(Duration::from_millis(5)),
            waiting => return Ok(waiting),
        }
    }
}
