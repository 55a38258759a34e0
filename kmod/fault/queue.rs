// SPDX-License-Identifier: GPL-2.0
//! The state of one fault queue: which page request groups wait, which were read,
//! which cookies are valid.
//!
//! Needs nothing but `core`, so that the same source is tested under cargo. It
//! allocates nothing: it is changed under a spinlock in the page request thread.
//! Every method is O(1) but [`State::take_where`] and [`State::waiting`].

use core::ops::DerefMut;

/// A group's cookie is its slot's generation above its slot's index: unique for the
/// life of the queue, and a number that was never issued is told from a late one.
const SLOT_BITS: u32 = 16;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// End of a list of slots.
const NIL: u32 = u32::MAX;

/// Most notes that wait in a queue.
const MAX_NOTES: u32 = 64;

/// Most slots of a queue.
pub(crate) const MAX_SLOTS: usize = 1 << SLOT_BITS;

/// Where the group in a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The slot is free.
    Free,
    /// Waits to be read.
    Unread,
    /// A reader copies it to its user. Without a group: the host answered it meanwhile.
    Delivering,
    /// A reader copies it to its user, who has answered it meanwhile.
    Answered,
    /// The user has it and owes an answer.
    Read,
    /// The user has it, and it was answered by the host: a CANCELLED record waits.
    Cancelled,
    /// A reader copies the CANCELLED record to its user.
    Announcing,
    /// A note, which needs no answer, waits to be read.
    Note,
    /// A reader copies a note to its user.
    Noting,
}

/// Room for one group: `G` is the group that is owed an answer, `R` what is read.
pub(crate) struct Slot<G, R> {
    phase: Phase,
    generation: u64,
    prev: u32,
    next: u32,
    weight: u32,
    /// The host answered because the deadline passed.
    expired: bool,
    group: Option<G>,
    records: Option<R>,
}

impl<G, R> Slot<G, R> {
    /// A free slot.
    pub(crate) const fn free() -> Self {
        Self {
            phase: Phase::Free,
            generation: 0,
            prev: NIL,
            next: NIL,
            weight: 0,
            expired: false,
            group: None,
            records: None,
        }
    }
}

/// What a reader gets next.
pub(crate) enum Next<R> {
    /// That many records were answered INVALID for want of room.
    Overflow(u64),
    /// A group's records. [`State::delivered`] or [`State::undelivered`] must follow.
    Group {
        /// The group's cookie.
        cookie: u64,
        /// What to copy.
        records: R,
    },
    /// The group of this cookie needs no answer any more. [`State::delivered`] or
    /// [`State::unannounced`] must follow.
    Cancelled(u64),
    /// The group of that cookie was answered by the host after its deadline.
    /// [`State::delivered`] or [`State::unannounced`] must follow.
    Expired(u64),
    /// What needs no answer. [`State::delivered`] or [`State::undelivered`] must follow.
    Note {
        /// Names it until it is delivered, and is nobody's to answer.
        cookie: u64,
        /// What to copy.
        records: R,
    },
}

/// Why a group was not taken into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The depth is reached; the loss is counted.
    Full,
    /// Nobody can read any more.
    Closed,
}

/// What an answer's cookie names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// A group that waits for its answer.
    Pending,
    /// A group that was answered, cancelled or expired.
    Late,
    /// No group that a reader was given.
    Unknown,
}

/// The state of one fault queue.
///
/// # Invariants
///
/// - Each slot is on exactly one list: free (`Free`), or ready (`Unread`, `Cancelled` and
///   `Note`), or none (all others).
/// - `notes` is the number of slots in phases `Note` and `Noting`.
/// - `waiting` is the sum of `weight` over all slots that are not free, at most
///   `depth`.
/// - `group` is `Some` exactly in phases `Unread`, `Delivering` and `Read`, but for a
///   group that was answered while it was being delivered.
pub(crate) struct State<S> {
    slots: S,
    free: u32,
    ready_head: u32,
    ready_tail: u32,
    depth: u32,
    waiting: u32,
    notes: u32,
    lost: u64,
    closed: bool,
    ended: bool,
}

impl<S, G, R> State<S>
where
    S: DerefMut<Target = [Slot<G, R>]>,
    G: 'static,
    R: 'static,
{
    /// A queue whose groups together have at most one record for each of `slots`,
    /// which must be free. `None` if there are none or more than [`MAX_SLOTS`].
    pub(crate) fn new(mut slots: S) -> Option<Self> {
        let depth = slots.len();
        if depth == 0 || depth > MAX_SLOTS {
            return None;
        }
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.next = if index + 1 < depth {
                index as u32 + 1
            } else {
                NIL
            };
        }
        Some(Self {
            slots,
            free: 0,
            ready_head: NIL,
            ready_tail: NIL,
            depth: depth as u32,
            waiting: 0,
            notes: 0,
            lost: 0,
            closed: false,
            ended: false,
        })
    }

    /// Whether a read would not block.
    pub(crate) fn readable(&self) -> bool {
        self.has_records() || self.ended
    }

    /// Whether there is something to read before the end.
    pub(crate) fn has_records(&self) -> bool {
        self.ready_head != NIL || self.lost != 0
    }

    /// Whether the container is gone.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// The container is gone: what is there can be read, then comes the end of file.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// The last reader is gone: from now on every group is refused.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether the last reader is gone.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Most records that may wait, those that wait, and those lost that no reader knows of yet.
    pub(crate) fn levels(&self) -> (u32, u32, u64) {
        (self.depth, self.waiting, self.lost)
    }

    /// Takes a group of `weight` records in; `make` gets its cookie.
    ///
    /// # Errors
    ///
    /// The group and its records come back with the reason.
    pub(crate) fn push(
        &mut self,
        group: G,
        weight: u32,
        mut records: R,
        mark: impl FnOnce(&mut R, u64),
    ) -> Result<(), (Refused, G, R)> {
        if self.closed || self.ended {
            return Err((Refused::Closed, group, records));
        }
        let index = self.free;
        let room = self.depth - self.waiting;
        let Some(slot) = self
            .slots
            .get_mut(index as usize)
            .filter(|_| weight <= room)
        else {
            self.lost = self.lost.saturating_add(u64::from(weight));
            return Err((Refused::Full, group, records));
        };
        self.free = slot.next;
        slot.generation += 1;
        mark(&mut records, cookie(slot.generation, index));
        slot.phase = Phase::Unread;
        slot.weight = weight;
        slot.expired = false;
        slot.group = Some(group);
        slot.records = Some(records);
        self.waiting += weight;
        self.append(index);
        Ok(())
    }

    /// Takes in what needs no answer, one record. Groups keep half of the queue, and the notes
    /// have [`MAX_NOTES`] at most: what does not fit is lost.
    pub(crate) fn push_note(&mut self, records: R) {
        let full = self.waiting == self.depth
            || self.notes == MAX_NOTES
            || u64::from(self.notes) * 2 >= u64::from(self.depth);
        if self.closed || self.ended || full {
            return self.lose(1);
        }
        let index = self.free;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return self.lose(1);
        };
        self.free = slot.next;
        slot.generation += 1;
        slot.phase = Phase::Note;
        slot.weight = 1;
        slot.records = Some(records);
        self.waiting += 1;
        self.notes += 1;
        self.append(index);
    }

    /// Counts records that were answered INVALID before they came here.
    pub(crate) fn lose(&mut self, records: u64) {
        if !self.closed && !self.ended {
            self.lost = self.lost.saturating_add(records);
        }
    }

    /// What a reader gets next, if `fits` says that its records fit; `Ok(None)` if
    /// there is nothing, `Err(())` if they do not fit.
    ///
    /// One reader at a time may be between this and the call that ends a delivery.
    pub(crate) fn next(
        &mut self,
        fits: impl FnOnce(Option<&R>) -> bool,
    ) -> Result<Option<Next<R>>, ()> {
        if self.lost != 0 {
            if !fits(None) {
                return Err(());
            }
            return Ok(Some(Next::Overflow(core::mem::take(&mut self.lost))));
        }
        let index = self.ready_head;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Ok(None);
        };
        if !fits(slot.records.as_ref()) {
            return Err(());
        }
        let name = cookie(slot.generation, index);
        let phase = core::mem::replace(&mut slot.phase, Phase::Delivering);
        let records = slot.records.take();
        self.unlink(index);
        Ok(match (phase, records) {
            (Phase::Unread, Some(records)) => Some(Next::Group {
                cookie: name,
                records,
            }),
            (Phase::Note, Some(records)) => {
                if let Some(slot) = self.slots.get_mut(index as usize) {
                    slot.phase = Phase::Noting;
                }
                Some(Next::Note {
                    cookie: name,
                    records,
                })
            }
            _ => {
                let Some(slot) = self.slots.get_mut(index as usize) else {
                    return Ok(None);
                };
                slot.phase = Phase::Announcing;
                Some(if slot.expired {
                    Next::Expired(name)
                } else {
                    Next::Cancelled(name)
                })
            }
        })
    }

    /// Ends a delivery that reached the user.
    pub(crate) fn delivered(&mut self, name: u64) {
        let Some((index, slot)) = self.current(name) else {
            return;
        };
        match slot.phase {
            Phase::Delivering if slot.group.is_some() => slot.phase = Phase::Read,
            Phase::Delivering => {
                slot.phase = Phase::Cancelled;
                self.append(index);
            }
            Phase::Answered | Phase::Announcing => self.release(index),
            Phase::Noting => {
                self.notes -= 1;
                self.release(index);
            }
            _ => {}
        }
    }

    /// Ends a delivery that failed: the group is again the next to be read.
    pub(crate) fn undelivered(&mut self, name: u64, records: R) {
        let Some((index, slot)) = self.current(name) else {
            return;
        };
        match slot.phase {
            Phase::Delivering if slot.group.is_some() => {
                slot.phase = Phase::Unread;
                slot.records = Some(records);
                self.prepend(index);
            }
            Phase::Noting => {
                slot.phase = Phase::Note;
                slot.records = Some(records);
                self.prepend(index);
            }
            // Answered meanwhile: what the user never saw need not be cancelled.
            Phase::Delivering | Phase::Answered => self.release(index),
            _ => {}
        }
    }

    /// Puts an overflow count back that could not be copied to its reader.
    pub(crate) fn unlost(&mut self, records: u64) {
        self.lost = self.lost.saturating_add(records);
    }

    /// Ends the delivery of a CANCELLED record that failed: it is again the next to be read.
    pub(crate) fn unannounced(&mut self, name: u64) {
        if let Some((index, slot)) = self.current(name) {
            if slot.phase == Phase::Announcing {
                slot.phase = Phase::Cancelled;
                self.prepend(index);
            }
        }
    }

    /// What `name` names.
    pub(crate) fn look_up(&self, name: u64) -> Cookie {
        let generation = name >> SLOT_BITS;
        let Some(slot) = self.slots.get(slot_of(name) as usize) else {
            return Cookie::Unknown;
        };
        if generation == 0 || generation > slot.generation {
            Cookie::Unknown
        } else if generation < slot.generation {
            Cookie::Late
        } else {
            match slot.phase {
                Phase::Read | Phase::Delivering if slot.group.is_some() => Cookie::Pending,
                Phase::Unread | Phase::Note | Phase::Noting => Cookie::Unknown,
                _ => Cookie::Late,
            }
        }
    }

    /// The group of `name`, if it is pending.
    pub(crate) fn pending(&self, name: u64) -> Option<&G> {
        match self.look_up(name) {
            Cookie::Pending => self.slots.get(slot_of(name) as usize)?.group.as_ref(),
            _ => None,
        }
    }

    /// Takes the group of `name` out, if it is pending, for its user's answer.
    pub(crate) fn take(&mut self, name: u64) -> Option<G> {
        if self.look_up(name) != Cookie::Pending {
            return None;
        }
        let index = slot_of(name);
        let slot = self.slots.get_mut(index as usize)?;
        let group = slot.group.take();
        if slot.phase == Phase::Read {
            self.release(index);
        } else {
            slot.phase = Phase::Answered;
        }
        group
    }

    /// Takes one group out for which `wanted` holds, for the host's answer: because its
    /// deadline passed if `expired`, because its binding or its reader went otherwise. If its
    /// user has read it, a record says so, unless nobody reads any more.
    ///
    /// Looks at the slots from `*from` on and leaves there where to go on.
    pub(crate) fn take_where(
        &mut self,
        from: &mut usize,
        expired: bool,
        wanted: impl Fn(&G) -> bool,
    ) -> Option<G> {
        while let Some(slot) = self.slots.get_mut(*from) {
            let index = *from as u32;
            *from += 1;
            if !slot.group.as_ref().is_some_and(&wanted) {
                continue;
            }
            let group = slot.group.take();
            slot.expired = expired;
            match slot.phase {
                Phase::Unread => {
                    self.unlink(index);
                    self.release(index);
                }
                Phase::Read if self.closed => self.release(index),
                Phase::Read => {
                    slot.phase = Phase::Cancelled;
                    self.append(index);
                }
                _ => {}
            }
            return group;
        }
        None
    }

    /// The groups that still wait for their answer.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &G> {
        self.slots.iter().filter_map(|slot| slot.group.as_ref())
    }

    /// The slot that `name` stands in, if it is the latest there.
    fn current(&mut self, name: u64) -> Option<(u32, &mut Slot<G, R>)> {
        let index = slot_of(name);
        let slot = self.slots.get_mut(index as usize)?;
        (slot.generation == name >> SLOT_BITS).then_some((index, slot))
    }

    fn append(&mut self, index: u32) {
        let tail = core::mem::replace(&mut self.ready_tail, index);
        self.link(tail, index);
        self.link(index, NIL);
    }

    fn prepend(&mut self, index: u32) {
        let head = core::mem::replace(&mut self.ready_head, index);
        self.link(index, head);
        self.link(NIL, index);
    }

    fn unlink(&mut self, index: u32) {
        if let Some(slot) = self.slots.get(index as usize) {
            let (prev, next) = (slot.prev, slot.next);
            self.link(prev, next);
        }
    }

    /// Makes `right` follow `left` in the ready list; [`NIL`] is its end.
    fn link(&mut self, left: u32, right: u32) {
        match self.slots.get_mut(left as usize) {
            Some(slot) => slot.next = right,
            None => self.ready_head = right,
        }
        match self.slots.get_mut(right as usize) {
            Some(slot) => slot.prev = left,
            None => self.ready_tail = left,
        }
    }

    fn release(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        self.waiting -= slot.weight;
        slot.phase = Phase::Free;
        slot.weight = 0;
        slot.records = None;
        slot.next = self.free;
        self.free = index;
    }
}

fn cookie(generation: u64, index: u32) -> u64 {
    generation << SLOT_BITS | u64::from(index)
}

fn slot_of(name: u64) -> u32 {
    // CAST: masked to SLOT_BITS.
    (name & SLOT_MASK) as u32
}
