// SPDX-License-Identifier: GPL-2.0
//! DIRTY_PAGES: the start and the end of tracking, and the bitmap of a range.

use super::Container;
use crate::base::iova::IovaRange;
use crate::budget::Work;
use crate::call::bitmap::Bitmap;
use crate::ffi::lock::Lock;
use crate::ffi::paging::PagingDomain;
use crate::ioas::dirty_log::{Report, Tracking};
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::Arc;

/// Parts of a mapping that are looked up a time.
const WRITTEN_STEP: usize = 16;

/// What goes on in the IOMMU driver: it does not see a domain that is half attached when it
/// switches dirty tracking.
#[derive(Default)]
pub(super) struct Switch {
    attaching: u32,
    switching: bool,
}

/// Something is being attached.
///
/// # Invariants
///
/// Counted in `attaching`.
pub(super) struct Attaching<'a>(&'a Lock<Switch>);

impl<'a> Attaching<'a> {
    /// Waits until dirty tracking is not being switched, which takes no more than the driver.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came.
    pub(super) fn begin(switch: &'a Lock<Switch>) -> Result<Self> {
        let mut state = switch.lock_killable()?;
        while state.switching {
            state.wait()?;
        }
        state.attaching += 1;
        // INVARIANT: Counted just now.
        Ok(Self(switch))
    }
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        self.0.lock().attaching -= 1;
        self.0.notify();
    }
}

/// Dirty tracking is being switched.
///
/// # Invariants
///
/// `switching` is set for this value.
struct Switching<'a>(&'a Lock<Switch>);

impl<'a> Switching<'a> {
    /// Waits until nothing is being attached.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came.
    fn begin(switch: &'a Lock<Switch>) -> Result<Self> {
        let mut state = switch.lock_killable()?;
        while state.switching {
            state.wait()?;
        }
        state.switching = true;
        // INVARIANT: Set just now.
        let switching = Self(switch);
        while state.attaching != 0 {
            if let Err(error) = state.wait() {
                // The end of `switching` takes the lock.
                drop(state);
                return Err(error);
            }
        }
        drop(state);
        Ok(switching)
    }
}

impl Drop for Switching<'_> {
    fn drop(&mut self) {
        self.0.lock().switching = false;
        self.0.notify();
    }
}

impl Container {
    /// `VFIO_IOMMU_DIRTY_PAGES_FLAG_START`. What was written before is clean.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if a mapping is too large for a bitmap; [`EINTR`] if a fatal signal came.
    pub(super) fn start_dirty(&self) -> Result {
        let work = &mut Work::of_call();
        let (is_new, bits) = {
            let ioas = self.ioas.lock();
            (ioas.can_start_dirty()?, ioas.dirty_support().is_ok())
        };
        if !is_new {
            return Ok(());
        }
        // What an earlier tracking left set is cleared while nothing sets bits.
        let cleaned = bits
            && match self.clean_all(work) {
                Err(EINTR) => return Err(EINTR),
                result => result.is_ok(),
            };
        let _switching = Switching::begin(&self.switch)?;
        let domains = self.all_domains()?;
        let bits = cleaned
            && domains
                .iter()
                .all(|domain| domain.track_dirty(true).is_ok());
        {
            let mut ioas = self.ioas.lock();
            if !ioas.can_start_dirty()? {
                return Ok(());
            }
            if bits && domains.iter().all(|domain| ioas.is_domain(domain)) {
                ioas.tracking = Tracking::DirtyBits(RBTree::new());
                return Ok(());
            }
            ioas.tracking = Tracking::EveryPage;
        }
        stop_bits(&domains);
        Ok(())
    }

    /// `VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP`.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal came.
    pub(super) fn stop_dirty(&self) -> Result {
        let _switching = Switching::begin(&self.switch)?;
        let domains = self.all_domains()?;
        let old = core::mem::replace(&mut self.ioas.lock().tracking, Tracking::Off);
        if matches!(old, Tracking::DirtyBits(_)) {
            stop_bits(&domains);
        }
        Ok(())
    }

    fn all_domains(&self) -> Result<KVec<Arc<PagingDomain>>> {
        let ioas = self.ioas.lock();
        let mut domains = KVec::with_capacity(ioas.domains.len(), GFP_KERNEL_ACCOUNT)?;
        domains.extend_from_slice(&ioas.domains, GFP_KERNEL_ACCOUNT)?;
        Ok(domains)
    }

    /// Makes everything that is mapped clean.
    fn clean_all(&self, work: &mut Work) -> Result {
        self.for_each_held(&IovaRange::ALL, work, |range, domains, work| {
            domains.iter().try_for_each(|domain| {
                work.look()?;
                domain.clean(range)
            })
        })
    }

    /// Calls `with` on each mapping in `range` and its domains. It is held meanwhile, and no lock
    /// is.
    fn for_each_held(
        &self,
        range: &IovaRange,
        work: &mut Work,
        mut with: impl FnMut(&IovaRange, &[Arc<PagingDomain>], &mut Work) -> Result,
    ) -> Result {
        let mut next = Some(range.start());
        while let Some(from) = next {
            work.step()?;
            let (mapping, domains) = {
                let mut ioas = self.ioas.lock();
                let found = ioas.next_mapped(from);
                let Some(mapping) = found.filter(|found| found.start() <= range.last()) else {
                    return Ok(());
                };
                let memory = ioas.held_memory(mapping.start()).ok_or(EINVAL)?;
                let mut domains = KVec::new();
                domains.extend_from_slice(memory.domains(), GFP_KERNEL_ACCOUNT)?;
                ioas.hold(mapping.start());
                (mapping, domains)
            };
            let result = with(&mapping, &domains, work);
            self.ioas.lock().let_go(mapping.start());
            self.ioas.notify();
            result?;
            next = mapping.last().checked_add(1);
        }
        Ok(())
    }

    /// `VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP`. Copies to the user.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if tracking is off, the page size is not the smallest, the range is not of pages
    /// or cuts a mapping in two; [`EFAULT`] for a bitmap that is not accessible; [`EINTR`] if a
    /// fatal signal came.
    pub(super) fn dirty_pages(&self, range: &IovaRange, bitmap: &Bitmap) -> Result {
        let work = &mut Work::of_call();
        let mut report = self.ioas.lock().dirty_report(range, bitmap)?;
        self.for_each_held(range, work, |mapping, domains, work| {
            self.report_dirty(&mut report, mapping, domains, work)
        })
    }

    /// Reports the dirty pages of what is mapped in a range.
    pub(super) fn report_range(
        &self,
        report: &mut Report,
        range: &IovaRange,
        work: &mut Work,
    ) -> Result {
        self.for_each_held(range, work, |mapping, domains, work| {
            self.report_dirty(report, mapping, domains, work)
        })
    }

    /// Reports the dirty pages of a mapping, which is held.
    fn report_dirty(
        &self,
        report: &mut Report,
        mapping: &IovaRange,
        domains: &[Arc<PagingDomain>],
        work: &mut Work,
    ) -> Result {
        report.mapping(mapping, domains, work)?;
        if !report.wants_bits() {
            return Ok(());
        }
        let mut after = None;
        loop {
            let mut written = [IovaRange::ALL; WRITTEN_STEP];
            let mut ioas = self.ioas.lock();
            let found = ioas.spaces.writable(mapping.start(), after, &mut written);
            drop(ioas);
            for range in written.iter().take(found.count) {
                report.written(range, work)?;
            }
            after = found.last;
            if after.is_none() {
                break;
            }
        }
        let gone = self.ioas.lock().take_written(mapping.start());
        let Some(words) = gone else {
            return Ok(());
        };
        let told = report.words(mapping, &words, work);
        if told.is_err() || !report.clear {
            self.ioas.lock().put_written(mapping.start(), words);
        }
        told
    }
}

fn stop_bits(domains: &[Arc<PagingDomain>]) {
    for domain in domains {
        // Bits that go on being set do no harm: the next start clears them.
        let _ = domain.track_dirty(false);
    }
}
