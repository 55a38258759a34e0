// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The instruction MOVDIR64B in TCG: a firmware of a few lines runs it in real mode.

use std::time::Instant;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use super::bench::{Bench, SLOT_TIMEOUT};
use super::endpoint as ep;
use super::{Case, Hardware, Program};

const FIRMWARE: &str = "firmware";
const SIZE: usize = 0x1_0000;
/// Handlers of the firmware, in its segment.
const BAD_OPCODE: u16 = 0x100;
const PROTECTION: u16 = 0x180;

/// What the firmware leaves behind: general protection faults, invalid opcodes, the end.
const COUNTS: u64 = 0x500;
const ENDED: u8 = 0x55;
/// Sources, the second by FS, and where they go by ES.
const SOURCE: u64 = 0x1004;
const SOURCE_FS: u64 = 0x3000 + 0x1004;
const TARGET: u64 = 0x2040;
const TARGET_FS: u64 = 0x2080;
/// Not aligned: a fault, and nothing is written.
const TARGET_BAD: u64 = 0x20c8;
/// Where the endpoint's BAR 0 is: below 1 MiB, at ES = 0xb100 its ring.
const BAR: u64 = 0xb_0000;

/// `movdir64b di, [si]`.
const MOVE: [u8; 5] = [0x66, 0x0f, 0x38, 0xf8, 0x3c];

fn firmware() -> Vec<u8> {
    let mut code = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xd0, // mov ss, ax
        0xbc, 0x00, 0x70, // mov sp, 0x7000
    ];
    for (vector, handler) in [(6u16, BAD_OPCODE), (13, PROTECTION)] {
        for (at, word) in [(vector * 4, handler), (vector * 4 + 2, 0xf000)] {
            code.extend([0xc7, 0x06]); // mov word [at], word
            code.extend(at.to_le_bytes());
            code.extend(word.to_le_bytes());
        }
    }
    code.extend([0xbe, 0x04, 0x10]); // mov si, 0x1004
    code.extend([0xb8, 0x00, 0x02, 0x8e, 0xc0]); // es = 0x200
    code.extend([0xb8, 0x00, 0x03, 0x8e, 0xe0]); // fs = 0x300
    code.extend([0xbf, 0x40, 0x00]); // mov di, 0x40
    code.extend(MOVE);
    code.extend([0xbf, 0x80, 0x00]); // mov di, 0x80
    code.push(0x64); // fs, of the source alone
    code.extend(MOVE);
    code.extend([0xbf, 0xc8, 0x00]); // mov di, 0xc8
    code.extend(MOVE);
    code.extend([0x66, 0x0f, 0x38, 0xf8, 0xfc]); // a register as source
    code.extend([0xb8, 0x00, 0xb1, 0x8e, 0xc0]); // es = 0xb100
    code.extend([0x31, 0xff]); // xor di, di
    code.extend(MOVE);
    code.extend([0xc6, 0x06, 0x02, 0x05, ENDED]); // mov byte [0x502], 0x55
    code.extend([0xf4, 0xeb, 0xfd]); // hlt, for ever

    let mut image = vec![0; SIZE];
    image[..code.len()].copy_from_slice(&code);
    for (handler, count) in [(BAD_OPCODE, 1u8), (PROTECTION, 0)] {
        let at = usize::from(handler);
        // inc byte [0x500 + count]; skip the five bytes of the instruction; iret
        let body = [
            0xfe, 0x06, count, 0x05, 0x55, 0x89, 0xe5, 0x83, 0x46, 0x02, 0x05, 0x5d, 0xcf,
        ];
        image[at..at + body.len()].copy_from_slice(&body);
    }
    // The reset vector: jmp 0xf000:0
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    image
}

fn noise(seed: u8) -> Vec<u8> {
    (0..64).map(|n: u8| n.wrapping_mul(37) ^ seed).collect()
}

fn moves(program: &Program) -> Result<()> {
    std::fs::write(program.dir.join(FIRMWARE), firmware()).context("Failed to write a firmware")?;
    let hardware = Hardware {
        firmware: Some(program.dir_seen.join(FIRMWARE).display().to_string()),
        stopped: true,
        ..Hardware::plain()
    };
    let mut b = Bench::bare(program, &hardware)?;
    b.start_endpoint_at(BAR)?;
    b.q.write_bytes(SOURCE, &noise(0x11))?;
    b.q.write_bytes(SOURCE_FS, &noise(0x77))?;
    b.q.monitor("cont", &json!({}))?;
    let begun = Instant::now();
    while b.q.read(COUNTS + 2, 1)? != u64::from(ENDED) {
        ensure!(begun.elapsed() < SLOT_TIMEOUT, "the firmware has no end");
    }
    let faults = b.q.read(COUNTS, 1)?;
    let invalid = b.q.read(COUNTS + 1, 1)?;
    ensure!(
        b.q.read_bytes(TARGET, 64)? == noise(0x11),
        "memory to memory"
    );
    ensure!(
        b.q.read_bytes(TARGET_FS, 64)? == noise(0x77),
        "a segment override is not of the source alone"
    );
    ensure!(faults == 1, "{faults} general protection faults, not 1");
    ensure!(
        b.q.read_bytes(TARGET_BAD, 64)? == vec![0; 64],
        "the unaligned one has written"
    );
    ensure!(invalid == 1, "{invalid} invalid opcodes, not 1");
    let slot = b.q.read_bytes(BAR + ep::reg::RING, 64)?;
    ensure!(slot == noise(0x11), "the device has seen {slot:x?}");
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    vec![Case::several("instruction_movdir64b", moves)]
}
