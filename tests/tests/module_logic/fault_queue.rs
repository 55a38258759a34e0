// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of a fault queue: cookies, depth, order, and what an answer may do when.

use crate::queue::{Chained, Cookie, Ends, Levels, Next, Refused, Slot, State, CHUNK};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Owners of groups: a group's number modulo this is its owner.
const OWNERS: usize = 4;

/// A queue of `depth` records that is empty.
fn empty(depth: u32) -> Levels {
    Levels {
        depth,
        waiting: 0,
        lost: 0,
    }
}

/// A group is its number, and the chain of its owner.
struct Group {
    number: u32,
    owner: Rc<Cell<Ends>>,
}

impl<S> Chained<S> for Group {
    fn chain(&self, _: &State<S>) -> Ends {
        self.owner.get()
    }

    fn set_chain(&self, _: &State<S>, chain: Ends) {
        self.owner.set(chain);
    }
}

/// A group's number, its size and its cookie.
type Records = (u32, u32, u64);

type Chunk = Vec<Slot<Group, Records>>;

/// Counts how often slots are reached for.
#[derive(Default)]
struct Slots {
    slots: Vec<Chunk>,
    steps: Rc<Cell<u64>>,
}

impl Deref for Slots {
    type Target = [Chunk];

    fn deref(&self) -> &Self::Target {
        self.steps.set(self.steps.get() + 1);
        &self.slots
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.steps.set(self.steps.get() + 1);
        &mut self.slots
    }
}

fn chunks(depth: usize) -> Vec<Chunk> {
    let chunk = |from: usize| (from..depth.min(from + CHUNK)).map(|_| Slot::free());
    (0..depth)
        .step_by(CHUNK)
        .map(|from| chunk(from).collect())
        .collect()
}

struct Queue {
    state: State<Slots>,
    steps: Rc<Cell<u64>>,
    owners: Vec<Rc<Cell<Ends>>>,
}

impl Deref for Queue {
    type Target = State<Slots>;

    fn deref(&self) -> &Self::Target {
        &self.state
    }
}

impl DerefMut for Queue {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.state
    }
}

impl Queue {
    fn with_owners(depth: usize, owners: usize) -> Self {
        let steps = Rc::new(Cell::new(0));
        let slots = Slots {
            slots: chunks(depth),
            steps: steps.clone(),
        };
        Self {
            steps,
            state: State::new(slots).expect("a good depth"),
            owners: (0..owners)
                .map(|_| Rc::new(Cell::new(Ends::EMPTY)))
                .collect(),
        }
    }

    fn answer(&mut self, cookie: u64) -> Option<u32> {
        self.take(cookie).map(|group| group.number)
    }

    /// Takes the oldest group of an owner out for the host.
    fn host(&mut self, owner: usize, expired: bool) -> Option<u32> {
        let chain = self.owners[owner].get();
        self.take_first(chain, expired, |_| true)
            .map(|group| group.number)
    }
}

fn queue(depth: usize) -> Queue {
    Queue::with_owners(depth, OWNERS)
}

fn push(queue: &mut Queue, number: u32, weight: u32) -> Result<(), Refused> {
    let owner = queue.owners[number as usize % queue.owners.len()].clone();
    let group = Group { number, owner };
    queue
        .push(group, weight, (number, weight, 0), |records, cookie| {
            records.2 = cookie
        })
        .map_err(|refusal| refusal.why)
}

fn read(queue: &mut Queue) -> Option<Next<Records>> {
    queue.next(|_| true).expect("it fits")
}

fn read_group(queue: &mut Queue) -> (u64, Records) {
    match read(queue) {
        Some(Next::Group { cookie, records }) => {
            queue.delivered(cookie);
            (cookie, records)
        }
        _ => panic!("no group"),
    }
}

#[test]
fn push_past_depth_is_refused_and_reported_once() {
    let mut queue = queue(4);
    assert_eq!(push(&mut queue, 1, 3), Ok(()));
    assert_eq!(push(&mut queue, 2, 2), Err(Refused::Full));
    assert_eq!(push(&mut queue, 3, 1), Ok(()));
    assert_eq!(push(&mut queue, 4, 1), Err(Refused::Full));
    assert!(matches!(read(&mut queue), Some(Next::Overflow(3))));
    assert_eq!(read_group(&mut queue).1 .0, 1);
}

#[test]
fn depth_is_held_by_groups_that_were_read_until_they_are_answered() {
    let mut queue = queue(1);
    assert_eq!(push(&mut queue, 1, 1), Ok(()));
    let (cookie, _) = read_group(&mut queue);
    assert_eq!(push(&mut queue, 2, 1), Err(Refused::Full));
    assert_eq!(queue.answer(cookie), Some(1));
    assert_eq!(push(&mut queue, 3, 1), Ok(()));
}

#[test]
fn cookie_is_unknown_until_read_then_pending_then_late() {
    let mut queue = queue(2);
    assert_eq!(queue.look_up(0), Cookie::Unknown);
    push(&mut queue, 1, 1).expect("room");
    assert_eq!(queue.answer(1 << 16), None);
    let (cookie, records) = read_group(&mut queue);
    assert_eq!(cookie, records.2);
    assert_eq!(queue.look_up(cookie), Cookie::Pending);
    assert_eq!(queue.answer(cookie), Some(1));
    assert_eq!(queue.look_up(cookie), Cookie::Late);
    assert_eq!(queue.answer(cookie), None);
    assert_eq!(queue.look_up(cookie + (1 << 16)), Cookie::Unknown);
    assert_eq!(queue.look_up(u64::MAX), Cookie::Unknown);
}

#[test]
fn delivery_that_fails_loses_nothing() {
    let mut queue = queue(4);
    push(&mut queue, 1, 1).expect("room");
    push(&mut queue, 2, 1).expect("room");
    let Some(Next::Group { cookie, records }) = read(&mut queue) else {
        panic!("no group");
    };
    queue.undelivered(cookie, records);
    assert_eq!(read_group(&mut queue).1 .0, 1);
    assert_eq!(read_group(&mut queue).1 .0, 2);
}

#[test]
fn group_too_large_for_the_reader_stays_first() {
    let mut queue = queue(4);
    push(&mut queue, 1, 3).expect("room");
    assert!(queue
        .next(|records| records.is_some_and(|r| r.1 <= 2))
        .is_err());
    assert_eq!(read_group(&mut queue).1 .0, 1);
}

#[test]
fn cancel_of_unread_leaves_no_trace_and_of_read_one_record() {
    let mut queue = queue(4);
    push(&mut queue, 1, 1).expect("room");
    push(&mut queue, 2, 1).expect("room");
    let (cookie, _) = read_group(&mut queue);
    assert_eq!(
        (queue.host(1, false), queue.host(1, false)),
        (Some(1), None)
    );
    assert_eq!(
        (queue.host(2, false), queue.host(2, false)),
        (Some(2), None)
    );
    assert_eq!(queue.look_up(cookie), Cookie::Late);
    assert!(matches!(read(&mut queue), Some(Next::Cancelled(c)) if c == cookie));
    assert!(read(&mut queue).is_none());
}

#[test]
fn cancel_during_delivery_is_told_if_the_user_got_it_and_not_if_not() {
    for delivered in [true, false] {
        let mut queue = queue(2);
        push(&mut queue, 1, 1).expect("room");
        let Some(Next::Group { cookie, records }) = read(&mut queue) else {
            panic!("no group");
        };
        assert_eq!(queue.host(1, false), Some(1));
        if delivered {
            queue.delivered(cookie);
            assert!(matches!(read(&mut queue), Some(Next::Cancelled(c)) if c == cookie));
            queue.delivered(cookie);
        } else {
            queue.undelivered(cookie, records);
        }
        assert!(read(&mut queue).is_none());
        assert_eq!(push(&mut queue, 2, 2), Ok(()));
    }
}

#[test]
fn answer_during_delivery_is_late_for_the_second_and_frees_the_slot() {
    let mut queue = queue(1);
    push(&mut queue, 1, 1).expect("room");
    let Some(Next::Group { cookie, .. }) = read(&mut queue) else {
        panic!("no group");
    };
    assert_eq!(queue.answer(cookie), Some(1));
    queue.delivered(cookie);
    assert_eq!(queue.look_up(cookie), Cookie::Late);
    assert!(
        read(&mut queue).is_none(),
        "an answered group needs no CANCELLED record"
    );
    assert_eq!(push(&mut queue, 2, 1), Ok(()));
}

#[test]
fn group_that_expires_is_said_to_have() {
    let mut queue = queue(2);
    push(&mut queue, 1, 1).expect("room");
    let (cookie, _) = read_group(&mut queue);
    assert_eq!(queue.host(1, true), Some(1));
    assert_eq!(queue.look_up(cookie), Cookie::Late);
    assert!(matches!(read(&mut queue), Some(Next::Expired(c)) if c == cookie));
    queue.unannounced(cookie);
    assert!(matches!(read(&mut queue), Some(Next::Expired(c)) if c == cookie));
    queue.delivered(cookie);
    // The slot's next group is not late for that.
    push(&mut queue, 2, 1).expect("room");
    let (cookie, _) = read_group(&mut queue);
    assert_eq!(queue.host(2, false), Some(2));
    assert!(matches!(read(&mut queue), Some(Next::Cancelled(c)) if c == cookie));
}

#[test]
fn cancelled_record_that_fails_to_copy_is_read_again() {
    let mut queue = queue(2);
    push(&mut queue, 1, 1).expect("room");
    let (cookie, _) = read_group(&mut queue);
    assert_eq!(queue.host(1, false), Some(1));
    assert!(matches!(read(&mut queue), Some(Next::Cancelled(c)) if c == cookie));
    push(&mut queue, 2, 1).expect("room");
    queue.unannounced(cookie);
    let mut seen = Vec::new();
    while let Some(next) = read(&mut queue) {
        match next {
            Next::Cancelled(c) => {
                queue.delivered(c);
                seen.push(("cancelled", c));
            }
            Next::Group { cookie, .. } => {
                queue.delivered(cookie);
                seen.push(("group", cookie));
            }
            Next::Overflow(_) | Next::Expired(_) | Next::Note { .. } => {
                panic!("neither full nor late")
            }
        }
    }
    assert!(seen.contains(&("cancelled", cookie)), "{seen:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn closed_and_ended_queues_refuse() {
    let mut closed = queue(1);
    closed.close();
    assert_eq!(push(&mut closed, 1, 1), Err(Refused::Closed));
    let mut ended = queue(1);
    assert!(!ended.readable());
    ended.end();
    assert!(ended.readable() && ended.ended() && !ended.has_records());
    assert_eq!(push(&mut ended, 1, 1), Err(Refused::Closed));
}

#[test]
fn note_is_read_in_its_turn_and_needs_no_answer() {
    let mut queue = queue(4);
    push(&mut queue, 1, 1).expect("room");
    queue.push_note((7, 1, 0));
    assert_eq!(read_group(&mut queue).1 .0, 1);
    for delivered in [false, true] {
        let Some(Next::Note { cookie, records }) = read(&mut queue) else {
            panic!("no note");
        };
        assert_eq!(records.0, 7);
        assert_eq!(queue.look_up(cookie), Cookie::Unknown);
        if delivered {
            queue.delivered(cookie);
        } else {
            queue.undelivered(cookie, records);
        }
    }
    assert!(read(&mut queue).is_none());
    assert_eq!(push(&mut queue, 2, 3), Ok(()), "its room is free again");
}

#[test]
fn notes_leave_half_of_the_queue_to_groups() {
    let mut queue = queue(4);
    for number in 0..5 {
        queue.push_note((number, 1, 0));
    }
    assert_eq!(push(&mut queue, 1, 2), Ok(()));
    assert!(matches!(read(&mut queue), Some(Next::Overflow(3))));
}

#[test]
fn end_of_the_file_waits_for_what_another_reader_copies() {
    for delivered in [true, false] {
        let mut queue = queue(2);
        push(&mut queue, 1, 1).expect("room");
        let (cookie, _) = read_group(&mut queue);
        assert_eq!(queue.host(1, false), Some(1));
        assert!(matches!(read(&mut queue), Some(Next::Cancelled(c)) if c == cookie));
        queue.end();
        assert!(!queue.readable(), "the record may come back");
        if delivered {
            queue.delivered(cookie);
            assert!(!queue.has_records());
        } else {
            queue.unannounced(cookie);
            assert!(queue.has_records());
        }
        assert!(queue.readable());
    }
}

#[test]
fn groups_copied_by_two_readers_at_once_are_both_kept() {
    let mut queue = queue(4);
    push(&mut queue, 1, 1).expect("room");
    push(&mut queue, 2, 1).expect("room");
    let (first, second) = (read(&mut queue), read(&mut queue));
    let (Some(Next::Group { cookie: a, records }), Some(Next::Group { cookie: b, .. })) =
        (first, second)
    else {
        panic!("no two groups");
    };
    queue.delivered(b);
    queue.undelivered(a, records);
    assert_eq!(queue.look_up(a), Cookie::Unknown);
    assert_eq!(queue.answer(b), Some(2));
    assert_eq!(read_group(&mut queue).0, a);
    assert_eq!(queue.answer(a), Some(1));
}

/// Steps to fill a queue of `depth`, each group another owner's if `owners` is the depth, and to
/// take all of it out: by the answers of its user, in an order that is not its own, or owner by
/// owner.
fn steps_of_a_full_queue(depth: u32, owners: u32, by_user: bool) -> u64 {
    let mut queue = Queue::with_owners(depth as usize, owners as usize);
    for number in 0..depth {
        push(&mut queue, number, 1).expect("room");
    }
    let mut cookies: Vec<u64> = (0..depth).map(|_| read_group(&mut queue).0).collect();
    if by_user {
        cookies.sort_unstable_by_key(|cookie| cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for cookie in cookies {
            assert!(queue.answer(cookie).is_some());
        }
    } else {
        for owner in 0..owners as usize {
            while queue.host(owner, false).is_some() {}
        }
        while let Some(Next::Cancelled(cookie)) = read(&mut queue) {
            queue.delivered(cookie);
        }
    }
    assert!(queue.oldest().is_none());
    assert_eq!(queue.levels(), empty(depth));
    queue.steps.get()
}

#[test]
fn full_queue_is_emptied_in_time_proportional_to_its_depth() {
    // The greatest depth of a fault queue.
    const DEPTH: u32 = 16384;
    for by_user in [true, false] {
        for owners in [1, DEPTH] {
            let steps = steps_of_a_full_queue(DEPTH, owners, by_user);
            let each = steps / u64::from(DEPTH);
            assert!(
                each < 64,
                "{each} steps a group: {owners} owners, {by_user}"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u32),
    Note,
    Read(bool),
    Answer(usize),
    Cancel(usize),
    Forge(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..4).prop_map(Step::Push),
        2 => Just(Step::Note),
        3 => any::<bool>().prop_map(Step::Read),
        3 => (0usize..40).prop_map(Step::Answer),
        1 => (0..OWNERS).prop_map(Step::Cancel),
        1 => any::<u64>().prop_map(Step::Forge),
    ]
}

proptest! {
    /// Every group that is taken in comes out once, answered by exactly one side; what is read
    /// comes in order; the depth holds.
    #[test]
    fn queue_gives_each_group_out_once(steps in proptest::collection::vec(step(), 1..200)) {
        const DEPTH: usize = 8;
        let mut queue = queue(DEPTH);
        let mut number = 0;
        // Number, weight, and whether it is a note.
        let mut unread: VecDeque<(u32, u32, bool)> = VecDeque::new();
        let mut pending: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        let mut cancelled: BTreeMap<u64, u32> = BTreeMap::new();
        let mut late: BTreeSet<u64> = BTreeSet::new();
        let mut lost = 0u64;
        for step in steps {
            let waiting: u32 = unread.iter().map(|g| g.1).sum::<u32>()
                + pending.values().map(|g| g.1).sum::<u32>()
                + cancelled.values().sum::<u32>();
            match step {
                Step::Push(weight) => {
                    number += 1;
                    let fits = (waiting + weight) as usize <= DEPTH;
                    prop_assert_eq!(push(&mut queue, number, weight).is_ok(), fits);
                    if fits {
                        unread.push_back((number, weight, false));
                    } else {
                        lost += u64::from(weight);
                    }
                }
                Step::Note => {
                    number += 1;
                    queue.push_note((number, 1, 0));
                    let notes = unread.iter().filter(|g| g.2).count();
                    if (waiting as usize) < DEPTH && notes < DEPTH / 2 {
                        unread.push_back((number, 1, true));
                    } else {
                        lost += 1;
                    }
                }
                Step::Read(works) => match read(&mut queue) {
                    None => prop_assert!(unread.is_empty() && cancelled.is_empty() && lost == 0),
                    Some(Next::Overflow(count)) => {
                        prop_assert_eq!(count, lost);
                        if works {
                            queue.told();
                            lost = 0;
                        } else {
                            queue.unlost(count);
                        }
                    }
                    Some(Next::Expired(cookie)) => {
                        prop_assert!(false, "{:#x} expired without a deadline", cookie);
                    }
                    Some(Next::Cancelled(cookie)) => {
                        prop_assert!(cancelled.contains_key(&cookie));
                        if works {
                            queue.delivered(cookie);
                            cancelled.remove(&cookie);
                        } else {
                            queue.unannounced(cookie);
                        }
                    }
                    Some(Next::Note { cookie, records }) => {
                        prop_assert_eq!(Some((records.0, 1, true)), unread.front().copied());
                        if works {
                            queue.delivered(cookie);
                            unread.pop_front();
                        } else {
                            queue.undelivered(cookie, records);
                        }
                    }
                    Some(Next::Group { cookie, records }) => {
                        let read = (records.0, records.1, false);
                        prop_assert_eq!(Some(read), unread.front().copied());
                        prop_assert!(!pending.contains_key(&cookie) && !late.contains(&cookie));
                        if works {
                            queue.delivered(cookie);
                            unread.pop_front();
                            pending.insert(cookie, (records.0, records.1));
                        } else {
                            queue.undelivered(cookie, records);
                        }
                    }
                },
                Step::Answer(nth) => {
                    let all: Vec<u64> = pending.keys().chain(late.iter()).copied().collect();
                    if let Some(&cookie) = all.get(nth) {
                        let want = pending.remove(&cookie).map(|g| g.0);
                        prop_assert_eq!(queue.answer(cookie), want);
                        late.insert(cookie);
                    }
                }
                Step::Cancel(residue) => {
                    let wanted = |group: u32| group as usize % OWNERS == residue;
                    let mut taken = BTreeSet::new();
                    while let Some(group) = queue.host(residue, false) {
                        prop_assert!(taken.last().is_none_or(|&before| before < group));
                        taken.insert(group);
                    }
                    let mut want: BTreeSet<u32> =
                        unread.iter().filter(|g| !g.2 && wanted(g.0)).map(|g| g.0).collect();
                    unread.retain(|g| g.2 || !wanted(g.0));
                    for (cookie, (group, weight)) in pending.clone() {
                        if wanted(group) {
                            want.insert(group);
                            pending.remove(&cookie);
                            cancelled.insert(cookie, weight);
                            late.insert(cookie);
                        }
                    }
                    prop_assert_eq!(taken, want);
                }
                Step::Forge(cookie) => {
                    if !pending.contains_key(&cookie) {
                        prop_assert_eq!(queue.answer(cookie), None);
                        if !late.contains(&cookie) {
                            prop_assert_eq!(queue.look_up(cookie), Cookie::Unknown);
                        }
                    }
                }
            }
            let readable = !unread.is_empty() || !cancelled.is_empty() || lost != 0;
            prop_assert_eq!(queue.readable(), readable);
            let waiting = unread.iter().filter(|g| !g.2).map(|g| g.0);
            let oldest = waiting.chain(pending.values().map(|g| g.0)).min();
            prop_assert_eq!(queue.oldest().map(|group| group.number), oldest);
        }
    }
}

#[test]
fn chunks_of_another_size_are_refused() {
    let state = |sizes: &[usize]| {
        let chunk = |&size: &usize| (0..size).map(|_| Slot::free()).collect();
        let slots: Vec<Chunk> = sizes.iter().map(chunk).collect();
        State::new(slots).map(|state| state.levels().depth as usize)
    };
    assert_eq!(state(&[CHUNK]), Some(CHUNK));
    assert_eq!(state(&[CHUNK, 1]), Some(CHUNK + 1));
    assert_eq!(state(&[]), None);
    assert_eq!(state(&[0]), None);
    assert_eq!(state(&[CHUNK, 0]), None);
    assert_eq!(state(&[1, CHUNK]), None);
    assert_eq!(state(&[CHUNK + 1]), None);
}

#[test]
fn slots_of_several_chunks_are_all_used() {
    let depth = 3 * CHUNK + 5;
    let mut queue = queue(depth);
    for number in 0..depth as u32 {
        assert_eq!(push(&mut queue, number, 1), Ok(()), "group {number}");
    }
    assert_eq!(push(&mut queue, 0, 1), Err(Refused::Full));
    assert!(matches!(read(&mut queue), Some(Next::Overflow(1))));
    queue.told();
    for number in 0..depth as u32 {
        let (cookie, records) = read_group(&mut queue);
        assert_eq!(records.0, number);
        assert_eq!(queue.answer(cookie), Some(number));
    }
}

#[test]
fn closed_queue_without_slots_refuses_and_has_nothing() {
    let mut queue = queue(CHUNK + 1);
    push(&mut queue, 1, 1).expect("room");
    push(&mut queue, 2, 1).expect("room");
    let (cookie, _) = read_group(&mut queue);
    queue.close();
    assert_eq!(queue.host(1, false), Some(1));
    assert_eq!(queue.host(2, false), Some(2));
    let slots = queue.take_slots();
    assert_eq!(slots.slots.len(), 2);
    assert_eq!(push(&mut queue, 3, 1), Err(Refused::Closed));
    queue.push_note((4, 1, 0));
    assert!(queue.oldest().is_none());
    assert_eq!(queue.host(1, false), None);
    assert_eq!(queue.answer(cookie), None);
    assert!(read(&mut queue).is_none());
    assert_eq!(queue.levels(), empty(CHUNK as u32 + 1));
}
