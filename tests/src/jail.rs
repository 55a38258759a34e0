// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate under a seccomp filter that kills the process at anything that is not listed: tests of
//! the suite of all backends on a context that was opened before, and the life of one under the
//! crate's lists alone.

use crate::conformance::{self, Machine, Opened};
use crate::ktap::{fail, skip, Outcome};
use crate::memory::PAGE;
use host_iommu::seccomp::{RUNTIME_SYSCALLS, THREAD_SYSCALLS};
use host_iommu::vfio::{Area, Bar, Interrupt};
use host_iommu::{
    AddressSpaceEntry, Bdf, DmaMemory, FaultQueueOptions, FaultRead, Gpa, GuestTable, HostIommu,
    Invalidation, Iova, IovaRange, MapAccess, PasidRequest, SharedMemory,
};
use nix::sys::eventfd::EventFd;
use seccompiler::{
    apply_filter, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::thread;

/// What tests of the suite need beside the crate's lists: memory that they make, waits and polls.
const SUITE: [i64; 5] = [
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_clock_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
];

/// Skips where the kernel has no filters.
///
/// # Errors
///
/// The skip.
pub fn need_filters() -> Outcome {
    let status = fs::read_to_string("/proc/self/status")?;
    if status
        .lines()
        .any(|line| line.starts_with("Seccomp_filters:"))
    {
        return Ok(());
    }
    skip("the kernel has no seccomp filters")
}

/// A filter of system calls and requests, and of what threads and the runtime need.
///
/// # Errors
///
/// If it cannot be made.
pub fn filter(otherwise: SeccompAction, syscalls: &[i64], ioctls: &[u32]) -> Outcome<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let runtime = THREAD_SYSCALLS.iter().chain(&RUNTIME_SYSCALLS);
    for call in syscalls.iter().chain(runtime) {
        rules.insert(*call, Vec::new());
    }
    let mut requests = Vec::new();
    for request in ioctls {
        let (length, value) = (SeccompCmpArgLen::Dword, u64::from(*request));
        let condition = SeccompCondition::new(1, length, SeccompCmpOp::Eq, value)?;
        requests.push(SeccompRule::new(vec![condition])?);
    }
    rules.insert(libc::SYS_ioctl, requests);
    let filter = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

/// A machine that gives the one context that it has.
struct Jail(&'static str, RefCell<Option<Opened>>);

impl Machine for Jail {
    fn backend(&self) -> &'static str {
        self.0
    }

    fn open(&self, _devices: &[usize]) -> Outcome<Opened> {
        match self.1.borrow_mut().take() {
            Some(opened) => Ok(opened),
            None => fail("nothing is opened in a jail"),
        }
    }
}

/// A test of the suite, by name.
pub type Named = (&'static str, fn(&dyn Machine) -> Outcome);

/// Runs tests on a machine, each in a thread with a filter of its own.
///
/// # Errors
///
/// If one fails.
pub fn jailed<M: Machine + Sync>(
    machine: &M,
    syscalls: &[i64],
    ioctls: &[u32],
    tests: &[Named],
) -> Outcome {
    need_filters()?;
    let syscalls = [syscalls, &SUITE].concat();
    for (name, test) in tests {
        let program = filter(SeccompAction::KillProcess, &syscalls, ioctls)?;
        let outcome = thread::scope(|scope| {
            let thread = scope.spawn(|| -> Outcome {
                let opened = RefCell::new(Some(machine.open(&[0])?));
                let jail = Jail(machine.backend(), opened);
                apply_filter(&program)?;
                conformance::run(&jail, name, *test)
            });
            thread.join()
        });
        match outcome {
            Ok(outcome) => outcome?,
            Err(_) => return fail(format!("{name} panicked")),
        }
    }
    Ok(())
}

/// What the life of a context is made of.
pub struct Fds {
    /// The device.
    pub device: Bdf,
    /// Guest memory.
    pub memory: SharedMemory,
    /// For an interrupt.
    pub event: EventFd,
}

impl Fds {
    /// For a device.
    ///
    /// # Errors
    ///
    /// If the process cannot have so much.
    pub fn new(device: Bdf) -> Outcome<Self> {
        Ok(Self {
            device,
            memory: SharedMemory::new(c"guest", 1 << 20)?,
            event: EventFd::new()?,
        })
    }
}

/// Runs something under a filter that has these lists, what threads and the runtime need, and
/// nothing else.
///
/// # Errors
///
/// Those of what is run. The process is killed at a call that is not listed.
pub fn alone(syscalls: &[i64], ioctls: &[u32], life: impl FnOnce() -> Outcome + Send) -> Outcome {
    need_filters()?;
    let program = filter(SeccompAction::KillProcess, syscalls, ioctls)?;
    let outcome = thread::scope(|scope| {
        let thread = scope.spawn(|| -> Outcome {
            apply_filter(&program)?;
            life()
        });
        thread.join()
    });
    outcome.unwrap_or_else(|_| fail("panicked"))
}

/// What a VMM does with a context and its device, from the first mapping to the last drop.
///
/// # Errors
///
/// Those of what is done.
pub fn live(host: &HostIommu, with: &Fds) -> Outcome {
    let size = with.memory.len() as u64;
    let range = |start, size| IovaRange::sized(Iova(start), size).ok_or(crate::Errno::EINVAL);
    host.map(Iova(0), &with.memory, MapAccess::ReadWrite)?;
    host.capabilities()?;
    host.devices()?;
    host.stats()?;
    host.track_dirty(true)?;
    host.read_dirty(range(0, size)?)?;
    host.track_dirty(false)?;

    let options = FaultQueueOptions::nonblocking();
    let faults = host.fault_queue(&options.with_deadline(std::time::Duration::from_secs(1)))?;
    let pasids = host.alloc_pasids(&PasidRequest::any())?;
    let table = GuestTable::four_level(Gpa(PAGE));
    let mut bound = host.bind(with.device, &pasids, pasids.first(), &table, Some(&faults))?;
    bound.flush(&Invalidation::all())?;
    if !matches!(faults.read()?, FaultRead::Empty) {
        return fail("there is a fault");
    }
    faults.drain(std::time::Duration::from_millis(1));
    bound.block()?;
    bound.unbind()?;
    let space = host.address_space()?;
    let entry = AddressSpaceEntry {
        range: range(0, PAGE)?,
        gpa: Gpa(0),
        access: MapAccess::ReadWrite,
    };
    space.map(&[entry])?;
    let bound = host.bind_address_space(with.device, &pasids, pasids.first(), &space, None)?;
    space.unmap(&[entry.range])?;
    drop((bound, space, pasids, faults));

    let device = host.device(with.device)?;
    let mut bytes = [0; 2];
    device.read_config(4, &mut bytes)?;
    device.write_config(4, &(u16::from_le_bytes(bytes) | 2).to_le_bytes())?;
    let bar = device.region(Bar(0).region())?;
    let area = Area {
        offset: 0,
        size: PAGE,
    };
    drop(device.map(&bar, area)?);
    device.interrupt(Interrupt::MsiX)?;
    device.set_events(Interrupt::MsiX, 0, &[Some(with.event.as_fd())])?;
    device.trigger(Interrupt::MsiX, 0)?;
    device.disable(Interrupt::MsiX)?;
    device.reset()?;
    drop(device);
    host.unmap(range(0, size)?)?;
    Ok(())
}

/// The tests of a list, by name.
#[macro_export]
macro_rules! named {
    ($($module:ident::$test:ident),+ $(,)?) => {
        &[$((
            stringify!($test),
            $crate::conformance::$module::$test
                as fn(&dyn $crate::conformance::Machine) -> $crate::ktap::Outcome,
        )),+]
    };
}
