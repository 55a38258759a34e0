// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VMM that runs, and what it leaves.

use crate::agent::Agent;
use crate::{counts, qemu};
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::{kvm, vfio};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The name of the guest that all steps are about.
pub const FIRST: &str = "guest";
/// The name of the one that means harm.
pub const HOSTILE: &str = "hostile";
/// The name of those that are not to start.
pub const REFUSED: &str = "refused";
/// The folder of its VMM's user.
pub const FOLDER: &str = "/tmp/vmm";
/// The control socket of the first guest's VMM.
pub const CONTROL: &str = "/tmp/vmm/control";
/// The file that is the guest's disk.
pub const DISK: &str = "/tmp/guest-disk";
/// The file that is its swap space.
pub const SWAP: &str = "/tmp/guest-swap";
/// Of the guest, in MiB.
pub const MEMORY: &str = "256";
/// What the guest's kernel is told.
pub const LINE: &str = "console=ttyS0 loglevel=5 panic=-1 intel_iommu=on,sm_on no_timer_check \
    cryptomgr.notests";

/// The line of a guest that means harm: its kernel leaves the unit alone, and `guest-agent` may map it.
pub const HOSTILE_LINE: &str =
    "console=ttyS0 loglevel=5 panic=-1 intel_iommu=off iomem=relaxed no_timer_check cryptomgr.notests";

/// Who runs the VMM in user/vmm, with the devices' groups, and as much locked memory as the guest has and
/// a little more: the first guest's, and the hostile one's.
const USER: u32 = 1000;
pub const STRANGER: u32 = 1001;
const LOCKED: u64 = (256 + 16) << 20;

/// How long a takeover may last.
const PATIENCE: Duration = Duration::from_secs(90);

/// A guest, and the files of its VMM.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The first part of the files' names.
    pub name: &'a str,
    /// Devices passed through.
    pub devices: &'a [String],
    /// CPUs.
    pub cpus: u32,
    /// What its kernel is told.
    pub line: &'a str,
    /// The files that are its disks.
    pub disks: &'a [&'a str],
}

/// A VMM.
pub struct Vmm {
    child: Child,
    is_qemu: bool,
    /// What it talks to in the guest.
    pub agent: Agent,
}

impl Vmm {
    /// Starts it.
    pub fn start(guest: &Guest<'_>) -> Outcome<Self> {
        // The VMM adds to it, one life of its guest after the other.
        drop(fs::remove_file(console_file(guest.name)));
        let is_qemu = is_qemu();
        let mut command = match is_qemu {
            true => qemu::command(guest, &console_file(guest.name)),
            false => own(guest)?,
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(messages_file(guest.name))?)
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                child,
                is_qemu,
                agent: Agent::new(input, output),
            }),
            _ => fail("the VMM has no pipes"),
        }
    }

    fn status(key: &str) -> Outcome<u64> {
        counts::number(&counts::control(CONTROL, "status")?, key)
    }

    /// Page request groups that reached it.
    pub fn groups(&self) -> Outcome<u64> {
        match self.is_qemu {
            true => Ok(qemu::groups(&messages(FIRST))),
            false => Self::status("groups"),
        }
    }

    /// How often the guest's CPUs came out to it.
    pub fn exits(&self) -> Outcome<u64> {
        match self.is_qemu {
            true => kvm::exits(),
            false => Self::status("exits"),
        }
    }

    /// Unplugs a device.
    pub fn unplug(&self, device: &str) -> Outcome {
        match self.is_qemu {
            true => qemu::unplug(),
            false => counts::control(CONTROL, &format!("unplug {device}")).map(drop),
        }
    }

    /// Plugs it in again.
    pub fn plug(&self, device: &str) -> Outcome {
        match self.is_qemu {
            true => qemu::plug(device),
            false => counts::control(CONTROL, &format!("plug {device}")).map(drop),
        }
    }

    /// Another process would take its guest over, but may open too few files: it ends with an error, and
    /// this one goes on.
    pub fn keeps_guest_from_poor_taker(&mut self, files: u64) -> Outcome {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, files, hard)?;
        let new = taker().stderr(Stdio::piped()).spawn();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        let ended = new?.wait_with_output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        println!("# with {files} files: {}", said.trim());
        if ended.status.success() || !said.contains("vmm: ") {
            return fail(format!("with {files} files the new VMM {}", ended.status));
        }
        self.is_in_charge()
    }

    /// Whoever asks for its guest reads `bytes` bytes of it, or all, and goes away: it goes on.
    pub fn keeps_guest_from_fickle_taker(&mut self, bytes: usize) -> Outcome {
        let mut asker = UnixStream::connect(CONTROL)?;
        asker.write_all(b"takeover\n")?;
        // The state's size, and the number of files, for each of which there is a byte.
        let mut header = [0; 16];
        asker.read_exact(&mut header)?;
        let numbers = header.chunks(8).map(<[u8; 8]>::try_from);
        let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
        let all: u64 = numbers.into_iter().map(u64::from_le_bytes).sum();
        let mut given = vec![0; bytes.min(usize::try_from(all)?)];
        asker.read_exact(&mut given)?;
        drop(asker);
        self.is_in_charge()
    }

    fn is_in_charge(&mut self) -> Outcome {
        if let Some(status) = self.child.try_wait()? {
            return fail(format!("the VMM ended with {status}"));
        }
        match Self::status("process")? == u64::from(self.child.id()) {
            true => Ok(()),
            false => fail("another VMM has the control socket"),
        }
    }

    /// Files that it has open.
    pub fn open_files(&self) -> Outcome<u64> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id()))?;
        Ok(u64::try_from(files.count())?)
    }

    /// Another process takes its guest over, and this one ends. Gives for how many microseconds the
    /// guest stood still.
    pub fn take_over(&mut self) -> Outcome<u64> {
        let messages = File::options().append(true).open(messages_file(FIRST))?;
        let mut new = taker().stderr(messages).spawn()?;
        let begun = Instant::now();
        let old = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if let Some(status) = new.try_wait()? {
                return fail(format!("the new VMM ended with {status}"));
            }
            if begun.elapsed() > PATIENCE {
                new.kill()?;
                return fail(format!("the old VMM is there after {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.child = new;
        if !old.success() {
            return fail(format!("the old VMM ended with {old}"));
        }
        self.is_in_charge()?;
        Self::status("paused")
    }

    /// Whether it is an ordinary user's, and each of its threads under a filter of system calls.
    pub fn is_confined(&self) -> Outcome<bool> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        for task in tasks.flatten() {
            let status = fs::read_to_string(task.path().join("status"))?;
            let has = |wanted: &str| status.lines().any(|line| line == wanted);
            // KVM's own thread belongs to the process, and runs in the kernel alone.
            let name = fs::read_to_string(task.path().join("comm"))?;
            let filtered = has("Seccomp:\t2") || name.starts_with("kvm-");
            let user = has(&format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}"));
            if !filtered || !user || !has("CapEff:\t0000000000000000") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// What its threads are at, as the kernel sees it.
    pub fn threads(&self) -> Vec<String> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        let of = |task: fs::DirEntry| {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let stack = read("stack");
            let stack: Vec<_> = stack
                .lines()
                .take(8)
                .filter_map(|line| line.split(' ').nth(1))
                .collect();
            format!("thread {}: {}", read("comm").trim(), stack.join(" "))
        };
        tasks.map(of).collect()
    }

    /// Stops it, and with it the guest: whatever the device asks for from now on waits.
    pub fn freeze(&self) -> Outcome {
        let process = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(signal::kill(process, Signal::SIGSTOP)?)
    }

    /// Kills it.
    pub fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Whether the VMM is QEMU.
pub fn is_qemu() -> bool {
    is_shadow() || std::env::var_os("VMM").is_some_and(|name| name == "qemu")
}

/// Whether it is QEMU without the module: its unit has the guest's kernel tell of each mapping, which
/// goes to vfio_iommu_type1.
pub fn is_shadow() -> bool {
    std::env::var_os("VMM").is_some_and(|name| name == "shadow")
}

/// `vmm` for an ordinary user.
fn as_user(user: u32) -> Command {
    let mut command = Command::new("vmm");
    command.uid(user).gid(user);
    command
}

/// A VMM that takes the first guest over.
fn taker() -> Command {
    let mut command = as_user(USER);
    command
        .args(["--takeover", CONTROL, "--log", "info"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The VMM in user/vmm. Its user gets what an administrator would give.
fn own(guest: &Guest<'_>) -> Outcome<Command> {
    setrlimit(Resource::RLIMIT_MEMLOCK, LOCKED, LOCKED)?;
    fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(0o666))?;
    let console = console_file(guest.name);
    File::create(&console)?;
    let (user, mut files) = match guest.name {
        FIRST => (USER, vec![FOLDER.to_owned(), console.clone()]),
        _ => (STRANGER, vec![console.clone()]),
    };
    files.extend(guest.disks.iter().map(ToString::to_string));
    for device in guest.devices {
        let Some(device) = vfio::Bdf::parse(device) else {
            return fail(format!("{device} is no device's address"));
        };
        files.push(format!("/dev/vfio/{}", device.group()?));
    }
    for file in files {
        chown(file, Some(user), Some(user))?;
    }
    let mut command = as_user(user);
    command
        .args(["--kernel", "/guest/vmlinuz", "--initrd", "/guest/initrd"])
        .args(["--memory", MEMORY, "--cpus", &guest.cpus.to_string()])
        .args(["--cmdline", guest.line, "--log", "info"])
        .args(["--serial", &format!("file:{console}"), "--serial", "stdio"]);
    match guest.name {
        FIRST => command.args(["--control", CONTROL]),
        _ => command.arg("--no-reboot"),
    };
    for disk in guest.disks {
        command.args(["--disk", disk]);
    }
    for device in guest.devices {
        command.args(["--device", device]);
    }
    Ok(command)
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

fn console_file(name: &str) -> String {
    format!("/tmp/{name}-console")
}

fn messages_file(name: &str) -> String {
    format!("/tmp/{name}-messages")
}

/// What a VMM said on standard error.
pub fn messages(name: &str) -> String {
    fs::read_to_string(messages_file(name)).unwrap_or_default()
}

/// What a guest's kernel said.
pub fn console(name: &str) -> String {
    let bytes = fs::read(console_file(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
