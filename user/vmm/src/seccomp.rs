// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the VMM's threads may ask of the kernel once everything is open. Anything else ends the
//! process: a guest that breaks into it can open nothing, start nothing and connect to nothing.

use anyhow::Result;
use host_iommu::seccomp::{DEVICE_SYSCALLS, RUNTIME_SYSCALLS, SYSCALLS, THREAD_SYSCALLS};
use seccompiler::{
    apply_filter, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The main one, which also makes machines.
    Main,
    /// One of a CPU, which also serves its accesses.
    Cpu,
}

/// Types of requests of `ioctl` (bits 15:8): KVM's and VFIO's, with those of the module.
const KVM: u64 = 0xae;
const VFIO: u64 = 0x3b;
/// Those of terminals, and FIONBIO.
const TERMINAL: u64 = 0x54;

/// Of both: disks, and the waits of threads.
const BOTH: [libc::c_long; 4] = [
    libc::SYS_fdatasync,
    libc::SYS_lseek,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
];
/// Of the main thread: events, the control socket with its takeover, and the threads of CPUs.
const MAIN: [libc::c_long; 22] = [
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_unlink,
    libc::SYS_rt_sigaction,
    libc::SYS_tgkill,
    libc::SYS_getpid,
    libc::SYS_clone,
    libc::SYS_seccomp,
    libc::SYS_dup,
    libc::SYS_writev,
];

fn program(thread: Thread) -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let lists = [
        &SYSCALLS[..],
        &DEVICE_SYSCALLS,
        &RUNTIME_SYSCALLS,
        &THREAD_SYSCALLS,
        &BOTH,
    ];
    let mut calls = lists.concat();
    let mut requests = vec![KVM, VFIO];
    match thread {
        Thread::Main => {
            calls.extend(MAIN);
            requests.push(TERMINAL);
        }
        // It makes no threads.
        Thread::Cpu => calls.retain(|call| *call != libc::SYS_clone3),
    }
    for call in calls {
        rules.insert(call, Vec::new());
    }
    let of_type = |kind: u64| {
        let bits = SeccompCmpOp::MaskedEq(0xff00);
        let request = SeccompCondition::new(1, Len::Dword, bits, kind << 8)?;
        SeccompRule::new(vec![request])
    };
    let requests = requests.into_iter().map(of_type);
    rules.insert(libc::SYS_ioctl, requests.collect::<Result<_, _>>()?);
    let (other, allowed) = (SeccompAction::KillProcess, SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, other, allowed, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

/// From now on this thread, and what it starts, may ask for nothing else.
pub fn apply(thread: Thread) -> Result<()> {
    Ok(apply_filter(&program(thread)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Ends by what it does under the filter, in a process of its own.
    #[test]
    #[ignore = "run by the test below"]
    fn opens_a_file_under_the_filter() {
        apply(Thread::Main).expect("a filter");
        drop(std::fs::File::open("/proc/self/status"));
    }

    #[test]
    fn forbidden_call_ends_the_process() {
        let program = std::env::current_exe().expect("a program");
        let mut child = Command::new(program);
        child.args([
            "--ignored",
            "--exact",
            "seccomp::tests::opens_a_file_under_the_filter",
        ]);
        let status = child.status().expect("a process");
        assert_eq!(status.signal(), Some(libc::SIGSYS));
    }
}
