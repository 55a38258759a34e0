// SPDX-License-Identifier: GPL-2.0
//! What stands below everything: ranges of addresses, and collections. Nothing here knows of the
//! IOMMU or of VFIO.

pub(crate) mod inline_first;
pub(crate) mod iova;
pub(crate) mod range_map;
