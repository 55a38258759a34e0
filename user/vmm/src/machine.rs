// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's machine from power-on to its end: a reboot is another one.

use crate::acpi;
use crate::block::Disk;
use crate::boot::Image;
use crate::bus::{Bus, Registers};
use crate::cpu::{self, Buses, Cpus};
use crate::host::Host;
use crate::iommu::{self, Iommu};
use crate::irq::Interrupts;
use crate::memory::{self, ECAM};
use crate::pci::{self, PciBus};
use crate::platform::{self, Acpi, Ender, Keyboard, Zeros};
use crate::serial::{self, Peer, Port};
use crate::vfio::{self, HostDevice, VfioFunction};
use anyhow::{bail, ensure, Context, Result};
use host_iommu::kvm::{Slot, Slots};
use host_iommu::vtd::VtdConfig;
use host_iommu::{Bdf, FaultQueue, Plugged};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Where KVM on Intel keeps what real mode needs (KVM_SET_TSS_ADDR), and a page below it.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is booted.
    pub image: Image,
    /// How many CPUs.
    pub cpus: u8,
    /// Whether the guest has an IOMMU.
    pub iommu: bool,
    /// What its serial ports are connected to.
    pub serial: Vec<Peer>,
    /// Files that are disks.
    pub disks: Vec<PathBuf>,
}

/// A machine that runs. When it is dropped, its CPUs stop, its devices are reset, and what the guest
/// had bound goes.
pub struct Machine {
    host: Vec<Arc<HostDevice>>,
    cpus: Option<Cpus>,
    /// The serial ports.
    pub serial: Vec<Arc<Port>>,
    /// The guest's IOMMU, which translates nothing if the guest is not told of it.
    pub iommu: Arc<Iommu>,
    shown: bool,
    devices: BTreeMap<Bdf, Device>,
    pci: Arc<PciBus>,
    buses: Arc<Buses>,
    interrupts: Arc<Interrupts>,
    slots: Arc<Slots>,
    _ram: Vec<Slot>,
}

/// A device that is plugged in.
struct Device {
    number: u8,
    faults: Option<Arc<FaultQueue>>,
    _function: Arc<VfioFunction>,
    _plugged: Option<Plugged>,
}

impl Machine {
    /// Powers a machine on, with every device of the host plugged in. `ender` is told when it ends.
    pub fn start(host: &Host, options: &Options, ender: &Arc<Ender>) -> Result<Self> {
        ensure!((1..=16).contains(&options.cpus), "a guest has 1 to 16 CPUs");
        let vm = Arc::new(host.kvm.create_vm().context("KVM does not make a VM")?);
        vm.set_identity_map_address(IDENTITY_MAP)
            .and_then(|()| vm.set_tss_address(TSS))
            .and_then(|()| vm.create_irq_chip())
            .context("KVM does not make interrupt controllers")?;
        let slots = Slots::new(vm.clone());
        let ram = memory::show(&host.ram, &slots)?;
        let interrupts = Interrupts::new(vm.clone())?;
        let pci = PciBus::new();
        let buses = Arc::new(Buses {
            ports: Bus::default(),
            memory: Bus::default(),
            exits: AtomicU64::new(0),
        });
        let offered = match options.iommu {
            true => offer(host)?,
            false => VtdConfig::default(),
        };
        let iommu = Iommu::new(offered, &host.ram, &interrupts)?;
        let mut machine = Self {
            host: host.devices.clone(),
            cpus: None,
            serial: Vec::new(),
            iommu,
            shown: options.iommu,
            devices: BTreeMap::new(),
            pci,
            buses,
            interrupts,
            slots,
            _ram: ram,
        };
        machine.add_platform(options, ender)?;
        for device in &host.devices {
            // Whoever had it before may have left it at work.
            device.reset();
            machine.plug(host, device.bdf())?;
        }
        for disk in &options.disks {
            machine.add_disk(host, disk)?;
        }
        let config = machine.iommu.unit.config();
        let dmar = options
            .iommu
            .then(|| config.dmar(acpi::OEM, acpi::OEM_TABLE, 1));
        acpi::write(&host.ram, options.cpus, dmar.as_deref())?;
        let entry = options.image.load(&host.ram, acpi::RSDP)?;
        let cpus = cpu::start(
            &host.kvm,
            &vm,
            &host.ram,
            options.cpus,
            entry,
            &machine.buses,
            ender,
        )?;
        machine.cpus = Some(cpus);
        Ok(machine)
    }

    /// Everything that has an address from the start.
    fn add_platform(&mut self, options: &Options, ender: &Arc<Ender>) -> Result<()> {
        for ((port, pin), peer) in serial::PORTS.into_iter().zip(&options.serial) {
            let device = Arc::new(Port::new(self.interrupts.pin(pin)?, peer)?);
            self.buses
                .ports
                .insert(port.into(), serial::SIZE, device.clone());
            self.serial.push(device);
        }
        let ports: [(u64, u64, Arc<dyn Registers>); 4] = [
            (
                platform::SLEEP_CONTROL.into(),
                platform::ACPI_PORTS,
                Arc::new(Acpi(ender.clone())),
            ),
            (
                platform::KEYBOARD.into(),
                1,
                Arc::new(Keyboard(ender.clone())),
            ),
            (platform::CMOS.into(), 2, Arc::new(Zeros)),
            (
                pci::PORTS.0,
                pci::PORTS.1,
                Arc::new(pci::Ports(self.pci.clone())),
            ),
        ];
        for (start, size, device) in ports {
            self.buses.ports.insert(start, size, device);
        }
        let ecam = Arc::new(pci::Ecam(self.pci.clone()));
        self.buses.memory.insert(ECAM.start, ECAM.size, ecam);
        if self.shown {
            let base = self.iommu.unit.config().base;
            let unit = self.iommu.clone();
            self.buses.memory.insert(base, iommu::REGISTERS, unit);
        }
        Ok(())
    }

    fn add_disk(&mut self, host: &Host, path: &Path) -> Result<()> {
        let number = self.pci.free()?;
        let disk = Disk::new(
            path,
            number,
            &host.ram,
            &self.iommu,
            &self.interrupts,
            &self.buses,
            &self.pci,
        )?;
        self.pci.insert(number, disk);
        Ok(())
    }

    /// Plugs a device of the host in. The guest finds it when it looks at its bus again.
    pub fn plug(&mut self, host: &Host, bdf: Bdf) -> Result<()> {
        ensure!(
            !self.devices.contains_key(&bdf),
            "{bdf} is plugged in already"
        );
        let device = host.device(bdf)?;
        let context = host.context.as_ref().context("a device has a context")?;
        let number = self.pci.free()?;
        let mut plugged = None;
        let mut faults = None;
        let mut pasid_bits = None;
        if self.shown {
            let iommu = &self.iommu;
            iommu.unit.set_source_id(bdf, PciBus::source(number));
            plugged = Some(context.plug(bdf, iommu.clone())?);
            faults = iommu.unit.fault_queue(bdf);
            pasid_bits = Some(iommu.unit.config().pasid_bits);
        }
        let parts = vfio::Machine {
            slots: &self.slots,
            interrupts: &self.interrupts,
            buses: &self.buses,
            pci: &self.pci,
        };
        let function = VfioFunction::new(device, context, pasid_bits, &parts)?;
        self.pci.insert(number, function.clone());
        tracing::info!(device = %bdf, number, "plugged in");
        let device = Device {
            number,
            faults,
            _function: function,
            _plugged: plugged,
        };
        self.devices.insert(bdf, device);
        Ok(())
    }

    /// Unplugs a device: what is bound is unbound, and what it asked for is answered.
    pub fn unplug(&mut self, bdf: Bdf) -> Result<()> {
        let Some(device) = self.devices.remove(&bdf) else {
            bail!("{bdf} is not plugged in");
        };
        self.pci.remove(device.number);
        tracing::info!(device = %bdf, "unplugged");
        Ok(())
    }

    /// The devices that are plugged in.
    pub fn plugged(&self) -> impl Iterator<Item = Bdf> + '_ {
        self.devices.keys().copied()
    }

    /// Where the devices' page requests come: one queue, as they have one context.
    pub fn fault_queue(&self) -> Option<&Arc<FaultQueue>> {
        self.devices
            .values()
            .find_map(|device| device.faults.as_ref())
    }

    /// How often CPUs came out of the guest to the VMM.
    pub fn exits(&self) -> u64 {
        self.buses.exits.load(Ordering::Relaxed)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cpus = None;
        // DMA ends before what translates it goes.
        for device in &self.host {
            device.reset();
        }
        // Functions hold the buses that they are on.
        self.pci.clear();
        self.buses.memory.clear();
        self.buses.ports.clear();
    }
}

/// What the guest's unit offers: what the host carries, or what every one does if there is no device.
fn offer(host: &Host) -> Result<VtdConfig> {
    let Some(context) = &host.context else {
        return Ok(VtdConfig::default());
    };
    let nesting = context.capabilities()?.nesting;
    match nesting {
        Some(nesting) if nesting.stage1.is_present() => Ok(VtdConfig::carried_by(&nesting)),
        Some(nesting) => bail!(
            "the host cannot nest ({}), so the guest can have no IOMMU: use --no-iommu",
            nesting.stage1
        ),
        None => bail!("the host does not say whether it nests"),
    }
}
