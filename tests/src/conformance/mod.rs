// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every backend of `host-iommu` does alike: one suite, run against each.
//!
//! A backend is a [`Machine`], with devices whose DMA is programmed through [`Client`]. What may
//! differ stands in [`DIFFERENCES`], and is checked both ways: a test that is listed there must fail
//! as it says.

pub mod blocked;
pub mod faults;
pub mod iommufd;
pub mod kmod;
pub mod mappings;
pub mod soft;
pub mod spaces;
pub mod tables;
pub mod viommu;

use crate::ktap::{fail, Outcome, Stop};
use crate::memory::{GuestMemory, PAGE};
use crate::stage1::{entry, Table};
use host_iommu::{
    Bdf, Error, FaultEvent, FaultGroup, FaultQueue, FaultQueueOptions, FaultRead, Gpa, GuestTable,
    HostIommu, Iova, IovaRange, MapAccess, Pasid, PasidAllocation, PasidRequest, Stage1Binding,
};
use host_iommu_sys::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::fmt::Debug;
use std::os::fd::AsFd;
use std::time::Duration;

/// What needs no answer ends within this.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What a device is to do.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// By this PASID, or without one.
    pub pasid: Option<Pasid>,
    /// Where.
    pub address: u64,
    /// Bytes, a multiple of 8.
    pub len: u32,
    /// To write: this, repeated. Otherwise it reads; the first eight bytes are the result.
    pub store: Option<u64>,
    /// With translations of its own, kept in its device TLB.
    pub ats: bool,
    /// It may ask for pages.
    pub ask: bool,
}

impl Job {
    /// Writes eight bytes.
    pub fn store(address: u64, value: u64) -> Self {
        Self {
            pasid: None,
            address,
            len: 8,
            store: Some(value),
            ats: true,
            ask: false,
        }
    }

    /// Reads eight bytes.
    pub fn load(address: u64) -> Self {
        Self {
            store: None,
            ..Self::store(address, 0)
        }
    }

    /// By a PASID.
    #[must_use]
    pub fn at(self, pasid: Pasid) -> Self {
        Self {
            pasid: Some(pasid),
            ..self
        }
    }

    /// Asking for pages that are missing.
    #[must_use]
    pub fn asking(self) -> Self {
        Self { ask: true, ..self }
    }

    /// Of so many bytes.
    #[must_use]
    pub fn of(self, len: u64) -> Self {
        Self {
            len: len as u32,
            ..self
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Well, with what was read.
    Done(u64),
    /// The address was not to be had.
    NoAccess,
    /// The page request was answered INVALID.
    Invalid,
    /// The page was still missing after many answers SUCCESS.
    Retries,
    /// The device was reset.
    Aborted,
    /// Otherwise.
    Other(u32),
}

/// A device whose DMA is programmed.
pub trait Client {
    /// Starts a job.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    fn start(&self, job: &Job) -> Outcome<u64>;

    /// How it ended, if it does within the limit.
    ///
    /// # Errors
    ///
    /// If that cannot be told.
    fn end(&self, job: u64, limit: Duration) -> Outcome<Option<End>>;

    /// Sets how many pages it asks for at a time.
    fn set_group_size(&self, pages: u32);
}

/// A context and the devices in it.
pub struct Opened {
    /// The context.
    pub host: HostIommu,
    /// In the order asked for.
    pub devices: Vec<(Bdf, Box<dyn Client>)>,
}

/// A backend with devices.
pub trait Machine {
    /// The backend's name, as in [`DIFFERENCES`].
    fn backend(&self) -> &'static str;

    /// A new context with these of its devices.
    ///
    /// # Errors
    ///
    /// A skip if there are too few.
    fn open(&self, devices: &[usize]) -> Outcome<Opened>;
}

/// A test that fails on a backend for a good reason.
pub struct Difference {
    /// The test.
    pub test: &'static str,
    /// The backend.
    pub backend: &'static str,
    /// Part of how it fails.
    pub seen: &'static str,
    /// Why that is right.
    pub why: &'static str,
}

/// Everything that may differ.
pub const DIFFERENCES: [Difference; 6] = [
    Difference {
        test: "map_read_only_is_for_reading",
        backend: "kmod",
        seen: "EOPNOTSUPP",
        why: "VT-d takes no read-only mappings in a nest parent",
    },
    Difference {
        test: "map_read_only_is_for_reading",
        backend: "iommufd",
        seen: "EOPNOTSUPP",
        why: "VT-d takes no read-only mappings in a nest parent",
    },
    Difference {
        test: "queue_at_its_end_hangs_up",
        backend: "iommufd",
        seen: "no POLLHUP",
        why: "the fd is an eventfd, which is readable at the end and cannot hang up",
    },
    Difference {
        test: "queue_at_its_end_hangs_up",
        backend: "soft",
        seen: "no POLLHUP",
        why: "the fd is an eventfd, which is readable at the end and cannot hang up",
    },
    Difference {
        test: "listener_maps_memory_without_a_file",
        backend: "soft",
        seen: "EOPNOTSUPP",
        why: "it maps memory once more, which takes a file",
    },
    Difference {
        test: "attach_of_what_is_no_group_is_refused",
        backend: "soft",
        seen: "EOPNOTSUPP",
        why: "its devices have no fds",
    },
];

/// Runs a test, by the table of differences.
///
/// # Errors
///
/// If the test fails, or does not although it should.
pub fn run(machine: &dyn Machine, name: &str, test: fn(&dyn Machine) -> Outcome) -> Outcome {
    let outcome = test(machine);
    let listed = |row: &&Difference| row.test == name && row.backend == machine.backend();
    let Some(difference) = DIFFERENCES.iter().find(listed) else {
        return outcome;
    };
    match outcome {
        Ok(()) => fail(format!("no difference any more: {}", difference.why)),
        Err(Stop::Fail(reason)) if reason.contains(difference.seen) => Ok(()),
        other => other,
    }
}

/// Hands the name of each test to a macro.
#[macro_export]
macro_rules! each_conformance_test {
    ($with:ident) => {
        $with! {
            mappings: map_gives_devices_memory,
            mappings: map_over_a_mapping_is_refused,
            mappings: map_where_nothing_can_be_is_refused,
            mappings: map_of_part_of_a_memory_starts_there,
            mappings: map_outlives_its_memory,
            mappings: map_read_only_is_for_reading,
            mappings: attach_of_what_is_no_group_is_refused,
            mappings: listener_maps_memory_without_a_file,
            mappings: listener_follows_guest_memory,
            mappings: unmap_stops_what_the_device_has_cached,
            mappings: unmap_of_part_of_a_mapping_is_refused,
            mappings: unmap_of_nothing_is_no_bytes,
            mappings: pasids_are_had_once,
            mappings: pasids_of_nonsense_are_refused,
            mappings: pasids_are_freed_with_the_last_binding,
            tables: capabilities_and_devices_agree,
            tables: bind_translates_by_pasid,
            tables: bind_of_nonsense_is_refused,
            tables: bind_twice_is_busy,
            tables: bind_of_five_levels_reaches_high_addresses,
            tables: bind_at_the_rid_and_back,
            tables: rebind_takes_the_place,
            tables: unbind_stops_dma,
            tables: unbind_of_a_device_leaves_later_bindings_alone,
            tables: table_gets_accessed_and_dirty,
            tables: table_read_only_is_for_reading,
            tables: table_cannot_leave_stage_2,
            tables: table_with_a_large_page,
            tables: flush_shows_a_new_page_and_not_before,
            tables: flush_is_needed_past_the_device_tlb_too,
            tables: flush_of_nothing_bound_is_refused,
            blocked: block_stops_the_requests_without_pasid,
            blocked: block_stops_the_requests_of_a_pasid_and_keeps_it,
            blocked: block_counts_to_no_quota,
            blocked: block_is_exported_and_imported,
            blocked: block_cancels_page_requests,
            blocked: rid_goes_from_each_state_to_each,
            spaces: stage_2_at_a_pasid_is_guest_memory,
            spaces: space_reaches_what_is_in_it,
            spaces: space_unmapped_stops_dma,
            spaces: space_names_the_entry_that_is_wrong,
            spaces: space_goes_with_the_memory,
            spaces: space_lives_as_long_as_it_is_bound,
            spaces: space_is_not_exported,
            spaces: dirty_pages_are_those_written_at_least,
            faults: group_says_who_asks_and_goes_on,
            faults: group_answered_invalid_ends_the_dma,
            faults: group_answered_success_for_nothing_ends_after_retries,
            faults: group_dropped_is_answered_invalid,
            faults: group_has_every_page_that_is_missing,
            faults: group_without_queue_is_answered_invalid,
            faults: group_of_an_unbound_table_is_cancelled,
            faults: group_of_a_replaced_table_is_cancelled,
            faults: group_of_a_replaced_table_at_the_rid_is_cancelled,
            faults: group_cookie_is_never_used_again,
            faults: group_of_a_closed_queue_is_answered_invalid,
            faults: group_after_its_deadline_is_answered_invalid,
            faults: dma_fault_goes_to_the_binding_or_to_the_queue_for_dma,
            faults: dma_faults_do_not_keep_page_requests_out,
            faults: queue_over_its_depth_loses_and_counts,
            faults: queue_takes_back_only_cookies_it_gave,
            faults: queue_of_another_context_is_refused,
            faults: queue_that_waits_wakes_up,
            faults: queue_too_deep_is_refused,
            faults: queue_at_its_end_says_so,
            faults: queue_at_its_end_hangs_up,
            viommu: guest_pasid_is_translated_both_ways,
            viommu: guest_pasid_twice_is_refused,
            viommu: one_context_for_two_devices,
            viommu: one_context_for_each_device,
            viommu: page_request_goes_through_the_viommu_and_back,
            viommu: plugged_device_loses_its_bindings_with_it,
            viommu: snapshot_freezes_and_drains,
            viommu: export_is_imported_by_another_context,
            viommu: import_is_all_or_nothing,
        }
    };
}

/// Guest memory of a test.
pub const MEMORY: u64 = 8 << 20;
/// A guest virtual address.
pub const GVA: u64 = 0x7f00_1234_5000;
/// The page after it, where nothing is.
pub const HOLE: u64 = GVA + PAGE;
/// What fault records bring back.
pub const COOKIE: u64 = 0xc001_c001;

/// A context with one device and memory.
pub struct Vm {
    /// The device's DMA.
    pub client: Box<dyn Client>,
    /// Its address.
    pub device: Bdf,
    /// Mapped at 0.
    pub memory: GuestMemory,
    /// The context.
    pub host: HostIommu,
}

/// A table that maps [`GVA`] to a page.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Of the table.
    pub root: u64,
    /// The page.
    pub page: u64,
}

impl Space {
    /// What is bound.
    pub fn table(self) -> GuestTable {
        GuestTable::four_level(Gpa(self.root)).with_cookie(COOKIE)
    }
}

impl Vm {
    /// On the first device of a machine.
    ///
    /// # Errors
    ///
    /// Those of opening and mapping.
    pub fn new(machine: &dyn Machine) -> Outcome<Self> {
        Self::on(machine.open(&[0])?)
    }

    /// On the first device of a context.
    ///
    /// # Errors
    ///
    /// Those of mapping.
    pub fn on(opened: Opened) -> Outcome<Self> {
        let memory = GuestMemory::new(0, MEMORY)?;
        memory.alloc_page();
        let host = opened.host;
        host.map(Iova(0), memory.shared(), MapAccess::ReadWrite)?;
        match opened.devices.into_iter().next() {
            Some((device, client)) => Ok(Self {
                client,
                device,
                memory,
                host,
            }),
            None => fail("the context has no device"),
        }
    }

    /// A new table.
    pub fn space(&self) -> Space {
        let table = Table::new(&self.memory);
        let page = self.memory.alloc_page();
        table.map(GVA, page, entry::RW);
        Space {
            root: table.root(),
            page,
        }
    }

    /// The table of a space.
    pub fn table(&self, space: Space) -> Table<'_> {
        Table::at(&self.memory, space.root)
    }

    /// A PASID.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn pasid(&self) -> Outcome<PasidAllocation> {
        Ok(self.host.alloc_pasids(&PasidRequest::any())?)
    }

    /// Binds a new table at a PASID of its own.
    ///
    /// # Errors
    ///
    /// Those of the calls.
    pub fn bind(&self, faults: Option<&FaultQueue>) -> Outcome<(Stage1Binding, Space)> {
        let pasids = self.pasid()?;
        let space = self.space();
        let table = space.table();
        let binding = self
            .host
            .bind(self.device, &pasids, pasids.first(), &table, faults)?;
        Ok((binding, space))
    }

    /// A queue that does not wait.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub fn queue(&self) -> Outcome<FaultQueue> {
        let options = FaultQueueOptions::nonblocking();
        Ok(self.host.fault_queue(&options)?)
    }

    /// Runs a job to its end.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn run(&self, job: Job) -> Outcome<End> {
        run_on(&*self.client, job)
    }

    /// Starts a job.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start(&self, job: Job) -> Outcome<u64> {
        self.client.start(&job)
    }

    /// The end of a job that was started.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn end(&self, job: u64) -> Outcome<End> {
        end_on(&*self.client, job)
    }
}

/// Runs a job to its end.
///
/// # Errors
///
/// If it does not end.
pub fn run_on(client: &dyn Client, job: Job) -> Outcome<End> {
    let job = client.start(&job)?;
    end_on(client, job)
}

fn end_on(client: &dyn Client, job: u64) -> Outcome<End> {
    match client.end(job, DEADLINE)? {
        Some(end) => Ok(end),
        None => fail("the DMA did not end"),
    }
}

/// Pages from an address on.
///
/// # Errors
///
/// If they wrap.
pub fn pages(start: u64, count: u64) -> Outcome<IovaRange> {
    match IovaRange::sized(Iova(start), count * PAGE) {
        Some(range) => Ok(range),
        None => fail("an empty range"),
    }
}

/// Expects a value.
///
/// # Errors
///
/// If it is another one.
pub fn expect<T: PartialEq + Debug>(seen: T, wanted: T, what: &str) -> Outcome {
    if seen == wanted {
        return Ok(());
    }
    fail(format!("{what}: {seen:?}, instead of {wanted:?}"))
}

/// Expects an error number.
///
/// # Errors
///
/// If it is another one, or there is none.
pub fn expect_errno<T>(result: Result<T, Error>, wanted: impl Into<Errno>) -> Outcome {
    let wanted = wanted.into();
    match result {
        Ok(_) => fail(format!("it worked, instead of {wanted:?}")),
        Err(error) => {
            let errno = error.errno().map(Errno::from_raw);
            expect(errno, Some(wanted), &error.to_string())
        }
    }
}

/// Waits until a queue has something to read.
///
/// # Errors
///
/// If that takes too long.
pub fn wait_readable(faults: &FaultQueue) -> Outcome {
    let mut fds = [PollFd::new(faults.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(DEADLINE)?)? {
        0 => fail("nothing to read before the deadline"),
        _ => Ok(()),
    }
}

/// The next events.
///
/// # Errors
///
/// If there are none.
pub fn next_events(faults: &FaultQueue) -> Outcome<Vec<FaultEvent>> {
    wait_readable(faults)?;
    match faults.read()? {
        FaultRead::Events(events) => Ok(events),
        other => fail(format!("events were due: {other:?}")),
    }
}

/// The next event, which must be one alone.
///
/// # Errors
///
/// If it is not.
pub fn next_event(faults: &FaultQueue) -> Outcome<FaultEvent> {
    let mut events = next_events(faults)?;
    match (events.pop(), events.is_empty()) {
        (Some(event), true) => Ok(event),
        other => fail(format!("one event was due: {other:?}")),
    }
}

/// The next page request group, which must be alone.
///
/// # Errors
///
/// If it is not.
pub fn next_group(faults: &FaultQueue) -> Outcome<FaultGroup> {
    match next_event(faults)? {
        FaultEvent::PageRequests(group) => Ok(group),
        other => fail(format!("a page request was due: {other:?}")),
    }
}
