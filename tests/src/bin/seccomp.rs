// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate in a jail: under a seccomp filter made of its own lists, which kills the process at
//! anything else, tests of the suite of all backends run on a context that was opened before.

use host_iommu::seccomp::{IOCTLS, SYSCALLS};
use host_iommu_tests::conformance::kmod::KmodMachine;
use host_iommu_tests::conformance::Machine;
use host_iommu_tests::jail::{filter, jailed, need_filters, Named};
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::{named, suite};
use seccompiler::{apply_filter, SeccompAction};
use std::fs::File;
use std::thread;

fn filter_refuses_what_is_not_listed() -> Outcome {
    need_filters()?;
    let program = filter(
        SeccompAction::Errno(libc::EPERM as u32),
        &SYSCALLS,
        &IOCTLS[1..],
    )?;
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

fn run(tests: &[Named]) -> Outcome {
    jailed(&KmodMachine, &SYSCALLS, &IOCTLS, tests)
}

fn mappings_and_pasids_run_in_a_jail() -> Outcome {
    run(named![
        mappings::map_gives_devices_memory,
        mappings::unmap_stops_what_the_device_has_cached,
        mappings::pasids_are_had_once,
        spaces::dirty_pages_are_those_written_at_least,
    ])
}

fn bindings_run_in_a_jail() -> Outcome {
    run(named![
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
    run(named![
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
