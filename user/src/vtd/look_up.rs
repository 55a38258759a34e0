// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the guest's tables lead a request, and what stops it.

use super::bits::PAGE;
use super::memory::Memory;
use super::reasons::{reason, Stopped};
use super::source::SourceId;
use super::tables::{Entry, Tables, TranslationType};
use crate::walk::{self, walk, Access, TableMemory};
use std::ops::RangeInclusive;
use vm_memory::Permissions;

/// Where interrupts are written to (VT-d 4.1, 3.15): no memory.
const INTERRUPTS: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;

/// Guest memory as the unit's walks find it.
struct View<'a> {
    memory: &'a dyn Memory,
    address_bits: u32,
    /// Accessed and dirty bits are set.
    marks: bool,
}

impl TableMemory for View<'_> {
    fn read(&self, at: u64) -> Option<u64> {
        self.memory.read(at)
    }

    fn replace(&self, at: u64, old: u64, new: u64) -> Option<bool> {
        if self.marks {
            self.memory.replace(at, old, new)
        } else {
            Some(true)
        }
    }

    fn reach(&self, at: u64, _access: Access) -> Result<(), u32> {
        // Whether memory is there, whoever uses the address finds out.
        if INTERRUPTS.contains(&at) {
            return Err(walk::reason::INTERRUPTS);
        }
        Ok(())
    }

    fn address_bits(&self) -> u32 {
        self.address_bits
    }

    fn unreadable(&self, root: bool) -> u32 {
        if root {
            walk::reason::ROOT_ACCESS
        } else {
            walk::reason::ENTRY_ACCESS
        }
    }

    fn unwritable(&self) -> u32 {
        walk::reason::ENTRY_ACCESS
    }
}

/// A request: by whom, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) source: SourceId,
    pub(super) pasid: Option<u32>,
    pub(super) access: Access,
}

/// A page: where it is asked for, where it is, and what may be done there.
pub(super) type Translated = (u64, u64, Permissions);

impl Tables<'_> {
    /// The entry that a request goes by; `None` while translation is off.
    fn entry_of(&self, request: &Request) -> Result<Option<Entry>, Stopped> {
        match (self.is_off(), request.pasid) {
            (true, _) => Ok(None),
            (false, Some(pasid)) => self.with_pasid(request.source, pasid).map(Some),
            (false, None) => self.without_pasid(request.source).transpose(),
        }
    }

    /// Where a page is.
    fn page_by(
        &self,
        view: &View<'_>,
        entry: Option<Entry>,
        page: u64,
        access: Access,
    ) -> Result<Translated, Stopped> {
        let Some(entry) = entry else {
            return Ok((page, page, Permissions::ReadWrite));
        };
        let stopped = |reason| {
            let reason = u8::try_from(reason).unwrap_or(reason::PASID_INVALID);
            entry.not_allowed(reason, access.write)
        };
        match entry.translation {
            TranslationType::PassThrough => {
                view.reach(page, access).map_err(stopped)?;
                if page.checked_shr(view.address_bits).unwrap_or(0) != 0 {
                    return Err(stopped(walk::reason::BEYOND_WIDTH));
                }
                Ok((page, page, Permissions::ReadWrite))
            }
            TranslationType::Table(table) => {
                let leaf = walk(view, &table, page, access).map_err(stopped)?;
                let permissions = match (leaf.read, leaf.write) {
                    (true, true) => Permissions::ReadWrite,
                    (true, false) => Permissions::Read,
                    (false, true) => Permissions::Write,
                    (false, false) => Permissions::No,
                };
                Ok((page, leaf.address & !(PAGE - 1), permissions))
            }
        }
    }

    fn view(&self, marks: bool) -> View<'_> {
        View {
            memory: self.memory,
            address_bits: self.offered.address_bits,
            marks,
        }
    }

    /// The pages of a range.
    ///
    /// # Errors
    ///
    /// The address that is stopped, and why.
    pub(super) fn look_up(
        &self,
        request: &Request,
        iova: u64,
        length: usize,
    ) -> Result<Vec<Translated>, (u64, Stopped)> {
        let entry = self.entry_of(request);
        let entry = entry.map_err(|stopped| (iova, stopped))?;
        let view = self.view(true);
        let first = iova & !(PAGE - 1);
        let end = iova.saturating_add(length as u64);
        (first..end)
            .step_by(PAGE as usize)
            .map(|page| {
                self.page_by(&view, entry, page, request.access)
                    .map_err(|stopped| (page, stopped))
            })
            .collect()
    }

    /// Why a request was stopped that the host has stopped for a reason of its own: what the guest's
    /// tables give, or the host's reason if they let it pass.
    pub(super) fn why(&self, request: &Request, address: u64, host: u8) -> Stopped {
        let view = self.view(false);
        let found = self.entry_of(request).and_then(|entry| {
            let page = address & !(PAGE - 1);
            let passed = self.page_by(&view, entry, page, request.access);
            passed.map(|_| match entry {
                Some(entry) => entry.stopped(host),
                None => Stopped::by(host),
            })
        });
        found.unwrap_or_else(|stopped| stopped)
    }
}
