// SPDX-License-Identifier: GPL-2.0
//! A device of a container, and what is attached at its RID and its PASIDs.

use super::capability::Capability;
use super::stage2::GroupStage2;
use crate::ffi::attach::{Attachment, Detached, Site, Translation};
use crate::ffi::device::Device;
use crate::ffi::lock::{new_lock, Guard, Lock};
use crate::ffi::paging::PagingDomain;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;

/// What is in force at a RID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum RidState {
    /// The container's stage 2.
    Stage2 = 0,
    /// A binding.
    Bound = 1,
    /// Nothing: it was bound so, or a BIND or UNBIND there failed half-way.
    Blocked = 2,
}

/// A device and the group it came with.
#[pin_data]
pub(crate) struct AttachedDevice {
    /// The device.
    pub(crate) device: Device,
    /// Its group, and stage 2 there.
    pub(crate) stage2: Arc<GroupStage2>,
    /// Others are in its group, as far as is known. This and the next three are read by everybody,
    /// and changed by who has [`Attached`] in hand.
    shared: Atomic<bool>,
    /// A [`RidState`].
    rid: Atomic<u32>,
    /// Page requests are held on.
    pri_held: Atomic<bool>,
    /// It has left, or its group has.
    gone: Atomic<bool>,
    /// Held while something is attached or detached here, over what the IOMMU has to do.
    #[pin]
    attached: Lock<Attached>,
}

/// A device that leaves.
pub(crate) struct Leaving<'a> {
    /// What is attached there still.
    pub(crate) attached: Guard<'a, Attached>,
    /// It had left before.
    pub(crate) was_gone: bool,
}

/// What is attached at a device.
pub(crate) struct Attached {
    /// Attached at the highest PASID from the first binding with a fault queue on, until the
    /// device leaves. The driver's page requests are switched on with the first such domain of
    /// a device and off with the last, and a request that comes meanwhile finds the core without
    /// its parameters (a WARN): with this one the others never are first or last.
    pri_holder: Option<Attachment>,
    /// By PASID, 0 for the RID; `None` where a PASID is bound to nothing.
    pub(crate) sites: RBTree<u32, Option<Attachment>>,
}

/// The number of a site in [`Attached::sites`].
pub(crate) fn number_of(site: Site) -> u32 {
    match site {
        Site::Rid => 0,
        Site::Pasid(pasid) => pasid,
    }
}

fn site_of(number: u32) -> Site {
    match number {
        0 => Site::Rid,
        pasid => Site::Pasid(pasid),
    }
}

impl AttachedDevice {
    /// A device of the group of `stage2`, `shared` with others.
    pub(crate) fn new(device: Device, stage2: Arc<GroupStage2>, shared: bool) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                device,
                stage2,
                shared: Atomic::new(shared),
                rid: Atomic::new(RidState::Stage2 as u32),
                pri_held: Atomic::new(false),
                gone: Atomic::new(false),
                attached <- new_lock!(
                    Attached { pri_holder: None, sites: RBTree::new() },
                    "AttachedDevice::attached"
                ),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Takes the lock for a call that attaches or detaches something.
    ///
    /// # Errors
    ///
    /// - [`EINTR`] if a fatal signal came.
    /// - [`ENODEV`] if the device has left.
    pub(crate) fn change(&self) -> Result<Guard<'_, Attached>> {
        let attached = self.attached.lock_killable()?;
        if self.is_gone() {
            return Err(ENODEV);
        }
        Ok(attached)
    }

    /// Takes the lock for a teardown: from then on no call attaches anything here.
    pub(crate) fn leave(&self) -> Leaving<'_> {
        let attached = self.attached.lock();
        let was_gone = self.is_gone();
        self.gone.store(true, Relaxed);
        Leaving { attached, was_gone }
    }

    /// Whether it has left.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// What it can do, as far as is known.
    pub(crate) fn capability(&self) -> Capability {
        let nests = self.stage2.domain().is_nest_parent();
        Capability::of(&self.device, self.is_shared(), nests)
    }

    /// Whether others are in its group, as far as is known.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Relaxed)
    }

    /// Counts its group. Sleeps; takes the group's mutex.
    pub(crate) fn count_group(&self, _attached: &Attached) -> bool {
        let shared = !self.stage2.group().has_only(&self.device);
        self.shared.store(shared, Relaxed);
        shared
    }

    /// What is in force at its RID.
    pub(crate) fn rid(&self) -> RidState {
        match self.rid.load(Relaxed) {
            0 => RidState::Stage2,
            1 => RidState::Bound,
            _ => RidState::Blocked,
        }
    }

    /// Says what is in force at its RID.
    pub(crate) fn set_rid(&self, _attached: &mut Attached, state: RidState) {
        self.rid.store(state as u32, Relaxed);
    }

    /// The PASID that is the host's, if the device has any.
    pub(crate) fn host_pasid(&self) -> Option<u32> {
        self.device
            .max_pasids()
            .checked_sub(1)
            .filter(|&pasid| pasid != 0)
    }

    /// Whether the host's PASID is in use.
    pub(crate) fn holds_pri(&self) -> bool {
        self.pri_held.load(Relaxed)
    }

    /// Holds page requests on until the device leaves. Sleeps.
    pub(crate) fn hold_pri(&self, attached: &mut Attached) -> Result {
        let Some(pasid) = self.host_pasid().filter(|_| attached.pri_holder.is_none()) else {
            return Ok(());
        };
        let domain = PagingDomain::with_page_requests(&self.device)?;
        let domain = Arc::new(domain, GFP_KERNEL_ACCOUNT)?;
        let holder = Detached::new(Translation::Paging(domain), None)?.attach(
            &self.device,
            self.stage2.group(),
            Site::Pasid(pasid),
        )?;
        attached.pri_holder = Some(holder);
        self.pri_held.store(true, Relaxed);
        Ok(())
    }

    /// Lets page requests go, after everything else. Sleeps.
    pub(crate) fn release_pri(&self, attached: &mut Attached) {
        drop(attached.pri_holder.take());
        self.pri_held.store(false, Relaxed);
    }

    /// Attaches stage 2 at its RID, where nothing is in force. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`GroupStage2::restore`].
    pub(crate) fn restore_stage2(&self, attached: &mut Attached) -> Result {
        self.stage2.restore(&self.device)?;
        self.set_rid(attached, RidState::Stage2);
        Ok(())
    }
}

impl Attached {
    /// The first site that is bound.
    pub(crate) fn first(&self) -> Option<Site> {
        let cursor = self.sites.cursor_front()?;
        Some(site_of(*cursor.current().0))
    }
}
