// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The unsafe code of the tests: calls with arguments of any shape, memory that waits or that
//! changes under its users, and the kernel's coverage.

#![deny(missing_docs)]
#![allow(unsafe_code, reason = "system calls that only tests make")]

pub mod forked;
pub mod guarded;
pub mod kcov;
pub mod private;
pub mod raw;
pub mod userfault;
