// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Thousands of PASIDs in use: each translates right, and a translation costs no
//! more than with one PASID.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::bench::{Bench, DATA};
use super::endpoint::{self as ep, Op};
use super::layout::URW;
use super::tables::{PasidEntry, Table, SIZE_4K};
use super::vtd::desc;
use super::Case;

const V: u64 = 0x7f12_3440_0000;
const PASIDS: u32 = 4096;
/// The highest PASIDs, so that the whole width is in use.
const FIRST: u32 = (1 << 20) - PASIDS;
const DID: u16 = 0x99;
/// Operations with one doorbell; half a ring.
const BATCH: u32 = 128;
/// How often each batch is measured: the machine may be busy with other things.
const ROUNDS: usize = 8;
/// Far above the noise, and far below a search among thousands. A walk for another
/// PASID meets other cache lines of the host at each level.
const CACHED_MAX: f64 = 4.0;
const WALKED_MAX: f64 = 8.0;

/// Gives every PASID a stage 1 and a page of data of its own.
fn world(b: &mut Bench) -> Result<()> {
    for n in 0..PASIDS {
        let s1 = Table::stage1(b, 4, false)?;
        s1.map(b, V, data_page(n), SIZE_4K, URW)?;
        b.set_pasid(FIRST + n, &PasidEntry::first(DID, &s1))?;
    }
    Ok(())
}

fn data_page(n: u32) -> u64 {
    DATA + u64::from(n) * SIZE_4K
}

/// An addition by `pasid` in its page `n`.
fn add_at(pasid: u32, n: u32) -> Op {
    Op {
        op: ep::OP_FETCH_ADD,
        flags: ep::FLAG_PASID | ep::FLAG_NO_ATS,
        pasid,
        length: 8,
        dst: V + u64::from(n) * SIZE_4K + 0x100,
        operand: 1,
        ..Op::default()
    }
}

fn add_by(pasid: u32) -> Op {
    add_at(pasid, 0)
}

/// Times for 4,096 operations, by batches.
fn measure(b: &mut Bench, op: impl Fn(u32) -> Op) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for batch in 0..PASIDS / BATCH {
        let ops: Vec<Op> = (0..BATCH).map(|i| op(batch * BATCH + i)).collect();
        let slots = b.place(&ops)?;
        let last = *slots.last().context("No slots")?;
        let begun = Instant::now();
        b.doorbell()?;
        // Slots of one chunk are done in order.
        let done = b.finish(last)?;
        times.push(begun.elapsed());
        ensure!(done.status == ep::OK, "{done:x?}");
    }
    Ok(times)
}

/// The time for 4,096 operations, each batch at its fastest; `cold`: with empty
/// caches.
fn best(b: &mut Bench, cold: bool, op: impl Fn(u32) -> Op) -> Result<Duration> {
    let mut best = vec![Duration::MAX; usize::try_from(PASIDS / BATCH)?];
    for _ in 0..ROUNDS {
        if cold {
            b.invalidate(&[desc::iotlb_all(), desc::pasid_all()])?;
        }
        for (best, time) in best.iter_mut().zip(measure(b, &op)?) {
            *best = time.min(*best);
        }
    }
    Ok(best.into_iter().sum())
}

/// One page of 4,096 PASIDs against 4,096 pages of one PASID: as many entries in
/// the IOTLB, as many walks.
fn costs(b: &mut Bench) -> Result<()> {
    world(b)?;
    let single = FIRST - 1;
    let s1 = Table::stage1(b, 4, false)?;
    for n in 0..PASIDS {
        s1.map(b, V + u64::from(n) * SIZE_4K, data_page(n), SIZE_4K, URW)?;
    }
    b.set_pasid(single, &PasidEntry::first(DID, &s1))?;

    for (what, cold, max) in [("walked", true, WALKED_MAX), ("cached", false, CACHED_MAX)] {
        let one = best(b, cold, |i| add_at(single, i))?;
        let many = best(b, cold, |i| add_by(FIRST + i))?;
        let ratio = many.as_secs_f64() / one.as_secs_f64();
        b.note(format!(
            "{PASIDS} translations, {what}: one PASID {one:?}, {PASIDS} PASIDs {many:?}, \
             ratio {ratio:.2}"
        ));
        ensure!(
            ratio < max,
            "{PASIDS} PASIDs ({what}) cost {ratio:.2} times what one costs"
        );
    }
    Ok(())
}

fn reaches(b: &mut Bench) -> Result<()> {
    world(b)?;
    measure(b, |i| add_by(FIRST + i))?;
    for n in 0..PASIDS {
        let seen = b.q.read64(data_page(n) + 0x100)?;
        ensure!(seen == 1, "PASID {:#x}: {seen} additions, not 1", FIRST + n);
    }

    // All are cached: one goes, its neighbours stay.
    let victim = FIRST + 1234;
    for pasid in victim - 1..=victim + 1 {
        let entry = b.pasid_entry(pasid)?;
        b.q.write64(entry, 0)?;
    }
    b.invalidate(&[desc::pasid_one(DID, victim), desc::piotlb_all(DID, victim)])?;
    b.run_ok(add_by(victim - 1))?;
    b.run_ok(add_by(victim + 1))?;
    let done = b.run(add_by(victim))?;
    ensure!(
        done.status == ep::NO_ACCESS,
        "the invalidated one: {done:x?}"
    );
    Ok(())
}

/// PASIDs of one domain; the bound of the caches is above it.
const MANY: u32 = 16384;
const FEW: u32 = 16;
/// Descriptors with one write of the tail; the queue has 512.
const DESCRIPTORS: usize = 500;
/// One walk over MANY is some hundred times one over FEW.
const TAIL_MAX: f64 = 8.0;

/// The time of one write of the queue's tail, with `pasids` PASIDs of the domain in the
/// caches that the descriptors name nothing of.
fn tail_write(b: &mut Bench, first: u32, pasids: u32, descriptor: desc::Desc) -> Result<Duration> {
    let ops: Vec<Op> = (0..pasids).map(|n| add_by(first + n)).collect();
    for batch in ops.chunks(usize::try_from(BATCH)?) {
        let slots = b.order(batch)?;
        let done = b.finish(*slots.last().context("No slots")?)?;
        ensure!(done.status == ep::OK, "{done:x?}");
    }
    // The first one may drop what it names.
    b.queue(&[descriptor])?;
    let begun = Instant::now();
    b.queue(&vec![descriptor; DESCRIPTORS])?;
    Ok(begun.elapsed())
}

/// What a queue of invalidations costs goes by what they drop, not by what is cached.
fn tail_costs(b: &mut Bench) -> Result<()> {
    let s1 = Table::stage1(b, 4, false)?;
    s1.map(b, V, DATA, SIZE_4K, URW)?;
    // Whole tables at once: MANY entries by single writes take a while.
    let mut table = Vec::new();
    for _ in 0..64 {
        for quad in PasidEntry::first(DID, &s1).0 {
            table.extend(quad.to_le_bytes());
        }
    }
    let first = 1 << 16;
    for n in (0..MANY).step_by(64) {
        let at = b.pasid_entry(first + n)?;
        b.q.write_bytes(at, &table)?;
    }
    let few = 1 << 18;
    let at = b.pasid_entry(few)?;
    b.q.write_bytes(at, &table)?;

    for (what, descriptor) in [
        ("pages of a domain", desc::iotlb_pages(DID, V, 0)),
        ("the PASID cache of a domain", desc::pasid_domain(DID)),
        ("a domain", desc::iotlb_domain(DID)),
    ] {
        let small = tail_write(b, few, FEW, descriptor)?;
        b.flush_all()?;
        let large = tail_write(b, first, MANY, descriptor)?;
        b.flush_all()?;
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        b.note(format!(
            "{DESCRIPTORS} descriptors, {what}: {FEW} PASIDs {small:?}, {MANY} PASIDs {large:?}, \
             ratio {ratio:.2}"
        ));
        ensure!(
            ratio < TAIL_MAX,
            "{what}: {MANY} PASIDs cost {ratio:.2} times what {FEW} cost"
        );
    }
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("scale_4096_pasids_keep_apart", reaches),
        Case::new("scale_4096_pasids_cost_no_more_than_one", costs).alone(),
        Case::new("scale_queue_costs_what_it_drops", tail_costs).alone(),
    ]
}
