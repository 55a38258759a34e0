// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices in the process.

use super::context::Context;
use super::pointer::{fill, given, read, slice, write};
use super::result::{done, give_back, guard, Failure};
use super::types::{
    CBdf, SoftDma, SoftEnd, HOST_IOMMU_DMA_ABORTED, HOST_IOMMU_DMA_DONE, HOST_IOMMU_DMA_INVALID,
    HOST_IOMMU_DMA_NO_ACCESS, HOST_IOMMU_DMA_RETRIES, HOST_IOMMU_SOFT_NO_ATS,
    HOST_IOMMU_SOFT_NO_PAGE_REQUESTS, HOST_IOMMU_SOFT_PRIVILEGED, HOST_IOMMU_SOFT_WRITE,
};
use crate::backend::soft::{Dma, DmaEnd, DmaId, SoftDevice, SoftDeviceOptions};
use crate::sys::Errno;
use crate::types::{Iova, Pasid};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::time::Duration;

/// A device in the process.
pub struct Device(SoftDevice);

/// Plugs a device into a context of host_iommu_open_soft(): one with ATS, PASIDs below `max_pasids`
/// and, if that is not zero, page requests.
///
/// Fails with -EOPNOTSUPP for another context, -EEXIST if there is a device at the address, -EINVAL
/// for more PASIDs than there are, -ENOSPC for too many devices.
#[no_mangle]
extern "C" fn host_iommu_soft_plug(
    context: Option<&Context>,
    device: CBdf,
    max_pasids: u32,
    page_requests: c_int,
    plugged: Option<&mut MaybeUninit<Box<Device>>>,
) -> c_int {
    done(|| {
        let bus = given(context, "context")?.bus.as_ref();
        let bus = bus.ok_or_else(|| {
            Failure::new(Errno::EOPNOTSUPP, "The context's devices are the kernel's")
        })?;
        let place = given(plugged, "place of the device")?;
        let options = SoftDeviceOptions {
            max_pasids,
            page_requests: page_requests != 0,
        };
        place.write(Box::new(Device(bus.add(device.into(), &options)?)));
        Ok(())
    })
}

/// Starts a DMA, which runs until it ends or needs a page; `id` names it. What is to be written is
/// taken from `data` before the call returns.
///
/// Fails with -EINVAL for none or too many bytes and addresses that wrap, -EBUSY if too many are
/// under way, -ENODEV if the device is gone.
#[no_mangle]
extern "C" fn host_iommu_soft_submit(
    device: Option<&Device>,
    dma: *const SoftDma,
    data: *const c_void,
    id: Option<&mut MaybeUninit<u64>>,
) -> c_int {
    done(|| {
        let device = &given(device, "device")?.0;
        let id = given(id, "id")?;
        let dma = read(dma, "DMA")?;
        let has = |flag: u32| dma.flags & flag != 0;
        let length = usize::try_from(dma.length).map_err(|_| Errno::EINVAL)?;
        let mut work = if has(HOST_IOMMU_SOFT_WRITE) {
            Dma::write(Iova(dma.address), slice(data.cast(), length, "bytes")?)
        } else {
            Dma::read(Iova(dma.address), length)
        };
        let pasid = Pasid::try_from(dma.pasid)?;
        for (has, refine) in [
            (has(HOST_IOMMU_SOFT_NO_ATS), Dma::no_ats as fn(Dma) -> Dma),
            (has(HOST_IOMMU_SOFT_NO_PAGE_REQUESTS), Dma::no_page_requests),
            (has(HOST_IOMMU_SOFT_PRIVILEGED), Dma::privileged),
        ] {
            work = if has { refine(work) } else { work };
        }
        if pasid != Pasid::RID {
            work = work.at(pasid);
        }
        id.write(device.submit(work)?.get());
        Ok(())
    })
}

/// Waits for the end of a DMA, for so many milliseconds at most: 1 if it ended, 0 if not. An end is
/// told once. As many of the bytes that were read as fit are put at `data`.
#[no_mangle]
extern "C" fn host_iommu_soft_wait(
    device: Option<&Device>,
    id: u64,
    limit_ms: u32,
    end: *mut SoftEnd,
    data: *mut c_void,
    capacity: usize,
) -> c_int {
    guard(|| {
        let device = &given(device, "device")?.0;
        let mut told = SoftEnd {
            size: 0,
            kind: HOST_IOMMU_DMA_ABORTED,
            address: 0,
        };
        // Before something is taken that could not be told.
        write(end, &told, "end")?;
        let limit = Duration::from_millis(limit_ms.into());
        let Some(ended) = device.wait(DmaId::new(id), limit) else {
            return Ok(0);
        };
        (told.kind, told.address) = match ended {
            DmaEnd::Done(bytes) => {
                fill(data.cast(), capacity, &bytes, "bytes")?;
                (HOST_IOMMU_DMA_DONE, 0)
            }
            DmaEnd::NoAccess(Iova(address)) => (HOST_IOMMU_DMA_NO_ACCESS, address),
            DmaEnd::Invalid(Iova(address)) => (HOST_IOMMU_DMA_INVALID, address),
            DmaEnd::Retries(Iova(address)) => (HOST_IOMMU_DMA_RETRIES, address),
            DmaEnd::Aborted => (HOST_IOMMU_DMA_ABORTED, 0),
        };
        write(end, &told, "end")?;
        Ok(1)
    })
}

/// Gives the handle back; the device stays plugged in.
#[no_mangle]
extern "C" fn host_iommu_soft_free(device: Option<Box<Device>>) {
    give_back(device);
}
