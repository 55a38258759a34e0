// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the fuzzer's threads share: two containers with devices, memory, stage-1 tables, fault
//! queues. It is made anew for each world, and what it leaves behind is looked for.

use host_iommu_bindings::uapi::{
    vfio_ioasid_device, VFIO_IOASID_FAULT_QUEUE_NONBLOCK, VFIO_IOASID_IOMMU,
    VFIO_IOASID_RESPONSE_INVALID,
};
use host_iommu_tests::ktap::{fail, patience, Outcome};
use host_iommu_tests::memory::PAGE;
use host_iommu_tests::rig::{
    all_endpoints, held_bytes, wait_for_module_references, Canary, Container, Dma, Endpoint,
    FaultQueue, Group, Memory, GUEST_BASE,
};
use host_iommu_tests::stage1::{entry, Table};
use host_iommu_tests::vfio::Device;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of the guest's memory.
pub const MEMORY: u64 = 1 << 20;
/// Bytes of what is mapped and unmapped beside it.
pub const SPARE: u64 = 4 << 20;
/// Where the tables map pages.
pub const GVA: u64 = 0x3456_7800_0000;
/// Tables.
pub const TABLES: usize = 3;
/// Pages that each maps from [`GVA`] on.
const PAGES: u64 = 4;
/// Places for fault queues.
pub const QUEUES: usize = 6;
/// Cookies and ids that are remembered.
const REMEMBERED: usize = 32;

/// Locks, whoever died with the lock held.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that is open.
pub struct Open {
    /// Its registers.
    pub dma: Dma,
    device: Device,
}

impl Open {
    fn new(group: &Group, endpoint: &Endpoint) -> Outcome<Self> {
        let device = group.device(endpoint)?;
        device.set_bus_master(true)?;
        let dma = Dma::of(&device)?;
        Ok(Self { dma, device })
    }

    /// A function-level reset.
    pub fn reset(&self) {
        // A reset that the host refuses is as good as none.
        let _ = self.device.reset();
        let _ = self.device.set_bus_master(true);
    }
}

/// The groups of a container.
struct Groups {
    group: Group,
    second: Option<Group>,
    second_attached: bool,
}

/// A container, a device of its own, and a group that comes and goes.
pub struct Side {
    endpoint: Endpoint,
    second: Option<Endpoint>,
    container: Mutex<Option<Arc<Container>>>,
    groups: Mutex<Option<Groups>>,
    device: Mutex<Option<Open>>,
}

impl Side {
    fn open(endpoint: Endpoint, second: Option<Endpoint>) -> Outcome<Self> {
        let group = Group::open(&endpoint)?;
        let second_group = second.as_ref().map(Group::open).transpose()?;
        let container = Container::open()?;
        Ok(Self {
            endpoint,
            second,
            container: Mutex::new(Some(Arc::new(container))),
            groups: Mutex::new(Some(Groups {
                group,
                second: second_group,
                second_attached: false,
            })),
            device: Mutex::new(None),
        })
    }

    /// The container, unless the world ends.
    pub fn container(&self) -> Option<Arc<Container>> {
        lock(&self.container).clone()
    }

    /// The name of its device.
    pub fn id(&self) -> vfio_ioasid_device {
        self.endpoint.id()
    }

    /// The name of the device that comes and goes.
    pub fn second_id(&self) -> vfio_ioasid_device {
        self.second.unwrap_or(self.endpoint).id()
    }

    /// Works with the device, if it is open and nobody resets or closes it.
    pub fn with_device(&self, with: impl FnOnce(&Open)) {
        if let Ok(device) = self.device.try_lock() {
            if let Some(open) = &*device {
                with(open);
            }
        }
    }

    /// Closes the device and takes its group out of the container: the container's end, if no
    /// other group is in it.
    pub fn detach(&self) {
        if let Some(groups) = &*lock(&self.groups) {
            *lock(&self.device) = None;
            let _ = groups.group.unset_container();
        }
    }

    /// Brings the group into the container and opens the device.
    pub fn attach(&self, memory: &Memory) {
        let (Some(container), Some(groups)) = (self.container(), &*lock(&self.groups)) else {
            return;
        };
        let mut device = lock(&self.device);
        if device.is_some() {
            return;
        }
        // What of it is so already is refused.
        let _ = groups.group.set_container(&container);
        let _ = container.set_iommu(VFIO_IOASID_IOMMU);
        let _ = container.map(memory, memory.base());
        let _ = container.pasid_alloc(1, 5, 5);
        *device = Open::new(&groups.group, &self.endpoint).ok();
    }

    /// Takes the second group in, or out.
    pub fn toggle_second(&self) {
        let (Some(container), Some(groups)) = (self.container(), &mut *lock(&self.groups)) else {
            return;
        };
        let Some(second) = &groups.second else { return };
        let changed = match groups.second_attached {
            false => second.set_container(&container),
            true => second.unset_container(),
        };
        groups.second_attached ^= changed.is_ok();
    }

    /// Closes it all, in one of the orders, whoever is in a call.
    fn close(&self, order: u8) {
        let close_device = || drop(lock(&self.device).take());
        let close_groups = || drop(lock(&self.groups).take());
        let close_container = || drop(lock(&self.container).take());
        match order % 3 {
            0 => (close_device(), close_groups(), close_container()),
            1 => (close_container(), close_device(), close_groups()),
            _ => (close_groups(), close_container(), close_device()),
        };
    }
}

/// A stage-1 table whose entries are written as they are.
pub struct Stage1 {
    /// GPA of the level-4 page.
    pub root: u64,
    /// GPA of the entry for [`GVA`] by level from 1 to 4, and its value at first.
    entries: [(u64, u64); 4],
}

impl Stage1 {
    fn new(memory: &Memory) -> Outcome<Self> {
        let table = Table::new(memory);
        for page in 0..PAGES {
            table.map(GVA + page * PAGE, memory.alloc_page(), entry::RW);
        }
        let mut entries = [(0, 0); 4];
        for (level, place) in (1..).zip(&mut entries) {
            let Some(at) = table.entry_at(GVA, level) else {
                return fail("a table without its entry");
            };
            *place = (at, memory.read_u64(at));
        }
        let root = table.root();
        Ok(Self { root, entries })
    }

    /// GPA of the entry of that level for [`GVA`], for one of the pages at level 1.
    pub fn entry(&self, level: u8, page: u8) -> u64 {
        let level = usize::from(level) % 4;
        let page = if level == 0 { u64::from(page) % 8 } else { 0 };
        self.entries[level].0 + 8 * page
    }

    /// What the entry for [`GVA`] of that level was at first.
    pub fn first(&self, level: u8) -> u64 {
        self.entries[usize::from(level) % 4].1
    }
}

/// The last values of a kind that calls gave.
pub struct Remembered {
    values: [AtomicU64; REMEMBERED],
    next: AtomicU32,
}

impl Remembered {
    fn new() -> Self {
        Self {
            values: [const { AtomicU64::new(0) }; REMEMBERED],
            next: AtomicU32::new(0),
        }
    }

    /// Remembers one more.
    pub fn add(&self, value: u64) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        self.values[at % REMEMBERED].store(value, Ordering::Relaxed);
    }

    /// One of them: zero is the newest.
    pub fn get(&self, back: u8) -> u64 {
        let next = self.next.load(Ordering::Relaxed) as usize;
        let at = next.wrapping_sub(1 + usize::from(back) % REMEMBERED);
        self.values[at % REMEMBERED].load(Ordering::Relaxed)
    }
}

/// A world.
pub struct World {
    /// The containers.
    pub sides: [Side; 2],
    /// The guest's memory, at its GPAs in both.
    pub memory: Memory,
    /// Memory that is mapped elsewhere.
    pub spare: Memory,
    /// Where bitmaps go.
    pub bitmap: Memory,
    /// The guest's tables.
    pub tables: Vec<Stage1>,
    /// Fault queues.
    pub queues: [Mutex<Option<Arc<FaultQueue>>>; QUEUES],
    /// Cookies of groups.
    pub cookies: Remembered,
    /// Address spaces.
    pub spaces: Remembered,
}

impl World {
    /// Opens everything.
    ///
    /// # Errors
    ///
    /// If that cannot be done: nothing of the last world may be in the way.
    pub fn open() -> Outcome<Self> {
        let memory = Memory::at(GUEST_BASE, MEMORY)?;
        let (mut alone, mut shared) = (Vec::new(), Vec::new());
        for endpoint in all_endpoints() {
            let list = if endpoint.is_alone() {
                &mut alone
            } else {
                &mut shared
            };
            list.push(endpoint);
        }
        let mut alone = alone.into_iter();
        let (Some(first), Some(second)) = (alone.next(), alone.next()) else {
            return fail("fewer than two endpoints are alone in their groups");
        };
        let world = Self {
            sides: [
                Side::open(first, alone.next())?,
                Side::open(second, shared.first().copied().or_else(|| alone.next()))?,
            ],
            spare: Memory::new(SPARE)?,
            bitmap: Memory::new(PAGE)?,
            tables: (0..TABLES)
                .map(|_| Stage1::new(&memory))
                .collect::<Outcome<_>>()?,
            memory,
            queues: [const { Mutex::new(None) }; QUEUES],
            cookies: Remembered::new(),
            spaces: Remembered::new(),
        };
        for side in &world.sides {
            side.attach(&world.memory);
            if lock(&side.device).is_none() {
                return fail("a device cannot be opened");
            }
        }
        let Some(container) = world.sides[0].container() else {
            return fail("the container is gone");
        };
        for queue in world.queues.iter().take(2) {
            let made = container.fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 64)?;
            *lock(queue) = Some(Arc::new(made));
        }
        world.spaces.add(u64::from(container.as_create()?));
        Ok(world)
    }

    /// Ends the containers under whoever is in a call; what waits for them goes on.
    pub fn end(&self, order: u8) {
        for (index, side) in (0..).zip(&self.sides) {
            side.close(order.wrapping_add(index));
        }
        for queue in &self.queues {
            if let Some(queue) = lock(queue).as_ref() {
                let _ = queue.respond(self.cookies.get(0), VFIO_IOASID_RESPONSE_INVALID);
            }
        }
    }
}

/// What must be as it was when a world has gone.
pub struct Before {
    canary: Canary,
    locked: u64,
}

impl Before {
    /// Before the first world.
    pub fn new() -> Outcome<Self> {
        Ok(Self {
            canary: Canary::new()?,
            locked: held_bytes()?,
        })
    }

    /// Where memory is that no device was given.
    pub fn canary(&self) -> u64 {
        self.canary.address()
    }

    /// Looks for what a world left behind: references to the module, containers, PASIDs, domains,
    /// locked memory, writes where no device may write.
    ///
    /// # Errors
    ///
    /// If there is something.
    pub fn check(&self) -> Outcome {
        let mut waits = 1..patience().max(1);
        while let Err(error) = wait_for_module_references(0) {
            if waits.next().is_none() {
                return Err(error);
            }
        }
        let text = fs::read_to_string("/sys/kernel/debug/vfio_ioasid/module")?;
        let numbers: BTreeMap<&str, &str> = text
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .collect();
        for what in ["containers", "pasids", "domains"] {
            if numbers.get(what) != Some(&"0") {
                return fail(format!("{what} are left: {}", text.trim()));
            }
        }
        let locked = held_bytes()?;
        if locked != self.locked {
            return fail(format!("{locked} bytes are locked, {} before", self.locked));
        }
        self.canary.check("the world");
        Ok(())
    }
}
