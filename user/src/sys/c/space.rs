// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Address spaces.

use super::context::{partly, Context};
use super::pointer::{given, slice};
use super::result::{done, give_back, Result};
use super::types::{Range, SpaceEntry};
use crate::space::{AddressSpace, AddressSpaceEntry};
use crate::types::IovaRange;
use std::ffi::c_int;
use std::mem::MaybeUninit;

/// An address space.
pub struct Space(AddressSpace);

impl Space {
    pub(super) fn space(&self) -> &AddressSpace {
        &self.0
    }
}

/// Makes an empty address space.
///
/// Fails with -EDQUOT at the quota, -EOPNOTSUPP where the host has none.
#[no_mangle]
extern "C" fn host_iommu_space_new(
    context: Option<&Context>,
    space: Option<&mut MaybeUninit<Box<Space>>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let place = given(space, "place of the address space")?;
        place.write(Box::new(Space(host.address_space()?)));
        Ok(())
    })
}

/// Maps entries in order. Each leads into memory that is mapped already, pins nothing, and goes
/// when some of that memory is unmapped. `done`, unless NULL, gets the number of entries in force.
///
/// Fails with -EEXIST where something is mapped, -EFAULT for memory that is not, -EPERM for more
/// access than the memory has, -EINVAL for what is no whole pages, -EDQUOT at the quota.
#[no_mangle]
extern "C" fn host_iommu_space_map(
    space: Option<&Space>,
    entries: *const SpaceEntry,
    count: usize,
    done: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    super::result::done(|| {
        let space = &given(space, "address space")?.0;
        let entries = slice(entries, count, "entries")?;
        let entries = entries.iter().map(TryInto::try_into);
        let entries = entries.collect::<Result<Vec<AddressSpaceEntry>>>()?;
        partly(space.map(&entries), done, count)
    })
}

/// Takes the entries out that lie in ranges. When it returns, no device uses them. `done`, unless
/// NULL, gets the number of ranges carried out.
///
/// Fails with -EINVAL for a range that would cut an entry in two.
#[no_mangle]
extern "C" fn host_iommu_space_unmap(
    space: Option<&Space>,
    ranges: *const Range,
    count: usize,
    done: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    super::result::done(|| {
        let space = &given(space, "address space")?.0;
        let ranges = slice(ranges, count, "ranges")?;
        let ranges = ranges.iter().map(|range| (*range).try_into());
        let ranges = ranges.collect::<Result<Vec<IovaRange>>>()?;
        partly(space.unmap(&ranges), done, count)
    })
}

/// Destroys an address space now. The handle is to be given back all the same.
///
/// Fails with -EBUSY while it is bound.
#[no_mangle]
extern "C" fn host_iommu_space_destroy(space: Option<&Space>) -> c_int {
    done(|| Ok(given(space, "address space")?.0.destroy()?))
}

/// Gives the handle back. The address space goes once it is not bound any more.
#[no_mangle]
extern "C" fn host_iommu_space_free(space: Option<Box<Space>>) {
    give_back(space);
}
