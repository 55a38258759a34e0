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
use crate::ffi::nested::Flushed;
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
            let checked = stage1::check_entries(&call.entries, done);
            let flushed = self.invalidate_chunk(call, done, checked.good, work);
            done += flushed.done;
            let ended = flushed.result.and(checked.result);
            result = ended.and_then(|()| work.look());
            if checked.good == 0 && result.is_ok() {
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

    /// Carries out `count` entries from number `first` on: done are those that were carried out for
    /// every binding in scope. It ends by the first error, but the bindings behind that are flushed
    /// too.
    fn invalidate_chunk(
        &self,
        call: &Invalidate,
        first: u32,
        count: u32,
        work: &mut Work,
    ) -> Flushed {
        if count == 0 {
            return Flushed {
                done: 0,
                result: Ok(()),
            };
        }
        let mut done = count;
        let mut result = Ok(());
        let mut flush = |tables: &Stage1Tables, work: &mut Work| {
            for table in tables.iter() {
                let flushed = table.invalidate(&call.entries, first, count, work);
                self.counters.invalidations.add(u64::from(flushed.done));
                done = done.min(flushed.done);
                result = result.and(flushed.result);
            }
            result
        };
        if let Scope::Binding(device, site) = call.scope {
            let tables = self.nesting.lock().tables_at(device, site);
            return match tables {
                Ok(tables) => {
                    let _ = flush(&tables, work);
                    Flushed { done, result }
                }
                // It went meanwhile.
                Err(error) => Flushed {
                    done: 0,
                    result: Err(error),
                },
            };
        }
        let mut next = Some(BindingKey::from_number(0));
        while let Some(from) = next {
            let found = self.nesting.lock().next_tables(call.scope, from);
            let Some(found) = found else {
                break;
            };
            if flush(&found.tables, work) == Err(EINTR) {
                break;
            }
            next = found.behind;
        }
        Flushed { done, result }
    }
}
