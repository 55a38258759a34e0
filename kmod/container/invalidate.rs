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

/// The stage-1 tables that an INVALIDATE is for.
enum InScope {
    /// Those of one binding.
    Binding(Stage1Tables),
    /// Those of many, which are looked up one by one.
    Many,
}

impl Container {
    /// Carries invalidation entries out. Sleeps; copies from the user.
    ///
    /// # Errors
    ///
    /// As `VFIO_IOASID_INVALIDATE` has them.
    pub(super) fn invalidate(&self, call: &Invalidate) -> Invalidated {
        let mut done = 0;
        let result = self.invalidate_all(call, &mut done);
        Invalidated {
            done,
            bad_index: done,
            result,
        }
    }

    /// Counts what was done for every binding in scope.
    fn invalidate_all(&self, call: &Invalidate, done: &mut u32) -> Result {
        let work = &mut Work::of_call();
        let mut tables = self.in_scope(call)?;
        stage1::check_format(&call.entries)?;
        while *done < call.entries.count {
            let checked = stage1::check_entries(&call.entries, *done);
            let flushed = self.invalidate_chunk(&tables, call, *done, checked.good, work);
            *done += flushed.done;
            if *done == call.entries.count {
                // An error came too late to matter.
                break;
            }
            flushed.result.and(checked.result)?;
            if checked.good == 0 {
                // Cannot be: what is not good has an error.
                return Err(EINVAL);
            }
            work.look()?;
            tables = self.in_scope(call)?;
        }
        Ok(())
    }

    /// What is in the scope of a call now.
    fn in_scope(&self, call: &Invalidate) -> Result<InScope> {
        let nesting = self.nesting.lock();
        match call.scope {
            Scope::Binding(device, site) => Ok(InScope::Binding(nesting.tables_at(device, site)?)),
            scope => nesting.check_scope(scope).map(|()| InScope::Many),
        }
    }

    /// Carries out `count` entries from number `first` on: done are those that were carried out for
    /// every binding in scope. It ends by the first error, but the bindings behind that are flushed
    /// too.
    fn invalidate_chunk(
        &self,
        tables: &InScope,
        call: &Invalidate,
        first: u32,
        count: u32,
        work: &mut Work,
    ) -> Flushed {
        let mut done = count;
        let mut result = Ok(());
        if count == 0 {
            return Flushed { done, result };
        }
        let mut flush = |tables: &Stage1Tables, work: &mut Work| {
            for table in tables.iter() {
                let flushed = table.invalidate(&call.entries, first, count, work);
                self.counters.invalidations.add(u64::from(flushed.done));
                done = done.min(flushed.done);
                result = result.and(flushed.result);
            }
        };
        if let InScope::Binding(tables) = tables {
            flush(tables, work);
            return Flushed { done, result };
        }
        let mut next = Some(BindingKey::from_number(0));
        let mut alive = Ok(());
        while let Some(from) = next.filter(|_| alive.is_ok()) {
            let found = self.nesting.lock().next_tables(call.scope, from);
            let Some(found) = found else {
                break;
            };
            flush(&found.tables, work);
            next = found.behind;
            alive = work.look();
        }
        if alive.is_err() && next.is_some() {
            // Some were not flushed at all.
            done = 0;
            result = result.and(alive);
        }
        Flushed { done, result }
    }
}
