// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The VT-d unit for guests.

mod device;
mod state;
mod told;

use super::context::Context;
use super::memory::Memory;
use super::pointer::{self, fill, given, read, slice};
use super::result::{done, give_back, Failure, Result};
use super::types::{
    Region, UnitConfig, UnitStats, HOST_IOMMU_VTD_BOTH_STAGES, HOST_IOMMU_VTD_COHERENT_WALKS,
    HOST_IOMMU_VTD_DEVICE_TLBS, HOST_IOMMU_VTD_EXTENDED_ACCESSED,
    HOST_IOMMU_VTD_EXTENDED_INTERRUPTS, HOST_IOMMU_VTD_FIVE_LEVELS, HOST_IOMMU_VTD_HUGE_PAGES,
    HOST_IOMMU_VTD_INTERRUPT_REMAPPING, HOST_IOMMU_VTD_PAGE_REQUESTS, HOST_IOMMU_VTD_SECOND_STAGE,
    HOST_IOMMU_VTD_SNOOP_CONTROL, HOST_IOMMU_VTD_SUPERVISOR,
};
use crate::sys::Errno;
use crate::vtd::{NotCarried, Vtd, VtdConfig};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;
use told::Told;

pub use device::{UnitDevice, UnitDma};

/// A VT-d unit for a guest.
pub struct Unit {
    unit: Arc<Vtd>,
    memory: Memory,
    told: Arc<Told>,
}

/// A field that a flag stands for.
type Field = fn(&mut VtdConfig) -> &mut bool;

const FLAGS: [(u32, Field); 11] = [
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
    (HOST_IOMMU_VTD_COHERENT_WALKS, |config| {
        &mut config.coherent_walks
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
        let memory = Memory::new(slice(regions, count, "regions")?)?;
        let told = Arc::new(Told::new()?);
        let unit = Vtd::new(config, memory.space(), told.clone())?;
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

/// As after power-on: everything is unbound, and what waits is answered INVALID. The devices stay.
#[no_mangle]
extern "C" fn host_iommu_vtd_reset(unit: Option<&Unit>) -> c_int {
    done(|| {
        given(unit, "unit")?.unit.reset();
        Ok(())
    })
}

/// Tells a unit that the guest's memory is that of `regions` from now on, as host_iommu_vtd_new() has
/// them: what comes and what goes. What the unit has of a region that stays is kept.
///
/// Fails as host_iommu_vtd_new(); then the memory is what it was.
#[no_mangle]
extern "C" fn host_iommu_vtd_set_memory(
    unit: Option<&Unit>,
    regions: *const Region,
    count: usize,
) -> c_int {
    done(|| {
        given(unit, "unit")?
            .memory
            .set(slice(regions, count, "regions")?)
    })
}

/// Gives a unit's counters.
#[no_mangle]
extern "C" fn host_iommu_vtd_get_stats(unit: Option<&Unit>, stats: *mut UnitStats) -> c_int {
    done(|| {
        let unit = &given(unit, "unit")?.unit;
        pointer::write(stats, &UnitStats::from(unit.stats()), "counters")
    })
}

/// Gives a unit back. Devices that are plugged in keep it alive.
#[no_mangle]
extern "C" fn host_iommu_vtd_free(unit: Option<Box<Unit>>) {
    give_back(unit);
}
