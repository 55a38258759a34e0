// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the test programs stand on: a [`Rig`] is a container of ours with the endpoint's
//! group, guest memory mapped, and the endpoint itself where a test does DMA.
//!
//! Every call goes to the kernel as the test shaped it, and an error keeps the errno and the
//! call's name.

mod address_space;
mod bench;
mod check;
mod container;
mod delay;
mod dma;
mod driver;
mod fault;
mod inject;
mod kernel_log;
mod limit;
mod memory;
mod monitor;
mod patience;
mod plug;
mod probe;
mod process;
mod space;
mod thread;

pub use address_space::{as_entry, bind_as_at, Changed};
pub use bench::FaultBench;
pub use check::{expect_errno, expect_ok, expect_status, DEADLINE, INACCESSIBLE};
pub use container::{
    all_endpoints, bdf, bind_at, bind_at_rid, bind_blocked_at, bind_stage2_at, endpoint,
    endpoint_count, invalidate_args, range, CallError, Called, Container, Endpoint, Group, Info,
    Invalidated,
};
pub use delay::{pin_page_request_threads, pin_to_cpu, Delay, Delays};
pub use dma::{status, Counters, Dma, Done, Order, OrderExt, Slot};
pub use driver::Unbinding;
pub use fault::{poll, response, FaultQueue, PollFlags, RECORD};
pub use inject::{prepare_injection, with_nth_failing};
pub use kernel_log::KernelLog;
pub use limit::Limit;
pub use memory::{Canary, Memory, Snapshot};
pub use monitor::Monitor;
pub use patience::{all, needs_userfaultfd, Attempt};
pub use plug::{wait_until, Plugged};
pub use probe::{FewInvalidations, ReservedRegion};
pub use process::{
    as_type1, child, drop_ipc_lock, held_bytes, load_module, locked_bytes, module_is_loaded,
    module_references, pinned_bytes, receive_fd, run_as_child, run_child, say_ready, send_fd,
    set_memlock_limit, type1_calls, unload_module, wait_for_module_references,
};
pub use space::Space;
use std::os::fd::{AsFd, BorrowedFd};
pub use thread::Asleep;

pub use crate::ktap::{fail, skip, storm_time, Outcome, Stop};
pub use crate::memory::{fnv1a, PAGE};

/// Bytes of a small page, as the length of an order.
pub const PAGE_LEN: u32 = PAGE as u32;
pub use crate::program;
pub use crate::stage1::entry;
pub use host_iommu_sys::Errno;

use crate::vfio::Device;
use host_iommu_bindings::uapi::{
    vfio_ioasid_cap_nesting, vfio_ioasid_device, VFIO_IOASID_IOMMU, VFIO_IOASID_NESTING_PASID,
    VFIO_IOASID_NESTING_PRQ,
};
use host_iommu_sys::plain::Plain;

/// First GPA of a rig's memory: above 4 GiB, clear of the interrupt range.
pub const GUEST_BASE: u64 = 0x1_0000_0000;
/// Bytes of a rig's memory.
pub const GUEST_SIZE: u64 = 8 << 20;

/// The structure's bytes.
pub fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    value.as_bytes().to_vec()
}

/// The structure's size as `argsz` has it.
pub const fn size_u32<T>() -> u32 {
    size_of::<T>() as u32
}

/// A container of type 6 with an endpoint's group.
///
/// The pieces may be taken out to be closed one by one.
#[derive(Debug)]
pub struct Rig {
    /// The container.
    pub container: Container,
    /// The endpoint's group.
    pub group: Group,
    /// Guest memory, mapped at its GPAs unless the rig was opened without.
    pub mem: Memory,
    /// The capability report as the rig was opened.
    pub caps: vfio_ioasid_cap_nesting,
    endpoint: Endpoint,
    open: Option<Open>,
    second: Option<(Group, Open)>,
}

/// An endpoint that is open.
#[derive(Debug)]
struct Open {
    dma: Dma,
    device: Device,
}

impl Open {
    fn new(group: &Group, endpoint: &Endpoint) -> Outcome<Self> {
        let device = group.device(endpoint)?;
        device.set_bus_master(true)?;
        let dma = Dma::new(&device)?;
        Ok(Self { dma, device })
    }
}

/// The files of a rig, closed by dropping them.
pub type Files = (Option<Container>, Option<Group>, Option<Device>);

impl Rig {
    fn attach(index: usize) -> Outcome<Self> {
        let endpoint = endpoint(index)?;
        let container = Container::open()?;
        let group = Group::open(&endpoint)?;
        group.set_container(&container)?;
        container.set_iommu(VFIO_IOASID_IOMMU)?;
        let Some(caps) = container.capabilities()? else {
            return fail("GET_INFO has no VFIO_IOASID_CAP_NESTING");
        };
        Ok(Self {
            container,
            group,
            mem: Memory::guest()?,
            caps,
            endpoint,
            open: None,
            second: None,
        })
    }

    /// A container with the first endpoint's group; no memory is mapped, the endpoint is
    /// not open.
    pub fn open_unmapped() -> Outcome<Self> {
        Self::attach(0)
    }

    /// A container with the first endpoint's group and guest memory.
    pub fn open() -> Outcome<Self> {
        let rig = Self::attach(0)?;
        rig.map_memory()?;
        Ok(rig)
    }

    /// The same with the second endpoint, if there is one.
    pub fn open_second() -> Outcome<Option<Self>> {
        if endpoint_count() < 2 {
            return Ok(None);
        }
        let rig = Self::attach(1)?;
        rig.map_memory()?;
        Ok(Some(rig))
    }

    /// [`Rig::open`] on hardware that nests; a skip elsewhere.
    pub fn nesting() -> Outcome<Self> {
        Self::open()?.if_nesting()
    }

    /// [`Rig::open`] with the endpoint open.
    pub fn open_device() -> Outcome<Self> {
        Self::open()?.with_device()
    }

    /// [`Rig::open_device`] with the endpoint of that number and, in the same container, another.
    pub fn of_two(first: usize, second: usize) -> Outcome<Self> {
        let rig = Self::attach(first)?;
        rig.map_memory()?;
        let mut rig = rig.with_device()?;
        rig.add_second(&endpoint(second)?)?;
        Ok(rig)
    }

    /// [`Rig::open_second`] with the endpoint open.
    pub fn open_second_device() -> Outcome<Option<Self>> {
        Self::open_second()?.map(Self::with_device).transpose()
    }

    /// [`Rig::open_device`] on hardware that nests; a skip elsewhere.
    pub fn nesting_device() -> Outcome<Self> {
        Self::nesting()?.with_device()
    }

    /// [`Rig::nesting_device`] where page requests can be delivered; a skip elsewhere.
    pub fn faulting() -> Outcome<Self> {
        let rig = Self::nesting()?;
        if rig.caps.flags & VFIO_IOASID_NESTING_PRQ == 0 {
            return skip(format!("no page requests, reason {}", rig.caps.prq_reason));
        }
        rig.with_device()
    }

    /// [`Rig::nesting_device`] with the second endpoint in the same container, if there is
    /// one.
    pub fn nesting_with_both_endpoints() -> Outcome<Option<Self>> {
        if endpoint_count() < 2 {
            return Ok(None);
        }
        let mut rig = Self::nesting_device()?;
        rig.add_second(&endpoint(1)?)?;
        Ok(Some(rig))
    }

    /// Brings another endpoint into the container, and opens it.
    pub fn add_second(&mut self, endpoint: &Endpoint) -> Outcome {
        let group = Group::open(endpoint)?;
        group.set_container(&self.container)?;
        let open = Open::new(&group, endpoint)?;
        self.second = Some((group, open));
        Ok(())
    }

    /// Lets go of the second endpoint: closes the device, then its group.
    pub fn close_second(&mut self) {
        if let Some((group, open)) = self.second.take() {
            drop(open);
            drop(group);
        }
    }

    /// [`Rig::set_request_event`] of the second endpoint.
    pub fn set_second_request_event(&self, eventfd: BorrowedFd<'_>) -> Outcome {
        let Some((_, open)) = &self.second else {
            return fail("the rig was opened without the second device");
        };
        Ok(open.device.set_request_event(eventfd)?)
    }

    fn if_nesting(self) -> Outcome<Self> {
        if self.caps.flags & VFIO_IOASID_NESTING_PASID == 0 {
            return skip(format!("no nesting, reason {}", self.caps.reason));
        }
        Ok(self)
    }

    fn with_device(mut self) -> Outcome<Self> {
        self.open = Some(Open::new(&self.group, &self.endpoint)?);
        Ok(self)
    }

    /// CAP and ECAP of the endpoint's IOMMU unit, as sysfs has them; zeroes elsewhere.
    pub fn registers(&self) -> (u64, u64) {
        self.endpoint.vtd_registers().unwrap_or_default()
    }

    /// The endpoint's name in calls.
    pub fn id(&self) -> vfio_ioasid_device {
        self.endpoint.id()
    }

    /// The endpoint.
    ///
    /// # Panics
    ///
    /// If the rig was opened without it.
    #[track_caller]
    pub fn dma(&self) -> &Dma {
        match &self.open {
            Some(open) => &open.dma,
            None => panic!("the rig was opened without the device"),
        }
    }

    /// The endpoint's device fd.
    #[track_caller]
    pub fn device_fd(&self) -> BorrowedFd<'_> {
        match &self.open {
            Some(open) => open.device.as_fd(),
            None => panic!("the rig was opened without the device"),
        }
    }

    /// The second endpoint of [`Rig::nesting_with_both_endpoints`].
    #[track_caller]
    pub fn second_dma(&self) -> &Dma {
        match &self.second {
            Some((_, open)) => &open.dma,
            None => panic!("the rig was opened without the second device"),
        }
    }

    /// Resets the endpoint and lets it do DMA again.
    pub fn reset_device(&self) -> Outcome {
        let Some(open) = &self.open else {
            return fail("the rig was opened without the device");
        };
        open.device.reset()?;
        open.device.set_bus_master(true)?;
        Ok(())
    }

    /// Has `eventfd` signalled when the host wants the device back.
    pub fn set_request_event(&self, eventfd: BorrowedFd<'_>) -> Outcome {
        let Some(open) = &self.open else {
            return fail("the rig was opened without the device");
        };
        Ok(open.device.set_request_event(eventfd)?)
    }

    /// Closes the device; group and container stay open.
    pub fn close_device(&mut self) {
        self.open = None;
    }

    /// Maps guest memory.
    pub fn map_memory(&self) -> Called<()> {
        self.container.map(&self.mem, self.mem.base())
    }

    /// Unmaps guest memory.
    pub fn unmap_memory(&self) -> Called<u64> {
        self.container.unmap(self.mem.base(), self.mem.size())
    }

    /// Waits until that many groups have come in to fault queues since the container began.
    pub fn wait_for_page_requests(&self, count: u64) -> Outcome {
        check::wait_until(&format!("{count} page requests"), || {
            Ok(self.container.stats()?.page_requests >= count)
        })
    }

    /// Takes the endpoint's registers out.
    ///
    /// # Panics
    ///
    /// If the rig was opened without the device.
    pub fn into_pieces(self) -> (Dma, Files, Memory) {
        let Some(open) = self.open else {
            panic!("the rig was opened without the device");
        };
        let files = (Some(self.container), Some(self.group), Some(open.device));
        (open.dma, files, self.mem)
    }
}

/// Makes the `main` of a test program: `program![child f; tests…]` runs `f` with the arguments
/// after `--child` instead, where the program started itself.
#[macro_export]
macro_rules! program {
    (child $child:path; $($test:ident),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            if let Some(code) = $crate::rig::run_as_child($child) {
                return code;
            }
            $crate::ktap::main(&[
                $($crate::ktap::Test { name: stringify!($test), run: $test }),*
            ])
        }
    };
    ($($test:ident),* $(,)?) => {
        $crate::suite![$($test),*];
    };
}

/// Makes a test function of each name and expression.
#[macro_export]
macro_rules! cases {
    ($($name:ident => $body:expr),* $(,)?) => {
        $(fn $name() -> $crate::ktap::Outcome { $body })*
    };
}
