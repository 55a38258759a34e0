// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit tells its VMM: interrupts, events, and that there is work left.

use super::super::pointer::{given, write};
use super::super::result::{guard, Result};
use super::super::types::{Msi, UnitEvent};
use super::Unit;
use crate::sys::Errno;
use crate::vtd::{self, SourceId, VtdEvent, VtdEvents};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

/// Most interrupts that wait to be taken: more are those that wait already, sent again.
const MAX_INTERRUPTS: usize = 64;
/// Most events that wait to be taken; those that come then are counted.
const MAX_EVENTS: usize = 256;

/// What waits to be taken.
#[derive(Debug, Default)]
struct Waiting {
    interrupts: VecDeque<vtd::Msi>,
    events: VecDeque<UnitEvent>,
    /// Events that there was no room for since the last that waits.
    lost: u64,
}

/// What the unit has told, until it is asked for.
#[derive(Debug)]
pub(super) struct Told {
    waiting: Mutex<Waiting>,
    event: EventFd,
}

impl Told {
    pub(super) fn new() -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            waiting: Mutex::default(),
            event: EventFd::from_flags(flags).map_err(Errno::from)?,
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Waiting) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl VtdEvents for Told {
    fn interrupt(&self, message: vtd::Msi) {
        self.with(|Waiting { interrupts, .. }| {
            // A message that waits is not sent twice: it says the same.
            if interrupts.len() < MAX_INTERRUPTS && !interrupts.contains(&message) {
                interrupts.push_back(message);
            }
        });
        self.work_left();
    }

    fn work_left(&self) {
        // It cannot fail but for a counter that is full, and so readable.
        let _ = self.event.write(1);
    }

    fn event(&self, event: &VtdEvent) {
        self.with(|waiting| {
            if waiting.events.len() < MAX_EVENTS {
                let lost = std::mem::take(&mut waiting.lost);
                waiting.events.push_back(UnitEvent::new(event, lost));
            } else {
                waiting.lost = waiting.lost.saturating_add(1);
            }
        });
        self.work_left();
    }
}

/// The unit's fd, to poll for POLLIN, or a negative errno: readable when interrupts or events wait or
/// work was left, until host_iommu_vtd_run(). It is the unit's: not to be read, written or closed.
#[no_mangle]
extern "C" fn host_iommu_vtd_fd(unit: Option<&Unit>) -> c_int {
    guard(|| Ok(given(unit, "unit")?.told.event.as_fd().as_raw_fd()))
}

/// Goes on with work that was left: 1 if there is more, 0 if not. Then the interrupts are to be
/// taken, and the events if they are of interest.
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
        let Some(taken) = told.with(|waiting| waiting.interrupts.pop_front()) else {
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

/// Takes an event: something that the unit did and that whoever looks into the VMM wants to know, or
/// that interrupts are to be remapped anew. 1 if there was one, 0 if there is none now. What nobody
/// takes is lost from the 257th on, and counted.
#[no_mangle]
extern "C" fn host_iommu_vtd_next_event(unit: Option<&Unit>, event: *mut UnitEvent) -> c_int {
    guard(|| {
        let told = &given(unit, "unit")?.told;
        // Before something is taken that could not be told.
        write(event, &UnitEvent::default(), "event")?;
        match told.with(|waiting| waiting.events.pop_front()) {
            Some(taken) => write(event, &taken, "event").map(|()| 1),
            None => Ok(0),
        }
    })
}

/// What becomes of an interrupt that a device or an IOAPIC behind the unit sends, which the guest knows
/// as `source`: 1 and the message that reaches the CPUs, or 0 if the guest's table blocks it. Bits 31:8
/// of a destination of 32 bits are in the upper half of the address, as KVM has them. What it gives
/// holds until there is an event HOST_IOMMU_VTD_INTERRUPTS_CHANGED.
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
