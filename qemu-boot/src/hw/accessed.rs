// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Accessed and dirty bits of both stages (VT-d 4.1, 3.6.2 and 3.7.2).

use anyhow::{ensure, Result};

use super::bench::{Bench, DATA};
use super::caching::{Pair, A, DID_A, G, V};
use super::endpoint::{self as ep, Op};
use super::tables::{PasidEntry, Table, SIZE_4K};
use super::vtd;
use super::Case;

/// Reads the entries for V of `table`, from level 4 down.
fn entries(b: &mut Bench, table: &Table, addr: u64) -> Result<Vec<u64>> {
    (1..=4)
        .rev()
        .map(|level| {
            let at = table.entry(b, addr, level)?;
            b.q.read64(at)
        })
        .collect()
}

fn access(b: &mut Bench, write: bool, flags: u32) -> Result<()> {
    b.run_ok(Op {
        op: if write { ep::OP_WRITE } else { ep::OP_READ },
        flags: ep::FLAG_PASID | flags,
        pasid: A,
        length: 8,
        src: V,
        dst: V,
        ..Op::default()
    })
    .map(drop)
}

/// Checks that all entries have `all`, and that the leaf has `leaf` and only it
/// has.
fn check_bits(entries: &[u64], all: u64, dirty: u64, leaf_dirty: bool) -> Result<()> {
    for (i, entry) in entries.iter().enumerate() {
        ensure!(entry & all == all, "entry {i} from the top: {entry:#x}");
        let want = leaf_dirty && i + 1 == entries.len();
        ensure!((entry & dirty != 0) == want, "dirty, entry {i}: {entry:#x}");
    }
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, ats) in [("untranslated", false), ("ats", true)] {
        all.push(Case::new(
            &format!("accessed_read_then_write_{name}"),
            move |b| {
                let pair = Pair::new(b, DID_A)?;
                b.enable_ats(ats)?;
                access(b, false, 0)?;
                check_bits(&entries(b, &pair.a, V)?, vtd::S1_A, vtd::S1_D, false)?;
                // No invalidation: what the read cached must not hide the write.
                access(b, true, 0)?;
                check_bits(&entries(b, &pair.a, V)?, vtd::S1_A, vtd::S1_D, true)
            },
        ));
    }
    all.extend([
        Case::new("accessed_extended_bit_with_eafe", |b| {
            let pair = Pair::new(b, DID_A)?;
            access(b, false, 0)?;
            let before = entries(b, &pair.a, V)?;
            ensure!(
                before.iter().all(|e| e & vtd::S1_EA == 0),
                "set without EAFE"
            );
            let entry = PasidEntry::nested(DID_A, &pair.a, &pair.s2).flip(2, vtd::PE_EAFE);
            b.set_pasid(A, &entry)?;
            b.flush_all()?;
            access(b, false, 0)?;
            check_bits(
                &entries(b, &pair.a, V)?,
                vtd::S1_EA | vtd::S1_A,
                vtd::S1_D,
                false,
            )
        }),
        Case::new("accessed_stage_2_bits_with_ssade", |b| {
            let pair = Pair::new(b, DID_A)?;
            access(b, true, 0)?;
            let before = entries(b, &pair.s2, G)?;
            ensure!(
                before.iter().all(|e| e & (vtd::S2_A | vtd::S2_D) == 0),
                "set without SSADE"
            );
            let entry = PasidEntry::nested(DID_A, &pair.a, &pair.s2).flip(0, vtd::PE_SSADE);
            b.set_pasid(A, &entry)?;
            b.flush_all()?;
            access(b, false, 0)?;
            check_bits(&entries(b, &pair.s2, G)?, vtd::S2_A, vtd::S2_D, false)?;
            access(b, true, 0)?;
            check_bits(&entries(b, &pair.s2, G)?, vtd::S2_A, vtd::S2_D, true)
        }),
        Case::new("accessed_refused_write_sets_no_dirty_bit", |b| {
            let pair = Pair::new(b, DID_A)?;
            pair.s2.map(b, G, DATA, SIZE_4K, vtd::S2_R)?;
            let done = b.run(Op {
                op: ep::OP_WRITE,
                flags: ep::FLAG_PASID,
                pasid: A,
                length: 8,
                dst: V,
                ..Op::default()
            })?;
            ensure!(done.status == ep::NO_ACCESS, "{done:x?}");
            let leaf = *entries(b, &pair.a, V)?.last().unwrap_or(&0);
            ensure!(leaf & vtd::S1_D == 0, "the leaf is dirty: {leaf:#x}");
            Ok(())
        }),
    ]);
    all
}
