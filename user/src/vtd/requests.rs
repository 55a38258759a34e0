// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page request queue: what devices ask the guest for (VT-d 4.1, 7.4 and 7.5).

use super::memory::Memory;
use super::registers::{Msi, Registers, PECTL, PQA, PQH, PQT, PRS, QUEUE_INDEX};
use super::tables::SourceId;
use crate::fault::{FaultGroup, Response};
use std::collections::BTreeMap;

/// PRS: there is something, and something was lost.
const PENDING: u64 = 1;
const OVERFLOW: u64 = 2;

/// Bytes of a page request descriptor.
const REQUEST: u64 = 32;
/// Groups of a device that may wait: what 9 bits name.
const GROUPS: u16 = 512;

/// Who asked, with what PASID, and under which number.
type Name = (SourceId, Option<u32>, u16);

/// The groups that wait for the guest's answer: at most [`GROUPS`] of each device.
#[derive(Debug, Default)]
pub(super) struct Requests {
    groups: BTreeMap<Name, FaultGroup>,
}

impl Requests {
    /// Puts a group into the guest's queue. One that has no room there is answered INVALID and
    /// noted as lost. Gives the interrupt that is due.
    ///
    /// # Errors
    ///
    /// The same, for a group that was lost.
    pub(super) fn put(
        &mut self,
        memory: &dyn Memory,
        registers: &mut Registers,
        source: SourceId,
        group: FaultGroup,
    ) -> Result<Option<Msi>, Option<Msi>> {
        let pasid = group.pasid().map(|_| group.guest_pasid());
        let room = self.number(source, pasid, &group);
        let Some(number) = room.filter(|&number| write(memory, registers, source, number, &group))
        else {
            return Err(lost(registers));
        };
        self.groups.insert((source, pasid, number), group);
        let news = registers.get(PRS, 4) & PENDING == 0;
        registers.raise(PRS, 4, PENDING);
        Ok(news.then(|| registers.event(PECTL)).flatten())
    }

    /// A number for a group that no other waits under: the device's own if it is free.
    fn number(&self, source: SourceId, pasid: Option<u32>, group: &FaultGroup) -> Option<u16> {
        // CAST: below 512.
        let own = (group.index() % u32::from(GROUPS)) as u16;
        let mut numbers = (own..GROUPS).chain(0..own);
        let waiting = self
            .groups
            .range((source, None, 0)..=(source, Some(u32::MAX), GROUPS));
        if waiting.count() >= usize::from(GROUPS) {
            return None;
        }
        numbers.find(|&number| !self.groups.contains_key(&(source, pasid, number)))
    }

    /// Passes the guest's answer on; one for a group that does not wait is for nothing.
    pub(super) fn answer(
        &mut self,
        source: SourceId,
        pasid: Option<u32>,
        number: u16,
        response: Response,
    ) {
        if let Some(group) = self.groups.remove(&(source, pasid, number)) {
            // The host has answered what it says is gone.
            let _ = group.respond(response);
        }
    }

    /// The host has answered the group of this cookie.
    pub(super) fn cancel(&mut self, cookie: u64) {
        self.groups.retain(|_, group| group.cookie() != cookie);
    }

    /// Answers INVALID to what a device waits for.
    pub(super) fn forget(&mut self, source: SourceId) {
        self.groups.retain(|(asker, _, _), _| *asker != source);
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.groups.len()
    }
}

/// Notes that requests were lost. Gives the interrupt that is due.
pub(super) fn lost(registers: &mut Registers) -> Option<Msi> {
    let news = registers.get(PRS, 4) & OVERFLOW == 0;
    registers.raise(PRS, 4, OVERFLOW);
    news.then(|| registers.event(PECTL))?
}

/// Writes all of a group, or nothing.
fn write(
    memory: &dyn Memory,
    registers: &mut Registers,
    source: SourceId,
    number: u16,
    group: &FaultGroup,
) -> bool {
    let address = registers.get(PQA, 8);
    let bytes = 4096u64 << (address & 7);
    let (head, mut tail) = (registers.get(PQH, 8), registers.get(PQT, 8));
    let used = tail.wrapping_sub(head) & (bytes - 1);
    let requests = group.requests();
    let needed = requests.len() as u64 * REQUEST;
    // One stays free: a queue whose head is its tail is empty. After an overflow nothing is taken
    // until the guest has cleared it.
    // A guest that has set up no queue wants none.
    if address & !0xfff == 0 {
        return false;
    }
    let overflown = registers.get(PRS, 4) & OVERFLOW != 0;
    if overflown || head >= bytes || tail >= bytes || used + needed + REQUEST > bytes {
        return false;
    }
    let pasid = group.pasid().map(|_| u64::from(group.guest_pasid()));
    for (index, request) in requests.iter().enumerate() {
        let access = request.access;
        let first = 1
            | u64::from(pasid.is_some()) << 8
            | u64::from(source.0) << 16
            | pasid.unwrap_or(0) << 32
            | u64::from(access.execute) << 52
            | u64::from(access.privileged) << 53;
        let last = index + 1 == requests.len();
        let second = u64::from(access.read)
            | u64::from(access.write) << 1
            | u64::from(last) << 2
            | u64::from(number) << 3
            | request.address.0 & !0xfff;
        for (offset, word) in [(0, first), (8, second), (16, 0), (24, 0)] {
            // The queue may be at the end of all addresses.
            let at = (address & !0xfff).checked_add(tail | offset);
            if !at.is_some_and(|at| memory.write(at, word)) {
                return false;
            }
        }
        tail = (tail + REQUEST) & (bytes - 1);
    }
    registers.set(PQT, 8, tail & QUEUE_INDEX);
    true
}
