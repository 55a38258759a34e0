// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nonsense, the same each time: whatever software writes to registers and portals, QEMU must
//! live, and the device must work after a reset.

use anyhow::{ensure, Result};

use super::super::bench::{Bench, DATA};
use super::super::nonsense::Numbers;
use super::super::tables::SIZE_4K;
use super::super::Case;
use super::device::{
    self as dsa, answer, cmd, configure, done, ends, op, portal, reg, status, Desc, Queue, BAR0,
    PAGES, RECORDS, V,
};
use super::hardware;

const ROUNDS: u32 = 3000;
const SEEDS: u64 = 3;

/// An address of the process's, of a hole beside it, or any. All of them go through the PASID.
fn address(n: &mut Numbers) -> u64 {
    match n.below(8) {
        0 => n.next(),
        1 => RECORDS + n.below(4 * SIZE_4K),
        2 => (V + n.below(PAGES * SIZE_4K)) & !63,
        _ => V + n.below(PAGES * SIZE_4K),
    }
}

fn descriptor(n: &mut Numbers) -> Desc {
    let opcodes = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x20,
    ];
    let mut desc = Desc::moving(
        opcodes[n.below(17) as usize],
        address(n),
        address(n),
        n.below(0x8000) as u32,
    )
    .record(n.below(32));
    desc.flags |= n.word() & 0x1f;
    desc.int_handle = n.below(10) as u16;
    if matches!(desc.opcode, op::BATCH) {
        desc.size %= 80;
        desc.src &= !63;
    }
    match n.below(4) {
        0 => desc.op.fill_with(|| n.word() as u8),
        1 => desc.op[..8].copy_from_slice(&address(n).to_le_bytes()),
        _ => {}
    }
    match n.below(12) {
        0 => desc.flags = n.word() & 0xff_ffff,
        1 => desc.record = address(n),
        2 => desc.opcode = n.word() as u8,
        3 => desc.first = n.word(),
        4 => desc.size = n.word(),
        _ => {}
    }
    desc
}

/// Device and queue on, if they are not.
fn enable(b: &mut Bench) -> Result<()> {
    b.q.write64(BAR0 + reg::GRPCFG, 3)?;
    b.q.write64(BAR0 + reg::GRPCFG + 32, 5)?;
    for queue in 0..2 {
        configure(b, queue, Queue::BLOCKING)?;
    }
    // Where the event log goes is nobody's PASID: not just anywhere.
    b.q.write64(BAR0 + reg::EVLCFG, DATA + 0x48_0000)?;
    b.q.write64(BAR0 + reg::EVLCFG + 8, 64)?;
    for command in [1 << 20, 6 << 20, 6 << 20 | 1] {
        b.q.write32(BAR0 + reg::CMD, command)?;
    }
    Ok(())
}

fn step(b: &mut Bench, n: &mut Numbers) -> Result<()> {
    match n.below(16) {
        0 => {
            // Neither a queue without PASID nor another place of the event log.
            let at = n.below(0x200) * 8;
            let free = !(reg::EVLCFG..reg::EVLCFG + 16).contains(&at)
                && !(reg::WQCFG..reg::WQCFG + 0x200).contains(&at)
                && at != reg::CMD;
            if free {
                let value = n.next();
                b.q.write64(BAR0 + at, value)?;
            }
            Ok(())
        }
        1 => {
            let command = n.below(16) as u32;
            let operand = if n.below(2) == 0 {
                3
            } else {
                n.word() & 0xf_ffff
            };
            b.q.write32(BAR0 + reg::CMD, command << 20 | operand)
        }
        2 | 3 => enable(b),
        4 => {
            for request in b.page_requests().unwrap_or_default() {
                let code = [0, 0, 1, 2][n.below(4) as usize];
                b.queue(&[answer(&request, code)])?;
            }
            Ok(())
        }
        5 => {
            let at = portal(n.below(8), n.below(4)) + (n.below(0x200) * 8);
            let value = n.next();
            b.q.write64(at, value)
        }
        6 => b.q.clock_step(n.below(200_000_000)),
        7 if n.below(30) == 0 => {
            b.function_reset()?;
            dsa::start(b)?;
            b.enable_pri(32, 0)
        }
        8 if n.below(4) == 0 => {
            b.enable_ats(n.below(2) == 0)?;
            b.enable_ats(true)?;
            b.set_pri_control(super::super::endpoint::cfg::PRI_ENABLE)
        }
        9 => {
            // A list for batches.
            let at = V + n.below(64) * SIZE_4K;
            for i in 0..8 {
                let bytes = descriptor(n).bytes();
                dsa::put(b, at + 64 * i, &bytes)?;
            }
            Ok(())
        }
        _ => {
            let desc = descriptor(n);
            let at = portal(n.below(3), n.below(4)) + n.below(64) * 64;
            dsa::submit_at(b, at, &desc)
        }
    }
}

fn nonsense(b: &mut Bench, seed: u64) -> Result<()> {
    dsa::ready(b, Queue::BLOCKING)?;
    b.enable_pri(32, 0)?;
    let mut n = Numbers::new(seed);
    for _ in 0..ROUNDS {
        step(b, &mut n)?;
    }
    let mut written = 0;
    for record in 0..32 {
        written += u32::from(dsa::look(b, record)?.status != 0);
    }
    ensure!(written > 8, "only {written} places have had a record");
    b.function_reset()?;
    dsa::start(b)?;
    configure(b, 0, Queue::USUAL)?;
    b.q.write64(BAR0 + reg::GRPCFG, 1)?;
    b.q.write64(BAR0 + reg::GRPCFG + 32, 1)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    ends(b, &Desc::new(op::NOOP), status::SUCCESS).map(drop)
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    (1..=SEEDS)
        .map(|seed| {
            Case::on(
                hardware(),
                &format!("dsa_nonsense_{seed}_is_survived"),
                move |b| nonsense(b, seed),
            )
        })
        .collect()
}
