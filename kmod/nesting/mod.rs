// SPDX-License-Identifier: GPL-2.0
//! Devices of a container, its PASIDs, and the stage-1 tables bound at them.

mod binding;
mod capability;
mod inspect;
mod place;
mod queues;
mod report;
mod stage1;

pub(crate) use binding::Kind;

use crate::budget::{self, Owner};
use crate::fault::{Counters, FaultQueue, Source};
use crate::ffi::attach::{Attachment, Detached, Site, Translation};
use crate::ffi::device::{Bdf, Device};
use crate::ffi::errno::{edquot, eopnotsupp};
use crate::ffi::group::Group;
use crate::ffi::limits::Limit;
use crate::ffi::nested::NestedDomain;
use crate::ffi::paging::PagingDomain;
use crate::ffi::trace;
use crate::ffi::uapi;
use crate::pasid::Pasids;
use crate::uapi::{Bind, Invalidate, Scope, Target};
use binding::{Binding, NewBinding, Unreplaced};
use capability::Capability;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::Arc;
use place::Place;

/// A device and the group it came with.
struct AttachedDevice {
    device: Device,
    group: Group,
    shared: bool,
    /// Nothing is in force at the RID: it was bound so, or a BIND or UNBIND there failed half-way.
    rid_blocked: bool,
    /// Attached at the highest PASID from the first binding with a fault queue on, until the
    /// device leaves. The driver's page requests are switched on with the first such domain of
    /// a device and off with the last, and a request that comes meanwhile finds the core without
    /// its parameters (a WARN): with this one the others never are first or last.
    keeper: Option<Attachment>,
}

impl AttachedDevice {
    /// The PASID that is the host's, if the device has any.
    fn keeper_pasid(&self) -> Option<u32> {
        self.device
            .max_pasids()
            .checked_sub(1)
            .filter(|&pasid| pasid != 0)
    }

    /// Sees to it that the keeper is there. Sleeps.
    fn keep_page_requests(&mut self) -> Result {
        let Some(pasid) = self.keeper_pasid().filter(|_| self.keeper.is_none()) else {
            return Ok(());
        };
        let domain = PagingDomain::with_page_requests(&self.device)?;
        let domain = Arc::new(domain, GFP_KERNEL_ACCOUNT)?;
        let keeper = Detached::new(Translation::Paging(domain), None)?
            .attach(&self.device, self.group, Site::Pasid(pasid))
            .map_err(|(error, _)| error)?;
        self.keeper = Some(keeper);
        Ok(())
    }
}

/// What a BIND left behind.
pub(crate) struct BindResult {
    /// How it ended.
    pub(crate) result: Result,
    /// `VFIO_IOASID_OUTCOME_*`.
    pub(crate) outcome: u32,
}

impl BindResult {
    /// A failure before anything was touched.
    pub(crate) fn unchanged(error: Error) -> Self {
        Self {
            result: Err(error),
            outcome: uapi::VFIO_IOASID_OUTCOME_UNCHANGED,
        }
    }

    fn blocked(error: Error) -> Self {
        Self {
            result: Err(error),
            outcome: uapi::VFIO_IOASID_OUTCOME_BLOCKED,
        }
    }
}

/// The nesting side of a container.
///
/// # Invariants
///
/// - Each binding's device is in `devices`, and its PASID in `pasids`.
/// - `bound` is the number of bindings that count towards the quota.
pub(crate) struct Nesting {
    /// Number of the container.
    container: u64,
    owner: Owner,
    counters: Arc<Counters>,
    devices: KVec<AttachedDevice>,
    pasids: Pasids,
    bindings: RBTree<Place, Binding>,
    bound: u32,
    queues: KVec<Arc<FaultQueue>>,
    released: bool,
}

impl Nesting {
    /// Nothing attached, allocated or bound, in container number `container` of `owner`.
    pub(crate) fn new(container: u64, owner: Owner, counters: Arc<Counters>) -> Self {
        Self {
            container,
            pasids: Pasids::new(&owner),
            owner,
            counters,
            devices: KVec::new(),
            bindings: RBTree::new(),
            bound: 0,
            queues: KVec::new(),
            released: false,
        }
    }

    /// The PASIDs of the container.
    pub(crate) fn pasids(&mut self) -> &mut Pasids {
        &mut self.pasids
    }

    /// Makes room for `count` devices, so that adding them cannot fail.
    pub(crate) fn reserve(&mut self, count: usize) -> Result {
        Ok(self.devices.reserve(count, GFP_KERNEL_ACCOUNT)?)
    }

    /// Adds the devices of a group, for which room was made.
    pub(crate) fn attach(&mut self, group: Group, devices: KVec<Device>) {
        let shared = devices.len() > 1;
        for device in devices {
            let attached = AttachedDevice {
                device,
                group,
                shared,
                rid_blocked: false,
                keeper: None,
            };
            if self.devices.push_within_capacity(attached).is_err() {
                pr_warn!("a device was attached without room for it\n");
            }
        }
    }

    /// Unbinds and forgets the devices of a group. Sleeps.
    pub(crate) fn detach(&mut self, group: Group) {
        while let Some(device) = self
            .devices
            .iter()
            .position(|attached| attached.group == group)
            .and_then(|at| self.devices.remove(at).ok())
        {
            if let Some(bdf) = device.device.bdf() {
                self.unbind_where(|place| place.device() == bdf);
            }
            // The keeper goes last, with `device`.
        }
    }

    /// The container is gone: nothing is attached any more, and no fault comes.
    pub(crate) fn release(&mut self) {
        self.released = true;
        self.unbind_where(|_| true);
        self.pasids = Pasids::new(&self.owner);
        for queue in &self.queues {
            queue.end();
        }
    }

    /// Frees PASIDs.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if one of them is bound, and those of [`Pasids::free`].
    pub(crate) fn free_pasids(&mut self, first: u32, count: u32) -> Result {
        let bound = self
            .bindings
            .cursor_lower_bound(&Place::first_of(first))
            .is_some_and(|cursor| match cursor.current().0.site() {
                Site::Pasid(pasid) => pasid - first < count,
                Site::Rid => false,
            });
        if bound {
            return Err(EBUSY);
        }
        self.pasids.free(first, count)
    }

    /// Binds what `bind` asks for: on `stage2`, which is in force at the RID of the device, or
    /// by `domain` of an address space. Sleeps.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_BIND` has them.
    pub(crate) fn bind(
        &mut self,
        bind: &Bind,
        stage2: Arc<PagingDomain>,
        domain: Option<Arc<PagingDomain>>,
        queue: Option<Arc<FaultQueue>>,
    ) -> BindResult {
        if matches!(bind.target, Target::Blocked) {
            return self
                .block(bind, &stage2)
                .unwrap_or_else(BindResult::unchanged);
        }
        match self.prepare(bind, &stage2, domain, queue) {
            Ok(new) if self.is_bound(bind) => self.replace(bind, new),
            Ok(new) => self.bind_first(bind, &stage2, new),
            Err(error) => BindResult::unchanged(error),
        }
    }

    fn is_bound(&self, bind: &Bind) -> bool {
        let place = Place::new(bind.site, bind.device);
        self.bindings.get(&place).is_some()
    }

    /// Stops DMA at a RID or a PASID. Nothing can fail once it is known to be the container's, but
    /// for the memory that the first binding at a PASID takes: there, nothing is let through.
    fn block(&mut self, bind: &Bind, stage2: &PagingDomain) -> Result<BindResult> {
        self.check_site(bind, stage2)?;
        let at = self.position(bind.device)?;
        let place = Place::new(bind.site, bind.device);
        let blocked = Binding::blocked(bind.guest_pasid, bind.cookie);
        match bind.site {
            Site::Rid => {
                if let Some(binding) = self.bindings.remove(&place) {
                    self.undo(place, binding);
                } else if let Some(attached) = self.devices.get_mut(at) {
                    if !attached.rid_blocked {
                        stage2.detach_group(attached.group);
                        attached.rid_blocked = true;
                    }
                }
            }
            Site::Pasid(_) => match self.bindings.get_mut(&place) {
                Some(binding) => {
                    let old = core::mem::replace(binding, blocked);
                    self.undo(place, old);
                }
                None => {
                    self.bindings
                        .try_create_and_insert(place, blocked, GFP_KERNEL_ACCOUNT)?;
                }
            },
        }
        self.counters.binds.add(1);
        Ok(BindResult {
            result: Ok(()),
            outcome: uapi::VFIO_IOASID_OUTCOME_BLOCKED,
        })
    }

    /// Checks that something can be bound where `bind` says, with or without what is bound there.
    fn check_site(&mut self, bind: &Bind, stage2: &PagingDomain) -> Result<Capability> {
        let at = self.position(bind.device)?;
        let attached = self.devices.get(at).ok_or(ENOENT)?;
        let capability = Capability::of(&attached.device, attached.shared, stage2.is_nest_parent());
        capability.at(bind.site).map_err(|_| eopnotsupp())?;
        if let Site::Pasid(pasid) = bind.site {
            if !self.pasids.contains(pasid) {
                return Err(ENOENT);
            }
            if pasid >= attached.device.max_pasids() {
                return Err(eopnotsupp());
            }
            if capability.page_requests.is_ok() && Some(pasid) == attached.keeper_pasid() {
                return Err(EBUSY);
            }
        }
        match (self.is_bound(bind), bind.replace, bind.site) {
            (true, false, _) => Err(EBUSY),
            (false, true, Site::Pasid(_)) => Err(ENOENT),
            _ => Ok(capability),
        }
    }

    /// All that can fail before anything is touched.
    fn prepare(
        &mut self,
        bind: &Bind,
        stage2: &Arc<PagingDomain>,
        domain: Option<Arc<PagingDomain>>,
        queue: Option<Arc<FaultQueue>>,
    ) -> Result<NewBinding> {
        let capability = self.check_site(bind, stage2)?;
        if queue.is_some() {
            capability.page_requests.map_err(|_| eopnotsupp())?;
        }
        if let Target::Stage1(data) = &bind.target {
            let support = capability.stage1(bind.site).map_err(|_| eopnotsupp())?;
            stage1::check_data(data, &support)?;
        }
        let place = Place::new(bind.site, bind.device);
        let counted = self.bindings.get(&place).is_some_and(Binding::is_counted);
        if !counted && self.bound >= Limit::Bindings.get() {
            return Err(edquot());
        }
        let at = self.position(bind.device)?;
        let attached = self.devices.get_mut(at).ok_or(ENOENT)?;
        let share = self.owner.take(budget::Kind::Domains, 1)?;
        let source = queue
            .map(|queue| Source::new(queue, bind.device, bind.guest_pasid, bind.cookie))
            .transpose()?;
        if source.is_some() {
            attached.keep_page_requests()?;
        }
        let (kind, translation) = match bind.target {
            Target::Stage1(data) => {
                let nested =
                    NestedDomain::new(stage2.clone(), &attached.device, data, source.is_some())?;
                (Kind::Stage1, Translation::Nested(nested))
            }
            Target::Stage2 => (Kind::Stage2, Translation::Paging(stage2.clone())),
            Target::AddressSpace(id) => (
                Kind::AddressSpace(id),
                Translation::Paging(domain.ok_or(ENOENT)?),
            ),
            Target::Blocked => return Err(EINVAL),
        };
        Ok(NewBinding {
            kind,
            guest_pasid: bind.guest_pasid,
            cookie: bind.cookie,
            translation: Detached::new(translation, source.clone())?,
            source,
            share,
        })
    }

    fn bind_first(&mut self, bind: &Bind, stage2: &PagingDomain, new: NewBinding) -> BindResult {
        let node = match RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT) {
            Ok(node) => node,
            Err(error) => return BindResult::unchanged(error),
        };
        let Some(attached) = self
            .position(bind.device)
            .ok()
            .and_then(|at| self.devices.get_mut(at))
        else {
            return BindResult::unchanged(ENOENT);
        };
        let (device, group) = (&attached.device, attached.group);
        let place = Place::new(bind.site, bind.device);
        let displaces = bind.site == Site::Rid && !attached.rid_blocked;
        let binding = new.attach(|translation| {
            if displaces {
                translation.displace(stage2, device, group)
            } else {
                translation
                    .attach(device, group, bind.site)
                    .map_err(|(error, _)| (error, bind.site != Site::Rid))
            }
        });
        match binding {
            Ok(binding) => {
                attached.rid_blocked &= bind.site != Site::Rid;
                self.bindings.insert(node.into_node(place, binding));
                self.bound += 1;
                self.counters.binds.add(1);
                BindResult {
                    result: Ok(()),
                    outcome: uapi::VFIO_IOASID_OUTCOME_BOUND,
                }
            }
            Err((error, true)) => BindResult::unchanged(error),
            Err((error, false)) => {
                attached.rid_blocked = true;
                BindResult::blocked(error)
            }
        }
    }

    fn replace(&mut self, bind: &Bind, new: NewBinding) -> BindResult {
        let place = Place::new(bind.site, bind.device);
        let node = match RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT) {
            Ok(node) => node,
            Err(error) => return BindResult::unchanged(error),
        };
        let attached = self
            .position(bind.device)
            .ok()
            .and_then(|at| self.devices.get(at));
        let Some((attached, old)) = attached.zip(self.bindings.remove(&place)) else {
            return BindResult::unchanged(ENOENT);
        };
        let counted = old.is_counted();
        match old.replace(new, &attached.device, attached.group, bind.site) {
            Ok(binding) => {
                self.bindings.insert(node.into_node(place, binding));
                self.bound += u32::from(!counted);
                self.counters.binds.add(1);
                self.counters.unbinds.add(u64::from(counted));
                BindResult {
                    result: Ok(()),
                    outcome: uapi::VFIO_IOASID_OUTCOME_BOUND,
                }
            }
            Err(Unreplaced {
                error,
                old: Some(binding),
            }) => {
                self.bindings.insert(node.into_node(place, binding));
                BindResult::unchanged(error)
            }
            Err(Unreplaced { error, old: None }) => {
                self.bound -= 1;
                self.counters.unbinds.add(1);
                self.set_rid_blocked(bind.site, bind.device);
                BindResult::blocked(error)
            }
        }
    }

    fn set_rid_blocked(&mut self, site: Site, device: Bdf) {
        let Ok(at) = self.position(device) else {
            return;
        };
        if let Some(attached) = self.devices.get_mut(at) {
            attached.rid_blocked |= site == Site::Rid;
        }
    }

    /// Whether something is bound to the address space of that number.
    pub(crate) fn binds_address_space(&self, id: u32) -> bool {
        self.bindings
            .values()
            .any(|binding| binding.kind == Kind::AddressSpace(id))
    }

    /// Unbinds what is in scope; `stage2_of` gives the stage 2 of a device, which takes the
    /// place of what was bound at its RID. Sleeps.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if the one binding, or the device, is not there.
    /// - What the IOMMU driver says if stage 2 could not be attached at a RID. The call can be
    ///   made again.
    pub(crate) fn unbind(
        &mut self,
        scope: Scope,
        stage2_of: impl Fn(&Device) -> Option<Arc<PagingDomain>>,
    ) -> Result {
        match scope {
            Scope::Binding(device, site) => {
                let blocked = site == Site::Rid
                    && self
                        .device(device)
                        .is_ok_and(|attached| attached.rid_blocked);
                let place = Place::new(site, device);
                match self.bindings.remove(&place) {
                    Some(binding) => self.undo(place, binding),
                    None if blocked => {}
                    None => return Err(ENOENT),
                }
            }
            Scope::Device(device) => {
                self.device(device)?;
                self.unbind_where(|place| place.device() == device);
            }
            Scope::Container => self.unbind_where(|_| true),
        }
        self.restore_stage2(scope, stage2_of)
    }

    /// Attaches stage 2 at each RID in scope where nothing is in force.
    fn restore_stage2(
        &mut self,
        scope: Scope,
        stage2_of: impl Fn(&Device) -> Option<Arc<PagingDomain>>,
    ) -> Result {
        let in_scope = |attached: &AttachedDevice| match scope {
            Scope::Binding(_, Site::Pasid(_)) => false,
            Scope::Binding(device, Site::Rid) | Scope::Device(device) => {
                attached.device.bdf() == Some(device)
            }
            Scope::Container => true,
        };
        let mut result = Ok(());
        let blocked = |attached: &&mut AttachedDevice| attached.rid_blocked && in_scope(attached);
        for attached in self.devices.iter_mut().filter(blocked) {
            let restored = stage2_of(&attached.device)
                .ok_or(ENODEV)
                .and_then(|stage2| stage2.attach_group(attached.group))
                // Nothing else is there, so the core is busy with the device's recovery.
                .map_err(|error| if error == EBUSY { EAGAIN } else { error });
            attached.rid_blocked = restored.is_err();
            result = result.and(restored);
        }
        result
    }

    fn unbind_where(&mut self, wanted: impl Fn(Place) -> bool) {
        // The order is by site, so each round starts at the front again only past the kept.
        let mut from: Option<Place> = None;
        loop {
            let mut cursor = match &from {
                Some(place) => self.bindings.cursor_lower_bound_mut(place),
                None => self.bindings.cursor_front_mut(),
            };
            while let Some(here) = cursor {
                if wanted(*here.current().0) {
                    cursor = Some(here);
                    break;
                }
                cursor = here.move_next();
            }
            let Some(here) = cursor else {
                return;
            };
            let (place, binding) = here.remove_current().1.to_key_value();
            self.undo(place, binding);
            from = Some(place);
        }
    }

    fn undo(&mut self, place: Place, binding: Binding) {
        let (site, device) = (place.site(), place.device());
        self.set_rid_blocked(site, device);
        trace::unbind(self.container, device, site);
        self.bound -= u32::from(binding.is_counted());
        self.counters.unbinds.add(1);
        binding.undo();
    }

    /// Carries invalidation entries out. Gives how many were done, the index of the first bad
    /// one (their number if none), and how it ended.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_INVALIDATE` has them.
    pub(crate) fn invalidate(&self, call: &Invalidate) -> (u32, u32, Result) {
        let checked = self
            .nested_in(call.scope)
            .and_then(|nested| Ok((nested, stage1::check_entries(&call.entries)?)));
        let (nested, (good, checked)) = match checked {
            Ok(checked) => checked,
            Err(error) => return (0, 0, Err(error)),
        };
        let mut entries = call.entries;
        entries.count = good;
        let mut done = good;
        let mut result = Ok(());
        let mut one = |nested: &NestedDomain| {
            let (count, outcome) = nested.invalidate(entries);
            self.counters.invalidations.add(u64::from(count));
            done = done.min(count);
            if result.is_ok() {
                result = outcome;
            }
        };
        match (nested, call.scope) {
            _ if good == 0 => {}
            (Some(nested), _) => one(nested),
            (None, Scope::Device(device)) => self
                .bindings
                .iter()
                .filter(|(place, _)| place.device() == device)
                .filter_map(|(_, binding)| binding.nested())
                .for_each(one),
            (None, _) => self
                .bindings
                .values()
                .filter_map(Binding::nested)
                .for_each(one),
        }
        let bad = if result.is_err() { done } else { good };
        (done, bad, result.and(checked))
    }

    /// The nested domain in scope, if the scope is that of one binding.
    fn nested_in(&self, scope: Scope) -> Result<Option<&NestedDomain>> {
        match scope {
            Scope::Binding(device, site) => {
                let blocked = || match self.device(device) {
                    Ok(attached) if site == Site::Rid && attached.rid_blocked => EINVAL,
                    _ => ENOENT,
                };
                let binding = self.bindings.get(&Place::new(site, device));
                let nested = binding.ok_or_else(blocked)?.nested();
                nested.ok_or(EINVAL).map(Some)
            }
            Scope::Device(device) => self.device(device).map(|_| None),
            Scope::Container => Ok(None),
        }
    }

    fn device(&self, bdf: Bdf) -> Result<&AttachedDevice> {
        self.devices.get(self.position(bdf)?).ok_or(ENOENT)
    }

    fn position(&self, bdf: Bdf) -> Result<usize> {
        self.devices
            .iter()
            .position(|attached| attached.device.bdf() == Some(bdf))
            .ok_or(ENOENT)
    }
}
