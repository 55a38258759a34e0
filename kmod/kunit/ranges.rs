// SPDX-License-Identifier: GPL-2.0
//! Ranges of addresses, and trees of them.

use kernel::prelude::*;

#[allow(unsafe_code, reason = "what the macro makes of it")]
#[kunit_tests(ioasid_ranges)]
mod tests {
    use super::*;
    use crate::base::iova::{IovaRange, Windows, MAX_WINDOWS};
    use crate::base::range_map::{self, Ranged};
    use kernel::rbtree::RBTree;

    struct Item(IovaRange);

    impl Ranged for Item {
        fn range(&self) -> &IovaRange {
            &self.0
        }
    }

    fn range(start: u64, last: u64) -> Result<IovaRange> {
        IovaRange::new(start, last).ok_or(EINVAL)
    }

    /// 0x10 to 0x1f, and 0x40 to the end.
    fn tree() -> Result<RBTree<u64, Item>> {
        let mut tree = RBTree::new();
        for (start, last) in [(0x10, 0x1f), (0x40, u64::MAX)] {
            tree.try_create_and_insert(start, Item(range(start, last)?), GFP_KERNEL)?;
        }
        Ok(tree)
    }

    #[test]
    fn address_is_found_in_what_holds_it() -> Result {
        let tree = tree()?;
        let start = |address| range_map::at(&tree, address).map(|item| item.range().start());
        assert_eq!(start(0xf), None);
        assert_eq!(start(0x10), Some(0x10));
        assert_eq!(start(0x1f), Some(0x10));
        assert_eq!(start(0x20), None);
        assert_eq!(start(0x40), Some(0x40));
        assert_eq!(start(u64::MAX), Some(0x40));
        Ok(())
    }

    #[test]
    fn first_is_the_lowest_that_shares_an_address() -> Result {
        let tree = tree()?;
        let first = |start, last| -> Result<Option<u64>> {
            let found = range_map::first_in(&tree, &range(start, last)?);
            Ok(found.map(|item| item.range().start()))
        };
        assert_eq!(first(0, 0xf)?, None);
        assert_eq!(first(0, 0x10)?, Some(0x10));
        assert_eq!(first(0x1f, 0x50)?, Some(0x10));
        assert_eq!(first(0x20, 0x3f)?, None);
        assert_eq!(first(0x20, u64::MAX)?, Some(0x40));
        Ok(())
    }

    #[test]
    fn range_cuts_what_is_partly_inside() -> Result {
        let tree = tree()?;
        assert!(!range_map::cuts(&tree, &range(0, 0x3f)?));
        assert!(range_map::cuts(&tree, &range(0, 0x1e)?));
        assert!(range_map::cuts(&tree, &range(0x11, 0x3f)?));
        assert!(range_map::cuts(&tree, &range(0x30, 0x50)?));
        assert!(!range_map::cuts(&tree, &IovaRange::ALL));
        Ok(())
    }

    #[test]
    fn windows_are_divided_until_there_is_no_room() -> Result {
        let mut windows = Windows::all();
        for hole in 1..MAX_WINDOWS as u64 {
            let hole = range(hole << 12, hole << 12)?;
            assert!(windows.exclude(&hole).is_some());
        }
        assert_eq!(windows.iter().count(), MAX_WINDOWS);
        let one_more = range(1 << 40, 1 << 40)?;
        assert!(windows.exclude(&one_more).is_none());
        assert!(windows.contains(&one_more));
        assert_eq!(windows.gaps().count(), MAX_WINDOWS - 1);
        Ok(())
    }
}
