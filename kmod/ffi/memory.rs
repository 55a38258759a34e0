// SPDX-License-Identifier: GPL-2.0
//! User memory pinned for DMA, mapped into stage-2 domains and charged to its owner.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::account::User;
use super::paging::{Access, PagingDomain};
use super::shim;
use super::work::Work;
use crate::base::inline_first::InlineFirst;
use crate::base::iova::{large_pages, IovaRange, LargePages};
use crate::base::range_map::Ranged;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_long, c_ulong};
use kernel::mm::Mm;
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

/// Most pages pinned a call: eight pages of pointers, and 16 MiB that may be charged too early.
const BATCH: u64 = 4096;

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

/// A run of bytes that follow each other in memory.
pub(super) struct PhysRun {
    /// How far into the pinned memory it starts.
    pub(super) offset: u64,
    /// Its physical address.
    pub(super) phys: u64,
    /// Its bytes.
    pub(super) size: u64,
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
    fn new(
        vaddr: usize,
        pages: u64,
        access: Access,
        payer: Payer,
        work: &mut Work,
    ) -> Result<Self> {
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
            work.look()?;
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
                    let frames = device_frames(at, left, access).ok_or(error)?;
                    pinned.push(frames.first | Run::DEVICE, frames.count)?;
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

    /// The runs from the one that holds byte `from` on.
    fn runs_from(&self, from: u64) -> impl Iterator<Item = PhysRun> + '_ {
        let page = from >> PAGE_SHIFT;
        let first = self
            .runs
            .partition_point(|run| run.at <= page)
            .saturating_sub(1);
        (first..self.runs.len()).filter_map(move |index| {
            let run = self.runs.get(index)?;
            let end = self.runs.get(index + 1).map_or(self.pages, |next| next.at);
            Some(PhysRun {
                offset: run.at << PAGE_SHIFT,
                phys: run.phys(),
                size: (end - run.at) << PAGE_SHIFT,
            })
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

/// Pinned user memory, and the stage-2 domains that it is mapped into.
///
/// # Invariants
///
/// In each of `domains` that is not retired, `range` is mapped to the runs of `pinned`, in order,
/// and `pinned` is as large as `range`.
pub(crate) struct MappedMemory {
    domains: KVec<Arc<PagingDomain>>,
    range: IovaRange,
    access: Access,
    large: LargePages,
    pinned: Arc<Pinned>,
}

impl MappedMemory {
    /// Pins the current process's memory at `vaddr`, to be mapped at `range`. What is a device's
    /// (VM_PFNMAP, as vfio's BARs) is neither pinned nor charged.
    ///
    /// `payer` is charged. `range` and `vaddr` are aligned to pages. Sleeps, for as long as the
    /// user's memory takes; takes the mm's mmap_lock.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`] if RLIMIT_MEMLOCK or memory does not allow it.
    /// - [`EFAULT`] if a page is not there or not accessible that way.
    /// - [`EINTR`] if a fatal signal came.
    pub(crate) fn new(
        range: IovaRange,
        vaddr: usize,
        access: Access,
        payer: Payer,
        work: &mut Work,
    ) -> Result<Self> {
        let pages = range.size().ok_or(EINVAL)? >> PAGE_SHIFT;
        let pinned = Pinned::new(vaddr, pages, access, payer, work)?;
        // INVARIANT: Mapped nowhere yet.
        Ok(Self {
            domains: KVec::new(),
            range,
            access,
            large: LargePages::default(),
            pinned: Arc::new(pinned, GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// The part of it that is mapped at `part`; `None` if that is not all here.
    pub(crate) fn part(&self, part: &IovaRange) -> Option<PinnedPart> {
        self.range.contains(part).then_some(PinnedPart {
            from: part.start() - self.range.start(),
            size: part.size()?,
            pinned: self.pinned.clone(),
        })
    }

    /// Another view of it, to map it into one more domain by [`Copying::map_into`] while others
    /// look at it.
    pub(crate) fn copying(&self) -> Copying {
        Copying {
            range: self.range,
            access: self.access,
            pinned: self.pinned.clone(),
        }
    }

    /// The large entries that its page table can hold.
    pub(crate) fn large(&self) -> &LargePages {
        &self.large
    }

    /// The domains that it is mapped into.
    pub(crate) fn domains(&self) -> &[Arc<PagingDomain>] {
        &self.domains
    }

    /// Whether it is mapped into a domain.
    pub(crate) fn is_in(&self, domain: &Arc<PagingDomain>) -> bool {
        self.domains.iter().any(|other| Arc::ptr_eq(other, domain))
    }

    /// Maps it into one more domain. Sleeps.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says, [`EINTR`] if a fatal signal came; nothing is mapped then.
    pub(crate) fn map_into(&mut self, domain: Arc<PagingDomain>, work: &mut Work) -> Result {
        if self.domains.is_empty() {
            self.large = LargePages::default();
            let sizes = domain.page_sizes();
            for run in self.pinned.runs_from(0) {
                let iova = self.range.start() + run.offset;
                self.large.add(large_pages(iova, run.phys, run.size, sizes));
            }
        }
        self.domains.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let mapped = self.copying().map_into(domain, work)?;
        self.add_domain(mapped).map_err(|_| ENOMEM)
    }

    /// Adds a domain that [`Copying::map_into`] mapped it into; gives that back without memory for
    /// it, or if it is other memory.
    pub(crate) fn add_domain(&mut self, mut mapped: Mapped) -> Result<(), Mapped> {
        if !Arc::ptr_eq(&mapped.pinned, &self.pinned)
            || self.domains.reserve(1, GFP_KERNEL_ACCOUNT).is_err()
        {
            return Err(mapped);
        }
        if let Some(domain) = mapped.domain.take() {
            // Cannot fail: there is room. INVARIANT: It is mapped, which `mapped` said.
            let _ = self.domains.push_within_capacity(domain);
        }
        Ok(())
    }

    /// Forgets domains that are retired.
    pub(crate) fn forget_retired(&mut self) {
        self.domains.retain(|domain| !domain.is_retired());
    }

    /// Unmaps all of a batch, with one flush for each domain, and unpins it.
    pub(crate) fn unmap_all(mut batch: InlineFirst<Self>, work: &mut Work) {
        let mut ranges: KVec<IovaRange> = KVec::new();
        // Without memory for it, one by one, when they are dropped.
        if ranges.reserve(batch.len(), GFP_KERNEL_ACCOUNT).is_ok() {
            loop {
                let domain = batch
                    .iter()
                    .find_map(|memory| memory.domains.last().cloned());
                let Some(domain) = domain else {
                    break;
                };
                ranges.clear();
                for memory in batch.iter_mut() {
                    let at = memory
                        .domains
                        .iter()
                        .position(|other| Arc::ptr_eq(other, &domain));
                    if let Some(at) = at {
                        // Cannot fail: there is room. INVARIANT: Unmapped below.
                        let _ = ranges.push_within_capacity(memory.range);
                        drop(memory.domains.remove(at));
                    }
                }
                domain.unmap_ranges(&ranges);
            }
        }
        for memory in batch.into_iter() {
            drop(memory);
            // A teardown that began goes to its end.
            let _ = work.step();
        }
    }
}

/// Pinned memory in a domain that is none of its [`MappedMemory`] yet; dropped, it is unmapped there.
///
/// # Invariants
///
/// All of `pinned` is mapped at `range` of `domain`, if there is one.
pub(crate) struct Mapped {
    domain: Option<Arc<PagingDomain>>,
    range: IovaRange,
    pinned: Arc<Pinned>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(domain) = &self.domain {
            domain.unmap_ranges(&[self.range]);
        }
    }
}

/// Pinned memory on its way into a domain.
pub(crate) struct Copying {
    range: IovaRange,
    access: Access,
    pinned: Arc<Pinned>,
}

impl Copying {
    /// Maps it into a domain. Sleeps.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says, [`EINTR`] if a fatal signal came; nothing is mapped then.
    pub(crate) fn map_into(self, domain: Arc<PagingDomain>, work: &mut Work) -> Result<Mapped> {
        let start = self.range.start();
        for run in self.pinned.runs_from(0) {
            let mapped = work.step().and_then(|()| {
                // SAFETY: `pinned` keeps the run pinned. It is kept until the range is unmapped, or
                // the domain retired: below on failure, else by the drop of `Mapped` or, in whose
                // `domains` that puts it, of `MappedMemory`.
                unsafe { domain.map(start + run.offset, run.phys, run.size, self.access) }
            });
            if let Err(error) = mapped {
                if let Some(before) = IovaRange::sized(start, run.offset) {
                    domain.unmap_ranges(&[before]);
                }
                return Err(error);
            }
        }
        // INVARIANT: All of it was mapped just now.
        Ok(Mapped {
            domain: Some(domain),
            range: self.range,
            pinned: self.pinned,
        })
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        for domain in &self.domains {
            domain.unmap_ranges(&[self.range]);
        }
    }
}

impl Ranged for MappedMemory {
    fn range(&self) -> &IovaRange {
        &self.range
    }
}

/// A part of pinned memory, which stays pinned with it.
pub(crate) struct PinnedPart {
    pinned: Arc<Pinned>,
    from: u64,
    size: u64,
}

impl PinnedPart {
    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Its runs; offsets are in the part.
    pub(super) fn runs(&self) -> impl Iterator<Item = PhysRun> + '_ {
        let end = self.from + self.size;
        self.pinned
            .runs_from(self.from)
            .take_while(move |run| run.offset < end)
            .map(move |run| {
                let skip = self.from.saturating_sub(run.offset);
                let from = run.offset + skip;
                PhysRun {
                    offset: from - self.from,
                    phys: run.phys + skip,
                    size: end.min(run.offset + run.size) - from,
                }
            })
    }
}

/// Page frames that follow each other.
struct Frames {
    first: u64,
    count: u64,
}

/// The frames of a device's memory that is mapped at `vaddr`, `count` at most. `None` if there is no
/// such memory, or not with that access.
fn device_frames(vaddr: usize, count: u64, access: Access) -> Option<Frames> {
    let mut first = 0;
    // SAFETY: The current process has an mm, for it was charged; `first` is writable. Sleeps;
    // takes the mmap_lock.
    let got =
        unsafe { shim::ioasid_device_frames(vaddr, count as c_ulong, access.write, &mut first) };
    u64::try_from(got)
        .ok()
        .filter(|&got| got != 0)
        .map(|count| Frames { first, count })
}

/// Pins up to `count` pages from `vaddr` on into `pages`, one at least.
fn pin(
    vaddr: usize,
    count: usize,
    access: Access,
    pages: &mut [*mut bindings::page],
) -> Result<usize> {
    let count = count.min(pages.len());
    // SAFETY: `pages` has room for `count` pointers. Sleeps; may take the mmap_lock, killably.
    let got = unsafe { shim::ioasid_pin(vaddr, count as c_int, access.write, pages.as_mut_ptr()) };
    match got {
        0 => Err(EFAULT),
        error if error < 0 => Err(Error::from_errno(error)),
        got => Ok(got as usize),
    }
}
