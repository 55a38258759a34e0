// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page request queue: what devices ask the guest for (VT-d 4.1, 7.4 and 7.5).

use super::bits::{Field, PAGE, PAGE_ADDRESS};
use super::events::Outbox;
use super::memory::Memory;
use super::registers::{
    Msi, PageRequestStatus, Registers, PECTL, PQA, PQH, PQT, PRS, QUEUE_INDEX, QUEUE_SIZE,
};
use super::source::SourceId;
use crate::fault::{FaultGroup, FaultQueueId};
use std::collections::BTreeMap;

const PENDING: u64 = PageRequestStatus::PPR.bits();
const OVERFLOW: u64 = PageRequestStatus::PRO.bits();

/// Bytes of a page request descriptor.
const REQUEST: u64 = 32;

/// A page request descriptor (VT-d 4.1, 7.4.1), but for its two upper quadwords, which are private
/// data of devices that have such.
mod descriptor {
    use super::Field;

    /// The first quadword.
    pub(super) const TYPE: Field = Field::bits(7, 0);
    pub(super) const PAGE_REQUEST: u64 = 1;
    /// PP.
    pub(super) const PASID_PRESENT: Field = Field::bits(8, 8);
    /// The requester id.
    pub(super) const SOURCE: Field = Field::bits(31, 16);
    pub(super) const PASID: Field = Field::bits(51, 32);
    /// EXE.
    pub(super) const EXECUTE: Field = Field::bits(52, 52);
    /// PR.
    pub(super) const PRIVILEGED: Field = Field::bits(53, 53);

    /// The second quadword, whose bits 63:12 are the page's address.
    pub(super) const READ: Field = Field::bits(0, 0);
    pub(super) const WRITE: Field = Field::bits(1, 1);
    /// L, the last one of its group.
    pub(super) const LAST: Field = Field::bits(2, 2);
    /// PRGI, the group's index.
    pub(super) const GROUP: Field = Field::bits(11, 3);
}
/// Groups of a device that may wait: what 9 bits name.
const GROUPS: u16 = 512;

/// Who asked, with what PASID, and under which number.
pub(super) type Name = (SourceId, Option<u32>, u16);

/// The groups that wait for the guest's answer: at most [`GROUPS`] of each device. Those that were
/// restored have no device any more that asks, but the guest may answer them yet: another group has
/// their name only when no other is left.
#[derive(Debug, Default)]
pub(super) struct Requests {
    groups: BTreeMap<Name, Option<FaultGroup>>,
}

/// What came of a group for the guest.
pub(super) struct Put {
    /// The group, if there was no room for it.
    pub(super) lost: Option<FaultGroup>,
    /// The interrupt that is due.
    pub(super) interrupt: Option<Msi>,
}

impl Requests {
    /// Puts a group into the guest's queue. One that has no room there is answered INVALID and
    /// noted as lost.
    pub(super) fn put(
        &mut self,
        memory: &dyn Memory,
        registers: &mut Registers,
        source: SourceId,
        group: FaultGroup,
    ) -> Put {
        let pasid = group.pasid().map(|_| group.guest_pasid());
        let room = self.number(source, pasid, &group);
        let Some(number) = room.filter(|&number| write(memory, registers, source, number, &group))
        else {
            return Put {
                lost: Some(group),
                interrupt: lost(registers),
            };
        };
        self.make_room(source);
        self.groups.insert((source, pasid, number), Some(group));
        let news = registers.get(PRS, 4) & PENDING == 0;
        registers.raise(PRS, 4, PENDING);
        Put {
            lost: None,
            interrupt: news.then(|| registers.event(PECTL)).flatten(),
        }
    }

    /// A number for a group that no other waits under: the device's own if it is free.
    fn number(&self, source: SourceId, pasid: Option<u32>, group: &FaultGroup) -> Option<u16> {
        // CAST: below 512.
        let own = (group.index() % u32::from(GROUPS)) as u16;
        let mut numbers = (own..GROUPS).chain(0..own);
        let waiting = self
            .groups
            .range((source, None, 0)..=(source, Some(u32::MAX), GROUPS));
        if waiting.filter(|(_, group)| group.is_some()).count() >= usize::from(GROUPS) {
            return None;
        }
        let known = |number: &u16| self.groups.get(&(source, pasid, *number));
        numbers
            .clone()
            .find(|number| known(number).is_none())
            .or_else(|| numbers.find(|number| matches!(known(number), Some(None))))
    }

    /// Forgets names that nobody waits for when there are as many as may wait.
    fn make_room(&mut self, source: SourceId) {
        let all = (source, None, 0)..=(source, Some(u32::MAX), GROUPS);
        let mut given_up = self
            .groups
            .range(all)
            .filter(|(_, group)| group.is_none())
            .map(|(&name, _)| name);
        let (first, count) = (given_up.next(), given_up.count());
        if count >= usize::from(GROUPS) {
            first.map(|name| self.groups.remove(&name));
        }
    }

    /// The group that the guest answers; none if it does not wait.
    pub(super) fn answer(
        &mut self,
        source: SourceId,
        pasid: Option<u32>,
        number: u16,
    ) -> Option<FaultGroup> {
        self.groups.remove(&(source, pasid, number)).flatten()
    }

    /// The host has answered the group that a queue has under this cookie, which the guest may answer
    /// yet.
    pub(super) fn cancel(&mut self, queue: FaultQueueId, cookie: u64, out: &mut Outbox) {
        let named = |_, group: &FaultGroup| group.queue() == queue && group.cookie() == cookie;
        self.give_up(out, named);
    }

    /// Answers INVALID to what a device waits for. The guest may answer it yet.
    pub(super) fn forget(&mut self, source: SourceId, out: &mut Outbox) {
        self.give_up(out, |asker, _| asker == source);
    }

    /// The same for all devices, of a guest that is started anew.
    pub(super) fn forget_all(&mut self, out: &mut Outbox) {
        for group in std::mem::take(&mut self.groups).into_values().flatten() {
            out.give_up(group);
        }
    }

    fn give_up(&mut self, out: &mut Outbox, which: impl Fn(SourceId, &FaultGroup) -> bool) {
        for ((source, _, _), waiting) in &mut self.groups {
            if let Some(group) = waiting.take_if(|group| which(*source, group)) {
                out.give_up(group);
            }
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.groups.values().flatten().count()
    }

    /// The names of those that the guest may answer.
    pub(super) fn names(&self) -> Vec<Name> {
        self.groups.keys().copied().collect()
    }

    /// Those that wait, by the names that the guest has of them.
    pub(super) fn waiting_groups(&self) -> impl Iterator<Item = (Name, &FaultGroup)> {
        let groups = self.groups.iter();
        groups.filter_map(|(&name, group)| Some((name, group.as_ref()?)))
    }

    /// A group that was put into the guest's queue before, by a unit in another process.
    pub(super) fn adopt(&mut self, name: Name, group: FaultGroup) {
        self.groups.insert(name, Some(group));
    }

    /// These the guest may answer, though nobody waits for it.
    pub(super) fn restore(&mut self, names: impl IntoIterator<Item = Name>) {
        self.groups
            .extend(names.into_iter().map(|name| (name, None)));
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
    let bytes = PAGE << (address & QUEUE_SIZE);
    let (head, mut tail) = (registers.get(PQH, 8), registers.get(PQT, 8));
    let used = tail.wrapping_sub(head) & (bytes - 1);
    let requests = group.requests();
    let needed = requests.len() as u64 * REQUEST;
    // One stays free: a queue whose head is its tail is empty. After an overflow nothing is taken
    // until the guest has cleared it.
    // A guest that has set up no queue wants none.
    if address & PAGE_ADDRESS == 0 {
        return false;
    }
    let overflown = registers.get(PRS, 4) & OVERFLOW != 0;
    if overflown || head >= bytes || tail >= bytes || used + needed + REQUEST > bytes {
        return false;
    }
    let pasid = group.pasid().map(|_| u64::from(group.guest_pasid()));
    for (index, request) in requests.iter().enumerate() {
        let access = request.access;
        let first = descriptor::TYPE.with(descriptor::PAGE_REQUEST)
            | descriptor::PASID_PRESENT.with(pasid.is_some().into())
            | descriptor::SOURCE.with(source.0.into())
            | descriptor::PASID.with(pasid.unwrap_or(0))
            | descriptor::EXECUTE.with(access.execute.into())
            | descriptor::PRIVILEGED.with(access.privileged.into());
        let last = index + 1 == requests.len();
        let second = descriptor::READ.with(access.read.into())
            | descriptor::WRITE.with(access.write.into())
            | descriptor::LAST.with(last.into())
            | descriptor::GROUP.with(number.into())
            | request.address.0 & PAGE_ADDRESS;
        for (offset, word) in [(0, first), (8, second), (16, 0), (24, 0)] {
            // The queue may be at the end of all addresses.
            let at = (address & PAGE_ADDRESS).checked_add(tail | offset);
            if !at.is_some_and(|at| memory.write(at, word)) {
                return false;
            }
        }
        tail = (tail + REQUEST) & (bytes - 1);
    }
    registers.set(PQT, 8, tail & QUEUE_INDEX);
    true
}
