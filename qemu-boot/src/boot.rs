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
    /// VT-d units beside the machine's own.
    pub further: &'static [FurtherUnit],
    /// Whether it has [`DRIVEN`].
    pub driven: bool,
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

/// A VT-d unit beside the machine's own, for a root bus of its own with one endpoint.
#[derive(Clone, Copy)]
pub struct FurtherUnit {
    /// The id of the bus.
    bus: &'static str,
    /// Bits of CAP that the machine's own unit shows and this one does not.
    lacks_cap: u64,
    /// The same of ECAP.
    lacks_ecap: u64,
}

/// What the emulated unit shows in CAP and ECAP where it nests and controls snoops; the program
/// `units` compares.
const SHOWN: (u64, u64) = (0x11d2_008c_222f_0606, 0x1_ed9c_a4f0_0fcf);

/// Bits of CAP and ECAP (VT-d 11.4.2, 11.4.3): those of MGAW that make 48 bits of 39; snoop control,
/// nesting, page requests, second-stage accessed and dirty bits, coherent walks of tables. (Linux
/// takes no unit in scalable mode whose second stage has three levels alone.)
const CAP_MGAW_48: u64 = 0x09 << 16;
const ECAP_SC: u64 = 1 << 7;
const ECAP_NEST: u64 = 1 << 26;
const ECAP_PRS: u64 = 1 << 29;
const ECAP_SSADS: u64 = 1 << 45;
const ECAP_SMPWC: u64 = 1 << 48;

/// One more unit, like the machine's own.
pub const ONE_MORE: &[FurtherUnit] = &[FurtherUnit {
    bus: "far",
    lacks_cap: 0,
    lacks_ecap: 0,
}];

/// Three more, of which each lacks something; the machine's own can enforce coherence then.
pub const THREE_THAT_DIFFER: &[FurtherUnit] = &[
    FurtherUnit {
        bus: "narrow",
        lacks_cap: CAP_MGAW_48,
        lacks_ecap: ECAP_PRS,
    },
    FurtherUnit {
        bus: "incoherent",
        lacks_cap: 0,
        lacks_ecap: ECAP_SMPWC,
    },
    FurtherUnit {
        bus: "flat",
        lacks_cap: 0,
        lacks_ecap: ECAP_SC | ECAP_NEST | ECAP_SSADS,
    },
];

impl FurtherUnit {
    /// Whether it lacks something.
    fn differs(&self) -> bool {
        self.lacks_cap | self.lacks_ecap != 0
    }

    /// QEMU's arguments for the unit, number `index` of the further ones: its bus, itself by the
    /// options of the machine's own, and an endpoint in a slot.
    fn arguments(&self, index: usize, iommu: &str) -> Vec<String> {
        let Self {
            bus,
            lacks_cap,
            lacks_ecap,
        } = self;
        let mut unit = format!("{iommu},primary-bus={bus}");
        if self.differs() {
            let (cap, ecap) = (SHOWN.0 & !lacks_cap, SHOWN.1 & !lacks_ecap);
            unit += &format!(",show-cap={cap:#x},show-ecap={ecap:#x}");
        }
        let (bus_nr, number) = (0x40 + 0x20 * index, index + 1);
        [
            format!("pxb-pcie,id={bus},bus=pcie.0,bus_nr={bus_nr}"),
            unit,
            format!("pcie-root-port,id=port{index},bus={bus},chassis={number},slot={number}"),
            format!("pasid-dma-testdev,id=endpoint{number},bus=port{index}"),
        ]
        .into_iter()
        .flat_map(|device| ["-device".to_owned(), device])
        .collect()
    }
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

/// Devices that Linux's vfio selftests have drivers for: a DSA that moves little at a time, since
/// they have it move as much as it can, and a network adapter.
const DRIVEN: [&str; 4] = [
    "-device",
    "intel-dsa,id=dsa2,addr=0xa,max-transfer=20,max-batch=3",
    "-device",
    "igb,addr=0xb,romfile=",
];

/// That of the machine's own unit where there are more.
const NEAR_ENDPOINT: &[&str] = &["-device", "pasid-dma-testdev,id=endpoint0,addr=0x4"];

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
        further: &[],
        driven: false,
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
            further,
            driven,
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
        if further.iter().any(FurtherUnit::differs) {
            iommu += ",snoop-control=on";
        }
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
            arguments.extend(match further {
                [] => &ENDPOINTS,
                _ => NEAR_ENDPOINT,
            });
            if driven {
                arguments.extend(DRIVEN);
            }
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
        // Behind everything: what names no bus would go to the last one that has room.
        let further: Vec<String> = further
            .iter()
            .enumerate()
            .flat_map(|(index, unit)| unit.arguments(index, &iommu))
            .collect();
        arguments.extend(further.iter().map(String::as_str));
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
