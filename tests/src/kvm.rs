// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KVM in the machine: its modules, which nothing else there needs.

use crate::ktap::Outcome;
use nix::errno::Errno;
use nix::kmod::{finit_module, ModuleInitFlags};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The modules in the order that they stand on each other.
const MODULES: [&str; 4] = ["irqbypass", "kvm", "ccp", "kvm-amd"];

/// Loads what is not loaded. False where the kernel has no such modules and no KVM.
///
/// # Errors
///
/// Those of finit_module.
pub fn load() -> io::Result<bool> {
    for name in MODULES {
        let path = format!("/modules/{name}.ko");
        if !Path::new(&path).exists() {
            break;
        }
        match finit_module(File::open(path)?, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    fs::exists("/dev/kvm")
}

/// How often CPUs of all VMs came out to their VMMs for a port or for memory that is none.
///
/// # Errors
///
/// If debugfs does not tell.
pub fn exits() -> Outcome<u64> {
    let mut sum = 0;
    for kind in ["mmio_exits", "io_exits"] {
        let text = fs::read_to_string(format!("/sys/kernel/debug/kvm/{kind}"))?;
        sum += text.trim().parse::<u64>()?;
    }
    Ok(sum)
}
