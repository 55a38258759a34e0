// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Batches: their lists, fences, failures, and lists that are none.

use anyhow::{ensure, Result};
use serde_json::json;

use super::super::bench::Bench;
use super::super::tables::SIZE_4K;
use super::super::Case;
use super::device::{
    self as dsa, answer, ends, flag, op, put, status, submit, wait, Desc, Queue, RECORDS, V,
};
use super::hardware;

const LIST: u64 = V + 0x2_0000;
const TARGET: u64 = V + 0x4_0000;
const HOLE: u64 = RECORDS + SIZE_4K;

/// Writes `descs` to `at` and gives the batch of them.
fn batch_at(b: &mut Bench, at: u64, descs: &[Desc]) -> Result<Desc> {
    for (n, desc) in (0u64..).zip(descs) {
        put(b, at + 64 * n, &desc.bytes())?;
        if (RECORDS..HOLE).contains(&desc.record) {
            put(b, desc.record, &[0; 32])?;
        }
    }
    Ok(Desc::moving(op::BATCH, at, 0, u32::try_from(descs.len())?))
}

fn batch(b: &mut Bench, descs: &[Desc]) -> Result<Desc> {
    batch_at(b, LIST, descs)
}

/// A fill of page `n` without a record of its own.
fn fill(n: u64) -> Desc {
    Desc {
        flags: 0,
        ..Desc::moving(op::FILL, n, TARGET + n * SIZE_4K, 4096)
    }
}

fn runs(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let descs: Vec<Desc> = (0..64).map(fill).collect();
    let all = batch(b, &descs)?;
    let record = ends(b, &all, status::SUCCESS)?;
    ensure!(record.bytes == 64, "{record:x?}");
    for n in 0..64 {
        let seen = b.q.read64(dsa::memory(TARGET + n * SIZE_4K + 4088))?;
        ensure!(seen == n, "page {n} holds {seen}");
    }
    Ok(())
}

/// Each child's own record, and the batch's that says one failed.
fn fails(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let bad = Desc {
        size: 0,
        ..Desc::moving(op::FILL, 0, TARGET, 0).record(5)
    };
    let all = batch(b, &[fill(1), bad, fill(2), Desc::new(op::BATCH).record(6)])?;
    let record = ends(b, &all, status::BATCH_FAILED)?;
    ensure!(record.bytes == 4, "{record:x?}");
    ensure!(wait(b, 5)?.status == status::BAD_XFER_SIZE, "the bad one");
    ensure!(
        wait(b, 6)?.status == status::BAD_OPCODE,
        "a batch in a batch"
    );
    Ok(())
}

/// A drain has no place in a batch.
fn drain_is_refused(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let all = batch(b, &[fill(1), Desc::new(op::DRAIN).record(5), fill(2)])?;
    let record = ends(b, &all, status::BATCH_FAILED)?;
    ensure!(record.bytes == 3, "{record:x?}");
    let record = wait(b, 5)?;
    ensure!(record.status == status::BAD_OPCODE, "{record:x?}");
    Ok(())
}

/// Drains in batches and a drain beside them: the queue can be turned off.
fn drains_end(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let all = batch(b, &[fill(1), Desc::new(op::DRAIN).record(5), fill(2)])?;
    b.q.monitor("stop", &json!({}))?;
    submit(b, &all.record(1))?;
    submit(b, &all.record(2))?;
    submit(b, &Desc::new(op::DRAIN).record(3))?;
    b.q.monitor("cont", &json!({}))?;
    dsa::done(b, dsa::cmd::DISABLE_WQ, 1)?;
    for n in 1..=3 {
        let record = dsa::look(b, n)?;
        ensure!(record.status != 0, "record {n} is not written");
    }
    Ok(())
}

/// A fence waits, and is the end after a failure.
fn fences(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let long = Desc {
        flags: 0,
        ..Desc::moving(op::FILL, 7, TARGET, 0x10_0000)
    };
    let copy = Desc::moving(op::MEMMOVE, TARGET + 0xf_fff8, V, 8)
        .record(5)
        .flags(flag::FENCE);
    let all = batch(b, &[long, copy, fill(300)])?;
    ends(b, &all, status::SUCCESS)?;
    ensure!(b.q.read64(dsa::memory(V))? == 7, "the fence did not wait");

    let bad = Desc { size: 0, ..fill(0) };
    b.q.write64(dsa::memory(V), 0)?;
    let all = batch(b, &[fill(1), bad, copy, fill(2)])?;
    let record = ends(b, &all, status::BATCH_FAILED)?;
    ensure!(record.bytes == 2, "{record:x?}");
    ensure!(
        dsa::look(b, 5)?.status == 0,
        "what is after the fence was done"
    );
    ensure!(
        b.q.read64(dsa::memory(V))? == 0,
        "what is after the fence was done"
    );
    Ok(())
}

/// The list runs into a hole.
fn list_faults(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    b.enable_ats(true)?;
    // Two descriptors before the hole, in the page of the records.
    let all = batch_at(b, HOLE - 128, &[fill(1), fill(2)])?;
    let record = ends(b, &Desc { size: 4, ..all }, status::BATCH_PAGE_FAULT)?;
    ensure!(record.fault == HOLE && record.bytes == 2, "{record:x?}");
    Ok(())
}

/// The same with page requests: the list is asked for, whatever Block On Fault says.
fn list_blocks(b: &mut Bench) -> Result<()> {
    let s1 = dsa::ready(b, Queue::USUAL)?;
    b.enable_pri(16, 0)?;
    let all = batch_at(b, HOLE - 128, &[fill(1), fill(2)])?;
    submit(b, &Desc { size: 4, ..all })?;
    let request = b.await_page_requests(1)?[0];
    ensure!(request.page == HOLE && !request.write, "{request:x?}");
    // The page that comes has two more.
    let memory = dsa::memory(LIST);
    for n in 0..2 {
        b.q.write_bytes(memory + 64 * n, &fill(10 + n).bytes())?;
    }
    s1.map(b, HOLE, memory, SIZE_4K, super::super::layout::URW)?;
    b.invalidate(&[answer(&request, 0)])?;
    let record = wait(b, 0)?;
    ensure!(
        record.status == status::SUCCESS && record.bytes == 4,
        "{record:x?}"
    );
    ensure!(
        b.q.read64(dsa::memory(TARGET + 11 * SIZE_4K))? == 11,
        "the last one was not done"
    );
    Ok(())
}

/// A list that its own descriptors write to, and one that is a record.
fn itself(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let over = Desc {
        flags: 0,
        ..Desc::moving(op::FILL, u64::MAX, LIST, 64 * 64)
    };
    let descs = vec![over; 64];
    let all = batch(b, &descs)?;
    let record = dsa::run(b, &all)?;
    ensure!(
        matches!(record.status, status::SUCCESS | status::BATCH_FAILED),
        "{record:x?}"
    );
    let all = Desc {
        src: RECORDS,
        ..Desc::moving(op::BATCH, RECORDS, 0, 64)
    };
    let record = dsa::run(b, &all)?;
    ensure!(
        matches!(record.status, status::SUCCESS | status::BATCH_FAILED),
        "{record:x?}"
    );
    ends(b, &Desc::new(op::NOOP), status::SUCCESS).map(drop)
}

/// An abort in the middle of batches.
fn aborted(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::BLOCKING)?;
    b.enable_pri(64, 0)?;
    let hole = |n: u64| Desc {
        flags: flag::BLOCK_ON_FAULT,
        ..Desc::moving(op::FILL, 1, HOLE + n * SIZE_4K, 64)
    };
    let all = batch(b, &[hole(0), hole(1), hole(2), fill(1)])?;
    for n in 0..4 {
        submit(b, &all.record(n))?;
    }
    let requests = b.await_page_requests(4)?;
    dsa::done(b, dsa::cmd::ABORT_WQ, 1)?;
    for request in &requests {
        b.invalidate(&[answer(request, 0)])?;
    }
    ends(b, &Desc::new(op::NOOP), status::SUCCESS).map(drop)
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::on(hardware(), "dsa_batch_runs_its_list", runs),
        Case::on(hardware(), "dsa_batch_says_that_one_failed", fails),
        Case::on(hardware(), "dsa_batch_has_no_drain", drain_is_refused),
        Case::on(hardware(), "dsa_batch_and_drain_both_end", drains_end),
        Case::on(hardware(), "dsa_batch_fences", fences),
        Case::on(hardware(), "dsa_batch_list_faults", list_faults),
        Case::on(hardware(), "dsa_batch_list_blocks", list_blocks),
        Case::on(hardware(), "dsa_batch_that_writes_itself", itself),
        Case::on(hardware(), "dsa_batch_is_aborted", aborted),
    ]
}
