// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices that keep translations of their own, as vhost-user and vDPA back ends do: they are told
//! what the guest invalidates.

use super::source::SourceId;
use crate::types::IovaRange;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What the guest has invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invalidated {
    /// Of this function; of every function if `None`.
    pub source: Option<SourceId>,
    /// Translations of this PASID, and those without PASID if it is the function's RID_PASID; of
    /// every PASID, and those without, if `None`.
    pub pasid: Option<u32>,
    /// At these addresses.
    pub range: IovaRange,
}

/// Whoever keeps translations that a unit has given.
pub trait InvalidationListener: fmt::Debug + Send + Sync {
    /// What the listener keeps of this is to be forgotten, and what uses it is to end, before this
    /// returns: the guest's wait is not done before. The unit may be read, but not written, plugged
    /// into, reset or run from here.
    fn invalidated(&self, what: &Invalidated);
}

/// Who listens.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners(Arc<Mutex<Vec<Weak<dyn InvalidationListener>>>>);

impl Listeners {
    /// From now on the listener is told, as long as it is there.
    pub(super) fn add(&self, listener: &Arc<dyn InvalidationListener>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|listener| listener.strong_count() != 0);
        all.push(Arc::downgrade(listener));
    }

    pub(super) fn tell(&self, what: &Invalidated) {
        let all = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for listener in all.iter().filter_map(Weak::upgrade) {
            listener.invalidated(what);
        }
    }
}
