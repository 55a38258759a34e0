// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest memory as a unit reads and writes it: each word once, whatever the guest does meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemory, Permissions, VolatileMemory};

/// Guest-physical memory by words of 64 bits.
pub(super) trait Memory: fmt::Debug + Send + Sync {
    /// A word at an aligned address; `None` where there is no memory.
    fn read(&self, at: u64) -> Option<u64>;

    /// Writes a word at an aligned address. False where there is no memory.
    fn write(&self, at: u64, word: u64) -> bool;

    /// Replaces a word that is still `old`: false if it is not, `None` where there is no memory.
    fn replace(&self, at: u64, old: u64, new: u64) -> Option<bool>;

    /// Writes half a word at an aligned address. False where there is no memory.
    fn write_half(&self, at: u64, half: u32) -> bool;
}

/// The words that follow each other at an aligned address.
pub(super) fn read_words<const N: usize>(memory: &dyn Memory, at: u64) -> Option<[u64; N]> {
    let mut words = [0; N];
    for (index, word) in words.iter_mut().enumerate() {
        *word = memory.read(at.checked_add(index as u64 * 8)?)?;
    }
    Some(words)
}

/// A VMM's guest memory.
pub(super) struct Space<A>(pub(super) A);

impl<A> fmt::Debug for Space<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Space")
    }
}

impl<A: GuestAddressSpace + Send + Sync> Memory for Space<A> {
    fn read(&self, at: u64) -> Option<u64> {
        let word = self.0.memory().load(GuestAddress(at), Ordering::Acquire);
        word.ok().map(u64::from_le)
    }

    fn write(&self, at: u64, word: u64) -> bool {
        let memory = self.0.memory();
        memory
            .store(word.to_le(), GuestAddress(at), Ordering::Release)
            .is_ok()
    }

    fn replace(&self, at: u64, old: u64, new: u64) -> Option<bool> {
        let memory = self.0.memory();
        let slices = memory.get_slices(GuestAddress(at), 8, Permissions::ReadWrite);
        let slice = slices.ok()?.next()?.ok()?;
        let word = slice.get_atomic_ref::<AtomicU64>(0).ok()?;
        let (old, new) = (old.to_le(), new.to_le());
        let done = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
        slice.bitmap().mark_dirty(0, 8);
        Some(done.is_ok())
    }

    fn write_half(&self, at: u64, half: u32) -> bool {
        let memory = self.0.memory();
        memory
            .store(half.to_le(), GuestAddress(at), Ordering::Release)
            .is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Words that are there because a test wrote them.
    #[derive(Debug, Default)]
    pub(in crate::vtd) struct Words(pub(in crate::vtd) Mutex<BTreeMap<u64, u64>>);

    impl Memory for Words {
        fn read(&self, at: u64) -> Option<u64> {
            self.0.lock().expect("no panic").get(&at).copied()
        }

        fn write(&self, at: u64, word: u64) -> bool {
            self.0.lock().expect("no panic").insert(at, word);
            true
        }

        fn replace(&self, at: u64, old: u64, new: u64) -> Option<bool> {
            let mut words = self.0.lock().expect("no panic");
            let word = words.get_mut(&at)?;
            let same = *word == old;
            *word = if same { new } else { *word };
            Some(same)
        }

        fn write_half(&self, at: u64, half: u32) -> bool {
            let word = at & !7;
            let shift = (at & 4) * 8;
            let old = self.read(word).unwrap_or(0);
            self.write(
                word,
                old & !(0xffff_ffff << shift) | u64::from(half) << shift,
            )
        }
    }
}
