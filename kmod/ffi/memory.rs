// SPDX-License-Identifier: GPL-2.0
//! User memory pinned for DMA, mapped into stage-2 domains and charged to its owner.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::account::User;
use super::paging::{Access, PagingDomain};
use super::shim;
use crate::ioas::iova::{large_pages, IovaRange, LargePages};
use crate::ioas::ranges::Ranged;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_long, c_ulong};
use kernel::mm::Mm;
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

/// Most pages pinned a call: eight pages of pointers, and 16 MiB that may be charged too early.
const BATCH: u64 = 4096;

/// `FOLL_WRITE` and `FOLL_LONGTERM` of linux/mm_types.h.
const FOLL_WRITE: u32 = 1 << 0;
const FOLL_LONGTERM: u32 = 1 << 8;

/// Whose locked memory (RLIMIT_MEMLOCK) pinned memory counts towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payer {
    /// The user of the calling process, as iommufd has it: the limit holds over all processes of
    /// the user, and a process that ends leaves nothing uncounted. Nobody, with CAP_IPC_LOCK.
    User,
    /// The calling process, as type1 has it.
    Process,
}

/// Pages charged to a user, or to an mm's locked memory.
///
/// # Invariants
///
/// `pages` are charged to `user` if there is one, else to `mm` if `process`; and pinned by `mm` if
/// not `process`.
struct Charge {
    mm: ARef<Mm>,
    user: Option<User>,
    process: bool,
    pages: u64,
}

impl Charge {
    /// A charge of nothing.
    fn none(payer: Payer) -> Result<Self> {
        let task = kernel::current!();
        let mm: ARef<Mm> = ARef::from(&**task.mm().ok_or(ESRCH)?);
        let process = payer == Payer::Process;
        // SAFETY: No requirements.
        let free = process || unsafe { shim::ioasid_may_lock_pages() };
        // INVARIANT: Nothing is charged.
        Ok(Self {
            mm,
            user: if free { None } else { Some(User::current()?) },
            process,
            pages: 0,
        })
    }

    /// Charges more.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if it would pass RLIMIT_MEMLOCK and has no CAP_IPC_LOCK; [`EINTR`] if a fatal
    /// signal came.
    fn add(&mut self, pages: u64) -> Result {
        if self.process {
            // SAFETY: `mm` is live by its reference, and the current process's. Sleeps; takes its
            // mmap_lock.
            to_result(unsafe { shim::ioasid_mm_lock_pages(self.mm.as_raw(), pages as c_ulong) })?;
        } else {
            if let Some(user) = &self.user {
                user.lock_pages(pages)?;
            }
            // SAFETY: `mm` is live by its reference.
            unsafe { shim::ioasid_count_pinned(self.mm.as_raw(), pages as c_long) };
        }
        // INVARIANT: Charged just now.
        self.pages += pages;
        Ok(())
    }

    /// Gives some of it back, all at most.
    fn give_back(&mut self, pages: u64) {
        let pages = pages.min(self.pages);
        if pages == 0 {
            return;
        }
        // INVARIANT: Given back just below.
        self.pages -= pages;
        if self.process {
            // SAFETY: `mm` is live by its reference and was charged that much by the invariant.
            unsafe { bindings::account_locked_vm(self.mm.as_raw(), pages as c_ulong, false) };
            return;
        }
        if let Some(user) = &self.user {
            user.unlock_pages(pages);
        }
        // SAFETY: As above.
        unsafe { shim::ioasid_count_pinned(self.mm.as_raw(), -(pages as c_long)) };
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back(self.pages);
    }
}

/// A physically contiguous run of pages: where it starts, and how far into its memory.
#[derive(Clone, Copy)]
struct Run {
    /// Number of the first page frame; [`Run::DEVICE`] marks frames without pins.
    frame: u64,
    /// Pages of the memory before this run.
    at: u64,
}

impl Run {
    /// The run is a device's, as a BAR is: nothing is pinned. Page frames have 40 bits.
    const DEVICE: u64 = 1 << 63;

    fn phys(&self) -> u64 {
        (self.frame & !Self::DEVICE) << PAGE_SHIFT
    }

    fn is_device(&self) -> bool {
        self.frame & Self::DEVICE != 0
    }
}

/// Pinned user memory, unpinned on drop.
///
/// # Invariants
///
/// `runs` ascend in `at` from 0; each reaches to the next or to `pages`. Each page of a run that
/// is not a device's is pinned, once, for this value.
pub(super) struct Pinned {
    runs: KVVec<Run>,
    pages: u64,
    written: bool,
    /// Dropped last: the pages are locked until they are unpinned.
    charge: Charge,
}

// SAFETY: Pages may be unpinned from any thread.
unsafe impl Send for Pinned {}
// SAFETY: A shared reference gives only values that do not change behind it.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Pins `pages` pages of the current process's memory at `vaddr`.
    fn new(vaddr: usize, pages: u64, access: Access, payer: Payer) -> Result<Self> {
        // INVARIANT: No runs yet.
        let mut pinned = Self {
            runs: KVVec::new(),
            pages: 0,
            written: access.write,
            charge: Charge::none(payer)?,
        };
        let room = usize::try_from(pages.min(BATCH))?;
        let mut batch = KVVec::from_elem(core::ptr::null_mut(), room, GFP_KERNEL_ACCOUNT)?;
        while pinned.pages < pages {
            yield_unless_killed()?;
            let left = pages - pinned.pages;
            let want = left.min(BATCH);
            let at = vaddr + ((pinned.pages as usize) << PAGE_SHIFT);
            let got = pinned.charge.add(want).and_then(|()| {
                pin(at, want as usize, access, &mut batch)
                    .inspect_err(|_| pinned.charge.give_back(want))
            });
            match got {
                Ok(got) => {
                    pinned.charge.give_back(want - got as u64);
                    pinned.take(batch.get(..got).ok_or(EFAULT)?)?;
                }
                Err(error) => {
                    let (frame, count) = device_frames(at, left, access).ok_or(error)?;
                    pinned.push(frame | Run::DEVICE, count)?;
                }
            }
        }
        Ok(pinned)
    }

    /// Takes pages over that follow each other in the user's memory; on failure they are
    /// unpinned.
    fn take(&mut self, mut batch: &[*mut bindings::page]) -> Result {
        while let Some(&first) = batch.first() {
            // SAFETY: The pages are pinned, so live, and there are that many.
            let count = unsafe { shim::ioasid_contiguous_pages(batch.as_ptr(), batch.len()) };
            let count = count.clamp(1, batch.len());
            // SAFETY: The page is live.
            let frame = unsafe { shim::ioasid_page_frame(first) };
            // The pins pass to `self`.
            if let Err(error) = self.push(frame, count as u64) {
                // SAFETY: These pages are pinned and in no run.
                unsafe {
                    bindings::unpin_user_pages(batch.as_ptr().cast_mut(), batch.len() as c_ulong)
                };
                return Err(error);
            }
            batch = batch.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Adds `count` frames from `frame` on: to the last run where they follow it.
    fn push(&mut self, frame: u64, count: u64) -> Result {
        let follows = self
            .runs
            .last()
            .is_some_and(|last| last.frame + (self.pages - last.at) == frame);
        if !follows {
            let at = self.pages;
            self.runs.push(Run { frame, at }, GFP_KERNEL_ACCOUNT)?;
        }
        self.pages += count;
        Ok(())
    }

    /// The runs as (offset, physical address, size) in bytes, from the one that holds byte
    /// `from` on.
    pub(super) fn runs_from(&self, from: u64) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let page = from >> PAGE_SHIFT;
        let first = self
            .runs
            .partition_point(|run| run.at <= page)
            .saturating_sub(1);
        (first..self.runs.len()).filter_map(move |index| {
            let run = self.runs.get(index)?;
            let end = self.runs.get(index + 1).map_or(self.pages, |next| next.at);
            Some((
                run.at << PAGE_SHIFT,
                run.phys(),
                (end - run.at) << PAGE_SHIFT,
            ))
        })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut end = self.pages;
        while let Some(run) = self.runs.pop() {
            if !run.is_device() {
                // SAFETY: By the invariant these pages are pinned and follow each other.
                unsafe { shim::ioasid_unpin(run.frame, end - run.at, self.written) };
            }
            end = run.at;
        }
    }
}

/// User memory mapped into stage-2 domains: pinned, charged, and undone on drop.
///
/// # Invariants
///
/// In each of `domains`, `range` is mapped to the runs of `pinned`, in order, and `pinned` is as
/// large as `range`.
pub(crate) struct MappedMemory {
    domains: KVec<Arc<PagingDomain>>,
    range: IovaRange,
    access: Access,
    large: LargePages,
    pinned: Arc<Pinned>,
}

impl MappedMemory {
    /// Pins the current process's memory at `vaddr` and maps it at `range` in `domains`, all or
    /// nothing. What is a device's (VM_PFNMAP, as vfio's BARs) is neither pinned nor charged.
    ///
    /// `payer` is charged. `range` and `vaddr` are aligned to pages. Sleeps; takes the mm's
    /// mmap_lock.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`] if RLIMIT_MEMLOCK or memory does not allow it.
    /// - [`EFAULT`] if a page is not there or not accessible that way.
    /// - [`EINTR`] if a fatal signal came.
    pub(crate) fn new(
        domains: &[Arc<PagingDomain>],
        range: IovaRange,
        vaddr: usize,
        access: Access,
        payer: Payer,
    ) -> Result<Self> {
        let pages = range.size().ok_or(EINVAL)? >> PAGE_SHIFT;
        // INVARIANT: Mapped nowhere yet.
        let mut memory = Self {
            domains: KVec::with_capacity(domains.len(), GFP_KERNEL_ACCOUNT)?,
            range,
            access,
            large: LargePages::default(),
            pinned: Arc::new(
                Pinned::new(vaddr, pages, access, payer)?,
                GFP_KERNEL_ACCOUNT,
            )?,
        };
        for domain in domains {
            memory.map_into(domain.clone())?;
        }
        if let Some(domain) = domains.first() {
            for (offset, phys, size) in memory.pinned.runs_from(0) {
                let sizes = domain.page_sizes();
                memory
                    .large
                    .add(large_pages(range.start() + offset, phys, size, sizes));
            }
        }
        Ok(memory)
    }

    /// The part of it that is mapped at `part`; `None` if that is not all here.
    pub(crate) fn part(&self, part: &IovaRange) -> Option<Part> {
        self.range.contains(part).then_some(Part {
            from: part.start() - self.range.start(),
            size: part.size()?,
            pinned: self.pinned.clone(),
        })
    }

    /// What DMA may do with it.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// The large entries that its page table can hold.
    pub(crate) fn large(&self) -> &LargePages {
        &self.large
    }

    /// Maps it into one more domain.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says; nothing is mapped then.
    pub(crate) fn map_into(&mut self, domain: Arc<PagingDomain>) -> Result {
        self.domains.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let start = self.range.start();
        for (offset, phys, size) in self.pinned.runs_from(0) {
            // SAFETY: The run is pinned, and unpinned only after `drop` or `unmap_from` has
            // unmapped it.
            let mapped = unsafe { domain.map(start + offset, phys, size, self.access) };
            if let Err(error) = mapped {
                if offset != 0 {
                    domain.unmap(start, offset);
                }
                return Err(error);
            }
        }
        // Cannot fail: there is room. INVARIANT: All runs are mapped.
        self.domains
            .push_within_capacity(domain)
            .map_err(|_| ENOMEM)
    }

    /// Unmaps it from a domain.
    pub(crate) fn unmap_from(&mut self, domain: &Arc<PagingDomain>) {
        let range = self.range;
        self.domains.retain(|other| {
            let keep = !Arc::ptr_eq(other, domain);
            if !keep {
                other.unmap(range.start(), range.size().unwrap_or(0));
            }
            keep
        });
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        let size = self.range.size().unwrap_or(0);
        for domain in &self.domains {
            domain.unmap(self.range.start(), size);
        }
    }
}

impl Ranged for MappedMemory {
    fn range(&self) -> &IovaRange {
        &self.range
    }
}

/// A part of pinned memory, which stays pinned with it.
pub(crate) struct Part {
    pinned: Arc<Pinned>,
    from: u64,
    size: u64,
}

impl Part {
    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Its runs as (offset in the part, physical address, size) in bytes.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let end = self.from + self.size;
        self.pinned
            .runs_from(self.from)
            .take_while(move |&(offset, ..)| offset < end)
            .map(move |(offset, phys, size)| {
                let skip = self.from.saturating_sub(offset);
                let last = end.min(offset + size);
                (
                    offset + skip - self.from,
                    phys + skip,
                    last - (offset + skip),
                )
            })
    }
}

/// The frames of a device's memory that is mapped at `vaddr`: the first, and how many follow
/// each other, `count` at most. `None` if there is no such memory, or not with that access.
fn device_frames(vaddr: usize, count: u64, access: Access) -> Option<(u64, u64)> {
    let mut frame = 0;
    // SAFETY: The current process has an mm, for it was charged; `frame` is writable. Sleeps;
    // takes the mmap_lock.
    let got =
        unsafe { shim::ioasid_device_frames(vaddr, count as c_ulong, access.write, &mut frame) };
    u64::try_from(got)
        .ok()
        .filter(|&got| got != 0)
        .map(|got| (frame, got))
}

/// Pins up to `count` pages from `vaddr` on into `pages`, one at least.
fn pin(
    vaddr: usize,
    count: usize,
    access: Access,
    pages: &mut [*mut bindings::page],
) -> Result<usize> {
    let mut flags = FOLL_LONGTERM;
    if access.write {
        flags |= FOLL_WRITE;
    }
    let count = count.min(pages.len());
    // SAFETY: `pages` has room for `count` pointers.
    let got =
        unsafe { bindings::pin_user_pages_fast(vaddr, count as i32, flags, pages.as_mut_ptr()) };
    match got {
        0 => Err(EFAULT),
        error if error < 0 => Err(Error::from_errno(error)),
        got => Ok(got as usize),
    }
}

/// Lets others run.
///
/// # Errors
///
/// [`EINTR`] if a fatal signal came.
pub(super) fn yield_unless_killed() -> Result {
    // SAFETY: No requirements but a context that may sleep, as pinning has.
    if unsafe { shim::ioasid_yield_unless_killed() } {
        Ok(())
    } else {
        Err(EINTR)
    }
}
