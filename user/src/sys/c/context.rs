// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Contexts: how they are opened, and what they do by themselves.

use super::memory::Memory;
use super::pointer::{fill, given, read, slice, string, write, CallersMemory};
use super::result::{done, give_back, Failure, Result};
use super::types::{
    CBdf, CCapabilities, CInvalidation, CScope, CStats, DeviceInfo, Mapping, Range,
};
use crate::backend::iommufd::Iommufd;
use crate::backend::kmod::Kmod;
use crate::backend::soft::{Soft, SoftBus};
use crate::context::{self, HostIommu};
use crate::error::Error;
use crate::nesting::Invalidation;
use crate::types::{Bdf, Iova, IovaRange, Pasid};
use std::ffi::{c_char, c_int, c_void, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A context: one VFIO container, or what stands for one.
pub struct Context {
    pub(super) host: HostIommu,
    /// Where devices are plugged in, if they are in the process.
    pub(super) bus: Option<SoftBus>,
    /// The guest's memory, if the context walks its tables.
    pub(super) walked: Option<Memory>,
}

impl Context {
    fn new(context: impl context::HostIommuContext + 'static) -> Box<Self> {
        Box::new(Self {
            host: HostIommu::new(context),
            bus: None,
            walked: None,
        })
    }
}

/// Another fd of a file of the caller's, who keeps his.
pub(super) fn duplicate(fd: c_int) -> Result<OwnedFd> {
    let copy = host_iommu_sys::duplicate(&fd);
    Ok(copy.map_err(|error| crate::sys::Errno::from_raw(error.raw_os_error().unwrap_or(0)))?)
}

/// Reads a PCI address as in "0000:00:04.0".
///
/// Fails with -EINVAL for what is none.
#[no_mangle]
extern "C" fn host_iommu_bdf_parse(
    text: *const c_char,
    device: Option<&mut MaybeUninit<CBdf>>,
) -> c_int {
    done(|| {
        let text = string(text, "text")?.to_string_lossy();
        let bdf: Bdf = text
            .parse()
            .map_err(|error| Failure::argument(&format!("{error}")))?;
        given(device, "device")?.write(bdf.into());
        Ok(())
    })
}

/// Opens a new container of the kernel module vfio_iommu_ioasid with the group of a device, which
/// must be bound to vfio-pci.
///
/// `device_fd`, unless it is NULL, gets a fd of the device for its registers, interrupts and reset
/// by VFIO, which the caller closes.
///
/// Fails with what cannot be opened, -EBUSY for a group that is in use, -ENODEV where the module is
/// not loaded, -EPERM without interrupt remapping.
#[no_mangle]
extern "C" fn host_iommu_open_kmod(
    device: CBdf,
    device_fd: Option<&mut MaybeUninit<c_int>>,
    context: Option<&mut MaybeUninit<Box<Context>>>,
) -> c_int {
    done(|| {
        let context = given(context, "place of the context")?;
        let kmod = Kmod::open_device(device.into())?;
        if let Some(place) = device_fd {
            place.write(kmod.open_device_fd(device.into())?.into_raw_fd());
        }
        context.write(Context::new(kmod));
        Ok(())
    })
}

/// The same by the path of a group, as in "/dev/vfio/12".
#[no_mangle]
extern "C" fn host_iommu_open_kmod_group(
    path: *const c_char,
    context: Option<&mut MaybeUninit<Box<Context>>>,
) -> c_int {
    done(|| {
        let context = given(context, "place of the context")?;
        let path = Path::new(OsStr::from_bytes(string(path, "path")?.to_bytes()));
        context.write(Context::new(Kmod::open_group(path)?));
        Ok(())
    })
}

/// The same with a container that has no group yet and a group, opened by somebody else. The
/// caller keeps both fds, and may close them. With a `group` of -1 the container is one that
/// somebody else has set up for the module, groups and all.
#[no_mangle]
extern "C" fn host_iommu_open_kmod_fds(
    container: c_int,
    group: c_int,
    context: Option<&mut MaybeUninit<Box<Context>>>,
) -> c_int {
    done(|| {
        let context = given(context, "place of the context")?;
        let container = duplicate(container)?;
        let kmod = if group == -1 {
            Kmod::from_container(container)?
        } else {
            Kmod::from_fds(container, duplicate(group)?)?
        };
        context.write(Context::new(kmod));
        Ok(())
    })
}

/// Opens a new iommufd with a device, which must be bound to vfio-pci; `device_fd` as for
/// host_iommu_open_kmod().
///
/// Fails with what cannot be opened, -ENOENT on a kernel without iommufd, -EBUSY for a device that
/// is in use, -EPERM without interrupt remapping.
#[no_mangle]
extern "C" fn host_iommu_open_iommufd(
    device: CBdf,
    device_fd: Option<&mut MaybeUninit<c_int>>,
    context: Option<&mut MaybeUninit<Box<Context>>>,
) -> c_int {
    done(|| {
        let context = given(context, "place of the context")?;
        let iommufd = Iommufd::open_device(device.into())?;
        if let Some(place) = device_fd {
            place.write(iommufd.open_device_fd(device.into())?.into_raw_fd());
        }
        context.write(Context::new(iommufd));
        Ok(())
    })
}

/// The same with an iommufd and the file of a device, opened by somebody else; `device` names it
/// from now on. The caller keeps both fds, and may close them.
#[no_mangle]
extern "C" fn host_iommu_open_iommufd_fds(
    iommufd: c_int,
    file: c_int,
    device: CBdf,
    context: Option<&mut MaybeUninit<Box<Context>>>,
) -> c_int {
    done(|| {
        let context = given(context, "place of the context")?;
        let iommufd = Iommufd::from_fds(duplicate(iommufd)?, duplicate(file)?, device.into())?;
        context.write(Context::new(iommufd));
        Ok(())
    })
}

/// Makes an IOMMU in the process, without devices: see host_iommu_soft_plug().
#[no_mangle]
extern "C" fn host_iommu_open_soft(context: Option<&mut MaybeUninit<Box<Context>>>) -> c_int {
    done(|| {
        let context = given(context, "place of the context")?;
        let soft = Soft::new();
        let bus = Some(soft.bus());
        let host = HostIommu::new(soft);
        context.write(Box::new(Context {
            host,
            bus,
            walked: None,
        }));
        Ok(())
    })
}

/// Gives a context back. What was made of it keeps it alive until it is given back too.
#[no_mangle]
extern "C" fn host_iommu_free(context: Option<Box<Context>>) {
    give_back(context);
}

/// Tells what a context can do with the devices attached now.
#[no_mangle]
extern "C" fn host_iommu_get_capabilities(
    context: Option<&Context>,
    capabilities: *mut CCapabilities,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let all = CCapabilities::from(&host.capabilities()?);
        write(capabilities, &all, "capabilities")
    })
}

/// Tells at which IOVAs memory can be mapped: as many ranges as there is room for, and in `count`
/// how many there are.
#[no_mangle]
extern "C" fn host_iommu_get_ranges(
    context: Option<&Context>,
    ranges: *mut Range,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let all: Vec<Range> = host
            .capabilities()?
            .iova_ranges
            .into_iter()
            .map(Range::from)
            .collect();
        fill(ranges, capacity, &all, "ranges")?;
        given(count, "count")?.write(all.len());
        Ok(())
    })
}

/// Tells of the devices attached now: as many as there is room for, and in `count` how many there
/// are.
#[no_mangle]
extern "C" fn host_iommu_get_devices(
    context: Option<&Context>,
    devices: *mut DeviceInfo,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let all: Vec<DeviceInfo> = host.devices()?.iter().map(DeviceInfo::from).collect();
        fill(devices, capacity, &all, "devices")?;
        given(count, "count")?.write(all.len());
        Ok(())
    })
}

/// Gives the counters.
#[no_mangle]
extern "C" fn host_iommu_get_stats(context: Option<&Context>, stats: *mut CStats) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        write(stats, &CStats::from(host.stats()?), "counters")
    })
}

/// Attaches another group, or on an iommufd another device, by its fd, which the caller keeps. The
/// number in `id` names it for host_iommu_detach().
///
/// Fails with -EINVAL for one that does not fit what is mapped, -EPERM without interrupt remapping.
#[no_mangle]
extern "C" fn host_iommu_attach(
    context: Option<&Context>,
    fd: c_int,
    id: Option<&mut MaybeUninit<u64>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let id = given(id, "id")?;
        id.write(host.attach(duplicate(fd)?)?);
        Ok(())
    })
}

/// Detaches what host_iommu_attach() attached.
#[no_mangle]
extern "C" fn host_iommu_detach(context: Option<&Context>, id: u64) -> c_int {
    done(|| {
        // The fd that attach() duplicated is closed.
        drop(given(context, "context")?.host.detach(id)?);
        Ok(())
    })
}

/// Gives devices memory that begins at `memory`. The host pins it and charges it to RLIMIT_MEMLOCK.
/// Devices keep it until it is unmapped or the context is gone.
///
/// Fails with -EEXIST where something is mapped, -ENOMEM over RLIMIT_MEMLOCK, -EINVAL for addresses
/// that are not pages' or cannot be mapped, -ENOSPC for too many mappings, -EOPNOTSUPP for a
/// read-only mapping where the host nests.
#[no_mangle]
extern "C" fn host_iommu_map(
    context: Option<&Context>,
    mapping: *const Mapping,
    memory: *mut c_void,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let mapping = read(mapping, "mapping")?;
        if mapping.reserved != 0 {
            return Err(Failure::argument("The mapping has unknown flags"));
        }
        let range = IovaRange::sized(Iova(mapping.iova), mapping.length)
            .ok_or_else(|| Failure::argument("The mapping is empty, or wraps"))?;
        let access = super::types::map_access(mapping.access)?;
        let memory = CallersMemory::new(memory, mapping.length, mapping.fd, mapping.fd_offset)?;
        host.map_part(&context::Mapping {
            memory: &memory,
            offset: 0,
            range,
            access,
        })?;
        Ok(())
    })
}

/// Takes back the mappings that lie in a range; `bytes`, unless NULL, gets their number of bytes.
///
/// Fails with -EINVAL if a mapping lies in it in part only.
#[no_mangle]
extern "C" fn host_iommu_unmap(
    context: Option<&Context>,
    range: Range,
    bytes: Option<&mut MaybeUninit<u64>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let unmapped = host.unmap(range.try_into()?)?;
        if let Some(bytes) = bytes {
            bytes.write(unmapped);
        }
        Ok(())
    })
}

/// Starts the tracking of what devices write, or ends it with an `on` of zero.
#[no_mangle]
extern "C" fn host_iommu_track_dirty(context: Option<&Context>, on: c_int) -> c_int {
    done(|| Ok(given(context, "context")?.host.track_dirty(on != 0)?))
}

/// Gives the pages of 4 KiB in a range that may have been written since the last time: bit n of
/// the words is page n. There must be a word for each 64 pages.
///
/// Fails with -EINVAL for a range that is not that of whole mappings, for another number of words,
/// and if nothing is tracked.
#[no_mangle]
extern "C" fn host_iommu_read_dirty(
    context: Option<&Context>,
    range: Range,
    words: *mut u64,
    count: usize,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let range = IovaRange::try_from(range)?;
        let pages = range.size().map(|size| size.div_ceil(4096).div_ceil(64));
        if pages.and_then(|words| usize::try_from(words).ok()) != Some(count) || words.is_null() {
            return Err(Failure::argument("There is not a word for each 64 pages"));
        }
        fill(words, count, &host.read_dirty(range)?, "words")
    })
}

/// Unbinds what is in a scope, as a guest's reset does. Handles of what was bound there do nothing
/// any more, but keep their PASIDs.
///
/// Fails with -ENOENT if nothing is bound there.
#[no_mangle]
extern "C" fn host_iommu_unbind(context: Option<&Context>, scope: CScope) -> c_int {
    done(|| Ok(given(context, "context")?.host.unbind(scope.try_into()?)?))
}

/// What C asks to be invalidated.
pub(super) fn invalidation(entries: *const CInvalidation, count: usize) -> Result<Invalidation> {
    let entries = slice(entries, count, "invalidations")?;
    entries.iter().map(TryInto::try_into).collect()
}

/// Says how many entries were carried out before one failed.
pub(super) fn partly<T>(
    result: crate::error::Result<T>,
    done: Option<&mut MaybeUninit<usize>>,
    count: usize,
) -> Result<T> {
    let carried_out = match &result {
        Ok(_) => count,
        Err(Error::Flush { index, .. } | Error::Entries { index, .. }) => *index,
        Err(_) => 0,
    };
    if let Some(done) = done {
        done.write(carried_out);
    }
    Ok(result?)
}

/// Drops what is cached of each binding in a scope. When it returns, no request uses what the
/// tables said before. `done`, unless NULL, gets the number of entries carried out, also when one
/// fails.
///
/// Fails with -ENOENT if the scope names what is not there.
#[no_mangle]
extern "C" fn host_iommu_flush(
    context: Option<&Context>,
    scope: CScope,
    entries: *const CInvalidation,
    count: usize,
    done: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    self::done(|| {
        let host = &given(context, "context")?.host;
        let invalidation = invalidation(entries, count)?;
        partly(host.flush(scope.try_into()?, &invalidation), done, count)
    })
}

/// Gives the host's PASID for a guest's: that of the binding that named it, or else the same
/// number.
///
/// Fails with -ENOENT if that number stands for another PASID of the guest on this device.
#[no_mangle]
extern "C" fn host_iommu_host_pasid(
    context: Option<&Context>,
    device: CBdf,
    guest: u32,
    pasid: Option<&mut MaybeUninit<u32>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let pasid = given(pasid, "PASID")?;
        let found = host.host_pasid(device.into(), Pasid::try_from(guest)?);
        let found = found.ok_or_else(|| {
            let text = format!("PASID {guest} of the host is another one of the guest");
            Failure::new(crate::sys::Errno::ENOENT, &text)
        })?;
        pasid.write(found.get());
        Ok(())
    })
}

/// Gives the guest's number for a PASID of the host: that of the binding, or else the same.
#[no_mangle]
extern "C" fn host_iommu_guest_pasid(
    context: Option<&Context>,
    device: CBdf,
    pasid: u32,
    guest: Option<&mut MaybeUninit<u32>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let guest = given(guest, "guest's PASID")?;
        guest.write(host.guest_pasid(device.into(), Pasid::try_from(pasid)?));
        Ok(())
    })
}
