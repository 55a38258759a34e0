// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The DSA leaves its slot while it works: by the slot, by its own write, by its own interrupt.

use anyhow::{ensure, Result};

use super::super::bench::{Bench, DATA};
use super::super::endpoint::cfg;
use super::super::machinery::{gone, slot_control};
use super::super::{Case, Hardware, Place};
use super::device::{self as dsa, cmd, done, flag, op, portal, status, Desc, Queue, BAR0, BAR2};

/// A machine without IOMMU whose DSA can be unplugged. Addresses are physical ones.
fn slotted() -> Hardware {
    Hardware {
        place: Place::Absent,
        dsa: Place::Port,
        ..Hardware::plain()
    }
}

const LIST: u64 = DATA + 0x10_0000;
const RECORDS: u64 = DATA + 0x20_0000;
const TARGET: u64 = DATA + 0x80_0000;

/// Slot Control, once device and queue are on.
fn ready(b: &mut Bench) -> Result<u64> {
    b.start_port(BAR0, BAR2)?;
    for (at, value) in [(0x10, BAR0), (0x18, BAR2)] {
        b.set_cfg32(at, u32::try_from(value)?)?;
        b.set_cfg32(at + 4, 0)?;
    }
    b.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER)?;
    dsa::configure(
        b,
        0,
        Queue {
            pasid: None,
            ..Queue::USUAL
        },
    )?;
    dsa::group(b, 0, 1, 0xf)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    let noop = Desc {
        record: RECORDS,
        ..Desc::new(op::NOOP)
    };
    dsa::submit_at(b, portal(0, 0), &noop)?;
    done(b, cmd::DRAIN_WQ, 1)?;
    let record = dsa::record_at(b, RECORDS)?;
    ensure!(record.status == status::SUCCESS, "{record:x?}");
    slot_control(b)
}

/// Work that takes long: fills, a batch of them that ends with `last`, and a drain that waits for
/// all.
fn work_with(b: &mut Bench, last: Option<Desc>) -> Result<()> {
    let fill = Desc {
        flags: 0,
        ..Desc::moving(op::FILL, 0x55, TARGET, 4 << 20)
    };
    let fills = [fill; 8];
    for (n, desc) in (0u64..).zip(fills.into_iter().chain(last)) {
        b.q.write_bytes(LIST + 64 * n, &desc.bytes())?;
    }
    let count = 8 + u32::from(last.is_some());
    let batch = Desc {
        record: RECORDS + 32,
        ..Desc::moving(op::BATCH, LIST, 0, count)
    };
    let drain = Desc {
        record: RECORDS + 64,
        ..Desc::new(op::DRAIN)
    };
    for desc in [fill, batch, fill, drain] {
        dsa::submit_at(b, portal(0, 0), &desc)?;
    }
    Ok(())
}

fn work(b: &mut Bench) -> Result<()> {
    work_with(b, None)
}

fn by_the_slot(b: &mut Bench) -> Result<()> {
    let control = ready(b)?;
    work(b)?;
    b.q.write16(control, cfg::SLOT_OFF)?;
    gone(b)
}

fn by_its_own_write(b: &mut Bench) -> Result<()> {
    let control = ready(b)?;
    let off = DATA + 0x30_0000;
    b.q.write16(off, cfg::SLOT_OFF)?;
    work(b)?;
    let write = Desc {
        flags: 0,
        ..Desc::moving(op::MEMMOVE, off, control, 2)
    };
    dsa::submit_at(b, portal(0, 0), &write)?;
    work(b)?;
    gone(b)
}

/// The same by a child of a batch.
fn by_its_own_batch(b: &mut Bench) -> Result<()> {
    let control = ready(b)?;
    let off = DATA + 0x30_0000;
    b.q.write16(off, cfg::SLOT_OFF)?;
    let write = Desc {
        flags: 0,
        ..Desc::moving(op::MEMMOVE, off, control, 2)
    };
    work_with(b, Some(write))?;
    gone(b)
}

fn by_its_own_interrupt(b: &mut Bench) -> Result<()> {
    let control = ready(b)?;
    dsa::vector(b, 1, control, cfg::SLOT_OFF.into())?;
    work(b)?;
    let noop = Desc {
        record: RECORDS,
        int_handle: 1,
        ..Desc::new(op::NOOP).flags(flag::INTERRUPT)
    };
    for _ in 0..3 {
        dsa::submit_at(b, portal(0, 0), &noop)?;
    }
    gone(b)
}

/// The interrupt of a command that ends.
fn by_the_end_of_a_command(b: &mut Bench) -> Result<()> {
    let control = ready(b)?;
    dsa::vector(b, 0, control, cfg::SLOT_OFF.into())?;
    work(b)?;
    let drain = cmd::INTERRUPT | cmd::DRAIN_WQ << 20 | 1;
    b.q.write32(BAR0 + dsa::reg::CMD, drain)?;
    gone(b)
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, run: fn(&mut Bench) -> Result<()>| {
        Case::on(slotted(), &format!("dsa_unplug_{name}_is_survived"), run)
    };
    vec![
        case("by_the_slot", by_the_slot),
        case("by_its_own_write", by_its_own_write),
        case("by_its_own_batch", by_its_own_batch),
        case("by_its_own_interrupt", by_its_own_interrupt),
        case("by_the_end_of_a_command", by_the_end_of_a_command),
    ]
}
