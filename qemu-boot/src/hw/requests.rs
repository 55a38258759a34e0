// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page requests: from the endpoint into the queue, and the answers back (VT-d
//! 4.1, 7.4 to 7.7; PCIe 6.0, 10.4).

use anyhow::{ensure, Result};

use super::bench::{Bench, DATA};
use super::endpoint::{self as ep, cfg, Done, Op};
use super::layout::{RW, URW};
use super::tables::{PasidEntry, Table, SIZE_2M, SIZE_4K};
use super::vtd::{self, desc, PageRequest};
use super::Case;

const V: u64 = 0x7f12_3440_0000;
const G: u64 = 0x20_0000_0000;
const A: u32 = 0x9_0003;
const B: u32 = 0x9_0004;
const DID: u16 = 0x55;
const SUCCESS: u64 = 0;
const INVALID_REQUEST: u64 = 1;
const FAILURE_CODE: u64 = 0xf;
/// What the host of the VT-d driver sends for a failure: no code of PCIe.
const UNUSED_CODE: u64 = 2;
const SECOND_NS: u64 = 1_000_000_000;

/// Two PASIDs with an empty stage 1 each; G is 2 MiB of data in stage 2.
struct World {
    a: Table,
    b: Table,
}

impl World {
    fn new(b: &mut Bench) -> Result<Self> {
        let s2 = Table::stage2(b, 4)?;
        s2.map(b, G, DATA, SIZE_2M, RW)?;
        let world = Self {
            a: Table::stage1(b, 4, true)?,
            b: Table::stage1(b, 4, true)?,
        };
        // Lower tables first, so that stage 2 maps them too.
        for table in [&world.a, &world.b] {
            table.map(b, V, G, SIZE_4K, 0)?;
        }
        b.map_tables(&s2, SIZE_2M)?;
        b.set_pasid(A, &PasidEntry::nested(DID, &world.a, &s2))?;
        b.set_pasid(B, &PasidEntry::nested(DID, &world.b, &s2))?;
        Ok(world)
    }

    fn with_pri(b: &mut Bench) -> Result<Self> {
        let world = Self::new(b)?;
        b.enable_pri(64, 4)?;
        Ok(world)
    }

    /// Fills in page `n` of `table`.
    fn fill(&self, b: &mut Bench, table: &Table, n: u64) -> Result<()> {
        table.map(b, V + n * SIZE_4K, G + n * SIZE_4K, SIZE_4K, URW)
    }
}

/// A read of 8 bytes in page `n`.
fn touch(pasid: u32, n: u64) -> Op {
    Op {
        op: ep::OP_READ,
        flags: ep::FLAG_PASID,
        pasid,
        length: 8,
        src: V + n * SIZE_4K + 0x128,
        ..Op::default()
    }
}

fn respond(b: &mut Bench, request: &PageRequest, code: u64) -> Result<()> {
    b.invalidate(&[desc::page_response(request.pasid, request.prgi, code)])
}

/// Orders `op` and takes the one page request that it makes.
fn order_and_take(b: &mut Bench, op: Op) -> Result<(u32, PageRequest)> {
    let slot = b.order(&[op])?[0];
    b.await_status(slot, ep::WAITING)?;
    let requests = b.await_page_requests(1)?;
    ensure!(requests.len() == 1, "{} requests, not 1", requests.len());
    Ok((slot, requests[0]))
}

fn end_with(b: &mut Bench, slot: u32, status: u32) -> Result<Done> {
    let done = b.finish(slot)?;
    ensure!(done.status == status, "{done:x?}, not {status:#x}");
    Ok(done)
}

fn request_cases() -> Vec<Case> {
    vec![
        Case::new("request_carries_what_was_asked", |b| {
            World::with_pri(b)?;
            let mut op = touch(A, 3);
            op.op = ep::OP_WRITE;
            op.dst = op.src;
            let (_, request) = order_and_take(b, op)?;
            let want = PageRequest {
                source: ep::SID,
                pasid: Some(A),
                privileged: false,
                read: true,
                write: true,
                last: true,
                prgi: request.prgi,
                page: V + 3 * SIZE_4K,
            };
            ensure!(request == want, "{request:x?}, not {want:x?}");
            let faults = b.faults()?;
            ensure!(faults.is_empty(), "a hole has recorded {faults:x?}");
            Ok(())
        }),
        Case::new("request_of_a_read_does_not_ask_for_write", |b| {
            World::with_pri(b)?;
            let (_, request) = order_and_take(b, touch(A, 0))?;
            ensure!(request.read && !request.write, "{request:x?}");
            Ok(())
        }),
        Case::new("request_success_lets_the_transfer_finish", |b| {
            let world = World::with_pri(b)?;
            let (slot, request) = order_and_take(b, touch(A, 2))?;
            let stamp = b.stamp();
            b.q.write64(DATA + 2 * SIZE_4K + 0x128, stamp)?;
            world.fill(b, &world.a, 2)?;
            ensure!(b.status(slot)? == ep::WAITING, "went on before the answer");
            respond(b, &request, SUCCESS)?;
            end_with(b, slot, ep::OK)?;
            ensure!(b.q.read64(Bench::buffer(0))? == stamp, "other data");
            Ok(())
        }),
        Case::new("request_invalid_ends_the_transfer", |b| {
            World::with_pri(b)?;
            let (slot, request) = order_and_take(b, touch(A, 2))?;
            respond(b, &request, INVALID_REQUEST)?;
            let done = end_with(b, slot, ep::INVALID)?;
            ensure!(
                done.result == V + 2 * SIZE_4K,
                "the error names {:#x}",
                done.result
            );
            ensure!(b.pri_status()? & cfg::PRI_STATUS_FAILURE == 0, "a failure");
            Ok(())
        }),
        Case::new("request_failure_turns_the_interface_off", |b| {
            failure(b, FAILURE_CODE)
        }),
        Case::new("request_unused_code_is_a_failure", |b| {
            failure(b, UNUSED_CODE)
        }),
        Case::new("request_waiting_slot_holds_up_nobody", |b| {
            let world = World::with_pri(b)?;
            world.fill(b, &world.b, 0)?;
            let (slot, _) = order_and_take(b, touch(A, 0))?;
            b.run_ok(touch(B, 0))?;
            ensure!(b.status(slot)? == ep::WAITING, "the first did not wait");
            Ok(())
        }),
        Case::new("request_answer_of_other_pasid_or_group_is_stray", |b| {
            World::with_pri(b)?;
            let (slot, request) = order_and_take(b, touch(A, 0))?;
            b.invalidate(&[
                desc::page_response(Some(B), request.prgi, SUCCESS),
                desc::page_response(Some(A), request.prgi ^ 1, SUCCESS),
                desc::page_response(None, request.prgi, SUCCESS),
            ])?;
            let stray = b.reg64(ep::reg::CNT_RSP_STRAY)?;
            ensure!(stray == 3, "{stray} stray responses, not 3");
            ensure!(b.status(slot)? == ep::WAITING, "the slot took one of them");
            ensure!(
                b.pri_status()? & cfg::PRI_STATUS_UNEXPECTED != 0,
                "no status bit"
            );
            b.set_pri_status(cfg::PRI_STATUS_UNEXPECTED)?;
            ensure!(
                b.pri_status()? & cfg::PRI_STATUS_UNEXPECTED == 0,
                "it stays"
            );
            Ok(())
        }),
        Case::new("request_group_has_one_index_and_one_last", |b| {
            let world = World::with_pri(b)?;
            b.set_reg32(ep::reg::PRI_GROUP, 8)?;
            // Pages 0 to 5, of which 1 is there.
            world.fill(b, &world.a, 1)?;
            let mut op = touch(A, 0);
            op.length = 6 * SIZE_4K as u32 - 0x128;
            let slot = b.order(&[op])?[0];
            let requests = b.await_page_requests(5)?;
            let pages: Vec<u64> = requests.iter().map(|r| (r.page - V) / SIZE_4K).collect();
            ensure!(pages == [0, 2, 3, 4, 5], "pages {pages:?}");
            ensure!(
                requests.iter().all(|r| r.prgi == requests[0].prgi),
                "indices differ"
            );
            let last: Vec<bool> = requests.iter().map(|r| r.last).collect();
            ensure!(last == [false, false, false, false, true], "last {last:?}");
            for n in [0, 2, 3, 4, 5] {
                world.fill(b, &world.a, n)?;
            }
            respond(b, &requests[0], SUCCESS)?;
            end_with(b, slot, ep::OK)?;
            let groups = b.reg64(ep::reg::CNT_GROUPS)?;
            ensure!(groups == 1, "{groups} groups, not 1");
            Ok(())
        }),
        Case::new("request_without_pasid_comes_from_the_rid", |b| {
            World::with_pri(b)?;
            let s2 = Table::stage2(b, 4)?;
            b.set_pasid(0, &PasidEntry::second(DID + 1, &s2))?;
            let op = Op {
                op: ep::OP_READ,
                length: 8,
                src: G,
                ..Op::default()
            };
            let (slot, request) = order_and_take(b, op)?;
            ensure!(request.pasid.is_none(), "{request:x?}");
            s2.map(b, G, DATA, SIZE_4K, RW)?;
            respond(b, &request, SUCCESS)?;
            end_with(b, slot, ep::OK).map(drop)
        }),
        Case::new("request_of_privileged_access_says_so", |b| {
            let world = World::with_pri(b)?;
            let entry = b.pasid_entry(A)?;
            let value = b.q.read64(entry + 16)?;
            b.q.write64(entry + 16, value | vtd::PE_SRE)?;
            let mut op = touch(A, 0);
            op.flags |= ep::FLAG_PRIV;
            let (slot, request) = order_and_take(b, op)?;
            ensure!(request.privileged, "{request:x?}");
            world.fill(b, &world.a, 0)?;
            respond(b, &request, SUCCESS)?;
            end_with(b, slot, ep::OK).map(drop)
        }),
        Case::new("request_retries_have_an_end", |b| {
            World::with_pri(b)?;
            let (slot, mut request) = order_and_take(b, touch(A, 0))?;
            for n in 1..=ep::RETRY_MAX {
                respond(b, &request, SUCCESS)?;
                if n == ep::RETRY_MAX {
                    break;
                }
                // The endpoint rests before it asks again.
                b.await_status(slot, ep::WAITING)?;
                ensure!(
                    b.page_requests()?.is_empty(),
                    "request {n} came without a rest"
                );
                b.q.clock_step(SECOND_NS)?;
                request = b.await_page_requests(1)?[0];
            }
            end_with(b, slot, ep::RETRIES).map(drop)
        }),
    ]
}

fn failure(b: &mut Bench, code: u64) -> Result<()> {
    let world = World::with_pri(b)?;
    let (first, request) = order_and_take(b, touch(A, 0))?;
    let (second, other) = order_and_take(b, touch(B, 0))?;
    respond(b, &request, code)?;
    end_with(b, first, ep::FAILURE)?;
    // Everything that waited ends with it, and nothing new is asked.
    end_with(b, second, ep::FAILURE)?;
    ensure!(
        b.reg32(ep::reg::PRI_STATE)? & ep::PRI_FAILED != 0,
        "not marked"
    );
    ensure!(
        b.pri_status()? & cfg::PRI_STATUS_FAILURE != 0,
        "no status bit"
    );
    let slot = b.order(&[touch(A, 1)])?[0];
    end_with(b, slot, ep::NO_ACCESS)?;
    ensure!(b.page_requests()?.is_empty(), "a request went out");
    respond(b, &other, SUCCESS)?;
    ensure!(
        b.reg64(ep::reg::CNT_RSP_STRAY)? == 1,
        "the late response is not stray"
    );
    // Software starts it anew.
    b.set_pri_status(cfg::PRI_STATUS_FAILURE)?;
    b.set_pri_control(cfg::PRI_RESET)?;
    b.set_pri_control(cfg::PRI_ENABLE)?;
    let (slot, request) = order_and_take(b, touch(A, 0))?;
    world.fill(b, &world.a, 0)?;
    respond(b, &request, SUCCESS)?;
    end_with(b, slot, ep::OK).map(drop)
}

fn account_cases() -> Vec<Case> {
    vec![
        Case::new("request_allocation_is_obeyed", |b| {
            let world = World::with_pri(b)?;
            b.set_pri_allocation(3)?;
            let ops: Vec<Op> = (0..10).map(|n| touch(A, n)).collect();
            let slots = b.order(&ops)?;
            let mut answered = 0;
            while answered < 10 {
                let requests = b.await_page_requests(1)?;
                for r in requests {
                    let waiting = b.reg32(ep::reg::PRI_STATE)?;
                    ensure!(waiting <= 3, "{waiting} requests wait, 3 are allowed");
                    world.fill(b, &world.a, (r.page - V) / SIZE_4K)?;
                    respond(b, &r, SUCCESS)?;
                    answered += 1;
                }
            }
            for slot in slots {
                end_with(b, slot, ep::OK)?;
            }
            let peak = b.reg64(ep::reg::CNT_PRI_PEAK)?;
            ensure!(peak == 3, "at most {peak} waited, not 3");
            ensure!(b.reg64(ep::reg::CNT_PRI_STALL)? > 0, "nobody had to wait");
            Ok(())
        }),
        Case::new("request_without_allocation_waits_for_one", |b| {
            let world = World::with_pri(b)?;
            b.set_pri_allocation(0)?;
            let slot = b.order(&[touch(A, 0)])?[0];
            b.await_status(slot, ep::WAITING)?;
            ensure!(b.page_requests()?.is_empty(), "a request went out");
            b.set_pri_allocation(1)?;
            let request = b.await_page_requests(1)?[0];
            world.fill(b, &world.a, 0)?;
            respond(b, &request, SUCCESS)?;
            end_with(b, slot, ep::OK).map(drop)
        }),
        Case::new("request_capacity_bounds_the_allocation", |b| {
            World::new(b)?;
            // 256 KiB of queue hold more than the endpoint may have.
            b.enable_pri(u32::MAX, 6)?;
            let capacity = b.pri_capacity()?;
            let mut sent = 0;
            b.set_reg32(ep::reg::RAW_PASID, A)?;
            for prgi in 0..512 {
                b.set_reg32(ep::reg::RAW_PRGI, prgi)?;
                b.set_reg64(
                    ep::reg::PRI_RAW,
                    V | ep::RAW_PASID | ep::RAW_READ | ep::RAW_LAST,
                )?;
                sent += u32::from(b.reg32(ep::reg::PRI_RAW)? == ep::RAW_SENT);
            }
            ensure!(
                sent == capacity.min(512),
                "{sent} sent, capacity {capacity}"
            );
            b.set_reg32(ep::reg::RAW_PRGI, 0)?;
            b.set_reg64(
                ep::reg::PRI_RAW,
                V | ep::RAW_PASID | ep::RAW_READ | ep::RAW_LAST,
            )?;
            let why = b.reg32(ep::reg::PRI_RAW)?;
            ensure!(why == ep::RAW_NO_CREDIT, "one more: {why}");
            Ok(())
        }),
        Case::new("request_indices_are_unique_while_they_wait", |b| {
            World::with_pri(b)?;
            let ops: Vec<Op> = (0..60).map(|n| touch(A, n)).collect();
            b.order(&ops)?;
            let requests = b.await_page_requests(60)?;
            let mut indices: Vec<u64> = requests.iter().map(|r| r.prgi).collect();
            indices.sort_unstable();
            indices.dedup();
            ensure!(
                indices.len() == 60,
                "{} indices for 60 groups",
                indices.len()
            );
            Ok(())
        }),
        Case::new("request_stopped_follows_the_outstanding", |b| {
            World::with_pri(b)?;
            let (_, request) = order_and_take(b, touch(A, 0))?;
            ensure!(
                b.pri_status()? & cfg::PRI_STATUS_STOPPED == 0,
                "stopped at work"
            );
            b.set_pri_control(0)?;
            ensure!(
                b.pri_status()? & cfg::PRI_STATUS_STOPPED == 0,
                "stopped, one waits"
            );
            respond(b, &request, INVALID_REQUEST)?;
            ensure!(
                b.pri_status()? & cfg::PRI_STATUS_STOPPED != 0,
                "not stopped"
            );
            Ok(())
        }),
        Case::new("request_needs_pri_enable_of_the_endpoint", |b| {
            World::with_pri(b)?;
            b.set_pri_control(0)?;
            let slot = b.order(&[touch(A, 0)])?[0];
            end_with(b, slot, ep::NO_ACCESS)?;
            b.set_reg64(ep::reg::PRI_RAW, V | ep::RAW_READ | ep::RAW_LAST)?;
            ensure!(
                b.reg32(ep::reg::PRI_RAW)? == ep::RAW_DISABLED,
                "raw went out"
            );
            ensure!(b.reg64(ep::reg::CNT_PAGE_REQ)? == 0, "a request went out");
            ensure!(b.page_requests()?.is_empty(), "a request came");
            Ok(())
        }),
        Case::new("request_flag_turns_asking_off", |b| {
            World::with_pri(b)?;
            let mut op = touch(A, 0);
            op.flags |= ep::FLAG_NO_PRI;
            let slot = b.order(&[op])?[0];
            end_with(b, slot, ep::NO_ACCESS)?;
            ensure!(b.page_requests()?.is_empty(), "a request came");
            Ok(())
        }),
        Case::new("request_needs_pre_of_the_context_entry", |b| {
            World::with_pri(b)?;
            let value = b.q.read64(b.context)?;
            b.q.write64(b.context, value & !vtd::CTX_PRE)?;
            b.flush_all()?;
            let slot = b.order(&[touch(A, 0)])?[0];
            end_with(b, slot, ep::FAILURE)?;
            ensure!(b.page_requests()?.is_empty(), "a request came");
            let faults = b.faults()?;
            ensure!(
                faults.len() == 1 && faults[0].reason == 0x47,
                "faults {faults:x?}"
            );
            // The request was a message: it has its end by another one.
            let answers = b.reg64(ep::reg::CNT_RSP_FAILURE)?;
            ensure!(answers == 1, "{answers} responses");
            ensure!(
                b.reg32(ep::reg::PRI_STATE)? & ep::PRI_FAILED != 0,
                "page requests are on after a failure"
            );
            Ok(())
        }),
    ]
}

fn queue_cases() -> Vec<Case> {
    vec![
        Case::new("request_sets_pending_and_the_interrupt", |b| {
            World::with_pri(b)?;
            let slot = b.order(&[touch(A, 0)])?[0];
            b.await_status(slot, ep::WAITING)?;
            ensure!(
                b.vtd32(vtd::reg::PRS)? & vtd::PRS_PENDING != 0,
                "PRS.PPR is clear"
            );
            // The interrupt is masked after reset: it stays pending.
            let control = b.vtd32(vtd::reg::PECTL)?;
            ensure!(
                control & vtd::PECTL_PENDING != 0,
                "PECTL.IP is clear: {control:#x}"
            );
            b.set_vtd32(vtd::reg::PRS, vtd::PRS_PENDING)?;
            ensure!(
                b.vtd32(vtd::reg::PRS)? & vtd::PRS_PENDING == 0,
                "PRS.PPR stays"
            );
            let control = b.vtd32(vtd::reg::PECTL)?;
            ensure!(
                control & vtd::PECTL_PENDING == 0,
                "PECTL.IP stays: {control:#x}"
            );
            Ok(())
        }),
        Case::new("request_overflow_drops_and_answers", |b| {
            let world = World::new(b)?;
            // One page holds 128 requests, of which one place stays free.
            b.enable_pri(512, 0)?;
            let ops: Vec<Op> = (0..200).map(|n| touch(A, n)).collect();
            let slots = b.order(&ops)?;
            for slot in &slots {
                b.await_status(*slot, ep::WAITING)?;
            }
            ensure!(
                b.vtd32(vtd::reg::PRS)? & vtd::PRS_OVERFLOW != 0,
                "PRS.PRO is clear"
            );
            // Those that were dropped got "success" at once, and rest.
            let held = b.reg32(ep::reg::PRI_STATE)?;
            ensure!(held == 127, "{held} wait for an answer, not 127");

            for n in 0..200 {
                world.fill(b, &world.a, n)?;
            }
            let requests = b.page_requests()?;
            ensure!(
                requests.len() == 127,
                "{} requests came, not 127",
                requests.len()
            );
            b.set_vtd32(vtd::reg::PRS, vtd::PRS_OVERFLOW)?;
            ensure!(
                b.vtd32(vtd::reg::PRS)? & vtd::PRS_OVERFLOW == 0,
                "PRS.PRO stays"
            );
            for request in &requests {
                respond(b, request, SUCCESS)?;
            }
            b.q.clock_step(SECOND_NS)?;
            for slot in slots {
                end_with(b, slot, ep::OK)?;
            }
            Ok(())
        }),
        Case::new(
            "request_queue_takes_nothing_until_overflow_is_cleared",
            |b| {
                World::new(b)?;
                b.enable_pri(512, 0)?;
                let ops: Vec<Op> = (0..130).map(|n| touch(A, n)).collect();
                for slot in b.order(&ops)? {
                    b.await_status(slot, ep::WAITING)?;
                }
                let tail = b.vtd64(vtd::reg::PQT)?;
                ensure!(
                    b.vtd32(vtd::reg::PRS)? & vtd::PRS_OVERFLOW != 0,
                    "no overflow"
                );
                // There is room again, but the overflow is not acknowledged.
                b.set_vtd64(vtd::reg::PQH, tail)?;
                let slot = b.order(&[touch(B, 0)])?[0];
                b.await_status(slot, ep::WAITING)?;
                ensure!(b.vtd64(vtd::reg::PQT)? == tail, "the tail has moved");
                b.set_vtd32(vtd::reg::PRS, vtd::PRS_OVERFLOW)?;
                b.q.clock_step(SECOND_NS)?;
                let requests = b.await_page_requests(1)?;
                ensure!(requests.iter().any(|r| r.pasid == Some(B)), "{requests:x?}");
                Ok(())
            },
        ),
        Case::new("request_queue_wraps_around", |b| {
            let world = World::new(b)?;
            b.enable_pri(64, 0)?;
            for n in 0..300 {
                let (slot, request) = order_and_take(b, touch(A, n))?;
                world.fill(b, &world.a, n)?;
                respond(b, &request, SUCCESS)?;
                end_with(b, slot, ep::OK)?;
            }
            Ok(())
        }),
        Case::new("request_rogue_endpoint_may_exceed_its_allocation", |b| {
            World::with_pri(b)?;
            b.set_pri_allocation(1)?;
            b.set_reg32(ep::reg::RAW_PASID, A)?;
            b.set_reg32(ep::reg::RAW_PRGI, 7)?;
            for n in 0..100 {
                let value = V + n * SIZE_4K;
                b.set_reg64(
                    ep::reg::PRI_RAW,
                    value | ep::RAW_PASID | ep::RAW_READ | ep::RAW_ROGUE,
                )?;
                ensure!(
                    b.reg32(ep::reg::PRI_RAW)? == ep::RAW_SENT,
                    "request {n} not sent"
                );
            }
            let requests = b.page_requests()?;
            ensure!(requests.len() == 100, "{} came", requests.len());
            ensure!(
                requests.iter().all(|r| r.prgi == 7 && !r.last),
                "{requests:x?}"
            );
            b.invalidate(&[desc::page_response(Some(A), 7, SUCCESS)])?;
            ensure!(
                b.reg64(ep::reg::CNT_RSP_STRAY)? == 1,
                "its response is not stray"
            );
            Ok(())
        }),
        Case::new("request_before_reset_is_answered_into_the_void", |b| {
            let world = World::with_pri(b)?;
            let (_, old) = order_and_take(b, touch(A, 0))?;
            b.function_reset()?;
            b.restore_endpoint()?;
            b.enable_pasid(cfg::PASID_ENABLE)?;
            ensure!(
                b.pri_status()? & cfg::PRI_STATUS_STOPPED != 0,
                "not stopped by reset"
            );
            b.enable_pri(64, 4)?;
            let (slot, new) = order_and_take(b, touch(A, 0))?;
            ensure!(new.prgi != old.prgi, "the index of before is in use again");
            respond(b, &old, INVALID_REQUEST)?;
            ensure!(
                b.reg64(ep::reg::CNT_RSP_STRAY)? == 1,
                "the late answer is not stray"
            );
            ensure!(b.status(slot)? == ep::WAITING, "the slot took it");
            world.fill(b, &world.a, 0)?;
            respond(b, &new, SUCCESS)?;
            end_with(b, slot, ep::OK).map(drop)
        }),
    ]
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let mut all = request_cases();
    all.extend(account_cases());
    all.extend(queue_cases());
    all
}
