// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Groups that were read here and are answered in another process.

use super::{FaultGroup, FaultQueue, PageRequest};
use crate::types::{Bdf, Pasid};
use std::sync::Arc;

/// A page request group that waits for its answer, as it is written down for the process that takes
/// its queue over: [`FaultQueue::adopt`] makes a [`FaultGroup`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WaitingGroup {
    pub(super) cookie: u64,
    pub(super) device: Bdf,
    pub(super) pasid: Option<Pasid>,
    pub(super) guest_pasid: u32,
    pub(super) index: u32,
    pub(super) user_cookie: u64,
    pub(super) requests: Vec<PageRequest>,
}

impl From<&FaultGroup> for WaitingGroup {
    fn from(group: &FaultGroup) -> Self {
        group.said.clone()
    }
}

impl FaultQueue {
    /// A group that another process has read from this queue and not answered. That process must not
    /// answer it, nor drop it, any more: the first answer counts.
    pub fn adopt(&self, group: WaitingGroup) -> FaultGroup {
        FaultGroup {
            channel: Arc::downgrade(&self.channel),
            queue: self.id,
            said: group,
            answered: false,
            token: self.outstanding.token(),
        }
    }
}
