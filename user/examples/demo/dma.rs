// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DMA through both stages, and where it ends.

use crate::report::{check, Seen};
use crate::setup::{World, ASTRAY, FIRST, MEMORY_SIZE, SECOND};
use host_iommu::{Invalidation, Iova, IovaRange};
use host_iommu_tests::memory::{GuestMemory, PAGE};
use host_iommu_tests::stage1::entry;
use host_iommu_tests::testdev::{status, Counter, Done, Order};

/// No guest memory is there.
const OUTSIDE: u64 = MEMORY_SIZE + (1 << 30);

/// Bytes that repeat late.
fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len)
        .map(|n| (n.wrapping_mul(167).wrapping_add(seed) % 251) as u8)
        .collect()
}

/// Runs an order without page requests.
fn run(world: &World, order: Order, pasid: u32) -> Seen<Done> {
    Ok(world.endpoint()?.run(&order.at(pasid).no_pri())?)
}

/// Runs an order that has to end well.
fn run_ok(world: &World, order: Order, pasid: u32) -> Seen<Done> {
    let done = run(world, order, pasid)?;
    check(done.status == status::OK, format!("the DMA ended: {done}"))?;
    Ok(done)
}

/// The endpoint writes across a page boundary, reads back, and copies.
pub fn by_guest_virtual_address(world: &mut World) -> Seen {
    const LEN: u64 = 3000;
    let (memory, endpoint) = (world.memory()?, world.endpoint()?);
    let space = world.space(0)?;
    let bytes = pattern(LEN, 1);
    let from = SECOND - LEN / 2;

    endpoint.write_buffer(0, &bytes);
    run_ok(world, Order::write(0, from, LEN as u32), space.pasid())?;
    let half = LEN / 2;
    let mut seen = memory.read(space.pages[0] + PAGE - half, half);
    seen.extend(memory.read(space.pages[1], LEN - half));
    check(seen == bytes, "guest memory has other bytes")?;

    let answer = pattern(LEN, 2);
    let (low, high) = answer.split_at(half as usize);
    memory.write(space.pages[0] + PAGE - half, low);
    memory.write(space.pages[1], high);
    run_ok(world, Order::read(from, LEN as u32, 0), space.pasid())?;
    check(
        endpoint.read_buffer(0, LEN) == answer,
        "the endpoint read other bytes",
    )?;
    Ok(format!(
        "{LEN} bytes written and {LEN} read over two scattered pages, equal"
    ))
}

/// One address, two PASIDs, two memories.
pub fn second_pasid(world: &mut World) -> Seen {
    let memory = world.memory()?;
    let (one, two) = (world.space(0)?, world.space(1)?);
    memory.fill(one.pages[0], PAGE, 0);
    memory.fill(two.pages[0], PAGE, 0);
    let marks = [0x1111_1111_1111_1111, 0x2222_2222_2222_2222];
    run_ok(world, Order::fill(FIRST, 64, marks[0]), one.pasid())?;
    run_ok(world, Order::fill(FIRST, 64, marks[1]), two.pasid())?;
    for (space, mark) in [(one, marks[0]), (two, marks[1])] {
        let seen = memory.read_u64(space.pages[0]);
        check(
            seen == mark,
            format!("PASID {} has {seen:#x} in its page", space.pasid()),
        )?;
    }
    Ok(format!(
        "{FIRST:#x} is guest-physical {:#x} by PASID {} and {:#x} by PASID {}",
        one.pages[0],
        one.pasid(),
        two.pages[0],
        two.pasid()
    ))
}

/// An entry that changes is seen after the invalidation, and not before.
pub fn change_an_entry(world: &mut World) -> Seen {
    const OLD: u64 = 0x01d0_01d0_01d0_01d0;
    const NEW: u64 = 0x4e77_4e77_4e77_4e77;
    let (memory, endpoint) = (world.memory()?, world.endpoint()?);
    let space = world.space(0)?;
    let fresh = memory.alloc_page();
    memory.write_u64(space.pages[0], OLD);
    memory.write_u64(fresh, NEW);
    let look = || -> Seen<u64> {
        // Adding nothing gives the value without changing it.
        Ok(run_ok(world, Order::fetch_add(FIRST, 0), space.pasid())?.result)
    };
    check(look()? == OLD, "the old page could not be read")?;

    world.table(0)?.map(FIRST, fresh, entry::RW);
    let before = look()?;
    check(
        before == OLD,
        format!("without an invalidation the device already saw {before:#x}"),
    )?;
    let page = IovaRange::sized(Iova(FIRST), PAGE).ok_or("an empty page")?;
    let invalidations = endpoint.counter(Counter::DtlbInval);
    let binding = space.binding.as_ref().ok_or("nothing is bound")?;
    binding.flush(&Invalidation::new().leaf(page))?;
    let after = look()?;
    check(
        after == NEW,
        format!("after the invalidation the device saw {after:#x}"),
    )?;
    let delivered = endpoint.counter(Counter::DtlbInval) - invalidations;
    check(delivered != 0, "the device TLB was not invalidated")?;

    // The other steps find the page where it was.
    world.table(0)?.map(FIRST, space.pages[0], entry::RW);
    binding.flush(&Invalidation::new().leaf(page))?;
    check(look()? == OLD, "the entry could not be changed back")?;
    Ok(format!(
        "the device saw the old page until INVALIDATE, the new one after it \
         ({delivered} device-TLB invalidation)"
    ))
}

/// A sum over each page of guest memory.
fn sums(memory: &GuestMemory) -> Vec<u64> {
    let word = |gpa| memory.read_u64(gpa);
    let page = |gpa: u64| {
        (gpa..gpa + PAGE).step_by(8).fold(gpa, |sum, at| {
            (sum ^ word(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    };
    (0..MEMORY_SIZE).step_by(PAGE as usize).map(page).collect()
}

/// Stage 1 cannot reach beyond stage 2.
pub fn outside_stage2(world: &mut World) -> Seen {
    let memory = world.memory()?;
    let space = world.space(0)?;
    // Accessed and dirty from the start: the walk has no reason to write the entry.
    let flags = entry::RW | entry::ACCESSED | entry::DIRTY;
    world.table(0)?.map(ASTRAY, OUTSIDE, flags);
    let before = sums(memory);

    let order = Order::fill(ASTRAY, PAGE as u32, u64::MAX);
    let by_ats = run(world, order, space.pasid())?;
    check(
        by_ats.status == status::NO_ACCESS,
        format!("with ATS the DMA ended: {by_ats}"),
    )?;
    let untranslated = run(world, order.no_ats(), space.pasid())?;
    check(
        untranslated.status == status::NO_ACCESS,
        format!("without ATS the DMA ended: {untranslated}"),
    )?;
    let changed = sums(memory)
        .iter()
        .zip(&before)
        .filter(|(now, then)| now != then)
        .count();
    check(changed == 0, format!("{changed} pages changed"))?;
    world.table(0)?.unmap(ASTRAY);
    Ok(format!(
        "DMA to guest-physical {OUTSIDE:#x} stopped, with ATS and without; \
         all {} pages of guest memory are as they were",
        before.len()
    ))
}

/// What is unbound reaches nothing; what is still bound does.
pub fn unbind(world: &mut World) -> Seen {
    let mut binding = world
        .space_mut(0)?
        .binding
        .take()
        .ok_or("nothing is bound")?;
    let (one, two) = (world.space(0)?, world.space(1)?);
    let memory = world.memory()?;
    memory.write_u64(one.pages[0], 0);
    run_ok(world, Order::fill(FIRST, 8, 7), one.pasid())?;
    check(memory.read_u64(one.pages[0]) == 7, "the DMA was lost")?;

    binding.unbind()?;
    let mut ends = Vec::new();
    for order in [Order::fill(FIRST, 8, 8), Order::fill(FIRST, 8, 9).no_ats()] {
        let done = run(world, order, one.pasid())?;
        check(
            matches!(done.status, status::NO_ACCESS | status::ATS_ERROR),
            format!("after unbind the DMA ended: {done}"),
        )?;
        ends.push(status::name(done.status));
    }
    check(
        memory.read_u64(one.pages[0]) == 7,
        "DMA went on after unbind",
    )?;
    run_ok(world, Order::fill(FIRST, 8, 10), two.pasid())?;
    let count = world.host()?.stats()?.bindings;
    check(count == 1, format!("{count} bindings are left"))?;
    Ok(format!(
        "DMA by PASID {} ends with \"{}\", by PASID {} it goes on",
        one.pasid(),
        ends.join("\", \""),
        two.pasid()
    ))
}
