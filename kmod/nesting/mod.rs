// SPDX-License-Identifier: GPL-2.0
//! Devices of a container, its PASIDs, and what is bound at them.
//!
//! [`Nesting`] is what is known of all of them, under a lock that is held for look-ups alone; what is
//! attached at a device is under a lock of that device ([`AttachedDevice`]). `crate::container` has
//! the calls, step by step.

mod binding;
mod capability;
mod device;
mod key;
mod lines;
pub(crate) mod queues;
mod report;
pub(crate) mod stage1;
mod stage2;

pub(crate) use binding::{Binding, BoundKind, Stage1Tables};
pub(crate) use device::{number_of, Attached, AttachedDevice, RidState};
pub(crate) use key::BindingKey;
pub(crate) use stage2::GroupStage2;

use crate::budget::Owner;
use crate::call::{Bind, Scope};
use crate::fault::FaultQueue;
use crate::ffi::attach::Site;
use crate::ffi::device::Bdf;
use crate::ffi::errno::{edquot, eopnotsupp};
use crate::ffi::limits::Limit;
use crate::pasid::Pasids;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::Arc;

/// The nesting side of a container.
///
/// # Invariants
///
/// - Each binding's device is in `devices`, and its PASID in `pasids`.
/// - `bound` is the number of bindings that count towards the quota.
pub(crate) struct Nesting {
    owner: Owner,
    devices: KVec<Arc<AttachedDevice>>,
    pasids: Pasids,
    bindings: RBTree<BindingKey, Binding>,
    bound: u32,
}

impl Nesting {
    /// Nothing attached, allocated or bound, in a container of `owner`.
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            pasids: Pasids::new(&owner),
            owner,
            devices: KVec::new(),
            bindings: RBTree::new(),
            bound: 0,
        }
    }

    /// The PASIDs of the container.
    pub(crate) fn pasids(&mut self) -> &mut Pasids {
        &mut self.pasids
    }

    /// Adds devices, all or none.
    pub(crate) fn attach(&mut self, devices: &[Arc<AttachedDevice>]) -> Result {
        Ok(self
            .devices
            .extend_from_slice(devices, GFP_KERNEL_ACCOUNT)?)
    }

    /// Forgets a device, whose bindings are gone.
    pub(crate) fn detach(&mut self, device: &Arc<AttachedDevice>) {
        self.devices.retain(|other| !Arc::ptr_eq(other, device));
    }

    /// Forgets the PASIDs.
    pub(crate) fn release(&mut self) {
        self.pasids = Pasids::new(&self.owner);
    }

    /// Number of devices, those that have left included.
    pub(crate) fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// Device number `index`.
    pub(crate) fn device_at(&self, index: usize) -> Option<Arc<AttachedDevice>> {
        self.devices.get(index).cloned()
    }

    /// The device of an address.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if there is none.
    /// - [`ENODEV`] if it has left.
    pub(crate) fn device(&self, bdf: Bdf) -> Result<&Arc<AttachedDevice>> {
        let of_address = |attached: &&Arc<AttachedDevice>| attached.device.bdf() == Some(bdf);
        let mut found = self.devices.iter().filter(of_address);
        let first = found.next().ok_or(ENOENT)?;
        if !first.is_gone() {
            return Ok(first);
        }
        found.find(|other| !other.is_gone()).ok_or(ENODEV)
    }

    /// The first device that `is_it` holds for.
    pub(crate) fn device_where(
        &self,
        is_it: impl Fn(&AttachedDevice) -> bool,
    ) -> Option<Arc<AttachedDevice>> {
        self.devices.iter().find(|other| is_it(other)).cloned()
    }

    /// Frees PASIDs.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if one of them is bound, and those of [`Pasids::free`].
    pub(crate) fn free_pasids(&mut self, first: u32, count: u32) -> Result {
        let bound = self
            .bindings
            .cursor_lower_bound(&BindingKey::first_of(first))
            .is_some_and(|cursor| match cursor.current().0.site() {
                Site::Pasid(pasid) => pasid - first < count,
                Site::Rid => false,
            });
        if bound {
            return Err(EBUSY);
        }
        self.pasids.free(first, count)
    }

    /// Checks that something can be bound where `bind` says, whatever it is, and gives the device.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_BIND` has them.
    pub(crate) fn check_site(&self, bind: &Bind) -> Result<&Arc<AttachedDevice>> {
        let attached = self.device(bind.device)?;
        let capability = attached.capability();
        capability.at(bind.site).map_err(|_| eopnotsupp())?;
        if let Site::Pasid(pasid) = bind.site {
            if !self.pasids.contains(pasid) {
                return Err(ENOENT);
            }
            if pasid >= attached.device.max_pasids() {
                return Err(eopnotsupp());
            }
            if capability.page_requests.is_ok() && Some(pasid) == attached.host_pasid() {
                return Err(EBUSY);
            }
        }
        let place = BindingKey::new(bind.site, bind.device);
        let bound = self.bindings.get(&place).is_some();
        match (bound, bind.replace, bind.site) {
            (true, false, _) => Err(EBUSY),
            (false, true, Site::Pasid(_)) => Err(ENOENT),
            _ => Ok(attached),
        }
    }

    /// Counts a binding that comes where something stands that counts or not.
    ///
    /// # Errors
    ///
    /// [`EDQUOT`] if there are too many.
    fn count_one_more(&mut self, place: &BindingKey) -> Result {
        if self.bindings.get(place).is_some_and(Binding::is_counted) {
            return Ok(());
        }
        if self.bound >= Limit::Bindings.get() {
            return Err(edquot());
        }
        self.bound += 1;
        Ok(())
    }

    /// Makes known what is about to come into force: where nothing is bound, the binding; else its
    /// stage-1 table, beside what is bound there.
    ///
    /// # Errors
    ///
    /// [`EDQUOT`] if there are too many bindings.
    pub(crate) fn announce(
        &mut self,
        place: BindingKey,
        binding: Binding,
        node: RBTreeNodeReservation<BindingKey, Binding>,
    ) -> Result<Announced> {
        if binding.is_counted() {
            self.count_one_more(&place)?;
        }
        match self.bindings.get_mut(&place) {
            Some(old) => {
                old.next = binding.nested.clone();
                Ok(Announced::Beside(binding))
            }
            None => {
                self.bindings.insert(node.into_node(place, binding));
                Ok(Announced::Alone)
            }
        }
    }

    /// What was announced is in force: gives the binding that was there before.
    pub(crate) fn confirm(&mut self, place: &BindingKey, announced: Announced) -> Option<Binding> {
        match announced {
            Announced::Alone => None,
            Announced::Beside(binding) => {
                let old = self.bindings.get_mut(place)?;
                Some(core::mem::replace(old, binding))
            }
        }
    }

    /// What was announced did not come into force, and what was there before still is.
    pub(crate) fn withdraw(&mut self, place: &BindingKey, announced: Announced) -> Option<Binding> {
        match announced {
            Announced::Alone => self.remove(place),
            Announced::Beside(binding) => {
                let old = self.bindings.get_mut(place)?;
                old.next = None;
                if binding.is_counted() && !old.is_counted() {
                    self.bound -= 1;
                }
                Some(binding)
            }
        }
    }

    /// Removes a binding that is no longer in force.
    pub(crate) fn remove(&mut self, place: &BindingKey) -> Option<Binding> {
        let binding = self.bindings.remove(place)?;
        self.bound -= u32::from(binding.is_counted());
        Some(binding)
    }

    /// Puts a binding in the place of another.
    pub(crate) fn replace(&mut self, place: &BindingKey, binding: Binding) -> Option<Binding> {
        let old = self.bindings.get_mut(place)?;
        let counted = (old.is_counted(), binding.is_counted());
        let old = core::mem::replace(old, binding);
        match counted {
            (true, false) => self.bound -= 1,
            (false, true) => self.bound += 1,
            _ => {}
        }
        Some(old)
    }

    /// Calls `with` on a binding.
    pub(crate) fn with_binding<T>(
        &self,
        place: &BindingKey,
        with: impl FnOnce(&Binding) -> T,
    ) -> Option<T> {
        self.bindings.get(place).map(with)
    }

    /// A queue that faults of a device go to, if it has one.
    pub(crate) fn queue_of(&self, device: Bdf) -> Option<Arc<FaultQueue>> {
        self.bindings
            .iter()
            .filter(|(place, _)| place.device() == device)
            .find_map(|(_, binding)| binding.queue().cloned())
    }

    /// Checks the scope of an INVALIDATE.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_INVALIDATE` has them.
    pub(crate) fn check_scope(&self, scope: Scope) -> Result {
        match scope {
            Scope::Binding(device, site) => self.tables_at(device, site).map(|_| ()),
            Scope::Device(device) => self.device(device).map(|_| ()),
            Scope::Container => Ok(()),
        }
    }

    /// The stage-1 tables of a binding.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if nothing is bound there.
    /// - [`EINVAL`] if it is no stage-1 table.
    pub(crate) fn tables_at(&self, device: Bdf, site: Site) -> Result<Stage1Tables> {
        match self.bindings.get(&BindingKey::new(site, device)) {
            Some(binding) => binding.tables().ok_or(EINVAL),
            None => Err(match self.device(device) {
                Ok(attached) if site == Site::Rid && attached.rid() == RidState::Blocked => EINVAL,
                _ => ENOENT,
            }),
        }
    }

    /// The first stage-1 tables in scope from a place on.
    pub(crate) fn next_tables(&mut self, scope: Scope, from: BindingKey) -> Option<FoundTables> {
        let mut cursor = self.bindings.cursor_lower_bound_mut(&from);
        while let Some(here) = cursor {
            let (place, binding) = here.current();
            let wanted = match scope {
                Scope::Device(device) => place.device() == device,
                _ => true,
            };
            if let Some(tables) = binding.tables().filter(|_| wanted) {
                return Some(FoundTables {
                    tables,
                    behind: place.next_number().map(BindingKey::from_number),
                });
            }
            cursor = here.move_next();
        }
        None
    }
}

/// What [`Nesting::next_tables`] found.
pub(crate) struct FoundTables {
    /// The tables.
    pub(crate) tables: Stage1Tables,
    /// Where to look for the next ones, if there is more.
    pub(crate) behind: Option<BindingKey>,
}

/// A binding on its way.
pub(crate) enum Announced {
    /// It is known already.
    Alone,
    /// Another stands there.
    Beside(Binding),
}
