// SPDX-License-Identifier: GPL-2.0
//! User memory pinned for DMA, mapped into a stage-2 domain and charged to its owner.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::paging::{Access, PagingDomain};
use super::shim;
use crate::ioas::iova::IovaRange;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::c_ulong;
use kernel::mm::Mm;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

/// Pages pinned a call; a page of pointers.
const BATCH: usize = PAGE_SIZE / core::mem::size_of::<*mut bindings::page>();

/// `FOLL_WRITE` and `FOLL_LONGTERM` of linux/mm_types.h.
const FOLL_WRITE: u32 = 1 << 0;
const FOLL_LONGTERM: u32 = 1 << 8;

/// Pages charged to an mm's locked memory (RLIMIT_MEMLOCK).
///
/// # Invariants
///
/// `pages` are charged to `mm`.
struct Charge {
    mm: ARef<Mm>,
    pages: u64,
}

impl Charge {
    /// Charges the current process.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if it would pass RLIMIT_MEMLOCK and has no CAP_IPC_LOCK.
    fn current(pages: u64) -> Result<Self> {
        let task = kernel::current!();
        let mm: ARef<Mm> = ARef::from(&**task.mm().ok_or(ESRCH)?);
        // SAFETY: `mm` is live by its reference. Sleeps; takes its mmap_lock.
        to_result(unsafe { bindings::account_locked_vm(mm.as_raw(), pages as c_ulong, true) })?;
        // INVARIANT: Charged just now.
        Ok(Self { mm, pages })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: `mm` is live by its reference and was charged by the invariant.
        unsafe { bindings::account_locked_vm(self.mm.as_raw(), self.pages as c_ulong, false) };
    }
}

/// A physically contiguous run of pinned pages.
///
/// # Invariants
///
/// `pages` pages from `first` on are pinned, once, for this value.
struct Run {
    first: *mut bindings::page,
    pages: usize,
    written: bool,
}

impl Run {
    fn phys(&self) -> u64 {
        // SAFETY: `first` is a live page by the invariant.
        unsafe { shim::ioasid_page_phys(self.first) }
    }

    fn bytes(&self) -> u64 {
        (self.pages as u64) << PAGE_SHIFT
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: The pages are pinned by the invariant and follow each other.
        unsafe {
            bindings::unpin_user_page_range_dirty_lock(
                self.first,
                self.pages as c_ulong,
                self.written,
            )
        };
    }
}

/// User memory mapped into a stage-2 domain: pinned, charged, and undone on drop.
///
/// # Invariants
///
/// The first `mapped` bytes of `range` are mapped in `domain` to `runs`, in order, and to
/// nothing else.
pub(crate) struct MappedMemory {
    domain: Arc<PagingDomain>,
    range: IovaRange,
    mapped: u64,
    runs: KVVec<Run>,
    /// Dropped last: the pages are locked until they are unpinned.
    _charge: Charge,
}

// SAFETY: Pages may be unpinned from any thread.
unsafe impl Send for MappedMemory {}
// SAFETY: A shared reference gives only `range`.
unsafe impl Sync for MappedMemory {}

impl MappedMemory {
    /// Pins the current process's memory at `vaddr` and maps it at `range`, all or nothing.
    ///
    /// `range` and `vaddr` are aligned to pages. Sleeps; takes the mm's mmap_lock.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`] if RLIMIT_MEMLOCK or memory does not allow it.
    /// - [`EFAULT`] if a page is not there or not accessible that way.
    /// - [`EINTR`] if a fatal signal came.
    pub(crate) fn new(
        domain: Arc<PagingDomain>,
        range: IovaRange,
        vaddr: usize,
        access: Access,
    ) -> Result<Self> {
        let size = range.size().ok_or(EINVAL)?;
        let pages = size >> PAGE_SHIFT;
        // INVARIANT: Nothing is mapped yet.
        let mut memory = Self {
            domain,
            range,
            mapped: 0,
            runs: KVVec::new(),
            _charge: Charge::current(pages)?,
        };
        let mut batch = KVec::from_elem(core::ptr::null_mut(), BATCH, GFP_KERNEL_ACCOUNT)?;
        let mut pending: Option<Run> = None;
        let mut done = 0u64;
        while done < pages {
            yield_unless_killed()?;
            let want = BATCH.min(usize::try_from(pages - done)?);
            let at = vaddr + ((done as usize) << PAGE_SHIFT);
            let got = pin(at, want, access, &mut batch)?;
            for (index, &page) in batch.iter().take(got).enumerate() {
                // The pages from `index` on are pinned and in no run yet.
                if let Err(error) = memory.add(&mut pending, page, access) {
                    for &page in batch.iter().take(got).skip(index + 1) {
                        drop(Run {
                            first: page,
                            pages: 1,
                            written: false,
                        });
                    }
                    return Err(error);
                }
            }
            done += got as u64;
        }
        if let Some(run) = pending.take() {
            memory.map_run(run, access)?;
        }
        Ok(memory)
    }

    /// The addresses that it is mapped at.
    pub(crate) fn range(&self) -> &IovaRange {
        &self.range
    }

    /// Takes a pinned page over: into the run under way, or a new one.
    fn add(
        &mut self,
        pending: &mut Option<Run>,
        page: *mut bindings::page,
        access: Access,
    ) -> Result {
        // INVARIANT: The page was pinned for us, once.
        let run = Run {
            first: page,
            pages: 1,
            written: access.write,
        };
        if let Some(before) = pending {
            if before.phys() + before.bytes() == run.phys() {
                // INVARIANT: The pin of `run` passes to `before`.
                before.pages += 1;
                core::mem::forget(run);
                return Ok(());
            }
        }
        match pending.replace(run) {
            Some(before) => self.map_run(before, access),
            None => Ok(()),
        }
    }

    fn map_run(&mut self, run: Run, access: Access) -> Result {
        let (phys, bytes) = (run.phys(), run.bytes());
        // Allocated before it is mapped: what is mapped must not be unpinned.
        self.runs.push(run, GFP_KERNEL_ACCOUNT)?;
        // SAFETY: The run is pinned and lives in `runs`, which is dropped after the unmap.
        unsafe {
            self.domain
                .map(self.range.start() + self.mapped, phys, bytes, access)
        }?;
        self.mapped += bytes;
        Ok(())
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        if self.mapped != 0 {
            self.domain.unmap(self.range.start(), self.mapped);
        }
    }
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
fn yield_unless_killed() -> Result {
    // SAFETY: No requirements but a context that may sleep, as pinning has.
    if unsafe { shim::ioasid_yield_unless_killed() } {
        Ok(())
    } else {
        Err(EINTR)
    }
}
