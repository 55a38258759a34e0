// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crate in a jail: under a seccomp filter made of its own lists, which kills the process at
//! anything else, tests of the suite of all backends run on a context that was opened before.

use host_iommu::backend::kmod::Kmod;
use host_iommu::seccomp::{ATTACH_IOCTLS, DEVICE_IOCTLS, DEVICE_SYSCALLS, IOCTLS, SYSCALLS};
use host_iommu::{Bdf, HostIommu};
use host_iommu_sys::vfio::{ATTACH, GROUP_CONTAINER_SET};
use host_iommu_tests::conformance::kmod::KmodMachine;
use host_iommu_tests::conformance::Machine;
use host_iommu_tests::jail::{alone, filter, jailed, live, need_filters, Fds, Named};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::vfio::{endpoints, Container, Group};
use host_iommu_tests::{named, suite};
use seccompiler::{
    apply_filter, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
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

/// The container and group of the first endpoint, not attached.
fn fds() -> Outcome<(Bdf, Container, Group)> {
    let Some(&name) = endpoints().first() else {
        return skip("no endpoint is bound to vfio-pci");
    };
    let device = Bdf::new(name.segment, name.bus, name.devfn);
    Ok((device, Container::open()?, Group::open(name)?))
}

fn life_from_attach_to_detach_needs_the_lists_alone() -> Outcome {
    let (device, container, group) = fds()?;
    let group = group.as_fd().try_clone_to_owned()?;
    let with = Fds::new(device)?;
    let syscalls = [&SYSCALLS[..], &DEVICE_SYSCALLS].concat();
    let ioctls = [&IOCTLS[..], &ATTACH_IOCTLS, &DEVICE_IOCTLS].concat();
    alone(&syscalls, &ioctls, || {
        let host = HostIommu::new(Kmod::from_fds(container.into_fd(), group)?);
        live(&host, &with)?;
        let group = host.detach(0)?;
        host.attach(group)?;
        Ok(())
    })
}

/// A filter that fails one request of `ioctl` with EPERM and lets everything else through.
fn without(request: u32) -> Outcome<BpfProgram> {
    let (length, value) = (SeccompCmpArgLen::Dword, u64::from(request));
    let condition = SeccompCondition::new(1, length, SeccompCmpOp::Eq, value)?;
    let rules = BTreeMap::from([(libc::SYS_ioctl, vec![SeccompRule::new(vec![condition])?])]);
    let otherwise = SeccompAction::Allow;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, otherwise, refuse, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

fn attach_that_cannot_select_the_module_leaves_the_group() -> Outcome {
    need_filters()?;
    let (_, container, group) = fds()?;
    // The second of the list is SET_IOMMU.
    let program = without(ATTACH[1])?;
    let outcome = thread::scope(|scope| {
        let thread = scope.spawn(|| -> Outcome {
            let ours = group.as_fd().try_clone_to_owned()?;
            apply_filter(&program)?;
            let errno = match Kmod::from_fds(container.into_fd(), ours) {
                Ok(_) => return fail("it was attached"),
                Err(error) => error.errno(),
            };
            if errno != Some(libc::EPERM) {
                return fail(format!("it failed with {errno:?}"));
            }
            if group.status()? & GROUP_CONTAINER_SET != 0 {
                return fail("the group is still in the container");
            }
            Ok(())
        });
        thread.join()
    });
    outcome.unwrap_or_else(|_| fail("panicked"))
}

suite![
    filter_refuses_what_is_not_listed,
    mappings_and_pasids_run_in_a_jail,
    bindings_run_in_a_jail,
    faults_run_in_a_jail,
    life_from_attach_to_detach_needs_the_lists_alone,
    attach_that_cannot_select_the_module_leaves_the_group,
];
