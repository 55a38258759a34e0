// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is fuzzed of the crate host-iommu: `make fuzz-crate` runs each target on stable Rust, and
//! `cargo fuzz run -s none TARGET` does too where cargo-fuzz is installed.
//!
//! | target | the input is |
//! |---|---|
//! | `registers` | a guest's accesses to the register file of a unit as it was switched on |
//! | `descriptors` | what it puts into the invalidation queue, after Linux's steps at boot |
//! | `tables` | its root, context, directory, PASID and page tables, and DMA by them |
//! | `records` | what a fault fd gives |
//!
//! `tests/tests/fuzz_targets.rs` runs them for a moment in every `cargo test`.
//!
//! In the first three, guest memory changes underneath: between two of the unit's reads, when and
//! how the input says. What must hold stands in the code that asserts it.

pub mod records;
pub mod unit;

/// The input, taken from its front; zeroes when it is at its end.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (taken, rest) = self.0.split_at(self.0.len().min(N));
        bytes[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        bytes
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    /// The next two.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// The next eight.
    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}
