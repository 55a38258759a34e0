// SPDX-License-Identifier: GPL-2.0
//! Arithmetic on IOVA ranges.
//!
//! Needs nothing but `core`, so that the same source is tested under cargo.

/// A range of I/O virtual addresses in bytes, both ends inclusive, never empty.
///
/// # Invariants
///
/// `start <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct IovaRange {
    start: u64,
    last: u64,
}

impl IovaRange {
    /// Every address.
    pub(crate) const ALL: Self = Self {
        start: 0,
        last: u64::MAX,
    };

    /// `start..=last`; `None` if it would be empty.
    pub(crate) fn new(start: u64, last: u64) -> Option<Self> {
        (start <= last).then_some(Self { start, last })
    }

    /// `size` bytes from `start` on; `None` if `size` is zero or the range would wrap.
    pub(crate) fn sized(start: u64, size: u64) -> Option<Self> {
        let last = start.checked_add(size.checked_sub(1)?)?;
        Some(Self { start, last })
    }

    /// First address.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Last address.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Bytes in the range; `None` for all 2^64.
    pub(crate) fn size(&self) -> Option<u64> {
        (self.last - self.start).checked_add(1)
    }

    /// Whether all of `other` lies in `self`.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// Whether `address` lies in `self`.
    pub(crate) fn holds(&self, address: u64) -> bool {
        self.start <= address && address <= self.last
    }

    /// What `self` and `other` share.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.last.min(other.last))
    }

    /// What is left of `self` below and above `hole`.
    pub(crate) fn without(&self, hole: &Self) -> Remainder {
        if self.intersection(hole).is_none() {
            return Remainder {
                below: Some(*self),
                above: None,
            };
        }
        let below = hole
            .start
            .checked_sub(1)
            .and_then(|last| Self::new(self.start, last));
        let above = hole
            .last
            .checked_add(1)
            .and_then(|start| Self::new(start, self.last));
        Remainder { below, above }
    }
}

/// What is left of a range below and above a hole; all of it is below a hole that it does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remainder {
    /// Below the hole.
    pub(crate) below: Option<IovaRange>,
    /// Above the hole.
    pub(crate) above: Option<IovaRange>,
}

impl Remainder {
    /// The one part that there is, if there are not two.
    fn one(self) -> Option<IovaRange> {
        self.below.or(self.above)
    }

    fn is_divided(&self) -> bool {
        self.below.is_some() && self.above.is_some()
    }
}

/// Most windows that a [`Windows`] holds: x86 firmware describes a handful of
/// reserved regions, each adds at most one window. Half a kilobyte: it stands on stacks.
pub(crate) const MAX_WINDOWS: usize = 33;

/// The addresses that can be mapped: disjoint ranges in ascending order.
///
/// # Invariants
///
/// `ranges[..len]` are disjoint and ascending; `len <= MAX_WINDOWS`.
#[derive(Clone)]
pub(crate) struct Windows {
    ranges: [IovaRange; MAX_WINDOWS],
    len: usize,
}

impl Windows {
    /// One window over every address.
    pub(crate) fn all() -> Self {
        Self {
            ranges: [IovaRange::ALL; MAX_WINDOWS],
            len: 1,
        }
    }

    /// The windows in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &IovaRange> {
        self.ranges.iter().take(self.len)
    }

    /// Whether one window holds all of `range`.
    pub(crate) fn contains(&self, range: &IovaRange) -> bool {
        self.iter().any(|window| window.contains(range))
    }

    /// What lies between the windows, below the first and above the last.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = IovaRange> + '_ {
        let behind = self.iter().map(|window| window.last.checked_add(1));
        let before = self.iter().map(|window| window.start.checked_sub(1));
        let starts = core::iter::once(Some(0)).chain(behind);
        let ends = before.chain(core::iter::once(Some(u64::MAX)));
        starts
            .zip(ends)
            .filter_map(|(start, last)| IovaRange::new(start?, last?))
    }

    /// Keeps only what lies in `aperture`.
    pub(crate) fn restrict(&mut self, aperture: &IovaRange) {
        self.keep(|window| window.intersection(aperture));
    }

    /// Takes `hole` out; `None`, and nothing changed, if that needs more than
    /// [`MAX_WINDOWS`] windows.
    pub(crate) fn exclude(&mut self, hole: &IovaRange) -> Option<()> {
        // A hole divides one window at most: the others have a part of it, or nothing.
        let divided = self
            .iter()
            .position(|window| window.without(hole).is_divided());
        match divided {
            Some(at) => self.divide(at, hole),
            None => {
                self.keep(|window| window.without(hole).one());
                Some(())
            }
        }
    }

    /// Replaces each window by its part that `part` gives, if there is one.
    fn keep(&mut self, part: impl Fn(&IovaRange) -> Option<IovaRange>) {
        let mut kept = 0;
        for index in 0..self.len {
            let window = self.ranges.get(index).and_then(&part);
            if let (Some(window), Some(place)) = (window, self.ranges.get_mut(kept)) {
                *place = window;
                kept += 1;
            }
        }
        self.len = kept;
    }

    /// Makes two windows of number `at`, which is on both sides of `hole`.
    fn divide(&mut self, at: usize, hole: &IovaRange) -> Option<()> {
        let len = self.len + 1;
        let tail = self.ranges.get_mut(at..len)?;
        let Remainder { below, above } = tail.first()?.without(hole);
        let (below, above) = (below?, above?);
        tail.rotate_right(1);
        *tail.get_mut(0)? = below;
        *tail.get_mut(1)? = above;
        self.len = len;
        Some(())
    }
}

/// Large entries of a page table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LargePages {
    /// Of 2 MiB.
    pub(crate) of_2m: u64,
    /// Of 1 GiB.
    pub(crate) of_1g: u64,
}

impl LargePages {
    /// Adds those of another range.
    pub(crate) fn add(&mut self, other: Self) {
        self.of_2m += other.of_2m;
        self.of_1g += other.of_1g;
    }

    /// Takes those of a range away that was added before.
    pub(crate) fn sub(&mut self, other: &Self) {
        self.of_2m = self.of_2m.saturating_sub(other.of_2m);
        self.of_1g = self.of_1g.saturating_sub(other.of_1g);
    }
}

/// The large entries that a page table of the page sizes `sizes` (bytes, as a bitmap) has for
/// `size` contiguous bytes at `phys`, mapped at `iova`: the largest that alignment and length
/// allow.
pub(crate) fn large_pages(iova: u64, phys: u64, size: u64, sizes: u64) -> LargePages {
    const SIZE_2M: u64 = 1 << 21;
    const SIZE_1G: u64 = 1 << 30;

    // How many blocks there are, and how many bytes before the first.
    let blocks = |size: u64, block: u64| {
        let head = iova.wrapping_neg() & (block - 1);
        let fits = sizes & block != 0 && (iova ^ phys) & (block - 1) == 0;
        let count = size.checked_sub(head).map_or(0, |rest| rest / block);
        (if fits { count } else { 0 }, head)
    };
    let (of_1g, head) = blocks(size, SIZE_1G);
    if of_1g == 0 {
        let (of_2m, _) = blocks(size, SIZE_2M);
        return LargePages { of_2m, of_1g };
    }
    let (mut of_2m, _) = blocks(head, SIZE_2M);
    if sizes & SIZE_2M != 0 {
        // The rest starts on 1 GiB.
        of_2m += (size - head) % SIZE_1G / SIZE_2M;
    }
    LargePages { of_2m, of_1g }
}
