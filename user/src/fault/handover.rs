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
    cookie: u64,
    device: Bdf,
    pasid: Option<Pasid>,
    guest_pasid: u32,
    index: u32,
    user_cookie: u64,
    requests: Vec<PageRequest>,
}

impl From<&FaultGroup> for WaitingGroup {
    fn from(group: &FaultGroup) -> Self {
        Self {
            cookie: group.cookie,
            device: group.device,
            pasid: group.pasid,
            guest_pasid: group.guest_pasid,
            index: group.index,
            user_cookie: group.user_cookie,
            requests: group.requests.clone(),
        }
    }
}

impl FaultQueue {
    /// A group that another process has read from this queue and not answered. That process must not
    /// answer it, nor drop it, any more: the first answer counts.
    pub fn adopt(&self, group: WaitingGroup) -> FaultGroup {
        FaultGroup {
            channel: Arc::downgrade(&self.channel),
            queue: self.id,
            cookie: group.cookie,
            device: group.device,
            pasid: group.pasid,
            guest_pasid: group.guest_pasid,
            index: group.index,
            user_cookie: group.user_cookie,
            requests: group.requests,
            answered: false,
            token: self.outstanding.token(),
        }
    }
}
