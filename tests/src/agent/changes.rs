// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process changes its memory while the device works on it: what the device does after a change, it
//! does to the memory as it is then, and each change reaches the device's TLB.

use crate::process::with_a_forked_child;
use crate::share::{Shared, PAGE};
use host_iommu_tests::ktap::{fail, Outcome, Stop};
use host_iommu_tests::memory::fnv1a;
use host_iommu_tests::testdev::{status, Counter, Order};
use host_iommu_tests_sys::private::{Advice, PrivateMemory};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

/// Pages that a change is about, and their bytes.
const PAGES: usize = 16;
const BYTES: u32 = (PAGES * PAGE) as u32;
/// Orders that the device has to do when the memory changes.
const UNDER_WAY: usize = 8;
const HUGE: usize = 2 << 20;
const PATTERN: u64 = 0x0102_0304_0506_0708;
/// The disk that is the guest's swap space.
const SWAP: &str = "/dev/vdb";

type Change = fn(&Shared) -> Outcome;

const CHANGES: [(&str, Change); 7] = [
    ("munmap", unmapped),
    ("mprotect", protected),
    ("fork and copy-on-write", copied_on_write),
    ("mremap", moved),
    ("MADV_DONTNEED", dropped),
    ("swap", swapped),
    ("a huge page split", split),
];

/// Makes each change.
pub fn changing_memory() -> Outcome<String> {
    let shared = Shared::open()?;
    let before = shared.device.counter(Counter::DtlbInval);
    for (name, change) in CHANGES {
        if let Err(Stop::Fail(why) | Stop::Skip(why)) = change(&shared) {
            return fail(format!("{name}: {why}"));
        }
    }
    let invalidations = shared.device.counter(Counter::DtlbInval) - before;
    let names = CHANGES.map(|(name, _)| name).join(", ");
    Ok(format!(
        "{names}; {invalidations} invalidations reached the device"
    ))
}

/// Makes a change, which must reach the device's TLB before it is done.
fn reaching<T>(shared: &Shared, change: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let before = shared.device.counter(Counter::DtlbInval);
    let changed = change()?;
    match shared.device.counter(Counter::DtlbInval) - before {
        0 => fail("no invalidation reached the device"),
        _ => Ok(changed),
    }
}

/// Memory that the device has filled, and so has in its TLB.
fn filled(shared: &Shared) -> Outcome<PrivateMemory> {
    let memory = PrivateMemory::new(PAGES * PAGE)?;
    shared.expect(Order::fill(memory.address(), BYTES, PATTERN), status::OK)?;
    Ok(memory)
}

/// Changes memory while the device has orders for it, and waits until it has done them: whether they
/// end well depends on which was first.
fn under_dma<T>(shared: &Shared, order: Order, change: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let mut slots = Vec::new();
    for _ in 0..UNDER_WAY {
        slots.push(shared.begin(order)?);
    }
    let changed = reaching(shared, change)?;
    for slot in slots {
        shared.end(slot)?;
    }
    Ok(changed)
}

/// The device reads these words.
fn expect_read(shared: &Shared, address: u64, words: &[u64]) -> Outcome {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let order = Order::checksum(address, bytes.len() as u32);
    match shared.expect(order, status::OK)?.result == fnv1a(&bytes) {
        true => Ok(()),
        false => fail("the device reads something else than the process"),
    }
}

fn expect_refused(shared: &Shared, order: Order) -> Outcome {
    match shared.run(order)?.status {
        status::OK => fail("the device did what the process's memory does not allow any more"),
        _ => Ok(()),
    }
}

fn fill(memory: &PrivateMemory, pattern: u64) -> Order {
    Order::fill(memory.address(), BYTES, pattern)
}

fn unmapped(shared: &Shared) -> Outcome {
    let memory = filled(shared)?;
    let order = fill(&memory, 2);
    under_dma(shared, order, || {
        drop(memory);
        Ok(())
    })?;
    expect_refused(shared, order)
}

fn protected(shared: &Shared) -> Outcome {
    let memory = filled(shared)?;
    under_dma(
        shared,
        fill(&memory, PATTERN),
        || Ok(memory.protect(false)?),
    )?;
    expect_refused(shared, fill(&memory, 2))?;
    expect_read(shared, memory.address(), &[PATTERN; PAGES * PAGE / 8])?;
    memory.protect(true)?;
    shared.expect(fill(&memory, 3), status::OK)?;
    expect_words(&memory, 3)
}

/// All words are this one, as the process sees them.
fn expect_words(memory: &PrivateMemory, word: u64) -> Outcome {
    let mut places = (0..u64::from(BYTES)).step_by(8);
    match places.all(|at| memory.load(at) == word) {
        true => Ok(()),
        false => fail("the process does not see what the device wrote"),
    }
}

/// A child has the old pages, and the device the new ones.
fn copied_on_write(shared: &Shared) -> Outcome {
    let memory = filled(shared)?;
    let count = || shared.device.counter(Counter::DtlbInval);
    let before = count();
    // Fork makes the pages read-only.
    let forked = || count() != before;
    with_a_forked_child(forked, || {
        shared.expect(fill(&memory, 4), status::OK)?;
        expect_words(&memory, 4)
    })
}

fn moved(shared: &Shared) -> Outcome {
    let memory = filled(shared)?;
    let old = memory.address();
    let order = Order::checksum(old, BYTES);
    let memory = under_dma(shared, order, || Ok(memory.moved()?))?;
    expect_refused(shared, Order::fill(old, BYTES, 2))?;
    expect_read(shared, memory.address(), &[PATTERN; PAGES * PAGE / 8])?;
    shared.expect(fill(&memory, 5), status::OK)?;
    expect_words(&memory, 5)
}

fn dropped(shared: &Shared) -> Outcome {
    let memory = filled(shared)?;
    let order = Order::checksum(memory.address(), BYTES);
    under_dma(shared, order, || {
        Ok(memory.advise(0, PAGES * PAGE, Advice::DontNeed)?)
    })?;
    expect_read(shared, memory.address(), &[0; PAGES * PAGE / 8])
}

/// How many pages of the memory are swapped out (Documentation/admin-guide/mm/pagemap.rst).
fn swapped_pages(memory: &PrivateMemory) -> Outcome<usize> {
    const SWAPPED: u64 = 1 << 62;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut entries = [0; PAGES * 8];
    pagemap.read_exact_at(&mut entries, memory.address() / PAGE as u64 * 8)?;
    let mut swapped = 0;
    for entry in entries.chunks_exact(8) {
        if u64::from_le_bytes(entry.try_into()?) & SWAPPED != 0 {
            swapped += 1;
        }
    }
    Ok(swapped)
}

fn swapped(shared: &Shared) -> Outcome {
    for (program, arguments) in [("mkswap", SWAP), ("swapon", SWAP)] {
        let output = Command::new(program).arg(arguments).output()?;
        if !output.status.success() {
            return fail(format!(
                "{program}: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    let memory = filled(shared)?;
    // Pages that a page request brought wait in a batch of the CPU that brought them, from which
    // MADV_PAGEOUT takes none: it drains its own CPU's alone. This drains all (drop_caches.c).
    std::fs::write("/proc/sys/vm/drop_caches", "1")?;
    reaching(shared, || {
        Ok(memory.advise(0, PAGES * PAGE, Advice::PageOut)?)
    })?;
    let out = swapped_pages(&memory)?;
    if out == 0 {
        return fail("no page was swapped out");
    }
    // The device's requests bring them back, as they were.
    expect_read(shared, memory.address(), &[PATTERN; PAGES * PAGE / 8])?;
    if swapped_pages(&memory)? >= out {
        return fail("the device brought no page back");
    }
    Command::new("swapoff").arg(SWAP).status()?;
    Ok(())
}

/// KiB of huge pages that the process has.
fn huge_kib() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.unwrap_or("0").parse()?)
}

fn split(shared: &Shared) -> Outcome {
    // Linux has them off where there is less than 512 MiB.
    std::fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "madvise")?;
    let memory = PrivateMemory::new(2 * HUGE)?;
    memory.advise(0, 2 * HUGE, Advice::HugePages)?;
    let start = memory.address().next_multiple_of(HUGE as u64);
    let before = huge_kib()?;
    memory.store(start - memory.address(), 1);
    if huge_kib()? <= before {
        return fail("the kernel gave no huge page");
    }
    // Sixteen pages in its middle, one of which goes.
    let middle = start + HUGE as u64 / 2;
    let order = Order::fill(middle, BYTES, PATTERN);
    shared.expect(order, status::OK)?;
    let gone = middle + 4 * PAGE as u64;
    under_dma(shared, Order::checksum(middle, BYTES), || {
        Ok(memory.advise(gone - memory.address(), PAGE, Advice::DontNeed)?)
    })?;
    if huge_kib()? > before {
        return fail("the huge page is still one");
    }
    let mut words = [PATTERN; PAGES * PAGE / 8];
    words[4 * PAGE / 8..5 * PAGE / 8].fill(0);
    expect_read(shared, middle, &words)
}
