// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nested translation, PASIDs and page requests for VMMs.

#[doc(hidden)]
#[allow(unsafe_code, reason = "the system calls")]
pub mod sys;
