// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A unit that goes on in another process while its guest and the devices do: as when a VMM is updated
//! under a running guest.

use super::requests::Name;
use super::{Seat, State, Vtd, VtdState};
use crate::context::HostIommu;
use crate::error::{Error, Operation, Result};
use crate::fault::{FaultQueue, WaitingGroup};
use crate::registry::BoundTable;
use crate::sys::Errno;
use crate::types::Bdf;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rounds of work before a unit is handed over; what the host refuses for now takes a millisecond each.
const ROUNDS: u32 = 1000;

/// What a unit leaves to the one that takes its place: registers, what is bound at the host, and the
/// page requests that wait for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VtdHandover {
    state: VtdState,
    devices: Vec<(Bdf, Vec<BoundTable>)>,
    waiting: Vec<(Name, WaitingGroup)>,
}

/// What is left of it while devices are not plugged in yet.
#[derive(Debug, Default)]
pub(super) struct Left {
    devices: BTreeMap<Bdf, Vec<BoundTable>>,
    waiting: BTreeMap<Name, WaitingGroup>,
    /// Kept until all devices have theirs: dropping one answers what waits.
    _queues: Vec<Arc<FaultQueue>>,
}

impl Left {
    /// What is bound of a device, if another process has left it.
    pub(super) fn take_device(&mut self, device: Bdf) -> Option<Vec<BoundTable>> {
        self.devices.remove(&device)
    }
}

impl State {
    /// A device is plugged in; page requests of it that were left wait again.
    pub(super) fn take_seat(&mut self, device: Bdf, seat: Seat) {
        if let Some(faults) = &seat.faults {
            let of_device = (seat.source, None, 0)..=(seat.source, Some(u32::MAX), u16::MAX);
            let names: Vec<Name> = self
                .left
                .waiting
                .range(of_device)
                .map(|(&name, _)| name)
                .collect();
            for name in names {
                if let Some(group) = self.left.waiting.remove(&name) {
                    self.unit.requests.adopt(name, faults.adopt(group));
                }
            }
        }
        self.seats.insert(device, seat);
        if self.left.devices.is_empty() {
            self.left = Left::default();
        }
    }
}

impl Vtd {
    /// What the unit of another process needs to take the place of this one. The guest's CPUs stand
    /// still, and nobody delivers faults; what is left of the unit's work is done first. Devices need
    /// not stand still.
    ///
    /// Nothing changes here: if the other process fails, this unit goes on. If it does not fail, this
    /// process must end without dropping the unit, its queues and the context, which would unbind what
    /// the other has ([`std::process::exit`] drops nothing).
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EAGAIN if the host goes on refusing what is left to do for now, as
    /// while a device is being reset.
    pub fn hand_over(&self) -> Result<VtdHandover> {
        let mut rounds = 0..ROUNDS;
        while self.run() {
            if rounds.next().is_none() {
                return Err(Error::failed(Operation::HandOver, Errno::EAGAIN));
            }
        }
        let state = self.save();
        let (seats, waiting) = {
            let state = self.state();
            let seats = state.seats.iter();
            let seats: Vec<_> = seats
                .map(|(&device, seat)| (device, seat.host.clone()))
                .collect();
            let waiting = state.unit.requests.waiting_groups();
            let waiting = waiting.map(|(name, group)| (name, WaitingGroup::from(group)));
            (seats, waiting.collect())
        };
        let bound = |(device, host): (Bdf, HostIommu)| {
            let mut bound = host.export();
            bound.retain(|bound| bound.device == device);
            (device, bound)
        };
        Ok(VtdHandover {
            state,
            devices: seats.into_iter().map(bound).collect(),
            waiting,
        })
    }

    /// Makes a new unit what another process has handed over, before devices are plugged in. Then
    /// each of its devices is to be plugged in as it was, behind the context that this process took
    /// over: what is bound stays bound throughout, and what waits can be answered.
    ///
    /// `queues` are the fault queues of the contexts, which the other process polled.
    ///
    /// # Errors
    ///
    /// As [`Vtd::restore`]; [`Error::Failed`] with EBUSY if a device is plugged in already.
    pub fn take_over(
        &self,
        from: VtdHandover,
        queues: &[(HostIommu, Arc<FaultQueue>)],
    ) -> Result<()> {
        if !self.state().seats.is_empty() {
            return Err(Error::failed(Operation::HandOver, Errno::EBUSY));
        }
        self.restore(from.state)?;
        let mut state = self.state();
        for (host, queue) in queues {
            state.queues.push((host.weak(), Arc::downgrade(queue)));
        }
        state.left = Left {
            devices: from.devices.into_iter().collect(),
            waiting: from.waiting.into_iter().collect(),
            _queues: queues.iter().map(|(_, queue)| queue.clone()).collect(),
        };
        Ok(())
    }
}
