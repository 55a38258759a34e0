// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A unit as bytes, to be moved to another process.

use super::super::pointer::{fill, given, slice};
use super::super::result::{done, Failure, Result};
use super::Unit;
use crate::sys::Errno;
use crate::vtd::VtdState;
use serde::{Deserialize, Serialize};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

/// Of the format below: another one is refused.
const VERSION: u32 = 1;

/// What is written: JSON, so that whoever looks into a snapshot sees what is there.
#[derive(Deserialize, Serialize)]
struct Saved<T> {
    version: u32,
    unit: T,
}

/// What a snapshot says first.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn read(bytes: &[u8]) -> Result<VtdState> {
    let wrong = |error: serde_json::Error| {
        Failure::argument(&format!("What was saved is damaged: {error}"))
    };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(wrong)?;
    if version != VERSION {
        let text =
            format!("What was saved has version {version}, and this library knows {VERSION}");
        return Err(Failure::new(Errno::EPROTO, &text));
    }
    let saved: Saved<VtdState> = serde_json::from_slice(bytes).map_err(wrong)?;
    Ok(saved.unit)
}

/// Saves a unit, at any time: gives as many of its bytes as there is room for, and in `length` how
/// many there are. They are for host_iommu_vtd_restore() alone, in this process or another, with this
/// version of the library or a later one. While the guest runs the length may change from call to call; what was cut off
/// is refused later.
///
/// The guest's memory is saved by the caller, and after the unit. Page requests that wait are given
/// up: the answers that the guest gives after a restore have no effect.
#[no_mangle]
extern "C" fn host_iommu_vtd_save(
    unit: Option<&Unit>,
    state: *mut c_void,
    capacity: usize,
    length: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    done(|| {
        let unit = &given(unit, "unit")?.unit;
        let length = given(length, "length")?;
        let saved = serde_json::to_vec(&Saved {
            version: VERSION,
            unit: unit.save(),
        });
        let saved = saved.map_err(|error| Failure::new(Errno::EIO, &error.to_string()))?;
        fill(state.cast::<u8>(), capacity, &saved, "bytes")?;
        length.write(saved.len());
        Ok(())
    })
}

/// Makes a unit what host_iommu_vtd_save() saved, with the devices that are plugged in now. It was
/// made with the same configuration, and the guest's memory is what it was.
///
/// If the guest translates, the devices' requests are stopped until what its tables say is bound: when this returns,
/// or when the unit's fd has become readable and host_iommu_vtd_run() gives 0. Then the guest may
/// run.
///
/// Fails with -EINVAL for bytes that are damaged or of a unit of another configuration, whose first
/// difference the text names, with -EPROTO for those of a version that is not known. Then
/// nothing is changed.
#[no_mangle]
extern "C" fn host_iommu_vtd_restore(
    unit: Option<&Unit>,
    state: *const c_void,
    length: usize,
) -> c_int {
    done(|| {
        let unit = &given(unit, "unit")?.unit;
        let saved = read(slice(state.cast::<u8>(), length, "bytes")?)?;
        Ok(unit.restore(saved)?)
    })
}
