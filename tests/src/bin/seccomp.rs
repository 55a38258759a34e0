// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate in a jail: under a seccomp filter made of its own lists, which kills the process at
//! anything else, tests of the suite of all backends run on a context that was opened before.

use host_iommu::seccomp::{IOCTLS, SYSCALLS};
use host_iommu_tests::conformance::kmod::KmodMachine;
use host_iommu_tests::conformance::{
    self, faults, mappings, spaces, tables, viommu, Machine, Opened,
};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::suite;
use seccompiler::{
    apply_filter, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::thread;

/// What the test's own memory, thread, clock and output need.
const OWN: [i64; 22] = [
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fcntl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_rseq,
];

/// Skips where the kernel has no filters.
fn need_filters() -> Outcome {
    let status = fs::read_to_string("/proc/self/status")?;
    if status
        .lines()
        .any(|line| line.starts_with("Seccomp_filters:"))
    {
        return Ok(());
    }
    skip("the kernel has no seccomp filters")
}

fn filter(otherwise: SeccompAction, ioctls: &[u32]) -> Outcome<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in SYSCALLS.iter().chain(&OWN) {
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
struct Jail(RefCell<Option<Opened>>);

impl Machine for Jail {
    fn backend(&self) -> &'static str {
        "kmod"
    }

    fn open(&self, _devices: &[usize]) -> Outcome<Opened> {
        match self.0.borrow_mut().take() {
            Some(opened) => Ok(opened),
            None => fail("nothing is opened in a jail"),
        }
    }
}

/// A test of the suite, by name.
type Named = (&'static str, fn(&dyn Machine) -> Outcome);

/// Runs tests, each in a thread with a filter of its own.
fn jailed(tests: &[Named]) -> Outcome {
    need_filters()?;
    for (name, test) in tests {
        let program = filter(SeccompAction::KillProcess, &IOCTLS)?;
        let outcome = thread::scope(|scope| {
            let thread = scope.spawn(|| -> Outcome {
                let jail = Jail(RefCell::new(Some(KmodMachine.open(&[0])?)));
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

macro_rules! named {
    ($($module:ident::$test:ident),+ $(,)?) => {
        &[$((stringify!($test), $module::$test as fn(&dyn Machine) -> Outcome)),+]
    };
}

fn filter_refuses_what_is_not_listed() -> Outcome {
    need_filters()?;
    let program = filter(SeccompAction::Errno(libc::EPERM as u32), &IOCTLS[1..])?;
    let outcome = thread::scope(|scope| {
        let thread = scope.spawn(|| -> Outcome {
            let opened = KmodMachine.open(&[0])?;
            apply_filter(&program)?;
            let open = File::open("/proc/self/status").map(drop);
            let errno = open.err().and_then(|error| error.raw_os_error());
            if errno != Some(libc::EPERM) {
                return fail(format!("opening a file gave {errno:?}"));
            }
            // The first of the list is GET_INFO, which is left out here.
            let errno = opened
                .host
                .capabilities()
                .err()
                .and_then(|error| error.errno());
            if errno != Some(libc::EPERM) {
                return fail(format!("a request that is not listed gave {errno:?}"));
            }
            opened.host.stats()?;
            Ok(())
        });
        thread.join()
    });
    outcome.unwrap_or_else(|_| fail("panicked"))
}

fn mappings_and_pasids_run_in_a_jail() -> Outcome {
    jailed(named![
        mappings::map_gives_devices_memory,
        mappings::unmap_stops_what_the_device_has_cached,
        mappings::pasids_are_had_once,
        spaces::dirty_pages_are_those_written_at_least,
    ])
}

fn bindings_run_in_a_jail() -> Outcome {
    jailed(named![
        tables::capabilities_and_devices_agree,
        tables::bind_translates_by_pasid,
        tables::bind_at_the_rid_and_back,
        tables::rebind_takes_the_place,
        tables::unbind_of_a_device_leaves_later_bindings_alone,
        tables::flush_shows_a_new_page_and_not_before,
        spaces::stage_2_at_a_pasid_is_guest_memory,
        spaces::space_unmapped_stops_dma,
        spaces::space_lives_as_long_as_it_is_bound,
    ])
}

fn faults_run_in_a_jail() -> Outcome {
    jailed(named![
        faults::group_says_who_asks_and_goes_on,
        faults::group_of_an_unbound_table_is_cancelled,
        faults::group_of_a_closed_queue_is_answered_invalid,
        faults::group_after_its_deadline_is_answered_invalid,
        faults::queue_over_its_depth_loses_and_counts,
        faults::queue_at_its_end_says_so,
        viommu::page_request_goes_through_the_viommu_and_back,
        viommu::guest_pasid_is_translated_both_ways,
    ])
}

suite![
    filter_refuses_what_is_not_listed,
    mappings_and_pasids_run_in_a_jail,
    bindings_run_in_a_jail,
    faults_run_in_a_jail,
];
