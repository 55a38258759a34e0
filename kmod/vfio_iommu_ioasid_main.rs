// SPDX-License-Identifier: GPL-2.0
//! vfio_iommu_ioasid: PASIDs, nested page tables and page requests on a VFIO container.
//!
//! The ABI is bindings/uapi/linux/vfio_ioasid.h; [`container`] states the lock order, and
//! [`fault`] the life of a binding.

#![deny(unsafe_code)]
#![deny(clippy::multiple_unsafe_ops_per_block)]

mod base;
mod budget;
mod container;
mod fault;

mod call;
mod debugfs;
#[allow(unsafe_code)]
mod ffi;
mod ioas;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod nesting;
mod pasid;

use container::table::Containers;
use ffi::vfio::Registration;
use kernel::prelude::*;

module! {
    type: IoasidModule,
    name: "vfio_iommu_ioasid",
    authors: ["The host-iommu authors"],
    description: "PASIDs, nested translation and page requests on VFIO containers",
    license: "GPL",
    imports_ns: ["IOMMUFD", "IOMMUFD_INTERNAL"],
}

struct IoasidModule {
    _registration: Registration,
}

impl kernel::Module for IoasidModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let registration = Registration::new::<Containers, debugfs::ModuleLines>()?;
        pr_info!("nested translation at PASIDs: bind, invalidate, page requests\n");
        Ok(Self {
            _registration: registration,
        })
    }
}
