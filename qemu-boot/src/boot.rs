// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Booting the machine: an unmodified Debian kernel on an emulated VT-d, with endpoints.

use crate::replay;
use crate::root::Root;
use crate::stages::{debian_qemu, qemu};
use anyhow::{bail, Context, Result};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Where a run's folder is seen in the root.
const RUN: &str = "/src";
/// Where the folder of the kernel's modules, which has its image, is seen.
const KERNEL: &str = "/kernel";

/// What is booted.
pub struct Machine<'a> {
    /// The root that QEMU runs in.
    pub root: &'a Root,
    /// The folder with the QEMU that the hardware asks for.
    pub qemu: &'a Path,
    /// The kernel's image.
    pub kernel: &'a Path,
    /// A folder for this run, with the guest's `image` in it.
    pub run: &'a Path,
    /// What differs from machine to machine.
    pub hardware: Hardware,
}

/// What differs from machine to machine.
#[derive(Clone, Copy)]
pub struct Hardware {
    /// Whether Debian's own QEMU is the machine, unpatched, with a VT-d that only knows second
    /// stage, and devices of its own; what follows about VT-d is then of no account.
    pub debian_qemu: bool,
    /// Whether a second VT-d unit has an endpoint of its own, behind a root bus of its own.
    pub two_units: bool,
    /// Whether the emulated VT-d offers nesting.
    pub nesting: bool,
    /// Whether its stage 1 may have five levels.
    pub five_levels: bool,
    /// Whether the CPU's tables may have five levels.
    pub five_level_cpu: bool,
    /// Whether the guest's clock counts instructions, a nanosecond each, on a single CPU.
    pub counting: bool,
    /// CPUs, but for a clock that counts.
    pub cpus: u32,
    /// Whether the VT-d shows the capabilities of the crate's unit, without nesting, and what the
    /// driver does with it is written to [`RECORDING`] of the run's folder.
    pub recorded: bool,
    /// Bytes of memory that the guest shares with the file [`RING`] of the run's folder; none if
    /// zero.
    pub ring: usize,
    /// Whether the file [`DISK`] of the run's folder is its disk.
    pub disk: bool,
    /// What starts the kernel.
    pub firmware: Firmware,
}

/// What starts the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// QEMU's BIOS.
    Bios,
    /// UEFI, as the files `firmware` and `firmware-variables` of the run's folder have it.
    Uefi,
}

/// The endpoints.
const ENDPOINTS: [&str; 18] = [
    "-device",
    "pasid-dma-testdev,id=endpoint0,addr=0x4",
    "-device",
    "pasid-dma-testdev,id=endpoint1,addr=0x5",
    // Two functions of one device, which share an IOMMU group: Linux asks the function that it adds
    // whether it is one of several.
    "-device",
    "pasid-dma-testdev,id=endpoint2,addr=0x6.0x0,multifunction=on",
    "-device",
    "pasid-dma-testdev,id=endpoint3,addr=0x6.0x1,multifunction=on",
    // One that can be unplugged, by the slot itself and not by ACPI.
    "-global",
    "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    "-device",
    "pcie-root-port,id=port0,chassis=1,slot=1,addr=0x7",
    "-device",
    "pasid-dma-testdev,id=endpoint4,bus=port0",
    // Two of Intel's accelerators, which nobody drives unless a test loads idxd.
    "-device",
    "intel-dsa,id=dsa0,addr=0x8",
    "-device",
    "intel-dsa,id=dsa1,addr=0x9",
];

/// Those of a machine with two units: one of the first, and one of the second.
const NEAR_ENDPOINT: &[&str] = &["-device", "pasid-dma-testdev,id=endpoint0,addr=0x4"];
const FAR_ENDPOINT: [&str; 4] = [
    "-device",
    "pcie-root-port,id=port0,bus=far,chassis=1,slot=1",
    "-device",
    "pasid-dma-testdev,id=endpoint1,bus=port0",
];

/// What Debian's own QEMU has instead: a unit as it is by default, and two devices that make
/// requests of any 64-bit address. A unit comes before the devices that it is for.
const DEBIAN_DEVICES: [&str; 6] = [
    "-device",
    "intel-iommu,intremap=on",
    "-device",
    "edu,addr=0x4,dma_mask=18446744073709551615",
    "-device",
    "iommu-testdev,addr=0x5",
];

/// Its code and its variables.
const UEFI: [&str; 4] = [
    "-drive",
    "if=pflash,format=raw,readonly=on,file=/src/firmware",
    "-drive",
    "if=pflash,format=raw,file=/src/firmware-variables",
];

/// The file of what a driver did.
pub const RECORDING: &str = "recording";

/// The file of a disk.
pub const DISK: &str = "disk";

/// The file of shared memory.
pub const RING: &str = "ring";

impl Hardware {
    /// What everything runs on that does not ask for something else.
    pub const USUAL: Self = Self {
        debian_qemu: false,
        two_units: false,
        nesting: true,
        five_levels: true,
        five_level_cpu: false,
        counting: false,
        recorded: false,
        cpus: 2,
        ring: 0,
        disk: false,
        firmware: Firmware::Bios,
    };
}

/// How a run ended.
pub struct Ended {
    /// What the kernel's console said.
    pub console: String,
    /// Whether it was stopped for taking too long.
    pub timed_out: bool,
}

impl Machine<'_> {
    /// QEMU with everything but its consoles; `words` go to the kernel's command line.
    fn command(&self, words: &str, consoles: &[&str]) -> Result<Command> {
        let kernel = self.kernel.parent().context("the kernel has no folder")?;
        let image = self.kernel.file_name().context("the kernel has no name")?;
        let image = format!("{KERNEL}/{}", image.to_string_lossy());
        let Hardware {
            debian_qemu,
            two_units,
            nesting,
            five_levels,
            five_level_cpu,
            counting,
            recorded,
            cpus,
            ring,
            disk,
            firmware,
        } = self.hardware;
        let on = |on| if on { "on" } else { "off" };
        let (cpus, more) = if counting {
            // Copies by words: each byte of a "rep movsb" would count as an instruction.
            (1, ",erms=off,fsrm=off")
        } else {
            (cpus, "")
        };
        let cpus = cpus.to_string();
        let cpu = format!("max,la57={}{more}", on(five_level_cpu));
        let mut iommu = format!(
            "intel-iommu,intremap={},x-scalable-mode=on,device-iotlb=on,nesting={},fs5lp={}",
            // The crate's unit remaps none.
            on(!recorded),
            on(nesting),
            on(five_levels)
        );
        if recorded {
            let (cap, ecap) = replay::shown()?;
            iommu += &format!(",record={RUN}/{RECORDING},show-cap={cap:#x},show-ecap={ecap:#x}");
        }
        let line = format!(
            "console=ttyS0 loglevel=6 panic=-1 intel_iommu=on no_timer_check \
                 hugepagesz=1G hugepages=1 {words}"
        );
        let initrd = format!("{RUN}/image");
        let mut arguments: Vec<&str> = match debian_qemu {
            true => debian_qemu::COMMAND.into(),
            false => vec![qemu::PROGRAM],
        };
        arguments.extend([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "q35,kernel-irqchip=split",
            "-accel",
            // With a thread for each CPU, QEMU 10.0 can meet a TLB entry of the memory map before a
            // BAR moved, and aborts (iotlb_to_section).
            "tcg,thread=single",
            "-cpu",
            &cpu,
            "-smp",
            &cpus,
            "-m",
            "4G",
            "-kernel",
            &image,
            "-initrd",
            &initrd,
            "-append",
            &line,
        ]);
        if debian_qemu {
            arguments.extend(DEBIAN_DEVICES);
        } else {
            arguments.extend(["-device", &iommu]);
            arguments.extend(if two_units { NEAR_ENDPOINT } else { &ENDPOINTS });
        }
        let backend =
            format!("memory-backend-file,id=ring,share=on,mem-path={RUN}/{RING},size={ring}");
        if ring != 0 {
            arguments.extend(["-object", &backend, "-device", "ivshmem-plain,memdev=ring"]);
        }
        let image = format!("file={RUN}/{DISK},if=virtio,format=raw,cache=unsafe");
        if disk {
            arguments.extend(["-drive", &image]);
        }
        if firmware == Firmware::Uefi {
            arguments.extend(UEFI);
        }
        if self.hardware.counting {
            // A CPU that waits does not make the clock wait.
            arguments.extend(["-icount", "shift=0,sleep=off"]);
        }
        arguments.extend(consoles);
        let far_iommu = format!("{iommu},primary-bus=far");
        if two_units {
            // Behind everything: what names no bus would go to the last one that has room.
            arguments.extend(["-device", "pxb-pcie,id=far,bus=pcie.0,bus_nr=0x40"]);
            arguments.extend(["-device", &far_iommu]);
            arguments.extend(FAR_ENDPOINT);
        }
        let binds = [(self.qemu, "/build"), (kernel, KERNEL), (self.run, RUN)];
        Ok(self.root.command(&binds, arguments))
    }

    /// Boots, runs what `words` ask for, and gives each line of the guest's to `line`.
    ///
    /// # Errors
    ///
    /// If QEMU cannot be run. A guest that takes longer than `limit` is stopped.
    pub fn run(&self, words: &str, limit: Duration, mut line: impl FnMut(&str)) -> Result<Ended> {
        let consoles = [
            "-chardev",
            "stdio,id=guest,signal=off",
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtconsole,chardev=guest",
            // QEMU's own monitor on a port of the guest's: a test plugs and unplugs by it.
            "-chardev",
            "socket,id=monitor,path=/src/monitor,server=on,wait=off",
            "-mon",
            "chardev=monitor,mode=control",
            "-chardev",
            "socket,id=monitor-port,path=/src/monitor",
            "-device",
            "virtserialport,chardev=monitor-port,name=monitor",
            "-serial",
            "file:/src/console",
        ];
        let messages = self.run.join("qemu-messages");
        let mut child = self
            .command(words, &consoles)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&messages).context("cannot write QEMU's messages")?)
            .spawn()
            .context("cannot run unshare (package util-linux)")?;
        let stdout = child.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for text in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + limit;
        let timed_out = loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(text) => line(&text),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if timed_out {
            stop(&mut child)?;
        }
        let status = child.wait().context("cannot wait for QEMU")?;
        // A reader that still waits ends with the pipe.
        drop(reader.join());
        let console = fs::read(self.run.join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        if !timed_out && !status.success() {
            let said = fs::read_to_string(&messages).unwrap_or_default();
            bail!("QEMU failed ({status}): {}", said.trim());
        }
        Ok(Ended { console, timed_out })
    }

    /// Boots with the kernel's console on this terminal, and a shell on it.
    pub fn shell(&self) -> Result<()> {
        let consoles = ["-serial", "mon:stdio"];
        let status = self
            .command("run=shell", &consoles)?
            .status()
            .context("cannot run unshare (package util-linux)")?;
        if !status.success() {
            bail!("QEMU failed ({status})");
        }
        Ok(())
    }

    /// What the driver did, of a machine that is recorded.
    pub fn recording(&self) -> Result<String> {
        fs::read_to_string(self.run.join(RECORDING)).context("cannot read the recording")
    }

    /// Where a run's console is kept.
    pub fn console(&self) -> PathBuf {
        self.run.join("console")
    }
}

/// Ends unshare, which takes QEMU with it.
fn stop(child: &mut Child) -> Result<()> {
    child.kill().context("cannot end QEMU")
}
