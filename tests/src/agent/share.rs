// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device on the memory of this process.

use crate::log;
use host_iommu_sys::memory::Mmio;
use host_iommu_tests::ktap::{fail, skip, Outcome, Stop};
use host_iommu_tests::testdev::{status, Counter, Done, Order, Slot, Testdev};
use host_iommu_tests_sys::private::{Advice, PrivateMemory};
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const NODE: &str = "/dev/pasid-dma-sva";
const BAR_SIZE: usize = 0x1_0000;
pub const PAGE: usize = 4096;
/// Pages of an order of [`work`].
const WORK: usize = 4;
/// A fault goes through three kernels, emulated.
const PATIENCE: Duration = Duration::from_secs(100);

/// The device, bound to this process.
pub struct Shared {
    pub device: Testdev,
    pub pasid: u32,
    _node: File,
}

impl Shared {
    /// Binds it.
    pub fn open() -> Outcome<Self> {
        let mut node = match OpenOptions::new().read(true).write(true).open(NODE) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
                return skip("this kernel has shared virtual addressing switched off");
            }
            node => node?,
        };
        let mut pasid = [0; 4];
        node.read_exact(&mut pasid)?;
        Ok(Self {
            device: Testdev::new(Mmio::new(node.as_fd(), 0, BAR_SIZE)?)?,
            pasid: u32::from_ne_bytes(pasid),
            _node: node,
        })
    }

    /// Gives the device an order.
    pub fn begin(&self, order: Order) -> Outcome<Slot> {
        Ok(self.device.submit(&order.at(self.pasid))?)
    }

    /// Waits until it is done, however long it takes.
    pub fn end(&self, slot: Slot) -> Outcome<Done> {
        Ok(self.device.wait(slot, PATIENCE)?)
    }

    /// Runs an order.
    pub fn run(&self, order: Order) -> Outcome<Done> {
        let slot = self.begin(order)?;
        self.end(slot)
    }

    /// Runs one that must end so.
    pub fn expect(&self, order: Order, wanted: u32) -> Outcome<Done> {
        let done = self.run(order)?;
        if done.status != wanted {
            return fail(format!("{done} where {} was wanted", status::name(wanted)));
        }
        Ok(done)
    }
}

/// Memory that was allocated and never touched: the allocator takes so much from the kernel itself.
pub fn fresh(pages: usize) -> Vec<u8> {
    black_box(vec![0; (pages + 1) * PAGE])
}

/// The first whole page of it.
pub fn first_page(memory: &[u8]) -> u64 {
    (memory.as_ptr().expose_provenance() as u64).next_multiple_of(PAGE as u64)
}

/// Whether `bytes` from an address on are a pattern, as the CPU sees them.
pub fn is_filled(memory: &[u8], address: u64, bytes: usize, pattern: u64) -> bool {
    let memory = black_box(memory);
    let start = (address - memory.as_ptr().expose_provenance() as u64) as usize;
    let part = memory.get(start..start + bytes).unwrap_or_default();
    !part.is_empty() && part.chunks(8).all(|word| word == pattern.to_le_bytes())
}

/// The device fills and reads memory that nobody touched, and every page is asked for.
pub fn untouched_memory(pages: u32) -> Outcome<String> {
    let shared = Shared::open()?;
    let count = |counter| shared.device.counter(counter);
    let watched = log::watch_page_requests(true);
    let (requests, groups) = (count(Counter::PageReq), count(Counter::Groups));
    let memory = fresh(pages as usize);
    let (start, bytes) = (first_page(&memory), pages as usize * PAGE);
    let pattern = 0x1122_3344_5566_7788;
    shared.expect(Order::fill(start, bytes as u32, pattern), status::OK)?;
    let requests = count(Counter::PageReq) - requests;
    let groups = count(Counter::Groups) - groups;
    let kernel = if watched {
        log::page_requests()? as i64
    } else {
        -1
    };
    log::watch_page_requests(false);
    if !is_filled(&memory, start, bytes, pattern) {
        return fail("the process does not see what the device wrote");
    }
    let mut own: Vec<u8> = pattern.to_le_bytes().repeat(bytes / 8);
    let sum = shared.expect(Order::checksum(start, bytes as u32), status::OK)?;
    if sum.result != host_iommu_tests::memory::fnv1a(&own) {
        return fail("the device does not see what it wrote");
    }
    own.clear();
    Ok(format!(
        "requests={requests} groups={groups} kernel={kernel}"
    ))
}

/// Has the device fill memory again and again, for so many seconds: in pages that it has to ask for, as
/// each is given back to the kernel meanwhile. Gives how many orders it did.
pub fn work(seconds: u64) -> Outcome<String> {
    let shared = Shared::open()?;
    let memory = PrivateMemory::new(WORK * PAGE)?;
    let order = Order::fill(memory.address(), (WORK * PAGE) as u32, 7);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut done = 0;
    while Instant::now() < end {
        shared.expect(order, status::OK)?;
        memory.advise(0, WORK * PAGE, Advice::DontNeed)?;
        done += 1;
    }
    Ok(done.to_string())
}

/// Orders under way at a time in [`go_on`].
const UNDER_WAY: usize = 8;

/// Has the device work for so many seconds, for this process in pages that it has to ask for, and
/// without a PASID, which ends by an interrupt, as `rid` does. Tells what it saw of page requests and
/// their answers.
pub fn go_on(seconds: u64, rid: fn() -> Outcome<String>) -> Outcome<String> {
    let shared = match Shared::open() {
        Err(Stop::Skip(_)) => None,
        shared => Some(shared?),
    };
    let counters = |shared: &Shared| {
        let count = |counter| shared.device.counter(counter);
        let answers = count(Counter::RspSuccess) + count(Counter::RspInvalid);
        let all = answers + count(Counter::RspFailure);
        [count(Counter::PageReq), all, count(Counter::RspStray)]
    };
    let before = shared.as_ref().map_or([0; 3], counters);
    let memory = PrivateMemory::new(UNDER_WAY * WORK * PAGE)?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut orders, mut copies) = (0, 0);
    while Instant::now() < end {
        let bytes = WORK * PAGE;
        let mut slots = Vec::new();
        for place in 0..UNDER_WAY {
            let Some(shared) = &shared else {
                break;
            };
            let start = memory.address() + (place * bytes) as u64;
            let order = Order::fill(start, bytes as u32, orders + place as u64);
            slots.push(shared.begin(order)?);
        }
        rid()?;
        copies += 1;
        for (place, slot) in slots.into_iter().enumerate() {
            let Some(shared) = &shared else {
                break;
            };
            let done = shared.end(slot)?;
            let at = (place * bytes) as u64;
            let written = (at..at + bytes as u64).step_by(8);
            let equal = written.map(|at| memory.load(at)).all(|word| word == orders);
            if done.status != status::OK || !equal {
                return fail(format!("{done}, written as ordered: {equal}"));
            }
            orders += 1;
        }
        memory.advise(0, UNDER_WAY * bytes, Advice::DontNeed)?;
    }
    let after = shared.as_ref().map_or([0; 3], counters);
    let [requests, answers, stray] = std::array::from_fn(|index| after[index] - before[index]);
    Ok(format!(
        "{orders} orders and {copies} copies told by interrupts; page requests of the device \
         requests={requests} answers={answers} stray={stray}"
    ))
}
