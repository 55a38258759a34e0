// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shadows of tables that change, beside the two-stage walk of `soft`.

mod cost;
mod requests;

use super::*;
use crate::memory::PAGE;
use crate::stage1::{entry, Table};
use host_iommu::backend::soft::{Dma, DmaEnd, DmaId, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::shadow::{Shadow, MAX_ENTRIES};
use host_iommu::{
    Bdf, Binding, Error, FaultEvent, FaultGroup, FaultQueue, FaultQueueOptions, FaultRead, Gpa,
    GuestTable, HostIommu, HostIommuContext, Invalidation, InvalidationEntry, Iova, IovaRange,
    MapAccess, Mapping, PasidAllocation, PasidRequest, Response, Scope, Shadowing, Stage1Binding,
    Support, TableFormat,
};
use nix::errno::Errno;
use proptest::prelude::*;
use std::time::Duration;

const SIZE: u64 = 8 << 20;
/// From here on devices may only read.
const READ_ONLY: u64 = 4 << 20;
/// From here on there is stage 2 only at times.
const SOMETIMES: u64 = 6 << 20;
const GIB: u64 = 1 << 30;
const DEVICE: Bdf = Bdf::new(0, 0, 8);

/// Tables lie from here on, where no test writes.
const TABLES: u64 = (2 << 20) + (64 << 10);
const TABLES_END: u64 = 3 << 20;

/// Each page holds its address.
fn filled() -> GuestMemory {
    let memory = GuestMemory::new(0, SIZE).expect("memory");
    for page in (0..SIZE).step_by(PAGE as usize) {
        if !(TABLES..TABLES_END).contains(&page) {
            memory.write_u64(page, page);
        }
    }
    memory
}

fn range(start: u64, size: u64) -> IovaRange {
    IovaRange::sized(Iova(start), size).expect("a range")
}

/// A context with a device, memory and a table that is bound, or will be.
struct World {
    host: HostIommu,
    device: SoftDevice,
    pasids: PasidAllocation,
    table: GuestTable,
    binding: Option<Stage1Binding>,
    /// What it asks for, if it does: the guest refuses all that comes here.
    queue: Option<FaultQueue>,
}

impl World {
    fn new(soft: Soft, wrap: impl FnOnce(Soft) -> HostIommu, table: GuestTable) -> Self {
        let device = soft.bus().add(DEVICE, &SoftDeviceOptions::default());
        let device = device.expect("a device");
        let host = wrap(soft);
        let pasids = host.alloc_pasids(&PasidRequest::any()).expect("a PASID");
        Self {
            host,
            device,
            pasids,
            table,
            binding: None,
            queue: None,
        }
    }

    fn map(&self, memory: &GuestMemory, start: u64, end: u64, access: MapAccess) {
        let mapping = Mapping {
            memory: memory.shared(),
            offset: start,
            range: range(start, end - start),
            access,
        };
        self.host.map_part(&mapping).expect("a mapping");
    }

    fn bind(&mut self) {
        let pasid = self.pasids.first();
        let bound = self.host.bind(
            DEVICE,
            &self.pasids,
            pasid,
            &self.table,
            self.queue.as_ref(),
        );
        self.binding = Some(bound.expect("a binding"));
    }

    fn flush(&self, what: IovaRange) {
        if let Some(binding) = &self.binding {
            let flushed = binding.flush(&Invalidation::new().range(what));
            flushed.expect("an invalidation");
        }
    }

    fn dma(&self, dma: Dma) -> Option<Vec<u8>> {
        let dma = dma.at(self.pasids.first());
        let Some(queue) = &self.queue else {
            let end = self.device.run(dma.no_page_requests(), Duration::ZERO);
            return match end.expect("a DMA") {
                Some(DmaEnd::Done(bytes)) => Some(bytes),
                _ => None,
            };
        };
        let asking = self.device.submit(dma).expect("a DMA");
        // Each page is asked for once.
        for _ in 0..8 {
            match self.device.wait(asking, Duration::ZERO) {
                Some(DmaEnd::Done(bytes)) => return Some(bytes),
                Some(_) => return None,
                // Events are groups, which are answered INVALID when they are dropped.
                None => drop(queue.read().expect("a read")),
            }
        }
        panic!("a DMA without end");
    }
}

fn native(root: u64) -> World {
    let table = GuestTable::four_level(Gpa(root));
    World::new(Soft::new(), HostIommu::new, table)
}

fn shadowed(memory: &GuestMemory, root: u64, shadowing: Shadowing) -> World {
    let view = view(memory).expect("a view");
    let format = match shadowing {
        Shadowing::CachingMode => TableFormat::SecondStage,
        _ => TableFormat::FirstStage,
    };
    let table = GuestTable {
        format,
        ..GuestTable::four_level(Gpa(root))
    };
    let over = |soft| HostIommu::new(Shadow::over(soft, view, shadowing).expect("a shadow"));
    World::new(Soft::new(), over, table)
}

/// One whose holes are filled by page requests, and whose guest refuses the others.
fn asking(memory: &GuestMemory, root: u64) -> World {
    let world = shadowed(memory, root, Shadowing::PageRequests);
    let queue = world.host.fault_queue(&FaultQueueOptions::nonblocking());
    World {
        queue: Some(queue.expect("a queue")),
        ..world
    }
}

/// Where the tests change a table: small pages of two tables, large ones, a huge one.
const PLACES: [(u64, u32); 9] = [
    (0x7f00_0000_0000, 1),
    (0x7f00_0000_1000, 1),
    (0x7f00_0000_7000, 1),
    (0x7f00_0020_0000, 1),
    (0x7f00_0000_0000, 2),
    (0x7f00_0020_0000, 2),
    (0x7f00_0060_0000, 2),
    (0x40_0000_0000, 3),
    (0x7f00_0000_0000, 3),
];

#[derive(Clone, Debug)]
enum Change {
    /// A leaf at a place leads to the page, or large page, around a GPA.
    Leaf {
        place: usize,
        gpa: u64,
        user: bool,
        write: bool,
    },
    /// Nothing is there any more.
    Clear { place: usize },
    /// The table at a place allows this.
    Rights {
        place: usize,
        user: bool,
        write: bool,
    },
    /// Memory comes and goes.
    Memory,
    /// Something else is invalidated.
    Flush { place: usize, pages: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let place = 0..PLACES.len();
    let leaf = (
        place.clone(),
        0..SIZE + (1 << 21),
        any::<bool>(),
        any::<bool>(),
    );
    prop_oneof![
        8 => leaf.prop_map(|(place, gpa, kernel, write)| Change::Leaf {
            place,
            gpa,
            // Mostly a user's.
            user: !kernel || gpa % 3 != 0,
            write,
        }),
        2 => place.clone().prop_map(|place| Change::Clear { place }),
        2 => (place.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(place, user, write)| Change::Rights { place, user, write }),
        1 => Just(Change::Memory),
        1 => (place, 1..600u64).prop_map(|(place, pages)| Change::Flush { place, pages }),
    ]
}

/// A table in each format, kept alike.
struct Tables<'m> {
    first: Table<'m>,
    second: Table<'m>,
}

fn size(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

impl Tables<'_> {
    /// The entries as each format has them. A present entry without U/S is none for a user.
    fn set(&self, at: u64, level: u32, address: u64, user: bool, write: bool, large: bool) {
        // A leaf above gives way.
        for above in (level + 1..=3).rev() {
            if self
                .first
                .entry(at, above)
                .is_some_and(|value| value & entry::LARGE != 0)
            {
                self.first.set_entry(at, above, 0);
                self.second.set_entry(at, above, 0);
            }
        }
        let large = if large { entry::LARGE } else { 0 };
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let first = entry::PRESENT | bit(user, entry::USER) | bit(write, entry::WRITE);
        let second = bit(user, 1) | bit(user && write, 2);
        self.first.set_entry(at, level, address | first | large);
        self.second.set_entry(at, level, address | second | large);
    }

    /// Whether something of a place is known to whoever has seen the tables.
    fn is_present(&self, at: u64, level: u32) -> bool {
        (level..=3).any(|level| {
            let value = self.first.entry(at, level).unwrap_or(0);
            value & entry::PRESENT != 0 && (value & entry::LARGE != 0 || level == 1)
        }) || self
            .first
            .entry(at, level)
            .is_some_and(|value| value & 1 != 0)
    }

    fn clear(&self, at: u64, level: u32) {
        let above = (level + 1..=3).any(|above| {
            let value = self.first.entry(at, above);
            value.is_none_or(|value| value & 1 == 0 || value & entry::LARGE != 0)
        });
        if !above {
            self.first.set_entry(at, level, 0);
            self.second.set_entry(at, level, 0);
        }
    }

    /// Of a table that is there; each format has its own.
    fn rights(&self, at: u64, level: u32, user: bool, write: bool) {
        let (Some(first), Some(second)) =
            (self.first.entry(at, level), self.second.entry(at, level))
        else {
            return;
        };
        if level == 1 || first & 1 == 0 || first & entry::LARGE != 0 {
            return;
        }
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let rights = entry::PRESENT | bit(user, entry::USER) | bit(write, entry::WRITE);
        self.first
            .set_entry(at, level, first & entry::ADDRESS | rights);
        // Some right has to stay, or Table takes it for none.
        let rights = bit(user, 1) | bit(user && write, 2);
        if rights == 0 {
            self.first
                .set_entry(at, level, first & entry::ADDRESS | entry::RW);
            self.second
                .set_entry(at, level, second & entry::ADDRESS | 3);
        } else {
            self.second
                .set_entry(at, level, second & entry::ADDRESS | rights);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn shadow_translates_as_two_stages_do(
        before in prop::collection::vec(change(), 0..12),
        after in prop::collection::vec(change(), 1..24),
    ) {
        let memory = filled();
        memory.alloc(TABLES, PAGE);
        let tables = Tables {
            first: Table::new(&memory),
            second: Table::new(&memory),
        };
        let worlds = [
            native(tables.first.root()),
            shadowed(&memory, tables.first.root(), Shadowing::EveryChange),
            shadowed(&memory, tables.second.root(), Shadowing::CachingMode),
            asking(&memory, tables.first.root()),
        ];
        run(&memory, &tables, worlds, &before, &after)?;
    }
}

fn run(
    memory: &GuestMemory,
    tables: &Tables<'_>,
    mut worlds: [World; 4],
    before: &[Change],
    after: &[Change],
) -> Result<(), TestCaseError> {
    for world in &worlds {
        world.map(memory, 0, READ_ONLY, MapAccess::ReadWrite);
        world.map(memory, READ_ONLY, SOMETIMES, MapAccess::Read);
    }
    let mut more = false;
    let mut stamp = 0u64;
    for (step, change) in before.iter().chain(after).enumerate() {
        if step == before.len() {
            worlds.iter_mut().for_each(World::bind);
        }
        // Linux tells nobody of what becomes present in the first stage.
        let told = match *change {
            Change::Leaf { place, .. } | Change::Clear { place } | Change::Rights { place, .. } => {
                tables.is_present(PLACES[place].0, PLACES[place].1)
            }
            Change::Memory | Change::Flush { .. } => true,
        };
        let (place, pages) = match *change {
            Change::Leaf {
                place,
                gpa,
                user,
                write,
            } => {
                let (at, level) = PLACES[place];
                let tables_there = level == 1 && (TABLES..TABLES_END).contains(&gpa);
                let gpa = if tables_there { gpa + (1 << 20) } else { gpa };
                let target = gpa & !(size(level) - 1);
                tables.set(at, level, target, user, write, level > 1);
                (place, 1)
            }
            Change::Clear { place } => {
                tables.clear(PLACES[place].0, PLACES[place].1);
                (place, 1)
            }
            Change::Rights { place, user, write } => {
                tables.rights(PLACES[place].0, PLACES[place].1, user, write);
                (place, 1)
            }
            Change::Memory => {
                for world in &worlds {
                    if more {
                        let part = range(SOMETIMES, SIZE - SOMETIMES);
                        world.host.unmap(part).expect("an unmapping");
                    } else {
                        world.map(memory, SOMETIMES, SIZE, MapAccess::ReadWrite);
                    }
                }
                more = !more;
                continue;
            }
            Change::Flush { place, pages } => (place, pages),
        };
        let (at, level) = PLACES[place];
        // A leaf above that gave way reached further.
        let what = match change {
            Change::Flush { .. } => range(at, pages * PAGE),
            _ => range(at & !(GIB - 1), GIB.max(size(level))),
        };
        let [others @ .., asking] = &worlds;
        others.iter().for_each(|world| world.flush(what));
        if told {
            asking.flush(what);
        }
    }
    for (at, level) in PLACES {
        for offset in [0, PAGE, size(level) - PAGE, 0x3f_f000, 0x50_0000, 0x70_0008] {
            let at = Iova(at + offset);
            let [native, first, second, asking] = &worlds;
            let seen = native.dma(Dma::read(at, 8));
            prop_assert_eq!(&first.dma(Dma::read(at, 8)), &seen, "first, read {}", at);
            prop_assert_eq!(&second.dma(Dma::read(at, 8)), &seen, "second, read {}", at);
            prop_assert_eq!(&asking.dma(Dma::read(at, 8)), &seen, "asking, read {}", at);
        }
    }
    for (at, _) in PLACES.into_iter().filter(|place| place.1 == 1) {
        let at = Iova(at + 8);
        let mut ends = Vec::new();
        for world in &worlds {
            stamp += 1;
            let end = world.dma(Dma::write(at, &stamp.to_le_bytes()));
            if end.is_some() {
                let seen = worlds[0].dma(Dma::read(at, 8));
                prop_assert_eq!(
                    seen,
                    Some(stamp.to_le_bytes().to_vec()),
                    "written at {}",
                    at
                );
            }
            ends.push(end.is_some());
        }
        prop_assert!(
            ends.iter().all(|&end| end == ends[0]),
            "writes at {}: {:?}",
            at,
            ends
        );
    }
    Ok(())
}

/// The only table of a test, which maps [`AT`] to [`PAGE_0`], in the second stage's format.
fn one(memory: &GuestMemory) -> Table<'_> {
    memory.alloc(TABLES, PAGE);
    let table = Table::new(memory);
    table.set_entry(AT, 1, PAGE_0 | 3);
    table
}

const AT: u64 = 0x4000_0000;
const PAGE_0: u64 = 0x5000;
const PAGE_1: u64 = 0x6000;

fn caching(memory: &GuestMemory, root: u64) -> World {
    let world = shadowed(memory, root, Shadowing::CachingMode);
    world.map(memory, 0, SIZE, MapAccess::ReadWrite);
    world
}

fn value(gpa: u64) -> Option<Vec<u8>> {
    Some(gpa.to_le_bytes().to_vec())
}

#[test]
fn change_is_seen_at_its_invalidation_and_not_before() {
    let memory = filled();
    let table = one(&memory);
    let mut world = caching(&memory, table.root());
    world.bind();
    let read = |world: &World, at| world.dma(Dma::read(Iova(at), 8));
    assert_eq!(read(&world, AT), value(PAGE_0));
    table.set_entry(AT, 1, PAGE_1 | 1);
    table.set_entry(AT + PAGE, 1, PAGE_0 | 1);
    assert_eq!(read(&world, AT), value(PAGE_0));
    world.flush(range(AT + PAGE, PAGE));
    assert_eq!(read(&world, AT), value(PAGE_0));
    assert_eq!(read(&world, AT + PAGE), value(PAGE_0));
    world.flush(range(AT, PAGE));
    assert_eq!(read(&world, AT), value(PAGE_1));
    assert_eq!(world.dma(Dma::write(Iova(AT), &[1; 8])), None);
    table.set_entry(AT, 1, PAGE_0 | 2);
    world.flush(range(AT, PAGE));
    assert_eq!(read(&world, AT), None);
    assert_eq!(world.dma(Dma::write(Iova(AT + 8), &[1; 8])), Some(vec![]));
    assert_eq!(memory.read_u64(PAGE_0 + 8), 0x0101_0101_0101_0101);
    assert_eq!(table.entry(AT, 1), Some(PAGE_0 | 2), "no flags are set");
    world.binding = None;
    assert_eq!(read(&world, AT + PAGE), None);
    let stats = world.host.stats().expect("counters");
    assert_eq!((stats.address_spaces, stats.address_space_entries), (0, 0));
    assert_eq!(stats.invalidations, 3);
}

#[test]
fn memory_that_goes_and_comes_is_followed() {
    let memory = filled();
    let table = one(&memory);
    let mut world = caching(&memory, table.root());
    world.bind();
    let read = || world.dma(Dma::read(Iova(AT), 8));
    assert_eq!(read(), value(PAGE_0));
    let all = range(0, SIZE);
    assert_eq!(world.host.unmap(all).expect("an unmapping"), SIZE);
    assert_eq!(read(), None);
    world.map(&memory, 0, SIZE, MapAccess::ReadWrite);
    assert_eq!(read(), value(PAGE_0));
}

#[test]
fn table_that_the_promise_does_not_cover_is_refused() {
    let memory = filled();
    let table = one(&memory);
    let world = caching(&memory, table.root());
    let pasid = world.pasids.first();
    let nesting = world.host.capabilities().expect("capabilities").nesting;
    let nesting = nesting.expect("nesting");
    assert_eq!(nesting.shadowed, Some(Shadowing::CachingMode));
    assert_eq!(nesting.stage1, Support::Present);
    assert!(!nesting.page_requests.is_present() && nesting.rid);
    let queue = world.host.fault_queue(&FaultQueueOptions::default());
    let queue = queue.expect("a queue");
    let tries = [
        (
            GuestTable::four_level(Gpa(table.root())),
            None,
            "first stage",
        ),
        (world.table, Some(&queue), "page requests"),
        (
            GuestTable {
                supervisor: true,
                ..world.table
            },
            None,
            "supervisor",
        ),
        (
            GuestTable {
                root: Gpa(table.root() + 8),
                ..world.table
            },
            None,
            "no page",
        ),
    ];
    for (table, faults, why) in tries {
        let refused = world
            .host
            .bind(DEVICE, &world.pasids, pasid, &table, faults);
        let error = refused.expect_err(why);
        assert!(matches!(error, Error::NotShadowed { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP as i32));
    }
    let native = native(table.root());
    native.map(&memory, 0, SIZE, MapAccess::ReadWrite);
    let refused = native.host.bind(
        DEVICE,
        &native.pasids,
        native.pasids.first(),
        &world.table,
        None,
    );
    let errno = refused
        .expect_err("hosts nest first-stage tables only")
        .errno();
    assert_eq!(errno, Some(Errno::EOPNOTSUPP as i32));
}

#[test]
fn table_in_the_upper_half_is_refused_and_one_of_the_kernels_is_not() {
    let memory = filled();
    memory.alloc(TABLES, PAGE);
    let table = Table::new(&memory);
    let upper = 0xffff_8000_0000_0000;
    table.map(AT, PAGE_0, entry::RW);
    table.map(upper, PAGE_0, entry::PRESENT | entry::WRITE);
    let mut world = shadowed(&memory, table.root(), Shadowing::EveryChange);
    world.map(&memory, 0, SIZE, MapAccess::ReadWrite);
    world.bind();
    assert_eq!(world.dma(Dma::read(Iova(AT), 8)), value(PAGE_0));
    world.binding = None;
    table.map(upper, PAGE_0, entry::RW);
    let pasid = world.pasids.first();
    let refused = world
        .host
        .bind(DEVICE, &world.pasids, pasid, &world.table, None);
    let errno = refused.expect_err("a user's page").errno();
    assert_eq!(errno, Some(Errno::EOPNOTSUPP as i32));
    assert_eq!(world.host.stats().expect("counters").address_spaces, 0);
}

#[test]
fn table_without_end_is_refused_and_what_was_shadowed_follows_it() {
    let memory = filled();
    memory.alloc(TABLES, PAGE);
    let table = Table::new(&memory);
    table.set_entry(AT, 1, PAGE_0 | 3);
    let mut world = caching(&memory, table.root());
    world.bind();
    let leaves = memory.alloc_page();
    // Every entry of each level leads to the one table below, and that to a page.
    let mut below = PAGE_0;
    for _ in 1..=3 {
        for index in 0..512 {
            memory.write_u64(leaves + 8 * index, below | 3);
        }
        below = leaves;
    }
    for index in 0..512 {
        memory.write_u64(table.root() + 8 * index, leaves | 3);
    }
    let binding = world.binding.take().expect("a binding");
    let flushed = binding.flush(&Invalidation::all());
    let error = flushed.expect_err("too many entries");
    assert_eq!(error.errno(), Some(Errno::EDQUOT as i32), "{error}");
    // The entry that was there is put in anew before those that find no room.
    let now = (leaves | 3).to_le_bytes().to_vec();
    assert_eq!(world.dma(Dma::read(Iova(AT), 8)), Some(now));
    drop(binding);
    let pasid = world.pasids.first();
    let refused = world
        .host
        .bind(DEVICE, &world.pasids, pasid, &world.table, None);
    let error = refused.expect_err("too many entries");
    assert_eq!(error.errno(), Some(Errno::EDQUOT as i32), "{error}");
    // The same without a leaf: no entries, and still no end.
    let empty = memory.alloc_page();
    let middle = memory.alloc_page();
    for index in 0..512 {
        memory.write_u64(middle + 8 * index, empty | 3);
        memory.write_u64(leaves + 8 * index, middle | 3);
    }
    let refused = world
        .host
        .bind(DEVICE, &world.pasids, pasid, &world.table, None);
    let error = refused.expect_err("too many tables");
    assert_eq!(error.errno(), Some(Errno::EDQUOT as i32), "{error}");
    let stats = world.host.stats().expect("counters");
    assert_eq!((stats.address_spaces, stats.address_space_entries), (0, 0));
}
