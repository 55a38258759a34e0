// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The boot and set-up program.
fn main() {}
