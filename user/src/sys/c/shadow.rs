// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A context for hosts that cannot nest.

use super::context::Context;
use super::memory::Memory;
use super::pointer::{given, slice};
use super::result::{done, Failure};
use super::types::{
    Region, HOST_IOMMU_SHADOW_CACHING_MODE, HOST_IOMMU_SHADOW_EVERY_CHANGE,
    HOST_IOMMU_SHADOW_PAGE_REQUESTS, HOST_IOMMU_SHADOW_SECOND_STAGE,
};
use crate::capabilities::Shadowing;
use crate::context::HostIommu;
use crate::shadow::Shadow;
use crate::sys::Errno;
use std::ffi::c_int;
use std::mem::MaybeUninit;

/// Makes a context over another, in which nothing is mapped yet: it walks guests' tables itself and
/// binds what they say as address spaces, for hosts that have those and cannot nest. `promise`,
/// HOST_IOMMU_SHADOW_CACHING_MODE to HOST_IOMMU_SHADOW_SECOND_STAGE, is what the guest does; a
/// table that it does not cover is refused. The guest's memory is that of `regions`, as for
/// host_iommu_vtd_new().
///
/// From now on the other context is used for nothing but to attach and detach, and may be given
/// back.
///
/// Fails with -EBUSY if something is mapped, -EOPNOTSUPP where the host has no address spaces.
#[no_mangle]
extern "C" fn host_iommu_open_shadow(
    context: Option<&Context>,
    regions: *const Region,
    count: usize,
    promise: u32,
    shadow: Option<&mut MaybeUninit<Box<Context>>>,
) -> c_int {
    done(|| {
        let below = given(context, "context")?;
        let place = given(shadow, "place of the context")?;
        let promise = match promise {
            HOST_IOMMU_SHADOW_CACHING_MODE => Shadowing::CachingMode,
            HOST_IOMMU_SHADOW_EVERY_CHANGE => Shadowing::EveryChange,
            HOST_IOMMU_SHADOW_PAGE_REQUESTS => Shadowing::PageRequests,
            HOST_IOMMU_SHADOW_SECOND_STAGE => Shadowing::SecondStage,
            _ => return Err(Failure::argument("The promise is none")),
        };
        let memory = Memory::new(slice(regions, count, "regions")?)?;
        let shadow = Shadow::over(below.host.shared_context(), memory.space(), promise)?;
        place.write(Box::new(Context {
            host: HostIommu::new(shadow),
            bus: below.bus.clone(),
            walked: Some(memory),
        }));
        Ok(())
    })
}

/// Tells a context of host_iommu_open_shadow() that the guest's memory is that of `regions` from now
/// on: what comes before it is given to devices, and what goes after it is taken from them.
///
/// Fails with -EOPNOTSUPP for another context, and as host_iommu_vtd_new(); then the memory is what it
/// was.
#[no_mangle]
extern "C" fn host_iommu_shadow_set_memory(
    shadow: Option<&Context>,
    regions: *const Region,
    count: usize,
) -> c_int {
    done(|| {
        let walked = given(shadow, "context")?.walked.as_ref();
        let walked = walked.ok_or_else(|| {
            Failure::new(
                Errno::EOPNOTSUPP,
                "The context does not walk guests' tables",
            )
        })?;
        walked.set(slice(regions, count, "regions")?)
    })
}
