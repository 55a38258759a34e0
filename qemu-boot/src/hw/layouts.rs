// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The layouts. What each must give comes from the VT-d specification (4.1): the
//! walks of chapter 3, the entries of chapter 9, and the fault reasons of 7.1.3.

use super::bench::DATA;
use super::endpoint as ep;
use super::layout::{Edit, Layout, Mode, Want, RW, URW};
use super::tables::{SIZE_1G, SIZE_2M, SIZE_4K};
use super::vtd;

/// An address with another index at each of four levels.
const V: u64 = 0x7f12_3456_7000;
const V_2M: u64 = V & !(SIZE_2M - 1);
const V_1G: u64 = V & !(SIZE_1G - 1);
/// The same for five levels.
const V5: u64 = 0x00ab_7f12_3456_7000;
/// Guest-physical addresses of data, 1 GiB aligned.
const G: u64 = 0x20_0000_0000;
/// In no RAM, yet inside the host's address width.
const NO_RAM: u64 = 0x08_0000_0000;
/// Beyond the host's address width of 48 bits.
const TOO_WIDE: u64 = 1 << 51;
/// Where a page of 1 GiB at host-physical 0 shows `DATA`.
const IN_1G: u64 = DATA;

/// All layouts.
pub fn all() -> Vec<Layout> {
    let mut all = first_stage();
    all.extend(first_stage_rights());
    all.extend(second_stage());
    all.extend(nested_sizes());
    all.extend(nested_rights());
    all.extend(nested_tables());
    all.extend(pass_through());
    all.extend(pasid_entries());
    all.extend(context_entries());
    all
}

fn first(name: impl Into<String>) -> Layout {
    Layout::new(name, Mode::First)
}

fn second(name: impl Into<String>) -> Layout {
    Layout::new(name, Mode::Second)
}

fn nested(name: impl Into<String>) -> Layout {
    Layout::new(name, Mode::Nested)
}

/// Stage 1 alone: V to DATA by a page of 4 KiB.
fn first_4k(name: impl Into<String>) -> Layout {
    first(name).s1(V, DATA, SIZE_4K, URW)
}

fn second_4k(name: impl Into<String>) -> Layout {
    second(name).s2(G, DATA, SIZE_4K, RW)
}

/// Both: V to G to DATA.
fn nested_4k(name: impl Into<String>) -> Layout {
    nested(name).s1(V, G, SIZE_4K, URW).s2(G, DATA, SIZE_4K, RW)
}

fn first_stage() -> Vec<Layout> {
    let negative = 0xffff_ffff_8000_0000;
    let mut all = vec![
        first_4k("first_4k_reaches_page").reaches(V + 0x9a8, DATA + 0x9a8),
        first("first_2m_reaches_page")
            .s1(V_2M, DATA, SIZE_2M, URW)
            .reaches(V_2M + 0x12_39a8, DATA + 0x12_39a8),
        first("first_1g_reaches_page")
            .s1(V_1G, 0, SIZE_1G, URW)
            .reaches(V_1G + IN_1G + 0x45_6788, DATA + 0x45_6788),
        first("first_5_levels_4k_reaches_page")
            .levels1(5)
            .s1(V5, DATA, SIZE_4K, URW)
            .reaches(V5 + 0x10, DATA + 0x10),
        first("first_5_levels_1g_reaches_page")
            .levels1(5)
            .s1(V5 & !(SIZE_1G - 1), 0, SIZE_1G, URW)
            .reaches((V5 & !(SIZE_1G - 1)) + IN_1G, DATA),
        first("first_upper_half_reaches_page")
            .s1(negative, DATA, SIZE_4K, URW)
            .reaches(negative + 8, DATA + 8),
        first_4k("first_not_canonical_faults")
            .read(V | 1 << 47, Want::Denied(&[0x80]))
            .read(V | 1 << 48, Want::Denied(&[0x80]))
            .read(V | 1 << 63, Want::Denied(&[0x80])),
        first("first_5_levels_not_canonical_faults")
            .levels1(5)
            .s1(V5, DATA, SIZE_4K, URW)
            .write(V5 | 1 << 57, Want::Denied(&[0x80])),
        first_4k("first_ignored_bits_are_ignored")
            .edit(Edit::S1(V, 1, 0x7ff << 52 | 0x3 << 9 | vtd::S1_G | 0x18))
            .edit(Edit::S1(V, 3, 0x7ff << 52 | 0x1 << 9))
            .reaches(V, DATA),
        first("first_interrupt_range_is_memory_with_pasid")
            .s1(0xfee0_0000, DATA, SIZE_4K, URW)
            .reaches(0xfee0_0ff8, DATA + 0xff8),
        first("first_output_in_interrupt_range_faults")
            .s1(V, 0xfee0_0000, SIZE_4K, URW)
            .write(V, Want::Denied(&[0x87])),
        first("first_two_pages_keep_apart")
            .s1(V, DATA + SIZE_4K, SIZE_4K, URW)
            .s1(V + SIZE_4K, DATA, SIZE_4K, URW)
            .reaches(V + 0xff8, DATA + 0x1ff8)
            .reaches(V + 0x1000, DATA),
    ];
    for level in 1..=4 {
        all.push(
            first_4k(format!("first_not_present_level_{level}_faults"))
                .edit(Edit::S1(V, level, vtd::S1_P))
                .read(V, Want::Hole(&[0x71]))
                .write(V, Want::Hole(&[0x71])),
        );
        all.push(
            first_4k(format!("first_reserved_address_bits_level_{level}_fault"))
                .edit(Edit::S1(V, level, TOO_WIDE))
                .read(V, Want::Error(&[0x72])),
        );
    }
    all.push(
        first("first_5_levels_not_present_level_5_faults")
            .levels1(5)
            .s1(V5, DATA, SIZE_4K, URW)
            .edit(Edit::S1(V5, 5, vtd::S1_P))
            .read(V5, Want::Hole(&[0x71])),
    );
    all.extend([
        first_4k("first_page_size_bit_level_4_faults")
            .edit(Edit::S1(V, 4, vtd::S1_PS))
            .read(V, Want::Error(&[0x72])),
        first("first_2m_low_address_bits_fault")
            .s1(V_2M, DATA, SIZE_2M, URW)
            .edit(Edit::S1(V_2M, 2, 1 << 13))
            .read(V_2M, Want::Error(&[0x72])),
        first("first_1g_low_address_bits_fault")
            .s1(V_1G, 0, SIZE_1G, URW)
            .edit(Edit::S1(V_1G, 3, 1 << 29))
            .read(V_1G, Want::Error(&[0x72])),
        first_4k("first_root_in_no_ram_faults")
            .edit(Edit::Pasid(2, NO_RAM))
            .read(V, Want::Error(&[0x73])),
        first_4k("first_table_in_no_ram_faults")
            .edit(Edit::S1(V, 3, NO_RAM))
            .read(V, Want::Error(&[0x70])),
    ]);
    all
}

fn first_stage_rights() -> Vec<Layout> {
    let supervisor = Edit::S1(V, 1, vtd::S1_US);
    let read_only = Edit::S1(V, 1, vtd::S1_RW);
    vec![
        first_4k("first_read_only_leaf_refuses_write")
            .edit(read_only)
            .read(V, Want::At(DATA))
            .write(V, Want::Hole(&[0x85])),
        first_4k("first_read_only_level_2_refuses_write")
            .edit(Edit::S1(V, 2, vtd::S1_RW))
            .read(V, Want::At(DATA))
            .write(V, Want::Hole(&[0x85])),
        first_4k("first_read_only_level_4_refuses_write")
            .edit(Edit::S1(V, 4, vtd::S1_RW))
            .read(V, Want::At(DATA))
            .write(V, Want::Hole(&[0x85])),
        first_4k("first_supervisor_leaf_refuses_user")
            .edit(supervisor)
            .read(V, Want::Hole(&[0x81])),
        first_4k("first_supervisor_level_3_refuses_user")
            .edit(Edit::S1(V, 3, vtd::S1_US))
            .read(V, Want::Hole(&[0x81])),
        first_4k("first_supervisor_request_reaches_page")
            .edit(supervisor)
            .edit(Edit::Pasid(2, vtd::PE_SRE))
            .probe(V, false, ep::FLAG_PRIV, Want::At(DATA))
            .probe(V, true, ep::FLAG_PRIV, Want::At(DATA)),
        first_4k("first_supervisor_request_without_sre_faults").probe(
            V,
            false,
            ep::FLAG_PRIV,
            Want::Error(&[0x5d]),
        ),
        first_4k("first_supervisor_write_without_wpe_ignores_rw")
            .edit(read_only)
            .edit(Edit::Pasid(2, vtd::PE_SRE))
            .probe(V, true, ep::FLAG_PRIV, Want::At(DATA)),
        first_4k("first_supervisor_write_with_wpe_obeys_rw")
            .edit(read_only)
            .edit(Edit::Pasid(2, vtd::PE_SRE | vtd::PE_WPE))
            .probe(V, false, ep::FLAG_PRIV, Want::At(DATA))
            .probe(V, true, ep::FLAG_PRIV, Want::Hole(&[0x85])),
        first_4k("first_execute_request_without_ere_faults").probe(
            V,
            false,
            ep::FLAG_EXEC,
            Want::Denied(&[0x5c]),
        ),
    ]
}

fn second_stage() -> Vec<Layout> {
    let mut all = vec![
        second_4k("second_4k_reaches_page").reaches(G + 0x9a8, DATA + 0x9a8),
        second("second_2m_reaches_page")
            .s2(G, DATA, SIZE_2M, RW)
            .reaches(G + 0x12_39a8, DATA + 0x12_39a8),
        second("second_1g_reaches_page")
            .s2(G, 0, SIZE_1G, RW)
            .reaches(G + IN_1G + 0x10, DATA + 0x10),
        second("second_3_levels_reaches_page")
            .levels2(3)
            .s2(G, DATA, SIZE_4K, RW)
            .reaches(G + 8, DATA + 8),
        second("second_3_levels_beyond_width_faults")
            .levels2(3)
            .s2(G, DATA, SIZE_4K, RW)
            .read(G | 1 << 39, Want::Denied(&[0x83])),
        second_4k("second_beyond_width_faults").read(G | 1 << 48, Want::Denied(&[0x83])),
        second_4k("second_read_only_leaf_refuses_write")
            .edit(Edit::S2(G, 1, vtd::S2_W))
            .read(G, Want::At(DATA))
            .write(G, Want::Hole(&[0x85])),
        second_4k("second_read_only_level_3_refuses_write")
            .edit(Edit::S2(G, 3, vtd::S2_W))
            .read(G, Want::At(DATA))
            .write(G, Want::Hole(&[0x85])),
        second_4k("second_write_only_leaf_refuses_read")
            .edit(Edit::S2(G, 1, vtd::S2_R))
            .read(G, Want::Hole(&[0x86]))
            .write(G, Want::At(DATA)),
        second_4k("second_output_in_interrupt_range_faults")
            .edit(Edit::S2(G, 1, DATA ^ 0xfee0_0000))
            .write(G, Want::Denied(&[0x87])),
        second_4k("second_page_size_bit_level_4_faults")
            .edit(Edit::S2(G, 4, vtd::S2_PS))
            .read(G, Want::Error(&[0x7a])),
        second("second_2m_low_address_bits_fault")
            .s2(G, DATA, SIZE_2M, RW)
            .edit(Edit::S2(G, 2, 1 << 12))
            .read(G, Want::Error(&[0x7a])),
        second("second_1g_low_address_bits_fault")
            .s2(G, 0, SIZE_1G, RW)
            .edit(Edit::S2(G, 3, 1 << 21))
            .read(G, Want::Error(&[0x7a])),
        second_4k("second_root_in_no_ram_faults")
            .edit(Edit::Pasid(0, NO_RAM))
            .read(G, Want::Error(&[0x7b])),
        second_4k("second_table_in_no_ram_faults")
            .edit(Edit::S2(G, 2, NO_RAM))
            .read(G, Want::Error(&[0x78])),
        second_4k("second_at_rid_reaches_page")
            .rid()
            .reaches(G + 0x40, DATA + 0x40),
        second_4k("second_at_rid_not_present_faults")
            .rid()
            .read(G + SIZE_4K, Want::Hole(&[0x79])),
    ];
    for level in 1..=4 {
        all.push(
            second_4k(format!("second_not_present_level_{level}_faults"))
                .edit(Edit::S2(G, level, RW))
                .read(G, Want::Hole(&[0x79]))
                .write(G, Want::Hole(&[0x79])),
        );
        all.push(
            second_4k(format!("second_reserved_address_bits_level_{level}_fault"))
                .edit(Edit::S2(G, level, TOO_WIDE))
                .read(G, Want::Error(&[0x7a])),
        );
    }
    all
}

/// Every size of stage 1 over every size of stage 2, tables mapped by each size.
fn nested_sizes() -> Vec<Layout> {
    let sizes = [("4k", SIZE_4K), ("2m", SIZE_2M), ("1g", SIZE_1G)];
    let mut all = Vec::new();
    for (name1, size1) in sizes {
        for (name2, size2) in sizes {
            // The accessed page: this far into V's page, and into G's 1 GiB.
            let into = if size1 == SIZE_4K { 0 } else { 0x12_3000 };
            let base = if size1 == SIZE_1G { DATA } else { 0 };
            let gpa = G + DATA + into;
            let target1 = if size1 == SIZE_1G { G } else { G + DATA };
            let (from2, to2) = match size2 {
                SIZE_1G => (G, 0),
                SIZE_2M => (G + DATA, DATA + 3 * SIZE_2M),
                _ => (gpa, DATA + 0x55_5000),
            };
            let iova = (V & !(size1 - 1)) + base + into + 0x9a8;
            let hpa = to2 + (gpa - from2) + 0x9a8;
            all.push(
                nested(format!("nested_{name1}_over_{name2}_reaches_page"))
                    .tables(size2)
                    .s1(V & !(size1 - 1), target1, size1, URW)
                    .s2(from2, to2, size2, RW)
                    .reaches(iova, hpa),
            );
        }
    }
    all.extend([
        nested("nested_5_levels_reaches_page")
            .levels1(5)
            .s1(V5, G, SIZE_4K, URW)
            .s2(G, DATA, SIZE_4K, RW)
            .reaches(V5 + 0x18, DATA + 0x18),
        nested("nested_over_3_levels_reaches_page")
            .levels2(3)
            .s1(V, G, SIZE_4K, URW)
            .s2(G, DATA, SIZE_4K, RW)
            .reaches(V + 0x18, DATA + 0x18),
        nested("nested_2m_over_4k_goes_through_each_page")
            .s1(V_2M, G, SIZE_2M, URW)
            .s2(G, DATA + 0x5000, SIZE_4K, RW)
            .s2(G + 0x1000, DATA + 0x2000, SIZE_4K, RW)
            .reaches(V_2M + 0x8, DATA + 0x5008)
            .reaches(V_2M + 0x1008, DATA + 0x2008)
            .read(V_2M + 0x2000, Want::Hole(&[0x79])),
        nested_4k("nested_at_rid_reaches_page")
            .rid()
            .reaches(V + 0x18, DATA + 0x18),
    ]);
    all
}

fn nested_rights() -> Vec<Layout> {
    let mut all = vec![
        nested_4k("nested_read_only_stage_2_refuses_write")
            .edit(Edit::S2(G, 1, vtd::S2_W))
            .read(V, Want::At(DATA))
            .write(V, Want::Hole(&[0x85])),
        nested_4k("nested_read_only_stage_1_refuses_write")
            .edit(Edit::S1(V, 1, vtd::S1_RW))
            .read(V, Want::At(DATA))
            .write(V, Want::Hole(&[0x85])),
        nested_4k("nested_write_only_stage_2_refuses_read")
            .edit(Edit::S2(G, 1, vtd::S2_R))
            .read(V, Want::Hole(&[0x86])),
        nested_4k("nested_disjoint_rights_refuse_both")
            .edit(Edit::S1(V, 1, vtd::S1_RW))
            .edit(Edit::S2(G, 1, vtd::S2_R))
            .read(V, Want::Hole(&[0x86]))
            .write(V, Want::Hole(&[0x85])),
        nested_4k("nested_supervisor_leaf_refuses_user")
            .edit(Edit::S1(V, 1, vtd::S1_US))
            .write(V, Want::Hole(&[0x81])),
        nested_4k("nested_reserved_bits_of_stage_1_fault")
            .edit(Edit::S1(V, 2, TOO_WIDE))
            .read(V, Want::Error(&[0x72])),
        nested_4k("nested_reserved_bits_of_stage_2_fault")
            .edit(Edit::S2(G, 1, TOO_WIDE))
            .read(V, Want::Error(&[0x7a])),
        nested("nested_output_beyond_stage_2_faults")
            .levels2(3)
            .s1(V, G | 1 << 40, SIZE_4K, URW)
            .s2(G, DATA, SIZE_4K, RW)
            .read(V, Want::Denied(&[0x84])),
        nested_4k("nested_output_in_interrupt_range_faults")
            .edit(Edit::S2(G, 1, DATA ^ 0xfee0_0000))
            .write(V, Want::Denied(&[0x87])),
        nested("nested_gpa_in_interrupt_range_is_memory")
            .s1(V, 0xfee0_0000, SIZE_4K, URW)
            .s2(0xfee0_0000, DATA, SIZE_4K, RW)
            .reaches(V, DATA),
        nested("nested_target_outside_stage_2_faults")
            .s1(V, DATA, SIZE_4K, URW)
            .s2(G, DATA, SIZE_4K, RW)
            .read(V, Want::Hole(&[0x79]))
            .write(V, Want::Hole(&[0x79])),
    ];
    for level in 1..=4 {
        all.push(
            nested_4k(format!("nested_stage_1_not_present_level_{level}_faults"))
                .edit(Edit::S1(V, level, vtd::S1_P))
                .read(V, Want::Hole(&[0x71]))
                .write(V, Want::Hole(&[0x71])),
        );
    }
    for level in 1..=3 {
        // Level 4 of stage 2 is shared with the tables' mapping.
        all.push(
            nested_4k(format!("nested_stage_2_not_present_level_{level}_faults"))
                .edit(Edit::S2(G, level, RW))
                .read(V, Want::Hole(&[0x79])),
        );
    }
    all
}

/// Stage-1 tables that stage 2 does not map, or not for what is needed.
fn nested_tables() -> Vec<Layout> {
    let mut all = Vec::new();
    for level in 1..=4 {
        // An entry without R and W is both "not present" and "no read".
        let unmapped: &[u8] = if level == 4 {
            &[0x75, 0x79]
        } else {
            &[0x76, 0x79]
        };
        let unreadable: &[u8] = if level == 4 { &[0x75] } else { &[0x76] };
        all.push(
            nested_4k(format!(
                "nested_table_of_level_{level}_outside_stage_2_faults"
            ))
            .edit(Edit::S2OfTable(V, level, RW))
            .read(V, Want::Hole(unmapped)),
        );
        all.push(
            nested_4k(format!("nested_table_of_level_{level}_unreadable_faults"))
                .edit(Edit::S2OfTable(V, level, vtd::S2_R))
                .read(V, Want::Hole(unreadable)),
        );
        all.push(
            nested_4k(format!(
                "nested_table_of_level_{level}_read_only_refuses_accessed_bit"
            ))
            .edit(Edit::S2OfTable(V, level, vtd::S2_W))
            .read(V, Want::Hole(&[0x77])),
        );
        all.push(
            nested_4k(format!(
                "nested_table_of_level_{level}_read_only_with_bits_set_is_read"
            ))
            .edit(Edit::S1(V, level, vtd::S1_A))
            .edit(Edit::S2OfTable(V, level, vtd::S2_W))
            .read(V, Want::At(DATA)),
        );
    }
    all.extend([
        nested_4k("nested_read_only_leaf_table_refuses_dirty_bit")
            .edit(Edit::S1(V, 1, vtd::S1_A))
            .edit(Edit::S2OfTable(V, 1, vtd::S2_W))
            .write(V, Want::Hole(&[0x77])),
        nested("nested_root_beyond_stage_2_faults")
            .levels2(3)
            .s1(V, G, SIZE_4K, URW)
            .s2(G, DATA, SIZE_4K, RW)
            .edit(Edit::Pasid(2, 1 << 40))
            .read(V, Want::Denied(&[0x74])),
        nested("nested_table_beyond_stage_2_faults")
            .levels2(3)
            .s1(V, G, SIZE_4K, URW)
            .s2(G, DATA, SIZE_4K, RW)
            .edit(Edit::S1(V, 3, 1 << 40))
            .read(V, Want::Denied(&[0x74])),
        nested_4k("nested_table_in_no_ram_faults")
            .edit(Edit::S2OfTable(V, 2, NO_RAM))
            .read(V, Want::Error(&[0x70])),
        nested_4k("nested_stage_2_root_in_no_ram_faults")
            .edit(Edit::Pasid(0, NO_RAM))
            .read(V, Want::Error(&[0x7b])),
    ]);
    all
}

fn pass_through() -> Vec<Layout> {
    vec![
        Layout::new("pass_reaches_memory", Mode::Pass).reaches(DATA + 0x28, DATA + 0x28),
        Layout::new("pass_at_rid_reaches_memory", Mode::Pass)
            .rid()
            .reaches(DATA + 0x28, DATA + 0x28),
        Layout::new("pass_beyond_width_faults", Mode::Pass)
            .read(TOO_WIDE, Want::Denied(&[0x83, 0x84])),
        Layout::new("pass_interrupt_range_faults", Mode::Pass)
            .write(0xfee0_1000, Want::Denied(&[0x87])),
    ]
}

fn pasid_entries() -> Vec<Layout> {
    let pgtt = |from: u64, to: u64| Edit::Pasid(0, (from ^ to) << vtd::PE_PGTT_SHIFT);
    let not_offered = [
        ("page_snoop", vtd::PE_PGSNP),
        ("cache_disable", vtd::PE_CD),
        ("extended_memory_type_enable", vtd::PE_EMTE),
        ("extended_memory_type", vtd::PE_EMT),
        ("write_through", vtd::PE_PWT),
        ("page_cache_disable", vtd::PE_PCD),
        ("attribute_table", vtd::PE_PAT),
    ];
    let not_offered = not_offered.into_iter().flat_map(|(name, bits)| {
        [
            ("first", first_4k as fn(String) -> Layout),
            ("nested", nested_4k),
        ]
        .map(|(mode, layout)| {
            layout(format!(
                "pasid_entry_{mode}_{name}_without_its_capability_faults"
            ))
            .edit(Edit::Pasid(1, bits))
            .read(V, Want::Error(&[0x5a]))
        })
    });
    let mut all = vec![
        first_4k("pasid_entry_absent_faults")
            .edit(Edit::Pasid(0, vtd::PE_PRESENT))
            .read(V, Want::Error(&[0x59])),
        first_4k("pasid_directory_absent_faults")
            .edit(Edit::Directory(1))
            .write(V, Want::Error(&[0x51])),
        first_4k("pasid_directory_reserved_bits_fault")
            .edit(Edit::Directory(1 << 5))
            .read(V, Want::Error(&[0x52])),
        first_4k("pasid_directory_in_no_ram_faults")
            .edit(Edit::Context(0, NO_RAM))
            .read(V, Want::Error(&[0x50])),
        first_4k("pasid_table_in_no_ram_faults")
            .edit(Edit::Directory(NO_RAM))
            .read(V, Want::Error(&[0x58])),
        nested_4k("pasid_entry_reserved_quadword_faults")
            .edit(Edit::Pasid(7, 1))
            .read(V, Want::Error(&[0x5a])),
        nested_4k("pasid_entry_reserved_bits_fault")
            .edit(Edit::Pasid(0, TOO_WIDE))
            .read(V, Want::Error(&[0x5a])),
        nested_4k("pasid_entry_type_0_faults")
            .edit(pgtt(vtd::PGTT_NESTED, 0))
            .read(V, Want::Error(&[0x5b])),
        nested_4k("pasid_entry_type_5_faults")
            .edit(pgtt(vtd::PGTT_NESTED, 5))
            .read(V, Want::Error(&[0x5b])),
        nested_4k("pasid_entry_bad_stage_2_width_faults")
            .edit(Edit::Pasid(0, 7 << vtd::PE_AW_SHIFT))
            .read(V, Want::Error(&[0x5b])),
        nested_4k("pasid_entry_bad_stage_1_levels_fault")
            .edit(Edit::Pasid(2, 3 << 2))
            .read(V, Want::Error(&[0x5b])),
        first_4k("pasid_entry_fault_processing_disabled_is_silent")
            .edit(Edit::Pasid(0, vtd::PE_PRESENT | vtd::PE_FPD))
            .read(V, Want::Silent),
        first_4k("pasid_entry_fault_processing_disabled_hides_walk_faults")
            .edit(Edit::Pasid(0, vtd::PE_FPD))
            .edit(Edit::S1(V, 1, TOO_WIDE))
            .read(V, Want::Silent),
    ];
    all.extend(not_offered);
    all
}

fn context_entries() -> Vec<Layout> {
    vec![
        first_4k("context_entry_absent_faults")
            .edit(Edit::Context(0, vtd::CTX_PRESENT))
            .read(V, Want::Error(&[0x41])),
        first_4k("context_entry_reserved_bits_fault")
            .edit(Edit::Context(0, 1 << 7))
            .read(V, Want::Error(&[0x42])),
        first_4k("context_entry_without_pasid_enable_faults")
            .edit(Edit::Context(0, vtd::CTX_PASIDE))
            .read(V, Want::Error(&[0x45])),
        first_4k("context_entry_with_small_directory_faults")
            .edit(Edit::Context(0, 7 << vtd::CTX_PDTS_SHIFT))
            .read(V, Want::Error(&[0x46])),
        first_4k("root_entry_absent_faults")
            .edit(Edit::Root(1))
            .read(V, Want::Error(&[0x39])),
        first_4k("root_entry_reserved_bits_fault")
            .edit(Edit::Root(1 << 4))
            .read(V, Want::Error(&[0x3a])),
        first_4k("root_entry_in_no_ram_faults")
            .edit(Edit::Root(NO_RAM))
            .read(V, Want::Error(&[0x40])),
    ]
}
