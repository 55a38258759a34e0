// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is on the disk of `make guest`: a part that the host wrote and the guest reads, and a part the
//! other way round.

/// Bytes of each part.
pub const PART: usize = 1 << 20;
/// Bytes of another disk, which is swap space.
pub const SWAP: usize = 4 << 20;
/// Which pattern the host wrote.
pub const READ: u8 = 3;
/// Which pattern the guest writes.
pub const WRITTEN: u8 = 5;

/// The bytes of a part, another one in each sector.
pub fn pattern(which: u8) -> Vec<u8> {
    let byte = |at: usize| (at as u8).wrapping_mul(which) ^ (at >> 9) as u8;
    (0..PART).map(byte).collect()
}
