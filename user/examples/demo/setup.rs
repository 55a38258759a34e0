// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From nothing to two tables bound at two PASIDs.

use crate::report::{check, Seen};
use host_iommu::backend::kmod::Kmod;
use host_iommu::{
    AddressWidth, Bdf, FaultQueue, FaultQueueOptions, Gpa, GuestTable, HostIommu, Iova, MapAccess,
    PasidAllocation, PasidRequest, Stage1Binding,
};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::{entry, Table};
use host_iommu_tests::testdev::{Testdev, BAR};
use host_iommu_tests::vfio::{endpoints, Device};

/// Guest memory stands at guest-physical address 0, as a guest has it.
pub const MEMORY_SIZE: u64 = 256 << 20;
/// Where the "guest process" has its first page: another index at each of the four levels.
pub const FIRST: u64 = 0x0000_7f12_3456_7000;
/// Its second page.
pub const SECOND: u64 = FIRST + PAGE;
/// Two addresses that nothing is mapped at.
pub const HOLES: [u64; 2] = [FIRST + 16 * PAGE, FIRST + 17 * PAGE];
/// An address whose entry points outside guest memory.
pub const ASTRAY: u64 = FIRST + 32 * PAGE;
/// The guest's numbers for the two PASIDs.
pub const GUEST_PASIDS: [u32; 2] = [5, 70_000];
/// What the fault records of the first binding bring back.
pub const COOKIE: u64 = 0x5eed_f00d;

/// An address space of the guest.
#[derive(Debug)]
pub struct Space {
    /// The PASID.
    pub pasids: PasidAllocation,
    /// Its table.
    pub root: u64,
    /// The binding while there is one.
    pub binding: Option<Stage1Binding>,
    /// The pages at [`FIRST`] and [`SECOND`], in guest-physical memory.
    pub pages: [u64; 2],
}

impl Space {
    /// The number of the PASID.
    pub fn pasid(&self) -> u32 {
        self.pasids.first().get()
    }
}

/// The VMM, its guest and the endpoint, as far as the steps have come.
#[derive(Debug, Default)]
pub struct World {
    device: Option<Bdf>,
    spaces: Vec<Space>,
    faults: Option<FaultQueue>,
    endpoint: Option<Testdev>,
    memory: Option<GuestMemory>,
    host: Option<HostIommu>,
    tables: Vec<(u64, [u64; 2])>,
    pasids: Vec<PasidAllocation>,
}

const MISSING: &str = "an earlier step failed";

impl World {
    /// The device.
    pub fn device(&self) -> Seen<Bdf> {
        self.device.ok_or_else(|| MISSING.into())
    }

    /// The context.
    pub fn host(&self) -> Seen<&HostIommu> {
        self.host.as_ref().ok_or_else(|| MISSING.into())
    }

    /// Guest memory.
    pub fn memory(&self) -> Seen<&GuestMemory> {
        self.memory.as_ref().ok_or_else(|| MISSING.into())
    }

    /// The endpoint.
    pub fn endpoint(&self) -> Seen<&Testdev> {
        self.endpoint.as_ref().ok_or_else(|| MISSING.into())
    }

    /// The fault queue.
    pub fn faults(&self) -> Seen<&FaultQueue> {
        self.faults.as_ref().ok_or_else(|| MISSING.into())
    }

    /// An address space.
    pub fn space(&self, index: usize) -> Seen<&Space> {
        self.spaces.get(index).ok_or_else(|| MISSING.into())
    }

    /// An address space, to change it.
    pub fn space_mut(&mut self, index: usize) -> Seen<&mut Space> {
        self.spaces.get_mut(index).ok_or_else(|| MISSING.into())
    }

    /// The table of an address space.
    pub fn table(&self, index: usize) -> Seen<Table<'_>> {
        Ok(Table::at(self.memory()?, self.space(index)?.root))
    }

    /// Gives everything back: the next step starts from nothing.
    pub fn clear(&mut self) {
        *self = Self {
            device: self.device,
            ..Self::default()
        };
    }
}

/// Opens the device of a context and lets it make requests.
pub fn open_endpoint(host: &Kmod, device: Bdf) -> Seen<(Device, Testdev)> {
    let device = Device::from(host.open_device_fd(device)?);
    device.set_bus_master(true)?;
    let endpoint = Testdev::new(device.map_bar(BAR)?)?;
    Ok((device, endpoint))
}

/// Finds the device, opens its context, and reads what that can do.
pub fn probe(world: &mut World) -> Seen {
    let found = endpoints();
    let name = found
        .first()
        .ok_or("no endpoint 1234:5a1d is bound to vfio-pci")?;
    let device: Bdf = name.to_string().parse()?;
    let kmod = Kmod::open_device(device)?;
    // The mapping of its registers keeps the device open.
    let (_, endpoint) = open_endpoint(&kmod, device)?;
    world.device = Some(device);
    world.endpoint = Some(endpoint);
    let host = world.host.insert(HostIommu::new(kmod));

    let nesting = host
        .capabilities()?
        .nesting
        .ok_or("the module reports nothing about nesting")?;
    check(nesting.stage1.is_present(), nesting.stage1.to_string())?;
    check(
        nesting.page_requests.is_present(),
        nesting.page_requests.to_string(),
    )?;
    check(
        nesting.widths.contains(&AddressWidth::Bits48),
        "no 4-level stage 1",
    )?;
    let listed = host.devices()?;
    let info = listed
        .iter()
        .find(|info| info.device == device)
        .ok_or("the context does not list the device")?;
    check(info.stage1.is_present(), info.stage1.to_string())?;
    Ok(format!(
        "{device} nests ({} PASID bits, widths {:?}) and its page requests can be answered",
        nesting.pasid_bits, nesting.widths
    ))
}

/// Gives the device guest memory.
pub fn map(world: &mut World) -> Seen {
    let memory = GuestMemory::new(0, MEMORY_SIZE)?;
    // The guest's own first page is not for the demo.
    memory.alloc_page();
    let host = world.host()?;
    let before = host.stats()?.mapped_pages;
    host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
    let pages = host.stats()?.mapped_pages - before;
    check(
        pages == MEMORY_SIZE / PAGE,
        format!("{pages} pages are mapped"),
    )?;
    world.memory = Some(memory);
    Ok(format!("{pages} pages pinned in stage 2"))
}

/// Allocates the PASIDs that the guest asks for.
pub fn allocate(world: &mut World) -> Seen {
    let host = world.host()?.clone();
    let mut pasids = Vec::new();
    for number in GUEST_PASIDS {
        let request = PasidRequest::exactly(number.try_into()?);
        pasids.push(host.alloc_pasids(&request)?);
    }
    let again = host.alloc_pasids(&PasidRequest::exactly(GUEST_PASIDS[0].try_into()?));
    check(again.is_err(), "the first PASID could be had twice")?;
    let count = host.stats()?.pasids;
    check(count == 2, format!("{count} PASIDs are allocated"))?;
    world.pasids = pasids;
    Ok(format!(
        "{} and {} are ours, and not to be had twice",
        GUEST_PASIDS[0], GUEST_PASIDS[1]
    ))
}

/// Builds a table for each PASID: the same addresses, other pages.
pub fn build(world: &mut World) -> Seen {
    let memory = world.memory()?;
    let mut tables = Vec::new();
    for _ in GUEST_PASIDS {
        let table = Table::new(memory);
        // In descending order: consecutive addresses, scattered memory.
        let second = memory.alloc_page();
        memory.alloc_page();
        let first = memory.alloc_page();
        let pages = [second, first];
        table.map(FIRST, pages[0], entry::RW);
        table.map(SECOND, pages[1], entry::RW);
        let walked = table.walk(SECOND + 8).map(|(gpa, _)| gpa);
        check(walked == Some(pages[1] + 8), "the table leads elsewhere")?;
        tables.push((table.root(), pages));
    }
    let text = format!(
        "roots at guest-physical {:#x} and {:#x}, each maps {FIRST:#x}",
        tables[0].0, tables[1].0
    );
    world.tables = tables;
    Ok(text)
}

/// Binds both tables to the device, page requests to one queue.
pub fn bind(world: &mut World) -> Seen {
    let (host, device) = (world.host()?.clone(), world.device()?);
    let faults = host.fault_queue(&FaultQueueOptions::nonblocking())?;
    check(world.tables.len() == world.pasids.len(), MISSING)?;
    let pasids = std::mem::take(&mut world.pasids);
    for (pasids, &(root, pages)) in pasids.into_iter().zip(&world.tables) {
        let table = GuestTable::four_level(Gpa(root)).with_cookie(COOKIE);
        let binding = host.bind(device, &pasids, pasids.first(), &table, Some(&faults))?;
        world.spaces.push(Space {
            pasids,
            root,
            binding: Some(binding),
            pages,
        });
    }
    world.faults = Some(faults);
    let count = host.stats()?.bindings;
    check(count == 2, format!("{count} bindings"))?;
    Ok(format!(
        "PASIDs {} and {} of {device}, page requests to one queue",
        world.space(0)?.pasid(),
        world.space(1)?.pasid()
    ))
}
