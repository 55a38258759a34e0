// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Children of a test, their limits, and the module as a whole.

use super::check::wait_until;
use super::container::{named, Called};
use crate::ktap::{fail, Outcome, Stop};
use host_iommu_sys::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags};
use nix::sys::resource::{setrlimit, Resource};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The module's name.
const MODULE: &str = "vfio_iommu_ioasid";
const CHILD: &str = "--child";

/// The program itself, to be run with `arguments` as a child.
///
/// # Errors
///
/// If the program cannot be found.
pub fn child(arguments: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).args(arguments);
    Ok(command)
}

/// Runs the program itself with `arguments` and expects it to succeed.
///
/// # Errors
///
/// What the child printed if it fails; a skip if it skipped.
pub fn run_child(arguments: &[&str]) -> Outcome {
    let output = child(arguments)?.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let text = format!("{}{}", text, String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(()),
        Some(4) => Err(Stop::Skip(text.trim().to_owned())),
        _ => fail(format!("child {arguments:?}: {}: {text}", output.status)),
    }
}

/// In a child: runs `body` with the arguments and gives the exit code; nothing in a program
/// that was started otherwise.
pub fn run_as_child(body: fn(&[String]) -> Outcome) -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(CHILD) {
        return None;
    }
    let arguments: Vec<String> = arguments.collect();
    Some(match body(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Skip(reason)) => {
            println!("{reason}");
            ExitCode::from(4)
        }
        Err(Stop::Fail(reason)) => {
            println!("{reason}");
            ExitCode::FAILURE
        }
    })
}

/// In a child: tells the parent, who reads one byte of stdout.
pub fn say_ready() -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(b"!")?;
    stdout.flush()
}

/// Sends a fd over a socket.
///
/// # Errors
///
/// Those of sendmsg.
pub fn send_fd(
    socket: &std::os::unix::net::UnixStream,
    fd: BorrowedFd<'_>,
) -> Result<(), rustix::io::Errno> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(b"!")];
    rustix::net::sendmsg(socket, &byte, &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives a fd from a socket.
///
/// # Errors
///
/// Those of recvmsg, and a failure if no fd came.
pub fn receive_fd(socket: BorrowedFd<'_>) -> Outcome<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            if let Some(fd) = fds.next() {
                return Ok(fd);
            }
        }
    }
    fail("the message has no fd")
}

/// Sets RLIMIT_MEMLOCK of this process, hard and soft.
pub fn set_memlock_limit(bytes: u64) -> Called<()> {
    named(
        "setrlimit",
        setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes),
    )
}

/// Gives CAP_IPC_LOCK up, so that RLIMIT_MEMLOCK counts.
///
/// # Errors
///
/// Those of capget and capset.
pub fn drop_ipc_lock() -> Result<(), rustix::io::Errno> {
    use rustix::thread::{capabilities, set_capabilities, CapabilitySet};

    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    sets.permitted.remove(CapabilitySet::IPC_LOCK);
    sets.inheritable.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets)
}

/// What the kernel charges this process for as locked (VmLck), in bytes.
///
/// # Errors
///
/// If /proc does not say.
pub fn locked_bytes() -> Outcome<u64> {
    own_memory("VmLck:")
}

/// What is pinned of this process's making (VmPin), in bytes.
///
/// # Errors
///
/// If /proc does not say.
pub fn pinned_bytes() -> Outcome<u64> {
    own_memory("VmPin:")
}

/// Both, for who holds whatever is mapped.
///
/// # Errors
///
/// If /proc does not say.
pub fn held_bytes() -> Outcome<u64> {
    Ok(locked_bytes()?.saturating_add(pinned_bytes()?))
}

fn own_memory(name: &str) -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|text| {
            text.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        });
    match kibibytes {
        Some(kibibytes) => Ok(kibibytes * 1024),
        None => fail(format!("/proc/self/status has no {name}")),
    }
}

/// Whether the module is loaded.
pub fn module_is_loaded() -> bool {
    Path::new("/sys/module").join(MODULE).exists()
}

/// Who uses the module: containers and fault fds.
///
/// # Errors
///
/// If the module is not loaded.
pub fn module_references() -> Outcome<u32> {
    let text = fs::read_to_string(format!("/sys/module/{MODULE}/refcnt"))?;
    Ok(text.trim().parse()?)
}

/// Waits until so many use the module: files are closed a moment after their fds, and after
/// their process.
///
/// # Errors
///
/// If it takes longer than the deadline.
pub fn wait_for_module_references(count: u32) -> Outcome {
    wait_until(&format!("{count} references to the module"), || {
        Ok(module_references()? == count)
    })
}

/// `rmmod`.
pub fn unload_module() -> Called<()> {
    let name = c"vfio_iommu_ioasid";
    let result = nix::kmod::delete_module(name, DeleteModuleFlags::O_NONBLOCK);
    named("delete_module", result)
}

/// `insmod` with parameters.
pub fn load_module(parameters: &str) -> Called<()> {
    let load = || {
        let file = File::open(module_file()).map_err(|_| Errno::ENOENT)?;
        let parameters = CString::new(parameters).map_err(|_| Errno::EINVAL)?;
        nix::kmod::finit_module(&file, &parameters, ModuleInitFlags::empty())
    };
    named("finit_module", load())
}

/// Where the module is: the variable, or the first of that name in the usual places.
fn module_file() -> PathBuf {
    if let Some(path) = std::env::var_os("HOST_IOMMU_MODULE") {
        return path.into();
    }
    let name = format!("{MODULE}.ko");
    ["/modules", "/lib/modules"]
        .iter()
        .find_map(|folder| find(Path::new(folder), &name))
        .unwrap_or_default()
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
    let here = entries.iter().find(|entry| entry.file_name() == name);
    here.map(fs::DirEntry::path).or_else(|| {
        entries
            .iter()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .find_map(|entry| find(&entry.path(), name))
    })
}

/// Runs `body` with the module loaded as type1, and loads it as it was.
///
/// # Errors
///
/// Those of `body`, and of loading.
pub fn as_type1<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    unload_module()?;
    load_module("type1_compat=1")?;
    let outcome = body();
    wait_for_module_references(0)?;
    unload_module()?;
    load_module("")?;
    outcome
}

/// Calls that reached the module on a type1 container.
///
/// # Errors
///
/// Those of reading the parameter.
pub fn type1_calls() -> Outcome<u64> {
    let text = fs::read_to_string("/sys/module/vfio_iommu_ioasid/parameters/type1_calls")?;
    Ok(text.trim().parse()?)
}
