// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's memory, which comes and goes.

use super::context::Context;
use super::pointer::{given, slice};
use super::result::{done, give_back, Failure, Result};
use super::types::Region;
use crate::listener::RegionListener;
use crate::sys::Errno;
use std::ffi::c_int;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::mmap::MmapRegion;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// A guest's memory, mapped once more from its files.
#[derive(Clone)]
pub(super) struct Memory(GuestMemoryAtomic<GuestMemoryMmap>);

/// Whether a region that is mapped is the one that the caller names. While it is mapped its file is
/// open, so that no other has its inode.
fn is(mapped: &GuestRegionMmap, named: &Region, file: &File) -> bool {
    let Some(place) = GuestMemoryRegion::file_offset(mapped) else {
        return false;
    };
    let inode = |file: &File| {
        let about = file.metadata().ok()?;
        Some((about.dev(), about.ino()))
    };
    let known = inode(place.file());
    let same = (mapped.start_addr().raw_value(), mapped.len(), place.start())
        == (named.address, named.length, named.fd_offset);
    same && known.is_some() && known == inode(file)
}

/// Maps the regions that were not mapped before.
fn map(regions: &[Region], before: &GuestMemoryMmap) -> Result<GuestMemoryMmap> {
    let not_had = |error: &dyn std::fmt::Display| {
        Failure::argument(&format!("The guest's memory cannot be had: {error}"))
    };
    let mut mapped = Vec::new();
    for region in regions {
        if region.reserved != 0 {
            return Err(Failure::argument(
                "A region of guest memory has unknown flags",
            ));
        }
        let length = usize::try_from(region.length).map_err(|_| Errno::EINVAL)?;
        let file = File::from(super::context::duplicate(region.fd)?);
        let known = before.find_region(GuestAddress(region.address));
        let memory = match known.filter(|known| is(known, region, &file)) {
            Some(known) => known.get_mmap(),
            None => {
                let file = FileOffset::new(file, region.fd_offset);
                Arc::new(MmapRegion::from_file(file, length).map_err(|error| not_had(&error))?)
            }
        };
        let placed = GuestRegionMmap::with_arc(memory, GuestAddress(region.address));
        mapped.push(Arc::new(placed.ok_or_else(|| not_had(&"a region wraps"))?));
    }
    mapped.sort_by_key(|region| region.start_addr());
    GuestMemoryMmap::from_arc_regions(mapped).map_err(|error| not_had(&error))
}

impl Memory {
    pub(super) fn new(regions: &[Region]) -> Result<Self> {
        if regions.is_empty() {
            return Err(Failure::argument("The guest has no memory"));
        }
        let memory = map(regions, &GuestMemoryMmap::new())?;
        Ok(Self(GuestMemoryAtomic::new(memory)))
    }

    /// What always is what was set last.
    pub(super) fn space(&self) -> GuestMemoryAtomic<GuestMemoryMmap> {
        self.0.clone()
    }

    /// What there is at this moment.
    pub(super) fn now(&self) -> GuestMemoryMmap {
        GuestMemoryMmap::clone(&self.0.memory())
    }

    pub(super) fn set(&self, regions: &[Region]) -> Result {
        // It guards nothing that a panic could leave half-way.
        let lock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = map(regions, &self.0.memory())?;
        lock.replace(memory);
        Ok(())
    }
}

/// What gives devices a guest's memory as it comes and goes.
pub struct Listener(Mutex<Listened>);

struct Listened {
    listener: RegionListener,
    memory: GuestMemoryMmap,
}

/// Makes what gives the devices of a context the guest's memory, in which nothing is mapped yet
/// where that will be. It takes the place of host_iommu_map() and host_iommu_unmap() for memory that
/// comes and goes.
#[no_mangle]
extern "C" fn host_iommu_listener_new(
    context: Option<&Context>,
    listener: Option<&mut MaybeUninit<Box<Listener>>>,
) -> c_int {
    done(|| {
        let host = given(context, "context")?.host.clone();
        let place = given(listener, "place of the listener")?;
        place.write(Box::new(Listener(Mutex::new(Listened {
            listener: RegionListener::new(host),
            memory: GuestMemoryMmap::new(),
        }))));
        Ok(())
    })
}

/// To be called with the guest's memory whenever it has changed: devices lose the regions that are
/// gone, and get those that are new, readable and writable. A region is the same if it has the same
/// addresses and is the same part of the same file. Regions are whole pages of 4 KiB, each a shared
/// mapping of a file, which is mapped once more; the fds may be closed afterwards. What the host has
/// dropped itself, as with the last device of a context, is given to devices anew.
///
/// Fails with -EINVAL for regions that overlap or cannot be mapped, before anything is changed;
/// and as host_iommu_map() and host_iommu_unmap(): then what was done stays, and the next call goes
/// on from there.
#[no_mangle]
extern "C" fn host_iommu_listener_update(
    listener: Option<&Listener>,
    regions: *const Region,
    count: usize,
) -> c_int {
    done(|| {
        let listened = &given(listener, "listener")?.0;
        let regions = slice(regions, count, "regions")?;
        let whole =
            |region: &Region| (region.address | region.length | region.fd_offset) % 4096 == 0;
        if !regions.iter().all(whole) {
            return Err(Failure::argument("A region is not whole pages"));
        }
        let mut listened = listened.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = map(regions, &listened.memory)?;
        // What was mapped stays the same for the next call, also if this one fails half-way.
        listened.memory = memory.clone();
        let skipped = listened.listener.update(&memory)?;
        match skipped.first() {
            None => Ok(()),
            Some(first) => Err(Failure::argument(&format!(
                "Devices do not have {}: {}",
                first.range, first.reason
            ))),
        }
    })
}

/// Gives the handle back. What it has given to devices they keep, until it is unmapped.
#[no_mangle]
extern "C" fn host_iommu_listener_free(listener: Option<Box<Listener>>) {
    give_back(listener);
}
