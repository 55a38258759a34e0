// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's side of the example: as much of an IOMMU driver as it needs (VT-d 4.1).

use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Registers (11.4).
const GCMD: u64 = 0x18;
const RTADDR: u64 = 0x20;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
const PQA: u64 = 0xd0;
const PQH: u64 = 0xc0;
const PRS: u64 = 0xdc;
const PECTL: u64 = 0xe0;
const GCMD_TE: u32 = 1 << 31;
const GCMD_SRTP: u32 = 1 << 30;
const GCMD_QIE: u32 = 1 << 26;
const RTADDR_SCALABLE: u64 = 1 << 10;
const IQA_DW: u64 = 1 << 11;
const PRS_PPR: u32 = 1;

/// Pages of guest memory.
const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const PASIDS: u64 = 0x4000;
const QUEUE: u64 = 0x5000;
const REQUESTS: u64 = 0x6000;
const STATUS: u64 = 0x7000;
const TABLE: u64 = 0x8000;

/// Entries (chapter 9): present, and a context entry's DTE, PASIDE and PRE.
const PRESENT: u64 = 1;
const DTE: u64 = 1 << 2;
const PASIDE: u64 = 1 << 3;
const PRE: u64 = 1 << 4;
/// PGTT of a PASID entry: the first stage, or no translation.
const FIRST_STAGE: u64 = 1 << 6;
const PASS_THROUGH: u64 = 4 << 6;
/// A page-table entry that a user's process may read and write.
const USER_WRITE: u64 = 7;
/// Our domain of PASIDs.
const DOMAIN: u64 = 2;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;
/// A CPU's write to the unit's registers.
type Write<'a> = dyn FnMut(u64, &[u8]) + 'a;

/// A guest's driver.
pub struct Guest {
    memory: Arc<GuestMemoryMmap>,
    base: u64,
    source: u64,
    tail: u64,
}

impl Guest {
    pub fn new(memory: &Arc<GuestMemoryMmap>, base: u64, source: u16) -> Self {
        Self {
            memory: memory.clone(),
            base,
            source: source.into(),
            tail: 0,
        }
    }

    fn put(&self, at: u64, word: u64) -> Outcome {
        Ok(self.memory.write_obj(word, GuestAddress(at))?)
    }

    fn get(&self, at: u64) -> Outcome<u64> {
        Ok(self.memory.read_obj(GuestAddress(at))?)
    }

    fn write4(&self, write: &mut Write<'_>, register: u64, value: u32) {
        write(self.base + register, &value.to_le_bytes());
    }

    fn write8(&self, write: &mut Write<'_>, register: u64, value: u64) {
        write(self.base + register, &value.to_le_bytes());
    }

    /// Queue, root table, page requests, translation: requests without PASID pass through.
    pub fn boot(&mut self, write: &mut Write<'_>) -> Outcome {
        self.write8(write, IQA, QUEUE | IQA_DW);
        self.write4(write, GCMD, GCMD_QIE);
        self.put(ROOT, CONTEXTS | PRESENT)?;
        let context = DIRECTORY | PRESENT | DTE | PASIDE | PRE;
        self.put(CONTEXTS + self.source * 32, context)?;
        self.put(DIRECTORY, PASIDS | PRESENT)?;
        self.put(PASIDS + 8, 1)?;
        self.put(PASIDS, PRESENT | PASS_THROUGH)?;
        self.write8(write, RTADDR, ROOT | RTADDR_SCALABLE);
        self.write4(write, GCMD, GCMD_QIE | GCMD_SRTP);
        self.write8(write, PQA, REQUESTS);
        self.write4(write, PECTL + 8, 0xfee0_0000);
        self.write4(write, PECTL, 0);
        self.write4(write, GCMD, GCMD_QIE | GCMD_TE);
        Ok(())
    }

    /// Gives a descriptor to the queue, and waits for it.
    fn submit(&mut self, write: &mut Write<'_>, descriptor: [u64; 2]) -> Outcome {
        self.put(STATUS, 0)?;
        // Type 5 with SW: 1 is written to the status.
        for [first, second] in [descriptor, [5 | 1 << 5 | 1 << 32, STATUS]] {
            self.put(QUEUE + self.tail, first)?;
            self.put(QUEUE + self.tail + 8, second)?;
            self.tail = (self.tail + 32) % 4096;
        }
        self.write8(write, IQT, self.tail);
        match self.get(STATUS)? {
            1 => Ok(()),
            _ => Err("the wait is not done".into()),
        }
    }

    /// Binds an empty table of four levels at a PASID below 64.
    pub fn bind(&mut self, pasid: u32, write: &mut Write<'_>) -> Outcome {
        let pasid = u64::from(pasid);
        let entry = PASIDS + pasid * 64;
        self.put(entry + 16, TABLE)?;
        self.put(entry + 8, DOMAIN)?;
        self.put(entry, PRESENT | FIRST_STAGE)?;
        // Type 7: the PASID cache, of this PASID.
        self.submit(write, [7 | 1 << 4 | DOMAIN << 16 | pasid << 32, 0])
    }

    /// Takes the page request that is first in the queue, maps a page with a word in it, and answers.
    pub fn answer(
        &mut self,
        pasid: u32,
        address: u64,
        word: u64,
        write: &mut Write<'_>,
    ) -> Outcome {
        let request = self.get(REQUESTS + 8)?;
        if request & !0xfff != address {
            return Err(format!("asked for {request:#x}").into());
        }
        let mut table = TABLE;
        for shift in [39, 30, 21, 12] {
            let next = table + 0x1000;
            self.put(table + 8 * (address >> shift & 0x1ff), next | USER_WRITE)?;
            table = next;
        }
        self.put(table, word)?;
        self.write4(write, PRS, PRS_PPR);
        self.write8(write, PQH, 32);
        // Type 9 for this function and PASID: success, with the group's index.
        let group = request >> 3 & 0x1ff;
        let first = 9 | 1 << 4 | self.source << 16 | u64::from(pasid) << 32;
        self.submit(write, [first, group << 3])
    }
}
