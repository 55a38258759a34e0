// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the suite of all backends under a seccomp filter that kills the process at anything
//! that is not listed, on a context that was opened before.

use crate::conformance::{self, Machine, Opened};
use crate::ktap::{fail, skip, Outcome};
use host_iommu::seccomp::THREAD_SYSCALLS;
use seccompiler::{
    apply_filter, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::thread;

/// What the test's own memory, clock and polling need; threads are in the crate's list.
const OWN: [i64; 8] = [
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
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

/// A filter of system calls and requests, with what the test itself needs.
///
/// # Errors
///
/// If it cannot be made.
pub fn filter(otherwise: SeccompAction, syscalls: &[i64], ioctls: &[u32]) -> Outcome<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in syscalls.iter().chain(&THREAD_SYSCALLS).chain(&OWN) {
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
    for (name, test) in tests {
        let program = filter(SeccompAction::KillProcess, syscalls, ioctls)?;
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
