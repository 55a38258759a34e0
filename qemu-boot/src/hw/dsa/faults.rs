// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page faults, with and without Block On Fault, and records that cannot be written.

use anyhow::{ensure, Result};

use super::super::bench::{Bench, DATA};
use super::super::layout::URW;
use super::super::tables::SIZE_4K;
use super::super::vtd;
use super::super::Case;
use super::device::{
    self as dsa, answer, await_bits, ends, flag, noise, op, put, reg, status, submit, wait, wq,
    Desc, Queue, BAR0, PASID, RECORDS, V,
};
use super::{hardware, plain};

/// The first page that is not there.
const HOLE: u64 = RECORDS + SIZE_4K;
/// Three pages before it there are bytes that can be moved.
const BEFORE: u64 = HOLE - 3 * SIZE_4K;

/// A copy to five pages, of which the fourth and fifth are not there. The record's page is
/// among those before: the copy must not reach it.
fn into_the_hole() -> Desc {
    Desc::moving(op::MEMMOVE, V, HOLE - 16, 5 * 4096)
}

fn reports(b: &mut Bench, ats: bool) -> Result<()> {
    let s1 = dsa::ready(b, Queue::USUAL)?;
    b.enable_ats(ats)?;
    let bad = status::PAGE_FAULT;
    // A write, after sixteen bytes, and a read.
    let record = dsa::run(b, &into_the_hole())?;
    ensure!(
        record.status == bad | status::WRITE && record.fault == HOLE && record.bytes == 16,
        "a write: {record:x?}"
    );
    let read = Desc::moving(op::MEMMOVE, BEFORE - SIZE_4K, V, 5 * 4096);
    let record = ends(b, &read, bad)?;
    ensure!(
        record.fault == HOLE && record.bytes == 4 * 4096,
        "a read: {record:x?}"
    );
    // Backwards it is the end that is done.
    let backward = Desc::moving(op::MEMMOVE, HOLE + 0x800, HOLE + 0x1800, 0x2000);
    s1.map(b, HOLE + 3 * SIZE_4K, DATA, SIZE_4K, URW)?;
    s1.map(b, HOLE + 2 * SIZE_4K, DATA, SIZE_4K, URW)?;
    b.flush_iommu()?;
    let record = dsa::run(b, &backward)?;
    ensure!(
        record.status & 0x7f == bad && record.result == 1 && record.bytes < 0x2000,
        "backwards: {record:x?}"
    );
    Ok(())
}

/// Block On Fault asks, and goes on when the page is there.
fn blocks(b: &mut Bench) -> Result<()> {
    let s1 = dsa::ready(b, Queue::BLOCKING)?;
    b.enable_pri(16, 0)?;
    let data = noise(5 * 4096, 3);
    put(b, V, &data)?;
    submit(b, &into_the_hole().flags(flag::BLOCK_ON_FAULT))?;
    for n in 0..5 {
        let request = b.await_page_requests(1)?[0];
        ensure!(
            request.page == HOLE + n * SIZE_4K
                && request.write
                && request.source == dsa::SID
                && request.pasid == Some(PASID),
            "{request:x?}"
        );
        // Others go on meanwhile.
        if n == 0 {
            submit(b, &Desc::new(op::NOOP).record(1))?;
            ensure!(wait(b, 1)?.status == status::SUCCESS, "a neighbour");
        }
        ensure!(dsa::look(b, 0)?.status == 0, "it is done");
        let to = DATA + 0x80_0000 + n * SIZE_4K;
        s1.map(b, request.page, to, SIZE_4K, URW)?;
        b.invalidate(&[answer(&request, 0)])?;
    }
    let record = wait(b, 0)?;
    ensure!(record.status == status::SUCCESS, "{record:x?}");
    let seen = b.q.read_bytes(DATA + 0x80_0000, data.len() - 16)?;
    ensure!(seen == data[16..], "the copy differs");
    Ok(())
}

/// A page that is refused ends the descriptor, the device lives.
fn refused(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::BLOCKING)?;
    b.enable_pri(16, 0)?;
    submit(b, &into_the_hole().flags(flag::BLOCK_ON_FAULT))?;
    let request = b.await_page_requests(1)?[0];
    b.invalidate(&[answer(&request, 1)])?;
    let record = wait(b, 0)?;
    ensure!(
        record.status == status::PAGE_FAULT_REFUSED | status::WRITE && record.fault == HOLE,
        "{record:x?}"
    );
    ensure!(record.bytes == 16, "{record:x?}");
    ends(b, &Desc::new(op::NOOP), status::SUCCESS).map(drop)
}

/// The page of a record is asked for, whatever Block On Fault says.
fn record_is_asked_for(b: &mut Bench) -> Result<()> {
    let s1 = dsa::ready(b, Queue::USUAL)?;
    b.enable_pri(16, 0)?;
    let lost = Desc {
        record: HOLE + 32,
        ..Desc::moving(op::FILL, 7, V, 8)
    };
    submit(b, &lost)?;
    let request = b.await_page_requests(1)?[0];
    ensure!(
        request.page == HOLE && request.write && request.pasid == Some(PASID),
        "{request:x?}"
    );
    // Others go on meanwhile.
    submit(b, &Desc::new(op::NOOP).record(1))?;
    ensure!(wait(b, 1)?.status == status::SUCCESS, "a neighbour");
    let to = DATA + 0x80_0000;
    s1.map(b, HOLE, to, SIZE_4K, URW)?;
    b.invalidate(&[answer(&request, 0)])?;
    dsa::done(b, dsa::cmd::DRAIN_WQ, 1)?;
    let record = dsa::record_at(b, to + 32)?;
    ensure!(record.status == status::SUCCESS, "{record:x?}");

    // Of a page that nobody has, SWERR tells.
    let nowhere = HOLE + SIZE_4K;
    submit(
        b,
        &Desc {
            record: nowhere,
            ..lost
        },
    )?;
    let request = b.await_page_requests(1)?[0];
    b.invalidate(&[answer(&request, 1)])?;
    await_bits(b, reg::SWERR, 1)?;
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(
        error >> 8 & 0xff == u64::from(status::RECORD_FAULT),
        "{error:#x}"
    );
    ensure!(
        b.q.read64(BAR0 + reg::SWERR + 16)? == nowhere,
        "its address"
    );
    Ok(())
}

/// A page request that fails is another error than a page that is not there.
fn request_fails(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::BLOCKING)?;
    b.enable_pri(16, 0)?;
    submit(b, &into_the_hole().flags(flag::BLOCK_ON_FAULT))?;
    let request = b.await_page_requests(1)?[0];
    b.invalidate(&[answer(&request, 0xf)])?;
    let record = wait(b, 0)?;
    ensure!(
        record.status == status::TRANSLATION_FAILED && record.fault == HOLE,
        "{record:x?}"
    );
    Ok(())
}

/// A queue without page requests, and one without ATS.
fn queue_bits(b: &mut Bench) -> Result<()> {
    dsa::ready(
        b,
        Queue {
            bits: wq::ATS_DISABLE,
            ..Queue::USUAL
        },
    )?;
    b.enable_pri(16, 0)?;
    b.faults()?;
    let record = dsa::run(b, &into_the_hole())?;
    ensure!(record.status & 0x7f == status::PAGE_FAULT, "{record:x?}");
    // An untranslated request leaves a fault behind.
    let faults = b.faults()?;
    ensure!(
        faults.len() == 1 && faults[0].source == dsa::SID && faults[0].page == HOLE,
        "faults {faults:x?}"
    );
    Ok(())
}

/// The end of the PASID in the middle of a transfer.
fn pasid_goes(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    b.enable_ats(true)?;
    let at = b.pasid_entry(PASID)?;
    b.q.write64(at, 0)?;
    b.flush_iommu()?;
    submit(b, &Desc::moving(op::FILL, 1, V, 64))?;
    // Neither the operand nor the record has a place any more.
    await_bits(b, reg::SWERR, 1)?;
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(
        error >> 8 & 0xff == u64::from(status::RECORD_FAULT),
        "{error:#x}"
    );
    let addr = b.q.read64(BAR0 + reg::SWERR + 16)?;
    ensure!(addr == dsa::record(0), "{addr:#x}");
    Ok(())
}

/// Translated requests of a function whose context entry forbids them.
fn no_dte(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    b.enable_ats(true)?;
    ends(b, &Desc::moving(op::FILL, 1, V, 64), status::SUCCESS)?;
    let own = b.context + 32 * 8;
    let entry = b.q.read64(own)?;
    b.q.write64(own, entry & !vtd::CTX_DTE)?;
    b.invalidate(&[vtd::desc::context_all()])?;
    submit(b, &Desc::moving(op::FILL, 2, V, 64))?;
    await_bits(b, reg::SWERR, 1)?;
    ensure!(b.q.read64(DATA)? == 1, "it was written");
    Ok(())
}

/// A page that is there, far from the records; the next one is not.
const NEAR: u64 = HOLE + 0x10_0000;
/// Their memory, which the process sees elsewhere, too.
const NEAR_MEMORY: u64 = DATA + 0x10_0000;
const NEAR_MEMORY_SEEN: u64 = V + 0x10_0000;
const TARGET: u64 = V + 0x8_0000;

/// What a record says of an operation that stopped at the end of [`NEAR`] is what its continuation
/// needs: the CRC so far, the deltas so far, the tags of the next block.
fn resumes(b: &mut Bench) -> Result<()> {
    let s1 = dsa::ready(b, Queue::USUAL)?;
    s1.map(b, NEAR, NEAR_MEMORY, SIZE_4K, URW)?;
    let data = noise(0x2000, 21);
    b.q.write_bytes(NEAR_MEMORY, &data)?;
    let crc = Desc::moving(op::CRC, NEAR + 100, 0, 0x1800);
    let copy = Desc::moving(op::COPY_CRC, NEAR + 100, TARGET, 0x1800);
    for desc in [crc, copy] {
        let record = ends(b, &desc, status::PAGE_FAULT)?;
        let want = plain::crc32c(0, &data[100..0x1000], false, false);
        ensure!(
            record.bytes == 0x1000 - 100 && record.word()? == want,
            "{record:x?}, not {want:#x}"
        );
        let rest = Desc {
            src: NEAR_MEMORY_SEEN + 0x1000,
            dst: if desc.dst == 0 { 0 } else { desc.dst + 0xf9c },
            size: 0x1800 - 0xf9c,
            ..desc
        };
        let record = ends(b, &rest.with(0, &want.to_le_bytes()), status::SUCCESS)?;
        let want = plain::crc32c(0, &data[100..100 + 0x1800], false, false);
        ensure!(
            record.word()? == want,
            "the rest: {record:x?}, not {want:#x}"
        );
    }

    put(b, TARGET, &vec![0; 0x2000])?;
    let create = Desc::moving(op::CREATE_DELTA, TARGET, NEAR, 0x2000)
        .with(0, &(TARGET + 0x4000).to_le_bytes())
        .with(8, &0x4000u32.to_le_bytes());
    let record = ends(b, &create, status::PAGE_FAULT)?;
    let want = plain::delta(&[0; 0x1000], &data[..0x1000]).len();
    ensure!(
        record.bytes == 0x1000 && record.result == 1 && record.word()? as usize == want,
        "{record:x?}, not {want:#x}"
    );

    // The third delta is for the page that is not there. What is left of them begins anywhere.
    let mut deltas = Vec::new();
    for offset in [0u16, 0x1ff, 0x200] {
        deltas.extend(offset.to_le_bytes());
        deltas.extend([0x77; 8]);
    }
    put(b, TARGET, &deltas)?;
    let apply = Desc::moving(op::APPLY_DELTA, TARGET, NEAR, 0x2000);
    let record = ends(
        b,
        &apply.with(0, &30u32.to_le_bytes()),
        status::PAGE_FAULT | status::WRITE,
    )?;
    ensure!(
        record.bytes == 20 && record.fault == NEAR + 0x1000,
        "{record:x?}"
    );
    let insert = Desc::moving(op::DIF_INSERT, NEAR, TARGET, 0x2000)
        .with(16, &7u32.to_le_bytes())
        .with(20, &[0, 0, 9, 0]);
    let record = ends(b, &insert, status::PAGE_FAULT)?;
    ensure!(
        record.bytes == 0x1000 && record.op[8..] == [15, 0, 0, 0, 0, 0, 9, 0],
        "{record:x?}"
    );
    s1.map(b, NEAR + SIZE_4K, NEAR_MEMORY + SIZE_4K, SIZE_4K, URW)?;
    put(b, TARGET, &deltas)?;
    let rest = Desc {
        src: TARGET + 20,
        ..apply.with(0, &10u32.to_le_bytes())
    };
    ends(b, &rest, status::SUCCESS)?;
    ensure!(
        b.q.read64(NEAR_MEMORY + 0x1000)? == u64::from_le_bytes([0x77; 8]),
        "the third delta"
    );
    Ok(())
}

/// A page of the table that leads to no memory.
fn no_memory(b: &mut Bench) -> Result<()> {
    let s1 = dsa::ready(b, Queue::USUAL)?;
    s1.map(b, HOLE, 1 << 40, SIZE_4K, URW)?;
    let record = ends(b, &into_the_hole(), status::HW_ERROR)?;
    ensure!(record.fault == HOLE && record.bytes == 16, "{record:x?}");
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = [("untranslated", false), ("translated", true)]
        .into_iter()
        .map(|(name, ats)| {
            Case::on(
                hardware(),
                &format!("dsa_fault_is_reported_{name}"),
                move |b| reports(b, ats),
            )
        })
        .collect();
    all.extend([
        Case::on(hardware(), "dsa_blocks_on_fault_and_goes_on", blocks),
        Case::on(hardware(), "dsa_page_that_is_refused_ends_it", refused),
        Case::on(hardware(), "dsa_record_is_asked_for", record_is_asked_for),
        Case::on(
            hardware(),
            "dsa_page_request_that_fails_ends_it",
            request_fails,
        ),
        Case::on(hardware(), "dsa_queue_without_ats", queue_bits),
        Case::on(hardware(), "dsa_pasid_goes_from_under_it", pasid_goes),
        Case::on(
            hardware(),
            "dsa_page_of_no_memory_is_a_hardware_error",
            no_memory,
        ),
        Case::on(hardware(), "dsa_translated_requests_need_dte", no_dte),
        Case::on(hardware(), "dsa_partial_operation_can_be_resumed", resumes),
    ]);
    all
}
