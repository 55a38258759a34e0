// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Implementations of [`HostIommuContext`](crate::HostIommuContext).

pub mod kmod;
#[cfg(feature = "soft")]
pub mod soft;
