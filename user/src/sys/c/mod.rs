// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The C API: what `user/include/host_iommu.h` declares, which cbindgen writes from this module.
//!
//! Nothing of Rust's shows: handles are opaque, structures are numbers of fixed size that begin
//! with their own size where they can grow, results are zero or a negative errno. What C may pass
//! as NULL is an `Option`; what it hands over is a `Box`. The rest of its promises, that pointers
//! are what the header says, stands in [`pointer`], where alone they are used.

mod binding;
mod context;
mod fault;
mod memory;
mod pointer;
mod result;
mod shadow;
mod soft;
mod space;
mod types;
mod vtd;

/// The version of this interface. Structures grow at their end and calls are added without a
/// change of it; it changes when something that was there means something else.
pub const HOST_IOMMU_API_VERSION: u32 = 1;

/// The version of the library's interface, to compare with HOST_IOMMU_API_VERSION.
#[no_mangle]
extern "C" fn host_iommu_api_version() -> u32 {
    HOST_IOMMU_API_VERSION
}

/// Every handle may be used by several threads at a time, as the header says.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<context::Context>();
    shared::<binding::Pasids>();
    shared::<binding::BoundHandle>();
    shared::<fault::Queue>();
    shared::<fault::Group>();
    shared::<memory::Listener>();
    shared::<space::Space>();
    shared::<soft::Device>();
    shared::<vtd::Unit>();
    shared::<vtd::UnitDevice>();
    shared::<vtd::UnitDma>();
};
