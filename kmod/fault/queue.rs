// SPDX-License-Identifier: GPL-2.0
//! The state of one fault queue: which page request groups wait, which were read,
//! which cookies are valid.
//!
//! Needs nothing but `core`, so that the same source is tested under cargo. It
//! allocates nothing: it is changed under a spinlock in the page request thread.
//! Every method is O(1), but for [`State::new`].

#[path = "queue_terms.rs"]
mod terms;

pub(crate) use terms::{Cookie, Levels, Next, Refusal, Refused};

use core::ops::DerefMut;

/// A group's cookie is its slot's generation above its slot's index: unique for the
/// life of the queue, and a number that was never issued is told from a late one.
const SLOT_BITS: u32 = 16;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// End of a list of slots.
const NIL: u32 = u32::MAX;

/// The first and the last of a list of slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    head: u32,
    tail: u32,
}

impl Ends {
    /// Of no slots.
    pub(crate) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };

    /// As a number that fits an atomic.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.head) << 32 | u64::from(self.tail)
    }

    /// What [`Ends::to_bits`] gave.
    pub(crate) fn from_bits(bits: u64) -> Self {
        // CAST: the halves.
        Self {
            head: (bits >> 32) as u32,
            tail: bits as u32,
        }
    }
}

/// A group whose owner has all its groups of a queue in a chain, oldest first.
///
/// The queue alone changes the chain, and shows its own state `S`, which shows that nothing else
/// goes on. It begins [`Ends::EMPTY`].
pub(crate) trait Chained<S> {
    /// The owner's chain.
    fn chain(&self, state: &State<S>) -> Ends;
    /// Replaces it.
    fn set_chain(&self, state: &State<S>, chain: Ends);
}

/// The lists that a slot may be on.
#[derive(Clone, Copy)]
enum List {
    /// What is to be read, in that order; or the free slots.
    Ready,
    /// The groups that are owed an answer, oldest first.
    Waiting,
    /// Those of one owner.
    Chain,
}

/// A slot's neighbours on a list.
#[derive(Clone, Copy)]
struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    const NONE: Self = Self {
        prev: NIL,
        next: NIL,
    };
}

/// Most notes that wait in a queue.
const MAX_NOTES: u32 = 64;

/// Slots that stand in one piece of memory.
pub(crate) const CHUNK: usize = 64;

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
    ready: Links,
    waiting: Links,
    chain: Links,
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
            ready: Links::NONE,
            waiting: Links::NONE,
            chain: Links::NONE,
            weight: 0,
            expired: false,
            group: None,
            records: None,
        }
    }

    fn links(&mut self, list: List) -> &mut Links {
        match list {
            List::Ready => &mut self.ready,
            List::Waiting => &mut self.waiting,
            List::Chain => &mut self.chain,
        }
    }
}

/// A group that was taken out of its slot, and where that stood.
struct Taken<G> {
    group: G,
    phase: Phase,
}

/// The state of one fault queue.
///
/// # Invariants
///
/// - Each slot is on exactly one of these lists: free (`Free`), or ready (`Unread`, `Cancelled`
///   and `Note`), or none (all others).
/// - The slots with a group are on `oldest` and on their owner's chain, in the order in which
///   they came.
/// - Each chunk of `slots` but the last has [`CHUNK`]; there are `depth` in all, or none after
///   [`State::take_slots`].
/// - `delivering` is the number of deliveries that were begun and not ended.
/// - `notes` is the number of slots in phases `Note` and `Noting`.
/// - `waiting` is the sum of `weight` over all slots that are not free, at most
///   `depth`.
/// - `group` is `Some` exactly in phases `Unread`, `Delivering` and `Read`, but for a
///   group that was answered while it was being delivered.
pub(crate) struct State<S> {
    slots: S,
    free: u32,
    ready: Ends,
    oldest: Ends,
    depth: u32,
    waiting: u32,
    notes: u32,
    delivering: u32,
    lost: u64,
    closed: bool,
    ended: bool,
}

impl<S, C, G, R> State<S>
where
    S: DerefMut<Target = [C]>,
    C: DerefMut<Target = [Slot<G, R>]> + 'static,
    G: Chained<S> + 'static,
    R: 'static,
{
    /// A queue whose groups together have at most one record for each slot in `slots`, which must
    /// be free, [`CHUNK`] in each chunk but the last. `None` if there are none, or more than
    /// [`MAX_SLOTS`], or chunks of another size.
    pub(crate) fn new(mut slots: S) -> Option<Self> {
        let (last, full) = slots.split_last()?;
        let depth = full.len() * CHUNK + last.len();
        let fits = (1..=CHUNK).contains(&last.len()) && full.iter().all(|one| one.len() == CHUNK);
        if !fits || depth > MAX_SLOTS {
            return None;
        }
        let all = slots.iter_mut().flat_map(|chunk| chunk.iter_mut());
        for (index, slot) in all.enumerate() {
            slot.ready.next = if index + 1 < depth {
                index as u32 + 1
            } else {
                NIL
            };
        }
        Some(Self {
            slots,
            free: 0,
            ready: Ends::EMPTY,
            oldest: Ends::EMPTY,
            depth: depth as u32,
            waiting: 0,
            notes: 0,
            delivering: 0,
            lost: 0,
            closed: false,
            ended: false,
        })
    }

    fn slot(&self, index: u32) -> Option<&Slot<G, R>> {
        let index = index as usize;
        self.slots.get(index / CHUNK)?.get(index % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<G, R>> {
        slot_mut(&mut self.slots, index)
    }

    /// Whether a read would not block. What another reader copies just now may come back, so
    /// that the end of the file waits for it.
    pub(crate) fn readable(&self) -> bool {
        self.has_records() || self.ended && self.delivering == 0
    }

    /// Whether there is something to read before the end.
    pub(crate) fn has_records(&self) -> bool {
        self.ready.head != NIL || self.lost != 0
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

    /// Takes the slots out of a queue that is closed and has answered every group: nobody reads
    /// what is in them.
    pub(crate) fn take_slots(&mut self) -> S
    where
        S: Default,
    {
        self.free = NIL;
        self.ready = Ends::EMPTY;
        self.oldest = Ends::EMPTY;
        self.waiting = 0;
        self.notes = 0;
        core::mem::take(&mut self.slots)
    }

    /// Whether the last reader is gone.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// How full it is.
    pub(crate) fn levels(&self) -> Levels {
        Levels {
            depth: self.depth,
            waiting: self.waiting,
            lost: self.lost,
        }
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
    ) -> Result<(), Refusal<G, R>> {
        if self.closed || self.ended {
            return Err(Refusal {
                why: Refused::Closed,
                group,
                records,
            });
        }
        let index = self.free;
        let room = self.depth - self.waiting;
        let Some(slot) = slot_mut(&mut self.slots, index).filter(|_| weight <= room) else {
            self.lost = self.lost.saturating_add(u64::from(weight));
            return Err(Refusal {
                why: Refused::Full,
                group,
                records,
            });
        };
        self.free = slot.ready.next;
        slot.generation += 1;
        mark(&mut records, cookie(slot.generation, index));
        slot.phase = Phase::Unread;
        slot.weight = weight;
        slot.expired = false;
        slot.records = Some(records);
        self.waiting += weight;
        self.ready = self.append(List::Ready, self.ready, index);
        self.oldest = self.append(List::Waiting, self.oldest, index);
        let chain = self.append(List::Chain, group.chain(self), index);
        group.set_chain(self, chain);
        if let Some(slot) = self.slot_mut(index) {
            slot.group = Some(group);
        }
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
        let Some(slot) = slot_mut(&mut self.slots, index) else {
            return self.lose(1);
        };
        self.free = slot.ready.next;
        slot.generation += 1;
        slot.phase = Phase::Note;
        slot.weight = 1;
        slot.records = Some(records);
        self.waiting += 1;
        self.notes += 1;
        self.ready = self.append(List::Ready, self.ready, index);
    }

    /// Counts records that were answered INVALID before they came here.
    pub(crate) fn lose(&mut self, records: u64) {
        if !self.closed && !self.ended {
            self.lost = self.lost.saturating_add(records);
        }
    }

    /// What a reader gets next, if `fits` says that its records fit; `Ok(None)` if
    /// there is nothing, `Err(())` if they do not fit.
    pub(crate) fn next(
        &mut self,
        fits: impl FnOnce(Option<&R>) -> bool,
    ) -> Result<Option<Next<R>>, ()> {
        if self.lost != 0 {
            if !fits(None) {
                return Err(());
            }
            self.delivering += 1;
            return Ok(Some(Next::Overflow(core::mem::take(&mut self.lost))));
        }
        let index = self.ready.head;
        let Some(slot) = self.slot_mut(index) else {
            return Ok(None);
        };
        if !fits(slot.records.as_ref()) {
            return Err(());
        }
        let name = cookie(slot.generation, index);
        let phase = core::mem::replace(&mut slot.phase, Phase::Delivering);
        let records = slot.records.take();
        self.delivering += 1;
        self.ready = self.unlink(List::Ready, self.ready, index);
        Ok(match (phase, records) {
            (Phase::Unread, Some(records)) => Some(Next::Group {
                cookie: name,
                records,
            }),
            (Phase::Note, Some(records)) => {
                if let Some(slot) = self.slot_mut(index) {
                    slot.phase = Phase::Noting;
                }
                Some(Next::Note {
                    cookie: name,
                    records,
                })
            }
            _ => {
                let Some(slot) = self.slot_mut(index) else {
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
        self.delivering -= 1;
        let index = slot_of(name);
        let Some(slot) = self.current(name) else {
            return;
        };
        match slot.phase {
            Phase::Delivering if slot.group.is_some() => slot.phase = Phase::Read,
            Phase::Delivering => {
                slot.phase = Phase::Cancelled;
                self.ready = self.append(List::Ready, self.ready, index);
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
        self.delivering -= 1;
        let index = slot_of(name);
        let Some(slot) = self.current(name) else {
            return;
        };
        match slot.phase {
            Phase::Delivering if slot.group.is_some() => {
                slot.phase = Phase::Unread;
                slot.records = Some(records);
                self.ready = self.prepend(List::Ready, self.ready, index);
            }
            Phase::Noting => {
                slot.phase = Phase::Note;
                slot.records = Some(records);
                self.ready = self.prepend(List::Ready, self.ready, index);
            }
            // Answered meanwhile: what the user never saw need not be cancelled.
            Phase::Delivering | Phase::Answered => self.release(index),
            _ => {}
        }
    }

    /// Ends the delivery of an overflow count that reached the user.
    pub(crate) fn told(&mut self) {
        self.delivering -= 1;
    }

    /// Puts an overflow count back that could not be copied to its reader.
    pub(crate) fn unlost(&mut self, records: u64) {
        self.delivering -= 1;
        self.lost = self.lost.saturating_add(records);
    }

    /// Ends the delivery of a CANCELLED record that failed: it is again the next to be read.
    pub(crate) fn unannounced(&mut self, name: u64) {
        self.delivering -= 1;
        let index = slot_of(name);
        if let Some(slot) = self.current(name) {
            if slot.phase == Phase::Announcing {
                slot.phase = Phase::Cancelled;
                self.ready = self.prepend(List::Ready, self.ready, index);
            }
        }
    }

    /// What `name` names.
    pub(crate) fn look_up(&self, name: u64) -> Cookie {
        let generation = name >> SLOT_BITS;
        let Some(slot) = self.slot(slot_of(name)) else {
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
            Cookie::Pending => self.slot(slot_of(name))?.group.as_ref(),
            _ => None,
        }
    }

    /// Takes the group of `name` out, if it is pending, for its user's answer.
    pub(crate) fn take(&mut self, name: u64) -> Option<G> {
        if self.look_up(name) != Cookie::Pending {
            return None;
        }
        let index = slot_of(name);
        let Taken { group, phase } = self.take_group(index)?;
        if phase == Phase::Read {
            self.release(index);
        } else if let Some(slot) = self.slot_mut(index) {
            slot.phase = Phase::Answered;
        }
        Some(group)
    }

    /// Takes the first group of an owner's `chain` out if `wanted` holds for it, for the host's
    /// answer: because its deadline passed if `expired`, because its binding or its reader went
    /// otherwise. If its user has read it, a record says so, unless nobody reads any more.
    pub(crate) fn take_first(
        &mut self,
        chain: Ends,
        expired: bool,
        wanted: impl FnOnce(&G) -> bool,
    ) -> Option<G> {
        let index = chain.head;
        self.group(index).filter(|group| wanted(group))?;
        let Taken { group, phase } = self.take_group(index)?;
        if let Some(slot) = self.slot_mut(index) {
            slot.expired = expired;
        }
        match phase {
            Phase::Unread => {
                self.ready = self.unlink(List::Ready, self.ready, index);
                self.release(index);
            }
            Phase::Read if self.closed => self.release(index),
            Phase::Read => {
                if let Some(slot) = self.slot_mut(index) {
                    slot.phase = Phase::Cancelled;
                }
                self.ready = self.append(List::Ready, self.ready, index);
            }
            // The delivery goes on, and ends in `Cancelled` if it reaches the user.
            _ => {}
        }
        Some(group)
    }

    /// The group that waits for its answer longest.
    pub(crate) fn oldest(&self) -> Option<&G> {
        self.group(self.oldest.head)
    }

    fn group(&self, index: u32) -> Option<&G> {
        self.slot(index)?.group.as_ref()
    }

    /// Takes the group of a slot out, and says where it stood.
    fn take_group(&mut self, index: u32) -> Option<Taken<G>> {
        let slot = self.slot_mut(index)?;
        let (group, phase) = (slot.group.take()?, slot.phase);
        self.oldest = self.unlink(List::Waiting, self.oldest, index);
        let chain = self.unlink(List::Chain, group.chain(self), index);
        group.set_chain(self, chain);
        Some(Taken { group, phase })
    }

    /// The slot that `name` stands in, if it is the latest there.
    fn current(&mut self, name: u64) -> Option<&mut Slot<G, R>> {
        let slot = self.slot_mut(slot_of(name))?;
        (slot.generation == name >> SLOT_BITS).then_some(slot)
    }

    /// Puts a slot at the end of a list; the list's ends after that.
    fn append(&mut self, list: List, mut ends: Ends, index: u32) -> Ends {
        let tail = ends.tail;
        self.link(list, &mut ends, tail, index);
        self.link(list, &mut ends, index, NIL);
        ends
    }

    /// The same, at its start.
    fn prepend(&mut self, list: List, mut ends: Ends, index: u32) -> Ends {
        let head = ends.head;
        self.link(list, &mut ends, index, head);
        self.link(list, &mut ends, NIL, index);
        ends
    }

    /// Takes a slot from a list; the list's ends after that.
    fn unlink(&mut self, list: List, mut ends: Ends, index: u32) -> Ends {
        if let Some(slot) = self.slot_mut(index) {
            let Links { prev, next } = *slot.links(list);
            self.link(list, &mut ends, prev, next);
        }
        ends
    }

    /// Makes `right` follow `left` in a list; [`NIL`] is its end.
    fn link(&mut self, list: List, ends: &mut Ends, left: u32, right: u32) {
        match self.slot_mut(left) {
            Some(slot) => slot.links(list).next = right,
            None => ends.head = right,
        }
        match self.slot_mut(right) {
            Some(slot) => slot.links(list).prev = left,
            None => ends.tail = left,
        }
    }

    fn release(&mut self, index: u32) {
        let Some(slot) = slot_mut(&mut self.slots, index) else {
            return;
        };
        self.waiting -= slot.weight;
        slot.phase = Phase::Free;
        slot.weight = 0;
        slot.records = None;
        slot.ready.next = self.free;
        self.free = index;
    }
}

/// Slot number `index`.
fn slot_mut<C, G, R>(slots: &mut [C], index: u32) -> Option<&mut Slot<G, R>>
where
    C: DerefMut<Target = [Slot<G, R>]>,
    G: 'static,
    R: 'static,
{
    let index = index as usize;
    slots.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
}

fn cookie(generation: u64, index: u32) -> u64 {
    generation << SLOT_BITS | u64::from(index)
}

fn slot_of(name: u64) -> u32 {
    // CAST: masked to SLOT_BITS.
    (name & SLOT_MASK) as u32
}
