// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The endpoint: its operations, its enables, reset, interrupts, and what it says
//! to malformed descriptors.

use anyhow::{ensure, Result};

use super::bench::{Bench, DATA};
use super::endpoint::{self as ep, cfg, Op};
use super::layout::URW;
use super::tables::{PasidEntry, Table, SIZE_2M, SIZE_4K};
use super::vtd;
use super::Case;

const V: u64 = 0x7f12_3440_0000;
const A: u32 = 0x9_0003;
const DID: u16 = 0x55;
const SECRET: u64 = 0x0123_4567_89ab_cdef;

/// PASID A: V to DATA, 16 MiB by pages of 2 MiB. The RID passes through.
fn world(b: &mut Bench) -> Result<Table> {
    let s1 = Table::stage1(b, 4, false)?;
    for n in 0..8 {
        s1.map(b, V + n * SIZE_2M, DATA + n * SIZE_2M, SIZE_2M, URW)?;
    }
    b.set_pasid(A, &PasidEntry::first(DID, &s1))?;
    b.set_pasid(0, &PasidEntry::pass(DID + 1))?;
    Ok(s1)
}

fn op(op: u32) -> Op {
    Op {
        op,
        flags: ep::FLAG_PASID,
        pasid: A,
        length: 8,
        src: V,
        dst: V,
        ..Op::default()
    }
}

/// `len` bytes that repeat after no power of two.
fn noise(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i % 251) as u8 ^ (i / 251) as u8)
        .collect()
}

fn ends(b: &mut Bench, op: Op, status: u32, result: u64) -> Result<()> {
    let done = b.run(op)?;
    ensure!(
        done.status == status && done.result == result,
        "{op:x?}: {done:x?}, not {status:#x} with {result:#x}"
    );
    Ok(())
}

fn operation_cases() -> Vec<Case> {
    vec![
        Case::new("device_copy_crosses_pages", |b| {
            world(b)?;
            let data = noise(0x4321);
            b.q.write_bytes(DATA + 0xabc, &data)?;
            let mut copy = op(ep::OP_COPY);
            copy.src = V + 0xabc;
            copy.dst = V + SIZE_2M - 0x123;
            copy.length = u32::try_from(data.len())?;
            b.run_ok(copy)?;
            let seen = b.q.read_bytes(DATA + SIZE_2M - 0x123, data.len())?;
            ensure!(seen == data, "the copy differs");
            ensure!(
                b.q.read64(DATA + SIZE_2M - 0x12b)? == 0,
                "bytes before it changed"
            );
            let after = b.q.read64(DATA + SIZE_2M - 0x123 + data.len() as u64)?;
            ensure!(after == 0, "bytes after it changed");
            Ok(())
        }),
        Case::new("device_read_and_write_move_the_buffer", |b| {
            world(b)?;
            let data = noise(0x1800);
            b.q.write_bytes(Bench::buffer(0x100), &data)?;
            let mut write = op(ep::OP_WRITE);
            write.operand = 0x100;
            write.length = 0x1800;
            write.dst = V + 0x7ff;
            b.run_ok(write)?;
            ensure!(
                b.q.read_bytes(DATA + 0x7ff, 0x1800)? == data,
                "written data differ"
            );
            let mut read = op(ep::OP_READ);
            read.operand = 0x6800;
            read.length = 0x1800;
            read.src = V + 0x7ff;
            b.run_ok(read)?;
            ensure!(
                b.q.read_bytes(Bench::buffer(0x6800), 0x1800)? == data,
                "read data differ"
            );
            Ok(())
        }),
        Case::new("device_fill_repeats_its_pattern", |b| {
            world(b)?;
            let mut fill = op(ep::OP_FILL);
            fill.dst = V + 0xffd;
            fill.length = 0x1003;
            fill.operand = SECRET;
            b.run_ok(fill)?;
            let seen = b.q.read_bytes(DATA + 0xffd, 0x1004)?;
            let pattern = SECRET.to_le_bytes();
            let want: Vec<u8> = (0..0x1003).map(|i| pattern[i % 8]).chain([0]).collect();
            ensure!(seen == want, "the pattern differs");
            Ok(())
        }),
        Case::new("device_checksum_is_fnv1a", |b| {
            world(b)?;
            let data = noise(0x2345);
            b.q.write_bytes(DATA + 5, &data)?;
            let mut sum = op(ep::OP_CHECKSUM);
            sum.src = V + 5;
            sum.length = 0x2345;
            ends(b, sum, ep::OK, ep::fnv1a(&data))
        }),
        Case::new("device_fetch_add_returns_the_old_value", |b| {
            world(b)?;
            b.q.write64(DATA + 0x40, u64::MAX)?;
            let mut add = op(ep::OP_FETCH_ADD);
            add.dst = V + 0x40;
            add.operand = 3;
            ends(b, add, ep::OK, u64::MAX)?;
            ends(b, add, ep::OK, 2)?;
            ensure!(b.q.read64(DATA + 0x40)? == 5, "the sum is wrong");
            Ok(())
        }),
        Case::new("device_fetch_add_on_no_ram_is_a_bus_error", |b| {
            let s1 = world(b)?;
            // The IOMMU's own registers.
            let at = V + 0x4000_0000;
            s1.map(b, at, vtd::BASE, SIZE_4K, URW)?;
            let before = b.vtd64(vtd::reg::CAP)?;
            let mut add = op(ep::OP_FETCH_ADD);
            add.dst = at + vtd::reg::CAP;
            add.operand = 1;
            ends(b, add, ep::BUS, add.dst)?;
            ensure!(b.vtd64(vtd::reg::CAP)? == before, "the register changed");
            Ok(())
        }),
        Case::new("device_access_to_nothing_is_a_bus_error", |b| {
            let s1 = world(b)?;
            let at = V + 0x4000_0000;
            s1.map(b, at, 0x10_0000_0000, SIZE_4K, URW)?;
            let mut read = op(ep::OP_READ);
            read.src = at;
            ends(b, read, ep::BUS, at)
        }),
        Case::new("device_access_to_itself_does_not_hang", |b| {
            let s1 = world(b)?;
            let at = V + 0x4000_0000;
            s1.map(b, at, ep::BAR0, SIZE_4K, URW)?;
            let mut write = op(ep::OP_WRITE);
            write.dst = at + ep::reg::TAIL;
            write.length = 4;
            let done = b.run(write)?;
            ensure!(done.status == ep::BUS, "{done:x?}");
            b.run_ok(op(ep::OP_READ))?;
            Ok(())
        }),
        Case::new("device_translated_access_to_interrupts_is_refused", |b| {
            world(b)?;
            b.enable_ats(true)?;
            let mut write = op(ep::OP_WRITE);
            write.flags = 0;
            write.pasid = 0;
            write.dst = 0xfee0_0000;
            let done = b.run(write)?;
            // Without PASID this is an interrupt request, sent untranslated.
            ensure!(
                b.reg32(ep::reg::DTLB_ENTRIES)? == 0,
                "it was cached; {done:x?}"
            );
            Ok(())
        }),
        Case::new("device_completion_record_is_written", |b| {
            world(b)?;
            b.q.write64(DATA + 0x5000, 7)?;
            let mut sum = op(ep::OP_FETCH_ADD);
            sum.dst = V + 0x5000;
            sum.operand = 1;
            sum.tag = 0xcafe_f00d;
            for (flag, at) in [(0, DATA + 0x6000), (ep::FLAG_COMPLETION_PASID, V + 0x6010)] {
                sum.flags = ep::FLAG_PASID | ep::FLAG_COMPLETION | flag;
                sum.completion = at;
                b.run_ok(sum)?;
            }
            let first = u64::from(sum.tag) | u64::from(ep::OK) << 32;
            ensure!(
                b.q.read64(DATA + 0x6000)? == first,
                "by RID: tag and status"
            );
            ensure!(b.q.read64(DATA + 0x6008)? == 7, "by RID: result");
            ensure!(
                b.q.read64(DATA + 0x6010)? == first,
                "by PASID: tag and status"
            );
            ensure!(b.q.read64(DATA + 0x6018)? == 8, "by PASID: result");
            Ok(())
        }),
        Case::new(
            "device_completion_that_cannot_be_written_is_an_error",
            |b| {
                world(b)?;
                let mut fill = op(ep::OP_FILL);
                fill.flags |= ep::FLAG_COMPLETION | ep::FLAG_COMPLETION_PASID;
                fill.completion = V - 16;
                ends(b, fill, ep::NO_ACCESS, V - 16)
            },
        ),
        Case::new(
            "device_error_names_the_page_and_moves_what_is_before",
            |b| {
                let s1 = world(b)?;
                let end = V + 8 * SIZE_2M;
                s1.map(b, end, DATA, SIZE_4K, URW)?;
                b.q.write_bytes(DATA, &noise(0x1000))?;
                let mut copy = op(ep::OP_COPY);
                copy.src = end;
                copy.dst = V + 0x10_0000;
                copy.length = 0x1800;
                ends(b, copy, ep::NO_ACCESS, end + 0x1000)?;
                let seen = b.q.read_bytes(DATA + 0x10_0000, 0x1008)?;
                ensure!(seen[..0x1000] == noise(0x1000), "the first page differs");
                ensure!(
                    seen[0x1000..].iter().all(|x| *x == 0),
                    "something came after it"
                );
                Ok(())
            },
        ),
        Case::new("device_long_copy_lets_others_pass", |b| {
            world(b)?;
            let mut long = op(ep::OP_FILL);
            long.length = 16 << 20;
            long.operand = SECRET;
            let slots = b.order(&[long, op(ep::OP_NOP)])?;
            b.finish(slots[1])?;
            ensure!(
                b.status(slots[0])? == ep::QUEUED,
                "the long one was done first"
            );
            ensure!(
                b.reg32(ep::reg::HEAD)? == slots[0],
                "the head has passed it"
            );
            let done = b.finish(slots[0])?;
            ensure!(done.status == ep::OK, "{done:x?}");
            ensure!(
                b.q.read64(DATA + (16 << 20) - 8)? == SECRET,
                "its end is missing"
            );
            Ok(())
        }),
        Case::new("device_ring_wraps_around", |b| {
            world(b)?;
            let mut add = op(ep::OP_FETCH_ADD);
            add.operand = 1;
            for round in 0..5 {
                let slots = b.order(&[add; 200])?;
                for slot in slots {
                    let done = b.finish(slot)?;
                    ensure!(done.status == ep::OK, "round {round}: {done:x?}");
                }
            }
            ensure!(b.q.read64(DATA)? == 1000, "not 1000 additions");
            let head = b.reg32(ep::reg::HEAD)?;
            ensure!(head == 1000 % ep::SLOTS, "head {head}");
            ensure!(b.reg64(ep::reg::CNT_DONE)? == 1000, "not 1000 done");
            Ok(())
        }),
        Case::new("device_bad_doorbell_is_ignored", |b| {
            world(b)?;
            b.set_reg32(ep::reg::TAIL, ep::SLOTS)?;
            b.set_reg32(ep::reg::TAIL, u32::MAX)?;
            ensure!(b.reg32(ep::reg::TAIL)? == 0, "it was taken");
            b.run_ok(op(ep::OP_NOP)).map(drop)
        }),
        Case::new("device_pause_takes_no_slot", |b| {
            world(b)?;
            b.set_reg32(ep::reg::CONTROL, ep::CONTROL_PAUSE)?;
            let slot = b.order(&[op(ep::OP_NOP)])?[0];
            for _ in 0..20 {
                ensure!(b.status(slot)? == 0, "it was taken");
            }
            b.set_reg32(ep::reg::CONTROL, 0)?;
            b.finish(slot).map(drop)
        }),
    ]
}

fn enable_cases() -> Vec<Case> {
    vec![
        Case::new("device_needs_bus_master", |b| {
            world(b)?;
            b.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY)?;
            ends(b, op(ep::OP_READ), ep::DISABLED, V)?;
            let rid = Op {
                flags: 0,
                pasid: 0,
                dst: DATA,
                ..op(ep::OP_WRITE)
            };
            ends(b, rid, ep::DISABLED, DATA)
        }),
        Case::new("device_needs_pasid_enable", |b| {
            world(b)?;
            b.enable_pasid(0)?;
            ends(b, op(ep::OP_READ), ep::DISABLED, V)?;
            let rid = Op {
                flags: 0,
                pasid: 0,
                src: DATA,
                ..op(ep::OP_READ)
            };
            b.run_ok(rid).map(drop)
        }),
        Case::new("device_needs_privileged_and_execute_enables", |b| {
            world(b)?;
            b.enable_pasid(cfg::PASID_ENABLE)?;
            for flag in [ep::FLAG_PRIV, ep::FLAG_EXEC] {
                let mut read = op(ep::OP_READ);
                read.flags |= flag;
                ends(b, read, ep::DISABLED, V)?;
            }
            b.run_ok(op(ep::OP_READ)).map(drop)
        }),
        Case::new("device_without_ats_sends_untranslated_requests", |b| {
            world(b)?;
            b.run_ok(op(ep::OP_READ))?;
            ensure!(
                b.reg64(ep::reg::CNT_ATS)? == 0,
                "a translation request went out"
            );
            ensure!(
                b.reg64(ep::reg::CNT_UNTRANSLATED)? == 1,
                "no untranslated request"
            );
            Ok(())
        }),
        Case::new("device_flag_turns_ats_off", |b| {
            world(b)?;
            b.enable_ats(true)?;
            let mut read = op(ep::OP_READ);
            read.flags |= ep::FLAG_NO_ATS;
            b.run_ok(read)?;
            ensure!(
                b.reg64(ep::reg::CNT_ATS)? == 0,
                "a translation request went out"
            );
            b.run_ok(op(ep::OP_READ))?;
            b.run_ok(op(ep::OP_READ))?;
            ensure!(
                b.reg64(ep::reg::CNT_ATS)? == 1,
                "not one translation request"
            );
            ensure!(b.reg64(ep::reg::CNT_DTLB_HIT)? == 1, "no hit");
            Ok(())
        }),
        Case::new("device_translated_requests_need_dte", |b| {
            world(b)?;
            b.enable_ats(true)?;
            b.run_ok(op(ep::OP_READ))?;
            let value = b.q.read64(b.context)?;
            b.q.write64(b.context, value & !vtd::CTX_DTE)?;
            b.invalidate(&[vtd::desc::context_all()])?;
            // The entry is still in the device TLB.
            ends(b, op(ep::OP_READ), ep::NO_ACCESS, V)?;
            b.set_reg32(ep::reg::COMMAND, ep::COMMAND_FLUSH_DTLB)?;
            b.faults()?;
            ends(b, op(ep::OP_READ), ep::ATS_ERROR, V)?;
            let faults = b.faults()?;
            ensure!(
                faults.len() == 1 && faults[0].reason == 0x44,
                "faults {faults:x?}"
            );
            let mut read = op(ep::OP_READ);
            read.flags |= ep::FLAG_NO_ATS;
            b.run_ok(read).map(drop)
        }),
        Case::plain("device_without_iommu_reaches_memory_without_pasid", |b| {
            let data = b.stamp();
            b.q.write64(DATA, data)?;
            let rid = Op {
                flags: 0,
                pasid: 0,
                src: DATA,
                ..op(ep::OP_READ)
            };
            for ats in [false, true] {
                b.enable_ats(ats)?;
                b.q.write64(Bench::buffer(0), 0)?;
                b.run_ok(rid)?;
                ensure!(b.q.read64(Bench::buffer(0))? == data, "other data");
                ends(b, op(ep::OP_READ), ep::NO_ACCESS, V)?;
            }
            Ok(())
        }),
        Case::new("device_legacy_mode_blocks_pasid", |b| {
            world(b)?;
            b.set_root(0)?;
            b.faults()?;
            ends(b, op(ep::OP_READ), ep::NO_ACCESS, V)?;
            let faults = b.faults()?;
            ensure!(
                faults.len() == 1 && faults[0].reason == 0x31,
                "faults {faults:x?}"
            );
            Ok(())
        }),
        Case::new("device_reset_clears_enables_and_state", |b| {
            world(b)?;
            b.enable_pri(16, 0)?;
            b.run_ok(op(ep::OP_READ))?;
            let mut hole = op(ep::OP_READ);
            hole.src = V - SIZE_4K;
            let slot = b.order(&[hole])?[0];
            b.await_status(slot, ep::WAITING)?;
            ensure!(b.reg32(ep::reg::ENABLES)? == 0x3f, "not all is enabled");
            b.function_reset()?;
            b.restore_endpoint()?;
            ensure!(b.reg32(ep::reg::ENABLES)? == 1, "an enable has stayed");
            ensure!(
                b.reg32(ep::reg::DTLB_ENTRIES)? == 0,
                "the device TLB has stayed"
            );
            ensure!(b.reg32(ep::reg::PRI_STATE)? == 0, "a request has stayed");
            ensure!(b.reg32(ep::reg::HEAD)? == 0, "the head has stayed");
            ensure!(b.reg64(ep::reg::CNT_DONE)? == 0, "a counter has stayed");
            ensure!(b.status(slot)? == 0, "the ring has stayed");
            ensure!(b.q.read64(Bench::buffer(0))? == 0, "the buffer has stayed");
            let status = b.pri_status()?;
            let want = cfg::PRI_STATUS_STOPPED | cfg::PRI_STATUS_PASID_REQUIRED;
            ensure!(status == want, "PRI status {status:#x}");
            b.enable_pasid(cfg::PASID_ENABLE)?;
            b.run_ok(op(ep::OP_READ)).map(drop)
        }),
        Case::new("device_abort_ends_every_slot", |b| {
            world(b)?;
            b.enable_pri(16, 0)?;
            let mut hole = op(ep::OP_READ);
            hole.src = V - SIZE_4K;
            let mut long = op(ep::OP_FILL);
            long.length = 16 << 20;
            let slots = b.order(&[hole, long])?;
            b.await_status(slots[0], ep::WAITING)?;
            b.set_reg32(ep::reg::COMMAND, ep::COMMAND_ABORT)?;
            let done = b.finish(slots[0])?;
            ensure!(done.status == ep::ABORTED, "{done:x?}");
            b.finish(slots[1])?;
            // The request still waits for its answer, and takes it.
            ensure!(
                b.reg32(ep::reg::PRI_STATE)? == 1,
                "the request is forgotten"
            );
            let request = b.page_requests()?[0];
            b.invalidate(&[vtd::desc::page_response(request.pasid, request.prgi, 0)])?;
            ensure!(b.reg32(ep::reg::PRI_STATE)? == 0, "the request has stayed");
            b.run_ok(op(ep::OP_READ)).map(drop)
        }),
        Case::new("device_interrupt_is_a_write_of_the_rid", |b| {
            world(b)?;
            // A message to memory shows the interrupt without a CPU.
            let vector = DATA + 0xf000;
            b.q.write64(ep::BAR2, vector)?;
            b.q.write64(ep::BAR2 + 8, 0x5150)?;
            let msix = b.capability(cfg::CAP_MSIX)?;
            b.set_cfg16(msix + cfg::MSIX_CONTROL, cfg::MSIX_ENABLE)?;
            b.run_ok(op(ep::OP_NOP))?;
            ensure!(b.q.read32(vector)? == 0, "an interrupt nobody asked for");
            let mut nop = op(ep::OP_NOP);
            nop.flags |= ep::FLAG_IRQ;
            b.run_ok(nop)?;
            ensure!(b.q.read32(vector)? == 0x5150, "no interrupt");
            Ok(())
        }),
    ]
}

fn malformed_cases() -> Vec<Case> {
    let bad = |name: &str, field: u64, op: Op| {
        Case::new(&format!("device_bad_descriptor_{name}"), move |b| {
            world(b)?;
            ends(b, op, ep::BAD_DESC, field)
        })
    };
    let read = op(ep::OP_READ);
    let add = op(ep::OP_FETCH_ADD);
    vec![
        bad("operation", 0x00, Op { op: 7, ..read }),
        bad(
            "unknown_flag",
            0x04,
            Op {
                flags: ep::FLAG_PASID | 1 << 8,
                ..read
            },
        ),
        bad(
            "privilege_without_pasid",
            0x04,
            Op {
                flags: ep::FLAG_PRIV,
                pasid: 0,
                ..read
            },
        ),
        bad(
            "pasid_too_wide",
            0x08,
            Op {
                pasid: 1 << 20,
                ..read
            },
        ),
        bad("pasid_without_flag", 0x08, Op { flags: 0, ..read }),
        bad("length_zero", 0x0c, Op { length: 0, ..read }),
        bad(
            "length_too_long",
            0x0c,
            Op {
                length: (16 << 20) + 1,
                ..op(ep::OP_COPY)
            },
        ),
        bad("length_of_fetch_add", 0x0c, Op { length: 4, ..add }),
        bad(
            "source_wraps",
            0x10,
            Op {
                src: u64::MAX - 3,
                ..read
            },
        ),
        bad(
            "destination_wraps",
            0x18,
            Op {
                dst: u64::MAX - 3,
                ..op(ep::OP_FILL)
            },
        ),
        bad(
            "destination_of_fetch_add_unaligned",
            0x18,
            Op { dst: V + 4, ..add },
        ),
        bad(
            "buffer_end",
            0x20,
            Op {
                operand: 0x7ffc,
                ..read
            },
        ),
        bad(
            "buffer_offset_wraps",
            0x20,
            Op {
                operand: u64::MAX,
                ..op(ep::OP_WRITE)
            },
        ),
        bad(
            "completion_unaligned",
            0x28,
            Op {
                flags: ep::FLAG_PASID | ep::FLAG_COMPLETION,
                completion: DATA + 8,
                ..read
            },
        ),
    ]
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let mut all = operation_cases();
    all.extend(enable_cases());
    all.extend(malformed_cases());
    all
}
