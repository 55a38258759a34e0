// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Accessed and dirty bits of both stages (VT-d 4.1, 3.6.2 and 3.7.2).

use anyhow::{ensure, Result};

use super::bench::{Bench, DATA};
use super::caching::{Pair, A, DID_A, G, V};
use super::endpoint::{self as ep, Op};
use super::layout::RW;
use super::tables::{PasidEntry, Table, GPA_OFFSET, SIZE_2M, SIZE_4K};
use super::vtd::{self, desc};
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

fn access(b: &mut Bench, write: bool) -> Result<()> {
    access_at(b, V, write)
}

fn access_at(b: &mut Bench, addr: u64, write: bool) -> Result<()> {
    b.run_ok(Op {
        op: if write { ep::OP_WRITE } else { ep::OP_READ },
        flags: ep::FLAG_PASID,
        pasid: A,
        length: 8,
        src: addr,
        dst: addr,
        ..Op::default()
    })
    .map(drop)
}

/// Whether the leaf of `table` for `addr` at `level` is dirty, which it is not afterwards.
fn take_dirty(b: &mut Bench, table: &Table, addr: u64, level: u32) -> Result<bool> {
    let at = table.entry(b, addr, level)?;
    let entry = b.q.read64(at)?;
    b.q.write64(at, entry & !vtd::S2_D)?;
    Ok(entry & vtd::S2_D != 0)
}

/// What the PASID's address goes through.
#[derive(Clone, Copy)]
enum Through {
    Both,
    Stage2,
}

impl Through {
    fn entry(self, pair: &Pair) -> PasidEntry {
        let entry = match self {
            Self::Both => PasidEntry::nested(DID_A, &pair.a, &pair.s2),
            Self::Stage2 => PasidEntry::second(DID_A, &pair.s2),
        };
        entry.flip(0, vtd::PE_SSADE)
    }

    /// The address that leads to stage 2's G.
    fn address(self) -> u64 {
        match self {
            Self::Both => V,
            Self::Stage2 => G,
        }
    }
}

/// Stage 2 with its dirty bits on, in use by PASID A.
fn with_ssade(b: &mut Bench, through: Through) -> Result<Pair> {
    let pair = Pair::new(b, DID_A)?;
    b.set_pasid(A, &through.entry(&pair))?;
    b.flush_all()?;
    Ok(pair)
}

/// Drops what is cached of stage 2's page at G, in the way that Linux does.
fn drop_page(b: &mut Bench, through: Through, ats: bool) -> Result<()> {
    b.invalidate(&[desc::iotlb_pages(DID_A, G, 0)])?;
    if !ats {
        return Ok(());
    }
    b.invalidate(&[match through {
        Through::Both => desc::pasid_dev_tlb(A, !0 >> 1 & !0xfff, true, false),
        Through::Stage2 => desc::pasid_dev_tlb(A, G, false, false),
    }])
}

/// A read and then a write; a dirty bit that software has cleared is set again by the first write
/// after the invalidation, and by none before.
fn stage_2_dirty_again(b: &mut Bench, through: Through, ats: bool) -> Result<()> {
    let pair = with_ssade(b, through)?;
    b.enable_ats(ats)?;
    let addr = through.address();
    access_at(b, addr, false)?;
    check_bits(&entries(b, &pair.s2, G)?, vtd::S2_A, vtd::S2_D, false)?;
    // No invalidation: what the read cached must not hide the write.
    access_at(b, addr, true)?;
    check_bits(&entries(b, &pair.s2, G)?, vtd::S2_A, vtd::S2_D, true)?;
    ensure!(take_dirty(b, &pair.s2, G, 1)?);
    access_at(b, addr, true)?;
    ensure!(!take_dirty(b, &pair.s2, G, 1)?, "dirty though it is cached");
    drop_page(b, through, ats)?;
    access_at(b, addr, false)?;
    ensure!(!take_dirty(b, &pair.s2, G, 1)?, "dirty by a read");
    access_at(b, addr, true)?;
    ensure!(take_dirty(b, &pair.s2, G, 1)?, "not dirty again");
    ensure!(!take_dirty(b, &pair.s2, G + SIZE_4K, 1)?, "the next page");
    Ok(())
}

fn stage_2_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, through) in [("nested", Through::Both), ("alone", Through::Stage2)] {
        for (way, ats) in [("untranslated", false), ("ats", true)] {
            all.push(Case::new(
                &format!("accessed_stage_2_{name}_dirty_again_after_invalidation_{way}"),
                move |b| stage_2_dirty_again(b, through, ats),
            ));
        }
        all.push(Case::new(
            &format!("accessed_stage_2_{name}_refused_write_sets_no_dirty_bit"),
            move |b| {
                let pair = with_ssade(b, through)?;
                pair.s2.map(b, G, DATA, SIZE_4K, vtd::S2_R)?;
                let done = b.run(Op {
                    op: ep::OP_WRITE,
                    flags: ep::FLAG_PASID,
                    pasid: A,
                    length: 8,
                    dst: through.address(),
                    ..Op::default()
                })?;
                ensure!(done.status == ep::NO_ACCESS, "{done:x?}");
                ensure!(!take_dirty(b, &pair.s2, G, 1)?, "the leaf is dirty");
                Ok(())
            },
        ));
        all.push(Case::new(
            &format!("accessed_stage_2_{name}_ssade_waits_for_the_pasid_cache"),
            move |b| {
                let pair = Pair::new(b, DID_A)?;
                b.set_pasid(A, &through.entry(&pair).flip(0, vtd::PE_SSADE))?;
                b.flush_all()?;
                let addr = through.address();
                access_at(b, addr, true)?;
                b.set_pasid(A, &through.entry(&pair))?;
                b.invalidate(&[desc::iotlb_domain(DID_A)])?;
                access_at(b, addr, true)?;
                ensure!(!take_dirty(b, &pair.s2, G, 1)?, "the old entry is cached");
                b.invalidate(&[desc::pasid_one(DID_A, A), desc::iotlb_domain(DID_A)])?;
                access_at(b, addr, true)?;
                ensure!(take_dirty(b, &pair.s2, G, 1)?, "SSADE is on");
                b.set_pasid(A, &through.entry(&pair).flip(0, vtd::PE_SSADE))?;
                b.invalidate(&[desc::pasid_one(DID_A, A), desc::iotlb_domain(DID_A)])?;
                access_at(b, addr, true)?;
                ensure!(!take_dirty(b, &pair.s2, G, 1)?, "SSADE is off");
                Ok(())
            },
        ));
    }
    all.extend([
        Case::new("accessed_stage_2_large_page_is_dirty_in_its_leaf", |b| {
            let pair = with_ssade(b, Through::Stage2)?;
            let large = G + (1 << 30);
            pair.s2.map(b, large, DATA, SIZE_2M, RW)?;
            access_at(b, large + 0x12_3450, false)?;
            ensure!(!take_dirty(b, &pair.s2, large, 2)?, "dirty by a read");
            access_at(b, large + 0x12_3450, true)?;
            ensure!(take_dirty(b, &pair.s2, large, 2)?, "not dirty");
            Ok(())
        }),
        Case::new("accessed_stage_2_of_tables_is_dirty_by_their_bits", |b| {
            let pair = with_ssade(b, Through::Both)?;
            let mut of_tables = Vec::new();
            for level in 1..=4 {
                of_tables.push((pair.a.entry(b, V, level)? + GPA_OFFSET) & !(SIZE_2M - 1));
            }
            of_tables.dedup();
            let dirty = |b: &mut Bench, when: &str, want: bool| -> Result<()> {
                for &table in &of_tables {
                    let seen = take_dirty(b, &pair.s2, table, 2)?;
                    ensure!(seen == want, "{when}: {table:#x}: {seen}");
                }
                b.flush_all()
            };
            dirty(b, "before", false)?;
            access(b, false)?;
            dirty(b, "accessed bits are set", true)?;
            access(b, false)?;
            dirty(b, "accessed bits were set", false)?;
            access(b, true)?;
            dirty(b, "the dirty bit is set", true)?;
            access(b, true)?;
            dirty(b, "the dirty bit was set", false)
        }),
    ]);
    all
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
    let mut all = stage_2_cases();
    for (name, ats) in [("untranslated", false), ("ats", true)] {
        all.push(Case::new(
            &format!("accessed_read_then_write_{name}"),
            move |b| {
                let pair = Pair::new(b, DID_A)?;
                b.enable_ats(ats)?;
                access(b, false)?;
                check_bits(&entries(b, &pair.a, V)?, vtd::S1_A, vtd::S1_D, false)?;
                // No invalidation: what the read cached must not hide the write.
                access(b, true)?;
                check_bits(&entries(b, &pair.a, V)?, vtd::S1_A, vtd::S1_D, true)
            },
        ));
    }
    all.extend([
        Case::new("accessed_extended_bit_with_eafe", |b| {
            let pair = Pair::new(b, DID_A)?;
            access(b, false)?;
            let before = entries(b, &pair.a, V)?;
            ensure!(
                before.iter().all(|e| e & vtd::S1_EA == 0),
                "set without EAFE"
            );
            let entry = PasidEntry::nested(DID_A, &pair.a, &pair.s2).flip(2, vtd::PE_EAFE);
            b.set_pasid(A, &entry)?;
            b.flush_all()?;
            access(b, false)?;
            check_bits(
                &entries(b, &pair.a, V)?,
                vtd::S1_EA | vtd::S1_A,
                vtd::S1_D,
                false,
            )
        }),
        Case::new("accessed_stage_2_bits_with_ssade", |b| {
            let pair = Pair::new(b, DID_A)?;
            access(b, true)?;
            let before = entries(b, &pair.s2, G)?;
            ensure!(
                before.iter().all(|e| e & (vtd::S2_A | vtd::S2_D) == 0),
                "set without SSADE"
            );
            let entry = PasidEntry::nested(DID_A, &pair.a, &pair.s2).flip(0, vtd::PE_SSADE);
            b.set_pasid(A, &entry)?;
            b.flush_all()?;
            access(b, false)?;
            check_bits(&entries(b, &pair.s2, G)?, vtd::S2_A, vtd::S2_D, false)?;
            access(b, true)?;
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
