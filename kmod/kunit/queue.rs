// SPDX-License-Identifier: GPL-2.0
//! The state of a fault queue, in the kernel's memory.

use kernel::prelude::*;

#[allow(unsafe_code, reason = "what the macro makes of it")]
#[kunit_tests(ioasid_fault_queue)]
mod tests {
    use super::*;
    use crate::fault::queue::{Chained, Cookie, Ends, Levels, Next, Refused, Slot, State, CHUNK};
    use core::cell::Cell;
    use kernel::sync::Arc;

    /// Its number, and the chain of its owner.
    struct Group(u32, Arc<Cell<Ends>>);

    impl<S> Chained<S> for Group {
        fn chain(&self, _: &State<S>) -> Ends {
            self.1.get()
        }

        fn set_chain(&self, _: &State<S>, chain: Ends) {
            self.1.set(chain);
        }
    }

    type Chunk = KVec<Slot<Group, u64>>;
    type Queue = State<KVec<Chunk>>;

    fn owner() -> Result<Arc<Cell<Ends>>> {
        Ok(Arc::new(Cell::new(Ends::EMPTY), GFP_KERNEL)?)
    }

    /// Room for `depth` groups.
    fn queue(depth: usize) -> Result<Queue> {
        let mut chunks = KVec::new();
        let mut left = depth;
        while left != 0 {
            let mut chunk = Chunk::new();
            for _ in 0..left.min(CHUNK) {
                chunk.push(Slot::free(), GFP_KERNEL)?;
            }
            left -= chunk.len();
            chunks.push(chunk, GFP_KERNEL)?;
        }
        State::new(chunks).ok_or(EINVAL)
    }

    /// Takes a group of one record in, which is its cookie.
    fn push(queue: &mut Queue, number: u32, owner: &Arc<Cell<Ends>>) -> Result<(), Refused> {
        let group = Group(number, owner.clone());
        let mark = |record: &mut u64, cookie| *record = cookie;
        queue.push(group, 1, 0, mark).map_err(|refusal| refusal.why)
    }

    fn read(queue: &mut Queue) -> Option<Next<u64>> {
        queue.next(|_| true).ok().flatten()
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_once() -> Result {
        const DEPTH: usize = CHUNK + 1;

        let (owner, mut queue) = (owner()?, queue(DEPTH)?);
        for number in 0..DEPTH as u32 {
            assert!(push(&mut queue, number, &owner).is_ok());
        }
        assert_eq!(push(&mut queue, 0, &owner), Err(Refused::Full));
        let full = Levels {
            depth: DEPTH as u32,
            waiting: DEPTH as u32,
            lost: 1,
        };
        assert_eq!(queue.levels(), full);
        assert!(matches!(read(&mut queue), Some(Next::Overflow(1))));
        queue.told();
        assert_eq!(queue.levels(), Levels { lost: 0, ..full });
        assert!(matches!(read(&mut queue), Some(Next::Group { .. })));
        Ok(())
    }

    #[test]
    fn group_is_answered_once() -> Result {
        let (owner, mut queue) = (owner()?, queue(2)?);
        assert!(push(&mut queue, 7, &owner).is_ok());
        let Some(Next::Group { cookie, records }) = read(&mut queue) else {
            return Err(EINVAL);
        };
        assert_eq!(records, cookie);
        queue.delivered(cookie);
        assert_eq!(queue.look_up(cookie), Cookie::Pending);
        assert_eq!(queue.take(cookie).map(|group| group.0), Some(7));
        assert_eq!(queue.look_up(cookie), Cookie::Late);
        assert!(queue.take(cookie).is_none());
        assert_eq!(queue.levels().waiting, 0);
        Ok(())
    }

    #[test]
    fn host_answers_the_groups_of_one_owner() -> Result {
        let (one, other, mut queue) = (owner()?, owner()?, queue(4)?);
        for (number, owner) in [(1, &one), (2, &other), (3, &one)] {
            assert!(push(&mut queue, number, owner).is_ok());
        }
        for wanted in [Some(1), Some(3), None] {
            let taken = queue.take_first(one.get(), false, |_| true);
            assert_eq!(taken.map(|group| group.0), wanted);
        }
        assert_eq!(queue.oldest().map(|group| group.0), Some(2));
        Ok(())
    }
}
