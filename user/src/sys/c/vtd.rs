// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The VT-d unit for guests.

use super::context::Context;
use super::pointer::{self, fill, given, read, slice};
use super::result::{done, give_back, guard, Failure, Result};
use super::types::{
    CBdf, Msi, Region, UnitConfig, HOST_IOMMU_RID, HOST_IOMMU_VTD_BOTH_STAGES,
    HOST_IOMMU_VTD_DEVICE_TLBS, HOST_IOMMU_VTD_EXTENDED_ACCESSED,
    HOST_IOMMU_VTD_EXTENDED_INTERRUPTS, HOST_IOMMU_VTD_FIVE_LEVELS, HOST_IOMMU_VTD_HUGE_PAGES,
    HOST_IOMMU_VTD_INTERRUPT_REMAPPING, HOST_IOMMU_VTD_PAGE_REQUESTS, HOST_IOMMU_VTD_SECOND_STAGE,
    HOST_IOMMU_VTD_SNOOP_CONTROL, HOST_IOMMU_VTD_SUPERVISOR,
};
use crate::ops::{Delivered, Plugged};
use crate::sys::Errno;
use crate::types::Bdf;
use crate::vtd::{self, NotCarried, SourceId, Vtd, VtdConfig, VtdEvents, VtdTranslation};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, IommuMemory};

/// Most interrupts that wait to be taken: more are those that wait already, sent again.
const MAX_INTERRUPTS: usize = 64;

/// What the unit has told, until it is asked for.
#[derive(Debug)]
struct Told {
    interrupts: Mutex<VecDeque<vtd::Msi>>,
    event: EventFd,
}

impl VtdEvents for Told {
    fn interrupt(&self, message: vtd::Msi) {
        let mut waiting = self
            .interrupts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A message that waits is not sent twice: it says the same.
        if waiting.len() < MAX_INTERRUPTS && !waiting.contains(&message) {
            waiting.push_back(message);
        }
        self.work_left();
    }

    fn work_left(&self) {
        // It cannot fail but for a counter that is full, and so readable.
        let _ = self.event.write(1);
    }
}

/// A VT-d unit for a guest.
pub struct Unit {
    unit: Arc<Vtd>,
    memory: GuestMemoryMmap,
    told: Arc<Told>,
}

/// A device that is plugged into a unit.
pub struct UnitDevice {
    unit: Arc<Vtd>,
    device: Bdf,
    plugged: Plugged,
}

/// The DMA of an emulated device behind a unit.
pub struct UnitDma(IommuMemory<GuestMemoryMmap, VtdTranslation>);

/// A field that a flag stands for.
type Field = fn(&mut VtdConfig) -> &mut bool;

const FLAGS: [(u32, Field); 10] = [
    (HOST_IOMMU_VTD_SECOND_STAGE, |config| {
        &mut config.second_stage
    }),
    (HOST_IOMMU_VTD_INTERRUPT_REMAPPING, |config| {
        &mut config.interrupt_remapping
    }),
    (HOST_IOMMU_VTD_EXTENDED_INTERRUPTS, |config| {
        &mut config.extended_interrupts
    }),
    (HOST_IOMMU_VTD_SNOOP_CONTROL, |config| {
        &mut config.snoop_control
    }),
    (HOST_IOMMU_VTD_FIVE_LEVELS, |config| &mut config.five_levels),
    (HOST_IOMMU_VTD_HUGE_PAGES, |config| &mut config.huge_pages),
    (HOST_IOMMU_VTD_PAGE_REQUESTS, |config| {
        &mut config.page_requests
    }),
    (HOST_IOMMU_VTD_DEVICE_TLBS, |config| &mut config.device_tlbs),
    (HOST_IOMMU_VTD_SUPERVISOR, |config| &mut config.supervisor),
    (HOST_IOMMU_VTD_EXTENDED_ACCESSED, |config| {
        &mut config.extended_accessed
    }),
];

impl From<VtdConfig> for UnitConfig {
    fn from(mut config: VtdConfig) -> Self {
        let mut flags = 0;
        for (flag, field) in FLAGS {
            flags |= if *field(&mut config) { flag } else { 0 };
        }
        if config.first_stage && config.second_stage {
            flags |= HOST_IOMMU_VTD_BOTH_STAGES;
        }
        Self {
            size: size_of::<Self>() as u32,
            flags,
            base: config.base,
            segment: config.segment.into(),
            address_bits: config.address_bits,
            pasid_bits: config.pasid_bits,
            reserved: 0,
        }
    }
}

impl TryFrom<UnitConfig> for VtdConfig {
    type Error = Failure;

    fn try_from(given: UnitConfig) -> Result<Self> {
        let flags = FLAGS.iter().map(|(flag, _)| flag);
        let known = flags.fold(HOST_IOMMU_VTD_BOTH_STAGES, |known, flag| known | flag);
        if given.flags & !known != 0 || given.reserved != 0 {
            return Err(Failure::argument(
                "The unit's configuration has unknown flags",
            ));
        }
        let mut config = Self {
            base: given.base,
            segment: given.segment.try_into().map_err(|_| Errno::EINVAL)?,
            address_bits: given.address_bits,
            pasid_bits: given.pasid_bits,
            ..Self::default()
        };
        for (flag, field) in FLAGS {
            *field(&mut config) = given.flags & flag != 0;
        }
        let both = given.flags & HOST_IOMMU_VTD_BOTH_STAGES != 0;
        config.first_stage = both || !config.second_stage;
        Ok(config)
    }
}

/// Guest memory, mapped once more from its files.
pub(super) fn guest_memory(regions: &[Region]) -> Result<GuestMemoryMmap> {
    let mut ranges = Vec::new();
    for region in regions {
        if region.reserved != 0 {
            return Err(Failure::argument(
                "A region of guest memory has unknown flags",
            ));
        }
        let length = usize::try_from(region.length).map_err(|_| Errno::EINVAL)?;
        let file = std::fs::File::from(super::context::duplicate(region.fd)?);
        let file = FileOffset::new(file, region.fd_offset);
        ranges.push((GuestAddress(region.address), length, Some(file)));
    }
    ranges.sort_by_key(|(address, ..)| *address);
    GuestMemoryMmap::from_ranges_with_files(ranges)
        .map_err(|error| Failure::argument(&format!("The guest's memory cannot be had: {error}")))
}

/// Tells the most that a unit can offer on a context, but for requests of a supervisor.
///
/// Fails with -EOPNOTSUPP on a host that does not nest.
#[no_mangle]
extern "C" fn host_iommu_vtd_offer(context: Option<&Context>, config: *mut UnitConfig) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let nesting = host
            .capabilities()?
            .nesting
            .ok_or_else(|| Failure::new(Errno::EOPNOTSUPP, &NotCarried::Nesting.to_string()))?;
        let offer = VtdConfig::carried_by(&nesting);
        pointer::write(config, &UnitConfig::from(offer), "configuration")
    })
}

/// Makes a unit as it is after power-on, of one page of registers at `base`. The guest's memory is
/// that of `regions`, each a shared mapping of a file, which the unit maps once more; the fds may be
/// closed afterwards.
///
/// Fails with -EINVAL for a configuration that no unit can have and for memory that overlaps or
/// cannot be mapped.
#[no_mangle]
extern "C" fn host_iommu_vtd_new(
    config: *const UnitConfig,
    regions: *const Region,
    count: usize,
    unit: Option<&mut MaybeUninit<Box<Unit>>>,
) -> c_int {
    done(|| {
        let place = given(unit, "place of the unit")?;
        let config = VtdConfig::try_from(read(config, "configuration")?)?;
        let memory = guest_memory(slice(regions, count, "regions")?)?;
        let told = Arc::new(Told {
            interrupts: Mutex::default(),
            event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(Errno::from)?,
        });
        let unit = Vtd::new(config, Arc::new(memory.clone()), told.clone())?;
        place.write(Box::new(Unit { unit, memory, told }));
        Ok(())
    })
}

/// Gives the ACPI table DMAR: as many of its bytes as there is room for, and in `length` how many
/// there are. `oem` has 6 bytes and `oem_table` 8, as in every ACPI table.
#[no_mangle]
extern "C" fn host_iommu_vtd_dmar(
    unit: Option<&Unit>,
    oem: *const u8,
    oem_table: *const u8,
    table: *mut u8,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    done(|| {
        let config = given(unit, "unit")?.unit.config();
        let oem = slice(oem, 6, "bytes")?.try_into();
        let oem_table = slice(oem_table, 8, "bytes")?.try_into();
        let (Ok(oem), Ok(oem_table)) = (oem, oem_table) else {
            return Err(Errno::EINVAL.into());
        };
        let dmar = config.dmar(oem, oem_table, 1);
        fill(table, capacity, &dmar, "bytes")?;
        given(length, "length")?.write(dmar.len());
        Ok(())
    })
}

/// A guest's read of the registers, `offset` bytes from their base, of `length` bytes.
#[no_mangle]
extern "C" fn host_iommu_vtd_read(
    unit: Option<&Unit>,
    offset: u64,
    data: *mut c_void,
    length: usize,
) -> c_int {
    done(|| {
        let unit = &given(unit, "unit")?.unit;
        // No access is longer.
        let mut bytes = [0; 8];
        let bytes = bytes.get_mut(..length).ok_or(Errno::EINVAL)?;
        unit.read(offset, bytes);
        fill(data.cast(), length, bytes, "bytes")
    })
}

/// A guest's write. What it asks for is done when this returns, or the unit's fd becomes readable.
#[no_mangle]
extern "C" fn host_iommu_vtd_write(
    unit: Option<&Unit>,
    offset: u64,
    data: *const c_void,
    length: usize,
) -> c_int {
    done(|| {
        let unit = &given(unit, "unit")?.unit;
        if length > 8 {
            return Err(Errno::EINVAL.into());
        }
        unit.write(offset, slice(data.cast::<u8>(), length, "bytes")?);
        Ok(())
    })
}

/// The unit's fd, to poll for POLLIN, or a negative errno: readable when interrupts wait or work was
/// left, until host_iommu_vtd_run(). It is the unit's: not to be read, written or closed.
#[no_mangle]
extern "C" fn host_iommu_vtd_fd(unit: Option<&Unit>) -> c_int {
    guard(|| Ok(given(unit, "unit")?.told.event.as_fd().as_raw_fd()))
}

/// Goes on with work that was left: 1 if there is more, 0 if not. Then the interrupts are to be
/// taken.
#[no_mangle]
extern "C" fn host_iommu_vtd_run(unit: Option<&Unit>) -> c_int {
    guard(|| {
        let unit = given(unit, "unit")?;
        // Nothing to be read is no failure.
        let _ = unit.told.event.read();
        let more = unit.unit.run();
        if more {
            unit.told.work_left();
        }
        Ok(more.into())
    })
}

/// Takes an interrupt that the guest is to get: 1 if there was one, 0 if there is none now.
#[no_mangle]
extern "C" fn host_iommu_vtd_interrupt(
    unit: Option<&Unit>,
    message: Option<&mut MaybeUninit<Msi>>,
) -> c_int {
    guard(|| {
        let told = &given(unit, "unit")?.told;
        let place = given(message, "place of the message")?;
        let mut waiting = told
            .interrupts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(taken) = waiting.pop_front() else {
            return Ok(0);
        };
        place.write(Msi {
            address: taken.address,
            data: taken.data,
            reserved: 0,
        });
        Ok(1)
    })
}

/// What becomes of an interrupt that a device or an IOAPIC behind the unit sends, which the guest knows
/// as `source`: 1 and the message that reaches the CPUs, or 0 if the guest's table blocks it. Bits 31:8
/// of a destination of 32 bits are in the upper half of the address, as KVM has them. What it gives
/// holds until the guest writes the unit's registers.
#[no_mangle]
extern "C" fn host_iommu_vtd_remap(
    unit: Option<&Unit>,
    source: u16,
    address: u64,
    data: u32,
    message: Option<&mut MaybeUninit<Msi>>,
) -> c_int {
    guard(|| {
        let unit = &given(unit, "unit")?.unit;
        let place = given(message, "place of the message")?;
        let sent = vtd::Msi { address, data };
        let Some(remapped) = unit.remap(SourceId(source), sent) else {
            return Ok(0);
        };
        place.write(Msi {
            address: remapped.address,
            data: remapped.data,
            reserved: 0,
        });
        Ok(1)
    })
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

/// As after power-on: everything is unbound, and what waits is answered INVALID. The devices stay.
#[no_mangle]
extern "C" fn host_iommu_vtd_reset(unit: Option<&Unit>) -> c_int {
    done(|| {
        given(unit, "unit")?.unit.reset();
        Ok(())
    })
}

/// Gives a unit back. Devices that are plugged in keep it alive.
#[no_mangle]
extern "C" fn host_iommu_vtd_free(unit: Option<Box<Unit>>) {
    give_back(unit);
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
        let memory = IommuMemory::new(unit.memory.clone(), iommu, true, ());
        place.write(Box::new(UnitDma(memory)));
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
        let memory = &given(dma, "DMA")?.0;
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
        let memory = &given(dma, "DMA")?.0;
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
