// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is cached, and what each invalidation drops (VT-d 4.1, 6.2 and 6.5.2):
//! a stale entry stays before the invalidation that names it, and is gone after.
//! Hardware may forget earlier; this emulation must not, or a forgotten
//! invalidation would go unseen.

use anyhow::{ensure, Result};

use super::bench::{Bench, DATA};
use super::endpoint::{self as ep, Op};
use super::layout::{RW, URW};
use super::tables::{PasidEntry, Table, SIZE_2M, SIZE_4K};
use super::vtd::{self, desc};
use super::{Case, Hardware};

pub(super) const V: u64 = 0x7f12_3440_0000;
pub(super) const G: u64 = 0x20_0000_0000;
pub(super) const A: u32 = 0x1_0005;
const B: u32 = 0x1_0006;
pub(super) const DID_A: u16 = 0x31;
const DID_B: u16 = 0x32;
/// Pages of data; page n holds `VALUE + n`.
const PAGES: u64 = 16;
const VALUE: u64 = 0xfeed_0000;
/// Where V leads at first, and after a change.
const OLD: u64 = 0;
const NEW: u64 = 9;

fn page(n: u64) -> u64 {
    n * SIZE_4K
}

/// Two PASIDs with a stage 1 each over one stage 2; V + n pages leads to page n.
pub(super) struct Pair {
    pub(super) a: Table,
    pub(super) b: Table,
    pub(super) s2: Table,
}

impl Pair {
    /// PASID B has domain id `did_b`.
    pub(super) fn new(b: &mut Bench, did_b: u16) -> Result<Self> {
        let pair = Self {
            a: Table::stage1(b, 4, true)?,
            b: Table::stage1(b, 4, true)?,
            s2: Table::stage2(b, 4)?,
        };
        for n in 0..PAGES {
            b.q.write64(DATA + page(n), VALUE + n)?;
            pair.a.map(b, V + page(n), G + page(n), SIZE_4K, URW)?;
            pair.b.map(b, V + page(n), G + page(n), SIZE_4K, URW)?;
            pair.s2.map(b, G + page(n), DATA + page(n), SIZE_4K, RW)?;
        }
        b.map_tables(&pair.s2, SIZE_2M)?;
        b.set_pasid(A, &PasidEntry::nested(DID_A, &pair.a, &pair.s2))?;
        b.set_pasid(B, &PasidEntry::nested(did_b, &pair.b, &pair.s2))?;
        Ok(pair)
    }

    /// Lets stage 1 of `table` lead V + `n` pages to page NEW.
    fn change(&self, b: &mut Bench, table: &Table, n: u64) -> Result<()> {
        table.map(b, V + page(n), G + page(NEW), SIZE_4K, URW)
    }
}

/// Which page `pasid` finds at `iova`, or `None` where it has no access.
fn seen(b: &mut Bench, pasid: u32, iova: u64, flags: u32) -> Result<Option<u64>> {
    let done = b.run(Op {
        op: ep::OP_READ,
        flags: ep::FLAG_PASID | flags,
        pasid,
        length: 8,
        src: iova,
        ..Op::default()
    })?;
    b.faults()?;
    if done.status != ep::OK {
        ensure!(
            matches!(done.status, ep::NO_ACCESS | ep::ATS_ERROR),
            "PASID {pasid:#x} at {iova:#x}: {done:x?}"
        );
        return Ok(None);
    }
    Ok(Some(b.q.read64(Bench::buffer(0))?.wrapping_sub(VALUE)))
}

fn expect(b: &mut Bench, pasid: u32, iova: u64, want: Option<u64>, when: &str) -> Result<()> {
    let found = seen(b, pasid, iova, 0)?;
    ensure!(
        found == want,
        "{when}: PASID {pasid:#x} at {iova:#x} finds {found:?}, not {want:?}"
    );
    Ok(())
}

/// Which pages a PASID of second stage alone has in the IOTLB is a matter of its domain.
fn second_stage_is_shared(b: &mut Bench) -> Result<()> {
    let pair = Pair::new(b, DID_A)?;
    b.set_pasid(A, &PasidEntry::second(DID_A, &pair.s2))?;
    b.set_pasid(B, &PasidEntry::second(DID_A, &pair.s2))?;
    expect(b, A, G, Some(OLD), "at first")?;
    pair.s2.map(b, G, DATA + page(NEW), SIZE_4K, RW)?;
    expect(b, B, G, Some(OLD), "the other PASID of the domain")?;
    b.invalidate(&[desc::iotlb_pages(DID_A, G, 0)])?;
    expect(b, A, G, Some(NEW), "after the invalidation")?;
    expect(b, B, G, Some(NEW), "the other PASID after it")
}

/// The root table is set anew: nothing goes (CAP.ESRTPS is clear, 11.4.4.1).
fn root_table_alone(b: &mut Bench) -> Result<()> {
    let pair = Pair::new(b, DID_A)?;
    expect(b, A, V, Some(OLD), "at first")?;
    pair.change(b, &pair.a, 0)?;
    b.set_root_alone(vtd::RTADDR_SCALABLE)?;
    expect(b, A, V, Some(OLD), "after the root table was set")?;
    b.flush_all()?;
    expect(b, A, V, Some(NEW), "after the invalidations")
}

/// A first-stage entry is none of a page descriptor of the second stage (6.5.2.3).
fn first_stage_stays(b: &mut Bench) -> Result<()> {
    let s1 = Table::stage1(b, 4, false)?;
    b.q.write64(DATA + page(OLD), VALUE + OLD)?;
    b.q.write64(DATA + page(NEW), VALUE + NEW)?;
    s1.map(b, V, DATA + page(OLD), SIZE_4K, URW)?;
    b.set_pasid(A, &PasidEntry::first(DID_A, &s1))?;
    expect(b, A, V, Some(OLD), "at first")?;
    s1.map(b, V, DATA + page(NEW), SIZE_4K, URW)?;
    b.invalidate(&[desc::iotlb_pages(DID_A, V, 0)])?;
    expect(b, A, V, Some(OLD), "after a page of the second stage")?;
    b.invalidate(&[desc::iotlb_domain(DID_A)])?;
    expect(b, A, V, Some(NEW), "after the domain")
}

/// Four entries and sixteen pages of two PASIDs: right is right without a cache, too.
fn pressure(b: &mut Bench) -> Result<()> {
    Pair::new(b, DID_B)?;
    for round in 0..4 {
        for n in 0..PAGES {
            let pasid = if (n + round) % 2 == 0 { A } else { B };
            expect(b, pasid, V + page(n), Some(n), "under pressure")?;
        }
    }
    Ok(())
}

/// Changes V of PASID A; the old page must stay until `descriptors`.
fn stale_until(b: &mut Bench, descriptors: &[desc::Desc]) -> Result<()> {
    let pair = Pair::new(b, DID_A)?;
    expect(b, A, V, Some(OLD), "at first")?;
    pair.change(b, &pair.a, 0)?;
    expect(b, A, V, Some(OLD), "before the invalidation")?;
    b.invalidate(descriptors)?;
    expect(b, A, V, Some(NEW), "after the invalidation")
}

fn iotlb_cases() -> Vec<Case> {
    vec![
        Case::new("iotlb_drops_page_by_type_6", |b| {
            stale_until(b, &[desc::piotlb_pages(DID_A, A, V, 0)])
        }),
        Case::new("iotlb_drops_pasid_by_type_6", |b| {
            stale_until(b, &[desc::piotlb_all(DID_A, A)])
        }),
        Case::new("iotlb_drops_range_over_mamv_by_type_6", |b| {
            stale_until(b, &[desc::piotlb_pages(DID_A, A, V & !((1 << 32) - 1), 20)])
        }),
        Case::new("iotlb_second_stage_is_the_domains", second_stage_is_shared),
        Case::new("iotlb_type_2_page_leaves_first_stage", first_stage_stays),
        Case::new("iotlb_root_table_alone_drops_nothing", root_table_alone),
        Case::on(
            Hardware::with("nesting=on,iotlb-entries=4"),
            "iotlb_of_four_entries_is_right",
            pressure,
        ),
        Case::new("iotlb_drops_domain_by_type_2", |b| {
            stale_until(b, &[desc::iotlb_domain(DID_A)])
        }),
        Case::new("iotlb_drops_all_by_type_2", |b| {
            stale_until(b, &[desc::iotlb_all()])
        }),
        Case::new("iotlb_type_6_page_leaves_other_page", |b| {
            let pair = Pair::new(b, DID_A)?;
            expect(b, A, V, Some(OLD), "at first")?;
            pair.change(b, &pair.a, 0)?;
            b.invalidate(&[desc::piotlb_pages(DID_A, A, V + page(1), 0)])?;
            expect(b, A, V, Some(OLD), "after the next page's invalidation")
        }),
        Case::new("iotlb_type_6_leaves_other_pasid", |b| {
            let pair = Pair::new(b, DID_A)?;
            expect(b, A, V, Some(OLD), "at first")?;
            expect(b, B, V, Some(OLD), "at first")?;
            pair.change(b, &pair.a, 0)?;
            pair.change(b, &pair.b, 0)?;
            b.invalidate(&[desc::piotlb_all(DID_A, A)])?;
            expect(b, A, V, Some(NEW), "after A's invalidation")?;
            expect(b, B, V, Some(OLD), "after A's invalidation")
        }),
        Case::new("iotlb_type_6_leaves_other_domain", |b| {
            let pair = Pair::new(b, DID_B)?;
            expect(b, A, V, Some(OLD), "at first")?;
            pair.change(b, &pair.a, 0)?;
            b.invalidate(&[desc::piotlb_all(DID_B, A)])?;
            expect(
                b,
                A,
                V,
                Some(OLD),
                "after the invalidation of another domain id",
            )
        }),
        Case::new("iotlb_type_2_leaves_other_domain", |b| {
            let pair = Pair::new(b, DID_B)?;
            expect(b, A, V, Some(OLD), "at first")?;
            expect(b, B, V, Some(OLD), "at first")?;
            pair.change(b, &pair.a, 0)?;
            pair.change(b, &pair.b, 0)?;
            b.invalidate(&[desc::iotlb_domain(DID_A)])?;
            expect(b, A, V, Some(NEW), "after the invalidation of A's domain")?;
            expect(b, B, V, Some(OLD), "after the invalidation of A's domain")
        }),
        Case::new("iotlb_type_6_am_covers_its_pages", |b| {
            let pair = Pair::new(b, DID_A)?;
            for n in 0..6 {
                expect(b, A, V + page(n), Some(n), "at first")?;
                pair.change(b, &pair.a, n)?;
            }
            b.invalidate(&[desc::piotlb_pages(DID_A, A, V, 2)])?;
            for n in 0..4 {
                expect(b, A, V + page(n), Some(NEW), "inside 4 pages")?;
            }
            for n in 4..6 {
                expect(b, A, V + page(n), Some(n), "outside 4 pages")?;
            }
            Ok(())
        }),
        Case::new("iotlb_drops_nested_entry_by_guest_physical_page", |b| {
            let pair = Pair::new(b, DID_A)?;
            expect(b, A, V, Some(OLD), "at first")?;
            pair.s2.map(b, G, DATA + page(NEW), SIZE_4K, RW)?;
            expect(b, A, V, Some(OLD), "before the invalidation")?;
            b.invalidate(&[desc::iotlb_pages(DID_A, G, 0)])?;
            expect(b, A, V, Some(NEW), "after the invalidation")
        }),
        Case::new("iotlb_drops_second_stage_page_by_type_2", |b| {
            let pair = Pair::new(b, DID_A)?;
            b.set_pasid(A, &PasidEntry::second(DID_A, &pair.s2))?;
            expect(b, A, G, Some(OLD), "at first")?;
            expect(b, A, G + page(1), Some(1), "at first")?;
            pair.s2.map(b, G, DATA + page(NEW), SIZE_4K, RW)?;
            pair.s2.map(b, G + page(1), DATA + page(NEW), SIZE_4K, RW)?;
            b.invalidate(&[desc::iotlb_pages(DID_A, G + page(1), 0)])?;
            expect(b, A, G, Some(OLD), "the page beside it")?;
            expect(b, A, G + page(1), Some(NEW), "the page")
        }),
        Case::new("iotlb_large_stage_1_page_goes_as_a_whole", |b| {
            let pair = Pair::new(b, DID_A)?;
            let large = V + 4 * SIZE_2M;
            pair.a.map(b, large, G, SIZE_2M, URW)?;
            b.flush_all()?;
            expect(b, A, large + page(3), Some(3), "at first")?;
            // The 2 MiB page moves elsewhere; the invalidation names another
            // 4 KiB of it, and stage 2 has only pages of 4 KiB.
            pair.a.map(b, large, G + SIZE_2M, SIZE_2M, URW)?;
            pair.s2
                .map(b, G + SIZE_2M + page(3), DATA + page(NEW), SIZE_4K, RW)?;
            expect(b, A, large + page(3), Some(3), "before the invalidation")?;
            b.invalidate(&[desc::piotlb_pages(DID_A, A, large, 0)])?;
            expect(b, A, large + page(3), Some(NEW), "after the invalidation")
        }),
        Case::new("iotlb_absent_entries_are_not_cached", |b| {
            let pair = Pair::new(b, DID_A)?;
            let far = V + page(PAGES);
            let gap = G + page(PAGES);
            expect(b, A, far, None, "absent in stage 1")?;
            pair.a.map(b, far, gap, SIZE_4K, URW)?;
            expect(b, A, far, None, "absent in stage 2")?;
            pair.s2.map(b, gap, DATA + page(3), SIZE_4K, RW)?;
            expect(b, A, far, Some(3), "present in both")
        }),
    ]
}

/// Gives PASID A another stage 1, where V leads to NEW.
fn swap_stage1(b: &mut Bench, pair: &Pair) -> Result<()> {
    let other = Table::stage1(b, 4, true)?;
    other.map(b, V, G + page(NEW), SIZE_4K, URW)?;
    b.map_tables(&pair.s2, SIZE_2M)?;
    b.set_pasid(A, &PasidEntry::nested(DID_A, &other, &pair.s2))
}

/// A changed PASID entry must stay unseen until `descriptors`, even without its
/// IOTLB entries.
fn pasid_stale_until(b: &mut Bench, descriptors: &[desc::Desc]) -> Result<()> {
    let pair = Pair::new(b, DID_A)?;
    expect(b, A, V, Some(OLD), "at first")?;
    swap_stage1(b, &pair)?;
    b.invalidate(&[desc::piotlb_all(DID_A, A)])?;
    expect(b, A, V, Some(OLD), "before the PASID cache is invalidated")?;
    b.invalidate(descriptors)?;
    b.invalidate(&[desc::piotlb_all(DID_A, A)])?;
    expect(b, A, V, Some(NEW), "after it")
}

fn entry_cases() -> Vec<Case> {
    vec![
        Case::new("pasid_cache_drops_pasid_by_type_7", |b| {
            pasid_stale_until(b, &[desc::pasid_one(DID_A, A)])
        }),
        Case::new("pasid_cache_drops_domain_by_type_7", |b| {
            pasid_stale_until(b, &[desc::pasid_domain(DID_A)])
        }),
        Case::new("pasid_cache_drops_all_by_type_7", |b| {
            pasid_stale_until(b, &[desc::pasid_all()])
        }),
        Case::new("pasid_cache_type_7_leaves_other_pasid", |b| {
            let pair = Pair::new(b, DID_A)?;
            expect(b, A, V, Some(OLD), "at first")?;
            swap_stage1(b, &pair)?;
            b.invalidate(&[
                desc::pasid_one(DID_A, B),
                desc::pasid_domain(DID_B),
                desc::piotlb_all(DID_A, A),
            ])?;
            expect(b, A, V, Some(OLD), "after others' invalidations")
        }),
        Case::new("pasid_cache_keeps_entry_that_went_absent", |b| {
            Pair::new(b, DID_A)?;
            expect(b, A, V, Some(OLD), "at first")?;
            let at = b.pasid_entry(A)?;
            b.q.write64(at, 0)?;
            expect(b, A, V, Some(OLD), "before the invalidation")?;
            b.invalidate(&[desc::pasid_one(DID_A, A), desc::piotlb_all(DID_A, A)])?;
            expect(b, A, V, None, "after it")
        }),
        Case::new("pasid_cache_absent_entries_are_not_cached", |b| {
            let pair = Pair::new(b, DID_A)?;
            let late = B + 1;
            expect(b, late, V, None, "absent")?;
            b.set_pasid(late, &PasidEntry::nested(DID_A, &pair.b, &pair.s2))?;
            expect(b, late, V, Some(OLD), "present")
        }),
        Case::new("pasid_cache_pass_through_ends_by_type_7", |b| {
            let pair = Pair::new(b, DID_A)?;
            b.set_pasid(A, &PasidEntry::pass(DID_A))?;
            expect(b, A, DATA + page(5), Some(5), "passed through")?;
            b.set_pasid(A, &PasidEntry::nested(DID_A, &pair.a, &pair.s2))?;
            b.invalidate(&[desc::pasid_one(DID_A, A), desc::piotlb_all(DID_A, A)])?;
            expect(b, A, V, Some(OLD), "nested")?;
            expect(b, A, DATA + page(5), None, "nested")
        }),
        Case::new("context_cache_drops_device_by_type_1", |b| {
            context_stale_until(b, desc::context_device())
        }),
        Case::new("context_cache_drops_all_by_type_1", |b| {
            context_stale_until(b, desc::context_all())
        }),
    ]
}

fn context_stale_until(b: &mut Bench, descriptor: desc::Desc) -> Result<()> {
    Pair::new(b, DID_A)?;
    expect(b, A, V, Some(OLD), "at first")?;
    let value = b.q.read64(b.context)?;
    b.q.write64(b.context, value & !vtd::CTX_PASIDE)?;
    b.invalidate(&[desc::pasid_all(), desc::iotlb_all()])?;
    expect(
        b,
        A,
        V,
        Some(OLD),
        "before the context cache is invalidated",
    )?;
    b.invalidate(&[descriptor, desc::pasid_all(), desc::iotlb_all()])?;
    expect(b, A, V, None, "after it")
}

/// With ATS: an IOTLB invalidation alone leaves the device TLB, `descriptor`
/// drops the entry.
fn dtlb_stale_until(b: &mut Bench, descriptor: desc::Desc) -> Result<()> {
    let pair = Pair::new(b, DID_A)?;
    b.enable_ats(true)?;
    expect(b, A, V, Some(OLD), "at first")?;
    pair.change(b, &pair.a, 0)?;
    b.invalidate(&[desc::piotlb_all(DID_A, A)])?;
    expect(b, A, V, Some(OLD), "before the device TLB is invalidated")?;
    ensure!(
        b.reg64(ep::reg::CNT_DTLB_HIT)? > 0,
        "no hit of the device TLB"
    );
    b.invalidate(&[descriptor])?;
    expect(b, A, V, Some(NEW), "after it")
}

/// The same, for a descriptor that must not drop the entry.
fn dtlb_stale_despite(b: &mut Bench, descriptor: desc::Desc) -> Result<()> {
    let pair = Pair::new(b, DID_A)?;
    b.enable_ats(true)?;
    expect(b, A, V, Some(OLD), "at first")?;
    pair.change(b, &pair.a, 0)?;
    b.invalidate(&[desc::piotlb_all(DID_A, A), descriptor])?;
    expect(
        b,
        A,
        V,
        Some(OLD),
        "after the invalidation of something else",
    )
}

/// Maps 2 MiB of data by large pages of both stages; gives their address.
fn large_page(b: &mut Bench, pair: &Pair) -> Result<u64> {
    let large = V + 8 * SIZE_2M;
    pair.a.map(b, large, G + SIZE_2M, SIZE_2M, URW)?;
    pair.s2.map(b, G + SIZE_2M, DATA, SIZE_2M, RW)?;
    b.map_tables(&pair.s2, SIZE_2M)?;
    Ok(large)
}

fn device_tlb_cases() -> Vec<Case> {
    // With the size bit, the low ones of the page number give the range.
    let pages_8 = V | page(3);
    let everything = 0x7fff_ffff_ffff_f000;
    vec![
        Case::new("device_tlb_drops_page_by_type_8", |b| {
            dtlb_stale_until(b, desc::pasid_dev_tlb(A, V, false, false))
        }),
        Case::new("device_tlb_drops_range_by_type_8", move |b| {
            dtlb_stale_until(b, desc::pasid_dev_tlb(A, pages_8, true, false))
        }),
        Case::new("device_tlb_drops_pasid_by_type_8", move |b| {
            dtlb_stale_until(b, desc::pasid_dev_tlb(A, everything, true, false))
        }),
        Case::on(
            Hardware {
                endpoint: ",global-invalidate=on",
                ..Hardware::usual()
            },
            "device_tlb_drops_every_pasid_by_global_type_8",
            |b| dtlb_stale_until(b, desc::pasid_dev_tlb(B, V, false, true)),
        ),
        // Without the capability the bit has no meaning (PCIe 6.0, 10.5.1.2).
        Case::new("device_tlb_global_type_8_needs_the_capability", |b| {
            dtlb_stale_despite(b, desc::pasid_dev_tlb(B, V, false, true))
        }),
        Case::new("device_tlb_type_8_leaves_other_pasid", move |b| {
            dtlb_stale_despite(b, desc::pasid_dev_tlb(B, everything, true, false))
        }),
        Case::new("device_tlb_type_8_leaves_other_page", |b| {
            dtlb_stale_despite(b, desc::pasid_dev_tlb(A, V + page(1), false, false))
        }),
        Case::new("device_tlb_type_8_leaves_page_after_range", move |b| {
            dtlb_stale_despite(b, desc::pasid_dev_tlb(A, pages_8 + page(8), true, false))
        }),
        Case::new("device_tlb_type_3_leaves_entries_with_pasid", move |b| {
            dtlb_stale_despite(b, desc::dev_tlb(everything, true))
        }),
        Case::new("device_tlb_drops_rid_page_by_type_3", |b| {
            let pair = Pair::new(b, DID_A)?;
            b.set_pasid(0, &PasidEntry::second(DID_B, &pair.s2))?;
            b.enable_ats(true)?;
            let op = Op {
                op: ep::OP_READ,
                length: 8,
                src: G,
                ..Op::default()
            };
            let read = |b: &mut Bench| -> Result<u64> {
                b.run_ok(op)?;
                Ok(b.q.read64(Bench::buffer(0))? - VALUE)
            };
            ensure!(read(b)? == OLD, "at first");
            pair.s2.map(b, G, DATA + page(NEW), SIZE_4K, RW)?;
            b.invalidate(&[desc::iotlb_domain(DID_B)])?;
            ensure!(read(b)? == OLD, "before the device TLB is invalidated");
            b.invalidate(&[desc::pasid_dev_tlb(A, G, false, true)])?;
            ensure!(read(b)? == OLD, "after an invalidation with PASID");
            b.invalidate(&[desc::dev_tlb(G, false)])?;
            ensure!(read(b)? == NEW, "after the invalidation");
            Ok(())
        }),
        Case::new("device_tlb_is_empty_after_ats_was_off", |b| {
            Pair::new(b, DID_A)?;
            b.enable_ats(true)?;
            expect(b, A, V, Some(OLD), "at first")?;
            ensure!(b.reg32(ep::reg::DTLB_ENTRIES)? == 1, "not one entry");
            b.enable_ats(false)?;
            ensure!(b.reg32(ep::reg::DTLB_ENTRIES)? == 0, "the entry has stayed");
            Ok(())
        }),
        Case::new("device_tlb_large_page_is_one_entry", |b| {
            let pair = Pair::new(b, DID_A)?;
            let large = large_page(b, &pair)?;
            b.enable_ats(true)?;
            expect(b, A, large + page(2), Some(2), "the first access")?;
            expect(b, A, large + page(5), Some(5), "another part")?;
            let asked = b.reg64(ep::reg::CNT_ATS)?;
            ensure!(asked == 1, "{asked} translation requests, not 1");
            ensure!(b.reg64(ep::reg::CNT_DTLB_HIT)? == 1, "no hit");
            Ok(())
        }),
        Case::new("device_tlb_large_page_goes_by_any_part", |b| {
            let pair = Pair::new(b, DID_A)?;
            let large = large_page(b, &pair)?;
            b.enable_ats(true)?;
            expect(b, A, large + page(2), Some(2), "at first")?;
            pair.a.map(b, large, G + 2 * SIZE_2M, SIZE_2M, URW)?;
            b.q.write64(DATA + SIZE_2M + page(2), VALUE + NEW)?;
            pair.s2
                .map(b, G + 2 * SIZE_2M, DATA + SIZE_2M, SIZE_2M, RW)?;
            b.invalidate(&[
                desc::piotlb_pages(DID_A, A, large, 9),
                desc::pasid_dev_tlb(A, large + SIZE_2M, false, false),
            ])?;
            expect(b, A, large + page(2), Some(2), "after the next page's")?;
            b.invalidate(&[desc::pasid_dev_tlb(A, large + page(100), false, false)])?;
            expect(b, A, large + page(2), Some(NEW), "after its own")
        }),
        Case::new("device_tlb_makes_room_for_new_entries", |b| {
            let s1 = Table::stage1(b, 4, false)?;
            let capacity = u64::from(b.reg32(ep::reg::DTLB_CAPACITY)?);
            let pages = capacity + 8;
            // Every address leads to one page of data, by one table of 512.
            for n in 0..512 {
                s1.map(b, V + page(n), DATA, SIZE_4K, URW)?;
            }
            let first = s1.entry(b, V, 2)?;
            let leaf = b.q.read64(first)?;
            for n in 1..pages.div_ceil(512) {
                let at = s1.entry(b, V + n * SIZE_2M, 2)?;
                b.q.write64(at, leaf)?;
            }
            b.set_pasid(A, &PasidEntry::first(DID_A, &s1))?;
            b.enable_ats(true)?;
            for (first, count) in [(0, 8), (8, capacity)] {
                b.run_ok(Op {
                    op: ep::OP_CHECKSUM,
                    flags: ep::FLAG_PASID,
                    pasid: A,
                    length: u32::try_from(page(count))?,
                    src: V + page(first),
                    ..Op::default()
                })?;
            }
            ensure!(
                u64::from(b.reg32(ep::reg::DTLB_ENTRIES)?) == capacity,
                "not full"
            );
            let evicted = b.reg64(ep::reg::CNT_DTLB_EVICTED)?;
            ensure!(evicted == 8, "{evicted} entries made room, not 8");
            Ok(())
        }),
    ]
}

fn queue_cases() -> Vec<Case> {
    vec![
        Case::new("queue_wait_as_fence_alone_is_taken", |b| {
            b.invalidate(&[desc::fence()])
        }),
        Case::new("queue_wait_with_drain_is_taken", |b| {
            let at = b.pages(1)?;
            b.invalidate(&[desc::wait(at, 0x1234, desc::WAIT_FENCE | desc::WAIT_DRAIN)])?;
            ensure!(b.q.read32(at)? == 0x1234, "no status was written");
            Ok(())
        }),
        Case::new("queue_type_2_over_mamv_is_an_error", |b| {
            let at = b.vtd64(vtd::reg::IQT)?;
            b.queue(&[desc::iotlb_pages(DID_A, 0, 19)])?;
            let fsts = b.vtd32(vtd::reg::FSTS)?;
            ensure!(fsts & vtd::FSTS_QUEUE_ERROR != 0, "FSTS {fsts:#x}");
            ensure!(b.vtd64(vtd::reg::IQH)? == at, "the head has passed it");
            Ok(())
        }),
        Case::new("queue_unknown_descriptor_is_an_error", |b| {
            let at = b.vtd64(vtd::reg::IQT)?;
            b.queue(&[[0xf, 0, 0, 0]])?;
            let fsts = b.vtd32(vtd::reg::FSTS)?;
            ensure!(fsts & vtd::FSTS_QUEUE_ERROR != 0, "FSTS {fsts:#x}");
            ensure!(b.vtd64(vtd::reg::IQH)? == at, "the head has passed it");
            Ok(())
        }),
        Case::new("queue_wraps_around", |b| {
            for _ in 0..1100 {
                b.queue(&[desc::iotlb_all()])?;
            }
            b.invalidate(&[desc::iotlb_all()])
        }),
    ]
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    let mut all = iotlb_cases();
    all.extend(entry_cases());
    all.extend(device_tlb_cases());
    all.extend(queue_cases());
    all
}
