// SPDX-License-Identifier: GPL-2.0
//! The ABI's calls, decoded: numbers become ranges, scopes and devices, and what is wrong in
//! itself is refused before any lock is taken.

pub(crate) mod bitmap;
mod info;
mod spaces;

pub(crate) use info::{write_info, Info};
pub(crate) use spaces::{decode_as_destroy, AsChange, AsCreate, AsEntry};

use crate::base::iova::IovaRange;
use crate::ffi::abi;
use crate::ffi::attach::Site;
use crate::ffi::device::Bdf;
use crate::ffi::dma_fault::DmaWatch;
use crate::ffi::errno::eopnotsupp;
use crate::ffi::nested::{InvalidationEntries, Stage1Data};
use crate::ffi::paging::Access;
use crate::ffi::user::Pointer;
use bitmap::Bitmap;
use core::mem::{offset_of, size_of};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

const fn io(nr: u32) -> u32 {
    (abi::VFIO_TYPE as u32) << 8 | nr
}

/// Request numbers, `_IO(VFIO_TYPE, …)` in the headers.
pub(crate) mod nr {
    use super::{abi, io};

    pub(crate) const GET_INFO: u32 = io(abi::VFIO_BASE + 12);
    pub(crate) const MAP_DMA: u32 = io(abi::VFIO_BASE + 13);
    pub(crate) const UNMAP_DMA: u32 = io(abi::VFIO_BASE + 14);
    pub(crate) const DIRTY_PAGES: u32 = io(abi::VFIO_BASE + 17);
    pub(crate) const PASID_ALLOC: u32 = io(abi::VFIO_IOASID_BASE);
    pub(crate) const PASID_FREE: u32 = io(abi::VFIO_IOASID_BASE + 1);
    pub(crate) const BIND: u32 = io(abi::VFIO_IOASID_BASE + 2);
    pub(crate) const UNBIND: u32 = io(abi::VFIO_IOASID_BASE + 3);
    pub(crate) const INVALIDATE: u32 = io(abi::VFIO_IOASID_BASE + 4);
    pub(crate) const FAULT_QUEUE: u32 = io(abi::VFIO_IOASID_BASE + 5);
    pub(crate) const DEVICES: u32 = io(abi::VFIO_IOASID_BASE + 6);
    pub(crate) const STATS: u32 = io(abi::VFIO_IOASID_BASE + 7);
    pub(crate) const AS_CREATE: u32 = io(abi::VFIO_IOASID_BASE + 8);
    pub(crate) const AS_DESTROY: u32 = io(abi::VFIO_IOASID_BASE + 9);
    pub(crate) const AS_MAP: u32 = io(abi::VFIO_IOASID_BASE + 10);
    pub(crate) const AS_UNMAP: u32 = io(abi::VFIO_IOASID_BASE + 11);
}

/// The ABI's name of a device.
pub(crate) fn device_of(bdf: Bdf) -> abi::vfio_ioasid_device {
    abi::vfio_ioasid_device {
        segment: bdf.segment,
        bus: bdf.bus,
        devfn: bdf.devfn,
    }
}

fn bdf_of(device: abi::vfio_ioasid_device) -> Bdf {
    Bdf {
        segment: device.segment,
        bus: device.bus,
        devfn: device.devfn,
    }
}

fn no_flags(flags: u32, known: u32) -> Result {
    if flags & !known == 0 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// What UNBIND and INVALIDATE work on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope {
    /// One binding: device and PASID or RID.
    Binding(Bdf, Site),
    /// Every binding of a device.
    Device(Bdf),
    /// Every binding of the container.
    Container,
}

impl Scope {
    fn decode(flags: u32, device: abi::vfio_ioasid_device, pasid: u32) -> Result<Self> {
        match flags {
            abi::VFIO_IOASID_SCOPE_BINDING => Ok(Self::Binding(bdf_of(device), Site::Pasid(pasid))),
            abi::VFIO_IOASID_SCOPE_DEVICE => Ok(Self::Device(bdf_of(device))),
            abi::VFIO_IOASID_SCOPE_CONTAINER => Ok(Self::Container),
            abi::VFIO_IOASID_SCOPE_RID => Ok(Self::Binding(bdf_of(device), Site::Rid)),
            _ => Err(EINVAL),
        }
    }
}

/// `VFIO_IOMMU_MAP_DMA`, by the rules of type1v2.
pub(crate) struct Map {
    pub(crate) range: IovaRange,
    pub(crate) vaddr: usize,
    pub(crate) access: Access,
}

impl Map {
    /// # Errors
    ///
    /// - [`EINVAL`] if `argsz` is too small, a flag is unknown, no access is asked for, or the
    ///   range is empty or not aligned to pages.
    /// - [`EOVERFLOW`] if the range of addresses wraps.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let map: abi::vfio_iommu_type1_dma_map = arg.read()?;
        let known = abi::VFIO_DMA_MAP_FLAG_READ
            | abi::VFIO_DMA_MAP_FLAG_WRITE
            | abi::VFIO_DMA_MAP_FLAG_VADDR;
        if (map.argsz as usize) < size_of::<abi::vfio_iommu_type1_dma_map>() {
            return Err(EINVAL);
        }
        no_flags(map.flags, known)?;
        if map.size == 0 {
            return Err(EINVAL);
        }
        let range = IovaRange::sized(map.iova, map.size).ok_or(EOVERFLOW)?;
        IovaRange::sized(map.vaddr, map.size).ok_or(EOVERFLOW)?;
        let access = Access {
            read: map.flags & abi::VFIO_DMA_MAP_FLAG_READ != 0,
            write: map.flags & abi::VFIO_DMA_MAP_FLAG_WRITE != 0,
        };
        let set_vaddr = map.flags & abi::VFIO_DMA_MAP_FLAG_VADDR != 0;
        if set_vaddr == (access.read || access.write) {
            return Err(EINVAL);
        }
        if (map.iova | map.size | map.vaddr) & (PAGE_SIZE as u64 - 1) != 0 {
            return Err(EINVAL);
        }
        if set_vaddr {
            // VFIO_UPDATE_VADDR is not offered; this is what type1 says of a range whose
            // address was not invalidated before.
            return Err(ENOENT);
        }
        Ok(Self {
            range,
            vaddr: map.vaddr as usize,
            access,
        })
    }
}

/// `VFIO_IOMMU_UNMAP_DMA`, by the rules of type1v2.
pub(crate) struct Unmap {
    /// What to unmap.
    pub(crate) range: IovaRange,
    /// Everything, whatever is there; otherwise no mapping may be cut.
    pub(crate) all: bool,
    /// Where to report the dirty pages of what goes.
    pub(crate) bitmap: Option<Bitmap>,
    reply: abi::vfio_iommu_type1_dma_unmap,
}

impl Unmap {
    /// # Errors
    ///
    /// - [`EINVAL`] if `argsz` is too small, a flag is unknown, or the range is empty or not
    ///   aligned to pages, and those of [`Bitmap::new`].
    /// - [`EOVERFLOW`] if the range of addresses wraps.
    /// - [`EOPNOTSUPP`] for a flag that is known but not offered here.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let unmap: abi::vfio_iommu_type1_dma_unmap = arg.read()?;
        let dirty = abi::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
        let vaddr = abi::VFIO_DMA_UNMAP_FLAG_VADDR;
        if (unmap.argsz as usize) < size_of::<abi::vfio_iommu_type1_dma_unmap>() {
            return Err(EINVAL);
        }
        no_flags(unmap.flags, abi::VFIO_DMA_UNMAP_FLAG_ALL | dirty | vaddr)?;
        let all = unmap.flags & abi::VFIO_DMA_UNMAP_FLAG_ALL != 0;
        if unmap.flags & dirty != 0 && unmap.flags & !dirty != 0 {
            return Err(EINVAL);
        }
        if unmap.flags & vaddr != 0 {
            return Err(eopnotsupp());
        }
        let bitmap = if unmap.flags & dirty != 0 {
            let fixed = size_of::<abi::vfio_iommu_type1_dma_unmap>();
            if (unmap.argsz as usize) < fixed + size_of::<[u64; 3]>() {
                return Err(EINVAL);
            }
            // struct vfio_bitmap
            let [page_size, bytes, data] = arg.offset(fixed)?.read()?;
            Some(Bitmap::new(data, bytes, page_size, unmap.size)?)
        } else {
            None
        };
        if unmap.iova & (PAGE_SIZE as u64 - 1) != 0 {
            return Err(EINVAL);
        }
        let range = if all {
            if unmap.iova != 0 || unmap.size != 0 {
                return Err(EINVAL);
            }
            IovaRange::ALL
        } else {
            if unmap.size == 0 || unmap.size & (PAGE_SIZE as u64 - 1) != 0 {
                return Err(EINVAL);
            }
            IovaRange::sized(unmap.iova, unmap.size).ok_or(EOVERFLOW)?
        };
        Ok(Self {
            range,
            all,
            bitmap,
            reply: unmap,
        })
    }

    /// Tells the user how many bytes were unmapped.
    pub(crate) fn reply(mut self, arg: Pointer, unmapped: u64) -> Result {
        self.reply.size = unmapped;
        arg.write(&self.reply)
    }
}

/// `VFIO_IOMMU_DIRTY_PAGES`.
pub(crate) enum DirtyPages {
    /// Begin to track.
    Start,
    /// End it.
    Stop,
    /// Report the pages of a range.
    Get(IovaRange, Bitmap),
}

impl DirtyPages {
    /// # Errors
    ///
    /// - [`EINVAL`] if `argsz` is too small or there is not exactly one flag, and those of
    ///   [`Bitmap::new`].
    /// - [`EOVERFLOW`] if the range of addresses wraps.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        const FIXED: usize = size_of::<[u32; 2]>();

        let [argsz, flags]: [u32; 2] = arg.read()?;
        if (argsz as usize) < FIXED {
            return Err(EINVAL);
        }
        match flags {
            abi::VFIO_IOMMU_DIRTY_PAGES_FLAG_START => Ok(Self::Start),
            abi::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP => Ok(Self::Stop),
            abi::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP => {
                if (argsz as usize) < FIXED + size_of::<[u64; 5]>() {
                    return Err(EINVAL);
                }
                // struct vfio_iommu_type1_dirty_bitmap_get
                let [iova, size, page_size, bytes, data] = arg.offset(FIXED)?.read()?;
                if size == 0 {
                    return Err(EINVAL);
                }
                let range = IovaRange::sized(iova, size).ok_or(EOVERFLOW)?;
                Ok(Self::Get(range, Bitmap::new(data, bytes, page_size, size)?))
            }
            _ => Err(EINVAL),
        }
    }
}

/// PASIDs that a call asks for.
pub(crate) struct PasidsWanted {
    /// The lowest that will do.
    pub(crate) min: u32,
    /// The highest that will do.
    pub(crate) max: u32,
    /// How many, one behind the other.
    pub(crate) count: u32,
}

/// `VFIO_IOASID_PASID_ALLOC`.
pub(crate) struct PasidAlloc(abi::vfio_ioasid_pasid_alloc);

impl PasidAlloc {
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let call: abi::vfio_ioasid_pasid_alloc = arg.read_call()?;
        no_flags(call.flags, 0)?;
        Ok(Self(call))
    }

    /// What is asked for.
    pub(crate) fn wanted(&self) -> PasidsWanted {
        PasidsWanted {
            min: self.0.min,
            max: self.0.max,
            count: self.0.count,
        }
    }

    pub(crate) fn reply(mut self, arg: Pointer, pasid: u32) -> Result {
        self.0.pasid = pasid;
        arg.write(&self.0)
    }
}

/// `VFIO_IOASID_PASID_FREE`.
pub(crate) struct PasidFree {
    /// The lowest PASID.
    pub(crate) first: u32,
    /// How many from there on.
    pub(crate) count: u32,
}

impl PasidFree {
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let call: abi::vfio_ioasid_pasid_free = arg.read_call()?;
        no_flags(call.flags, 0)?;
        Ok(Self {
            first: call.pasid,
            count: call.count,
        })
    }
}

/// What a BIND asks for.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// The user's stage-1 table.
    Stage1(Stage1Data),
    /// Stage 2 itself.
    Stage2,
    /// The address space of that number.
    AddressSpace(u32),
    /// Nothing: DMA is stopped.
    Blocked,
}

/// `VFIO_IOASID_BIND`.
pub(crate) struct Bind {
    pub(crate) device: Bdf,
    pub(crate) site: Site,
    pub(crate) replace: bool,
    pub(crate) target: Target,
    pub(crate) guest_pasid: u32,
    pub(crate) fault_fd: Option<u32>,
    pub(crate) cookie: u64,
    reply: abi::vfio_ioasid_bind,
}

impl Bind {
    /// # Errors
    ///
    /// [`EINVAL`] for an unknown flag, a field that the flags rule out, or a negative `fault_fd`
    /// other than -1.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        const RID: u32 = abi::VFIO_IOASID_BIND_RID;
        const REPLACE: u32 = abi::VFIO_IOASID_BIND_REPLACE;
        const STAGE2: u32 = abi::VFIO_IOASID_BIND_STAGE2;
        const AS: u32 = abi::VFIO_IOASID_BIND_AS;
        const BLOCKED: u32 = abi::VFIO_IOASID_BIND_BLOCKED;

        let call: abi::vfio_ioasid_bind = arg.read_call()?;
        no_flags(call.flags, RID | REPLACE | STAGE2 | AS | BLOCKED)?;
        let site = match call.flags & RID {
            0 => Site::Pasid(call.pasid),
            _ if call.pasid == 0 => Site::Rid,
            _ => return Err(EINVAL),
        };
        let target = match call.flags & (STAGE2 | AS | BLOCKED) {
            0 => Target::Stage1(Stage1Data {
                data_type: call.data_type,
                pointer: Pointer::from_field(call.data_uptr)?,
                len: call.data_len as usize,
            }),
            STAGE2 => Target::Stage2,
            AS => Target::AddressSpace(call.as_id),
            BLOCKED => Target::Blocked,
            _ => return Err(EINVAL),
        };
        let no_data = call.data_type == 0 && call.data_uptr == 0 && call.data_len == 0;
        let fits = match target {
            Target::Stage1(_) => call.as_id == 0,
            Target::Stage2 | Target::Blocked => call.as_id == 0 && no_data && call.fault_fd == -1,
            Target::AddressSpace(_) => no_data,
        };
        if !fits {
            return Err(EINVAL);
        }
        let fault_fd = match call.fault_fd {
            -1 => None,
            fd => Some(u32::try_from(fd).map_err(|_| EINVAL)?),
        };
        Ok(Self {
            device: bdf_of(call.device),
            site,
            replace: call.flags & REPLACE != 0,
            target,
            guest_pasid: call.guest_pasid,
            fault_fd,
            cookie: call.cookie,
            reply: call,
        })
    }

    /// Tells the user what is in force: `VFIO_IOASID_OUTCOME_*`.
    pub(crate) fn reply(mut self, arg: Pointer, outcome: u32) -> Result {
        self.reply.outcome = outcome;
        arg.write(&self.reply)
    }
}

/// `VFIO_IOASID_UNBIND`.
pub(crate) fn decode_unbind(arg: Pointer) -> Result<Scope> {
    let call: abi::vfio_ioasid_unbind = arg.read_call()?;
    Scope::decode(call.flags, call.device, call.pasid)
}

/// `VFIO_IOASID_INVALIDATE`.
pub(crate) struct Invalidate {
    pub(crate) scope: Scope,
    pub(crate) entries: InvalidationEntries,
}

impl Invalidate {
    /// # Errors
    ///
    /// [`EINVAL`] for a bad scope, or more than `VFIO_IOASID_INVALIDATE_MAX` entries.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let call: abi::vfio_ioasid_invalidate = arg.read_call()?;
        let scope = Scope::decode(call.flags, call.device, call.pasid)?;
        let pointer = Pointer::from_field(call.entries_uptr)?;
        if call.entry_num > abi::VFIO_IOASID_INVALIDATE_MAX {
            Self::reply(arg, 0, 0)?;
            return Err(EINVAL);
        }
        Ok(Self {
            scope,
            entries: InvalidationEntries {
                data_type: call.data_type,
                pointer,
                len: call.entry_len as usize,
                count: call.entry_num,
            },
        })
    }

    /// Tells the user how many entries were done, and the index of the first bad one.
    pub(crate) fn reply(arg: Pointer, done: u32, bad: u32) -> Result {
        // Side by side, which the compiler checks below.
        let at = offset_of!(abi::vfio_ioasid_invalidate, entry_num);
        arg.offset(at)?.write(&[done, bad])
    }
}

const _: () = assert!(
    offset_of!(abi::vfio_ioasid_invalidate, bad_index)
        == offset_of!(abi::vfio_ioasid_invalidate, entry_num) + size_of::<u32>()
);

/// `VFIO_IOASID_FAULT_QUEUE`.
pub(crate) struct NewFaultQueue {
    pub(crate) depth: Option<u32>,
    pub(crate) deadline_ms: Option<u32>,
    pub(crate) cloexec: bool,
    pub(crate) nonblock: bool,
    /// It gets the container's DMA faults.
    pub(crate) dma: bool,
    reply: abi::vfio_ioasid_fault_queue,
}

impl NewFaultQueue {
    /// # Errors
    ///
    /// - [`EINVAL`] for an unknown flag or too large a depth.
    /// - [`EOPNOTSUPP`] for DMA faults where the kernel does not tell of them.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let call: abi::vfio_ioasid_fault_queue = arg.read_call()?;
        let cloexec = abi::VFIO_IOASID_FAULT_QUEUE_CLOEXEC;
        let nonblock = abi::VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
        let dma = abi::VFIO_IOASID_FAULT_QUEUE_DMA;
        no_flags(call.flags, cloexec | nonblock | dma)?;
        if call.depth > abi::VFIO_IOASID_FAULT_DEPTH_MAX || call.__reserved != 0 {
            return Err(EINVAL);
        }
        if call.flags & dma != 0 && !DmaWatch::is_offered() {
            return Err(eopnotsupp());
        }
        Ok(Self {
            depth: (call.depth != 0).then_some(call.depth),
            deadline_ms: (call.deadline_ms != 0).then_some(call.deadline_ms),
            cloexec: call.flags & cloexec != 0,
            nonblock: call.flags & nonblock != 0,
            dma: call.flags & dma != 0,
            reply: call,
        })
    }

    pub(crate) fn reply(mut self, arg: Pointer, fd: u32) -> Result {
        self.reply.fd = i32::try_from(fd)?;
        arg.write(&self.reply)
    }
}

/// `VFIO_IOASID_DEVICES`.
pub(crate) struct Devices {
    pub(crate) room: u32,
    entry_len: usize,
    pointer: Pointer,
    reply: abi::vfio_ioasid_devices,
}

impl Devices {
    /// # Errors
    ///
    /// - [`EINVAL`] for an unknown flag or an entry that is too small.
    pub(crate) fn decode(arg: Pointer) -> Result<Self> {
        let call: abi::vfio_ioasid_devices = arg.read_call()?;
        no_flags(call.flags, 0)?;
        let entry_len = call.entry_len as usize;
        if !(size_of::<abi::vfio_ioasid_device_info>()..=PAGE_SIZE).contains(&entry_len) {
            return Err(EINVAL);
        }
        Ok(Self {
            room: call.count,
            entry_len,
            pointer: Pointer::from_field(call.entries_uptr)?,
            reply: call,
        })
    }

    /// Writes entry number `index`; a longer entry of the user keeps its tail.
    pub(crate) fn write(&self, index: usize, info: &abi::vfio_ioasid_device_info) -> Result {
        let at = index.checked_mul(self.entry_len).ok_or(EFAULT)?;
        self.pointer.offset(at)?.write(info)
    }

    pub(crate) fn reply(mut self, arg: Pointer, count: u32) -> Result {
        self.reply.count = count;
        arg.write(&self.reply)
    }
}

/// `VFIO_IOASID_STATS`: checks the call.
pub(crate) fn decode_stats(arg: Pointer) -> Result<abi::vfio_ioasid_stats> {
    let call: abi::vfio_ioasid_stats = arg.read_call()?;
    no_flags(call.flags, 0)?;
    Ok(call)
}
