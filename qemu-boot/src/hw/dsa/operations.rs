// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every operation against a plain implementation, and each malformed descriptor.

use anyhow::{ensure, Result};

use super::super::bench::Bench;
use super::super::Case;
use super::device::{
    self as dsa, ends, flag, get, noise, op, put, status, Desc, Queue, RECORDS, V,
};
use super::{hardware, plain};

const A: u64 = V + 0x1_0000;
const B: u64 = V + 0x8_0000;
const C: u64 = V + 0x10_0000;
const LEN: usize = 0x3456;

fn case(name: &str, run: impl Fn(&mut Bench) -> Result<()> + Send + Sync + 'static) -> Case {
    Case::on(hardware(), name, move |b| {
        dsa::ready(b, Queue::USUAL)?;
        run(b)
    })
}

fn same(b: &mut Bench, at: u64, want: &[u8]) -> Result<()> {
    let seen = get(b, at, want.len())?;
    let differs = seen.iter().zip(want).position(|(x, y)| x != y);
    ensure!(differs.is_none(), "differs at {differs:x?}");
    Ok(())
}

fn size(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

fn memory_cases() -> Vec<Case> {
    vec![
        case("dsa_noop_and_drain", |b| {
            ends(b, &Desc::new(op::NOOP), status::SUCCESS)?;
            ends(b, &Desc::new(op::DRAIN), status::SUCCESS).map(drop)
        }),
        case("dsa_memmove_copies", |b| {
            let data = noise(LEN, 3);
            put(b, A + 0xabc, &data)?;
            let desc = Desc::moving(op::MEMMOVE, A + 0xabc, B + 0x123, size(&data));
            let record = ends(b, &desc, status::SUCCESS)?;
            ensure!(record.bytes as usize == LEN, "{record:x?}");
            same(b, B + 0x123, &data)?;
            same(b, B + 0x123 + LEN as u64, &[0; 8])
        }),
        case("dsa_memmove_overlaps_either_way", |b| {
            for shift in [0x10i64, 0x1234, -0x10, -0x1234] {
                let data = noise(LEN, 5);
                put(b, A, &data)?;
                let to = A.wrapping_add_signed(shift);
                ends(
                    b,
                    &Desc::moving(op::MEMMOVE, A, to, size(&data)),
                    status::SUCCESS,
                )?;
                same(b, to, &data)?;
            }
            Ok(())
        }),
        case("dsa_fill_repeats_its_pattern", |b| {
            let pattern = 0x0123_4567_89ab_cdefu64;
            let desc = Desc::moving(op::FILL, pattern, A + 0xffd, 0x2003);
            ends(b, &desc, status::SUCCESS)?;
            let want: Vec<u8> = pattern
                .to_le_bytes()
                .into_iter()
                .cycle()
                .take(0x2003)
                .collect();
            same(b, A + 0xffd, &want)?;
            same(b, A + 0xffd + 0x2003, &[0; 8])
        }),
        case("dsa_compare_says_where", |b| {
            let mut data = noise(LEN, 7);
            put(b, A, &data)?;
            put(b, B, &data)?;
            let desc = Desc::moving(op::COMPARE, A, B, size(&data));
            let record = ends(b, &desc, status::SUCCESS)?;
            ensure!(record.result == 0, "equal: {record:x?}");
            data[0x2345] ^= 1;
            put(b, B, &data)?;
            let record = ends(b, &desc, status::SUCCESS)?;
            ensure!(record.result == 1 && record.bytes == 0x2345, "{record:x?}");
            // Check Result: what is expected is a success, the rest is not.
            let expects = |result| desc.flags(flag::CHECK_RESULT).with(0, &[result]);
            ends(b, &expects(1), status::SUCCESS)?;
            ends(b, &expects(0), status::SUCCESS_FALSE).map(drop)
        }),
        case("dsa_compare_with_a_pattern", |b| {
            let pattern = 0x1122_3344_5566_7788u64;
            let data: Vec<u8> = pattern
                .to_le_bytes()
                .into_iter()
                .cycle()
                .take(LEN)
                .collect();
            put(b, A, &data)?;
            let desc = Desc::moving(op::COMPARE_PATTERN, A, pattern, size(&data));
            let record = ends(b, &desc, status::SUCCESS)?;
            ensure!(record.result == 0, "equal: {record:x?}");
            put(b, A + 0x3000, &[0])?;
            let record = ends(b, &desc, status::SUCCESS)?;
            ensure!(record.result == 1 && record.bytes == 0x3000, "{record:x?}");
            Ok(())
        }),
        case("dsa_dualcast_writes_both", |b| {
            let data = noise(LEN, 9);
            put(b, A, &data)?;
            let desc = Desc::moving(op::DUALCAST, A, B + 0x777, size(&data))
                .with(0, &(C + 0x777).to_le_bytes());
            ends(b, &desc, status::SUCCESS)?;
            same(b, B + 0x777, &data)?;
            same(b, C + 0x777, &data)
        }),
        case("dsa_cache_flush_touches_nothing", |b| {
            let data = noise(LEN, 1);
            put(b, A, &data)?;
            ends(
                b,
                &Desc::moving(op::CACHE_FLUSH, 0, A, size(&data)),
                status::SUCCESS,
            )?;
            same(b, A, &data)
        }),
    ]
}

fn crc_cases() -> Vec<Case> {
    vec![
        case("dsa_crc_is_crc32c", |b| {
            let data = noise(LEN, 11);
            put(b, A + 1, &data)?;
            // The check value of CRC-32C, from its catalogues.
            ensure!(plain::crc32c(0, b"123456789", false, false) == 0xe306_9283);
            for flags in [
                0,
                flag::CRC_PLAIN,
                flag::CRC_PLAIN_DATA,
                flag::CRC_PLAIN | flag::CRC_PLAIN_DATA,
            ] {
                let seed = 0x1234_5678u32;
                let desc = Desc::moving(op::CRC, A + 1, 0, size(&data))
                    .flags(flags)
                    .with(0, &seed.to_le_bytes());
                let record = ends(b, &desc, status::SUCCESS)?;
                let want = plain::crc32c(
                    seed,
                    &data,
                    flags & flag::CRC_PLAIN != 0,
                    flags & flag::CRC_PLAIN_DATA != 0,
                );
                let seen = record.word()?;
                ensure!(seen == want, "flags {flags:#x}: {seen:#x}, not {want:#x}");
            }
            Ok(())
        }),
        case("dsa_crc_reads_its_seed_and_copies", |b| {
            let data = noise(LEN, 13);
            put(b, A, &data)?;
            let seed = 0xdead_beefu32;
            put(b, C + 0xffc, &seed.to_le_bytes())?;
            let desc = Desc::moving(op::COPY_CRC, A, B + 5, size(&data))
                .flags(flag::CRC_READ_SEED)
                .with(8, &(C + 0xffc).to_le_bytes());
            let record = ends(b, &desc, status::SUCCESS)?;
            let want = plain::crc32c(seed, &data, false, false);
            ensure!(record.word()? == want, "{record:x?}, not {want:#x}");
            same(b, B + 5, &data)
        }),
    ]
}

fn delta_cases() -> Vec<Case> {
    vec![
        case("dsa_delta_there_and_back", |b| {
            let old = noise(0x4000, 17);
            let mut new = old.clone();
            for at in [0, 1, 0x777, 0x1000, 0x3fff] {
                new[at] ^= 0x55;
            }
            put(b, A, &old)?;
            put(b, B, &new)?;
            let create = Desc::moving(op::CREATE_DELTA, A, B, size(&old))
                .with(0, &C.to_le_bytes())
                .with(8, &0x1000u32.to_le_bytes());
            let record = ends(b, &create, status::SUCCESS)?;
            let want = plain::delta(&old, &new);
            ensure!(
                record.result == 1 && record.word()? == size(&want),
                "{record:x?}"
            );
            same(b, C, &want)?;
            let apply =
                Desc::moving(op::APPLY_DELTA, C, A, size(&old)).with(0, &size(&want).to_le_bytes());
            ends(b, &apply, status::SUCCESS)?;
            same(b, A, &new)?;
            let record = ends(b, &create, status::SUCCESS)?;
            ensure!(
                record.result == 0 && record.word()? == 0,
                "equal: {record:x?}"
            );
            // More than fits, and what is expected of it.
            put(b, A, &noise(0x4000, 18))?;
            let record = ends(b, &create, status::SUCCESS)?;
            ensure!(record.result == 2, "too long: {record:x?}");
            let expects = |mask| create.flags(flag::CHECK_RESULT).with(16, &[mask]);
            ends(b, &expects(1 << 2), status::SUCCESS)?;
            ends(b, &expects(0b011), status::SUCCESS_FALSE).map(drop)
        }),
        case("dsa_delta_record_is_not_believed", |b| {
            let apply = |entries: &[u16]| -> (Vec<u8>, Desc) {
                let mut record = Vec::new();
                for offset in entries {
                    record.extend(offset.to_le_bytes());
                    record.extend([0x11; 8]);
                }
                let length = size(&record).to_le_bytes();
                (
                    record,
                    Desc::moving(op::APPLY_DELTA, C, A, 0x1000).with(0, &length),
                )
            };
            for (entries, want) in [
                (vec![1, 2, 2], status::DELTA_ORDER),
                (vec![5, 4], status::DELTA_ORDER),
                (vec![0, 0x200], status::DELTA_RANGE),
                (vec![0xffff], status::DELTA_RANGE),
            ] {
                let (record, desc) = apply(&entries);
                put(b, C, &record)?;
                ends(b, &desc, want)?;
            }
            same(b, A + 0x1000, &[0; 8])
        }),
    ]
}

/// Blocks of 512 bytes: their flags, and the tags of the descriptor.
const APP: u16 = 0xbeef;
const REF: u32 = 0x0102_0304;

fn tags() -> Vec<u8> {
    let mut tags = REF.to_le_bytes().to_vec();
    tags.extend([0, 0]);
    tags.extend(APP.to_le_bytes());
    tags
}

fn protected(data: &[u8], app: u16, reference: u32) -> Vec<u8> {
    (0u32..)
        .zip(data.chunks(512))
        .flat_map(|(n, block)| plain::dif(block, app, reference.wrapping_add(n)))
        .collect()
}

fn dif_cases() -> Vec<Case> {
    vec![
        case("dsa_dif_insert_check_strip_update", |b| {
            let data = noise(512 * 20, 19);
            put(b, A, &data)?;
            let insert = Desc::moving(op::DIF_INSERT, A, B, size(&data)).with(16, &tags());
            ends(b, &insert, status::SUCCESS)?;
            let want = protected(&data, APP, REF);
            same(b, B, &want)?;
            let check = Desc::moving(op::DIF_CHECK, B, 0, size(&want)).with(8, &tags());
            ends(b, &check, status::SUCCESS)?;
            let strip = Desc::moving(op::DIF_STRIP, B, C, size(&want)).with(8, &tags());
            ends(b, &strip, status::SUCCESS)?;
            same(b, C, &data)?;
            let mut new = tags();
            new[0] = 0x44;
            new[6] = 0x99;
            let update = Desc::moving(op::DIF_UPDATE, B, C, size(&want))
                .with(8, &tags())
                .with(16, &new);
            ends(b, &update, status::SUCCESS)?;
            same(b, C, &protected(&data, 0xbe99, 0x0102_0344))
        }),
        case("dsa_dif_errors_say_what_does_not_fit", |b| {
            let data = noise(512 * 8, 23);
            let good = protected(&data, APP, REF);
            let check = Desc::moving(op::DIF_CHECK, B, 0, size(&good)).with(8, &tags());
            for (at, want) in [(100, 1), (512, 1), (515, 2), (519, 4)] {
                let mut bad = good.clone();
                bad[520 * 3 + at] ^= 1;
                put(b, B, &bad)?;
                let record = ends(b, &check, status::DIF_ERROR)?;
                ensure!(
                    record.result == want && record.bytes == 520 * 3,
                    "byte {at}: {record:x?}, not {want}"
                );
            }
            Ok(())
        }),
    ]
}

fn malformed_cases() -> Vec<Case> {
    let move_ok = Desc::moving(op::MEMMOVE, A, B, 64);
    let bad = |name: &str, want: u8, desc: Desc| {
        case(&format!("dsa_bad_{name}"), move |b| {
            ends(b, &desc, want)?;
            // Nothing is the worse for it.
            ends(b, &move_ok, status::SUCCESS).map(drop)
        })
    };
    let quad = |value: u64| value.to_le_bytes();
    vec![
        bad("opcode", status::BAD_OPCODE, Desc::new(0x0a)),
        bad("opcode_beyond_all", status::BAD_OPCODE, Desc::new(0xff)),
        bad(
            "fence_outside_a_batch",
            status::BAD_FLAGS,
            move_ok.flags(flag::FENCE),
        ),
        bad("flag_of_nothing", status::BAD_FLAGS, move_ok.flags(1 << 6)),
        bad(
            "block_where_the_queue_may_not",
            status::BAD_FLAGS,
            move_ok.flags(flag::BLOCK_ON_FAULT),
        ),
        bad(
            "check_result_of_a_move",
            status::BAD_FLAGS,
            move_ok.flags(flag::CHECK_RESULT),
        ),
        bad(
            "reserved_bits",
            status::BAD_RESERVED,
            Desc {
                first: 1 << 20,
                ..move_ok
            },
        ),
        bad(
            "reserved_bytes",
            status::BAD_RESERVED,
            move_ok.with(23, &[1]),
        ),
        bad(
            "size_zero",
            status::BAD_XFER_SIZE,
            Desc { size: 0, ..move_ok },
        ),
        bad(
            "size_beyond_the_queues",
            status::BAD_XFER_SIZE,
            Desc {
                size: (4 << 20) + 1,
                ..move_ok
            },
        ),
        bad(
            "source_that_wraps",
            status::BAD_XFER_SIZE,
            Desc {
                src: u64::MAX - 3,
                ..move_ok
            },
        ),
        bad(
            "target_that_wraps",
            status::BAD_XFER_SIZE,
            Desc {
                dst: u64::MAX - 3,
                ..move_ok
            },
        ),
        bad(
            "dualcast_targets",
            status::BAD_DUALCAST,
            Desc::moving(op::DUALCAST, A, B, 64).with(0, &quad(C + 8)),
        ),
        bad(
            "dualcast_overlap",
            status::BAD_OVERLAP,
            Desc::moving(op::DUALCAST, A, B, 0x2000).with(0, &quad(B + 0x1000)),
        ),
        bad(
            "copy_crc_overlap",
            status::BAD_OVERLAP,
            Desc::moving(op::COPY_CRC, A, A + 8, 64),
        ),
        bad(
            "delta_size",
            status::BAD_DELTA_SIZE,
            Desc::moving(op::CREATE_DELTA, A, B, 64)
                .with(0, &quad(C))
                .with(8, &[79]),
        ),
        bad(
            "delta_size_beyond_the_queues",
            status::BAD_DELTA_SIZE,
            Desc::moving(op::CREATE_DELTA, A, B, 64)
                .with(0, &quad(C))
                .with(8, &((4u32 << 20) + 1).to_le_bytes()),
        ),
        bad(
            "delta_length",
            status::BAD_ALIGN,
            Desc::moving(op::CREATE_DELTA, A, B, 63)
                .with(0, &quad(C))
                .with(8, &[200]),
        ),
        bad(
            "delta_length_beyond_its_offsets",
            status::BAD_XFER_SIZE,
            Desc::moving(op::CREATE_DELTA, A, B, 0x8_0008)
                .with(0, &quad(C))
                .with(8, &[200]),
        ),
        bad(
            "delta_overlap",
            status::BAD_OVERLAP,
            Desc::moving(op::CREATE_DELTA, A, B, 64)
                .with(0, &quad(B - 128))
                .with(8, &[200]),
        ),
        bad(
            "delta_alignment",
            status::BAD_ALIGN,
            Desc::moving(op::CREATE_DELTA, A + 4, B, 64)
                .with(0, &quad(C))
                .with(8, &[200]),
        ),
        bad(
            "delta_record_length",
            status::BAD_DELTA_SIZE,
            Desc::moving(op::APPLY_DELTA, C, A, 64).with(0, &[11]),
        ),
        bad(
            "delta_record_of_nothing",
            status::BAD_DELTA_SIZE,
            Desc::moving(op::APPLY_DELTA, C, A, 64),
        ),
        bad(
            "delta_record_in_its_target",
            status::BAD_OVERLAP,
            Desc::moving(op::APPLY_DELTA, A + 56, A, 64).with(0, &[10]),
        ),
        bad(
            "crc_seed_alignment",
            status::BAD_ALIGN,
            Desc::moving(op::CRC, A, 0, 64)
                .flags(flag::CRC_READ_SEED)
                .with(8, &quad(C + 2)),
        ),
        bad(
            "compare_without_a_record",
            status::BAD_FLAGS,
            Desc {
                flags: flag::RECORD_VALID,
                ..Desc::moving(op::COMPARE, A, B, 64)
            },
        ),
        bad(
            "drain_that_tells_nobody",
            status::BAD_FLAGS,
            Desc {
                flags: flag::RECORD_VALID,
                ..Desc::new(op::DRAIN)
            },
        ),
        bad(
            "dif_length",
            status::BAD_XFER_SIZE,
            Desc::moving(op::DIF_CHECK, A, 0, 521),
        ),
        bad(
            "dif_insert_overlap",
            status::BAD_OVERLAP,
            Desc::moving(op::DIF_INSERT, A, A + 1024, 1024 + 512),
        ),
        bad(
            "dif_strip_overlap",
            status::BAD_OVERLAP,
            Desc::moving(op::DIF_STRIP, A, A - 520, 1040),
        ),
        bad(
            "dif_update_overlap",
            status::BAD_OVERLAP,
            Desc::moving(op::DIF_UPDATE, A, A, 1040),
        ),
        bad(
            "batch_count",
            status::BAD_COUNT,
            Desc::moving(op::BATCH, A, 0, 1),
        ),
        bad(
            "batch_count_beyond_the_queues",
            status::BAD_COUNT,
            Desc::moving(op::BATCH, A, 0, 65),
        ),
        bad(
            "batch_alignment",
            status::BAD_LIST_ALIGN,
            Desc::moving(op::BATCH, A + 32, 0, 2),
        ),
        bad(
            "interrupt_of_user_mode",
            status::BAD_FLAGS,
            Desc {
                int_handle: 1,
                ..move_ok.flags(flag::INTERRUPT)
            },
        ),
        case("dsa_bad_interrupt_handle", move |b| {
            b.q.write32(dsa::BAR0 + dsa::reg::GENCFG, dsa::GENCFG_USER_INT)?;
            for int_handle in [1, 9, u16::MAX] {
                let desc = Desc {
                    int_handle,
                    ..move_ok.flags(flag::INTERRUPT)
                };
                ends(b, &desc, status::BAD_INT_HANDLE)?;
            }
            Ok(())
        }),
        case("dsa_bad_flags_are_named", move |b| {
            let record = ends(b, &move_ok.flags(1 << 6 | 1 << 20), status::BAD_FLAGS)?;
            ensure!(record.word()? == 1 << 6 | 1 << 20, "{record:x?}");
            let unmapped = Desc {
                record: RECORDS + 16,
                ..move_ok
            };
            dsa::submit(b, &unmapped)?;
            // Its record's place is no place: SWERR has it.
            dsa::await_bits(b, dsa::reg::SWERR, 1)?;
            let error = b.q.read64(dsa::BAR0 + dsa::reg::SWERR)?;
            ensure!(
                error >> 8 & 0xff == u64::from(status::BAD_RECORD_ALIGN),
                "{error:#x}"
            );
            Ok(())
        }),
    ]
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let mut all = memory_cases();
    all.extend(crc_cases());
    all.extend(delta_cases());
    all.extend(dif_cases());
    all.extend(malformed_cases());
    all
}
