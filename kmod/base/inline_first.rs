// SPDX-License-Identifier: GPL-2.0
//! Values of which there is one as a rule.

use kernel::alloc::Flags;
use kernel::prelude::*;

/// Values in order: the first in place, and only those after it in memory of their own.
pub(crate) struct InlineFirst<T> {
    first: Option<T>,
    rest: KVec<T>,
}

impl<T> InlineFirst<T> {
    /// None.
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            rest: KVec::new(),
        }
    }

    /// None, with room for `count`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; not for one.
    pub(crate) fn with_capacity(count: usize, flags: Flags) -> Result<Self> {
        Ok(Self {
            first: None,
            rest: KVec::with_capacity(count.saturating_sub(1), flags)?,
        })
    }

    /// Adds one behind the others.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; not for the first.
    pub(crate) fn push(&mut self, value: T, flags: Flags) -> Result {
        if self.first.is_none() {
            self.first = Some(value);
            return Ok(());
        }
        Ok(self.rest.push(value, flags)?)
    }

    /// Adds one where there is room; gives it back where there is none.
    pub(crate) fn push_within_capacity(&mut self, value: T) -> Result<(), T> {
        if self.first.is_none() {
            self.first = Some(value);
            return Ok(());
        }
        self.rest
            .push_within_capacity(value)
            .map_err(|error| error.0)
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// All, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        Iterator::chain(self.first.iter(), self.rest.iter())
    }

    /// All, in order.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        Iterator::chain(self.first.iter_mut(), self.rest.iter_mut())
    }

    /// All, in order.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = T> {
        Iterator::chain(self.first.into_iter(), self.rest)
    }
}
