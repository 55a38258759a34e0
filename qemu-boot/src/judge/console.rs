// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's console: lines that no run may have.

/// What the kernel prints when something is wrong with it.
const BAD: [&str; 26] = [
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops:",
    "Call Trace:",
    "Kernel panic",
    "general protection fault",
    "UBSAN:",
    "KASAN:",
    "KFENCE:",
    "kmemleak:",
    "possible circular locking",
    "possible recursive locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "suspicious RCU usage",
    "INFO: task",
    "refcount_t:",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls on CPUs",
    "self-detected stall",
    "cut here",
    "stack segment:",
    "double fault:",
    "unable to handle",
];

/// The bad lines of a console, each once.
pub fn bad_lines(console: &str) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for line in console.lines() {
        let line = line.trim();
        if BAD.iter().any(|bad| line.contains(bad)) && !found.contains(&line) {
            found.push(line);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_console_has_no_bad_line() {
        let console =
            "[    0.0] Linux version 7.3.4\n[    1.0] vfio_iommu_ioasid: module verification \
            failed: signature and/or required key missing - tainting kernel\n\
            [    2.0] DMAR: [DMA Write PASID 0x5] fault addr 0x7000 [fault reason 0x59]\n";
        assert!(bad_lines(console).is_empty());
    }

    #[test]
    fn each_kind_of_report_is_found() {
        for bad in [
            "[ 3.1] WARNING: CPU: 0 PID: 1 at drivers/iommu/io-pgfault.c:200 f+0x1/0x2",
            "[ 3.1] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[ 3.1] WARNING: possible circular locking dependency detected",
            "[ 3.1] INFO: task demo:77 blocked for more than 120 seconds.",
            "[ 3.1] refcount_t: underflow; use-after-free.",
            "[ 3.1] kmemleak: 3 new suspected memory leaks",
            "[ 3.1] UBSAN: array-index-out-of-bounds in x.c:1:2",
            "[ 3.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[ 3.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[ 3.1] ------------[ cut here ]------------",
            "[ 3.1] Oops: general protection fault, probably for non-canonical address 0x1",
            "[ 3.1] INFO: possible recursive locking detected",
            "[ 3.1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [demo:77]",
            "[ 3.1] Kernel panic - not syncing: Fatal exception",
            "[ 3.1] Call Trace:",
        ] {
            assert_eq!(bad_lines(&format!("fine\n{bad}\nfine\n")), [bad]);
        }
    }
}
