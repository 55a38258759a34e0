// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's machine from power-on to its end: a reboot is another one.

use crate::acpi;
use crate::block::{Disk, DiskState};
use crate::bus::{Bus, Registers};
use crate::cpu::{self, Buses, Cpus, ReadyCpus};
use crate::cpu_state::CpuState;
use crate::host::Host;
use crate::iommu::{self, Counters, Iommu};
use crate::irq::Interrupts;
use crate::memory::{self, ECAM};
use crate::options::Options;
use crate::pci::{self, PciBus};
use crate::platform::{self, Acpi, Ender, Keyboard, Zeros};
use crate::serial::{self, Port, PortState};
use crate::takeover::Files;
use crate::vfio::{HostDevice, VfioFunction, VfioState};
use anyhow::{bail, ensure, Context, Result};
use host_iommu::kvm::{Slot, Slots};
use host_iommu::vtd::{VtdConfig, VtdHandover};
use host_iommu::{Bdf, FaultQueue, Plugged};
use kvm_bindings::{
    kvm_clock_data, kvm_irqchip, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Where KVM on Intel keeps what real mode needs (KVM_SET_TSS_ADDR), and a page below it.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// What a device is connected to in the machine.
pub struct Parts<'a> {
    /// KVM's memory slots.
    pub slots: &'a Arc<Slots>,
    /// Its interrupts.
    pub interrupts: &'a Arc<Interrupts>,
    /// The buses of its CPUs.
    pub buses: &'a Arc<Buses>,
    /// Its PCI bus.
    pub pci: &'a Arc<PciBus>,
}

/// A machine whose CPUs stand still, for another process to go on with.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    cpus: Vec<CpuState>,
    /// KVM's interrupt controllers, and its clock.
    chips: Vec<kvm_irqchip>,
    clock: kvm_clock_data,
    exits: u64,
    /// The PCI bus's address register.
    address: u32,
    unit: VtdHandover,
    counters: Counters,
    /// There is a fault queue among the files.
    faults: bool,
    serial: Vec<PortState>,
    /// Number on the bus and state of each device that is plugged in.
    devices: Vec<(Bdf, u8, VfioState)>,
    disks: Vec<(u8, DiskState)>,
}

/// A machine that runs. When it is dropped, its CPUs stop, its devices are reset, and what the guest
/// had bound goes.
pub struct Machine {
    vm: Arc<VmFd>,
    /// The devices that are this machine's to reset.
    host: Vec<Arc<HostDevice>>,
    cpus: Option<Cpus>,
    /// The serial ports.
    pub serial: Vec<Arc<Port>>,
    /// The guest's IOMMU, which translates nothing if the guest is not told of it.
    pub iommu: Arc<Iommu>,
    shown: bool,
    devices: BTreeMap<Bdf, Device>,
    disks: Vec<(u8, Arc<Disk>)>,
    pci: Arc<PciBus>,
    buses: Arc<Buses>,
    interrupts: Arc<Interrupts>,
    slots: Arc<Slots>,
    ender: Arc<Ender>,
    _ram: Vec<Slot>,
}

/// A machine that another process still has. If it is dropped, nothing is undone.
pub struct Adopted {
    machine: ManuallyDrop<Machine>,
    cpus: ReadyCpus,
}

impl Adopted {
    /// The other process has ended: the devices are this one's, and the CPUs run. Nothing is made here
    /// that could not be made.
    pub fn go_on(self, host: &Host) -> Machine {
        let mut machine = ManuallyDrop::into_inner(self.machine);
        machine.host = host.devices.clone();
        machine.run(self.cpus);
        machine
    }
}

/// A device that is plugged in.
struct Device {
    number: u8,
    faults: Option<Arc<FaultQueue>>,
    function: Arc<VfioFunction>,
    _plugged: Option<Plugged>,
}

impl Machine {
    /// Powers a machine on, with every device of the host plugged in. `ender` is told when it ends.
    pub fn start(host: &Host, options: &Options, ender: &Arc<Ender>) -> Result<Self> {
        let counters = Counters::default();
        let mut machine = Self::build(host, options, ender, counters, Vec::new())?;
        machine.host = host.devices.clone();
        for device in &host.devices {
            // Whoever had it before may have left it at work.
            device.reset();
            machine.plug(host, device.bdf())?;
        }
        for file in &options.disks {
            let number = machine.pci.free()?;
            machine.add_disk(host, file, number, None)?;
        }
        let config = machine.iommu.unit.config();
        let dmar = options
            .iommu
            .then(|| config.dmar(acpi::OEM, acpi::OEM_TABLE, 1));
        acpi::write(&host.ram, options.cpus, dmar.as_deref())?;
        let entry = options.image.load(&host.ram, acpi::RSDP)?;
        let cpus = cpu::create(&host.kvm, &machine.vm, options.cpus)?;
        if let Some(first) = cpus.first() {
            cpu::boot(first, &host.ram, entry)?;
        }
        let cpus = Cpus::prepare(cpus, &machine.buses, ender)?;
        machine.run(cpus);
        Ok(machine)
    }

    /// Makes a machine of what another process has left. Until [`Adopted::go_on`], that one may go on:
    /// nothing here takes an interrupt or undoes anything, not even when it fails.
    pub fn adopt(
        host: &Host,
        options: &Options,
        ender: &Arc<Ender>,
        saved: Saved,
        files: &mut Files,
    ) -> Result<Adopted> {
        let machine = Self::build(host, options, ender, saved.counters, saved.serial)?;
        let mut machine = ManuallyDrop::new(machine);
        machine.buses.exits.store(saved.exits, Ordering::Relaxed);
        machine.pci.address.store(saved.address, Ordering::Relaxed);
        machine.vm.set_clock(&saved.clock)?;
        let cpus = cpu::create(&host.kvm, &machine.vm, options.cpus)?;
        ensure!(cpus.len() == saved.cpus.len(), "a CPU is missing");
        for (cpu, saved) in cpus.iter().zip(&saved.cpus) {
            saved.restore(&machine.vm, cpu)?;
        }
        for chip in &saved.chips {
            machine.vm.set_irqchip(chip)?;
        }
        let mut queues = Vec::new();
        if let (true, Some(context)) = (saved.faults, &host.context) {
            let queue = Arc::new(FaultQueue::new(files.take()?));
            queues.push((context.clone(), queue));
        }
        machine.iommu.unit.take_over(saved.unit, &queues)?;
        for (file, (number, saved)) in options.disks.iter().zip(&saved.disks) {
            let disk = machine.add_disk(host, file, *number, Some(files))?;
            disk.restore(saved)?;
        }
        for (bdf, number, saved) in &saved.devices {
            machine.plug_at(host, *bdf, *number, Some((saved, files)))?;
        }
        let cpus = Cpus::prepare(cpus, &machine.buses, ender)?;
        Ok(Adopted { machine, cpus })
    }

    /// Stops the CPUs and holds interrupts back; gives the CPUs, and what another process needs.
    pub fn pause(&mut self, host: &Host, files: &mut Files) -> (Vec<VcpuFd>, Result<Saved>) {
        let cpus = self.cpus.take().map(|mut cpus| cpus.stop());
        let cpus = cpus.unwrap_or_default();
        let saved = self.save(host, &cpus, files);
        (cpus, saved)
    }

    /// No other process takes it: it goes on here.
    pub fn resume(&mut self, cpus: Vec<VcpuFd>) -> Result<()> {
        self.run(Cpus::prepare(cpus, &self.buses, &self.ender)?);
        Ok(())
    }

    /// Interrupts come, and the CPUs run.
    fn run(&mut self, cpus: ReadyCpus) {
        for device in self.devices.values() {
            device.function.go_on();
        }
        self.disks.iter().for_each(|(_, disk)| disk.go_on());
        self.cpus = Some(cpus.run());
    }

    fn save(&self, host: &Host, cpus: &[VcpuFd], files: &mut Files) -> Result<Saved> {
        let faults = self.fault_queue();
        faults.map_or(Ok(()), |faults| files.add(&**faults))?;
        let disks = self.disks.iter();
        let disks = disks.map(|(number, disk)| Ok((*number, disk.pause(files)?)));
        let disks = disks.collect::<Result<_>>()?;
        let devices = self.devices.iter();
        let devices = devices.map(|(&bdf, device)| {
            let state = device.function.pause(files)?;
            Ok((bdf, device.number, state))
        });
        let devices = devices.collect::<Result<_>>()?;
        let unit = self.iommu.unit.hand_over()?;
        // Nothing interrupts the guest any more.
        let chips = [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ];
        let chips = chips.into_iter().map(|chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..kvm_irqchip::default()
            };
            self.vm.get_irqchip(&mut chip)?;
            Ok(chip)
        });
        let states = cpus.iter().map(|cpu| CpuState::save(&host.kvm, cpu));
        Ok(Saved {
            chips: chips.collect::<Result<_>>()?,
            cpus: states.collect::<Result<_>>()?,
            clock: kvm_clock_data {
                flags: 0,
                ..self.vm.get_clock()?
            },
            exits: self.exits(),
            address: self.pci.address.load(Ordering::Relaxed),
            unit,
            counters: self.iommu.counters.copy(),
            faults: faults.is_some(),
            serial: self.serial.iter().map(|port| port.save()).collect(),
            devices,
            disks,
        })
    }

    /// A machine without devices, which does not run.
    fn build(
        host: &Host,
        options: &Options,
        ender: &Arc<Ender>,
        counters: Counters,
        serial: Vec<PortState>,
    ) -> Result<Self> {
        ensure!((1..=16).contains(&options.cpus), "a guest has 1 to 16 CPUs");
        let vm = Arc::new(host.kvm.create_vm().context("KVM does not make a VM")?);
        vm.set_identity_map_address(IDENTITY_MAP)
            .and_then(|()| vm.set_tss_address(TSS))
            .and_then(|()| vm.create_irq_chip())
            .context("KVM does not make interrupt controllers")?;
        let slots = Slots::new(vm.clone());
        let ram = memory::show(&host.ram, &slots)?;
        let interrupts = Interrupts::new(vm.clone())?;
        let buses = Arc::new(Buses {
            ports: Bus::default(),
            memory: Bus::default(),
            exits: AtomicU64::new(0),
        });
        let offered = match options.iommu {
            true => offer(host)?,
            false => VtdConfig::default(),
        };
        let iommu = Iommu::new(offered, &host.ram, &interrupts, counters)?;
        let mut machine = Self {
            vm,
            host: Vec::new(),
            cpus: None,
            serial: Vec::new(),
            iommu,
            shown: options.iommu,
            devices: BTreeMap::new(),
            disks: Vec::new(),
            pci: PciBus::new(),
            buses,
            interrupts,
            slots,
            ender: ender.clone(),
            _ram: ram,
        };
        machine.add_platform(options, serial)?;
        Ok(machine)
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            slots: &self.slots,
            interrupts: &self.interrupts,
            buses: &self.buses,
            pci: &self.pci,
        }
    }

    /// Everything that has an address from the start.
    fn add_platform(&mut self, options: &Options, serial: Vec<PortState>) -> Result<()> {
        let mut serial = serial.into_iter();
        for ((port, pin), line) in serial::PORTS.into_iter().zip(&options.serial) {
            let state = serial.next().unwrap_or_default();
            let device = Arc::new(Port::new(self.interrupts.pin(pin)?, line, state)?);
            self.buses
                .ports
                .insert(port.into(), serial::SIZE, device.clone());
            self.serial.push(device);
        }
        let ports: [(u64, u64, Arc<dyn Registers>); 4] = [
            (
                platform::SLEEP_CONTROL.into(),
                platform::ACPI_PORTS,
                Arc::new(Acpi(self.ender.clone())),
            ),
            (
                platform::KEYBOARD.into(),
                1,
                Arc::new(Keyboard(self.ender.clone())),
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

    fn add_disk(
        &mut self,
        host: &Host,
        file: &(File, bool),
        number: u8,
        files: Option<&mut Files>,
    ) -> Result<Arc<Disk>> {
        let disk = Disk::new(file, number, &host.ram, &self.iommu, &self.parts(), files)?;
        self.pci.insert(number, disk.clone());
        self.disks.push((number, disk.clone()));
        Ok(disk)
    }

    /// Plugs a device of the host in. The guest finds it when it looks at its bus again.
    pub fn plug(&mut self, host: &Host, bdf: Bdf) -> Result<()> {
        let number = self.pci.free()?;
        self.plug_at(host, bdf, number, None)?;
        tracing::info!(device = %bdf, number, "plugged in");
        Ok(())
    }

    fn plug_at(
        &mut self,
        host: &Host,
        bdf: Bdf,
        number: u8,
        left: Option<(&VfioState, &mut Files)>,
    ) -> Result<()> {
        ensure!(
            !self.devices.contains_key(&bdf),
            "{bdf} is plugged in already"
        );
        let device = host.device(bdf)?;
        let context = host.context.as_ref().context("a device has a context")?;
        let unit = &self.iommu.unit;
        let pasid_bits = self.shown.then_some(unit.config().pasid_bits);
        let (saved, files) = left.unzip();
        let function = VfioFunction::new(device, context, pasid_bits, &self.parts(), files)?;
        let mut plugged = None;
        if self.shown {
            unit.set_source_id(bdf, PciBus::source(number));
            plugged = Some(context.plug(bdf, self.iommu.clone())?);
        }
        if let Some(saved) = saved {
            function.restore(saved);
        }
        self.pci.insert(number, function.clone());
        let device = Device {
            number,
            faults: unit.fault_queue(bdf),
            function,
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
