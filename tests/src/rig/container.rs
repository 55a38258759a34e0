// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The container's calls, each as the test shapes it.

use super::fault::FaultQueue;
use super::size_u32;
use crate::ktap::{skip, Outcome};
use crate::memory::GuestMemory;
use crate::vfio::{self, Bdf, Device};
use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_sys::plain::{bytes_of_slice, bytes_of_slice_mut, Plain};
use host_iommu_sys::Errno;
use host_iommu_tests_sys::raw;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The call's name.
    pub call: &'static str,
    /// How it failed.
    pub errno: Errno,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.call, self.errno)
    }
}

impl std::error::Error for CallError {}

/// What a call gives.
pub type Called<T> = Result<T, CallError>;

/// Names the call in an error.
pub(super) fn named<T, E: Into<Errno>>(call: &'static str, result: Result<T, E>) -> Called<T> {
    result.map_err(|error| {
        let errno = error.into();
        CallError { call, errno }
    })
}

/// An endpoint bound to vfio-pci.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint(Bdf);

/// The endpoint of that number among those with a group of their own, in the order of addresses.
///
/// # Errors
///
/// A skip if there are not so many.
pub fn endpoint(index: usize) -> Outcome<Endpoint> {
    match vfio::endpoints().get(index) {
        Some(bdf) => Ok(Endpoint(*bdf)),
        None => skip(format!("no endpoint {index} is bound to vfio-pci")),
    }
}

/// All endpoints, those that share a group among them.
pub fn all_endpoints() -> Vec<Endpoint> {
    vfio::all_endpoints().into_iter().map(Endpoint).collect()
}

/// How many endpoints there are.
pub fn endpoint_count() -> usize {
    vfio::endpoints().len()
}

impl Endpoint {
    /// Its name in calls.
    pub fn id(&self) -> vfio_ioasid_device {
        self.0.id()
    }

    /// Whether no other device is in its IOMMU group.
    pub fn is_alone(&self) -> bool {
        self.0.is_alone()
    }

    /// The number of its IOMMU group.
    pub fn group(&self) -> Called<u32> {
        named("iommu_group", self.0.group())
    }

    /// Its IOMMU unit, as sysfs has it.
    pub fn unit(&self) -> io::Result<PathBuf> {
        fs::read_link(self.0.sysfs().join("iommu"))
    }

    /// CAP and ECAP of its IOMMU unit, as sysfs has them.
    pub fn vtd_registers(&self) -> Option<(u64, u64)> {
        let folder = self.0.sysfs().join("iommu/intel-iommu");
        let register = |name: &str| {
            let text = fs::read_to_string(folder.join(name)).ok()?;
            u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        };
        Some((register("cap")?, register("ecap")?))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A group.
#[derive(Debug)]
pub struct Group(vfio::Group);

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Group {
    /// Opens an endpoint's group.
    pub fn open(endpoint: &Endpoint) -> Called<Self> {
        named("open a group", vfio::Group::open(endpoint.0)).map(Self)
    }

    /// `VFIO_GROUP_SET_CONTAINER`.
    pub fn set_container(&self, container: &Container) -> Called<()> {
        named("SET_CONTAINER", self.0.set_container(&container.0))
    }

    /// `VFIO_GROUP_UNSET_CONTAINER`.
    pub fn unset_container(&self) -> Called<()> {
        named("UNSET_CONTAINER", self.0.unset_container())
    }

    /// `VFIO_GROUP_GET_DEVICE_FD`.
    pub fn device(&self, endpoint: &Endpoint) -> Called<Device> {
        named("GET_DEVICE_FD", self.0.device(endpoint.0))
    }
}

/// What GET_INFO says that type1 says too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bit n: pages of 2^n bytes.
    pub page_sizes: u64,
    /// First and last address of each range that can be mapped.
    pub iova_ranges: Vec<(u64, u64)>,
    /// Mappings that may still be made.
    pub dma_avail: Option<u32>,
}

/// How INVALIDATE ended.
#[derive(Debug)]
pub struct Invalidated {
    /// The call's result.
    pub result: Called<()>,
    /// Entries done.
    pub done: u32,
    /// Index of the first bad one.
    pub bad_index: u32,
}

/// A container.
#[derive(Debug)]
pub struct Container(vfio::Container);

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Container {
    /// A new container.
    pub fn open() -> Called<Self> {
        named("open /dev/vfio/vfio", vfio::Container::open()).map(Self)
    }

    /// Takes over a container that another process gave.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// The container that a child has as its stdin.
    pub fn from_stdin() -> io::Result<Self> {
        let fd = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self(fd.into()))
    }

    /// The fd's number.
    pub fn raw_fd(&self) -> i32 {
        self.as_fd().as_raw_fd()
    }

    /// `VFIO_CHECK_EXTENSION`.
    pub fn check_extension(&self, extension: u32) -> Called<i32> {
        named("CHECK_EXTENSION", self.0.check_extension(extension))
    }

    /// `VFIO_SET_IOMMU`.
    pub fn set_iommu(&self, kind: u32) -> Called<()> {
        named("SET_IOMMU", self.0.set_iommu(kind))
    }

    /// Any call, with bytes that end where memory ends.
    pub fn raw(&self, request: u32, bytes: &mut [u8]) -> Called<i32> {
        named("a raw call", raw::ioctl(self.as_fd(), request, bytes))
    }

    /// Any call, with its structure at an address of the caller's choice.
    pub fn raw_at(&self, request: u32, address: u64) -> Called<i32> {
        let result = raw::ioctl_number(self.as_fd(), request, address);
        named("a raw call", result)
    }

    /// Any call, with a pointer that leads nowhere.
    pub fn raw_inaccessible(&self, request: u32) -> Called<i32> {
        self.raw_at(request, super::INACCESSIBLE)
    }

    fn call<T: Plain>(&self, name: &'static str, request: u32, call: &mut T) -> Called<()> {
        named(name, raw::call(self.as_fd(), request, call)).map(|_| ())
    }

    fn whole_info(&self) -> Called<Vec<u8>> {
        named("GET_INFO", self.0.info())
    }

    /// What GET_INFO says.
    pub fn info(&self) -> Called<Info> {
        let bytes = self.whole_info()?;
        let head = vfio_iommu_type1_info::from_bytes(&bytes).unwrap_or_default();
        let ranges = find_capability(&bytes, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
        let iova_ranges = ranges
            .and_then(|cap| cap.get(16..))
            .map(|ranges| {
                let count = ranges_in(&bytes);
                (0..count)
                    .filter_map(|index| vfio_iova_range::from_bytes(ranges.get(index * 16..)?))
                    .map(|range| (range.start, range.end))
                    .collect()
            })
            .unwrap_or_default();
        let dma_avail = find_capability(&bytes, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL)
            .and_then(|cap| u32::from_bytes(cap.get(8..)?));
        Ok(Info {
            page_sizes: head.iova_pgsizes,
            iova_ranges,
            dma_avail,
        })
    }

    /// Mappings that may still be made.
    pub fn dma_avail(&self) -> Outcome<u32> {
        match self.info()?.dma_avail {
            Some(left) => Ok(left),
            None => crate::ktap::fail("GET_INFO does not say how many mappings are left"),
        }
    }

    /// The migration capability in GET_INFO's chain.
    pub fn migration(&self) -> Called<Option<vfio_iommu_type1_info_cap_migration>> {
        let bytes = self.whole_info()?;
        let cap = find_capability(&bytes, VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION);
        Ok(cap.and_then(|cap| {
            let word = |at: usize| u64::from_bytes(cap.get(at..)?);
            Some(vfio_iommu_type1_info_cap_migration {
                header: vfio_info_cap_header::from_bytes(cap)?,
                flags: u32::from_bytes(cap.get(8..)?)?,
                pgsize_bitmap: word(16)?,
                max_dirty_bitmap_size: word(24)?,
            })
        }))
    }

    /// The capability report of the module, if the container is on it.
    pub fn capabilities(&self) -> Called<Option<vfio_ioasid_cap_nesting>> {
        let bytes = self.whole_info()?;
        Ok(find_capability(&bytes, VFIO_IOASID_CAP_NESTING)
            .and_then(vfio_ioasid_cap_nesting::from_bytes))
    }

    /// `VFIO_IOMMU_MAP_DMA` as it is.
    pub fn map_raw(&self, map: &vfio_iommu_type1_dma_map) -> Called<()> {
        self.call("MAP_DMA", VFIO_IOMMU_MAP_DMA, &mut map.clone())
    }

    /// Maps all of `memory` for reading and writing.
    pub fn map(&self, memory: &GuestMemory, iova: u64) -> Called<()> {
        self.map_raw(&vfio_iommu_type1_dma_map {
            argsz: size_u32::<vfio_iommu_type1_dma_map>(),
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: memory.host_address(),
            iova,
            size: memory.size(),
        })
    }

    /// `VFIO_IOMMU_UNMAP_DMA` as it is: the bytes unmapped.
    pub fn unmap_raw(&self, argsz: u32, flags: u32, iova: u64, size: u64) -> Called<u64> {
        let mut unmap = host_iommu_sys::vfio::DmaUnmap {
            argsz,
            flags,
            iova,
            size,
        };
        self.call("UNMAP_DMA", VFIO_IOMMU_UNMAP_DMA, &mut unmap)?;
        Ok(unmap.size)
    }

    /// Unmaps a range: the bytes unmapped.
    pub fn unmap(&self, iova: u64, size: u64) -> Called<u64> {
        let argsz = size_u32::<host_iommu_sys::vfio::DmaUnmap>();
        self.unmap_raw(argsz, 0, iova, size)
    }

    /// `VFIO_IOASID_PASID_ALLOC`.
    pub fn pasid_alloc(&self, min: u32, max: u32, count: u32) -> Called<u32> {
        named("PASID_ALLOC", self.0.pasid_alloc(min, max, count))
    }

    /// One PASID of the container's choice.
    pub fn pasid_alloc_any(&self) -> Called<u32> {
        self.pasid_alloc(1, VFIO_IOASID_PASID_LIMIT - 1, 1)
    }

    /// `VFIO_IOASID_PASID_FREE`.
    pub fn pasid_free(&self, pasid: u32, count: u32) -> Called<()> {
        named("PASID_FREE", self.0.pasid_free(pasid, count))
    }

    /// `VFIO_IOASID_BIND`.
    pub fn bind(&self, bind: &vfio_ioasid_bind) -> Called<()> {
        self.call("BIND", VFIO_IOASID_BIND, &mut bind.clone())
    }

    /// `VFIO_IOASID_BIND`, and what it leaves in force: `VFIO_IOASID_OUTCOME_*`, zero if the
    /// call was refused for its own fields.
    pub fn bind_with_outcome(&self, bind: &vfio_ioasid_bind) -> (Called<()>, u32) {
        let mut bind = *bind;
        bind.outcome = 0;
        let result = self.call("BIND", VFIO_IOASID_BIND, &mut bind);
        (result, bind.outcome)
    }

    /// `VFIO_IOASID_UNBIND`.
    pub fn unbind(&self, scope: u32, device: vfio_ioasid_device, pasid: u32) -> Called<()> {
        let mut unbind = vfio_ioasid_unbind {
            argsz: size_u32::<vfio_ioasid_unbind>(),
            flags: scope,
            device,
            pasid,
        };
        self.call("UNBIND", VFIO_IOASID_UNBIND, &mut unbind)
    }

    /// `VFIO_IOASID_INVALIDATE` as it is; the reply is in `call`.
    pub fn invalidate_raw(&self, call: &mut vfio_ioasid_invalidate) -> Called<()> {
        self.call("INVALIDATE", VFIO_IOASID_INVALIDATE, call)
    }

    /// `VFIO_IOASID_INVALIDATE` with VT-d's entries.
    pub fn invalidate(
        &self,
        scope: u32,
        device: vfio_ioasid_device,
        pasid: u32,
        entries: &[iommu_hwpt_vtd_s1_invalidate],
    ) -> Invalidated {
        let bytes = bytes_of_slice(entries);
        let mut call = invalidate_args(scope, device, pasid, bytes, entries.len() as u32);
        let result = self.invalidate_raw(&mut call);
        Invalidated {
            result,
            done: call.entry_num,
            bad_index: call.bad_index,
        }
    }

    /// `VFIO_IOASID_FAULT_QUEUE`.
    pub fn fault_queue(&self, flags: u32, depth: u32) -> Called<FaultQueue> {
        named("FAULT_QUEUE", self.0.fault_queue(flags, depth)).map(FaultQueue::from_fd)
    }

    /// `VFIO_IOASID_FAULT_QUEUE` whose reads do not block, with a deadline in milliseconds.
    pub fn fault_queue_with_deadline(&self, deadline_ms: u32) -> Called<FaultQueue> {
        let flags = VFIO_IOASID_FAULT_QUEUE_NONBLOCK;
        let queue = host_iommu_sys::ioasid::fault_queue(self.as_fd(), flags, 0, deadline_ms);
        named("FAULT_QUEUE", queue).map(FaultQueue::from_fd)
    }

    /// `VFIO_IOASID_DEVICES` as it is.
    pub fn devices_raw(&self, call: &mut vfio_ioasid_devices) -> Called<()> {
        self.call("DEVICES", VFIO_IOASID_DEVICES, call)
    }

    /// `VFIO_IOASID_DEVICES` with room for so many: the number, and the array.
    pub fn devices_with_room(&self, room: usize) -> Called<(u32, Vec<vfio_ioasid_device_info>)> {
        let mut entries = vec![vfio_ioasid_device_info::default(); room];
        let mut call = vfio_ioasid_devices {
            argsz: size_u32::<vfio_ioasid_devices>(),
            entry_len: size_u32::<vfio_ioasid_device_info>(),
            count: room as u32,
            entries_uptr: bytes_of_slice_mut(&mut entries)
                .as_mut_ptr()
                .expose_provenance() as u64,
            ..Default::default()
        };
        self.devices_raw(&mut call)?;
        Ok((call.count, entries))
    }

    /// The devices attached.
    pub fn devices(&self) -> Called<Vec<vfio_ioasid_device_info>> {
        let (count, mut entries) = self.devices_with_room(16)?;
        entries.truncate(count as usize);
        Ok(entries)
    }

    /// `VFIO_IOASID_STATS`.
    pub fn stats(&self) -> Called<vfio_ioasid_stats> {
        named("STATS", self.0.stats())
    }
}

/// The capability of that id in GET_INFO's reply, with its header.
fn find_capability(info: &[u8], id: u32) -> Option<&[u8]> {
    let head = vfio_iommu_type1_info::from_bytes(info)?;
    if head.flags & VFIO_IOMMU_INFO_CAPS == 0 {
        return None;
    }
    let mut offset = head.cap_offset as usize;
    // Each offset is behind the one before, so this ends.
    while offset != 0 {
        let rest = info.get(offset..)?;
        let header = vfio_info_cap_header::from_bytes(rest)?;
        if u32::from(header.id) == id {
            return Some(rest);
        }
        let next = header.next as usize;
        if next != 0 && next <= offset {
            return None;
        }
        offset = next;
    }
    None
}

fn ranges_in(info: &[u8]) -> usize {
    find_capability(info, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
        .and_then(|cap| u32::from_bytes(cap.get(8..)?))
        .unwrap_or(0) as usize
}

/// Arguments of BIND for stage-1 data in `data`, without a fault queue. `data` must live until
/// the call.
pub fn bind_at(device: vfio_ioasid_device, pasid: u32, data: &[u8]) -> vfio_ioasid_bind {
    vfio_ioasid_bind {
        argsz: size_u32::<vfio_ioasid_bind>(),
        flags: 0,
        device,
        pasid,
        data_type: host_iommu_sys::ioasid::DATA_VTD_S1,
        data_len: data.len() as u32,
        data_uptr: data.as_ptr().expose_provenance() as u64,
        guest_pasid: pasid,
        fault_fd: -1,
        cookie: 0,
        as_id: 0,
        outcome: 0,
    }
}

/// Arguments of BIND at the RID for stage-1 data in `data`, without a fault queue. `data` must
/// live until the call.
pub fn bind_at_rid(device: vfio_ioasid_device, data: &[u8]) -> vfio_ioasid_bind {
    let mut bind = bind_at(device, 0, data);
    bind.flags = VFIO_IOASID_BIND_RID;
    bind
}

/// Arguments of BIND for stage 2 itself at a PASID.
pub fn bind_stage2_at(device: vfio_ioasid_device, pasid: u32) -> vfio_ioasid_bind {
    let mut bind = bind_at(device, pasid, &[]);
    bind.flags = VFIO_IOASID_BIND_STAGE2;
    (bind.data_type, bind.data_len, bind.data_uptr) = (0, 0, 0);
    bind
}

/// Arguments of BIND for blocked at a PASID.
pub fn bind_blocked_at(device: vfio_ioasid_device, pasid: u32) -> vfio_ioasid_bind {
    let mut bind = bind_stage2_at(device, pasid);
    bind.flags = VFIO_IOASID_BIND_BLOCKED;
    bind
}

/// Arguments of INVALIDATE for `count` of VT-d's entries in `entries`, which must live until
/// the call.
pub fn invalidate_args(
    scope: u32,
    device: vfio_ioasid_device,
    pasid: u32,
    entries: &[u8],
    count: u32,
) -> vfio_ioasid_invalidate {
    vfio_ioasid_invalidate {
        argsz: size_u32::<vfio_ioasid_invalidate>(),
        flags: scope,
        device,
        pasid,
        data_type: host_iommu_sys::ioasid::INVALIDATE_DATA_VTD_S1,
        entry_len: size_u32::<iommu_hwpt_vtd_s1_invalidate>(),
        entry_num: count,
        bad_index: u32::MAX,
        entries_uptr: entries.as_ptr().expose_provenance() as u64,
    }
}

/// An entry of INVALIDATE.
pub fn range(addr: u64, npages: u64) -> iommu_hwpt_vtd_s1_invalidate {
    iommu_hwpt_vtd_s1_invalidate {
        addr,
        npages,
        ..Default::default()
    }
}

/// The device's name, which can be compared and printed.
pub fn bdf(device: vfio_ioasid_device) -> Bdf {
    Bdf {
        segment: device.segment,
        bus: device.bus,
        devfn: device.devfn,
    }
}
