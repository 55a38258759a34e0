// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a context, its fault queues, a listener and a shadow are asked for, by the number of things
//! that it touches: on `soft`, the backend that runs anywhere. The bench and the test go through them.

use host_iommu::backend::soft::{self, Dma, Soft, SoftBus, SoftDevice, SoftDeviceOptions};
use host_iommu::shadow::Shadow;
use host_iommu::{
    AddressSpace, AddressSpaceEntry, Bdf, FaultEvent, FaultGroup, FaultQueue, FaultQueueOptions,
    FaultRead, Gpa, GuestTable, HostIommu, Invalidation, Iova, IovaRange, MapAccess, Mapping,
    Pasid, PasidAllocation, PasidRequest, RegionListener, Response, Scope, Shadowing, SharedMemory,
    Stage1Binding,
};
use std::any::Any;
use std::sync::Arc;
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// What is measured; it gives back what is to be dropped afterwards.
pub type Act = Box<dyn FnOnce() -> Box<dyn Any>>;

/// One operation.
pub struct Operation {
    pub name: &'static str,
    /// The most that it can touch, by the quotas of the backend or the kernel.
    pub most: usize,
    /// Sets up what it touches.
    pub make: fn(usize) -> Act,
}

const PAGE: u64 = 4096;
const DEVICE: Bdf = Bdf::new(0, 0, 8);
/// Mappings: half of what the kernel gives a process by default (vm.max_map_count).
const MAPS: usize = 32_000;
/// No quota below what is measured.
const FREE: usize = usize::MAX;
/// DMA of each device that asks for pages.
const EACH: usize = soft::MAX_DMAS;
/// As many page requests as a queue has room for.
const GROUPS: usize = 16_384;

pub const OPERATIONS: [Operation; 22] = [
    op("map, one by one", MAPS, map_each),
    op("unmap, one by one", MAPS, unmap_each),
    op("unmap in one call", MAPS, unmap_all),
    op("read_dirty", FREE, read_dirty),
    op(
        "alloc_pasids and free, one by one",
        soft::MAX_PASIDS,
        pasids_each,
    ),
    op("alloc_pasids and free, a run", soft::MAX_PASIDS, pasids_run),
    op("bind, one by one", soft::MAX_BINDINGS, bind_each),
    op("unbind, one by one", soft::MAX_BINDINGS, unbind_each),
    op("unbind a device", soft::MAX_BINDINGS, unbind_device),
    op("take a device out", soft::MAX_BINDINGS, remove_device),
    op("rebind, one by one", soft::MAX_BINDINGS, rebind_each),
    op("flush, entries in one call", FREE, flush_entries),
    op("flush every binding", soft::MAX_BINDINGS, flush_all),
    op("host_pasid and guest_pasid", soft::MAX_BINDINGS, translate),
    op("export and import", soft::MAX_BINDINGS, move_bindings),
    op("map and unmap an address space", FREE, space_entries),
    op("destroy an address space", FREE, space_destroy),
    op("read and answer page requests", GROUPS, answer),
    op("close a queue with page requests", GROUPS, close_queue),
    op("listener: regions come and go", MAPS / 2, listener),
    op("shadow: bind a table", FREE, shadow_bind),
    op("shadow: flush a table, and unbind", FREE, shadow_unbind),
];

const fn op(name: &'static str, most: usize, make: fn(usize) -> Act) -> Operation {
    Operation { name, most, make }
}

fn done(kept: impl Any) -> Box<dyn Any> {
    Box::new(kept)
}

/// A context with a device, and 64 MiB of memory if it is to have any.
fn opened() -> (HostIommu, SoftBus) {
    let soft = Soft::new();
    let bus = soft.bus();
    bus.add(DEVICE, &SoftDeviceOptions::default()).unwrap();
    (HostIommu::new(soft), bus)
}

fn range(first: u64, pages: u64) -> IovaRange {
    IovaRange::sized(Iova(first), pages * PAGE).unwrap()
}

/// Above the addresses of interrupts, with a hole after each page.
fn place(number: usize) -> u64 {
    (1 << 32) + number as u64 * 2 * PAGE
}

fn map_page(host: &HostIommu, memory: &SharedMemory, number: usize) {
    let mapping = Mapping {
        memory,
        offset: 0,
        range: range(place(number), 1),
        access: MapAccess::ReadWrite,
    };
    host.map_part(&mapping).unwrap();
}

fn map_each(count: usize) -> Act {
    let (host, _) = opened();
    let memory = SharedMemory::new(c"page", PAGE as usize).unwrap();
    Box::new(move || {
        (0..count).for_each(|number| map_page(&host, &memory, number));
        done((host, memory))
    })
}

fn mapped(count: usize) -> HostIommu {
    let (host, _) = opened();
    let memory = SharedMemory::new(c"page", PAGE as usize).unwrap();
    (0..count).for_each(|number| map_page(&host, &memory, number));
    host
}

fn unmap_each(count: usize) -> Act {
    let host = mapped(count);
    Box::new(move || {
        for number in 0..count {
            assert_eq!(host.unmap(range(place(number), 1)).unwrap(), PAGE);
        }
        done(host)
    })
}

fn unmap_all(count: usize) -> Act {
    let host = mapped(count);
    Box::new(move || {
        let all = range(place(0), 2 * count as u64);
        assert_eq!(host.unmap(all).unwrap(), count as u64 * PAGE);
        done(host)
    })
}

fn read_dirty(count: usize) -> Act {
    let (host, _) = opened();
    let memory = SharedMemory::new(c"guest", count * PAGE as usize).unwrap();
    host.map(Iova(1 << 32), &memory, MapAccess::ReadWrite)
        .unwrap();
    host.track_dirty(true).unwrap();
    Box::new(move || {
        let dirty = host.read_dirty(range(1 << 32, count as u64)).unwrap();
        assert_eq!(dirty.len(), count.div_ceil(64));
        done(host)
    })
}

fn allocated(host: &HostIommu, count: usize) -> Vec<PasidAllocation> {
    let any = |_| host.alloc_pasids(&PasidRequest::any()).unwrap();
    (0..count).map(any).collect()
}

fn pasids_each(count: usize) -> Act {
    let (host, _) = opened();
    Box::new(move || {
        drop(allocated(&host, count));
        done(host)
    })
}

fn pasids_run(count: usize) -> Act {
    let (host, _) = opened();
    Box::new(move || {
        let request = PasidRequest {
            count: count as u32,
            ..PasidRequest::any()
        };
        let run = host.alloc_pasids(&request).unwrap();
        run.free().unwrap();
        done(host)
    })
}

/// Of the guest's number.
fn table(guest: usize) -> GuestTable {
    GuestTable::four_level(Gpa(PAGE)).with_guest_pasid(guest as u32 + 1)
}

/// What is bound, with its PASIDs.
type Bound = Vec<(Stage1Binding, PasidAllocation)>;

fn bind(host: &HostIommu, pasids: Vec<PasidAllocation>) -> Bound {
    let bind = |(guest, pasids): (usize, PasidAllocation)| {
        let bound = host.bind(DEVICE, &pasids, pasids.first(), &table(guest), None);
        (bound.unwrap(), pasids)
    };
    pasids.into_iter().enumerate().map(bind).collect()
}

fn bind_each(count: usize) -> Act {
    let (host, _) = opened();
    let pasids = allocated(&host, count);
    Box::new(move || done(bind(&host, pasids)))
}

fn bound(count: usize) -> (HostIommu, SoftBus, Bound) {
    let (host, bus) = opened();
    let pasids = allocated(&host, count);
    let bound = bind(&host, pasids);
    (host, bus, bound)
}

fn unbind_each(count: usize) -> Act {
    let (host, _, bound) = bound(count);
    Box::new(move || {
        drop(bound);
        assert!(host.export().is_empty());
        done(host)
    })
}

fn unbind_device(count: usize) -> Act {
    let (host, _, bound) = bound(count);
    Box::new(move || {
        host.unbind(Scope::Device(DEVICE)).unwrap();
        done(bound)
    })
}

fn remove_device(count: usize) -> Act {
    let (host, bus, bound) = bound(count);
    Box::new(move || {
        bus.remove(DEVICE).unwrap();
        assert!(host.export().is_empty());
        done(bound)
    })
}

fn rebind_each(count: usize) -> Act {
    let (host, _, mut bound) = bound(count);
    Box::new(move || {
        for (guest, (binding, _)) in bound.iter_mut().enumerate() {
            binding.rebind(&table(guest), None).unwrap();
        }
        done((host, bound))
    })
}

fn flush_entries(count: usize) -> Act {
    let (host, _, bound) = bound(1);
    let entries = (0..count).fold(Invalidation::new(), |all, number| {
        all.leaf(range(place(number), 1))
    });
    Box::new(move || {
        bound[0].0.flush(&entries).unwrap();
        done((host, bound))
    })
}

fn flush_all(count: usize) -> Act {
    let (host, _, bound) = bound(count);
    Box::new(move || {
        host.flush(Scope::All, &Invalidation::all()).unwrap();
        done(bound)
    })
}

fn translate(count: usize) -> Act {
    let (host, _, bound) = bound(count);
    Box::new(move || {
        for (guest, (binding, _)) in bound.iter().enumerate() {
            let guest = guest as u32 + 1;
            let number = Pasid::try_from(guest).unwrap();
            assert_eq!(host.host_pasid(DEVICE, number), Some(binding.pasid()));
            assert_eq!(host.guest_pasid(DEVICE, binding.pasid()), guest);
        }
        done(bound)
    })
}

fn move_bindings(count: usize) -> Act {
    let (host, _, bound) = bound(count);
    let (next, _) = opened();
    Box::new(move || {
        let imported = next.import(&host.export(), None).unwrap();
        assert_eq!(imported.len(), count);
        done((imported, bound))
    })
}

/// An address space over mapped memory, with its entries.
fn space(count: usize) -> (HostIommu, AddressSpace, Vec<AddressSpaceEntry>) {
    let (host, _) = opened();
    let memory = SharedMemory::new(c"guest", 256 * PAGE as usize).unwrap();
    host.map(Iova(0), &memory, MapAccess::ReadWrite).unwrap();
    let entry = |number: usize| AddressSpaceEntry {
        range: range(place(number), 1),
        gpa: Gpa(number as u64 % 256 * PAGE),
        access: MapAccess::ReadWrite,
    };
    let entries = (0..count).map(entry).collect();
    let space = host.address_space().unwrap();
    (host, space, entries)
}

fn space_entries(count: usize) -> Act {
    let (host, space, entries) = space(count);
    Box::new(move || {
        space.map(&entries).unwrap();
        let ranges: Vec<IovaRange> = entries.iter().map(|entry| entry.range).collect();
        space.unmap(&ranges).unwrap();
        done((host, space))
    })
}

fn space_destroy(count: usize) -> Act {
    let (host, space, entries) = space(count);
    space.map(&entries).unwrap();
    Box::new(move || {
        space.destroy().unwrap();
        done(host)
    })
}

/// Devices that have asked for a page each time.
struct Asked {
    queue: FaultQueue,
    _bound: Bound,
    _devices: Vec<SoftDevice>,
    _host: HostIommu,
}

fn asked(count: usize) -> Asked {
    let soft = Soft::new();
    let bus = soft.bus();
    let host = HostIommu::new(soft);
    let memory = SharedMemory::new(c"guest", PAGE as usize).unwrap();
    host.map(Iova(0), &memory, MapAccess::ReadWrite).unwrap();
    let devices: Vec<(Bdf, SoftDevice)> = (0..count.div_ceil(EACH))
        .map(|number| {
            let device = Bdf::new(0, (number / 256) as u8, (number % 256) as u8);
            (
                device,
                bus.add(device, &SoftDeviceOptions::default()).unwrap(),
            )
        })
        .collect();
    let queue = host.fault_queue(&FaultQueueOptions::nonblocking()).unwrap();
    let pasids = allocated(&host, devices.len());
    let bind = |(guest, pasids): (usize, PasidAllocation)| {
        let device = devices[guest].0;
        let bound = host.bind(device, &pasids, pasids.first(), &table(guest), Some(&queue));
        (bound.unwrap(), pasids)
    };
    let bound: Bound = pasids.into_iter().enumerate().map(bind).collect();
    for number in 0..count {
        let dma = Dma::read(Iova(place(number)), 8).at(bound[number / EACH].0.pasid());
        devices[number / EACH].1.submit(dma).unwrap();
    }
    Asked {
        queue,
        _bound: bound,
        _devices: devices.into_iter().map(|(_, device)| device).collect(),
        _host: host,
    }
}

fn groups(queue: &FaultQueue) -> Vec<FaultGroup> {
    let mut groups = Vec::new();
    while let FaultRead::Events(events) = queue.read().unwrap() {
        groups.extend(events.into_iter().map(|event| match event {
            FaultEvent::PageRequests(group) => group,
            other => panic!("{other:?}"),
        }));
    }
    groups
}

fn answer(count: usize) -> Act {
    let asked = asked(count);
    Box::new(move || {
        // All are outstanding before the first is answered.
        let groups = groups(&asked.queue);
        assert_eq!(groups.len(), count);
        for group in groups {
            group.respond(Response::Invalid).unwrap();
        }
        done(asked)
    })
}

fn close_queue(count: usize) -> Act {
    let asked = asked(count);
    Box::new(move || {
        let Asked {
            queue,
            _bound,
            _devices,
            _host,
        } = asked;
        drop(queue);
        done((_bound, _devices, _host))
    })
}

type Region = GuestRegionMmap<()>;

fn listener(count: usize) -> Act {
    let (host, _) = opened();
    let file = SharedMemory::new(c"page", PAGE as usize).unwrap();
    let file = Arc::new(file.file().try_clone().unwrap());
    let region = |number: usize| {
        let place_in_file = FileOffset::from_arc(file.clone(), 0);
        let mapped = MmapRegion::from_file(place_in_file, PAGE as usize).unwrap();
        Arc::new(Region::new(mapped, GuestAddress(place(number))).unwrap())
    };
    let all: Vec<Arc<Region>> = (0..count).map(region).collect();
    let half: Vec<Arc<Region>> = all.iter().step_by(2).cloned().collect();
    let all = GuestMemoryMmap::from_arc_regions(all).unwrap();
    let half = GuestMemoryMmap::from_arc_regions(half).unwrap();
    let mut listener = RegionListener::new(host);
    Box::new(move || {
        for memory in [&all, &half, &all] {
            assert!(listener.update(memory).unwrap().is_empty());
        }
        done((listener, all, half))
    })
}

/// Where a table's pages begin in guest memory, and the page that all its entries lead to.
const ROOT: u64 = PAGE;
const LEAF: u64 = 0;

/// A shadow, and a guest's first-stage table of so many pages (VT-d 4.1, 9.8).
fn shadowed(count: usize) -> (HostIommu, PasidAllocation) {
    let tables = count.div_ceil(512) as u64 + 4;
    let length = (tables + 1) * PAGE;
    let memory = SharedMemory::new(c"guest", length as usize).unwrap();
    let file = FileOffset::new(memory.file().try_clone().unwrap(), 0);
    let guest: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), length as usize, Some(file))])
            .unwrap();
    let entry = |table: u64, index: u64, to: u64| {
        let at = GuestAddress(table + index * 8);
        guest.write_obj(to | 7, at).unwrap();
    };
    let (third, second) = (ROOT + PAGE, ROOT + 2 * PAGE);
    entry(ROOT, 0, third);
    entry(third, 0, second);
    for number in 0..count as u64 {
        let last = ROOT + (3 + number / 512) * PAGE;
        if number % 512 == 0 {
            entry(second, number / 512, last);
        }
        entry(last, number % 512, LEAF);
    }
    let soft = Soft::new();
    soft.bus()
        .add(DEVICE, &SoftDeviceOptions::default())
        .unwrap();
    let shadow = Shadow::over(soft, Arc::new(guest), Shadowing::EveryChange).unwrap();
    let host = HostIommu::new(shadow);
    host.map(Iova(0), &memory, MapAccess::ReadWrite).unwrap();
    let pasids = host.alloc_pasids(&PasidRequest::any()).unwrap();
    (host, pasids)
}

fn shadow_bind(count: usize) -> Act {
    let (host, pasids) = shadowed(count);
    Box::new(move || {
        let table = GuestTable::four_level(Gpa(ROOT));
        let bound = host
            .bind(DEVICE, &pasids, pasids.first(), &table, None)
            .unwrap();
        assert_eq!(host.stats().unwrap().address_space_entries, count as u64);
        done((bound, pasids))
    })
}

fn shadow_unbind(count: usize) -> Act {
    let (host, pasids) = shadowed(count);
    let table = GuestTable::four_level(Gpa(ROOT));
    let mut bound = host
        .bind(DEVICE, &pasids, pasids.first(), &table, None)
        .unwrap();
    Box::new(move || {
        bound.flush(&Invalidation::all()).unwrap();
        bound.unbind().unwrap();
        done((bound, pasids, host))
    })
}
