// SPDX-License-Identifier: GPL-2.0
//! One binding: a translation in force at a device's PASID or RID, and its page requests.

use crate::fault::{FaultQueue, Source};
use crate::ffi::attach::{Attachment, Detached, ReplaceFailed};
use crate::ffi::nested::NestedDomain;
use crate::quota::Share;
use kernel::prelude::*;
use kernel::sync::Arc;

/// What a binding translates by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A user's stage-1 table.
    Stage1,
    /// Stage 2 itself.
    Stage2,
    /// An address space of the container.
    AddressSpace(u32),
}

/// A binding before it is in force.
pub(super) struct NewBinding {
    pub(super) kind: Kind,
    pub(super) guest_pasid: u32,
    pub(super) cookie: u64,
    pub(super) translation: Detached,
    pub(super) source: Option<Arc<Source>>,
    pub(super) share: Share,
}

impl NewBinding {
    /// Puts it in force with `attach`.
    pub(super) fn attach<E>(
        self,
        attach: impl FnOnce(Detached) -> Result<Attachment, E>,
    ) -> Result<Binding, E> {
        Ok(Binding {
            attachment: attach(self.translation)?,
            kind: self.kind,
            guest_pasid: self.guest_pasid,
            cookie: self.cookie,
            source: self.source,
            _share: self.share,
        })
    }
}

/// A binding in force.
pub(super) struct Binding {
    attachment: Attachment,
    pub(super) kind: Kind,
    pub(super) guest_pasid: u32,
    pub(super) cookie: u64,
    source: Option<Arc<Source>>,
    _share: Share,
}

/// A replacement that failed, and the old binding if it is in force.
pub(super) struct Unreplaced {
    pub(super) error: Error,
    pub(super) old: Option<Binding>,
}

impl Binding {
    /// Whether its page requests go to a fault queue.
    pub(super) fn takes_page_requests(&self) -> bool {
        self.source.is_some()
    }

    /// The queue that its faults go to, if it has one.
    pub(super) fn queue(&self) -> Option<&Arc<FaultQueue>> {
        self.source.as_ref().map(|source| source.queue())
    }

    /// The nested domain, if it is a stage-1 table.
    pub(super) fn nested(&self) -> Option<&NestedDomain> {
        self.attachment.nested()
    }

    /// Steps 4 and 5 of a binding's life, see [`crate::fault`]. Sleeps.
    pub(super) fn undo(self) {
        if let Some(source) = &self.source {
            source.stop();
        }
        let translation = self.attachment.detach();
        if let Some(source) = &self.source {
            source.cancel();
        }
        drop(translation);
    }

    /// Puts `new` in its place. Its page requests are cancelled. Sleeps.
    pub(super) fn replace(self, new: NewBinding) -> Result<Self, Unreplaced> {
        let Self {
            attachment,
            kind,
            guest_pasid,
            cookie,
            source,
            _share: share,
        } = self;
        let mut old = None;
        let replaced = new.attach(|translation| {
            let (attachment, before) = attachment.replace(translation)?;
            old = before;
            Ok(attachment)
        });
        let cancel = || {
            if let Some(source) = &source {
                source.cancel();
            }
        };
        match replaced {
            Ok(binding) => {
                cancel();
                drop(old);
                Ok(binding)
            }
            Err(ReplaceFailed {
                error,
                old: Some(attachment),
            }) => Err(Unreplaced {
                error,
                old: Some(Self {
                    attachment,
                    kind,
                    guest_pasid,
                    cookie,
                    source,
                    _share: share,
                }),
            }),
            Err(ReplaceFailed { error, old: None }) => {
                cancel();
                Err(Unreplaced { error, old: None })
            }
        }
    }
}
