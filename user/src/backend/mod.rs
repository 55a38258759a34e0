// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Implementations of [`HostIommuContext`](crate::HostIommuContext).

mod bindings;
pub mod iommufd;
pub mod kmod;
mod pasid;
mod queue;
mod shared;
#[cfg(feature = "soft")]
pub mod soft;
