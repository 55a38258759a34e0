// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page tables and PASID entries, written into the machine's memory.

use anyhow::{ensure, Result};

use super::bench::Bench;
use super::vtd;

/// Guest-physical addresses of table pages: host-physical plus this. So a table
/// address that is not taken through stage 2 leads out of RAM.
pub const GPA_OFFSET: u64 = 0x40_0000_0000;

pub const SIZE_4K: u64 = 1 << 12;
pub const SIZE_2M: u64 = 1 << 21;
pub const SIZE_1G: u64 = 1 << 30;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The level whose entries map `size` bytes.
pub fn level_of(size: u64) -> u32 {
    match size {
        SIZE_1G => 3,
        SIZE_2M => 2,
        _ => 1,
    }
}

/// A stage of translation under construction.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Root table, host-physical.
    pub root: u64,
    levels: u32,
    /// Added to the host-physical addresses of lower tables in the entries.
    offset: u64,
    /// What an entry for a lower table carries.
    link: u64,
}

impl Table {
    /// An empty stage 1; `nested`: its tables are named by guest-physical
    /// address.
    pub fn stage1(b: &mut Bench, levels: u32, nested: bool) -> Result<Self> {
        Ok(Self {
            root: b.pages(1)?,
            levels,
            offset: if nested { GPA_OFFSET } else { 0 },
            link: vtd::S1_P | vtd::S1_RW | vtd::S1_US,
        })
    }

    /// An empty stage 2.
    pub fn stage2(b: &mut Bench, levels: u32) -> Result<Self> {
        Ok(Self {
            root: b.pages(1)?,
            levels,
            offset: 0,
            link: vtd::S2_R | vtd::S2_W,
        })
    }

    /// Host-physical address of the entry of `level` for `addr`; lower tables
    /// are made on the way.
    pub fn entry(&self, b: &mut Bench, addr: u64, level: u32) -> Result<u64> {
        let mut table = self.root;
        let mut at = self.levels;
        loop {
            let index = addr >> (12 + 9 * (at - 1)) & 0x1ff;
            let entry = table + index * 8;
            if at == level {
                return Ok(entry);
            }
            let mut value = b.q.read64(entry)?;
            if value == 0 {
                value = (b.pages(1)? + self.offset) | self.link;
                b.q.write64(entry, value)?;
            }
            ensure!(
                value & vtd::S1_PS == 0 || at > 3,
                "A large page is in the way"
            );
            table = (value & ADDRESS) - self.offset;
            at -= 1;
        }
    }

    /// Maps `size` bytes (of a page) at `addr` to `to` with the bits `bits`.
    pub fn map(&self, b: &mut Bench, addr: u64, to: u64, size: u64, bits: u64) -> Result<()> {
        let large = if size == SIZE_4K { 0 } else { vtd::S1_PS };
        let entry = self.entry(b, addr, level_of(size))?;
        b.q.write64(entry, to | bits | large)
    }

    /// What the root is called in the PASID entry.
    pub fn root_name(&self) -> u64 {
        self.root + self.offset
    }

    /// The PASID entry's width field of a stage 2.
    pub fn width(&self) -> u64 {
        u64::from(self.levels - 2)
    }

    /// Whether this is a stage 1 of 5 levels.
    pub fn five_levels(&self) -> bool {
        self.levels == 5
    }
}

/// What the PASID table entry says.
#[derive(Debug, Clone, Copy)]
pub struct PasidEntry(pub [u64; 8]);

impl PasidEntry {
    /// First stage alone.
    pub fn first(did: u16, s1: &Table) -> Self {
        let mut e = [0; 8];
        e[0] = vtd::PE_PRESENT | vtd::PGTT_FIRST << vtd::PE_PGTT_SHIFT;
        e[1] = u64::from(did);
        e[2] = s1.root_name() | if s1.five_levels() { vtd::PE_FSPM_5 } else { 0 };
        Self(e)
    }

    /// Second stage alone.
    pub fn second(did: u16, s2: &Table) -> Self {
        let mut e = [0; 8];
        e[0] = vtd::PE_PRESENT
            | vtd::PGTT_SECOND << vtd::PE_PGTT_SHIFT
            | s2.width() << vtd::PE_AW_SHIFT
            | s2.root;
        e[1] = u64::from(did);
        Self(e)
    }

    /// Both.
    pub fn nested(did: u16, s1: &Table, s2: &Table) -> Self {
        let mut e = Self::second(did, s2).0;
        e[0] ^= (vtd::PGTT_SECOND ^ vtd::PGTT_NESTED) << vtd::PE_PGTT_SHIFT;
        e[2] = Self::first(did, s1).0[2];
        Self(e)
    }

    /// Neither.
    pub fn pass(did: u16) -> Self {
        let mut e = [0; 8];
        e[0] = vtd::PE_PRESENT | vtd::PGTT_PASS << vtd::PE_PGTT_SHIFT | 2 << vtd::PE_AW_SHIFT;
        e[1] = u64::from(did);
        Self(e)
    }

    /// The entry with `bits` of quadword `index` turned over.
    pub fn flip(mut self, index: usize, bits: u64) -> Self {
        self.0[index] ^= bits;
        self
    }
}

impl Bench {
    /// Address of the directory entry for `pasid`.
    pub fn directory_entry(&self, pasid: u32) -> u64 {
        self.directory + u64::from(pasid >> 6) * 8
    }

    /// Address of the PASID table entry for `pasid`; its table is made.
    pub fn pasid_entry(&mut self, pasid: u32) -> Result<u64> {
        let at = self.directory_entry(pasid);
        let mut table = self.q.read64(at)?;
        if table == 0 {
            table = self.pages(1)? | 1;
            self.q.write64(at, table)?;
        }
        Ok((table & ADDRESS) + u64::from(pasid & 0x3f) * 64)
    }

    /// Writes the PASID table entry for `pasid`, the present bit last.
    pub fn set_pasid(&mut self, pasid: u32, entry: &PasidEntry) -> Result<()> {
        let at = self.pasid_entry(pasid)?;
        for i in (0..8).rev() {
            self.q.write64(at + 8 * i as u64, entry.0[i])?;
        }
        Ok(())
    }

    /// Maps every table page in use through `s2`, by pages of `size`, to where
    /// stage-1 tables look for them.
    pub fn map_tables(&mut self, s2: &Table, size: u64) -> Result<()> {
        let bits = vtd::S2_R | vtd::S2_W;
        // Mapping takes pages itself: leave room for them.
        let used = self.arena_in_use();
        let mut at = used.start & !(size - 1);
        while at < used.end {
            s2.map(self, at + GPA_OFFSET, at, size, bits)?;
            at += size;
        }
        Ok(())
    }
}
