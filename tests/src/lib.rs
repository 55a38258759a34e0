// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shared parts of the test programs.
