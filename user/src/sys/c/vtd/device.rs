// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices behind a unit: passed through, or emulated.

use super::super::context::Context;
use super::super::memory::Memory;
use super::super::pointer::{fill, given, slice};
use super::super::result::{done, give_back, guard, Failure};
use super::super::types::{CBdf, HOST_IOMMU_RID};
use super::Unit;
use crate::ops::{Delivered, Plugged};
use crate::sys::Errno;
use crate::types::Bdf;
use crate::vtd::{SourceId, Vtd, VtdTranslation};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, IommuMemory};

/// A device that is plugged into a unit.
pub struct UnitDevice {
    unit: Arc<Vtd>,
    device: Bdf,
    plugged: Plugged,
}

/// The DMA of an emulated device behind a unit.
pub struct UnitDma {
    memory: Memory,
    /// By the memory that there was at first, and whose place another takes for each access.
    translated: IommuMemory<GuestMemoryMmap, VtdTranslation>,
}

impl UnitDma {
    /// By the memory that there is.
    fn now(&self) -> IommuMemory<GuestMemoryMmap, VtdTranslation> {
        self.translated.with_replaced_backend(self.memory.now())
    }
}

/// To be called when the device was reset, as by the guest: its entries stay in force, what the host
/// has lost of them is bound again, and what the device has asked for is given up.
#[no_mangle]
extern "C" fn host_iommu_vtd_device_reset(device: Option<&UnitDevice>) -> c_int {
    done(|| {
        let device = given(device, "device")?;
        device.unit.device_reset(device.device);
        Ok(())
    })
}

/// Plugs a device of a context into a unit. The guest knows it as `source`: bus in bits 15:8, device
/// and function below.
///
/// Fails with -EBUSY if something is plugged in there, -EOPNOTSUPP if the context does not carry
/// what the unit offers, -EDQUOT for too many devices.
#[no_mangle]
extern "C" fn host_iommu_vtd_plug(
    unit: Option<&Unit>,
    context: Option<&Context>,
    device: CBdf,
    source: u16,
    plugged: Option<&mut MaybeUninit<Box<UnitDevice>>>,
) -> c_int {
    done(|| {
        let unit = given(unit, "unit")?.unit.clone();
        let host = &given(context, "context")?.host;
        let place = given(plugged, "place of the device")?;
        let device = Bdf::from(device);
        unit.set_source_id(device, SourceId(source));
        let plugged = host.plug(device, unit.clone())?;
        place.write(Box::new(UnitDevice {
            unit,
            device,
            plugged,
        }));
        Ok(())
    })
}

/// The fd to poll for POLLIN of what the device asks for, or a negative errno. It is the unit's: not
/// to be read, written or closed. Devices of one context have the same.
///
/// Fails with -ENOENT if nothing is offered that comes there.
#[no_mangle]
extern "C" fn host_iommu_vtd_device_fd(device: Option<&UnitDevice>) -> c_int {
    guard(|| {
        let device = given(device, "device")?;
        let queue = device.unit.fault_queue(device.device);
        Ok(queue.ok_or(Errno::ENOENT)?.as_fd().as_raw_fd())
    })
}

/// Hands to the unit what the device asks for, without waiting: how many events, 0 if there is none
/// now, -EPIPE if there will be none any more since the context is gone.
#[no_mangle]
extern "C" fn host_iommu_vtd_deliver(device: Option<&UnitDevice>) -> c_int {
    guard(|| {
        let device = given(device, "device")?;
        let queue = device.unit.fault_queue(device.device);
        match queue.ok_or(Errno::ENOENT)?.deliver(&*device.unit)? {
            Delivered::Events(count) => Ok(c_int::try_from(count).unwrap_or(c_int::MAX)),
            Delivered::Nothing => Ok(0),
            Delivered::Ended => Err(Failure::new(Errno::EPIPE, "The context is gone")),
        }
    })
}

/// Unplugs a device: what the guest has bound there is unbound.
#[no_mangle]
extern "C" fn host_iommu_vtd_unplug(device: Option<Box<UnitDevice>>) {
    give_back(device.map(|device| Box::new(device.plugged)));
}

/// Gives the memory that an emulated device sees, which the guest knows as `source`, by a PASID of
/// the guest's or, with HOST_IOMMU_RID, without.
#[no_mangle]
extern "C" fn host_iommu_vtd_dma_new(
    unit: Option<&Unit>,
    source: u16,
    pasid: u32,
    dma: Option<&mut MaybeUninit<Box<UnitDma>>>,
) -> c_int {
    done(|| {
        let unit = given(unit, "unit")?;
        let place = given(dma, "place of the DMA")?;
        let pasid = (pasid != HOST_IOMMU_RID).then_some(pasid);
        let iommu = VtdTranslation::new(unit.unit.clone(), SourceId(source), pasid);
        let memory = unit.memory.clone();
        let translated = IommuMemory::new(memory.now(), iommu, true, ());
        place.write(Box::new(UnitDma { memory, translated }));
        Ok(())
    })
}

/// Reads memory as the device would.
///
/// Fails with -EFAULT if the guest's tables do not let it, which is recorded in the unit's registers,
/// or where there is no memory; then some of the bytes may have been read.
#[no_mangle]
extern "C" fn host_iommu_vtd_dma_read(
    dma: Option<&UnitDma>,
    address: u64,
    data: *mut c_void,
    length: usize,
) -> c_int {
    done(|| {
        let memory = given(dma, "DMA")?.now();
        let mut bytes = [0; 4096];
        let mut at = 0;
        while at < length {
            let part = bytes.len().min(length - at);
            let part = bytes.get_mut(..part).ok_or(Errno::EINVAL)?;
            let from = address.checked_add(at as u64).ok_or(Errno::EFAULT)?;
            let result = memory.read_slice(part, GuestAddress(from));
            result.map_err(|error| Failure::new(Errno::EFAULT, &error.to_string()))?;
            fill(
                data.cast::<u8>().wrapping_add(at),
                part.len(),
                part,
                "bytes",
            )?;
            at += part.len();
        }
        Ok(())
    })
}

/// Writes memory as the device would. Fails as host_iommu_vtd_dma_read().
#[no_mangle]
extern "C" fn host_iommu_vtd_dma_write(
    dma: Option<&UnitDma>,
    address: u64,
    data: *const c_void,
    length: usize,
) -> c_int {
    done(|| {
        let memory = given(dma, "DMA")?.now();
        let bytes = slice(data.cast::<u8>(), length, "bytes")?;
        let result = memory.write_slice(bytes, GuestAddress(address));
        result.map_err(|error| Failure::new(Errno::EFAULT, &error.to_string()))
    })
}

/// Gives the handle back.
#[no_mangle]
extern "C" fn host_iommu_vtd_dma_free(dma: Option<Box<UnitDma>>) {
    give_back(dma);
}
