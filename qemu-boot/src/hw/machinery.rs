// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine around IOMMU and endpoint: slots, a machine that stands still, migration,
//! and the recording.

use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};

use super::bench::{Bench, DATA, ECAM, SLOT_TIMEOUT};
use super::endpoint::{self as ep, cfg, Op};
use super::tables::PasidEntry;
use super::vtd::{self, desc};
use super::{Case, Hardware, Place, Program};

/// An operation of the RID, whose addresses are physical ones.
fn op(op: u32) -> Op {
    Op {
        op,
        length: 8,
        src: DATA,
        dst: DATA,
        ..Op::default()
    }
}

/// A machine without IOMMU whose endpoint can be unplugged.
fn slotted() -> Hardware {
    Hardware {
        place: Place::Port,
        ..Hardware::plain()
    }
}

/// Slot Control of the root port.
pub fn slot_control(b: &mut Bench) -> Result<u64> {
    let port = ECAM + (u64::from(ep::SID) << 12);
    let mut at = b.q.read(port + cfg::CAP_POINTER, 1)?;
    while at != 0 {
        if b.q.read(port + at, 1)? == u64::from(cfg::CAP_EXPRESS) {
            return Ok(port + at + cfg::EXPRESS_SLOT_CONTROL);
        }
        at = b.q.read(port + at + 1, 1)?;
    }
    bail!("The port has no PCI Express capability")
}

/// Waits until the device has left its slot, then looks whether QEMU lives.
pub fn gone(b: &mut Bench) -> Result<()> {
    let begun = Instant::now();
    while b.cfg16(0)? != u16::MAX {
        ensure!(begun.elapsed() < SLOT_TIMEOUT, "The endpoint stays");
    }
    b.q.write64(DATA, 1)?;
    ensure!(b.q.read64(DATA)? == 1, "no memory any more");
    Ok(())
}

fn unplugged_by_its_own_write(b: &mut Bench) -> Result<()> {
    let control = slot_control(b)?;
    b.q.write16(Bench::buffer(0), cfg::SLOT_OFF)?;
    let mut off = op(ep::OP_WRITE);
    off.dst = control;
    off.length = 2;
    // Others are under way, before it and after it.
    let mut fill = op(ep::OP_FILL);
    fill.length = 16 << 20;
    b.order(&[fill, off, fill, op(ep::OP_NOP)])?;
    gone(b)
}

fn unplugged_by_its_own_interrupt(b: &mut Bench) -> Result<()> {
    let control = slot_control(b)?;
    b.q.write64(ep::BAR2, control)?;
    b.q.write64(ep::BAR2 + 8, u64::from(cfg::SLOT_OFF))?;
    let msix = b.capability(cfg::CAP_MSIX)?;
    b.set_cfg16(msix + cfg::MSIX_CONTROL, cfg::MSIX_ENABLE)?;
    let mut nop = op(ep::OP_NOP);
    nop.flags |= ep::FLAG_IRQ;
    b.order(&[nop, nop, nop])?;
    gone(b)
}

/// The interrupt of a failed page request ends every slot, the one among them whose
/// request it was.
fn retires_once(b: &mut Bench) -> Result<()> {
    const PASID: u32 = 7;
    let directory = b.directory_entry(PASID);
    b.q.write64(directory, 0)?;
    b.set_pasid(0, &PasidEntry::pass(1))?;
    let s1 = super::tables::Table::stage1(b, 4, false)?;
    b.set_pasid(PASID, &PasidEntry::first(2, &s1))?;
    b.enable_pri(8, 0)?;
    b.q.write64(ep::BAR2 + 16, ep::BAR0 + ep::reg::COMMAND)?;
    b.q.write64(ep::BAR2 + 24, u64::from(ep::COMMAND_ABORT))?;
    let msix = b.capability(cfg::CAP_MSIX)?;
    b.set_cfg16(msix + cfg::MSIX_CONTROL, cfg::MSIX_ENABLE)?;
    let mut read = op(ep::OP_READ);
    read.flags = ep::FLAG_PASID;
    read.pasid = PASID;
    let slot = b.order(&[read])?[0];
    let request = b.await_page_requests(1)?[0];
    b.invalidate(&[desc::page_response(request.pasid, request.prgi, 0xf)])?;
    let done = b.finish(slot)?;
    ensure!(done.status == ep::ABORTED, "{done:x?}");
    b.q.clock_step(1_000_000)?;
    for _ in 0..20 {
        let done = b.finish(slot)?;
        ensure!(done.status == ep::ABORTED, "after a while: {done:x?}");
    }
    let errors = b.reg64(ep::reg::CNT_ERROR)?;
    ensure!(errors == 1, "retired {errors} times");
    Ok(())
}

fn stands_still(b: &mut Bench) -> Result<()> {
    b.set_pasid(0, &PasidEntry::pass(1))?;
    b.q.write64(DATA, 0)?;
    let mut fill = op(ep::OP_FILL);
    fill.operand = 0x55;
    let still = |b: &mut Bench, slot, when: &str| -> Result<()> {
        for _ in 0..50 {
            ensure!(b.status(slot)? == ep::QUEUED, "DMA {when}");
        }
        ensure!(b.q.read64(DATA)? == 0, "memory has changed {when}");
        Ok(())
    };
    let slot = b.order(&[fill])?[0];
    still(b, slot, "before the machine runs")?;
    b.q.monitor("cont", &json!({}))?;
    ensure!(b.finish(slot)?.status == ep::OK, "no DMA after cont");
    ensure!(b.q.read64(DATA)? == 0x55, "no DMA after cont");

    b.q.monitor("stop", &json!({}))?;
    b.q.write64(DATA, 0)?;
    let slot = b.order(&[fill])?[0];
    still(b, slot, "while the machine is stopped")?;
    b.q.monitor("cont", &json!({}))?;
    ensure!(
        b.finish(slot)?.status == ep::OK,
        "no DMA after the second cont"
    );
    Ok(())
}

const STATE: &str = "state";

/// Migrates a machine whose IOMMU has the options `from` to one with `to`, by a file. Says
/// what comes of it, and whether there is a reason.
fn migrate(program: &Program, from: &str, to: &str) -> Result<(String, bool)> {
    let uri = format!("file:{}", program.dir_seen.join(STATE).display());
    let ended = |b: &mut Bench| -> Result<(String, bool)> {
        let begun = Instant::now();
        loop {
            let answer = b.q.monitor("query-migrate", &json!({}))?;
            let status = answer["status"].as_str().unwrap_or("none").to_owned();
            if status == "completed" || status == "failed" {
                return Ok((status, answer["error-desc"] != Value::Null));
            }
            ensure!(begun.elapsed() < SLOT_TIMEOUT, "migration stays {status}");
        }
    };
    let hardware = |options: &str| Hardware {
        place: Place::Absent,
        ..Hardware::with(options)
    };
    let mut source = Bench::bare(program, &hardware(from))?;
    source.q.monitor("migrate", &json!({ "uri": uri }))?;
    let (status, _) = ended(&mut source)?;
    ensure!(status == "completed", "the source says {status}");
    drop(source);

    let incoming = Hardware {
        incoming: true,
        ..hardware(to)
    };
    let mut target = Bench::bare(program, &incoming)?;
    let arguments = json!({ "uri": uri, "exit-on-error": false });
    target.q.monitor("migrate-incoming", &arguments)?;
    ended(&mut target)
}

fn migrates(program: &Program) -> Result<()> {
    // What agrees migrates; what does not is refused.
    for (from, to, want) in [
        ("nesting=on", "nesting=on", "completed"),
        ("nesting=off", "nesting=off", "completed"),
        ("nesting=on", "nesting=off", "failed"),
        ("nesting=off", "nesting=on", "failed"),
        ("nesting=on", "nesting=on,fs5lp=off", "failed"),
    ] {
        let (status, _) = migrate(program, from, to)?;
        ensure!(status == want, "from {from} to {to}: {status}, not {want}");
    }
    Ok(())
}

const RECORDING: &str = "recording";

/// A guest that shows the recorder more and more tables.
fn recording_ends(program: &Program) -> Result<()> {
    let options = format!(
        "nesting=on,record={}",
        program.dir_seen.join(RECORDING).display()
    );
    let mut b = Bench::start(program, &Hardware::with(&options))?;
    // Every page of the directory is there; each entry of it names a page of its own.
    let pages = 20_000;
    for n in 0..pages {
        let table = DATA + 0x20_0000 + n * 0x1000 % 0xd00_0000;
        let entry = b.directory + n * 8 % 0x2_0000;
        b.q.write64(entry, table | 1)?;
        if n % 5_000 == 4_999 {
            b.invalidate(&[])?;
        }
    }
    // The entries of the second round have been another page's before.
    for n in 0..0x4000 {
        let table = 0x80_0000 + n * 0x1000 % 0x380_0000;
        let entry = b.directory + n * 8;
        b.q.write64(entry, table | 1)?;
    }
    b.invalidate(&[])?;
    let text = std::fs::read_to_string(program.dir.join(RECORDING)).context("no recording")?;
    ensure!(text.lines().last() == Some("T"), "the recording has no end");
    // It goes on working, unrecorded.
    b.invalidate(&[desc::iotlb_all()])?;
    ensure!(b.vtd32(vtd::reg::FSTS)? == 0, "the unit has an error");
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let stopped = Hardware {
        stopped: true,
        ..Hardware::usual()
    };
    vec![
        Case::on(
            slotted(),
            "machine_unplug_by_the_endpoints_own_write_is_survived",
            unplugged_by_its_own_write,
        ),
        Case::on(
            slotted(),
            "machine_unplug_by_the_endpoints_own_interrupt_is_survived",
            unplugged_by_its_own_interrupt,
        ),
        Case::new("machine_slot_retires_once", retires_once),
        Case::on(
            stopped,
            "machine_that_stands_still_has_no_dma",
            stands_still,
        ),
        Case::several("machine_migrates_to_the_same_unit_alone", migrates),
        Case::several("machine_recording_has_an_end", recording_ends),
    ]
}
