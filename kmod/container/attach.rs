// SPDX-License-Identifier: GPL-2.0
//! Groups that come and go, devices that leave, and the end of a container.

use super::dirty::Attaching;
use super::{Container, GroupWatch};
use crate::base::iova::IovaRange;
use crate::budget::Work;
use crate::ffi::device::Device;
use crate::ffi::dma_fault::DmaWatch;
use crate::ffi::group::Group;
use crate::ffi::limits;
use crate::ffi::lock::Guard;
use crate::ffi::paging::PagingDomain;
use crate::ioas::{AttachedGroup, Rules};
use crate::nesting::{Attached, AttachedDevice, GroupStage2, RidState};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Mappings that forget a domain between two moments without the lock.
const FORGET_STEP: u32 = 512;

impl Container {
    /// Attaches the devices of a group. vfio core attaches, detaches and releases one at a time.
    ///
    /// It joins the first domain that has what a domain of its own would have and that the IOMMU
    /// driver lets it into; otherwise it gets that domain of its own, with all that is mapped. A
    /// domain is a nest parent where the hardware nests, unless something is mapped read-only,
    /// which none can hold.
    ///
    /// # Errors
    ///
    /// - [`EPERM`] if a device of the group could raise interrupts that are not its own, and
    ///   `allow_unsafe_interrupts` is off.
    /// - [`EINVAL`] if something is mapped, in stage 2 or in an address space, where the group has a
    ///   reserved region.
    /// - What the IOMMU driver says; [`EINTR`] if a fatal signal came.
    pub(crate) fn attach_group(&self, group: Group) -> Result {
        if !group.has_isolated_msi() && !limits::allow_unsafe_interrupts() {
            pr_warn!("no interrupt remapping: set allow_unsafe_interrupts=1 to attach anyway\n");
            return Err(EPERM);
        }
        let work = &mut Work::of_call();
        let devices = group.devices()?;
        self.watch(&group, &devices)?;
        self.attach_devices(&group, devices, work)
            .inspect_err(|_| self.unwatch(&group))
    }

    fn attach_devices(&self, group: &Group, devices: KVec<Device>, work: &mut Work) -> Result {
        let first = devices.first().ok_or(ENODEV)?;
        let reserved = group.reserved()?;
        let candidate = Arc::new(self.new_domain(first)?, GFP_KERNEL_ACCOUNT)?;
        self.ioas.lock().narrow(&reserved, &candidate)?;
        let widen = |_: &Error| self.ioas.lock().widen();
        self.check_entries().inspect_err(widen)?;
        // Dirty tracking is not switched before the domain is one of the container's.
        let attaching = Attaching::begin(&self.switch).inspect_err(widen)?;
        let stage2 = self.attach_stage2(group, first, candidate, work);
        let stage2 = stage2.inspect_err(widen)?;
        let is_joined = self.ioas.lock().is_domain(stage2.domain());
        let published = self.publish_group(&stage2, devices, reserved);
        drop(attaching);
        let attached = published.and_then(|()| match is_joined {
            true => Ok(()),
            // It is one of the domains already, so what is mapped from now on is there.
            false => self.replay(stage2.domain(), work),
        });
        attached.inspect_err(|_| {
            self.detach_stage2(&stage2);
            self.ioas.lock().widen();
        })
    }

    /// Makes a group, its devices and its domain the container's.
    fn publish_group(
        &self,
        stage2: &Arc<GroupStage2>,
        devices: KVec<Device>,
        reserved: KVec<IovaRange>,
    ) -> Result {
        let shared = devices.len() > 1;
        let mut attached = KVec::with_capacity(devices.len(), GFP_KERNEL_ACCOUNT)?;
        for device in devices {
            let device = AttachedDevice::new(device, stage2.clone(), shared)?;
            attached.push(device, GFP_KERNEL_ACCOUNT)?;
        }
        self.ioas.lock().add_group(AttachedGroup {
            group: stage2.group().clone(),
            domain: stage2.domain().clone(),
            reserved,
        })?;
        self.nesting.lock().attach(&attached)
    }

    /// Checks that no entry of an address space lies where nothing can be mapped.
    fn check_entries(&self) -> Result {
        let mut next = 0;
        loop {
            let space = self.ioas.lock().spaces.next(next);
            let Some(space) = space else {
                return Ok(());
            };
            next = space.id().checked_add(1).ok_or(EINVAL)?;
            let tables = space.tables.lock_killable()?;
            if self.ioas.lock().has_entry_outside(&tables) {
                return Err(EINVAL);
            }
        }
    }

    fn new_domain(&self, device: &Device) -> Result<PagingDomain> {
        if self.rules != Rules::Ioasid {
            // What type1 would have: dirty bits would narrow the addresses on VT-d.
            return PagingDomain::new(device, false, false);
        }
        if self.ioas.lock().has_read_only() {
            return PagingDomain::new(device, false, true);
        }
        PagingDomain::new(device, true, true).or_else(|_| PagingDomain::new(device, false, true))
    }

    /// Attaches a group, the one of `device`, to a domain that is there, or to a new one.
    fn attach_stage2(
        &self,
        group: &Group,
        device: &Device,
        candidate: Arc<PagingDomain>,
        work: &mut Work,
    ) -> Result<Arc<GroupStage2>> {
        let mut index = 0;
        loop {
            let domain = self.ioas.lock().domains.get(index).cloned();
            let Some(domain) = domain else {
                break;
            };
            work.look()?;
            if domain.is_like(&candidate) {
                if let Ok(stage2) = GroupStage2::new(&domain, group, device) {
                    return Ok(stage2);
                }
            }
            index += 1;
        }
        if self.ioas.lock().uses_dirty_bits() && candidate.track_dirty(true).is_err() {
            self.ioas.lock().lose_dirty_bits();
        }
        GroupStage2::new(&candidate, group, device)
    }

    /// Maps all that is mapped into a domain that has joined.
    fn replay(&self, domain: &Arc<PagingDomain>, work: &mut Work) -> Result {
        let mut next = Some(0);
        while let Some(from) = next {
            work.look()?;
            let (range, copying) = {
                let mut ioas = self.ioas.lock();
                let Some(range) = ioas.next_mapped(from) else {
                    return Ok(());
                };
                let memory = ioas.held_memory(range.start()).ok_or(EINVAL)?;
                let copying = (!memory.is_in(domain)).then(|| memory.copying());
                ioas.hold(range.start());
                (range, copying)
            };
            let mapped = copying
                .map(|copying| copying.map_into(domain.clone(), work))
                .transpose();
            let (rejected, result) = {
                let mut ioas = self.ioas.lock();
                let ended = match (mapped, ioas.held_memory(range.start())) {
                    (Ok(Some(mapped)), Some(memory)) => match memory.add_domain(mapped) {
                        Ok(()) => (None, Ok(())),
                        Err(mapped) => (Some(mapped), Err(ENOMEM)),
                    },
                    (Ok(mapped), _) => (mapped, Ok(())),
                    (Err(error), _) => (None, Err(error)),
                };
                ioas.let_go(range.start());
                ended
            };
            self.ioas.notify();
            // Unmapped with no lock held.
            drop(rejected);
            result?;
            next = range.last().checked_add(1);
        }
        Ok(())
    }

    /// Lets the DMA faults of a group's devices come here.
    fn watch(&self, group: &Group, devices: &[Device]) -> Result {
        let bdfs = devices.iter().filter_map(Device::bdf);
        let watched = bdfs
            .map(|bdf| DmaWatch::new::<Self>(self.id, bdf))
            .try_for_each(|watch| {
                if let Some(watch) = watch? {
                    let mut watches = self.watches.lock();
                    let watch = GroupWatch {
                        group: group.clone(),
                        _watch: watch,
                    };
                    watches.push(watch, GFP_KERNEL_ACCOUNT)?;
                }
                Ok(())
            });
        watched.inspect_err(|_| self.unwatch(group))
    }

    /// No DMA fault of a group's devices comes any more. Waits for one that is under way, so no
    /// lock of ours may be held.
    fn unwatch(&self, group: &Group) {
        loop {
            let watch = {
                let mut watches = self.watches.lock();
                let at = watches.iter().position(|watch| watch.group == *group);
                at.and_then(|at| watches.remove(at).ok())
            };
            if watch.is_none() {
                return;
            }
        }
    }

    /// Detaches the devices of a group: first what is bound at their PASIDs, then stage 2.
    pub(crate) fn detach_group(&self, group: &Group) {
        self.unwatch(group);
        let of_group = |device: &AttachedDevice| device.stage2.group() == group;
        let device = self.nesting.lock().device_where(of_group);
        if let Some(device) = device {
            self.detach_stage2(&device.stage2);
        }
    }

    /// Takes out the devices of a group, and the group.
    fn detach_stage2(&self, stage2: &Arc<GroupStage2>) {
        let of_group = |device: &AttachedDevice| Arc::ptr_eq(&device.stage2, stage2);
        loop {
            let device = self.nesting.lock().device_where(of_group);
            let Some(device) = device else {
                break;
            };
            let mut leaving = device.leave();
            self.unbind_all(&device, &mut leaving.attached);
            drop(leaving);
            self.nesting.lock().detach(&device);
        }
        stage2.leave();
        if self.ioas.lock().remove_group(stage2.group()) {
            // What was mapped in it goes with it, and so do its dirty bits.
            stage2.domain().retire();
            self.ioas.lock().lose_dirty_bits();
            self.forget_retired();
        }
    }

    /// Lets go of domains that are retired.
    fn forget_retired(&self) {
        let work = &mut Work::to_the_end();
        let mut next = Some(0);
        while let Some(from) = next {
            let _ = work.look();
            next = self.ioas.lock().forget_retired(from, FORGET_STEP);
        }
    }

    /// Unbinds all that is bound at a device, for good. Sleeps.
    fn unbind_all(&self, device: &AttachedDevice, attached: &mut Guard<'_, Attached>) {
        let work = &mut Work::to_the_end();
        while let Some(site) = attached.first() {
            self.undo(device, attached, site);
            let _ = work.look();
        }
        device.release_pri(attached);
    }

    /// The IOMMU core is about to forget a device. Where its group stays, the others of that have
    /// stage 2 again.
    pub(crate) fn device_removed(&self, device: &AttachedDevice) {
        let mut leaving = device.leave();
        if leaving.was_gone {
            return;
        }
        let attached = &mut leaving.attached;
        self.unbind_all(device, attached);
        if device.rid() != RidState::Stage2 && device.restore_stage2(attached).is_err() {
            pr_warn!("a device left its group, whose other devices stay blocked\n");
        }
    }

    /// The attached device that the kernel knows as `device`.
    pub(crate) fn find_device(
        &self,
        is_it: impl Fn(&Device) -> bool,
    ) -> Option<Arc<AttachedDevice>> {
        self.nesting
            .lock()
            .device_where(|other| is_it(&other.device))
    }

    /// The last group is gone, and with it the container as the user knew it.
    pub(crate) fn release(&self) {
        self.nesting.lock().release();
        self.queues.lock().release();
        let old = self.ioas.lock().release();
        self.ioas.notify();
        old.end(&mut Work::to_the_end());
    }
}
