// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Portals, queues that are full, drains, aborts and interrupts.

use anyhow::{ensure, Result};
use serde_json::json;

use super::super::bench::{Bench, DATA};
use super::super::Case;
use super::device::{
    self as dsa, cmd, configure, done, ends, flag, op, portal, reg, status, submit, wait, Desc,
    Queue, BAR0, V,
};
use super::hardware;

/// A fill that takes many steps, with record `n`.
fn long(n: u64) -> Desc {
    Desc::moving(op::FILL, 0x55, V, 0x20_0000).record(n)
}

fn noop(n: u64) -> Desc {
    Desc::new(op::NOOP).record(n)
}

/// What is not eight writes in order is no descriptor.
fn pieces(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let at = portal(0, 0);
    let bytes = noop(0).bytes();
    let quad =
        |i: usize| -> Result<u64> { Ok(u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into()?)) };
    // Without its first part, with a gap, by halves.
    for i in 1..8 {
        b.q.write64(at + 8 * i as u64, quad(i)?)?;
    }
    for i in [0, 1, 2, 4, 5, 6, 7] {
        b.q.write64(at + 8 * i as u64, quad(i)?)?;
    }
    for i in 0..16u64 {
        b.q.write32(at + 4 * i, (quad(i as usize / 2)? >> (32 * (i % 2))) as u32)?;
    }
    b.q.clock_step(1_000_000)?;
    ensure!(dsa::look(b, 0)?.status == 0, "something was taken");
    // Anywhere in the page, and by the limited portal.
    for (n, place) in [(1, at + 0xfc0), (2, portal(0, 1) + 0x40)] {
        b.q.write_bytes(dsa::memory(dsa::record(n)), &[0; 32])?;
        dsa::submit_at(b, place, &noop(n))?;
        ensure!(wait(b, n)?.status == status::SUCCESS, "portal {place:#x}");
    }
    ensure!(b.q.read64(at)? == u64::MAX, "a portal reads as something");
    Ok(())
}

/// A queue that is off takes nothing, and one that is full loses what comes.
fn lost(b: &mut Bench) -> Result<()> {
    dsa::ready(
        b,
        Queue {
            size: 4,
            ..Queue::USUAL
        },
    )?;
    dsa::submit_at(b, portal(1, 0), &noop(0))?;
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(error == 0, "a queue that is off: {error:#x}");
    // A machine that stands still takes nothing out of the queue.
    b.q.monitor("stop", &json!({}))?;
    for n in 0..6 {
        submit(b, &noop(n))?;
    }
    let queued = b.q.read32(BAR0 + reg::WQCFG + 24)? & 0xffff;
    ensure!(queued == 4, "{queued} are queued, not 4");
    let error = b.q.read64(BAR0 + reg::SWERR)?;
    ensure!(error & 3 == 3, "two were lost: {error:#x}");
    ensure!(
        error >> 8 & 0xff == u64::from(status::WQ_FULL) && error >> 16 & 0xff == 0,
        "{error:#x}"
    );
    ensure!(
        b.q.read32(BAR0 + reg::INTCAUSE)? == dsa::CAUSE_SWERR,
        "no cause"
    );
    b.q.write64(BAR0 + reg::SWERR, 3)?;
    ensure!(b.q.read64(BAR0 + reg::SWERR)? == 0, "SWERR stays");
    b.q.monitor("cont", &json!({}))?;
    for n in 0..4 {
        ensure!(wait(b, n)?.status == status::SUCCESS, "record {n}");
    }
    ensure!(dsa::look(b, 4)?.status == 0, "the fifth was done");
    Ok(())
}

/// Drain, as a descriptor and as a command, waits for what is before it.
fn drains(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    submit(b, &long(1))?;
    submit(b, &Desc::new(op::DRAIN))?;
    wait(b, 0)?;
    ensure!(
        dsa::look(b, 1)?.status == status::SUCCESS,
        "before the drain"
    );
    for code in [cmd::DRAIN_WQ, cmd::DISABLE_WQ] {
        submit(b, &long(1))?;
        submit(b, &long(2))?;
        done(b, code, 1)?;
        for n in [1, 2] {
            ensure!(
                dsa::look(b, n)?.status == status::SUCCESS,
                "command {code} is done before record {n}"
            );
        }
    }
    done(b, cmd::ENABLE_WQ, 0)?;
    done(b, cmd::DRAIN_PASID, dsa::PASID)?;
    b.q.monitor("stop", &json!({}))?;
    submit(b, &long(1))?;
    done(b, cmd::ABORT_WQ, 1)?;
    b.q.monitor("cont", &json!({}))?;
    ends(b, &noop(0), status::SUCCESS)?;
    ensure!(dsa::look(b, 1)?.status == 0, "an aborted one has a record");
    done(b, cmd::RESET_WQ, 1)?;
    let word = b.q.read32(BAR0 + reg::WQCFG + 8)?;
    ensure!(word == 0, "WQCFG after its reset: {word:#x}");
    let size = b.q.read32(BAR0 + reg::WQCFG)?;
    ensure!(size == Queue::USUAL.size, "the size after a reset: {size}");
    done(b, cmd::RESET_WQ, 1)?;
    configure(b, 0, Queue::USUAL)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    ends(b, &noop(0), status::SUCCESS).map(drop)
}

/// A long one lets others pass: what comes after it reads the end of its range before it is written.
fn turns(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let end = V + 0x20_0000 - 8;
    b.q.write64(dsa::memory(end), 0x77)?;
    // Both are in the queue before the device takes either.
    b.q.monitor("stop", &json!({}))?;
    submit(
        b,
        &Desc::moving(op::FILL, 0x55, V + 0x1000, 0x1f_f000).record(1),
    )?;
    submit(b, &Desc::moving(op::MEMMOVE, end, V, 8).record(2))?;
    b.q.monitor("cont", &json!({}))?;
    for n in [1, 2] {
        ensure!(wait(b, n)?.status == status::SUCCESS, "record {n}");
    }
    ensure!(b.q.read64(dsa::memory(end))? == 0x55, "the fill");
    let seen = b.q.read64(dsa::memory(V))?;
    ensure!(seen == 0x77, "the long one was done first: {seen:#x}");
    Ok(())
}

/// Two queues of two PASIDs, of which one has no table.
fn queues(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    done(b, cmd::RESET_DEVICE, 0)?;
    configure(b, 0, Queue::USUAL)?;
    configure(
        b,
        3,
        Queue {
            pasid: None,
            ..Queue::USUAL
        },
    )?;
    b.q.write64(BAR0 + reg::GRPCFG, 1)?;
    b.q.write64(BAR0 + reg::GRPCFG + 32, 1)?;
    b.q.write64(BAR0 + reg::GRPCFG + 64, 1 << 3)?;
    b.q.write64(BAR0 + reg::GRPCFG + 96, 2)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    done(b, cmd::ENABLE_WQ, 3)?;
    submit(b, &long(1))?;
    // Without PASID the addresses are physical ones.
    let desc = Desc {
        record: dsa::memory(dsa::record(2)),
        ..Desc::moving(op::FILL, 0x77, DATA + 0x30_0000, 64)
    };
    dsa::submit_at(b, portal(3, 0), &desc)?;
    ensure!(wait(b, 2)?.status == status::SUCCESS, "without PASID");
    ensure!(b.q.read64(DATA + 0x30_0000)? == 0x77, "the fill");
    ensure!(wait(b, 1)?.status == status::SUCCESS, "with PASID");
    Ok(())
}

fn interrupts(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let at = DATA + 0x40_0000;
    dsa::vector(b, 2, at, 0x99)?;
    let desc = Desc {
        int_handle: 2,
        ..noop(0).flags(flag::INTERRUPT)
    };
    // The permission names the PASID, and user mode must be allowed.
    let record = ends(b, &desc, status::BAD_FLAGS)?;
    ensure!(record.word()? == flag::INTERRUPT, "{record:x?}");
    b.q.write32(BAR0 + reg::GENCFG, dsa::GENCFG_USER_INT)?;
    ends(b, &desc, status::BAD_INT_HANDLE)?;
    b.q.write32(BAR0 + reg::MSIX_PERM + 16, (dsa::PASID + 1) << 12 | 1 << 3)?;
    ends(b, &desc, status::BAD_INT_HANDLE)?;
    ensure!(b.q.read32(at)? == 0, "an interrupt that is not allowed");
    b.q.write32(BAR0 + reg::MSIX_PERM + 16, dsa::PASID << 12 | 1 << 3)?;
    ends(b, &desc, status::SUCCESS)?;
    ensure!(b.q.read32(at)? == 0x99, "no interrupt");
    // An IMS portal has no MSI-X vectors.
    b.q.write_bytes(dsa::memory(dsa::record(0)), &[0; 32])?;
    dsa::submit_at(b, portal(0, 2), &desc)?;
    ensure!(
        wait(b, 0)?.status == status::BAD_INT_HANDLE,
        "by an IMS portal"
    );
    Ok(())
}

/// Who may not raise an interrupt raises none by a descriptor that has another fault, either.
fn interrupts_of_errors(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let at = DATA + 0x40_0000;
    for n in 0..9 {
        dsa::vector(b, n, at + 4 * n, 0x99)?;
    }
    let noop = noop(0).flags(flag::INTERRUPT);
    let bad = [
        Desc {
            opcode: 0x7f,
            ..noop
        },
        noop.flags(1 << 6),
        noop.with(3, &[1]),
        Desc {
            size: 0,
            ..Desc::moving(op::FILL, 0, V, 0).flags(flag::INTERRUPT)
        },
        Desc {
            record: noop.record + 8,
            ..noop
        },
    ];
    let other = (dsa::PASID + 1) << 12 | dsa::MSIX_PERM_PASID_ENABLE;
    let all = |b: &mut Bench, handle| -> Result<u32> {
        for page in [0, 2] {
            for desc in bad {
                let desc = Desc {
                    int_handle: handle,
                    ..desc
                };
                dsa::submit_at(b, portal(0, page), &desc)?;
                done(b, cmd::DRAIN_WQ, 1)?;
            }
        }
        b.q.read32(at + 4 * u64::from(handle))
    };
    // User mode is not allowed, then the permission is another's.
    for user in [0, dsa::GENCFG_USER_INT] {
        b.q.write32(BAR0 + reg::GENCFG, user)?;
        for handle in 0..9u16 {
            let perm = BAR0 + reg::MSIX_PERM + 8 * u64::from(handle);
            b.q.write32(perm, if handle == 4 { 0 } else { other })?;
            let seen = all(b, handle)?;
            ensure!(seen == 0, "vector {handle} was raised, user {user:#x}");
        }
    }
    // By an MSI-X portal and with permission the error has its interrupt.
    b.q.write32(
        BAR0 + reg::MSIX_PERM + 16,
        dsa::PASID << 12 | dsa::MSIX_PERM_PASID_ENABLE,
    )?;
    ends(
        b,
        &Desc {
            int_handle: 2,
            ..bad[0]
        },
        status::BAD_OPCODE,
    )?;
    ensure!(b.q.read32(at + 8)? == 0x99, "no interrupt of an error");
    Ok(())
}

/// A vector that is ignored is checked all the same, and is not raised.
fn ignored(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let at = DATA + 0x40_0000;
    dsa::vector(b, 2, at, 0x99)?;
    b.q.write32(BAR0 + reg::GENCFG, dsa::GENCFG_USER_INT)?;
    let desc = Desc {
        int_handle: 2,
        ..noop(0).flags(flag::INTERRUPT)
    };
    let ignore = dsa::MSIX_PERM_IGNORE | dsa::MSIX_PERM_PASID_ENABLE;
    for (pasid, want) in [
        (dsa::PASID + 1, status::BAD_INT_HANDLE),
        (dsa::PASID, status::SUCCESS),
    ] {
        b.q.write32(BAR0 + reg::MSIX_PERM + 16, pasid << 12 | ignore)?;
        ends(b, &desc, want)?;
        done(b, cmd::DRAIN_WQ, 1)?;
        ensure!(b.q.read32(at)? == 0, "it was raised, by PASID {pasid:#x}");
    }
    Ok(())
}

/// An engine whose descriptors all wait for pages takes no more, and another group goes on.
fn full_engine(b: &mut Bench) -> Result<()> {
    dsa::configured(b, Queue::BLOCKING)?;
    configure(b, 1, Queue::USUAL)?;
    dsa::group(b, 0, 1, 1)?;
    dsa::group(b, 1, 2, 2)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    done(b, cmd::ENABLE_WQ, 1)?;
    b.enable_pri(16, 0)?;
    let hole = dsa::RECORDS + 0x1000;
    for n in 0..8 {
        submit(
            b,
            &Desc {
                flags: flag::BLOCK_ON_FAULT,
                ..Desc::moving(op::FILL, 1, hole + n * 0x1000, 8)
            },
        )?;
    }
    let requests = b.await_page_requests(8)?;
    submit(b, &noop(1))?;
    b.q.write_bytes(dsa::memory(dsa::record(2)), &[0; 32])?;
    dsa::submit_at(b, portal(1, 0), &noop(2))?;
    ensure!(wait(b, 2)?.status == status::SUCCESS, "the other group");
    let queued = b.q.read32(BAR0 + reg::WQCFG + 24)? & 0xffff;
    ensure!(
        queued == 1 && dsa::look(b, 1)?.status == 0,
        "{queued} are queued, not 1"
    );
    b.invalidate(&[dsa::answer(&requests[0], 1)])?;
    ensure!(wait(b, 1)?.status == status::SUCCESS, "after the first");
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::on(hardware(), "dsa_portal_takes_whole_descriptors", pieces),
        Case::on(hardware(), "dsa_queue_that_is_off_or_full_loses", lost),
        Case::on(hardware(), "dsa_drains_and_aborts", drains),
        Case::on(hardware(), "dsa_long_one_lets_others_pass", turns),
        Case::on(hardware(), "dsa_queues_have_pasids_of_their_own", queues),
        Case::on(hardware(), "dsa_interrupts_by_permission", interrupts),
        Case::on(
            hardware(),
            "dsa_interrupts_of_errors_by_permission",
            interrupts_of_errors,
        ),
        Case::on(hardware(), "dsa_interrupts_that_are_ignored", ignored),
        Case::on(
            hardware(),
            "dsa_full_engine_holds_its_group_alone",
            full_engine,
        ),
    ]
}
