// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stage-1 tables of five levels: addresses of 57 bits at a PASID and at the RID, through page
//! requests, invalidations and replacements.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, bind_at_rid, bytes_of, entry, expect_errno, expect_ok, expect_status, fail, program,
    range, status, Errno, Order, Outcome, Rig, Space, PAGE,
};

const LOW: u64 = 0x4567_89ab_c000;
/// Above 48 bits: index 0xa5 of level 5.
const HIGH: u64 = 0xa5 << 48 | LOW;
/// In the upper half of the 57 bits: index 0x1fe of level 5.
const UPPER: u64 = 0xfffe << 48 | LOW;
/// Nothing is mapped there.
const HOLE: u64 = HIGH + PAGE;

/// A table of five levels whose addresses all lead to one of four levels: HIGH and UPPER, but not
/// LOW, are LOW's there.
struct Five {
    rig: Rig,
    space: Space,
    top: u64,
    page: u64,
}

impl Five {
    fn open(rig: Rig) -> Outcome<Self> {
        if rig.caps.addr_width & 2 == 0 {
            return fail("57 bits are not offered");
        }
        let space = Space::new(&rig)?;
        let page = space.new_page(&rig, LOW)?;
        let top = rig.mem.alloc_page();
        for address in [HIGH, UPPER] {
            let at = top + 8 * (address >> 48 & 0x1ff);
            rig.mem.write_u64(at, space.root() | entry::RW);
        }
        Ok(Self {
            rig,
            space,
            top,
            page,
        })
    }

    fn data(&self) -> Vec<u8> {
        bytes_of(&iommu_hwpt_vtd_s1 {
            pgtbl_addr: self.top,
            addr_width: 57,
            ..Default::default()
        })
    }

    fn bind(&self) -> Outcome {
        let data = self.data();
        let bind = bind_at(self.rig.id(), self.space.pasid, &data);
        Ok(self.rig.container.bind(&bind)?)
    }

    /// Writes by translated and by untranslated requests, at the PASID or without one; expects
    /// them to end so, and if they went through to have reached the page.
    fn write(&self, address: u64, at_pasid: bool, want: u32, what: &str) -> Outcome {
        for (value, ats) in [(address ^ 1, true), (address ^ 2, false)] {
            let mut order = Order::fill(address + 0x18, 8, value).no_pri();
            if at_pasid {
                order = order.at(self.space.pasid);
            }
            if !ats {
                order = order.no_ats();
            }
            let before = self.rig.mem.read_u64(self.page + 0x18);
            expect_status(self.rig.dma().run(&order)?, want, what);
            let now = if want == status::OK { value } else { before };
            assert_eq!(self.rig.mem.read_u64(self.page + 0x18), now, "{what}");
        }
        Ok(())
    }
}

fn pasid_reaches_what_57_bits_name() -> Outcome {
    let five = Five::open(Rig::nesting_device()?)?;
    five.bind()?;
    five.write(HIGH, true, status::OK, "above 48 bits")?;
    five.write(UPPER, true, status::OK, "the upper half")?;
    five.write(LOW, true, status::NO_ACCESS, "no entry of level 5")?;
    five.write(HOLE, true, status::NO_ACCESS, "no entry of level 1")?;
    let top = |address: u64| five.top + 8 * (address >> 48 & 0x1ff);
    for address in [HIGH, UPPER] {
        let entry = five.rig.mem.read_u64(top(address));
        assert_ne!(entry & entry::ACCESSED, 0, "level 5 was used");
    }
    Ok(())
}

fn rid_reaches_what_57_bits_name() -> Outcome {
    let five = Five::open(Rig::nesting_device()?)?;
    let data = five.data();
    five.rig
        .container
        .bind(&bind_at_rid(five.rig.id(), &data))?;
    five.write(HIGH, false, status::OK, "above 48 bits")?;
    five.write(UPPER, false, status::OK, "the upper half")?;
    five.write(LOW, false, status::NO_ACCESS, "no entry of level 5")
}

fn four_levels_do_not_reach_above_48_bits() -> Outcome {
    let five = Five::open(Rig::nesting_device()?)?;
    five.space.bind(&five.rig)?;
    five.write(LOW, true, status::OK, "48 bits")?;
    five.write(HIGH, true, status::NO_ACCESS, "above them")?;
    // Not sign-extended from bit 47.
    five.write(LOW | 0xffff << 48, true, status::NO_ACCESS, "not canonical")
}

fn address_beyond_57_bits_is_not_canonical() -> Outcome {
    let five = Five::open(Rig::nesting_device()?)?;
    five.bind()?;
    for bit in [57, 60, 63] {
        five.write(HIGH ^ 1 << bit, true, status::NO_ACCESS, "not canonical")?;
    }
    Ok(())
}

/// Whether the host's CPU has five levels, too.
fn host_has_five_levels() -> Outcome<bool> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let flags = cpu.lines().find(|line| line.starts_with("flags"));
    Ok(flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "la57")))
}

/// Linux's page request thread answers INVALID, and reports nothing, where the address is not
/// canonical on the host's own CPU (`is_canonical_address` in drivers/iommu/intel/prq.c).
fn page_request_has_all_bits_of_the_address() -> Outcome {
    let five = Five::open(Rig::faulting()?)?;
    let queue = five
        .rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    let data = five.data();
    let mut bind = bind_at(five.rig.id(), five.space.pasid, &data);
    bind.fault_fd = queue.raw_fd();
    five.rig.container.bind(&bind)?;
    let reported = host_has_five_levels()?;
    for (number, hole) in [HOLE, UPPER + 5 * PAGE].into_iter().enumerate() {
        let order = Order::fill(hole, 8, hole).at(five.space.pasid);
        let slot = five.rig.dma().submit(&order)?;
        if !reported {
            let done = five.rig.dma().wait(slot)?;
            expect_status(done, status::INVALID, "the host's answer");
            expect_errno(queue.read_all(), Errno::EAGAIN, "nothing to read");
            continue;
        }
        queue.wait_readable()?;
        let records = queue.read_all()?;
        assert_eq!(records.len(), 1, "{records:x?}");
        let record = records[0];
        assert_eq!(record.kind, VFIO_IOASID_FAULT_PAGE_REQUEST);
        assert_eq!(record.addr, hole, "{:#x}", record.addr);
        let page = five.space.new_page(&five.rig, hole & ((1 << 48) - 1))?;
        queue.respond(record.cookie, VFIO_IOASID_RESPONSE_SUCCESS)?;
        expect_status(five.rig.dma().wait(slot)?, status::OK, "after SUCCESS");
        assert_eq!(five.rig.mem.read_u64(page), hole);
        assert_eq!(five.rig.container.stats()?.page_requests, number as u64 + 1);
    }
    Ok(())
}

fn invalidation_names_addresses_above_48_bits() -> Outcome {
    let five = Five::open(Rig::nesting_device()?)?;
    five.bind()?;
    let seen = |ats: bool| -> Outcome<u64> {
        let order = Order::read(HIGH, 8, 0).at(five.space.pasid).no_pri();
        let order = if ats { order } else { order.no_ats() };
        expect_status(five.rig.dma().run(&order)?, status::OK, "a read");
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&five.rig.dma().read_buffer(0, 8));
        Ok(u64::from_le_bytes(bytes))
    };
    let invalidate = |address: u64| {
        let done = five.rig.container.invalidate(
            VFIO_IOASID_SCOPE_BINDING,
            five.rig.id(),
            five.space.pasid,
            &[range(address, 1)],
        );
        expect_ok(done.result, "INVALIDATE");
    };
    five.rig.mem.write_u64(five.page, 1);
    for ats in [true, false] {
        let new = five.rig.mem.alloc_page();
        five.rig.mem.write_u64(new, 2);
        five.space.map(&five.rig, LOW, five.page, entry::RW)?;
        invalidate(HIGH);
        assert_eq!(seen(ats)?, 1, "at first");
        five.space.map(&five.rig, LOW, new, entry::RW)?;
        invalidate(LOW);
        assert_eq!(seen(ats)?, 1, "another address was invalidated");
        invalidate(HIGH);
        assert_eq!(seen(ats)?, 2, "this one was");
    }
    Ok(())
}

fn five_levels_take_the_place_of_four_and_back() -> Outcome {
    let five = Five::open(Rig::nesting_device()?)?;
    five.space.bind(&five.rig)?;
    five.write(LOW, true, status::OK, "four levels")?;
    let (wide, narrow) = (five.data(), five.space.stage1_data());
    for (data, works, fails) in [(&wide, HIGH, LOW), (&narrow, LOW, HIGH)] {
        let mut bind = bind_at(five.rig.id(), five.space.pasid, data);
        bind.flags |= VFIO_IOASID_BIND_REPLACE;
        let (result, outcome) = five.rig.container.bind_with_outcome(&bind);
        expect_ok(result, "REPLACE");
        assert_eq!(outcome, VFIO_IOASID_OUTCOME_BOUND);
        five.write(works, true, status::OK, "replaced")?;
        five.write(fails, true, status::NO_ACCESS, "replaced")?;
    }
    Ok(())
}

fn table_beyond_57_bits_is_refused() -> Outcome {
    let five = Five::open(Rig::nesting_device()?)?;
    for width in [56, 58, 64] {
        let data = bytes_of(&iommu_hwpt_vtd_s1 {
            pgtbl_addr: five.top,
            addr_width: width,
            ..Default::default()
        });
        let bind = bind_at(five.rig.id(), five.space.pasid, &data);
        expect_errno(five.rig.container.bind(&bind), Errno::EINVAL, "no width");
    }
    assert_eq!(five.rig.container.stats()?.bindings, 0);
    Ok(())
}

program![
    pasid_reaches_what_57_bits_name,
    rid_reaches_what_57_bits_name,
    four_levels_do_not_reach_above_48_bits,
    address_beyond_57_bits_is_not_canonical,
    page_request_has_all_bits_of_the_address,
    invalidation_names_addresses_above_48_bits,
    five_levels_take_the_place_of_four_and_back,
    table_beyond_57_bits_is_refused,
];
