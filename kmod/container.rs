// SPDX-License-Identifier: GPL-2.0
//! A VFIO container on this module: ties the address space, the PASIDs, the bindings and the
//! fault queues together.
//!
//! # Lock order
//!
//! From the outermost in; a lock may be taken while those above it are held.
//!
//! 1. `vfio_container::group_lock` and, in SET_IOMMU, `vfio.iommu_drivers_lock` (vfio core,
//!    around attach_group, detach_group and release; with our patch, release may also come at the
//!    end of a call, without them)
//! 2. [`Container::nesting`]: devices, PASIDs, bindings, the list of fault queues. The work item
//!    of DMA faults begins with it.
//! 3. [`Container::ioas`]: stage 2
//! 4. `mmap_lock` (pinning, and copies from and to the user); `drain` of an IOMMU unit
//!    (ffi/unit.c), one at a time, and in it `iommu_group::mutex` (attach and detach)
//! 5. `Source::responder`: who answers; never taken in the page request thread
//! 6. `intel_iommu::iopf_lock` (the page request thread holds it around our handler; unbind
//!    passes through it)
//! 7. `iommu_fault_param::lock` (IOMMU core)
//! 8. `FaultQueue::state`, a spinlock: nothing is taken inside but a wait queue's lock
//!
//! On their own: `units_lock` of ffi/unit.c and `ACCOUNTS` of ffi/account.rs, with nothing inside;
//! the mutex of a debugfs reader (ffi/debugfs.c), outside everything but vfio core's
//! locks, with which it has nothing to do; [`Container::watches`] and `CONTAINERS` of ffi/vfio.rs,
//! inside vfio core's locks, with nothing inside.
//!
//! A group's detach waits for the work item of its DMA faults with 1 alone held.
//!
//! The deadline's timer takes 5 to 8; the last close waits for it with nothing held.
//!
//! The driver's drain, inside detach at 4, waits for the page request thread, which takes 6 to 8
//! alone.

use crate::budget::Owner;
use crate::fault::{Counters, FaultQueue};
use crate::ffi::compat;
use crate::ffi::device::{Bdf, Device};
use crate::ffi::dma_fault::{DmaFault, DmaWatch};
use crate::ffi::errno::edquot;
use crate::ffi::fault_file::{queue_of, NewFaultFd};
use crate::ffi::group::Group;
use crate::ffi::limits;
use crate::ffi::paging::PagingDomain;
use crate::ffi::trace::{self, AsOperation};
use crate::ffi::user::Pointer;
use crate::ffi::{uapi as abi, vfio};
use crate::ioas::{Ioas, Rules};
use crate::nesting::{BindResult, Nesting};
use crate::uapi;
use crate::uapi::Target;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

/// `VFIO_UNMAP_ALL` of linux/vfio.h.
const VFIO_UNMAP_ALL: usize = 9;

/// A container.
#[pin_data]
pub(crate) struct Container {
    id: u64,
    rules: Rules,
    owner: Owner,
    counters: Arc<Counters>,
    /// DMA faults of the devices attached.
    #[pin]
    watches: Mutex<KVec<(Group, DmaWatch)>>,
    #[pin]
    nesting: Mutex<Nesting>,
    #[pin]
    ioas: Mutex<Ioas>,
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
        Arc::pin_init(
            pin_init!(Self {
                id,
                watches <- new_mutex!(KVec::new(), "Container::watches"),
                // Made in their place: both are too large for the stack.
                nesting <- new_mutex!(
                    Nesting::new(*id, owner.clone(), counters.clone()),
                    "Container::nesting"
                ),
                counters,
                ioas <- new_mutex!(Ioas::new(rules, owner.clone()), "Container::ioas"),
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

    /// Attaches the devices of a group.
    ///
    /// # Errors
    ///
    /// - [`EPERM`] if a device of the group could raise interrupts that are not its own, and
    ///   `allow_unsafe_interrupts` is off.
    /// - Those of [`Ioas::attach`].
    pub(crate) fn attach_group(&self, group: Group) -> Result {
        if !group.has_isolated_msi() && !limits::allow_unsafe_interrupts() {
            pr_warn!("no interrupt remapping: set allow_unsafe_interrupts=1 to attach anyway\n");
            return Err(EPERM);
        }
        let devices = group.devices()?;
        self.watch(group, &devices)?;
        let mut nesting = self.nesting.lock();
        let attached = nesting
            .reserve(devices.len())
            .and_then(|()| self.ioas.lock().attach(group, &devices));
        match attached {
            Ok(()) => nesting.attach(group, devices),
            Err(error) => {
                drop(nesting);
                self.unwatch(group);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets the DMA faults of a group's devices come here.
    fn watch(&self, group: Group, devices: &[Device]) -> Result {
        let bdfs = devices.iter().filter_map(Device::bdf);
        let watched = bdfs
            .map(|bdf| DmaWatch::new(self.id, bdf))
            .try_for_each(|watch| {
                if let Some(watch) = watch? {
                    let mut watches = self.watches.lock();
                    watches.push((group, watch), GFP_KERNEL_ACCOUNT)?;
                }
                Ok(())
            });
        watched.inspect_err(|_| self.unwatch(group))
    }

    /// No DMA fault of a group's devices comes any more. Waits for one that is under way, so no
    /// lock of ours may be held.
    fn unwatch(&self, group: Group) {
        loop {
            let watch = {
                let mut watches = self.watches.lock();
                let at = watches.iter().position(|(other, _)| *other == group);
                at.and_then(|at| watches.remove(at).ok())
            };
            if watch.is_none() {
                return;
            }
        }
    }

    /// DMA of `device` was stopped by the IOMMU; `lost` more times than is told.
    pub(crate) fn dma_faults(
        &self,
        device: Bdf,
        faults: impl ExactSizeIterator<Item = DmaFault>,
        lost: u64,
    ) {
        let nesting = self.nesting.lock();
        self.counters.dma_faults.add(faults.len() as u64 + lost);
        for fault in faults {
            nesting.dma_fault(device, &fault);
        }
        if lost != 0 {
            nesting.lose_dma_faults(device, lost);
        }
    }

    /// Detaches the devices of a group: first what is bound at their PASIDs, then stage 2.
    pub(crate) fn detach_group(&self, group: Group) {
        self.unwatch(group);
        let mut nesting = self.nesting.lock();
        nesting.detach(group);
        self.ioas.lock().detach(group);
    }

    /// The last group is gone, and with it the container as the user knew it.
    pub(crate) fn release(&self) {
        self.nesting.lock().release();
        self.ioas.lock().clear();
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

    fn call(&self, cmd: u32, arg: Pointer) -> Result {
        use uapi::nr;

        match cmd {
            nr::GET_INFO => self.get_info(arg),
            nr::MAP_DMA => {
                let map = uapi::Map::decode(arg)?;
                let result = self.ioas.lock().map(&map);
                trace::map(self.id, &map.range, map.vaddr, &result);
                result
            }
            nr::UNMAP_DMA => {
                let unmap = uapi::Unmap::decode(arg)?;
                let result = self.ioas.lock().unmap(&unmap);
                trace::unmap(self.id, &unmap.range, &result);
                unmap.reply(arg, result?)
            }
            nr::DIRTY_PAGES => self.dirty_pages(arg),
            nr::PASID_ALLOC => self.pasid_alloc(arg),
            nr::PASID_FREE => {
                let (first, count) = uapi::decode_pasid_free(arg)?;
                self.nesting.lock().free_pasids(first, count)
            }
            nr::BIND => self.bind(arg),
            nr::UNBIND => {
                let scope = uapi::decode_unbind(arg)?;
                self.nesting
                    .lock()
                    .unbind(scope, |device| self.ioas.lock().domain_of(device))
            }
            nr::INVALIDATE => {
                let call = uapi::Invalidate::decode(arg)?;
                let (done, bad, result) = self.nesting.lock().invalidate(&call);
                trace::invalidate(self.id, call.entries.count, done, bad, &result);
                call.reply(arg, done, bad)?;
                result
            }
            nr::FAULT_QUEUE => self.fault_queue(arg),
            nr::DEVICES => self.devices(arg),
            nr::STATS => self.stats(arg),
            nr::AS_CREATE => {
                let call = uapi::AsCreate::decode(arg)?;
                let result = self.ioas.lock().create_address_space();
                let id = *result.as_ref().unwrap_or(&0);
                trace::address_space(self.id, id, AsOperation::Create, 0, &result);
                let id = result?;
                // A user that cannot be told must not be left holding it.
                call.reply(arg, id)
                    .or_else(|error| self.ioas.lock().destroy_address_space(id).and(Err(error)))
            }
            nr::AS_DESTROY => {
                let id = uapi::decode_as_destroy(arg)?;
                let nesting = self.nesting.lock();
                if nesting.binds_address_space(id) {
                    return Err(EBUSY);
                }
                let result = self.ioas.lock().destroy_address_space(id);
                trace::address_space(self.id, id, AsOperation::Destroy, 0, &result);
                result
            }
            nr::AS_MAP => self.change_address_space(arg, AsOperation::Map, |ioas, call, index| {
                ioas.map_entry(call.id, &call.entry(index)?)
            }),
            nr::AS_UNMAP => {
                self.change_address_space(arg, AsOperation::Unmap, |ioas, call, index| {
                    ioas.unmap_entries(call.id, &call.range(index)?)
                })
            }
            _ => Err(ENOTTY),
        }
    }

    fn dirty_pages(&self, arg: Pointer) -> Result {
        self.ioas.lock().check_dirty_pages()?;
        match uapi::DirtyPages::decode(arg)? {
            uapi::DirtyPages::Start => {
                // Bindings must know whether they are to set dirty bits.
                let _nesting = self.nesting.lock();
                self.ioas.lock().start_dirty()
            }
            uapi::DirtyPages::Stop => {
                let _nesting = self.nesting.lock();
                self.ioas.lock().stop_dirty();
                Ok(())
            }
            uapi::DirtyPages::Get(range, bitmap) => self.ioas.lock().dirty_pages(&range, &bitmap),
        }
    }

    fn get_info(&self, arg: Pointer) -> Result {
        let info = {
            let nesting = self.nesting.lock();
            let ioas = self.ioas.lock();
            let domain = ioas.domain();
            uapi::Info {
                page_sizes: ioas.page_sizes(),
                windows: ioas.windows().clone(),
                mappings_left: ioas.mappings_left(),
                nesting: (self.rules == Rules::Ioasid)
                    .then(|| nesting.report(domain.map(|domain| &**domain), ioas.dirty_support())),
            }
        };
        uapi::write_info(arg, info)
    }

    fn pasid_alloc(&self, arg: Pointer) -> Result {
        let call = uapi::PasidAlloc::decode(arg)?;
        let (min, max, count) = call.request();
        let mut nesting = self.nesting.lock();
        let pasid = nesting.pasids().alloc(min, max, count)?;
        // A user that cannot be told must not be left holding PASIDs.
        call.reply(arg, pasid)
            .or_else(|error| nesting.pasids().free(pasid, count).and(Err(error)))
    }

    fn bind(&self, arg: Pointer) -> Result {
        let bind = uapi::Bind::decode(arg)?;
        let queue = bind.fault_fd.map(queue_of).transpose()?;
        if queue
            .as_ref()
            .is_some_and(|queue| queue.container() != self.id)
        {
            return Err(EINVAL);
        }
        let bound = {
            let mut nesting = self.nesting.lock();
            match self.domains_for(&bind) {
                Ok((stage2, separate)) => nesting.bind(&bind, stage2, separate, queue),
                Err(error) => BindResult::unchanged(error),
            }
        };
        let tried = trace::Bind {
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

    /// The stage-2 domain of the device to bind at, and that of the address space to bind.
    fn domains_for(
        &self,
        bind: &uapi::Bind,
    ) -> Result<(Arc<PagingDomain>, Option<Arc<PagingDomain>>)> {
        let mut ioas = self.ioas.lock();
        let device = ioas.device(bind.device).ok_or(ENOENT)?.clone();
        let separate = match bind.target {
            Target::AddressSpace(id) => {
                Some(ioas.address_space(id, &device, bind.fault_fd.is_some())?)
            }
            _ => None,
        };
        Ok((ioas.domain_of(&device).ok_or(ENOENT)?, separate))
    }

    /// Carries out the entries of a change one by one, up to the first bad one.
    fn change_address_space(
        &self,
        arg: Pointer,
        operation: AsOperation,
        change: impl Fn(&mut Ioas, &uapi::AsChange, u32) -> Result,
    ) -> Result {
        let call = uapi::AsChange::decode(arg)?;
        let mut ioas = self.ioas.lock();
        ioas.prepare_address_space(call.id)?;
        let bad =
            (0..call.count).find_map(|index| Some((index, change(&mut ioas, &call, index).err()?)));
        ioas.flush_address_space(call.id);
        drop(ioas);
        let done = bad.map_or(call.count, |(index, _)| index);
        let result = bad.map_or(Ok(()), |(_, error)| Err(error));
        trace::address_space(self.id, call.id, operation, done, &result);
        call.reply(arg, done)?;
        result
    }

    fn fault_queue(&self, arg: Pointer) -> Result {
        let call = uapi::NewFaultQueue::decode(arg)?;
        let depth = match call.depth {
            Some(depth) => depth,
            None => self.nesting.lock().default_depth(),
        };
        let queue = FaultQueue::new(
            self.id,
            &self.owner,
            self.counters.clone(),
            depth,
            call.deadline_ms,
            call.dma,
        )?;
        self.nesting.lock().add_queue(queue.clone())?;
        // From here on the file's release forgets the queue; until then we do.
        let fd = NewFaultFd::new(queue.clone(), call.cloexec, call.nonblock)
            .inspect_err(|_| self.nesting.lock().forget_queue(&queue))?;
        call.reply(arg, fd.number())?;
        fd.install();
        Ok(())
    }

    fn devices(&self, arg: Pointer) -> Result {
        let call = uapi::Devices::decode(arg)?;
        let count = {
            let nesting = self.nesting.lock();
            let parent = self.ioas.lock().domain().cloned();
            nesting.write_devices(&call, parent.as_deref())?
        };
        call.reply(arg, count)
    }

    fn stats(&self, arg: Pointer) -> Result {
        let mut stats = uapi::decode_stats(arg)?;
        self.fill_stats(&mut stats);
        arg.write(&stats)
    }

    /// Fills in all numbers of [`abi::vfio_ioasid_stats`].
    pub(crate) fn fill_stats(&self, stats: &mut abi::vfio_ioasid_stats) {
        self.nesting.lock().fill_stats(stats);
        {
            let ioas = self.ioas.lock();
            stats.mappings = u64::from(ioas.count());
            stats.mapped_pages = ioas.mapped_pages();
            stats.pages_2m = ioas.large_pages().of_2m;
            stats.pages_1g = ioas.large_pages().of_1g;
            (stats.address_spaces, stats.as_entries) = ioas.address_space_counts();
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

    /// By whose rules it works.
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    /// Calls `with` on the nesting side, which it may only look at, and shortly.
    pub(crate) fn inspect<T>(&self, with: impl FnOnce(&Nesting) -> T) -> T {
        with(&self.nesting.lock())
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

/// A fault fd is closed for good: its container, if it lives, forgets the queue.
pub(crate) fn forget_queue(queue: &Arc<FaultQueue>) {
    if let Some(container) = vfio::find(queue.container()) {
        container.nesting.lock().forget_queue(queue);
    }
}
