// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The event log: records without a place, of descriptors alone and in batches, and of drains
//! (DSA specification 3.0, 5.9).

use anyhow::{ensure, Result};
use serde_json::json;

use super::super::bench::{Bench, DATA};
use super::super::tables::SIZE_4K;
use super::super::Case;
use super::device::{
    self as dsa, await_bits, cmd, done, ends, flag, op, put, record, reg, status, submit, wait, wq,
    Desc, Queue, Record, BAR0, PASID, RECORDS, V,
};
use super::hardware;

const LOG: u64 = DATA + 0x48_0000;
const ENTRIES: u64 = 64;
const LIST: u64 = V + 0x2_0000;
/// A page that is not there.
const HOLE: u64 = RECORDS + SIZE_4K;

/// Turns the event log on before the device is.
pub fn configure(b: &mut Bench) -> Result<()> {
    b.q.write64(BAR0 + reg::EVLCFG, LOG)?;
    b.q.write64(BAR0 + reg::EVLCFG + 8, ENTRIES)?;
    b.q.write32(BAR0 + reg::GENCFG, dsa::GENCFG_EVL | dsa::GENCFG_USER_INT)?;
    b.q.write32(BAR0 + reg::GENCTRL, dsa::GENCTRL_EVL_INT)
}

/// [`dsa::ready`] with an event log.
fn ready(b: &mut Bench, queue: Queue) -> Result<()> {
    dsa::configured(b, queue)?;
    configure(b)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    done(b, cmd::ENABLE_WQ, 0)
}

/// An entry of the log.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    words: [u64; 3],
    pub record: Record,
}

impl Entry {
    pub fn error(&self) -> u8 {
        (self.words[0] >> 8) as u8
    }

    pub fn queue(&self) -> u8 {
        (self.words[0] >> 16) as u8
    }

    fn batch(&self) -> u8 {
        (self.words[0] >> 24) as u8
    }

    fn operation(&self) -> u8 {
        (self.words[0] >> 32) as u8
    }

    fn pasid(&self) -> u32 {
        (self.words[0] >> 40) as u32 & 0xf_ffff
    }

    fn is_child(&self) -> bool {
        self.words[0] >> 4 & 1 == 1
    }

    fn is_write(&self) -> bool {
        self.words[0] >> 5 & 1 == 1
    }

    fn index(&self) -> u16 {
        self.words[1] as u16
    }

    fn handle(&self) -> u16 {
        (self.words[1] >> 32) as u16
    }

    fn wants_interrupt(&self) -> bool {
        self.words[1] >> 48 & 1 == 1
    }

    fn has_record(&self) -> bool {
        self.words[1] >> 50 & 1 == 1
    }

    fn is_first(&self) -> bool {
        self.words[1] >> 51 & 1 == 1
    }

    fn address(&self) -> u64 {
        self.words[2]
    }
}

/// How many entries the log has had, below its size.
fn tail(b: &mut Bench) -> Result<u64> {
    Ok(b.q.read64(BAR0 + reg::EVLSTATUS)? >> 32 & 0xffff)
}

/// The entries so far, once all that was submitted to queue 0 has ended.
fn entries(b: &mut Bench) -> Result<Vec<Entry>> {
    done(b, cmd::DRAIN_WQ, 1)?;
    let tail = tail(b)?;
    (0..tail).map(|n| entry(b, n)).collect()
}

fn entry(b: &mut Bench, n: u64) -> Result<Entry> {
    let at = LOG + n * 64;
    let mut words = [0; 3];
    for (i, word) in (0u64..).zip(&mut words) {
        *word = b.q.read64(at + 8 * i)?;
    }
    let record = dsa::record_at(b, at + 32)?;
    Ok(Entry { words, record })
}

/// A compare, which reads, whose record has no place.
fn compare() -> Desc {
    Desc {
        record: HOLE + 0x40,
        ..Desc::moving(op::COMPARE, V, V + 0x1000, 64)
    }
}

/// The log has the record that cannot be written.
fn record_without_a_place(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    let vector = DATA + 0x40_0000;
    dsa::vector(b, 0, vector, 0x31)?;
    put(b, V, &[1])?;
    submit(b, &compare())?;
    let cause = await_bits(b, reg::INTCAUSE, dsa::CAUSE_EVL)?;
    ensure!(cause == dsa::CAUSE_EVL, "cause {cause:#x}");
    ensure!(b.q.read32(vector)? == 0x31, "no interrupt");
    let state = b.q.read64(BAR0 + reg::EVLSTATUS)?;
    ensure!(
        state >> 32 & 0xffff == 1 && state >> 62 & 1 == 1,
        "{state:#x}"
    );
    let entry = entry(b, 0)?;
    ensure!(
        entry.error() == status::RECORD_FAULT
            && entry.pasid() == PASID
            && entry.operation() == op::COMPARE
            && entry.address() == HOLE + 0x40,
        "{entry:x?}"
    );
    ensure!(!entry.is_child() && !entry.is_first(), "{entry:x?}");
    ensure!(
        entry.has_record() && entry.record.status == 1 && entry.record.result == 1,
        "{entry:x?}"
    );
    ensure!(
        entry.is_write(),
        "the access to the record reads: {entry:x?}"
    );
    ensure!(b.q.read64(BAR0 + reg::SWERR)? == 0, "SWERR has it too");
    Ok(())
}

/// SWERR says what a full log cannot take, and a head that moves makes room.
fn full(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    for _ in 0..ENTRIES - 1 {
        submit(b, &compare())?;
        done(b, cmd::DRAIN_WQ, 1)?;
    }
    ensure!(b.q.read64(BAR0 + reg::SWERR)? == 0, "SWERR too early");
    submit(b, &compare())?;
    done(b, cmd::DRAIN_WQ, 1)?;
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(
        error & 1 == 1 && error >> 8 & 0xff == u64::from(status::EVL_LOST),
        "the 64th is nowhere: {error:#x}"
    );
    b.q.write32(BAR0 + reg::EVLSTATUS, 5)?;
    submit(b, &compare())?;
    done(b, cmd::DRAIN_WQ, 1)?;
    let tail = tail(b)?;
    ensure!(tail == 0, "{tail}");
    Ok(())
}

/// No interrupt, no cause and no pending bit while the log's interrupt is off.
fn silent(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    b.q.write32(BAR0 + reg::GENCTRL, 0)?;
    submit(b, &compare())?;
    let count = entries(b)?.len();
    ensure!(count == 1, "{count} entries");
    let state = b.q.read64(BAR0 + reg::EVLSTATUS)?;
    ensure!(state >> 62 & 1 == 0, "pending: {state:#x}");
    let cause = b.q.read32(BAR0 + reg::INTCAUSE)?;
    ensure!(cause == 0, "cause {cause:#x}");
    Ok(())
}

/// The record of a write without event log.
fn swerr(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    submit(b, &compare())?;
    await_bits(b, reg::SWERR, 1)?;
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(
        error >> 8 & 0xff == u64::from(status::RECORD_FAULT),
        "{error:#x}"
    );
    ensure!(error >> 5 & 1 == 1, "the access reads: {error:#x}");
    Ok(())
}

/// Who writes the record raises its interrupt, too.
fn interrupt(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    let vector = DATA + 0x40_0000;
    dsa::vector(b, 3, vector, 0x33)?;
    let perm = PASID << 12 | dsa::MSIX_PERM_PASID_ENABLE;
    b.q.write32(BAR0 + reg::MSIX_PERM + 24, perm)?;
    let compare = Desc {
        int_handle: 3,
        ..compare().flags(flag::INTERRUPT)
    };
    submit(b, &compare)?;
    let entries = entries(b)?;
    ensure!(entries.len() == 1, "{entries:x?}");
    ensure!(
        entries[0].wants_interrupt() && entries[0].handle() == 3,
        "{entries:x?}"
    );
    ensure!(b.q.read32(vector)? == 0, "the device has raised it");
    Ok(())
}

/// Writes a batch of `descs` to list `n`.
fn batch(b: &mut Bench, n: u64, descs: &[Desc]) -> Result<Desc> {
    let list = LIST + n * SIZE_4K;
    for (i, desc) in (0u64..).zip(descs) {
        put(b, list + 64 * i, &desc.bytes())?;
    }
    Ok(Desc::moving(op::BATCH, list, 0, u32::try_from(descs.len())?).record(n))
}

/// A fill whose record has no place.
fn lost(n: u64) -> Desc {
    Desc {
        record: HOLE + 32 * n,
        ..Desc::moving(op::FILL, n, V + 0x4_0000, 64)
    }
}

/// The log has its children's records, then the batch's; they have one identifier.
fn children(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    let noop = Desc::new(op::NOOP).record(9);
    let descs = [noop, lost(1), lost(2)];
    // Both are in flight at a time.
    b.q.monitor("stop", &json!({}))?;
    for n in 0..2 {
        let all = batch(b, n, &descs)?;
        submit(b, &all)?;
    }
    b.q.monitor("cont", &json!({}))?;
    let entries = entries(b)?;
    ensure!(entries.len() == 6, "{entries:x?}");
    let batches: Vec<_> = entries
        .iter()
        .filter(|e| e.error() == status::BATCH_LOGGED)
        .collect();
    ensure!(batches.len() == 2, "{entries:x?}");
    ensure!(batches[0].batch() != batches[1].batch(), "{batches:x?}");
    for last in batches {
        let of: Vec<_> = entries
            .iter()
            .filter(|e| e.batch() == last.batch())
            .collect();
        ensure!(of.len() == 3, "{of:x?}");
        for (i, child) in (1u16..).zip(&of[..2]) {
            ensure!(
                child.error() == status::RECORD_FAULT
                    && child.is_child()
                    && child.index() == i
                    && child.address() == lost(i.into()).record
                    && child.record.status == status::SUCCESS,
                "{child:x?}"
            );
            ensure!(child.is_first() == (i == 1), "{child:x?}");
        }
        ensure!(
            of[2].operation() == op::BATCH
                && !of[2].is_child()
                && !of[2].is_first()
                && of[2].has_record(),
            "{of:x?}"
        );
        // Whether its children have records is for who writes them to say.
        let n = (last.address() - record(0)) / 32;
        ensure!(
            n < 2 && last.record.status == status::SUCCESS && last.record.bytes == 3,
            "{last:x?}"
        );
        let written = dsa::look(b, n)?;
        ensure!(written.status == 0, "it is written, too: {written:x?}");
    }
    Ok(())
}

/// A child that failed by itself counts, and a batch that says nothing is not logged.
fn failed_children(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    let bad = Desc { size: 0, ..lost(1) };
    let all = batch(b, 0, &[bad, lost(2)])?;
    submit(b, &all)?;
    let found = entries(b)?;
    let codes: Vec<_> = found.iter().map(Entry::error).collect();
    let want = [
        status::RECORD_FAULT,
        status::RECORD_FAULT,
        status::BATCH_LOGGED,
    ];
    ensure!(codes == want, "{found:x?}");
    let firsts: Vec<_> = found.iter().map(Entry::is_first).collect();
    ensure!(firsts == [true, false, false], "{found:x?}");
    ensure!(
        found[0].record.status == status::BAD_XFER_SIZE,
        "{found:x?}"
    );
    ensure!(found[2].record.status == status::BATCH_FAILED, "{found:x?}");

    let quiet = Desc {
        flags: flag::RECORD_VALID,
        ..batch(b, 1, &[lost(1), lost(2)])?
    };
    submit(b, &quiet)?;
    let count = entries(b)?.len();
    ensure!(count == 5, "{count} entries");
    Ok(())
}

/// Without the log, or where it is full, a child's record is lost, and its batch says so.
fn lost_children(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let all = batch(b, 0, &[Desc::new(op::NOOP).record(9), lost(2)])?;
    let record = ends(b, &all, status::BATCH_FAILED)?;
    ensure!(record.bytes == 2, "{record:x?}");
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(
        error >> 8 & 0xff == u64::from(status::RECORD_FAULT) && error >> 4 & 1 == 1,
        "{error:#x}"
    );
    let index = b.q.read64(BAR0 + reg::SWERR + 8)?;
    ensure!(index & 0xffff == 1, "{index:#x}");
    Ok(())
}

fn lost_children_of_a_full_log(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    b.q.write32(BAR0 + reg::EVLSTATUS, 1)?;
    let all = batch(b, 0, &[Desc::new(op::NOOP).record(9), lost(2)])?;
    ends(b, &all, status::BATCH_FAILED)?;
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(
        error >> 8 & 0xff == u64::from(status::EVL_LOST),
        "{error:#x}"
    );
    Ok(())
}

/// While page requests are off, a drain's record follows those that it waited for.
fn drain(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    submit(b, &lost(1))?;
    submit(b, &Desc::new(op::DRAIN))?;
    let found = entries(b)?;
    let codes: Vec<_> = found.iter().map(Entry::error).collect();
    ensure!(
        codes == [status::RECORD_FAULT, status::DRAIN_LOGGED],
        "{found:x?}"
    );
    let last = found[1];
    ensure!(
        last.address() == record(0)
            && last.has_record()
            && last.record.status == status::SUCCESS
            && last.operation() == op::DRAIN,
        "{last:x?}"
    );
    ensure!(dsa::look(b, 0)?.status == 0, "it is written, too");
    // Where a page can be asked for, no record was lost.
    b.enable_pri(16, 0)?;
    ends(b, &Desc::new(op::DRAIN), status::SUCCESS)?;
    let count = entries(b)?.len();
    ensure!(count == 2, "{count} entries");
    Ok(())
}

/// A queue that may not ask for pages.
fn without_requests(b: &mut Bench) -> Result<()> {
    ready(
        b,
        Queue {
            bits: wq::PRS_DISABLE,
            ..Queue::USUAL
        },
    )?;
    b.enable_pri(16, 0)?;
    submit(b, &lost(1))?;
    submit(b, &Desc::new(op::DRAIN))?;
    let found = entries(b)?;
    let codes: Vec<_> = found.iter().map(Entry::error).collect();
    ensure!(
        codes == [status::RECORD_FAULT, status::DRAIN_LOGGED],
        "{found:x?}"
    );
    let requests = b.page_requests()?;
    ensure!(requests.is_empty(), "{requests:x?}");
    let all = batch(b, 0, &[Desc::new(op::NOOP), Desc::new(op::NOOP)])?;
    let all = Desc { src: HOLE, ..all };
    submit(b, &all)?;
    let record = wait(b, 0)?;
    ensure!(
        record.status == status::BATCH_PAGE_FAULT && record.fault == HOLE,
        "{record:x?}"
    );
    Ok(())
}

/// A record that no process wants, of an error: the log has the error alone.
fn no_record(b: &mut Bench) -> Result<()> {
    ready(b, Queue::USUAL)?;
    let fault = Desc {
        flags: 0,
        ..Desc::moving(op::FILL, 1, HOLE + 8, 64)
    };
    submit(b, &fault)?;
    let found = entries(b)?;
    ensure!(
        found.len() == 1
            && found[0].error() == status::PAGE_FAULT
            && found[0].is_write()
            && found[0].address() & !0xfff == HOLE
            && !found[0].has_record(),
        "{found:x?}"
    );
    Ok(())
}

/// Entries come in the order in which descriptors end, which is that of their priorities: a queue
/// of three times the priority has three turns in four while both have descriptors.
fn priorities(b: &mut Bench) -> Result<()> {
    dsa::configured(b, Queue::USUAL)?;
    for (n, priority) in [(0, 1), (1, 3)] {
        dsa::configure(b, n, Queue::USUAL)?;
        let word = BAR0 + reg::WQCFG + 64 * n + 8;
        let value = b.q.read32(word)?;
        b.q.write32(word, value & !(0xf << 4) | priority << 4)?;
    }
    dsa::group(b, 0, 3, 1)?;
    configure(b)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    b.q.monitor("stop", &json!({}))?;
    for n in 0..2u64 {
        done(b, cmd::ENABLE_WQ, u32::try_from(n)?)?;
        for _ in 0..12 {
            let noop = Desc {
                record: HOLE,
                ..Desc::new(op::NOOP)
            };
            dsa::submit_at(b, dsa::portal(n, 0), &noop)?;
        }
    }
    b.q.monitor("cont", &json!({}))?;
    done(b, cmd::DRAIN_WQ, 3)?;
    let count = tail(b)?;
    ensure!(count == 24, "{count} entries");
    let queues: Vec<u8> = (0..count)
        .map(|n| Ok(entry(b, n)?.queue()))
        .collect::<Result<_>>()?;
    let later = queues[..16].iter().filter(|queue| **queue == 1).count();
    ensure!(
        later == 12,
        "{later} of 16 are the later queue's: {queues:?}"
    );
    let earlier = queues[..4].iter().filter(|queue| **queue == 0).count();
    ensure!(
        earlier == 1,
        "{earlier} of 4 are the first one's: {queues:?}"
    );
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, run: fn(&mut Bench) -> Result<()>| {
        Case::on(hardware(), &format!("dsa_event_log_{name}"), run)
    };
    vec![
        case("has_records_without_a_place", record_without_a_place),
        case("that_is_full_is_in_swerr", full),
        case("is_silent_without_its_interrupt", silent),
        case("leaves_interrupts_to_software", interrupt),
        case("has_children_then_their_batch", children),
        case("has_failed_children_then_their_batch", failed_children),
        case("that_is_full_fails_the_batch", lost_children_of_a_full_log),
        case("has_drains_without_page_requests", drain),
        case("of_a_queue_without_page_requests", without_requests),
        case("has_errors_without_a_record", no_record),
        case("has_queues_by_priority", priorities),
        Case::on(hardware(), "dsa_record_that_faults_was_a_write", swerr),
        Case::on(
            hardware(),
            "dsa_batch_of_a_lost_record_failed",
            lost_children,
        ),
    ]
}
