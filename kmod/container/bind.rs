// SPDX-License-Identifier: GPL-2.0
//! BIND and UNBIND.
//!
//! A RID is in one of these states, a PASID too, where *nothing* takes the place of stage 2:
//!
//! ```text
//!            BIND                          UNBIND
//!   stage 2 ------> table, address space, ------> stage 2
//!      |            stage 2 as a binding
//!      |                 ^  |
//!      |  BIND blocked   |  | BIND blocked, or a
//!      |                 |  | replacement that failed and
//!      v      BIND       |  v could not be taken back
//!   blocked --------------+
//! ```
//!
//! Each change is one step of the IOMMU driver, or by way of blocked: stage 2 never is between two
//! others. To block cannot fail.

use super::dirty::Attaching;
use super::spaces::BoundTable;
use super::Container;
use crate::budget::{Resource, Work};
use crate::call::{Bind, Scope, Target};
use crate::fault::{FaultQueue, Source};
use crate::ffi::abi;
use crate::ffi::attach::{Attachment, Detached, ReplaceFailed, Replaced, Site, Translation};
use crate::ffi::device::Bdf;
use crate::ffi::errno::eopnotsupp;
use crate::ffi::iopf::PageRequests;
use crate::ffi::lock::Guard;
use crate::ffi::nested::{NestedDomain, Stage1Data};
use crate::ffi::trace;
use crate::nesting::stage1;
use crate::nesting::{
    number_of, Attached, AttachedDevice, Binding, BindingKey, BoundKind, RidState,
};
use kernel::prelude::*;
use kernel::rbtree::RBTreeNodeReservation;
use kernel::sync::Arc;

/// What a BIND left behind.
pub(super) struct BindResult {
    /// How it ended.
    pub(super) result: Result,
    /// `VFIO_IOASID_OUTCOME_*`.
    pub(super) outcome: u32,
}

impl BindResult {
    /// A failure before anything was touched, or that was taken back.
    fn unchanged(error: Error) -> Self {
        Self {
            result: Err(error),
            outcome: abi::VFIO_IOASID_OUTCOME_UNCHANGED,
        }
    }

    /// A failure that left nothing in force.
    fn failed_blocked(error: Error) -> Self {
        Self {
            result: Err(error),
            outcome: abi::VFIO_IOASID_OUTCOME_BLOCKED,
        }
    }

    fn done(outcome: u32) -> Self {
        Self {
            result: Ok(()),
            outcome,
        }
    }
}

/// What a BIND needs that is made before the device is locked.
struct Prepared {
    kind: BoundKind,
    space: Option<BoundTable>,
    source: Option<Arc<Source>>,
    share: crate::budget::Share,
}

/// The device of a BIND, locked, and the user's stage-1 table if it is for one.
struct Locked<'a> {
    attached: Guard<'a, Attached>,
    nested: Option<Arc<NestedDomain>>,
}

/// What takes the place of a binding's attachment.
struct Unattached {
    error: Error,
    /// What was attached before, if that is in force again.
    old: Option<Attachment>,
    /// What was in force before still is, be it an attachment or not.
    unchanged: bool,
}

impl Container {
    /// Binds what `bind` asks for. Sleeps.
    pub(super) fn bind(&self, bind: &Bind, queue: Option<Arc<FaultQueue>>) -> BindResult {
        self.try_bind(bind, queue)
            .unwrap_or_else(BindResult::unchanged)
    }

    fn try_bind(&self, bind: &Bind, queue: Option<Arc<FaultQueue>>) -> Result<BindResult> {
        let work = &mut Work::of_call();
        let device = self.nesting.lock().check_site(bind)?.clone();
        if matches!(bind.target, Target::Blocked) {
            return self.block(bind, &device);
        }
        let prepared = self.prepare(bind, &device, queue, work)?;
        let mut locked = self.make_nested(bind, &device, &prepared, work)?;
        self.put_in_force(bind, &device, &mut locked, prepared)
    }

    /// All that can fail before the device is locked. Copies from the user.
    fn prepare(
        &self,
        bind: &Bind,
        device: &AttachedDevice,
        queue: Option<Arc<FaultQueue>>,
        work: &mut Work,
    ) -> Result<Prepared> {
        let capability = device.capability();
        if queue.is_some() {
            capability.page_requests.map_err(|_| eopnotsupp())?;
        }
        let (kind, space) = match &bind.target {
            Target::Stage1(data) => {
                let support = capability.stage1(bind.site).map_err(|_| eopnotsupp())?;
                stage1::check_data(data, &support)?;
                (BoundKind::Stage1, None)
            }
            Target::Stage2 => (BoundKind::Stage2, None),
            Target::AddressSpace(id) => {
                let space = self.table_of_space(*id, device, queue.is_some(), work)?;
                (BoundKind::AddressSpace(*id), Some(space))
            }
            Target::Blocked => return Err(EINVAL),
        };
        let share = self.owner.take(Resource::Domains, 1)?;
        let source = queue
            .map(|queue| Source::new(queue, bind.device, bind.guest_pasid, bind.cookie))
            .transpose()?;
        Ok(Prepared {
            kind,
            space,
            source,
            share,
        })
    }

    /// Locks the device, and makes the nested domain for a stage-1 table: the driver copies the
    /// user's data, with the device locked, if its pages are there at that moment.
    fn make_nested<'a>(
        &self,
        bind: &Bind,
        device: &'a AttachedDevice,
        prepared: &Prepared,
        work: &mut Work,
    ) -> Result<Locked<'a>> {
        let mut tries = 0;
        loop {
            let attached = device.change()?;
            if device.count_group(&attached) {
                return Err(eopnotsupp());
            }
            let Target::Stage1(data) = bind.target else {
                return Ok(Locked {
                    attached,
                    nested: None,
                });
            };
            let page_requests = prepared.source.is_some();
            let stage2 = device.stage2.domain().clone();
            let made = NestedDomain::new(stage2, &device.device, data, page_requests);
            match made {
                Err(EFAULT) if tries < Stage1Data::TRIES => {
                    drop(attached);
                    tries += 1;
                    work.look()?;
                    data.touch()?;
                }
                Err(error) => return Err(error),
                Ok(nested) => {
                    return Ok(Locked {
                        attached,
                        nested: Some(Arc::new(nested, GFP_KERNEL_ACCOUNT)?),
                    });
                }
            }
        }
    }

    /// Attaches what was made, in place of what is there.
    fn put_in_force(
        &self,
        bind: &Bind,
        device: &AttachedDevice,
        locked: &mut Locked<'_>,
        prepared: Prepared,
    ) -> Result<BindResult> {
        let (attached, nested) = (&mut locked.attached, locked.nested.take());
        let Prepared {
            kind,
            space,
            source,
            share,
        } = prepared;
        let (space, table) = match space {
            Some(BoundTable { space, table }) => (Some(space), Some(table)),
            None => (None, None),
        };
        let translation = match (&nested, table) {
            (Some(nested), _) => Translation::Nested(nested.clone()),
            (None, Some(table)) => Translation::Paging(table),
            (None, None) => Translation::Paging(device.stage2.domain().clone()),
        };
        let place = BindingKey::new(bind.site, bind.device);
        let number = number_of(bind.site);
        let new = Detached::new(
            translation,
            source.clone().map(|source| source as Arc<dyn PageRequests>),
        )?;
        let site_node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let attaching = Attaching::begin(&self.switch)?;
        if source.is_some() {
            device.hold_pri(attached)?;
        }
        let binding = Binding {
            kind,
            guest_pasid: bind.guest_pasid,
            cookie: bind.cookie,
            nested,
            next: None,
            source,
            _space: space,
            _share: Some(share),
        };
        let announced = {
            let mut nesting = self.nesting.lock();
            // Its PASID may have been freed meanwhile, or another have bound there.
            nesting.check_site(bind)?;
            nesting.announce(place, binding, node)?
        };
        // From here on PASIDs and quotas are held by what was announced.
        let before = attached.sites.remove(&number);
        let is_new = before.is_none();
        let result = Self::attach(bind.site, device, before.flatten(), new);
        drop(attaching);
        match result {
            Ok(Replaced { attachment, old }) => {
                attached
                    .sites
                    .insert(site_node.into_node(number, Some(attachment)));
                if bind.site == Site::Rid {
                    device.set_rid(attached, RidState::Bound);
                }
                let replaced = self.nesting.lock().confirm(&place, announced);
                self.counters.binds.add(1);
                if let Some(binding) = &replaced {
                    self.counters.unbinds.add(u64::from(binding.is_counted()));
                    if let Some(source) = &binding.source {
                        source.cancel();
                    }
                }
                // The domains go before what counts them.
                drop(old);
                drop(replaced);
                Ok(BindResult::done(abi::VFIO_IOASID_OUTCOME_BOUND))
            }
            Err(Unattached {
                error,
                old,
                unchanged: true,
            }) => {
                if !is_new {
                    attached.sites.insert(site_node.into_node(number, old));
                }
                let withdrawn = self.nesting.lock().withdraw(&place, announced);
                drop(withdrawn);
                Ok(BindResult::unchanged(error))
            }
            Err(Unattached { error, .. }) => {
                if bind.site == Site::Rid {
                    device.set_rid(attached, RidState::Blocked);
                }
                let (withdrawn, gone) = {
                    let mut nesting = self.nesting.lock();
                    let withdrawn = nesting.withdraw(&place, announced);
                    (withdrawn, nesting.remove(&place))
                };
                if let Some(binding) = &gone {
                    self.counters.unbinds.add(u64::from(binding.is_counted()));
                    if let Some(source) = &binding.source {
                        source.cancel();
                    }
                }
                drop((withdrawn, gone));
                Ok(BindResult::failed_blocked(error))
            }
        }
    }

    /// Attaches `new` at a site, in place of `before`, or of stage 2 if the RID has that.
    fn attach(
        site: Site,
        device: &AttachedDevice,
        before: Option<Attachment>,
        new: Detached,
    ) -> Result<Replaced, Unattached> {
        let attached = |attachment| Replaced {
            attachment,
            old: None,
        };
        match before {
            Some(before) => before.replace(new).map_err(|failed| {
                let ReplaceFailed { error, old } = failed;
                let unchanged = old.is_some();
                Unattached {
                    error,
                    old,
                    unchanged,
                }
            }),
            None if site == Site::Rid => {
                let was_in_force = device.rid() == RidState::Stage2;
                let over = device.stage2.attach_over(new, &device.device);
                over.map(attached).map_err(|failed| Unattached {
                    error: failed.error,
                    old: None,
                    unchanged: failed.stage2_in_force == was_in_force,
                })
            }
            // Nothing was in force, and nothing is.
            None => new
                .attach(&device.device, device.stage2.group(), site)
                .map(attached)
                .map_err(|error| Unattached {
                    error,
                    old: None,
                    unchanged: true,
                }),
        }
    }

    /// Stops DMA at a RID or a PASID. Nothing can fail once it is known to be the container's, but
    /// for the memory that the first binding at a PASID takes: there, nothing is let through.
    fn block(&self, bind: &Bind, device: &AttachedDevice) -> Result<BindResult> {
        let place = BindingKey::new(bind.site, bind.device);
        let number = number_of(bind.site);
        let site_node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT);
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT);
        let mut attached = device.change()?;
        let blocked = Binding::blocked(bind.guest_pasid, bind.cookie);
        match bind.site {
            Site::Rid => {
                self.nesting.lock().check_site(bind)?;
                if attached.sites.get(&number).is_some() {
                    self.undo(device, &mut attached, bind.site);
                } else {
                    device.stage2.block();
                }
                device.set_rid(&mut attached, RidState::Blocked);
            }
            Site::Pasid(_) => match attached.sites.get_mut(&number) {
                Some(there) => {
                    self.nesting.lock().check_site(bind)?;
                    let before = there.take();
                    self.detach(device, bind.site, before);
                    let replaced = self.nesting.lock().replace(&place, blocked);
                    drop(replaced);
                }
                None => {
                    let (site_node, node) = (site_node?, node?);
                    {
                        let mut nesting = self.nesting.lock();
                        nesting.check_site(bind)?;
                        nesting.announce(place, blocked, node)?;
                    }
                    attached.sites.insert(site_node.into_node(number, None));
                }
            },
        }
        self.counters.binds.add(1);
        Ok(BindResult::done(abi::VFIO_IOASID_OUTCOME_BLOCKED))
    }

    /// Undoes the binding at a site, which is in `attached`. The RID is blocked then. Sleeps.
    pub(super) fn undo(
        &self,
        device: &AttachedDevice,
        attached: &mut Guard<'_, Attached>,
        site: Site,
    ) {
        let before = attached.sites.remove(&number_of(site)).flatten();
        if site == Site::Rid {
            device.set_rid(attached, RidState::Blocked);
        }
        self.detach(device, site, before);
        let removed = device
            .device
            .bdf()
            .and_then(|bdf| self.nesting.lock().remove(&BindingKey::new(site, bdf)));
        drop(removed);
    }

    /// Steps 4 and 5 of a binding's life, see [`crate::fault`]. Sleeps.
    fn detach(&self, device: &AttachedDevice, site: Site, attachment: Option<Attachment>) {
        let Some(bdf) = device.device.bdf() else {
            return;
        };
        trace::unbind(self.id, bdf, site);
        let place = BindingKey::new(site, bdf);
        let source = self
            .nesting
            .lock()
            .with_binding(&place, |binding| binding.source.clone())
            .flatten();
        if let Some(source) = &source {
            source.stop();
        }
        let translation = attachment.and_then(Attachment::detach);
        if let Some(source) = &source {
            source.cancel();
        }
        self.counters.unbinds.add(u64::from(translation.is_some()));
        drop(translation);
    }

    /// Unbinds what is in scope; at a RID, stage 2 takes its place. Sleeps.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if the one binding, or the device, is not there; [`ENODEV`] if it has left.
    /// - What the IOMMU driver says if stage 2 could not be attached at a RID. The call can be
    ///   made again.
    pub(super) fn unbind(&self, scope: Scope) -> Result {
        match scope {
            Scope::Binding(bdf, site) => {
                let device = self.nesting.lock().device(bdf)?.clone();
                let mut attached = device.change()?;
                if attached.sites.get(&number_of(site)).is_some() {
                    self.undo(&device, &mut attached, site);
                } else if site != Site::Rid || device.rid() != RidState::Blocked {
                    return Err(ENOENT);
                }
                match site {
                    Site::Rid => device.restore_stage2(&mut attached),
                    Site::Pasid(_) => Ok(()),
                }
            }
            Scope::Device(bdf) => self.unbind_device(bdf),
            Scope::Container => {
                let mut result = Ok(());
                let mut index = 0;
                loop {
                    let device = self.nesting.lock().device_at(index);
                    let Some(device) = device else {
                        return result;
                    };
                    index += 1;
                    match device.device.bdf().map(|bdf| self.unbind_device(bdf)) {
                        Some(Err(EINTR)) => return Err(EINTR),
                        // It has left with all that was bound there.
                        None | Some(Err(ENODEV | ENOENT)) => {}
                        Some(unbound) => result = result.and(unbound),
                    }
                }
            }
        }
    }

    /// Unbinds all that is bound at a device, one by one, so that others come between.
    fn unbind_device(&self, bdf: Bdf) -> Result {
        let work = &mut Work::of_call();
        let device = self.nesting.lock().device(bdf)?.clone();
        loop {
            work.look()?;
            let mut attached = device.change()?;
            match attached.first() {
                Some(site) => self.undo(&device, &mut attached, site),
                None if device.rid() == RidState::Blocked => {
                    return device.restore_stage2(&mut attached);
                }
                None => return Ok(()),
            }
        }
    }
}
