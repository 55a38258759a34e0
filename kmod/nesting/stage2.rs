// SPDX-License-Identifier: GPL-2.0
//! Stage 2 of a group, which its devices share.

use crate::ffi::attach::{Attachment, Detached, Site};
use crate::ffi::device::Device;
use crate::ffi::group::Group;
use crate::ffi::group_attachment::{GroupAttachment, ReplaceStage2Failed};
use crate::ffi::paging::PagingDomain;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

/// A group that is attached to a container, and the domain that its RIDs have when nothing else is
/// in force there.
#[pin_data]
pub(crate) struct GroupStage2 {
    group: Group,
    domain: Arc<PagingDomain>,
    /// Held while stage 2 is attached or detached, over what the IOMMU has to do.
    #[pin]
    state: Mutex<State>,
}

/// Whether stage 2 is in force at the RIDs of the group.
enum State {
    /// It is.
    InForce(GroupAttachment),
    /// It is not: something else is, or nothing.
    Aside,
    /// It is not, and never will be: the group has left.
    Left,
}

/// Nothing was attached in the place of stage 2.
pub(crate) struct AttachOverFailed {
    /// Why.
    pub(crate) error: Error,
    /// Whether stage 2 is in force; if not, nothing is.
    pub(crate) stage2_in_force: bool,
}

impl GroupStage2 {
    /// Attaches `domain` to `group`, the one of `device`. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`GroupAttachment::new`].
    pub(crate) fn new(
        domain: &Arc<PagingDomain>,
        group: &Group,
        device: &Device,
    ) -> Result<Arc<Self>> {
        let attachment = GroupAttachment::new(domain, group, device)?;
        Arc::pin_init(
            pin_init!(Self {
                group: group.clone(),
                domain: domain.clone(),
                state <- new_mutex!(State::InForce(attachment), "GroupStage2::state"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The group.
    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// The domain.
    pub(crate) fn domain(&self) -> &Arc<PagingDomain> {
        &self.domain
    }

    /// Stops DMA that goes by stage 2, if that is in force. Sleeps.
    pub(crate) fn block(&self) {
        let mut state = self.state.lock();
        // A group that has left stays so.
        if matches!(*state, State::InForce(_)) {
            *state = State::Aside;
        }
    }

    /// Attaches stage 2 again, by `device`, where nothing is in force. Sleeps.
    ///
    /// # Errors
    ///
    /// - [`ENODEV`] if the group has left.
    /// - What the IOMMU driver says; [`EAGAIN`] while the device is reset.
    pub(crate) fn restore(&self, device: &Device) -> Result {
        let mut state = self.state.lock();
        match &*state {
            State::InForce(_) => Ok(()),
            State::Left => Err(ENODEV),
            State::Aside => {
                let attachment = GroupAttachment::new(&self.domain, &self.group, device)
                    // Nothing else is there, so the core is busy with the device's recovery.
                    .map_err(|error| if error == EBUSY { EAGAIN } else { error })?;
                *state = State::InForce(attachment);
                Ok(())
            }
        }
    }

    /// Attaches `new` at the RID of `device`, which is alone in the group: in the place of stage 2
    /// if that is in force. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Detached::attach`].
    pub(crate) fn attach_over(
        &self,
        new: Detached,
        device: &Device,
    ) -> Result<Attachment, AttachOverFailed> {
        let mut state = self.state.lock();
        match core::mem::replace(&mut *state, State::Aside) {
            State::InForce(stage2) => stage2.replace(new, device).map_err(|failed| {
                let ReplaceStage2Failed { error, stage2 } = failed;
                let stage2_in_force = stage2.is_some();
                if let Some(stage2) = stage2 {
                    *state = State::InForce(stage2);
                }
                AttachOverFailed {
                    error,
                    stage2_in_force,
                }
            }),
            State::Aside => {
                new.attach(device, &self.group, Site::Rid)
                    .map_err(|error| AttachOverFailed {
                        error,
                        stage2_in_force: false,
                    })
            }
            State::Left => {
                *state = State::Left;
                Err(AttachOverFailed {
                    error: ENODEV,
                    stage2_in_force: false,
                })
            }
        }
    }

    /// Detaches stage 2 if it is in force; it never will be again. Sleeps.
    pub(crate) fn leave(&self) {
        *self.state.lock() = State::Left;
    }
}
