// SPDX-License-Identifier: GPL-2.0
//! INVALIDATE.
//!
//! The entries are read, checked and carried out in chunks. For each chunk the bindings in scope are
//! looked up anew, one by one, and flushed by a reference with no lock held: calls for different
//! bindings run in parallel, and nobody waits for the flush, nor for the memory that the entries
//! are in, but the caller.

use super::Container;
use crate::budget::Work;
use crate::call::{Invalidate, Scope};
use crate::nesting::{stage1, BindingKey, Stage1Tables};
use kernel::prelude::*;

/// How an INVALIDATE ended.
pub(super) struct Invalidated {
    /// Entries carried out, by all in scope.
    pub(super) done: u32,
    /// Index of the first bad one, or their number.
    pub(super) bad_index: u32,
    /// How it ended.
    pub(super) result: Result,
}

impl Container {
    /// Carries invalidation entries out. Sleeps; copies from the user.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_INVALIDATE` has them.
    pub(super) fn invalidate(&self, call: &Invalidate) -> Invalidated {
        let work = &mut Work::of_call();
        let checked = self
            .nesting
            .lock()
            .check_scope(call.scope)
            .and_then(|()| stage1::check_format(&call.entries));
        let mut done = 0;
        let mut result = checked;
        if result.is_err() {
            return Invalidated {
                done,
                bad_index: 0,
                result,
            };
        }
        while result.is_ok() && done < call.entries.count {
            let (good, checked) = stage1::check_entries(&call.entries, done);
            let (moved, flushed) = self.invalidate_chunk(call, done, good, work);
            done += moved;
            result = flushed.and(checked).and_then(|()| work.look());
            if good == 0 && result.is_ok() {
                // Cannot be: what is not good has an error.
                result = Err(EINVAL);
            }
        }
        if done == call.entries.count {
            // It came too late to matter.
            result = Ok(());
        }
        Invalidated {
            done,
            bad_index: done,
            result,
        }
    }

    /// Carries out `count` entries from number `first` on. Gives how many of them were carried out
    /// for every binding in scope, and how it ended: by the first error, but the bindings behind
    /// that are flushed too.
    fn invalidate_chunk(
        &self,
        call: &Invalidate,
        first: u32,
        count: u32,
        work: &mut Work,
    ) -> (u32, Result) {
        if count == 0 {
            return (0, Ok(()));
        }
        let mut done = count;
        let mut result = Ok(());
        let mut flush = |tables: &Stage1Tables, work: &mut Work| {
            for table in tables.iter() {
                let (moved, flushed) = table.invalidate(&call.entries, first, count, work);
                self.counters.invalidations.add(u64::from(moved));
                done = done.min(moved);
                result = result.and(flushed);
            }
            result
        };
        if let Scope::Binding(device, site) = call.scope {
            let tables = self.nesting.lock().tables_at(device, site);
            return match tables {
                Ok(tables) => {
                    let _ = flush(&tables, work);
                    (done, result)
                }
                // It went meanwhile.
                Err(error) => (0, Err(error)),
            };
        }
        let mut next = Some(BindingKey::from_number(0));
        while let Some(from) = next {
            let found = self.nesting.lock().next_tables(call.scope, from);
            let Some((tables, behind)) = found else {
                break;
            };
            if flush(&tables, work) == Err(EINTR) {
                break;
            }
            next = behind;
        }
        (done, result)
    }
}
