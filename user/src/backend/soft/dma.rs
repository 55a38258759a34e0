// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a device does: DMA by its device TLB, page requests for what is missing.

use super::client::{Dma, DmaEnd, SoftDeviceCounters, SoftDeviceOptions, Work};
use super::memory::{Page, Stage2, PAGE};
use super::queue::Asker;
use super::state::State;
use super::{DEVICE_TLB_PAGES, MAX_DMAS};
use crate::context::Translation;
use crate::fault::FaultRecord;
use crate::sys::Errno;
use crate::types::{Bdf, Iova, IovaRange, Pasid};
use crate::walk::{reason, walk_from, Access};
use host_iommu_bindings::uapi as abi;
use std::collections::BTreeMap;

/// How often a device asks for pages of one DMA before it gives up.
const MAX_REQUESTS: u32 = 16;

#[derive(Debug)]
enum Phase {
    /// Between two calls only.
    Running,
    /// For the answer to a page request.
    Waiting,
    /// Until it is asked about.
    Ended(DmaEnd),
}

#[derive(Debug)]
struct Job {
    dma: Dma,
    /// What was read.
    data: Vec<u8>,
    /// Bytes moved.
    done: usize,
    requests: u32,
    phase: Phase,
}

impl Job {
    fn len(&self) -> usize {
        match &self.dma.work {
            Work::Read(len) => *len,
            Work::Write(bytes) => bytes.len(),
            Work::FetchAdd(_) => 8,
        }
    }

    fn access(&self) -> Access {
        Access {
            read: !matches!(self.dma.work, Work::Write(_)),
            write: !matches!(self.dma.work, Work::Read(_)),
            privileged: self.dma.privileged,
        }
    }

    fn pasid(&self) -> Pasid {
        self.dma.pasid.unwrap_or(Pasid::RID)
    }

    /// The address of the next byte. Cannot overflow: it was checked at the start.
    fn address(&self) -> u64 {
        self.dma.address.0.saturating_add(self.done as u64)
    }

    /// Moves what there is in a page from its `within`th byte on.
    fn transfer(&mut self, page: &Page, within: usize) -> Option<()> {
        let left = self.len().checked_sub(self.done)?;
        let count = left.min((PAGE as usize).checked_sub(within)?);
        let at = page.offset.checked_add(within)?;
        match &self.dma.work {
            Work::Read(_) => {
                let mut bytes = vec![0; count];
                page.memory.read(at, &mut bytes)?;
                self.data.extend(bytes);
            }
            Work::Write(bytes) => {
                let part = bytes.get(self.done..self.done.checked_add(count)?)?;
                page.memory.write(at, part)?;
            }
            Work::FetchAdd(addend) => {
                let old = page.memory.fetch_add(at, *addend)?;
                self.data.extend(old.to_le_bytes());
            }
        }
        self.done = self.done.checked_add(count)?;
        Some(())
    }
}

/// Whose translation: a PASID, by a supervisor or a user, and the page's address.
type Tag = (Pasid, bool, u64);

/// A device and what it has under way.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) options: SoftDeviceOptions,
    /// Tells it from others that were at its address.
    pub(super) stay: u64,
    pub(super) counters: SoftDeviceCounters,
    pub(super) group_size: usize,
    tlb: BTreeMap<Tag, Page>,
    jobs: BTreeMap<u64, Job>,
    next: u64,
}

impl Device {
    pub(super) fn new(options: &SoftDeviceOptions, stay: u64) -> Self {
        Self {
            options: *options,
            stay,
            counters: SoftDeviceCounters::default(),
            group_size: 1,
            tlb: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next: 0,
        }
    }

    /// Drops what the device TLB has of a PASID in a range, to whole pages.
    pub(super) fn invalidate(&mut self, pasid: Pasid, range: IovaRange) {
        let (first, last) = (range.start().0 & !(PAGE - 1), range.last().0);
        self.counters.invalidations = self.counters.invalidations.saturating_add(1);
        for privileged in [false, true] {
            let tags = (pasid, privileged, first)..=(pasid, privileged, last);
            let gone: Vec<Tag> = self.tlb.range(tags).map(|(&tag, _)| tag).collect();
            for tag in gone {
                self.tlb.remove(&tag);
            }
        }
    }

    pub(super) fn invalidate_all(&mut self) {
        self.counters.invalidations = self.counters.invalidations.saturating_add(1);
        self.tlb.clear();
    }

    pub(super) fn cached(&self) -> usize {
        self.tlb.len()
    }

    /// Takes a DMA in; gives its number. The oldest that ended makes room.
    pub(super) fn take(&mut self, dma: Dma) -> Result<u64, Errno> {
        if self.jobs.len() >= MAX_DMAS {
            let ended = |(_, job): &(&u64, &Job)| matches!(job.phase, Phase::Ended(_));
            let oldest = self.jobs.iter().find(ended).map(|(&number, _)| number);
            self.jobs.remove(&oldest.ok_or(Errno::EBUSY)?);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        let job = Job {
            dma,
            data: Vec::new(),
            done: 0,
            requests: 0,
            phase: Phase::Running,
        };
        self.jobs.insert(number, job);
        Ok(number)
    }

    /// How a DMA ended, if it did: told once.
    pub(super) fn ended(&mut self, number: u64) -> Option<DmaEnd> {
        match self.jobs.get(&number).map(|job| &job.phase) {
            Some(Phase::Ended(_)) => match self.jobs.remove(&number)?.phase {
                Phase::Ended(end) => Some(end),
                _ => None,
            },
            Some(_) => None,
            None => Some(DmaEnd::Aborted),
        }
    }

    /// Whether a DMA waits for a page.
    pub(super) fn waits(&self, number: u64) -> bool {
        let job = self.jobs.get(&number);
        job.is_some_and(|job| matches!(job.phase, Phase::Waiting))
    }

    /// Ends everything under way; gives the numbers.
    pub(super) fn abort(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (&number, job) in &mut self.jobs {
            if !matches!(job.phase, Phase::Ended(_)) {
                job.phase = Phase::Ended(DmaEnd::Aborted);
                numbers.push(number);
            }
        }
        numbers
    }
}

impl State {
    /// Starts a DMA; it runs as far as it gets.
    pub(super) fn submit(&mut self, device: Bdf, dma: Dma) -> Result<u64, Errno> {
        let number = self
            .devices
            .get_mut(&device)
            .ok_or(Errno::ENODEV)?
            .take(dma)?;
        self.run(device, number);
        Ok(number)
    }

    /// A page request is answered.
    pub(super) fn go_on(&mut self, asker: &Asker, success: bool) {
        let Some(device) = self.devices.get_mut(&asker.device) else {
            return;
        };
        let counter = if success {
            &mut device.counters.success
        } else {
            &mut device.counters.invalid
        };
        *counter = counter.saturating_add(1);
        // One that was aborted meanwhile ignores the answer.
        let Some(job) = device.jobs.get_mut(&asker.dma) else {
            return;
        };
        if !matches!(job.phase, Phase::Waiting) {
            return;
        }
        if success {
            self.run(asker.device, asker.dma);
        } else {
            job.phase = Phase::Ended(DmaEnd::Invalid(Iova(job.address())));
        }
    }

    /// The reset of a device: its DMA ends, and what it asked for is of no use.
    pub(super) fn abort(&mut self, device: Bdf) {
        let Some(found) = self.devices.get_mut(&device) else {
            return;
        };
        found.invalidate_all();
        let gone = found.abort();
        for queue in self.queues.values_mut() {
            // Their numbers are in order.
            queue.drop_askers(device, |asker| gone.binary_search(&asker.dma).is_ok());
        }
    }

    fn run(&mut self, device: Bdf, number: u64) {
        let found = self.devices.get_mut(&device);
        let Some(mut job) = found.and_then(|device| device.jobs.remove(&number)) else {
            return;
        };
        job.phase = self.advance(device, number, &mut job);
        if let Some(device) = self.devices.get_mut(&device) {
            device.jobs.insert(number, job);
        }
    }

    fn advance(&mut self, device: Bdf, number: u64, job: &mut Job) -> Phase {
        while job.done < job.len() {
            let address = job.address();
            let page = match self.translate(device, job, address) {
                Ok(page) => page,
                Err(reason) => return self.miss(device, number, job, reason),
            };
            let within = (address % PAGE) as usize;
            if job.transfer(&page, within).is_none() {
                return Phase::Ended(DmaEnd::NoAccess(Iova(address)));
            }
        }
        Phase::Ended(DmaEnd::Done(std::mem::take(&mut job.data)))
    }

    /// The page at an address, by the device TLB or by the tables, or the IOMMU's reason why there
    /// is none.
    fn translate(&mut self, device: Bdf, job: &Job, address: u64) -> Result<Page, u32> {
        let access = job.access();
        let pasid = job.pasid();
        let found = self.devices.get_mut(&device);
        let found = found.ok_or(reason::NO_PASID_ENTRY)?;
        let tag = (pasid, access.privileged, address & !(PAGE - 1));
        if job.dma.ats {
            if let Some(page) = found
                .tlb
                .get(&tag)
                .filter(|page| page.allow(access).is_ok())
            {
                found.counters.tlb_hits = found.counters.tlb_hits.saturating_add(1);
                return Ok(page.clone());
            }
        }
        found.counters.translations = found.counters.translations.saturating_add(1);
        let stage2 = |stage2: &Stage2| {
            let page = stage2.page(address).ok_or(reason::STAGE2)?;
            page.allow(access).map(|()| page)
        };
        let page = match self.bindings.get(&(device, pasid)) {
            Some(bound) => match bound.translation {
                Translation::Stage1(table) => {
                    let leaf = match self.iotlb.leaf((device, pasid), address, access) {
                        Some(leaf) => leaf,
                        None => {
                            let tables = &mut self.iotlb.tables((device, pasid));
                            walk_from(&self.stage2, &table, address, access, tables)?
                        }
                    };
                    let page = self.stage2.page(leaf.address).ok_or(reason::STAGE2)?;
                    page.allow(access)?;
                    let privileged = access.privileged;
                    self.iotlb.note((device, pasid), address, privileged, leaf);
                    Page {
                        write: page.write && leaf.write,
                        ..page
                    }
                }
                Translation::Stage2 { .. } => stage2(&self.stage2)?,
                // An entry that is not present (VT-d 4.1, 9.6).
                Translation::Blocked { .. } => return Err(reason::NO_PASID_ENTRY),
                // A first-stage table of the host's.
                Translation::AddressSpace { id, .. } => {
                    let page = self.spaces.page(id.get(), address, &self.stage2);
                    let page = page.ok_or(reason::NOT_PRESENT)?;
                    page.allow(access)?;
                    page
                }
            },
            // Without PASID, stage 2 alone.
            None if pasid == Pasid::RID => stage2(&self.stage2)?,
            None => return Err(reason::NO_PASID_ENTRY),
        };
        if job.dma.ats {
            if found.tlb.len() >= DEVICE_TLB_PAGES {
                found.tlb.pop_first();
            }
            found.tlb.insert(tag, page.clone());
        }
        Ok(page)
    }

    /// Tells of a request that was stopped: in the queue of its binding, or else in that for DMA
    /// faults. A translation request that is refused is none: the device has its answer.
    fn tell(&mut self, device: Bdf, job: &Job, reason: u32) {
        if job.dma.ats {
            return;
        }
        self.counters.dma_faults = self.counters.dma_faults.saturating_add(1);
        let bound = self.bindings.get(&(device, job.pasid()));
        let queue = bound.and_then(|bound| bound.queue).or(self.dma_queue);
        let (guest_pasid, user_cookie) = match bound {
            Some(bound) => guest(bound, job.pasid()),
            None => (0, 0),
        };
        let record = FaultRecord {
            kind: abi::VFIO_IOASID_FAULT_DMA,
            group: 0,
            addr: job.address() & !(PAGE - 1),
            reason,
            guest_pasid,
            user_cookie,
            ..request(device, job)
        };
        if let Some(queue) = queue.and_then(|queue| self.queues.get_mut(&queue)) {
            queue.note(record);
        }
    }

    /// Asks for the page that a DMA needs next, and for further ones that it will need.
    fn miss(&mut self, device: Bdf, number: u64, job: &mut Job, reason: u32) -> Phase {
        let address = job.address();
        let asks = job.dma.page_requests && job.dma.ats;
        let found = self.devices.get(&device);
        let Some(found) = found.filter(|found| asks && found.options.page_requests) else {
            self.tell(device, job, reason);
            return Phase::Ended(DmaEnd::NoAccess(Iova(address)));
        };
        let Some(bound) = self.bindings.get(&(device, job.pasid())).copied() else {
            return Phase::Ended(DmaEnd::NoAccess(Iova(address)));
        };
        if job.requests >= MAX_REQUESTS {
            return Phase::Ended(DmaEnd::Retries(Iova(address)));
        }
        job.requests += 1;

        let size = found.group_size;
        let last = job.dma.address.0.saturating_add(job.len() as u64 - 1);
        let mut pages = vec![address & !(PAGE - 1)];
        for page in (pages[0]..=last).step_by(PAGE as usize).skip(1) {
            if pages.len() >= size {
                break;
            }
            if self.translate(device, job, page).is_err() {
                pages.push(page);
            }
        }
        let records = records(device, number, job, &bound, &pages);
        let weight = pages.len() as u64;
        let asker = Asker {
            device,
            pasid: job.pasid(),
            dma: number,
        };
        if let Some(device) = self.devices.get_mut(&device) {
            device.counters.page_requests = device.counters.page_requests.saturating_add(weight);
            device.counters.groups = device.counters.groups.saturating_add(1);
        }
        let queue = bound.queue.and_then(|queue| self.queues.get_mut(&queue));
        let counters = &mut self.counters;
        match queue.map(|queue| queue.push(asker, records)) {
            Some(Ok(())) => {
                counters.page_requests = counters.page_requests.saturating_add(1);
                return Phase::Waiting;
            }
            Some(Err(_)) => counters.overflows = counters.overflows.saturating_add(weight),
            None => {}
        }
        counters.host_invalid = counters.host_invalid.saturating_add(1);
        if let Some(device) = self.devices.get_mut(&device) {
            device.counters.invalid = device.counters.invalid.saturating_add(1);
        }
        Phase::Ended(DmaEnd::Invalid(Iova(address)))
    }
}

/// What a record says of a request, whatever it tells of it.
fn request(device: Bdf, job: &Job) -> FaultRecord {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let access = job.access();
    let pasid = job.pasid();
    FaultRecord {
        flags: flag(pasid != Pasid::RID, abi::VFIO_IOASID_FAULT_FLAG_PASID),
        device: device.into(),
        pasid: pasid.get(),
        perm: flag(access.read, abi::VFIO_IOASID_FAULT_PERM_READ)
            | flag(access.write, abi::VFIO_IOASID_FAULT_PERM_WRITE)
            | flag(access.privileged, abi::VFIO_IOASID_FAULT_PERM_PRIV),
        ..Default::default()
    }
}

/// The guest's PASID of a binding, and its cookie.
fn guest(bound: &super::state::Bound, pasid: Pasid) -> (u32, u64) {
    let guest = bound.translation.guest_pasid();
    (guest.unwrap_or(pasid.get()), bound.translation.cookie())
}

fn records(
    device: Bdf,
    number: u64,
    job: &Job,
    bound: &super::state::Bound,
    pages: &[u64],
) -> Vec<FaultRecord> {
    let (guest_pasid, user_cookie) = guest(bound, job.pasid());
    let record = FaultRecord {
        kind: abi::VFIO_IOASID_FAULT_PAGE_REQUEST,
        // CAST: a group index has 9 bits.
        group: (number & 0x1ff) as u32,
        guest_pasid,
        user_cookie,
        ..request(device, job)
    };
    let mut records: Vec<FaultRecord> = pages
        .iter()
        .map(|&addr| FaultRecord { addr, ..record })
        .collect();
    if let Some(last) = records.last_mut() {
        last.flags |= abi::VFIO_IOASID_FAULT_FLAG_LAST;
    }
    records
}
