// SPDX-License-Identifier: GPL-2.0
//! KUnit tests of what needs no device: ranges, collections, limits, the list of bindings, a fault
//! queue. They are built where the kernel has KUnit, and run when the module is loaded.
//!
//! What needs nothing but `core` is tested by cargo as well, at more length
//! (tests/tests/module_logic). Here it runs on the kernel's own trees and vectors, where KASAN and
//! overflow checks see it.

mod bindings;
mod budget;
mod collections;
mod queue;
mod ranges;
