// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A small VMM: it boots Linux with a VT-d unit of the crate `host-iommu` as its IOMMU and devices
//! passed through, whose DMA is translated by the guest's own page tables on top of the host's, with
//! PASIDs and page requests.
//!
//! `README.md` has the way through the files.

mod acpi;
mod block;
mod boot;
mod bus;
mod control;
mod cpu;
mod cpu_state;
mod events;
mod host;
mod iommu;
mod irq;
mod machine;
mod memory;
mod msix;
mod options;
mod pci;
mod platform;
mod seccomp;
mod serial;
mod takeover;
mod vfio;

use anyhow::{bail, Context, Result};
use boot::Image;
use clap::Parser;
use control::Control;
use events::{Life, Waiting};
use host::Host;
use host_iommu::Bdf;
use machine::Machine;
use nix::unistd::{dup2_stdin, dup2_stdout};
use options::Options;
use platform::{End, Ender};
use serial::{Line, Peer};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Boots Linux with passed-through devices behind an IOMMU of its own.
///
/// Devices must be bound to vfio-pci, and the module vfio_iommu_ioasid be loaded. The guest sees a
/// VT-d unit that offers what the host carries: first-stage tables, PASIDs, page requests. Its kernel
/// needs intel_iommu=on, and older ones intel_iommu=on,sm_on.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The kernel, a bzImage
    #[arg(long, value_name = "FILE", required_unless_present = "takeover")]
    kernel: Option<PathBuf>,
    /// Take the running guest over from the VMM that has this control socket, and all of its options
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["kernel", "initrd", "devices", "disks", "control", "no_iommu"])]
    takeover: Option<PathBuf>,
    /// Its initial file system
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Its command line
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "console=ttyS0 intel_iommu=on"
    )]
    cmdline: String,
    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// How many CPUs, 1 to 16
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    cpus: u8,
    /// A device to pass through, as in 0000:00:04.0 (may be given again)
    #[arg(long = "device", value_name = "BDF")]
    devices: Vec<Bdf>,
    /// A file that is a virtio disk of the guest (may be given again)
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// What a serial port is connected to: stdio, none, or file:PATH (given again: COM2)
    #[arg(long = "serial", value_name = "PEER", default_value = "stdio")]
    serial: Vec<Peer>,
    /// The guest has no IOMMU: its devices reach all of its memory
    #[arg(long)]
    no_iommu: bool,
    /// A socket that takes commands: status, plug BDF, unplug BDF, reset, power-off
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// End when the guest resets, instead of starting it again
    #[arg(long)]
    no_reboot: bool,
    /// What to log on standard error, as in debug or info,host_iommu=trace
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

const EXAMPLES: &str = "Examples:
  vmm --kernel vmlinuz --initrd initrd --device 0000:00:04.0
  vmm --kernel vmlinuz --initrd initrd --memory 2048 --cpus 2 --control /run/vmm
  echo status | socat - /run/vmm
  vmm --takeover /run/vmm

Ctrl-A x ends a VMM whose terminal is a serial port.";

fn run(arguments: Arguments) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log)
        .with_context(|| format!("--log {} is no filter", arguments.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    if let Some(socket) = &arguments.takeover {
        return take_over(socket);
    }
    host::check_devices(&arguments.devices)?;
    if arguments.serial.len() > serial::PORTS.len() {
        bail!("there are {} serial ports", serial::PORTS.len());
    }
    let users = arguments.serial.iter().filter(|peer| **peer == Peer::Stdio);
    if users.count() > 1 {
        bail!("one serial port can be connected to stdio");
    }
    let memory = arguments
        .memory
        .checked_mul(1 << 20)
        .context("too much memory")?;
    let options = Options {
        image: Image {
            kernel: options::open(arguments.kernel.as_deref().context("which kernel?")?)?,
            initrd: arguments.initrd.as_deref().map(options::open).transpose()?,
            cmdline: arguments.cmdline,
        },
        cpus: arguments.cpus,
        iommu: !arguments.no_iommu,
        serial: arguments
            .serial
            .iter()
            .map(Line::open)
            .collect::<Result<_>>()?,
        disks: arguments
            .disks
            .iter()
            .map(|path| block::open(path))
            .collect::<Result<_>>()?,
        no_reboot: arguments.no_reboot,
    };
    let host = Host::open(memory, &arguments.devices)?;
    let control = arguments.control.as_deref().map(Control::new).transpose()?;
    let life = Life {
        number: 1,
        paused: None,
    };
    seccomp::apply(seccomp::Thread::Main).context("no filter of system calls can be set")?;
    let first = power_on(&host, &options)?;
    let events = Waiting::new(&options)?;
    live_on(&host, &options, control, life, first, events)
}

fn power_on(host: &Host, options: &Options) -> Result<(Machine, Arc<Ender>)> {
    let ender = Ender::new().context("cannot make an eventfd")?;
    Ok((Machine::start(host, options, &ender)?, ender))
}

/// Goes on with the guest of another process.
fn take_over(socket: &Path) -> Result<()> {
    let (state, mut files, old) = takeover::ask(socket)?;
    dup2_stdin(files.take()?)?;
    dup2_stdout(files.take()?)?;
    let listener = UnixListener::from(files.take()?);
    let options = Options::take(state.options, &mut files)?;
    let host = Host::adopt(&state.host, &mut files)?;
    let ender = Ender::new().context("cannot make an eventfd")?;
    seccomp::apply(seccomp::Thread::Main).context("no filter of system calls can be set")?;
    let adopted = Machine::adopt(&host, &options, &ender, state.machine, &mut files)?;
    let events = Waiting::new(&options)?;
    takeover::confirm(old)?;
    let machine = adopted.go_on(&host);
    let paused = takeover::now()?.saturating_sub(state.stopped) / 1000;
    let waiting = machine.iommu.unit.waiting();
    eprintln!(
        "vmm: took the guest over, which stood still for {paused} microseconds; it owes devices \
         {waiting} answers"
    );
    let life = Life {
        number: state.life,
        paused: Some(paused),
    };
    let control = Some(Control::of(listener, state.control));
    let first = (machine, ender);
    live_on(&host, &options, control, life, first, events)
}

/// Runs a machine, and another after each reset of the guest.
fn live_on<'a>(
    host: &'a Host,
    options: &'a Options,
    mut control: Option<Control>,
    mut life: Life,
    mut machine: (Machine, Arc<Ender>),
    mut events: Waiting<'a>,
) -> Result<()> {
    loop {
        let (end, left) = events.live(host, options, control, life, machine)?;
        match end {
            End::PowerOff => return Ok(()),
            End::Reset if options.no_reboot => return Ok(()),
            End::Reset => tracing::info!("the guest resets"),
            End::Broken(why) => bail!("the guest has broken its machine: {why}"),
            End::Failed(why) => bail!("{why}"),
        }
        control = left;
        life.number += 1;
        machine = power_on(host, options)?;
        events = Waiting::new(options)?;
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
