// SPDX-License-Identifier: GPL-2.0
//! One binding: what is known of a translation that is in force at a device's PASID or RID.

use crate::budget::Share;
use crate::fault::{FaultQueue, Source};
use crate::ffi::nested::NestedDomain;
use crate::ioas::address_space::BoundSpace;
use kernel::sync::Arc;

/// What a binding translates by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BoundKind {
    /// A user's stage-1 table.
    Stage1,
    /// Stage 2 itself.
    Stage2,
    /// An address space of the container.
    AddressSpace(u32),
    /// Nothing: DMA is stopped. At a PASID alone; a RID that is blocked has no binding.
    Blocked,
}

/// A binding, from before it is in force until it is no more.
///
/// # Invariants
///
/// There is a share of the domains unless it is [`BoundKind::Blocked`].
pub(crate) struct Binding {
    pub(crate) kind: BoundKind,
    pub(crate) guest_pasid: u32,
    pub(crate) cookie: u64,
    /// The user's stage-1 table.
    pub(crate) nested: Option<Arc<NestedDomain>>,
    /// The one that is about to take its place.
    pub(crate) next: Option<Arc<NestedDomain>>,
    /// Where its page requests go.
    pub(crate) source: Option<Arc<Source>>,
    /// The address space.
    pub(crate) _space: Option<BoundSpace>,
    pub(crate) _share: Option<Share>,
}

impl Binding {
    /// That of a PASID whose DMA is stopped.
    pub(crate) fn blocked(guest_pasid: u32, cookie: u64) -> Self {
        // INVARIANT: It is blocked.
        Self {
            kind: BoundKind::Blocked,
            guest_pasid,
            cookie,
            nested: None,
            next: None,
            source: None,
            _space: None,
            _share: None,
        }
    }

    /// Whether it counts towards the quota of bindings.
    pub(crate) fn is_counted(&self) -> bool {
        self.kind != BoundKind::Blocked
    }

    /// The queue that its faults go to, if it has one.
    pub(crate) fn queue(&self) -> Option<&Arc<FaultQueue>> {
        self.source.as_ref().map(|source| source.queue())
    }

    /// The stage-1 tables that are in force, or may be: those whose caches an INVALIDATE drops.
    pub(crate) fn tables(&self) -> Option<Stage1Tables> {
        if self.nested.is_none() && self.next.is_none() {
            return None;
        }
        Some(Stage1Tables([self.nested.clone(), self.next.clone()]))
    }
}

/// References to the stage-1 tables of a binding.
pub(crate) struct Stage1Tables([Option<Arc<NestedDomain>>; 2]);

impl Stage1Tables {
    /// One by one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &NestedDomain> {
        self.0.iter().flatten().map(|nested| &**nested)
    }
}
