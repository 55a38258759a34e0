// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Error numbers that have no name: a seccomp filter injects any, and the kernel has its own.

use host_iommu::backend::kmod::Kmod;
use seccompiler::{apply_filter, BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::fs::File;
use std::thread;

/// `ENOTSUPP` of the kernel, which libraries do not know.
const ENOTSUPP: i32 = 524;

#[test]
fn errno_without_a_name_keeps_its_number() {
    let rules = [(libc::SYS_ioctl, Vec::new())].into_iter().collect();
    let otherwise = SeccompAction::Allow;
    let injected = SeccompAction::Errno(ENOTSUPP as u32);
    let filter = SeccompFilter::new(rules, otherwise, injected, TargetArch::x86_64);
    let program: BpfProgram = filter.expect("a filter").try_into().expect("its program");
    let null = File::open("/dev/null").expect("a file");
    let thread = thread::spawn(move || {
        apply_filter(&program).expect("applied");
        let error = Kmod::from_container(null.into()).expect_err("no container");
        assert_eq!(error.errno(), Some(ENOTSUPP), "{error}");
    });
    thread.join().expect("the thread");
}
