// SPDX-License-Identifier: GPL-2.0
//! One binding: a translation in force at a device's PASID or RID, and its page requests.

use crate::budget::Share;
use crate::fault::{FaultQueue, Source};
use crate::ffi::attach::{Attachment, Detached, ReplaceFailed, Site};
use crate::ffi::device::Device;
use crate::ffi::group::Group;
use crate::ffi::nested::NestedDomain;
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
    /// Nothing: DMA is stopped. At a PASID alone; a RID that is blocked has no binding.
    Blocked,
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
            attachment: Some(attach(self.translation)?),
            kind: self.kind,
            guest_pasid: self.guest_pasid,
            cookie: self.cookie,
            source: self.source,
            _share: Some(self.share),
        })
    }
}

/// A binding in force.
///
/// # Invariants
///
/// There is an attachment, and a share of the module's domains, unless it is [`Kind::Blocked`].
pub(super) struct Binding {
    attachment: Option<Attachment>,
    pub(super) kind: Kind,
    pub(super) guest_pasid: u32,
    pub(super) cookie: u64,
    source: Option<Arc<Source>>,
    _share: Option<Share>,
}

/// A replacement that failed, and the old binding if it is in force.
pub(super) struct Unreplaced {
    pub(super) error: Error,
    pub(super) old: Option<Binding>,
}

impl Binding {
    /// That of a PASID whose DMA is stopped.
    pub(super) fn blocked(guest_pasid: u32, cookie: u64) -> Self {
        // INVARIANT: It is blocked.
        Self {
            attachment: None,
            kind: Kind::Blocked,
            guest_pasid,
            cookie,
            source: None,
            _share: None,
        }
    }

    /// Whether it counts towards the quota of bindings.
    pub(super) fn is_counted(&self) -> bool {
        self.kind != Kind::Blocked
    }

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
        self.attachment.as_ref()?.nested()
    }

    /// Steps 4 and 5 of a binding's life, see [`crate::fault`]. Sleeps.
    pub(super) fn undo(self) {
        if let Some(source) = &self.source {
            source.stop();
        }
        let translation = self.attachment.and_then(Attachment::detach);
        if let Some(source) = &self.source {
            source.cancel();
        }
        drop(translation);
    }

    /// Puts `new` in its place at `site`. Its page requests are cancelled. Sleeps.
    pub(super) fn replace(
        self,
        new: NewBinding,
        device: &Device,
        group: Group,
        site: Site,
    ) -> Result<Self, Unreplaced> {
        let Self {
            attachment,
            kind,
            guest_pasid,
            cookie,
            source,
            _share: share,
        } = self;
        let mut old = None;
        let replaced = new.attach(|translation| match attachment {
            Some(attachment) => {
                let (attachment, before) = attachment.replace(translation)?;
                old = before;
                Ok(attachment)
            }
            None => translation
                .attach(device, group, site)
                .map_err(|(error, _)| ReplaceFailed { error, old: None }),
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
                    attachment: Some(attachment),
                    kind,
                    guest_pasid,
                    cookie,
                    source,
                    _share: share,
                }),
            }),
            Err(ReplaceFailed { error, old: None }) if kind == Kind::Blocked => Err(Unreplaced {
                error,
                old: Some(Self::blocked(guest_pasid, cookie)),
            }),
            Err(ReplaceFailed { error, old: None }) => {
                cancel();
                Err(Unreplaced { error, old: None })
            }
        }
    }
}
