// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VT-d unit for a guest, from its first register to its end: place, plug, poll, answer, reset,
//! snapshot, unplug.
//!
//! `cargo run --example vtd --features soft,vtd`. Beside this crate it needs nix (feature `poll`) and
//! vm-memory (feature `backend-mmap`). The host's IOMMU and the device are in the process
//! ([`Soft`]); on hardware `Kmod::open_device` takes their place, and nothing else changes.

mod guest;

use guest::Guest;
use host_iommu::backend::soft::{Dma, DmaEnd, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::vtd::{Msi, SourceId, Vtd, VtdConfig, VtdEvent, VtdEvents, SIZE};
use host_iommu::{
    Bdf, Delivered, FaultQueue, HostIommu, Iova, Pasid, RegionListener, SharedMemory,
};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Bytes of guest memory.
const MEMORY: usize = 16 << 20;
/// Where the guest sees the device: bus 0, device 5, function 0.
const SOURCE: SourceId = SourceId(5 << 3);
/// The guest's PASID, and a virtual address of its process.
const PASID: u32 = 5;
const ADDRESS: u64 = 0x7f00_0000_1000;

/// What the unit tells the VMM.
#[derive(Debug, Default)]
struct Told {
    interrupts: Mutex<Vec<Msi>>,
}

impl VtdEvents for Told {
    fn interrupt(&self, message: Msi) {
        // A VMM with KVM: KVM_SIGNAL_MSI.
        if let Ok(mut interrupts) = self.interrupts.lock() {
            interrupts.push(message);
        }
    }

    fn work_left(&self) {
        // A VMM wakes the thread that calls `Vtd::run`. This one calls it after each write.
    }

    fn event(&self, event: &VtdEvent) {
        println!("unit:     {event}");
    }
}

/// A VMM's bus: an access of a CPU to the unit's page goes to the unit.
fn cpu_writes(unit: &Vtd, address: u64, data: &[u8]) {
    let offset = address.wrapping_sub(unit.config().base);
    if offset < SIZE {
        unit.write(offset, data);
        while unit.run() {}
    }
}

fn guest_memory() -> Outcome<Arc<GuestMemoryMmap>> {
    let shared = SharedMemory::new(c"guest", MEMORY)?;
    let file = FileOffset::new(shared.file().try_clone()?, 0);
    let regions = [(GuestAddress(0), MEMORY, Some(file))];
    Ok(Arc::new(GuestMemoryMmap::from_ranges_with_files(regions)?))
}

/// One round of a VMM's poll loop; true if something came.
fn poll_once(queue: &FaultQueue, unit: &Vtd) -> Outcome<bool> {
    let mut fds = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(1000u16))? == 0 {
        return Ok(false);
    }
    Ok(matches!(queue.deliver(unit)?, Delivered::Events(_)))
}

fn load(host: &HostIommu, device: &SoftDevice, ask: bool) -> Outcome<Option<DmaEnd>> {
    let pasid = host
        .host_pasid(device.address(), Pasid::try_from(PASID)?)
        .ok_or("the guest's PASID is not bound")?;
    let dma = Dma::read(Iova(ADDRESS), 8).at(pasid);
    let dma = if ask { dma } else { dma.no_page_requests() };
    Ok(device.run(dma, Duration::ZERO)?)
}

fn found(word: u64) -> Option<DmaEnd> {
    Some(DmaEnd::Done(word.to_le_bytes().to_vec()))
}

fn main() -> Outcome {
    // The host, a device that is passed through, and guest memory in the host's stage 2.
    let soft = Soft::new();
    let place: Bdf = "0000:3a:04.0".parse()?;
    let device = soft.bus().add(place, &SoftDeviceOptions::default())?;
    let host = HostIommu::new(soft);
    let memory = guest_memory()?;
    RegionListener::new(host.clone()).update(&*memory)?;

    // Place: a unit that offers what the host carries, at an address of the guest's.
    let nesting = host
        .capabilities()?
        .nesting
        .ok_or("the host does not nest")?;
    let config = VtdConfig::carried_by(&nesting);
    let told = Arc::new(Told::default());
    let unit = Vtd::new(config.clone(), memory.clone(), told.clone())?;
    let dmar = config.dmar(*b"VMM   ", *b"EXAMPLE ", 1);
    println!(
        "place:    at {:#x}, DMAR of {} bytes",
        config.base,
        dmar.len()
    );

    // Plug: the device, where the guest sees it.
    unit.set_source_id(place, SOURCE);
    let plugged = host.plug(place, unit.clone())?;
    println!("plug:     {place} is the guest's {SOURCE}");

    // The guest's driver comes up, and binds a page table of a process at its PASID.
    let mut guest = Guest::new(&memory, config.base, SOURCE.0);
    guest.boot(&mut |address, data| cpu_writes(&unit, address, data))?;
    guest.bind(PASID, &mut |address, data| cpu_writes(&unit, address, data))?;

    // Poll: the device reaches for a page that is not there, and asks for it.
    let queue = unit.fault_queue(place).ok_or("no page requests")?;
    assert_eq!(load(&host, &device, true)?, None, "the device waits");
    assert!(poll_once(&queue, &unit)?, "nothing came");
    let interrupts = told.interrupts.lock().map_err(|_| "a panic")?.len();
    println!(
        "poll:     {} group waits, {interrupts} interrupt",
        unit.waiting()
    );
    assert_eq!((unit.waiting(), interrupts), (1, 1));

    // Answer: the guest maps the page, and its page group response reaches the device.
    guest.answer(PASID, ADDRESS, 0xd0d0, &mut |address, data| {
        cpu_writes(&unit, address, data);
    })?;
    assert_eq!(unit.waiting(), 0);
    assert_eq!(load(&host, &device, false)?, found(0xd0d0));
    println!("answer:   the device reads what the guest's process wrote");

    // Reset: a function-level reset of the guest's; its entries stay in force.
    device.reset();
    unit.device_reset(place);
    assert_eq!(load(&host, &device, false)?, found(0xd0d0));
    println!("reset:    what the guest bound is in force as before");

    // Snapshot: the unit's state; guest memory and devices are the VMM's to save.
    let saved = unit.save();
    unit.reset();
    assert_eq!(host.stats()?.bindings, 0);
    unit.restore(saved)?;
    while unit.run() {}
    assert_eq!(load(&host, &device, false)?, found(0xd0d0));
    println!("snapshot: what was bound is bound again");

    // Unplug: nothing is left at the host.
    drop(plugged);
    let stats = host.stats()?;
    assert_eq!((stats.bindings, stats.pasids), (0, 0));
    println!("unplug:   nothing is bound; {:?}", unit.stats());
    Ok(())
}

#[test]
fn example_comes_to_its_end() {
    main().expect("it runs");
}
