// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fault queue of a shadow whose holes are filled by page requests.

use super::copies::{add, Copied, Inner, State};
use crate::context::HostIommuContext;
use crate::fault::{FaultChannel, FaultRecord, ResponseRecord};
use crate::types::{Bdf, Iova, IovaRange, MapAccess, Pasid};
use host_iommu_bindings::uapi as abi;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend};

const SUCCESS: u32 = abi::VFIO_IOASID_RESPONSE_SUCCESS;
const INVALID: u32 = abi::VFIO_IOASID_RESPONSE_INVALID;

/// A page that is asked for, and what for.
#[derive(Clone, Copy, Debug)]
struct Page {
    address: u64,
    read: bool,
    write: bool,
}

/// A group that is the guest's to answer.
#[derive(Debug)]
struct Asked {
    key: (Bdf, Pasid),
    pages: Vec<Page>,
}

/// What of a group is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// All of it.
    All,
    /// Not all.
    Missing,
    /// What is there cannot be held: too many entries, or addresses of no use to the host.
    Refused,
}

/// A channel of the context's, and what it is that devices ask for.
pub(super) struct Requests<C, A> {
    pub(super) channel: Arc<dyn FaultChannel>,
    /// Reads wait.
    waits: bool,
    /// A queue outlives its context, and tells of its end.
    shadow: Weak<Inner<C, A>>,
    /// By cookie: as many as the channel has given and not got back.
    asked: Mutex<BTreeMap<u64, Asked>>,
    /// One reader at a time: a group is noted before it is read that it was cancelled. Taken before
    /// the others.
    reading: Mutex<()>,
}

impl<C, A> fmt::Debug for Requests<C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

impl<C, A> AsFd for Requests<C, A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn page(record: &FaultRecord) -> Page {
    let write = record.perm & abi::VFIO_IOASID_FAULT_PERM_WRITE != 0;
    Page {
        address: record.addr,
        // Instructions are read.
        read: !write || record.perm & abi::VFIO_IOASID_FAULT_PERM_READ != 0,
        write,
    }
}

impl Copied {
    /// Whether an access to a page is allowed by what is held.
    fn holds(&self, page: &Page) -> bool {
        let found = self.entries.range(..=page.address).next_back();
        found.is_some_and(|(_, entry)| {
            entry.last >= page.address
                && !(page.read && entry.access == MapAccess::Write)
                && !(page.write && entry.access == MapAccess::Read)
        })
    }
}

impl<C, A> Inner<C, A>
where
    C: HostIommuContext,
    A: GuestAddressSpace,
    A::M: GuestMemoryBackend,
{
    /// Fills the pages of a group that are in its table by now; `None` if no table is bound there.
    fn fill(&self, key: (Bdf, Pasid), pages: &[Page]) -> Option<(Found, u64)> {
        let mut state = self.lock();
        let State {
            stage2,
            copies,
            cost,
            ..
        } = &mut *state;
        let copied = copies.get_mut(&key)?;
        let cookie = copied.table.cookie;
        let mut found = Found::All;
        for page in pages {
            if copied.holds(page) {
                continue;
            }
            let at = Iova(page.address);
            let range = IovaRange::new(at, at)?;
            if self.sync(stage2, cost, copied, range).is_err() {
                return Some((Found::Refused, cookie));
            }
            if !copied.holds(page) {
                found = Found::Missing;
            }
        }
        Some((found, cookie))
    }
}

impl<C, A> Requests<C, A>
where
    C: HostIommuContext,
    A: GuestAddressSpace,
    A::M: GuestMemoryBackend,
{
    pub(super) fn new(
        channel: Arc<dyn FaultChannel>,
        waits: bool,
        shadow: Weak<Inner<C, A>>,
    ) -> Self {
        Self {
            channel,
            waits,
            shadow,
            asked: Mutex::default(),
            reading: Mutex::default(),
        }
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what can be answered here, and moves the rest to the front; gives its number.
    fn sort(&self, shadow: &Inner<C, A>, records: &mut [FaultRecord]) -> usize {
        let mut answers = Vec::new();
        let mut kept = 0;
        let mut from = 0;
        while let Some(first) = records.get(from).copied() {
            let rest = records.get(from..).unwrap_or_default();
            let is_request = first.kind == abi::VFIO_IOASID_FAULT_PAGE_REQUEST;
            let is_last =
                |record: &FaultRecord| record.flags & abi::VFIO_IOASID_FAULT_FLAG_LAST != 0;
            let len = match rest.iter().position(is_last) {
                Some(last) if is_request => last + 1,
                _ => 1,
            };
            let to = from + len;
            if first.kind == abi::VFIO_IOASID_FAULT_CANCELLED {
                self.asked().remove(&first.cookie);
            }
            let answer = match is_request {
                true => self.group(shadow, records.get_mut(from..to).unwrap_or_default()),
                false => None,
            };
            match answer {
                Some(code) => answers.push(ResponseRecord {
                    cookie: first.cookie,
                    code,
                    ..Default::default()
                }),
                None => {
                    records.copy_within(from..to, kept);
                    kept += len;
                }
            }
            from = to;
        }
        self.send(&answers);
        kept
    }

    /// The answer to a group; `None` if it is the guest's to give.
    fn group(&self, shadow: &Inner<C, A>, records: &mut [FaultRecord]) -> Option<u32> {
        let first = records.first()?;
        let has_pasid = first.flags & abi::VFIO_IOASID_FAULT_FLAG_PASID != 0;
        let pasid = match has_pasid {
            true => Pasid::try_from(first.pasid).ok()?,
            false => Pasid::RID,
        };
        let (key, number) = ((Bdf::from(first.device), pasid), first.cookie);
        let pages: Vec<Page> = records.iter().map(page).collect();
        let (found, cookie) = shadow.fill(key, &pages)?;
        match found {
            Found::All => {
                add(&mut shadow.lock().cost.filled, 1);
                Some(SUCCESS)
            }
            Found::Refused => Some(INVALID),
            Found::Missing => {
                // The binding of the address space had none.
                records
                    .iter_mut()
                    .for_each(|record| record.user_cookie = cookie);
                self.asked().insert(number, Asked { key, pages });
                None
            }
        }
    }

    /// Gives answers to the host. One that it does not take is to a group that is gone.
    fn send(&self, mut answers: &[ResponseRecord]) {
        while !answers.is_empty() {
            let taken = match self.channel.write(answers) {
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Ok(taken) if taken != 0 => taken,
                _ => 1,
            };
            answers = answers.get(taken..).unwrap_or_default();
        }
    }
}

impl<C, A> FaultChannel for Requests<C, A>
where
    C: HostIommuContext + 'static,
    A: GuestAddressSpace + Send + Sync + 'static,
    A::M: GuestMemoryBackend,
{
    /// A read that finds nothing for the guest is as one of nothing at all.
    fn read(&self, records: &mut [FaultRecord]) -> io::Result<usize> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let count = self.channel.read(records)?;
            let Some(shadow) = self.shadow.upgrade().filter(|_| count != 0) else {
                return Ok(count);
            };
            let kept = self.sort(&shadow, records.get_mut(..count).unwrap_or_default());
            if kept != 0 {
                return Ok(kept);
            }
            // Devices may ask again and again: the caller decides how often it looks.
            if !self.waits {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    /// What the guest says is there is filled first.
    fn write(&self, responses: &[ResponseRecord]) -> io::Result<usize> {
        let mut responses = responses.to_vec();
        if let Some(shadow) = self.shadow.upgrade() {
            for response in &mut responses {
                // It goes only when the host has taken the answer.
                let asked = self.asked();
                let Some(Asked { key, pages }) = asked.get(&response.cookie) else {
                    continue;
                };
                let (key, pages) = (*key, pages.clone());
                drop(asked);
                let filled = (response.code == SUCCESS).then(|| shadow.fill(key, &pages));
                // What is missing still is asked for again.
                if let Some(Some((Found::Refused, _))) = filled {
                    response.code = INVALID;
                }
            }
        }
        let taken = self.channel.write(&responses)?;
        let mut asked = self.asked();
        for response in responses.iter().take(taken) {
            asked.remove(&response.cookie);
        }
        Ok(taken)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
