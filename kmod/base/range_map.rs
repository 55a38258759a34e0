// SPDX-License-Identifier: GPL-2.0
//! Maps from disjoint ranges, each under its first address.

use super::iova::IovaRange;
use kernel::rbtree::RBTree;

/// Something that stands at a range of addresses.
pub(crate) trait Ranged {
    /// The addresses.
    fn range(&self) -> &IovaRange;
}

/// What holds `address`.
pub(crate) fn at<T: Ranged>(tree: &RBTree<u64, T>, address: u64) -> Option<&T> {
    let found = match tree.cursor_lower_bound(&address) {
        Some(here) if *here.current().0 == address => Some(*here.current().0),
        Some(above) => above.peek_prev().map(|(start, _)| *start),
        None => tree.cursor_back().map(|last| *last.current().0),
    };
    let value = tree.get(&found?)?;
    value.range().holds(address).then_some(value)
}

/// The lowest that shares an address with `range`.
pub(crate) fn first_in<'a, T: Ranged>(
    tree: &'a RBTree<u64, T>,
    range: &IovaRange,
) -> Option<&'a T> {
    if let Some(value) = at(tree, range.start()) {
        return Some(value);
    }
    let start = *tree.cursor_lower_bound(&range.start())?.current().0;
    let value = tree.get(&start)?;
    (start <= range.last()).then_some(value)
}

/// Whether something lies in `range` with a part only.
pub(crate) fn cuts<T: Ranged>(tree: &RBTree<u64, T>, range: &IovaRange) -> bool {
    let cut = |address| at(tree, address).is_some_and(|value| !range.contains(value.range()));
    cut(range.start()) || cut(range.last())
}
