// SPDX-License-Identifier: GPL-2.0
//! A VFIO container on this module: ties the address space, the PASIDs, the bindings and the
//! fault queues together.
//!
//! A call is decoded before the first lock is taken and its reply is written after the last one is
//! given back, arrays in chunks. Nobody waits for a stranger: no lock that others need is held over
//! the user's memory, over pinning, or over a loop whose length a user chooses. Such a loop takes a
//! [`Work`](crate::budget::Work), which ends it when the caller is killed.
//!
//! # Lock order
//!
//! From the outermost in; a lock may be taken while those above it are held.
//!
//! 1. `vfio_container::group_lock` and, in SET_IOMMU, `vfio.iommu_drivers_lock` (vfio core, around
//!    attach_group, detach_group and release; with our patch, release may also come at the end of a
//!    call, without them)
//! 2. `AttachedDevice::attached`, of one device at a time: BIND, UNBIND, the leaving of a device.
//!    Held over what the IOMMU has to do there, and over nothing else. Calls can be killed while
//!    they wait for it. The driver copies stage-1 data inside it without a page fault.
//!    `GroupStage2::state` of its group, inside it or, when the group leaves, with 1 alone: held while
//!    stage 2 is attached or detached.
//! 3. `AddressSpace::tables`, of one address space at a time: its tables are written and flushed
//!    inside. Calls can be killed while they wait for it.
//! 4. `drain` of an IOMMU unit (ffi/unit.c), and in it `iommu_group::mutex` (attach and detach)
//! 5. `Source::responder`: who answers; never taken in the page request thread
//! 6. `intel_iommu::iopf_lock` (the page request thread holds it around our handler; unbind
//!    passes through it)
//! 7. `iommu_fault_param::lock` (IOMMU core)
//! 8. [`Container::ioas`], [`Container::nesting`], [`Container::switch`], [`Container::queues`] and
//!    [`Container::watches`]: each for a look-up or a change of lists, none inside another.
//! 9. `FaultQueue::state`, a spinlock: nothing is taken inside but a wait queue's lock
//!
//! On their own: `units_lock` of ffi/unit.c and `ACCOUNTS` of ffi/account.rs, with nothing inside;
//! the mutex of a debugfs reader (ffi/debugfs.c), outside everything but vfio core's locks, with
//! which it has nothing to do; the mutex of container/table.rs, inside vfio core's locks, with nothing
//! inside.
//!
//! `mmap_lock` (pinning, and copies from and to the user) is taken with none of these held.
//!
//! Instead of a lock that is held long, an object says that somebody is at it: a range that MAP_DMA
//! reserves, pins and publishes, and UNMAP_DMA claims ([`Ioas`]); a mapping that is held while its
//! dirty pages are read or a new domain gets it; [`Container::switch`] while dirty tracking is
//! switched. Who has to wait for that waits on the lock of the list, and can be killed.
//!
//! A group's detach waits for the work item of its DMA faults with 1 alone held. The deadline's
//! timer takes 5 to 7 and 9; the last close waits for it with nothing held. The driver's drain,
//! inside detach at 4, waits for the page request thread, which takes 6, 7 and 9 alone.

mod attach;
mod bind;
mod dirty;
mod invalidate;
mod map;
mod spaces;
pub(crate) mod table;

use crate::budget::Owner;
use crate::call;
use crate::call::{device_of, Target};
use crate::fault::{Counters, FaultQueue};
use crate::ffi::abi;
use crate::ffi::attach::Site;
use crate::ffi::compat;
use crate::ffi::device::Bdf;
use crate::ffi::dma_fault::{DmaFault, DmaFaults, DmaWatch};
use crate::ffi::errno::edquot;
use crate::ffi::fault_file::{queue_of, FaultFile, FileOperations, NewFaultFd, Ready};
use crate::ffi::group::Group;
use crate::ffi::lock::{new_lock, Lock};
use crate::ffi::trace::{self, AsOperation};
use crate::ffi::user::Pointer;
use crate::ioas::{Ioas, Rules};
use crate::nesting::queues::Queues;
use crate::nesting::{BindingKey, Nesting};
use crate::pasid::Pasids;
use dirty::Switch;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::poll::PollTable;
use kernel::sync::{new_mutex, Arc, Mutex};

/// `VFIO_UNMAP_ALL` of linux/vfio.h.
const VFIO_UNMAP_ALL: usize = 9;

/// Devices that DEVICES tells of between two looks at their list.
const DEVICES_STEP: usize = 8;

/// DMA faults of a device of a group.
struct GroupWatch {
    group: Group,
    _watch: DmaWatch,
}

/// A container.
#[pin_data]
pub(crate) struct Container {
    id: u64,
    rules: Rules,
    owner: Owner,
    counters: Arc<Counters>,
    /// DMA faults of the devices attached.
    #[pin]
    watches: Mutex<KVec<GroupWatch>>,
    #[pin]
    nesting: Mutex<Nesting>,
    /// Who waits for a mapping that comes or goes waits here.
    #[pin]
    ioas: Lock<Ioas>,
    /// Between BINDs and the start of dirty tracking.
    #[pin]
    switch: Lock<Switch>,
    #[pin]
    queues: Mutex<Queues>,
}

impl Container {
    /// Makes container number `id` for `VFIO_SET_IOMMU` with `iommu_type`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for a type that is not ours.
    pub(crate) fn new(id: u64, iommu_type: usize) -> Result<Arc<Self>> {
        let rules = rules_of(iommu_type).ok_or(EINVAL)?;
        if rules != Rules::Ioasid {
            compat::count_call();
        }
        let counters = Arc::new(Counters::default(), GFP_KERNEL_ACCOUNT)?;
        let owner = Owner::current()?;
        let nesting = Nesting::new(owner.clone());
        let ioas = Ioas::new(rules, owner.clone())?;
        Arc::pin_init(
            pin_init!(Self {
                id,
                watches <- new_mutex!(KVec::new(), "Container::watches"),
                nesting <- new_mutex!(nesting, "Container::nesting"),
                counters,
                ioas <- new_lock!(ioas, "Container::ioas"),
                switch <- new_lock!(Switch::default(), "Container::switch"),
                queues <- new_mutex!(Queues::new(), "Container::queues"),
                owner,
                rules,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// `VFIO_CHECK_EXTENSION`: asked of the module, or of a container on it.
    pub(crate) fn check_extension(container: Option<&Self>, extension: usize) -> isize {
        const COHERENT: usize = abi::VFIO_DMA_CC_IOMMU as usize;

        match extension {
            VFIO_UNMAP_ALL => 1,
            COHERENT => container.map_or(0, |container| {
                isize::from(container.ioas.lock().is_coherent())
            }),
            kind => isize::from(rules_of(kind).is_some()),
        }
    }

    /// DMA of `device` was stopped by the IOMMU; `lost` more times than is told.
    pub(crate) fn dma_faults(
        &self,
        device: Bdf,
        faults: impl ExactSizeIterator<Item = DmaFault>,
        lost: u64,
    ) {
        self.counters.dma_faults.add(faults.len() as u64 + lost);
        for fault in faults {
            self.dma_fault(device, &fault);
        }
        if lost != 0 {
            let queue = self.queues.lock().for_dma_faults().cloned();
            let queue = queue.or_else(|| self.nesting.lock().queue_of(device));
            if let Some(queue) = queue {
                queue.lose(lost);
            }
        }
    }

    /// Tells of DMA that the IOMMU stopped: the queue of the binding whose DMA it was, else the
    /// one for DMA faults.
    fn dma_fault(&self, device: Bdf, fault: &DmaFault) {
        trace::dma_fault(self.id, device, fault);
        let site = fault.pasid.map_or(Site::Rid, Site::Pasid);
        let place = BindingKey::new(site, device);
        let binding = self.nesting.lock().with_binding(&place, |binding| {
            let queue = binding.queue().cloned();
            (queue, binding.guest_pasid, binding.cookie)
        });
        let (queue, guest_pasid, user_cookie) = binding.unwrap_or_default();
        let queue = queue.or_else(|| self.queues.lock().for_dma_faults().cloned());
        let Some(queue) = queue else {
            return;
        };
        queue.push_dma_fault(abi::vfio_ioasid_fault {
            kind: abi::VFIO_IOASID_FAULT_DMA,
            flags: fault.pasid.map_or(0, |_| abi::VFIO_IOASID_FAULT_FLAG_PASID),
            device: device_of(device),
            pasid: fault.pasid.unwrap_or(0),
            guest_pasid,
            perm: fault.perm,
            reason: fault.reason,
            addr: fault.addr,
            user_cookie,
            ..Default::default()
        });
    }

    /// Carries a call out. Gives its value, zero but for the inherited ones.
    ///
    /// # Errors
    ///
    /// [`ENOTTY`] for an unknown call; otherwise see the header.
    pub(crate) fn ioctl(&self, cmd: u32, arg: Pointer) -> Result<isize> {
        if self.rules != Rules::Ioasid {
            compat::count_call();
        }
        self.counters.calls.add(1);
        let result = self.call(cmd, arg);
        if result == Err(edquot()) {
            trace::quota(self.id, cmd);
        }
        result.map(|()| 0)
    }

    /// Each call has a function of its own, so that none is on another's stack.
    fn call(&self, cmd: u32, arg: Pointer) -> Result {
        use call::nr;

        match cmd {
            nr::GET_INFO => self.get_info(arg),
            nr::MAP_DMA => self.call_map(arg),
            nr::UNMAP_DMA => self.call_unmap(arg),
            nr::DIRTY_PAGES => self.call_dirty_pages(arg),
            nr::PASID_ALLOC => self.pasid_alloc(arg),
            nr::PASID_FREE => self.pasid_free(arg),
            nr::BIND => self.call_bind(arg),
            nr::UNBIND => self.call_unbind(arg),
            nr::INVALIDATE => self.call_invalidate(arg),
            nr::FAULT_QUEUE => self.fault_queue(arg),
            nr::DEVICES => self.devices(arg),
            nr::STATS => self.stats(arg),
            nr::AS_CREATE => self.call_as_create(arg),
            nr::AS_DESTROY => self.call_as_destroy(arg),
            nr::AS_MAP => self.call_as_change(arg, AsOperation::Map),
            nr::AS_UNMAP => self.call_as_change(arg, AsOperation::Unmap),
            _ => Err(ENOTTY),
        }
    }

    #[inline(never)]
    fn call_map(&self, arg: Pointer) -> Result {
        let map = call::Map::decode(arg)?;
        let result = self.map(&map);
        trace::map(self.id, &map.range, map.vaddr, &result);
        result
    }

    #[inline(never)]
    fn call_unmap(&self, arg: Pointer) -> Result {
        let unmap = call::Unmap::decode(arg)?;
        let result = self.unmap(&unmap);
        trace::unmap(self.id, &unmap.range, &result);
        unmap.reply(arg, result?)
    }

    #[inline(never)]
    fn call_dirty_pages(&self, arg: Pointer) -> Result {
        self.ioas.lock().check_dirty_pages()?;
        match call::DirtyPages::decode(arg)? {
            call::DirtyPages::Start => self.start_dirty(),
            call::DirtyPages::Stop => self.stop_dirty(),
            call::DirtyPages::Get(range, bitmap) => self.dirty_pages(&range, &bitmap),
        }
    }

    #[inline(never)]
    fn get_info(&self, arg: Pointer) -> Result {
        let (mut info, stage2) = {
            let ioas = self.ioas.lock();
            let info = call::Info {
                page_sizes: ioas.page_sizes(),
                windows: KBox::new(ioas.windows().clone(), GFP_KERNEL_ACCOUNT)?,
                mappings_left: ioas.mappings_left(),
                nesting: None,
            };
            (info, ioas.stage2_report())
        };
        if self.rules == Rules::Ioasid {
            info.nesting = Some(self.nesting.lock().report(&stage2));
        }
        call::write_info(arg, &info)
    }

    #[inline(never)]
    fn pasid_alloc(&self, arg: Pointer) -> Result {
        let call = call::PasidAlloc::decode(arg)?;
        let call::PasidsWanted { min, max, count } = call.wanted();
        if self.nesting.lock().pasids().needs_storage() {
            let storage = Pasids::new_storage()?;
            self.nesting.lock().pasids().add_storage(storage);
        }
        let pasid = self.nesting.lock().pasids().alloc(min, max, count)?;
        // A user that cannot be told must not be left holding PASIDs.
        call.reply(arg, pasid).inspect_err(|_| {
            // Another thread may have bound one by its number: then they are its.
            let _ = self.nesting.lock().free_pasids(pasid, count);
        })
    }

    #[inline(never)]
    fn pasid_free(&self, arg: Pointer) -> Result {
        let free = call::PasidFree::decode(arg)?;
        self.nesting.lock().free_pasids(free.first, free.count)
    }

    #[inline(never)]
    fn call_bind(&self, arg: Pointer) -> Result {
        let bind = call::Bind::decode(arg)?;
        let queue = bind.fault_fd.map(queue_of::<FaultQueue>).transpose()?;
        if queue
            .as_ref()
            .is_some_and(|queue| queue.container() != self.id)
        {
            return Err(EINVAL);
        }
        let bound = self.bind(&bind, queue);
        let tried = trace::BindTried {
            device: bind.device,
            site: bind.site,
            guest_pasid: bind.guest_pasid,
            bound: match bind.target {
                Target::Stage1(_) => trace::Bound::Stage1,
                Target::Stage2 => trace::Bound::Stage2,
                Target::AddressSpace(_) => trace::Bound::AddressSpace,
                Target::Blocked => trace::Bound::Blocked,
            },
            replace: bind.replace,
            outcome: bound.outcome,
        };
        trace::bind(self.id, &tried, &bound.result);
        // The outcome stands even where the user cannot be told.
        bind.reply(arg, bound.outcome)?;
        bound.result
    }

    #[inline(never)]
    fn call_unbind(&self, arg: Pointer) -> Result {
        let scope = call::decode_unbind(arg)?;
        self.unbind(scope)
    }

    #[inline(never)]
    fn call_invalidate(&self, arg: Pointer) -> Result {
        let call = call::Invalidate::decode(arg)?;
        let ended = self.invalidate(&call);
        let (count, done, bad) = (call.entries.count, ended.done, ended.bad_index);
        trace::invalidate(self.id, count, done, bad, &ended.result);
        call::Invalidate::reply(arg, done, bad)?;
        ended.result
    }

    #[inline(never)]
    fn fault_queue(&self, arg: Pointer) -> Result {
        let call = call::NewFaultQueue::decode(arg)?;
        let depth = match call.depth {
            Some(depth) => depth,
            None => self.default_depth(),
        };
        let queue = FaultQueue::new(
            self.id,
            &self.owner,
            self.counters.clone(),
            depth,
            call.deadline_ms,
            call.dma,
        )?;
        self.queues.lock().add(queue.clone())?;
        // From here on the file's release forgets the queue; until then we do.
        let fd = NewFaultFd::new(queue.clone(), call.cloexec, call.nonblock)
            .inspect_err(|_| self.queues.lock().forget(&queue))?;
        call.reply(arg, fd.number())?;
        fd.install();
        Ok(())
    }

    /// Depth of a fault queue whose user did not choose: no attached device overflows it alone.
    fn default_depth(&self) -> u32 {
        let devices = self.nesting.lock().device_count();
        let devices = u32::try_from(devices).unwrap_or(u32::MAX);
        FaultQueue::DEPTH_PER_DEVICE
            .saturating_mul(devices.max(1))
            .min(abi::VFIO_IOASID_FAULT_DEPTH_MAX)
    }

    #[inline(never)]
    fn devices(&self, arg: Pointer) -> Result {
        let call = call::Devices::decode(arg)?;
        let room = call.room as usize;
        let mut at = 0;
        loop {
            let mut infos = [abi::vfio_ioasid_device_info::default(); DEVICES_STEP];
            let count = self.nesting.lock().device_infos(at, &mut infos);
            let end = count.min(room).min(at + DEVICES_STEP);
            for (index, info) in (at..end).zip(infos.iter()) {
                call.write(index, info)?;
            }
            if end >= count.min(room) {
                return call.reply(arg, u32::try_from(count)?);
            }
            at = end;
        }
    }

    #[inline(never)]
    fn stats(&self, arg: Pointer) -> Result {
        let mut stats = call::decode_stats(arg)?;
        self.fill_stats(&mut stats);
        arg.write(&stats)
    }

    /// Fills in all numbers of [`abi::vfio_ioasid_stats`].
    pub(crate) fn fill_stats(&self, stats: &mut abi::vfio_ioasid_stats) {
        self.nesting.lock().fill_stats(stats);
        stats.fault_queues = self.queues.lock().len() as u64;
        {
            let ioas = self.ioas.lock();
            stats.mappings = u64::from(ioas.count());
            stats.mapped_pages = ioas.mapped_pages();
            stats.pages_2m = ioas.large_pages().of_2m;
            stats.pages_1g = ioas.large_pages().of_1g;
            stats.address_spaces = ioas.spaces.len();
            stats.as_entries = ioas.spaces.entry_count();
        }
        stats.calls = self.counters.calls.get();
        stats.binds = self.counters.binds.get();
        stats.unbinds = self.counters.unbinds.get();
        stats.page_requests = self.counters.page_requests.get();
        stats.responses = self.counters.responses.get();
        stats.host_invalid = self.counters.host_invalid.get();
        stats.overflows = self.counters.overflows.get();
        stats.late_responses = self.counters.late_responses.get();
        stats.expired = self.counters.expired.get();
        stats.dma_faults = self.counters.dma_faults.get();
        stats.invalidations = self.counters.invalidations.get();
    }

    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// By whose rules it works.
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    /// Calls `with` on the nesting side, which it may only look at, and shortly.
    pub(crate) fn with_nesting<T>(&self, with: impl FnOnce(&Nesting) -> T) -> T {
        with(&self.nesting.lock())
    }

    /// The same on the fault queues.
    pub(crate) fn with_queues<T>(&self, with: impl FnOnce(&Queues) -> T) -> T {
        with(&self.queues.lock())
    }
}

impl DmaFaults for Container {
    fn stopped(
        container: u64,
        device: Bdf,
        faults: impl ExactSizeIterator<Item = DmaFault>,
        lost: u64,
    ) {
        if let Some(container) = table::find(container) {
            container.dma_faults(device, faults, lost);
        }
    }
}

/// What a type of VFIO_SET_IOMMU asks for, if the module is it.
fn rules_of(iommu_type: usize) -> Option<Rules> {
    const IOASID: usize = abi::VFIO_IOASID_IOMMU as usize;
    const TYPE1: usize = abi::VFIO_TYPE1_IOMMU as usize;
    const TYPE1V2: usize = abi::VFIO_TYPE1v2_IOMMU as usize;

    match iommu_type {
        IOASID => Some(Rules::Ioasid),
        TYPE1 if compat::is_on() => Some(Rules::Type1),
        TYPE1V2 if compat::is_on() => Some(Rules::Type1v2),
        _ => None,
    }
}

/// How the kernel knows a fault fd.
static FAULT_FILES: FileOperations<FaultQueue> = FileOperations::new();

impl FaultFile for FaultQueue {
    fn operations() -> &'static FileOperations<Self> {
        &FAULT_FILES
    }

    fn read(&self, buf: Pointer, len: usize, nonblocking: bool) -> Result<usize> {
        FaultQueue::read(self, buf, len, nonblocking)
    }

    fn write(&self, buf: Pointer, len: usize) -> Result<usize> {
        FaultQueue::write(self, buf, len)
    }

    fn poll(&self, table: &PollTable<'_>, file: &File) -> Ready {
        FaultQueue::poll(self, table, file)
    }

    /// Its container, if it lives, forgets the queue.
    fn close(queue: Arc<Self>) {
        queue.close();
        if let Some(container) = table::find(queue.container()) {
            container.queues.lock().forget(&queue);
        }
        queue.free();
    }
}
