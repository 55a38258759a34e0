// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nonsense, the same each time: whatever software writes to registers, tables,
//! queues and the ring, QEMU must live, and the endpoint must work after a reset.

use anyhow::{ensure, Result};

use super::bench::{Bench, DATA, RAM};
use super::endpoint::{self as ep, cfg, Op};
use super::layout::{RW, URW};
use super::tables::{PasidEntry, Table, SIZE_2M, SIZE_4K};
use super::vtd;
use super::Case;

const ROUNDS: u32 = 3000;
const SEEDS: u64 = 4;
const V: u64 = 0x7f12_3440_0000;
const G: u64 = 0x20_0000_0000;
const PASIDS: u64 = 4;
const DID: u16 = 1;

/// xorshift64*: numbers without a pattern, the same for the same seed.
pub struct Numbers(u64);

impl Numbers {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Any number of 32 bits.
    pub fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// A table entry: any flags, an address in RAM or in nothing. Never that of a
    /// device: DMA may legally reconfigure the machine under the test.
    fn entry(&mut self) -> u64 {
        let address = self.below(RAM) & !0xfff;
        let flags = self.next() & 0xfff;
        let beyond = if self.below(8) == 0 {
            self.next() & !((1 << 36) - 1)
        } else {
            0
        };
        address | flags | beyond
    }

    /// An address of the tables' world, or any.
    fn address(&mut self) -> u64 {
        let page = self.below(20) * SIZE_4K + self.below(SIZE_4K);
        match self.below(6) {
            0 => self.next(),
            1 => G + page,
            2 => DATA + page,
            _ => V + page,
        }
    }

    fn op(&mut self) -> Op {
        let mut op = Op {
            op: self.below(8) as u32,
            flags: self.word() & 0xff,
            pasid: self.below(PASIDS + 1) as u32,
            length: self.below(3 * SIZE_4K) as u32,
            src: self.address(),
            dst: self.address(),
            operand: self.below(0x9000),
            completion: self.address() & !0xf,
            tag: self.word(),
        };
        if self.below(4) != 0 {
            op.flags |= ep::FLAG_PASID;
        }
        if self.below(50) == 0 {
            op.length = 16 << 20;
        }
        op
    }

    fn descriptor(&mut self) -> vtd::desc::Desc {
        let kinds = [1, 2, 3, 5, 6, 7, 8, 9];
        let mut low = kinds[self.below(8) as usize] | self.below(4) << 4;
        low |= u64::from(ep::SID) << 16 | self.below(PASIDS + 1) << 32;
        let mut high = self.address() & !0xfff | self.below(64);
        if self.below(10) == 0 {
            low ^= self.next();
            high ^= self.next();
        }
        [low, high, 0, 0]
    }
}

fn world(b: &mut Bench) -> Result<()> {
    let s2 = Table::stage2(b, 4)?;
    for pasid in 0..PASIDS {
        let s1 = Table::stage1(b, 4, true)?;
        for n in 0..16 {
            s1.map(b, V + n * SIZE_4K, G + n * SIZE_4K, SIZE_4K, URW)?;
        }
        s2.map(b, G, DATA, SIZE_2M, RW)?;
        b.map_tables(&s2, SIZE_2M)?;
        b.set_pasid(u32::try_from(pasid)?, &PasidEntry::nested(DID, &s1, &s2))?;
    }
    b.enable_pri(32, 0)
}

fn step(b: &mut Bench, n: &mut Numbers, tables: &std::ops::Range<u64>) -> Result<()> {
    match n.below(16) {
        0 => b.set_reg32(n.below(0x200) & !3, n.word()),
        1 => b.set_reg64(n.below(0x200) & !7, n.next()),
        2 => {
            let raw = n.address() & !0xfff | n.below(32);
            b.set_reg32(ep::reg::RAW_PASID, n.below(8) as u32)?;
            b.set_reg64(ep::reg::PRI_RAW, raw)
        }
        3 if n.below(10) == 0 => b.set_cfg16(0x100 + (n.below(0x30) & !1), n.word() as u16),
        3 | 4 => {
            // Enables on again, or nothing would happen any more.
            b.enable_pasid(cfg::PASID_ENABLE | cfg::PASID_PRIV)?;
            b.enable_ats(true)?;
            b.set_pri_allocation(32)?;
            b.set_pri_control(cfg::PRI_ENABLE)
        }
        5 | 6 if n.below(4) == 0 => {
            let at = tables.start + (n.below(tables.end - tables.start) & !7);
            let entry = n.entry();
            b.q.write64(at, entry)
        }
        7 | 8 => {
            let descriptor = n.descriptor();
            b.queue(&[descriptor])?;
            b.restart_queue_after_error()
        }
        9 => b.q.clock_step(n.below(200_000_000)),
        10 => {
            b.set_vtd32(vtd::reg::PRS, vtd::PRS_PENDING | vtd::PRS_OVERFLOW)?;
            // What lies in the queue may have been overwritten by a transfer.
            for request in b.page_requests().unwrap_or_default() {
                let code = [0, 0, 0, 1, 2][n.below(5) as usize];
                let answer = vtd::desc::page_response(request.pasid, request.prgi, code);
                b.queue(&[answer])?;
            }
            let tail = b.vtd64(vtd::reg::PQT)?;
            b.set_vtd64(vtd::reg::PQH, tail)
        }
        11 => b.faults().map(drop),
        12 if n.below(40) == 0 => {
            b.function_reset()?;
            b.restore_endpoint()
        }
        13 if n.below(20) == 0 => b.set_reg32(ep::reg::COMMAND, ep::COMMAND_ABORT),
        14 => b.set_reg32(ep::reg::CONTROL, 0),
        _ => {
            let count = 1 + n.below(8);
            let ops: Vec<Op> = (0..count).map(|_| n.op()).collect();
            b.order_anyhow(&ops)
        }
    }
}

fn nonsense(b: &mut Bench, seed: u64) -> Result<()> {
    let mut n = Numbers::new(seed);
    world(b)?;
    let tables = b.arena_in_use();
    for _ in 0..ROUNDS {
        step(b, &mut n, &tables)?;
    }
    // Since the last reset in between, something of everything must have happened.
    for (what, counter) in [
        ("transfers", ep::reg::CNT_DONE),
        ("errors", ep::reg::CNT_ERROR),
        ("translation requests", ep::reg::CNT_ATS),
        ("page requests", ep::reg::CNT_PAGE_REQ),
    ] {
        let count = b.reg64(counter)?;
        b.note(format!("{what}: {count}"));
        ensure!(count > 0, "no {what}");
    }
    b.function_reset()?;
    b.restore_endpoint()?;
    ensure!(b.reg32(ep::reg::ID)? == ep::ID, "the endpoint is gone");
    b.run_ok(Op {
        op: ep::OP_NOP,
        ..Op::default()
    })?;
    ensure!(b.reg32(ep::reg::HEAD)? == 1, "the ring does not move");
    ensure!(b.reg32(ep::reg::PRI_STATE)? == 0, "page requests are left");
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    (1..=SEEDS)
        .map(|seed| {
            Case::new(&format!("nonsense_{seed}_is_survived"), move |b| {
                nonsense(b, seed)
            })
        })
        .collect()
}
